r"""Networks for containers: who is on which, under which address, and how the kernel is told so.

A container with a network namespace of its own is a machine without a cable. `--net bridge` lays one:

      the outside
          |
    -- eth0 -------- the host's network namespace -----------------------------------------
          |
       routing, nftables: masquerade, published ports (firewall.py)
          |
     pyruntime0  10.89.0.1/24                   a bridge: a switch in the kernel, which is a network (networks.py),
      |      |                                  and at the same time the host's own port on that switch (bridge.py)
      |      |
      |   pyr0-0a590003                         the cable's end at the switch
    --|------:-----------------------------------------------------------------------------
      :      :
      :     eth0  10.89.0.3/24                  the cable's other end: a veth pair is made of two devices, each in a
      :      |    default via 10.89.0.1         namespace of its own; what goes in at one comes out at the other
      :      |
      :   the container's network namespace     (ends with its last process, and the veth pair with it)
      :
     eth0  10.89.0.2/24 ... another container

Below --root, in `~networks`:

    NAME.json          what the network is: bridge, subnets, MTU           (networks.py)
    NAME.leases.json   who has which address, and which published ports    (leases.py)
    NAME.lock          flock(2): held by whoever changes the two, or the bridge

A lease is written before anything is made in the kernel, and given back after it is gone. So whatever a crash leaves
is found by `delete --force`.

A network that is not made like this, but by others, is a module of its own here, with the same functions (connect.py:
prepare, connect, disconnect, forget) and its line in the table below.

Companion: none in runc, which leaves networks to its callers. Read beside ip-link(8), and libnetwork's bridge driver.
"""

from __future__ import annotations

import sys

from pyruntime import report
from pyruntime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

# What --net can connect a container to -> who does it.
KINDS = {
    "bridge": "pyruntime.net.connect",
    "cni": "pyruntime.net.cni",
}


def module_for(kind: str) -> ModuleType:
    """The module that connects and disconnects containers to networks of this kind, imported now."""
    __import__(KINDS[kind])
    return sys.modules[KINDS[kind]]


def disconnect(root_path: str, id: str, attachment: Any, *, force: bool = False) -> None:
    """Take a container off its network: `attachment` is what its record says. Raises Error, OSError.

    force: what can't be taken back is told, and left behind.
    """
    module = module_for(attachment["kind"])
    try:
        module.disconnect(root_path, id, attachment)
    except Error as error:
        if not force:
            raise
        report.warn(f"left behind on the network {attachment['name']}: {error}")
        module.forget(root_path, id)
