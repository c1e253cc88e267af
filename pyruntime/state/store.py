"""What the runtime remembers of a container: one directory below --root, with one JSON record in it.

    ROOT/ID/state.jsonl    the Record as it was at two or three moments of the start: the last line that is whole counts
    ROOT/ID/config.json    the configuration that the container was created from, byte for byte
    ROOT/ID/start.sock     there while the container waits for `start` (state/status.py)
    ROOT/ID/notify/        what the container sees of us if it is to tell its readiness (launch/notify.py)

The directory is the reservation of the ID: mkdir(2) succeeds for one of two racing creates only.

Read beside runc:libcontainer/factory_linux.go:/^func Create/ and :container_linux.go:/^func .*saveState/.
"""

from __future__ import annotations

import errno
import fcntl
import posix

from pyruntime.errors import ExistsError, KernelError, NotFoundError, StateError, UsageError
from pyruntime.jsontext import decode, encode
from pyruntime.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NotRequired, TypedDict, cast

    class Record(TypedDict):
        """A line of state.jsonl. The first group is what runtime.md#state shows, the second is our own."""

        ociVersion: str
        id: str
        pid: int  # in the runtime's PID namespace; 0 until the container's process has been cloned
        bundle: str  # absolute
        rootfs: str  # absolute
        created: str  # RFC 3339, UTC, nanoseconds: "2025-01-31T12:00:00.123456789Z"
        annotations: dict[str, str]
        owner: str  # name of the user that created it, "" if unknown

        startTime: int  # of pid, clock ticks after boot: tells a reused pid from ours
        uid: int
        cgroup: str  # absolute host path of the container's cgroup directory, "" if it has none
        cgroupIntended: str  # the same before it was made; alone it may still be another's
        config: bool  # a copy of config.json lies beside the record
        hooks: NotRequired[list[str]]  # of poststart and poststop those that config.json has; missing: neither
        noProcess: NotRequired[bool]  # config.json has no process, so `start` is refused
        sharesPids: NotRequired[bool]  # its PID namespace is not its own; missing: it is, and ends with its init
        noNewKeyring: NotRequired[bool]  # --no-new-keyring: for `exec`, too
        scope: NotRequired[dict[str, Any]]  # --systemd-cgroup: the unit's name, and whether this user's systemd has it
        network: NotRequired[dict[str, Any]]  # net.types.Attachment; missing: there is nothing to take back
        resctrl: NotRequired[dict[str, Any]]  # resctrl.groups.Group.entry; missing: it has no group
        rootless: bool
else:

    def cast(_kind, value):
        """Stand in for typing.cast."""
        return value


STATE_FILE = "state.jsonl"
NOTIFY_DIRECTORY = "notify"
_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.")
_NAME_MAX = 255  # bytes in a file name, limits.h
_FILE_LIMIT = 64 << 20  # bytes; annotations are all that can make a record large
_OPEN_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC


def check_id(container_id: str) -> None:
    """Refuse what is no container ID: it becomes a file name and the name of a cgroup.

    Raises UsageError. Companion: runc:libcontainer/factory_linux.go:/^func validateID/.
    """
    if len(container_id) > _NAME_MAX:
        raise UsageError(f"container ID too long: {len(container_id)} characters", hint=f"at most {_NAME_MAX}")
    if not container_id or container_id in (".", "..") or not _ID_CHARACTERS.issuperset(container_id):
        raise UsageError(
            f"invalid container ID format: {container_id!r}",
            hint="letters, digits, and the characters _ + - . make an ID",
        )


