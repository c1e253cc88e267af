"""What performing the PROCESS steps means: from a root-like child to the user's process.

The subject is the Process. The order in the Plan matters: each step still needs a right that a later one gives up.

Read beside runc:libcontainer/init_linux.go:/^func finalizeNamespace/ and runc:libcontainer/capabilities.
"""

from __future__ import annotations

import errno
import posix

from pyruntime import report
from pyruntime.errors import ConfigError, Error, KernelError
from pyruntime.launch import exeseal
from pyruntime.launch.paths import Root, is_null
from pyruntime.launch.perform import performs
from pyruntime.linux import caps, syscalls
from pyruntime.linux import constants as c
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
    from collections.abc import Callable

    from pyruntime.launch.sync import Channel
    from pyruntime.plan.join import JoinContainersKeyring
    from pyruntime.plan.step import Plan

_OVERRIDES = caps.mask(("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"))  # of the modes of files
_PASSWD_MAX = 1 << 20  # bytes of /etc/passwd that are looked at for a home directory


class Process:
    """The user's process to be. Execute fills `program`, `args`, `env` and `where`, and the caller executes them.

    `last_cap` is the number of the kernel's highest capability, read while the host's /proc was there.
    """

    __slots__ = (
        "args",
        "capabilities",
        "env",
        "filter",
        "keep",
        "last_act",
        "last_cap",
        "program",
        "rootless",
        "spare",
        "where",
    )

    program: str
    where: str  # in the user's input, for an error of execve
    args: list[bytes]
    env: list[bytes]
    capabilities: tuple[int, int, int]  # effective, permitted, inheritable: what capset(2) is to leave in the end

    def __init__(self, last_cap: int, *, rootless: bool, filter: bytes = b"") -> None:
        self.last_cap = last_cap
        self.rootless = rootless
        self.filter = filter  # for seccomp(2)
        self.keep = 0  # capabilities that last_act needs, and gives up
        self.spare = 0  # those that the hop needs, and gives up: see spare_for_hop
        self.last_act: Callable[[Channel], None] | None = None  # what is left to be done right before the hop


@performs(JoinSessionKeyring)
def join_session_keyring(step: JoinSessionKeyring | JoinContainersKeyring, _side: object) -> None:
    """A kernel without keyrings has none to leak. The new one gets UID search permission, as runc gives it.

    runc:libcontainer/keys/keyctl.go
    """
    try:
        ring = syscalls.keyctl_join_session_keyring(step.name)
    except KernelError as error:
        if error.errno == errno.ENOSYS:
            return
        raise
    permissions = int(syscalls.keyctl_describe(ring).split(";")[3], 16)
    syscalls.keyctl_setperm(ring, permissions & 0xFFFFFFFF | 0x00080000)  # KEY_USR_SEARCH


def become_root() -> None:
    """uid and gid 0 of the user namespace that we are in. Those of the caller may not exist in it."""
    try:
        syscalls.setgroups([])
    except KernelError as error:
        if error.errno != errno.EPERM:  # setgroups is denied where the map was written without privileges
            raise
    syscalls.setresgid(0, 0, 0)
    syscalls.setresuid(0, 0, 0)


@performs(SetPersonality)
def set_personality(step: SetPersonality, _process: Process) -> None:
    """runc:libcontainer/init_linux.go:/^func setupPersonality/"""
    syscalls.personality(step.number)


@performs(SetUmask)
def set_umask(step: SetUmask, _process: Process) -> None:
    """runc:libcontainer/rootfs_linux.go:/^func finalizeRootfs/"""
    posix.umask(step.mask)


@performs(ForbidNewPrivileges)
def forbid_new_privileges(_step: ForbidNewPrivileges, _process: Process) -> None:
    """runc:libcontainer/standard_init_linux.go"""
    syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)


@performs(LimitBounding)
def limit_bounding(step: LimitBounding, process: Process) -> None:
    """Drop all that is not named, also what this kernel knows and we don't. runc: ApplyBoundingSet."""
    for number in range(process.last_cap + 1):
        if not step.mask >> number & 1:
            syscalls.prctl(c.PR_CAPBSET_DROP, number)


