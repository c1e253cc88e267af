"""Who has which address of a network: leases, each tied to a container.

Addresses are given away in turn, beginning behind the one given away last: a former container's address rests as long
as it can, for there may be clients that still mean the former one. (A container of the same address has the same
hardware address, too: addresses.mac_for.)

A lease ends with `delete`. One whose container is not there any more, or that is from before the last boot, is stale:
whoever changes the file next forgets it.

Companion: containernetworking/plugins:plugins/ipam/host-local/backend/allocator/allocator.go
"""

from __future__ import annotations

from pyruntime.errors import StateError, UsageError
from pyruntime.linux.proc import read_file
from pyruntime.net.addresses import mac_for, number_of, parse_range, same, split
from pyruntime.net.names import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.net.addresses import Range
    from pyruntime.net.networks import Networks
    from pyruntime.net.types import Attachment, Endpoint, Network


def boot_id() -> str:
    """A random number of this boot of the machine. See random(4)."""
    return read_file("/proc/sys/kernel/random/boot_id").decode().strip()


class LeaseFile:
    """`~networks/NAME.leases.json`, read. To be changed under the lock of the networks only, and then saved."""

    __slots__ = ("_file", "_networks", "endpoints", "last")

    def __init__(self, networks: Networks, name: str) -> None:
        """Raises StateError if it is damaged, KernelError."""
        self._networks = networks
        self._file = f"{name}.leases.json"
        found = networks.read_file(self._file)
        if found is None:
            found = {"last": [], "leases": []}
        if not isinstance(found, dict) or not {"last", "leases"} <= found.keys():
            raise networks.damaged(self._file, "it holds no leases")
        self.last: list[str] = found["last"]
        self.endpoints: list[Endpoint] = found["leases"]

    def save(self) -> None:
        """Write it. Raises KernelError."""
        self._networks.write_file(self._file, {"last": self.last, "leases": self.endpoints})

    def take_stale(self, id: str = "") -> list[Endpoint]:
        """Forget the leases of containers that are not there; return those that may still have something in the kernel.

        id: a container that is about to be connected; what is in its name is a former one's.
        """
        this_boot = boot_id()
        stale = [
            lease
            for lease in self.endpoints
            if lease["bootId"] != this_boot or lease["id"] == id or not self._networks.has_container(lease["id"])
        ]
        if stale:
            self.endpoints = [lease for lease in self.endpoints if lease not in stale]
        return [lease for lease in stale if lease["bootId"] == this_boot]

    def take(self, id: str) -> list[Endpoint]:
        """Forget the leases of one container and return them: one, or none."""
        taken = [lease for lease in self.endpoints if lease["id"] == id]
        if taken:
            self.endpoints = [lease for lease in self.endpoints if lease["id"] != id]
        return taken

    def give(self, network: Network, id: str, wanted: Attachment) -> Endpoint:
        """Give a container an address of each subnet: the one asked for, or the next.

        Raises UsageError if the address asked for can't be had, StateError if there is none left.
        """
        ips = choose(network, self.endpoints, self.last, wanted["ip"])
        mac = mac_for(ips)
        lease: Endpoint = {
            "id": id,
            "network": network["name"],
            "ips": ips,
            "mac": mac,
            "interface": interface_for(network["bridge"], mac),
            "hostname": wanted["hostname"] if is_name(wanted["hostname"]) else "",
            "ports": wanted["ports"],
            "bootId": boot_id(),
        }
        self.endpoints.append(lease)
        if not wanted["ip"]:
            self.last = ips
        return lease


def interface_for(bridge: str, mac: str) -> str:
    """The name of the host's end of the veth pair: the bridge's number and the address, "pyr0-0a590002" for 10.89.0.2.

    No two devices have the same name, so no two containers that are really there can have the same address.
    """
    number = bridge.removeprefix("pyruntime")
    return f"pyr{number}-{mac[6:].replace(':', '')}"


def choose(network: Network, leases: list[Endpoint], last: list[str], wanted: str) -> list[str]:
    """An address of each subnet, with its prefix length: "10.89.0.2/24". Pure. Raises as LeaseFile.give."""
    taken = {lease_ip.partition("/")[0]: lease["id"] for lease in leases for lease_ip in lease["ips"]}
    macs = {lease["mac"]: lease["id"] for lease in leases}
    macs[mac_for([network["subnets"][0]["gateway"]])] = "the host"
    ranges = [parse_range(subnet["subnet"]) for subnet in network["subnets"]]
    gateways = [number_of(subnet["gateway"]) for subnet in network["subnets"]]
    fixed = _wanted_index(network, ranges, gateways, wanted, taken) if wanted else -1
    chosen: list[str] = []
    for index, (within, gateway) in enumerate(zip(ranges, gateways, strict=True)):
        if index == fixed:
            number = number_of(wanted)
            holder = macs.get(mac_for([wanted])) if index == 0 else None
            if holder:
                raise UsageError(f"{wanted} ends like the address of {holder}, and hardware addresses are made of that")
        else:
            after = split(last[index])[1] if index < len(last) else gateway
            if index:
                # The same place in each subnet, where it is free: 10.89.0.2 and fd00::2.
                after = within.first + split(chosen[0])[1] - ranges[0].first - 1
            number = _next_free(within, after, gateway, taken, macs if index == 0 else {}, network["name"])
        chosen.append(within.address(number))
    return chosen


def _wanted_index(
    network: Network, ranges: list[Range], gateways: list[int], wanted: str, taken: dict[str, str]
) -> int:
    """Of which subnet the address is that somebody asks for. Raises UsageError if it can't be had."""
    number, name = number_of(wanted), network["name"]
    for index, (within, gateway) in enumerate(zip(ranges, gateways, strict=True)):
        if number not in within or (":" in wanted) != (":" in str(within)):
            continue
        if number == gateway:
            raise UsageError(f"{wanted} is the host's own address on the network {name!r}")
        if not within.may_be_used(number):
            raise UsageError(f"{wanted} can't be a container's: it is the first or last of {within}")
        if same(wanted) in taken:
            raise UsageError(f"{wanted} is taken by the container {taken[same(wanted)]}")
        return index
    raise UsageError(f"{wanted} is not in the network {name!r}, which has {' and '.join(map(str, ranges))}")


def _next_free(within: Range, after: int, gateway: int, taken: dict[str, str], macs: dict[str, str], name: str) -> int:
    """The first free address behind `after`, and then from the beginning. Raises StateError if there is none."""
    for number in _in_turn(within, after, len(taken) + len(macs) + 3):
        text = within.address(number)
        if number == gateway or text.partition("/")[0] in taken or (macs and mac_for([text]) in macs):
            continue
        return number
    raise StateError(
        f"the network {name!r} has no address left in {within}: {len(taken)} containers have one",
        hint="delete containers that have stopped, or make a larger network: pyruntime network create --subnet CIDR",
    )


def _in_turn(within: Range, after: int, count: int) -> Iterator[int]:
    """At most `count` usable addresses, each once, from behind `after` on, going round."""
    number = after
    for _ in range(min(count + 2, within.size)):
        number += 1
        if number not in within:
            number = within.first
        if within.may_be_used(number):
            yield number
