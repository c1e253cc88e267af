"""Addresses of a network: given in turn, never twice, and given back; and who is told why not."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.errors import NotFoundError, StateError, UsageError
from pyruntime.net.addresses import Range, mac_for, octets, parse_range
from pyruntime.net.leases import LeaseFile, boot_id, choose, interface_for
from pyruntime.net.networks import Networks

PAIR = [
    {"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"},
    {"subnet": "fd00:1::/64", "gateway": "fd00:1::1"},
]
SMALL = [{"subnet": "10.89.0.0/29", "gateway": "10.89.0.1"}]  # addresses .2 to .6 for containers


def network(*subnets: dict[str, str]) -> Any:
    return {"name": "default", "bridge": "pyruntime0", "subnets": list(subnets), "mtu": 0}


def attachment(ip: str = "") -> Any:
    return {"kind": "bridge", "name": "default", "ip": ip, "ports": [], "hostname": "box"}


class Book:
    """The leases of a network below a directory, and containers to have them."""

    def __init__(self, root: Path, *subnets: dict[str, str]) -> None:
        self.root = root
        self.networks = Networks(str(root))
        self.network = network(*subnets)
        root.mkdir(exist_ok=True)
        (root / "~networks").mkdir(exist_ok=True)

    def give(self, id: str, ip: str = "") -> list[str]:
        (self.root / id).mkdir(exist_ok=True)
        leases = LeaseFile(self.networks, "default")
        leases.take_stale(id)
        lease = leases.give(self.network, id, attachment(ip))
        leases.save()
        return lease["ips"]

    def take(self, id: str) -> None:
        leases = LeaseFile(self.networks, "default")
        assert [lease["id"] for lease in leases.take(id)] == [id]
        leases.save()
        (self.root / id).rmdir()


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "root", *PAIR)


@pytest.fixture
def small(tmp_path: Path) -> Book:
    return Book(tmp_path / "root", *SMALL)


class TestInTurn:
    def test_one_of_each_subnet_at_the_same_place(self, book: Book) -> None:
        assert book.give("a") == ["10.89.0.2/24", "fd00:1::2/64"]
        assert book.give("b") == ["10.89.0.3/24", "fd00:1::3/64"]

    def test_a_former_address_rests(self, book: Book) -> None:
        book.give("a")
        book.take("a")
        assert book.give("b")[0] == "10.89.0.3/24"

    def test_until_its_turn_comes_again(self, small: Book) -> None:
        for id in "abcde":
            small.give(id)
        small.take("b")
        assert small.give("f") == ["10.89.0.3/29"]

    def test_exhaustion_is_told_with_what_to_do(self, small: Book) -> None:
        for id in "abcde":
            small.give(id)
        with pytest.raises(
            StateError, match=r"'default' has no address left in 10\.89\.0\.0/29: 5 containers"
        ) as caught:
            small.give("f")
        assert "network create" in caught.value.hint

    def test_where_the_same_place_is_taken_the_next_one(self, book: Book) -> None:
        assert book.give("a", "fd00:1::3") == ["10.89.0.2/24", "fd00:1::3/64"]
        assert book.give("b") == ["10.89.0.3/24", "fd00:1::4/64"]
        assert book.give("c") == ["10.89.0.4/24", "fd00:1::5/64"]

    @given(st.lists(st.integers(0, 7), max_size=40), st.sampled_from([28, 29, 30]))
    def test_never_twice_whatever_comes_and_goes(self, moves: list[int], prefixlen: int) -> None:
        """Each move ends the container of this number, or starts one."""
        subnet = {"subnet": f"10.0.0.0/{prefixlen}", "gateway": "10.0.0.1"}
        usable = set(ipaddress.ip_network(subnet["subnet"]).hosts()) - {ipaddress.ip_address("10.0.0.1")}
        held: dict[int, str] = {}
        last: list[str] = []
        for move in moves:
            if move in held:
                del held[move]
                continue
            leases: Any = [{"id": f"c{key}", "ips": [ip], "mac": mac_for([ip])} for key, ip in held.items()]
            try:
                last = choose(network(subnet), leases, last, "")
            except StateError:
                assert len(held) == len(usable)
                continue
            address = ipaddress.ip_interface(last[0]).ip
            assert address in usable
            assert last[0] not in held.values()
            held[move] = last[0]


class TestAsked:
    def test_an_address_that_is_free(self, book: Book) -> None:
        assert book.give("a", "10.89.0.77") == ["10.89.0.77/24", "fd00:1::4d/64"]
        assert book.give("b")[0] == "10.89.0.2/24", "one asked for is none of the turn"

    @pytest.mark.parametrize(
        ("ip", "reason"),
        [
            ("10.89.0.2", "10.89.0.2 is taken by the container a"),
            ("fd00:1:0::2", "is taken by the container a"),
            ("10.89.0.1", "10.89.0.1 is the host's own address on the network 'default'"),
            ("10.89.0.0", "it is the first or last of 10.89.0.0/24"),
            ("10.89.0.255", "it is the first or last of 10.89.0.0/24"),
            ("10.89.1.2", "10.89.1.2 is not in the network 'default', which has 10.89.0.0/24 and fd00:1::/64"),
            ("fd00:2::2", "is not in the network"),
            ("::2", "is not in the network"),
        ],
    )
    def test_one_that_is_not(self, book: Book, ip: str, reason: str) -> None:
        book.give("a")
        with pytest.raises(UsageError, match=reason):
            book.give("b", ip)

    def test_two_with_the_same_hardware_address(self, tmp_path: Path) -> None:
        """Of an IPv6 network it is the last 32 bits alone that tell two containers apart on the wire."""
        book = Book(tmp_path, {"subnet": "fd00::/64", "gateway": "fd00::1"})
        book.give("a", "fd00::1:0:5")
        with pytest.raises(UsageError, match="ends like the address of a"):
            book.give("b", "fd00::2:0:5")
        with pytest.raises(UsageError, match="ends like the address of the host"):
            book.give("b", "fd00::2:0:1")


class TestStale:
    def test_a_container_that_is_gone(self, book: Book) -> None:
        book.give("a")
        (book.root / "a").rmdir()
        leases = LeaseFile(book.networks, "default")
        assert [lease["id"] for lease in leases.take_stale()] == ["a"]
        assert leases.endpoints == []

    def test_a_lease_from_before_a_reboot_has_nothing_in_the_kernel(self, book: Book) -> None:
        book.give("a")
        leases = LeaseFile(book.networks, "default")
        leases.endpoints[0]["bootId"] = "another"
        assert leases.take_stale() == []
        assert leases.endpoints == []

    def test_a_former_container_of_the_same_id(self, book: Book) -> None:
        book.give("a")
        assert book.give("a") == ["10.89.0.3/24", "fd00:1::3/64"]
        assert len(LeaseFile(book.networks, "default").endpoints) == 1

    def test_the_boot_has_an_id(self) -> None:
        assert len(boot_id()) == 36


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"last":[]}', '{"leases"', "\x00"])
def test_a_damaged_file_is_named(book: Book, text: str) -> None:
    path = book.root / "~networks/default.leases.json"
    path.write_text(text)
    with pytest.raises(StateError, match=str(path)) as caught:
        LeaseFile(book.networks, "default")
    assert "remove that file" in caught.value.hint


def test_networks_are_read_by_name(book: Book) -> None:
    with pytest.raises(NotFoundError, match="there is no network 'back'") as caught:
        book.networks.read("back")
    assert "network create back" in caught.value.hint
    book.networks.write_file("front.json", network(*PAIR) | {"name": "front"})
    assert (book.networks.names(), book.networks.read("front")["name"]) == (["front"], "front")
    with pytest.raises(NotFoundError) as caught:
        book.networks.read("back")
    assert caught.value.hint == "there is front"
    (book.root / "~networks/front.json").write_text("{}")
    with pytest.raises(StateError, match="it defines no network"):
        book.networks.read("front")


def test_an_interface_is_named_after_its_bridge_and_address() -> None:
    assert interface_for("pyruntime12", mac_for(["10.89.0.2/24"])) == "pyr12-0a590002"
    assert len(interface_for("pyruntime999", mac_for(["::ffff:ffff"]))) <= 15


class TestAddresses:
    """Against ipaddress, which is too slow to import for a start."""

    @given(st.ip_addresses())
    def test_octets(self, address: Any) -> None:
        assert octets(str(address)) == address.packed

    @pytest.mark.parametrize(
        "text", ["", "10.1", "010.0.0.1", "1.2.3.256", "::g", "1.2.3.4/24", " 1.2.3.4", "1٢.2.3.4"]
    )
    def test_what_is_no_address(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not an IP address"):
            octets(text)

    @given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses(), st.integers(0, 128))
    def test_ranges(self, one: Any, length: int, other: Any, other_length: int) -> None:
        nets = [
            ipaddress.ip_network((int(address), min(bits, address.max_prefixlen)), strict=False)
            if address.version == 6
            else ipaddress.ip_network(f"{address}/{min(bits, 32)}", strict=False)
            for address, bits in ((one, length), (other, other_length))
        ]
        if any(net.version == 6 and net.network_address.ipv4_mapped for net in nets):
            return
        first, second = (parse_range(str(net)) for net in nets)
        assert str(first) == str(nets[0])
        same_kind = nets[0].version == nets[1].version
        assert first.overlaps(second) == (same_kind and nets[0].overlaps(nets[1]))

    @pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "fd00::/129", "10.0.0.0/-1"])
    def test_what_is_no_subnet(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a subnet"):
            parse_range(text)

    def test_an_address_in_place_of_a_subnet(self) -> None:
        with pytest.raises(ValueError, match=r"is an address, not a subnet: the subnet is 10\.0\.0\.0/24"):
            parse_range("10.0.0.5/24")

    def test_what_a_machine_can_have(self) -> None:
        within: Range = parse_range("10.0.0.0/30")
        assert [within.may_be_used(within.first + n) for n in range(4)] == [False, True, True, False]
        within = parse_range("fd00::/126")
        assert [within.may_be_used(within.first + n) for n in range(4)] == [False, True, True, True]

    def test_the_hardware_address(self) -> None:
        assert mac_for(["10.89.0.2/24", "fd00::9/64"]) == "02:50:0a:59:00:02"
        assert mac_for(["fd00::1:2/64"]) == "02:50:00:01:00:02"
