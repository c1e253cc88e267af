"""A hundred containers at once: no two have the same address, all are reached, and all go without a trace."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from tests.net.conftest import leases_in
from tests.support.container import Container, wait_until
from tests.support.leftovers import Leftovers
from tests.support.namespace import Machine
from tests.support.runtime import Runtime

COUNT = 100


@pytest.fixture
def ids(marker: str, driver: Runtime, leftovers: Leftovers) -> Iterator[list[str]]:
    """IDs of containers that are deleted at once, too, if they are still there."""
    ids = [f"{marker}-{number}" for number in range(COUNT)]
    yield ids
    left = [id for id in ids if (driver.root / id).exists()]
    assert all_at_once(driver, [["delete", "--force", id] for id in left]) == []
    assert leftovers.found() == []


def all_at_once(driver: Runtime, commands: list[list[str]]) -> list[str]:
    """Start all of them, then wait; what those that failed have written (to a file: a container holds its stderr)."""
    files = [tempfile.TemporaryFile() for _ in commands]
    running = [
        driver.spawn(*command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file)
        for command, file in zip(commands, files, strict=True)
    ]
    failed = []
    for process, file in zip(running, files, strict=True):
        if process.wait(100):
            file.seek(0)
            failed.append(file.read().decode())
        file.close()
    return failed


def test_a_hundred_at_once(ids: list[str], container: Container, driver: Runtime, host: Machine) -> None:
    container.script("exec httpd -f -p 80")
    container.write()
    starts = [["run", "-d", "--net", "bridge", "-b", str(container.path), id] for id in ids]
    assert all_at_once(driver, starts) == []
    leases = leases_in(driver.root / "~networks/default.leases.json")
    assert leases.keys() == set(ids)
    for kind in ("ips", "mac", "interface"):
        values = [json.dumps(lease[kind]) for lease in leases.values()]
        assert len(set(values)) == COUNT, f"{kind} twice"
    addresses = [ip.partition("/")[0] for lease in leases.values() for ip in lease["ips"]]
    assert len(set(addresses)) == 2 * COUNT
    for address in addresses:
        wait_until(lambda: host.reaches(address, 80), address)  # noqa: B023
    assert all_at_once(driver, [["delete", "--force", id] for id in ids]) == []
    assert leases_in(driver.root / "~networks/default.leases.json") == {}


def test_some_come_while_others_go(ids: list[str], container: Container, driver: Runtime) -> None:
    """An address that were given away twice would be an interface's name twice, which the kernel refuses."""
    container.write()
    runs = [["run", "--net", "bridge", "-b", str(container.path), id] for id in ids[:40]]
    assert all_at_once(driver, runs) == []
    assert leases_in(driver.root / "~networks/default.leases.json") == {}
