"""Podman drives the runtime, through conmon: what it has in common with Docker (cases.py), and what it has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.cases import *  # noqa: F403
from tests.engines.cases import Driven
from tests.support.engine import Podman
from tests.support.folder import short_folder

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2", "podman")


@pytest.fixture(scope="session")
def engine(runtime: str, archive: Path) -> Iterator[Podman]:
    """Podman with the image."""
    with short_folder() as folder:
        podman = Podman(folder, runtime)
        podman.start(archive)
        yield podman


@pytest.fixture
def driven(engine: Podman, marker: str) -> Iterator[Driven]:
    """Podman for one test; its containers are removed after it."""
    yield Driven(engine, marker)
    result = engine("rm", "--all", "--force", "--time", "0")
    assert result.status == 0, result


class TestPodman:
    def test_a_user_namespace(self, driven: Driven) -> None:
        flags = ("--uidmap", "0:100000:1000", "--gidmap", "0:100000:1000")
        result = driven.run("sh", "-c", "cat /proc/self/uid_map; cat /etc/hosts >/dev/null && id -u", flags=flags)
        assert result.stdout.split() == ["0", "100000", "1000", "0"], result

    def test_a_pod(self, driven: Driven) -> None:
        pod = f"{driven.name}-pod"
        assert driven.engine("pod", "create", "--infra=false", "--name", pod).status == 0
        try:
            assert driven.run("echo", "hi", flags=("--pod", pod)).stdout == "hi\n"
        finally:
            driven.engine("pod", "rm", "--force", pod)
