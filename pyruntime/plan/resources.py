"""`linux.resources` and `linux.cgroupsPath` -> the files to write in a cgroup (config-linux.md#control-groups).

The specification speaks the language of cgroup v1; the kernel's files are those of v2 (cgroup-v2.rst). Each function
below translates one controller. As everywhere in runc, 0 means "not asked for" and -1 means "no limit", unless a
function says otherwise. A value in the wrong range that the kernel would refuse is left to the kernel: its limits
differ between versions, and its refusal is told with the key, the file and the value.

Read beside opencontainers/cgroups:fs2/*.go (one file a controller), :utils.go:/^func Convert/ and the order of
:fs2/fs2.go:/^func .*Set/.
"""

from __future__ import annotations

from pyruntime.errors import ConfigError, UnsupportedError
from pyruntime.plan import devices
from pyruntime.plan.step import CGROUP, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import CPU, BlockIO, HugepageLimit, Linux, Memory, Pids, Rdma, Resources, Spec

PLACE = "config.json#/linux/resources"


class CreateCgroup(Step):
    """Make the container's cgroup and the ones above it that are missing. `path` starts below the v2 hierarchy."""

    phase = CGROUP
    why = "everything the container starts is counted, limited, frozen and killed as one"
    by_systemd = False  # but for the one of plan/scope.py
    path: str

    def text(self) -> str:
        return f"create cgroup {self.path}"


class WriteCgroup(Step):
    """Write one file of the cgroup; `controller` must be enabled for it ("" for the files that every cgroup has)."""

    phase = CGROUP
    why = "a limit that the config asks for"
    file: str
    value: str
    controller: str

    def text(self) -> str:
        return f"write {self.value!r} to {self.file}"


class WriteCgroupUnless(Step):
    """Write one file of the cgroup, but accept the errno named `accepted`, for the `reason` given."""

    phase = CGROUP
    why = "a limit that the config asks for, where its absence would change nothing"
    file: str
    value: str
    controller: str
    accepted: str
    reason: str

    def text(self) -> str:
        return f"write {self.value!r} to {self.file} ({self.accepted} is accepted: {self.reason})"


class WriteCgroupFirst(Step):
    """Write the first file of `choices`, pairs of file and value, that the kernel has."""

    phase = CGROUP
    why = "a limit for which different kernels have different files"
    choices: list[tuple[str, str]]
    controller: str

    def text(self) -> str:
        return "write " + ", or else ".join(f"{value!r} to {file}" for file, value in self.choices)


class CheckMemoryUsage(Step):
    """Refuse a limit below what is in use already (`memory.checkBeforeUpdate`). Bytes; `swap` is memory and swap."""

    phase = CGROUP
    why = "the kernel would kill processes until the new limit holds"
    limit: int
    swap: int

    def text(self) -> str:
        limits = {"memory": self.limit, "memory and swap": self.swap}
        return "check that less is in use than " + " and ".join(f"{v} bytes of {k}" for k, v in limits.items() if v > 0)


class DevicePolicy(Step):
    """Which devices may be opened and made: what `default_allow` says, but for `rules` (see plan/devices.py)."""

    phase = CGROUP
    why = "root in a container could otherwise open the host's disks"
    default_allow: bool
    rules: list[devices.Rule]

    def text(self) -> str:
        default, others = ("allow", "deny") if self.default_allow else ("deny", "allow")
        but = f" but {others} " + ", ".join(devices.rule_text(rule) for rule in self.rules) if self.rules else ""
        return f"devices: {default} all{but}"


class OwnCgroup(Step):
    """Give the cgroup to the container's user, so that it can make cgroups below (config-linux.md#cgroup-ownership).

    `uid` is of the host.
    """

    phase = CGROUP
    why = "the container has a cgroup namespace of its own and may write to the mount of type cgroup"
    uid: int

    def text(self) -> str:
        return f"give the cgroup, and its files that the kernel lets a user have, to the host's user {self.uid}"


