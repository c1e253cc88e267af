"""A failure, or the runtime's own death, at each step of a start: nothing is left behind, and the step is named.

A program stands in for the command: pyruntime, but for one step of the plan, which fails or waits to be killed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyruntime.plan.build import build
from pyruntime.plan.step import NAMESPACES, PROCESS, Step
from tests import capabilities
from tests.support.container import Container, wait_until
from tests.support.injection import commands, hang_up, killed_at, spawn
from tests.support.leftovers import Leftovers, host_mounts
from tests.support.runtime import Runtime
from tests.support.terminal import ConsoleSocket, finish

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2"),
    pytest.mark.only_pyruntime("the failure is injected into pyruntime's own functions"),
]

WEAKEN = """
from pyruntime import creation
from pyruntime.launch import limits, namespaces, parent

creation.build = remembering(creation.build)
limits.PERFORMERS = Performers(limits.PERFORMERS)

def write(fd, data, path):
    (weak(writing) if path.endswith("timens_offsets") else writing)(fd, data, path)

if point == "cgroup":
    limits.creation.create = weak(limits.creation.create)
elif point == "maps":
    parent.write_maps = weak(parent.write_maps)
elif point == "clone":
    namespaces.clone3 = weak(namespaces.clone3)
elif point == "clone in the stage":
    cloning = namespaces.clone3
    namespaces.clone3 = lambda flags, **named: (cloning if named.get("pidfd", True) else weak(cloning))(flags, **named)
elif point == "offsets":
    writing, namespaces.proc.write = namespaces.proc.write, write
"""


def enrich(container: Container, *, mapped: bool) -> None:
    """Ask for something of every kind. `mapped`: with a user namespace, clocks and a terminal."""
    config, process, linux = container.config, container.process, container.linux
    config["domainname"] = "example"
    process |= {"cwd": "/work/here", "oomScoreAdj": 500, "terminal": mapped}
    process["rlimits"].append({"type": "RLIMIT_CORE", "soft": 0, "hard": 0})
    linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}
    linux["devices"] = [
        {"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 1, "gid": 1},
        {"path": "/dev/pipe", "type": "p"},
    ]
    linux["rootfsPropagation"] = "shared"
    linux["personality"] = {"domain": "LINUX"}
    # A file and two directories: the second directory shares the first one's mask.
    linux["maskedPaths"], linux["readonlyPaths"] = ["/proc/kcore", "/proc/scsi", "/sys/firmware"], ["/proc/bus"]
    limits = {
        "pids": {"pids": {"limit": 100}},
        "memory": {"memory": {"limit": 64 << 20, "swap": -1}},
        "hugetlb": {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]},
    }
    for controller, limit in limits.items():
        if not capabilities.missing(controller):
            linux["resources"] |= limit
    container.add_file("tmp/filled/file")
    (container.path / "data").mkdir(exist_ok=True)
    container.add_bind("data", "/data", "ro", "nosuid", "rro", "rslave")
    container.add_mount("/tmp/filled", "tmpfs", "ro", "tmpcopyup", "size=1m")
    if mapped:
        container.map_root_to(100000)
        container.set_namespace("time")
        linux["timeOffsets"] = {"monotonic": {"secs": 100}, "boottime": {"secs": 100}}


class Variant(NamedTuple):
    """What a test runs, made once for the module: the bundle, the failing command, and the real one."""

    container: Container
    injecting: Runtime
    runtime: Runtime
    leftovers: Leftovers
    words: list[str]
    console: ConsoleSocket

    def start(self, point: str, told_fd: int = 0, go_fd: int = 0, **popen: Any) -> subprocess.Popen[bytes]:
        """The command with its weak point."""
        return spawn(self.injecting, self.words, f"{point}:{told_fd}:{go_fd}", **popen)


def planned(mapped: bool) -> list[Step]:
    """The plan of a variant, for naming the tests. (Made in a directory of its own, as the real bundle is later.)"""
    with tempfile.TemporaryDirectory() as folder:
        container = Container(Path(folder, "bundle"), "web", Runtime("", Path(folder), ""))
        enrich(container, mapped=mapped)
        return build(container.config, "/bundle", "web", "/web").steps  # type: ignore[arg-type]


# Not performed from the list but by the protocol: where a failure is told, and the variants that come by there.
POINTS = {
    "cgroup": ("config.json#/linux", (False, True)),
    "clone": ("", (False, True)),
    "clone in the stage": ("", (True,)),
    "maps": ("config.json#/linux/uidMappings", (True,)),
    "offsets": ("config.json#/linux/timeOffsets", (True,)),
}


def cases() -> Iterator[Any]:
    """(variant, point, place, whether the child ends with its parent then) of everything that can fail."""
    if capabilities.missing("busybox"):
        return
    for mapped in (False, True):
        marks = pytest.mark.needs("userns", "timens") if mapped else ()
        name = "mapped" if mapped else "plain"
        for index, step in enumerate(planned(mapped)):
            kind = type(step).__name__
            if step.phase != NAMESPACES and kind != "CreateCgroup":
                # Changing the user takes the death signal away (prctl(2)), but by then the record knows the process.
                dies = step.phase != PROCESS
                yield pytest.param(mapped, str(index), step.where, dies, id=f"{name}-{index}-{kind}", marks=marks)
        for point, (where, variants) in POINTS.items():
            if mapped in variants:
                yield pytest.param(mapped, point, where, True, id=f"{name}-{point}", marks=marks)


every_point = pytest.mark.parametrize(("mapped", "point", "place", "dies"), list(cases()))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory that a mapped root may enter. Never removed through a mount that was left in it."""
    path = Path(tempfile.mkdtemp(prefix="injection-"))
    path.chmod(0o755)
    yield path
    if not any(mount.point.startswith(str(path)) for mount in host_mounts()):
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def variants(folder: Path) -> Iterator[dict[bool, Variant]]:
    """Both variants, by whether they are mapped."""
    command, injecting = commands(folder, WEAKEN)
    with ConsoleSocket(folder / "console.sock") as console:
        made = {}
        for mapped in (False, True):
            marker = f"t{uuid.uuid4().hex[:12]}"
            runtime = Runtime(str(command), folder / "state", marker)
            container = Container(folder / f"bundle-{mapped}", marker, runtime)
            enrich(container, mapped=mapped)
            container.write()
            words = ["create", "--console-socket", str(console.path)] if mapped else ["run"]
            words += ["-b", str(container.path), container.id]
            leftovers = Leftovers(folder / f"bundle-{mapped}", runtime.root, marker)
            injected = Runtime(str(injecting), runtime.root, marker)
            made[mapped] = Variant(container, injected, runtime, leftovers, words, console)
        yield made


