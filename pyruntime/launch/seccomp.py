"""The seccomp filter of a container: compiled or found by the parent, loaded by the hop.

Compiling the usual profile of 330 names takes libseccomp 3 ms and more, so the program is kept. ROOT/~seccomp/ (no ID
of a container begins so) holds one file for each profile, whose name is a hash of all that the program depends on. The
runtime trusts what it finds there only if nobody else can have written it (owner and mode of the directory and of the
file), and if the file is whole (a hash over its content). Whatever is wrong with a file, the answer is to compile anew.

Where it is loaded, and why there: see plan.seccomp.LoadSeccomp. Companions: runc:libcontainer/standard_init_linux.go
(both places where InitSeccomp is called) and runc:libcontainer/process_linux.go:/^func sendContainerProcessState/.
"""

from __future__ import annotations

import posix
from _blake2 import blake2b
from marshal import dumps

from pyruntime import report
from pyruntime.errors import Error, KernelError, UsageError
from pyruntime.jsontext import encode
from pyruntime.launch.credentials import Filter
from pyruntime.launch.perform import performs
from pyruntime.linux import syscalls
from pyruntime.plan.seccomp import LoadSeccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.launch.credentials import Process
    from pyruntime.launch.handle import Child
    from pyruntime.plan.step import Plan

_LISTENER_PATH = "config.json#/linux/seccomp/listenerPath"
_DIRECTORY = "~seccomp"
_FORMAT = "1"  # of a file, and of the stub that is compiled in
_HASH = 32  # bytes
_LARGEST = 1 << 16  # bytes of a file: 4096 instructions and the rest
_KEPT_MAX = 128  # files; more is a program that makes profiles
_CAP_SYS_ADMIN = 1 << 21
_OPEN = posix.O_NOFOLLOW | posix.O_CLOEXEC


def compile_filter(plan: Plan, root_path: str) -> bytes:
    """The program of the plan's filter; b"" where it has none. Raises as `compiled`."""
    for step in plan:
        if isinstance(step, LoadSeccomp):
            return compiled(step, root_path)
    return b""


def compiled(step: LoadSeccomp, root_path: str) -> bytes:
    """The program of a profile, an array of struct sock_filter: from the cache below `root_path`, or compiled into it.

    Raises UnsupportedError without libseccomp, Error for a profile that it can't express. Trouble with the cache is
    only told: the container can do without.
    """
    key = _key(step)
    cache_fd = _open_cache(root_path)
    if cache_fd < 0:
        return _compile(step)[1]
    try:
        program = _cached(cache_fd, key)
        if not program:
            library_path, program = _compile(step)
            _keep(cache_fd, key, library_path, program)
    finally:
        posix.close(cache_fd)
    return program


def _compile(step: LoadSeccomp) -> tuple[str, bytes]:
    """The program, and the path of the libseccomp that made it."""
    from pyruntime.linux.seccomp import Library
    from pyruntime.plan import seccomp_rules

    profile = step.profile
    library = Library()
    program = library.compile(
        seccomp_rules.default_action(profile),
        list(seccomp_rules.rules(profile)),
        seccomp_rules.architectures(profile),
        hide_new=seccomp_rules.hides_new_calls(profile),
    )
    return library.path(), program


def _key(step: LoadSeccomp) -> bytes:
    """A hash of the profile and of whatever else decides on the program, but for libseccomp (see _identity)."""
    system = posix.uname()  # libseccomp asks the kernel what it can do
    # Version 2 of marshal writes no references, so equal profiles give equal bytes.
    content = dumps((_FORMAT, dict(step.profile), system.machine, system.release), 2)
    return blake2b(content, digest_size=_HASH).digest()


@performs(LoadSeccomp)
def arrange_loading(step: LoadSeccomp, process: Process) -> None:
    """Nothing is loaded yet: that is what the tape ends with (ending.py).

    Until then the process keeps CAP_SYS_ADMIN, if the kernel wants it for loading. It is permitted, and not used.
    """
    process.filter = Filter(process.program, step.flags, process.tape.mark)
    process.keep = _CAP_SYS_ADMIN if step.privileged else 0


def take_listener(child: Child, fd: int) -> int:
    """The listener that is `fd` in the child, as a descriptor of ours. Raises KernelError."""
    try:
        return syscalls.pidfd_getfd(child.pidfd, fd)
    except KernelError as error:
        error.where = _LISTENER_PATH
        raise


