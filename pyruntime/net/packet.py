"""What the rules of nftables would do with one packet, found out by reading them: no packet is sent.

`Ruleset.outcome` walks the base chains of a hook in the kernel's order, follows jumps, and says of each rule whether it
matches. What a rule asks and nobody here knows (a mark, a port, iptables' own extensions) makes it one that *may*
match: such a verdict is told as a possibility, and the walk goes on. An accept ends its base chain, a drop the packet,
whoever says it: that is why one table can't open what another closes.

Of the packet it is taken that it is the first of its connection. Cold: only `network trace` imports this.

Read beside nft(8), libnftables-json(5), and net/netfilter/nf_tables_core.c:/^nft_do_chain/.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pyruntime.errors import StateError

# The names that an address family's rules are tried under, for IP version 4 or 6.
_FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_TERMINAL = ("accept", "drop", "reject", "masquerade", "snat", "dnat", "redirect", "tproxy", "queue")
# iptables' targets, which nftables can't tell more of than their names.
_TARGETS = {"MASQUERADE": "masquerade", "SNAT": "snat", "DNAT": "dnat", "REDIRECT": "redirect", "REJECT": "reject"}
DROPS = ("drop", "reject")
_WITHOUT_EFFECT = ("counter", "log", "limit", "mangle", "quota", "notrack", "flow", "set", "ct helper", "meter")


class Packet(NamedTuple):
    """What is known of it."""

    source: str  # an IP address
    destination: str
    iif: str  # names of interfaces
    oif: str  # "" before it is routed
    iifkind: str = ""  # "bridge", "veth"; "" for hardware
    oifkind: str = ""
    destination_type: str = "unicast"  # "local": an address of the host's; rtnetlink(7), rtm_type

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.destination).version


class Visit(NamedTuple):
    """A rule that the packet meets."""

    table: str  # "inet pyruntime"
    chain: str
    hook: str
    priority: int
    rule: str  # as `nft list ruleset` has it, without its counter
    certain: bool  # whether it matches for sure
    verdict: str  # "" if it has none
    packets: int | None  # that its counter has counted; None: it has none
    bytes: int | None


class Outcome(NamedTuple):
    """What becomes of the packet in one hook."""

    verdict: str  # "accept" or "drop"
    by: str  # what dropped it: a table, chain, and rule or policy
    visits: list[Visit]


class Ruleset:
    """All tables of one network namespace: `nft -j list ruleset`, and `nft -a list ruleset` for the rules' words."""

    def __init__(self, listing: dict[str, Any], text: str = "") -> None:
        """Raises StateError for what is no listing."""
        if not isinstance(listing.get("nftables"), list):
            raise StateError("nft has listed something that is not understood")
        self._chains: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._rules: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self._sets: dict[tuple[str, str, str], list[Any]] = {}
        self._words = dict(_words(text))
        for entry in listing["nftables"]:
            for kind, thing in entry.items():
                if kind == "chain":
                    self._chains[thing["family"], thing["table"], thing["name"]] = thing
                elif kind == "rule":
                    self._rules.setdefault((thing["family"], thing["table"], thing["chain"]), []).append(thing)
                elif kind in ("set", "map"):
                    self._sets[thing["family"], thing["table"], thing["name"]] = thing.get("elem", [])

    def outcome(self, hook: str, packet: Packet) -> Outcome:
        """The packet's way through a hook: "prerouting", "forward", "postrouting", "input" or "output"."""
        visits: list[Visit] = []
        for key, chain in self._base_chains(hook, packet.version):
            verdict, certain = _Walk(self, key, chain, packet, visits).through(key)
            if not (verdict and certain) and chain.get("policy") == "drop":
                return Outcome("drop", f"the policy of chain {key[2]} of table {key[0]} {key[1]}", visits)
            if verdict in DROPS and certain:
                last = visits[-1]
                return Outcome("drop", f"a rule in chain {last.chain} of table {last.table}: {last.rule}", visits)
        return Outcome("accept", "", visits)

    def _base_chains(self, hook: str, version: int) -> list[tuple[tuple[str, str, str], dict[str, Any]]]:
        found = [
            (key, chain)
            for key, chain in self._chains.items()
            if chain.get("hook") == hook and key[0] in _FAMILIES[version]
        ]
        return sorted(found, key=lambda pair: int(pair[1].get("prio", 0)))

    def rules(self, key: tuple[str, str, str]) -> list[dict[str, Any]]:
        """The rules of a chain, in order."""
        return self._rules.get(key, [])

    def elements(self, family: str, table: str, name: str) -> list[Any]:
        """What a set or map holds."""
        return self._sets.get((family, table, name), [])

    def words(self, rule: dict[str, Any]) -> str:
        """The rule as nft writes it, without its counter."""
        key = (rule["family"], rule["table"], rule["handle"])
        return self._words.get(key) or " ".join(_name_of(each) for each in rule["expr"])


