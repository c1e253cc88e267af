"""clone3(2): the one place where the container's first process comes from.

A child made behind Python's back starts with Python's locks as the parent's threads left them. So the call is bracketed
with the hooks that CPython's own fork uses, keeps the GIL (call.py), and is refused in a process with a second thread:
there it can hang the child. The C library is not told either: in the child its cached thread ID is the parent's, which
matters to nothing but recursive and error-checking mutexes; os.fork would have corrected it.

Read beside runc:libcontainer/nsexec/nsexec.c:/^static int clone_parent/ and os_fork1_impl in CPython's posixmodule.c.
"""

from __future__ import annotations

import posix
from sys import byteorder

from pyruntime.errors import Error, KernelError
from pyruntime.linux.call import Struct, address, call, native, u64
from pyruntime.linux.constants import CLONE_INTO_CGROUP, CLONE_PIDFD, SIGCHLD, SYS_clone3

_before_fork, _after_fork_in_parent, _after_fork_in_child = _hooks = [
    native(f"PyOS_{name}") for name in ("BeforeFork", "AfterFork_Parent", "AfterFork_Child")
]
for _hook in _hooks:
    _hook.argtypes = ()
    _hook.restype = None


def clone3(
    flags: int, *, exit_signal: int = SIGCHLD, cgroup_fd: int | None = None, pidfd: bool = True
) -> tuple[int, int]:
    """Make a child in the new namespaces that `flags` names: (its pid, a pidfd of the caller's), in the child (0, -1).

    `cgroup_fd`, a descriptor of a cgroup2 directory, is where the child starts (CLONE_INTO_CGROUP): no moment outside
    its limits, and no wait for the RCU grace period that a write to cgroup.procs costs. Without `pidfd` there is -1.
    The child must leave by posix._exit or execve on every path: it shares the parent's stack frames.

    Raises KernelError; Error if this process has threads. See clone(2), section clone3.
    """
    if (threads := thread_count()) > 1:
        raise Error(f"clone3 in a process with {threads} threads could hang its child")
    pidfd_cell = bytearray(4)
    words = {
        "flags": flags | (CLONE_PIDFD if pidfd else 0) | (0 if cgroup_fd is None else CLONE_INTO_CGROUP),
        "pidfd": address(pidfd_cell) if pidfd else 0,
        "child_tid": 0,
        "parent_tid": 0,
        "exit_signal": exit_signal,
        "stack": 0,  # a copy of the parent's, as after fork
        "stack_size": 0,
        "tls": 0,
        "set_tid": 0,
        "set_tid_size": 0,
        "cgroup": cgroup_fd or 0,
    }
    clone_args = Struct(u64(*words.values()))
    _before_fork()
    try:
        pid = call(SYS_clone3, clone_args, len(clone_args))
    except KernelError:
        _after_fork_in_parent()
        raise
    if pid == 0:
        _after_fork_in_child()
        return 0, -1
    _after_fork_in_parent()
    return pid, int.from_bytes(pidfd_cell, byteorder) if pidfd else -1


def thread_count() -> int:
    """How many threads this process has, those of C libraries included. Raises OSError without a /proc."""
    return posix.stat("/proc/self/task").st_nlink - 2
