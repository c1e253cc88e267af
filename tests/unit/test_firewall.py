"""The text of the nftables rules, the elements that a published port is, and who has one that is taken. Pure."""

from __future__ import annotations

import subprocess

import pytest

from pyruntime.errors import Error, StateError, UnsupportedError
from pyruntime.net import ports, ruleset
from pyruntime.net.types import Endpoint, Network, Port

NETWORK: Network = {
    "name": "default",
    "bridge": "pyruntime0",
    "subnets": [
        {"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"},
        {"subnet": "fd00:89::/64", "gateway": "fd00:89::1"},
    ],
    "mtu": 0,
}


def port(number: int, inside: int = 80, address: str = "") -> Port:
    return {"address": address, "hostPort": number, "port": inside, "protocol": "tcp"}


def endpoint(*listed: Port, id: str = "web", ips: tuple[str, ...] = ("10.89.0.2/24", "fd00:89::2/64")) -> Endpoint:
    return {
        "id": id,
        "network": "default",
        "ips": list(ips),
        "mac": "02:50:0a:59:00:02",
        "interface": "pyr0-0a590002",
        "hostname": "",
        "ports": list(listed),
        "bootId": "",
    }


class TestRules:
    def test_a_network_is_elements(self) -> None:
        assert ruleset.network_rules(NETWORK).splitlines() == [
            'add element inet pyruntime bridges { "pyruntime0" }',
            'add element inet pyruntime inside { "pyruntime0" . "pyruntime0" }',
            "add element inet pyruntime subnets4 { 10.89.0.0/24 }",
            "add element inet pyruntime subnets6 { fd00:89::/64 }",
        ]

    def test_removing_takes_away_what_making_adds(self) -> None:
        added = ruleset.network_rules(NETWORK)
        assert ruleset.removal_rules(NETWORK) == added + added.replace("add element", "delete element")

    def test_one_table_and_no_other(self) -> None:
        for text in (ruleset.base_rules(), ruleset.base_rules(["127.0.0.0/8", "::1"]), ruleset.network_rules(NETWORK)):
            words = [line.split() for line in text.splitlines() if " inet " in line]
            assert {line[line.index("inet") + 1] for line in words} == {"pyruntime"}
            assert "flush ruleset" not in text

    def test_the_rules_are_replaced_and_the_elements_stay(self) -> None:
        assert ruleset.base_rules().splitlines()[:3] == [
            "add table inet pyruntime",
            "flush table inet pyruntime",
            "table inet pyruntime {",
        ]
        assert "elements" not in ruleset.base_rules()

    def test_published_ports_are_for_local_addresses_alone(self) -> None:
        chain = ruleset.base_rules().partition("chain published {")[2].partition("}")[0].split("\n")
        rules = [line.strip() for line in chain if line.strip()]
        assert rules[0] == "fib daddr type != local return"
        assert all(" map @" in rule for rule in rules[2:])

    def test_without_fib_the_local_addresses_are_listed(self) -> None:
        text = ruleset.base_rules(["127.0.0.0/8", "198.51.100.1", "::1"])
        assert "fib" not in text
        assert "ip daddr != @local4 return" in text
        assert text.endswith(ruleset.local_rules(["127.0.0.0/8", "198.51.100.1", "::1"]))
        assert "add element inet pyruntime local6 { ::1 }" in text

    @pytest.mark.needs("nft")
    @pytest.mark.parametrize("local", [None, ["127.0.0.0/8", "::1"]], ids=["fib", "listed"])
    def test_nft_understands(self, local: list[str] | None) -> None:
        text = (
            ruleset.base_rules(local)
            + ruleset.network_rules(NETWORK)
            + ruleset.closed_rules([4, 6])
            + ruleset.removal_rules(NETWORK)
        )
        command = ["unshare", "--net", "nft", "-f", "-"]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


class TestElements:
    TCP_8080 = bytes.fromhex("06000000 1f900000")

    def test_at_every_address(self) -> None:
        assert ports.elements(endpoint(port(8080))) == [
            ("ports4", self.TCP_8080, bytes.fromhex("0a590002 00500000")),
            ("ports6", self.TCP_8080, bytes.fromhex("fd000089 00000000 00000000 00000002 00500000")),
        ]

    def test_at_one(self) -> None:
        assert ports.elements(endpoint(port(8080, address="127.0.0.1"))) == [
            ("bound4", bytes.fromhex("7f000001") + self.TCP_8080, bytes.fromhex("0a590002 00500000")),
        ]

    def test_at_every_address_of_one_version(self) -> None:
        assert [name for name, _, _ in ports.elements(endpoint(port(8080, address="::")))] == ["ports6"]
        assert [name for name, _, _ in ports.elements(endpoint(port(8080), ips=("10.89.0.2/24",)))] == ["ports4"]

    def test_the_network_has_no_such_version(self) -> None:
        with pytest.raises(Error, match=r"\[2001:db8::1\]:8080/tcp can't be published: .* has no IPv6 subnet"):
            ports.elements(endpoint(port(8080, address="2001:db8::1"), ips=("10.89.0.2/24",)))

    def test_at_the_loopback_of_ipv6(self) -> None:
        with pytest.raises(UnsupportedError, match=r"\[::1\]:8080/tcp can't be published.*\(publish it at 127.0.0.1\)"):
            ports.elements(endpoint(port(8080, address="::1")))

    def test_an_element_as_text(self) -> None:
        assert [ports.target_of(data) for _, _, data in ports.elements(endpoint(port(8080, 81)))] == [
            "10.89.0.2:81",
            "[fd00:89::2]:81",
        ]


class TestTakenByAContainer:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("", ""),
            ("", "127.0.0.1"),
            ("127.0.0.1", ""),
            ("127.0.0.1", "127.0.0.1"),
            ("", "2001:db8::1"),
            ("::", "2001:db8::1"),
        ],
    )
    def test_they_overlap(self, one: str, other: str) -> None:
        holder = endpoint(port(8080, address=other), id="holder")
        with pytest.raises(StateError) as caught:
            ports.refuse_published(endpoint(port(8080, address=one)), holder)
        assert "8080/tcp is taken: the container holder of the network default has it" in str(caught.value)

    @pytest.mark.parametrize(
        ("one", "other"), [("127.0.0.1", "127.0.0.2"), ("127.0.0.1", "2001:db8::1"), ("0.0.0.0", "::")]
    )
    def test_they_do_not(self, one: str, other: str) -> None:
        ports.refuse_published(endpoint(port(8080, address=one)), endpoint(port(8080, address=other), id="holder"))

    def test_another_protocol_or_port_is_free(self) -> None:
        udp: Port = {**port(8080), "protocol": "udp"}
        ports.refuse_published(endpoint(port(8080)), endpoint(udp, port(8081), id="holder"))
