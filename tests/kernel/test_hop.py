"""The hop (launch/exeseal.py): its bytes are its source, it performs its tape, and nobody can change it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyruntime.errors import KernelError, UnsupportedError
from pyruntime.launch import exeseal
from pyruntime.launch.credentials import Filter, Process, begin
from pyruntime.launch.ending import execute, load_filter, settle, wait_for_start
from pyruntime.launch.join import Entry, compile_entry
from pyruntime.launch.paths import Root
from pyruntime.launch.performers import import_performers
from pyruntime.launch.sync import hop_error
from pyruntime.launch.tape import SAYS_ERROR, SAYS_LISTENER, SAYS_PID, Tape
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.process import Execute
from pyruntime.plan.step import Plan
from tests.abi.test_constants import numbers_of
from tests.support.assembly import assembled, every_machine

SOURCES = Path(exeseal.__file__).parent / "hop"
PATIENCE = 30.0  # seconds; a bound on a hang, never a measure
NOBODY = 65534
NO_CALL = 0xFFF  # a system call's number that no kernel has


@every_machine
def test_the_bytes_are_the_source(machine: str, tmp_path: Path) -> None:
    _, code, spawn = exeseal.CODE[machine]
    assert assembled(machine, SOURCES / f"{machine}.S", tmp_path).hex() == code.hex()
    named = subprocess.run(
        [f"{machine}-linux-gnu-nm", tmp_path / "made.o"], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout
    places = {name: int(value, 16) for value, _, name in map(str.split, named.splitlines())}
    assert (places["_start"], places["spawn"]) == (0, spawn)


def test_every_source_is_held_here() -> None:
    assert {path.stem for path in SOURCES.glob("*.S")} == set(exeseal.CODE) == {"x86_64", "aarch64"}
    assert not [path for path in SOURCES.iterdir() if path.is_dir()]


def test_another_architecture_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="vax"):
        exeseal.image(b"", machine="vax")


Channel = tuple[socket.socket, socket.socket]


class Hop:
    """A process that becomes the hop, and then perhaps a program. Its stdin and stdout are pipes."""

    def __init__(self, emulated: bool, folder: Path) -> None:
        self.emulated = emulated
        self.folder = folder
        self.pid = 0
        self.stdin, self.stdout = -1, -1

    def linked(self, tape: Tape, place: int, report_fd: int | None = None) -> bytes:
        """The tape, linked, with the numbers of the machine that performs it."""
        if self.emulated:
            numbers = numbers_of("aarch64")
            for row in tape.rows:
                row.number = numbers.get(c.value_name(row.number, "SYS_"), row.number)
        return tape.linked(place, report_fd)

    def start(self, tape: Tape, report_fd: int, *others: int, uid: int = -1, is_continued: bool = False) -> None:
        """Fork and hop. The hop inherits its stdio, the channel and the other descriptors."""
        assert not self.pid
        linked = self.linked(tape, exeseal.TAPE, report_fd)
        theirs_in, self.stdin = os.pipe()
        self.stdout, theirs_out = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.dup2(theirs_in, 0)
                os.dup2(theirs_out, 1)
                hop_fd = -1 if self.emulated else exeseal.sealed(tape, report_fd, is_continued=is_continued)
                syscalls.close_range(3, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
                for fd in (report_fd, *others):
                    os.set_inheritable(fd, True)
                if uid >= 0:
                    syscalls.setresuid(uid, uid, uid)
                if self.emulated:
                    self._become_emulated(exeseal.image(linked, is_continued=is_continued, machine="aarch64"))
                exeseal.execute(hop_fd)
            finally:
                os._exit(99)
        os.close(theirs_in)
        os.close(theirs_out)

    def _become_emulated(self, image: bytes) -> None:
        path = self.folder / "hop"
        path.write_bytes(image)
        path.chmod(0o755)
        os.execve(shutil.which("qemu-aarch64-static") or "", ["qemu", str(path)], {})

    def output(self) -> bytes:
        """All that is written to its stdout, until it ends or closes that."""
        found = b""
        while chunk := os.read(self.stdout, 65536):
            found += chunk
        return found

    def wait(self) -> int:
        """The exit status, or minus the signal."""
        if self.stdin >= 0:
            os.close(self.stdin)
        self.stdin = -1
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for fd in (self.stdin, self.stdout):
            if fd >= 0:
                os.close(fd)


@pytest.fixture(params=["native", pytest.param("qemu", marks=pytest.mark.needs("qemu-aarch64"))])
def hop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hop]:
    """Of this machine's architecture, or of AArch64 in an emulator."""
    made = Hop(request.param == "qemu", tmp_path)
    yield made
    made.close()


@pytest.fixture
def native(tmp_path: Path) -> Iterator[Hop]:
    made = Hop(False, tmp_path)
    yield made
    made.close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    """The parent's end and the hop's, as sync.channel_pair makes them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """What `create` leaves in the state directory."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "start.sock"))
        made.listen(1)
        yield made


def connect(listener: socket.socket) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    connection.connect(listener.getsockname())
    return connection


def said(channel: Channel) -> list[bytes]:
    """All that the hop says until it ends, or has executed a program. It has to have the channel by now."""
    ours, theirs = channel
    theirs.close()
    return list(iter(lambda: ours.recv(4096), b""))