def cgroup_path(linux: Linux, container_id: str, own_path: str = "/") -> str:
    """Where the container's cgroup goes, as a path below the v2 hierarchy ("/web").

    A relative path, and the ID when there is none, go beside the runtime's own cgroup `own_path`: that one has
    processes, so nothing below it could have controllers. ".." never leads out. Raises ConfigError for systemd's form,
    which is for plan/scope.py; runc makes a cgroup of that name.
    Companion: opencontainers/cgroups:fs2/defaultpath.go:/^func defaultDirPath/.
    """
    path = linux.get("cgroupsPath", "")
    if names_scope(path):
        raise ConfigError(
            f"the form slice:prefix:name ({path!r}) asks systemd to make the cgroup",
            where="config.json#/linux/cgroupsPath",
            hint="give --systemd-cgroup, too, or a path such as /mygroup/web",
        )
    if path.startswith("/"):
        clean = _clean(path)
        if clean == "/":
            raise ConfigError("the root cgroup cannot be a container's", where="config.json#/linux/cgroupsPath")
        return clean
    return _clean(_clean(own_path).rpartition("/")[0] + (_clean(path) if _clean(path) != "/" else f"/{container_id}"))


def names_scope(path: str) -> bool:
    """Whether a cgroupsPath is of the form slice:prefix:name, which means a unit of systemd's."""
    return not path.startswith("/") and path.count(":") == 2


def owner_steps(spec: Spec, cgroup: str) -> Iterator[Step]:
    """Hand the cgroup over where the specification says so, unless the user is root of the host anyway.

    The IDs of a user namespace that is joined are not in config.json: then the cgroup stays root's.
    Companion: runc:libcontainer/specconv/spec_linux.go, "Set the host UID that should own the container's cgroup".
    """
    linux = spec.get("linux", {})
    joined = {namespace["type"]: namespace.get("path", "") for namespace in linux.get("namespaces", ())}
    if not cgroup or joined.get("cgroup") != "" or joined.get("user"):
        return
    uid = spec["process"].get("user", {}).get("uid", 0)
    if "user" in joined:
        ranges = linux.get("uidMappings", ())
        inside = (each for each in ranges if 0 <= uid - each["containerID"] < each["size"])
        uid = next((uid - each["containerID"] + each["hostID"] for each in inside), 0)
    for index, mount in enumerate(spec.get("mounts", ())):
        shown = mount.get("source") == "cgroup" and _clean(mount["destination"]) == "/sys/fs/cgroup"
        if uid and shown and "ro" not in mount.get("options", ()):
            yield OwnCgroup(f"config.json#/mounts/{index}", uid)
            return


def resource_steps(linux: Linux, cgroup: str) -> list[Step]:
    """The steps that make and fill the cgroup at `cgroup` (as from `cgroup_path`), in the order in which runc writes.

    With "" for no cgroup (rootless without permission) there are no steps, and a limit is refused. Raises ConfigError
    for values that contradict each other, UnsupportedError for a limit without a cgroup.
    """
    resources = linux.get("resources") or {}
    before, after = limit_steps(resources)
    if not cgroup:
        for step in (*before, *after):
            raise UnsupportedError("a limit needs a cgroup, and the container can have none", where=step.where)
        return []
    default_allow, rules = devices.effective_rules(
        resources.get("devices") or [], {device["path"] for device in linux.get("devices") or []}
    )
    where = "config.json#/linux/cgroupsPath" if linux.get("cgroupsPath") else "config.json#/linux"
    return [CreateCgroup(where, cgroup), *before, DevicePolicy(f"{PLACE}/devices", default_allow, rules), *after]


def limit_steps(resources: Resources) -> tuple[list[Step], list[Step]]:
    """The steps for all but the devices: those that come before these, and those that come after them.

    Raises ConfigError for values that contradict each other.
    """
    before: list[Step] = []
    after: list[Step] = []
    if "pids" in resources:
        before += _pids(resources["pids"])
    if "memory" in resources:
        before += _memory(resources["memory"])
    if "blockIO" in resources:
        before += _block_io(resources["blockIO"])
    if "cpu" in resources:
        before += _cpu(resources["cpu"])
        after += _cpuset(resources["cpu"])
    if "hugepageLimits" in resources:
        after += _hugepages(resources["hugepageLimits"])
    if "rdma" in resources:
        after += _rdma(resources["rdma"])
    if "unified" in resources:
        after += _unified(resources["unified"])
    return before, after


def needed_controllers(steps: list[Step]) -> dict[str, str]:
    """The controllers without which `steps` cannot be performed, each with the place of the first key that needs it."""
    needed: dict[str, str] = {}
    for step in steps:
        if controller := step.__dict__.get("controller", ""):
            needed.setdefault(controller, step.where)
    return needed


