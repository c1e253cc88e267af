"""libseccomp's programs (linux/seccomp.py) as the kernel takes them, and the cache of them (launch/seccomp.py)."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyruntime import report
from pyruntime.errors import Error, KernelError, UnsupportedError
from pyruntime.launch import seccomp as loading
from pyruntime.linux import constants as c
from pyruntime.linux import seccomp as binding
from pyruntime.linux import syscalls
from pyruntime.plan.seccomp import LoadSeccomp
from pyruntime.plan.seccomp_rules import ARCHITECTURES, architectures, default_action, hides_new_calls, rules
from tests.kernel.child import in_child
from tests.support.classic_bpf import I386, X32_BIT, decide

pytestmark = pytest.mark.needs("libseccomp")

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
ALLOWED, EPERM_, KILLED = 0x7FFF0000, 0x00050001, 0x00000000
HIDDEN = 0x00050000 | errno.ENOSYS
on_x86_64 = pytest.mark.skipif(c.MACHINE != "x86_64", reason="the numbers are those of x86-64")


def compiled(profile: Any) -> bytes:
    """As launch.seccomp compiles it, without its cache."""
    return binding.Library().compile(
        default_action(profile), list(rules(profile)), architectures(profile), hide_new=hides_new_calls(profile)
    )


def entry(*names: str, action: str = ALLOW, **more: Any) -> Any:
    return {"names": list(names), "action": action, **more}


def under(profile: Any, body: Callable[[], Any], flags: int = 0) -> Any:
    """What `body` returns in a child under the filter."""
    program = compiled(profile)

    def child() -> Any:
        syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.seccomp(c.SECCOMP_SET_MODE_FILTER, flags, program)
        return body()

    return in_child(child)


def end_under(profile: Any, body: Callable[[], Any]) -> int:
    """How a child ends that does `body` under the filter: its status, or minus the signal."""
    program = compiled(profile)
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)
            syscalls.seccomp(c.SECCOMP_SET_MODE_FILTER, 0, program)
            body()
        finally:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def errno_of(call: Callable[[], Any]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def denying(action: str, **more: Any) -> Any:
    return {"defaultAction": ALLOW, "syscalls": [entry("getppid", action=action, **more)]}


def raw(number: int, *args: int) -> int:
    """A system call by its number: its result, or minus its errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, args))
    return -ctypes.get_errno() if result == -1 else int(result)


class TestActions:
    @on_x86_64
    @pytest.mark.parametrize(("more", "number"), [({}, errno.EPERM), ({"errnoRet": 99}, 99)])
    def test_errno(self, more: Any, number: int) -> None:
        assert under(denying(ERRNO, **more), lambda: raw(110)) == -number

    @on_x86_64
    def test_errno_zero_is_success_without_the_deed(self) -> None:
        assert under(denying(ERRNO, errnoRet=0), lambda: raw(110)) == 0

    @pytest.mark.parametrize(
        "action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"]
    )
    def test_it_is_killed(self, action: str) -> None:
        assert end_under(denying(action), os.getppid) == -signal.SIGSYS

    def test_trap_tells_the_program(self) -> None:
        def body() -> list[int]:
            caught: list[int] = []
            signal.signal(signal.SIGSYS, lambda number, _frame: caught.append(number))
            os.getppid()
            return caught

        assert under(denying("SCMP_ACT_TRAP"), body) == [signal.SIGSYS]

    def test_log_lets_it_pass(self) -> None:
        assert under(denying("SCMP_ACT_LOG"), os.getppid) == os.getpid()

    @on_x86_64
    def test_trace_without_a_tracer_is_enosys(self) -> None:
        assert under(denying("SCMP_ACT_TRACE"), lambda: raw(110)) == -errno.ENOSYS

    def test_notify_gives_a_listener(self) -> None:
        program = compiled(denying("SCMP_ACT_NOTIFY"))

        def body() -> str:
            syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)
            fd = syscalls.seccomp(c.SECCOMP_SET_MODE_FILTER, c.SECCOMP_FILTER_FLAG_NEW_LISTENER, program)
            return os.readlink(f"/proc/self/fd/{fd}")

        assert in_child(body) == "anon_inode:seccomp notify"

    @on_x86_64
    def test_allow_in_a_profile_that_refuses(self) -> None:
        names = ["getppid", "write", "exit_group", "exit", "close", "munmap", "futex", "rt_sigaction", "brk", "mmap"]
        profile = {"defaultAction": ERRNO, "syscalls": [entry(*names)]}
        assert under(profile, lambda: (os.getppid() > 0, raw(39))) == (True, -errno.EPERM)


