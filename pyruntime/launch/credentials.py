"""What performing the PROCESS steps means: the rows of a tape that lead from a root-like process to the user's.

The subject is the Process. The order in the Plan matters: each step still needs a right that a later one gives up.
Nothing is called here: Python writes down what the hop will do (tape.py), and looks up what can't be known before.

Read beside runc:libcontainer/init_linux.go:/^func finalizeNamespace/ and runc:libcontainer/capabilities.
"""

from __future__ import annotations

import errno
import posix

from pyruntime import report
from pyruntime.errors import ConfigError, KernelError
from pyruntime.launch.paths import O_PATH, Root, is_null
from pyruntime.launch.perform import perform, performs
from pyruntime.linux import caps, syscalls
from pyruntime.linux import constants as c
from pyruntime.linux.call import Struct, u32, u64
from pyruntime.plan.process import (
    BecomeUser,
    Execute,
    ForbidNewPrivileges,
    JoinSessionKeyring,
    LimitBounding,
    SetCapabilities,
    SetPersonality,
    SetUmask,
)
from pyruntime.plan.step import PROCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.join import Newcomer
    from pyruntime.launch.labels import Label
    from pyruntime.launch.rootfs import Rootfs
    from pyruntime.launch.tape import Row, Tape
    from pyruntime.plan.join import JoinContainersKeyring
    from pyruntime.plan.step import Plan

_PASSWD_MAX = 1 << 20  # bytes of /etc/passwd that are looked at for a home directory
_X_OK = 1
_ST_RDONLY = 1  # statvfs(3)
# What a new session keyring allows, and search by its user: KEY_POS_ALL|KEY_USR_{VIEW,READ,SEARCH,LINK} of linux/key.h.
_RING_PERMISSIONS = 0x3F1B0000


class Process:
    """The user's process to be, as the tape that makes it so, and what the steps leave for the tape's end.

    root: where the program will be looked for. held: the capabilities that whoever performs the tape has to give.
    last_cap: the number of the kernel's highest one. channel_fd: where the tape speaks to the runtime.
    program: that of the filter of linux.seccomp, if there is one. label: what the program is confined by, if it is.
    """

    __slots__ = (
        "args",
        "candidates",
        "capabilities",
        "channel_fd",
        "cwd",
        "env",
        "filter",
        "held",
        "keep",
        "label",
        "last_cap",
        "program",
        "root",
        "rootless",
        "sees_ids",
        "tape",
        "terminal_fd",
    )

    args: list[bytes]
    env: list[bytes]
    candidates: list[str]  # paths of the program: the first that can be executed is
    capabilities: tuple[int, int, int]  # effective, permitted, inheritable: what capset(2) is to leave in the end

    def __init__(self, tape: Tape, root: Root, held: int, last_cap: int, channel_fd: int, *, rootless: bool) -> None:
        self.tape = tape
        self.root = root
        self.held = held
        self.last_cap = last_cap
        self.channel_fd = channel_fd
        self.rootless = rootless
        self.program = b""
        self.label: Label | None = None
        self.filter: Filter | None = None
        self.keep = 0  # capabilities that the filter needs to be loaded, and that are given up then
        self.cwd = "/"
        self.terminal_fd = -1  # ours, of a terminal that will be its stdio
        self.sees_ids = True  # whether we see the owner of a file by the same numbers as it

    def every_capability(self) -> int:
        """All that the kernel knows, as a mask."""
        return (1 << self.last_cap + 1) - 1

    def enter_user_namespace(self) -> None:
        """From here on it is in another user namespace than we: with all rights there, and with IDs of its own."""
        self.held = self.every_capability()
        self.sees_ids = False

    def descriptors(self, *others: int) -> list[int]:
        """What the hop has to inherit for its tape; -1 stands for none."""
        label = self.label.directory_fd if self.label is not None else -1
        return [fd for fd in (self.channel_fd, label, *others) if fd >= 0]


