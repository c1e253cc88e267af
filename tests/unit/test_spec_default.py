"""The Spec of `pyruntime spec` is the Spec of `runc spec`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyruntime import jsontext
from pyruntime.spec.default import default_spec


def runc_spec(directory: Path, *options: str) -> Any:
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("runc is not installed")
    subprocess.run([runc, "spec", *options], cwd=directory, check=True, capture_output=True)
    return (directory / "config.json").read_text()


def as_current_runc(spec: Any) -> Any:
    """What releases of runc since 1.1.5 and a cgroup v2 host changed, so that any of them can be compared."""
    spec["ociVersion"] = default_spec()["ociVersion"]
    spec["process"]["capabilities"].pop("ambient", None)  # gone since 1.1.6
    spec["process"]["capabilities"].pop("inheritable", None)  # gone since 1.1.2
    namespaces = spec["linux"]["namespaces"]
    if {"type": "cgroup"} not in namespaces:  # only there on a host with nothing but cgroup v2
        mount = namespaces.index({"type": "mount"})
        namespaces.insert(mount + 1, {"type": "cgroup"})
    return spec


@pytest.mark.parametrize("rootless", [False, True])
def test_equal_to_runc_spec_text_and_all(tmp_path: Path, rootless: bool) -> None:
    text = runc_spec(tmp_path, *(["--rootless"] if rootless else []))
    expected = json.dumps(as_current_runc(json.loads(text)), indent="\t")
    assert jsontext.encode(default_spec(rootless), "\t") == expected


def test_the_shape_of_runcs_text_is_ours(tmp_path: Path) -> None:
    text = runc_spec(tmp_path)
    assert jsontext.encode(json.loads(text), "\t") == text


def test_rootless_asks_for_nothing_that_needs_root() -> None:
    spec = default_spec(rootless=True)
    assert "resources" not in spec["linux"]
    assert spec["linux"]["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    assert [namespace["type"] for namespace in spec["linux"]["namespaces"]] == [
        "pid", "ipc", "uts", "mount", "cgroup", "user",
    ]  # fmt: skip
    assert not [option for mount in spec["mounts"] for option in mount.get("options", []) if option.startswith("gid=")]


def test_every_call_gives_its_own_spec() -> None:
    default_spec()["process"]["args"].append("x")
    assert default_spec()["process"]["args"] == ["sh"]