def send_listener(listener_fd: int, path: str, metadata: str, pid: int, state: dict[str, Any]) -> None:
    """Send the listener, which is taken over, to the socket `listenerPath`: config-linux.md#containerprocessstate.

    pid: of the process that has the filter. state: the container's. Raises KernelError; UsageError if nobody listens.
    Companion: runc:libcontainer/process_linux.go:/^func sendContainerProcessState/.
    """
    from pyruntime.launch.console import send_master

    message = {
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state,
    }
    try:
        socket_fd = _connect(path)
        try:
            send_master(socket_fd, listener_fd, encode(message))
        finally:
            posix.close(socket_fd)
    except Error as error:
        error.where = _LISTENER_PATH
        raise
    finally:
        posix.close(listener_fd)


def _connect(path: str) -> int:
    """A connection to whoever is to get the listener. Raises UsageError."""
    from pyruntime.launch.console import connect_console_socket

    try:
        return connect_console_socket(path)
    except Error as error:
        raise UsageError(f"failed to connect with seccomp agent: {error.message}", hint=error.hint) from error


def _open_cache(root_path: str) -> int:
    """The directory of compiled filters, made if it is not there; -1 if there can be none, or it isn't ours alone."""
    path = f"{root_path}/{_DIRECTORY}"
    try:
        fd = _open_directory(path)
    except OSError as error:
        report.warn(f"seccomp filters are not cached: {path}: {error.strerror}")
        return -1
    if _is_ours_alone(fd, 0o077):
        return fd
    posix.close(fd)
    report.warn(f"seccomp filters are not cached: {path} belongs to another user, or others may write to it")
    return -1


def _cached(cache_fd: int, key: bytes) -> bytes:
    """The program, or b"" if there is none that is whole and ours."""
    try:
        fd = posix.open(key.hex(), posix.O_RDONLY | posix.O_NONBLOCK | _OPEN, dir_fd=cache_fd)
    except OSError:
        return b""  # none, or a link, or whatever else: it will be replaced
    try:
        if not _is_ours_alone(fd, 0o022):
            return b""
        content = posix.read(fd, _LARGEST)
        check, (library, _, program) = content[:_HASH], content[_HASH:].partition(b"\n")
        whole = check == _check(key, content[_HASH:]) and len(program) % 8 == 0
        return program if whole and library == _identity(library.rsplit(b" ", 4)[0].decode()) else b""
    except (OSError, ValueError):
        return b""
    finally:
        posix.close(fd)


def _keep(cache_fd: int, key: bytes, library_path: str, program: bytes) -> None:
    """Keep a program, whole or not at all. A reader may be at it, and another start may write the same."""
    name = key.hex()
    temporary = f"{name}.{posix.getpid()}"
    try:
        content = _identity(library_path) + b"\n" + program
        _make_room(cache_fd)
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | _OPEN
        fd = posix.open(temporary, flags, 0o600, dir_fd=cache_fd)
        try:
            posix.write(fd, _check(key, content) + content)  # a part of it fails the check later
        finally:
            posix.close(fd)
        posix.rename(temporary, name, src_dir_fd=cache_fd, dst_dir_fd=cache_fd)
    except OSError as error:
        report.warn(f"the seccomp filter was not cached: {error.strerror}")


def _make_room(cache_fd: int) -> None:
    names = posix.listdir(cache_fd)
    for name in names if len(names) >= _KEPT_MAX else ():
        posix.unlink(name, dir_fd=cache_fd)


def _open_directory(path: str) -> int:
    """The directory, made if it is not there."""
    flags = posix.O_RDONLY | posix.O_DIRECTORY | _OPEN
    try:
        return posix.open(path, flags)
    except FileNotFoundError:
        posix.mkdir(path, 0o700)
        return posix.open(path, flags)


def _check(key: bytes, content: bytes) -> bytes:
    return blake2b(content, digest_size=_HASH, key=key).digest()


def _identity(library_path: str) -> bytes:
    """Which file the library is, and which version of it. Another libseccomp makes other programs.

    Its version would say so, too, but to ask it costs what loading the library does, a quarter of all that a warm start
    pays for its filter. Raises OSError, ValueError.
    """
    status = posix.stat(library_path)
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return f"{library_path} {' '.join(map(str, numbers))}".encode()


def _is_ours_alone(fd: int, forbidden: int) -> bool:
    """Whether the file belongs to this user and has none of the `forbidden` mode bits."""
    status = posix.fstat(fd)
    return status.st_uid == posix.geteuid() and not status.st_mode & forbidden
