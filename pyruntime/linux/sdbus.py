"""sd-bus: as much of libsystemd as calls methods of systemd and hears when they are done. No policy.

D-Bus is spoken by libsystemd itself, bound here by hand as linux/seccomp.py binds libseccomp: it is wherever systemd
is, and kept by those who keep the other end. Of its functions only those are used that take a fixed number of arguments
(sd_bus_message_append_basic(3), not sd_bus_message_append(3)): a variadic one can't be called through ctypes on every
architecture. What else there was: jeepney, one more package for the installed command, and an import of many
milliseconds; busctl(1), which can call but not wait for a signal; code of our own, which is not what this project is
for.

Like systemctl(1) we talk to the manager directly, by its private socket: no D-Bus daemon need run, and none is between.
Where there is no such socket (in a container with the host's bus) it goes through the bus.

Only imported where systemd makes the cgroup (--systemd-cgroup), and by the verbs that end such a container. See
sd-bus(3) and org.freedesktop.systemd1(5). Read beside crun:src/libcrun/cgroup-systemd.c.
"""

from __future__ import annotations

import posix
from _struct import pack
from errno import errorcode
from sys import byteorder
from time import monotonic

from pyruntime.errors import SystemdError, UnsupportedError
from pyruntime.linux.call import address, c_string, c_void_p, library, memory_at, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIBRARY = "libsystemd.so.0"
_NAME, _PATH, _MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_DAEMON, _DAEMON_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_SIZES = {"y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8}  # bytes of the numbers, as C has them
_SIGNED = "nix"
_TEXTS = "sog"


class Bus:
    """A connection to a service manager: the system's, or the one of this user. Raises SystemdError.

    UnsupportedError where there is no libsystemd.
    """

    __slots__ = ("_bus", "_functions")

    def __init__(self, *, users: bool) -> None:
        try:
            self._functions = library(_LIBRARY)
        except OSError as error:
            raise UnsupportedError(f"needs {_LIBRARY}: {error}", hint="install libsystemd0, or systemd-libs") from error
        self._bus = 0
        directory = posix.environ.get(b"XDG_RUNTIME_DIR", b"") if users else b"/run"
        socket_path = directory + b"/systemd/private"
        if directory and _exists(socket_path):
            self._open_private(socket_path)
        else:
            self._open_shared(users)
        self._refuse_strangers()

    def _open_private(self, socket_path: bytes) -> None:
        place = bytearray(8)
        self._call("sd_bus_new", address(place))
        self._bus = _word(place)
        escaped = "".join(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02x}" for byte in socket_path)
        self._call("sd_bus_set_address", self._bus, c_string(f"unix:path={escaped}"))
        self._call("sd_bus_start", self._bus)

    def _open_shared(self, users: bool) -> None:
        """By a D-Bus daemon, which has to be told what we want to hear."""
        place = bytearray(8)
        self._call("sd_bus_open_user" if users else "sd_bus_open_system", address(place))
        self._bus = _word(place)
        rule = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
        self._send(self._message(_DAEMON, _DAEMON_PATH, _DAEMON, "AddMatch", "s", (rule,)))
        self.call("Subscribe", "")

    def _refuse_strangers(self) -> None:
        """Who is in another PID namespace would take our process IDs for those of other processes."""
        from _socket import SO_PEERCRED, SOL_SOCKET, socket

        peer = socket(fileno=posix.dup(self._call("sd_bus_get_fd", self._bus)))
        try:
            pid = int.from_bytes(peer.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], byteorder)  # struct ucred
        finally:
            peer.close()
        if not pid:
            self.close()
            raise UnsupportedError("the service manager is in another PID namespace, and can't know our processes")

    def close(self) -> None:
        """Close the connection. Nobody may call anything after that."""
        self._release("sd_bus_flush_close_unref", self._bus)
        self._bus = 0

    def call(self, member: str, signature: str, *arguments: Any) -> str:
        """Call a method of the manager; the object path that it returns, "" for nothing.

        The arguments are as `signature` says (D-Bus Specification, "Type System"): an array is a list, a struct is a
        tuple, a variant is a tuple of a signature and a value. Raises SystemdError with the error's name, such as
        "org.freedesktop.systemd1.UnitExists".
        """
        return self._send(self._message(_NAME, _PATH, _MANAGER, member, signature, arguments))

    def property(self, name: str) -> str:
        """A property of the manager whose type is a string. Raises SystemdError."""
        message = self._message(_NAME, _PATH, "org.freedesktop.DBus.Properties", "Get", "ss", (_MANAGER, name))
        return self._send(message, inside="s")

    def wait_for_job(self, job: str, seconds: float) -> str:
        """The result of a job, by its object path: "done", "failed", "canceled"...; "" if it takes longer.

        Jobs whose end came while something else was waited for are not missed: sd-bus keeps all that it has received.
        """
        end = monotonic() + seconds
        place = bytearray(8)
        while True:
            if self._call("sd_bus_process", self._bus, address(place)):
                if message := _word(place):
                    try:
                        ended, result = self._job_removed(message)
                    finally:
                        self._release("sd_bus_message_unref", message)
                    if ended == job:
                        return result
                continue  # there may be more
            if (left := end - monotonic()) <= 0:
                return ""
            self._call("sd_bus_wait", self._bus, int(left * 1e6) + 1)

    def _job_removed(self, message: int) -> tuple[str, str]:
        """Of a signal JobRemoved(u id, o job, s unit, s result) the job and its result; of other messages ("", "")."""
        if not self._call("sd_bus_message_is_signal", message, c_string(_MANAGER), c_string("JobRemoved")):
            return "", ""
        self._call("sd_bus_message_skip", message, c_string("u"))
        job, _unit, result = self._read(message, "o"), self._read(message, "s"), self._read(message, "s")
        return job, result

    def _message(self, name: str, path: str, interface: str, member: str, signature: str, arguments: Any) -> int:
        """A method call, which `_send` is to send."""
        place = bytearray(8)
        words = [c_string(word) for word in (name, path, interface, member)]
        self._call("sd_bus_message_new_method_call", self._bus, address(place), *words)
        message = _word(place)
        try:
            for kind, value in zip(split(signature), arguments, strict=True):
                self._append(message, kind, value)
        except BaseException:
            self._release("sd_bus_message_unref", message)
            raise
        return message

    def _append(self, message: int, kind: str, value: Any) -> None:
        """Append a value of one complete type."""
        if kind[0] not in "a(v":
            self._call("sd_bus_message_append_basic", message, ord(kind), _basic(kind, value))
            return
        code, inside, values = _container(kind, value)
        self._call("sd_bus_message_open_container", message, ord(code), c_string(inside))
        for inner, each in values:
            self._append(message, inner, each)
        self._call("sd_bus_message_close_container", message)

    def _send(self, message: int, inside: str = "") -> str:
        """Send a method call and wait for its answer, as long as D-Bus does by default: 25 s. Releases the message.

        inside: the type in the variant that the answer is.
        """
        error, place = bytearray(24), bytearray(8)  # struct sd_bus_error: name, message, whether to free them
        try:
            send = self._function("sd_bus_call", 5)
            result = send(self._bus, message, 0, address(error), address(place))
        finally:
            self._release("sd_bus_message_unref", message)
        if result < 0:
            name, text = (_text(int.from_bytes(error[at : at + 8], byteorder)) for at in (0, 8))
            self._release("sd_bus_error_free", address(error))
            raise SystemdError(text or _errno_text(result), name)
        answer = _word(place)
        try:
            if inside:
                self._call("sd_bus_message_enter_container", answer, ord("v"), c_string(inside))
                return self._read(answer, inside)
            return "" if self._call("sd_bus_message_is_empty", answer) else self._read(answer, "o")
        finally:
            self._release("sd_bus_message_unref", answer)

    def _read(self, message: int, kind: str) -> str:
        """The next value, which is a text of this type."""
        place = bytearray(8)
        self._call("sd_bus_message_read_basic", message, ord(kind), address(place))
        return _text(_word(place))

    def _call(self, name: str, *arguments: int | bytes) -> int:
        """Call a function that returns an int, of libsystemd's: an errno, if it is negative. Raises SystemdError."""
        result: int = self._function(name, len(arguments))(*arguments)
        if result < 0:
            raise SystemdError(f"{name}(): {_errno_text(result)}")
        return result

    def _release(self, name: str, thing: int) -> None:
        """Call a function that takes a thing back and returns none."""
        function = self._function(name, 1)
        function.restype = c_void_p
        function(thing)

    def _function(self, name: str, count: int) -> Any:
        """A function of so many arguments, each handed over as a whole machine word (linux/call.py). Returns an int."""
        function = self._functions(name)
        function.argtypes = (c_void_p,) * count
        return function


