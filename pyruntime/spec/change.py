"""What an `update` shall change of `linux.resources`, and where that was asked for: options, a file, or a program.

The rooms below speak of config.json#/linux/resources, which is where a start has its limits from. What is asked for
elsewhere is noted here, and `Change.place` turns the one into the other, as spec/execution.py does for `exec`.

Read beside runc:update.go.
"""

from __future__ import annotations

import posix

from pyruntime.errors import ConfigError, KernelError, UsageError
from pyruntime.spec.load import OPEN, SIZE_LIMIT, parse_object, read_and_close
from pyruntime.spec.schema import check, members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, cast

    from pyruntime.spec.types import IntelRdt, Resources
else:

    def cast(_type, value):
        """Stand in for typing.cast."""
        return value


_RESOURCES = "config.json#/linux/resources"
_STDIN = "-"

# Keys for which 0 and "" ask for nothing, as everywhere in runc. Where 0 is a value (pids.limit, cpu.idle) it is one.
_ZERO_IS_NOTHING = {
    "memory": ("limit", "reservation", "swap"),
    "cpu": ("shares", "quota", "period", "cpus", "mems"),
    "blockIO": ("weight",),
}
_WITH_FIXED_KEYS = ("memory", "cpu", "blockIO", "pids")


class Change:
    """The resources to be changed, and nothing else, with the origins of that: {pointer: option}, or a file's name."""

    __slots__ = ("given", "name", "options", "resources")

    def __init__(self, given: dict[str, Any], name: str = "", options: Mapping[str, str] | None = None) -> None:
        self.given = given
        self.name = name
        self.options = options or {}
        self.resources = cast("Resources", given)

    def place(self, where: str) -> str:
        """What a user knows a place of config.json by: "--memory", "limits.json#/memory/limit", or that place itself.

        The last is that of a value that the container has from before.
        """
        before, found, pointer = where.partition(_RESOURCES)
        if before or not found:
            return where
        if pointer in self.options:
            return self.options[pointer]
        return f"{self.name}#{pointer}" if self.name and _is_there(self.given, pointer) else where

    def check(self) -> list[str]:
        """The warnings to be told; what asks for nothing is dropped. Raises ConfigError for the first problem."""
        told = []
        for finding in check(self.given, "Resources"):
            where = self.place(_RESOURCES + finding.pointer())
            if finding.error is not None:
                raise finding.error(finding.message, where=where, hint=finding.hint)
            told.append(f"{where}: {finding.message}" + (f" ({finding.hint})" if finding.hint else ""))
        self.resources = _without_nothing(self.given)
        return told


def from_file(path: str) -> Change:
    """The change that the JSON object `linux.resources` in a file, or in a pipe, asks for; "-": in standard input.

    Raises ConfigError if it is no file, too large, or no object, KernelError, UsageError for what is no path.
    """
    if path == _STDIN:
        return Change(parse_object(_read_standard_input(), "stdin"), "stdin")
    try:
        fd = posix.open(path, OPEN)
    except ValueError:
        raise UsageError(f"{path!r} has a character that no file name can have", where="--resources") from None
    except OSError as error:
        raise KernelError(f"open({path!r}, O_RDONLY)", error.errno or 0, where="--resources") from None
    return Change(parse_object(read_and_close(fd, path, path, pipe=True), path), path)


def from_options(options: Mapping[str, str]) -> Change:
    """The change that options ask for: {"cpu_quota": "50000"}; "" for none. Raises UsageError for what is no number."""
    given: dict[str, dict[str, int | str]] = {}
    origins: dict[str, str] = {}
    for name, text in options.items():
        if text:
            group, key, read = OPTIONS[name]
            option = "--" + name.replace("_", "-")
            given.setdefault(group, {})[key] = read(text, option)
            origins[f"/{group}/{key}"] = option
    return Change(given, options=origins)


