"""The one error tree: what went wrong, where in the user's input, and what to do about it.

The core raises these and never prints or exits; only `cli` does. An error crosses the border between the container's
child process and its parent whole (see launch/sync.py), so every class here can be taken apart into text and put
together again.

Read beside runc:libcontainer/error.go and runc:libcontainer/mount_linux.go:/^type mountError/.
"""

from __future__ import annotations

import errno as _errno
from posix import strerror as _strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = (
    "ConfigError",
    "Error",
    "ExistsError",
    "HookError",
    "KernelError",
    "NftError",
    "NotFoundError",
    "ProtocolError",
    "StateError",
    "SystemdError",
    "UnsupportedError",
    "UsageError",
    "errno_name",
)


def errno_name(number: int) -> str:
    """The header's name of an errno, such as "EPERM". See errno(3)."""
    return _errno.errorcode.get(number, f"errno {number}")


class Error(Exception):
    """Anything pyruntime refuses or fails to do.

    `where` is the place in the user's input: "config.json#/mounts/3" (a JSON pointer, RFC 6901) or an option's name.
    `hint` is the likely cause or the remedy, added only where the message alone misleads.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self._message = message
        self.where = where
        self.hint = hint

    @property
    def message(self) -> str:
        """What went wrong, without the place and the hint."""
        return self._message

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message}{remedy}"


class UsageError(Error):
    """The command line or the call is wrong: an unknown option, a malformed ID."""


class ConfigError(Error):
    """config.json breaks the runtime-spec (config.md), or asks for what cannot be."""


class UnsupportedError(Error):
    """The request is valid, but this runtime or this host cannot serve it. Never raised in place of silence."""


class KernelError(Error, OSError):
    """A system call failed. `call` is its text with the arguments, `errno` the kernel's answer.

    It is an OSError too, so that `except OSError` and `error.errno` work as for any other failed call. The text may be
    given as a function: many calls fail as expected (is there such a file?), and nobody reads what they would say.
    """

    def __init__(self, call: str | Callable[[], str], number: int, *, where: str = "", hint: str = "") -> None:
        OSError.__init__(self, number, _strerror(number))
        self._call = call
        self.where = where
        self.hint = hint

    @property
    def call(self) -> str:
        """The failed call as it would be written: "mount(source='proc', target='/proc', type='proc', ...)"."""
        return self._call if isinstance(self._call, str) else self._call()

    @property
    def message(self) -> str:
        """The call and the kernel's answer: "pivot_root(new_root='.', put_old='.'): EBUSY: Device or resource busy"."""
        number = self.errno or 0
        return f"{self.call}: {errno_name(number)}: {_strerror(number)}"

    __str__ = Error.__str__


class StateError(Error):
    """The container exists but is not in a state that allows the operation (runtime.md#operations)."""


class NotFoundError(StateError):
    """No container has this ID."""


class ExistsError(StateError):
    """A container with this ID exists already."""


class HookError(Error):
    """A hook failed or timed out (config.md#posix-platform-hooks)."""


class NftError(Error):
    """nft(8) refuses a ruleset; the message has its words."""


class SystemdError(Error):
    """systemd refuses what it was asked, or does not answer; the message has its words.

    `name` is the error's name on D-Bus ("org.freedesktop.systemd1.UnitExists"), "" if it has none.
    """

    def __init__(self, message: str, name: str = "", *, where: str = "", hint: str = "") -> None:
        super().__init__(message, where=where, hint=hint)
        self.name = name


class ProtocolError(Error):
    """The other side of the parent and child protocol died, or said what it may not say."""
