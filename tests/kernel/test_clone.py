"""clone3 and spawn, which make a container's first process behind Python's back."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from pyruntime.errors import Error, KernelError
from pyruntime.launch import exeseal
from pyruntime.launch.tape import Tape
from pyruntime.linux import clone, proc, syscalls
from pyruntime.linux import constants as c
from scripts.lib.steps import v2_mount
from tests.kernel.child import closes_on_exec, in_child


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def open_files() -> set[str]:
    """The descriptors of this process, without the one that lists them."""
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


@pytest.mark.needs("root")
def test_the_child_is_in_its_new_namespaces_and_the_parent_holds_its_pidfd() -> None:
    def body() -> None:
        home = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "uts", "net", "ipc", "mnt")}
        flags = c.CLONE_NEWPID | c.CLONE_NEWUTS | c.CLONE_NEWNET | c.CLONE_NEWIPC | c.CLONE_NEWNS
        reader, writer = os.pipe()
        pid, pidfd = clone.clone3(flags)
        if pid == 0:
            os.write(writer, f"{os.getpid()} {pidfd}".encode())
            signal.pause()
            os._exit(1)
        assert os.read(reader, 100) == b"1 -1"
        for kind, name in home.items():
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != name
        assert closes_on_exec(pidfd)
        assert f"Pid:\t{pid}" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        syscalls.pidfd_send_signal(pidfd, c.SIGKILL)
        assert exit_code(pid) == -c.SIGKILL

    in_child(body)


def test_python_works_in_the_child() -> None:
    """Imports, threads, signals and forks need the locks that a bare clone leaves as they were."""

    def body() -> int:
        pid, _pidfd = clone.clone3(0)
        if pid == 0:
            import colorsys  # noqa: F401

            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(7)
            os._exit(exit_code(grandchild))
        return exit_code(pid)

    assert in_child(body) == 7


def test_hooks_of_fork_run_on_both_sides() -> None:
    def body() -> list[str]:
        seen: list[str] = []
        os.register_at_fork(
            before=lambda: seen.append("before"),
            after_in_parent=lambda: seen.append("parent"),
            after_in_child=lambda: seen.append("child"),
        )
        pid, _pidfd = clone.clone3(0)
        if pid == 0:
            os._exit(0 if seen == ["before", "child"] else 1)
        assert exit_code(pid) == 0
        with pytest.raises(KernelError):
            clone.clone3(c.CLONE_NEWNS | c.CLONE_FS)
        return seen

    assert in_child(body) == ["before", "parent", "before", "parent"]


def test_the_exit_signal_and_no_pidfd() -> None:
    def body() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        before = open_files()
        pid, pidfd = clone.clone3(0, exit_signal=signal.SIGUSR1, pidfd=False)
        if pid == 0:
            os._exit(0)
        assert pidfd == -1
        assert signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1
        assert open_files() == before
        wall = 0x40000000  # __WALL: also children that do not end with SIGCHLD
        assert os.waitpid(pid, wall) == (pid, 0)

    in_child(body)


def test_a_process_with_threads_is_refused() -> None:
    def body() -> str:
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        assert clone.thread_count() == 2
        with pytest.raises(Error) as caught:
            clone.clone3(0)
        end.set()
        thread.join()
        return str(caught.value)

    assert "2 threads" in in_child(body)
    assert in_child(clone.thread_count) == 1


def test_a_failure_is_told_with_the_names_of_the_flags() -> None:
    def body() -> str:
        before = open_files()
        with pytest.raises(KernelError) as caught:
            clone.clone3(c.CLONE_NEWNS | c.CLONE_FS | c.CLONE_NEWTIME)
        assert caught.value.errno == errno.EINVAL
        assert open_files() == before
        return str(caught.value)

    told = "clone3(flags=CLONE_NEWTIME|CLONE_FS|CLONE_NEWNS, exit_signal=SIGCHLD, pidfd=True): EINVAL"
    assert in_child(body).startswith(told)


@pytest.mark.needs("root", "cgroup2")
def test_the_child_starts_in_the_cgroup() -> None:
    group = Path(v2_mount(), f"pyruntime-clone-{os.getpid()}")

    def body() -> None:
        cgroup_fd = os.open(group, os.O_PATH | os.O_DIRECTORY)
        pid, _pidfd = clone.clone3(0, cgroup_fd=cgroup_fd)
        if pid == 0:
            signal.pause()
            os._exit(1)
        assert (group / "cgroup.procs").read_text() == f"{pid}\n"
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -c.SIGKILL

    group.mkdir()
    try:
        in_child(body)
    finally:
        group.rmdir()


def test_a_descriptor_that_is_no_cgroup_is_refused() -> None:
    def body() -> str:
        with pytest.raises(KernelError) as caught:
            clone.clone3(0, cgroup_fd=os.open("/", os.O_PATH))
        return str(caught.value)

    text = in_child(body)
    assert "CLONE_INTO_CGROUP" not in text, "the flags are shown as the caller gave them"
    assert "EBADF" in text


def test_many_children_in_a_row() -> None:
    def body() -> None:
        for number in range(200):
            pid, pidfd = clone.clone3(0)
            if pid == 0:
                os._exit(number % 100)
            assert exit_code(pid) == number % 100
            os.close(pidfd)
        assert proc.state_and_start_time(os.getpid())[0] == "R"

    in_child(body)


class Spawned:
    """A hop that `spawn` has started: it waits for a word, tells which signals it has blocked, and ends with 7."""

    def __init__(self, flags: int = 0, *, cgroup_fd: int | None = None, may_sleep: bool = True) -> None:
        self.fd, theirs = syscalls.socketpair(c.AF_UNIX, c.SOCK_SEQPACKET)
        tape = Tape()
        tape.wait_for_word(theirs)
        mask = bytearray(8)
        tape.call(c.SYS_rt_sigprocmask, signal.SIG_BLOCK, 0, mask, 8)
        tape.call(c.SYS_write, theirs, mask, 8)
        tape.call(c.SYS_exit_group, 7)
        hop_fd = exeseal.sealed(tape, theirs)
        os.set_inheritable(theirs, True)
        self.pid, self.pidfd = exeseal.spawn(flags, hop_fd, cgroup_fd=cgroup_fd, is_frozen=not may_sleep)
        os.close(hop_fd)
        os.close(theirs)
        # A child that was forked may be on its way to the execve yet, and any in the midst of it: arguments come last.
        while Path(f"/proc/{self.pid}/cmdline").read_bytes() != exeseal.NAME + b"\0":
            os.sched_yield()

    def link(self, name: str) -> str:
        return os.readlink(f"/proc/{self.pid}/{name}")

    def status(self, field: str) -> int:
        """A mask of signals in /proc/PID/status: proc_pid_status(5)."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1], 16) for line in lines if line.startswith(f"{field}:"))

    def end(self) -> int:
        """Let it end. Returns the mask that it tells."""
        os.write(self.fd, b"go")
        mask = int.from_bytes(os.read(self.fd, 100), "little")
        assert exit_code(self.pid) == 7
        os.close(self.fd)
        os.close(self.pidfd)
        return mask


