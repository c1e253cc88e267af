"""Defining networks: a name, a bridge of its own, subnets that nobody else has. And removing them.

A start imports this only when it makes the default network, or the bridge of one.

The subnets that are chosen by themselves: the first free one of 10.89.0.0/24, 10.89.1.0/24 and so on, and a /64 of
IPv6 below a random prefix of our own (RFC 4193: fd and 40 random bits), so that two hosts can be connected later.
"""

from __future__ import annotations

import posix
from _socket import AF_INET, AF_INET6

from pyruntime.errors import ExistsError, StateError, UsageError
from pyruntime.linux import constants as c
from pyruntime.linux.proc import read_file
from pyruntime.net.addresses import Range, parse_range, text_of
from pyruntime.net.networks import DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyruntime.linux.netlink import Netlink
    from pyruntime.net.networks import Networks
    from pyruntime.net.types import Network, Subnet

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_NAME_MAX = 128
MTU_MIN, MTU_MAX = 68, 65535  # RFC 791; IPv6 takes 1280 (RFC 8200)
_MTU_IPV6 = 1280
# What no container can be reached by: "this network", loopback, multicast and reserved; IPv6 loopback, link-local,
# multicast.
_SPECIAL = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")
_POOLS = ("10.89.0.0/16", "172.24.0.0/14", "192.168.0.0/16")  # many hosts have a route to all of 10.0.0.0/8: a VPN's
_LEAST_SIZE = 4  # addresses: the subnet's own, the gateway's, one container's, the broadcast's


def check_name(name: str) -> None:
    """Refuse what is no name of a network: it becomes a file name. Raises UsageError."""
    if not name or not _LETTERS.issuperset(name) or name[0] in ".-" or len(name) > _NAME_MAX:
        raise UsageError(
            f"invalid network name {name!r}",
            hint=f"letters, digits, and the characters _ . - make a name, up to {_NAME_MAX}; it begins with no . or -",
        )
    if name.endswith(".leases"):
        raise UsageError(f"invalid network name {name!r}: it ends like the files of leases")


def define(networks: Networks, host: Netlink, name: str, subnets: Iterable[str] = (), mtu: int = 0) -> Network:
    """Define a network and write it down; its bridge is made when a container needs it. The caller holds the lock.

    `host` speaks to the host's network namespace. Raises UsageError for what can't be, ExistsError if there is a
    network of this name, StateError if a subnet overlaps another network's or a route of the host.
    """
    check_name(name)
    if networks.find(name) is not None:
        raise ExistsError(f"there is a network {name!r} already")
    others = [found for found in map(networks.find, networks.names()) if found is not None]
    taken = [*_ranges_of(others), *_routed(host)]
    chosen = [_given(text, taken) for text in subnets]
    for index, one in enumerate(chosen):
        for other in chosen[:index]:
            if one.overlaps(other):
                raise UsageError(f"{one} and {other} overlap", where="--subnet")
    if not chosen:
        chosen = list(_choose(taken))
    _check_mtu(mtu, chosen)
    network: Network = {
        "name": name,
        "bridge": _free_bridge(host, others),
        "subnets": [_with_gateway(one) for one in chosen],
        "mtu": mtu,
    }
    networks.write_file(f"{name}.json", network)
    return network


def find_or_define(networks: Networks, host: Netlink, name: str) -> Network:
    """The network of this name; the default one is defined when it is first wanted. Raises as `define`, `read`."""
    if name == DEFAULT and networks.find(name) is None:
        return define(networks, host, name)
    return networks.read(name)


def refuse_overlaps_with_routes(host: Netlink, network: Network) -> None:
    """Raise StateError if the host has a way to a part of the network already: it would be cut off by the bridge's."""
    for one, told in _ranges_of([network]):
        for other, what in _routed(host):
            if one.overlaps(other):
                hint = "remove the network, and make it anew with another --subnet"
                raise StateError(f"{told} can't be brought up: it overlaps {what}", hint=hint)


def _ranges_of(networks: Iterable[Network]) -> Iterator[tuple[Range, str]]:
    for network in networks:
        for subnet in network["subnets"]:
            yield parse_range(subnet["subnet"]), f"the network {network['name']!r} ({subnet['subnet']})"


def _routed(host: Netlink) -> Iterator[tuple[Range, str]]:
    """What the host has a route to, or is itself, but for default routes and what every host has."""
    names = {link.index: link.name for link in host.links()}
    special = [parse_range(text) for text in _SPECIAL]
    for family in (AF_INET, AF_INET6):
        for route in host.routes(family):
            if not route.prefixlen or route.kind in (c.RTN_BROADCAST, c.RTN_MULTICAST, c.RTN_ANYCAST):
                continue
            first = int.from_bytes(route.attributes.get(c.RTA_DST, b""), "big")
            found = Range(family, first, route.prefixlen)
            if not any(found.overlaps(other) for other in special):
                device = names.get(route.link_index, "")
                yield found, f"the host's route to {found}" + (f" on {device}" if device else "")


def _given(text: str, taken: Iterable[tuple[Range, str]]) -> Range:
    """A subnet that the user asks for. Raises UsageError, StateError."""
    try:
        found = parse_range(text)
    except ValueError as error:
        raise UsageError(str(error), where="--subnet") from None
    for special in map(parse_range, _SPECIAL):
        if found.overlaps(special):
            raise UsageError(f"{found} can't be containers' addresses: {special} has another meaning", where="--subnet")
    if found.size < _LEAST_SIZE:
        raise UsageError(f"{found} is too small: a network takes at least {_LEAST_SIZE} addresses", where="--subnet")
    for other, what in taken:
        if found.overlaps(other):
            raise StateError(f"{found} overlaps {what}", where="--subnet")
    return found


def _choose(taken: list[tuple[Range, str]]) -> Iterator[Range]:
    """The first /24 that is free, and a new /64 unless the host has no IPv6."""
    found = next((one for one in _pool() if not any(one.overlaps(other) for other, _ in taken)), None)
    if found is None:
        raise StateError(f"no subnet is free in {', '.join(_POOLS)}", hint="choose one with network create --subnet")
    yield found
    if _has_ipv6():
        yield Range(AF_INET6, int.from_bytes(b"\xfd" + posix.urandom(5) + bytes(10), "big"), 64)


def _pool() -> Iterator[Range]:
    """All subnets of 256 addresses that a network may get by itself."""
    for pool in map(parse_range, _POOLS):
        for first in range(pool.first, pool.first + pool.size, 256):
            yield Range(AF_INET, first, 24)


def _has_ipv6() -> bool:
    try:
        return read_file("/proc/sys/net/ipv6/conf/all/disable_ipv6").strip() == b"0"
    except OSError:
        return False


def _check_mtu(mtu: int, subnets: list[Range]) -> None:
    least = _MTU_IPV6 if any(one.family == AF_INET6 for one in subnets) else MTU_MIN
    if mtu and not least <= mtu <= MTU_MAX:
        raise UsageError(f"an MTU of {mtu} bytes can't be: {least} to {MTU_MAX} can", where="--mtu")


def _free_bridge(host: Netlink, others: list[Network]) -> str:
    """The first name that no network and no interface has."""
    taken = {network["bridge"] for network in others} | {link.name for link in host.links()}
    number = 0
    while f"pyruntime{number}" in taken:
        number += 1
    return f"pyruntime{number}"


def _with_gateway(subnet: Range) -> Subnet:
    return {"subnet": str(subnet), "gateway": text_of(subnet.family, subnet.first + 1)}
