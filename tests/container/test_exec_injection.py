"""A failure, or the runtime's own death, at each step of an `exec`: nothing was executed, and nothing is left behind.

As test_injection.py does it for a start: a program stands in for the command.
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
from pyruntime.linux.constants import CLONE_NEWNS
from pyruntime.plan.join import build
from pyruntime.plan.step import Step
from pyruntime.spec.execution import from_options
from tests import capabilities
from tests.support.container import Container, wait_until
from tests.support.injection import NO_CALL, commands, ended, hang_up, killed_at, killed_while, rows_of, spawn
from tests.support.leftovers import Leftovers
from tests.support.runtime import Runtime
from tests.support.terminal import ConsoleSocket, finish

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2"),
    pytest.mark.only_pyruntime("the failure is injected into pyruntime's own functions"),
]

WEAKEN = """
from pyruntime import execution
from pyruntime.launch import affinity, handle, join

execution.build = remembering(execution.build)
for place, owner, name in (
    ("tape", execution, "compile_entry"),
    ("hop", execution.exeseal, "sealed"),
    ("cgroup", execution, "start_in"),
    ("spawn", execution.exeseal, "spawn"),
    ("taking over", handle.Child, "take_over"),
    ("pid file", execution.Options, "announce"),
    ("word", execution, "_let_execute"),
):
    if place == point:
        setattr(owner, name, weak(getattr(owner, name)))
"""
POINTS = ("tape", "hop", "cgroup", "spawn", "taking over", "pid file", "word")


def enrich(container: Container) -> None:
    """Ask for something of every kind."""
    container.process.update(oomScoreAdj=500, execCPUAffinity={"initial": "0", "final": "0"})
    container.process["args"] = ["sleep", "100000"]
    # All but two, or there were forty calls that drop one each.
    container.process["capabilities"]["bounding"] = [name for name in CAPABILITIES if not name.startswith("CAP_SYS_R")]
    container.process["rlimits"].append({"type": "RLIMIT_CORE", "soft": 0, "hard": 0})
    container.linux["personality"] = {"domain": "LINUX"}


class Variant(NamedTuple):
    """A container that waits, the failing command, and the real one."""

    container: Container
    injecting: Runtime
    runtime: Runtime
    console: ConsoleSocket
    before: set[int]  # the container's processes
    executed: Path  # what the program makes

    def start(self, point: str, told_fd: int = 0, go_fd: int = 0, **popen: Any) -> subprocess.Popen[bytes]:
        """The command with its weak point."""
        words = ["exec", "-d", "--pid-file", str(self.pid_file)]
        if self.console.path.parent == self.container.path:
            words += ["-t", "--console-socket", str(self.console.path)]
        words += [self.container.id, "touch", "/dev/executed"]
        return spawn(self.injecting, words, f"{point}:{told_fd}:{go_fd}", **popen)

    @property
    def pid_file(self) -> Path:
        return self.container.path / "pid"

    def forget_success(self) -> None:
        """Remove what the program, and the command that was successful, have left; nothing if there was none."""
        if self.pid_file.exists():
            wait_until(self.executed.exists, "the program")
            self.executed.unlink()
            self.pid_file.unlink()
        hang_up(self.console)

    def assert_clean(self) -> None:
        """No process but the container's, no pid file, and the program was never executed."""
        leftovers = Leftovers(self.container.path, self.runtime.root, self.runtime.marker)
        wait_until(lambda: set(leftovers.processes()) <= self.before, "what entered to be gone")
        assert not self.pid_file.exists()
        assert [path.name for path in self.container.path.iterdir() if "pid" in path.name] == []
        assert not self.executed.exists()


def planned(*, tty: bool) -> list[Step]:
    """The plan of a variant, for naming the tests."""
    with tempfile.TemporaryDirectory() as folder:
        container = Container(Path(folder, "bundle"), "web", Runtime("", Path(folder), ""))
        enrich(container)
        wanted = from_options(container.config, ["touch"], tty=tty)  # type: ignore[arg-type]
        return build(wanted.spec, "web", {"mnt": CLONE_NEWNS}).steps


def cases() -> Iterator[Any]:
    """(whether mapped and on a terminal, point) of everything that can fail."""
    if capabilities.missing("busybox"):
        return
    for mapped in (False, True):
        marks = pytest.mark.needs("userns") if mapped else ()
        name = "mapped" if mapped else "plain"
        steps = [(str(index), type(step).__name__) for index, step in enumerate(planned(tty=mapped))]
        for point, shown in (*steps, *zip(POINTS, POINTS, strict=True)):
            yield pytest.param(mapped, point, id=f"{name}-{point}-{shown}", marks=marks)