class _Walk:
    """One packet in one base chain."""

    def __init__(
        self,
        ruleset: Ruleset,
        base: tuple[str, str, str],
        chain: dict[str, Any],
        packet: Packet,
        visits: list[Visit],
    ) -> None:
        self.ruleset = ruleset
        self.family, self.table, _ = base
        self.chain = chain
        self.packet = packet
        self.visits = visits

    def through(self, key: tuple[str, str, str], depth: int = 0) -> tuple[str, bool]:
        """(the verdict, whether it is sure) of a chain; "" if the packet comes out at its end."""
        for rule in self.ruleset.rules(key):
            matches, verdict = self._meets(rule)
            if matches is False:
                continue
            self._visit(rule, verdict, matches is True)
            kind, _, target = verdict.partition(" ")
            if kind in ("jump", "goto") and depth < 16:  # the kernel's own limit
                inner, sure = self.through((self.family, self.table, target), depth + 1)
                if inner and sure and matches:
                    return inner, True
            if matches and kind in ("goto", "return"):
                return "", True
            if matches and kind in _TERMINAL:
                return kind, True
        return "", False

    def _meets(self, rule: dict[str, Any]) -> tuple[bool | None, str]:
        """(whether the rule matches; None: nobody knows, its verdict)."""
        sure = True
        for expression in rule["expr"]:
            holds, verdict = self._expression(expression)
            if holds is False:
                return False, ""
            sure = sure and holds is True
            if verdict:
                return (True if sure else None), verdict
        return (True if sure else None), ""

    def _visit(self, rule: dict[str, Any], verdict: str, certain: bool) -> None:
        counter = next((each["counter"] for each in rule["expr"] if isinstance(each.get("counter"), dict)), None)
        self.visits.append(
            Visit(
                f"{self.family} {self.table}",
                rule["chain"],
                self.chain["hook"],
                int(self.chain.get("prio", 0)),
                self.ruleset.words(rule),
                certain,
                verdict,
                counter["packets"] if counter else None,
                counter["bytes"] if counter else None,
            )
        )

    def _expression(self, expression: dict[str, Any]) -> tuple[bool | None, str]:
        """(whether it holds; None: nobody knows, the verdict that it is)."""
        kind, value = next(iter(expression.items()))
        if kind == "match":
            return self._match(value), ""
        if kind in ("jump", "goto"):
            return True, f"{kind} {value['target']}"
        if kind == "vmap":
            return self._verdict_map(value)
        if kind in ("dnat", "snat") and isinstance(value, dict) and isinstance(value.get("addr"), dict):
            return None, kind  # to what a map says, if it says something
        if kind in (*_TERMINAL, "return"):
            return True, kind
        if kind == "xt":
            name = str(value.get("name", ""))
            if value.get("type") == "target":
                return True, _TARGETS.get(name, "")
            return (True if name == "comment" else None), ""
        return (True if kind in _WITHOUT_EFFECT else None), ""

    def _match(self, match: dict[str, Any]) -> bool | None:
        operator = match["op"]
        if operator not in ("==", "!=", "in"):
            return None
        left = self._value(match["left"])
        if left is None:
            return None
        if left is _NO_SUCH_FIELD:
            return False
        holds = self._is_in(left, match["right"])
        return (not holds if operator == "!=" else holds) if holds is not None else None

    def _verdict_map(self, vmap: dict[str, Any]) -> tuple[bool | None, str]:
        key = self._value(vmap["key"])
        if key is None:
            return None, ""
        for entry, verdict in _pairs(self._resolved(vmap["data"])):
            if self._is_in(key, [entry]):
                return self._expression(verdict)
        return False, ""

    def _value(self, left: Any) -> Any:
        """What the packet has for the left side of a comparison; None if nobody knows."""
        if not isinstance(left, dict):
            return None
        kind, what = next(iter(left.items()))
        packet = self.packet
        if kind == "concat":
            parts = [self._value(part) for part in what]
            if any(part is _NO_SUCH_FIELD for part in parts):
                return _NO_SUCH_FIELD
            return None if any(part is None for part in parts) else tuple(parts)
        if kind == "meta":
            known = {
                "iifname": packet.iif,
                "oifname": packet.oif,
                "iif": packet.iif,
                "oif": packet.oif,
                "iifkind": packet.iifkind,
                "oifkind": packet.oifkind,
                "nfproto": f"ipv{packet.version}",
                "protocol": "ip" if packet.version == 4 else "ip6",
            }
            return known.get(what["key"])
        if kind == "payload":
            if what.get("protocol") not in ("ip", "ip6"):
                return None
            if what["protocol"] != ("ip" if packet.version == 4 else "ip6"):
                return _NO_SUCH_FIELD
            text = {"saddr": packet.source, "daddr": packet.destination}.get(what["field"])
            return ipaddress.ip_address(text) if text else None
        if kind == "ct":
            return {"state": "new", "status": "none", "direction": "original"}.get(what["key"])
        if kind == "fib":
            is_type = what.get("result") == "type" and what.get("flags") in ("daddr", ["daddr"])
            return packet.destination_type if is_type else None
        return None

    def _resolved(self, right: Any) -> list[Any]:
        """The right side of a comparison, as the list of what it may be."""
        if isinstance(right, str) and right.startswith("@"):
            return self.ruleset.elements(self.family, self.table, right[1:])
        if isinstance(right, dict) and "set" in right:
            return self._resolved(right["set"])
        return right if isinstance(right, list) else [right]

    def _is_in(self, value: Any, right: Any) -> bool | None:
        """Whether one of them is the value; None if nobody knows."""
        unsure = False
        for item in self._resolved(right):
            is_it = _is(value, item)
            if is_it:
                return True
            unsure |= is_it is None
        return None if unsure else False


