"""Which network a container gets: --net, its annotations, linux.namespaces; alone and with what else a start has."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyruntime.state.store import Store
from tests.net.conftest import Started, address_of, inside
from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers
from tests.support.namespace import FALL_BACKS, Machine
from tests.support.runtime import Runtime

pytestmark = pytest.mark.usefixtures("a_router")

LINKS = "cat /proc/net/dev | sed -n 's/^ *\\([a-z0-9_-]*\\):.*/\\1/p' | sort"


def links_of(container: Container, *flags: str) -> set[str]:
    """The interfaces that a container's program sees."""
    return set(container.output(LINKS, *flags).split()) - FALL_BACKS


class TestKinds:
    def test_without_an_option_it_is_as_with_runc(self, container: Container) -> None:
        assert links_of(container) == {"lo"}
        container.drop_namespace("network")
        assert links_of(container) == {"lo", "out0"}

    def test_none(self, container: Container) -> None:
        container.drop_namespace("network")
        assert links_of(container, "--net", "none") == {"lo"}
        container.output("ip address show lo | grep -q 127.0.0.1 && ip link show up | grep -q lo:", "--net", "none")

    def test_host(self, container: Container) -> None:
        assert links_of(container, "--net", "host") == {"lo", "out0"}

    def test_bridge_though_config_json_has_no_namespace(self, container: Container) -> None:
        container.drop_namespace("network")
        assert links_of(container, "--net=bridge") == {"lo", "eth0"}

    def test_the_network_of_another_container(self, container: Container, started: Started) -> None:
        other = started("while :; do echo hello | nc -l -p 80; done\n")
        flags = ("--net", f"container:{other.id}")
        assert address_of(other) in container.output("ip address show eth0", *flags)
        script = "until nc -w 5 127.0.0.1 80 </dev/null 2>/dev/null; do usleep 10000; done"
        assert container.output(script, *flags) == "hello"
        assert inside(other).keys() >= {"lo", "eth0"}, "it stays when the other ends"

    def test_a_namespace_that_is_there(self, container: Container, machines: Callable[[str], Machine]) -> None:
        machine = machines("third")
        machine.ip("link", "add", "vt0", "type", "veth", "peer", "name", "vt1")
        assert links_of(container, "--net", f"ns:{machine.path}") == {"lo", "vt0", "vt1"}

    def test_a_bundle_that_carries_it(self, container: Container) -> None:
        container.config["annotations"] = {"org.pyruntime.network": "bridge"}
        assert links_of(container) == {"lo", "eth0"}
        assert links_of(container, "--net", "none") == {"lo"}

    def test_the_record_keeps_what_was_chosen(self, started: Started, driver: Runtime) -> None:
        container = started()
        record = Store(str(driver.root), container.id).read()
        assert record["network"]["kind"] == "bridge"
        assert record["network"]["endpoint"]["ips"][0] == f"{address_of(container)}/24"


class TestLives:
    def test_a_created_container_is_on_the_network(self, container: Container, host: Machine) -> None:
        container.script("while :; do echo hello | nc -l -p 80; done")
        assert container.create("--net", "bridge").status == 0
        assert address_of(container) == "10.89.0.2"
        assert host.links()["pyr0-0a590002"]["master"] == "pyruntime0"
        assert container.start().status == 0
        container.kill("KILL")
        container.wait_for("stopped")
        assert container.delete().status == 0

    def test_deleted_without_a_start(self, container: Container, leftovers: Leftovers) -> None:
        container.create("--net", "bridge")
        assert container.delete().status == 0
        assert leftovers.found() == []

    def test_run_keep_leaves_it_to_delete(self, container: Container, leftovers: Leftovers, driver: Runtime) -> None:
        assert container.run("--keep", "--net", "bridge").status == 0

        def state() -> str:
            told = driver("network", "inspect", "default").stdout
            return str(json.loads(told)["containers"][0]["state"])

        wait_until(lambda: state() == "disconnected", "the end of the namespace, which the kernel takes its time for")
        assert container.delete().status == 0
        assert leftovers.found() == []

    def test_exit_status_and_output_are_the_programs(self, container: Container) -> None:
        result = container.run_script("echo out; exit 7", "--net", "bridge")
        assert (result.status, result.stdout, result.stderr) == (7, "out\n", "")


