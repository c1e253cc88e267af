"""The host's side of a network in nftables: made when its bridge is up, and taken away again.

    firewall.prepare      a network's bridge is up: its rules are there, or are made (setup.py)
    publishing.publish    a container comes: its ports are elements of our maps, added in one transaction, or none is
    publishing.withdraw   a container goes: so do they; flows that were translated for it are forgotten
    firewall.remove       the network goes; with the last one the table

All of it is about the network namespace that this process is in, and about one table of our own: others' rules are read
for a warning, never changed. A start on a network that is ready asks the kernel three questions, and runs no program.

Callers hold the network's lock. Companion: none in runc. Read beside libnetwork's bridge driver.
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP, EPERM, EPROTONOSUPPORT

from pyruntime.errors import KernelError, UnsupportedError
from pyruntime.linux.constants import IFNAMSIZ
from pyruntime.linux.nftables import Nftables
from pyruntime.net import sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from pyruntime.linux.nftables import Element
    from pyruntime.net.types import Endpoint, Network

    Populated: TypeAlias = tuple[Network, Sequence[Endpoint]]
    Others: TypeAlias = Callable[[], Iterable[Populated]]

TABLE = "pyruntime"
ROUTE_LOCALNET = "net/ipv4/conf/{}/route_localnet"


def prepare(network: Network, endpoints: Sequence[Endpoint] = (), others: Others = tuple) -> None:
    """Make the rules of a network whose bridge is up, unless they are there; so also after somebody has flushed them.

    endpoints: those of the network, from this boot: their published ports are in the maps afterwards. others: called
    if all was flushed, for the other networks with theirs. Raises Error: there is no nft, or it refuses the rules;
    UnsupportedError: the kernel has no nftables; KernelError.
    """
    nftables = open_table()
    try:
        if not _is_ready(network, nftables):
            from pyruntime.net import setup  # rarely, and it brings much along

            setup.make((network, endpoints), others, nftables)
    finally:
        nftables.close()


def remove(network: Network) -> None:
    """Take the rules of a network away, and with the last network all of ours. Raises Error, KernelError."""
    try:
        nftables = open_table()
    except UnsupportedError:  # then it never had any
        return
    try:
        if nftables.find(_bridge(network)) is not None:
            from pyruntime.net import setup

            setup.remove(network, nftables)
    finally:
        nftables.close()


def open_table() -> Nftables:
    """To be closed. The table need not be there. Raises UnsupportedError: no nftables in this kernel; KernelError."""
    try:
        nftables = Nftables(TABLE)
        try:
            nftables.generation()
        except BaseException:
            nftables.close()
            raise
        return nftables
    except KernelError as error:
        if error.errno in (EINVAL, EOPNOTSUPP, EPROTONOSUPPORT):
            message = f"this kernel has no nftables (CONFIG_NF_TABLES), which a network takes: {error}"
            raise UnsupportedError(message, hint="choose --net none or --net host") from None
        if error.errno == EPERM:
            error.hint = "a network takes CAP_NET_ADMIN over the network namespace that the runtime is in"
        raise


def _bridge(network: Network) -> Element:
    return "bridges", network["bridge"].encode().ljust(IFNAMSIZ, b"\0"), b""


def _is_ready(network: Network, nftables: Nftables) -> bool:
    """Whether the network is an element, the rules have not been flushed, and its bridge is not another one by now."""
    if nftables.find(_bridge(network)) is None:
        return False
    forward = nftables.chain("forward")
    return forward is not None and forward.rules > 0 and sysctl.read(ROUTE_LOCALNET.format(network["bridge"])) == "1"
