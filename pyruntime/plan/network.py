"""--net, -p and --ip, or the annotations that say the same -> which network, and what a start does for it. Pure.

    --net none             a network namespace of its own, with nothing but a loopback
    --net host             no network namespace: the host's own network
    --net container:ID     the network namespace of another container
    --net ns:PATH          a network namespace that is there, such as one of `ip netns`
    --net bridge[:NAME]    a network namespace of its own, connected to the network NAME (see net/__init__.py)
    --net cni:NAME         the same by CNI's plugins, as a file in /etc/cni/net.d says (see net/cni.py)

Annotations of config.json, so that a bundle can carry it: org.pyruntime.network is the value of --net,
org.pyruntime.publish those of -p, separated by commas. An option beats its annotation. Without either, the network
namespace is what `linux.namespaces` says, as with runc.

Imported only by a start that has one of these. Companion: docker/cli:opts/port.go, podman-run(1) --network.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from pyruntime.errors import UsageError
from pyruntime.linux import constants as c
from pyruntime.plan.mounts import BindMount
from pyruntime.plan.namespaces import NETWORK_ANNOTATION, PUBLISH_ANNOTATION
from pyruntime.plan.step import NETWORK, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from pyruntime.spec.types import Spec

    Port = dict[str, Any]  # net.types.Port

PROTOCOLS = ("tcp", "udp")
PORT_MAX = 65535
# Files of the state directory that tell a container where the others are (net/names.py) -> where it looks for them.
FILES = {"hosts": "/etc/hosts", "resolv.conf": "/etc/resolv.conf"}
# What may stand behind --net KIND, and whether it must: "" for nothing.
_VALUES = {"none": "", "host": "", "container": ":ID", "ns": ":PATH", "bridge": "[:NAME]", "cni": ":NAME"}
_DEFAULTS = {"bridge": "default"}
_CONNECTED = ("bridge", "cni")  # kinds that have addresses and ports: those of net.KINDS


class Selection:
    """Which network, and where that was said: `where` is of --net, `publish_where` of -p.

    `files_path` is the state directory with the names that the container is to know, "" for none: its own, or that of
    the container whose network it shares.
    """

    __slots__ = ("files_path", "ip", "kind", "ports", "publish_where", "value", "where")

    def __init__(self, kind: str, value: str, where: str) -> None:
        self.kind = kind
        self.value = value  # the ID, the path, the network's name
        self.where = where
        self.ip = ""
        self.ports: list[Port] = []
        self.publish_where = ""
        self.files_path = ""

    @property
    def is_connected(self) -> bool:
        """Whether the container gets a cable, that is: whether there is something to do and to undo."""
        return self.kind in _CONNECTED


class ConnectNetwork(Step):
    """`--net bridge`: a cable to a network, an address, published ports (net/__init__.py draws it)."""

    phase = NETWORK
    why = "the container can reach others, and they it"

    kind: str
    name: str
    ip: str
    ports: list[Port]
    publish_where: str  # the place of the ports, as `where` is of the network
    hostname: str

    def text(self) -> str:
        wanted = f" as {self.ip}" if self.ip else ""
        ports = ", ".join(port_text(port) for port in self.ports)
        return f"connect to the {self.kind} network {self.name}{wanted}" + (f", publish {ports}" if ports else "")


def select(net: str, publish: list[str], ip: str, annotations: dict[str, str]) -> Selection | None:
    """What is asked for; None if nothing is said of the network (ports and addresses are, then, an error).

    Raises UsageError that names the option or the annotation.
    """
    where = "--net" if net else f"config.json#/annotations/{NETWORK_ANNOTATION}"
    text = net or annotations.get(NETWORK_ANNOTATION, "")
    publish_where = "--publish" if publish else f"config.json#/annotations/{PUBLISH_ANNOTATION}"
    publish = publish or [part.strip() for part in annotations.get(PUBLISH_ANNOTATION, "").split(",") if part.strip()]
    if not text:
        for given, place in ((publish, publish_where), (ip, "--ip")):
            if given:
                raise UsageError("needs a network that the container is connected to", where=place, hint="--net bridge")
        if NETWORK_ANNOTATION in annotations:
            raise UsageError("is empty", where=where)
        return None
    selection = _network(text, where)
    for given, place in ((publish, publish_where), (ip, "--ip")):
        if given and not selection.is_connected:
            raise UsageError(f"has no meaning with the network {text!r}", where=place, hint="it takes --net bridge")
    selection.ip = _address(ip, "--ip", ip) if ip else ""
    selection.publish_where = publish_where
    selection.ports = parse_ports(publish, publish_where)
    return selection


def _network(text: str, where: str) -> Selection:
    """The value of --net. Raises UsageError."""
    kind, colon, value = text.partition(":")
    if kind not in _VALUES:
        kinds = ", ".join(map("".join, _VALUES.items()))
        raise UsageError(f"{text!r} is no network", where=where, hint=f"one of {kinds}")
    wanted = _VALUES[kind]
    if colon and not value:
        raise UsageError(f"{text!r} ends after the colon", where=where)
    if value and not wanted:
        raise UsageError(f"{kind} takes nothing behind it: {text!r}", where=where)
    if not value and wanted[:1] not in ("", "["):
        raise UsageError(f"{kind} needs a value: {kind}{wanted}", where=where)
    if kind == "ns" and value[0] != "/":
        raise UsageError(f"the path of a namespace must be absolute: {value!r}", where=where)
    if kind in _CONNECTED and ("/" in value or value.startswith(".")):
        raise UsageError(f"{value!r} is no name of a network", where=where)
    if "\0" in value:
        raise UsageError(f"{text!r} contains a NUL", where=where)
    return Selection(kind, value or _DEFAULTS.get(kind, ""), where)


def parse_ports(texts: Iterable[str], where: str) -> list[Port]:
    """The ports of `[ADDRESS:]HOSTPORT:PORT[/PROTOCOL]`, with ranges `8000-8003:80-83` taken apart.

    An IPv6 address stands in brackets. Raises UsageError, also for a port that is published twice.
    """
    ports: list[Port] = []
    seen: dict[tuple[str, int, str], str] = {}
    for text in texts:
        for port in _parse_port(text, where):
            key = (port["address"], port["hostPort"], port["protocol"])
            if key in seen:
                raise UsageError(f"{text!r} publishes port {key[1]}/{key[2]} again, after {seen[key]!r}", where=where)
            seen[key] = text
            ports.append(port)
    return ports


def _parse_port(text: str, where: str) -> Iterator[Port]:
    rest, slash, protocol = text.partition("/")
    if slash and protocol not in PROTOCOLS:
        raise UsageError(f"{text!r}: the protocol is {' or '.join(PROTOCOLS)}, not {protocol!r}", where=where)
    if rest.startswith("["):
        address, bracket, rest = rest[1:].partition("]:")
        if not bracket:
            raise UsageError(f"{text!r}: an IPv6 address is written as [::1]:8080:80", where=where)
        parts = [address, *rest.split(":")]
    else:
        parts = rest.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        hint = "[ADDRESS:]HOSTPORT:PORT[/udp], an IPv6 address in brackets"
        raise UsageError(f"{text!r} is no published port", where=where, hint=hint)
    outer, inner = (_parse_ports_range(part, text, where) for part in parts[-2:])
    if len(outer) != len(inner):
        raise UsageError(f"{text!r}: {len(outer)} ports of the host for {len(inner)} of the container", where=where)
    address = _address(parts[0], where, text) if len(parts) == 3 else ""
    if text.startswith("[") != (":" in address):
        raise UsageError(f"{text!r}: brackets are for an IPv6 address", where=where)
    for host_port, port in zip(outer, inner, strict=True):
        yield {
            "address": "" if address == "0.0.0.0" else address,
            "hostPort": host_port,
            "port": port,
            "protocol": protocol or "tcp",
        }


def _parse_ports_range(part: str, text: str, where: str) -> range:
    first, dash, last = part.partition("-")
    numbers = []
    for word in (first, last) if dash else (first,):
        if not (word.isascii() and word.isdigit()) or len(word) > 5 or not 1 <= int(word) <= PORT_MAX:
            raise UsageError(f"{text!r}: {word!r} is not a port from 1 to {PORT_MAX}", where=where)
        numbers.append(int(word))
    if numbers[-1] < numbers[0]:
        raise UsageError(f"{text!r}: the range {part} ends before it begins", where=where)
    return range(numbers[0], numbers[-1] + 1)


def _address(word: str, where: str, text: str) -> str:
    """An IP address as everybody writes it. Raises UsageError that shows `text`, of which it is a part."""
    family = AF_INET6 if ":" in word else AF_INET
    try:
        return inet_ntop(family, inet_pton(family, word))
    except (OSError, UnicodeEncodeError):
        raise UsageError(f"{text!r}: {word!r} is not an IP address", where=where) from None


def port_text(port: Port) -> str:
    """A port as -p has it."""
    address = port["address"]
    front = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    return f"{front}{port['hostPort']}:{port['port']}/{port['protocol']}"


def apply(selection: Selection, spec: Spec, path: str = "") -> None:
    """Make `linux.namespaces` say what was selected. `path`: of the namespace of --net container.

    A config whose linux.namespaces has not the shape that it should have is left for spec.validate to refuse.
    """
    linux: Any = spec.setdefault("linux", {})
    if not isinstance(linux, dict):
        return
    listed: Any = linux.setdefault("namespaces", [])
    if not isinstance(listed, list):
        return
    is_network = [isinstance(entry, dict) and entry.get("type") == "network" for entry in listed]
    at = is_network.index(True) if any(is_network) else len(listed)  # the others stay where they are in config.json
    kept = [entry for entry, drop in zip(listed, is_network, strict=True) if not drop]
    if selection.kind in ("container", "ns"):
        kept.insert(at, {"type": "network", "path": path if selection.kind == "container" else selection.value})
    elif selection.kind != "host":
        kept.insert(at, {"type": "network"})
    linux["namespaces"] = kept


def connect_step(selection: Selection, spec: Spec) -> ConnectNetwork:
    """What the parent does as soon as there is a network namespace."""
    hostname = spec.get("hostname", "")
    return ConnectNetwork(
        selection.where,
        selection.kind,
        selection.value,
        selection.ip,
        selection.ports,
        selection.publish_where,
        hostname,
    )


def file_steps(selection: Selection, spec: Spec) -> Iterator[Step]:
    """hosts and resolv.conf, bound over the image's; but not over what config.json mounts there itself.

    Read-only, for the runtime rewrites them: whatever the container wrote would be lost.
    """
    taken = {"/" + mount["destination"].strip("/") for mount in spec.get("mounts", ())}
    flags = c.MS_BIND | c.MS_RDONLY | c.MS_NOSUID | c.MS_NODEV | c.MS_NOEXEC
    for name, target in FILES.items():
        if target not in taken:
            propagation = (c.MS_PRIVATE,)
            yield BindMount(selection.where, f"{selection.files_path}/{name}", target, flags, 0, propagation, (0, 0))
