"""Random configs against the whole runtime: it runs them or refuses them, and never a traceback, a hang or a leftover.

The same examples each time (derandomized); tests/unit/test_random_configs.py tries many more on the parts that need no
kernel. Paths that lead out of the bundle are led back: what a random config mounts must not be the host's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.bundle import default_config
from tests.support.container import Container
from tests.support.leftovers import Leftovers
from tests.support.random_configs import near, odd

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2"),
    pytest.mark.only_pyruntime("other runtimes are not ours to shake"),
]


def led_back(config: Any, marker: str, outside: Path) -> Any:
    """The config without what could reach the host's own files and cgroups."""
    mounts = config.get("mounts")
    for mount in mounts if isinstance(mounts, list) else []:
        if isinstance(mount, dict) and "source" in mount and set("/.") & set(str(mount["source"])):
            mount["source"] = str(outside)
    root = config.get("root")
    if isinstance(root, dict) and "path" in root and set("/.") & set(str(root["path"])):
        root["path"] = "rootfs"
    linux = config.get("linux")
    if isinstance(linux, dict) and isinstance(linux.get("cgroupsPath"), str):
        linux["cgroupsPath"] = f"/{marker}-{linux['cgroupsPath'].count('/')}"
    return config


BASE = default_config()


@settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(near(BASE) | odd(near(BASE)))
def test_any_config_is_run_or_refused(
    container: Container, leftovers: Leftovers, scratch: Path, marker: str, config: Any
) -> None:
    outside = scratch / "outside"
    outside.mkdir(exist_ok=True)
    container.path.joinpath("config.json").write_text(json.dumps(led_back(config, marker, outside)))
    result = container.runtime("run", "-b", str(container.path), container.id, stdin=b"")
    assert "Traceback" not in result.stderr, result.stderr
    assert "a bug in pyruntime" not in result.stderr, result.stderr
    assert 0 <= result.status <= 255
    # What a filter of system calls lets the program say, and how it may end, is the filter's matter.
    assert result.status == 0 or result.stderr or "seccomp" in str(config.get("linux")), "refused in silence"
    assert leftovers.found() == []
    linted = container.runtime("lint", str(container.path))
    assert linted.status in (0, 1), linted
    assert not linted.stderr, linted.stderr
    if result.status == 0:
        assert linted.status == 0, linted.stdout
