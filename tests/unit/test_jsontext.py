"""jsontext against the standard library's json, which it must agree with."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime import jsontext

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


@given(values, st.sampled_from(["", "  ", "\t"]))
def test_encode_gives_json_that_both_parsers_read_back(value: object, indent: str) -> None:
    text = jsontext.encode(value, indent)
    text.encode()
    assert json.loads(text) == value
    assert jsontext.decode(text) == value


@given(values)
def test_decode_agrees_with_json(value: object) -> None:
    text = json.dumps(value, indent=1)
    assert jsontext.decode(f"\r\n {text}\t") == json.loads(text)


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsnN\\u \n\x00é'))
def test_decode_refuses_what_json_refuses(text: str) -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        expected = json.loads(text, parse_constant=refuse)
    except ValueError:
        with pytest.raises(ValueError):
            jsontext.decode(text)
    else:
        assert jsontext.decode(text) == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{\n  "a": ,\n}', "line 2 column 8"),
        ('{"a": 1} x', "line 1 column 10"),
        ('{"a": 1}{', "line 1 column 9"),
        ('{"a": "b\nc"}', "line 1 column 9"),
        ("{'a': 1}", "line 1 column 2"),
        ('\n\n{"a": 01}', "line 3 column 8"),
        ('{"a": [1, 2', "ends too early, at line 1 column 12"),
        ('{\n "a"', "ends too early, at line 2 column 5"),
        ('{\n "a": "b', "ends inside the string that starts at line 2 column 7"),
        ("{", "ends too early, at line 1 column 2"),
    ],
)
def test_an_error_tells_line_and_column(text: str, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        jsontext.decode(text)


@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_text(text: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        jsontext.decode(text)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_only_python_knows_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match=f"^{word} is not JSON"):
        jsontext.decode(f'{{"a": {word}}}')


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_deep_nesting_is_an_error_and_not_a_crash(opening: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        jsontext.decode(opening * 100_000)


def test_an_integer_with_too_many_digits_is_an_error() -> None:
    with pytest.raises(ValueError, match="digits"):
        jsontext.decode('{"a": ' + "9" * 5000 + "}")


def test_the_last_of_two_equal_keys_wins() -> None:
    assert jsontext.decode('{"a": 1, "a": 2}') == {"a": 2}


def test_encode_is_shaped_as_go_shapes_it() -> None:
    value = {"a": [], "b": {}, "c": [1, "x"], "d": {"e": True, "f": None}}
    assert jsontext.encode(value) == '{"a":[],"b":{},"c":[1,"x"],"d":{"e":true,"f":null}}'
    assert jsontext.encode(value, "  ") == (
        '{\n  "a": [],\n  "b": {},\n  "c": [\n    1,\n    "x"\n  ],\n  "d": {\n    "e": true,\n    "f": null\n  }\n}'
    )


def test_characters_are_kept_and_lone_surrogates_escaped() -> None:
    assert jsontext.encode("<é>&\u2028") == '"<é>&\u2028"'
    name = b"caf\xe9".decode(errors="surrogateescape")
    text = jsontext.encode({name: name})
    assert text == '{"caf\\udce9":"caf\\udce9"}'
    assert jsontext.decode(text) == {name: name}


@pytest.mark.parametrize("value", [b"bytes", {b"a": 2}, {"a": {1}}, [object()]])
def test_encode_refuses_other_types(value: object) -> None:
    with pytest.raises(TypeError):
        jsontext.encode(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_encode_refuses_numbers_without_a_json_form(value: object) -> None:
    with pytest.raises(ValueError, match="no JSON form"):
        jsontext.encode(value)