@performs(BecomeUser)
def become_user(step: BecomeUser, process: Process) -> None:
    """runc:libcontainer/init_linux.go:/^func setupUser/ and its caller."""
    entered = _enter(step.cwd, last_chance=False)
    own_stdio(step.uid)
    # Keep the permitted set across setresuid: SetCapabilities needs it. capabilities(7), "Effect of user ID changes".
    syscalls.prctl(c.PR_SET_KEEPCAPS, 1)
    if step.groups or not process.rootless:  # a rootless user namespace has lost setgroups, see user_namespaces(7)
        syscalls.setgroups(list(step.groups))
    syscalls.setresgid(step.gid, step.gid, step.gid)
    syscalls.setresuid(step.uid, step.uid, step.uid)
    syscalls.prctl(c.PR_SET_DUMPABLE, 0)  # changing the uid may have set it, as fs.suid_dumpable says
    if not entered:
        _enter(step.cwd, last_chance=True)
    _verify_cwd(step.cwd)
    syscalls.prctl(c.PR_SET_KEEPCAPS, 0)


@performs(SetCapabilities)
def set_capabilities(step: SetCapabilities, process: Process) -> None:
    """What the caller does not have itself can't be given; it is left out with a warning, as runc does.

    runc:libcontainer/capabilities/capabilities.go:/^func .*ApplyCaps/
    """
    _, held, _ = syscalls.capget()
    lacking = (step.effective | step.permitted) & _known(process.last_cap) & ~held
    if lacking:
        names = ", ".join(name for name, number in caps.CAPABILITIES.items() if lacking >> number & 1)
        report.warn(f"{step.where.rpartition('/')[0]}: not among the runtime's own capabilities, left out: {names}")
    effective, permitted, inheritable, ambient = _sets(step, held, process.last_cap)
    process.capabilities = (effective, permitted, inheritable | process.spare)
    keep = process.keep & held
    syscalls.capset(effective | keep, permitted | keep, inheritable | process.spare)
    syscalls.prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(process.last_cap + 1):
        if (ambient | process.spare) >> number & 1:
            syscalls.prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_RAISE, number)


def spare_for_hop(plan: Plan, last_cap: int, then: bytes) -> tuple[int, bytes]:
    """The capabilities that only the hop is to hold across its own execve, and its prelude, `then` included.

    To execute a program in spite of its mode a user may need CAP_DAC_OVERRIDE in effect. Who is not root would lose by
    becoming the hop what is not ambient. So it is made ambient for the hop, which undoes that before its own execve.
    """
    uid, bounding = 0, -1
    for step in plan.phase(PROCESS):
        if isinstance(step, BecomeUser):
            uid = step.uid
        elif isinstance(step, LimitBounding):
            bounding = step.mask
        elif isinstance(step, SetCapabilities) and uid and step.effective & _OVERRIDES & ~step.ambient & bounding:
            effective, _, inheritable, ambient = _sets(step, syscalls.capget()[1], last_cap)
            spare = effective & _OVERRIDES & ~ambient & bounding
            if spare:
                return spare, exeseal.lowering(ambient | spare, inheritable, spare, then)
    return 0, then


def _sets(step: SetCapabilities, held: int, last_cap: int) -> tuple[int, int, int, int]:
    """The sets effective, permitted, inheritable and ambient that can be had by one who holds `held`."""
    permitted = step.permitted & held
    inheritable = step.inheritable & _known(last_cap) & held
    return step.effective & permitted, permitted, inheritable, step.ambient & permitted & inheritable


def _known(last_cap: int) -> int:
    return (1 << last_cap + 1) - 1


@performs(Execute)
def prepare_execution(step: Execute, process: Process) -> None:
    """Find the program as the user, so that what can't be executed fails now and not at `start`.

    runc:libcontainer/standard_init_linux.go, exec.LookPath; runc:libcontainer/env.go:/^func prepareEnv/
    """
    process.where = step.where
    env = _last_of_each(step.env)
    if not env.get("HOME"):
        env["HOME"] = _home(step.uid)
    process.env = [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in env.items()]
    process.args = [arg.encode("utf-8", "surrogateescape") for arg in step.args]
    process.program = _find_program(step.args[0], env.get("PATH", ""))


