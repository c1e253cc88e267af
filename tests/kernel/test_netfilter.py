"""linux/nftables.py and linux/conntrack.py, each wrapper once, with nft(8) as the witness. In a network of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from errno import ENOENT
from pathlib import Path

import pytest

from pyruntime.errors import KernelError
from pyruntime.linux.conntrack import Conntrack
from pyruntime.linux.nftables import Nftables, is_taken, register
from tests.support.namespace import Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.linux.nftables import Element

pytestmark = pytest.mark.needs("root", "nft")

TABLE = """
table inet trial {
    map ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
    set names { type ifname; }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established accept
        iifname "trial0" counter drop
    }
    chain quiet { counter reject; }
}
"""
UDP = 17


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine("trial", tmp_path / "sys")
    yield machine
    machine.close()


@pytest.fixture
def nftables(machine: Machine) -> Iterator[Nftables]:
    machine.run("nft", "-f", "-", text=TABLE)
    with machine.entered():
        nftables = Nftables("trial")
    yield nftables
    nftables.close()


def element(port: int, target: str = "10.0.0.2") -> Element:
    """tcp . PORT : TARGET . 80"""
    key = register(b"\x06") + register(port.to_bytes(2, "big"))
    return "ports", key, socket.inet_aton(target) + register((80).to_bytes(2, "big"))


def name(text: str) -> Element:
    return "names", text.encode().ljust(16, b"\0"), b""


def listed(machine: Machine, kind: str, name: str) -> str:
    """The elements as nft shows them."""
    found = json.loads(machine.run("nft", "-j", "list", kind, "inet", "trial", name))["nftables"]
    return json.dumps(next(thing[kind] for thing in found if kind in thing).get("elem", []))


class TestElements:
    def test_nft_sees_what_was_added(self, machine: Machine, nftables: Nftables) -> None:
        nftables.add([element(8080), name("trial0")])
        assert listed(machine, "map", "ports") == ('[[{"concat": ["tcp", 8080]}, {"concat": ["10.0.0.2", 80]}]]')
        assert listed(machine, "set", "names") == '["trial0"]'

    def test_what_nft_has_added_is_found(self, machine: Machine, nftables: Nftables) -> None:
        machine.run(
            "nft", 'add element inet trial ports { tcp . 8080 : 10.0.0.2 . 80 }; add element inet trial names { "x" }'
        )
        assert nftables.find(element(8080)) == element(8080)[2]
        assert nftables.find(element(8081)) is None
        assert nftables.find(name("x")) == b""
        assert nftables.elements("ports") == [element(8080)]
        assert nftables.elements("nothing") == []

    def test_all_or_none(self, machine: Machine, nftables: Nftables) -> None:
        nftables.add([element(8080)])
        with pytest.raises(KernelError) as caught:
            nftables.add([element(8079), element(8080, "10.0.0.3"), element(8081)])
        assert is_taken(caught.value)
        assert nftables.elements("ports") == [element(8080)]
        with pytest.raises(KernelError) as caught:
            nftables.remove([element(8080), element(8081)])
        assert caught.value.errno == ENOENT
        assert nftables.elements("ports") == [element(8080)]

    def test_after_an_error_the_next_request_is_answered(self, nftables: Nftables) -> None:
        nftables.add([element(8080)])
        for _ in range(3):
            with pytest.raises(KernelError):
                nftables.add([element(8080), element(8081), element(8082)])
            assert nftables.find(element(8080)) == element(8080)[2]
            assert nftables.find(element(8081)) is None

    def test_all_ports_there_are(self, machine: Machine, nftables: Nftables) -> None:
        every = [element(port) for port in range(1, 65536)]
        nftables.add(every)
        assert all(nftables.find(each) == each[2] for each in every[::1000])
        nftables.remove(every)
        assert listed(machine, "map", "ports") == "[]"

    def test_nothing_to_do(self, nftables: Nftables) -> None:
        before = nftables.generation()
        nftables.add([])
        nftables.remove([])
        assert nftables.generation() == before

    def test_no_such_table(self, machine: Machine) -> None:
        with machine.entered():
            nftables = Nftables("nope")
        try:
            assert nftables.find(element(80)) is None
            assert nftables.chain("forward") is None
            with pytest.raises(KernelError) as caught:
                nftables.add([element(80)])
            assert caught.value.errno == ENOENT
        finally:
            nftables.close()


class TestTables:
    def test_chains(self, nftables: Nftables) -> None:
        chain = nftables.chain("forward")
        assert chain is not None
        assert (chain.table, chain.name, chain.hook, chain.drops, chain.rules) == ("trial", "forward", 2, True, 2)
        assert {each.name: each.hook for each in nftables.chains()} == {"forward": 2, "quiet": -1}
        assert nftables.chain("nope") is None

    def test_what_a_chain_ends_in(self, nftables: Nftables) -> None:
        ends = {chain.name: nftables.ends_in(chain) for chain in nftables.chains()}
        assert ends["forward"][-2:] == [("counter", -1), ("immediate", 0)]
        assert ends["quiet"] == [("counter", -1), ("reject", -1)]

    def test_who_is_mentioned(self, nftables: Nftables) -> None:
        chain = nftables.chains()[0]
        assert nftables.mentions(chain, "trial0")
        assert not nftables.mentions(chain, "trial1")

    def test_removed_unless_something_has_changed(self, machine: Machine, nftables: Nftables) -> None:
        before = nftables.generation()
        nftables.add([element(80)])
        assert nftables.remove_table(before) is False
        assert machine.rules() != ""
        assert nftables.remove_table(nftables.generation()) is True
        assert machine.rules() == ""


class TestConntrack:
    @pytest.fixture
    def conntrack(self, machine: Machine, nftables: Nftables) -> Iterator[Conntrack]:
        """nftables: without a rule that asks for it, nothing is tracked."""
        machine.run(
            "nft", "add chain inet trial output { type filter hook output priority filter; ct state new accept; }"
        )
        with machine.entered():
            conntrack = Conntrack()
        yield conntrack
        conntrack.close()

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
    def test_flows_are_found_and_forgotten(self, machine: Machine, conntrack: Conntrack, address: str) -> None:
        with machine.listen(address, 5353, udp=True), machine.connect(address, 5353, udp=True) as client:
            client.send(b"?")
            family, other = (socket.AF_INET6, socket.AF_INET) if ":" in address else (socket.AF_INET, socket.AF_INET6)
            (flow,) = conntrack.flows(family, UDP)
            raw = socket.inet_pton(family, address)
            assert (flow.original.source, flow.original.destination) == (raw, raw)
            assert (flow.original.destination_port, flow.original.source_port) == (5353, client.getsockname()[1])
            assert (flow.reply.protocol, flow.reply.source, flow.reply.source_port) == (UDP, raw, 5353)
            assert len(conntrack.flows(family, UDP, 5353)) == 1
            assert conntrack.flows(family, UDP, 5354) == []
            assert conntrack.flows(other, UDP) == []
            conntrack.forget(flow)
            conntrack.forget(flow)  # it has gone already
            assert conntrack.flows(family, UDP) == []

    def test_of_another_protocol(self, machine: Machine, conntrack: Conntrack) -> None:
        with machine.listen("127.0.0.1", 80), machine.connect("127.0.0.1", 80):
            assert conntrack.flows(socket.AF_INET, UDP) == []
            assert len(conntrack.flows(socket.AF_INET, 6)) == 1
