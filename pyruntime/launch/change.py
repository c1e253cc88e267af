"""Performing the steps of plan/change.py on the cgroup of a container that is there: all of them, or none.

Read beside runc:libcontainer/container_linux.go:/^func .*Container. Set/, which on a failure writes what it remembers.
"""

from __future__ import annotations

from pyruntime import report
from pyruntime.cgroup import creation
from pyruntime.errors import KernelError
from pyruntime.launch import limits
from pyruntime.plan import resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyruntime.cgroup.manager import Cgroup
    from pyruntime.plan.step import Step

# Files with a line for each device. (rdma.max and io.max have several values a line.)
_BY_DEVICE = ("io.max", "io.weight", "io.bfq.weight", "rdma.max")
_ROUNDS = 2  # of putting back: cpu.weight can't be written before cpu.idle, nor cpu.max.burst before a higher cpu.max


def change_limits(steps: list[Step], cgroup: Cgroup, then: Callable[[], None]) -> None:
    """Perform the steps in order, and `then`. If one of them fails, put back what the others have changed.

    What can't be put back is told in a warning. Raises as launch.limits.perform, and as `then`; UnsupportedError, with
    nothing changed, for a controller that the cgroup has not.
    """
    creation.available(cgroup.path, resources.needed_controllers(steps))
    before = {file: content for file in _files(steps) if (content := _read(cgroup, file)) is not None}
    try:
        for step in steps:
            limits.perform(step, cgroup)
        then()
    except BaseException:  # a signal's as well: half of an update is none that anybody asked for
        _put_back(before, cgroup)
        raise


def _files(steps: list[Step]) -> Iterator[str]:
    """The files that the steps write, or change by what they write."""
    for step in steps:
        if isinstance(step, resources.WriteCgroup | resources.WriteCgroupUnless):
            yield step.file
            if step.file == "cpu.idle":
                yield "cpu.weight"
        elif isinstance(step, resources.WriteCgroupFirst):
            yield from (file for file, _ in step.choices)


def _read(cgroup: Cgroup, file: str) -> str | None:
    """The content of a file; None where it can't be read, such as memory.reclaim, or isn't there."""
    try:
        return cgroup.read(file)
    except OSError:
        return None


def _put_back(before: dict[str, str], cgroup: Cgroup) -> None:
    """Write what each file said before, the last one first, where it says something else now."""
    failures: dict[str, KernelError] = {}
    for _ in range(_ROUNDS):
        failures.clear()
        for file, content in reversed(before.items()):
            try:
                for line in _lines_back(file, content, _read(cgroup, file) or ""):
                    cgroup.write(file, line)
            except KernelError as error:
                failures[file] = error
    for file, failure in failures.items():
        report.warn(f"{file} of {cgroup.path} stays changed: it says {_read(cgroup, file)!r}: {failure}")


def _lines_back(file: str, before: str, now: str) -> Iterator[str]:
    """What to write so that a file that says `now` says what it said `before`: nothing if it does."""
    if before == now:
        return
    if file not in _BY_DEVICE:
        yield before if before.strip() else "\n"
        return
    lines = before.splitlines()
    yield from (line for line in lines if line not in now.splitlines())
    known = {line.split()[0] for line in lines}
    for device, *values in (line.split() for line in now.splitlines()):
        if device not in known:
            names = [value.partition("=")[0] for value in values if "=" in value]
            yield " ".join((device, *(f"{name}=max" for name in names))) if names else f"{device} default"