def _last_of_each(entries: tuple[str, ...]) -> dict[str, str]:
    """The environment without duplicates: the last one counts, as for runc."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, separator, value in pairs if separator and name}


def _enter(cwd: str, *, last_chance: bool) -> bool:
    """chdir, or False where it is forbidden and the user may still be allowed to."""
    try:
        posix.chdir(cwd)
    except OSError as error:
        if isinstance(error, PermissionError) and not last_chance:
            return False
        raise KernelError(f"chdir({cwd!r})", error.errno or 0, where="config.json#/process/cwd") from error
    return True


def _verify_cwd(cwd: str) -> None:
    """A directory of the host, reached through a leaked descriptor, has no path below this root (CVE-2024-21626)."""
    try:
        reached = posix.getcwd()
    except FileNotFoundError:
        reached = ""
    if not reached.startswith("/"):
        raise Error(f"the working directory {cwd} is outside of the container", where="config.json#/process/cwd")


def own_stdio(uid: int) -> None:
    """Give stdin, stdout and stderr to the container's user, who could not reopen /dev/stdout or /dev/tty otherwise.

    What may not be given away stays as it is, as in runc: /dev/null, an inode of an unmapped owner (EPERM), a
    read-only file system. Raises KernelError for all else.
    Companion: runc:libcontainer/init_linux.go:/^func fixStdioPermissions/.
    """
    for fd in (0, 1, 2):
        if posix.fstat(fd).st_uid == uid or is_null(fd):
            continue
        try:
            posix.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EROFS):
                raise KernelError(f"fchown({fd}, {uid}, -1)", error.errno or 0) from None


def _home(uid: int) -> str:
    """The home directory of `uid` by the container's /etc/passwd, or "/". See passwd(5).

    Read by hand: the C library would load NSS modules of the image with the runtime's rights (CVE-2019-14271). The
    file may be a fifo or endless, so it is opened without blocking, and only a regular one is read, and not all of it.
    """
    root = Root("/")
    try:
        fd = root.open("/etc/passwd", posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
    except KernelError:
        return "/"
    finally:
        root.close()
    try:
        text = posix.read(fd, _PASSWD_MAX) if posix.fstat(fd).st_mode & c.S_IFMT == c.S_IFREG else b""
    finally:
        posix.close(fd)
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == str(uid).encode() and b"\0" not in fields[5]:
            return fields[5].decode("utf-8", "surrogateescape") or "/"
    return "/"


def _find_program(name: str, path: str) -> str:
    """What execve is to execute: `name` itself where it has a slash, else the first executable of that name in `path`.

    Raises ConfigError in the words by which engines recognise the failure (status 127 of `docker run`).
    """
    where = "config.json#/process/args/0"
    if "/" in name:
        problem = _why_not_executable(name)
        if problem:
            raise ConfigError(f'exec: "{name}": {problem}', where=where)
        return name
    denied = False
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        problem = _why_not_executable(candidate)
        if not problem:
            return candidate
        denied |= problem == "permission denied"
    if denied:
        raise ConfigError(f'exec: "{name}": permission denied', where=where)
    hint = f"searched {path}" if path else "process.env has no PATH"
    raise ConfigError(f'exec: "{name}": executable file not found in $PATH', where=where, hint=hint)


def _why_not_executable(path: str) -> str:
    """Why the current user can't execute `path`, or "". See access(2): X_OK for root is any of the three x bits."""
    try:
        kind = posix.stat(path).st_mode & c.S_IFMT
        if kind == c.S_IFDIR:
            return "is a directory"
        if not posix.access(path, posix.X_OK, effective_ids=True):
            return "permission denied"
    except OSError as error:
        return posix.strerror(error.errno or 0).lower()
    return ""
