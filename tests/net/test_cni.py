"""--net cni:NAME with Debian's plugins: bridge, host-local, portmap, firewall, loopback, and real traffic.

tests/kernel/test_cni.py has what plugins are told, and what they may do wrong.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.net.conftest import HOST, HOST6, OUTSIDE, Started, address_of, inside
from tests.support.container import Container, wait_until
from tests.support.leftovers import Leftovers
from tests.support.namespace import Machine
from tests.support.runtime import Runtime

pytestmark = pytest.mark.needs("cni")

SUBNET = "10.87.0"


class Networks:
    """A directory like /etc/cni/net.d, and what the plugins keep."""

    def __init__(self, folder: Path, host: Machine) -> None:
        self.folder = folder
        self.host = host
        self.configurations = folder / "net.d"
        self.configurations.mkdir(parents=True)
        self.leases = folder / "leases"

    def bridge(self, **more: Any) -> dict[str, Any]:
        """The standard plugin's part of a file."""
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": f"{SUBNET}.0/29"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.leases),
        }
        config = {"type": "bridge", "bridge": "cni-test", "isGateway": True, "ipMasq": True, "hairpinMode": True}
        return config | {"capabilities": {"ips": True}, "ipam": ipam} | more

    def write(self, *chain: dict[str, Any], name: str = "web", **more: Any) -> None:
        content = {"cniVersion": "1.0.0", "name": name, "plugins": chain or [self.bridge()], **more}
        (self.configurations / f"{name}.conflist").write_text(json.dumps(content))

    def taken(self) -> dict[str, str]:
        """Address -> the container, as host-local has them."""
        files = self.leases.glob("*/*.*.*.*")
        return {path.name: path.read_text().split()[0] for path in files}

    def rules_for(self, container: Container) -> list[str]:
        """The rules of iptables that are about this container."""
        saved = self.host.run("iptables-save").splitlines()
        return [line for line in saved if container.id in line or re.search(rf"{SUBNET}\.[2-7]\b", line)]


@pytest.fixture
def networks(scratch: Path, host: Machine, driver: Runtime) -> Networks:
    networks = Networks(scratch / "cni", host)
    driver.environment |= {"NETCONFPATH": str(networks.configurations), "CNI_PATH": "/usr/lib/cni"}
    networks.write()
    return networks


PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}


def nothing_left(networks: Networks, container: Container) -> None:
    assert networks.taken() == {}
    assert networks.rules_for(container) == []


def test_a_container_has_an_address_and_the_outside(
    networks: Networks, started: Started, host: Machine, outside: Machine
) -> None:
    container = started("httpd -f -p 80", "--net", "cni:web")
    address = address_of(container)
    assert networks.taken() == {address: container.id}
    assert inside(container)["lo"]["flags"].count("UP")
    assert host.reaches(address, 80)
    with outside.listen(OUTSIDE, 7) as listener:
        asked = subprocess.Popen(
            ["nsenter", f"--net=/proc/{container.pid()}/ns/net", "--", "busybox", "nc", "-w", "5", OUTSIDE, "7"],
            stdin=subprocess.DEVNULL,
        )
        connection, peer = listener.accept()
        connection.close()
        asked.wait(10)
    assert peer[0] == HOST
    assert container.delete("--force").status == 0
    nothing_left(networks, container)


def test_a_published_port_by_portmap(networks: Networks, started: Started, outside: Machine) -> None:
    networks.write(networks.bridge(), PORTMAP)
    container = started("httpd -f -p 80", "--net", "cni:web", "-p", "8080:80", "-p", f"{HOST}:8081:80")
    assert outside.reaches(HOST, 8080)
    assert outside.reaches(HOST, 8081)
    assert container.delete("--force").status == 0
    assert not outside.reaches(HOST, 8080)
    nothing_left(networks, container)


def test_the_whole_chain_also_with_a_firewall(networks: Networks, started: Started, outside: Machine) -> None:
    networks.write(networks.bridge(), PORTMAP, {"type": "firewall", "backend": "iptables"}, {"type": "loopback"})
    container = started("httpd -f -p 80", "--net", "cni:web", "-p", "8080:80")
    assert outside.reaches(HOST, 8080)
    assert container.delete("--force").status == 0
    nothing_left(networks, container)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_each_version_of_the_protocol(networks: Networks, started: Started, version: str) -> None:
    networks.write(networks.bridge(), PORTMAP, cniVersion=version)
    container = started("sleep 1000", "--net", "cni:web", "-p", "8080:80")
    assert networks.taken() == {address_of(container): container.id}
    assert container.delete("--force").status == 0
    nothing_left(networks, container)


def test_of_several_versions_the_plugins_choose(networks: Networks, container: Container) -> None:
    networks.write(cniVersions=["0.4.0", "1.1.0"])
    assert container.run("--net", "cni:web").status == 0
    nothing_left(networks, container)