every_point = pytest.mark.parametrize(("mapped", "point"), list(cases()))


@pytest.fixture(scope="module")
def variants() -> Iterator[dict[bool, Variant]]:
    """Both, by whether they are mapped and on a terminal."""
    folder = Path(tempfile.mkdtemp(prefix="injection-"))
    folder.chmod(0o755)
    command, injecting = commands(folder, WEAKEN)
    made: dict[bool, Variant] = {}
    for mapped in (False, True):
        if mapped and capabilities.missing("userns"):
            continue
        marker = f"t{uuid.uuid4().hex[:12]}"
        runtime = Runtime(str(command), folder / "state", marker)
        container = Container(folder / f"bundle-{mapped}", marker, runtime)
        enrich(container)
        if mapped:
            container.map_root_to(100000)
        assert container.run_detached().status == 0
        console = ConsoleSocket((container.path if mapped else folder) / "console.sock")
        before = set(Leftovers(folder, runtime.root, marker).processes())
        executed = Path(f"/proc/{container.pid()}/root/dev/executed")
        assert executed.parent.is_dir()
        weakened = Runtime(str(injecting), runtime.root, marker)
        made[mapped] = Variant(container, weakened, runtime, console, before, executed)
    yield made
    for each in made.values():
        each.console.socket.close()
        assert each.container.delete("--force").status == 0
    shutil.rmtree(folder)


@every_point
def test_a_failing_step(variants: dict[bool, Variant], mapped: bool, point: str) -> None:
    variant = variants[mapped]
    process = variant.start(point)
    _, stderr = process.communicate(timeout=30)
    hang_up(variant.console)
    assert process.returncode == 255
    (line,) = stderr.decode().splitlines()
    assert line.startswith(f"pyruntime: exec {variant.container.id}: ")
    assert line.endswith("injected(): EIO: Input/output error")
    variant.assert_clean()


@every_point
def test_a_runtime_that_is_killed(variants: dict[bool, Variant], mapped: bool, point: str) -> None:
    variant = variants[mapped]
    reached = killed_at(variant.start, point)
    hang_up(variant.console)
    assert reached, f"the runtime never came to {point}"
    if point == "word":
        variant.pid_file.unlink()  # it was written, and who is killed can't remove it
    variant.assert_clean()


@pytest.mark.parametrize("mapped", [False, pytest.param(True, marks=pytest.mark.needs("userns"))])
def test_nothing_fails_but_what_is_injected(variants: dict[bool, Variant], mapped: bool) -> None:
    """The same program without a weak point: or the other tests would prove nothing."""
    variant = variants[mapped]
    process = variant.start("nowhere", stdout=subprocess.DEVNULL)
    process.wait(timeout=30)
    assert process.stderr is not None
    assert (process.returncode, process.stderr.read()) == (0, b"")
    assert variant.pid_file.read_text().isdigit()
    finish(process)
    variant.forget_success()


@pytest.mark.parametrize("mapped", [False, pytest.param(True, marks=pytest.mark.needs("userns"))])
def test_each_row_of_the_tape_may_fail(variants: dict[bool, Variant], mapped: bool) -> None:
    """Each call of the process on its way: it is told, once and by its step, and the program is not executed."""
    variant = variants[mapped]
    spared = set()
    for number, name in enumerate(rows_of(variant.start)):
        if name != "exit_group":  # which can't fail
            variant.forget_success()
            status, lines = ended(variant.start, f"row {number}")
            if status == 0:
                spared.add(name)
            else:
                assert status == 255, f"{name}, row {number}: {lines}"
                (line,) = lines
                assert line.startswith(f"pyruntime: exec {variant.container.id}: ")
                assert f"{NO_CALL}(): ENOSYS: Function not implemented" in line
                hang_up(variant.console)
                variant.assert_clean()
    variant.forget_success()
    # The directory is entered at the first try.
    assert spared == {"openat2", "fchdir"}


def test_a_runtime_that_is_killed_at_each_row(variants: dict[bool, Variant]) -> None:
    """Up to the end of the stage, which the runtime waits for before it gives its word: the process on its way ends."""
    variant = variants[False]
    rows = rows_of(variant.start)
    variant.forget_success()
    passed_over = []
    for number, name in enumerate(rows[: rows.index("exit_group") + 1]):
        if not killed_while(variant.start, number):
            passed_over.append(name)
            variant.forget_success()
        variant.pid_file.unlink(missing_ok=True)  # once it was written, who is killed can't remove it
        variant.assert_clean()
    # The directory is entered at the first try.
    assert passed_over == ["openat2", "fchdir"]
