"""Whatever a config.json holds, it is judged: no exception but pyruntime's own, and nothing that cannot be told."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyruntime import jsontext
from pyruntime.cli.lint import as_text
from pyruntime.errors import Error
from pyruntime.lint import ERROR, lint
from pyruntime.plan.build import build
from pyruntime.plan.resources import cgroup_path
from pyruntime.spec.default import default_spec
from pyruntime.spec.load import parse
from pyruntime.spec.validate import problems, validate, warnings
from tests.support.random_configs import near_default, odd_specs

SLOW_IS_FINE = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)


def judged(spec: Any) -> bool:
    """Whether the Spec can be run. All that is said of it has a place and can be written as UTF-8."""
    before = copy.deepcopy(spec)
    errors = [str(error) for error in problems(spec)]
    for sentence in (*errors, *warnings(spec)):
        assert sentence.startswith("config.json#")
    if errors:
        with pytest.raises(Error) as caught:
            validate(spec)
        assert str(caught.value).startswith("config.json#")
    else:
        validate(spec)
        try:
            steps = [*build(spec, "/bundle", "id", cgroup_path(spec.get("linux", {}), "id", "/a/b"))]
        except Error as error:
            assert error.where.startswith("config.json#")
            errors.append(str(error))
        else:
            for step in steps:
                jsontext.encode(step.as_dict()).encode()
                assert step.where.startswith("config.json#")
                step.text().encode()
    assert repr(spec) == repr(before)  # == would find -0.0 and 0, or True and 1, alike
    return not errors


@SLOW_IS_FINE
@given(odd_specs())
def test_any_config_is_judged(spec: Any) -> None:
    judged(spec)


@SLOW_IS_FINE
@given(near_default())
def test_any_sound_looking_config_is_judged(spec: Any) -> None:
    judged(spec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("bundle")
    (path / "rootfs").mkdir()
    yield path


def linted(folder: Path, data: bytes) -> list[str]:
    """The severities of what lint says of a config.json of these bytes, each checked to be in the text."""
    (folder / "config.json").write_bytes(data)
    lines = data.decode(errors="replace").split("\n")
    found = lint(str(folder))
    for remark in found:
        assert 1 <= remark.line <= len(lines)
        assert 1 <= remark.column <= len(lines[remark.line - 1]) + 1
        assert remark.message
        jsontext.encode(remark.as_dict()).encode()
    as_text(found, "config.json", 0)
    return [remark.severity for remark in found]


@SLOW_IS_FINE
@given(odd_specs(), st.booleans())
def test_lint_and_a_start_agree(folder: Path, spec: Any, ascii_only: bool) -> None:
    text = json.dumps(spec, ensure_ascii=ascii_only, indent=1)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = json.dumps(spec, indent=1).encode()
    severities = linted(folder, data)
    try:
        can_run = judged(parse(data))
    except Error:  # no Spec at all: a number of 5000 digits
        can_run = False
    else:
        # The random root is not on this disk, which only lint has looked at.
        path = spec.get("root", {})
        if isinstance(path, dict) and path.get("path") != "rootfs":
            return
    assert can_run == (ERROR not in severities)


@SLOW_IS_FINE
@given(st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=3)), min_size=1, max_size=3), st.integers(0, 3))
def test_any_bytes_are_judged(folder: Path, changes: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(jsontext.encode(default_spec(), " ").encode())
    for offset, replacement in changes:
        data[offset % len(data) : offset % len(data) + cut] = replacement
    try:
        parse(bytes(data))
    except Error as error:
        assert error.where == "config.json"
    linted(folder, bytes(data))