MASK, SOME = 0xFF00, 0x1200
BIG = 1 << 40
# operator, value, valueTwo, [(argument, whether it matches)]
OPERATIONS: list[tuple[str, int, int, list[tuple[int, bool]]]] = [
    ("EQ", 5, 0, [(5, True), (4, False), (5 | BIG, False)]),
    ("NE", 5, 0, [(5, False), (4, True), (5 | BIG, True)]),
    ("LT", 5, 0, [(4, True), (5, False), (6, False), (BIG, False)]),
    ("LE", 5, 0, [(4, True), (5, True), (6, False), (BIG, False)]),
    ("GT", 5, 0, [(6, True), (5, False), (BIG, True)]),
    ("GE", 5, 0, [(6, True), (5, True), (4, False), (BIG, True)]),
    ("MASKED_EQ", MASK, SOME, [(0x1200, True), (0x1234, True), (0x1300, False), (0x1200 | BIG, True)]),
    ("EQ", BIG, 0, [(BIG, True), (0, False)]),
]


class TestConditions:
    @on_x86_64
    @pytest.mark.parametrize("index", range(6))
    @pytest.mark.parametrize(("op", "value", "value_two", "cases"), OPERATIONS)
    def test_operators(self, index: int, op: str, value: int, value_two: int, cases: list[tuple[int, bool]]) -> None:
        args = [{"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": value_two}]
        program = compiled(denying(ERRNO, errnoRet=99, args=args))
        for argument, matches in cases:
            values = tuple(argument if at == index else value for at in range(6))
            assert decide(program, 110, values) == (0x00050063 if matches else ALLOWED), (op, argument)

    @on_x86_64
    def test_operators_in_the_kernel(self) -> None:
        """One of them for real: personality(2), whose argument is a whole word."""
        args = [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0xFF, "valueTwo": 0x08}]
        profile = {"defaultAction": ALLOW, "syscalls": [entry("personality", action=ERRNO, errnoRet=99, args=args)]}
        assert under(profile, lambda: (raw(135, 0xFFFFFFFF) >= 0, raw(135, 0x408))) == (True, -99)

    @on_x86_64
    def test_conditions_on_one_argument_are_alternatives(self) -> None:
        args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (1, 2)]
        program = compiled(denying(ERRNO, args=args))
        assert [decide(program, 110, (value,)) for value in (0, 1, 2, 3)] == [ALLOWED, EPERM_, EPERM_, ALLOWED]


@on_x86_64
def test_architectures() -> None:
    """What is listed is served by the same rules, by its own numbers; a call of another one ends the thread."""
    profile = {"defaultAction": ERRNO, "syscalls": [entry("mkdir")]}
    alone = compiled(profile)
    both = compiled({**profile, "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]})
    assert (decide(alone, 83), decide(alone, 39, arch=I386)) == (ALLOWED, KILLED)
    assert (decide(both, 83), decide(both, 39, arch=I386), decide(both, 38, arch=I386)) == (ALLOWED, ALLOWED, EPERM_)
    assert (decide(alone, X32_BIT | 83), decide(both, X32_BIT | 83)) == (KILLED, ALLOWED)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_libseccomp_knows_the_architecture(name: str) -> None:
    """Or is too old for it, and that is told."""
    lower = name.removeprefix("SCMP_ARCH_").lower()
    library = binding.Library()
    if lower == "loongarch64" and library.version() < (2, 6, 0):
        with pytest.raises(UnsupportedError, match=lower):
            library.architecture(lower)
    else:
        assert library.architecture(lower)


@on_x86_64
def test_what_the_profile_cannot_know_is_enosys() -> None:
    """mkdirat is 258, openat2 is 437: between them the profile decides, above it nobody knows."""
    program = compiled({"defaultAction": ERRNO, "syscalls": [entry("openat2"), entry("mkdirat")]})
    assert [decide(program, number) for number in (257, 258, 437, 438, 9999)] == [
        EPERM_,
        ALLOWED,
        ALLOWED,
        HIDDEN,
        HIDDEN,
    ]
    assert decide(program, X32_BIT | 5) == KILLED
    own = compiled({"defaultAction": ERRNO, "defaultErrnoRet": 38, "syscalls": [entry("mkdirat")]})
    assert decide(own, 9999) == HIDDEN
    assert decide(compiled({"defaultAction": ALLOW, "syscalls": [entry("mkdirat", action=ERRNO)]}), 9999) == ALLOWED


def test_an_unknown_name_is_skipped() -> None:
    with_it = compiled({"defaultAction": ERRNO, "syscalls": [entry("mkdirat", "no_such_call_ever")]})
    assert with_it == compiled({"defaultAction": ERRNO, "syscalls": [entry("mkdirat")]})


def test_a_contradiction_is_told_with_its_place() -> None:
    args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}]
    contradicting = [entry("mkdirat", args=args), entry("mkdirat", action="SCMP_ACT_LOG", args=args)]
    with pytest.raises(KernelError) as caught:
        compiled({"defaultAction": ERRNO, "syscalls": contradicting})
    assert caught.value.where == "config.json#/linux/seccomp/syscalls/1"
    assert "mkdirat" in str(caught.value)


