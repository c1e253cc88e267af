"""Connect a container to a bridge network, and disconnect it: `--net bridge[:NAME]`.

    parent                                               what a crash before the next line leaves
      record: "wants this network" ............................ nothing
      lock
        the network, its bridge and rules, stale leases ....... a bridge without ports
        lease written ......................................... a lease: `delete --force` gives it back
        hosts files of all on the network rewritten
        ports published ....................................... and them
      unlock
      veth pair, addresses, routes, all up .................... ends with the container's network namespace

`disconnect` gives the lease back, and then pulls the cable. The kernel would do that, too, when the last process has
left the container's namespace: but later (20 to 150 ms were measured), and not at all while another container shares
the namespace. It takes 20 ms of waiting for an RCU grace period, in which nobody is locked out.
"""

from __future__ import annotations

import posix

from pyruntime.errors import Error, UsageError
from pyruntime.images import load_image
from pyruntime.linux.netlink import Netlink
from pyruntime.net import names
from pyruntime.net.leases import LeaseFile, boot_id
from pyruntime.net.networks import Networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from pyruntime.linux.netlink import Link
    from pyruntime.linux.nftables import Nftables
    from pyruntime.net.types import Attachment, Endpoint, Network


def prepare(state_path: str) -> None:
    """Before there is a process: what the container will have bound into its file system. Raises KernelError."""
    names.place_files(state_path)


def connect(root_path: str, id: str, attachment: Attachment, pid: int) -> None:
    """Connect the network namespace of process `pid`, and say in `attachment` under which addresses.

    Raises Error; if `attachment` has an endpoint then, `disconnect` is to take it back.
    """
    from pyruntime.net import bridge

    host = Netlink()
    try:
        networks = Networks(root_path)
        lock_fd = networks.lock()
        try:
            network, link, endpoint = _take_lease(networks, host, id, attachment)
        finally:
            posix.close(lock_fd)
        bridge.connect(host, link, network, endpoint, pid)
    finally:
        host.close()


def disconnect(root_path: str, id: str, attachment: Attachment) -> None:
    """Give back what the container has of its network; that it has nothing (any more) is no error. Raises Error."""
    networks = Networks(root_path)
    host = Netlink()
    try:
        lock_fd = networks.lock()
        try:
            cables, tables = _give_back(networks, host, id, attachment["name"])
        finally:
            posix.close(lock_fd)
        for cable in cables:
            host.remove(cable)
        for table in tables:  # by now the kernel has waited for what both take
            table.close()
    finally:
        host.close()


def forget(_root_path: str, _id: str) -> None:
    """After a `disconnect` that failed: nothing. A lease whose container is not there is stale (leases.py)."""


def _give_back(networks: Networks, host: Netlink, id: str, name: str) -> tuple[list[Link], list[Nftables]]:
    """Take back all but the cables, and return those, and what is to be closed. The caller holds the lock.

    They are looked up as long as the lease is ours: once it is given back, a device of the same name may be another's.
    """
    leases = LeaseFile(networks, name)
    taken = leases.take(id)
    here = [lease for lease in taken if lease["bootId"] == boot_id()]
    cables = [link for lease in here if (link := host.find(lease["interface"])) is not None]
    tables = [_publishing().withdraw(lease) for lease in here if lease["ports"]]
    if taken:
        leases.save()
        names.tell_all(networks.root_path, leases.endpoints)
    return cables, tables


def _take_lease(networks: Networks, host: Netlink, id: str, attachment: Attachment) -> tuple[Network, Link, Endpoint]:
    """The network, its bridge, which is up, and the container's lease, written. The caller holds the lock."""
    from pyruntime.net import bridge, firewall

    network = _network(networks, host, attachment["name"])
    leases = LeaseFile(networks, network["name"])
    for former in leases.take_stale(id):
        host.remove(former["interface"])
        _withdraw(former)
    link = bridge.bring_up(host, network, leases.endpoints)
    firewall.prepare(network, leases.endpoints, lambda: _others(networks, network["name"]))
    try:
        endpoint = leases.give(network, id, attachment)
    except UsageError as error:
        error.where = error.where or "--ip"
        raise
    if endpoint["ports"]:
        _refuse_taken_ports(networks, leases, endpoint)
    leases.save()
    attachment["endpoint"] = endpoint
    names.tell_all(networks.root_path, leases.endpoints)
    if endpoint["ports"]:
        _publishing().publish(endpoint)
    return network, link, endpoint


def _refuse_taken_ports(networks: Networks, leases: LeaseFile, endpoint: Endpoint) -> None:
    """Ports are the host's: those of containers of all networks count. Raises StateError, and as ports.refuse_taken."""
    others = leases.endpoints
    for _, endpoints in _others(networks, endpoint["network"]):
        others = others + endpoints
    try:
        _publishing().ports.refuse_taken(endpoint, others)
    except Error as error:
        error.where = error.where or "--publish"
        raise


def _others(networks: Networks, name: str) -> Iterator[tuple[Network, list[Endpoint]]]:
    """The networks but the one of this name, with the leases that are not stale."""
    for other in networks.names():
        found = networks.find(other)
        if other != name and found is not None:
            leases = LeaseFile(networks, other)
            for former in leases.take_stale():
                _withdraw(former)
            yield found, leases.endpoints


def _withdraw(lease: Endpoint) -> None:
    """Take back the ports of a container from this boot."""
    if lease["ports"]:
        _publishing().withdraw(lease).close()


def _publishing() -> ModuleType:
    """publishing.py, imported only for containers that have ports."""
    load_image("publish")
    from pyruntime.net import publishing

    return publishing


def _network(networks: Networks, host: Netlink, name: str) -> Network:
    found = networks.find(name)
    if found is not None:
        return found
    from pyruntime.net.definitions import find_or_define

    return find_or_define(networks, host, name)
