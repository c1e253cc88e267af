"""Published ports: which elements of the nftables maps they are, and who has a port that is taken.

Nothing holds a published port: no process, no socket. A holder would have to live as long as the container, and to be
gone after `delete --force`, for nothing else than telling others. So a conflict is looked for when a port is published:
among the leases, which are read under the networks' lock; among the sockets of this host; and in the maps themselves,
where the kernel refuses a second element with the same key. A program of the host that listens on the port later is not
reached from elsewhere as long as the port is published.
"""

from __future__ import annotations

import posix
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    inet_ntop,
    socket,
)
from errno import EADDRINUSE, EADDRNOTAVAIL
from sys import byteorder

from pyruntime.errors import Error, KernelError, StateError, UnsupportedError
from pyruntime.linux import proc
from pyruntime.linux.nftables import register
from pyruntime.net.addresses import octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyruntime.linux.nftables import Element
    from pyruntime.net.types import Endpoint, Port

PROTOCOLS = {"tcp": 6, "udp": 17}  # IPPROTO_TCP, IPPROTO_UDP
_ANY = {4: bytes(4), 16: bytes(16)}  # 0.0.0.0, ::
_LOOPBACK6 = bytes(15) + b"\1"  # ::1
_TABLE_MAX = 64 << 20  # bytes of /proc/net/tcp: 400,000 sockets
_NAME_MAX = 64  # bytes of a process's name


def text_of(port: Port) -> str:
    """The port as a person writes it: "[::1]:8080/tcp", "53/udp"."""
    address = f"[{port['address']}]" if ":" in port["address"] else port["address"]
    return f"{address}:{port['hostPort']}/{port['protocol']}".removeprefix(":")


def elements(endpoint: Endpoint) -> list[Element]:
    """What the nftables maps (ruleset.py) say of the container's ports.

    Raises Error for a port at an address of a version that the network does not have, UnsupportedError for one at ::1.
    """
    return [element for port in endpoint["ports"] for element in _elements(port, endpoint["ips"])]


def keys(protocol: str, address: bytes, port: int) -> tuple[bytes, bytes]:
    """Under which keys the maps may have a port of an address: of this one (bound4, bound6), of any (ports4, ...)."""
    key = register(bytes([PROTOCOLS[protocol]])) + _port(port)
    return address + key, key


def target_of(data: bytes) -> str:
    """What a map says of a key, as text: "10.89.0.2:80"."""
    address, port = data[:-4], int.from_bytes(data[-4:-2], "big")
    return f"{inet_ntop(AF_INET, address)}:{port}" if len(address) == 4 else f"[{inet_ntop(AF_INET6, address)}]:{port}"


def refuse_taken(endpoint: Endpoint, others: Iterable[Endpoint]) -> None:
    """Refuse ports that somebody has.

    others: the endpoints of all networks, from this boot. Raises StateError, which says who has the port; Error for an
    address that this host does not have; KernelError. Only the host's own network namespace is looked at: ours.
    """
    elements(endpoint)
    for other in others:
        if other["id"] != endpoint["id"] and other["ports"]:
            refuse_published(endpoint, other)
    for port in endpoint["ports"]:
        for address in _addresses(port, endpoint["ips"]):
            _refuse_listened(port, address)


def refuse_published(endpoint: Endpoint, other: Endpoint) -> None:
    """Refuse ports that another container has. Raises StateError. Pure."""
    taken: dict[tuple[str, int], list[bytes]] = {}
    for theirs in other["ports"]:
        taken.setdefault((theirs["protocol"], theirs["hostPort"]), []).extend(_addresses(theirs, other["ips"]))
    for port in endpoint["ports"]:
        there = taken.get((port["protocol"], port["hostPort"]), [])
        own = octets(port["address"]) if port["address"] else None
        if any(own is None or _overlap(own, address) for address in there):
            who = f"the container {other['id']} of the network {other['network']}"
            hint = "a container has its ports until it is deleted"
            raise StateError(f"the port {text_of(port)} is taken: {who} has it", hint=hint)


def _elements(port: Port, ips: list[str]) -> Iterator[Element]:
    for address in _addresses(port, ips):
        version = 4 if len(address) == 4 else 6
        inside = next(ip for ip in map(_octets, ips) if len(ip) == len(address))
        at_one, at_any = keys(port["protocol"], address, port["hostPort"])
        name, key = ("bound", at_one) if any(address) else ("ports", at_any)
        yield f"{name}{version}", key, inside + _port(port["port"])


