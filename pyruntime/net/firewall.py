"""The host's side of a network in nftables: made, published ports added and removed, taken away again.

    prepare    a network's bridge is up: its rules are there, or are made (setup.py)
    publish    a container comes: its ports are elements of our maps, added in one transaction, or none of them
    withdraw   a container goes: so do they; connections that were translated for it are forgotten
    remove     the network goes; with the last one the table

All of it is about the network namespace that this process is in, and about one table of our own: others' rules are read
for a warning, never changed. A start on a network that is ready costs two questions to the kernel, and no process.

Callers hold the network's lock. Companion: none in runc. Read beside libnetwork's bridge driver.
"""

from __future__ import annotations

from errno import EINVAL, ENOENT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT

from pyruntime import report
from pyruntime.errors import KernelError, StateError, UnsupportedError
from pyruntime.linux.conntrack import Conntrack
from pyruntime.linux.constants import IFNAMSIZ
from pyruntime.linux.nftables import Nftables, is_taken
from pyruntime.net import ports, sysctl
from pyruntime.net.addresses import octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyruntime.linux.conntrack import Flow
    from pyruntime.linux.nftables import Element
    from pyruntime.net.types import Endpoint, Network

TABLE = "pyruntime"
ROUTE_LOCALNET = "net/ipv4/conf/{}/route_localnet"
_ROUNDS = 10  # others may flush what we are about to remove; not ten times in a row


def prepare(network: Network, endpoints: Iterable[Endpoint] = ()) -> None:
    """Make the rules of a network whose bridge is up, unless they are there; so also after somebody has flushed them.

    endpoints: those of the network, from this boot: their published ports are in the maps afterwards. Raises Error:
    there is no nft, or it refuses the rules; UnsupportedError: the kernel has no nftables; KernelError.
    """
    nftables = _open()
    try:
        if not _is_ready(network, nftables):
            from pyruntime.net import setup  # rarely, and it brings much along

            setup.make(network, nftables)
            listed = [element for endpoint in endpoints for element in ports.elements(endpoint)]
            nftables.add([element for element in listed if nftables.find(element) is None])
    finally:
        nftables.close()


def publish(endpoint: Endpoint) -> None:
    """Publish the ports of a container: all of them, or none. `ports.refuse_taken` has been asked before.

    Raises StateError if nevertheless somebody has one, Error, KernelError.
    """
    if not endpoint["ports"]:
        return
    nftables = _open()
    try:
        try:
            nftables.add(ports.elements(endpoint))
        except KernelError as error:
            if not is_taken(error):
                raise
            raise _taken(endpoint, nftables) from None
        if nftables.elements("local4"):
            from pyruntime.net import setup  # a kernel that has to be told which addresses are its own

            setup.list_addresses()
    finally:
        nftables.close()
    if _has_udp(endpoint):
        _forget(lambda conntrack: _to_ports(conntrack, endpoint))


def withdraw(endpoint: Endpoint) -> None:
    """Take the ports of a container back, as far as they are there and are its own. Raises KernelError."""
    if not endpoint["ports"]:
        return
    nftables = _open()
    try:
        for _ in range(_ROUNDS):
            own = [element for element in ports.elements(endpoint) if nftables.find(element) == element[2]]
            try:
                nftables.remove(own)
                break
            except KernelError as error:
                if error.errno != ENOENT:
                    raise
    finally:
        nftables.close()
    if _has_udp(endpoint):
        _forget(lambda conntrack: _through_ports(conntrack, endpoint))


def remove(network: Network) -> None:
    """Take the rules of a network away, and with the last network all of ours. Raises Error, KernelError."""
    try:
        nftables = _open()
    except UnsupportedError:  # then it never had any
        return
    try:
        if nftables.find(_bridge(network)) is not None:
            from pyruntime.net import setup

            setup.remove(network, nftables)
    finally:
        nftables.close()


