"""The runtime under test, driven as a person or an engine drives it: by its command line."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import IO, Any, NamedTuple

DEFAULT_TIMEOUT = 30.0  # seconds; a bound on a hang, never a measure


class Result(NamedTuple):
    """How a command ended: its exit status and what it wrote."""

    status: int
    stdout: str
    stderr: str

    def lines(self) -> list[str]:
        """Standard error's lines, without empty ones."""
        return [line for line in self.stderr.splitlines() if line.strip()]


class Runtime:
    """A runtime's command line, with a state directory (--root) of the test's own.

    Every process that it starts carries `marker` in its environment, so that one which outlives the test is found.
    """

    def __init__(self, command: str, root: Path, marker: str) -> None:
        self.command = command
        self.root = root
        self.marker = marker
        self.options: list[str] = []  # global ones, before the verb
        self.environment = os.environ | {"PYRUNTIME_TEST_MARKER": marker}

    def __call__(
        self,
        *arguments: str,
        stdin: str | bytes | IO[Any] | int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        **popen: Any,
    ) -> Result:
        """Run `runtime --root ROOT ARGUMENTS...` to its end. `stdin` is text to feed, a file, or nothing: /dev/null."""
        feed = stdin.encode() if isinstance(stdin, str) else stdin if isinstance(stdin, bytes) else None
        source = subprocess.PIPE if feed is not None else subprocess.DEVNULL if stdin is None else stdin
        process = self.spawn(*arguments, stdin=source, **popen)
        try:
            stdout, stderr = process.communicate(feed, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            raise AssertionError(f"{shlex.join(arguments)} hangs\nstdout: {stdout!r}\nstderr: {stderr!r}") from None
        return Result(process.returncode, as_text(stdout), as_text(stderr))

    def spawn(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start the command and don't wait. The caller waits for it, and closes what it has asked for."""
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        popen.setdefault("env", self.environment)
        return subprocess.Popen([self.command, "--root", str(self.root), *self.options, *arguments], **popen)


def as_text(output: bytes | None) -> str:
    """What a command wrote, for a person; nothing if the test sent it elsewhere."""
    return (output or b"").decode(errors="replace")


class Identity(NamedTuple):
    """What `--version` says of the runtime under test."""

    name: str
    version: tuple[int, ...]


@functools.cache
def identify() -> Identity:
    """Ask $RUNTIME who it is, such as ("runc", (1, 1, 5)). Without $RUNTIME it is this checkout."""
    chosen = os.environ.get("RUNTIME")
    if not chosen:
        return Identity("pyruntime", ())
    answer = subprocess.run([chosen, "--version"], capture_output=True, text=True, check=True, timeout=DEFAULT_TIMEOUT)
    found = re.match(r"(\S+) version (\d+(?:\.\d+)*)", answer.stdout)
    if not found:
        raise ValueError(f"{chosen} --version says {answer.stdout!r}, which names no runtime and version")
    return Identity(found[1], tuple(int(part) for part in found[2].split(".")))
