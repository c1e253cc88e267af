"""A value in GVariant's text format -> its D-Bus type and the value: `uint64 5` is ("t", 5).

That is how annotations give properties to systemd (plan/scope.py), as with runc. What no property takes is left out:
dictionaries, maybes, handles, byte strings.

See docs.gtk.org/glib/gvariant-text-format.html. Read beside github.com/godbus/dbus:variant_parser.go.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Typed = tuple[str, Any]

_KEYWORDS = {
    "boolean": "b",
    "byte": "y",
    "int16": "n",
    "uint16": "q",
    "int32": "i",
    "uint32": "u",
    "int64": "x",
    "uint64": "t",
    "double": "d",
    "string": "s",
    "objectpath": "o",
    "signature": "g",
}
_BITS = {"y": 8, "n": 16, "q": 16, "i": 32, "u": 32, "x": 64, "t": 64}
_SIGNED = "nix"
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_END = "\0"  # stands after the text; no text has it inside
_DEEPEST = 32  # containers in one another, as on D-Bus


def parse(text: str) -> Typed:
    """The type, as a D-Bus signature, and the value: a bool, an int, a float, a str, a list for an array, a tuple for a
    struct, and for a variant a tuple of its own type and value. Raises ValueError, which says what is wrong.
    """
    if _END in text:
        raise ValueError("it contains a NUL")
    reader = _Reader(text)
    found = reader.value("", 0)
    if reader.peek() != _END:
        raise ValueError(f"{reader.rest()!r} after the value")
    return found


class _Reader:
    """Goes through the text once, from left to right."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text + _END
        self.at = 0

    def peek(self) -> str:
        """The next character that is no blank."""
        while self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at]

    def rest(self) -> str:
        return self.text[self.at : -1]

    def word(self, letters: str) -> str:
        """As many characters as are letters, digits or among `letters`."""
        start = self.at
        while self.text[self.at].isalnum() or self.text[self.at] in letters:
            self.at += 1
        return self.text[start : self.at]

    def value(self, wanted: str, depth: int) -> Typed:
        """The next value, of the type `wanted` ("": of the one that it has by itself)."""
        if depth > _DEEPEST:
            raise ValueError("too many brackets in one another")
        first = self.peek()
        if first == "@":
            self.at += 1
            return self._of_type(wanted, self.word("()"), depth)
        if first.isalpha():
            word = self.word("")
            if word in _KEYWORDS:
                return self._of_type(wanted, _KEYWORDS[word], depth)
            found: Typed = self._name(word, wanted)
        elif first in "'\"":
            found = wanted if wanted in ("o", "g") else "s", self._string(first)
        elif first == "[":
            found = self._array(wanted, depth)
        elif first == "(":
            found = self._struct(depth)
        elif first == "<":
            self.at += 1
            found = "v", self.value("", depth + 1)
            self._expect(">")
        else:
            found = self._number(wanted)
        if wanted and found[0] != wanted:
            raise ValueError(f"a value of type {found[0]!r} where {wanted!r} is expected")
        return found

    def _of_type(self, wanted: str, told: str, depth: int) -> Typed:
        if not told:
            raise ValueError("no type after @")
        if wanted and told != wanted:
            raise ValueError(f"a value of type {told!r} where {wanted!r} is expected")
        return self.value(told, depth + 1)

    def _name(self, word: str, wanted: str) -> Typed:
        if word in ("true", "false"):
            return "b", word == "true"
        if word in ("inf", "nan") and wanted in ("", "d"):
            return "d", float(word)
        raise ValueError(f"{word!r} is no value; a string stands in quotes")

    def _number(self, wanted: str) -> Typed:
        text = self.word("+-.")
        try:
            if wanted == "d" or (not wanted and not text.startswith(("0x", "-0x")) and set(text) & set(".eE")):
                return "d", float(text)
            digits = text.lstrip("+-")
            octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
            number = int(text, 8 if octal else 0)
        except ValueError:
            raise ValueError(f"{text + self.rest()!r} is no value") from None
        kind = wanted if wanted in _BITS else "i"
        bits = _BITS[kind]
        lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind in _SIGNED else (0, (1 << bits) - 1)
        if not lowest <= number <= highest:
            raise ValueError(f"{number} is not from {lowest} to {highest}, as type {kind!r} is")
        return kind, number

    def _string(self, quote: str) -> str:
        found = ""
        while True:
            self.at += 1
            letter = self.text[self.at]
            if letter == _END:
                raise ValueError("the string does not end")
            if letter == quote:
                self.at += 1
                return found
            found += self._escaped() if letter == "\\" else letter

    def _escaped(self) -> str:
        self.at += 1
        letter = self.text[self.at]
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        size = {"u": 4, "U": 8}.get(letter, 0)
        digits = self.text[self.at + 1 : self.at + 1 + size]
        self.at += size
        try:
            character = chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise ValueError(f"\\{letter}{digits} is no character") from None
        if character == _END:
            raise ValueError("the string contains a NUL")
        return character

    def _array(self, wanted: str, depth: int) -> Typed:
        inside = wanted[1:] if wanted.startswith("a") else ""
        values = []
        self.at += 1
        while self.peek() != "]":
            inside, value = self.value(inside, depth + 1)
            values.append(value)
            if self.peek() != "]":
                self._expect(",")
        self.at += 1
        if not inside:
            raise ValueError("an empty array does not tell its type: write @as []")
        return f"a{inside}", values

    def _struct(self, depth: int) -> Typed:
        kinds, values = "", []
        self.at += 1
        while self.peek() != ")":
            kind, value = self.value("", depth + 1)
            kinds += kind
            values.append(value)
            if self.peek() != ")":
                self._expect(",")
        self.at += 1
        if not kinds:
            raise ValueError("a struct has at least one member")
        return f"({kinds})", tuple(values)

    def _expect(self, letter: str) -> None:
        if self.peek() != letter:
            raise ValueError(f"{letter!r} is missing before {self.rest()!r}")
        self.at += 1
