"""Where each value of a JSON document stands: JSON pointer -> line and column.

The parser that reads config.json for a start (jsontext) keeps no positions, and has no time to. This scan is for people
who want to be led to the line; it trusts that the text is JSON, as jsontext has said by then. No companion in runc. The
language is RFC 8259, the pointers are RFC 6901.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from pyruntime import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# A string; one of { } [ ] , : ; a number or a word.
TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


class Place:
    """A value of a document: its pointer, where it starts, and whether its key stood in the same object before."""

    __slots__ = ("is_repeated", "offset", "pointer")

    def __init__(self, pointer: str, offset: int, is_repeated: bool) -> None:
        self.pointer = pointer
        self.offset = offset
        self.is_repeated = is_repeated


class _Open:
    """An array or object that the scan is inside of."""

    __slots__ = ("index", "is_object", "keys", "pointer")

    def __init__(self, pointer: str, opening: str) -> None:
        self.pointer = pointer
        self.index = 0  # of the element, in an array
        self.is_object = opening == "{"
        self.keys: set[str] = set()

    def is_repeated(self, key: str) -> bool:
        """Whether the object has had this key; from now on it has."""
        count = len(self.keys)
        self.keys.add(key)
        return len(self.keys) == count


def places(text: str) -> Iterator[Place]:
    """Every value of a JSON text in the order of the file. A member starts at its key; offsets count characters."""
    inside: list[_Open] = []
    pointer, at_key = "", False
    for match in TOKEN.finditer(text):
        token = match[0]
        if token == ":":
            at_key = False
        elif token in ("]", "}"):
            inside.pop()
        elif token == ",":
            inside[-1].index += 1
            pointer = f"{inside[-1].pointer}/{inside[-1].index}"
            at_key = inside[-1].is_object
        elif at_key:
            key = _key(token)
            pointer = f"{inside[-1].pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            yield Place(pointer, match.start(), inside[-1].is_repeated(key))
        else:
            if not (inside and inside[-1].is_object):
                yield Place(pointer, match.start(), False)
            if token in ("[", "{"):
                inside.append(_Open(pointer, token))
                pointer, at_key = f"{pointer}/0", token == "{"


def _key(token: str) -> str:
    return str(jsontext.decode(token)) if "\\" in token else token[1:-1]


class Lines:
    """Offsets of a text as lines and columns."""

    __slots__ = ("_starts",)

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def position(self, offset: int) -> tuple[int, int]:
        """(line, column), both from 1; a column is a character."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1
