"""launch/foreground.py, relay.py, terminal.py with real ptys. stand_in.py is the runtime, any process its container."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

CHECKOUT = Path(__file__).resolve().parent.parent.parent
STAND_IN = [sys.executable, "-m", "tests.kernel.stand_in"]
PATIENCE = 30  # seconds until a test gives up; no test measures a time
FORWARDED = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGWINCH})


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.01)


class Runtime:
    """A running stand_in."""

    def __init__(self, *arguments: str, terminal: bool = False, ready: bool = True, **options: object) -> None:
        ready_fd, their_fd = os.pipe()
        command = [*STAND_IN, *(["--terminal"] if terminal else []), *arguments]
        environment = {**os.environ, "READY": str(their_fd)}
        self.process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
            command, cwd=CHECKOUT, env=environment, pass_fds=[their_fd], **options
        )
        os.close(their_fd)
        self.init_pid = int(os.read(ready_fd, 20) or b"0") if ready else 0
        os.close(ready_fd)

    @property
    def pid(self) -> int:
        return self.process.pid

    def status(self) -> int:
        """The exit status, -n for a signal that killed the runtime itself."""
        return self.process.wait(PATIENCE)

    def children(self) -> list[psutil.Process]:
        children: list[psutil.Process] = psutil.Process(self.pid).children()
        return children

    def guardian(self) -> psutil.Process:
        """The one child that is not init."""
        eventually(lambda: len(self.children()) == 2, "init and a guardian")
        (guardian,) = (child for child in self.children() if child.pid != self.init_pid)
        return guardian

    def kill(self) -> None:
        for pid in (self.process.pid, self.init_pid):
            with contextlib.suppress(ProcessLookupError):
                if pid and (pid != self.process.pid or self.process.poll() is None):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


class Seat:
    """A terminal with someone in front of it: the other end of the runtime's controlling terminal."""

    def __init__(self) -> None:
        self.fd, self.tty_fd = os.openpty()
        os.set_blocking(self.fd, False)
        self.seen = bytearray()
        self.runtimes: list[Runtime] = []
        self.resize(24, 80)

    def run(self, *arguments: str, **options: Any) -> Runtime:
        """Start the runtime as the leader of a session that has this terminal."""
        runtime = Runtime(
            *arguments,
            terminal=True,
            stdin=options.pop("stdin", self.tty_fd),
            stdout=options.pop("stdout", self.tty_fd),
            stderr=options.pop("stderr", self.tty_fd),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(self.tty_fd, termios.TIOCSCTTY, 0),
            **options,
        )
        self.runtimes.append(runtime)
        return runtime

    def type(self, data: bytes) -> None:
        while data:
            select.select([], [self.fd], [], PATIENCE)
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.fd, data) :]

    def look(self) -> bytearray:
        """All that was shown so far."""
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self.fd, 65536):
                self.seen += data
        return self.seen

    def wait_for(self, text: bytes) -> None:
        try:
            eventually(lambda: text in self.look(), f"{text!r} on the terminal")
        except AssertionError:
            raise AssertionError(f"waited for {text!r}, but the terminal shows {self.seen[-300:]!r}") from None

    def modes(self) -> list[object]:
        return termios.tcgetattr(self.tty_fd)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.tty_fd)[3] & termios.ICANON

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        for runtime in self.runtimes:
            runtime.kill()
        for fd in (self.fd, self.tty_fd):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def seat() -> Iterator[Seat]:
    seat = Seat()
    yield seat
    seat.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Runtime]]:
    """Start a runtime; it is killed when the test is over."""
    runtimes: list[Runtime] = []

    def start(*arguments: str, **options: object) -> Runtime:
        runtimes.append(Runtime(*arguments, **options))  # type: ignore[arg-type]
        return runtimes[-1]

    yield start
    for runtime in runtimes:
        runtime.kill()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# The exit status