def _addresses(port: Port, ips: list[str]) -> list[bytes]:
    """The host's addresses at which a port is published: 0.0.0.0 and :: stand for all."""
    lengths = list(dict.fromkeys(len(_octets(ip)) for ip in ips))
    if not port["address"]:
        return [_ANY[length] for length in lengths]
    address = octets(port["address"])
    if address == _LOOPBACK6:
        message = f"the port {text_of(port)} can't be published: Linux lets no packet from or to ::1 leave the loopback"
        raise UnsupportedError(message, hint="publish it at 127.0.0.1")
    if len(address) not in lengths:
        version = "IPv4" if len(address) == 4 else "IPv6"
        raise Error(f"the port {text_of(port)} can't be published: the container's network has no {version} subnet")
    return [address]


def _octets(ip: str) -> bytes:
    return octets(ip.partition("/")[0])


def _port(number: int) -> bytes:
    return register(number.to_bytes(2, "big"))


def _overlap(address: bytes, other: bytes) -> bool:
    """Whether a packet can be for both."""
    return len(address) == len(other) and (address == other or not any(address) or not any(other))


def _refuse_listened(port: Port, address: bytes) -> None:
    """Try to bind the port: the kernel knows best.

    With SO_REUSEADDR for TCP: what is left of closed connections does not count. Nothing is held, nothing arrives.
    """
    version = AF_INET if len(address) == 4 else AF_INET6
    text = inet_ntop(version, address)
    tcp = port["protocol"] == "tcp"
    try:
        probe = socket(version, SOCK_STREAM if tcp else SOCK_DGRAM)
        try:
            if tcp:
                probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            if version == AF_INET6:
                probe.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
            probe.bind((text, port["hostPort"]))
        finally:
            probe.close()
    except OSError as error:
        if error.errno == EADDRINUSE:
            who = _listener(port, address)
            raise StateError(f"the port {text_of(port)} is taken: {who} of this host has it") from None
        if error.errno == EADDRNOTAVAIL:
            message = f"the port {text_of(port)} can't be published: this host does not have the address {text}"
            raise Error(message, hint="leave the address out to publish it at all of them") from None
        raise KernelError(f"bind({text!r}, {port['hostPort']})", error.errno or 0) from error


def _listener(port: Port, address: bytes) -> str:
    """Whose socket has the port, as far as /proc tells: "nginx (process 123)"."""
    inodes = set(_inodes(port, address))
    for pid in filter(str.isdigit, posix.listdir("/proc")):
        if not inodes.isdisjoint(_open_files(pid)):
            try:
                name = proc.read_file(f"/proc/{pid}/comm", _NAME_MAX).decode(errors="replace").strip()
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            return f"{name!r} (process {pid})"
    return "a process"


def _open_files(pid: str) -> Iterator[str]:
    """What a process has open, by the links in /proc/PID/fd, as far as it is there and may be seen."""
    try:
        fds = posix.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return
    for fd in fds:
        try:
            yield posix.readlink(f"/proc/{pid}/fd/{fd}")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def _inodes(port: Port, address: bytes) -> Iterator[str]:
    """The sockets that keep others from the port, as a link in /proc/PID/fd names them. See proc_net(5).

    Whatever their state: a client's end of a connection has a port, too.
    """
    for suffix in ("", "6"):
        try:
            table = proc.read_file(f"/proc/net/{port['protocol']}{suffix}", _TABLE_MAX)
        except FileNotFoundError:  # no IPv6 in this kernel
            continue
        for line in table.splitlines()[1:]:
            fields = line.split()
            local, _, number = fields[1].partition(b":")
            at = _from_words(local)
            # A socket of :: takes IPv4 as well, unless it is told not to.
            same = _overlap(address, at) or (len(at) == 16 and not any(at))
            if int(number, 16) == port["hostPort"] and same and fields[9] != b"0":  # 0: nobody's any more
                yield f"socket:[{fields[9].decode()}]"


def _from_words(text: bytes) -> bytes:
    """An address as /proc/net/tcp writes it: words of 32 bits in the machine's own order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return b"".join(word.to_bytes(4, byteorder) for word in words)
