"""`events`: what the kernel counts for a container, and when it has killed a process of it for want of memory.

The shape of both is runc's (runc:types/events.go), which containerd's go-runc decodes. Nothing here prints or exits.

Read beside runc:events.go and runc:libcontainer/container_linux.go:/^func .*Stats/.
"""

from __future__ import annotations

from time import monotonic

from pyruntime import report
from pyruntime.cgroup.stats import read_stats
from pyruntime.cgroup.watch import Watch
from pyruntime.container import cgroup_of
from pyruntime.errors import KernelError, StateError, UnsupportedError
from pyruntime.state.status import status
from pyruntime.state.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyruntime.cgroup.manager import Cgroup
    from pyruntime.state.store import Record


def stats(id: str, *, root: str) -> dict[str, Any]:
    """What the kernel has counted for a container so far: runc's `Stats`.

    Raises StateError if it has stopped, NotFoundError, UnsupportedError if it has no cgroup, KernelError.
    """
    record, cgroup = _running(id, root)
    return _read(record, cgroup)


def events(id: str, *, root: str, interval: float = 5.0) -> Iterator[dict[str, Any]]:
    """What happens to a container until it ends, as it happens.

    {"type": "oom", "id": ID} when the kernel has killed a process of it for want of memory, and {"type": "stats",
    "id": ID, "data": ...} every `interval` seconds, the first time when one has passed. Raises as `stats`.
    """
    record, cgroup = _running(id, root)
    watch = Watch(cgroup)
    try:
        if not watch.sees_memory():
            report.warn("lack of memory can't be told: the container's cgroup has no memory controller")
        next_time = monotonic() + interval
        while True:
            populated = watch.is_populated()
            if watch.has_killed():
                yield {"type": "oom", "id": id}
            if not populated:
                return
            if (left := next_time - monotonic()) > 0:
                watch.wait(left)
                continue
            next_time = max(next_time + interval, monotonic())
            try:
                counted = _read(record, cgroup)
            except KernelError as error:
                if watch.is_populated():
                    report.warn(str(error))
                continue
            yield {"type": "stats", "id": id, "data": counted}
    finally:
        watch.close()


def _running(id: str, root: str) -> tuple[Record, Cgroup]:
    store = Store(root, id)
    record = store.read()
    if status(record, store) in ("creating", "stopped"):
        raise StateError(f"container with id {id} is not running")
    return record, cgroup_of(record)


def _read(record: Record, cgroup: Cgroup) -> dict[str, Any]:
    try:
        counted = read_stats(cgroup)
    except OSError as error:
        if isinstance(error, KernelError):
            raise
        raise KernelError(f"read the statistics of {cgroup.path!r}", error.errno or 0, where=record["id"]) from None
    if "resctrl" in record:
        counted["intel_rdt"] = _read_share(record)
    if interface := record.get("network", {}).get("endpoint", {}).get("interface"):
        from pyruntime.net.counters import traffic

        counted["network_interfaces"] = traffic(interface)
    return counted


def _read_share(record: Record) -> dict[str, Any]:
    """What resctrl counts; nothing if somebody has removed the group or resctrl itself."""
    from pyruntime.resctrl.stats import read_stats as read_share

    try:
        return read_share(record["resctrl"])
    except (FileNotFoundError, UnsupportedError):
        return {}
    except OSError as error:
        raise KernelError("read the statistics of resctrl", error.errno or 0, where=record["id"]) from None
