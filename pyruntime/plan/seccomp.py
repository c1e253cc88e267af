"""`linux.seccomp` -> a Step (config-linux.md#seccomp).

Its rules are in plan/seccomp_rules.py, for they are paid for at another time: every start has the Step, but only the
first one with a profile needs its rules. Later ones find the compiled filter in a cache (launch/seccomp.py).

Read beside runc:libcontainer/seccomp/seccomp_linux.go.
"""

from __future__ import annotations

from pyruntime.linux import constants as c
from pyruntime.plan.step import PROCESS, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import Seccomp, Spec

# seccomp(2). TSYNC would reach other threads, of which there are none: nothing to do, as runc.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": c.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_LOG": c.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": c.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}
_DEFAULT_FLAGS = ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)  # where the profile says nothing of flags, not even []


class LoadSeccomp(Step):
    """`linux.seccomp`: a filter on system calls (seccomp(2)), loaded right before execve.

    So the profile needs to allow execve alone. The kernel takes a filter only from a process with no_new_privs or
    CAP_SYS_ADMIN. Without the former the latter is kept for it, and given up afterwards: the profile must allow capset,
    too. (runc loads it before it changes the user, and so asks for more.) A filter that notifies is loaded before the
    process waits for `start`, for its listener must be handed over: it must allow write, read, close, accept4,
    close_range, and with a label openat, as well.
    """

    phase = PROCESS
    why = "a system call that the program does not need is one that an exploit can't use"

    profile: Seccomp
    flags: int
    privileged: bool  # loading needs CAP_SYS_ADMIN

    def text(self) -> str:
        count = sum(len(entry["names"]) for entry in self.profile.get("syscalls", ()))
        return f"load a seccomp filter: {self.profile['defaultAction']} but for {count} system calls"


def seccomp_steps(spec: Spec) -> Iterator[LoadSeccomp]:
    """The Step, or none for a profile without a default action: `{}` means none, as for runc."""
    profile = spec["linux"]["seccomp"]
    if not profile.get("defaultAction"):
        return
    flags = 0
    for name in profile.get("flags", _DEFAULT_FLAGS):
        flags |= FLAGS[name]
    notifies = any(entry["action"] == "SCMP_ACT_NOTIFY" for entry in profile.get("syscalls", ()))
    if notifies:
        flags |= c.SECCOMP_FILTER_FLAG_NEW_LISTENER
    unprivileged = spec["process"].get("noNewPrivileges", False)
    yield LoadSeccomp("config.json#/linux/seccomp", profile, flags, not unprivileged)
