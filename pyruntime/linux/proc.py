"""Small files of /proc and /sys: read whole, written at once. No ctypes, so that `state` and `kill` stay cheap.

Read beside runc:libcontainer/system/proc.go and proc_pid_stat(5).
"""

from __future__ import annotations

import posix
from errno import EFBIG, EIO, ESRCH

from pyruntime.errors import KernelError

# The kernel shows one page of /proc/PID/stat; the line has 52 numbers.
_STAT_LIMIT = 4096


def read_file(path: str | bytes, limit: int = 1 << 20) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Raises OSError with the path; EFBIG if there is more, so that no file can make the runtime grow.
    """
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOCTTY)
    try:
        chunks = []
        room = limit + 1
        while room and (chunk := posix.read(fd, min(room, 1 << 16))):
            chunks.append(chunk)
            room -= len(chunk)
    finally:
        posix.close(fd)
    if not room:
        raise OSError(EFBIG, f"longer than {limit} bytes", path)
    return b"".join(chunks)


def in_first_user_namespace() -> bool:
    """The first one maps all 2^32 - 1 user IDs to themselves. See user_namespaces(7). runc: userns.RunningInUserNS."""
    return read_file("/proc/self/uid_map").split() == [b"0", b"0", b"4294967295"]


def write_file(path: str, data: bytes) -> None:
    """Write an existing file of /proc, /sys or a cgroup, by one write(2): the kernel takes each write as one request.

    Raises KernelError, also for a path that is not there: it is never created.
    """
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC | posix.O_NOCTTY)
    except OSError as error:
        raise KernelError(f"open({path!r}, O_WRONLY)", error.errno or 0) from None
    try:
        write(fd, data, path)
    finally:
        posix.close(fd)


def write(fd: int, data: bytes, name: str) -> None:
    """Write `data` to `fd` at once, where half a value would be another value. `name` is for the error.

    Raises KernelError; EIO if the kernel took only a part.
    """
    shown = data if len(data) <= 200 else data[:200] + b"..."
    try:
        written = posix.write(fd, data)
    except OSError as error:
        raise KernelError(f"write({name!r}, {shown!r})", error.errno or 0) from None
    if written != len(data):
        raise KernelError(f"write({name!r}, {shown!r}) took {written} of {len(data)} bytes", EIO)


def mounts(fstype: str) -> list[tuple[str, str]]:
    """The mounts of a type that this process sees: where each is, and the directory of the file system that it shows.

    In the order they were made in, where several are at one place. See proc_pid_mountinfo(5).
    """
    kind = f" - {fstype} ".encode()
    found = [line.split(b" ") for line in read_file("/proc/self/mountinfo", 64 << 20).split(b"\n") if kind in line]
    return [(_unescape(fields[4]), _unescape(fields[3])) for fields in found]


def _unescape(field: bytes) -> str:
    """Undo the octal escapes of mountinfo: blank, tab, newline, and the backslash last."""
    for code in (b"\\040", b"\\011", b"\\012", b"\\134") if b"\\" in field else ():
        field = field.replace(code, bytes((int(code[1:], 8),)))
    return field.decode(errors="surrogateescape")


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot: with the pid, its identity, since pids are used again.

    Field 22 of /proc/PID/stat. Raises FileNotFoundError or ProcessLookupError if it is gone.
    runc:libcontainer/system/proc.go:/^func parseStat/
    """
    return int(_stat_fields(pid)[19])


def state_and_start_time(pid: int) -> tuple[str, int]:
    """The letter of a process's state, R S D T t Z X I (proc_pid_stat(5)), and when it started.

    Raises FileNotFoundError or ProcessLookupError if it is gone.
    """
    fields = _stat_fields(pid)
    return fields[0].decode(), int(fields[19])


def _stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on. The second is the program's name, and may itself hold `) Z 1`."""
    line = read_file(f"/proc/{pid:d}/stat", _STAT_LIMIT)
    fields = line[line.rfind(b")") + 1 :].split()
    if len(fields) < 20:  # the process ended between open and read
        raise ProcessLookupError(ESRCH, "the process ended while its stat was read", f"/proc/{pid}/stat")
    return fields
