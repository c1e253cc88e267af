"""`--systemd-cgroup`: systemd makes the container's cgroup, as a transient scope, and knows its limits.

On a host that systemd runs, the cgroups are systemd's: it writes their files anew when it is reloaded, and removes what
it does not know. So the container's cgroup is asked of it (cgroup/systemd.py), with all that it can be told as the
unit's properties: then `systemctl status` and `systemctl show` tell the truth, and a reload changes nothing. What
systemd has no property for is written into the files, and so is all the rest once more, by the same steps as without
systemd (plan/resources.py). Each property is made from such a step, so that the two cannot disagree.

cgroupsPath is not a path then, but `slice:prefix:name`, which means the unit prefix-name.scope in the slice. And
annotations that begin with org.systemd.property. are properties, too.

See systemd.resource-control(5), org.freedesktop.systemd1(5). Read beside runc:docs/systemd.md,
opencontainers/cgroups:systemd/v2.go:/^func genV2ResourcesProperties/ and :/^func unifiedResToSystemdProps/.
"""

from __future__ import annotations

from pyruntime.errors import ConfigError
from pyruntime.plan import gvariant
from pyruntime.plan.devices import ANY
from pyruntime.plan.resources import CreateCgroup, DevicePolicy, WriteCgroup, WriteCgroupFirst, WriteCgroupUnless
from pyruntime.plan.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyruntime.plan.devices import Rule
    from pyruntime.plan.step import Plan
    from pyruntime.spec.types import Linux, Spec

    # A property of a unit: its name, its D-Bus type, and the value (linux/sdbus.py:Bus.call)
    Property = tuple[str, str, Any]

_PLACE = "config.json#/linux/cgroupsPath"
ANNOTATION = "org.systemd.property."
_INFINITY = (1 << 64) - 1
_NAME_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.\\@")
_NAME_LENGTH = 255


class CreateScope(CreateCgroup):
    """Have systemd make the cgroup: a transient scope `unit` in `slice`, with properties (name, D-Bus type, value).

    `path` starts below the cgroup of the service manager, which is the root of the hierarchy, or with `users` wherever
    the manager of this user is. `properties` are the user's own, `limits` what the cgroup's files will say as well: of
    those an old systemd may not know all.
    """

    by_systemd = True
    why = "the cgroups of this host are systemd's: it makes the container's, and knows its limits"
    path: str
    unit: str
    slice: str
    users: bool
    properties: list[Property]
    limits: list[Property]

    def text(self) -> str:
        known = ", ".join(f"{name}={_shown(value)}" for name, _, value in (*self.properties, *self.limits))
        return f"have systemd make the scope {self.unit} in {self.slice}" + (f": {known}" if known else "")


def scope_path(linux: Linux, container_id: str, *, users: bool) -> str:
    """Where the container's cgroup will be below that of the service manager: "/system.slice/docker-web.scope".

    Raises ConfigError for a cgroupsPath that is not of the form slice:prefix:name.
    """
    slice, unit = _slice_and_unit(linux, container_id, users)
    return "".join(f"/{_escape(name)}" for name in (*_slices(slice), unit))


def ask_systemd(plan: Plan, spec: Spec, container_id: str, *, users: bool) -> None:
    """Have the plan ask systemd for the cgroup, instead of making it. `users`: the service manager of this user.

    Raises ConfigError for an annotation that is no property.
    """
    slice, unit = _slice_and_unit(spec.get("linux", {}), container_id, users)
    properties = list(_annotated(spec.get("annotations") or {}))
    limits = resource_properties(plan.steps)
    plan.replace(
        [
            CreateScope(step.where, step.path, unit, slice, users, properties, limits)
            if isinstance(step, CreateCgroup)
            else step
            for step in plan
        ]
    )


