"""The rules of networks and published ports, with real packets: pyruntime/net/firewall.py by itself.

What stands for a container here is one more machine, plugged into the bridge by hand; the tests of the runtime with
`-p` are in test_ports.py. A server answers with the address that it saw its client have.
"""

from __future__ import annotations

import errno
import itertools
import os
import posix
import re
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from pyruntime import report
from pyruntime.errors import Error, KernelError, NftError, StateError, UnsupportedError
from pyruntime.linux.conntrack import Conntrack
from pyruntime.linux.nftables import Nftables
from pyruntime.net import firewall, nft, ports, publishing, ruleset
from pyruntime.net.types import Endpoint, Network, Port
from tests.net.conftest import HOST, HOST6, OUTSIDE, OUTSIDE6, published
from tests.support.container import wait_until
from tests.support.namespace import Machine, Servers

pytestmark = pytest.mark.needs("nft")

BRIDGE = "pyruntime0"
NETWORK: Network = {
    "name": "default",
    "bridge": BRIDGE,
    "subnets": [
        {"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"},
        {"subnet": "fd00:89::/64", "gateway": "fd00:89::1"},
    ],
    "mtu": 0,
}
OTHER: Network = {
    "name": "other",
    "bridge": "pyruntime1",
    "subnets": [
        {"subnet": "10.90.0.0/24", "gateway": "10.90.0.1"},
        {"subnet": "fd00:90::/64", "gateway": "fd00:90::1"},
    ],
    "mtu": 0,
}


def port(published: str, inside: int) -> Port:
    """A port from "[ADDRESS-]HOSTPORT[/udp]"."""
    address, _, number = published.removesuffix("/udp").rpartition("-")
    protocol: Literal["tcp", "udp"] = "udp" if published.endswith("/udp") else "tcp"
    return {"address": address, "hostPort": int(number), "port": inside, "protocol": protocol}


def with_8080(udp: bool, address: str = "") -> str:
    return f"{address}8080{'/udp' if udp else ''}"


class Box:
    """A machine on a network: where a container would be."""

    def __init__(self, machine: Machine, host: Machine, network: Network, number: int, listed: list[Port]) -> None:
        self.machine = machine
        self.servers: list[Servers] = []
        prefixes = [subnet["gateway"].removesuffix("1") for subnet in network["subnets"]]
        self.ip, self.ip6 = (f"{prefix}{number}" for prefix in prefixes)
        self.endpoint: Endpoint = {
            "id": machine.name,
            "network": network["name"],
            "ips": [f"{self.ip}/24", f"{self.ip6}/64"],
            "mac": f"02:50:0a:59:00:{number:02x}",
            "interface": f"v{network['bridge'][-1]}-{number}",
            "hostname": "",
            "ports": listed,
            "bootId": "",
        }
        self.plug(host, network)

    def plug(self, host: Machine, network: Network) -> None:
        end = self.endpoint["interface"]
        host.ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(self.machine.holder.pid))
        host.ip("link", "set", end, "master", network["bridge"], "up")
        host.ip("link", "set", end, "type", "bridge_slave", "hairpin", "on")
        self.machine.ip("link", "set", "eth0", "address", self.endpoint["mac"], "up")
        for ip, subnet in zip(self.endpoint["ips"], network["subnets"], strict=True):
            self.machine.ip("address", "add", ip, "dev", "eth0", "nodad")
            self.machine.ip("route", "add", "default", "via", subnet["gateway"])

    def serve(self, number: int) -> None:
        self.servers.append(Servers(self.machine.path, number, self.machine.name))


Boxes = Callable[..., Box]


@pytest.fixture
def boxes(host: Machine, machines: Callable[[str], Machine]) -> Iterator[Boxes]:
    """Make boxes: `boxes("8080", "127.0.0.1-53/udp", inside=80)`, published and serving."""
    made: list[Box] = []
    numbers = itertools.count(2)

    def make(*published: str, inside: int = 80, network: Network = NETWORK, number: int = 0) -> Box:
        number = number or next(numbers)
        if network["bridge"] not in host.links():
            bridge_up(host, network)
        listed = [port(each, inside) for each in published]
        box = Box(machines(f"box{len(made)}"), host, network, number, listed)
        made.append(box)
        box.serve(inside)
        with host.entered():
            firewall.prepare(network)
            publishing.publish(box.endpoint)
        return box

    yield make
    for box in made:
        for servers in box.servers:
            servers.close()


