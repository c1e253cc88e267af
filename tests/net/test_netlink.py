"""linux/netlink.py makes what pyroute2 makes: each side does the same in a namespace of its own, and both are compared.

pyroute2 is the reference; it also looks at the result, so that neither side judges itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyroute2 import NetNS

from pyruntime.errors import KernelError
from pyruntime.linux.netlink import Netlink, permanent
from pyruntime.net.addresses import octets
from tests.support.namespace import Machine

MAC = "02:50:0a:59:00:01"
PEER = "02:50:0a:59:00:02"


class Pair:
    """A host and a container to be, in which one of the two has something to do."""

    def __init__(self, host: Machine, container: Machine) -> None:
        self.host, self.container = host, container
        self.namespace_fd = os.open(container.path, os.O_RDONLY)

    def close(self) -> None:
        os.close(self.namespace_fd)

    def facts(self) -> dict[str, Any]:
        """What pyroute2 sees in both, without what differs from one namespace to another."""
        return {name: seen(machine.path) for name, machine in (("host", self.host), ("container", self.container))}


def seen(path: str) -> dict[str, Any]:
    with NetNS(path) as ipr:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ipr.get_links()}
        links = {
            link.get_attr("IFLA_IFNAME"): {
                "up": bool(link["flags"] & 1),
                "mtu": link.get_attr("IFLA_MTU"),
                "mac": link.get_attr("IFLA_ADDRESS"),
                "kind": link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND"),
                "master": names.get(link.get_attr("IFLA_MASTER")),
                "hairpin": link.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA", "IFLA_BRPORT_MODE"),
                "addresses": sorted(
                    (a.get_attr("IFA_LOCAL") or a.get_attr("IFA_ADDRESS"), a["prefixlen"], a["scope"],
                     a.get_attr("IFA_BROADCAST"), a.get_attr("IFA_FLAGS"))
                    for a in ipr.get_addr(index=link["index"])
                ),
            }
            for link in ipr.get_links()
            if link.get_attr("IFLA_IFNAME") in ("br0", "vt0", "eth0")
        }  # fmt: skip
        if "vt0" in links:
            del links["vt0"]["mac"]  # random
        routes = sorted(
            (route["family"], route["dst_len"], str(route.get_attr("RTA_DST")), route.get_attr("RTA_GATEWAY"),
             names.get(route.get_attr("RTA_OIF")), route["scope"], route["type"], route["proto"])
            for route in ipr.get_routes(table=254)
        )  # fmt: skip
        return {"links": links, "routes": [route for route in routes if route[4] in links]}


@pytest.fixture
def pair(machines: Callable[[str], Machine]) -> Iterator[Callable[[], Pair]]:
    made: list[Pair] = []

    def make() -> Pair:
        number = len(made)
        made.append(Pair(machines(f"host{number}"), machines(f"container{number}")))
        return made[-1]

    yield make
    for one in made:
        one.close()


def by_pyroute2(pair: Pair, mtu: int) -> None:
    """A bridge and a cable as a person makes them with pyroute2."""
    more = {"mtu": mtu} if mtu else {}
    with NetNS(pair.host.path) as host, NetNS(pair.container.path) as container:
        host.link("add", ifname="br0", kind="bridge", address=MAC, **more)
        (bridge,) = host.link_lookup(ifname="br0")
        host.link("set", index=bridge, IFLA_AF_SPEC=no_link_local())
        host.link("set", index=bridge, state="up")
        host.addr("add", index=bridge, address="10.89.0.1", prefixlen=24, broadcast="10.89.0.255")
        host.addr("add", index=bridge, address="fd00::1", prefixlen=64, IFA_FLAGS=0x02)
        peer = {"ifname": "eth0", "address": PEER, "net_ns_fd": pair.namespace_fd, **more}
        host.link("add", ifname="vt0", kind="veth", master=bridge, peer=peer, **more)
        (port,) = host.link_lookup(ifname="vt0")
        host.link("set", index=port, IFLA_AF_SPEC=no_link_local())
        host.link("set", index=port, state="up")
        host.brport("set", index=port, mode=1)
        (eth0,) = container.link_lookup(ifname="eth0")
        container.link("set", index=eth0, IFLA_AF_SPEC=no_link_local())
        container.link("set", index=eth0, state="up")
        container.addr("add", index=eth0, address="10.89.0.2", prefixlen=24, broadcast="10.89.0.255")
        container.addr("add", index=eth0, address="fd00::2", prefixlen=64, IFA_FLAGS=0x02)
        container.route("add", dst="default", gateway="10.89.0.1", oif=eth0)
        container.route("add", dst="default", gateway="fd00::1", oif=eth0, family=10)


def no_link_local() -> dict[str, Any]:
    return {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}


def by_us(pair: Pair, mtu: int) -> None:
    """The same."""
    with pair.host.entered():
        host = Netlink()
    container = Netlink(pair.namespace_fd)
    host.make_bridge("br0", mac(MAC), mtu)
    bridge = host.find("br0")
    assert bridge is not None and (bridge.kind, bridge.master) == ("bridge", 0)
    host.make_no_address(bridge)
    host.set_up(bridge)
    for text, length in (("10.89.0.1", 24), ("fd00::1", 64)):
        address = permanent(octets(text), length)
        host.add_address(bridge, address, tuple(address.attributes))
    host.make_veth("vt0", bridge, "eth0", mac(PEER), pair.namespace_fd, mtu)
    port, eth0 = host.find("vt0"), container.find("eth0")
    assert port is not None and (port.kind, port.master) == ("veth", bridge.index)
    assert eth0 is not None
    host.make_no_address(port)
    host.set_up(port)
    host.set_hairpin(port)
    container.make_no_address(eth0)
    container.set_up(eth0)
    for text, length in (("10.89.0.2", 24), ("fd00::2", 64)):
        address = permanent(octets(text), length)
        container.add_address(eth0, address, tuple(address.attributes))
    container.add_default_route(eth0, octets("10.89.0.1"))
    container.add_default_route(eth0, octets("fd00::1"))
    host.close()
    container.close()


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@pytest.mark.parametrize("mtu", [0, 1400])
def test_a_bridge_with_a_cable(pair: Callable[[], Pair], mtu: int) -> None:
    theirs, ours = pair(), pair()
    by_pyroute2(theirs, mtu)
    by_us(ours, mtu)
    expected = theirs.facts()
    assert len(expected["host"]["links"]) == 2
    assert len(expected["container"]["routes"]) >= 4
    assert expected["container"]["links"]["eth0"]["mtu"] == (mtu or 1500)
    assert ours.facts() == expected


def test_what_is_there_is_seen_alike(host: Machine) -> None:
    host.ip("route", "add", "blackhole", "10.7.0.0/16")
    host.ip("route", "add", "10.8.0.0/16", "via", "198.51.100.2", "table", "77")
    with host.entered():
        ours = Netlink()
    with NetNS(host.path) as ipr:
        links = {link["index"]: (link.get_attr("IFLA_IFNAME"), link["flags"]) for link in ipr.get_links()}
        routes = sorted(
            (route["family"], route["dst_len"], route["type"], route.get_attr("RTA_OIF") or 0)
            for family in (2, 10)
            for route in ipr.get_routes(family=family)
        )
    assert {link.index: (link.name, link.flags) for link in ours.links()} == links
    found = [route for family in (2, 10) for route in ours.routes(family)]
    assert sorted((route.family, route.prefixlen, route.kind, route.link_index) for route in found) == routes
    ours.close()


def test_removing(host: Machine) -> None:
    host.ip("link", "add", "vt0", "type", "veth", "peer", "name", "vt1")
    with host.entered():
        ours = Netlink()
    assert ours.remove("vt0") is True
    assert ours.remove("vt0") is False
    assert ours.find("vt1") is None
    ours.close()


def test_removing_one_whose_name_another_has_by_now(host: Machine) -> None:
    host.ip("link", "add", "vt0", "type", "veth", "peer", "name", "vt1")
    with host.entered():
        ours = Netlink()
    former = ours.find("vt0")
    assert former is not None
    host.ip("link", "del", "vt0")
    host.ip("link", "add", "vt0", "type", "veth", "peer", "name", "vt1")
    assert ours.remove(former) is False
    found = ours.find("vt0")
    assert found is not None
    assert ours.remove(found) is True
    ours.close()


def test_a_device_that_is_taken_off_and_put_on(host: Machine) -> None:
    host.ip("link", "add", "br0", "type", "bridge")
    host.ip("link", "add", "vt0", "type", "veth", "peer", "name", "vt1")
    with host.entered():
        ours = Netlink()
    port, bridge = ours.find("vt0"), ours.find("br0")
    assert port is not None and bridge is not None
    ours.set_master(port, bridge)
    assert host.links()["vt0"]["master"] == "br0"
    ours.close()


def test_errors_name_the_request(host: Machine) -> None:
    with host.entered():
        ours = Netlink()
    for name, request in (
        ("RTM_NEWLINK('out0', 'bridge'): EEXIST", lambda: ours.make_bridge("out0", mac(MAC), 0)),
        ("RTM_DELLINK('lo'): ", lambda: ours.remove("lo")),
    ):
        with pytest.raises(KernelError) as caught:
            request()
        assert str(caught.value).startswith(name)
    link = ours.find("out0")
    assert link is not None
    with pytest.raises(KernelError, match=r"RTM_NEWROUTE\(default via 10.1.1.1\): ENETUNREACH"):
        ours.add_default_route(link, octets("10.1.1.1"))
    with pytest.raises(KernelError, match="IFLA_BRPORT_MODE"):
        ours.set_hairpin(link)
    ours.close()
