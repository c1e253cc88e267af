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

from pyruntime.linux.caps import CAPABILITIES
from pyruntime.plan.build import build
from pyruntime.plan.step import NAMESPACES, Step
from tests import capabilities
from tests.support.container import Container, wait_until
from tests.support.injection import (
    NO_CALL,
    bereft_while,
    commands,
    ended,
    hang_up,
    killed_at,
    killed_while,
    rows_of,
    spawn,
)
from tests.support.leftovers import Leftovers, host_mounts
from tests.support.runtime import Runtime
from tests.support.terminal import ConsoleSocket, finish

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2"),
    pytest.mark.only_pyruntime("the failure is injected into pyruntime's own functions"),
]

WEAKEN = """
from pyruntime import creation
from pyruntime.launch import exeseal, limits, namespaces, outside, parent

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
elif point in ("start_hop", "build", "finish"):
    setattr(outside, point, weak(getattr(outside, point)))
elif point in ("sealed", "spawn"):
    setattr(exeseal, point, weak(getattr(exeseal, point)))
elif point == "go":
    entering = outside.syscalls.setns

    def enter(*arguments):
        outside.syscalls.setns = entering  # the way back is open
        weak(entering)(*arguments)

    outside.syscalls.setns = enter
elif point == "back":
    coming_back = outside._Visit.come_back
    outside._Visit.come_back = lambda visit: weak(lambda _: None)(coming_back(visit))
elif point == "release":
    parent.release = weak(parent.release)
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
    (container.path / "out").mkdir(exist_ok=True)
    (container.path / "out").chmod(0o777)
    container.add_bind("out", "/out")
    process["args"] = ["touch", "/out/executed"]
    # All but two, or there were forty calls that drop one each.
    process["capabilities"]["bounding"] = [name for name in CAPABILITIES if not name.startswith("CAP_SYS_R")]
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

    def of(self, verb: str) -> Variant:
        """The same, by another verb."""
        return self._replace(words=[verb, *self.words[1:]])

    @property
    def executed(self) -> Path:
        """What the program makes."""
        return self.container.path / "out/executed"

    def forget(self, *, executed: bool, deleted: bool = False) -> None:
        """Remove the container, if it is there, or has to be. executed: whether its program must have been, or not."""
        if executed:
            wait_until(self.executed.exists, "the program")
        if not deleted:
            self.runtime("delete", "--force", self.container.id)
        hang_up(self.console)
        assert self.executed.exists() is executed
        self.executed.unlink(missing_ok=True)
        left = self.leftovers.found()
        assert not left, left


def planned(mapped: bool) -> list[Step]:
    """The plan of a variant, for naming the tests. (Made in a directory of its own, as the real bundle is later.)"""
    with tempfile.TemporaryDirectory() as folder:
        container = Container(Path(folder, "bundle"), "web", Runtime("", Path(folder), ""))
        enrich(container, mapped=mapped)
        return build(container.config, "/bundle", "web", "/web").steps  # type: ignore[arg-type]


# Not performed from the list but by the protocol: where a failure is told, and the variants that come by there.
POINTS = {
    "cgroup": ("config.json#/linux", (False, True)),
    "start_hop": ("", (False,)),
    "build": ("", (False,)),
    "sealed": ("", (False, True)),
    "spawn": ("", (False,)),
    "go": ("", (False,)),
    "finish": ("", (False,)),
    "back": ("", (False,)),
    "release": ("", (False, True)),
    "clone": ("", (True,)),
    "clone in the stage": ("", (True,)),
    "maps": ("config.json#/linux/uidMappings", (True,)),
    "offsets": ("config.json#/linux/timeOffsets", (True,)),
}


def cases() -> Iterator[Any]:
    """(variant, point, place) of everything that can fail."""
    if capabilities.missing("busybox"):
        return
    for mapped in (False, True):
        marks = pytest.mark.needs("userns", "timens") if mapped else ()
        name = "mapped" if mapped else "plain"
        for index, step in enumerate(planned(mapped)):
            kind = type(step).__name__
            if step.phase != NAMESPACES and kind != "CreateCgroup":
                yield pytest.param(mapped, str(index), step.where, id=f"{name}-{index}-{kind}", marks=marks)
        for point, (where, variants) in POINTS.items():
            if mapped in variants:
                yield pytest.param(mapped, point, where, id=f"{name}-{point}", marks=marks)


every_point = pytest.mark.parametrize(("mapped", "point", "place"), list(cases()))


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
def test_a_failing_step(variants: dict[bool, Variant], mapped: bool, point: str, place: str) -> None:
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
def test_a_runtime_that_is_killed(variants: dict[bool, Variant], mapped: bool, point: str, place: str) -> None:
    variant = variants[mapped]
    reached = killed_at(variant.start, point)
    assert reached, f"the runtime never came to {place}"
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


every_verb = pytest.mark.parametrize(
    ("verb", "mapped"),
    [
        ("run", False),
        ("create", False),
        pytest.param("create", True, marks=pytest.mark.needs("userns", "timens")),
    ],
    ids=["run", "create", "create-mapped"],
)
# Rows that are not performed: the directory is entered at the first try, and to end would follow on another's end.
PASSED_OVER = {"exit_group", "openat2", "fchdir"}


@every_verb
def test_each_row_of_the_tape_may_fail(variants: dict[bool, Variant], verb: str, mapped: bool) -> None:
    """Each call of the process, to its execve: it is told, by its step if it has one, and the program is not executed.

    Up to the accept4 that waits for `start` it is `create` that tells it; from there on `start` does.
    """
    variant = variants[mapped].of(verb)
    rows = rows_of(variant.start)
    variant.forget(executed=verb == "run")
    spared = set()
    for number, name in enumerate(rows):
        status, lines = ended(variant.start, f"row {number}")
        hang_up(variant.console)
        told_by = verb
        if status == 0 and verb == "create":
            answer = variant.runtime("start", variant.container.id)
            status, lines, told_by = answer.status, answer.lines(), "start"
        if status == 0:
            spared.add(name)
            variant.forget(executed=True)
            continue
        assert status == 1, f"{name}, row {number}: {lines}"
        (line,) = lines
        assert line.startswith(f"pyruntime: {told_by} {variant.container.id}: ")
        if name == "read":  # its end may be noticed before it is read why
            assert line.endswith(("No such process", "Broken pipe")) or "ENOSYS" in line
        elif name == "accept4":
            assert told_by == "start"  # but there is nobody any more who could be told why
        else:
            assert f"{NO_CALL}(): ENOSYS: Function not implemented" in line
        variant.forget(executed=False, deleted=told_by == verb)
    assert spared == PASSED_OVER


@pytest.mark.parametrize("verb", ["run", "create"])
def test_a_runtime_that_is_killed_at_each_row(variants: dict[bool, Variant], verb: str) -> None:
    """Up to the one that waits for its word the process ends with its parent; then `delete` finds what is left."""
    variant = variants[False].of(verb)
    rows = rows_of(variant.start)
    variant.forget(executed=verb == "run")
    waits = rows.index("read")
    passed_over = set()
    for number, name in enumerate(rows[: rows.index("accept4") if verb == "create" else len(rows)]):
        if not killed_while(variant.start, number):
            passed_over.add(name)
            variant.forget(executed=verb == "run")
            continue
        if number <= waits:
            wait_until(lambda: not variant.leftovers.processes(), "the child to end with its parent")
            assert not variant.executed.exists()
        assert variant.runtime("delete", "--force", variant.container.id).status == 0
        variant.executed.unlink(missing_ok=True)
        left = variant.leftovers.found()
        assert not left, left
    assert passed_over == PASSED_OVER


def test_a_process_that_is_killed_at_each_row(variants: dict[bool, Variant]) -> None:
    """As the kernel may do it for want of memory, up to the row that waits for its word: that is what is told."""
    variant = variants[False].of("run")
    rows = rows_of(variant.start)
    variant.forget(executed=True)
    for number in range(rows.index("read") + 1):
        status, lines = bereft_while(variant.start, number)
        assert status == 1
        assert len(lines) == 1 and "killed" in lines[0], f"{rows[number]}, row {number}: {lines}"
        variant.forget(executed=False, deleted=True)