class Filter:
    """A seccomp filter to be loaded, by rows with this mark. flags: those of seccomp(2)."""

    __slots__ = ("flags", "mark", "notifies", "program")

    def __init__(self, program: bytes, flags: int, mark: int) -> None:
        self.program = program
        self.flags = flags
        self.mark = mark
        self.notifies = bool(flags & c.SECCOMP_FILTER_FLAG_NEW_LISTENER)


def compile_steps(plan: Plan, process: Process) -> None:
    """Add the rows of the plan's PROCESS steps, each marked with its step's place. Raises ConfigError, KernelError."""
    for step in process.tape.marking(plan):
        if step.phase == PROCESS:
            perform((step,), process)
        elif process.label is not None and step is process.label.step:
            process.label.mark = process.tape.mark


def begin(tape: Tape, channel_fd: int) -> None:
    """Add what each hop does first.

    Only with its channel is it ours: an image's script named /proc/self/exe as its interpreter executes it once more.
    And execve has made it dumpable: CVE-2016-9962.
    """
    tape.close_on_exec(channel_fd)
    tape.call(c.SYS_prctl, c.PR_SET_DUMPABLE, 0)


@performs(JoinSessionKeyring, by_hop=True)
def join_session_keyring(step: JoinSessionKeyring | JoinContainersKeyring, side: Rootfs | Newcomer) -> None:
    """A kernel without keyrings has none to leak. The new one gets UID search permission, as runc gives it.

    runc:libcontainer/keys/keyctl.go
    """
    if side.tape is not None:
        joins = side.tape.call(c.SYS_keyctl, c.KEYCTL_JOIN_SESSION_KEYRING, step.name, expected=errno.ENOSYS)
        side.tape.call(c.SYS_keyctl, c.KEYCTL_SETPERM, c.KEY_SPEC_SESSION_KEYRING, _RING_PERMISSIONS)
        joins.then = side.tape.label()
        return
    try:
        ring = syscalls.keyctl_join_session_keyring(step.name)
    except KernelError as error:
        if error.errno == errno.ENOSYS:
            return
        raise
    syscalls.keyctl_setperm(ring, _RING_PERMISSIONS)


def become_root() -> None:
    """uid and gid 0 of the user namespace that we are in. Those of the caller may not exist in it."""
    try:
        syscalls.setgroups([])
    except KernelError as error:
        if error.errno != errno.EPERM:  # setgroups is denied where the map was written without privileges
            raise
    syscalls.setresgid(0, 0, 0)
    syscalls.setresuid(0, 0, 0)


def root_rows(tape: Tape) -> None:
    """The same, by the hop. See become_root."""
    tape.call(c.SYS_setgroups, 0, 0, expected=errno.EPERM)
    tape.call(c.SYS_setresgid, 0, 0, 0)
    tape.call(c.SYS_setresuid, 0, 0, 0)


@performs(SetPersonality)
def set_personality(step: SetPersonality, process: Process) -> None:
    """runc:libcontainer/init_linux.go:/^func setupPersonality/"""
    process.tape.call(c.SYS_personality, step.number)


@performs(SetUmask)
def set_umask(step: SetUmask, process: Process) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func finalizeRootfs/"""
    process.tape.call(c.SYS_umask, step.mask)


@performs(ForbidNewPrivileges)
def forbid_new_privileges(_step: ForbidNewPrivileges, process: Process) -> None:
    """runc:libcontainer/standard_init_linux.go"""
    process.tape.call(c.SYS_prctl, c.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


@performs(LimitBounding)
def limit_bounding(step: LimitBounding, process: Process) -> None:
    """Drop all that is not named, also what this kernel knows and we don't. runc: ApplyBoundingSet."""
    for number in range(process.last_cap + 1):
        if not step.mask >> number & 1:
            process.tape.call(c.SYS_prctl, c.PR_CAPBSET_DROP, number)