def test_an_address_of_ones_own_and_one_that_is_taken(
    networks: Networks, started: Started, container: Container, leftovers: Leftovers
) -> None:
    first = started("sleep 1000", "--net", "cni:web", "--ip", f"{SUBNET}.5")
    assert address_of(first) == f"{SUBNET}.5"
    result = container.run("--net", "cni:web", "--ip", f"{SUBNET}.5")
    assert result.status == 1
    assert "--net: ADD of the CNI plugin bridge: it says" in result.stderr
    assert f"{SUBNET}.5" in result.stderr
    assert networks.taken() == {f"{SUBNET}.5": first.id}


def test_an_address_without_the_capability(networks: Networks, started: Started) -> None:
    networks.write(networks.bridge(capabilities={}))
    assert address_of(started("sleep 1000", "--net", "cni:web", "--ip", f"{SUBNET}.6")) == f"{SUBNET}.6"


def test_by_annotations(networks: Networks, started: Started, new_container: Any, outside: Machine) -> None:
    networks.write(networks.bridge(), PORTMAP)
    container = new_container()
    annotations = {"org.pyruntime.network": "cni:web", "org.pyruntime.publish": "8080:80"}
    container.config["annotations"] = annotations
    container.script("exec httpd -f -p 80")
    assert container.run_detached().status == 0
    assert outside.reaches(HOST, 8080)


def test_run_in_the_foreground_takes_all_away(networks: Networks, container: Container) -> None:
    assert f"{SUBNET}.2" in container.output("ip -4 addr show eth0", "--net", "cni:web")
    nothing_left(networks, container)


def test_create_start_and_delete(networks: Networks, container: Container) -> None:
    container.script("exec sleep 1000")
    assert container.create("--net", "cni:web").status == 0
    assert list(inside(container)) == ["lo", "eth0"]
    assert container.start().status == 0
    assert container.kill("KILL").status == 0
    container.wait_for("stopped")
    assert networks.taken() != {}  # a container that has stopped still has its address
    assert container.delete().status == 0
    nothing_left(networks, container)


def test_delete_with_the_network_namespace_gone(
    networks: Networks, started: Started, host: Machine, driver: Runtime
) -> None:
    container = started("sleep 1000", "--net", "cni:web")
    held = driver.root / container.id / "netns"
    assert container.kill("KILL").status == 0
    container.wait_for("stopped")
    host.run("umount", str(held))
    assert container.delete().status == 0
    assert networks.taken() == {}


def test_a_plugin_that_is_gone_when_the_container_is_deleted(
    networks: Networks, started: Started, driver: Runtime, scratch: Path
) -> None:
    """The first `delete` fails and can be tried again; with --force what can't be taken back is told, and left."""
    plugins = scratch / "plugins"
    plugins.mkdir()
    for name in ("bridge", "host-local"):
        (plugins / name).symlink_to(f"/usr/lib/cni/{name}")
    driver.environment["CNI_PATH"] = str(plugins)
    container = started("sleep 1000", "--net", "cni:web")
    (plugins / "bridge").rename(plugins / "away")
    assert container.kill("KILL").status == 0
    container.wait_for("stopped")
    result = container.delete()
    assert result.status == 1
    assert "there is no CNI plugin bridge in" in result.stderr
    assert container.state()["status"] == "stopped"
    (plugins / "away").rename(plugins / "bridge")
    assert container.delete().status == 0
    nothing_left(networks, container)


def test_delete_with_force_in_any_case(networks: Networks, started: Started, driver: Runtime, scratch: Path) -> None:
    plugins = scratch / "plugins"
    plugins.mkdir()
    for name in ("bridge", "host-local"):
        (plugins / name).symlink_to(f"/usr/lib/cni/{name}")
    driver.environment["CNI_PATH"] = str(plugins)
    container = started("sleep 1000", "--net", "cni:web")
    (plugins / "bridge").unlink()
    result = container.delete("--force")
    assert result.status == 0
    assert "there is no CNI plugin bridge in" in result.stderr
    assert not (driver.root / container.id).exists()
    assert networks.taken() != {}  # the plugin's own, and nobody's to guess


