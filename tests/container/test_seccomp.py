"""linux.seccomp from outside: what the container's program meets, and who is told of it (config-linux.md#seccomp)."""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import platform
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container, wait_until
from tests.support.runtime import identify
from tests.support.terminal import Terminal, finish, on_terminal

pytestmark = [pytest.mark.needs("root", "busybox", "libseccomp")]

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
OURS = identify().name == "pyruntime"
only_ours = pytest.mark.only_pyruntime("runc loads the filter earlier, and needs more of a profile")


def entry(*names: str, action: str = ALLOW, **more: Any) -> Any:
    return {"names": list(names), "action": action, **more}


def deny(container: Container, *names: str, action: str = ERRNO, **more: Any) -> None:
    container.linux["seccomp"] = {"defaultAction": ALLOW, "syscalls": [entry(*names, action=action, **more)]}


MKDIR = "mkdir /dev/shm/made 2>/dev/null && echo made || echo refused"
# What libseccomp knows by number, so that the profile has the size and the shape of what engines ship.
NOT_BY_DEFAULT = set(
    "acct add_key bpf clone clone3 create_module delete_module finit_module fsconfig fsmount fsopen fspick "
    "get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp "
    "kexec_file_load kexec_load keyctl lookup_dcookie mbind mount mount_setattr move_mount move_pages nfsservctl "
    "open_by_handle_at open_tree perf_event_open personality pivot_root ptrace query_module quotactl quotactl_fd "
    "reboot request_key set_mempolicy setdomainname sethostname setns settimeofday socket stime swapoff swapon sysfs "
    "umount umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old".split()
)


def engines_profile() -> Any:
    """All calls but those that containers don't have by default, some with conditions, for all of the architecture."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    native = library.seccomp_arch_native() & 0xFFFFFFFF
    found = (library.seccomp_syscall_resolve_num_arch(ctypes.c_uint(native), number) for number in range(500))
    names = [name.decode() for name in found if name and name.decode() not in NOT_BY_DEFAULT]
    assert len(names) > 250
    architectures = {"x86_64": ["X86_64", "X86", "X32"], "aarch64": ["AARCH64", "ARM"]}[platform.machine()]
    flags = 0x7E020000  # CLONE_NEW*
    return {
        "defaultAction": ERRNO,
        "defaultErrnoRet": 1,
        "architectures": [f"SCMP_ARCH_{name}" for name in architectures],
        "syscalls": [
            entry(*names, "no_call_of_this_kernel"),
            entry("socket", args=[{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]),
            *(entry("personality", args=[{"index": 0, "value": v, "op": "SCMP_CMP_EQ"}]) for v in (0, 8, 0xFFFFFFFF)),
            entry("clone", args=[{"index": 0, "value": flags, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]),
            entry("clone3", action=ERRNO, errnoRet=38),
        ],
    }


@pytest.fixture(params=[True, False], ids=["no-new-privileges", "with-privileges"])
def either(request: pytest.FixtureRequest, container: Container) -> Container:
    """A container whose filter is loaded by the hop, or by the child."""
    container.process["noNewPrivileges"] = request.param
    return container


def test_no_profile_is_no_filter(container: Container) -> None:
    assert container.status_fields()["Seccomp"] == "0"


def test_an_empty_profile_is_no_filter(container: Container) -> None:
    container.linux["seccomp"] = {}
    assert container.status_fields()["Seccomp"] == "0"


def test_a_call_is_refused(either: Container) -> None:
    """names, errnoRet: the number reaches the program, in words of its libc."""
    deny(either, "mkdir", "mkdirat", errnoRet=28)
    assert "No space left" in either.output("mkdir /tmp/made 2>&1 || :")
    assert either.status_fields()["Seccomp"] == "2"


@pytest.mark.parametrize(("number", "words"), [(None, "Operation not permitted"), (28, "No space left")])
def test_the_default_action(container: Container, number: int | None, words: str) -> None:
    """defaultAction, defaultErrnoRet: for all that engines' profiles leave out, here two more."""
    profile = engines_profile()
    del profile["defaultErrnoRet"]
    profile |= {} if number is None else {"defaultErrnoRet": number}
    profile["syscalls"][0]["names"] = [n for n in profile["syscalls"][0]["names"] if n not in ("mkdir", "mkdirat")]
    container.linux["seccomp"] = profile
    assert words in container.output("mkdir /tmp/made 2>&1 || :")