@performs(BecomeUser)
def become_user(step: BecomeUser, process: Process) -> None:
    """runc:libcontainer/init_linux.go:/^func setupUser/ and its caller."""
    tape = process.tape
    process.cwd = step.cwd
    _own_stdio(process, step.uid)
    looks, enters = _enter(tape, step.cwd)
    looks.expected = enters.expected = errno.EACCES  # then the user may still be allowed to
    # Keep the permitted set across setresuid: SetCapabilities needs it. capabilities(7), "Effect of user ID changes".
    keeps = tape.call(c.SYS_prctl, c.PR_SET_KEEPCAPS, 1)
    looks.then = keeps
    if step.groups or not process.rootless:  # a rootless user namespace has lost setgroups, see user_namespaces(7)
        tape.call(c.SYS_setgroups, len(step.groups), Struct(u32(*step.groups)))
    tape.call(c.SYS_setresgid, step.gid, step.gid, step.gid)
    tape.call(c.SYS_setresuid, step.uid, step.uid, step.uid)
    tape.call(c.SYS_prctl, c.PR_SET_DUMPABLE, 0)  # changing the uid may have set it, as fs.suid_dumpable says
    # Entered before? Then that 0 stands here for descriptor -1, and there is one of that number.
    asks = tape.call(c.SYS_fcntl, -1, c.F_GETFD, expected=errno.EBADF)
    enters.into = (asks, 0)
    _enter(tape, step.cwd)
    asks.on_zero = asks.on_positive = tape.call(c.SYS_prctl, c.PR_SET_KEEPCAPS, 0)


def _enter(tape: Tape, cwd: str) -> tuple[Row, Row]:
    """Add: chdir, but not by a link of /proc: it might lead to a directory of the host's (CVE-2024-21626)."""
    how = Struct(u64(O_PATH | posix.O_DIRECTORY, 0, c.RESOLVE_NO_MAGICLINKS))
    looks = tape.call(c.SYS_openat2, c.AT_FDCWD, cwd, how, len(how))
    enters = tape.call(c.SYS_fchdir, -1)
    looks.into = (enters, 0)
    return looks, enters


