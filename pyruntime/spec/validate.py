"""Is this Spec one that can be run: every problem, each with its place in config.json.

`spec.schema` says what one value alone must look like. Here are the rules about values that depend on others, and the
face of both. A rule runs only if the schema has found sound what it reads, so that it can trust the types.

What only the system can tell (is there a rootfs, is that path a namespace) is found when it is used. Limits that are
computed with are checked where they are: plan.resources, plan.mounts.

Read beside runc:libcontainer/configs/validate/validator.go and runc:libcontainer/specconv/spec_linux.go.
"""

from __future__ import annotations

from pyruntime.errors import ConfigError, Error, UnsupportedError
from pyruntime.spec.schema import ENOUGH, Finding, check, is_enough, schema_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import Capabilities, IDMapping, Mount, Spec

SPEC_MINOR = 3  # this runtime knows runtime-spec 1.0 to 1.3

# capabilities(7), without the common "CAP_". A name that is not here is a warning (config.md#linux-process).
CAPABILITIES = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH "
    "FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN "
    "NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT SYS_CHROOT "
    "SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM"
)
# The sysctls kernel.* that belong to an IPC namespace (ipc_namespaces(7)); fs.mqueue.* do, too.
_IPC_SYSCTLS = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"


def validate(spec: Spec) -> list[str]:
    """Raise the first problem of the Spec, or return the warnings to be told: the same as `warnings`, for one price.

    Raises ConfigError, or UnsupportedError for what this version does not serve.
    """
    told = []
    found = findings(spec)
    for finding in found:
        if finding.error is not None:
            raise _first_of(found, finding)
        told.append(_as_warning(finding))
    return told


def _first_of(found: list[Finding], first: Finding) -> Error:
    """The first problem, with a hint at how many there are besides."""
    error = _as_error(first)
    more = sum(finding.error is not None for finding in found) - 1
    if more:
        number = "many" if more >= ENOUGH - 1 else more
        error.hint = f"{error.hint}{'; ' if error.hint else ''}and {number} more: see `pyruntime lint`"
    return error


def problems(spec: Spec) -> Iterator[Error]:
    """Every problem of the Spec, unraised. Those between values are found when each of these is sound by itself."""
    return (_as_error(finding) for finding in findings(spec) if finding.error is not None)


def warnings(spec: Spec) -> list[str]:
    """What will be ignored or is doubtful, each a sentence with its place."""
    return [_as_warning(finding) for finding in findings(spec) if finding.error is None]


def findings(spec: Spec) -> list[Finding]:
    """Problems and warnings together, in the order in which they are found. Of far too many only the first."""
    found = [*check(spec, "Spec")]
    if len(found) >= ENOUGH and any(finding.error for finding in found):
        return found  # the rest was not looked at, so no rule can trust it
    broken = [finding.culprit() for finding in found if finding.error is ConfigError]
    joined: dict[str, str] = {}
    if _are_sound(("linux/namespaces",), broken):
        for namespace in spec.get("linux", {}).get("namespaces", ()):
            joined[namespace["type"]] = namespace.get("path", "")
    for rule in RULES:
        if not broken or _are_sound(READS.get(rule.__name__, ("",)), broken):
            for finding in rule(spec, joined):
                found.append(finding)
                if is_enough(found):
                    return found
    return found


def process_findings(spec: Spec) -> list[Finding]:
    """Problems and warnings of `process` alone: the rest of an `exec`'s config.json has made a container already."""
    found = [*check(spec["process"], "Process")]
    for finding in found:
        finding.path = ("process", *finding.path)
    if any(finding.error for finding in found):
        return found
    joined: dict[str, str] = {}
    for namespace in spec.get("linux", {}).get("namespaces", ()):
        joined[namespace["type"]] = namespace.get("path", "")
    for rule in (process, scheduler, capabilities, user_is_mapped):
        found.extend(rule(spec, joined))
    return found


def _are_sound(places: tuple[str, ...], broken: list[tuple[str | int, ...]]) -> bool:
    """Whether nothing is broken at these places, above them or below. "" is the whole Spec."""
    for path in broken:
        for place in places:
            keys = place.split("/") if place else ()
            if all(str(key) == wanted for key, wanted in zip(path, keys, strict=False)):
                return False
    return True


def _as_error(finding: Finding) -> Error:
    error = finding.error or Error
    return error(finding.message, where=finding.where(), hint=finding.hint)


def _as_warning(finding: Finding) -> str:
    return str(Error(finding.message, where=finding.where(), hint=finding.hint))


