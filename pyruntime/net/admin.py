"""What `pyruntime network` does: define, list, inspect and remove networks. Cold: no start needs it.

Companion: containers/common:libnetwork/netavark/network.go
"""

from __future__ import annotations

import posix
from typing import TypedDict

from pyruntime.errors import StateError
from pyruntime.linux import constants as c
from pyruntime.linux.netlink import Netlink, address_text
from pyruntime.net import definitions, firewall, publishing
from pyruntime.net.leases import LeaseFile, boot_id
from pyruntime.net.networks import Networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyruntime.net.types import Endpoint, Network, Port, Subnet


class OnNetwork(TypedDict):
    """A container's lease, as `network inspect` shows it."""

    id: str
    ips: list[str]
    mac: str
    interface: str
    hostname: str
    ports: list[Port]
    state: str  # "connected"; "disconnected": its process has ended; "stale": from a container or a boot that is gone


class Report(TypedDict):
    """A network, as `network inspect` shows it."""

    name: str
    bridge: str
    subnets: list[Subnet]
    mtu: int
    state: str  # of the bridge: "up", "down", "unused" (not there yet), "missing" (removed by hand), "not a bridge"
    addresses: list[str]  # that the bridge really has
    containers: list[OnNetwork]


def create(root_path: str, name: str, subnets: Sequence[str] = (), mtu: int = 0) -> Network:
    """Define a network. Raises as definitions.define."""
    networks = Networks(root_path)
    definitions.check_name(name)
    host = Netlink()
    try:
        lock_fd = networks.lock()
        try:
            return definitions.define(networks, host, name, subnets, mtu)
        finally:
            posix.close(lock_fd)
    finally:
        host.close()


def listing(root_path: str) -> list[Report]:
    """All networks, by name. Raises Error."""
    networks = Networks(root_path)
    host = Netlink()
    try:
        found = [networks.find(name) for name in networks.names()]
        return [_report(networks, host, network) for network in found if network is not None]
    finally:
        host.close()


def inspect(root_path: str, name: str) -> Report:
    """One network. Raises NotFoundError, Error."""
    networks = Networks(root_path)
    network = networks.read(name)
    host = Netlink()
    try:
        return _report(networks, host, network)
    finally:
        host.close()


def remove(root_path: str, name: str) -> None:
    """Remove a network with all that it has in the kernel. What is gone already is no error.

    Raises NotFoundError if there is no network of this name, StateError if a container is on it.
    """
    networks = Networks(root_path)
    networks.read(name)  # before a lock makes the directory
    host = Netlink()
    try:
        lock_fd = networks.lock()
        try:
            _remove(networks, host, networks.read(name))
        finally:
            posix.close(lock_fd)
    finally:
        host.close()


def _remove(networks: Networks, host: Netlink, network: Network) -> None:
    name = network["name"]
    leases = LeaseFile(networks, name)
    for former in leases.take_stale():
        host.remove(former["interface"])
        publishing.withdraw(former).close()
    if leases.endpoints:
        ids = ", ".join(lease["id"] for lease in leases.endpoints[:3])
        more = f" and {len(leases.endpoints) - 3} more" if leases.endpoints[3:] else ""
        raise StateError(
            f"the network {name!r} is in use by {ids}{more}", hint="delete them first: pyruntime delete --force ID"
        )
    firewall.remove(network)
    link = host.find(network["bridge"])
    if link is not None and link.kind == "bridge":
        host.remove(link.name)
    networks.remove_file(f"{name}.leases.json")
    networks.remove_file(f"{name}.json")


def _report(networks: Networks, host: Netlink, network: Network) -> Report:
    link = host.find(network["bridge"])
    containers = [_on_network(networks, host, lease) for lease in LeaseFile(networks, network["name"]).endpoints]
    if link is None:
        state = "missing" if any(one["state"] == "connected" for one in containers) else "unused"
    elif link.kind != "bridge":
        state = "not a bridge"
    else:
        state = "up" if link.flags & c.IFF_UP else "down"
    return {
        **network,
        "state": state,
        "addresses": [address_text(address) for address in host.addresses(link)] if link is not None else [],
        "containers": containers,
    }


def _on_network(networks: Networks, host: Netlink, lease: Endpoint) -> OnNetwork:
    if lease["bootId"] != boot_id() or not networks.has_container(lease["id"]):
        state = "stale"
    else:
        state = "connected" if host.find(lease["interface"]) is not None else "disconnected"
    return {
        "id": lease["id"],
        "ips": lease["ips"],
        "mac": lease["mac"],
        "interface": lease["interface"],
        "hostname": lease["hostname"],
        "ports": lease["ports"],
        "state": state,
    }
