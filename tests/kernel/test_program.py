"""linux/program.py: a program is run to its end, whatever it does; tests/container/test_hooks.py has the rest of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from pyruntime.linux import program, syscalls
from tests.support.container import wait_until
from tests.support.leftovers import command_of

Ran = tuple[str, bytes, bytes]


def shell(script: str, *, text: bytes = b"", limit: int = 4096, **options: float) -> Ran:
    """Run a script: (why it failed, what it wrote to stdout and to stderr)."""

    def become(_report_fd: int) -> NoReturn:
        syscalls.execve("/bin/sh", [b"sh", b"-c", script.encode()], [b"PATH=/bin:/usr/bin"])

    stdin_fd = program.memfd("text", text)
    stdout, stderr = program.Output(limit), program.Output(limit)
    try:
        reason = program.run(become, stdin_fd, stdout, stderr, **options)  # type: ignore[arg-type]
        return reason, stdout.data, stderr.data
    finally:
        stdout.close()
        stderr.close()
        os.close(stdin_fd)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_what_goes_in_and_what_comes_out() -> None:
    assert shell("cat; echo two >&2", text=b"one") == ("", b"one", b"two\n")


@pytest.mark.parametrize(
    ("script", "reason"),
    [("exit 3", "failed with exit status 3"), ("kill -9 $$", "was ended by signal 9 (killed)")],
)
def test_how_it_ended(script: str, reason: str) -> None:
    assert shell(f"echo said; {script}") == (reason, b"said\n", b"")


def test_much_input_and_much_output() -> None:
    """More than a pipe holds, in either direction: nobody waits for the other."""
    text = bytes(range(256)) * 4096
    assert shell("cat", text=text, limit=1 << 21) == ("", text, b"")


def test_of_too_much_the_last_is_kept() -> None:
    output = program.Output(4)
    try:
        os.write(output.end_fd, b"12345678")
        output.close_end()
        assert (output.read(), output.data, output.lost) == (True, b"5678", True)
        assert output.read() is None
    finally:
        output.close()


def test_it_ends_with_all_of_its_group_at_its_time_limit() -> None:
    reason, said, _ = shell("sleep 1000 & echo $!; wait", timeout=0.3)
    assert reason == "ran for more than its timeout of 0.3 s and was killed"
    wait_until(lambda: command_of(int(said)) in ("", "(gone)"), "its child to be gone, or a zombie")


def test_what_it_leaves_running_is_not_waited_for() -> None:
    reason, said, _ = shell("sleep 1000 & echo $!")
    assert reason == ""
    os.kill(int(said), signal.SIGKILL)


def test_a_signal_that_waits_interrupts_it() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    fd = program.interrupts_fd()
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        assert shell("sleep 1000", interrupt_fd=fd)[0] == "was interrupted"
        assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM
    finally:
        os.close(fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def test_no_such_program() -> None:
    def become(_report_fd: int) -> NoReturn:
        syscalls.execve("/nonexistent", [b"x"], [])

    output = program.Output(64)
    try:
        reason = program.run(become, 0, output)
    finally:
        output.close()
    assert reason == "could not be executed: ENOENT: No such file or directory"