IN_FIRST_USER_NAMESPACE = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


@every_point
def test_a_failing_step(variants: dict[bool, Variant], mapped: bool, point: str, place: str, dies: bool) -> None:
    variant = variants[mapped]
    process = variant.start(point)
    _, stderr = process.communicate(timeout=30)
    hang_up(variant.console)
    told = stderr.decode().splitlines()
    if not IN_FIRST_USER_NAMESPACE and place.endswith("/resources/devices"):
        assert variant.runtime("delete", "--force", variant.container.id).status == 0  # a warning there, see limits.py
    else:
        assert process.returncode == 1
        verb, shown = variant.words[0], f"{place}: " if place else ""
        expected = f"pyruntime: {verb} {variant.container.id}: {shown}injected(): EIO: Input/output error"
        assert told == [expected]
    left = variant.leftovers.found()
    assert not left, left


@every_point
def test_a_runtime_that_is_killed(
    variants: dict[bool, Variant], mapped: bool, point: str, place: str, dies: bool
) -> None:
    variant = variants[mapped]
    reached = killed_at(variant.start, point)
    assert reached, f"the runtime never came to {place}"
    if dies:
        wait_until(lambda: not variant.leftovers.processes(), "the child to end with its parent")
    hang_up(variant.console)  # not before: it would end the child, too
    deleted = variant.runtime("delete", "--force", variant.container.id)
    assert deleted.status == 0, deleted
    left = variant.leftovers.found()
    assert not left, left


@pytest.mark.parametrize("mapped", [False, pytest.param(True, marks=pytest.mark.needs("userns", "timens"))])
def test_nothing_fails_but_what_is_injected(variants: dict[bool, Variant], mapped: bool) -> None:
    """The same bundle and the same program, without a weak point: or the other tests would prove nothing."""
    variant = variants[mapped]
    process = variant.start("nowhere", stdout=subprocess.DEVNULL)
    variant.container.runtime = variant.runtime
    try:
        if mapped:
            _name, terminal = variant.console.receive()
            with terminal:
                process.wait(timeout=30)
                assert variant.container.state()["status"] == "created"
        else:
            process.wait(timeout=30)
        assert process.stderr is not None
        assert (process.returncode, process.stderr.read()) == (0, b"")
    finally:
        finish(process)
        assert variant.runtime("delete", "--force", variant.container.id).status == 0
    left = variant.leftovers.found()
    assert not left, left
