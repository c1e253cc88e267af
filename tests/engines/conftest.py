"""The fixtures of the engines' tests. pyproject.toml leaves this folder out of a plain run: `scripts/conformance`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bundle import Bundle
from tests.support.containerd import IMAGE, Containerd, until
from tests.support.fixtures import *  # noqa: F403
from tests.support.folder import short_folder
from tests.support.oci_archive import write_archive
from tests.support.runtime import Result

pytest.register_assert_rewrite("tests.engines.cases")  # which is no test_*.py


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's archive: the tests' busybox, with two users."""
    folder = tmp_path_factory.mktemp("image")
    bundle = Bundle(folder / "bundle")
    bundle.add_file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1001:guest:/:/bin/sh\n")
    bundle.add_file("etc/group", "root:x:0:\nguest:x:1001:\nextra:x:2002:guest\n")
    bundle.add_file("etc/hosts")
    bundle.add_file("etc/resolv.conf")
    write_archive(folder / "busybox.tar", IMAGE, bundle.rootfs, ["sh"])
    return folder / "busybox.tar"


@pytest.fixture(scope="session")
def daemon(runtime: str, archive: Path) -> Iterator[Containerd]:
    """One containerd for all tests."""
    with short_folder() as folder:
        containerd = Containerd(folder, folder.name, runtime)
        try:
            containerd.start()
            containerd.load(archive)
            yield containerd
        finally:
            containerd.stop()
            (Path("/sys/fs/cgroup") / containerd.namespace).rmdir()


@pytest.fixture
def ctr(daemon: Containerd) -> Iterator[Containerd]:
    """The daemon for one test, whose containers are deleted after it; nothing of them may be left."""
    yield daemon
    daemon.sweep()
    until(lambda: not daemon.left(), f"left: {daemon.left()}")


Run = Callable[..., Result]


@pytest.fixture
def run(ctr: Containerd, marker: str) -> Run:
    """`ctr run --rm` with the test's image: `run("echo", "hi", flags=["--tty"])`."""

    def run_once(*command: str, flags: tuple[str, ...] = (), stdin: str = "") -> Result:
        return ctr(*ctr.run_arguments("--rm", *flags), IMAGE, marker, *command, stdin=stdin)

    return run_once


@pytest.fixture
def start(ctr: Containerd, marker: str) -> Callable[..., str]:
    """`ctr run --detach`: gives the ID of a container that runs a command, by default for longer than any test."""

    def start_one(*command: str, flags: tuple[str, ...] = (), name: str = marker) -> str:
        arguments = ctr.run_arguments("--detach", "--null-io", *flags)
        result = ctr(*arguments, IMAGE, name, *(command or ("sleep", "1000")))
        assert result.status == 0, result
        return name

    return start_one