def test_many_rules_make_a_tree_that_decides_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["read", "write", "openat", "close", "mkdirat", *ALL_NAMES]
    profile = {"defaultAction": ERRNO, "syscalls": [entry(*dict.fromkeys(names))]}
    tree = compiled(profile)
    monkeypatch.setattr(binding, "_WORTH_A_TREE", 10000)
    line = compiled(profile)
    assert tree != line
    assert [decide(tree, number) for number in range(500)] == [decide(line, number) for number in range(500)]


ALL_NAMES = (
    "access brk chdir chmod chown clock_gettime dup dup2 epoll_wait execve exit exit_group fchdir fcntl fork fsync "
    "ftruncate futex getcwd getdents64 getegid geteuid getgid getpid getppid getrandom getuid ioctl kill lseek madvise "
    "mmap mprotect munmap nanosleep pipe2 poll ppoll prctl pread64 readlink rename rt_sigaction sendfile setsid stat "
    "statfs symlink sync truncate umask uname unlink utimensat vfork wait4"
).split()


def test_a_filter_that_is_too_long_is_told() -> None:
    args = [[{"index": 0, "op": "SCMP_CMP_EQ", "value": value}] for value in range(9000)]
    profile = {"defaultAction": ERRNO, "syscalls": [entry("mkdirat", args=each) for each in args]}
    with pytest.raises(Error, match="4096"):
        compiled(profile)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "_LIBRARY", "libnowhere.so.2")
    with pytest.raises(UnsupportedError, match=r"libnowhere\.so\.2"):
        binding.Library()


def test_flags_that_the_kernel_knows() -> None:
    flags = {"log": c.SECCOMP_FILTER_FLAG_LOG, "wait": c.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, "none": 1 << 30}
    assert binding.supported_flags(flags) == ["log", "wait"]


@pytest.mark.needs("root")
def test_without_the_right_to_load_it() -> None:
    program = compiled(denying(ERRNO))

    def body() -> str:
        syscalls.capset(0, 0, 0)
        try:
            syscalls.seccomp(c.SECCOMP_SET_MODE_FILTER, 0, program)
        except KernelError as error:
            return str(error)
        return ""

    told = in_child(body)
    assert "EACCES" in told
    assert "CAP_SYS_ADMIN or no_new_privs" in told


# --- the cache ------------------------------------------------------------------------------------------------------


