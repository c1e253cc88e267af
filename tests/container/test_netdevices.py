"""`linux.netDevices` (config-linux.md#network-devices): devices of the host that become the container's.

"The host" is a network namespace of each test's own, in which the runtime is started; its devices are veth pairs, and
no packet leaves it. iproute2 tells what became of them, from outside of the container.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2", "veth"),
    pytest.mark.runc_since("1.4", "netDevices"),
]
MAC = "02:00:00:00:00:05"
# What some kernels put into every new network namespace.
FALL_BACKS = {"sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0", "ip6_vti0"}


class Network:
    """A network namespace, held by a process that sleeps in it."""

    def __init__(self) -> None:
        script = "ip link set lo up && echo up && exec sleep 1000"
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"up\n"
        self.path = f"/proc/{self.holder.pid}/ns/net"

    def close(self) -> None:
        self.holder.kill()
        self.holder.communicate()

    def ip(self, *arguments: str) -> None:
        """Run ip(8) in it."""
        subprocess.run(["nsenter", f"--net={self.path}", "ip", *arguments], check=True)

    def devices(self) -> dict[str, dict[str, Any]]:
        return devices_at(self.path)


def devices_at(path: str) -> dict[str, dict[str, Any]]:
    """What iproute2 says of the devices in a network namespace, by name."""
    command = ["nsenter", f"--net={path}", "ip", "-j", "-d", "address"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {device["ifname"]: device for device in json.loads(told) if device["ifname"] not in FALL_BACKS}


def global_addresses(device: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(address, prefix length, peer, broadcast address) of those with global scope."""
    return [
        tuple(info.get(key) for key in ("local", "prefixlen", "address", "broadcast"))
        for info in device["addr_info"]
        if info["scope"] == "global"
    ]


def is_up(device: dict[str, Any]) -> bool:
    return "UP" in device["flags"]


# What must be the same after a failure. (The index may change, and a link-local address is the kernel's to make.)
def as_it_was(device: dict[str, Any]) -> tuple[Any, ...]:
    return (device["ifname"], device["address"], device["mtu"], is_up(device), global_addresses(device))


@pytest.fixture
def networks() -> Iterator[Callable[[], Network]]:
    """Make network namespaces."""
    made: list[Network] = []

    def make() -> Network:
        made.append(Network())
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def host(networks: Callable[[], Network], container: Container, scratch: Path) -> Iterator[Network]:
    """A host with the device vt5, up and with addresses, whose peer is vt6. The runtime runs there from now on."""
    network = networks()
    network.ip("link", "add", "vt5", "address", MAC, "mtu", "1400", "type", "veth", "peer", "name", "vt6")
    for address in ("10.99.0.2/24", "10.99.0.3/24", "2001:db8::2/64"):
        network.ip("address", "add", address, "dev", "vt5")
    network.ip("address", "add", "10.98.0.1", "peer", "10.98.0.2/32", "dev", "vt5")
    network.ip("address", "add", "10.97.0.1/24", "brd", "+", "dev", "vt5")
    network.ip("link", "set", "vt5", "up")
    launcher = scratch / "runtime-on-that-host"
    launcher.write_text(f'#!/bin/sh\nexec nsenter --net={network.path} {container.runtime.command} "$@"\n')
    launcher.chmod(0o755)
    real, container.runtime.command = container.runtime.command, str(launcher)
    yield network
    container.runtime.command = real  # the container is deleted when that host is gone


def started(container: Container) -> dict[str, dict[str, Any]]:
    """Start it in the background; the devices that it has."""
    container.process["args"] = ["sleep", "1000"]
    result = container.run_detached()
    assert result.status == 0, result
    return devices_at(f"/proc/{container.pid()}/ns/net")


def failed(container: Container) -> str:
    """Run it, which must fail; what it said."""
    result = container.run()
    assert result.status == 1, result
    assert "Traceback" not in result.stderr
    return result.stderr


