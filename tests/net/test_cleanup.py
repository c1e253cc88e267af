"""What failures, kills, reboots and meddling hands leave of a network: nothing, or what the next start mends."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyruntime.state.store import Store
from scripts.lib.environment import checkout_launcher
from tests.net.conftest import Started, address_of, inside, leases_in
from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers
from tests.support.namespace import FALL_BACKS, Machine
from tests.support.runtime import Runtime

# INJECT=kill:N or fail:N. Of the requests to rtnetlink and netfilter, and the files that are written whole, the Nth is
# the runtime's last act, or fails. That there was an Nth at all is said by a file.
INJECTING = """
import errno, posix, sys
sys.path[:0] = sys.path[-1], {library!r}
from pyruntime.errors import KernelError
from pyruntime.linux import files, netlink_socket, nftables
from pyruntime.__main__ import main

what, _, number = posix.environ[b"INJECT"].decode().partition(":")
left = [int(number)]

def weak(function):
    def reached(*arguments):
        left[0] -= 1
        if left[0] < 0:
            left[0] = 1000000
            posix.close(posix.open({sign!r}, posix.O_CREAT | posix.O_WRONLY))
            if what == "kill":
                posix.kill(posix.getpid(), 9)
            raise KernelError("injected()", errno.EIO)
        return function(*arguments)
    return reached