def _slice_and_unit(linux: Linux, container_id: str, users: bool) -> tuple[str, str]:
    """The names of the slice and of the scope. runc:libcontainer/specconv/spec_linux.go:/^func CreateCgroupConfig/"""
    given = linux.get("cgroupsPath") or f":pyruntime:{container_id}"
    parts = given.split(":")
    if len(parts) != 3:
        message = f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{given}" instead'
        hint = "such as system.slice:docker:web; leave --systemd-cgroup out to give a path"
        raise ConfigError(message, where=_PLACE, hint=hint)
    slice, prefix, name = parts
    if name.endswith(".slice"):
        raise ConfigError(f"{name} names a slice, which holds no process itself, but scopes that do", where=_PLACE)
    unit = f"{prefix}-{name}.scope"
    if not _NAME_LETTERS.issuperset(unit) or len(unit) > _NAME_LENGTH:
        hint = "letters, digits, and the characters : - _ . \\ @ make one, up to 255; see systemd.unit(5)"
        raise ConfigError(f"invalid unit name: {unit}", where=_PLACE, hint=hint)
    return slice or ("user.slice" if users else "system.slice"), unit


def _slices(slice: str) -> list[str]:
    """A slice and those that it is in, by its name, the outermost first: a-b.slice is in a.slice, -.slice is the root.

    Raises ConfigError. Companion: opencontainers/cgroups:systemd/common.go:/^func ExpandSlice/.
    """
    name, suffix = slice[: -len(".slice")], slice[-len(".slice") :]
    if name == "-" and suffix == ".slice":
        return []
    parts = name.split("-")
    if suffix != ".slice" or not all(parts) or not _NAME_LETTERS.issuperset(name):
        hint = "such as system.slice, or a-b.slice for b below a.slice"
        raise ConfigError(f"invalid slice name: {slice}", where=_PLACE, hint=hint)
    return ["-".join(parts[: count + 1]) + ".slice" for count in range(len(parts))]


# Names of cgroups that systemd keeps away from the kernel's own files, by a "_" before them.
_FILES = ("_", ".", "cgroup.", "cpu.", "cpuset.", "io.", "memory.", "pids.", "hugetlb.", "rdma.", "misc.", "irq.")


def _escape(unit: str) -> str:
    """The name of a unit's cgroup. systemd:src/basic/cgroup-util.c:/^int cg_escape/"""
    return f"_{unit}" if unit.startswith(_FILES) else unit


def _annotated(annotations: dict[str, str]) -> Iterator[Property]:
    """Properties given by annotations, a time in seconds (...Sec) in microseconds (...USec), as D-Bus has it.

    runc:libcontainer/specconv/spec_linux.go:/^func initSystemdProps/
    """
    for key, text in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        where, name = f"config.json#/annotations/{key.replace('~', '~0').replace('/', '~1')}", key[len(ANNOTATION) :]
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise ConfigError(f"{name!r} is no name of a property: three letters or more", where=where)
        try:
            kind, value = gvariant.parse(text)
        except ValueError as error:
            hint = "in GVariant's text format, such as: uint64 5, true, 'text', ['one', 'two']"
            raise ConfigError(f"value parse error: {error}", where=where, hint=hint) from None
        if name.endswith("Sec") and name[-4].islower():
            if type(value) not in (int, float):
                raise ConfigError("value parse error: not a number of seconds", where=where)
            name, kind, value = f"{name[:-3]}USec", "t", int(value * 1000000)
            if not 0 <= value <= _INFINITY:
                raise ConfigError("value parse error: more seconds than systemd can count", where=where)
        yield name, kind, value


def resource_properties(steps: list[Step]) -> list[Property]:
    """What systemd can be told of the limits that these steps write; a later property of a name overrides the former.

    A quota is rounded up to whole percents of a CPU, in the step as well: with less systemd would begin, but end at the
    next reload, for it keeps percents.
    """
    found: list[Property] = []
    idle = False
    for step in steps:
        if isinstance(step, DevicePolicy):
            found += _devices(step)
            continue
        for file, value in _writes(step):
            if file == "cpu.max" and isinstance(step, WriteCgroup):
                step.value = value = _whole_percents(value)
            if file == "cpu.idle" and value.strip() in ("0", "1"):
                idle = value.strip() == "1"
                found.append(
                    ("CPUWeight", "t", 0 if idle else _INFINITY)
                )  # systemd's words for idle, and for no weight
            elif not (file == "cpu.weight" and idle):
                found += _property(file, value.strip())
    return found


def _writes(step: Step) -> list[tuple[str, str]]:
    if isinstance(step, WriteCgroup | WriteCgroupUnless):
        return [(step.file, step.value)]
    return list(step.choices) if isinstance(step, WriteCgroupFirst) else []


