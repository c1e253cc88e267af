"""What nftables' rules would do with a packet, read from listings as `nft -j` and `nft -a` write them."""

from __future__ import annotations

from typing import Any

import pytest

from pyruntime.errors import StateError
from pyruntime.net.packet import Outcome, Packet, Ruleset

OUT = Packet("10.89.0.2", "192.0.2.1", "br0", "out0", "bridge", "veth")
OUT6 = Packet("fd00::2", "2001:db8::1", "br0", "out0", "bridge", "veth")


def is_(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def ip(field: str, protocol: str = "ip") -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def prefix(text: str) -> dict[str, Any]:
    address, length = text.split("/")
    return {"prefix": {"addr": address, "len": int(length)}}


ACCEPT, DROP, MASQUERADE = {"accept": None}, {"drop": None}, {"masquerade": None}
FROM_BRIDGE = is_(meta("iifname"), "br0")


class Builder:
    """A listing, rule by rule."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = [{"metainfo": {"json_schema_version": 1}}]
        self.handles = 0

    def chain(self, name: str, *rules: Any, table: str = "inet t", hook: str = "", prio: int = 0, **more: Any) -> None:
        family, table = table.split()
        base = {"type": "filter", "hook": hook, "prio": prio, "policy": "accept"} if hook else {}
        named = {"family": family, "table": table}
        self.entries.append({"chain": {**named, "name": name, **base, **more}})
        for rule in rules:
            self.handles += 1
            expressions = rule if isinstance(rule, list) else [rule]
            self.entries.append({"rule": {**named, "chain": name, "handle": self.handles, "expr": expressions}})

    def set(self, name: str, *elements: Any, kind: str = "set") -> None:
        self.entries.append({kind: {"family": "inet", "table": "t", "name": name, "elem": list(elements)}})

    def forward(self, packet: Packet = OUT, text: str = "") -> Outcome:
        return Ruleset({"nftables": self.entries}, text).outcome("forward", packet)


@pytest.fixture
def rules() -> Builder:
    return Builder()


def verdicts(outcome: Outcome) -> list[tuple[str, bool]]:
    return [(visit.verdict, visit.certain) for visit in outcome.visits]


def test_no_rules_let_everything_through(rules: Builder) -> None:
    assert rules.forward() == Outcome("accept", "", [])


def test_a_drop_after_anothers_accept_counts(rules: Builder) -> None:
    """What firewalld and its like do to the accept in our own table."""
    rules.chain("theirs", DROP, table="inet firewall", hook="forward", prio=10)
    rules.chain("ours", [FROM_BRIDGE, {"counter": {"packets": 3, "bytes": 180}}, ACCEPT], hook="forward")
    outcome = rules.forward()
    assert (outcome.verdict, outcome.by) == ("drop", "a rule in chain theirs of table inet firewall: drop")
    first = outcome.visits[0]
    assert (first.table, first.chain, first.verdict, first.packets, first.bytes) == ("inet t", "ours", "accept", 3, 180)


def test_the_order_is_that_of_the_priorities(rules: Builder) -> None:
    for prio in (10, -5, 0):
        rules.chain(f"at{prio}", ACCEPT, hook="forward", prio=prio)
    assert [visit.chain for visit in rules.forward().visits] == ["at-5", "at0", "at10"]


def test_a_policy_counts_where_no_rule_has_said_anything(rules: Builder) -> None:
    rules.chain("closed", [is_(meta("iifname"), "br1"), ACCEPT], hook="forward", policy="drop")
    assert rules.forward().by == "the policy of chain closed of table inet t"
    assert rules.forward(OUT._replace(iif="br1")).verdict == "accept"


def test_families_that_do_not_concern_the_packet(rules: Builder) -> None:
    rules.chain("six", DROP, table="ip6 t", hook="forward")
    rules.chain("bridged", DROP, table="bridge t", hook="forward")
    assert rules.forward().verdict == "accept"
    assert rules.forward(OUT6).verdict == "drop"


MATCHES = {
    "name": (is_(meta("oifname"), "out0"), True),
    "another name": (is_(meta("oifname"), "out1"), False),
    "not the name": (is_(meta("oifname"), "out0", "!="), False),
    "a pattern": (is_(meta("iifname"), "br*"), True),
    "a set of names": (is_(meta("iifname"), {"set": ["br1", "br0"]}), True),
    "a named set": (is_(meta("iifname"), "@bridges"), True),
    "not in a named set": (is_(meta("oifname"), "@bridges", "!="), True),
    "a pair": (is_({"concat": [meta("iifname"), meta("oifname")]}, "@inside"), False),
    "a pair with a part that nobody knows": (is_({"concat": [meta("iifname"), meta("mark")]}, "@inside"), None),
    "an address": (is_(ip("daddr"), "192.0.2.1"), True),
    "a subnet": (is_(ip("saddr"), prefix("10.89.0.0/24")), True),
    "another subnet": (is_(ip("saddr"), prefix("10.90.0.0/24")), False),
    "a range": (is_(ip("saddr"), {"range": ["10.89.0.0", "10.89.0.9"]}), True),
    "addresses": (is_(ip("daddr"), {"set": [prefix("10.0.0.0/8"), "192.0.2.1"]}), True),
    "the other IP": (is_(ip("saddr", "ip6"), prefix("::/0")), False),
    "the other IP, refused": (is_(ip("saddr", "ip6"), "::1", "!="), False),
    "the version": (is_(meta("nfproto"), "ipv4"), True),
    "what an interface is": (is_(meta("iifkind"), "bridge"), True),
    "an answer": (is_({"ct": {"key": "state"}}, ["established", "related"], "in"), False),
    "the first of a connection": (is_({"ct": {"key": "state"}}, ["new", "untracked"], "in"), True),
    "a published port": (is_({"ct": {"key": "status"}}, "dnat", "in"), False),
    "an address of the host's": (is_({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), False),
    "a port": (is_({"payload": {"protocol": "tcp", "field": "dport"}}, 25), None),
    "a mark": (is_(meta("mark"), 1), None),
    "a comparison": (is_(meta("length"), 100, "<"), None),
    "iptables' comment": ({"xt": {"type": "match", "name": "comment"}}, True),
    "another of iptables' matches": ({"xt": {"type": "match", "name": "addrtype"}}, None),
}


@pytest.mark.parametrize("name", MATCHES)
def test_what_matches(rules: Builder, name: str) -> None:
    expression, matches = MATCHES[name]
    rules.set("bridges", "br0", {"elem": {"val": "br7"}})
    rules.set("inside", {"concat": ["br0", "br0"]})
    rules.chain("c", [expression, DROP], hook="forward")
    outcome = rules.forward()
    assert verdicts(outcome) == ([] if matches is False else [("drop", matches is True)])
    assert outcome.verdict == ("drop" if matches else "accept")


def test_jump_and_return(rules: Builder) -> None:
    rules.chain("base", [FROM_BRIDGE, {"jump": {"target": "inner"}}], DROP, hook="forward")
    rules.chain("inner", [is_(ip("daddr"), "192.0.2.1"), {"return": None}], ACCEPT)
    assert verdicts(rules.forward()) == [("jump inner", True), ("return", True), ("drop", True)]
    assert verdicts(rules.forward(OUT._replace(destination="192.0.2.2"))) == [("jump inner", True), ("accept", True)]


def test_goto_does_not_come_back(rules: Builder) -> None:
    rules.chain("base", {"goto": {"target": "inner"}}, DROP, hook="forward")
    rules.chain("inner", {"counter": None})
    assert rules.forward().verdict == "accept"


def test_a_map_of_verdicts(rules: Builder) -> None:
    data = {"set": [["br1", DROP], ["br0", {"jump": {"target": "inner"}}]]}
    rules.chain("base", {"vmap": {"key": meta("iifname"), "data": data}}, hook="forward")
    rules.chain("inner", DROP)
    assert verdicts(rules.forward()) == [("jump inner", True), ("drop", True)]


def test_chains_that_call_each_other_for_ever_end(rules: Builder) -> None:
    rules.chain("base", {"jump": {"target": "base"}}, hook="forward")
    assert rules.forward().verdict == "accept"


def test_iptables_targets(rules: Builder) -> None:
    target = {"xt": {"type": "target", "name": "MASQUERADE"}}
    rules.chain("POSTROUTING", [is_(ip("saddr"), prefix("10.89.0.0/24")), target], table="ip nat", hook="postrouting")
    outcome = Ruleset({"nftables": rules.entries}).outcome("postrouting", OUT)
    assert verdicts(outcome) == [("masquerade", True)]


def test_a_published_port_may_be_meant(rules: Builder) -> None:
    port = {"map": {"key": {"payload": {"protocol": "th", "field": "dport"}}, "data": "@ports"}}
    rules.chain("c", {"dnat": {"family": "ip", "addr": port}}, hook="forward")
    assert verdicts(rules.forward()) == [("dnat", False)]


TEXT = """\
table inet t { # handle 1
    set bridges { # handle 1
        type ifname
        elements = { "br0",
                 "br1" }
    }

    chain c { # handle 2
        type filter hook forward priority filter; policy accept;
        iifname "br0" counter packets 3 bytes 180 drop comment "no way" # handle 1
        ip daddr { 192.0.2.1,
               192.0.2.3 } counter packets 0 bytes 0 # handle 2
    }
}
"""


def test_rules_are_told_in_nfts_own_words(rules: Builder) -> None:
    counter = {"counter": {"packets": 3, "bytes": 180}}
    rules.chain("c", [FROM_BRIDGE, counter, DROP], [is_(ip("daddr"), "192.0.2.1"), counter], hook="forward")
    assert [visit.rule for visit in rules.forward(text=TEXT).visits] == ['iifname "br0" drop comment "no way"']
    rules.entries[2]["rule"]["expr"].pop()
    assert [visit.rule for visit in rules.forward(text=TEXT).visits][1] == "ip daddr { 192.0.2.1, 192.0.2.3 }"


def test_what_is_no_listing() -> None:
    with pytest.raises(StateError):
        Ruleset({})