def _pids(pids: Pids) -> Iterator[Step]:
    """Here 0 is a limit, told as 1: systemd knows no 0, and with the container's own process the effect is the same."""
    limit = pids.get("limit")
    if limit is not None:
        yield WriteCgroup(f"{PLACE}/pids/limit", "pids.max", "max" if limit < 0 else str(limit or 1), "pids")


def _memory(memory: Memory) -> Iterator[Step]:
    """limit, swap (of v1: memory and swap together) and reservation, in bytes."""
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if memory.get("checkBeforeUpdate") and (limit > 0 or swap > 0):
        yield CheckMemoryUsage(f"{PLACE}/memory/checkBeforeUpdate", limit, swap)
    own_swap = swap_beyond_memory(limit, swap)
    if own_swap:
        where = f"{PLACE}/memory/{'swap' if swap else 'limit'}"
        if own_swap in ("max", "0"):
            reason = "a kernel that cannot swap keeps this limit by itself"
            yield WriteCgroupUnless(where, "memory.swap.max", own_swap, "memory", "ENOENT", reason)
        else:
            yield WriteCgroup(where, "memory.swap.max", own_swap, "memory")
    for key, file in (("limit", "memory.max"), ("reservation", "memory.low")):
        if value := memory.get(key) or 0:
            yield WriteCgroup(f"{PLACE}/memory/{key}", file, "max" if value == -1 else str(value), "memory")


def swap_beyond_memory(limit: int, swap: int) -> str:
    """v1's `swap` (memory and swap together) as v2's (swap alone): what to write, "" for nothing.

    Unlimited memory means unlimited swap, unless that is given, too. Raises ConfigError if the two contradict each
    other. Companion: opencontainers/cgroups:utils.go:/^func ConvertMemorySwapToCgroupV2Value/.
    """
    if swap == -1 or (limit == -1 and swap == 0):
        return "max"
    if swap == 0:
        return ""
    if limit == -1:
        return str(swap)
    where = f"{PLACE}/memory/swap"
    if limit == 0:
        raise ConfigError("unable to set swap limit without memory limit", where=where, hint="set memory.limit, too")
    if limit < 0:
        raise ConfigError(f"invalid memory value: {limit}", where=f"{PLACE}/memory/limit")
    if swap < limit:
        raise ConfigError(
            "memory+swap limit should be >= memory limit", where=where, hint="swap counts memory and swap together"
        )
    return str(swap - limit)


def _block_io(block_io: BlockIO) -> Iterator[Step]:
    """Weights from 10 to 1000 as the BFQ scheduler takes them, where it is in use; scaled to 1..10000 for iocost."""
    where = f"{PLACE}/blockIO"
    if weight := block_io.get("weight") or 0:
        scaled = str(io_weight(weight, f"{where}/weight"))
        yield WriteCgroupFirst(f"{where}/weight", [("io.bfq.weight", str(weight)), ("io.weight", scaled)], "io")
    for index, device in enumerate(block_io.get("weightDevice") or []):
        if (own := device.get("weight")) is None:
            continue  # only leafWeight, which v2 has no equal of
        place, number = f"{where}/weightDevice/{index}", f"{device['major']}:{device['minor']}"
        scaled = str(io_weight(own, f"{place}/weight")) if own else "default"
        choices = [("io.bfq.weight", f"{number} {own}"), ("io.weight", f"{number} {scaled}")]
        yield WriteCgroupFirst(place, choices, "io")
    for key, name, throttles in (
        ("throttleReadBpsDevice", "rbps", block_io.get("throttleReadBpsDevice")),
        ("throttleWriteBpsDevice", "wbps", block_io.get("throttleWriteBpsDevice")),
        ("throttleReadIOPSDevice", "riops", block_io.get("throttleReadIOPSDevice")),
        ("throttleWriteIOPSDevice", "wiops", block_io.get("throttleWriteIOPSDevice")),
    ):
        for index, throttle in enumerate(throttles or []):
            value = f"{throttle['major']}:{throttle['minor']} {name}={throttle['rate']}"
            yield WriteCgroup(f"{where}/{key}/{index}", "io.max", value, "io")


def io_weight(weight: int, where: str) -> int:
    """v1's 10..1000 on v2's scale of 1..10000. Companion: :utils.go:/^func ConvertBlkIOToIOWeightValue/."""
    if not 10 <= weight <= 1000:
        raise ConfigError(f"a weight is from 10 to 1000, not {weight}", where=where)
    return 1 + (weight - 10) * 9999 // 990


