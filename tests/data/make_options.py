"""python3 make_options.py RUNC_DIRECTORY > runc-options.txt: every command of runc's and every option of each.

RUNC_DIRECTORY is a checkout of runc. A line is `COMMAND`, or `COMMAND --option` with the option's letter behind it if
there is one; the global options have the command `runc`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

HEADER = """\
# The commands of runc and their options, from its sources (https://github.com/opencontainers/runc, main, 2026-08-19).
# Apache License 2.0. Changed in form: made by make_options.py beside this file.
"""
COMMAND = re.compile(r"^var (\w+)Command = &cli\.Command\{", re.MULTILINE)
OPTION = re.compile(r"&cli\.\w+Flag\{\s*Name:\s*\"([\w-]+)\"(?:,\s*Aliases:\s*\[\]string\{\"(\w)\"\})?")


def lines(folder: Path) -> Iterator[str]:
    """The lines of all commands, in the order of their names, those of the global options first."""
    yield from options("runc", (folder / "main.go").read_text())
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.go")):
        text = path.read_text()
        _before, *parts = COMMAND.split(text)
        found.update(zip(parts[::2], parts[1::2], strict=True))
    for name in sorted(found):
        yield name
        yield from options(name, found[name])


def options(command: str, text: str) -> Iterator[str]:
    """The lines of one command's options, in the order of the source."""
    for name, letter in OPTION.findall(text):
        yield f"{command} --{name} {f'-{letter}' if letter else ''}".rstrip()


if __name__ == "__main__":
    print(HEADER, *lines(Path(sys.argv[1])), sep="\n", end="\n")