# The rules. Each is given the Spec and its namespaces: {type: path to join, or "" for a new one}.


def version(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config.md#specification-version: compatible within a major version."""
    major, minor, _ = spec["ociVersion"].split(".", 2)
    place = ("ociVersion",)
    if major != "1":
        yield Finding(UnsupportedError, f"runtime-spec {spec['ociVersion']} is not served, only 1.x", place)
    elif int(minor) > SPEC_MINOR:
        yield Finding(None, f"newer than 1.{SPEC_MINOR}, which this version knows: what is new is ignored", place)


def namespaces(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config-linux.md#namespaces: none twice."""
    entries = spec.get("linux", {}).get("namespaces", ())
    if "mount" not in joined:
        message = "no mount namespace: a program with CAP_SYS_ADMIN can leave its root and reach the host's files"
        yield Finding(None, message, ("linux", "namespaces"))
    if len(entries) == len(joined):
        return
    seen: dict[str, int] = {}
    for index, namespace in enumerate(entries):
        kind = namespace["type"]
        if kind in seen:
            message = f"a second {kind} namespace; the first is namespaces/{seen[kind]}"
            yield Finding(ConfigError, message, ("linux", "namespaces", index, "type"))
        seen.setdefault(kind, index)


def names(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config.md#hostname. runc:validator.go:/^func uts/."""
    for key, value in (("hostname", spec.get("hostname")), ("domainname", spec.get("domainname"))):
        if value and "uts" not in joined:
            yield Finding(ConfigError, "needs a uts namespace: it would be the host's name", (key,))


def user_namespace(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config-linux.md#user-namespace-mappings, user_namespaces(7). runc:validator.go:/^func namespaces/."""
    linux = spec.get("linux", {})
    maps = {"uidMappings": linux.get("uidMappings", []), "gidMappings": linux.get("gidMappings", [])}
    for key, mappings in maps.items():
        place = ("linux", key)
        if "user" not in joined:
            if mappings:
                yield Finding(ConfigError, "needs a user namespace, and linux.namespaces has none", place)
        elif joined["user"]:
            # containerd and CRI-O give both.
            if mappings:
                yield Finding(None, f"ignored: the user namespace {joined['user']} has its own mapping already", place)
        elif not mappings:
            yield Finding(ConfigError, f"a new user namespace needs {key}", ("linux",))
        else:
            yield from _overlaps(mappings, place)
            if not _is_mapped(0, mappings):
                yield Finding(ConfigError, "must map 0: the container is set up as its root", place)
    yield from user_is_mapped(spec, joined)


def _overlaps(mappings: list[IDMapping], place: tuple[str | int, ...]) -> Iterator[Finding]:
    """What the kernel answers with a bare EINVAL: ranges that overlap, on either side, or go beyond 32 bits."""
    if len(mappings) > 340:
        yield Finding(ConfigError, f"the kernel takes 340 ranges at most, not {len(mappings)}", place)
        return
    for side in ("containerID", "hostID"):
        end, before = 0, 0
        ranges = sorted((mapping[side], mapping["size"], index) for index, mapping in enumerate(mappings))
        for first, size, index in ranges:
            if first < end:
                yield Finding(ConfigError, f"overlaps the range of entry {before}", (*place, index, side))
            if first + size > 2**32 - 1:
                yield Finding(ConfigError, "goes beyond the last ID, 4294967294", (*place, index, "size"))
            end, before = first + size, index


def _is_mapped(id: int, mappings: list[IDMapping]) -> bool:
    return any(0 <= id - mapping["containerID"] < mapping["size"] for mapping in mappings)


def user_is_mapped(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """An ID that a new user namespace does not map is EINVAL to setresuid(2), setresgid(2) and setgroups(2)."""
    if joined.get("user") != "":
        return
    linux = spec.get("linux", {})
    maps = {"uidMappings": linux.get("uidMappings", []), "gidMappings": linux.get("gidMappings", [])}
    user = spec.get("process", {}).get("user", {})
    place = ("process", "user")
    ids: list[tuple[int, str, tuple[str | int, ...]]] = [
        (user.get("uid", 0), "uidMappings", (*place, "uid")),
        (user.get("gid", 0), "gidMappings", (*place, "gid")),
    ]
    for index, gid in enumerate(user.get("additionalGids", ())):
        ids.append((gid, "gidMappings", (*place, "additionalGids", index)))
    for id, key, where in ids:
        if id and not _is_mapped(id, maps[key]):  # 0 was told of above
            yield Finding(ConfigError, f"{id} is not mapped by linux.{key}", where)


def clocks(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config-linux.md#offset-for-time-namespace: only a new time namespace can be offset (time_namespaces(7))."""
    if not spec.get("linux", {}).get("timeOffsets"):
        return
    place = ("linux", "timeOffsets")
    if "time" not in joined:
        yield Finding(ConfigError, "needs a time namespace, and linux.namespaces has none", place)
    elif joined["time"]:
        yield Finding(
            ConfigError, f"the clocks of the joined time namespace {joined['time']} are already running", place
        )


def sysctls(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """Only what belongs to a namespace of the container may be set. runc:validator.go:/^func sysctl/."""
    for key in spec.get("linux", {}).get("sysctl", {}):
        complaint = _sysctl_complaint(sysctl_path(key), joined)
        if complaint:
            yield Finding(ConfigError, complaint, ("linux", "sysctl", key))


def sysctl_path(key: str) -> str:
    """The file of a sysctl below /proc/sys. Whichever of '.' and '/' comes first separates, as sysctl.d(5) says.

    "net.ipv4.conf.eno2/100.rp_filter" and "net/ipv4/conf/eno2.100/rp_filter" are both the latter.
    """
    dot, slash = key.find("."), key.find("/")
    if slash == -1 or -1 < dot < slash:
        return key.translate({ord("."): "/", ord("/"): "."})
    return key


def _sysctl_complaint(path: str, joined: dict[str, str]) -> str:
    if "/" not in path or any(part in ("", ".", "..") for part in path.split("/")):
        return "not the name of a sysctl"
    area, _, name = path.partition("/")
    if area == "net":
        owner = "network"
    elif path.startswith("fs/mqueue/") or (area == "kernel" and name in _IPC_SYSCTLS.split()):
        owner = "ipc"
    elif area == "user":
        owner = "user"
    elif path == "kernel/domainname":
        owner = "uts"
    elif path == "kernel/hostname":
        return "set by the key hostname, not as a sysctl"
    else:
        return "not allowed: it belongs to no namespace, so it would change the host"
    return "" if owner in joined else f"needs a {owner} namespace: it would change the host"


def process(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config.md#posix-process. Only `start` needs one."""
    if "process" not in spec:
        message = "the key process is missing: such a container can be created, but not started"
        yield Finding(None, message, lacks="process")
        return
    if not spec["process"]["args"][0]:
        yield Finding(ConfigError, "the program to execute must not be empty", ("process", "args", 0))
    seen: dict[str, int] = {}
    for index, rlimit in enumerate(spec["process"].get("rlimits", ())):
        place = ("process", "rlimits", index)
        if rlimit["type"] in seen:
            message = f"a second {rlimit['type']}; the first is rlimits/{seen[rlimit['type']]}"
            yield Finding(ConfigError, message, (*place, "type"))
        seen.setdefault(rlimit["type"], index)
        if rlimit["soft"] > rlimit["hard"]:
            yield Finding(ConfigError, f"above the hard limit: {rlimit['soft']} > {rlimit['hard']}", (*place, "soft"))


def scheduler(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config.md#linux-process, sched_setattr(2). runc:validator.go:/^func scheduler/."""
    wanted = spec.get("process", {}).get("scheduler")
    if wanted is None:
        return
    place = ("process", "scheduler")
    policy, nice, priority = wanted["policy"], wanted.get("nice", 0), wanted.get("priority", 0)
    if policy == "SCHED_ISO":
        yield Finding(UnsupportedError, "SCHED_ISO is a reserved name: no Linux has it", (*place, "policy"))
    if policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= nice <= 19:
        yield Finding(ConfigError, f"must be from -20 to 19 for {policy}, not {nice}", (*place, "nice"))
    if policy in ("SCHED_FIFO", "SCHED_RR"):
        if not 1 <= priority <= 99:
            where = (*place, "priority") if "priority" in wanted else place
            yield Finding(ConfigError, f"{policy} needs a priority from 1 to 99, not {priority}", where)
    elif priority:
        yield Finding(ConfigError, f"only for SCHED_FIFO and SCHED_RR, not for {policy}", (*place, "priority"))
    if policy != "SCHED_DEADLINE":
        for key in ("runtime", "deadline", "period"):
            if wanted.get(key):
                yield Finding(ConfigError, f"only for SCHED_DEADLINE, not for {policy}", (*place, key))


def memory_policy(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config-linux.md#memory-policy, set_mempolicy(2). runc:validator.go:/^func memoryPolicy/."""
    wanted = spec.get("linux", {}).get("memoryPolicy")
    if wanted is None:
        return
    place, mode, flags = ("linux", "memoryPolicy"), wanted["mode"], wanted.get("flags", ())
    nodes = wanted.get("nodes", "").strip(", \t")
    if mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        if nodes:
            yield Finding(ConfigError, f"{mode} takes no nodes", (*place, "nodes"))
    elif mode != "MPOL_PREFERRED" and not nodes:
        yield Finding(ConfigError, f"{mode} needs at least one node", (*place, "nodes") if "nodes" in wanted else place)
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        message = "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"
        yield Finding(ConfigError, message, (*place, "flags"))


def intel_rdt(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config-linux.md#intelrdt. runc:validator.go:/^func intelrdtCheck/."""
    place, wanted = ("linux", "intelRdt"), spec.get("linux", {}).get("intelRdt", {})
    group = wanted.get("closID", "")
    if group in (".", "..") or ("/" in group and group != "/"):
        yield Finding(ConfigError, "must be the name of one directory, or /", (*place, "closID"))
    for line in wanted.get("l3CacheSchema", "").split("\n"):
        if complaint := schema_line(line):
            yield Finding(ConfigError, f"{complaint}: {line!r}", (*place, "l3CacheSchema"))
        elif line and line[:3] != "L3:":
            yield Finding(None, f"should begin with L3: and be one line, not {line!r}", (*place, "l3CacheSchema"))


def capabilities(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config.md#linux-process, capabilities(7): an unknown name is only a warning, but no set may outgrow its bound."""
    sets = spec.get("process", {}).get("capabilities", {})
    known = CAPABILITIES.split()
    permitted, inheritable = {*sets.get("permitted", ())}, {*sets.get("inheritable", ())}
    for key, names in _capability_sets(sets):
        for index, name in enumerate(names):
            place = ("process", "capabilities", key, index)
            if name[:4] != "CAP_" or name[4:] not in known:
                yield Finding(None, f"unknown capability {name}, ignored", place)
            elif key == "effective" and name not in permitted:
                yield Finding(ConfigError, f"{name} cannot be effective without being permitted", place)
    lacking = [name for name in sets.get("ambient", ()) if not (name in permitted and name in inheritable)]
    if lacking:  # one line for all: `runc spec` wrote such sets until 1.2
        message = f"ambient without being permitted and inheritable, ignored: {', '.join(lacking)}"
        yield Finding(None, message, ("process", "capabilities", "ambient"))


def _capability_sets(sets: Capabilities) -> Iterator[tuple[str, list[str]]]:
    """The five sets, those that are there. Other keys may hold anything."""
    for key in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        if key in sets:
            yield key, sets[key]


def mounts(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config.md#mounts. What the options mean is plan.mounts' matter."""
    for index, mount in enumerate(spec.get("mounts", ())):
        destination, options = mount["destination"], mount.get("options", ())
        if destination[0] != "/":
            message = f"not an absolute path, which is deprecated; taken as /{destination}"
            yield Finding(None, message, ("mounts", index, "destination"))
        if mount.get("type") == "bind" and "bind" not in options and "rbind" not in options:
            hint = "a bind mount has bind or rbind among its options"
            yield Finding(ConfigError, "no file system has the type bind", ("mounts", index, "type"), hint=hint)
        if "idmap" in options or "ridmap" in options or mount.get("uidMappings") or mount.get("gidMappings"):
            yield from _idmapped(mount, index, user_namespace="user" in joined)


def _idmapped(mount: Mount, index: int, *, user_namespace: bool) -> Iterator[Finding]:
    """config.md#posix-platform-mounts. runc:validator.go:/^func checkIDMapMounts/."""
    place, options = ("mounts", index), mount.get("options", ())
    maps = {"uidMappings": mount.get("uidMappings", []), "gidMappings": mount.get("gidMappings", [])}
    if mount.get("type") != "bind" and "bind" not in options and "rbind" not in options:
        yield Finding(ConfigError, "only a bind mount can be idmapped", place)
    given = [key for key, mappings in maps.items() if mappings]
    if len(given) == 1:
        lacking = "gidMappings" if given == ["uidMappings"] else "uidMappings"
        yield Finding(ConfigError, f"{given[0]} of a mount need {lacking}, too", (*place, given[0]))
    if not given and not user_namespace:
        message = "idmap needs uidMappings and gidMappings of the mount, or a user namespace"
        yield Finding(ConfigError, message, (*place, "options"))
    for key in given:
        yield from _overlaps(maps[key], (*place, key))


def devices(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config-linux.md#devices: numbers are required unless the type is p."""
    seen: dict[str, int] = {}
    for index, device in enumerate(spec.get("linux", {}).get("devices", ())):
        for key in ("major", "minor"):
            if device["type"] != "p" and key not in device:
                message = f"a device of type {device['type']} needs the key {key}"
                yield Finding(ConfigError, message, ("linux", "devices", index))
        if device["path"] in seen:
            message = f"devices/{seen[device['path']]} is {device['path']}, too"
            yield Finding(ConfigError, message, ("linux", "devices", index, "path"))
        seen.setdefault(device["path"], index)


def net_devices(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config-linux.md#network-devices. runc:validator.go:/^func netdevices/."""
    devices = spec.get("linux", {}).get("netDevices")
    if not devices:
        return
    place = ("linux", "netDevices")
    if "network" not in joined:
        yield Finding(ConfigError, "needs a network namespace, and linux.namespaces has none", place)
    seen: dict[str, str] = {}
    for device, wanted in devices.items():
        name = wanted.get("name") or device
        if name in seen:
            where = (*place, device, "name") if wanted.get("name") else (*place, device)
            yield Finding(ConfigError, f"the device {seen[name]} is to have the name {name}, too", where)
        if "%" not in name:
            seen.setdefault(name, device)


def seccomp(spec: Spec, joined: dict[str, str]) -> Iterator[Finding]:
    """config-linux.md#seccomp. runc:libcontainer/seccomp/seccomp_linux.go:/^func InitSeccomp/."""
    profile = spec.get("linux", {}).get("seccomp") or {}
    place = ("linux", "seccomp")
    entries = profile.get("syscalls", ())
    if not profile.get("defaultAction"):
        if entries:
            yield Finding(ConfigError, "the key defaultAction is missing", place)
        return
    if profile["defaultAction"] == "SCMP_ACT_NOTIFY":
        message = "cannot be SCMP_ACT_NOTIFY: who is to hand over the listener could not even write"
        yield Finding(ConfigError, message, (*place, "defaultAction"))
    notifies = False
    for index, entry in enumerate(entries):
        here = (*place, "syscalls", index)
        if entry["action"] == "SCMP_ACT_NOTIFY":
            notifies = True
            if "write" in entry["names"]:
                message = "SCMP_ACT_NOTIFY cannot be used for the write syscall, by which the listener is handed over"
                yield Finding(ConfigError, message, (*here, "names"))
        if "errnoRet" in entry and entry["action"] not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
            yield Finding(None, f"ignored: {entry['action']} returns no errno", (*here, "errnoRet"))
    if "defaultErrnoRet" in profile and profile["defaultAction"] not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        yield Finding(None, f"ignored: {profile['defaultAction']} returns no errno", (*place, "defaultErrnoRet"))
    if notifies and not profile.get("listenerPath"):
        yield Finding(ConfigError, "SCMP_ACT_NOTIFY needs the key listenerPath: somebody must answer", place)
    for key in ("listenerPath", "listenerMetadata"):
        if not notifies and profile.get(key):
            yield Finding(None, "ignored: no system call has SCMP_ACT_NOTIFY", (*place, key))
    if not notifies and "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" in profile.get("flags", ()):
        message = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a system call with SCMP_ACT_NOTIFY"
        yield Finding(ConfigError, message, (*place, "flags"))


RULES = (
    *(version, namespaces, names, user_namespace, clocks, sysctls, process, scheduler, capabilities, mounts, devices),
    *(memory_policy, intel_rdt, net_devices, seccomp),
)

# What each rule reads. One that is not here runs only if the schema has found nothing wrong at all.
READS = {
    "version": ("ociVersion",),
    "namespaces": ("linux/namespaces",),
    "names": ("hostname", "domainname", "linux/namespaces"),
    "user_namespace": ("linux/namespaces", "linux/uidMappings", "linux/gidMappings", "process/user"),
    "clocks": ("linux/timeOffsets", "linux/namespaces"),
    "sysctls": ("linux/sysctl", "linux/namespaces"),
    "process": ("process/args", "process/rlimits"),
    "capabilities": ("process/capabilities",),
    "mounts": ("mounts", "linux/namespaces"),
    "devices": ("linux/devices",),
    "scheduler": ("process/scheduler",),
    "memory_policy": ("linux/memoryPolicy",),
    "intel_rdt": ("linux/intelRdt",),
    "net_devices": ("linux/netDevices", "linux/namespaces"),
    "seccomp": ("linux/seccomp",),
}