class TestMoved:
    def test_with_its_addresses_and_up(self, container: Container, host: Network) -> None:
        before = host.devices()["vt5"]
        container.linux["netDevices"] = {"vt5": {}}
        inside = started(container)
        assert inside.keys() == {"lo", "vt5"}
        assert sorted(global_addresses(inside["vt5"]), key=str) == sorted(global_addresses(before), key=str)
        assert len(global_addresses(before)) == 5
        assert (inside["vt5"]["address"], inside["vt5"]["mtu"]) == (MAC, 1400)
        assert is_up(inside["vt5"])
        assert host.devices().keys() == {"lo", "vt6"}

    def test_under_another_name(self, container: Container, host: Network) -> None:
        container.linux["netDevices"] = {"vt5": {"name": "eth0"}}
        inside = started(container)
        assert inside.keys() == {"lo", "eth0"}
        assert global_addresses(inside["eth0"])

    def test_up_though_it_was_down(self, container: Container, host: Network) -> None:
        """config-linux.md: the runtime MUST set the network device state to "up"."""
        container.linux["netDevices"] = {"vt6": {}}
        assert is_up(started(container)["vt6"])

    def test_not_the_addresses_of_the_link_alone(self, container: Container, host: Network) -> None:
        host.ip("address", "add", "169.254.7.7/16", "scope", "link", "dev", "vt5")
        host.ip("address", "add", "10.96.0.1/24", "valid_lft", "1000", "preferred_lft", "1000", "dev", "vt5")
        container.linux["netDevices"] = {"vt5": {}}
        inside = {info["local"] for info in started(container)["vt5"]["addr_info"]}
        assert "10.99.0.2" in inside
        assert not inside & {"169.254.7.7", "10.96.0.1"}

    def test_several_into_a_joined_namespace(
        self, container: Container, host: Network, networks: Callable[[], Network]
    ) -> None:
        pod = networks()
        pod.ip("link", "add", "eth0", "type", "veth", "peer", "name", "vt5")
        container.set_namespace("network", pod.path)
        container.linux["netDevices"] = {"vt5": {"name": "eth%d"}, "vt6": {"name": "eth%d"}}
        inside = started(container)
        assert inside.keys() == {"lo", "eth0", "vt5", "eth1", "eth2"}
        assert {inside["eth1"]["address"], inside["eth2"]["address"]} >= {MAC}

    @pytest.mark.needs("userns")
    def test_into_the_network_of_a_user_namespace(self, container: Container, host: Network) -> None:
        container.map_root_to(100000)
        container.linux["netDevices"] = {"vt5": {"name": "eth0"}}
        assert started(container).keys() == {"lo", "eth0"}

    @pytest.mark.needs("timens")
    def test_where_a_stage_clones_the_process(self, container: Container, host: Network) -> None:
        container.set_namespace("time")
        container.linux["timeOffsets"] = {"monotonic": {"secs": 100}}
        container.linux["netDevices"] = {"vt5": {"name": "eth0"}}
        assert started(container).keys() == {"lo", "eth0"}

    @pytest.mark.only_pyruntime("runc's order is the same; its message for a missing file differs")
    def test_before_the_sysctls(self, container: Container, host: Network) -> None:
        container.linux["netDevices"] = {"vt5": {"name": "eth0"}}
        container.linux["sysctl"] = {"net.ipv4.conf.eth0.rp_filter": "2"}
        assert container.output("cat /proc/sys/net/ipv4/conf/eth0/rp_filter") == "2"


@pytest.mark.only_pyruntime("runc takes the device down first, and leaves it to the namespace that ends")
class TestFailures:
    """Whatever fails, the host's device is as it was."""

    @pytest.fixture(autouse=True)
    def _host_as_it_was(self, host: Network) -> Iterator[None]:
        before = {name: as_it_was(device) for name, device in host.devices().items()}
        yield
        assert {name: as_it_was(device) for name, device in host.devices().items()} == before

    def test_no_such_device(self, container: Container, host: Network) -> None:
        container.linux["netDevices"] = {"nope0": {}}
        said = failed(container)
        assert "config.json#/linux/netDevices/nope0: find the network device 'nope0': ENODEV" in said

    def test_the_second_is_not_there(self, container: Container, host: Network) -> None:
        container.linux["netDevices"] = {"vt5": {"name": "eth0"}, "nope0": {}}
        assert "config.json#/linux/netDevices/nope0: " in failed(container)

    def test_the_name_is_taken(self, container: Container, host: Network) -> None:
        container.linux["netDevices"] = {"vt5": {"name": "lo"}}
        said = failed(container)
        assert "config.json#/linux/netDevices/vt5: the container's network namespace has a device lo already" in said

    def test_the_kernel_refuses_the_name_after_the_move(self, container: Container, host: Network) -> None:
        """A device's own alternative name can't become its name, which the kernel sees when it has moved."""
        host.ip("link", "property", "add", "dev", "vt5", "altname", "other0")
        container.linux["netDevices"] = {"vt5": {"name": "other0"}}
        said = failed(container)
        assert "config.json#/linux/netDevices/vt5: RTM_SETLINK('vt5', IFLA_NET_NS_FD, 'other0'): EEXIST" in said

    def test_the_loopback_stays(self, container: Container, host: Network) -> None:
        container.linux["netDevices"] = {"lo": {"name": "lo1"}}
        assert "config.json#/linux/netDevices/lo: RTM_SETLINK" in failed(container)

    def test_the_program_is_missing(self, container: Container, host: Network) -> None:
        container.linux["netDevices"] = {"vt5": {"name": "eth0"}, "vt6": {}}
        container.process["args"] = ["/bin/nope"]
        said = failed(container)
        assert "/bin/nope" in said
        assert "the network device vt5 is back on the host, without routes that were added by hand" in said

    @pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer", "poststart"])
    def test_a_hook_fails(self, container: Container, host: Network, kind: str) -> None:
        container.linux["netDevices"] = {"vt5": {"name": "eth0"}}
        container.process["args"] = ["sleep", "1000"]
        container.config["hooks"] = {kind: [{"path": "/bin/false"}]}
        assert f"config.json#/hooks/{kind}/0: " in failed(container)

    def test_into_the_namespace_of_the_host(self, container: Container, host: Network) -> None:
        container.set_namespace("network", host.path)
        container.linux["netDevices"] = {"vt5": {"name": "eth0"}}
        assert "config.json#/linux/netDevices/vt5: the container's network namespace is the host's" in failed(container)

    def test_without_a_network_namespace(self, container: Container, host: Network) -> None:
        container.drop_namespace("network")
        container.linux["netDevices"] = {"vt5": {}}
        assert "config.json#/linux/netDevices: needs a network namespace" in failed(container)

    def test_rootless(self, container: Container, host: Network) -> None:
        container.linux["netDevices"] = {"vt5": {}}
        container.write()
        result = container.runtime("--rootless=true", "run", "-b", os.fspath(container.path), container.id)
        assert result.status == 1
        assert "config.json#/linux/netDevices: network devices are not supported for rootless" in result.stderr
