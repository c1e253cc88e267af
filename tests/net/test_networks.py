"""`pyruntime network`: defined, listed, inspected, removed; and containers on several of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyruntime.state.store import Store
from tests.net.conftest import Started, address_of, inside
from tests.support.container import Container
from tests.support.namespace import Machine
from tests.support.runtime import Result, Runtime


@pytest.fixture
def network(driver: Runtime) -> Callable[..., Result]:
    """`pyruntime network ...`."""
    return lambda *words: driver("network", *words)


def made(result: Result) -> Any:
    assert (result.status, result.stderr) == (0, ""), result
    return json.loads(result.stdout)


class TestCreate:
    def test_with_addresses_of_its_own_choice(self, network: Callable[..., Result]) -> None:
        first, second = made(network("create", "back")), made(network("create", "front"))
        assert (first["name"], first["bridge"], first["mtu"]) == ("back", "pyruntime0", 0)
        assert first["subnets"][0] == {"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}
        assert first["subnets"][1]["subnet"].startswith("fd")
        assert (second["bridge"], second["subnets"][0]["subnet"]) == ("pyruntime1", "10.89.1.0/24")
        assert first["subnets"][1] != second["subnets"][1]

    def test_around_what_the_host_can_reach(self, network: Callable[..., Result], host: Machine) -> None:
        host.ip("route", "add", "10.89.0.0/23", "via", "198.51.100.2")
        host.ip("address", "add", "10.89.2.7/32", "dev", "out0")
        assert made(network("create", "back"))["subnets"][0]["subnet"] == "10.89.3.0/24"

    def test_where_a_vpn_has_all_of_ten(self, network: Callable[..., Result], host: Machine) -> None:
        host.ip("route", "add", "10.0.0.0/8", "via", "198.51.100.2")
        assert made(network("create", "back"))["subnets"][0]["subnet"] == "172.24.0.0/24"

    def test_around_another_roots_bridge(self, network: Callable[..., Result], host: Machine) -> None:
        host.ip("link", "add", "pyruntime0", "type", "bridge")
        assert made(network("create", "back"))["bridge"] == "pyruntime1"
        host.ip("link", "del", "pyruntime0")

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (["../x"], "invalid network name '../x'"),
            (["-x"], "no such option"),
            ([".x"], "invalid network name"),
            (["x.leases"], "invalid network name"),
            (["--subnet", "10.1.2.3/24", "x"], "--subnet: '10.1.2.3/24' is an address, not a subnet"),
            (
                ["--subnet", "10.1.2.0", "x"],
                "--subnet: '10.1.2.0' is not a subnet: the length of its",
            ),
            (["--subnet", "10.1.2.0/31", "x"], "--subnet: 10.1.2.0/31 is too small"),
            (["--subnet", "127.0.0.0/24", "x"], "127.0.0.0/8 has another meaning"),
            (["--subnet", "fe80::/64", "x"], "fe80::/10 has another meaning"),
            (["--subnet", "0.0.0.0/0", "x"], "has another meaning"),
            (["--subnet", "198.51.100.0/25", "x"], "overlaps the host's route to 198.51.100."),
            (["--subnet", "2001:db8:100::/48", "x"], "overlaps the host's route to 2001:db8:100::"),
            (["--subnet", "10.1.0.0/16", "--subnet", "10.1.2.0/24", "x"], "10.1.2.0/24 and 10.1.0.0/16 overlap"),
            (["--mtu", "67", "--subnet", "10.1.0.0/16", "x"], "--mtu: an MTU of 67 bytes can't be: 68 to 65535"),
            (["--mtu", "1279", "x"], "--mtu: an MTU of 1279 bytes can't be: 1280 to 65535"),
        ],
    )
    def test_what_is_refused(self, network: Callable[..., Result], words: list[str], reason: str) -> None:
        result = network("create", *words)
        assert (result.status, len(result.lines())) == (1, 1), result
        assert reason in result.stderr
        assert made(network("list", "-f", "json")) == []

    def test_twice_or_overlapping(self, network: Callable[..., Result]) -> None:
        made(network("create", "--subnet", "10.1.0.0/16", "back"))
        assert "there is a network 'back' already" in network("create", "back").stderr
        said = network("create", "--subnet", "10.1.2.0/24", "front").stderr
        assert "--subnet: 10.1.2.0/24 overlaps the network 'back' (10.1.0.0/16)" in said


class TestLook:
    def test_at_all(self, network: Callable[..., Result], started: Started) -> None:
        assert made(network("list", "--format", "json")) == []
        made(network("create", "--subnet", "10.1.0.0/16", "back"))
        started()
        rows = [line.split(maxsplit=4) for line in network("list").stdout.splitlines()]
        assert rows[0] == ["NAME", "BRIDGE", "STATE", "CONTAINERS", "SUBNETS"]
        assert rows[1] == ["back", "pyruntime0", "unused", "0", "10.1.0.0/16"]
        assert rows[2][:4] == ["default", "pyruntime1", "up", "1"]
        assert network("list", "-q").stdout == "back\ndefault\n"

    def test_at_one(self, network: Callable[..., Result], started: Started) -> None:
        container = started()
        shown = made(network("inspect", "default"))
        assert (shown["name"], shown["bridge"], shown["state"]) == ("default", "pyruntime0", "up")
        assert shown["addresses"][0] == "10.89.0.1/24"
        (on,) = shown["containers"]
        assert (on["id"], on["ips"][0], on["state"]) == (container.id, f"{address_of(container)}/24", "connected")
        assert (on["interface"], on["hostname"], on["ports"]) == ("pyr0-0a590002", "runc", [])

    def test_at_none(self, network: Callable[..., Result]) -> None:
        result = network("inspect", "back")
        assert (result.status, result.stdout) == (1, "")
        assert "network inspect back: there is no network 'back'" in result.stderr


class TestRemove:
    def test_takes_all_away(
        self, network: Callable[..., Result], host: Machine, driver: Runtime, started: Started
    ) -> None:
        before = host.rules()
        started().delete("--force")
        assert "pyruntime0" in host.links()
        assert network("remove", "default") == Result(0, "", "")
        assert host.links().keys() == {"lo", "out0"}
        assert host.rules() == before
        assert list((driver.root / "~networks").iterdir()) == []

    def test_not_while_a_container_is_on_it(self, network: Callable[..., Result], started: Started) -> None:
        container = started()
        result = network("remove", "default")
        assert result.status == 1
        assert f"the network 'default' is in use by {container.id} (delete them first" in result.stderr
        assert address_of(container)

    def test_one_whose_bridge_was_removed_by_hand(
        self, network: Callable[..., Result], started: Started, host: Machine
    ) -> None:
        started().delete("--force")
        host.ip("link", "del", "pyruntime0")
        assert network("remove", "default").status == 0

    def test_one_that_is_not_there(self, network: Callable[..., Result], driver: Runtime) -> None:
        result = network("remove", "back")
        assert (result.status, "there is no network 'back'" in result.stderr) == (1, True)
        assert not driver.root.exists()

    def test_a_stale_lease_does_not_hold_it(
        self, network: Callable[..., Result], started: Started, driver: Runtime
    ) -> None:
        container = started()
        container.kill("KILL")
        container.wait_for("stopped")
        record = Store(str(driver.root), container.id).read()
        shutil.rmtree(driver.root / container.id)
        assert network("remove", "default").status == 0
        Path(record["cgroup"]).rmdir()


class TestSeveral:
    def test_each_with_its_own_bridge_and_addresses(self, network: Callable[..., Result], started: Started) -> None:
        made(network("create", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64", "--mtu", "1400", "back"))
        one, other = started("sleep 1000", "--net", "bridge:back"), started()
        assert (address_of(one), address_of(one, "inet6")) == ("10.1.0.2", "fd00:1::2")
        assert inside(one)["eth0"]["mtu"] == 1400
        assert address_of(other).startswith("10.89.")
        assert inside(other)["eth0"]["mtu"] == 1500

    def test_the_mtu_is_that_of_bridge_and_cable(
        self, network: Callable[..., Result], started: Started, host: Machine
    ) -> None:
        made(network("create", "--subnet", "10.1.0.0/16", "--mtu", "9000", "jumbo"))
        started("sleep 1000", "--net", "bridge:jumbo")
        assert {link["mtu"] for name, link in host.links().items() if name.startswith("pyr")} == {9000}

    def test_ipv6_alone(
        self, network: Callable[..., Result], started: Started, host: Machine, container: Container
    ) -> None:
        made(network("create", "--subnet", "fd00:1::/64", "six"))
        server = started("while :; do echo hello | nc -l -p 80; done\n", "--net", "bridge:six")
        assert {info["family"] for info in inside(server)["eth0"]["addr_info"]} == {"inet6"}
        script = f"until nc -w 5 {server.id} 80 </dev/null 2>/dev/null; do usleep 10000; done"
        assert container.output(script, "--net", "bridge:six") == "hello"