def _open() -> Nftables:
    """Raises UnsupportedError, KernelError."""
    try:
        nftables = Nftables(TABLE)
        try:
            nftables.generation()
        except BaseException:
            nftables.close()
            raise
        return nftables
    except KernelError as error:
        if error.errno in (EINVAL, EOPNOTSUPP, EPROTONOSUPPORT):
            message = f"this kernel has no nftables (CONFIG_NF_TABLES), which a network takes: {error}"
            raise UnsupportedError(message, hint="choose --net none or --net host") from None
        if error.errno == EPERM:
            error.hint = "a network takes CAP_NET_ADMIN over the network namespace that the runtime is in"
        raise


def _bridge(network: Network) -> Element:
    return "bridges", network["bridge"].encode().ljust(IFNAMSIZ, b"\0"), b""


def _is_ready(network: Network, nftables: Nftables) -> bool:
    """Whether the network is an element, the rules have not been flushed, and its bridge is not another one by now."""
    if nftables.find(_bridge(network)) is None:
        return False
    forward = nftables.chain("forward")
    return forward is not None and forward.rules > 0 and sysctl.read(ROUTE_LOCALNET.format(network["bridge"])) == "1"


def _taken(endpoint: Endpoint, nftables: Nftables) -> StateError:
    """The error for a port that is in the maps already, though no lease that the caller knows has it."""
    for port in endpoint["ports"]:
        for element in ports.elements({**endpoint, "ports": [port]}):
            if there := nftables.find(element):
                return StateError(
                    f"the port {ports.text_of(port)} is taken: {ports.target_of(there)} has it, by the nftables map "
                    f"{element[0]} of the table {TABLE}",
                    hint="a container of another --root, or one that was removed by hand: nft delete element",
                )
    return StateError("another container has just taken a port, and given it back: try again")


def _has_udp(endpoint: Endpoint) -> bool:
    """Whether a client may go on with a former container: of TCP each connection is a flow of its own.

    Looking for flows takes the kernel milliseconds: it goes through its whole hash table.
    """
    return any(port["protocol"] == "udp" for port in endpoint["ports"])


def _to_ports(conntrack: Conntrack, endpoint: Endpoint) -> list[Flow]:
    """The UDP flows to the ports of a new container, which so far are answered by somebody else, or by nobody.

    Not those that only have such a port at their destination elsewhere, and leave this host under its own address.
    """
    keys = {key for _, key, _ in ports.elements(endpoint)}
    return [
        flow
        for flow in conntrack.of_protocol(ports.PROTOCOLS["udp"])
        if not keys.isdisjoint(ports.keys("udp", flow.original.destination, flow.original.destination_port))
        and not _leaves(flow)
    ]


def _leaves(flow: Flow) -> bool:
    """Whether it is somebody elsewhere who answers, and this host lends its address to the one who asks."""
    to, back = flow.original, flow.reply
    return back.source == to.destination and back.destination != to.source


def _through_ports(conntrack: Conntrack, endpoint: Endpoint) -> list[Flow]:
    """The UDP flows that were translated for the ports of a container."""
    udp = ports.PROTOCOLS["udp"]
    inside = {(udp, port["port"]) for port in endpoint["ports"] if port["protocol"] == "udp"}
    return [
        flow
        for ip in endpoint["ips"]
        for flow in conntrack.answered_by(octets(ip.partition("/")[0]))
        if (flow.reply.protocol, flow.reply.source_port) in inside and flow.original.destination != flow.reply.source
    ]


def _forget(select: Callable[[Conntrack], list[Flow]]) -> None:
    """Have the kernel forget flows. That it can't is no reason to fail: they end by themselves, in minutes."""
    try:
        conntrack = Conntrack()
        try:
            for flow in select(conntrack):
                conntrack.forget(flow)
        finally:
            conntrack.close()
    except KernelError as error:
        report.warn(f"UDP clients may go on with a former container for some minutes: {error}")
