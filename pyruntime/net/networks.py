"""The networks that are defined below --root: read, and locked. Making and removing them is definitions.py's part.

The lock is one for all networks: ports and addresses are the host's, so what one network gives away another may not.
It is the directory itself, and held for about a millisecond.
"""

from __future__ import annotations

import fcntl
import posix

from pyruntime.errors import KernelError, NotFoundError, StateError
from pyruntime.jsontext import decode, encode
from pyruntime.linux import files, proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, cast

    from pyruntime.net.types import Network
else:

    def cast(_kind, value):
        """Stand in for typing.cast."""
        return value


DIRECTORY = "~networks"  # below --root; no container's ID begins with ~
DEFAULT = "default"  # the network of --net bridge
_LIMIT = 64 << 20  # bytes of a file here


class Networks:
    """The directory of networks below one --root. Constructing it touches no file."""

    __slots__ = ("path", "root_path")

    def __init__(self, root_path: str) -> None:
        self.root_path = root_path
        self.path = f"{root_path}/{DIRECTORY}"

    def lock(self) -> int:
        """Wait for the lock; the descriptor that holds it: close it to let go. Raises KernelError. See flock(2)."""
        try:
            try:
                lock_fd = posix.open(self.path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
            except FileNotFoundError:
                self._make()
                lock_fd = posix.open(self.path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
            fcntl.flock(lock_fd, fcntl.LOCK_EX)
        except OSError as error:
            raise KernelError(f"lock {self.path!r}", error.errno or 0, where="--root") from None
        return lock_fd

    def names(self) -> list[str]:
        """The names of the networks, sorted. Raises KernelError."""
        try:
            found = posix.listdir(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KernelError(f"listdir({self.path!r})", error.errno or 0, where="--root") from None
        # A file that was never finished has its writer's pid behind the ending.
        return sorted(name[:-5] for name in found if name.endswith(".json") and not name.endswith(".leases.json"))

    def find(self, name: str) -> Network | None:
        """The network of this name; None if there is none. Raises StateError if its file is damaged, KernelError."""
        found = self.read_file(f"{name}.json")
        if found is None:
            return None
        if not isinstance(found, dict) or not {"name", "bridge", "subnets", "mtu"} <= found.keys():
            raise self.damaged(f"{name}.json", "it defines no network")
        return cast("Network", found)

    def read(self, name: str) -> Network:
        """The network of this name. Raises NotFoundError; else as `find`."""
        found = self.find(name)
        if found is None:
            others = ", ".join(self.names())
            hint = f"there is {others}" if others else f"make it: pyruntime network create {name}"
            raise NotFoundError(f"there is no network {name!r}", hint=hint)
        return found

    def read_file(self, name: str) -> object:
        """The JSON in one file; None if it is not there. Raises StateError if it is damaged, KernelError."""
        path = f"{self.path}/{name}"
        try:
            data = proc.read_file(path, _LIMIT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KernelError(f"read {path!r}", error.errno or 0, where="--root") from None
        try:
            return decode(data.decode())
        except ValueError as error:
            raise self.damaged(name, str(error)) from None

    def write_file(self, name: str, content: Any) -> None:
        """Replace one file. Raises KernelError; then the old one is in place."""
        path = f"{self.path}/{name}"
        try:
            files.replace(path, encode(content).encode())
        except OSError as error:
            raise KernelError(f"write {path!r}", error.errno or 0, where="--root") from None

    def remove_file(self, name: str) -> None:
        """Remove one file; that it is gone already is no error. Raises KernelError."""
        try:
            files.unlink(f"{self.path}/{name}")
        except OSError as error:
            raise KernelError(f"unlink({self.path}/{name})", error.errno or 0, where="--root") from None

    def has_container(self, id: str) -> bool:
        """Whether a container of this ID exists, in whatever state."""
        try:
            posix.stat(f"{self.root_path}/{id}")
        except FileNotFoundError:
            return False
        return True

    def damaged(self, name: str, reason: str) -> StateError:
        """The error for a file that nobody can use."""
        hint = "remove that file; running containers keep their network, but their addresses are not known any more"
        return StateError(f"{self.path}/{name} is damaged: {reason}", hint=hint)

    def _make(self) -> None:
        """--root is there already where a container is; `network create` may come first."""
        for path in (self.root_path, self.path):
            try:
                posix.mkdir(path, 0o711)
            except FileExistsError:
                continue
