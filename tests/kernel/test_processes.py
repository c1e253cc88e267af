"""The wrappers that change what a process is: namespaces, limits, attributes, its program."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from pyruntime.errors import Error, KernelError
from pyruntime.linux import constants as c
from pyruntime.linux import net_if, proc, syscalls
from tests.kernel.child import closes_on_exec, in_child


@pytest.mark.needs("root")
def test_unshare_leaves_a_namespace_and_setns_comes_back() -> None:
    def body() -> None:
        home = os.readlink("/proc/self/ns/uts")
        home_fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
        syscalls.unshare(c.CLONE_NEWUTS)
        assert os.readlink("/proc/self/ns/uts") != home
        with pytest.raises(KernelError, match=r"nstype=CLONE_NEWNET\): EINVAL: .*not a namespace of that type"):
            syscalls.setns(home_fd, c.CLONE_NEWNET)
        syscalls.setns(home_fd, c.CLONE_NEWUTS)
        assert os.readlink("/proc/self/ns/uts") == home

    in_child(body)


@pytest.mark.needs("root")
def test_sethostname_and_setdomainname() -> None:
    def body() -> None:
        syscalls.sethostname("wéb-1")
        syscalls.setdomainname(b"example.org")
        assert os.uname().nodename == "wéb-1"
        assert Path("/proc/sys/kernel/domainname").read_text() == "example.org\n"
        syscalls.sethostname("x" * 64)
        with pytest.raises(KernelError) as caught:
            syscalls.sethostname("x" * 65)
        assert caught.value.errno == errno.EINVAL

    before = os.uname().nodename
    in_child(body, unshare=c.CLONE_NEWUTS)
    assert os.uname().nodename == before


@pytest.mark.needs("root")
def test_loopback_up() -> None:
    def body() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with socket.socket() as client, pytest.raises(OSError, match="unreachable"):
                client.connect(listener.getsockname())
            before = os.listdir("/proc/self/fd")
            net_if.loopback_up()
            assert os.listdir("/proc/self/fd") == before
            with socket.socket() as client:
                client.settimeout(5)
                client.connect(listener.getsockname())

    in_child(body, unshare=c.CLONE_NEWNET)


def test_prctl_sets_and_gets() -> None:
    def body() -> None:
        assert syscalls.prctl(c.PR_GET_NO_NEW_PRIVS) == 0
        syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)
        assert syscalls.prctl(c.PR_GET_NO_NEW_PRIVS) == 1
        syscalls.prctl(c.PR_SET_NAME, "a) Z 1 (b")
        assert Path("/proc/self/comm").read_text() == "a) Z 1 (b\n"
        with pytest.raises(KernelError) as caught:
            syscalls.prctl(c.PR_SET_DUMPABLE, 7)
        assert str(caught.value) == "prctl(option=PR_SET_DUMPABLE, a2=7): EINVAL: Invalid argument"

    in_child(body)


def test_prlimit_sets_this_and_another_process() -> None:
    def body() -> None:
        former = resource.getrlimit(resource.RLIMIT_CORE)
        old = syscalls.prlimit(0, c.RLIMIT_CORE, 5, 2**33)
        assert old == tuple(limit % 2**64 for limit in former)
        assert syscalls.prlimit(os.getpid(), c.RLIMIT_CORE, 0, 0) == (5, 2**33)
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        with pytest.raises(KernelError, match=r"^prlimit\(pid=0, resource=RLIMIT_NOFILE, soft=2, hard=1\): EINVAL"):
            syscalls.prlimit(0, c.RLIMIT_NOFILE, 2, 1)

    in_child(body)


def stat_field(number: int) -> int:
    """Field `number` of /proc/self/stat, see proc_pid_stat(5)."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[number - 3])


@pytest.mark.parametrize(
    ("policy", "nice"), [(c.SCHED_OTHER, 7), (c.SCHED_BATCH, 19), (c.SCHED_IDLE, 0)], ids=["other", "batch", "idle"]
)
def test_sched_setattr_without_privileges(policy: int, nice: int) -> None:
    def body() -> None:
        syscalls.sched_setattr(0, policy, c.SCHED_FLAG_RESET_ON_FORK, nice=nice)
        assert os.sched_getscheduler(0) == policy | os.SCHED_RESET_ON_FORK
        assert os.getpriority(os.PRIO_PROCESS, 0) == nice

    in_child(body)


@pytest.mark.needs("root")
def test_sched_setattr_of_another_process() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(1)
    try:
        syscalls.sched_setattr(pid, c.SCHED_RR, priority=42)
        assert os.sched_getscheduler(pid) == os.SCHED_RR
        assert os.sched_getparam(pid).sched_priority == 42
        syscalls.sched_setattr(pid, c.SCHED_OTHER, nice=-20)
        assert os.getpriority(os.PRIO_PROCESS, pid) == -20
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.needs("root")
def test_a_deadline_is_taken_whole() -> None:
    def body() -> None:
        flags = c.SCHED_FLAG_RESET_ON_FORK  # without it, the process could not fork
        syscalls.sched_setattr(0, c.SCHED_DEADLINE, flags, runtime=10**6, deadline=3 * 10**9, period=4 * 10**9)
        assert os.sched_getscheduler(0) == c.SCHED_DEADLINE | os.SCHED_RESET_ON_FORK
        said = subprocess.run(["chrt", "-p", str(os.getpid())], capture_output=True, text=True, check=True).stdout
        assert said.splitlines()[-1].endswith("1000000/3000000000/4000000000")

    in_child(body)


