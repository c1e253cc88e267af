"""A test program run to its end with its output kept, or ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

GRACE = 10  # seconds to end in for a program that has said all


def run(
    argv: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str],
    output_path: Path,
    longest: float,
    *,
    terminal: bool = False,
    complete: Callable[[str], bool] | None = None,
) -> tuple[str, int | None]:
    """What a program said, on both streams, and its exit status; None: it took more than `longest` seconds.

    It is the first of a session, with a controlling terminal on its stdin if it wants one. `complete` tells from the
    output that nothing is to come, where a program may wait for what its tests have left behind.
    """
    with ExitStack() as stack:
        output = stack.enter_context(output_path.open("w+b"))
        stdin = subprocess.DEVNULL
        if terminal:
            master_fd, stdin = os.openpty()
            stack.callback(os.close, master_fd)
            stack.callback(os.close, stdin)
            argv = ["setsid", "--ctty", *argv]  # setsid(1) is not yet the first of a group, so that it need not fork
        program = subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(environment),
            start_new_session=not terminal,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status = wait(program, longest, lambda: complete is not None and complete(read(output_path)))
        finally:  # also if we are told to end
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()
        return read(output_path), status


def wait(program: subprocess.Popen[bytes], longest: float, complete: Callable[[], bool]) -> int | None:
    """The exit status; None once it took too long, or has said all and does not end."""
    end = time.monotonic() + longest
    while (now := time.monotonic()) < end:
        try:
            return program.wait(min(GRACE, end - now))
        except subprocess.TimeoutExpired:
            if complete():
                end = min(end, now + 2 * GRACE)
    return None


def read(path: Path) -> str:
    """A program's output so far."""
    return path.read_text(errors="replace")
