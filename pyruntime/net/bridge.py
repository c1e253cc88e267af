"""Bridge and veth pairs in the kernel, by rtnetlink. What for, is drawn in this package's __init__.py.

Everything here is idempotent or takes one request, so that a crash leaves either nothing or what the next start finds.

Read beside ip-link(8), bridge(8), and containernetworking/plugins:plugins/main/bridge/bridge.go
"""

from __future__ import annotations

import posix
from errno import EACCES, EAFNOSUPPORT, EEXIST, EOPNOTSUPP

from pyruntime import report
from pyruntime.errors import KernelError, StateError
from pyruntime.linux import constants as c
from pyruntime.linux.netlink import Netlink, permanent
from pyruntime.net.addresses import mac_for, octets, parse_range, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.linux.netlink import Link
    from pyruntime.net.types import Endpoint, Network

INTERFACE = "eth0"  # in the container


def bring_up(host: Netlink, network: Network, endpoints: list[Endpoint]) -> Link:
    """The network's bridge, up and with its addresses.

    One that was removed by hand is made anew, and the containers that were on it are plugged in again, with a warning.
    Raises StateError if a device of another kind has its name, or if the host has another route to its addresses now.
    """
    found = host.find(network["bridge"])
    made = found is None
    if found is None:
        from pyruntime.net.definitions import refuse_overlaps_with_routes

        refuse_overlaps_with_routes(host, network)
        found = _make(host, network)
    if found.kind != "bridge":
        raise StateError(
            f"the interface {network['bridge']} is no bridge, so the network {network['name']!r} can't use it",
            hint=f"rename it: ip link set {network['bridge']} name NAME",
        )
    if made or not found.flags & c.IFF_UP:
        host.set_up(found)
    gateways = [f"{subnet['gateway']}/{parse_range(subnet['subnet']).prefixlen}" for subnet in network["subnets"]]
    _give_addresses(host, found, gateways, link_local=network_mac(network))
    if made and endpoints:
        _plug_in_again(host, found, endpoints)
    return found


def connect(host: Netlink, bridge: Link, network: Network, endpoint: Endpoint, pid: int) -> None:
    """Lay a cable from the bridge into the network namespace of process `pid`, with addresses and routes, all up.

    Raises KernelError, StateError; what has been made ends with that namespace.
    """
    namespace_fd = posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        name, mac = endpoint["interface"], _mac(endpoint["mac"])
        try:
            host.make_veth(name, bridge, INTERFACE, mac, namespace_fd, network["mtu"])
        except KernelError as error:
            if error.errno != EEXIST:
                raise
            # A former container's, whose `disconnect` is about to remove it, or was killed before it could.
            host.remove(name)
            host.make_veth(name, bridge, INTERFACE, mac, namespace_fd, network["mtu"])
        container = Netlink(namespace_fd)
    finally:
        posix.close(namespace_fd)
    try:
        _set_up_inside(container, network, endpoint)
    finally:
        container.close()
    port = _found(host, name)
    host.make_no_address(port)
    host.set_hairpin(port)
    host.set_up(port)


def network_mac(network: Network) -> str:
    """The hardware address of the network's bridge, which its neighbours may remember for as long as they like."""
    return mac_for([network["subnets"][0]["gateway"]])


def _make(host: Netlink, network: Network) -> Link:
    try:
        host.make_bridge(network["bridge"], _mac(network_mac(network)), network["mtu"])
    except KernelError as error:
        error.hint = error.hint or "does this kernel have bridges (CONFIG_BRIDGE)?"
        raise
    bridge = _found(host, network["bridge"])
    host.make_no_address(bridge)
    return bridge


def _plug_in_again(host: Netlink, bridge: Link, endpoints: list[Endpoint]) -> None:
    """The ports of a bridge that is removed stay, without a master."""
    plugged = 0
    for endpoint in endpoints:
        port = host.find(endpoint["interface"])
        if port is not None:
            host.set_master(port, bridge)
            host.set_hairpin(port)
            plugged += 1
    if plugged:
        report.warn(f"the bridge {bridge.name} had been removed: made anew, and {plugged} of its containers plugged in")


def _set_up_inside(container: Netlink, network: Network, endpoint: Endpoint) -> None:
    link = _found(container, INTERFACE)
    container.make_no_address(link)
    container.set_up(link)
    has_ipv6 = _give_addresses(container, link, endpoint["ips"], link_local=endpoint["mac"])
    if not has_ipv6:
        report.warn("the container has no IPv6: it is switched off in its network namespace")
    gateways = {len(octets(subnet["gateway"])): subnet["gateway"] for subnet in reversed(network["subnets"])}
    for size, gateway in gateways.items():
        if size == 4 or has_ipv6:
            container.add_default_route(link, octets(gateway))


def _give_addresses(netlink: Netlink, link: Link, addresses: list[str], *, link_local: str) -> bool:
    """Give a device its addresses; those that it has already are fine. With IPv6 also a link-local one, as all have.

    Returns False where IPv6 is switched off (net.ipv6.conf.*.disable_ipv6) and the device has to do without.
    """
    wanted = [(octets(text.partition("/")[0]), split(text)[2]) for text in addresses]
    if any(len(raw) == 16 for raw, _ in wanted):
        wanted.append((_link_local(_mac(link_local)), 64))
    has_ipv6 = True
    for raw, prefixlen in wanted:
        address = permanent(raw, prefixlen)
        try:
            netlink.add_address(link, address, tuple(address.attributes))
        except KernelError as error:
            if len(raw) == 16 and error.errno in (EACCES, EAFNOSUPPORT, EOPNOTSUPP):
                has_ipv6 = False
            elif error.errno != EEXIST:
                raise
    return has_ipv6


def _link_local(mac: bytes) -> bytes:
    """fe80::/64 with the modified EUI-64 of a hardware address (RFC 4291, appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _found(netlink: Netlink, name: str) -> Link:
    link = netlink.find(name)
    if link is None:
        raise StateError(f"the interface {name} has gone again")
    return link