class Counted:
    """Says how often something was compiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        real = loading._compile

        def compile(step: LoadSeccomp) -> tuple[str, bytes]:
            self.times += 1
            return real(step)

        monkeypatch.setattr(loading, "_compile", compile)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(report, "sinks", [lambda _level, message: messages.append(message)])
    return messages


def step(profile: Any) -> LoadSeccomp:
    return LoadSeccomp("config.json#/linux/seccomp", profile, 0, False)


PROFILE = denying(ERRNO, errnoRet=99)


def kept(root: Path) -> Path:
    (file,) = (root / "~seccomp").iterdir()
    return file


def test_the_second_start_compiles_nothing(tmp_path: Path, counted: Counted, told: list[str]) -> None:
    first = loading.compiled(step(PROFILE), str(tmp_path))
    second = loading.compiled(step(denying(ERRNO, errnoRet=99)), str(tmp_path))
    assert first == second == compiled(PROFILE)
    assert (counted.times, told) == (1, [])
    assert (tmp_path / "~seccomp").stat().st_mode & 0o7777 == 0o700
    assert kept(tmp_path).stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("other", [denying(ERRNO, errnoRet=98), {**PROFILE, "architectures": ["SCMP_ARCH_X86"]}])
def test_another_profile_is_another_file(tmp_path: Path, counted: Counted, other: Any) -> None:
    loading.compiled(step(PROFILE), str(tmp_path))
    assert loading.compiled(step(other), str(tmp_path)) == compiled(other)
    assert counted.times == 2


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 8)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def replace_by_a_link(file: Path) -> None:
    content = file.with_name("elsewhere")
    file.rename(content)
    file.symlink_to(content)


def replace_by_a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def take_anothers(file: Path) -> None:
    """A whole file, of another profile."""
    other = denying("SCMP_ACT_LOG")
    loading.compiled(step(other), str(file.parent.parent))
    (theirs,) = set(file.parent.iterdir()) - {file}
    theirs.rename(file)


def let_others_write(file: Path) -> None:
    file.chmod(0o666)


@pytest.mark.parametrize(
    "damage", [truncate, flip, empty, replace_by_a_link, replace_by_a_fifo, take_anothers, let_others_write]
)
def test_a_damaged_file_is_compiled_anew(
    tmp_path: Path, counted: Counted, told: list[str], damage: Callable[[Path], None]
) -> None:
    loading.compiled(step(PROFILE), str(tmp_path))
    file = kept(tmp_path)
    damage(file)
    before = counted.times
    assert loading.compiled(step(PROFILE), str(tmp_path)) == compiled(PROFILE)
    assert counted.times == before + 1
    assert loading.compiled(step(PROFILE), str(tmp_path)) == compiled(PROFILE)
    assert counted.times == before + 1, "it was not mended"
    assert told == []


@pytest.mark.needs("root")
def test_anothers_file_is_not_read(tmp_path: Path, counted: Counted) -> None:
    loading.compiled(step(PROFILE), str(tmp_path))
    os.chown(kept(tmp_path), 12345, 0)
    loading.compiled(step(PROFILE), str(tmp_path))
    assert counted.times == 2
    assert kept(tmp_path).stat().st_uid == 0


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o750])
def test_a_directory_that_others_may_enter_is_not_used(
    tmp_path: Path, counted: Counted, told: list[str], mode: int
) -> None:
    loading.compiled(step(PROFILE), str(tmp_path))
    (tmp_path / "~seccomp").chmod(mode)
    assert loading.compiled(step(PROFILE), str(tmp_path)) == compiled(PROFILE)
    assert counted.times == 2
    assert "not cached" in told[0]


@pytest.mark.needs("root")
def test_anothers_directory_is_not_used(tmp_path: Path, counted: Counted, told: list[str]) -> None:
    (tmp_path / "~seccomp").mkdir(0o700)
    os.chown(tmp_path / "~seccomp", 12345, 0)
    assert loading.compiled(step(PROFILE), str(tmp_path)) == compiled(PROFILE)
    assert list((tmp_path / "~seccomp").iterdir()) == []
    assert "not cached" in told[0]


@pytest.mark.parametrize("kind", ["link", "file", "missing"])
def test_what_is_no_directory_is_not_used(tmp_path: Path, told: list[str], kind: str) -> None:
    root = tmp_path / "root"
    if kind != "missing":
        root.mkdir()
        (tmp_path / "real").mkdir(0o700)
    if kind == "link":
        (root / "~seccomp").symlink_to(tmp_path / "real")
    elif kind == "file":
        (root / "~seccomp").write_text("")
    assert loading.compiled(step(PROFILE), str(root)) == compiled(PROFILE)
    assert "not cached" in told[0]


def test_another_libseccomp_compiles_anew(tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libseccomp.so.2.99"
    library.write_bytes(b"1")
    monkeypatch.setattr(binding.Library, "path", lambda _self: str(library))
    for content, times in ((b"1", 1), (b"1", 1), (b"22", 2)):
        library.write_bytes(content) if library.read_bytes() != content else None
        loading.compiled(step(PROFILE), str(tmp_path))
        assert counted.times == times


def test_the_cache_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_KEPT_MAX", 3)
    for number in range(1, 9):
        loading.compiled(step(denying(ERRNO, errnoRet=number)), str(tmp_path))
        assert len(list((tmp_path / "~seccomp").iterdir())) <= 3


def test_the_path_of_the_library() -> None:
    path = binding.Library().path()
    assert path.startswith("/")
    assert "/libseccomp.so" in path
    assert Path(path).is_file()