@pytest.mark.parametrize("status", [0, 1, 42, 127, 255])
def test_exit_status(run: Callable[..., Runtime], status: int) -> None:
    assert run("sh", "-c", f"exit {status}").status() == status


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGPIPE", "SIGRTMAX"])
def test_a_signal_is_128_and_its_number(run: Callable[..., Runtime], name: str) -> None:
    number = getattr(signal, name)
    assert run("sh", "-c", f"kill -{number:d} $$").status() == 128 + number


def test_an_init_that_ended_before_anyone_looked(run: Callable[..., Runtime]) -> None:
    for _ in range(20):
        assert run("true").status() == 0


def test_sigchld_ignored_by_the_caller(run: Callable[..., Runtime]) -> None:
    runtime = run("sh", "-c", "exit 9", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert runtime.status() == 9


def test_the_child_starts_with_the_callers_mask(run: Callable[..., Runtime]) -> None:
    runtime = run("sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status", stdout=subprocess.PIPE)
    shown, _ = runtime.process.communicate(timeout=PATIENCE)
    assert [int(line.split()[1], 16) for line in shown.splitlines()] == [0, 0]


def test_orphans_are_reaped(run: Callable[..., Runtime]) -> None:
    """As subreaper we get the processes whose parent has gone; none may stay a zombie."""
    runtime = run("sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.05 & ) ; done; read x", stdin=subprocess.PIPE)
    eventually(lambda: len(runtime.children()) == 1, "the orphans reaped, init alive")
    assert runtime.children()[0].pid == runtime.init_pid
    runtime.process.communicate(b"\n", timeout=PATIENCE)
    assert runtime.status() == 0


def test_not_our_child() -> None:
    script = (
        "import os; from pyruntime.launch.foreground import Foreground; f = Foreground()\n"
        "f.supervise(os.getppid(), os.pidfd_open(os.getppid()))\n"
    )
    done = subprocess.run(python(script), cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "is not our child" in done.stderr


# Signals

TELL_SIGNALS = """
import os, signal, sys
told = set()
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print("ready", flush=True)
while True:
    number = signal.sigwait(signal.valid_signals())
    print(int(number), flush=True)
    if number == signal.SIGTERM: sys.exit(3)
"""


def test_every_signal_is_forwarded(run: Callable[..., Runtime]) -> None:
    """Among them SIGTSTP, which must not stop the runtime, and SIGTERM, which must not end it."""
    runtime = run(*python(TELL_SIGNALS), stdout=subprocess.PIPE, start_new_session=True)
    out = runtime.process.stdout
    assert out
    assert out.readline() == b"ready\n"
    for number in [*(n for n in FORWARDED if n != signal.SIGTERM), signal.SIGTERM]:
        os.kill(runtime.pid, number)
        assert out.readline() == b"%d\n" % number
    assert runtime.status() == 3


def test_signals_during_the_start_are_kept(run: Callable[..., Runtime]) -> None:
    """One that comes between the constructor and `supervise` reaches init."""
    script = """
import os, signal, sys, time
from pyruntime.launch.foreground import Foreground
foreground = Foreground()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    os.kill(os.getpid(), number)
pid = os.fork()
if pid == 0:
    got = {signal.sigwait({number}) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    os._exit(10 + len(got))
status = foreground.supervise(pid, os.pidfd_open(pid))
foreground.close()
os._exit(status)
"""
    assert subprocess.run(python(script), cwd=CHECKOUT, timeout=PATIENCE, check=False).returncode == 13


def test_close_gives_signals_their_effect_again() -> None:
    script = """
import os, signal
from pyruntime.launch.foreground import Foreground
foreground = Foreground()
before = len(os.listdir("/proc/self/fd"))
os.kill(os.getpid(), signal.SIGTERM)
foreground.close()
foreground.close()
print("not reached")
"""
    done = subprocess.run(python(script), cwd=CHECKOUT, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"")


def test_signals_that_come_too_late_leave_the_status_alone() -> None:
    script = """
import os, signal
from pyruntime.launch.foreground import Foreground
foreground = Foreground()
pid = os.fork()
if pid == 0:
    os._exit(7)
status = foreground.supervise(pid, os.pidfd_open(pid))
for number in (signal.SIGINT, signal.SIGTERM, *[signal.SIGRTMIN] * 100):
    os.kill(os.getpid(), number)
foreground.close()
os._exit(status)
"""
    done = subprocess.run(python(script), cwd=CHECKOUT, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (7, b"")


def test_nohup_keeps_the_hang_up_from_the_container(run: Callable[..., Runtime]) -> None:
    runtime = run(
        *python(TELL_SIGNALS),
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    out = runtime.process.stdout
    assert out
    assert out.readline() == b"ready\n"
    os.kill(runtime.pid, signal.SIGHUP)
    os.kill(runtime.pid, signal.SIGUSR1)
    assert out.readline() == b"%d\n" % signal.SIGUSR1
    os.kill(runtime.pid, signal.SIGTERM)
    assert runtime.status() == 3


def test_a_signal_storm(run: Callable[..., Runtime]) -> None:
    runtime = run(*python(TELL_SIGNALS), stdout=subprocess.PIPE)
    out = runtime.process.stdout
    assert out
    assert out.readline() == b"ready\n"
    for _ in range(500):
        os.kill(runtime.pid, signal.SIGRTMIN)
    os.kill(runtime.pid, signal.SIGTERM)  # lower numbers are delivered first, so it may come before the last of them
    runtime.process.communicate(timeout=PATIENCE)
    assert runtime.status() == 3


# The terminal


def test_a_conversation(seat: Seat) -> None:
    before = seat.modes()
    runtime = seat.run("sh", "-c", "stty -echo; echo ready; read line; echo got:$line; tty; exit 5")
    seat.wait_for(b"ready\r\n")
    assert seat.is_raw()
    seat.type(b"hello\r")  # what the Enter key sends
    assert runtime.status() == 5
    seat.wait_for(b"got:hello\r\n/dev/pts/")
    assert seat.modes() == before


def test_control_characters_are_the_containers(seat: Seat) -> None:
    """Ctrl-C interrupts the program in the container, not the runtime; Ctrl-D ends its input."""
    runtime = seat.run("sh", "-c", "trap 'echo interrupted' INT; echo ready; cat; cat; exit 7")
    seat.wait_for(b"ready")
    eventually(seat.is_raw, "raw mode")
    eventually(lambda: psutil.Process(runtime.init_pid).children(), "cat")
    seat.type(b"\x03")
    seat.wait_for(b"interrupted")
    eventually(lambda: psutil.Process(runtime.init_pid).children(), "the second cat")
    seat.type(b"\x04")
    assert runtime.status() == 7


def test_binary_bytes_come_through_unchanged(seat: Seat, tmp_path: Path) -> None:
    data = bytes(range(256)) * 16
    target = tmp_path / "got"
    code = (
        "import os, sys, tty; tty.setraw(0); print('ready', flush=True); f = open(sys.argv[1], 'wb', 0)\n"
        f"n = 0\nwhile n < {len(data)}: d = os.read(0, 4096); n += len(d); f.write(d)\n"
        f"os.write(1, bytes(range(256)))"
    )
    runtime = seat.run(*python(code), str(target))
    seat.wait_for(b"ready\n")
    eventually(seat.is_raw, "raw mode")
    seat.type(data)
    assert runtime.status() == 0
    assert target.read_bytes() == data
    seat.wait_for(bytes(range(256)))


def test_a_large_paste_to_a_slow_reader(seat: Seat, tmp_path: Path) -> None:
    """The other direction's backpressure: nothing is lost although the container reads nothing for a while."""
    data = os.urandom(300_000)
    target = tmp_path / "got"
    code = (
        "import os, sys, time, tty; tty.setraw(0); print('ready', flush=True); time.sleep(0.3)\n"
        f"f = open(sys.argv[1], 'wb', 0); n = 0\nwhile n < {len(data)}: d = os.read(0, 1000); n += len(d); f.write(d)\n"
    )
    runtime = seat.run(*python(code), str(target))
    seat.wait_for(b"ready\n")
    eventually(seat.is_raw, "raw mode")
    seat.type(data)
    assert runtime.status() == 0
    assert target.read_bytes() == data


def test_size_at_the_start_and_when_it_changes(seat: Seat) -> None:
    seat.resize(31, 91)
    runtime = seat.run("sh", "-c", "trap 'stty size' WINCH; stty size; echo ready; while :; do read x && exit; done")
    seat.wait_for(b"ready")
    eventually(seat.is_raw, "raw mode")
    seat.wait_for(b"31 91")
    seat.resize(50, 132)
    seat.wait_for(b"50 132")
    seat.type(b"\r")
    assert runtime.status() == 0


def test_a_terminal_without_a_size_leaves_console_size_alone(seat: Seat) -> None:
    seat.resize(0, 0)
    script = """
import os
from pyruntime.launch.console import open_pty, set_window_size
from pyruntime.launch.terminal import HostTerminal
master_fd, slave_fd = open_pty(os.open("/", os.O_PATH))
set_window_size(master_fd, 40, 100)
HostTerminal().copy_size(master_fd)
print(os.get_terminal_size(slave_fd))
"""
    done = subprocess.run(python(script), stdin=seat.tty_fd, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert "columns=100, lines=40" in done.stdout, done.stderr


@pytest.mark.parametrize("megabytes", [1, 8])
def test_a_large_output_is_complete(seat: Seat, megabytes: int) -> None:
    """Also the last bytes, written just before the end."""
    code = f"import os\nfor i in range({megabytes} * 1024): os.write(1, b'x' * 1023 + b'|')\nos.write(1, b'the-end')"
    runtime = seat.run(*python("import tty; tty.setraw(1)\n" + code))
    eventually(lambda: seat.look().endswith(b"the-end"), "the end of the output")
    assert runtime.status() == 0
    assert seat.look().count(b"|") == megabytes * 1024
    assert len(seat.look()) == megabytes * 1024 * 1024 + 7


def test_output_into_a_pipe(seat: Seat) -> None:
    runtime = seat.run("sh", "-c", "seq 1 20000; echo end", stdout=subprocess.PIPE)
    out, _ = runtime.process.communicate(timeout=PATIENCE)
    assert out.split() == [b"%d" % n for n in range(1, 20001)] + [b"end"]
    assert runtime.status() == 0


def test_the_last_words_are_never_lost(seat: Seat) -> None:
    for _ in range(15):
        runtime = seat.run("printf", "last-words", stdout=subprocess.PIPE)
        assert runtime.process.communicate(timeout=PATIENCE)[0] == b"last-words"


def test_output_into_a_file_appends_where_the_file_stands(seat: Seat, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with target.open("wb", 0) as out:
        out.write(b"before|")
        seat.run("printf", "inside", stdout=out).status()
        out.write(b"|after")
    assert target.read_bytes() == b"before|inside|after"


def test_output_into_a_socket(seat: Seat) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        runtime = seat.run("sh", "-c", "seq 1 50000", stdout=theirs)
        theirs.close()
        received = b""
        while data := ours.recv(65536):
            received += data
    assert received.split() == [b"%d" % n for n in range(1, 50001)]
    assert runtime.status() == 0


def is_waiting(pid: int) -> bool:
    """Whether a process has used no CPU for a while."""
    before = psutil.Process(pid).cpu_times()
    time.sleep(0.2)
    return bool(psutil.Process(pid).cpu_times() == before)


def test_a_slow_reader_does_not_stop_the_signals(seat: Seat) -> None:
    """Nobody reads: SIGTERM gets to the container all the same, and then SIGINT makes the runtime give up the rest."""
    reader_fd, writer_fd = os.pipe()
    code = "import os, signal; signal.signal(15, lambda *_: os._exit(4))\nwhile True: os.write(1, b'x' * 100)"
    runtime = seat.run(*python(code), stdout=writer_fd)
    os.close(writer_fd)
    init = psutil.Process(runtime.init_pid)
    eventually(lambda: is_waiting(init.pid), "pipe and pty full, init asleep in its write")
    os.kill(runtime.pid, signal.SIGTERM)
    eventually(lambda: not init.is_running() or init.status() == "zombie", "the end of init")
    assert runtime.process.poll() is None, "the output of a container is not thrown away unasked"
    assert seat.is_raw()
    os.kill(runtime.pid, signal.SIGINT)
    assert runtime.status() == 4
    assert not seat.is_raw()
    os.close(reader_fd)


def test_a_slow_reader_gets_everything(seat: Seat) -> None:
    reader_fd, writer_fd = os.pipe()
    runtime = seat.run("sh", "-c", "seq 1 30000", stdout=writer_fd)
    os.close(writer_fd)
    received = b""
    while data := os.read(reader_fd, 997):
        received += data
        if len(received) < 20_000:
            time.sleep(0.005)
    os.close(reader_fd)
    assert received.split() == [b"%d" % n for n in range(1, 30001)]
    assert runtime.status() == 0


def test_a_reader_that_leaves_hangs_up_the_containers_terminal(seat: Seat) -> None:
    reader_fd, writer_fd = os.pipe()
    runtime = seat.run("sh", "-c", "trap 'exit 6' HUP; while :; do echo line; done", stdout=writer_fd)
    os.close(writer_fd)
    os.read(reader_fd, 10)
    os.close(reader_fd)
    assert runtime.status() == 6
    assert not seat.is_raw()


def test_flags_of_the_callers_descriptors_are_left_alone(seat: Seat) -> None:
    """O_NONBLOCK on a shared description would break the shell that called us."""
    reader_fd, writer_fd = os.pipe()
    runtime = seat.run("sh", "-c", "echo ready; read x", stdout=writer_fd)
    os.read(reader_fd, 10)
    eventually(seat.is_raw, "raw mode")
    assert os.get_blocking(writer_fd)
    assert os.get_blocking(seat.tty_fd)
    seat.type(b"\r")
    assert runtime.status() == 0
    os.close(reader_fd)
    os.close(writer_fd)


def test_no_busy_loop(seat: Seat) -> None:
    """While nothing happens, nothing is done: stdin at its end, the terminal closed by the container's programs."""
    runtime = seat.run("sh", "-c", "echo closed; exec 0<&- 1>&- 2>&-; exec sleep 30", stdin=subprocess.DEVNULL)
    seat.wait_for(b"closed")
    process = psutil.Process(runtime.pid)
    switches = process.num_ctx_switches()
    time.sleep(0.5)
    after = process.num_ctx_switches()
    # A loop that spins is woken thousands of times, or never sleeps and is driven out again and again.
    assert after.voluntary - switches.voluntary < 20
    assert after.involuntary - switches.involuntary < 20
    assert process.status() == psutil.STATUS_SLEEPING
    os.kill(runtime.pid, signal.SIGTERM)
    assert runtime.status() == 128 + signal.SIGTERM


def test_a_terminal_closed_and_opened_again_goes_on(seat: Seat) -> None:
    """systemd and getty do that."""
    runtime = seat.run(
        "sh",
        "-c",
        "t=$(tty); echo one; exec 0<&- 1>&- 2>&-; sleep 0.2; exec <$t >$t 2>&1; echo two; read x; echo three:$x",
    )
    seat.wait_for(b"two")
    eventually(seat.is_raw, "raw mode")
    seat.type(b"hi\r")
    seat.wait_for(b"three:hi")
    assert runtime.status() == 0


# stdin that is no terminal


@pytest.mark.parametrize(
    ("data", "shown"), [(b"one\ntwo\n", b"two\r\n"), (b"unfinished", b"unfinishedunfinished"), (b"", b"")]
)
def test_the_end_of_stdin_is_ctrl_d(seat: Seat, data: bytes, shown: bytes) -> None:
    before = seat.modes()
    runtime = seat.run("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = runtime.process.communicate(data, timeout=PATIENCE)
    assert runtime.status() == 0
    assert shown in out
    assert seat.modes() == before


def test_input_from_a_pipe_leaves_the_terminal_cooked(seat: Seat) -> None:
    """So Ctrl-C there still means the runtime, and through it the container."""
    runtime = seat.run("sh", "-c", "trap 'exit 8' INT; echo ready; read x; read y", stdin=subprocess.PIPE)
    seat.wait_for(b"ready")
    assert not seat.is_raw()
    seat.type(b"\x03")
    assert runtime.status() == 8


def test_stdin_that_cannot_be_read(seat: Seat) -> None:
    script = (
        "import os, sys; os.close(0); os.open('/dev/null', os.O_WRONLY)\n"  # a stdin that can't be read
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    done = subprocess.run(
        [*python(script), "-m", "tests.kernel.stand_in", "--terminal", "sh", "-c", "echo fine; exit 3"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=seat.tty_fd,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, b"fine\r\n")


def test_no_terminal_at_all(run: Callable[..., Runtime]) -> None:
    runtime = run(
        "true",
        terminal=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    _, told = runtime.process.communicate(timeout=PATIENCE)
    assert runtime.status() == 1
    assert b"config.json#/process/terminal" in told
    assert b"no terminal to show it in" in told


# The way back


def test_sigkill_restores_the_terminal(seat: Seat) -> None:
    before = seat.modes()
    runtime = seat.run("sh", "-c", "echo ready; exec sleep 100")
    seat.wait_for(b"ready")
    guardian = runtime.guardian()
    eventually(seat.is_raw, "raw mode")
    os.kill(runtime.pid, signal.SIGKILL)
    assert runtime.status() == -signal.SIGKILL
    eventually(lambda: seat.modes() == before, "the modes of before")
    eventually(lambda: not guardian.is_running(), "the end of the guardian")


def test_sigkill_of_the_whole_process_group(seat: Seat) -> None:
    before = seat.modes()
    runtime = seat.run("sh", "-c", "echo ready; exec sleep 100")
    seat.wait_for(b"ready")
    runtime.guardian()
    eventually(seat.is_raw, "raw mode")
    os.killpg(runtime.pid, signal.SIGKILL)
    eventually(lambda: seat.modes() == before, "the modes of before")


def test_the_containers_terminal_hangs_up_when_the_runtime_is_killed(seat: Seat) -> None:
    """The guardian holds no end of it."""
    runtime = seat.run("sh", "-c", "echo ready; exec sleep 100")
    seat.wait_for(b"ready")
    eventually(seat.is_raw, "raw mode")
    os.kill(runtime.pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(runtime.init_pid), "SIGHUP for init")


def test_the_guardian_holds_two_descriptors_and_no_directory(seat: Seat) -> None:
    runtime = seat.run("sh", "-c", "echo ready; exec sleep 100")
    seat.wait_for(b"ready")
    guardian = runtime.guardian()
    eventually(seat.is_raw, "raw mode")
    folder = f"/proc/{guardian.pid}/fd"
    eventually(lambda: len(os.listdir(folder)) == 2, "two descriptors")
    assert sorted(os.readlink(f"{folder}/{fd}").split(":")[0] for fd in os.listdir(folder)) == [
        os.ttyname(seat.tty_fd),
        "pipe",
    ]
    assert os.readlink(f"/proc/{guardian.pid}/cwd") == "/"
    assert os.getsid(guardian.pid) == guardian.pid


def test_the_guardian_cannot_be_stopped_by_the_terminal(seat: Seat) -> None:
    before = seat.modes()
    runtime = seat.run("sh", "-c", "echo ready; exec sleep 100")
    seat.wait_for(b"ready")
    guardian = runtime.guardian()
    eventually(seat.is_raw, "raw mode")
    for number in (signal.SIGTTOU, signal.SIGTSTP, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(guardian.pid, number)
    os.kill(runtime.pid, signal.SIGKILL)
    eventually(lambda: seat.modes() == before, "the modes of before")


def test_a_killed_guardian_is_no_harm(seat: Seat) -> None:
    before = seat.modes()
    runtime = seat.run("sh", "-c", "echo ready; read x; exit 3")
    seat.wait_for(b"ready")
    guardian = runtime.guardian()
    eventually(seat.is_raw, "raw mode")
    guardian.kill()
    eventually(lambda: not guardian.is_running(), "the guardian reaped")
    seat.type(b"\r")
    assert runtime.status() == 3
    assert seat.modes() == before


def test_the_guardian_leaves_modes_alone_that_someone_else_set(seat: Seat) -> None:
    """The shell that gets the terminal back sets its own modes, perhaps before the guardian wakes."""
    runtime = seat.run("sh", "-c", "echo ready; exec sleep 100")
    seat.wait_for(b"ready")
    guardian = runtime.guardian()
    eventually(seat.is_raw, "raw mode")
    guardian.suspend()
    os.kill(runtime.pid, signal.SIGKILL)
    runtime.status()
    modes = termios.tcgetattr(seat.tty_fd)
    modes[3] |= termios.ISIG
    termios.tcsetattr(seat.tty_fd, termios.TCSANOW, modes)
    guardian.resume()
    eventually(lambda: not guardian.is_running(), "the end of the guardian")
    assert termios.tcgetattr(seat.tty_fd) == modes


def test_nothing_is_left_after_an_ordinary_end(seat: Seat) -> None:
    runtime = seat.run("sh", "-c", "echo ready; read x")
    seat.wait_for(b"ready")
    guardian = runtime.guardian()
    eventually(seat.is_raw, "raw mode")
    seat.type(b"\r")
    assert runtime.status() == 0
    assert not guardian.is_running(), "it is waited for"


def test_an_error_restores_the_terminal(seat: Seat) -> None:
    before = seat.modes()
    script = """
import os
from pyruntime.launch import console
from pyruntime.launch.foreground import Foreground
foreground = Foreground(terminal=True)
master_fd, slave_fd = console.open_pty(os.open("/", os.O_PATH))
try:
    foreground.supervise(os.getppid(), os.pidfd_open(os.getppid()), master_fd)
finally:
    foreground.close()
"""
    done = subprocess.run(
        python(script),
        stdin=seat.tty_fd,
        stdout=seat.tty_fd,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert seat.modes() == before


def test_the_terminal_hangs_up(seat: Seat) -> None:
    """The window is closed: SIGHUP goes to the container."""
    runtime = seat.run("sh", "-c", "trap 'exit 11' HUP; echo ready; while :; do sleep 0.1; done")
    seat.wait_for(b"ready")
    eventually(seat.is_raw, "raw mode")
    os.close(seat.tty_fd)
    os.close(seat.fd)
    seat.tty_fd = seat.fd = -1
    assert runtime.status() == 11


# Job control: a real shell in front of the runtime


def job_shell(seat: Seat) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-i"],
        cwd=CHECKOUT,
        env={**os.environ, "PS1": "$ ", "HISTFILE": "/dev/null"},
        stdin=seat.tty_fd,
        stdout=seat.tty_fd,
        stderr=seat.tty_fd,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(seat.tty_fd, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )


@pytest.fixture
def shell(seat: Seat) -> Iterator[subprocess.Popen[bytes]]:
    process = job_shell(seat)
    seat.wait_for(b"$ ")
    yield process
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()
    process.wait(PATIENCE)


COMMAND = f"{sys.executable} -m tests.kernel.stand_in --terminal "


def test_started_in_the_background_it_stops_until_fg(seat: Seat, shell: subprocess.Popen[bytes]) -> None:
    """As any program that wants the terminal; it neither takes the shell's terminal nor spins."""
    seat.type(COMMAND.encode() + b"sh -c 'read x; echo got:$x' &\n")
    (job,) = wait_for_children(shell.pid, 1)
    eventually(lambda: job.status() == psutil.STATUS_STOPPED, "the job stopped")
    seat.type(b"echo shell-$((40 + 2))\n")
    seat.wait_for(b"shell-42")
    assert not seat.is_raw()
    seat.type(b"fg\n")
    eventually(seat.is_raw, "raw mode in the foreground")
    seat.type(b"hello\r")
    seat.wait_for(b"got:hello")
    seat.type(b"echo status-$?\n")
    seat.wait_for(b"status-0")


def test_stopped_and_continued_it_is_raw_again(seat: Seat, shell: subprocess.Popen[bytes]) -> None:
    seat.type(COMMAND.encode() + b"sh -c 'echo rea''dy; read x; echo got:$x'\n")
    seat.wait_for(b"ready")
    eventually(seat.is_raw, "raw mode")
    (job,) = wait_for_children(shell.pid, 1)
    job.send_signal(signal.SIGSTOP)
    seat.wait_for(b"Stopped")
    seat.type(b"stty sane\n")
    eventually(lambda: not seat.is_raw(), "the modes that the user wants")
    # The shell has stored them as its own, and not every shell would put the job's back.
    seat.type(b"fg\n")
    eventually(seat.is_raw, "raw mode again")
    seat.type(b"hello\r")
    seat.wait_for(b"got:hello")
    eventually(lambda: not seat.is_raw(), "the way back")


def wait_for_children(pid: int, count: int) -> list[psutil.Process]:
    eventually(lambda: len(psutil.Process(pid).children()) == count, f"{count} children")
    children: list[psutil.Process] = psutil.Process(pid).children()
    return children


# Descriptors


def test_no_descriptor_is_leaked_by_a_run(seat: Seat) -> None:
    script = """
import os, sys
from pyruntime.launch import console
from pyruntime.launch.foreground import Foreground
def once():
    foreground = Foreground(terminal=True)
    root_fd = os.open("/", os.O_PATH)
    master_fd, slave_fd = console.open_pty(root_fd)
    os.close(root_fd)
    pid = os.fork()
    if pid == 0:
        os._exit(9)
    os.close(slave_fd)
    pidfd = os.pidfd_open(pid)
    assert foreground.supervise(pid, pidfd, master_fd) == 9
    os.close(pidfd)
    foreground.close()
once()
before = set(os.listdir("/proc/self/fd"))
once(), once()
assert set(os.listdir("/proc/self/fd")) == before
"""
    done = subprocess.run(
        python(script),
        stdin=seat.tty_fd,
        stdout=seat.tty_fd,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_all_of_the_runtimes_descriptors_close_on_exec(seat: Seat) -> None:
    runtime = seat.run("sh", "-c", "echo ready; read x")
    seat.wait_for(b"ready")
    eventually(seat.is_raw, "raw mode")
    for fd in os.listdir(f"/proc/{runtime.pid}/fd"):
        info = Path(f"/proc/{runtime.pid}/fdinfo/{fd}").read_text()
        flags = next(int(line.split()[1], 8) for line in info.splitlines() if line.startswith("flags"))
        assert int(fd) <= 2 or flags & os.O_CLOEXEC, os.readlink(f"/proc/{runtime.pid}/fd/{fd}")
    seat.type(b"\r")
    assert runtime.status() == 0


def test_the_command_sees_only_its_stdio(seat: Seat) -> None:
    runtime = seat.run("sh", "-c", "ls /proc/self/fd | wc -w")
    assert runtime.status() == 0
    seat.wait_for(b"4")  # ls has the folder open


# What it costs


def test_imports_without_a_terminal() -> None:
    """termios and its users are for those who have a terminal; none of the heavy modules for anyone."""
    script = """
import sys
from pyruntime.launch import foreground
assert "termios" not in sys.modules
assert "pyruntime.launch.relay" not in sys.modules
import pyruntime.launch.relay, pyruntime.launch.terminal
heavy = {"os", "re", "json", "typing", "enum", "signal", "socket", "struct", "ctypes", "subprocess", "contextlib"}
print(sorted(heavy & set(sys.modules)))
"""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