both_ways = pytest.mark.parametrize("may_sleep", [True, False], ids=["vfork", "fork"])


@both_ways
class TestSpawn:
    """A child that executes at once."""

    def test_it_runs_and_ends(self, may_sleep: bool) -> None:
        def body() -> None:
            before = open_files()
            spawned = Spawned(may_sleep=may_sleep)
            assert closes_on_exec(spawned.pidfd)
            assert f"Pid:\t{spawned.pid}" in Path(f"/proc/self/fdinfo/{spawned.pidfd}").read_text()
            assert Path(f"/proc/{spawned.pid}/cmdline").read_bytes() == exeseal.NAME + b"\0"
            assert Path(f"/proc/{spawned.pid}/environ").read_bytes() == b""
            spawned.end()
            assert open_files() == before

        in_child(body)

    @pytest.mark.needs("root")
    def test_it_is_in_its_new_namespaces(self, may_sleep: bool) -> None:
        flags = c.CLONE_NEWPID | c.CLONE_NEWUTS | c.CLONE_NEWNET | c.CLONE_NEWIPC | c.CLONE_NEWNS

        def body() -> None:
            home = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "uts", "net", "ipc", "mnt", "user")}
            spawned = Spawned(flags, may_sleep=may_sleep)
            same = {kind for kind, name in home.items() if spawned.link(f"ns/{kind}") == name}
            assert same == {"user"}
            nspid = Path(f"/proc/{spawned.pid}/status").read_text().partition("NSpid:")[2].split("\n")[0]
            assert nspid.split()[-1] == "1"
            assert {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in home} == home
            spawned.end()

        in_child(body)

    @pytest.mark.needs("root", "cgroup2")
    def test_it_starts_in_the_cgroup(self, may_sleep: bool) -> None:
        group = Path(v2_mount(), f"pyruntime-spawn-{os.getpid()}")

        def body() -> None:
            cgroup_fd = os.open(group, os.O_PATH | os.O_DIRECTORY)
            spawned = Spawned(cgroup_fd=cgroup_fd, may_sleep=may_sleep)
            assert (group / "cgroup.procs").read_text() == f"{spawned.pid}\n"
            spawned.end()

        group.mkdir()
        try:
            in_child(body)
        finally:
            group.rmdir()

    def test_descriptors_that_close_do(self, may_sleep: bool) -> None:
        def body() -> None:
            stay, close = (fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 50) for _ in range(2))
            os.set_inheritable(stay, True)
            spawned = Spawned(may_sleep=may_sleep)
            fds = {int(name) for name in os.listdir(f"/proc/{spawned.pid}/fd")}
            assert stay in fds
            assert close not in fds
            spawned.end()

        in_child(body)

    def test_the_mask_and_what_is_ignored_are_inherited_and_no_handler_is(self, may_sleep: bool) -> None:
        def body() -> None:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGUSR2, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGHUP, signal.SIGRTMAX})
            spawned = Spawned(may_sleep=may_sleep)
            blocked = 1 << signal.SIGHUP - 1 | 1 << signal.SIGRTMAX - 1
            assert spawned.status("SigBlk") == blocked
            assert spawned.status("SigIgn") >> signal.SIGUSR1 - 1 & 1
            assert not spawned.status("SigIgn") >> signal.SIGUSR2 - 1 & 1
            assert spawned.status("SigCgt") == 0
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGHUP, signal.SIGRTMAX}
            assert signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL
            assert spawned.end() == blocked

        in_child(body)

    def test_python_works_on_and_on(self, may_sleep: bool) -> None:
        """The child has lived in its memory, perhaps."""

        def body() -> None:
            for _ in range(50):
                spawned = Spawned(may_sleep=may_sleep)
                grown = [str(number) for number in range(1000)]
                spawned.end()
                assert grown[999] == "999"
            maps = Path("/proc/self/maps").read_text()
            assert "pyruntime-hop" not in maps, "the code is still mapped"

        in_child(body)

    def test_a_clone_that_fails_is_told(self, may_sleep: bool) -> None:
        def body() -> str:
            hop_fd = exeseal.sealed(Tape(), 1)
            before = open_files()
            with pytest.raises(KernelError) as caught:
                exeseal.spawn(c.CLONE_NEWNS | c.CLONE_FS, hop_fd, is_frozen=not may_sleep)
            assert caught.value.errno == errno.EINVAL
            assert open_files() == before
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, 0)
            return str(caught.value)

        assert in_child(body).startswith("clone3(flags=")

    def test_a_descriptor_that_is_no_cgroup_is_refused(self, may_sleep: bool) -> None:
        def body() -> str:
            with pytest.raises(KernelError) as caught:
                Spawned(cgroup_fd=os.open("/", os.O_PATH), may_sleep=may_sleep)
            return str(caught.value)

        assert "EBADF" in in_child(body)