def schemata(l3_cache_schema: str, mem_bw_schema: str) -> IntelRdt:
    """What the two options say of `linux.intelRdt`; nothing if they are empty. Raises ConfigError."""
    given: IntelRdt = {}
    if l3_cache_schema:
        given["l3CacheSchema"] = l3_cache_schema
    if mem_bw_schema:
        given["memBwSchema"] = mem_bw_schema
    for finding in check(given, "IntelRdt"):
        if finding.error is not None:
            raise finding.error(finding.message, where=SCHEMA_OPTIONS[str(finding.path[0])])
    return given


def _read_standard_input() -> bytes:
    """All of it, whatever it is: a file, a pipe, a socket, a terminal."""
    chunks, size = [], 0
    try:
        while chunk := posix.read(0, 1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > SIZE_LIMIT:
                raise ConfigError(f"larger than {SIZE_LIMIT >> 20} MiB", where="stdin")
    except OSError as error:
        raise KernelError("read(stdin)", error.errno or 0, where="--resources") from None
    return b"".join(chunks)


def _is_there(given: dict[str, Any], pointer: str) -> bool:
    """Whether the group and the key that a pointer begins with were given."""
    _, group, *rest = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/"))
    return group in given and (group not in _WITH_FIXED_KEYS or not rest or rest[0] in given[group])


def _without_nothing(given: dict[str, Any]) -> Resources:
    """What was given without what asks for nothing, and without the groups in which nothing is left or nobody knows."""
    kept = {}
    for group in members("Resources")[0]:
        inside, zeros = given.get(group), _ZERO_IS_NOTHING.get(group, ())
        if isinstance(inside, dict):
            inside = {key: value for key, value in inside.items() if value not in (0, "") or key not in zeros}
        if inside:
            kept[group] = inside
    return cast("Resources", kept)


# The words of options.


def _text(text: str, _option: str) -> str:
    return text


def _number(text: str, option: str) -> int:
    """A decimal number. Strict: int() would take ' 1' and '1_0'. Its range is for the schema to check."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise UsageError(f"{text!r} is not a whole number", where=option)
    return int(text)


def size(text: str, option: str) -> int:
    """A number of bytes: 1048576, 512K, 50m, 1.5G, 2GiB, in powers of 1024; -1 for no limit.

    docker/go-units:size.go:/^func RAMInBytes/
    """
    if text == "-1":
        return -1
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(number) :].lower()
    whole, _, fraction = number.removesuffix(" ").partition(".")
    power = "kmgtp".find(unit[:1]) + 1 if unit else 0
    sound = unit in ("", "b") or (power and unit[1:] in ("", "b", "ib"))
    if not (sound and (whole + fraction).isascii() and (whole + fraction).isdigit() and len(number) <= 20):
        raise UsageError(f"{text!r} is no size, such as 1048576, 512K, 1.5G, or -1 for no limit", where=option)
    octets: int = int(whole + fraction) * 1024**power // 10 ** len(fraction)
    return octets


SCHEMA_OPTIONS = {"l3CacheSchema": "--l3-cache-schema", "memBwSchema": "--mem-bw-schema"}

# Option -> the group and the key of linux.resources that it stands for, and how its word is read.
OPTIONS: dict[str, tuple[str, str, Callable[[str, str], int | str]]] = {
    "blkio_weight": ("blockIO", "weight", _number),
    "cpu_period": ("cpu", "period", _number),
    "cpu_quota": ("cpu", "quota", _number),
    "cpu_burst": ("cpu", "burst", _number),
    "cpu_share": ("cpu", "shares", _number),
    "cpu_rt_period": ("cpu", "realtimePeriod", _number),
    "cpu_rt_runtime": ("cpu", "realtimeRuntime", _number),
    "cpuset_cpus": ("cpu", "cpus", _text),
    "cpuset_mems": ("cpu", "mems", _text),
    "kernel_memory": ("memory", "kernel", size),
    "kernel_memory_tcp": ("memory", "kernelTCP", size),
    "memory": ("memory", "limit", size),
    "cpu_idle": ("cpu", "idle", _number),
    "memory_reservation": ("memory", "reservation", size),
    "memory_swap": ("memory", "swap", size),
    "pids_limit": ("pids", "limit", _number),
}
