"""Spec -> Steps for `linux.intelRdt`: a part of the caches and of the memory bandwidth (config-linux.md#intelrdt).

Imported only for a config that has the key (plan.build, plan.join).

Read beside runc:libcontainer/intelrdt/intelrdt.go:/^func .*Manager.*(Apply|Set)/.
"""

from __future__ import annotations

from pyruntime.plan.step import PARENT, RESCTRL, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import IntelRdt, Spec

_PLACE = "config.json#/linux/intelRdt"


class LockGroups(Step):
    """resctrl.rst, "Locking between applications": who changes more than one file of it keeps others out."""

    phase = RESCTRL
    why = "nobody shall make or change a group meanwhile"

    def text(self) -> str:
        return "wait for the lock of resctrl"


class UseGroup(Step):
    """`closID`, or a group that is named by the container and ends with it.

    The specification has a group of that name made only where it is said what its part shall be.
    """

    phase = RESCTRL
    why = "linux.intelRdt asks for a part of the caches and of the memory bandwidth"

    group: str  # a name below resctrl's mount point; "" is the default group, which is always there
    is_shared: bool  # it has its name from closID, so others may be in it, and it outlives the container
    must_exist: bool

    def text(self) -> str:
        if not self.group:
            return "use the default group of resctrl"
        if self.must_exist:
            return f"use the resctrl group {self.group}, which must be there"
        return f"use the resctrl group {self.group}, made if it is not there"


class LimitGroup(Step):
    """One line for the group's `schemata`: "L3:0=7f0;1=1f"."""

    phase = RESCTRL
    why = "the part of each cache or bandwidth that the group's processes have"

    line: str

    def text(self) -> str:
        return f"limit the resctrl group to {self.line}"


class MonitorGroup(Step):
    """`enableMonitoring`: a monitoring group for this container alone, below the group that it shares."""

    phase = RESCTRL
    why = "enableMonitoring: what the container uses is counted for itself"

    monitor: str  # a name below mon_groups

    def text(self) -> str:
        return f"make the monitoring group {self.monitor}"


class BecomeMember(Step):
    """A process becomes a member of a group, and with it all that it will start."""

    phase = PARENT

    group: str
    monitor: str  # "" for none

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The same for both kinds."""
        return ("where", "group", "monitor")

    def text(self) -> str:
        name = f"the resctrl group {self.group}" if self.group else "the default group of resctrl"
        within = f", and there into the monitoring group {self.monitor}" if self.monitor else ""
        return f"put the process into {name}{within}"


class JoinGroup(BecomeMember):
    """The container's own process."""

    why = "linux.intelRdt asks for it"


class FollowIntoGroup(BecomeMember):
    """What `exec` brings into a container belongs where the container's first process is."""

    why = "what enters the container shares its part of the caches"


def group_steps(spec: Spec, id: str) -> Iterator[Step]:
    """What a start of the container `id` does in resctrl."""
    wanted = spec["linux"]["intelRdt"]
    group, lines = _group(wanted, id), list(_lines(wanted))
    named = bool(wanted.get("closID"))
    yield LockGroups(_PLACE)
    yield UseGroup(f"{_PLACE}/closID" if named else _PLACE, group, named, named and not lines)
    for where, line in lines:
        yield LimitGroup(where, line)
    monitor = _monitor(wanted, id)
    if monitor:
        yield MonitorGroup(f"{_PLACE}/enableMonitoring", monitor)
    yield JoinGroup(_PLACE, group, monitor)


def follow_steps(spec: Spec, id: str) -> Iterator[Step]:
    """What an `exec` into the container `id` does in resctrl."""
    wanted = spec["linux"]["intelRdt"]
    yield FollowIntoGroup(_PLACE, _group(wanted, id), _monitor(wanted, id))


def _group(wanted: IntelRdt, id: str) -> str:
    return (wanted.get("closID") or id).strip("/")


def _monitor(wanted: IntelRdt, id: str) -> str:
    return id if wanted.get("enableMonitoring") else ""


def _lines(wanted: IntelRdt) -> Iterator[tuple[str, str]]:
    """The lines for `schemata` with their places, in the order in which they must be written: a later one prevails."""
    for key, text in {"l3CacheSchema": wanted.get("l3CacheSchema"), "memBwSchema": wanted.get("memBwSchema")}.items():
        for line in (text or "").split("\n"):
            if line:
                yield f"{_PLACE}/{key}", line
    for index, line in enumerate(wanted.get("schemata", ())):
        if line:
            yield f"{_PLACE}/schemata/{index}", line