netlink_socket.NetlinkSocket._ask = weak(netlink_socket.NetlinkSocket._ask)
nftables.Nftables._transact = weak(nftables.Nftables._transact)
files.replace = weak(files.replace)
files.rewrite = weak(files.rewrite)
main()
"""


@pytest.fixture
def injecting(scratch: Path, host: Machine) -> Callable[[str], tuple[str, Path]]:
    """A command that is the runtime, on the host, but for one call; and a file that is there once that was reached."""
    launcher = checkout_launcher(scratch, sys.executable)
    sign = scratch / "reached"
    program = scratch / "injecting"
    library = str(Path(__file__).resolve().parent.parent.parent)
    first_line = launcher.read_text().splitlines()[0]
    program.write_text(first_line + INJECTING.format(library=library, sign=str(sign)))
    program.chmod(0o755)

    def make(inject: str) -> tuple[str, Path]:
        sign.unlink(missing_ok=True)
        return host.launcher(scratch / "runtime-that-fails", "env", f"INJECT={inject}", str(program)), sign

    return make


@pytest.mark.usefixtures("a_router")
@pytest.mark.parametrize("how", ["kill", "fail"])
def test_whenever_a_start_ends_nothing_is_left(
    how: str, container: Container, injecting: Any, driver: Runtime, leftovers: Leftovers
) -> None:
    container.process["args"] = ["true"]
    flags = ("--net", "bridge", "-p", "8080:80", "-p", "53:53/udp")
    sound = driver.command
    for number in itertools.count():
        driver.command, sign = injecting(f"{how}:{number}")
        result = container.run(*flags)
        driver.command = sound
        if not sign.exists():
            assert result.status == 0, result
            break
        if how == "kill":
            assert result.status == -9
            deleted = container.delete("--force")
            assert deleted.status == 0, deleted
        else:
            assert "EIO" in result.stderr, result
            if result.status == 0:  # it was one on the way out, and the program had run
                container.delete("--force")
        left = leftovers.found()
        assert not left, f"at call {number}: {left}"
        # What is left of the network itself must do for the next.
        again = container.run(*flags)
        assert (again.status, again.stderr) == (0, ""), f"after call {number}"
    assert number > 15, "the calls were not counted"


@pytest.mark.usefixtures("a_router")
def test_a_program_that_is_not_there_leaves_no_address(
    container: Container, started: Started, refused: Refused
) -> None:
    container.process["args"] = ["/bin/nope"]
    refused("/bin/nope", "--net", "bridge")


class TestStale:
    def test_a_container_whose_state_was_removed_by_hand_is_cut_off(
        self, started: Started, driver: Runtime, host: Machine
    ) -> None:
        lost = started()
        address = address_of(lost)
        directory = driver.root / lost.id
        record = Store(str(driver.root), lost.id).read()
        shutil.rmtree(directory)
        other = started()
        assert "pyr0-0a590002" not in host.links()
        assert leases_in(driver.root / "~networks/default.leases.json").keys() == {other.id}
        assert address_of(other) != address
        Path(record["cgroup"], "cgroup.kill").write_text("1")
        wait_until(lambda: "populated 0" in Path(record["cgroup"], "cgroup.events").read_text(), "its end")
        os.rmdir(record["cgroup"])

    def test_after_a_reboot(self, started: Started, driver: Runtime, host: Machine) -> None:
        """With --root on a disk: the files are as before, the processes, interfaces and rules are gone."""
        former, other = started(), started()
        for one in (former, other):
            one.kill("KILL")
            one.wait_for("stopped")
        path = driver.root / "~networks/default.leases.json"
        leases = json.loads(path.read_text())
        for lease in leases["leases"]:
            lease["bootId"] = "00000000-0000-0000-0000-000000000000"
        leases["last"] = []  # so that an address is given away again at once
        path.write_text(json.dumps(leases))
        host.ip("link", "del", "pyruntime0")
        shown = json.loads(driver("network", "inspect", "default").stdout)
        assert {one["state"] for one in shown["containers"]} == {"stale"}
        new = started()
        assert address_of(new) == "10.89.0.2"
        result = former.delete()
        assert result.status == 0, result
        assert address_of(new) == "10.89.0.2", "the former one's address was the new one's by then"
        assert "pyr0-0a590002" in host.links()
        assert leases_in(path).keys() == {new.id}


class TestMeddling:
    def test_a_bridge_that_was_removed_is_made_anew_with_all_on_it(self, started: Started, host: Machine) -> None:
        first = started("while :; do echo hello | nc -l -p 80; done\n")
        host.ip("link", "del", "pyruntime0")
        second = started()
        assert host.links()["pyr0-0a590002"]["master"] == "pyruntime0"
        wait_until(lambda: host.reaches(address_of(first), 80), "the first container to be reached again")
        assert host.links()["pyr0-0a590002"]["linkinfo"]["info_slave_data"]["hairpin"] is True
        assert address_of(second)

    def test_and_that_is_told(self, started: Started, container: Container, host: Machine, driver: Runtime) -> None:
        started()
        host.ip("link", "del", "pyruntime0")
        assert json.loads(driver("network", "inspect", "default").stdout)["state"] == "missing"
        result = container.run("--net", "bridge")
        assert result.status == 0
        assert "the bridge pyruntime0 had been removed: made anew, and 1 of its containers plugged in" in result.stderr

    def test_a_bridge_that_is_down_or_without_its_addresses_is_mended(self, started: Started, host: Machine) -> None:
        started()
        before = host.addresses("pyruntime0")
        host.ip("address", "flush", "dev", "pyruntime0")
        host.ip("link", "set", "pyruntime0", "down")
        started()
        assert host.addresses("pyruntime0") == before
        assert "UP" in host.links()["pyruntime0"]["flags"]

    def test_an_interface_that_was_removed(self, started: Started, host: Machine) -> None:
        container = started()
        host.ip("link", "del", "pyr0-0a590002")
        result = container.delete("--force")
        assert (result.status, result.stderr) == (0, "")

    def test_no_bridge_has_its_name(self, container: Container, driver: Runtime, host: Machine) -> None:
        assert driver("network", "create", "back").status == 0
        host.ip("link", "add", "pyruntime0", "type", "veth", "peer", "name", "other")
        result = container.run("--net", "bridge:back")
        assert result.status == 1
        assert "--net: the interface pyruntime0 is no bridge, so the network 'back' can't use it" in result.stderr
        host.ip("link", "del", "pyruntime0")

    def test_a_route_that_came_after_the_network(self, refused: Refused, driver: Runtime, host: Machine) -> None:
        driver("network", "create", "--subnet", "10.5.0.0/16", "back")
        host.ip("route", "add", "10.5.6.0/24", "via", "198.51.100.2")
        result = refused("--net: ", "--net", "bridge:back")
        assert "overlaps the host's route to 10.5.6.0/24 on out0" in result.stderr

    def test_leases_that_nobody_can_read(self, refused: Refused, driver: Runtime, host: Machine) -> None:
        driver("network", "create", "back")
        leases = driver.root / "~networks/back.leases.json"
        leases.write_text('{"leases":[]}')
        result = refused(str(leases), "--net", "bridge:back")
        assert "remove that file" in result.stderr
        leases.unlink()


def test_delete_where_nobody_can_read_the_leases(started: Started, driver: Runtime, leftovers: Leftovers) -> None:
    """Tried again when the file is gone; or with --force, which tells what it leaves."""
    kept, forced = started(), started()
    path = driver.root / "~networks/default.leases.json"
    sound, damaged = path.read_text(), '{"leases":[]}'
    for one in (kept, forced):
        one.kill("KILL")
        one.wait_for("stopped")
    path.write_text(damaged)
    result = kept.delete()
    assert (result.status, f"{path} is damaged" in result.stderr) == (1, True)
    result = forced.delete("--force")
    assert (result.status, "left behind on the network default" in result.stderr) == (0, True)
    path.write_text(sound)
    assert kept.delete().status == 0
    assert leases_in(path).keys() == {forced.id}
    assert driver("network", "remove", "default").status == 0, "a lease without a container is stale"


def test_delete_removes_the_interface_at_once(started: Started, host: Machine) -> None:
    container = started()
    container.delete("--force")
    assert host.links().keys() == {"lo", "out0", "pyruntime0"}


def test_so_does_a_run_in_the_foreground(container: Container, host: Machine) -> None:
    for _ in range(5):
        assert container.run("--net", "bridge").status == 0
        assert host.links().keys() == {"lo", "out0", "pyruntime0"}


def test_an_address_is_free_although_the_namespace_lives_on(
    started: Started, new_container: Callable[[], Container], host: Machine
) -> None:
    owner = started()
    sharer = new_container()
    sharer.script("sleep 1000")
    assert sharer.run_detached("--net", f"container:{owner.id}").status == 0
    assert inside(sharer).keys() - FALL_BACKS == {"lo", "eth0"}
    owner.delete("--force")
    assert inside(sharer).keys() - FALL_BACKS == {"lo"}
    assert host.links().keys() == {"lo", "out0", "pyruntime0"}


def test_who_gives_an_address_back_does_not_cut_off_who_has_it_next(
    started: Started, new_container: Callable[[], Container], driver: Runtime, host: Machine
) -> None:
    """One container after the other with the same address, the former ones deleted at the same time."""
    flags = ("--net", "bridge", "--ip", "10.89.0.9")
    container = started("sleep 1000", *flags)
    for _ in range(3):
        deletion = driver.spawn("delete", "--force", container.id)
        container = new_container()
        container.script("sleep 1000")
        # It may come before the former one has given the address back.
        wait_until(lambda one=container: one.run_detached(*flags).status == 0, "the address")
        deletion.communicate()
        assert deletion.returncode == 0
        assert address_of(container) == "10.89.0.9"
        assert "pyr0-0a590009" in host.links()
