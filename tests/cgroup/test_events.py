"""`events ID`: statistics in runc's shape, and what the kernel did for want of memory (runc:events.go)."""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.lib.steps import v2_mount
from tests.cgroup.test_limits import MIB, cgroup_of
from tests.support.container import Container, wait_until
from tests.support.runtime import DEFAULT_TIMEOUT, identify

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


class Listener:
    """An `events` command that runs, and the lines that it prints."""

    def __init__(self, container: Container, *options: str) -> None:
        self.process = container.runtime.spawn("events", *options, container.id, stdin=subprocess.DEVNULL)

    def next(self) -> dict[str, Any]:
        """The next event; fails if there is none for long, or no more."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], DEFAULT_TIMEOUT)[0], "no event"
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), (line, self.process.stderr and self.process.stderr.read())
        event: dict[str, Any] = json.loads(line)
        return event

    def end(self) -> tuple[bytes, bytes]:
        """What is left when it has ended by itself, which it must."""
        left = self.process.communicate(timeout=DEFAULT_TIMEOUT)
        assert self.process.returncode == 0
        return left


@pytest.fixture
def listen(container: Container) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(*options: str) -> Listener:
        made.append(Listener(container, *options))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.communicate()


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A directory on the VM's disk: /tmp is none."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as name:
        yield Path(name)


def stats(container: Container) -> dict[str, Any]:
    """The data of `events --stats`, once its frame is known to be right."""
    result = container.runtime("events", "--stats", container.id)
    assert (result.status, result.stderr) == (0, ""), result
    assert result.stdout.startswith(f'{{"type":"stats","id":"{container.id}","data":{{')
    (line,) = result.stdout.splitlines()
    event = json.loads(line)
    assert event.keys() == {"type", "id", "data"}
    data: dict[str, Any] = event["data"]
    return data


@pytest.mark.parametrize("status", ["created", "running", "paused"])
def test_statistics(container: Container, status: str) -> None:
    container.process["args"] = ["sleep", "1000"]
    assert (container.create() if status == "created" else container.run_detached()).status == 0
    if status == "paused":
        assert container.runtime("pause", container.id).status == 0
    counted = stats(container)
    assert list(counted) == "cpu cpuset memory pids blkio hugetlb intel_rdt network_interfaces".split()
    assert counted["pids"]["current"] == 1 or status == "created"  # what waits is the runtime's own, with its threads
    assert container.state()["status"] == status


@pytest.mark.needs("memory", "cpu", "pids", "io", "vm")
def test_statistics_are_the_kernels(container: Container, on_disk: Path) -> None:
    """Beside the files of the cgroup, of a container that has used all of it."""
    container.linux["resources"] = {
        "memory": {"limit": 64 * MIB, "swap": 96 * MIB}, "pids": {"limit": 20}, "cpu": {"quota": 5000, "period": 20000},
    }  # fmt: skip
    container.add_bind(on_disk, "/disk")
    write = "dd if=/dev/zero of=/disk/data bs=1M count=4 conv=fsync"
    container.script(f"{write}; for i in $(seq 100000); do :; done; exec sleep 1000")
    assert container.run_detached().status == 0
    path = cgroup_of(container.pid())
    program = Path(f"/proc/{container.pid()}/comm")
    wait_until(lambda: program.read_text() == "sleep\n", "the container to be idle")
    before, counted, after = cpu_stat(path), stats(container), cpu_stat(path)
    for name, key in (("total", "usage_usec"), ("kernel", "system_usec"), ("user", "user_usec")):
        assert before[key] * 1000 <= counted["cpu"]["usage"][name] <= after[key] * 1000
    assert before["nr_throttled"] <= counted["cpu"]["throttling"]["throttledPeriods"] <= after["nr_throttled"]
    assert after["nr_throttled"] > 0
    memory = counted["memory"]
    assert memory["usage"]["limit"] == 64 * MIB
    assert memory["swap"]["limit"] == 96 * MIB
    assert memory["usage"]["usage"] > 0
    assert memory["raw"].keys() == {line.split()[0] for line in (path / "memory.stat").read_text().splitlines()}
    assert memory["cache"] == memory["raw"]["file"]
    assert counted["pids"] == {"current": 1, "limit": 20}
    written = [each for each in counted["blkio"]["ioServiceBytesRecursive"] if each["op"] == "Write"]
    assert sum(each.get("value", 0) for each in written) >= 4 * MIB


def cpu_stat(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, (path / "cpu.stat").read_text().splitlines())}


@pytest.mark.needs("memory", "cpu")
@pytest.mark.runc_since("1.2", "pressure")
def test_pressure(container: Container) -> None:
    container.linux["resources"] = {"cpu": {"quota": 1000, "period": 100000}}
    container.script("for i in $(seq 20000); do :; done; exec sleep 1000")
    assert container.run_detached().status == 0
    path = cgroup_of(container.pid())
    wait_until(lambda: "some avg10=0.00" not in (path / "cpu.pressure").read_text(), "pressure")
    felt = stats(container)["cpu"]["psi"]["some"]
    assert felt.keys() == {"avg10", "avg60", "avg300", "total"}
    assert felt["total"] > 0


@pytest.mark.needs("hugetlb")
@pytest.mark.only_pyruntime("runc on a hybrid host looks at the v1 hierarchies alone")
def test_huge_pages(container: Container) -> None:
    container.run_sleeping()
    sizes = {name.name.split(".")[1] for name in cgroup_of(container.pid()).glob("hugetlb.*.events")}
    assert stats(container)["hugetlb"] == {size: {"failcnt": 0} for size in sizes}


@pytest.mark.needs("memory")
def test_intervals_until_the_end(container: Container, listen: Callable[..., Listener]) -> None:
    container.run_sleeping()
    listener = listen("--interval", "100ms")
    for _ in range(3):
        event = listener.next()
        assert (event["type"], event["id"]) == ("stats", container.id)
        assert event["data"]["pids"]["current"] == 1
    assert container.delete("--force").status == 0
    for line in listener.end()[0].splitlines():
        assert json.loads(line)["type"] == "stats"


@pytest.mark.needs("memory")
def test_it_ends_with_a_container_that_nobody_deletes(container: Container, listen: Callable[..., Listener]) -> None:
    container.run_sleeping()
    listener = listen("--interval", "50ms")
    listener.next()
    assert container.kill("KILL").status == 0
    listener.end()
    assert container.state()["status"] == "stopped"


@pytest.mark.needs("memory")
def test_want_of_memory(container: Container, listen: Callable[..., Listener]) -> None:
    """The kernel kills one process, and the container goes on."""
    container.linux["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}
    container.run_sleeping()
    (cgroup_of(container.pid()) / "memory.oom.group").write_text("0")
    listener = listen("--interval", "200ms")
    listener.next()
    for _ in range(2):
        assert container.exec("tail", "/dev/zero").status == 137
        while (event := listener.next())["type"] != "oom":
            assert event["type"] == "stats"
        assert event == {"type": "oom", "id": container.id}
    assert container.state()["status"] == "running"


@pytest.mark.needs("memory")
@pytest.mark.only_pyruntime("runc reads no more when the last process is gone: the event may be lost")
def test_want_of_memory_that_ends_the_container(container: Container, listen: Callable[..., Listener]) -> None:
    container.linux["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}
    container.script("while [ ! -e /go ]; do usleep 10000; done; exec tail /dev/zero")
    assert container.run_detached().status == 0
    listener = listen("--interval", "100ms")
    listener.next()
    container.add_file("go")
    told = [json.loads(line) for line in listener.end()[0].splitlines()]
    assert [event for event in told if event["type"] != "stats"] == [{"type": "oom", "id": container.id}]


@pytest.mark.needs("memory")
@pytest.mark.only_pyruntime("runc tells it again at each change of memory.events once a process was killed")
def test_what_was_killed_before_is_no_news(container: Container, listen: Callable[..., Listener]) -> None:
    container.linux["resources"]["memory"] = {"limit": 16 * MIB, "swap": 16 * MIB}
    container.run_sleeping()
    assert container.exec("tail", "/dev/zero").status == 137
    listener = listen("--interval", "50ms")
    assert [listener.next()["type"] for _ in range(3)] == ["stats"] * 3
    path = cgroup_of(container.pid())
    before = (path / "memory.events").read_text()
    (path / "memory.high").write_text((path / "memory.current").read_text())
    assert container.exec("true").status == 0
    assert (path / "memory.events").read_text() != before
    assert [listener.next()["type"] for _ in range(5)] == ["stats"] * 5


@pytest.mark.only_pyruntime("runc fails without a memory controller")
def test_without_a_memory_controller(container: Container, listen: Callable[..., Listener]) -> None:
    """It is told, and the statistics come even so. With the controller there is nothing to tell."""
    container.run_sleeping()
    listener = listen("--interval", "10ms")
    assert listener.next()["type"] == "stats"
    assert container.delete("--force").status == 0
    told = listener.end()[1].decode()
    lacks = "memory" not in Path(v2_mount(), "cgroup.controllers").read_text().split()
    assert ("no memory controller" in told) == lacks


def test_a_stopped_container(container: Container) -> None:
    assert container.run_detached().status == 0
    container.wait_for("stopped")
    for options in ([], ["--stats"]):
        result = container.runtime("events", *options, container.id)
        assert (result.status, result.stdout) == (1, "")
        assert f"container with id {container.id} is not running" in result.stderr


@pytest.mark.parametrize("interval", ["0", "0s", "-1s", "five"])
@pytest.mark.parametrize("stats", [[], ["--stats"]])
def test_no_interval(container: Container, interval: str, stats: list[str]) -> None:
    container.run_sleeping()
    result = container.runtime("events", *stats, "--interval", interval, container.id)
    assert result.status == 1
    assert "interval" in result.stderr
    if identify().name == "pyruntime":
        assert "--interval: duration interval must be greater than 0" in result.stderr


@pytest.mark.needs("memory")
def test_nobody_reads_any_more(container: Container, listen: Callable[..., Listener]) -> None:
    """As engines do that end: the command ends at its next line, in silence."""
    container.run_sleeping()
    listener = listen("--interval", "50ms")
    listener.next()
    assert listener.process.stdout is not None
    listener.process.stdout.close()
    listener.process.stdout = None
    if identify().name == "pyruntime":
        assert listener.process.wait(DEFAULT_TIMEOUT) != 0
        assert listener.process.stderr is not None
        assert listener.process.stderr.read() == b""
