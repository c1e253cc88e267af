r"""The stage of the network tests: two machines that are network namespaces of the test's own, and a cable between.

    "the outside"                       "the host"
     eth0 198.51.100.2/24  ---cable---  out0 198.51.100.1/24     pyruntime0 10.89.0.1/24
          2001:db8:100::2/64                 2001:db8:100::1/64        |      \
                                        (default route: the outside)  veth     veth
                                                                       |         \
                                                                   container   container

The runtime, and everything that a test does through `container` and `driver`, runs in the host's network and mount
namespaces. The outside has no route to the containers: what comes back must have been masqueraded. No address here is
anybody's (RFC 5737, RFC 3849), and no packet leaves the two namespaces.

After every test: the containers are deleted, and of them no interface, lease, nftables element, process, mount, cgroup
or file may be left. (The networks themselves stay until `network remove`: their bridge, their table.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container
from tests.support.fixtures import *  # noqa: F403
from tests.support.leftovers import Leftovers
from tests.support.namespace import Machine, in_namespace_of, join_by_cable
from tests.support.runtime import Runtime

HOST, OUTSIDE = "198.51.100.1", "198.51.100.2"
HOST6, OUTSIDE6 = "2001:db8:100::1", "2001:db8:100::2"


def pytest_itemcollected(item: pytest.Item) -> None:
    """All of this folder needs the same, and no other runtime has a network."""
    item.add_marker(pytest.mark.needs("root", "busybox", "cgroup2", "veth", "bridge"))
    item.add_marker(pytest.mark.only_pyruntime("runc leaves the network to others"))


@pytest.fixture
def machines(scratch: Path) -> Iterator[Callable[[str], Machine]]:
    """Make further machines, such as a neighbour of the host."""
    made: list[Machine] = []

    def make(name: str) -> Machine:
        made.append(Machine(name, scratch / f"sys-{name}"))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def outside(machines: Callable[[str], Machine]) -> Machine:
    """Whoever the host can reach over its cable."""
    return machines("outside")


@pytest.fixture
def host(machines: Callable[[str], Machine], outside: Machine) -> Machine:
    """Where the runtime runs."""
    host = machines("host")
    join_by_cable(host, outside, "out0", "eth0")
    for machine, link, addresses in ((host, "out0", (HOST, HOST6)), (outside, "eth0", (OUTSIDE, OUTSIDE6))):
        machine.ip("address", "add", f"{addresses[0]}/24", "dev", link)
        machine.ip("address", "add", f"{addresses[1]}/64", "dev", link, "nodad")
    host.ip("route", "add", "default", "via", OUTSIDE)
    host.ip("-6", "route", "add", "default", "via", OUTSIDE6)
    return host


@pytest.fixture
def a_router(host: Machine) -> None:
    """The host forwards packets already; else the first use of a network says that it turns that on."""
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        host.run("sh", "-c", f"echo 1 > /proc/sys/net/{name}")


@pytest.fixture  # type: ignore[no-redef]
def driver(runtime: str, host: Machine, scratch: Path, marker: str) -> Runtime:
    """The runtime, on the host."""
    return Runtime(host.launcher(scratch / "runtime-on-the-host", runtime), scratch / "state", marker)


class NetworkLeftovers(Leftovers):
    """Watches the host of the test, too: its interfaces, its leases, its published ports."""

    def __init__(self, directory: Path, state_root: Path, marker: str, host: Machine) -> None:
        super().__init__(directory, state_root, marker)
        self.host = host
        self.links_before = set(host.links())

    def _look(self) -> list[str]:
        left = super()._look()
        for name, link in self.host.links().items():
            if name not in self.links_before and link["linkinfo"]["info_kind"] != "bridge":
                left.append(f"interface {name} of the host")
        for path in sorted(self.state_root.glob("~networks/*.leases.json")):
            left += [f"lease of {id} in {path.name}" for id in leases_in(path)]
        left += [f"nftables element {element}" for element in published(self.host)]
        return left


def leases_in(path: Path) -> dict[str, dict[str, Any]]:
    """The leases of one file, by the container's ID."""
    return {lease["id"]: lease for lease in json.loads(path.read_text())["leases"]}


def published(host: Machine) -> list[str]:
    """What the maps of our own nftables table hold: published ports. (The sets are of networks, which stay.)"""
    if shutil.which("nft") is None:
        return []
    told = host.run("nft", "-j", "list", "ruleset", check=False)
    things = json.loads(told)["nftables"] if told else []
    maps = [thing["map"] for thing in things if "map" in thing and thing["map"]["table"] == "pyruntime"]
    return [f"{each['name']}: {element}" for each in maps for element in each.get("elem", ())]


@pytest.fixture  # type: ignore[no-redef]
def leftovers(driver: Runtime, scratch: Path, marker: str, host: Machine) -> Leftovers:
    """As everywhere, and on the host of the test."""
    return NetworkLeftovers(scratch, driver.root, marker, host)


Started = Callable[..., Container]


@pytest.fixture
def started(new_container: Callable[[], Container]) -> Started:
    """Start a container in the background: `started("httpd -f -p 80", "--net", "bridge", "-p", "8080:80")`."""

    def start(script: str = "sleep 1000", *flags: str) -> Container:
        container = new_container()
        container.script(f"exec {script}" if "\n" not in script else script)
        result = container.run_detached(*(flags or ("--net", "bridge")))
        assert result.status == 0, result
        return container

    return start


def inside(container: Container) -> dict[str, dict[str, Any]]:
    """What iproute2 says of the interfaces that a running container has, by name."""
    told = json.loads(in_namespace_of(container.pid(), "ip", "-j", "-d", "address"))
    return {link["ifname"]: link for link in told}


def address_of(container: Container, family: str = "inet") -> str:
    """The address that a running container has on its eth0: "inet" or "inet6"."""
    told = inside(container)["eth0"]["addr_info"]
    found: list[str] = [info["local"] for info in told if info["family"] == family and info["scope"] == "global"]
    assert found, told
    return found[0]
