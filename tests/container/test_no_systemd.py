"""`--systemd-cgroup` where systemd does not run. Where it does: tests/systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.fixtures import Refused
from tests.support.runtime import Runtime

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


@pytest.fixture
def driver(driver: Runtime, scratch: Path) -> Runtime:
    """The runtime, in a mount namespace without what systemd leaves in /run."""
    wrapper = scratch / "without-systemd"
    hide = "! [ -d /run/systemd ] || mount -t tmpfs none /run/systemd"
    wrapper.write_text(f'#!/bin/sh\n[ -n "$HIDDEN" ] || HIDDEN=1 exec unshare --mount "$0" "$@"\n{hide}\n')
    with wrapper.open("a") as file:
        file.write(f'exec {driver.command} "$@"\n')
    wrapper.chmod(0o755)
    driver.command = str(wrapper)
    driver.options = ["--systemd-cgroup"]
    return driver


@pytest.mark.parametrize("path", ["", "system.slice:p:name"])
def test_refused(container: Container, refused: Refused, path: str) -> None:
    if path:
        container.linux["cgroupsPath"] = path
    assert "systemd not running on this host" in refused("--systemd-cgroup").stderr


def test_a_wrong_path_is_told_first(container: Container, refused: Refused) -> None:
    container.linux["cgroupsPath"] = "/a/path"
    refused("config.json#/linux/cgroupsPath")


@pytest.mark.only_pyruntime("runc has no such command")
def test_a_plan_needs_no_systemd(container: Container) -> None:
    container.write()
    result = container.runtime("plan", str(container.path))
    assert result.status == 0, result
    assert "have systemd make the scope" in result.stdout