# By file: the property, and the least and the most that systemd takes for it. What is beyond, the kernel may judge.
_NUMBERS = {
    "cpu.weight": ("CPUWeight", 1, 10000),
    "io.weight": ("IOWeight", 1, 10000),
    "memory.high": ("MemoryHigh", 1, _INFINITY),
    "memory.low": ("MemoryLow", 0, _INFINITY),
    "memory.max": ("MemoryMax", 1, _INFINITY),
    "memory.min": ("MemoryMin", 0, _INFINITY),
    "memory.swap.max": ("MemorySwapMax", 0, _INFINITY),
    "memory.zswap.max": ("MemoryZSwapMax", 0, _INFINITY),
    "pids.max": ("TasksMax", 1, _INFINITY),
}
_LISTS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
_OOM_POLICIES = {"0": "continue", "1": "kill"}


def _property(file: str, value: str) -> Iterator[Property]:
    """The property that stands for a file of the cgroup; none for what is not known, or what the kernel will refuse."""
    if file in _NUMBERS:
        name, least, most = _NUMBERS[file]
        number = _INFINITY if value == "max" else int(value) if value.isascii() and value.isdigit() else -1
        if least <= number <= most:
            yield name, "t", number
    elif file in _LISTS:
        if bits := _bits(value):
            yield _LISTS[file], "ay", bits
    elif file == "cpu.max":
        if (pair := _quota(value)) is not None:
            quota, period = pair
            yield "CPUQuotaPeriodUSec", "t", period
            yield "CPUQuotaPerSecUSec", "t", _INFINITY if quota < 0 else _percents(quota, period) * 10000
    elif file == "memory.oom.group" and value in _OOM_POLICIES:
        yield "OOMPolicy", "s", _OOM_POLICIES[value]
    elif file == "memory.zswap.writeback" and value in ("0", "1"):
        yield "MemoryZSwapWriteback", "b", value == "1"


def _quota(value: str) -> tuple[int, int] | None:
    """The quota (-1: none) and the period of a value for cpu.max, in microseconds; None if it is no such value."""
    words = value.split()
    quota, period = words if len(words) == 2 else (*words, "100000") if len(words) == 1 else ("", "")
    if not (quota == "max" or (quota.isascii() and quota.isdigit())) or not (period.isascii() and period.isdigit()):
        return None
    return (-1 if quota == "max" else int(quota), int(period)) if int(period) else None


def _whole_percents(value: str) -> str:
    """A value for cpu.max whose quota is whole percents of a CPU: systemd keeps no others over a reload."""
    pair = _quota(value)
    if pair is None or pair[0] < 0:
        return value
    quota, period = pair
    return f"{max(quota, _percents(quota, period) * period // 100)} {period}"


def _percents(quota: int, period: int) -> int:
    return -(-quota * 100 // period)


def _bits(value: str) -> list[int]:
    """A list such as "0-3,7" as bytes whose bits say which are in it, bit 0 of the first byte for 0; [] if it is none.

    Companion: opencontainers/cgroups:systemd/cpuset.go:/^func RangeToBits/.
    """
    mask = 0
    for part in value.split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
            return []
        low, high = int(first), int(last)
        if not low <= high < _MOST_BITS:
            return []
        mask |= (1 << high + 1) - (1 << low)
    return list(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))


_MOST_BITS = 8192  # NR_CPUS of the largest kernels


def _devices(step: DevicePolicy) -> list[Property]:
    """The device rules, if systemd can be told all of them; otherwise none, and our own program alone holds.

    It knows a list of what is allowed, by numbers, with any minor, or all of a type. runc has it forbid all meanwhile.
    Companion: opencontainers/cgroups:devices/systemd.go:/^func systemdProperties/.
    """
    if step.default_allow or any(major == ANY and minor != ANY for _, major, minor, _ in step.rules):
        return []
    return [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", [*map(_device, step.rules)])]


def _device(rule: Rule) -> tuple[str, str]:
    kind, major, minor, access = rule
    name = {"b": "block", "c": "char"}[kind]
    if minor == ANY:
        return f"{name}-{'*' if major == ANY else major}", access
    return f"/dev/{name}/{major}:{minor}", access


def _shown(value: object) -> str:
    if value == _INFINITY:
        return "infinity"
    if isinstance(value, list):
        return f"[{', '.join(' '.join(each) if isinstance(each, tuple) else str(each) for each in value)}]"
    return str(value)
