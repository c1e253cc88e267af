"""`--systemd-cgroup` of a user without root: a scope of the service manager that is theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.runtime import Runtime

from .units import systemctl

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2", "systemd", "userns", "vm"),
    pytest.mark.only_pyruntime("runc needs a D-Bus daemon of the user's besides"),
    pytest.mark.usefixtures("driver"),  # or pytest would not see what it is parametrised by
]

USER, NAME = 1000, "tester"
DIRECTORY = Path(f"/run/user/{USER}")
MANAGER = "tests-of-a-user.service"
TOP = Path("/sys/fs/cgroup/system.slice", MANAGER)


@pytest.fixture(scope="module")
def manager() -> Iterator[None]:
    """A service manager of the user's. It asks the system's to move what isn't its own, by a D-Bus daemon."""
    systemctl("start", "dbus.socket", "dbus.service")
    subprocess.run(["useradd", f"--uid={USER}", "--no-create-home", NAME], check=True)
    DIRECTORY.mkdir(parents=True)
    os.chown(DIRECTORY, USER, USER)
    DIRECTORY.chmod(0o700)
    settings = [f"--property=User={USER}", "--property=Delegate=yes", f"--setenv=XDG_RUNTIME_DIR={DIRECTORY}"]
    program = ["/lib/systemd/systemd", "--user", "--unit=basic.target"]
    subprocess.run(["systemd-run", "--quiet", f"--unit={MANAGER}", *settings, *program], check=True)
    try:
        wait_until((DIRECTORY / "systemd/private").exists, "the user's service manager")
        yield
    finally:
        systemctl("stop", MANAGER)
        shutil.rmtree(DIRECTORY)
        subprocess.run(["userdel", NAME], check=True)


@pytest.fixture(params=["", "systemd-run --user --quiet --scope"], ids=["session", "scope"])
def below(request: pytest.FixtureRequest) -> str:
    """What starts a command where the user is: in a session, or below the service manager that is theirs."""
    command: str = request.param
    return command


@pytest.fixture
def driver(driver: Runtime, scratch: Path, manager: None, below: str) -> Runtime:
    """The runtime, called by the user."""
    become = f"setpriv --reuid {USER} --regid {USER} --clear-groups env XDG_RUNTIME_DIR={DIRECTORY}"
    wrapper = scratch / "as-the-user"
    wrapper.write_text(f'#!/bin/sh\nexec {become} {below} {driver.command} "$@"\n')
    wrapper.chmod(0o755)
    os.chown(scratch, USER, USER)
    driver.command = str(wrapper)
    driver.options = ["--systemd-cgroup"]
    return driver


@pytest.fixture
def container(container: Container, marker: str) -> Container:
    """A container of the user's, whose root they are."""
    container.set_namespace("user")
    for key in ("uidMappings", "gidMappings"):
        container.linux[key] = [{"containerID": 0, "hostID": USER, "size": 1}]
    for mount in container.mounts:
        mount["options"] = [option for option in mount.get("options", ()) if not option.startswith("gid=")]
    for directory, _, files in os.walk(container.path):
        for name in (".", *files):
            os.lchown(os.path.join(directory, name), USER, USER)
    container.linux["cgroupsPath"] = f":p:{marker}"
    container.linux["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    return container


@pytest.fixture
def cgroup(marker: str) -> Path:
    return TOP / "user.slice" / f"p-{marker}.scope"


@pytest.mark.needs("memory", "pids")
def test_life(container: Container, cgroup: Path) -> None:
    container.run_sleeping()
    assert container.pid() in [int(word) for word in (cgroup / "cgroup.procs").read_text().split()]
    assert (cgroup / "memory.max").read_text().strip() == str(64 << 20)
    assert (cgroup / "pids.max").read_text().strip() == "20"
    assert container.exec_output("cat /proc/self/cgroup").splitlines()[-1] == "0::/"
    assert container.delete("--force").status == 0
    assert not cgroup.exists()


def test_in_the_foreground(container: Container, cgroup: Path) -> None:
    assert container.output("cat /proc/self/cgroup").splitlines()[-1] == "0::/"
    assert not cgroup.exists()


def test_a_controller_that_the_user_was_not_given(container: Container, cgroup: Path) -> None:
    container.linux["resources"] = {"unified": {"rdma.max": ""}}
    result = container.run()
    assert result.status == 1
    assert "config.json#/linux/resources/unified/rdma.max" in result.stderr
    assert not cgroup.exists()
