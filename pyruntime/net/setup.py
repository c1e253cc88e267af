"""What a network takes on the host once a boot: rules, forwarding, a bridge that loopback addresses may use.

Not on the way of a start: it runs nft(8), and imports what that takes.
"""

from __future__ import annotations

from _socket import AF_INET6, inet_ntop

from pyruntime import report
from pyruntime.errors import NftError
from pyruntime.linux import proc
from pyruntime.linux.netfilter_constants import NFPROTO_IPV4
from pyruntime.net import forwarding, nft, ruleset, sysctl
from pyruntime.net.firewall import ROUTE_LOCALNET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.linux.nftables import Nftables
    from pyruntime.net.firewall import Others, Populated
    from pyruntime.net.types import Endpoint, Network

_TRIE_MAX = 64 << 20  # bytes of /proc/net/fib_trie, which has all routes


def make(wanted: Populated, others: Others, nftables: Nftables) -> None:
    """Make a network an element of the rules, and have it forwarded; with all others, if there are no rules at all.

    Raises Error: there is no nft, or it refuses; KernelError.
    """
    forward = nftables.chain("forward")
    is_flushed = forward is None or not forward.rules
    populated = [wanted, *(each for each in others() if _has_bridge(each[0]))] if is_flushed else [wanted]
    networks = [network for network, _ in populated]
    closed = sorted({*_closed(nftables), *(version for each in networks for version in forwarding.closed_for(each))})
    elements = "".join(map(ruleset.network_rules, networks)) + ruleset.closed_rules(closed)
    if is_flushed:
        _apply_base(elements)
    else:
        nft.apply(elements)
    for network in networks:
        forwarding.believe_no_router(network["bridge"])
        sysctl.write(ROUTE_LOCALNET.format(network["bridge"]), "1")
        forwarding.remember(network["bridge"], closed)
    forwarding.turn_on(wanted[0], closed)
    forwarding.warn_of_drops(wanted[0], nftables)
    _publish_again([endpoint for _, endpoints in populated for endpoint in endpoints if endpoint["ports"]], nftables)


def remove(network: Network, nftables: Nftables) -> None:
    """Take a network out of the rules; if it is the last one, remove the table. Raises Error, KernelError."""
    key = network["bridge"].encode()
    while True:
        generation = nftables.generation()
        if any(bridge.rstrip(b"\0") != key for _, bridge, _ in nftables.elements("bridges")):
            nft.apply(ruleset.removal_rules(network))
            return
        closed = _closed(nftables)
        if nftables.remove_table(generation):
            forwarding.turn_off(closed, nftables)
            return


def list_addresses() -> None:
    """Tell the rules which addresses are this host's now, where they can't ask. Raises Error, OSError."""
    nft.apply(ruleset.local_rules(_local_addresses()))


def _closed(nftables: Nftables) -> list[int]:
    """The IP versions, 4 and 6, that are forwarded for containers alone."""
    return [4 if version[0] == NFPROTO_IPV4 else 6 for _, version, _ in nftables.elements("closed")]


def _has_bridge(network: Network) -> bool:
    return sysctl.read(ROUTE_LOCALNET.format(network["bridge"])) != ""


def _publish_again(endpoints: list[Endpoint], nftables: Nftables) -> None:
    """Publish the ports of containers that are not published: somebody has flushed the maps. Raises KernelError."""
    if endpoints:
        from pyruntime.net import ports

        listed = [element for endpoint in endpoints for element in ports.elements(endpoint)]
        nftables.add([element for element in listed if nftables.find(element) is None])


def _apply_base(elements: str) -> None:
    """With `fib`, if the kernel has it: there is no other way to find out than to try."""
    try:
        nft.apply(ruleset.base_rules() + elements)
    except NftError as error:
        nft.apply(ruleset.base_rules(_local_addresses()) + elements)
        report.warn(
            "this kernel's nftables can't tell its own addresses (CONFIG_NFT_FIB_INET): published ports are reached at "
            f"those that the host has when a port is published, not at later ones: {error}"
        )


def _local_addresses() -> Iterator[str]:
    """The addresses and subnets that are this host's own, 127.0.0.0/8 among them, of both versions.

    From /proc/net/fib_trie, where each address is followed by how it is routed ("/32 host LOCAL"), and proc_net(5).
    """
    address = ""
    for line in proc.read_file("/proc/net/fib_trie", _TRIE_MAX).decode().splitlines():
        words = line.split()
        if words[0] == "|--":
            address = words[1]
        elif words[1:] == ["host", "LOCAL"]:
            yield address + words[0]
    try:
        table = proc.read_file("/proc/net/if_inet6", _TRIE_MAX).decode()
    except FileNotFoundError:  # no IPv6 in this kernel
        return
    for line in table.splitlines():
        yield inet_ntop(AF_INET6, bytes.fromhex(line.split()[0]))
