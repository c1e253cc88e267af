"""Published ports in the kernel: a container's are added to our nftables maps, and removed from them.

Elements are written by ourselves, in one transaction (linux/nftables.py); no program is run. Callers hold the lock of
the networks. Imported only for a container that has ports. What the maps are for: ruleset.py.
"""

from __future__ import annotations

from errno import ENOENT

from pyruntime import report
from pyruntime.errors import KernelError, StateError
from pyruntime.linux.conntrack import Conntrack
from pyruntime.linux.nftables import is_taken
from pyruntime.net import ports
from pyruntime.net.addresses import octets
from pyruntime.net.firewall import TABLE, open_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.linux.conntrack import Flow
    from pyruntime.linux.nftables import Nftables
    from pyruntime.net.types import Endpoint

_ROUNDS = 10  # others may flush what we are about to remove; not ten times in a row


def publish(endpoint: Endpoint) -> None:
    """Publish the ports of a container: all of them, or none. `ports.refuse_taken` has been asked before.

    Raises StateError if nevertheless somebody has one, Error, KernelError.
    """
    nftables = open_table()
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
    nftables = open_table()
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
