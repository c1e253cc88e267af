"""Performing the steps of plan/attributes.py: scheduling, I/O priority, memory policy, the profile of AppArmor.

Imported before the child is cloned, and only if the plan has one of them.

Read beside runc:libcontainer/init_linux.go:/^func setup(Scheduler|IOPriority|MemoryPolicy)/.
"""

from __future__ import annotations

from sys import byteorder

from pyruntime.errors import UnsupportedError
from pyruntime.launch import labels  # noqa: F401  # performs ConfineByProfile
from pyruntime.launch.perform import performs
from pyruntime.linux import constants as c
from pyruntime.linux import proc, syscalls
from pyruntime.linux.call import Struct
from pyruntime.plan.attributes import (
    IO_CLASSES,
    MEMORY_FLAGS,
    MEMORY_MODES,
    POLICIES,
    SCHED_FLAGS,
    ConfineByProfile,
    SetIoPriority,
    SetMemoryPolicy,
    SetScheduler,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.credentials import Process
    from pyruntime.launch.handle import Child
    from pyruntime.plan.step import Plan


def refuse_what_the_host_lacks(plan: Plan) -> None:
    """Raise UnsupportedError for a profile of AppArmor where that is off, before anything is made.

    runc:libcontainer/apparmor/apparmor_linux.go:/^var isEnabled/
    """
    for step in plan:
        if isinstance(step, ConfineByProfile) and not _has_apparmor():
            hint = "boot with the kernel parameter apparmor=1, or remove the key"
            raise UnsupportedError("AppArmor is not enabled on this host", where=step.where, hint=hint)


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
def set_memory_policy(step: SetMemoryPolicy, process: Process) -> None:
    """runc:libcontainer/init_linux.go:/^func setupMemoryPolicy/"""
    mode, nodes = MEMORY_MODES[step.mode], 0
    for name in step.flags:
        mode |= MEMORY_FLAGS[name]
    for node in step.nodes:
        nodes |= 1 << node
    words = (nodes.bit_length() + 63) // 64
    mask = Struct(nodes.to_bytes(words * 8, byteorder)) if words else 0
    maxnode = words * 64 + 1 if words else 0  # the kernel reads one bit less than it is told
    process.tape.call(c.SYS_set_mempolicy, mode, mask, maxnode)


def _has_apparmor() -> bool:
    try:
        return proc.read_file("/sys/module/apparmor/parameters/enabled")[:1] == b"Y"
    except FileNotFoundError:
        return False
