"""Stands in for Python's package `encodings` for as long as UTF-8 is all that is asked of it: see home.py.

The interpreter imports `encodings` before anything else, to find the codec of its standard streams: a package with 300
aliases, then the codec's module with its four classes. That is a tenth of a bare interpreter's start. Whatever is asked
for besides, the package itself answers, which is then imported as its own part `__init__`; so nothing is missing.

No `from __future__ import annotations` here: that would read another file.
"""

import codecs
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__path__ = [f"{sys._stdlib_dir}/encodings"]  # type: ignore[attr-defined]


class _Encoder(codecs.IncrementalEncoder):
    def encode(self, text: str, final: bool = False) -> bytes:
        return codecs.utf_8_encode(text, self.errors)[0]


class _Decoder(codecs.BufferedIncrementalDecoder):
    _buffer_decode = codecs.utf_8_decode  # type: ignore[assignment]


def _decode(raw: bytes, errors: str = "strict") -> tuple[str, int]:
    return codecs.utf_8_decode(raw, errors, True)


def _reader(stream: "Any", errors: str = "strict") -> "Any":
    return _package().search_function("utf-8").streamreader(stream, errors)


def _writer(stream: "Any", errors: str = "strict") -> "Any":
    return _package().search_function("utf-8").streamwriter(stream, errors)


def _search(name: str) -> "Any":
    """The codec of that name, or None: see codecs.register()."""
    if name in ("utf-8", "utf_8"):
        return _UTF_8
    try:
        return _package().search_function(name)
    except ImportError:
        return None  # so it is behind the seal (launch/inside.py), where nothing is imported


def _package() -> "ModuleType":
    name = f"{__name__}.__init__"
    __import__(name)
    return sys.modules[name]


def __getattr__(name: str) -> "Any":
    if name[:2] == "__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_package(), name)


_UTF_8 = codecs.CodecInfo(
    codecs.utf_8_encode,
    _decode,  # type: ignore[arg-type]
    _reader,
    _writer,
    _Encoder,
    _Decoder,
    "utf-8",
)
codecs.register(_search)