def test_the_profile_of_an_engine(either: Container) -> None:
    either.linux["seccomp"] = engines_profile()
    either.grant("CAP_SYS_ADMIN")
    for _ in ("compiled", "kept"):
        told = either.output(f"{MKDIR}; unshare -m true 2>&1; grep Seccomp: /proc/self/status; ls / | wc -l")
        assert "made" in told
        assert "Operation not permitted" in told
        assert "Seccomp:\t2" in told


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("SCMP_ACT_KILL", 159),
        ("SCMP_ACT_KILL_THREAD", 159),
        ("SCMP_ACT_KILL_PROCESS", 159),
        ("SCMP_ACT_TRAP", 159),
        ("SCMP_ACT_ERRNO", 1),
        ("SCMP_ACT_TRACE", 1),
        ("SCMP_ACT_LOG", 0),
        ("SCMP_ACT_ALLOW", 0),
    ],
)
def test_actions(container: Container, action: str, status: int) -> None:
    deny(container, "mkdir", "mkdirat", action=action)
    container.process["args"] = ["mkdir", "/tmp/made"]
    container.config["root"]["readonly"] = False
    assert container.run().status == status


@pytest.mark.skipif(identify().name == "runc" and identify().version < (1, 2), reason="runc has flags since 1.2")
@pytest.mark.parametrize(
    "flags",
    [None, [], ["SECCOMP_FILTER_FLAG_LOG"], ["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"]],
    ids=str,
)
def test_flags(either: Container, flags: list[str] | None) -> None:
    deny(either, "mkdir", "mkdirat")
    if flags is not None:
        either.linux["seccomp"]["flags"] = flags
    assert either.output(MKDIR) == "refused"


def test_arguments_decide(container: Container) -> None:
    """chmod(2) with exactly this mode is refused."""
    args = [{"index": index, "value": 0o701, "op": "SCMP_CMP_EQ"} for index in (1, 2)]
    container.linux["seccomp"] = {
        "defaultAction": ALLOW,
        "syscalls": [
            entry("chmod", "fchmod", action=ERRNO, args=args[:1]),
            entry("fchmodat", "fchmodat2", action=ERRNO, args=args[1:]),
        ],
    }
    container.config["root"]["readonly"] = False
    script = "touch /tmp/a; for m in 700 701; do chmod $m /tmp/a 2>/dev/null && echo $m || echo no; done"
    assert container.output(script) == "700\nno"


def test_without_new_privileges_and_without_rights(container: Container) -> None:
    """The filter needs CAP_SYS_ADMIN, which the user does not have: it is loaded before that is given up."""
    container.process["noNewPrivileges"] = False
    container.process["user"] = {"uid": 1000, "gid": 1000}
    container.process["capabilities"] = {}
    deny(container, "mkdir", "mkdirat")
    fields = container.status_fields()
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "0")
    assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}


@pytest.mark.parametrize("capability", ["CAP_SYS_ADMIN", "CAP_CHOWN"])
def test_the_capabilities_are_those_of_the_config(either: Container, capability: str) -> None:
    deny(either, "mkdir", "mkdirat")
    either.grant(capability)
    with_filter = either.status_fields()
    del either.linux["seccomp"]
    without = either.status_fields()
    names = [name for name in without if name.startswith("Cap")]
    assert [with_filter[name] for name in names] == [without[name] for name in names]


@only_ours
def test_a_profile_needs_to_allow_execve_alone(container: Container, static_exit: Path) -> None:
    """With no_new_privs nothing of the start is judged by the filter but execve itself."""
    container.add_program("bin/exit7", static_exit)
    container.process["args"] = ["/bin/exit7"]
    container.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [entry("execve", "exit")],
    }
    assert container.run().status == 7


