"""plan/gvariant.py: a property's value as an annotation gives it."""

from __future__ import annotations

from typing import Any

import pytest

from pyruntime.plan.gvariant import parse


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("5", "i", 5),
        ("-5", "i", -5),
        ("0x1f", "i", 31),
        ("-0x10", "i", -16),
        ("017", "i", 15),
        ("1.5", "d", 1.5),
        ("1e3", "d", 1000.0),
        ("double 3", "d", 3.0),
        ("double inf", "d", float("inf")),
        ("true", "b", True),
        (" false ", "b", False),
        ("boolean true", "b", True),
        ("uint64 18446744073709551615", "t", (1 << 64) - 1),
        ("@t 7", "t", 7),
        ("@t uint64 7", "t", 7),
        ("byte 0xff", "y", 255),
        ("int16 -1", "n", -1),
        ("'text'", "s", "text"),
        ('"it\'s"', "s", "it's"),
        (r"'a\n\'\\A'", "s", "a\n'\\A"),
        (r"'\u00e9'", "s", "é"),
        ("objectpath '/a'", "o", "/a"),
        ("['a', 'b']", "as", ["a", "b"]),
        ("['a',]", "as", ["a"]),
        ("@as []", "as", []),
        ("@at [1, 2]", "at", [1, 2]),
        ("[byte 1, 2]", "ay", [1, 2]),
        ("[[1], [2, 3]]", "aai", [[1], [2, 3]]),
        ("('a', uint32 1)", "(su)", ("a", 1)),
        ("('a',)", "(s)", ("a",)),
        ("[('/dev/null', 'rw')]", "a(ss)", [("/dev/null", "rw")]),
        ("<'a'>", "v", ("s", "a")),
    ],
)
def test_parse(text: str, kind: str, value: Any) -> None:
    assert parse(text) == (kind, value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "abc", "'a", "[1", "[", "(", "()", "(1", "<1", "[]", "1 2", "'a' b", "{'a': 1}", "just 5", "nothing"),
        *("byte 256", "byte -1", "uint64 -1", "2147483648", "uint64 'a'", "@s 5", "@ 5", "[1, 'a']", "@as [1]"),
        *("1..2", "--1", "'\\q'", r"'\u12'", r"'\u0000'", "a\0", "[" * 100, "@t" * 100, "uint64 " * 100, "5x", "1_0"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)
