"""The fixtures and markers of the black-box tests; a conftest.py imports all of them.

`@pytest.mark.only_pyruntime("why")`: another runtime differs here on purpose, so with $RUNTIME the test is left out.
`@pytest.mark.runc_since("1.2", "what came")`: an older runc lacks it.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import programs
from .container import Container
from .leftovers import Leftovers, host_mounts
from .runtime import Result, Runtime, identify

__all__ = (
    "container",
    "driver",
    "leftovers",
    "marker",
    "new_container",
    "program",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "refused",
    "scratch",
)

Refused = Callable[..., Result]


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known (--strict-markers)."""
    config.addinivalue_line("markers", "only_pyruntime(reason): another runtime differs here on purpose")
    config.addinivalue_line("markers", "runc_since(version, reason): a runc before this version lacks it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, rather than skip, what another runtime does differently: a skip would be a gap of the machine."""
    runtime = identify()
    if runtime.name == "pyruntime":
        return

    def concerns(item: pytest.Item) -> bool:
        since = [tuple(int(part) for part in mark.args[0].split(".")) for mark in item.iter_markers("runc_since")]
        return item.get_closest_marker("only_pyruntime") is None and all(
            runtime.version >= version for version in since
        )

    left_out = [item for item in items if not concerns(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if concerns(item)]


@pytest.fixture
def marker() -> str:
    """What this test's processes, cgroups and IDs are named by; no other test's, now or ever."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def scratch(marker: str) -> Iterator[Path]:
    """A directory that a mapped root may enter, too (pytest's tmp_path is closed to others)."""
    path = Path(tempfile.mkdtemp(prefix=f"{marker}-"))
    path.chmod(0o755)
    yield path
    # Never through a mount that a failing runtime has left: that may be the host's own /dev or /proc.
    if not any(mount.point.startswith(str(path)) for mount in host_mounts()):
        shutil.rmtree(path)


@pytest.fixture
def driver(runtime: str, scratch: Path, marker: str) -> Runtime:
    """The runtime under test, with a --root of its own."""
    return Runtime(runtime, scratch / "state", marker)


@pytest.fixture
def leftovers(driver: Runtime, scratch: Path, marker: str) -> Leftovers:
    """To be asked in a test whose container must be gone without any `delete`."""
    return Leftovers(scratch, driver.root, marker)


@pytest.fixture
def new_container(
    driver: Runtime, scratch: Path, marker: str, leftovers: Leftovers
) -> Iterator[Callable[[], Container]]:
    """Make containers with IDs of their own. After the test each is deleted, and nothing of them may be left."""
    made: list[Container] = []

    def make() -> Container:
        made.append(Container(scratch / f"bundle{len(made)}", f"{marker}-{len(made)}", driver))
        return made[-1]

    yield make
    if driver.root.exists():
        for one in made:
            if (driver.root / one.id).exists():
                result = one.delete("--force")
                assert result.status == 0, result
    left = leftovers.found()
    assert not left, left


@pytest.fixture
def container(new_container: Callable[[], Container]) -> Container:
    """One container to be edited and run."""
    return new_container()


@pytest.fixture
def refused(container: Container, leftovers: Leftovers) -> Refused:
    """Run the container, which must be refused or fail before its program runs, and leave nothing behind.

    `place` is where in the user's input the fault is. Only pyruntime is asked for it, in one line that names the
    container, too: runc's message gives no place, and its children write lines of their own.
    """

    def refuse(place: str, *flags: str) -> Result:
        result = container.run(*flags)
        # Since 1.2 runc learns of a failed execve(2) by its init's exit status only.
        assert result.status in ((1,) if identify().name == "pyruntime" else (1, 255)), result
        assert result.stderr, "refused in silence"
        assert "Traceback" not in result.stderr, result.stderr
        if identify().name == "pyruntime":
            assert len(result.lines()) == 1, result.stderr
            assert place in result.stderr, f"no {place!r} in {result.stderr!r}"
            assert container.id in result.stderr, f"the container's ID is missing in {result.stderr!r}"
        left = leftovers.found()
        assert not left, left
        return result

    return refuse


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile a C program of tests/support/programs to a static executable. The test says needs("gcc")."""
    folder = tmp_path_factory.mktemp("programs")
    return lambda name: programs.compiled(name, folder)
