"""What the kernel counts for a cgroup, in the shape and the units in which `runc events` prints it.

Each function below turns the text of one controller's files (cgroup-v2.rst) into one member of that shape: no file is
read there. As in runc's JSON what is 0 or empty is left out, but for keys that it always has. Times are nanoseconds,
where the kernel has microseconds; what has no limit is limited to 2^64 - 1.

Read beside runc:types/events.go, runc:events.go:/^func convertLibcontainerStats/, opencontainers/cgroups:fs2/*.go.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cgroup.manager import Cgroup

NO_LIMIT = 2**64 - 1
# io.stat -> the table of cgroup v1 that has the same, and the name of the operation there.
_OPERATIONS = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
}
# What cgroup v1 said of a cpuset. runc fills in none of it on v2, and prints all.
_CPUSET = (
    "cpu_exclusive mem_hardwall mem_exclusive memory_migrate memory_spread_page memory_spread_slab memory_pressure "
    "sched_load_balance sched_relax_domain_level"
)


def read_stats(cgroup: Cgroup) -> dict[str, Any]:
    """All that is counted; without a controller, nothing of it. Raises OSError: ENODEV or ENOENT if it is gone."""

    def text(file: str) -> str:
        """The content; "" if the kernel has no such file here, or counts no pressure (booted with psi=0)."""
        try:
            return cgroup.read(file)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP) or not cgroup.exists():
                raise
            return ""

    sizes = [name.split(".")[1] for name in cgroup.files() if name[:8] == "hugetlb." and name[-7:] == ".events"]
    return {
        "cpu": cpu(text("cpu.stat"), text("cpu.pressure")),
        "cpuset": dict.fromkeys(_CPUSET.split(), 0),
        "memory": memory(
            text("memory.stat"),
            (text("memory.current"), text("memory.max"), text("memory.peak")),
            (text("memory.swap.current"), text("memory.swap.max")),
            text("memory.pressure"),
        ),
        "pids": pids(text("pids.current") or str(len(cgroup.pids())), text("pids.max")),
        "blkio": block_io(text("io.stat"), text("io.pressure")),
        "hugetlb": {
            size: huge_pages(
                text(f"hugetlb.{size}.rsvd.current") or text(f"hugetlb.{size}.current"), text(f"hugetlb.{size}.events")
            )
            for size in sorted(sizes)
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }


def cpu(stat: str, pressure_text: str) -> dict[str, Any]:
    """cpu.stat, which is there without the controller, too."""
    counted = numbers(stat)
    total = counted.get("usage_usec", 0) * 1000
    times = {"kernel": counted.get("system_usec", 0) * 1000, "user": counted.get("user_usec", 0) * 1000}
    throttled = {
        "periods": counted.get("nr_periods", 0),
        "throttledPeriods": counted.get("nr_throttled", 0),
        "throttledTime": counted.get("throttled_usec", 0) * 1000,
    }
    usage = {**_without_zeros({"total": total}), **times} if total or any(times.values()) else {}
    return _without_zeros({"usage": usage, "throttling": _without_zeros(throttled), "psi": pressure(pressure_text)})


def memory(stat: str, own: tuple[str, str, str], swap: tuple[str, str], pressure_text: str) -> dict[str, Any]:
    """memory.stat; memory.current, .max and .peak; memory.swap.current and .max. As in v1, `swap` is both together."""
    current, limit, peak = map(_number, own)
    raw = numbers(stat)
    both: dict[str, int] = {}
    if swap[0]:
        both = _entry(min(_number(swap[1]) + limit, NO_LIMIT), _number(swap[0]) + current)
    elif own[0]:
        both = _entry(limit, current)
    return _without_zeros(
        {
            "cache": raw.get("file", 0),
            "usage": _entry(limit, current, peak) if own[0] else {},
            "swap": both,
            "raw": dict(sorted(raw.items())),
            "psi": pressure(pressure_text),
        }
    )


def pids(current: str, maximum: str) -> dict[str, int]:
    """pids.current and pids.max, in bare numbers. Here no limit is none."""
    limit = _number(maximum)
    return _without_zeros({"current": _number(current), "limit": 0 if limit == NO_LIMIT else limit})


def block_io(stat: str, pressure_text: str) -> dict[str, Any]:
    """io.stat, a line for each device: "8:0 rbytes=1024 wbytes=0 rios=1 ...". Not all has a place in v1's shape."""
    tables: dict[str, Any] = {}
    for line in stat.splitlines():
        device, *values = line.split()
        major, _, minor = device.partition(":")
        for name, _, value in (each.partition("=") for each in values):
            if name in _OPERATIONS:
                table, operation = _OPERATIONS[name]
                entry = {"major": int(major), "minor": int(minor), "op": operation, "value": int(value)}
                tables.setdefault(table, []).append(_without_zeros(entry))
    return _without_zeros({**tables, "psi": pressure(pressure_text)})


def huge_pages(current: str, events: str) -> dict[str, int]:
    """hugetlb.SIZE.current, of those reserved where they are counted, and how often the limit has refused some."""
    return {**_without_zeros({"usage": _number(current)}), "failcnt": numbers(events).get("max", 0)}


def pressure(text: str) -> dict[str, Any] | None:
    """A file of pressure stall information, if there is one: averages in percent, the total in microseconds."""
    if not text:
        return None
    found = {}
    for line in text.splitlines():
        kind, *values = line.split()
        read = {name: _decimal(value) for name, _, value in (each.partition("=") for each in values)}
        if any(read.values()):
            found[kind] = read
    return found


def numbers(text: str) -> dict[str, int]:
    """A file with lines of a name and a number, such as memory.stat."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def _entry(limit: int, usage: int, peak: int = 0) -> dict[str, int]:
    return {"limit": limit, **_without_zeros({"usage": usage, "max": peak}), "failcnt": 0}


def _number(text: str) -> int:
    """A number; 0 for a file that is not there."""
    return NO_LIMIT if text.strip() == "max" else int(text or 0)


def _decimal(text: str) -> int | float:
    """A number as Go prints it: without a fraction if that is 0."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _without_zeros(members: dict[str, Any]) -> dict[str, Any]:
    """What is not 0 and not empty; `psi` is there if it is known at all."""
    return {name: value for name, value in members.items() if value or (name == "psi" and value is not None)}