class Store:
    """The directory of one container. Constructing it checks the ID and touches no file."""

    __slots__ = ("_has_record", "id", "path", "root_path")

    def __init__(self, root_path: str, container_id: str) -> None:
        check_id(container_id)
        self.root_path = root_path if root_path.startswith("/") else f"{_working_directory()}/{root_path}"
        self.id = container_id
        self.path = f"{self.root_path}/{container_id}"
        self._has_record = False  # of ours

    def file_path(self, name: str) -> str:
        """The host path of one file in the directory."""
        return f"{self.path}/{name}"

    def reserve(self) -> None:
        """Make the directory, and --root with its parents where they are missing.

        Mode 0711, as runc: a container's process with another uid may reach a file it was told of, nobody may list.
        Raises ExistsError if the ID is taken, KernelError if the directory cannot be made.
        """
        try:
            try:
                posix.mkdir(self.path, 0o711)
            except FileNotFoundError:
                _make_parents(self.root_path)
                posix.mkdir(self.path, 0o711)
        except FileExistsError:
            raise ExistsError("container with given ID already exists", where=self.id) from None
        except OSError as error:
            raise _failed(f"mkdir({self.path!r}, 0711)", error) from None

    def write(self, record: Record) -> None:
        """Replace the record. A reader meanwhile sees the whole old or the whole new one.

        The first one is a new file. Later ones are lines behind it, which nobody looks at before they are whole: to
        replace the file each time would do the same, and on a disk take ten times as long. There is no fsync: a
        container does not outlive the machine, and neither need its record. Raises KernelError (ENOSPC leaves the old
        record in force).
        """
        line = encode(record).encode() + b"\n"
        if self._has_record:
            self._write(files.append, STATE_FILE, line)
        else:
            self._write(files.replace, STATE_FILE, line)
            self._has_record = True

    def write_file(self, name: str, data: bytes) -> None:
        """Put a file of mode 0600 into the directory, atomically. Raises KernelError."""
        self._write(files.replace, name, data)

    def _write(self, how: Callable[[str, bytes], None], name: str, data: bytes) -> None:
        path = self.file_path(name)
        try:
            how(path, data)
        except OSError as error:
            raise _failed(f"write {len(data)} bytes to {path!r}", error) from None

    def read(self) -> Record:
        """The record as last written.

        Raises NotFoundError if there is no such container (also when a create died before its first record: `delete
        --force` removes such a directory), StateError if the file is damaged, KernelError if it may not be read.
        """
        path = self.file_path(STATE_FILE)
        try:
            lines = self.read_file(STATE_FILE).rpartition(b"\n")[0]  # behind it is nothing, or a line being written
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("container does not exist", where=self.id) from None
        except OSError as error:
            raise _failed(f"open({path!r})", error) from None
        try:
            record = decode(lines.rpartition(b"\n")[2].decode())
        except (ValueError, StateError) as error:
            raise _damaged(self.id, path, str(error)) from None
        if not isinstance(record, dict) or not _RECORD_TYPES.items() <= {k: type(v) for k, v in record.items()}.items():
            raise _damaged(self.id, path, "it is no record of a container")
        return cast("Record", record)

    def read_config(self) -> Any:
        """The copy of config.json. Raises as `read_file`; ValueError if it is damaged."""
        return decode(self.read_file("config.json").decode())

    def read_file(self, name: str) -> bytes:
        """The bytes of one file. Raises OSError as open(2) and read(2) do; StateError if it is absurdly large."""
        file_fd = posix.open(self.file_path(name), posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            size = posix.fstat(file_fd).st_size
            if size > _FILE_LIMIT:
                raise _damaged(self.id, self.file_path(name), f"it has {size} bytes")
            return posix.read(file_fd, size)
        finally:
            posix.close(file_fd)

    def remove_file(self, name: str) -> None:
        """Remove one file of the directory; that it is gone already is no error. Raises OSError."""
        files.unlink(self.file_path(name))

    def remove(self) -> None:
        """Remove the directory and what is in it; that it is gone already is no error. Raises KernelError."""
        try:
            for name in (STATE_FILE, "config.json"):  # as a rule there is nothing else
                files.unlink(self.file_path(name))
            if not self._remove_directory():
                self._remove_the_rest()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(f"remove {self.path!r}", error) from None

    def _remove_directory(self) -> bool:
        """Whether it could be removed, being empty."""
        try:
            posix.rmdir(self.path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        return True

    def _remove_the_rest(self) -> None:
        for name in posix.listdir(self.path):
            if name == NOTIFY_DIRECTORY:
                _remove_tree(self.file_path(name))
            else:
                files.unlink(self.file_path(name))
        posix.rmdir(self.path)

    def make_notify_directory(self) -> None:
        """Make the directory that is shown to the container. Raises KernelError."""
        path = self.file_path(NOTIFY_DIRECTORY)
        try:
            posix.mkdir(path)
            posix.chmod(path, 0o755)  # whatever the umask
        except OSError as error:
            raise _failed(f"mkdir({path!r}, 0755)", error) from None

    def lock(self) -> int:
        """Wait for the exclusive lock of this container and return the fd that holds it: close it to let go.

        See flock(2). It serialises the verbs that change the container. Raises NotFoundError, KernelError.
        """
        try:
            lock_fd = posix.open(self.path, _OPEN_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("container does not exist", where=self.id) from None
        except OSError as error:
            raise _failed(f"open({self.path!r})", error) from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX)
        except OSError as error:
            posix.close(lock_fd)
            raise _failed(f"flock({self.path!r}, LOCK_EX)", error) from None
        return lock_fd


def listing(root_path: str) -> list[Store]:
    """The containers below --root, by ID. A root that does not exist yet has none. Raises KernelError."""
    try:
        with posix.scandir(root_path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _failed(f"scandir({root_path!r})", error) from None
    # A directory whose name is no ID is none of ours: --root may be anywhere.
    return [Store(root_path, name) for name in names if name not in (".", "..") and _ID_CHARACTERS.issuperset(name)]


# The keys that the verbs rely on. (bool is not int here: types are compared, not isinstance.)
_RECORD_TYPES: dict[str, type] = {
    "ociVersion": str,
    "id": str,
    "pid": int,
    "bundle": str,
    "rootfs": str,
    "created": str,
    "annotations": dict,
    "startTime": int,
    "cgroup": str,
    "cgroupIntended": str,
}


def _damaged(container_id: str, path: str, reason: str) -> StateError:
    hint = f"remove the container with: delete --force {container_id}"
    return StateError(f"the record {path} is damaged: {reason}", where=container_id, hint=hint)


def _make_parents(path: str) -> None:
    """mkdir -p, from the top down. Another runtime may be doing the same."""
    directory = ""
    for part in path.split("/"):
        directory += f"{part}/"
        try:
            posix.mkdir(directory, 0o711)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno == errno.EROFS and _is_directory(directory):
                continue  # a read-only file system says so even of what is there
            raise _failed(f"mkdir({directory!r}, 0711)", error) from None


def _is_directory(path: str) -> bool:
    try:
        posix.stat(f"{path}/.")
    except OSError:
        return False
    return True


def _working_directory() -> str:
    try:
        return posix.getcwd()
    except OSError as error:
        raise _failed("getcwd()", error) from None


def _remove_tree(path: str) -> None:
    """rm -r. No link is followed, for the container may have made some."""
    for name in posix.listdir(path):
        try:
            files.unlink(f"{path}/{name}")
        except IsADirectoryError:
            _remove_tree(f"{path}/{name}")
    posix.rmdir(path)


_HINTS = {
    errno.EACCES: "another user's --root? Run as root, or give a --root of your own",
    errno.EPERM: "another user's --root? Run as root, or give a --root of your own",
    errno.EROFS: "--root must be on a writable file system, best on a tmpfs such as /run",
    errno.ENOSPC: "the file system of --root is full",
    errno.EDQUOT: "the quota on the file system of --root is used up",
    errno.ENAMETOOLONG: "--root and the ID together are longer than a path may be",
    errno.ENOTDIR: "a part of --root is no directory",
    errno.ENOENT: "a part of --root is a symbolic link to nowhere, or was removed meanwhile",
}


def _failed(call: str, error: OSError) -> KernelError:
    number = error.errno or errno.EIO
    return KernelError(call, number, where="--root", hint=_HINTS.get(number, ""))
