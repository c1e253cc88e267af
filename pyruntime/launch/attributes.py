"""Performing the steps of plan/attributes.py: scheduling, I/O priority, memory policy, security labels.

Imported before the child is cloned, and only if the plan has one of them.

Read beside runc:libcontainer/init_linux.go:/^func setup(Scheduler|IOPriority|MemoryPolicy)/ and
runc:libcontainer/configs/validate/validator.go:/^func security/.
"""

from __future__ import annotations

from pyruntime.errors import Error, UnsupportedError
from pyruntime.launch import labels  # noqa: F401  # performs ConfineByProfile
from pyruntime.launch.perform import performs
from pyruntime.linux import constants as c
from pyruntime.linux import proc, syscalls
from pyruntime.plan.attributes import (
    IO_CLASSES,
    MEMORY_FLAGS,
    MEMORY_MODES,
    POLICIES,
    SCHED_FLAGS,
    ConfineByProfile,
    LabelMounts,
    LabelProcess,
    SetIoPriority,
    SetMemoryPolicy,
    SetScheduler,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.launch.credentials import Process
    from pyruntime.launch.handle import Child
    from pyruntime.plan.step import Plan, Step


def refuse_what_the_host_lacks(plan: Plan) -> None:
    """Raise UnsupportedError for a label of a security module that is off, before anything is made."""
    for step in plan:
        refusal = _REFUSALS[type(step)]() if type(step) in _REFUSALS else None
        if refusal is not None:
            message, hint = refusal
            raise UnsupportedError(message, where=step.where, hint=hint)


@performs(SetScheduler)
def set_scheduler(step: SetScheduler, child: Child) -> None:
    """runc:libcontainer/init_linux.go:/^func setupScheduler/"""
    flags = 0
    for name in step.flags:
        flags |= SCHED_FLAGS[name]
    policy, numbers = POLICIES[step.policy], (step.nice, step.priority)
    syscalls.sched_setattr(child.pid, policy, flags, *numbers, step.runtime, step.deadline, step.period)


@performs(SetIoPriority)
def set_io_priority(step: SetIoPriority, child: Child) -> None:
    """The child leads a process group of its own, so that the group, which runc names, is this one process.

    runc:libcontainer/init_linux.go:/^func setupIOPriority/
    """
    syscalls.ioprio_set(c.IOPRIO_WHO_PROCESS, child.pid, IO_CLASSES[step.kind] << c.IOPRIO_CLASS_SHIFT | step.priority)


@performs(SetMemoryPolicy)
def set_memory_policy(step: SetMemoryPolicy, _process: Process) -> None:
    """runc:libcontainer/init_linux.go:/^func setupMemoryPolicy/"""
    flags, nodes = 0, 0
    for name in step.flags:
        flags |= MEMORY_FLAGS[name]
    for node in step.nodes:
        nodes |= 1 << node
    syscalls.set_mempolicy(MEMORY_MODES[step.mode], flags, nodes)


@performs(LabelProcess)
@performs(LabelMounts)
def never(step: Step, _child: Child) -> None:
    """These were refused before there was a child."""
    raise Error(f"not performed: {step.text()}")


def _no_apparmor() -> tuple[str, str] | None:
    """runc:libcontainer/apparmor/apparmor_linux.go:/^var isEnabled/"""
    if _read("/sys/module/apparmor/parameters/enabled")[:1] != "Y":
        return "AppArmor is not enabled on this host", "boot with the kernel parameter apparmor=1, or remove the key"
    return None


def _no_selinux() -> tuple[str, str]:
    """The kernel knows selinuxfs if and only if SELinux was switched on at boot. runc: /^func security/"""
    if "selinuxfs" not in _read("/proc/filesystems"):
        return (
            "a SELinux label is asked for, but SELinux is disabled on this host or not supported by it",
            "boot with the kernel parameters security=selinux selinux=1, or remove the key",
        )
    return "this version of pyruntime cannot set SELinux labels yet", ""


_REFUSALS: dict[type[Step], Callable[[], tuple[str, str] | None]] = {
    ConfineByProfile: _no_apparmor,
    LabelProcess: _no_selinux,
    LabelMounts: _no_selinux,
}


def _read(path: str) -> str:
    """A small file of the host's kernel, or "" if it is not there."""
    try:
        return proc.read_file(path).decode(errors="surrogateescape")
    except OSError:
        return ""
