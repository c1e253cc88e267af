"""`run` in the foreground passes its signals on to the program, and lives as long as it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.leftovers import Leftovers
from tests.support.terminal import finish

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

FORWARDED = ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "CONT", "ALRM"]


def waiting(container: Container, script: str) -> subprocess.Popen[bytes]:
    """`run` a script that says "ready" when its traps are set, and wait for that word."""
    container.script(f"{script}; echo ready; while :; do usleep 10000; done")
    process = container.spawn()
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("name", FORWARDED)
def test_forwarded(container: Container, name: str) -> None:
    process = waiting(container, f"trap 'exit 42' {name}")
    process.send_signal(signal.Signals[f"SIG{name}"])
    assert finish(process) == 42


def test_the_runtime_outlives_a_signal_that_the_program_ignores(container: Container) -> None:
    process = waiting(container, "trap '' TERM; trap 'exit 43' USR1")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)
    assert finish(process) == 43


def test_many_signals_in_a_row(container: Container) -> None:
    process = waiting(container, "n=0; trap 'n=$((n+1))' USR1; trap 'echo $((n > 0)); exit 0' TERM")
    for _ in range(200):
        process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.read() == b"1\n"
    assert finish(process) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_that_kills_the_program(container: Container, number: signal.Signals) -> None:
    """Sent to the init from outside, where its namespace doesn't protect it (SIGKILL), or without one."""
    container.drop_namespace("pid")
    process = waiting(container, ":")
    os.kill(container.pid(), number)
    assert finish(process) == 128 + number


def test_an_orphan_is_reaped_by_the_runtime_without_a_pid_namespace(container: Container, leftovers: Leftovers) -> None:
    """The runtime is a subreaper in the foreground: it must not take an orphan's end for the container's."""
    container.drop_namespace("pid")
    result = container.run_script("(sleep 0.05 & exit 9) & usleep 200000; exit 4")
    assert result.status == 4
    assert leftovers.found() == []


@pytest.mark.parametrize("flags", [[], ["--no-subreaper"]])
def test_who_gets_the_orphans(container: Container, leftovers: Leftovers, flags: list[str]) -> None:
    """Without a PID namespace of its own: the runtime as the subreaper, or else whoever is above."""
    container.drop_namespace("pid")
    container.script("(sleep 1000 > /dev/null 2>&1 & echo $!); echo orphaned; read line; exit 4")
    process = container.spawn(*flags, stdin=subprocess.PIPE)
    assert process.stdout is not None
    orphan = process.stdout.readline().decode().strip()
    assert process.stdout.readline() == b"orphaned\n"
    parent = Path(f"/proc/{orphan}/status").read_text().partition("PPid:")[2].split()[0]
    assert (parent == str(process.pid)) == (not flags)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert finish(process) == 4
    assert leftovers.found() == []


def test_a_stopped_program_is_not_an_ended_one(container: Container) -> None:
    process = waiting(container, "trap 'exit 5' USR1")
    pid = container.pid()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", "the program to stop")
    assert process.poll() is None
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGUSR1)
    assert finish(process) == 5


def state_of(pid: int) -> str:
    """The letter of /proc/PID/stat: T is stopped."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_closed_output_does_not_hang_the_runtime(container: Container) -> None:
    container.script("yes; exit 0")
    process = container.spawn()
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    process.stdout = None
    assert finish(process) in (0, 1, 141)
