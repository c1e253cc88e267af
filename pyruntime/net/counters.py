"""How much a container has sent and received, by the host's end of its cable.

Read beside runc:libcontainer/network_linux.go:/^func getNetworkInterfaceStats/.
"""

from __future__ import annotations

from _struct import unpack_from

from pyruntime.linux import constants as c
from pyruntime.linux.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The beginning of struct rtnl_link_stats64 (linux/if_link.h), as it is for the container: what the host's end of a
# cable has received is what the container has sent.
_COUNTERS = "TxPackets RxPackets TxBytes RxBytes TxErrors RxErrors TxDropped RxDropped"
# In runc's order.
_ORDER = "RxBytes RxPackets RxErrors RxDropped TxBytes TxPackets TxErrors TxDropped"


def traffic(interface: str) -> list[dict[str, Any]] | None:
    """What has gone through a veth pair, named after its end on the host; None if the device is none, or is gone.

    Bytes and packets since it was made, as runc's `NetworkInterface`. Raises KernelError.
    """
    host = Netlink()
    try:
        link = host.find(interface)
    finally:
        host.close()
    if link is None or link.kind != "veth":
        return None
    counted = dict(zip(_COUNTERS.split(), unpack_from("=8Q", link.attributes[c.IFLA_STATS64]), strict=True))
    return [{"Name": link.name, **{name: counted[name] for name in _ORDER.split()}}]
