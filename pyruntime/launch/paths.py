"""The one module that resolves paths inside a container's root file system.

The image is untrusted: any component may be a symbolic link out of it, and may change between two looks. So a path is
resolved once, by the kernel, with openat2(RESOLVE_IN_ROOT), and from then on only the descriptor is used: by *at
calls, or as /proc/self/fd/N where a system call takes nothing but a path. Fourteen of runc's CVEs since 2017 are path
bugs; each was a second look at a name.

Read beside runc:internal/pathrs.
"""

from __future__ import annotations

import errno
import posix

from pyruntime.errors import ConfigError
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls

O_PATH = posix.O_PATH | posix.O_CLOEXEC
_NULL = posix.makedev(1, 3)
_RACES = 128  # how often a rename elsewhere may disturb one resolution before we give up


def proc_fd(fd: int) -> str:
    """The name under which a system call that takes only paths reaches an open descriptor. See proc_pid_fd(5)."""
    return f"/proc/self/fd/{fd}"


def is_null(fd: int) -> bool:
    """Whether it is the null device. A regular file may carry the same st_rdev, so the type counts too."""
    status = posix.fstat(fd)
    return status.st_mode & c.S_IFMT == c.S_IFCHR and status.st_rdev == _NULL


class Root:
    """The root file system of a container, held by a descriptor. Close it with `close`."""

    __slots__ = ("fd",)

    def __init__(self, path: str) -> None:
        self.fd = posix.open(path, O_PATH | posix.O_DIRECTORY)

    def close(self) -> None:
        posix.close(self.fd)

    def open(self, path: str, flags: int = O_PATH, mode: int = 0, *, resolve: int = 0) -> int:
        """Open `path` as if this directory were `/`; see openat2(2), RESOLVE_IN_ROOT.

        Raises KernelError; ENOENT: missing, ELOOP: a loop of links, or a link where `resolve` forbids them.
        """
        return self._look(path, flags, mode, resolve)

    def find(self, path: str, flags: int = O_PATH) -> int | None:
        """As `open`, or None where the image has no such file."""
        fd = self._look(path, flags, absent=(errno.ENOENT, errno.ENOTDIR))
        return fd if fd >= 0 else None

    def make_directories(self, path: str, mode: int = 0o755) -> int:
        """An O_PATH descriptor of the directory `path`, made with its parents where missing (mkdir -p).

        Raises ConfigError where a component is a dangling link: following it would make directories at a place that
        the image chose. KernelError ENOTDIR where a component is a file.
        """
        parts = [part for part in path.split("/") if part not in ("", ".")]
        found = self._find_directory("/".join(parts))
        if found is not None:
            return found
        parent_fd = self.make_directories("/".join(parts[:-1]), mode)
        try:
            return self._make_directory(parent_fd, parts[-1], "/".join(parts), mode)
        finally:
            posix.close(parent_fd)

    def make_file(self, path: str, mode: int = 0o644) -> int:
        """A descriptor, for its place only, of the file `path`, made empty where missing: for a bind mount to cover."""
        found = self.find(path)
        if found is not None:
            return found
        parent_fd, name = self.open_parent(path)
        try:
            flags = posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC | posix.O_WRONLY
            return posix.open(name, flags, mode, dir_fd=parent_fd)
        finally:
            posix.close(parent_fd)

    def open_parent(self, path: str) -> tuple[int, str]:
        """The directory of `path`, made where missing, and the last component: for mknodat, symlinkat and the like."""
        parent, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise ConfigError(f"the path {path!r} names no file")
        return self.make_directories(parent), name

    def _find_directory(self, path: str) -> int | None:
        fd = self._look(path, O_PATH | posix.O_DIRECTORY, absent=(errno.ENOENT,))
        return fd if fd >= 0 else None

    def _look(self, path: str, flags: int, mode: int = 0, resolve: int = 0, absent: tuple[int, ...] = ()) -> int:
        """As `open`, but for an errno of `absent` its negative is returned."""
        resolve |= c.RESOLVE_IN_ROOT | c.RESOLVE_NO_MAGICLINKS
        path, flags = path.strip("/") or ".", flags | posix.O_CLOEXEC
        for _ in range(_RACES):
            fd = syscalls.openat2(self.fd, path, flags, mode, resolve, expected=(errno.EAGAIN, *absent))
            # EAGAIN: something was renamed or mounted meanwhile, and the kernel can't tell that we stayed inside.
            if fd != -errno.EAGAIN:
                return fd
        return syscalls.openat2(self.fd, path, flags, mode, resolve)

    def _make_directory(self, parent_fd: int, name: str, below: str, mode: int) -> int:
        try:
            posix.mkdir(name, mode, dir_fd=parent_fd)
        except FileExistsError:
            # Not found a moment ago and yet there: a dangling link, or someone is quicker. The next look decides.
            found = self._find_directory(below)
            if found is None:
                raise ConfigError(f"/{below} in the root file system is a symbolic link to nothing") from None
            return found
        return syscalls.openat2(
            parent_fd, name, O_PATH | posix.O_DIRECTORY, 0, c.RESOLVE_NO_SYMLINKS | c.RESOLVE_BENEATH
        )