def test_an_execve_that_fails_is_told_and_leaves_no_zombie() -> None:
    """The code runs, but the file is none that can be executed any more."""

    def body() -> str:
        tape = Tape()
        tape.call(c.SYS_exit_group, 0)
        content = bytearray(exeseal.image(tape.linked(exeseal.TAPE, 1)))
        content[:4] = b"\x7fFLE"
        broken_fd = os.memfd_create("broken")
        os.write(broken_fd, content)
        before = open_files()
        with pytest.raises(KernelError) as caught:
            exeseal.spawn(0, broken_fd)
        assert caught.value.errno == errno.ENOEXEC
        assert open_files() == before
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0)
        return str(caught.value)

    assert in_child(body).startswith("execveat(fd=")


def test_an_execve_that_fails_in_a_fork_ends_the_child() -> None:
    """Whoever may not sleep can't wait for it: the child's end tells it."""

    def body() -> None:
        before = open_files()
        pid, pidfd = exeseal.spawn(0, os.memfd_create("empty"), is_frozen=True)
        assert exit_code(pid) == 1
        os.close(pidfd)
        assert len(open_files() - before) == 1

    in_child(body)


def test_memory_that_may_not_be_executed_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a security module may have it: then the child is forked."""
    monkeypatch.setattr(clone, "_map", lambda *_: clone._MAP_FAILED)

    def body() -> None:
        Spawned().end()

    in_child(body)


@pytest.mark.needs("root", "cgroup2")
def test_a_cgroup_that_is_frozen_does_not_have_us_sleep() -> None:
    """may_sleep=False: the child comes to its execve when the cgroup is thawed."""
    group = Path(v2_mount(), f"pyruntime-frozen-{os.getpid()}")

    def body() -> None:
        cgroup_fd = os.open(group, os.O_PATH | os.O_DIRECTORY)
        (group / "cgroup.freeze").write_text("1")
        tape = Tape()
        tape.call(c.SYS_exit_group, 7)
        pid, _pidfd = exeseal.spawn(0, exeseal.sealed(tape, 1), cgroup_fd=cgroup_fd, is_frozen=True)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        (group / "cgroup.freeze").write_text("0")
        assert exit_code(pid) == 7

    group.mkdir()
    try:
        in_child(body)
    finally:
        group.rmdir()
