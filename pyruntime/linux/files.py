"""Files of our own that others read meanwhile: replaced, continued, or rewritten in place. No ctypes, as in `delete`.

Read beside rename(2), and moby/sys/atomicwriter.
"""

from __future__ import annotations

import posix

_OPEN_TO_APPEND = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC
_OPEN_NEW = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC


def replace(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the whole old one or the whole new one. Raises OSError.

    There is no fsync: what a runtime knows of its containers need not outlive the machine.
    """
    # The pid keeps two runtimes that write at the same time from sharing the temporary file.
    temporary_path = f"{path}.{posix.getpid()}"
    try:
        file_fd = posix.open(temporary_path, _OPEN_NEW, mode)
        try:
            write_all(file_fd, data)
        finally:
            posix.close(file_fd)
        posix.rename(temporary_path, path)
    except OSError:
        unlink(temporary_path)
        raise


def append(path: str, data: bytes) -> None:
    """Add to the end of a file, which is made with mode 0600 if it is missing. Raises OSError."""
    file_fd = posix.open(path, _OPEN_TO_APPEND, 0o600)
    try:
        write_all(file_fd, data)
    finally:
        posix.close(file_fd)


def rewrite(path: str, data: bytes) -> None:
    """Write a file that is there anew, keeping the file itself: it may be bound into a container. Raises OSError.

    A reader may see the new text with the end of the old one, for a moment.
    """
    file_fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        write_all(file_fd, data)
        posix.ftruncate(file_fd, len(data))
    finally:
        posix.close(file_fd)


def exists(path: str) -> bool:
    """Whether there is anything of this name, if only a link that leads nowhere. What one may not look at is not."""
    try:
        posix.lstat(path)
    except OSError:
        return False
    return True


def unlink(path: str) -> None:
    """Remove a file; that it is gone already is no error. Raises OSError."""
    try:
        posix.unlink(path)
    except FileNotFoundError:
        return


def write_all(file_fd: int, data: bytes) -> None:
    """Write all of it, however much the kernel takes at once. Raises OSError. See write(2)."""
    while data:
        data = data[posix.write(file_fd, data) :]
