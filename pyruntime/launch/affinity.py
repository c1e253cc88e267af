"""On which CPUs a process that enters a container runs: performing the two steps of plan/join.py.

Read beside runc:libcontainer/process_linux.go:/^func .*(startWithCPUAffinity|setFinalCPUAffinity)/.
"""

from __future__ import annotations

from pyruntime import report
from pyruntime.errors import KernelError
from pyruntime.launch.perform import performs
from pyruntime.linux import syscalls
from pyruntime.plan.join import PlaceOnCpus, StartOnCpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.handle import Child

_ALL = (1 << 65536) - 1  # more than any kernel can have: it counts those that there are


@performs(StartOnCpus)
def start_on_cpus(step: StartOnCpus, _parent: object) -> None:
    """The runtime itself; what it clones inherits that."""
    syscalls.sched_setaffinity(0, _mask(step.cpus))


@performs(PlaceOnCpus)
def place_on_cpus(step: PlaceOnCpus, child: Child) -> None:
    """Where nothing is asked for, to fail is only told: the program can run all the same. runc: tryResetCPUAffinity"""
    try:
        syscalls.sched_setaffinity(child.pid, _mask(step.cpus) if step.cpus else _ALL)
    except KernelError as error:
        if step.cpus:
            raise
        report.warn(f"the program may run on the runtime's own CPUs alone: {error}")


def _mask(cpus: tuple[int, ...]) -> int:
    mask = 0
    for cpu in cpus:
        mask |= 1 << cpu
    return mask
