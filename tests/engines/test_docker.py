"""Docker drives the runtime, through containerd: what it has in common with Podman (cases.py), and what it has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.cases import *  # noqa: F403
from tests.engines.cases import Driven
from tests.support.containerd import until
from tests.support.engine import Docker
from tests.support.folder import short_folder

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2", "docker")


@pytest.fixture(scope="session")
def engine(runtime: str, archive: Path) -> Iterator[Docker]:
    """dockerd with the image."""
    with short_folder() as folder:
        docker = Docker(folder, runtime)
        try:
            docker.start(archive)
            yield docker
        finally:
            docker.stop()


@pytest.fixture
def driven(engine: Docker, marker: str) -> Iterator[Driven]:
    """Docker for one test; its containers are removed after it."""
    yield Driven(engine, marker)
    if names := engine("ps", "--all", "--quiet").stdout.split():
        result = engine("rm", "--force", *names)
        assert result.status == 0, result


class TestDocker:
    def test_health(self, driven: Driven) -> None:
        one = driven.start(flags=("--health-cmd", "test -e /etc/passwd", "--health-interval", "1s"))
        until(lambda: driven.engine.inspect(one, ".State.Health.Status") == "healthy", "it gets not healthy")

    def test_an_init(self, driven: Driven) -> None:
        assert driven.run("cat", "/proc/1/comm", flags=("--init",)).stdout == "docker-init\n"

    def test_features(self, driven: Driven) -> None:
        """Docker asks the runtime what it can."""
        said = driven.engine("info", "--format", "{{json .Runtimes.tested}}").stdout
        assert "ociVersionMax" in said
