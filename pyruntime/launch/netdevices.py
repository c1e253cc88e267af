"""The host's network devices, moved into the container before its program runs, and brought back if it never does.

A virtual device ends with the network namespace it is in, so a start that fails must not leave the host's there. And
the kernel moves first and names then: if the name is refused, the device has gone all the same. So the name is looked
up before, the addresses are read before (the move flushes them), and what has gone is looked for after a failure.

Imported before the child is cloned, and only if the plan has such steps.

Read beside runc:libcontainer/network_linux.go:/^func devChangeNetNamespace/, which loses the device in both cases.
"""

from __future__ import annotations

import posix
from errno import EEXIST, ENODEV

from pyruntime import report
from pyruntime.errors import ConfigError, Error, KernelError, ProtocolError, StateError
from pyruntime.launch.perform import performs
from pyruntime.launch.sync import DEVICE, GO
from pyruntime.linux import constants as c
from pyruntime.linux.netlink import Address, Link, Netlink
from pyruntime.plan.netdevices import MoveNetDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.rootfs import Rootfs
    from pyruntime.plan.step import Plan

# What of an address means the same elsewhere; its label begins with the device's name, its lifetime is the host's.
_PORTABLE = (c.IFA_LOCAL, c.IFA_ADDRESS, c.IFA_BROADCAST, c.IFA_FLAGS, c.IFA_RT_PRIORITY)
_AT_HOME = (*_PORTABLE, c.IFA_LABEL, c.IFA_CACHEINFO)


@performs(MoveNetDevice)
def ask_for_device(step: MoveNetDevice, rootfs: Rootfs) -> None:
    """In the child: have the parent do it, and wait. Its error ends us."""
    rootfs.channel.send(DEVICE, step.name)
    rootfs.channel.expect(GO)


class Guest:
    """A device that is away from home: what it was there, and what it is called where it is."""

    __slots__ = ("addresses", "names", "was")

    def __init__(self, was: Link, addresses: list[Address], names: list[str]) -> None:
        self.was = was
        self.addresses = addresses
        self.names = names  # under one of which it is to be found


class Guests:
    """The host's devices in one container, in the parent, which is where they come from. To be closed."""

    __slots__ = ("_container", "_container_fd", "_guests", "_host", "_host_fd")

    def __init__(self, pid: int) -> None:
        """`pid` is in the container's network namespace. Raises KernelError, OSError."""
        self._guests: list[Guest] = []
        self._host_fd = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
        self._container_fd = posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            self._host = Netlink()
            self._container = Netlink(self._container_fd)
        except BaseException:
            posix.close(self._host_fd)
            posix.close(self._container_fd)
            raise

    def close(self) -> None:
        """Leave the devices where they are."""
        self._host.close()
        self._container.close()
        posix.close(self._host_fd)
        posix.close(self._container_fd)

    def take(self, plan: Plan, name: str) -> None:
        """Perform the MoveNetDevice of this name.

        Raises KernelError, ConfigError, StateError with the step's place; the device is at home then, or `bring_back`
        knows of it.
        """
        step = next((step for step in plan if isinstance(step, MoveNetDevice) and step.name == name), None)
        if step is None:
            raise ProtocolError(f"the child asks for the network device {name!r}, which is not in the plan")
        try:
            self._move(step)
        except Error as error:
            error.where = error.where or step.where
            raise

    def bring_back(self) -> None:
        """Bring all devices home, the last first. What fails is told, not raised: an error is on its way already."""
        while self._guests:
            guest = self._guests.pop()
            try:
                self._bring_back(guest)
            except (Error, OSError) as error:
                report.warn(f"the network device {guest.was.name} is not back on the host as it was: {error}")

    def _move(self, step: MoveNetDevice) -> None:
        self._refuse_host()
        link = self._host.find(step.name)
        if link is None:
            hint = "there is no such device in the network namespace that the runtime is in"
            raise KernelError(f"find the network device {step.name!r}", ENODEV, hint=hint)
        name = self._free_name(link.name if step.target == step.name else step.target)
        # Its own name first: if another takes the wanted one meanwhile, that one is not ours.
        names = [name] if self._container.find(link.name) else [link.name, name]
        guest = Guest(link, self._host.addresses(link), names)
        self._guests.append(guest)
        self._host.move(link, self._container_fd, name)
        moved = self._container.find(name)
        if moved is None:
            raise StateError(f"the network device {name} has gone again")
        for address in guest.addresses:
            if address.is_permanent and address.scope == c.RT_SCOPE_UNIVERSE:
                self._container.add_address(moved, address, _PORTABLE)
        self._container.set_up(moved)

    def _refuse_host(self) -> None:
        """A joined namespace may be the host's own, where the device would only be renamed and lose its routes."""
        host, container = posix.fstat(self._host_fd), posix.fstat(self._container_fd)
        if (host.st_dev, host.st_ino) == (container.st_dev, container.st_ino):
            raise ConfigError("the container's network namespace is the host's, where its devices are already")

    def _free_name(self, name: str) -> str:
        """The name that the device will have. Raises StateError if the container has such a device already."""
        if "%d" in name:
            number = 0
            while self._container.find(name.replace("%d", str(number))):
                number += 1
            return name.replace("%d", str(number))
        if self._container.find(name):
            raise StateError(f"the container's network namespace has a device {name} already")
        return name

    def _bring_back(self, guest: Guest) -> None:
        """Whether it has gone at all is seen where it came from: a move that failed may have happened."""
        was = guest.was
        if self._host.find(was.name) is None:
            links = [link for link in map(self._container.find, guest.names) if link is not None]
            if not links:
                raise StateError("it is in neither network namespace")
            self._container.move(links[0], self._host_fd, was.name)
            self._restore(guest)

    def _restore(self, guest: Guest) -> None:
        link = self._host.find(guest.was.name)
        if link is None:
            raise StateError("it has gone again")
        for address in guest.addresses:
            try:
                self._host.add_address(link, address, _AT_HOME)
            except KernelError as error:
                if error.errno != EEXIST:
                    raise
        if guest.was.flags & c.IFF_UP:
            self._host.set_up(link)
            report.warn(f"the network device {link.name} is back on the host, without routes that were added by hand")
