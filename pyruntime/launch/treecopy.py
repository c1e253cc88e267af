"""`tmpcopyup`: fill a fresh tmpfs with what it hides. Copies by descriptors only: the tree is the image's.

Read beside runc:libcontainer/rootfs_linux.go:/^func doTmpfsCopyUp/. Links are copied as links; devices, sockets and
fifos too, as nodes.
"""

from __future__ import annotations

import posix

from pyruntime.linux import constants as c
from pyruntime.linux import syscalls

_READ = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC
_CHUNK = 1 << 20  # bytes a sendfile


def copy_up(hidden_fd: int, mounted_fd: int) -> None:
    """Copy the directory behind `hidden_fd` (held before it was covered) into the mount behind `mounted_fd`.

    Both may be O_PATH descriptors. Raises OSError, for example ENOSPC where the tmpfs is too small.
    """
    source_fd = posix.open(".", _READ | posix.O_DIRECTORY, dir_fd=hidden_fd)
    target_fd = posix.open(".", _READ | posix.O_DIRECTORY, dir_fd=mounted_fd)
    try:
        _copy_entries(source_fd, target_fd)
    finally:
        posix.close(source_fd)
        posix.close(target_fd)


def _copy_entries(source_fd: int, target_fd: int) -> None:
    for name in posix.listdir(source_fd):
        status = posix.stat(name, dir_fd=source_fd, follow_symlinks=False)
        kind = status.st_mode & c.S_IFMT
        if kind == c.S_IFDIR:
            _copy_directory(name, status, source_fd, target_fd)
        elif kind == c.S_IFREG:
            _copy_file(name, status, source_fd, target_fd)
        elif kind == c.S_IFLNK:
            posix.symlink(posix.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
            posix.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)
        else:
            syscalls.mknodat(target_fd, name, status.st_mode, status.st_rdev)
            posix.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)


def _copy_directory(name: str, status: posix.stat_result, source_fd: int, target_fd: int) -> None:
    posix.mkdir(name, 0o700, dir_fd=target_fd)
    inner_source_fd = posix.open(name, _READ | posix.O_DIRECTORY, dir_fd=source_fd)
    inner_target_fd = posix.open(name, _READ | posix.O_DIRECTORY, dir_fd=target_fd)
    try:
        _copy_entries(inner_source_fd, inner_target_fd)
        _take_over(inner_target_fd, status)
    finally:
        posix.close(inner_source_fd)
        posix.close(inner_target_fd)


def _copy_file(name: str, status: posix.stat_result, source_fd: int, target_fd: int) -> None:
    from_fd = posix.open(name, _READ | posix.O_NONBLOCK, dir_fd=source_fd)  # O_NONBLOCK: it may have become a fifo
    to_fd = posix.open(name, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600, dir_fd=target_fd)
    try:
        while posix.sendfile(to_fd, from_fd, None, _CHUNK):
            continue
        _take_over(to_fd, status)
    finally:
        posix.close(from_fd)
        posix.close(to_fd)


def _take_over(fd: int, status: posix.stat_result) -> None:
    """Owner before mode: chown clears the setuid bit that chmod then sets. Times last: the rest has changed them."""
    posix.chown(fd, status.st_uid, status.st_gid)
    posix.chmod(fd, status.st_mode & 0o7777)
    posix.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
