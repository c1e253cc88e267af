"""clone3, which makes a container's first process behind Python's back."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from pyruntime.errors import Error, KernelError
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
        assert proc.process_state(os.getpid()) == "R"

    in_child(body)