_NO_SUCH_FIELD = object()  # of a header that the packet does not have


def _is(value: Any, item: Any) -> bool | None:
    """Whether a value is one item of a set; None if nobody knows."""
    if isinstance(item, dict) and "elem" in item:
        return _is(value, item["elem"]["val"])
    if isinstance(value, tuple):
        parts = item.get("concat") if isinstance(item, dict) else None
        if not isinstance(parts, list) or len(parts) != len(value):
            return None
        told = [_is(*pair) for pair in zip(value, parts, strict=True)]
        return False if False in told else None if None in told else True
    if isinstance(value, str):
        return fnmatchcase(value, item) if isinstance(item, str) else None
    try:
        if isinstance(item, str):
            return bool(value == ipaddress.ip_address(item))
        if isinstance(item, dict) and "prefix" in item:
            network = ipaddress.ip_network(f"{item['prefix']['addr']}/{item['prefix']['len']}", strict=False)
            return value in network
        if isinstance(item, dict) and "range" in item:
            low, high = map(ipaddress.ip_address, item["range"])
            return bool(low.version == value.version and low <= value <= high)
    except ValueError:
        return None
    return None


def _pairs(elements: Iterable[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    for element in elements:
        if isinstance(element, list) and len(element) == 2 and isinstance(element[1], dict):
            yield element[0], element[1]


def _words(text: str) -> Iterator[tuple[tuple[str, str, int], str]]:
    """(family, table, handle) -> the rule's words, out of `nft -a list ruleset`. A rule may take several lines."""
    family = table = pending = ""
    for line in text.splitlines():
        opened = re.match(r"table (\S+) (\S+) \{", line)
        if opened:
            family, table = opened.groups()
            continue
        stripped = line.strip()
        ended = re.fullmatch(r"(.*?)\s*# handle (\d+)", stripped)
        if ended is None:
            pending = f"{pending} {stripped}" if pending or stripped.endswith(("{", ",")) else ""
        else:
            rule = f"{pending} {ended[1]}".strip()
            pending = ""
            if not rule.endswith("{"):  # else a chain or a set
                yield (family, table, int(ended[2])), re.sub(r"counter packets \d+ bytes \d+ ?", "", rule).strip()


def _name_of(expression: dict[str, Any]) -> str:
    kind, value = next(iter(expression.items()))
    return f"{kind} {value.get('name')}" if kind == "xt" and isinstance(value, dict) else kind
