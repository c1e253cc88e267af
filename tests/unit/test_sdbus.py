"""linux/sdbus.py without a bus: how values are taken apart. With one: tests/systemd."""

from __future__ import annotations

from typing import Any

import pytest

from pyruntime.linux.sdbus import _basic, _container, split


@pytest.mark.parametrize(
    ("signature", "types"),
    [
        ("", []),
        ("ss", ["s", "s"]),
        ("ssa(sv)a(sa(sv))", ["s", "s", "a(sv)", "a(sa(sv))"]),
        ("(ii)aasv", ["(ii)", "aas", "v"]),
        ("aa(s(ii))b", ["aa(s(ii))", "b"]),
    ],
)
def test_split(signature: str, types: list[str]) -> None:
    assert split(signature) == types


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("as", ["a", "b"], ("a", "s", [("s", "a"), ("s", "b")])),
        ("a(sv)", [], ("a", "(sv)", [])),
        ("(sa(ii))", ("a", [(1, 2)]), ("r", "sa(ii)", [("s", "a"), ("a(ii)", [(1, 2)])])),
        ("v", ("t", 5), ("v", "t", [("t", 5)])),
    ],
)
def test_container(kind: str, value: Any, expected: Any) -> None:
    assert _container(kind, value) == expected


def test_a_struct_has_all_its_members() -> None:
    with pytest.raises(ValueError, match="shorter"):
        _container("(ss)", ("a",))


def test_numbers_as_c_has_them() -> None:
    assert [len(_basic(kind, 1)) for kind in "ybnqiuxt"] == [1, 4, 2, 2, 4, 4, 8, 8]
    assert _basic("i", -1) == _basic("u", 0xFFFFFFFF)
    assert len(_basic("d", 1.5)) == 8


@pytest.mark.parametrize(("kind", "value"), [("y", 256), ("u", -1), ("t", 1 << 64), ("n", 1 << 15)])
def test_numbers_that_do_not_fit(kind: str, value: int) -> None:
    with pytest.raises(OverflowError):
        _basic(kind, value)
