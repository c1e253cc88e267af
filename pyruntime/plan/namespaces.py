"""Spec -> Steps for the namespaces: which are new, which are joined, who is who inside, what their clocks say.

Read beside runc:libcontainer/nsenter/nsexec.c and runc:libcontainer/configs/namespaces_linux.go.
"""

from __future__ import annotations

from pyruntime.linux import constants as c
from pyruntime.plan.step import NAMESPACES, ROOTFS, Step
from pyruntime.spec.validate import sysctl_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import IDMapping, Spec

# runtime-spec type -> (the kernel's flag, the name below /proc/PID/ns). See namespaces(7).
KINDS: dict[str, tuple[int, str]] = {
    "user": (c.CLONE_NEWUSER, "user"),
    "ipc": (c.CLONE_NEWIPC, "ipc"),
    "uts": (c.CLONE_NEWUTS, "uts"),
    "network": (c.CLONE_NEWNET, "net"),
    "pid": (c.CLONE_NEWPID, "pid"),
    "cgroup": (c.CLONE_NEWCGROUP, "cgroup"),
    "time": (c.CLONE_NEWTIME, "time"),
    "mount": (c.CLONE_NEWNS, "mnt"),
}

# What a bundle can say of its network in place of options: plan/network.py.
NETWORK_ANNOTATION = "org.pyruntime.network"
PUBLISH_ANNOTATION = "org.pyruntime.publish"


class NewNamespace(Step):
    """A namespace that is made with the container's process (config-linux.md#namespaces)."""

    phase = NAMESPACES
    why = "the container gets a view of its own"

    kind: str
    flag: int

    def text(self) -> str:
        return f"new {self.kind} namespace"


class JoinNamespace(Step):
    """A namespace that exists and is entered (setns(2))."""

    phase = NAMESPACES
    why = "the container shares this view with another"

    kind: str
    flag: int
    path: str

    def text(self) -> str:
        return f"enter the {self.kind} namespace {self.path}"


class MapIds(Step):
    """The ids of the new user namespace (config-linux.md#user-namespace-mappings, user_namespaces(7))."""

    phase = NAMESPACES
    why = "an id that is not mapped does not exist inside"

    uid: tuple[tuple[int, int, int], ...]  # (first inside, first outside, how many)
    gid: tuple[tuple[int, int, int], ...]

    def text(self) -> str:
        return f"map {_ranges('uid', self.uid)} and {_ranges('gid', self.gid)}"


class OffsetClocks(Step):
    """`linux.timeOffsets` (config-linux.md#offset-for-time-namespace, time_namespaces(7))."""

    phase = NAMESPACES
    why = "a clock can be set only before the first process enters the time namespace"

    offsets: tuple[tuple[str, int, int], ...]  # (clock, seconds, nanoseconds)

    def text(self) -> str:
        return "offset " + ", ".join(f"{clock} by {seconds} s {nanos} ns" for clock, seconds, nanos in self.offsets)


class RaiseLoopback(Step):
    """Bring `lo` up: a new network namespace starts with it down."""

    phase = ROOTFS
    why = "programs expect 127.0.0.1 to answer"

    def text(self) -> str:
        return "set lo up"


class AwaitNetwork(Step):
    """Wait until the parent has connected the network namespace (plan/network.py)."""

    phase = ROOTFS
    why = "net.* sysctls may be about the container's interface, and hooks may use it"

    def text(self) -> str:
        return "wait for the network"


class SetHostname(Step):
    """`hostname` (config.md#hostname, sethostname(2))."""

    phase = ROOTFS
    why = "hostname asks for it"

    name: str

    def text(self) -> str:
        return f"set the host name to {self.name}"


class SetDomainname(Step):
    """`domainname` (config.md#domainname, setdomainname(2))."""

    phase = ROOTFS
    why = "domainname asks for it"

    name: str

    def text(self) -> str:
        return f"set the NIS domain name to {self.name}"


class WriteSysctl(Step):
    """An entry of `linux.sysctl` (config-linux.md#sysctl): the file follows the namespace of whoever opens it."""

    phase = ROOTFS
    why = "linux.sysctl asks for it"

    file: str  # below /proc/sys
    value: str

    def text(self) -> str:
        return f"write {self.value!r} to /proc/sys/{self.file}"


def namespace_steps(spec: Spec) -> Iterator[Step]:
    """How the container's process is cloned."""
    linux = spec.get("linux", {})
    new_user = False
    for index, namespace in enumerate(linux.get("namespaces", ())):
        kind = namespace["type"]
        where = f"config.json#/linux/namespaces/{index}"
        path = namespace.get("path", "")
        flag, _ = KINDS[kind]
        new_user |= kind == "user" and not path
        yield JoinNamespace(f"{where}/path", kind, flag, path) if path else NewNamespace(where, kind, flag)
    if new_user:
        yield MapIds(
            "config.json#/linux/uidMappings",
            _mappings(linux.get("uidMappings", ())),
            _mappings(linux.get("gidMappings", ())),
        )
    offsets = linux.get("timeOffsets")
    if offsets:
        pairs = [(clock, offsets[clock]) for clock in ("monotonic", "boottime") if clock in offsets]
        clocks = tuple((clock, value.get("secs", 0), value.get("nanosecs", 0)) for clock, value in pairs)
        yield OffsetClocks("config.json#/linux/timeOffsets", clocks)


def identity_steps(spec: Spec) -> Iterator[Step]:
    """What is set inside the new namespaces before the root file system is built."""
    linux = spec.get("linux", {})
    new = {namespace["type"] for namespace in linux.get("namespaces", ()) if not namespace.get("path")}
    if "network" in new:
        yield RaiseLoopback("config.json#/linux/namespaces")
    if spec.get("hostname"):
        yield SetHostname("config.json#/hostname", spec["hostname"])
    if spec.get("domainname"):
        yield SetDomainname("config.json#/domainname", spec["domainname"])
    for name, value in linux.get("sysctl", {}).items():
        where = f"config.json#/linux/sysctl/{name.replace('~', '~0').replace('/', '~1')}"
        yield WriteSysctl(where, sysctl_path(name), value)


def _mappings(mappings: list[IDMapping] | tuple[()]) -> tuple[tuple[int, int, int], ...]:
    return tuple((mapping["containerID"], mapping["hostID"], mapping["size"]) for mapping in mappings)


def _ranges(kind: str, mappings: tuple[tuple[int, int, int], ...]) -> str:
    return (
        ", ".join(f"{kind} {inside}..{inside + size - 1} to {outside}" for inside, outside, size in mappings)
        or f"no {kind}"
    )
