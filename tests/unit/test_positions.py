"""The scan that tells lines and columns, against the parser that tells values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.spec.positions import Lines, places

TEXT = """\
{
\t"a": [1, {"b~/": null}, "x"],
  "ü": {"c\\n": -1.5e3}, "e": {}, "f": []
}
"""


def test_each_value_has_its_line_and_column() -> None:
    lines = Lines(TEXT)
    assert {place.pointer: lines.position(place.offset) for place in places(TEXT)} == {
        "": (1, 1),
        "/a": (2, 2),
        "/a/0": (2, 8),
        "/a/1": (2, 11),
        "/a/1/b~0~1": (2, 12),
        "/a/2": (2, 26),
        "/ü": (3, 3),
        "/ü/c\n": (3, 9),
        "/e": (3, 25),
        "/f": (3, 34),
    }


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ('{"a": 1, "a": 2}', [("/a", 9)]),
        ('{"a": 1, "\\u0061": 2}', [("/a", 9)]),
        ('{"a": {"b": 1}, "c": {"b": 1}}', []),
        ('{"a": {"b": 1}, "a": {"b": 1}}', [("/a", 16)]),
        ('[{"a": [], "a": 1}, {"a": 1}]', [("/0/a", 11)]),
    ],
)
def test_keys_that_stand_twice(text: str, repeated: list[tuple[str, int]]) -> None:
    assert [(place.pointer, place.offset) for place in places(text) if place.is_repeated] == repeated


def pointers(value: Any, pointer: str = "") -> list[str]:
    if isinstance(value, dict):
        items = [(key.replace("~", "~0").replace("/", "~1"), item) for key, item in value.items()]
    else:
        items = [(str(index), item) for index, item in enumerate(value)] if isinstance(value, list) else []
    return [pointer, *(each for key, item in items for each in pointers(item, f"{pointer}/{key}"))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(json_values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_every_value_of_any_document_is_found(value: Any, indent: Any, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    found = [*places(text)]
    assert [place.pointer for place in found] == pointers(value)
    assert not any(place.is_repeated for place in found)
    for place in found:
        assert text[place.offset] not in " \t\n,:]}"


def test_many_values_and_a_deep_nest_are_no_matter() -> None:
    assert sum(1 for _ in places("[" + "1," * 99_999 + "1]")) == 100_001
    assert sum(1 for _ in places("[" * 10_000 + "]" * 10_000)) == 10_000