@performs(SetCapabilities)
def set_capabilities(step: SetCapabilities, process: Process) -> None:
    """What the runtime does not have itself can't be given; it is left out with a warning, as runc does.

    runc:libcontainer/capabilities/capabilities.go:/^func .*ApplyCaps/
    """
    known, held = process.every_capability(), process.held
    lacking = (step.effective | step.permitted) & known & ~held
    if lacking:
        names = ", ".join(name for name, number in caps.CAPABILITIES.items() if lacking >> number & 1)
        report.warn(f"{step.where.rpartition('/')[0]}: not among the runtime's own capabilities, left out: {names}")
    permitted = step.permitted & held
    inheritable = step.inheritable & known & held
    effective, ambient = step.effective & permitted, step.ambient & permitted & inheritable
    process.capabilities = (effective, permitted, inheritable)
    keep = process.keep & held
    capset(process.tape, effective | keep, permitted | keep, inheritable)
    process.tape.call(c.SYS_prctl, c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in range(process.last_cap + 1):
        if ambient >> number & 1:
            process.tape.call(c.SYS_prctl, c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_RAISE, number, 0, 0)


def capset(tape: Tape, *sets: int) -> None:
    """Add a capset(2) of the sets effective, permitted and inheritable, as masks."""
    tape.call(c.SYS_capset, *syscalls.capability_structs(*sets))


@performs(Execute)
def prepare_execution(step: Execute, process: Process) -> None:
    """Look for the program, and have the hop look whether the user may execute it, so that it does not fail at `start`.

    runc:libcontainer/standard_init_linux.go, exec.LookPath; runc:libcontainer/env.go:/^func prepareEnv/
    """
    env = _last_of_each(step.env)
    if not env.get("HOME"):
        env["HOME"] = _home(process.root, step.uid)
    process.env = [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in env.items()]
    process.args = [arg.encode("utf-8", "surrogateescape") for arg in step.args]
    if not step.args:  # there is no `process`, which `start` will refuse; so does execve
        process.candidates = [""]
        return
    process.candidates = _find_program(process, step.args[0], env.get("PATH", ""))
    looks = []
    for path in process.candidates:
        looks.append(process.tape.call(c.SYS_faccessat2, c.AT_FDCWD, path, _X_OK, c.AT_EACCESS, expected=errno.EACCES))
    looks[-1].expected = 0
    found = process.tape.label()
    for row in looks:
        row.on_zero = found


def _last_of_each(entries: tuple[str, ...]) -> dict[str, str]:
    """The environment without duplicates: the last one counts, as for runc."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, separator, value in pairs if separator and name}


def _own_stdio(process: Process, uid: int) -> None:
    """Give stdin, stdout and stderr to the container's user, who could not reopen /dev/stdout or /dev/tty otherwise.

    What may not be given away stays as it is, as in runc: /dev/null, an inode of an unmapped owner (EPERM), a
    read-only file system. Companion: runc:libcontainer/init_linux.go:/^func fixStdioPermissions/.
    """
    for number in (0, 1, 2):
        fd = process.terminal_fd if process.terminal_fd >= 0 else number
        is_owned = process.sees_ids and posix.fstat(fd).st_uid == uid
        if not (is_owned or is_null(fd) or posix.fstatvfs(fd).f_flag & _ST_RDONLY):
            process.tape.call(c.SYS_fchown, number, uid, -1, expected=errno.EPERM)


def _home(root: Root, uid: int) -> str:
    """The home directory of `uid` by the container's /etc/passwd, or "/". See passwd(5).

    Read by hand: the C library would load NSS modules of the image with the runtime's rights (CVE-2019-14271). The
    file may be a fifo or endless, so it is opened without blocking, and only a regular one is read, and not all of it.
    """
    try:
        fd = root.find("/etc/passwd", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
    except KernelError:
        fd = None
    if fd is None:
        return "/"
    try:
        text = posix.read(fd, _PASSWD_MAX) if posix.fstat(fd).st_mode & c.S_IFMT == c.S_IFREG else b""
    finally:
        posix.close(fd)
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == str(uid).encode() and b"\0" not in fields[5]:
            return fields[5].decode("utf-8", "surrogateescape") or "/"
    return "/"


def _find_program(process: Process, name: str, path: str) -> list[str]:
    """What execve may execute: `name` itself where it has a slash, else each of that name in `path`, in order.

    Raises ConfigError in the words by which engines recognise the failure (status 127 of `docker run`).
    """
    where = "config.json#/process/args/0"
    if "/" in name:
        problem = _why_not_executable(process, name)
        if problem:
            raise ConfigError(f'exec: "{name}": {problem}', where=where)
        return [name]
    problems = {f"{directory or '.'}/{name}": "" for directory in path.split(":")}
    for candidate in problems:
        problems[candidate] = _why_not_executable(process, candidate)
    found = [candidate for candidate, problem in problems.items() if not problem]
    if found:
        return found
    if "permission denied" in problems.values():
        raise ConfigError(f'exec: "{name}": permission denied', where=where)
    hint = f"searched {path}" if path else "process.env has no PATH"
    raise ConfigError(f'exec: "{name}": executable file not found in $PATH', where=where, hint=hint)


def _why_not_executable(process: Process, path: str) -> str:
    """Why nobody can execute `path`, or "": then the hop asks as the user (faccessat2(2)), by the user's own way."""
    try:
        fd = process.root.open(path if path[0] == "/" else f"{process.cwd}/{path}")
    except KernelError as error:
        return "" if error.errno in (errno.EACCES, errno.ELOOP) else posix.strerror(error.errno or 0).lower()
    try:
        mode = posix.fstat(fd).st_mode
    finally:
        posix.close(fd)
    if mode & c.S_IFMT == c.S_IFDIR:
        return "is a directory"
    return "" if mode & 0o111 else "permission denied"
