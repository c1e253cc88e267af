"""Weak points: a program that stands in for the command, in which one step of a plan fails or waits to be killed.

The environment variable INJECT=point:told:go says which: the number of a step in the plan, or a point that the test
has made. With descriptors of 0 it fails. Else `told` is told that it is reached, and it goes on when `go` is closed.
Of the rows of tapes (launch/tape.py), point "row N" has the Nth fail, "stop N" has it told on stdout that it is reached
and wait for stdin to be closed, and "rows" tells the names of all.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.lib.environment import checkout_launcher
from tests.support.runtime import Runtime
from tests.support.terminal import ConsoleSocket, finish

NO_CALL = 0xFFF  # a system call that no kernel has, ever
_BEFORE = """
import errno, posix, sys
sys.path[:0] = sys.path[-1], {library!r}
from pyruntime.errors import KernelError
from pyruntime.launch import perform, tape
from pyruntime.linux import constants
from pyruntime.__main__ import main

point, told_fd, go_fd = posix.environ[b"INJECT"].decode().split(":")
steps = []

def weak(function):
    def reached(*arguments, **named):
        if told_fd == "0":
            raise KernelError("injected()", errno.EIO)
        posix.write(int(told_fd), b"x")
        posix.read(int(go_fd), 1)
        return function(*arguments, **named)
    return reached

class Performers(dict):
    def __getitem__(self, kind):
        function = super().__getitem__(kind)
        return lambda step, _: (weak(function) if steps and steps[int(point)] is step else function)(step, _)

def remembering(build):
    def remember(*arguments, **named):
        plan = build(*arguments, **named)
        if point.isdigit():
            steps.extend(plan.steps)
        return plan
    return remember

perform._PERFORMERS = Performers(perform._PERFORMERS)

linking = tape.Tape.linked
count = 0

def link(self, base, report_fd=None):
    global count
    rows = []
    for row in self.rows:
        if row.number >= 0:
            if point == "rows":
                posix.write(int(told_fd), constants.value_name(row.number, "SYS_")[4:].encode() + b"\\n")
            elif point == f"row {count}":
                row.number, row.expected = {no_call}, 0
            elif point == f"stop {count}":
                stop = tape.Tape()
                stop.call(constants.SYS_write, 1, "x", 1)
                stop.call(constants.SYS_read, 0, bytearray(1), 1)
                rows += stop.rows
                for other in self.rows:
                    for jump in ("then", "on_zero", "on_positive"):
                        if getattr(other, jump) is row:
                            setattr(other, jump, stop.rows[0])
            count += 1
        rows.append(row)
    self.rows = rows
    return linking(self, base, report_fd)

if point.startswith(("row", "stop")):
    tape.Tape.linked = link
"""

Start = Callable[..., "subprocess.Popen[bytes]"]  # (point, told_fd, go_fd, **of Popen): see `killed_at`


def commands(folder: Path, weaken: str) -> tuple[Path, Path]:
    """The command, and the one with weak points, both new in `folder`.

    weaken: the code that makes them, which has `weak(function)`, `point`, `Performers` and `remembering(build)`.
    """
    (folder / "installed").mkdir()
    command = checkout_launcher(folder / "installed", sys.executable)
    return command, weakened(folder / "injecting", folder / "installed" / "library", weaken)


def weakened(path: Path, library: Path, weaken: str) -> Path:
    """The command with weak points at `path`, for a library that is there; `weaken` as above."""
    code = _BEFORE.replace("{library!r}", repr(str(library))).replace("{no_call}", str(NO_CALL))
    path.write_text(f"#!{os.path.realpath(sys.executable)} -ISXutf8\n{code}{weaken}main()\n")
    path.chmod(0o755)
    return path


def spawn(runtime: Runtime, words: list[str], inject: str, **popen: object) -> subprocess.Popen[bytes]:
    """Start the command with its weak point."""
    popen.setdefault("stdin", subprocess.DEVNULL)
    return runtime.spawn(*words, env=runtime.environment | {"INJECT": inject}, **popen)


def killed_at(start: Start, point: str) -> bool:
    """Start the command, and kill it at its weak point. Returns whether it has come there. Whoever is left goes on."""
    reader, writer = os.pipe()
    go_reader, go_writer = os.pipe()
    process = start(point, writer, go_reader, pass_fds=[writer, go_reader])
    os.close(writer)
    os.close(go_reader)
    ready, _, _ = select.select([reader], [], [], 30)
    reached = bool(ready) and os.read(reader, 1) == b"x"
    os.close(reader)
    process.kill()
    finish(process)
    os.close(go_writer)
    return reached


def killed_while(start: Start, row: int) -> bool:
    """Start the command, and kill it while its child stands at a row. Returns whether it does. Then that goes on."""
    with standing_at(start, row, subprocess.DEVNULL) as (process, reached):
        process.kill()
        process.wait()
    return reached


def bereft_while(start: Start, row: int) -> tuple[int, list[str]]:
    """Start the command, and kill its child while that stands at a row: as `ended`."""
    with tempfile.TemporaryFile() as errors, standing_at(start, row, errors) as (process, reached):
        assert reached, f"the child never came to row {row}"
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        status = process.wait(timeout=30)
        errors.seek(0)
        return status, errors.read().decode().splitlines()


@contextmanager
def standing_at(start: Start, row: int, stderr: object) -> Iterator[tuple[subprocess.Popen[bytes], bool]]:
    """Start the command, and have its child stand at a row: the command, and whether the child does; else both end."""
    reader, writer = os.pipe()
    go_reader, go_writer = os.pipe()
    process = start(f"stop {row}", stdin=go_reader, stdout=writer, stderr=stderr)
    os.close(writer)
    os.close(go_reader)
    reached = False
    while not reached and process.poll() is None:
        reached = bool(select.select([reader], [], [], 0.05)[0]) and os.read(reader, 1) == b"x"
    try:
        yield process, reached
    finally:
        os.close(go_writer)
        os.close(reader)


def rows_of(start: Start) -> list[str]:
    """Let the command succeed, and list the rows of its tapes, each by its call: those that "row N" would have fail."""
    reader, writer = os.pipe()
    status, lines = ended(start, "rows", writer, pass_fds=[writer], close=writer)
    with os.fdopen(reader) as told:
        names = told.read().splitlines()
    assert (status, lines) == (0, [])
    return names


def ended(start: Start, *point: object, close: int = -1, **popen: object) -> tuple[int, list[str]]:
    """Start the command, and wait for its end: (exit status, lines of stderr). What it has created may be there yet."""
    with tempfile.TemporaryFile() as errors:
        process = start(*point, stdout=subprocess.DEVNULL, stderr=errors, **popen)
        if close >= 0:
            os.close(close)
        status = process.wait(timeout=30)
        errors.seek(0)
        return status, errors.read().decode().splitlines()


def hang_up(console: ConsoleSocket) -> None:
    """Forget who has connected to the console socket: its queue is short."""
    while select.select([console.socket], [], [], 0)[0]:
        console.socket.accept()[0].close()


# A stage that is slow to say who the container's process is, for which that must wait.
SLOW_STAGE = """
import time
from pyruntime.launch.sync import PID, Channel

sending = Channel.send

def send(channel, word, *fields):
    if word == PID:
        time.sleep(0.3)
    sending(channel, word, *fields)

Channel.send = send
"""
