"""bundles/web and bundles/pair, as their README files have them: a page from outside, and two that talk by name."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.conftest import HOST, HOST6
from tests.support.container import quiet, wait_until
from tests.support.leftovers import Leftovers
from tests.support.namespace import Machine
from tests.support.runtime import Runtime

pytestmark = pytest.mark.needs("nft")

BUNDLES = Path(__file__).resolve().parent.parent.parent / "bundles"
PAGE = BUNDLES / "web/page/index.html"


@pytest.fixture
def bundles(scratch: Path, marker: str, driver: Runtime, leftovers: Leftovers) -> Iterator[Path]:
    """Copies of the bundles, built; their containers carry the test's marker, and are deleted afterwards."""
    folder = scratch / "bundles"
    shutil.copytree(BUNDLES, folder, symlinks=True, ignore=shutil.ignore_patterns("rootfs"))
    subprocess.run([folder / "busybox/build"], check=True, timeout=60)
    for path in (*folder.glob("web/config.json"), *folder.glob("pair/*/config.json")):
        config = json.loads(path.read_text())
        config["process"]["env"].append(f"PYRUNTIME_TEST_MARKER={marker}")
        config["linux"]["cgroupsPath"] = f"{marker}-{path.parent.name}"
        path.write_text(json.dumps(config))
    yield folder
    for id in ("web", "teller", "asker"):
        driver("delete", "--force", id)
    assert leftovers.found() == []


def test_web_serves_its_page_to_the_outside(bundles: Path, driver: Runtime, host: Machine, outside: Machine) -> None:
    assert quiet(driver, "run", "-d", str(bundles / "web")).status == 0
    for machine, address in ((outside, HOST), (outside, HOST6), (host, "127.0.0.1"), (host, HOST)):
        wait_until(lambda: machine.reaches(address, 8080), "httpd")  # noqa: B023
        answer = machine.ask(address, 8080, "GET / HTTP/1.0\r\n\r\n")
        assert PAGE.read_text() in answer, (machine.name, address)


def test_web_ends_by_ctrl_c_and_leaves_nothing(bundles: Path, driver: Runtime, outside: Machine) -> None:
    running = driver.spawn("run", str(bundles / "web"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: outside.reaches(HOST, 8080), "httpd")
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 128 + signal.SIGINT
    assert not outside.reaches(HOST, 8080)


def test_the_pair_talks_by_name(bundles: Path, driver: Runtime) -> None:
    assert quiet(driver, "run", "-d", str(bundles / "pair/teller")).status == 0
    asked = driver("run", str(bundles / "pair/asker"))
    assert asked.status == 0
    lines = asked.stdout.splitlines()
    assert len(lines) == 3, asked
    assert all("UTC" in line for line in lines), asked
    hosts = driver("run", str(bundles / "pair/asker"), "--", "cat", "/etc/hosts").stdout
    assert "teller" in hosts and "asker" in hosts
