"""Published ports in the kernel: a container's are added to our nftables maps, and removed from them.

Elements are written by ourselves, in one transaction (linux/nftables.py); no program is run. Callers hold the lock of
the networks. Imported only for a container that has ports. What the maps are for: ruleset.py.
"""

from __future__ import annotations

from errno import ENOENT

from pyruntime import report
from pyruntime.errors import KernelError, StateError
from pyruntime.linux.conntrack import Conntrack
from pyruntime.linux.constants import AF_INET, AF_INET6
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

_ROUNDS = 10  # somebody may flush what we are about to remove; not ten times in a row


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
    # Whoever was sending to these ports already; but not who sends to the same port of another machine through us.
    _forget(endpoint, lambda flow: not _leaves(flow))


def withdraw(endpoint: Endpoint) -> Nftables:
    """Take the ports of a container back, as far as they are there and are its own. Raises KernelError.

    Returns what the caller has to close: the kernel then waits until nobody can see the elements any more, 10 ms or so
    that better pass while there is something else to wait for.
    """
    nftables = open_table()
    try:
        for left in reversed(range(_ROUNDS)):
            there = [element for element in ports.elements(endpoint) if nftables.find(element) == element[2]]
            try:
                nftables.remove(there)
                break
            except KernelError as error:
                if error.errno != ENOENT or not left:
                    raise
        own = {octets(ip.partition("/")[0]) for ip in endpoint["ips"]}
        _forget(endpoint, lambda flow: flow.reply.source in own)
    except BaseException:
        nftables.close()
        raise
    return nftables


def _taken(endpoint: Endpoint, nftables: Nftables) -> StateError:
    """The error for a port that is in the maps already, though no lease that the caller knows has it."""
    for port in endpoint["ports"]:
        for element in ports.elements({**endpoint, "ports": [port]}):
            if there := nftables.find(element):
                return StateError(
                    f"the port {ports.text_of(port)} is taken: {ports.target_of(there)} has it, by the nftables map "
                    f"{element[0]} of the table {TABLE}",
                    where="--publish",
                    hint="a container of another --root, or one that was removed by hand: nft delete element",
                )
    return StateError("another container has just taken a port, and given it back: try again", where="--publish")


def _leaves(flow: Flow) -> bool:
    """Whether it is somebody elsewhere who answers, and this host lends its address to the one who asks."""
    to, back = flow.original, flow.reply
    return back.source == to.destination and back.destination != to.source


def _forget(endpoint: Endpoint, concerned: Callable[[Flow], bool]) -> None:
    """Have the kernel forget the concerned ones of the UDP flows to the ports of a container.

    Of TCP each connection is a flow of its own. That it can't be done is no reason to fail: flows end by themselves, in
    minutes.
    """
    numbers = {port["hostPort"] for port in endpoint["ports"] if port["protocol"] == "udp"}
    if not numbers:
        return
    number = numbers.pop() if len(numbers) == 1 else 0  # one, or any
    elements = ports.elements(endpoint)
    keys = {key for _, key, _ in elements}
    try:
        conntrack = Conntrack()
        try:
            for family in sorted({AF_INET if name.endswith("4") else AF_INET6 for name, _, _ in elements}):
                for flow in conntrack.flows(family, ports.PROTOCOLS["udp"], number):
                    to = flow.original
                    if concerned(flow) and not keys.isdisjoint(ports.keys("udp", to.destination, to.destination_port)):
                        conntrack.forget(flow)
        finally:
            conntrack.close()
    except KernelError as error:
        report.warn(f"UDP clients may go on with a former container for some minutes: {error}")
