"""The way of a packet from a container to the outside, hop by hop, and what is in its way. No packet is sent.

    1  eth0 in the container            is it up, which addresses, which route, is the gateway's hardware address known
    2  the cable's end on the host      a veth, a port of the bridge
    3  the bridge                       rules before routing; does the host forward at all; its route; rules of forward
    4  the host's way out               rules after routing, such as masquerade; the next machine

Every device, address, route and neighbour is asked of the kernel by pyroute2, which `network trace` alone has the time
for; the rules by `nft list ruleset`, and what they would do is found out by packet.py.

Cold. Read beside ip-route(8) `get`, and the picture in net/__init__.py.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from pyruntime.errors import Error, StateError, UnsupportedError
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.net.packet import DROPS, Packet, Ruleset, Visit

# RFC 5737 and RFC 3849: nobody's, and so like any machine far away.
OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}
_NEIGHBOUR = {
    1: "incomplete",
    2: "reachable",
    4: "stale",
    8: "delay",
    16: "probe",
    32: "failed",
    64: "noarp",
    128: "permanent",
}
_UNREACHABLE = 1 | 32
_FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOCAL = 2  # RTN_LOCAL of rtnetlink(7)


class Hop(TypedDict):
    """One device on the way, and what happens to the packet at it."""

    place: str  # "container" or "host"
    interface: str
    kind: str  # "veth", "bridge"; "" for hardware
    up: bool
    mtu: int
    mac: str
    addresses: list[str]
    master: str  # the bridge that it is a port of
    route: str  # by which the packet goes on from here
    neighbour: str  # whom it is handed to
    rules: list[dict[str, Any]]  # packet.Visit
    problems: list[str]


class Trace(TypedDict):
    """The whole way."""

    source: str
    destination: str
    hops: list[Hop]
    translated: bool  # whether it leaves under an address of the host
    arrives: bool  # as far as can be seen from here


class Route(TypedDict):
    """What the kernel answers to the question for a way."""

    interface: int
    gateway: str
    source: str
    local: bool


def trace(pid: int, destination: str = "", *, version: int = 4) -> Trace:
    """The way from the network namespace of a process to an address; to somewhere outside if none is given.

    Raises Error: no such process, no root, no pyroute2; ValueError for what is no address.
    """
    destination = str(ipaddress.ip_address(destination)) if destination else OUTSIDE[version]
    host = View("/proc/self/ns/net", "host")
    try:
        inside = View(f"/proc/{pid}/ns/net", "container")
        try:
            return _Tracer(host, inside, destination).trace()
        finally:
            inside.close()
    finally:
        host.close()


class View:
    """What pyroute2 says of one network namespace. To be closed."""

    def __init__(self, namespace_path: str, place: str) -> None:
        """Raises UnsupportedError where pyroute2 is not installed, OSError, KernelError."""
        try:
            from pyroute2 import IPRoute
            from pyroute2.netlink.exceptions import NetlinkError
        except ImportError as error:
            message = "pyroute2 is not installed, by which networks are looked at"
            raise UnsupportedError(message, hint="scripts/run installs it with the command") from error
        self._refusal: type[Exception] = NetlinkError
        self.place = place
        status = os.stat(namespace_path)
        self.identity = status.st_dev, status.st_ino
        home_fd, namespace_fd = (os.open(path, os.O_RDONLY) for path in ("/proc/self/ns/net", namespace_path))
        try:
            syscalls.setns(namespace_fd, c.CLONE_NEWNET)
            try:
                self._route: Any = IPRoute()  # a socket belongs to the namespace that it was opened in
            finally:
                syscalls.setns(home_fd, c.CLONE_NEWNET)
        finally:
            os.close(home_fd)
            os.close(namespace_fd)
        self._links: dict[int, Any] = {link["index"]: link for link in self._route.get_links()}

    def close(self) -> None:
        """Close the socket."""
        self._route.close()

    def indices(self) -> list[int]:
        """The devices, by their indices."""
        return list(self._links)

    def link(self, index: int | None) -> Any:
        """The device of this index, None if there is none."""
        return self._links.get(index) if index else None

    def name(self, index: int | None) -> str:
        """The name of the device of this index, "" if there is none."""
        link = self.link(index)
        return str(link.get_attr("IFLA_IFNAME")) if link is not None else ""

    def kind(self, index: int | None) -> str:
        """ "veth", "bridge"; "" for hardware."""
        link = self.link(index)
        info = link.get_attr("IFLA_LINKINFO") if link is not None else None
        return str(info.get_attr("IFLA_INFO_KIND")) if info else ""

    def addresses(self, index: int) -> list[str]:
        """The addresses of a device, with their prefix lengths."""
        found = self._route.get_addr(index=index)
        return [f"{each.get_attr('IFA_LOCAL') or each.get_attr('IFA_ADDRESS')}/{each['prefixlen']}" for each in found]

    def route(self, destination: str, source: str = "", iif: int = 0) -> Route | None:
        """The way that the kernel would choose; None if it knows none."""
        asked: dict[str, Any] = (
            {"dst": destination} | ({"src": source} if source else {}) | ({"iif": iif} if iif else {})
        )
        try:
            found = next(iter(self._route.route("get", **asked)))
        except self._refusal:
            return None
        return {
            "interface": found.get_attr("RTA_OIF") or 0,
            "gateway": found.get_attr("RTA_GATEWAY") or "",
            "source": found.get_attr("RTA_PREFSRC") or "",
            "local": found["type"] == _LOCAL,
        }

    def neighbour(self, address: str, index: int) -> tuple[str, bool]:
        """(what is known of a neighbour's hardware address, whether it can't be reached)."""
        for each in self._route.get_neighbours(family=_FAMILY[ipaddress.ip_address(address).version], ifindex=index):
            if each.get_attr("NDA_DST") == address and each["ifindex"] == index:
                mac, state = each.get_attr("NDA_LLADDR"), each["state"]
                told = f"{address} is at {mac}" if mac else f"{address} has not answered"
                return f"{told} ({_NEIGHBOUR.get(state, state)})", bool(state & _UNREACHABLE)
        return f"{address} has not been asked for yet", False

    def hop(self, index: int) -> Hop:
        """A device as a hop."""
        link = self._links[index]
        return {
            "place": self.place,
            "interface": self.name(index),
            "kind": self.kind(index),
            "up": link["state"] == "up",
            "mtu": link.get_attr("IFLA_MTU") or 0,
            "mac": link.get_attr("IFLA_ADDRESS") or "",
            "addresses": self.addresses(index),
            "master": self.name(link.get_attr("IFLA_MASTER")),
            "route": "",
            "neighbour": "",
            "rules": [],
            "problems": [] if link["state"] == "up" else [f"{self.name(index)} is down"],
        }


class _Tracer:
    """Follows one packet."""

    def __init__(self, host: View, inside: View, destination: str) -> None:
        self.host = host
        self.inside = inside
        self.destination = destination
        self.version = ipaddress.ip_address(destination).version
        self.source = ""
        self.hops: list[Hop] = []
        self.translated = False
        self.rules, self.no_rules = _ruleset()

    def trace(self) -> Trace:
        arrives = self._from_the_container()
        return {
            "source": self.source,
            "destination": self.destination,
            "hops": self.hops,
            "translated": self.translated,
            "arrives": arrives and not any(hop["problems"] for hop in self.hops),
        }

    def _from_the_container(self) -> bool:
        """The container's own hop. Whether the packet may arrive."""
        if self.inside.identity == self.host.identity:
            return self._out_of_the_host("", 0)
        route = self.inside.route(self.destination)
        if route is None:
            return self._nowhere()
        hop = self._add(self.inside, route["interface"], route)
        self.source = route["source"]
        if route["local"]:
            return True
        if self.version == 6 and self.source.startswith("fe80"):
            hop["problems"].append("the container has no IPv6 address beyond its link")
        peer = self.inside.link(route["interface"]).get_attr("IFLA_LINK")
        if hop["kind"] != "veth" or self.host.link(peer) is None:
            hop["problems"].append(
                "its other end is not in the host's network namespace: the way on can't be seen from here"
            )
            return False
        return self._at_the_host(peer, switched=not route["gateway"])

    def _nowhere(self) -> bool:
        """No route: the devices that there are, and why they lead nowhere."""
        for index in self.inside.indices():
            if self.inside.name(index) != "lo" and self.inside.addresses(index):
                self.hops.append(self.inside.hop(index))
        if not self.hops:
            self.hops.append(self.inside.hop(1))
            self.hops[0]["problems"].append("the container has nothing but a loopback: --net bridge connects it")
        else:
            self.hops[-1]["problems"].append(f"the container has no route to {self.destination}")
        return False

    def _at_the_host(self, port: int, *, switched: bool) -> bool:
        """The cable's end, the bridge behind it, and what the host does with what comes in there."""
        hop = self._add(self.host, port)
        entry = self.host.link(port).get_attr("IFLA_MASTER") or port
        if entry != port:
            hop = self._add(self.host, entry)
        elif not self._leads_back_by(port):
            hop["problems"].append("it is no port of a bridge, and no route leads back by it: the cable ends here")
            return False
        if switched and not self._is_the_hosts():
            hop["route"] = "switched to another port of the bridge: the destination is on the same network"
            return True
        self._meet_rules(hop, "prerouting", entry, 0)
        return self._out_of_the_host(self.host.name(entry), entry)

    def _leads_back_by(self, port: int) -> bool:
        """Whether the host reaches the container by this cable alone, as the CNI plugin ptp has it."""
        route = self.host.route(self.source)
        return route is not None and route["interface"] == port

    def _is_the_hosts(self) -> bool:
        route = self.host.route(self.destination)
        return route is not None and route["local"]

    def _out_of_the_host(self, came_by: str, entry: int) -> bool:
        """Routing on the host, and its own way out. `entry`: where the packet came in; 0: it is the host's own."""
        hop = self.hops[-1] if self.hops else None
        route = self.host.route(self.destination, self.source, entry) if entry else self.host.route(self.destination)
        closed = entry and _sysctl(_FORWARDING[self.version]) == "0"
        if route is None and closed:
            route = self.host.route(self.destination)  # an error of the kernel's, since it does not forward
        if route is not None and route["local"]:
            if hop is None:
                hop = self._add(self.host, route["interface"])
            hop["route"] = "to this host itself"
            self._meet_rules(hop, "input", entry, 0)
            return True
        if closed and hop is not None:
            hop["problems"].append(
                f"the host does not forward: sysctl {_FORWARDING[self.version].replace('/', '.')} is 0"
            )
        if route is None:
            hop = hop or self._add(self.host, 1)
            hop["problems"].append(f"the host has no route to {self.destination}")
            return False
        if hop is not None:
            hop["route"] = _told(route, self.host)
            self._meet_rules(hop, "forward", entry, route["interface"])
        out = self._add(self.host, route["interface"], None if hop else route)
        self.source = self.source or route["source"]
        if hop is None:
            self._meet_rules(out, "output", 0, route["interface"])
        self._meet_rules(out, "postrouting", 0, route["interface"])
        self._meet_neighbour(out, self.host, route)
        if entry and not self.translated and ipaddress.ip_address(self.source).is_private:
            out["problems"].append(
                f"no rule translates the source: who answers must have a route to {self.source} by this host"
            )
        return True

    def _add(self, view: View, index: int, route: Route | None = None) -> Hop:
        """One more hop; with a route, by which the packet leaves it."""
        hop = view.hop(index)
        self.hops.append(hop)
        if route is not None:
            hop["route"] = _told(route, view)
            self._meet_neighbour(hop, view, route)
        return hop

    def _meet_neighbour(self, hop: Hop, view: View, route: Route) -> None:
        if route["local"]:
            return
        neighbour = route["gateway"] or self.destination
        hop["neighbour"], gone = view.neighbour(neighbour, route["interface"])
        if gone:
            hop["problems"].append(f"{neighbour} does not answer on {hop['interface']}")

    def _meet_rules(self, hop: Hop, hook: str, iif: int, oif: int) -> None:
        """The rules of one hook that concern the packet."""
        if self.rules is None:
            if self.no_rules:
                hop["problems"].append(self.no_rules)
                self.no_rules = ""  # said once
            return
        view = self.host
        packet = Packet(
            self.source or OUTSIDE[self.version],
            self.destination,
            view.name(iif),
            view.name(oif),
            view.kind(iif),
            view.kind(oif),
            "local" if self._is_the_hosts() else "unicast",
        )
        outcome = self.rules.outcome(hook, packet)
        hop["rules"] += [visit._asdict() for visit in outcome.visits]
        if outcome.verdict == "drop":
            hop["problems"].append(f"dropped by {outcome.by}")
        hop["problems"] += [f"may be dropped by {_named(visit)}" for visit in _possible_drops(outcome.visits)]
        self.translated |= any(visit.verdict in ("masquerade", "snat") for visit in outcome.visits)


def _possible_drops(visits: list[Visit]) -> Iterator[Visit]:
    return (visit for visit in visits if visit.verdict in DROPS and not visit.certain)


def _named(visit: Visit) -> str:
    return f"a rule in chain {visit.chain} of table {visit.table}: {visit.rule}"


def _told(route: Route, view: View) -> str:
    via = f"via {route['gateway']} " if route["gateway"] else ""
    source = f", as {route['source']}" if route["source"] else ""
    return f"{via}by {view.name(route['interface'])}{source}"


def _ruleset() -> tuple[Ruleset | None, str]:
    """The host's rules; or None and why there are none to see."""
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if nft is None:
        return None, "nft is not installed: what the host's rules do is not seen"
    listings = []
    for flag in ("-j", "-a"):
        done = subprocess.run([nft, flag, "list", "ruleset"], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            return None, f"nft can't list the rules: {done.stderr.strip()!r}"
        listings.append(done.stdout)
    try:
        return Ruleset(json.loads(listings[0] or '{"nftables": []}'), listings[1]), ""
    except (ValueError, StateError) as error:
        return None, f"nft's list of rules is not understood: {error}"


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError as error:
        raise Error(f"sysctl {name}: {error.strerror}") from error