@only_ours
def test_what_a_profile_must_allow_besides(container: Container, static_exit: Path) -> None:
    """Without no_new_privs: what README says, and memory, which any program takes. accept4 is for `create`."""
    container.add_program("bin/exit7", static_exit)
    container.process["args"] = ["/bin/exit7"]
    container.process["noNewPrivileges"] = False
    needed = "capset execveat prctl fcntl execve"
    container.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [entry(*needed.split(), "brk", "mmap", "munmap", "exit")],
    }
    assert container.run().status == 7


@pytest.fixture(scope="session")
def static_exit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose only system call is exit(7): an ELF header, one segment, nine bytes of code."""
    if platform.machine() != "x86_64":
        pytest.skip("the program is for x86-64")
    code = bytes.fromhex("6a075f6a3c580f05f4")
    size = 120 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1".ljust(16, b"\0"), 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    path = tmp_path_factory.mktemp("exit") / "exit7"
    path.write_bytes(header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 4096) + code)
    return path


@only_ours
def test_execve_that_is_refused_is_told(container: Container) -> None:
    deny(container, "execve")
    result = container.run()
    assert result.status == 1
    assert "EPERM" in result.stderr
    assert "execve" in result.stderr


@only_ours
def test_what_the_start_itself_needs_is_told(container: Container) -> None:
    container.process["noNewPrivileges"] = False
    deny(container, "capset")
    result = container.run()
    assert result.status == 1
    assert "config.json#/linux/seccomp" in result.stderr
    assert "must allow capset" in result.stderr


@only_ours
def test_a_filter_that_kills_the_start_is_loaded_at_its_end(container: Container) -> None:
    """Right before execve: `create` comes to its end, and what is killed is the process that would be the program."""
    container.process["noNewPrivileges"] = False
    deny(container, "capset", action="SCMP_ACT_KILL_PROCESS")
    assert container.create().status == 0
    container.start()
    wait_until(lambda: container.state()["status"] == "stopped", "the process to be killed")
    assert container.delete().status == 0
    assert container.run().status == 128 + signal.SIGSYS


def test_created_and_started(either: Container) -> None:
    deny(either, "mkdir", "mkdirat")
    either.config["root"]["readonly"] = False
    either.script(f"{MKDIR} > /told; sleep 100")
    assert either.create().status == 0
    assert either.start().status == 0
    either.wait_for("running")
    pid = either.pid()
    while "Seccomp:\t2" not in Path(f"/proc/{pid}/status").read_text():
        assert Path(f"/proc/{pid}").exists()
    either.delete("-f")


@pytest.mark.needs("userns")
def test_in_a_user_namespace(either: Container) -> None:
    either.map_root_to(100000)
    deny(either, "mkdir", "mkdirat")
    assert either.output(MKDIR) == "refused"


@only_ours
def test_the_kept_filters_belong_to_root_alone(container: Container) -> None:
    deny(container, "mkdir", "mkdirat")
    container.output("true")
    directory = container.runtime.root / "~seccomp"
    (file,) = directory.iterdir()
    assert (directory.stat().st_uid, directory.stat().st_mode & 0o777) == (0, 0o700)
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o600)
    assert container.runtime("list", "-q").stdout == ""
    file.write_bytes(b"\xff" * 100)
    assert container.output(MKDIR) == "refused"
    assert file.read_bytes()[:4] != b"\xff" * 4


# --- notifications --------------------------------------------------------------------------------------------------

SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND = 0xC0502100, 0xC0182101


class Agent(threading.Thread):
    """Who answers in place of the kernel: takes one listener, and answers each call with an errno."""

    def __init__(self, path: Path, errno: int) -> None:
        super().__init__(daemon=True)
        self.errno = errno
        self.state: dict[str, Any] = {}
        self.fds: list[int] = []
        self.calls = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(1)

    def run(self) -> None:
        connection, _ = self.socket.accept()
        with connection:
            message, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(16))
        for _, _, data in control:
            received = array.array("i")
            received.frombytes(data)
            self.fds += received.tolist()
        self.state = json.loads(message)
        while True:
            request = bytearray(80)
            try:
                fcntl.ioctl(self.fds[0], SECCOMP_IOCTL_NOTIF_RECV, request)
                (id,) = struct.unpack_from("=Q", request)
                fcntl.ioctl(self.fds[0], SECCOMP_IOCTL_NOTIF_SEND, struct.pack("=QqiI", id, 0, -self.errno, 0))
            except OSError:
                return  # the container has ended
            self.calls += 1


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "agent.sock", 28)
    agent.start()
    yield agent
    agent.socket.close()


def test_a_listener_is_handed_over(either: Container, agent: Agent, tmp_path: Path) -> None:
    """listenerPath, listenerMetadata: the container process state, and one descriptor."""
    either.config["annotations"] = {"a": "b"}
    deny(either, "mkdir", "mkdirat", action="SCMP_ACT_NOTIFY")
    either.linux["seccomp"] |= {"listenerPath": str(tmp_path / "agent.sock"), "listenerMetadata": "some words"}
    assert "No space left" in either.output("mkdir /tmp/made 2>&1 || :")
    agent.join(10)
    state = agent.state
    assert len(agent.fds) == 1
    assert agent.calls == 1
    assert (state["fds"], state["metadata"]) == (["seccompFd"], "some words")
    assert state["pid"] == state["state"]["pid"] > 0
    inner = state["state"]
    assert (inner["id"], inner["status"], inner["bundle"]) == (either.id, "creating", str(either.path))
    assert inner["annotations"]["a"] == "b"
    os.close(agent.fds[0])


def test_nobody_listens(container: Container, tmp_path: Path) -> None:
    deny(container, "mkdir", action="SCMP_ACT_NOTIFY")
    container.linux["seccomp"]["listenerPath"] = str(tmp_path / "nobody.sock")
    result = container.run()
    assert result.status == 1
    if OURS:
        assert "config.json#/linux/seccomp/listenerPath" in result.stderr


@pytest.mark.parametrize("where", ["write", "default", "no path"])
def test_notifications_that_cannot_be(container: Container, tmp_path: Path, where: str) -> None:
    deny(container, "write" if where == "write" else "mkdir", action="SCMP_ACT_NOTIFY")
    if where != "no path":
        container.linux["seccomp"]["listenerPath"] = str(tmp_path / "agent.sock")
    if where == "default":
        container.linux["seccomp"]["defaultAction"] = "SCMP_ACT_NOTIFY"
    result = container.run()
    assert result.status == 1
    if OURS:
        assert "config.json#/linux/seccomp" in result.stderr


def test_the_terminal_of_sigsys_is_the_programs_own(container: Container) -> None:
    """The exit status of a killed program is 128 and the signal."""
    deny(container, "mkdir", "mkdirat", action="SCMP_ACT_KILL_PROCESS")
    assert container.run_script("mkdir /tmp/x; exit $?").status == 128 + signal.SIGSYS


class TestExec:
    """`exec` has the container's filter, whoever loads it."""

    @pytest.mark.parametrize("privileged", [False, True])
    def test_the_containers_filter(self, either: Container, privileged: bool) -> None:
        either.linux["seccomp"] = engines_profile()
        either.grant("CAP_SYS_ADMIN")
        either.run_sleeping()
        flags = ["--no-new-privs=false"] if privileged else []
        told = either.exec_output("unshare -m true 2>&1; grep Seccomp: /proc/self/status", *flags)
        assert "Operation not permitted" in told
        assert "Seccomp:\t2" in told

    def test_on_a_terminal(self, either: Container) -> None:
        deny(either, "mkdir", "mkdirat")
        either.run_sleeping()
        with Terminal.open() as screen:
            process = either.runtime.spawn("exec", "-t", either.id, "sh", "-c", MKDIR, **on_terminal(screen))
            screen.read_until("refused\r\n")
            assert finish(process) == 0

    def test_a_filter_that_kills(self, either: Container) -> None:
        deny(either, "mkdir", "mkdirat", action="SCMP_ACT_KILL_PROCESS")
        either.run_sleeping()
        assert either.exec("mkdir", "/dev/shm/made").status == 128 + signal.SIGSYS

    @only_ours
    def test_what_the_hop_loads_needs_nothing_for_itself(self, container: Container) -> None:
        """Its clone, its session, its waiting come before the filter."""
        deny(container, "clone", "clone3", "setsid", "ioctl", "prctl", "fcntl", "execveat")
        container.run_sleeping()
        assert container.exec("true").status == 0

    @only_ours
    @pytest.mark.parametrize("name", ["clone", "setsid", "read", "write"])
    def test_what_one_that_needs_a_privilege_needs_for_itself(self, container: Container, name: str) -> None:
        """It is loaded right before execve, too, by a process that has kept the privilege until then."""
        container.process["noNewPrivileges"] = False
        deny(container, name, "clone3" if name == "clone" else name)
        container.run_sleeping()
        assert container.exec("true").status == 0

    @only_ours
    def test_what_one_that_notifies_must_allow(self, container: Container, agent: Agent, tmp_path: Path) -> None:
        deny(container, "mkdir", "mkdirat", action="SCMP_ACT_NOTIFY")
        container.linux["seccomp"] |= {"listenerPath": str(tmp_path / "agent.sock")}
        container.linux["seccomp"]["syscalls"].append({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1})
        container.run_sleeping()
        agent.join(0.1)
        result = container.exec("true")
        assert result.status == 255
        assert ": clone(CLONE_PARENT): EPERM: " in result.stderr
        assert "one that notifies what a start still takes" in result.stderr
        for fd in agent.fds:
            os.close(fd)

    def test_a_listener(self, either: Container, agent: Agent, tmp_path: Path) -> None:
        path = tmp_path / "agent.sock"
        deny(either, "mkdir", "mkdirat", action="SCMP_ACT_NOTIFY")
        either.linux["seccomp"] |= {"listenerPath": str(path), "listenerMetadata": "words"}
        either.run_sleeping()
        agent.join(0.1)
        agent.socket.close()
        path.unlink()
        second = Agent(path, 17)
        second.start()
        try:
            assert "File exists" in either.exec_output("mkdir /tmp/made 2>&1 || :")
            second.join(10)
        finally:
            second.socket.close()
        state = second.state
        assert (state["fds"], state["metadata"]) == (["seccompFd"], "words")
        assert (state["state"]["status"], state["state"]["pid"]) == ("running", either.pid())
        assert state["pid"] not in (0, either.pid())
        for fd in (*agent.fds, *second.fds):
            os.close(fd)

    @only_ours
    def test_a_listener_whose_call_the_hop_makes(self, either: Container, agent: Agent, tmp_path: Path) -> None:
        """It has to be answered before the process is there."""
        deny(either, "setsid", action="SCMP_ACT_NOTIFY")
        either.linux["seccomp"] |= {"listenerPath": str(tmp_path / "agent.sock")}
        either.run_sleeping()
        agent.join(0.1)
        agent.socket.close()
        (tmp_path / "agent.sock").unlink()
        second = Agent(tmp_path / "agent.sock", 1)
        second.start()
        try:
            assert either.exec("true").status == 0
            second.join(10)
        finally:
            second.socket.close()
        assert second.calls == 1
        for fd in (*agent.fds, *second.fds):
            os.close(fd)

    def test_nobody_listens(self, either: Container, agent: Agent, tmp_path: Path) -> None:
        deny(either, "mkdir", action="SCMP_ACT_NOTIFY")
        either.linux["seccomp"]["listenerPath"] = str(tmp_path / "agent.sock")
        either.run_sleeping()
        agent.join(0.1)
        agent.socket.close()
        (tmp_path / "agent.sock").unlink()
        result = either.exec("touch", "/dev/executed")
        assert result.status == 255
        if OURS:
            assert "config.json#/linux/seccomp/listenerPath" in result.stderr
        os.close(agent.fds[0])