# What a D-Bus address holds as it is (D-Bus Specification, "Server Addresses").
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_/\\.*")


def split(signature: str) -> list[str]:
    """The complete types of a signature: "sa(sv)" -> ["s", "a(sv)"]."""
    found: list[str] = []
    start = depth = 0
    for at, letter in enumerate(signature):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter != "a":
            found.append(signature[start : at + 1])
            start = at + 1
    return found


def _container(kind: str, value: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    """Of an array, struct or variant: its code (sd_bus_message_open_container(3)), what is in it, and the values."""
    if kind[0] == "v":
        inside, content = value
        return "v", inside, [(inside, content)]
    if kind[0] == "a":
        return "a", kind[1:], [(kind[1:], each) for each in value]
    return "r", kind[1:-1], list(zip(split(kind[1:-1]), value, strict=True))


def _basic(kind: str, value: Any) -> bytes:
    """A value as append_basic takes it: a C string itself, of a number where it lies."""
    if kind in _TEXTS:
        return c_string(value)
    if kind == "d":
        return pack("d", value)
    return int(value).to_bytes(_SIZES[kind], byteorder, signed=kind in _SIGNED)


def _word(place: bytearray) -> int:
    return int.from_bytes(place, byteorder)


def _text(place: int) -> str:
    """The C string at an address, "" for NULL."""
    if not place:
        return ""
    length = native("strlen")
    length.argtypes = (c_void_p,)
    return memory_at(place, length(place)).decode("utf-8", "surrogateescape")


def _errno_text(result: int) -> str:
    return f"{errorcode.get(-result, -result)}: {posix.strerror(-result)}"


def _exists(path: bytes) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True
