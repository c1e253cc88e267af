"""The command line: it parses, calls `pyruntime.container`, and prints. Nothing else in pyruntime prints or exits."""

from __future__ import annotations

import posix

from pyruntime.errors import KernelError

__all__ = ("OutputClosed", "emit")


class OutputClosed(Exception):
    """Nobody reads stdout any more: end quietly, as the programs that SIGPIPE ends do."""


def emit(text: str) -> None:
    """Write to stdout, whole and unbuffered. Raises OutputClosed for a closed pipe, KernelError such as ENOSPC.

    Names of files may hold any byte; they came in as surrogates and go out as the same bytes.
    """
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while data:
            data = data[posix.write(1, data) :]
    except BrokenPipeError:
        raise OutputClosed from None
    except OSError as error:
        raise KernelError("write to stdout", error.errno or 0) from None