def bridge_up(host: Machine, network: Network) -> None:
    """With a link-local address that counts at once: without one the kernel asks for no neighbour's (nodad)."""
    bridge = network["bridge"]
    host.ip("link", "add", bridge, "type", "bridge")
    host.ip("link", "set", bridge, "address", "02:50:0a:59:00:01", "addrgenmode", "none")
    host.ip("link", "set", bridge, "up")
    for address in (*(subnet["gateway"] for subnet in network["subnets"]), "fe80::50:aff:fe59:1"):
        length = ("/64", "nodad") if ":" in address else ("/24",)
        host.ip("address", "add", address + length[0], "dev", bridge, *length[1:])


@pytest.fixture(autouse=True)
def said() -> Iterator[list[str]]:
    """The warnings of the test."""
    listed: list[str] = []

    def sink(level: str, message: str) -> None:
        if level == "warning":
            listed.append(message)

    report.sinks.append(sink)
    yield listed
    report.sinks.remove(sink)


@pytest.fixture(params=["1", "0"], ids=["bridge-nf", "no bridge-nf"])
def bridged(request: pytest.FixtureRequest, host: Machine) -> None:
    """Frames of bridges pass through iptables and nftables, or not."""
    for name in ("iptables", "ip6tables"):
        host.run("sh", "-c", f"echo {request.param} > /proc/sys/net/bridge/bridge-nf-call-{name}")


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
class TestPublished:
    """Who reaches a published port, and as whom."""

    def test_from_the_outside(self, boxes: Boxes, outside: Machine, udp: bool) -> None:
        boxes(with_8080(udp))
        assert outside.ask(HOST, 8080, "?", udp=udp) == f"box0 {OUTSIDE}"
        assert outside.ask(HOST6, 8080, "?", udp=udp) == f"box0 {OUTSIDE6}"

    def test_from_the_host_itself(self, boxes: Boxes, host: Machine, udp: bool) -> None:
        boxes(with_8080(udp))
        for address in ("127.0.0.1", "127.1.2.3", HOST, "10.89.0.1"):
            assert host.ask(address, 8080, "?", udp=udp).startswith("box0 "), address
        for address in (HOST6, "fd00:89::1"):
            assert host.ask(address, 8080, "?", udp=udp).startswith("box0 "), address
        if not udp:
            with pytest.raises(ConnectionRefusedError):  # at once: nothing is translated
                host.ask("::1", 8080)

    def test_from_containers(self, boxes: Boxes, bridged: None, udp: bool) -> None:
        one, two = boxes(with_8080(udp)), boxes()
        far = boxes(network=OTHER)
        for box in (one, two, far):
            for address in (HOST, HOST6):
                assert box.machine.ask(address, 8080, "?", udp=udp).startswith("box0 "), (box.machine.name, address)

    def test_at_a_loopback_address(self, boxes: Boxes, host: Machine, outside: Machine, udp: bool) -> None:
        box = boxes(with_8080(udp, "127.0.0.1-"))
        assert host.ask("127.0.0.1", 8080, "?", udp=udp) == "box0 10.89.0.1"
        assert not host.reaches("127.0.0.2", 8080, udp=udp, within=0.2)
        assert not host.reaches(HOST, 8080, udp=udp, within=0.2)
        for machine in (outside, box.machine):
            assert not machine.reaches(HOST, 8080, udp=udp, within=0.2)

    def test_at_one_address(self, boxes: Boxes, host: Machine, outside: Machine, udp: bool) -> None:
        host.ip("address", "add", "198.51.100.3/24", "dev", "out0")
        boxes(with_8080(udp, "198.51.100.3-"), with_8080(udp, f"{HOST6}-"))
        assert outside.ask("198.51.100.3", 8080, "?", udp=udp) == f"box0 {OUTSIDE}"
        assert outside.ask(HOST6, 8080, "?", udp=udp) == f"box0 {OUTSIDE6}"
        assert not outside.reaches(HOST, 8080, udp=udp, within=0.2)

    def test_the_same_port_of_other_machines_is_theirs(self, boxes: Boxes, outside: Machine, udp: bool) -> None:
        box = boxes(with_8080(udp))
        with outside.listen(OUTSIDE, 8080, udp=udp) as listener, box.machine.connect(OUTSIDE, 8080, udp=udp) as client:
            client.send(b"?")
            if udp:
                assert listener.recvfrom(10)[1][0] == HOST  # masqueraded
            else:
                assert listener.accept()[1][0] == HOST

    def test_an_address_that_comes_later(self, boxes: Boxes, host: Machine, outside: Machine, udp: bool) -> None:
        boxes(with_8080(udp))
        host.ip("address", "add", "198.51.100.9/24", "dev", "out0")
        assert outside.ask("198.51.100.9", 8080, "?", udp=udp) == f"box0 {OUTSIDE}"