def began(channel: Channel) -> Tape:
    """A tape with what each begins with."""
    tape = Tape()
    begin(tape, channel[1].fileno())
    return tape


def program(tape: Tape, *args: str | bytes, env: tuple[bytes, ...] = (), path: str = "/bin/sh") -> None:
    """Let the tape end with a program, by default the shell's `-c`."""
    words = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    execute(tape, [path], [b"sh", b"-c", *words] if path == "/bin/sh" else words, list(env))


def report(number: int, call: int, mark: int = 0, *, hop: Hop | None = None) -> bytes:
    """What is said of a call that fails."""
    if hop is not None and hop.emulated:
        call = numbers_of("aarch64").get(c.value_name(call, "SYS_"), call)
    return struct.pack("=IiII", SAYS_ERROR, -number, call, mark)


class TestRows:
    """One call after the other."""

    def test_they_are_performed_in_order(self, hop: Hop, channel: Channel) -> None:
        tape = began(channel)
        for word in ("one", "two", "three"):
            tape.tell(channel[1].fileno(), word)
        tape.call(c.SYS_exit_group, 7)
        hop.start(tape, channel[1].fileno())
        assert said(channel) == [b"one", b"two", b"three"]
        assert hop.wait() == 7

    def test_all_six_arguments_arrive(self, native: Hop, channel: Channel) -> None:
        """As the kernel has them while the call waits: see proc(5), /proc/PID/syscall."""
        tape = began(channel)
        words = (channel[1].fileno(), 0x500000, 3, 4 << 40, 5, 2**64 - 6)
        tape.call(c.SYS_read, *words)
        native.start(tape, channel[1].fileno())
        place = Path(f"/proc/{native.pid}/syscall")
        wait_until(lambda: place.read_text().startswith(f"{c.SYS_read} {words[0]:#x} 0x500000 "), "the call")
        assert [int(word, 16) for word in place.read_text().split()[1:7]] == list(words)

    def test_a_result_goes_where_it_is_wanted(self, hop: Hop, channel: Channel) -> None:
        """Into a message, and into a row that comes later; of a word of 64 bits its lower half."""
        fd = channel[1].fileno()
        tape = began(channel)
        leads = tape.call(c.SYS_setsid)
        leads.into = (tape.say(fd, SAYS_PID), 4)
        copies = tape.call(c.SYS_fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 100)
        copies.into = (tape.call(c.SYS_write, -1, "copied", 6), 0)
        tape.call(c.SYS_umask, 0o27)
        asks = tape.call(c.SYS_umask, 0)
        asks.into = (tape.say(fd, 9), 4)
        tape.call(c.SYS_exit_group, 0)
        hop.start(tape, fd)
        pid = hop.pid
        assert said(channel) == [struct.pack("=II", SAYS_PID, pid), b"copied", struct.pack("=II", 9, 0o27)]
        assert hop.wait() == 0

    def test_an_expected_failure_is_none(self, hop: Hop, channel: Channel) -> None:
        """By default the next row goes on, and nothing is stored."""
        fd = channel[1].fileno()
        tape = began(channel)
        fails = tape.call(c.SYS_close, -1, expected=errno.EBADF)
        memory = tape.say(fd, 9)
        fails.into = (memory, 4)
        jumps = tape.call(c.SYS_close, -1, expected=errno.EBADF)
        tape.tell(fd, "left out")
        jumps.then = tape.label()
        tape.call(c.SYS_exit_group, 0)
        hop.start(tape, fd)
        assert said(channel) == [bytes(memory)]
        assert hop.wait() == 0

    @pytest.mark.parametrize("sent", [b"", b"x", b"xyz"])
    def test_it_goes_on_as_the_result_says(self, hop: Hop, channel: Channel, sent: bytes) -> None:
        """Nothing is read, or something: 0, or more."""
        reader, writer = os.pipe()
        os.write(writer, sent)
        os.close(writer)
        fd = channel[1].fileno()
        tape = began(channel)
        reads = tape.call(c.SYS_read, reader, bytearray(8), 8)
        tape.tell(fd, "next")
        reads.on_zero = tape.tell(fd, "zero")
        tape.call(c.SYS_exit_group, 0)
        reads.on_positive = tape.tell(fd, "positive")
        tape.call(c.SYS_exit_group, 1)
        hop.start(tape, fd, reader)
        os.close(reader)
        assert said(channel) == [b"positive" if sent else b"zero"]
        assert hop.wait() == bool(sent)

    def test_it_can_go_back(self, hop: Hop, channel: Channel) -> None:
        reader, writer = os.pipe()
        os.write(writer, b"abc")
        os.close(writer)
        tape = began(channel)
        cell = bytearray(8)
        reads = tape.call(c.SYS_read, reader, cell, 1)
        ends = Tape().call(c.SYS_exit_group, 0)
        tells = tape.call(c.SYS_write, channel[1].fileno(), cell, 1)
        tells.on_positive = reads
        tape.rows.append(ends)
        reads.on_zero = ends
        hop.start(tape, channel[1].fileno(), reader)
        os.close(reader)
        assert said(channel) == [b"a", b"b", b"c"]
        assert hop.wait() == 0

    @pytest.mark.parametrize(
        ("call", "arguments", "expected", "number"),
        [
            (c.SYS_close, (-1,), 0, errno.EBADF),
            (c.SYS_close, (-1,), errno.EPERM, errno.EBADF),
            (c.SYS_chdir, ("/nowhere",), errno.EBADF, errno.ENOENT),
            (c.SYS_chdir, (8,), 0, errno.EFAULT),
            (NO_CALL, (), 0, errno.ENOSYS),
        ],
    )
    @pytest.mark.parametrize("mark", [0, 7, 0xFFFFFFFF])
    def test_what_fails_is_reported(
        self, hop: Hop, channel: Channel, call: int, arguments: tuple[int | str], expected: int, number: int, mark: int
    ) -> None:
        """The errno, the call's number and its mark; and nothing more happens."""
        tape = began(channel)
        tape.mark = mark
        tape.call(call, *arguments, expected=expected)
        tape.mark = 3
        tape.tell(channel[1].fileno(), "never")
        hop.start(tape, channel[1].fileno())
        assert said(channel) == [report(number, call, mark, hop=hop)]
        assert hop.wait() == 1

    def test_it_goes_on_where_it_is_told(self, hop: Hop, channel: Channel) -> None:
        """The second half of a tape is written while the first is performed, and has marks of its own."""
        fd = channel[1].fileno()
        second = Tape()
        second.tell(fd, "second")
        second.mark = 2
        second.call(c.SYS_close, -1)
        tape_fd = os.memfd_create("tape")
        tape = began(channel)
        tape.tell(fd, "first")
        tape.wait_for_word(fd)
        tape.read_on(tape_fd, exeseal.CONTINUED, exeseal.LONGEST)
        hop.start(tape, fd, tape_fd, is_continued=True)
        assert channel[0].recv(100) == b"first"
        os.write(tape_fd, hop.linked(second, exeseal.CONTINUED) + bytes(1 << 20))
        os.close(tape_fd)
        channel[0].send(b"go")
        assert said(channel) == [b"second", report(errno.EBADF, c.SYS_close, 2, hop=hop)]
        assert hop.wait() == 1

    def test_nothing_more_is_the_end(self, hop: Hop, channel: Channel) -> None:
        tape = began(channel)
        tape_fd = os.memfd_create("tape")
        tape.read_on(tape_fd, exeseal.CONTINUED, exeseal.LONGEST)
        hop.start(tape, channel[1].fileno(), tape_fd, is_continued=True)
        os.close(tape_fd)
        assert (said(channel), hop.wait()) == ([], 1)

    def test_the_longest_second_half_has_room(self, native: Hop, channel: Channel) -> None:
        """And the words of its last bytes are there."""
        fd = channel[1].fileno()
        second = Tape()
        second.call(c.SYS_umask, bytearray(exeseal.LONGEST - 3000))
        second.tell(fd, "the last")
        second.call(c.SYS_exit_group, 0)
        linked = second.linked(exeseal.CONTINUED)
        assert exeseal.LONGEST - 4000 < len(linked) <= exeseal.LONGEST
        tape_fd = os.memfd_create("tape")
        with os.fdopen(tape_fd, "wb", closefd=False) as file:
            file.write(linked)
        tape = began(channel)
        tape.read_on(tape_fd, exeseal.CONTINUED, exeseal.LONGEST)
        native.start(tape, fd, tape_fd, is_continued=True)
        os.close(tape_fd)
        assert (said(channel), native.wait()) == ([b"the last"], 0)

    def test_it_waits_for_a_word(self, hop: Hop, channel: Channel) -> None:
        tape = began(channel)
        tape.wait_for_word(channel[1].fileno())
        program(tape, "echo started")
        hop.start(tape, channel[1].fileno())
        assert not select.select([hop.stdout], [], [], 0.2)[0], "it did not wait"
        channel[0].send(b"go")
        assert said(channel) == []
        assert (hop.output(), hop.wait()) == (b"started\n", 0)

    def test_it_ends_with_who_has_the_word(self, hop: Hop, channel: Channel) -> None:
        tape = began(channel)
        tape.wait_for_word(channel[1].fileno())
        program(tape, "echo started")
        hop.start(tape, channel[1].fileno())
        for end in channel:
            end.close()
        assert (hop.output(), hop.wait()) == (b"", 1)

    def test_a_descriptor_is_sent(self, native: Hop, channel: Channel, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("content")
        fd = channel[1].fileno()
        tape = began(channel)
        tape.send_descriptor(fd, "mount", tape.call(c.SYS_openat, c.AT_FDCWD, str(tmp_path / "file"), os.O_RDONLY))
        tape.call(c.SYS_exit_group, 0)
        native.start(tape, fd)
        data, (got,), _flags, _address = socket.recv_fds(channel[0], 100, 2)
        assert (data, os.read(got, 100)) == (b"mount", b"content")
        os.close(got)
        assert (said(channel), native.wait()) == ([], 0)

    def test_a_number_is_its_own(self, native: Hop, channel: Channel, tmp_path: Path) -> None:
        """reserve, open_as: more than one row knows a descriptor."""
        (tmp_path / "file").write_text("content")
        tape = began(channel)
        numbers = [tape.reserve() for _ in range(3)]
        cell = bytearray(8)
        tape.open_as(numbers[1], tape.call(c.SYS_openat, c.AT_FDCWD, str(tmp_path / "file"), os.O_RDONLY))
        for size in (3, 4):
            tape.call(c.SYS_read, numbers[1], cell, size)
            tape.call(c.SYS_write, channel[1].fileno(), cell, size)
        program(tape, f"test -e /proc/$$/fd/{numbers[1]} || echo gone")
        native.start(tape, channel[1].fileno())
        assert said(channel) == [b"con", b"tent"]
        assert native.output() == b"gone\n"


SHOW = b"/bin/cat /proc/$$/cmdline /proc/$$/environ; :"  # `:`, or the shell would become cat
ENVIRONMENTS: list[list[bytes]] = [
    [],
    [b"A=1"],
    [b"PATH=/x:/y", b"EMPTY=", b"ODD=\xff \n"],
    [b"B%d=x" % n for n in range(99)],
]


class TestExecuting:
    """The program, which is the end of the hop."""

    @pytest.mark.parametrize("env", ENVIRONMENTS, ids=len)
    @pytest.mark.parametrize(
        "more", [[], [b""], [b"one", b"", b"\xff two\n"], [b"%d" % n for n in range(500)]], ids=len
    )
    def test_it_gets_its_arguments_and_environment(
        self, hop: Hop, channel: Channel, more: list[bytes], env: list[bytes]
    ) -> None:
        args = [b"another name", b"-c", SHOW, *more]
        tape = began(channel)
        execute(tape, ["/bin/sh"], args, env)
        hop.start(tape, channel[1].fileno())
        assert said(channel) == []
        words = hop.output().split(b"\0")[:-1]
        assert words[: len(args)] == args
        assert sorted(words[len(args) :]) == sorted(env)  # the emulator's libc may have sorted it otherwise
        assert hop.wait() == 0

    def test_a_relative_one_is_the_working_directorys(
        self, hop: Hop, channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tool").write_text("#!/bin/sh\necho here\n")
        (tmp_path / "tool").chmod(0o755)
        monkeypatch.chdir(tmp_path)
        tape = began(channel)
        program(tape, "tool", path="./tool")
        hop.start(tape, channel[1].fileno())
        assert (said(channel), hop.output(), hop.wait()) == ([], b"here\n", 0)

    @pytest.mark.parametrize(
        ("paths", "found"),
        [
            (["ENOENT", "good"], b""),
            (["EACCES", "good"], b"here\n"),
            (["EACCES", "EACCES", "good", "ENOENT"], b"here\n"),
            (["good", "ENOENT"], b"here\n"),
            (["EACCES", "EACCES"], b""),
        ],
    )
    def test_the_first_that_may_be_executed_is(
        self, hop: Hop, channel: Channel, broken: Path, paths: list[str], found: bytes
    ) -> None:
        """Of several candidates; any other trouble than EACCES is told."""
        tape = began(channel)
        tape.mark = 4
        execute(tape, [str(broken / name) for name in paths], [b"x"], [])
        hop.start(tape, channel[1].fileno())
        number = errno.ENOENT if paths[0] == "ENOENT" else errno.EACCES
        assert said(channel) == ([] if found else [report(number, c.SYS_execve, 4, hop=hop)])
        assert (hop.output(), hop.wait()) == (found, 0 if found else 1)

    @pytest.mark.parametrize("args", [[b"x" * (1 << 17)], [b"x" * ((1 << 17) - 1)] * 60], ids=["one", "all"])
    def test_too_long_arguments_are_reported(self, native: Hop, channel: Channel, args: list[bytes]) -> None:
        """execve(2), "Limits on size of arguments and environment"."""
        tape = began(channel)
        execute(tape, ["/bin/true"], args, [])
        native.start(tape, channel[1].fileno())
        assert (said(channel), native.wait()) == ([report(errno.E2BIG, c.SYS_execve)], 1)

    @pytest.mark.parametrize("count", [0, 2, 3])
    def test_only_what_shall_be_is_inherited(
        self, native: Hop, channel: Channel, root: Root, listener: socket.socket, count: int
    ) -> None:
        """settle: what was only needed so far is closed, and the channel by execve."""
        first, second, third = (fcntl.fcntl(0, fcntl.F_DUPFD, number) for number in (50, 60, 70))
        tape = began(channel)
        process = Process(tape, root, 0, 0, channel[1].fileno(), rootless=False)
        for number in range(count):
            tape.call(c.SYS_dup3, first, 3 + number, 0)
        # A number for the channel that none of these has.
        high = fcntl.fcntl(channel[1].fileno(), fcntl.F_DUPFD, 80)
        channel[1].close()
        tape.rows[0].arguments = (high, *tape.rows[0].arguments[1:])
        process.channel_fd = high
        settle(process, count, second, -1)
        tape.close_on_exec(second)
        program(tape, "ls /proc/$$/fd; :")
        native.start(tape, high, first, second, third)
        for fd in (first, second, third, high):
            os.close(fd)
        assert said(channel) == []
        assert sorted(map(int, native.output().split())) == list(range(3 + count))
        assert native.wait() == 0


@pytest.fixture
def root() -> Iterator[Root]:
    made = Root("/")
    yield made
    made.close()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Programs that can't be executed, each named by its errno, and one that can."""
    for name, content, mode in (
        ("good", b"#!/bin/sh\necho here\n", 0o755),
        ("ENOEXEC", b"\x01\x02\x03\x04 no program", 0o755),
        ("EACCES", b"#!/bin/sh\n", 0o644),
        ("ENOENT", b"#!/nowhere/interpreter\n", 0o755),
    ):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(mode)
    (tmp_path / "ELOOP").symlink_to("ELOOP")
    return tmp_path


PROGRAMS = [
    ("ENOENT", errno.ENOENT),
    ("ENOEXEC", errno.ENOEXEC),
    ("EACCES", errno.EACCES),
    ("ELOOP", errno.ELOOP),
    ("missing", errno.ENOENT),
    ("EACCES/below", errno.ENOTDIR),
    (".", errno.EACCES),
    ("x" * 300, errno.ENAMETOOLONG),
]


@pytest.mark.parametrize(("name", "number"), PROGRAMS, ids=lambda value: str(value)[:12])
def test_why_not_is_reported(hop: Hop, channel: Channel, broken: Path, name: str, number: int) -> None:
    tape = began(channel)
    program(tape, "x", path=str(broken / name))
    hop.start(tape, channel[1].fileno())
    assert said(channel) == [report(number, c.SYS_execve, hop=hop)]
    assert (hop.output(), hop.wait()) == (b"", 1)


class TestWaitingForStart:
    """`create` has returned: its channel is closed, and whoever connects to the socket is who starts."""

    @pytest.fixture
    def tape(self, channel: Channel, root: Root, listener: socket.socket) -> Tape:
        made = began(channel)
        wait_for_start(Process(made, root, 0, 0, channel[1].fileno(), rootless=False), listener.fileno())
        return made

    def test_it_waits(self, hop: Hop, channel: Channel, listener: socket.socket, tape: Tape) -> None:
        program(tape, "echo started; read x; exit 7")
        hop.start(tape, channel[1].fileno(), listener.fileno())
        assert said(channel) == []  # `create` returns
        assert not select.select([hop.stdout], [], [], 0.2)[0], "it did not wait"
        with connect(listener) as connection:
            assert connection.recv(100) == b""  # while the program is running, which waits for its input
            assert os.read(hop.stdout, 100) == b"started\n"
        assert hop.wait() == 7

    @pytest.mark.parametrize(("name", "number"), PROGRAMS[:3])
    def test_why_not_is_reported_to_who_starts(
        self, hop: Hop, channel: Channel, listener: socket.socket, tape: Tape, broken: Path, name: str, number: int
    ) -> None:
        program(tape, "x", path=str(broken / name))
        hop.start(tape, channel[1].fileno(), listener.fileno())
        assert said(channel) == []
        with connect(listener) as connection:
            assert connection.recv(100) == report(number, c.SYS_execve, hop=hop)
            assert connection.recv(100) == b""
        assert (hop.output(), hop.wait()) == (b"", 1)

    def test_whoever_connects_and_leaves_has_started_it(
        self, hop: Hop, channel: Channel, listener: socket.socket, tape: Tape
    ) -> None:
        """`start` may be killed meanwhile: then the program runs all the same, and no SIGPIPE ends the hop."""
        connect(listener).close()
        program(tape, "echo started")
        hop.start(tape, channel[1].fileno(), listener.fileno())
        assert (said(channel), hop.output(), hop.wait()) == ([], b"started\n", 0)

    def test_no_descriptor_reaches_the_program(
        self, native: Hop, channel: Channel, listener: socket.socket, tape: Tape
    ) -> None:
        program(tape, "/bin/ls /proc/$$/fd; :")
        native.start(tape, channel[1].fileno(), listener.fileno())
        assert said(channel) == []
        with connect(listener):
            assert native.output().split() == [b"0", b"1", b"2"]
        assert native.wait() == 0

    def test_a_signal_is_no_start(self, native: Hop, channel: Channel, listener: socket.socket, tape: Tape) -> None:
        """Nor is one that stops it, after which accept4 may say EINTR: signal(7)."""
        program(tape, "echo started")
        native.start(tape, channel[1].fileno(), listener.fileno())
        assert said(channel) == []
        for _ in range(3):
            os.kill(native.pid, signal.SIGSTOP)
            os.waitpid(native.pid, os.WUNTRACED)
            os.kill(native.pid, signal.SIGCONT)
        assert not select.select([native.stdout], [], [], 0.1)[0], "it did not wait"
        connect(listener).close()
        assert native.output() == b"started\n"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


@pytest.fixture
def waiting(native: Hop, channel: Channel, listener: socket.socket, root: Root) -> Hop:
    """A hop that nobody starts, as a user without rights."""
    tape = began(channel)
    wait_for_start(Process(tape, root, 0, 0, channel[1].fileno(), rootless=False), listener.fileno())
    execute(tape, ["/bin/true"], [b"true"], [b"SECRET=x"])
    native.start(tape, channel[1].fileno(), listener.fileno(), uid=NOBODY)
    assert said(channel) == []
    return native


@pytest.mark.needs("root")
def test_it_is_not_dumpable_while_it_waits(waiting: Hop) -> None:
    """PR_GET_DUMPABLE of another: /proc/PID belongs to root, not to the process's user. See proc_pid(5)."""
    assert f"\nUid:\t{NOBODY}\t" in Path(f"/proc/{waiting.pid}/status").read_text()
    assert os.stat(f"/proc/{waiting.pid}/environ").st_uid == 0


@pytest.mark.needs("root")
def test_it_costs_next_to_nothing_while_it_waits(waiting: Hop) -> None:
    """A page of code, the tape, and a stack: no heap, no library, and nothing of ours."""
    maps = Path(f"/proc/{waiting.pid}/maps").read_text().splitlines()
    names = {line.split(maxsplit=5)[5] for line in maps if len(line.split()) > 5}
    assert {name for name in names if not name.startswith("[")} == {"/memfd:pyruntime-hop (deleted)"}
    assert "[heap]" not in names
    modes = [line.split()[1] for line in maps if "memfd" in line]
    assert modes == ["r-xp", "rw-p"], "writable code, or what is written is shared"
    rss = re.search(r"^Rss: +(\d+) kB$", Path(f"/proc/{waiting.pid}/smaps_rollup").read_text(), re.M)
    assert rss is not None and int(rss[1]) < 64
    assert Path(f"/proc/{waiting.pid}/cmdline").read_bytes() == exeseal.NAME + b"\0"
    assert Path(f"/proc/{waiting.pid}/environ").read_bytes() == b""


def test_a_script_whose_interpreter_is_the_hop_ends(native: Hop, channel: Channel, tmp_path: Path) -> None:
    """/proc/self/exe is the hop while execve resolves it: it would execute itself for ever."""
    script = tmp_path / "script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    tape = began(channel)
    program(tape, "script", path=str(script))
    native.start(tape, channel[1].fileno())
    assert said(channel) == []
    wait_until(lambda: os.waitid(os.P_PID, native.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, "its end")
    assert native.wait() == 1


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Orphans of this process's children become its own children."""
    syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, 1)
    yield
    syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, 0)


def entering(channel: Channel, *args: str) -> Tape:
    """The very tape of an `exec` that enters nothing: join.py."""
    entry = Entry()
    entry.plan = Plan([Execute("config.json#/process", args=args, env=("PATH=/bin:/usr/bin",), uid=os.getuid())])
    import_performers(entry.plan)
    entry.rootless, entry.last_cap, entry.console_fd, entry.preserve_fds, entry.filter = False, 0, -1, 0, b""
    entry.init_pid = os.getpid()
    entry.init_fd = os.pidfd_open(entry.init_pid)
    newcomer = compile_entry(entry, channel[1].fileno())
    newcomer.close()
    os.close(entry.init_fd)
    return newcomer.tape


@pytest.mark.usefixtures("subreaper")
class TestEntering:
    """`exec`: a child of the hop's is what executes the program, when it is told to."""

    def enter(self, hop: Hop, channel: Channel, *args: str) -> int:
        """Have it executed as far as the parent's word. Returns the pid of the child, which is ours."""
        tape = entering(channel, *args)
        if hop.emulated:  # the emulator knows no CLONE_PARENT: without it the child is an orphan, which comes to us
            (clones,) = [row for row in tape.rows if row.number == c.SYS_clone]
            assert clones.arguments[0] == c.CLONE_PARENT | c.SIGCHLD
            clones.arguments = (c.SIGCHLD, *clones.arguments[1:])
            # Nor would the child live longer than its parent.
            tape.rows.remove(next(row for row in tape.rows if row.arguments[:1] == (c.PR_SET_PDEATHSIG,)))
        hop.start(tape, channel[1].fileno())
        channel[1].close()
        told = channel[0].recv(100)
        kind, pid = struct.unpack("=II", told[:8])
        assert kind == SAYS_PID, hop_error(told, args[0])
        assert hop.wait() == 0  # the one that has cloned it ends
        hop.pid = int(pid)  # CLONE_PARENT: we can wait for it
        return hop.pid

    def test_a_sibling_executes_the_program(self, hop: Hop, channel: Channel) -> None:
        pid = self.enter(hop, channel, "sh", "-c", "echo $$; /bin/cat /proc/$$/stat; exit 7")
        channel[0].send(b"go")
        assert said(channel) == []
        told, stat = hop.output().decode().splitlines()
        assert int(told) == pid
        fields = stat.rpartition(")")[2].split()
        assert (int(fields[2]), int(fields[3])) == (pid, pid), "it leads no process group and session"
        assert hop.wait() == 7

    def test_it_waits_for_the_word(self, hop: Hop, channel: Channel) -> None:
        self.enter(hop, channel, "sh", "-c", "echo started")
        assert not select.select([hop.stdout], [], [], 0.2)[0], "it did not wait"
        channel[0].send(b"go")
        assert hop.output() == b"started\n"

    def test_it_ends_with_who_has_the_word(self, hop: Hop, channel: Channel) -> None:
        self.enter(hop, channel, "sh", "-c", "echo started")
        channel[0].close()
        assert hop.output() == b""
        assert hop.wait() == 1

    def unshared(self, channel: Channel, *, first_has_ended: bool, output: int = 1) -> int:
        """A hop whose children will be in a new PID namespace. Returns its pid."""
        tape = entering(channel, "sh", "-c", "echo $$")
        pid = os.fork()
        if pid == 0:
            try:
                syscalls.unshare(c.CLONE_NEWUSER | c.CLONE_NEWPID)
                if first_has_ended:
                    first = os.fork()
                    if first == 0:
                        os._exit(0)
                    os.waitpid(first, 0)
                hop_fd = exeseal.sealed(tape, channel[1].fileno())
                channel[1].set_inheritable(True)
                os.dup2(output, 1)
                exeseal.execute(hop_fd)
            finally:
                os._exit(99)
        channel[1].close()
        return pid

    def test_it_is_in_the_pid_namespace_that_was_joined(self, channel: Channel) -> None:
        reader, writer = os.pipe()
        pid = self.unshared(channel, first_has_ended=False, output=writer)
        os.close(writer)
        told = channel[0].recv(100)
        kind, child = struct.unpack("=II", told[:8])
        assert kind == SAYS_PID, hop_error(told, "sh")
        channel[0].send(b"go")
        os.waitpid(pid, 0)
        os.waitpid(child, 0)
        with os.fdopen(reader) as output:
            assert output.read() == "1\n"

    def test_a_clone_that_fails_is_reported(self, channel: Channel) -> None:
        """A process that was to be the first of a PID namespace has ended: there can be no second."""
        pid = self.unshared(channel, first_has_ended=True)
        (told,) = said(channel)
        os.waitpid(pid, 0)
        error = hop_error(told, "/bin/true")
        assert isinstance(error, KernelError)
        assert (error.errno, error.call) == (errno.ENOMEM, "clone(CLONE_PARENT)")
        assert "no init any more" in error.hint

    def test_a_stdin_that_is_no_terminal_is_reported(self, native: Hop, channel: Channel) -> None:
        tape = began(channel)
        tape.call(c.SYS_ioctl, 0, c.TIOCSCTTY, 0)
        native.start(tape, channel[1].fileno())
        assert said(channel) == [report(errno.ENOTTY, c.SYS_ioctl)]

    def test_why_not_is_reported_before_it_is_cloned(self, hop: Hop, channel: Channel, broken: Path) -> None:
        """Where that can be seen: faccessat2(2)."""
        (broken / "EACCES").chmod(0o755)
        tape = entering(channel, str(broken / "EACCES"))
        (broken / "EACCES").unlink()
        hop.start(tape, channel[1].fileno())
        assert said(channel) == [report(errno.ENOENT, c.SYS_faccessat2, 1, hop=hop)]
        assert hop.wait() == 1

    def test_why_not_is_reported_by_the_child(self, hop: Hop, channel: Channel, broken: Path) -> None:
        self.enter(hop, channel, str(broken / "ENOENT"))
        channel[0].send(b"go")
        assert said(channel) == [report(errno.ENOENT, c.SYS_execve, hop=hop)]
        assert hop.wait() == 1


# Classic BPF that has one answer to every call.
def answering(verdict: int) -> bytes:
    return (6).to_bytes(8, "little")[:4] + verdict.to_bytes(4, "little")


ALLOW = answering(0x7FFF0000)
LOAD_NUMBER = bytes.fromhex("2000000000000000")


def answering_to(call: int, verdict: int) -> bytes:
    """And one to another."""
    return LOAD_NUMBER + struct.pack("<HBBI", 0x15, 0, 1, call) + answering(verdict) + ALLOW


def filtered(channel: Channel, root: Root, program: bytes, flags: int = 0, *, mark: int = 3) -> Tape:
    """A tape that loads a filter, as ending.py does it, and executes who says whether it has one."""
    tape = began(channel)
    tape.call(c.SYS_prctl, c.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    process = Process(tape, root, 0, 0, channel[1].fileno(), rootless=False)
    load_filter(process, Filter(program, flags, mark))
    execute(tape, ["/bin/grep"], [b"grep", b"-q", b"Seccomp:.*2", b"/proc/self/status"], [])
    return tape


class TestFilters:
    def test_it_loads_one(self, native: Hop, channel: Channel, root: Root) -> None:
        """Which has 4000 instructions, more than a page of them; seccomp(2) knows where they are."""
        filler = (0x05).to_bytes(8, "little") * 3999  # ja +0
        native.start(filtered(channel, root, filler + ALLOW, c.SECCOMP_FILTER_FLAG_LOG), channel[1].fileno())
        assert (said(channel), native.wait()) == ([], 0)

    def test_without_one_there_is_none(self, native: Hop, channel: Channel, root: Root) -> None:
        """The control."""
        tape = filtered(channel, root, ALLOW)
        tape.rows = [row for row in tape.rows if row.number != c.SYS_seccomp]
        native.start(tape, channel[1].fileno())
        assert (said(channel), native.wait()) == ([], 1)

    def test_one_that_the_kernel_refuses_is_reported(self, native: Hop, channel: Channel, root: Root) -> None:
        native.start(filtered(channel, root, b"\xff" * 8), channel[1].fileno())
        assert said(channel) == [report(errno.EINVAL, c.SYS_seccomp, 3)]
        assert native.wait() == 1

    def test_execve_that_it_refuses_is_reported(self, native: Hop, channel: Channel, root: Root) -> None:
        program = answering_to(c.SYS_execve, 0x00050063)
        native.start(filtered(channel, root, program), channel[1].fileno())
        assert said(channel) == [report(99, c.SYS_execve, 3)]
        assert native.wait() == 1

    @pytest.mark.parametrize(("verdict", "signal_"), [(0x00050001, signal.SIGILL), (0x80000000, signal.SIGSYS)])
    def test_it_ends_although_one_forbids_even_that(
        self, native: Hop, channel: Channel, root: Root, verdict: int, signal_: int
    ) -> None:
        """By a signal, and not in a loop."""
        native.start(filtered(channel, root, answering(verdict)), channel[1].fileno())
        assert said(channel) == []
        assert native.wait() == -signal_

    def test_a_listener_is_named_and_waited_for(self, native: Hop, channel: Channel, root: Root) -> None:
        flags = c.SECCOMP_FILTER_FLAG_NEW_LISTENER
        native.start(filtered(channel, root, ALLOW, flags), channel[1].fileno())
        kind, fd = struct.unpack("=II", channel[0].recv(100))
        assert kind == SAYS_LISTENER
        assert os.readlink(f"/proc/{native.pid}/fd/{fd}") == "anon_inode:seccomp notify"
        channel[0].send(b"go")
        assert (said(channel), native.wait()) == ([], 0)


def test_a_filter_and_a_listener_end_with_who_made_them(native: Hop, channel: Channel, root: Root) -> None:
    native.start(filtered(channel, root, ALLOW, c.SECCOMP_FILTER_FLAG_NEW_LISTENER), channel[1].fileno())
    channel[0].recv(100)
    for end in channel:
        end.close()
    assert native.wait() == 1


@pytest.fixture
def tape() -> Tape:
    made = Tape()
    made.call(c.SYS_exit_group, 0)
    return made


@pytest.fixture
def hop_fd(tape: Tape) -> Iterator[int]:
    fd = exeseal.sealed(tape, 7)
    yield fd
    os.close(fd)


def test_the_image_is_what_is_sealed(hop_fd: int, tape: Tape) -> None:
    assert os.pread(hop_fd, 1 << 20, 0) == exeseal.image(tape.linked(exeseal.TAPE, 7))
    assert not os.get_inheritable(hop_fd)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES])