def _cpu(cpu: CPU) -> Iterator[Step]:
    """idle, shares, and the bandwidth: quota and burst in microseconds of CPU time a period."""
    where = f"{PLACE}/cpu"
    if (idle := cpu.get("idle")) is not None:
        yield WriteCgroup(f"{where}/idle", "cpu.idle", str(idle), "cpu")
    if weight := cpu_weight(cpu.get("shares") or 0):
        yield WriteCgroup(f"{where}/shares", "cpu.weight", str(weight), "cpu")
    quota, period, burst = cpu.get("quota") or 0, cpu.get("period") or 0, cpu.get("burst")
    if burst is not None:
        if not quota:
            yield WriteCgroup(f"{where}/burst", "cpu.max.burst", str(burst), "cpu")
        else:
            # Burst may not exceed quota at any moment, so a lower pair needs the burst first, a higher one the quota.
            reason = "it is written again after the quota"
            yield WriteCgroupUnless(f"{where}/burst", "cpu.max.burst", str(burst), "cpu", "EINVAL", reason)
    if quota or period:
        place = f"{where}/{'quota' if quota else 'period'}"
        yield WriteCgroup(place, "cpu.max", f"{quota if quota > 0 else 'max'} {period or 100000}", "cpu")
    if burst is not None and quota:
        yield WriteCgroup(f"{where}/burst", "cpu.max.burst", str(burst), "cpu")


def cpu_weight(shares: int) -> int:
    """v1's shares, 2..262144 with 1024 as default, as v2's weight, 1..10000 with 100 as default. 0 stays 0: not set.

    A quadratic in the logarithm that meets those three points, agreed on by runc and crun in 2025; the straight line
    of before gave 39 for the default. Companion: :utils.go:/^func ConvertCPUSharesToCgroupV2Value/.
    """
    if shares <= 0:
        return 0
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2  # an extension module, for the few that ask for shares

    log = log2(shares)
    return ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def _cpuset(cpu: CPU) -> Iterator[Step]:
    """Lists as in cpuset(7), "0-3,7"; the kernel checks them."""
    for key, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if value := cpu.get(key):
            yield WriteCgroup(f"{PLACE}/cpu/{key}", file, str(value), "cpuset")


def _hugepages(limits: list[HugepageLimit]) -> Iterator[Step]:
    """Bytes a page size ("2MB"), for the pages in use and, where the kernel counts them, for those reserved."""
    for index, limit in enumerate(limits):
        where, size, value = f"{PLACE}/hugepageLimits/{index}", limit["pageSize"], str(limit["limit"])
        if not size.isalnum():  # it becomes a part of a file name
            raise ConfigError(f"page size {size!r} is not of the form 2MB", where=f"{where}/pageSize")
        yield WriteCgroup(where, f"hugetlb.{size}.max", value, "hugetlb")
        reason = "before Linux 5.7 reservations are not counted"
        yield WriteCgroupUnless(where, f"hugetlb.{size}.rsvd.max", value, "hugetlb", "ENOENT", reason)


def _rdma(rdma: dict[str, Rdma]) -> Iterator[Step]:
    """Handles and objects of a host channel adapter, by the name of its device."""
    for device, limits in rdma.items():
        names = (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
        values = [f"{name}={value}" for key, name in names if (value := limits.get(key)) is not None]
        if values:
            yield WriteCgroup(f"{PLACE}/rdma/{_escape(device)}", "rdma.max", " ".join((device, *values)), "rdma")


def _unified(unified: dict[str, str]) -> Iterator[Step]:
    """Any file of cgroup v2 by its name; a value of several lines is written line by line."""
    for file, value in unified.items():
        where = f"{PLACE}/unified/{_escape(file)}"
        if "/" in file or "\0" in file:
            raise ConfigError(f"unified resource {file!r} must be a file name (no slashes)", where=where)
        controller, dot, parameter = file.partition(".")
        if not (controller and dot and parameter):
            raise ConfigError(f"unified resource {file!r} must be in the form CONTROLLER.PARAMETER", where=where)
        yield WriteCgroup(where, file, value, "" if controller == "cgroup" else controller)


def _escape(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def _clean(path: str) -> str:
    """The absolute form of `path` without ".", ".." and empty parts, by its letters only (Go's filepath.Clean)."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
