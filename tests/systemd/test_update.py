"""`update` of a container whose cgroup is a scope: systemd knows of it, too, and does not write what it knew before."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.runtime import Runtime

from .test_scopes import cgroup, driver, leftovers, unit  # noqa: F401
from .units import properties, systemctl

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2", "systemd", "cpu", "cpuset", "memory", "pids")


@pytest.fixture
def running(container: Container, unit: str) -> Container:  # noqa: F811
    container.linux["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    container.run_sleeping()
    return container


def update(container: Container, *options: str, stdin: str | None = None) -> None:
    result = container.runtime("update", *options, container.id, stdin=stdin)
    assert result.status == 0, result


@pytest.mark.parametrize(
    ("options", "file", "content", "name", "shown"),
    [
        (("--memory", "32M"), "memory.max", str(32 << 20), "MemoryMax", str(32 << 20)),
        (("--memory-reservation", "8M"), "memory.low", str(8 << 20), "MemoryLow", str(8 << 20)),
        (("--memory", "-1"), "memory.max", "max", "MemoryMax", "infinity"),
        (("--pids-limit", "30"), "pids.max", "30", "TasksMax", "30"),
        (("--pids-limit", "-1"), "pids.max", "max", "TasksMax", "infinity"),
        (("--cpu-quota", "50000"), "cpu.max", "50000 100000", "CPUQuotaPerSecUSec", "500ms"),
        (("--cpu-quota", "50000", "--cpu-period=200000"), "cpu.max", "50000 200000", "CPUQuotaPeriodUSec", "200ms"),
        (("--cpuset-cpus", "0"), "cpuset.cpus", "0", "AllowedCPUs", "0"),
    ],
)
def test_systemd_knows_and_a_reload_changes_nothing(
    running: Container,
    unit: str,  # noqa: F811
    cgroup: Path,  # noqa: F811
    options: tuple[str, ...],
    file: str,
    content: str,
    name: str,
    shown: str,
) -> None:
    update(running, *options)
    assert (cgroup / file).read_text().strip() == content
    assert properties(unit)[name] == shown
    systemctl("daemon-reload")
    systemctl("set-property", "--runtime", unit, "Description=that has it write all that it knows")
    assert (cgroup / file).read_text().strip() == content


def test_from_a_file(running: Container, unit: str, cgroup: Path) -> None:  # noqa: F811
    update(running, "-r", "-", stdin='{"unified": {"memory.high": "33554432", "memory.oom.group": "1"}}')
    assert (cgroup / "memory.high").read_text() == "33554432\n"
    assert (cgroup / "memory.oom.group").read_text() == "1\n"
    assert properties(unit)["MemoryHigh"] == "33554432"


@pytest.mark.only_pyruntime("runc tells systemd, and does not take it back")
def test_what_the_kernel_refuses_systemd_is_not_told(
    running: Container,
    unit: str,  # noqa: F811
    cgroup: Path,  # noqa: F811
) -> None:
    result = running.runtime("update", "--memory", "32M", "--cpuset-cpus", "4000", running.id)
    assert (result.status, "--cpuset-cpus: write(" in result.stderr) == (1, True)
    assert properties(unit)["MemoryMax"] == str(64 << 20)
    assert (cgroup / "memory.max").read_text() == f"{64 << 20}\n"


@pytest.mark.only_pyruntime("runc can't be kept from systemd in this way")
def test_systemd_is_not_to_be_asked(running: Container, cgroup: Path, driver: Runtime) -> None:  # noqa: F811
    """All is as before, what is remembered as well."""
    kept = (driver.root / running.id / "config.json").read_bytes()
    environment = driver.environment | {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"}
    hide = "mount -t tmpfs none /run/systemd"
    words = [driver.command, "--root", str(driver.root), "update", "--pids-limit", "30", running.id]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{hide} && exec "$@"', "sh", *words],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 1
    assert (cgroup / "pids.max").read_text() == "20\n"
    assert (driver.root / running.id / "config.json").read_bytes() == kept