def test_a_kernel_before_6_3_has_no_flag_for_it(number: int, tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    """There MFD_EXEC is an unknown flag. EACCES: sysctl vm.memfd_noexec=2, which is not to be got round."""
    real = syscalls.memfd_create

    def old(name: str, flags: int = 0, *, expected: tuple[int, ...] = ()) -> int:
        if not flags & c.MFD_EXEC:
            return real(name, flags)
        if number in expected:
            return -number
        raise KernelError("memfd_create()", number)

    monkeypatch.setattr(syscalls, "memfd_create", old)
    if number == errno.EACCES:
        with pytest.raises(KernelError):
            exeseal.sealed(tape, 7)
        return
    fd = exeseal.sealed(tape, 7)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & c.F_SEAL_WRITE
    assert not os.get_inheritable(fd)
    os.close(fd)


def denied(action: Callable[[], object]) -> bool:
    try:
        action()
    except PermissionError:
        return True
    return False


def test_nobody_can_change_it(hop_fd: int) -> None:
    """Not even its owner, by any of the ways to a file's bytes; a descriptor opened anew is no way round."""
    before = os.pread(hop_fd, 65536, 0)
    again_fd = os.open(f"/proc/self/fd/{hop_fd}", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    for fd in (hop_fd, again_fd):
        assert denied(lambda: os.pwrite(fd, b"x", 0))  # noqa: B023
        assert denied(lambda: os.pwrite(fd, b"x", len(before)))  # noqa: B023
        assert denied(lambda: os.ftruncate(fd, 0))  # noqa: B023
        assert denied(lambda: os.ftruncate(fd, 1 << 20))  # noqa: B023
        assert denied(lambda: mmap.mmap(fd, len(before), mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))  # noqa: B023
        assert libc.fallocate(fd, 0x03, 0, 4096) == -1, "a hole was punched"  # FALLOC_FL_PUNCH_HOLE|KEEP_SIZE
    assert denied(lambda: os.open(f"/proc/self/fd/{hop_fd}", os.O_RDWR | os.O_TRUNC))
    os.close(again_fd)
    assert os.pread(hop_fd, 65536, 0) == before


def test_nobody_can_unseal_it(hop_fd: int) -> None:
    all_seals = c.F_SEAL_SEAL | c.F_SEAL_SHRINK | c.F_SEAL_GROW | c.F_SEAL_WRITE
    for seals in (0, c.F_SEAL_SEAL, 0x10, 0x20):  # F_SEAL_FUTURE_WRITE, F_SEAL_EXEC, which is EINVAL before Linux 6.3
        with pytest.raises(OSError, match=r"not permitted|Invalid argument"):
            fcntl.fcntl(hop_fd, c.F_ADD_SEALS, seals)
        assert fcntl.fcntl(hop_fd, fcntl.F_GET_SEALS) & all_seals == all_seals
