"""The last hop (launch/exeseal.py): its bytes are its source, it does what it says, and nobody can change it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyruntime.errors import KernelError, UnsupportedError
from pyruntime.launch import exeseal
from pyruntime.launch.sync import CLONE_FAILED, FILTER_FAILED, TERMINAL_FAILED, hop_error
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from tests.support.assembly import assembled, every_machine

SOURCES = Path(exeseal.__file__).parent / "hop"
PATIENCE = 30.0  # seconds; a bound on a hang, never a measure
NOBODY = 65534


@every_machine
def test_the_bytes_are_the_source(machine: str, tmp_path: Path) -> None:
    _, code = exeseal.CODE[machine]
    made = assembled(machine, SOURCES / f"{machine}.S", tmp_path)
    data = b"\xff" * 8 + bytes(24)
    assert made[: -len(data)].hex() == code.hex()
    assert made[-len(data) :] == data, "the descriptors, whether to enter, the flags and the filter are not at the end"


def test_every_source_is_held_here() -> None:
    assert {path.stem for path in SOURCES.glob("*.S")} == set(exeseal.CODE) == {"x86_64", "aarch64"}


def test_another_architecture_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="vax"):
        exeseal.image(-1, -1, "vax")


class Hop:
    """A process that becomes the hop as the container's child does, and then `program`."""

    def __init__(self, emulated: bool, folder: Path) -> None:
        self.emulated = emulated
        self.folder = folder
        self.pid = 0
        self.stdin, self.stdout = -1, -1

    def start(
        self,
        program: str,
        args: list[bytes],
        env: list[bytes] | None = None,
        *,
        listen_fd: int = -1,
        report_fd: int = -1,
        uid: int = -1,
        enter: int = exeseal.STAY,
    ) -> None:
        """Fork and hop. The descriptors are those that the hop is told of; no other but stdio is inherited."""
        assert not self.pid
        theirs_in, self.stdin = os.pipe()
        self.stdout, theirs_out = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.dup2(theirs_in, 0)
                os.dup2(theirs_out, 1)
                self._become(program, args, env or [], listen_fd, report_fd, uid, enter)
            finally:
                os._exit(99)
        os.close(theirs_in)
        os.close(theirs_out)

    def _become(
        self,
        program: str,
        args: list[bytes],
        env: list[bytes],
        listen_fd: int,
        report_fd: int,
        uid: int,
        enter: int,
    ) -> None:
        if self.emulated:
            path = self.folder / "hop"
            # The emulator knows no CLONE_PARENT: without it the child is an orphan, which comes to us.
            with_parent, without = bytes.fromhex("200290d2"), bytes.fromhex("200280d2")  # mov x0, #0x8011 and #0x11
            image = exeseal.image(listen_fd, report_fd, "aarch64", enter=enter)
            assert image.count(with_parent) == 1
            path.write_bytes(image.replace(with_parent, without))
            path.chmod(0o755)
        else:
            hop_fd = exeseal.sealed(listen_fd, report_fd, enter=enter)
        syscalls.close_range(3, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
        os.set_inheritable(report_fd if listen_fd < 0 else listen_fd, True)
        if uid >= 0:
            syscalls.setresuid(uid, uid, uid)
        if self.emulated:
            qemu = shutil.which("qemu-aarch64-static") or ""
            options = [b"qemu", b"-0", program.encode(), bytes(path)]
            os.execve(qemu, [*options, *args], dict(pair.split(b"=", 1) for pair in env))
        exeseal.execute(hop_fd, program, args, env)

    def output(self) -> bytes:
        """All that the program writes, until it ends or closes its output."""
        found = b""
        while chunk := os.read(self.stdout, 65536):
            found += chunk
        return found

    def wait(self) -> int:
        """The exit status, or minus the signal."""
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


Machine = pytest.FixtureRequest


@pytest.fixture(params=["native", pytest.param("qemu", marks=pytest.mark.needs("qemu-aarch64"))])
def new_hop(request: Machine, tmp_path: Path) -> Iterator[Callable[[], Hop]]:
    """Makes hops of this machine's architecture, or of AArch64 in an emulator."""
    made: list[Hop] = []

    def make() -> Hop:
        made.append(Hop(request.param == "qemu", tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def hop(new_hop: Callable[[], Hop]) -> Hop:
    return new_hop()


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


def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    try:
        os.close(writer)
    except OSError:
        return  # the test has closed it, to see the end


report = pytest.fixture(pipe)


def reported(ends: tuple[int, int]) -> bytes:
    """What the hop writes to its report until every copy of it is closed."""
    os.close(ends[1])
    ready, _, _ = select.select([ends[0]], [], [], PATIENCE)
    assert ready, "neither a report nor its end"
    return os.read(ends[0], 100)


def minus(number: int) -> bytes:
    return (-number).to_bytes(4, "little", signed=True)


SHOW = b"/bin/cat /proc/$$/cmdline /proc/$$/environ; :"  # `:`, or the shell would become cat
ENVIRONMENTS: list[list[bytes]] = [
    [],
    [b"A=1"],
    [b"PATH=/x:/y", b"EMPTY=", b"ODD=\xff \n"],
    [b"B%d=x" % n for n in range(99)],
]


@pytest.mark.parametrize("env", ENVIRONMENTS, ids=len)
@pytest.mark.parametrize("more", [[], [b""], [b"one", b"", b"\xff two\n"], [b"%d" % n for n in range(500)]], ids=len)
def test_the_program_gets_its_arguments_and_environment(
    hop: Hop, report: tuple[int, int], more: list[bytes], env: list[bytes]
) -> None:
    args = [b"another name", b"-c", SHOW, *more]
    hop.start("/bin/sh", args, env, report_fd=report[1])
    assert reported(report) == b""
    words = hop.output().split(b"\0")[:-1]
    assert words[: len(args)] == args
    assert sorted(words[len(args) :]) == sorted(env)  # the emulator's libc may have sorted it otherwise
    assert hop.wait() == 0


def test_a_relative_program_is_the_working_directorys(
    hop: Hop, report: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho here\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    hop.start("./tool", [b"tool"], report_fd=report[1])
    assert (reported(report), hop.output(), hop.wait()) == (b"", b"here\n", 0)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Programs that can't be executed, each named by its errno."""
    for name, content, mode in (
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
def test_why_not_is_reported(hop: Hop, report: tuple[int, int], broken: Path, name: str, number: int) -> None:
    hop.start(str(broken / name), [b"x"], report_fd=report[1])
    assert reported(report) == minus(number)
    assert (hop.output(), hop.wait()) == (b"", 1)


@pytest.mark.parametrize(("name", "number"), PROGRAMS[:3])
def test_why_not_is_reported_to_who_starts(
    hop: Hop, listener: socket.socket, broken: Path, name: str, number: int
) -> None:
    hop.start(str(broken / name), [b"x"], listen_fd=listener.fileno())
    with connect(listener) as connection:
        assert connection.recv(100) == minus(number)
        assert connection.recv(100) == b""
    assert (hop.output(), hop.wait()) == (b"", 1)


def test_it_waits_for_the_start(hop: Hop, listener: socket.socket) -> None:
    hop.start("/bin/sh", [b"sh", b"-c", b"echo started; read x; exit 7"], listen_fd=listener.fileno())
    assert not select.select([hop.stdout], [], [], 0.2)[0], "it did not wait"
    with connect(listener) as connection:
        assert connection.recv(100) == b""  # while the program is running, which waits for its input
        assert os.read(hop.stdout, 100) == b"started\n"
    assert hop.wait() == 7


def test_whoever_connects_and_leaves_has_started_it(hop: Hop, listener: socket.socket) -> None:
    """`start` may be killed meanwhile: then the program runs all the same, and no SIGPIPE ends the hop."""
    connect(listener).close()
    hop.start("/bin/sh", [b"sh", b"-c", b"echo started"], listen_fd=listener.fileno())
    assert (hop.output(), hop.wait()) == (b"started\n", 0)


@pytest.mark.parametrize("waits", [False, True])
def test_no_descriptor_reaches_the_program(
    hop: Hop, report: tuple[int, int], listener: socket.socket, waits: bool
) -> None:
    listen_fd, report_fd = (listener.fileno(), -1) if waits else (-1, report[1])
    connection = connect(listener)
    hop.start("/bin/sh", [b"sh", b"-c", b"/bin/ls /proc/$$/fd; :"], listen_fd=listen_fd, report_fd=report_fd)
    assert hop.output().split() == [b"0", b"1", b"2"]
    assert hop.wait() == 0
    connection.close()


def became_hop(pid: int) -> bool:
    return "memfd:pyruntime-hop" in os.readlink(f"/proc/{pid}/exe")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


@pytest.fixture
def waiting(listener: socket.socket, tmp_path: Path) -> Iterator[Hop]:
    """A native hop that nobody starts, as a user without rights."""
    hop = Hop(False, tmp_path)
    hop.start("/bin/true", [b"true"], listen_fd=listener.fileno(), uid=NOBODY)
    wait_until(lambda: became_hop(hop.pid), "the hop")
    # execve names the new executable before it maps it.
    wait_until(lambda: "/memfd:pyruntime-hop" in Path(f"/proc/{hop.pid}/maps").read_text(), "its code")
    yield hop
    hop.close()


@pytest.mark.needs("root")
def test_it_is_not_dumpable_while_it_waits(waiting: Hop) -> None:
    """PR_GET_DUMPABLE of another: /proc/PID belongs to root, not to the process's user. See proc_pid(5)."""
    assert f"\nUid:\t{NOBODY}\t" in Path(f"/proc/{waiting.pid}/status").read_text()
    wait_until(lambda: os.stat(f"/proc/{waiting.pid}/environ").st_uid == 0, "the hop to be nobody's to trace")


@pytest.mark.needs("root")
def test_it_costs_next_to_nothing_while_it_waits(waiting: Hop) -> None:
    """One page of code and a stack: no heap, no library."""
    maps = Path(f"/proc/{waiting.pid}/maps").read_text().splitlines()
    names = {line.split(maxsplit=5)[5] for line in maps if len(line.split()) > 5}
    assert {name for name in names if not name.startswith("[")} == {"/memfd:pyruntime-hop (deleted)"}
    assert "[heap]" not in names
    assert not any("w" in line.split()[1] and "memfd" in line for line in maps)


def test_a_script_whose_interpreter_is_the_hop_ends(tmp_path: Path, report: tuple[int, int]) -> None:
    """/proc/self/exe is the hop while execve resolves it: it would execute itself for ever."""
    script = tmp_path / "script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    hop = Hop(False, tmp_path)
    hop.start(str(script), [b"script"], report_fd=report[1])
    try:
        assert reported(report) == b""
        wait_until(lambda: os.waitid(os.P_PID, hop.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, "its end")
        assert hop.wait() == 1
    finally:
        hop.close()


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Orphans of this process's children become its own children."""
    syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, 1)
    yield
    syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The parent's end and the hop's, as sync.channel_pair makes them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.usefixtures("subreaper")
class TestEntering:
    """`exec`: the hop's child is what executes the program, when it is told to."""

    def enter(
        self, hop: Hop, channel: tuple[socket.socket, socket.socket], *args: bytes, enter: int = exeseal.ENTER
    ) -> int:
        """Have it executed as far as the parent's word. Returns the pid of the child, which is ours."""
        ours, theirs = channel
        hop.start("/bin/sh", [b"sh", b"-c", *args], report_fd=theirs.fileno(), enter=enter)
        theirs.close()
        pid = int.from_bytes(ours.recv(100), "little")
        assert hop.wait() == 1  # the one that has cloned it ends
        hop.pid = pid  # CLONE_PARENT: we can wait for it
        return pid

    def test_a_sibling_executes_the_program(self, hop: Hop, channel: tuple[socket.socket, socket.socket]) -> None:
        pid = self.enter(hop, channel, b"echo $$; /bin/cat /proc/$$/stat; exit 7")
        channel[0].send(b"go")
        assert channel[0].recv(100) == b""
        told, stat = hop.output().decode().splitlines()
        assert int(told) == pid
        fields = stat.rpartition(")")[2].split()
        assert (int(fields[2]), int(fields[3])) == (pid, pid), "it leads no process group and session"
        hop.stdin, closed = os.pipe()
        os.close(closed)
        assert hop.wait() == 7

    def test_it_waits_for_the_word(self, hop: Hop, channel: tuple[socket.socket, socket.socket]) -> None:
        self.enter(hop, channel, b"echo started")
        assert not select.select([hop.stdout], [], [], 0.2)[0], "it did not wait"
        channel[0].send(b"go")
        assert hop.output() == b"started\n"

    def test_it_ends_with_who_has_the_word(self, hop: Hop, channel: tuple[socket.socket, socket.socket]) -> None:
        self.enter(hop, channel, b"echo started")
        channel[0].close()
        assert hop.output() == b""

    def test_it_is_in_the_pid_namespace_that_was_joined(self, channel: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = channel
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                syscalls.unshare(c.CLONE_NEWUSER | c.CLONE_NEWPID)
                hop_fd = exeseal.sealed(-1, theirs.fileno(), enter=exeseal.ENTER)
                theirs.set_inheritable(True)
                os.dup2(writer, 1)
                exeseal.execute(hop_fd, "/bin/sh", [b"sh", b"-c", b"echo $$"], [])
            finally:
                os._exit(99)
        theirs.close()
        os.close(writer)
        told = ours.recv(100)
        child = int.from_bytes(told, "little")
        assert told[-1] == 0, hop_error(told, "sh")
        ours.send(b"go")
        os.waitpid(pid, 0)
        os.waitpid(child, 0)
        with os.fdopen(reader) as output:
            assert output.read() == "1\n"

    def test_a_clone_that_fails_is_told_apart(self, hop: Hop, channel: tuple[socket.socket, socket.socket]) -> None:
        """A process that was to be the first of a PID namespace has ended: there can be no second."""
        ours, theirs = channel
        pid = os.fork()
        if pid == 0:
            try:
                syscalls.unshare(c.CLONE_NEWUSER | c.CLONE_NEWPID)
                first = os.fork()
                if first == 0:
                    os._exit(0)
                os.waitpid(first, 0)
                hop_fd = exeseal.sealed(-1, theirs.fileno(), enter=exeseal.ENTER)
                theirs.set_inheritable(True)
                exeseal.execute(hop_fd, "/bin/true", [b"true"], [])
            finally:
                os._exit(99)
        theirs.close()
        told = ours.recv(100)
        os.waitpid(pid, 0)
        assert told == minus(CLONE_FAILED + errno.ENOMEM)
        error = hop_error(told, "/bin/true")
        assert (error.errno, error.call) == (errno.ENOMEM, "clone(CLONE_PARENT)")
        assert "no init any more" in error.hint

    def test_a_stdin_that_is_no_terminal_is_told_apart(
        self, hop: Hop, channel: tuple[socket.socket, socket.socket]
    ) -> None:
        self.enter(hop, channel, b"echo started", enter=exeseal.ENTER_WITH_TERMINAL)
        told = channel[0].recv(100)
        assert told == minus(TERMINAL_FAILED + errno.ENOTTY)
        assert hop_error(told, "sh").call == "ioctl(0, TIOCSCTTY)"
        assert hop.output() == b""

    def test_why_not_is_reported(self, hop: Hop, channel: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = channel
        hop.start("/nowhere", [b"x"], report_fd=theirs.fileno(), enter=exeseal.ENTER)
        theirs.close()
        pid = int.from_bytes(ours.recv(100), "little")
        hop.wait()
        hop.pid = pid
        ours.send(b"go")
        assert ours.recv(100) == minus(errno.ENOENT)


# Classic BPF that has one answer to every call.
def answering(verdict: int) -> bytes:
    return (6).to_bytes(8, "little")[:4] + verdict.to_bytes(4, "little")


def hop_with(seccomp: tuple[int, bytes], report_fd: int) -> int:
    """Fork and hop to a program that says whether it has a filter. Returns how that ended."""
    pid = os.fork()
    if pid == 0:
        try:
            hop_fd = exeseal.sealed(-1, report_fd, seccomp=seccomp)
            syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)
            os.set_inheritable(report_fd, True)
            exeseal.execute(hop_fd, "/bin/grep", [b"grep", b"-q", b"Seccomp:.*2", b"/proc/self/status"], [])
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_it_loads_a_filter(report: tuple[int, int]) -> None:
    """Which has 4000 instructions, more than a page of them; seccomp(2) knows where they are."""
    filler = (0x05).to_bytes(8, "little") * 3999  # ja +0
    assert hop_with((c.SECCOMP_FILTER_FLAG_LOG, filler + answering(0x7FFF0000)), report[1]) == 0
    assert reported(report) == b""
    assert hop_with(exeseal.NO_FILTER, report[0]) == 1


def test_a_filter_that_the_kernel_refuses_is_told_apart(report: tuple[int, int]) -> None:
    assert hop_with((0, b"\xff" * 8), report[1]) == 1
    told = reported(report)
    assert told == minus(FILTER_FAILED + errno.EINVAL)
    error = hop_error(told, "/bin/true")
    assert (error.errno, error.where) == (errno.EINVAL, "config.json#/linux/seccomp")
    assert "seccomp" in error.call


@pytest.mark.skipif(c.MACHINE != "x86_64", reason="the numbers are those of x86-64")
def test_execve_that_the_filter_refuses_is_reported(report: tuple[int, int]) -> None:
    load, is_execve = bytes.fromhex("2000000000000000"), bytes.fromhex("150000013b000000")
    program = load + is_execve + answering(0x00050063) + answering(0x7FFF0000)
    assert hop_with((0, program), report[1]) == 1
    assert reported(report) == minus(99)


@pytest.mark.parametrize("verdict", [0x00050001, 0x80000000])
def test_it_ends_although_the_filter_forbids_even_that(report: tuple[int, int], verdict: int) -> None:
    assert hop_with((0, answering(verdict)), report[1]) < 0


@pytest.fixture
def hop_fd() -> Iterator[int]:
    fd = exeseal.sealed(-1, 7)
    yield fd
    os.close(fd)


def test_the_image_is_what_is_sealed(hop_fd: int) -> None:
    assert os.pread(hop_fd, 65536, 0) == exeseal.image(-1, 7)
    assert not os.get_inheritable(hop_fd)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES])
def test_a_kernel_before_6_3_has_no_flag_for_it(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There MFD_EXEC is an unknown flag. EACCES: sysctl vm.memfd_noexec=2, which is not to be got round."""
    real = syscalls.memfd_create

    def old(name: str, flags: int = 0) -> int:
        if flags & c.MFD_EXEC:
            raise KernelError("memfd_create()", number)
        return real(name, flags)

    monkeypatch.setattr(syscalls, "memfd_create", old)
    if number == errno.EACCES:
        with pytest.raises(KernelError):
            exeseal.sealed(-1, 7)
        return
    fd = exeseal.sealed(-1, 7)
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
    for seals in (0, c.F_SEAL_SEAL, 0x10, 0x20):  # F_SEAL_FUTURE_WRITE, F_SEAL_EXEC
        with pytest.raises(PermissionError):
            fcntl.fcntl(hop_fd, c.F_ADD_SEALS, seals)
        assert fcntl.fcntl(hop_fd, fcntl.F_GET_SEALS) & all_seals == all_seals