def test_a_wrong_priority_is_explained() -> None:
    with pytest.raises(KernelError) as caught:
        syscalls.sched_setattr(0, c.SCHED_FIFO, priority=100)
    text = str(caught.value)
    assert text.startswith("sched_setattr(pid=0, policy=SCHED_FIFO, priority=100): EINVAL")
    assert "1 to 99" in text


def test_ioprio_set() -> None:
    def body() -> None:
        syscalls.ioprio_set(c.IOPRIO_WHO_PROCESS, 0, c.IOPRIO_CLASS_IDLE << c.IOPRIO_CLASS_SHIFT | 3)
        said = subprocess.run(["ionice", "-p", str(os.getpid())], capture_output=True, text=True, check=True).stdout
        assert said.startswith("idle")
        syscalls.ioprio_set(c.IOPRIO_WHO_PROCESS, 0, c.IOPRIO_CLASS_BE << c.IOPRIO_CLASS_SHIFT | 6)
        said = subprocess.run(["ionice", "-p", str(os.getpid())], capture_output=True, text=True, check=True).stdout
        assert said == "best-effort: prio 6\n"
        with pytest.raises(KernelError, match=r"^ioprio_set\(which=IOPRIO_WHO_PROCESS, who=0, ioprio=32768\): EINVAL"):
            syscalls.ioprio_set(c.IOPRIO_WHO_PROCESS, 0, 4 << c.IOPRIO_CLASS_SHIFT)

    in_child(body)


def test_a_pidfd_stands_for_its_process() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(1)
    pidfd = syscalls.pidfd_open(pid)
    assert closes_on_exec(pidfd)
    syscalls.pidfd_send_signal(pidfd, c.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    with pytest.raises(KernelError) as caught:
        syscalls.pidfd_send_signal(pidfd, c.SIGKILL)
    assert caught.value.errno == errno.ESRCH
    os.close(pidfd)


def output_of(become: str, tmp_path: Path, argv: list[bytes], envp: list[bytes]) -> bytes:
    """What /usr/bin/env or sh writes when a child becomes it by `become`."""
    output = tmp_path / "output"
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
            if become == "execve":
                syscalls.execve("/bin/sh", argv, envp)
            fd = os.open("/bin/sh", os.O_PATH | os.O_CLOEXEC)
            syscalls.execveat(fd, "", argv, envp, c.AT_EMPTY_PATH)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return output.read_bytes()


@pytest.mark.parametrize("become", ["execve", "execveat"])
def test_a_program_gets_its_arguments_and_environment(become: str, tmp_path: Path) -> None:
    script = b'printf "%s|" "$0" "$#" "$1" "$2" "$A"; tr "\\0" "|" < /proc/$$/environ'
    envp = [b"A=\xff\xfe", b"EMPTY=", b"A=second", b"PATH=/usr/bin:/bin"]
    output = output_of(become, tmp_path, [b"sh", b"-c", script, b"zero", b"", b"caf\xc3\xa9"], envp)
    fields = output.split(b"|")
    assert fields[:4] == [b"zero", b"2", b"", b"caf\xc3\xa9"]
    assert fields[5:-1] == envp, "in this order, with the one that comes twice"


def test_a_missing_interpreter_is_explained(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(KernelError) as caught:
        syscalls.execve(str(script), [b"script", b"x" * 300], [b"SECRET=1", b"B=2"])
    text = str(caught.value)
    assert caught.value.errno == errno.ENOENT
    assert "the interpreter it names is missing" in text
    assert "envp=[2 strings]" in text
    assert "SECRET" not in text
    assert len(text) < 600


def test_an_argument_with_a_nul_is_refused() -> None:
    with pytest.raises(Error, match="contains a NUL"):
        syscalls.execve("/bin/true", [b"true", b"a\0b"], [])


@pytest.fixture
def odd_name() -> str:
    return ") Z 1 2 3 4 5 ("


def test_the_start_time_is_read_past_any_program_name(odd_name: str) -> None:
    def body() -> tuple[int, int, str]:
        before = proc.start_time(os.getpid())
        syscalls.prctl(c.PR_SET_NAME, odd_name)
        state, after = proc.state_and_start_time(os.getpid())
        return before, after, state

    before, after, state = in_child(body)
    assert before == after > 0
    assert state == "R"


def test_a_zombie_and_a_process_that_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert proc.state_and_start_time(pid)[0] == "Z"
    os.waitpid(pid, 0)
    for read in (proc.state_and_start_time, proc.start_time):
        with pytest.raises((FileNotFoundError, ProcessLookupError)):
            read(pid)


def test_read_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    assert proc.read_file(str(tmp_path / "file"), 100_000) == b"x" * 100_000
    with pytest.raises(OSError) as caught:
        proc.read_file(str(tmp_path / "file"), 99_999)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "file")


def test_write_file_writes_but_never_creates(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(KernelError, match=f"{path}.*ENOENT"):
        proc.write_file(str(path), b"value")
    assert not path.exists()
    path.touch()
    proc.write_file(str(path), b"value")
    assert path.read_bytes() == b"value"
    with pytest.raises(KernelError, match=r"write\('/proc/self/oom_score_adj', b'many'\): EINVAL"):
        proc.write_file("/proc/self/oom_score_adj", b"many")
