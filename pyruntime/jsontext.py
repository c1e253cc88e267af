"""JSON text to Python values and back, without the 7 ms that `import json` costs (it compiles regular expressions).

`_json` is the C half of the standard json module: its scanner reads a whole document in some 30 microseconds, but tells
errors without line and column. So on an error, and only then, the real json parses the text again for the message. Its
encoder writes what shall be on one line; lines with indentation are made here.

No companion: runc has encoding/json. The language itself is RFC 8259.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

try:
    from _json import encode_basestring as _quote
    from _json import encode_basestring_ascii as _quote_ascii
    from _json import make_encoder as _make_encoder
    from _json import make_scanner as _make_scanner
except ImportError:  # another Python than CPython: the pure halves of json have the same signatures
    from json.decoder import JSONDecoder as _Decoder
    from json.encoder import py_encode_basestring as _quote
    from json.encoder import py_encode_basestring_ascii as _quote_ascii

    def _make_scanner(options: Any) -> Any:  # type: ignore[no-redef]
        """Stand in for _json.make_scanner: the same scanner, made the slow way."""
        return _Decoder(parse_constant=options.parse_constant).scan_once  # type: ignore[attr-defined]

    def _make_encoder(*_options: Any) -> Any:  # type: ignore[no-redef]
        """Stand in for _json.make_encoder, by what serves here where that gives up."""
        return lambda value, _level: (_encode(value, "", ""),)


__all__ = ("decode", "encode")

BLANKS = " \t\n\r"  # RFC 8259 section 2; a bare strip() would also eat NBSP and the like


def _refuse_constant(name: str) -> NoReturn:
    """Python's json reads NaN and Infinity; JSON has no such words."""
    raise ValueError(f"{name} is not JSON")


class _Options:
    """What make_scanner reads its behaviour from; the attribute names are json.JSONDecoder's."""

    strict = True  # refuse raw control characters in strings
    object_hook = None
    object_pairs_hook = None  # so the last of two equal keys wins, as with json.loads
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


_scan: Any = _make_scanner(_Options)  # type: ignore[arg-type]


def decode(text: str) -> object:
    """The value that a JSON document holds: dict, list, str, int, float, bool or None.

    Raises ValueError with a sentence that names the line and column; nesting beyond the interpreter's recursion limit
    (some hundred levels) is such an error too.
    """
    body = text.strip(BLANKS)
    value: object
    try:
        value, end = _scan(body, 0)
    except RecursionError:
        raise ValueError("arrays or objects are nested too deeply") from None
    except (StopIteration, ValueError, SystemError):
        # SystemError: Python 3.11's scanner fails without an exception where json.decoder, whose it is, isn't imported.
        raise ValueError(_explain(text)) from None
    if end != len(body):
        raise ValueError(_explain(text))
    return value


def _explain(text: str) -> str:
    """Why the text is not JSON, by parsing it again with the module that counts lines. Slow: 7 ms."""
    import json

    if not text.strip(BLANKS):
        return "the text is empty"
    if text[0] == "\ufeff":
        return "not JSON at line 1 column 1: a byte order mark (save the file as UTF-8 without one)"
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"at line {error.lineno} column {error.colno}"
        if error.msg.startswith("Unterminated string"):
            return f"the text ends inside the string that starts {place}"
        if error.pos >= len(text.rstrip(BLANKS)):
            return f"the text ends too early, {place}: {error.msg}"
        return f"not JSON {place}: {error.msg}"
    except (ValueError, RecursionError) as error:  # NaN; an integer of more than 4300 digits
        return str(error)
    return "not JSON"  # the two parsers disagree: not known to happen


def encode(value: object, indent: str = "") -> str:
    """The JSON text of a value made of dict, list, tuple, str, int, float, bool and None.

    Without `indent` on one line without blanks; with it one line an item, shaped as Go's json.MarshalIndent does
    (`runc spec` uses a tab, `runc state` two spaces). Characters outside ASCII are kept, and so are < > and &, which Go
    escapes for the sake of HTML: both are the same JSON. The result can always be written as UTF-8: a lone surrogate,
    which is how Python holds a byte of a file name that is not UTF-8, is written as \\udcXX.

    Raises TypeError for any other type, ValueError for NaN and the infinities.
    """
    if indent:
        return _encode(value, indent, "\n")
    try:
        text = "".join(_write(value, 0))
        text.encode()
    except ValueError:  # NaN, or a lone surrogate
        return _encode(value, "", "")
    return text


def _refuse_type(value: object) -> NoReturn:
    raise TypeError(f"a {type(value).__name__} has no JSON form")


# What json.JSONEncoder would make, too: no search for circles, no ASCII for other characters, no blanks, no NaN.
_write: Any = _make_encoder(None, _refuse_type, _quote, None, ":", ",", False, False, False)


def _encode(value: object, indent: str, line: str) -> str:
    """`line` is the line break with the indentation of the enclosing value."""
    if isinstance(value, str):
        return _string(value)
    if value is None or value is True or value is False:
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    inner = line + indent
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        members = [f"{inner}{_string(key)}{colon}{_encode(item, indent, inner)}" for key, item in value.items()]
        return "{" + ",".join(members) + line + "}" if members else "{}"
    if isinstance(value, list | tuple):
        items = [inner + _encode(item, indent, inner) for item in value]
        return "[" + ",".join(items) + line + "]" if items else "[]"
    if isinstance(value, float):
        if value - value != 0:  # true of NaN and the infinities only
            raise ValueError(f"{value} has no JSON form")
        return float.__repr__(value)
    _refuse_type(value)


def _string(text: object) -> str:
    """A quoted string. Raises TypeError if `text` is no str: JSON has no other keys."""
    if not isinstance(text, str):
        raise TypeError(f"a key must be a str, not {type(text).__name__}")
    quoted: str = _quote(text)
    if not quoted.isascii():
        try:
            quoted.encode()
        except UnicodeEncodeError:
            return _quote_ascii(text)
    return quoted