@pytest.mark.needs("userns")
@pytest.mark.parametrize("net", ["bridge", "cni:web"])
def test_in_a_user_namespace(networks: Networks, container: Container, net: str) -> None:
    """Which owns the network namespace; its root is nobody on the host, and may make no file in the image."""
    container.linux["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    container.linux["uidMappings"] = container.linux["gidMappings"] = mapping
    container.write()
    for name in ("hosts", "resolv.conf"):
        (container.rootfs / "etc" / name).touch()
    told = container.output("ip -4 route; cat /etc/hosts", "--net", net)
    assert "default via 10.8" in told
    assert container.id in told


def test_two_containers_reach_each_other(networks: Networks, started: Started, container: Container) -> None:
    server = started("httpd -f -p 80 -h /etc", "--net", "cni:web")
    fetched = container.output(f"wget -q -O - http://{address_of(server)}/hosts", "--net", "cni:web")
    assert f"{address_of(server)}\t{server.id}" in fetched


def test_an_address_of_each_version_of_ip(
    networks: Networks, started: Started, host: Machine, outside: Machine
) -> None:
    bridge = networks.bridge()
    bridge["ipam"]["ranges"].append([{"subnet": "fd00:87::/64"}])
    bridge["ipam"]["routes"].append({"dst": "::/0"})
    networks.write(bridge, PORTMAP)
    container = started("httpd -f -p 80", "--net", "cni:web", "-p", "8080:80")
    assert address_of(container, "inet6") == "fd00:87::2"
    wait_until(lambda: host.reaches("fd00:87::2", 80), "the plugin's addresses, which are tentative at first")
    assert outside.reaches(HOST6, 8080)
    assert f"fd00:87::2\t{container.id}" in container.exec_output("cat /etc/hosts")
    assert container.delete("--force").status == 0
    nothing_left(networks, container)


def test_the_networks_own_name_servers(networks: Networks, container: Container) -> None:
    dns = {"nameservers": [f"{SUBNET}.1"], "search": ["example.org"], "options": ["ndots:2"]}
    networks.write(networks.bridge(dns=dns))
    expected = f"nameserver {SUBNET}.1\nsearch example.org\noptions ndots:2"
    assert container.output("cat /etc/resolv.conf", "--net", "cni:web") == expected


def test_the_plugins_state_is_left_to_them_by_a_start_that_is_killed(
    networks: Networks, container: Container, driver: Runtime, scratch: Path
) -> None:
    """A plugin that hangs; the runtime is killed meanwhile; `delete --force` takes back what there was."""
    plugins = scratch / "plugins"
    plugins.mkdir()
    (plugins / "slow").write_text("#!/bin/sh\ntest $CNI_COMMAND = ADD || exit 0\necho > $0.runs\nexec sleep 1000\n")
    (plugins / "slow").chmod(0o755)
    driver.environment["CNI_PATH"] = f"{plugins}:/usr/lib/cni"
    networks.write(networks.bridge(), {"type": "slow"})
    starting = container.spawn("--net", "cni:web", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (plugins / "slow.runs").exists():
        assert starting.poll() is None
        os.sched_yield()
    assert networks.taken() != {}
    starting.kill()
    starting.wait()
    assert container.delete("--force").status == 0
    nothing_left(networks, container)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
def test_whoever_waits_for_a_plugin_can_give_up(
    networks: Networks, container: Container, driver: Runtime, scratch: Path, leftovers: Leftovers, number: int
) -> None:
    """The signal waits until all is taken back, and then ends the runtime."""
    plugins = scratch / "plugins"
    plugins.mkdir()
    (plugins / "slow").write_text("#!/bin/sh\ntest $CNI_COMMAND = ADD || exit 0\necho > $0.runs\nsleep 1000\n")
    (plugins / "slow").chmod(0o755)
    driver.environment["CNI_PATH"] = f"{plugins}:/usr/lib/cni"
    networks.write(networks.bridge(), {"type": "slow"})
    starting = container.spawn("--net", "cni:web")
    wait_until((plugins / "slow.runs").exists, "the plugin to run")
    starting.send_signal(number)
    starting.communicate(timeout=30)
    assert starting.returncode == -number
    assert leftovers.found() == []
    nothing_left(networks, container)


def test_many_at_once(networks: Networks, container: Container, driver: Runtime, marker: str) -> None:
    bridge = networks.bridge()
    bridge["ipam"]["ranges"] = [[{"subnet": f"{SUBNET}.0/24"}]]
    networks.write(bridge, PORTMAP)
    container.write()
    ids = [f"{marker}-many-{number}" for number in range(12)]
    running = [
        driver.spawn("run", "--net", "cni:web", "-p", f"{8000 + number}:80", "-b", str(container.path), id)
        for number, id in enumerate(ids)
    ]
    for process in running:
        _, errors = process.communicate(timeout=100)
        assert (process.returncode, errors) == (0, b"")
    nothing_left(networks, container)


REFUSED = {
    "no such network": ("cni:nope", [], r"--net: there is no CNI network 'nope' in .* \(there are: web\)"),
    "no name": ("cni", [], r"--net: .*cni:NAME"),
    "no ports": ("cni:web", ["-p", "8080:80"], r"the CNI network web publishes no ports"),
    "another subnet": ("cni:web", ["--ip", "10.1.1.1"], r"ADD of the CNI plugin bridge: it says .*10\.1\.1\.1"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_is_refused(networks: Networks, container: Container, leftovers: Leftovers, which: str) -> None:
    network, flags, told = REFUSED[which]
    result = container.run("--net", network, *flags)
    assert result.status == 1
    assert re.search(told, result.stderr), result.stderr
    assert len(result.lines()) == 1
    assert leftovers.found() == []
    nothing_left(networks, container)


def test_no_address_is_left(networks: Networks, started: Started, container: Container) -> None:
    for _ in range(5):  # of a /29
        started("sleep 1000", "--net", "cni:web")
    result = container.run("--net", "cni:web")
    assert result.status == 1
    assert "no IP addresses available in range" in result.stderr
    assert len(networks.taken()) == 5


def test_a_plan_says_it(networks: Networks, container: Container, driver: Runtime) -> None:
    container.write()
    result = driver("plan", "--net", "cni:web", str(container.path))
    assert "connect to the cni network web" in result.stdout
