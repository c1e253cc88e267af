"""Forwarding: turned on for containers where it was off, and others who drop what is forwarded.

Forwarding makes the host a router, for its neighbours too. Where it was off, it is turned on as Docker does it: for
containers alone. Docker makes DROP the policy of iptables' FORWARD chain; here the set `closed` (ruleset.py) says so.
That it was off is remembered in a place that lives as long as the bridge, whoever flushes the rules: its sysctl `tag`,
a number that the kernel keeps for others and does nothing with.

Read beside ip-sysctl.rst in the kernel's documentation, and setup_ip_forwarding.go of libnetwork's bridge driver.
"""

from __future__ import annotations

from pyruntime import report
from pyruntime.linux import netfilter_constants as n
from pyruntime.net import sysctl
from pyruntime.net.addresses import octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyruntime.linux.nftables import Chain, Nftables
    from pyruntime.net.types import Network

_SWITCHES = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_FAMILIES = (n.NFPROTO_INET, n.NFPROTO_IPV4, n.NFPROTO_IPV6)


def closed_for(network: Network) -> list[int]:
    """The IP versions of the network, 4 and 6, that this host does not forward, or does for containers alone."""
    tag = _tag(network["bridge"])
    versions = {4 if len(octets(each["gateway"])) == 4 else 6 for each in network["subnets"]}
    return [each for each in sorted(versions) if sysctl.read(_SWITCHES[each]) == "0" or tag & _bit(each)]


def believe_no_router(bridge: str) -> None:
    """Take no routes from containers, which may say that they are routers (CVE-2020-13401). Raises KernelError."""
    path = f"net/ipv6/conf/{bridge}/accept_ra"
    if sysctl.read(path) not in ("", "0"):
        sysctl.write(path, "0")


def remember(bridge: str, closed: Iterable[int]) -> None:
    """Remember which IP versions are forwarded for containers alone, for `closed_for`. Raises KernelError."""
    if tag := sum(map(_bit, closed)):
        sysctl.write(f"net/ipv4/conf/{bridge}/tag", str(_tag(bridge) | tag))


def turn_on(network: Network, closed: Iterable[int]) -> None:
    """Have the kernel forward these IP versions, and say so if it did not. Raises KernelError.

    To be called when the rules are there that keep it from forwarding for others.
    """
    turned = [each for each in closed if sysctl.read(_SWITCHES[each]) == "0"]
    for version in turned:
        if version == 6:
            _keep_router_advertisements()
        sysctl.write(_SWITCHES[version], "1")
    if turned:
        names = " and ".join(_SWITCHES[each].replace("/", ".") for each in turned)
        report.warn(
            f"turned {names} on for the network {network['name']}: "
            "for others than containers this host still forwards nothing (nft list chain inet pyruntime forward)"
        )


def turn_off(closed: Iterable[int], nftables: Nftables) -> None:
    """Undo `turn_on` when the last network is gone, unless somebody else filters what is forwarded, and so wants it.

    Raises KernelError.
    """
    if any(chain.hook == n.NF_INET_FORWARD for chain in nftables.chains()):
        return
    for version in closed:
        sysctl.write(_SWITCHES[version], "0")


def warn_of_drops(network: Network, nftables: Nftables) -> None:
    """Tell of others' tables that drop what containers send or get: our accept can't overrule them.

    Raises KernelError.
    """
    bridge = network["bridge"]
    for chain in nftables.chains():
        foreign = chain.table != nftables.table and chain.family in _FAMILIES and chain.hook == n.NF_INET_FORWARD
        if foreign and _refuses(chain, nftables) and not nftables.mentions(chain, bridge):
            report.warn(
                f"the chain {chain.name} of the nftables table {chain.table} drops what none of its rules accepts, and "
                f"may cut containers of the network {network['name']} off from others than the host "
                f"({_remedy(chain, bridge)})"
            )


def _refuses(chain: Chain, nftables: Nftables) -> bool:
    """Whether it drops by policy, or by a last rule without a condition (firewalld, ufw in part, many by hand)."""
    if chain.drops:
        return True
    last = [(name, verdict) for name, verdict in nftables.ends_in(chain) if name not in ("counter", "log", "limit")]
    return last in ([("immediate", n.NF_DROP)], [("reject", -1)])


def _remedy(chain: Chain, bridge: str) -> str:
    if chain.table == "firewalld":
        return f"let them pass: firewall-cmd --permanent --zone=trusted --add-interface={bridge}; firewall-cmd --reload"
    if (chain.table, chain.name) == ("filter", "FORWARD"):
        command = "ip6tables" if chain.family == n.NFPROTO_IPV6 else "iptables"
        return (
            f"let them pass: {command} -I FORWARD -i {bridge} -j ACCEPT; {command} -I FORWARD -o {bridge} -j ACCEPT; "
            "with Docker: in the chain DOCKER-USER; with ufw: ufw route allow in on "
            f"{bridge}; ufw route allow out on {bridge}"
        )
    return f"accept there what comes in by or leaves by {bridge}"


def _keep_router_advertisements() -> None:
    """A kernel that forwards IPv6 no longer takes its own routes from routers, unless told to: accept_ra=2.

    Only at devices that are there: what others make later is not ours to decide about.
    """
    for name in sysctl.listed("net/ipv6/conf"):
        path = f"net/ipv6/conf/{name}/accept_ra"
        if name not in ("all", "default", "lo") and sysctl.read(path) == "1":
            sysctl.write(path, "2")


def _tag(bridge: str) -> int:
    value = sysctl.read(f"net/ipv4/conf/{bridge}/tag")
    return int(value) if value.isdigit() else 0


def _bit(version: int) -> int:
    return 1 if version == 4 else 2