class TestOutside:
    """Containers reach the outside, under the host's address."""

    def test_masqueraded(self, boxes: Boxes, outside: Machine) -> None:
        box = boxes()
        for there, seen in ((OUTSIDE, HOST), (OUTSIDE6, HOST6)):
            with outside.listen(there, 80) as listener, box.machine.connect(there, 80):
                assert listener.accept()[1][0] == seen

    def test_each_other_by_their_own_addresses(self, boxes: Boxes, bridged: None) -> None:
        one, two = boxes(), boxes()
        assert two.machine.ask(one.ip, 80) == f"box0 {two.ip}"
        assert two.machine.ask(one.ip6, 80) == f"box0 {two.ip6}"


class TestOutOfReach:
    """What must not be reached, by whoever has a route to it."""

    @pytest.fixture
    def neighbour(self, outside: Machine) -> Machine:
        """On the host's cable, and it knows the way to the containers, and claims to know one to the loopback."""
        for subnet in NETWORK["subnets"]:
            outside.ip("route", "add", subnet["subnet"], "via", HOST6 if ":" in subnet["subnet"] else HOST)
        outside.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet")
        outside.ip("route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
        outside.ip("route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
        outside.ip("route", "add", "127.0.0.0/8", "via", HOST, "src", OUTSIDE)
        return outside

    @pytest.mark.usefixtures("a_router")
    def test_unpublished_ports(self, boxes: Boxes, host: Machine, neighbour: Machine) -> None:
        box = boxes("8080", inside=80)
        box.serve(81)
        assert host.ask(box.ip, 81).startswith("box0 ")  # it does serve
        for address in (box.ip, box.ip6):
            for number in (80, 81):
                assert not neighbour.reaches(address, number, within=0.2)
                assert not neighbour.reaches(address, number, udp=True, within=0.2)
        assert neighbour.ask(HOST, 8080) == f"box0 {OUTSIDE}"

    def test_ports_at_the_loopback(self, boxes: Boxes, host: Machine, neighbour: Machine) -> None:
        """What answers them is not looked at: no flow may be translated, whatever becomes of answers."""
        box = boxes("127.0.0.1-8080", "127.0.0.1-8080/udp")
        with host.listen("127.0.0.1", 9090), host.listen("127.0.0.1", 9090, udp=True) as listener:
            for number in (8080, 9090):
                assert not neighbour.reaches("127.0.0.1", number, within=0.2)
                assert not neighbour.reaches("127.0.0.1", number, udp=True, within=0.2)
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.recv(1)
        assert translated(host, box.ip) == 0
        assert host.ask("127.0.0.1", 8080).startswith("box0 ")
        assert translated(host, box.ip) == 1
        assert not neighbour.reaches(box.ip, 80, within=0.2)

    def test_the_loopback_of_the_host_from_a_container(self, boxes: Boxes, host: Machine) -> None:
        """route_localnet is on at the bridge, so the kernel would take it."""
        box = boxes("127.0.0.1-8080").machine
        box.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet")
        box.ip("route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
        box.ip("route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
        box.ip("route", "add", "127.0.0.0/8", "via", "10.89.0.1", "src", "10.89.0.2")
        with host.listen("127.0.0.1", 9090, udp=True) as listener:
            assert not box.reaches("127.0.0.1", 9090, udp=True, within=0.2)
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.recv(1)
        with host.listen("127.0.0.1", 9091):
            assert not box.reaches("127.0.0.1", 9091, within=0.2)

    def test_containers_of_other_networks(self, boxes: Boxes, bridged: None) -> None:
        one, far = boxes("8080"), boxes(network=OTHER)
        for address in (one.ip, one.ip6):
            assert not far.machine.reaches(address, 80, within=0.2)
        assert one.machine.ask(one.ip, 80).startswith("box0 ")

    def test_the_host_is_a_router_for_containers_alone(
        self, boxes: Boxes, host: Machine, outside: Machine, machines: Callable[[str], Machine]
    ) -> None:
        """Forwarding was off, and is on now: neighbours with routes through it still don't reach each other."""
        boxes("8080")
        stranger = machines("stranger")
        host.ip("link", "add", "far0", "type", "veth", "peer", "name", "eth0", "netns", str(stranger.holder.pid))
        host.ip("address", "add", "203.0.113.1/24", "dev", "far0")
        host.ip("link", "set", "far0", "up")
        stranger.ip("address", "add", "203.0.113.2/24", "dev", "eth0")
        stranger.ip("link", "set", "eth0", "up")
        stranger.ip("route", "add", "default", "via", "203.0.113.1")
        outside.ip("route", "add", "203.0.113.0/24", "via", HOST)
        with outside.listen(OUTSIDE, 80):
            assert not stranger.reaches(OUTSIDE, 80, within=0.2)
            assert stranger.ask(HOST, 8080) == "box0 203.0.113.2"
            host.run("nft", "flush", "set", "inet", "pyruntime", "closed")
            assert stranger.reaches(OUTSIDE, 80)  # the test can fail

    def test_bridges_of_others_go_on(
        self, boxes: Boxes, host: Machine, bridged: None, machines: Callable[[str], Machine]
    ) -> None:
        """Where bridged frames are filtered, those of virtual machines come to our rules, too."""
        boxes()
        host.ip("link", "add", "virbr0", "type", "bridge")
        host.ip("link", "set", "virbr0", "up")
        guests = [machines("guest1"), machines("guest2")]
        for number, guest in enumerate(guests, 1):
            host.ip("link", "add", f"vm{number}", "type", "veth", "peer", "eth0", "netns", str(guest.holder.pid))
            host.ip("link", "set", f"vm{number}", "master", "virbr0", "up")
            guest.ip("address", "add", f"203.0.113.{number}/24", "dev", "eth0")
            guest.ip("link", "set", "eth0", "up")
        with guests[0].listen("203.0.113.1", 80):
            guests[1].connect("203.0.113.1", 80).close()


class TestFlows:
    """What connection tracking remembers of a former container."""

    @pytest.mark.parametrize("address", [HOST, HOST6])
    def test_a_udp_client_reaches_the_new_container(
        self, boxes: Boxes, host: Machine, outside: Machine, address: str
    ) -> None:
        former = boxes("5353/udp", inside=53)
        with outside.connect(address, 5353, udp=True, source_port=40000) as client:
            client.send(b"?")
            assert client.recv(100).startswith(b"box0")
            with host.entered():
                publishing.withdraw(former.endpoint).close()
            boxes("5353/udp", inside=53)
            client.send(b"?")
            assert client.recv(100).startswith(b"box1")

    def test_a_udp_client_does_not_reach_who_has_the_address_next(
        self, boxes: Boxes, host: Machine, outside: Machine
    ) -> None:
        former = boxes("5353/udp", inside=53)
        with outside.connect(HOST, 5353, udp=True, source_port=40000) as client:
            client.send(b"?")
            assert client.recv(100).startswith(b"box0")
            with host.entered():
                publishing.withdraw(former.endpoint).close()
            host.ip("link", "del", former.endpoint["interface"])
            boxes(inside=53, number=2)
            client.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                client.recv(100)

    def test_a_udp_client_on_the_host_reaches_the_new_container(self, boxes: Boxes, host: Machine) -> None:
        former = boxes("5353/udp", "5354/udp", inside=53)
        with host.connect("127.0.0.1", 5353, udp=True, source_port=40000) as client:
            client.send(b"?")
            assert client.recv(100).startswith(b"box0")
            with host.entered():
                publishing.withdraw(former.endpoint).close()
            boxes("127.0.0.1-5353/udp", inside=53)
            client.send(b"?")
            assert client.recv(100).startswith(b"box1")

    @pytest.mark.parametrize("address", [HOST, HOST6])
    def test_a_udp_client_that_was_there_first(
        self, boxes: Boxes, host: Machine, outside: Machine, address: str
    ) -> None:
        """What it sent before was for the host itself, and it goes on sending."""
        boxes()  # with rules, flows are tracked
        with outside.connect(address, 5353, udp=True, source_port=40000) as client:
            client.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                client.recv(100)
            boxes("5353/udp", inside=53)
            client.send(b"?")
            assert client.recv(100).startswith(b"box1")

    def test_flows_of_others_are_remembered(self, boxes: Boxes, host: Machine, outside: Machine) -> None:
        """A container asks for a name outside while another publishes the same port: its answer must find it."""
        asker = boxes()
        with outside.listen(OUTSIDE, 53, udp=True) as server, asker.machine.connect(OUTSIDE, 53, udp=True) as client:
            client.send(b"?")
            _, peer = server.recvfrom(10)
            boxes("53/udp", inside=53)
            server.sendto(b"!", peer)
            assert client.recv(10) == b"!"


class TestOthersRules:
    """One table is ours; what others have is theirs."""

    FOREIGN = (
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; counter; }; }\n"
        "table inet theirs { map ports4 { type inet_service : ipv4_addr; elements = { 1 : 10.0.0.1 }; }; }\n"
    )

    def test_are_as_they_were(self, boxes: Boxes, host: Machine) -> None:
        host.run("nft", "-f", "-", text=self.FOREIGN)
        before = host.rules()
        box = boxes("8080", "127.0.0.1-53/udp")
        assert host.rules() != before
        with host.entered():
            publishing.withdraw(box.endpoint).close()
            firewall.remove(NETWORK)
        assert host.rules() == before

    def test_a_drop_of_others_is_told(self, boxes: Boxes, host: Machine, said: list[str]) -> None:
        host.run("nft", "-f", "-", text=self.FOREIGN.replace("policy accept", "policy drop"))
        boxes()
        assert any("the chain FORWARD of the nftables table filter drops" in each for each in said), said
        assert any("iptables -I FORWARD -i pyruntime0 -j ACCEPT" in each for each in said), said

    @pytest.mark.parametrize("last", ["counter drop", "reject with icmpx admin-prohibited"])
    def test_a_last_rule_of_others_that_drops_is_told(
        self, boxes: Boxes, host: Machine, said: list[str], last: str
    ) -> None:
        chain = (
            f"chain filter_FORWARD {{ type filter hook forward priority 10; ct state established accept; {last}; }};"
        )
        host.run("nft", "-f", "-", text=f"table inet firewalld {{ {chain} }}\n")
        boxes()
        assert any("firewall-cmd --permanent --zone=trusted --add-interface=pyruntime0" in each for each in said), said

    def test_who_lets_the_bridge_pass_is_not_told(self, boxes: Boxes, host: Machine, said: list[str]) -> None:
        rule = 'iifname "pyruntime0" accept'
        host.run("nft", "-f", "-", text=self.FOREIGN.replace("policy accept; counter", f"policy drop; {rule}"))
        boxes()
        assert not any("drops" in each for each in said), said


class TestRepair:
    """Somebody has flushed our rules: the next start makes them again, with all that was published."""

    @pytest.mark.parametrize("how", ["flush ruleset", "flush table inet pyruntime", "delete table inet pyruntime"])
    def test_rules_flushed(self, boxes: Boxes, host: Machine, outside: Machine, how: str) -> None:
        box = boxes("8080")
        before = without_counters(host.rules())
        host.run("nft", how)
        assert not outside.reaches(HOST, 8080, within=0.2)
        with host.entered():
            firewall.prepare(NETWORK, [box.endpoint])
        assert without_counters(host.rules()) == before
        assert outside.ask(HOST, 8080).startswith("box0 ")

    def test_of_all_networks(self, boxes: Boxes, host: Machine, outside: Machine) -> None:
        one, far = boxes("8080"), boxes("8081", network=OTHER)
        before = without_counters(host.rules())
        host.run("nft", "flush", "ruleset")
        with host.entered():
            firewall.prepare(OTHER, [far.endpoint], lambda: [(NETWORK, [one.endpoint])])
        assert sorted(without_counters(host.rules()).split()) == sorted(before.split())
        assert outside.ask(HOST, 8080).startswith("box0 ")

    def test_not_of_networks_without_a_bridge(self, boxes: Boxes, host: Machine) -> None:
        boxes()
        host.run("nft", "flush", "ruleset")
        with host.entered():
            firewall.prepare(NETWORK, [], lambda: [(OTHER, [])])
        assert OTHER["bridge"] not in host.rules()

    def test_what_the_host_does_not_forward_is_remembered_on_each_bridge(self, boxes: Boxes, host: Machine) -> None:
        boxes(), boxes(network=OTHER)
        host.run("nft", "flush", "ruleset")
        with host.entered():
            firewall.prepare(OTHER)
        assert "elements = { ipv4, ipv6 }" in host.run("nft", "list", "set", "inet", "pyruntime", "closed")

    def test_what_the_host_does_not_forward_is_remembered(self, boxes: Boxes, host: Machine) -> None:
        boxes()
        host.run("nft", "flush", "ruleset")
        with host.entered():
            firewall.prepare(NETWORK)
        assert "elements = { ipv4, ipv6 }" in host.run("nft", "list", "set", "inet", "pyruntime", "closed")

    def test_a_bridge_that_was_removed_by_hand(self, boxes: Boxes, host: Machine) -> None:
        box = boxes("127.0.0.1-8080")
        host.ip("link", "del", BRIDGE)
        bridge_up(host, NETWORK)
        host.ip("link", "set", box.endpoint["interface"], "master", BRIDGE)
        with host.entered():
            firewall.prepare(NETWORK, [box.endpoint])
        assert host.ask("127.0.0.1", 8080) == "box0 10.89.0.1"

    def test_a_network_that_is_ready_runs_no_nft(self, boxes: Boxes, host: Machine, monkeypatch: Any) -> None:
        boxes("8080")
        monkeypatch.setattr(nft, "apply", None)
        box = boxes("8081")
        with host.entered():
            publishing.withdraw(box.endpoint).close()


class TestForwarding:
    """ip_forward, as Docker handles it."""

    def test_off_before_and_off_after(self, boxes: Boxes, host: Machine, said: list[str]) -> None:
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            assert host.run("cat", f"/proc/sys/net/{family}") == "0\n"
        boxes(), boxes(network=OTHER)
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            assert host.run("cat", f"/proc/sys/net/{family}") == "1\n"
        told = "turned net.ipv4.ip_forward and net.ipv6.conf.all.forwarding on for the network default: "
        assert [each[: len(told)] for each in said] == [told]
        with host.entered():
            firewall.remove(NETWORK)
            assert host.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
            firewall.remove(OTHER)
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            assert host.run("cat", f"/proc/sys/net/{family}") == "0\n"
        assert host.rules() == ""

    def test_on_before_and_as_it_was(self, boxes: Boxes, host: Machine, said: list[str]) -> None:
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            host.run("sh", "-c", f"echo 1 > /proc/sys/net/{family}")
        boxes()
        assert said == []
        assert "elements" not in host.run("nft", "list", "set", "inet", "pyruntime", "closed")
        with host.entered():
            firewall.remove(NETWORK)
        assert host.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"

    def test_the_host_believes_routers_but_not_containers(self, boxes: Boxes, host: Machine, outside: Machine) -> None:
        """A router that forwards takes no routes from others, unless told to; of containers it must not take any."""
        box = boxes()
        advertise(box.machine, "eth0")
        advertise(outside, "eth0")
        wait_until(lambda: "dev out0 proto ra" in host.run("ip", "-6", "route"), "the route that the outside tells of")
        assert "dev pyruntime0 proto ra" not in host.run("ip", "-6", "route")
        host.run("sh", "-c", f"echo 2 > /proc/sys/net/ipv6/conf/{BRIDGE}/accept_ra")
        advertise(box.machine, "eth0")
        wait_until(lambda: "dev pyruntime0 proto ra" in host.run("ip", "-6", "route"), "the test to be able to fail")


class TestTaken:
    """Who has a port that is taken."""

    @pytest.fixture
    def refused(self, host: Machine) -> Callable[..., str]:
        def refuse(wanted: str, *others: Endpoint) -> str:
            with host.entered(), pytest.raises(Error) as caught:
                ports.refuse_taken(endpoint(port(wanted, 80)), others)
            return str(caught.value)

        return refuse

    @pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
    @pytest.mark.parametrize("address", ["127.0.0.1", HOST, HOST6])
    def test_by_a_process(self, host: Machine, refused: Callable[..., str], address: str, udp: bool) -> None:
        with host.listen(address, 8080, udp=udp):
            said = refused(with_8080(udp))
            refused(with_8080(udp, f"{address}-"))
            with host.entered():  # the other protocol and another port are free
                ports.refuse_taken(endpoint(port(with_8080(not udp), 80), port(f"8081{'/udp' * udp}", 80)), [])
        assert f"the port 8080/{'udp' if udp else 'tcp'} is taken: '" in said
        assert f"(process {os.getpid()}) of this host has it" in said

    def test_by_a_process_at_another_address(self, host: Machine) -> None:
        with host.listen("127.0.0.1", 8080), host.entered():
            ports.refuse_taken(endpoint(port(f"{HOST}-8080", 80)), [])

    def test_by_a_process_for_both_versions(self, host: Machine, refused: Callable[..., str]) -> None:
        with host.listen("::", 8080):
            assert f"(process {os.getpid()})" in refused(f"{HOST}-8080")

    def test_by_an_end_of_a_connection(self, host: Machine, outside: Machine, refused: Callable[..., str]) -> None:
        with outside.listen(OUTSIDE, 80), host.connect(OUTSIDE, 80) as client:
            assert f"(process {os.getpid()})" in refused(str(client.getsockname()[1]))

    def test_not_by_closed_connections(self, host: Machine, outside: Machine) -> None:
        with host.listen(HOST, 8080) as listener, outside.connect(HOST, 8080):
            listener.accept()[0].close()
        with host.entered():
            ports.refuse_taken(endpoint(port("8080", 80)), [])

    def test_an_address_that_the_host_does_not_have(self, refused: Callable[..., str]) -> None:
        assert "this host does not have the address 198.51.100.77" in refused("198.51.100.77-8080")

    def test_by_a_container_of_another_root(self, boxes: Boxes, host: Machine) -> None:
        first = boxes("8080", "8081/udp")
        second = endpoint(*first.endpoint["ports"])
        before = published(host)
        with host.entered(), pytest.raises(StateError) as caught:
            publishing.publish(endpoint(port("8090", 80), port("8081/udp", 80)))
        assert "the port 8081/udp is taken: 10.89.0.2:80 has it" in str(caught.value)
        assert published(host) == before
        with host.entered():
            publishing.withdraw(second).close()
        assert published(host) == before


class TestWithdrawn:
    def test_nothing_is_left(self, boxes: Boxes, host: Machine, outside: Machine) -> None:
        box = boxes("8080", "8080/udp", "127.0.0.1-8081", f"{HOST6}-8082")
        assert len(published(host)) == 6
        with host.entered():
            publishing.withdraw(box.endpoint).close()
            publishing.withdraw(box.endpoint).close()
        assert published(host) == []
        assert not outside.reaches(HOST, 8080, within=0.2)

    def test_ranges(self, boxes: Boxes, host: Machine, outside: Machine) -> None:
        """As many as there are ports: one transaction, however large."""
        box = boxes(*(str(number) for number in range(1024, 65536, 3)))
        assert len(published(host)) == 2 * 21504
        assert outside.ask(HOST, 65535 - (65535 - 1024) % 3).startswith("box0 ")
        with host.entered():
            publishing.withdraw(box.endpoint).close()
        assert published(host) == []

    def test_after_the_rules_were_flushed(self, boxes: Boxes, host: Machine) -> None:
        box = boxes("8080")
        host.run("nft", "flush", "ruleset")
        with host.entered():
            publishing.withdraw(box.endpoint).close()
            firewall.remove(NETWORK)
        assert host.rules() == ""


class TestKernels:
    """Machines that lack something."""

    def test_no_nft(self, host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        bridge_up(host, NETWORK)
        monkeypatch.setattr(nft, "DIRECTORIES", "/nowhere")
        monkeypatch.setitem(posix.environ, b"PATH", b"/nope")
        with host.entered(), pytest.raises(Error, match=r"there is none \(install the package nftables"):
            firewall.prepare(NETWORK)
        assert host.rules() == ""

    def test_nft_refuses(self, host: Machine) -> None:
        before = "table inet pyruntime { set inside { type ipv4_addr; }; }"
        bridge_up(host, NETWORK)
        host.run("nft", before)
        with host.entered(), pytest.raises(NftError) as caught:
            firewall.prepare(NETWORK)
        assert "failed with exit status 1: " in str(caught.value)
        assert "@inside" in str(caught.value)
        assert host.run("cat", "/proc/sys/net/ipv4/ip_forward") == "0\n"

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
    def test_no_nftables(self, host: Machine, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        def refuse(_self: object) -> int:
            raise KernelError("NFT_MSG_GETGEN", number)

        monkeypatch.setattr(Nftables, "generation", refuse)
        with host.entered(), pytest.raises(UnsupportedError, match="this kernel has no nftables"):
            firewall.prepare(NETWORK)

    def test_without_fib(
        self, boxes: Boxes, host: Machine, outside: Machine, said: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rules then list the host's own addresses, and every container with ports brings that up to date."""
        monkeypatch.setattr(ruleset, "LOCAL", "        fib daddr type nonsense return\n")
        box = boxes("8080", "8081/udp")
        assert any("can't tell its own addresses" in each for each in said)
        assert outside.ask(HOST, 8080) == f"box0 {OUTSIDE}"
        assert outside.ask(HOST6, 8080) == f"box0 {OUTSIDE6}"
        assert host.ask("127.0.0.1", 8080).startswith("box0 ")
        with outside.listen(OUTSIDE, 8080) as listener, box.machine.connect(OUTSIDE, 8080):
            listener.accept()
        host.ip("address", "add", "198.51.100.9/24", "dev", "out0")
        boxes("9090")
        assert outside.ask("198.51.100.9", 8080).startswith("box0 ")
        with host.entered():
            firewall.remove(NETWORK)
        assert host.rules() == ""


def translated(host: Machine, ip: str) -> int:
    """How many flows of the host a container has to answer."""
    with host.entered():
        conntrack = Conntrack()
    try:
        protocols = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
        flows = [flow for each in protocols for flow in conntrack.flows(socket.AF_INET, each)]
        return sum(flow.reply.source == socket.inet_aton(ip) for flow in flows)
    finally:
        conntrack.close()


def advertise(machine: Machine, link: str) -> None:
    """Say to all on a link that this machine is the way to everywhere: a router advertisement (RFC 4861, 4.2)."""
    machine.ip("address", "replace", "fe80::99/64", "dev", link, "nodad")
    with machine.entered(), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as opened:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
        opened.bind(("fe80::99", 0, 0, socket.if_nametoindex(link)))
        opened.sendto(advertisement, ("ff02::1", 0, 0, socket.if_nametoindex(link)))


def endpoint(*listed: Port) -> Endpoint:
    """One that has no container."""
    return {
        "id": "nobody",
        "network": "default",
        "ips": ["10.89.0.99/24", "fd00:89::99/64"],
        "mac": "",
        "interface": "",
        "hostname": "",
        "ports": list(listed),
        "bootId": "",
    }


def without_counters(rules: str) -> str:
    return re.sub(r"packets \d+ bytes \d+", "", rules)
