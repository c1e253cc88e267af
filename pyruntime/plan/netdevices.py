"""Spec -> Steps for `linux.netDevices`: devices of the host that become the container's.

Imported only for a config that has them (plan.build).

Read beside runc:libcontainer/network_linux.go:/^func devChangeNetNamespace/.
"""

from __future__ import annotations

from pyruntime.plan.step import ROOTFS, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import Spec


class MoveNetDevice(Step):
    """An entry of `linux.netDevices` (config-linux.md#network-devices).

    The child asks for it and the parent moves it: only that one is where the device is. It comes before the sysctls,
    which may be about the device.
    """

    phase = ROOTFS
    why = "linux.netDevices gives this device to the container"

    name: str  # on the host
    target: str  # in the container; a %d stands for the first number that is free there

    def text(self) -> str:
        renamed = f" as {self.target}" if self.target != self.name else ""
        return f"move the network device {self.name} into the container{renamed}, with its global addresses, set up"


def device_steps(spec: Spec) -> Iterator[Step]:
    """One step a device."""
    for name, wanted in spec["linux"]["netDevices"].items():
        where = f"config.json#/linux/netDevices/{name.replace('~', '~0')}"
        yield MoveNetDevice(where, name, wanted.get("name") or name)
