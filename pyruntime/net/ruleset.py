"""The nftables rules of all networks, as text for nft(8): one table of our own, in which every network is an element.

    a packet comes in          and leaves
    prerouting (raw)           martians: 127.0.0.0/8 is this host alone, whoever asks for it on a cable
    prerouting, output (nat)   published: to a port of this host that a container has -> to the container
    forward (filter)           forward, inbound: from a container: wherever it likes, but to other networks' containers;
                               to a container: answers, and what came through a published port
    postrouting (nat)          from a container to the outside: under the host's address. The other way a client keeps
                               its own, and the server sees it

The rules are the same whatever networks and ports there are. These are elements of sets and maps, so that a start adds
a few bytes, and never a rule; and a packet is looked up once, however many ports are published.

An accept here is no pass through other tables: a drop in one of those counts (forwarding.py tells of it).

Pure: nothing is run. Read beside nft(8), and iptables' rules of libnetwork, daemon/libnetwork/drivers/bridge.
"""

from __future__ import annotations

from pyruntime.net.addresses import octets
from pyruntime.net.firewall import TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyruntime.net.types import Network

# Without this condition the rules would take what a container sends to the same port of *another* machine. The kernel
# knows its own addresses, also those that it gets later. Not every kernel was built with it (CONFIG_NFT_FIB_INET).
LOCAL = """\
        fib daddr type != local return
"""
# In its place: the addresses that the host had when a port was published last.
_LOCAL_LISTED = """\
        ip daddr != @local4 return
        ip6 daddr != @local6 return
"""
_LOCAL_SETS = """\
    set local4 { type ipv4_addr; flags interval; auto-merge; }
    set local6 { type ipv6_addr; flags interval; auto-merge; }
"""

_BASE = """\
add table inet TABLE
flush table inet TABLE
table inet TABLE {
    # The networks: their bridges, each with itself, and their subnets.
    set bridges { type ifname; }
    set inside { type ifname . ifname; }
    set subnets4 { type ipv4_addr; flags interval; }
    set subnets6 { type ipv6_addr; flags interval; }

    # What this host forwards for containers alone, since it did not forward at all before there were any.
    set closed { type nf_proto; }

    # The published ports: protocol and port at any address of this host, or at one -> a container's address and port.
    map ports4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
    map ports6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
    map bound4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
    map bound6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
LOCAL_SETS
    # route_localnet, which a port at 127.0.0.1 takes, would open the loopback to containers and to neighbours.
    chain martians {
        type filter hook prerouting priority raw; policy accept;
        iifname != "lo" ip daddr 127.0.0.0/8 counter drop
    }

    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump published
    }

    chain output {
        type nat hook output priority -100; policy accept;
        jump published
    }

    chain published {
LOCAL
        ip6 daddr ::1 return comment "IPv6 has no route_localnet: answers to ::1 would be dropped"
        dnat ip to ip daddr . meta l4proto . th dport map @bound4
        dnat ip6 to ip6 daddr . meta l4proto . th dport map @bound6
        meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports4
        meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @ports6
    }

    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname . oifname @inside counter accept comment "within a network, where bridged frames are filtered"
        oifname @bridges jump inbound
        iifname @bridges counter accept comment "containers to the outside"
        meta iifkind "bridge" meta oifkind "bridge" accept comment "frames on bridges of others"
        meta nfproto @closed counter drop comment "this host is a router for containers alone"
    }

    chain inbound {
        ct state established,related counter accept comment "answers to containers"
        ct status dnat counter accept comment "published ports"
        counter drop comment "unpublished ports, and containers of other networks"
    }

    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "lo" accept
        ip saddr @subnets4 oifname != @bridges counter masquerade comment "containers to the outside"
        ip6 saddr @subnets6 oifname != @bridges counter masquerade comment "containers to the outside"
        ip saddr @subnets4 oifname @bridges ct status dnat counter masquerade comment "containers to published ports"
        ip6 saddr @subnets6 oifname @bridges ct status dnat counter masquerade comment "containers to published ports"
        ip saddr 127.0.0.0/8 oifname @bridges counter masquerade comment "this host to a port at its loopback"
    }
}
"""


def base_rules(local: Iterable[str] | None = None) -> str:
    """The table with all of its rules, which replace those that it has; the elements that it has stay.

    local: this host's own addresses and subnets, where the kernel can't be asked for them by a rule; None: it can.
    """
    text = _BASE.replace("TABLE", TABLE)
    if local is None:
        return text.replace("LOCAL_SETS\n", "").replace("LOCAL\n", LOCAL)
    text = text.replace("LOCAL_SETS\n", _LOCAL_SETS).replace("LOCAL\n", _LOCAL_LISTED)
    return text + local_rules(local)


def local_rules(local: Iterable[str]) -> str:
    """This host's own addresses and subnets, in place of those that are listed."""
    text = "".join(f"flush set inet {TABLE} local{version}\n" for version in (4, 6))
    return text + "".join(f"add element inet {TABLE} local{_version(each)} {{ {each} }}\n" for each in local)


def network_rules(network: Network) -> str:
    """The elements that make a network; the base's sets must be there. Adding them twice changes nothing."""
    return "".join(f"add element inet {TABLE} {name} {{ {key} }}\n" for name, key in _elements(network))


def closed_rules(versions: Iterable[int]) -> str:
    """The elements that say which IP versions, 4 or 6, this host forwards for containers alone."""
    return "".join(f"add element inet {TABLE} closed {{ ipv{version} }}\n" for version in versions)


def removal_rules(network: Network) -> str:
    """Takes the elements of a network away. Each is added first: removing what is not there would fail."""
    elements = [f"element inet {TABLE} {name} {{ {key} }}\n" for name, key in _elements(network)]
    return "".join(f"{verb} {element}" for verb in ("add", "delete") for element in elements)


def _elements(network: Network) -> list[tuple[str, str]]:
    bridge = network["bridge"]
    subnets = [each["subnet"] for each in network["subnets"]]
    return [
        ("bridges", f'"{bridge}"'),
        ("inside", f'"{bridge}" . "{bridge}"'),
        *((f"subnets{_version(subnet)}", subnet) for subnet in subnets),
    ]


def _version(address: str) -> int:
    """4 or 6, for an address or a subnet."""
    return 4 if len(octets(address.partition("/")[0])) == 4 else 6
