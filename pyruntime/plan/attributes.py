"""Spec -> Steps for what few configs ask of a process: how it is scheduled, where its memory comes from, its profile.

Imported only for a config that has one of the keys (plan.build), so that the others do not pay for it.

Read beside runc:libcontainer/init_linux.go:/^func setup(Scheduler|IOPriority|MemoryPolicy)/.
"""

from __future__ import annotations

from pyruntime.linux import constants as c
from pyruntime.plan.numbers import members
from pyruntime.plan.step import PARENT, PROCESS, ROOTFS, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import Spec

POLICIES = {
    "SCHED_OTHER": c.SCHED_OTHER,
    "SCHED_FIFO": c.SCHED_FIFO,
    "SCHED_RR": c.SCHED_RR,
    "SCHED_BATCH": c.SCHED_BATCH,
    "SCHED_ISO": c.SCHED_ISO,
    "SCHED_IDLE": c.SCHED_IDLE,
    "SCHED_DEADLINE": c.SCHED_DEADLINE,
}
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": c.SCHED_FLAG_RESET_ON_FORK,
    "SCHED_FLAG_RECLAIM": c.SCHED_FLAG_RECLAIM,
    "SCHED_FLAG_DL_OVERRUN": c.SCHED_FLAG_DL_OVERRUN,
    "SCHED_FLAG_KEEP_POLICY": c.SCHED_FLAG_KEEP_POLICY,
    "SCHED_FLAG_KEEP_PARAMS": c.SCHED_FLAG_KEEP_PARAMS,
    "SCHED_FLAG_UTIL_CLAMP_MIN": c.SCHED_FLAG_UTIL_CLAMP_MIN,
    "SCHED_FLAG_UTIL_CLAMP_MAX": c.SCHED_FLAG_UTIL_CLAMP_MAX,
}
IO_CLASSES = {
    "IOPRIO_CLASS_RT": c.IOPRIO_CLASS_RT,
    "IOPRIO_CLASS_BE": c.IOPRIO_CLASS_BE,
    "IOPRIO_CLASS_IDLE": c.IOPRIO_CLASS_IDLE,
}
MEMORY_MODES = {
    "MPOL_DEFAULT": c.MPOL_DEFAULT,
    "MPOL_BIND": c.MPOL_BIND,
    "MPOL_INTERLEAVE": c.MPOL_INTERLEAVE,
    "MPOL_WEIGHTED_INTERLEAVE": c.MPOL_WEIGHTED_INTERLEAVE,
    "MPOL_PREFERRED": c.MPOL_PREFERRED,
    "MPOL_PREFERRED_MANY": c.MPOL_PREFERRED_MANY,
    "MPOL_LOCAL": c.MPOL_LOCAL,
}
MEMORY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": c.MPOL_F_NUMA_BALANCING,
    "MPOL_F_RELATIVE_NODES": c.MPOL_F_RELATIVE_NODES,
    "MPOL_F_STATIC_NODES": c.MPOL_F_STATIC_NODES,
}


class SetScheduler(Step):
    """`process.scheduler` (sched_setattr(2)). Times in nanoseconds.

    Set from outside: in a user namespace the process itself would lack the host's CAP_SYS_NICE.
    """

    phase = PARENT
    why = "process.scheduler asks for it, and only the host's CAP_SYS_NICE may raise it"

    policy: str
    flags: tuple[str, ...]
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int

    def text(self) -> str:
        times = f"{self.runtime} ns before {self.deadline} ns in each {self.period} ns" if self.runtime else ""
        parts = (
            f"nice {self.nice}" * bool(self.nice),
            f"priority {self.priority}" * bool(self.priority),
            times,
            "|".join(self.flags),
        )
        return ", ".join(filter(None, (f"schedule by {self.policy}", *parts)))


class SetIoPriority(Step):
    """`process.ioPriority` (ioprio_set(2)), set from outside as the scheduler is."""

    phase = PARENT
    why = "process.ioPriority asks for it"

    kind: str
    priority: int  # from 0, the highest, to 7

    def text(self) -> str:
        return f"set the I/O priority to {self.kind}, {self.priority}"


class SetMemoryPolicy(Step):
    """`linux.memoryPolicy` (set_mempolicy(2), config-linux.md#memory-policy): each thread can set only its own."""

    phase = PROCESS
    why = "linux.memoryPolicy asks for it"

    mode: str
    flags: tuple[str, ...]
    nodes: tuple[int, ...]

    def text(self) -> str:
        nodes = f" of the nodes {','.join(map(str, self.nodes))}" if self.nodes else ""
        return f"take memory by {'|'.join((self.mode, *self.flags))}{nodes}"


class ConfineByProfile(Step):
    """`process.apparmorProfile` (config.md#linux-process), in force from its execve on: launch/labels.py."""

    phase = ROOTFS
    why = "process.apparmorProfile asks for it"

    profile: str

    def text(self) -> str:
        return f"confine the program by the AppArmor profile {self.profile}"


def parent_steps(spec: Spec) -> Iterator[Step]:
    """What the parent does to the child, or has to know before there is one."""
    process = spec["process"]
    if "scheduler" in process:
        wanted = process["scheduler"]
        numbers = (wanted.get("nice", 0), wanted.get("priority", 0))
        times = (wanted.get("runtime", 0), wanted.get("deadline", 0), wanted.get("period", 0))
        flags = tuple(wanted.get("flags", ()))
        yield SetScheduler("config.json#/process/scheduler", wanted["policy"], flags, *numbers, *times)
    if "ioPriority" in process:
        priority = process["ioPriority"]
        yield SetIoPriority("config.json#/process/ioPriority", priority["class"], priority.get("priority", 0))


def before_root_steps(spec: Spec) -> Iterator[Step]:
    """What is prepared while the host's /proc is there."""
    process = spec["process"]
    if process.get("apparmorProfile"):
        yield ConfineByProfile("config.json#/process/apparmorProfile", process["apparmorProfile"])


def process_steps(spec: Spec) -> Iterator[Step]:
    """What only the process itself can do."""
    policy = spec.get("linux", {}).get("memoryPolicy")
    if policy is not None:
        flags, nodes = tuple(policy.get("flags", ())), members(policy.get("nodes", ""))
        yield SetMemoryPolicy("config.json#/linux/memoryPolicy", policy["mode"], flags, nodes)