class TestWithOtherKeys:
    @pytest.mark.needs("userns")
    def test_in_a_user_namespace(self, container: Container) -> None:
        container.map_root_to(100000)
        assert "10.89.0.2" in container.output("ip address show eth0; cat /etc/hosts", "--net", "bridge")

    @pytest.mark.needs("timens")
    def test_where_a_stage_clones_the_process(self, container: Container) -> None:
        container.set_namespace("time")
        container.linux["timeOffsets"] = {"monotonic": {"secs": 100}}
        assert "10.89.0.2" in container.output("ip address show eth0", "--net", "bridge")

    @pytest.mark.needs("userns", "timens")
    def test_where_a_stage_needs_ids(self, container: Container) -> None:
        container.map_root_to(100000)
        container.set_namespace("time")
        container.linux["timeOffsets"] = {"monotonic": {"secs": 100}}
        assert "10.89.0.2" in container.output("ip address show eth0", "--net", "bridge")

    def test_a_sysctl_of_the_interface(self, container: Container) -> None:
        container.linux["sysctl"] = {"net.ipv4.conf.eth0.rp_filter": "2"}
        assert container.output("cat /proc/sys/net/ipv4/conf/eth0/rp_filter", "--net", "bridge") == "2"

    @pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
    def test_hooks_find_it(self, container: Container, kind: str) -> None:
        program = container.add_file("hook", mode=0o755)
        look = "ip address show eth0 >/dev/null"
        if kind in ("prestart", "createRuntime", "poststart"):  # on the host: the state on stdin tells the process
            look = f"""nsenter --net=/proc/$(sed 's/.*"pid":\\([0-9]*\\).*/\\1/')/ns/net {look}"""
        program.write_text(f"#!/bin/sh\n{look}\n")
        path = "/hook" if kind == "startContainer" else str(program)
        container.config["hooks"] = {kind: [{"path": path, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]}
        container.process["args"] = ["sleep", "0.2"]
        result = container.run("--net", "bridge")
        assert (result.status, result.stderr) == (0, "")

    def test_where_ipv6_is_switched_off_inside(self, container: Container) -> None:
        container.linux["sysctl"] = {"net.ipv6.conf.all.disable_ipv6": "1"}
        assert "10.89.0.2" in container.output("ip address show eth0", "--net", "bridge")

    def test_where_ipv6_is_switched_off_on_the_host(self, container: Container, host: Machine, driver: Runtime) -> None:
        host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
        host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        result = container.run_script("ip address show eth0", "--net", "bridge")
        assert (result.status, result.stderr) == (0, "")
        assert "inet 10.89.0.2" in result.stdout
        network = json.loads(driver("network", "inspect", "default").stdout)
        assert [subnet["subnet"] for subnet in network["subnets"]] == ["10.89.0.0/24"]

    def test_an_image_without_etc(self, container: Container) -> None:
        (container.rootfs / "etc").rmdir()
        assert container.id in container.output("cat /etc/hosts", "--net", "bridge")

    def test_an_image_whose_resolv_conf_is_a_link(self, container: Container, driver: Runtime) -> None:
        """As images made for systemd-resolved have it. Nothing is made where it points to."""
        link = container.rootfs / "etc/resolv.conf"
        link.symlink_to("../run/systemd/resolve/stub-resolv.conf")
        told = container.output("cat /etc/resolv.conf && echo end", "--net", "bridge")
        assert told.endswith("end")
        assert link.is_symlink()
        assert not (container.rootfs / "run").exists()

    def test_an_image_that_can_not_be_written(self, container: Container, scratch: Path, host: Machine) -> None:
        """Without the two files it says which is missing; with them there is nothing to write."""
        image = scratch / "image"
        image.mkdir()
        container.config["root"]["path"] = str(image)
        host.run("mount", "-t", "tmpfs", "none", str(image))
        host.run("cp", "-a", f"{container.rootfs}/.", str(image))
        host.run("mount", "-o", "remount,ro", str(image))
        result = container.run("--net", "bridge")
        assert result.status == 1
        assert "--net: bind" in result.stderr and "/etc/hosts" in result.stderr
        host.run("mount", "-o", "remount,rw", str(image))
        host.run("touch", f"{image}/etc/hosts", f"{image}/etc/resolv.conf")
        host.run("mount", "-o", "remount,ro", str(image))
        assert container.id in container.output("cat /etc/hosts", "--net", "bridge")

    def test_an_error_of_the_child_is_told_before_one_of_its_network(
        self, refused: Refused, container: Container
    ) -> None:
        """The child may have failed, and its network namespace be gone, while the parent is about to connect it."""
        container.add_bind("/nowhere", "/mnt")
        place = f"config.json#/mounts/{len(container.mounts) - 1}: "
        for _ in range(5):
            refused(place, "--net", "bridge")

    def test_a_plan_says_it(self, container: Container, driver: Runtime) -> None:
        container.write()
        said = driver("plan", "-f", "json", "--net", "bridge:back", "-p", "8080:80", str(container.path)).stdout
        steps = {step["text"]: step for step in json.loads(said)["steps"]}
        assert steps["connect to the bridge network back, publish 8080:80/tcp"]["phase"] == "network"
        (bound,) = [step for step in steps.values() if step.get("target") == "/etc/hosts"]
        assert (bound["source"], bound["where"]) == (f"{driver.root}/bundle0/hosts", "--net")
        assert not (driver.root / "~networks").exists(), "a plan does nothing"


class TestRefused:
    """Each with what to do about it, and nothing left."""

    def test_no_network_of_that_name(self, refused: Refused) -> None:
        result = refused("--net: there is no network 'back'", "--net", "bridge:back")
        assert "pyruntime network create back" in result.stderr

    def test_no_such_kind(self, refused: Refused) -> None:
        result = refused("--net: 'bridg' is no network", "--net", "bridg")
        assert "one of none, host, container:ID, ns:PATH, bridge[:NAME], cni:NAME" in result.stderr

    def test_by_an_annotation(self, container: Container, refused: Refused) -> None:
        container.config["annotations"] = {"org.pyruntime.network": "bridge:back"}
        refused("config.json#/annotations/org.pyruntime.network: there is no network 'back'")
        container.config["annotations"] = {"org.pyruntime.network": "bridge", "org.pyruntime.publish": "80"}
        refused("config.json#/annotations/org.pyruntime.publish: '80' is no published port")

    @pytest.mark.needs("nft")
    def test_a_port_that_is_taken(self, container: Container, host: Machine) -> None:
        container.config["annotations"] = {"org.pyruntime.network": "bridge", "org.pyruntime.publish": "8080:80"}
        with host.listen("0.0.0.0", 8080):
            result = container.run()
        assert result.status == 1
        assert "config.json#/annotations/org.pyruntime.publish: " in result.stderr and "8080" in result.stderr

    @pytest.mark.parametrize("ip", ["10.89.0.1", "10.89.0.255", "10.9.0.2", "2001:db8::2"])
    def test_an_address_that_can_not_be(self, refused: Refused, started: Started, ip: str) -> None:
        refused(f"--ip: {ip} ", "--net", "bridge", "--ip", ip)

    def test_an_address_that_is_taken(self, container: Container, started: Started) -> None:
        other = started("sleep 1000", "--net", "bridge", "--ip", "10.89.0.9")
        assert address_of(other) == "10.89.0.9"
        result = container.run("--net", "bridge", "--ip", "10.89.0.9")
        assert result.status == 1
        assert f"--ip: 10.89.0.9 is taken by the container {other.id}" in result.stderr

    def test_no_address_left(self, container: Container, started: Started, driver: Runtime) -> None:
        driver("network", "create", "--subnet", "10.5.0.0/30", "tiny")
        started("sleep 1000", "--net", "bridge:tiny")
        result = container.run("--net", "bridge:tiny")
        assert result.status == 1
        assert "--net: the network 'tiny' has no address left in 10.5.0.0/30: 1 containers have one" in result.stderr

    def test_the_container_to_share_with_is_not_there(self, refused: Refused) -> None:
        refused("--net: there is no container 'nobody' whose network could be shared", "--net", "container:nobody")
        refused("--net: invalid container ID format: '../x'", "--net", "container:../x")

    def test_the_container_to_share_with_has_stopped(self, container: Container, started: Started) -> None:
        other = started()
        other.kill("KILL")
        other.wait_for("stopped")
        result = container.run("--net", f"container:{other.id}")
        assert f"--net: the container {other.id!r} does not run" in result.stderr

    @pytest.mark.parametrize("path", ["/nowhere", "/proc/self/ns/mnt", "/etc"])
    def test_no_namespace_at_a_path(self, refused: Refused, path: str) -> None:
        refused("--net: ", "--net", f"ns:{path}")

    def test_ports_without_a_network(self, refused: Refused) -> None:
        result = refused("--publish: needs a network", "-p", "80:80")
        assert "--net bridge" in result.stderr

    def test_without_root(self, container: Container) -> None:
        container.write()
        result = container.runtime("--rootless=true", "run", "--net", "bridge", "-b", str(container.path), container.id)
        assert result.status == 1
        assert "--net: the network 'bridge' changes the host's interfaces, which takes root" in result.stderr

    def test_a_taken_name_inside(self, container: Container, refused: Refused, host: Machine) -> None:
        """linux.netDevices comes after the cable, and must not take its name."""
        host.ip("link", "add", "vt0", "type", "veth", "peer", "name", "vt1")
        container.linux["netDevices"] = {"vt0": {"name": "eth0"}}
        result = container.run("--net", "bridge")
        assert "config.json#/linux/netDevices/vt0: the container's network namespace has a device eth0" in result.stderr
        assert host.links().keys() >= {"vt0", "vt1"}
        host.ip("link", "del", "vt0")


def test_the_host_can_be_asked_by_others_tools(started: Started, host: Machine) -> None:
    """`ip netns` and the like find what they know: nothing is hidden from them."""
    container = started()
    told: Any = json.loads(host.run("ip", "-j", "-d", "link", "show", "master", "pyruntime0"))
    assert [link["ifname"] for link in told] == ["pyr0-0a590002"]
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(host.command("ip", "link", "show", "eth0"), check=True, capture_output=True)
    assert container.pid()
