"""What an `exec` shall execute, and where that was asked for: config.json's process as options change it, or a file's.

The rooms below speak of config.json#/process, which is where a start has it all from. What is taken from elsewhere is
noted here, and `Wanted.place` turns the one into the other.

Read beside runc:exec.go:/^func getProcess/ and runc:libcontainer/container_linux.go:/^func .*newInitConfig/.
"""

from __future__ import annotations

import posix

from pyruntime.errors import KernelError, UsageError
from pyruntime.spec.load import OPEN, parse_object, read_and_close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, cast

    from pyruntime.spec.types import Capabilities, Process, Spec, User
else:

    def cast(_type, value):
        """Stand in for typing.cast."""
        return value


_PROCESS = "config.json#/process"
_LEAST: Process = {"cwd": "/"}  # what a config.json without a process has of one
_LAST_ID = 2**32 - 2  # 2**32 - 1 is the kernel's "leave it as it is"

# What a file's process has from the container where it says nothing: runc's list, and what runc takes of it alone.
_INHERITED = (
    "capabilities",
    "rlimits",
    "apparmorProfile",
    "selinuxLabel",
    "scheduler",
    "ioPriority",
    "execCPUAffinity",
    "oomScoreAdj",
)


class Wanted:
    """The container's Spec with the process to be, and the origins of that: {key: an option or a file's place}."""

    __slots__ = ("origins", "spec")

    def __init__(self, spec: Spec, process: Process, origins: dict[str, str]) -> None:
        self.spec: Spec = {**spec, "process": process}
        self.origins = origins

    def place(self, where: str) -> str:
        """What a user knows a place of config.json by: "--user", "process.json#/args/0", or that place itself.

        What the words of the command say is known by no place: "".
        """
        before, found, pointer = where.partition(_PROCESS)
        key, slash, rest = pointer.removeprefix("/").partition("/")
        if before or not found or key not in self.origins:
            return where
        origin = self.origins[key]
        return f"{origin}{slash}{rest}" if "#" in origin else origin

    def is_plain(self) -> bool:
        """Whether only the command is new, and sound: all else has been checked when the container was made."""
        if not self.origins.keys() <= {"args", "terminal"}:
            return False
        args = self.spec["process"]["args"]
        return all(type(arg) is str and "\0" not in arg for arg in args) and args[0] != ""

    def check(self) -> list[str]:
        """The warnings to be told. Raises ConfigError or UnsupportedError, with its place, for the first problem."""
        from pyruntime.spec.validate import process_findings  # as much code as all else that an exec takes

        told = []
        for finding in process_findings(self.spec):
            where = self.place(finding.where())
            if finding.error is not None:
                raise finding.error(finding.message, where=where, hint=finding.hint)
            told.append(f"{where}: {finding.message}" if where else finding.message)
        return told


def from_file(spec: Spec, path: str) -> Wanted:
    """The process that the JSON object in a file, or in a pipe, describes (config.md#process).

    Raises ConfigError if it is no file, too large, or no object, KernelError, UsageError for what is no path.
    """
    try:
        fd = posix.open(path, OPEN)
    except ValueError:
        raise UsageError(f"{path!r} has a character that no file name can have", where="--process") from None
    except OSError as error:
        raise KernelError(f"open({path!r}, O_RDONLY)", error.errno or 0, where="--process") from None
    return from_object(spec, parse_object(read_and_close(fd, path, path, pipe=True), path), path)


def from_object(spec: Spec, given: dict[str, Any], name: str) -> Wanted:
    """The process that an object describes; `name` is what messages call it."""
    origins = {"": f"{name}#", **{key: f"{name}#/{key}" for key in given}}
    own = spec.get("process", _LEAST)
    inherited: Any = {
        key: own[key]  # type: ignore[literal-required]
        for key in _INHERITED
        if key in own and given.get(key) in (None, "", [])
    }
    for key in inherited:
        origins.pop(key, None)
    umask = own.get("user", {}).get("umask")
    user = given.get("user", {})
    if umask is not None and isinstance(user, dict):
        inherited["user"] = {"umask": umask, **user}
    return Wanted(spec, cast("Process", {**given, **inherited}), origins)


def from_options(
    spec: Spec,
    args: Sequence[str],
    *,
    cwd: str = "",
    env: Sequence[str] = (),
    user: str = "",
    additional_gids: Sequence[str] = (),
    cap: Sequence[str] = (),
    no_new_privs: bool | None = None,
    apparmor: str = "",
    process_label: str = "",
    tty: bool = False,
) -> Wanted:
    """config.json's process with another command, on a terminal only if one is asked for. Raises UsageError."""
    process: Process = {**spec.get("process", _LEAST), "args": list(args), "terminal": tty}
    origins = {"args": "", "terminal": "--tty"}
    changes: dict[str, Any] = {
        "cwd": (cwd, "--cwd"),
        "apparmorProfile": (apparmor, "--apparmor"),
        "selinuxLabel": (process_label, "--process-label"),
        "env": ([*process.get("env", ()), *env] if env else None, "--env"),
        "capabilities": (_with(process.get("capabilities", {}), cap) if cap else None, "--cap"),
    }
    for key, (value, option) in changes.items():
        if value:
            process[key] = value  # type: ignore[literal-required]
            origins[key] = option
    if no_new_privs is not None:
        process["noNewPrivileges"] = no_new_privs
        origins["noNewPrivileges"] = "--no-new-privs"
    if user or additional_gids:
        process["user"] = _user(process.get("user", {}), user, additional_gids)
        origins["user"] = "--user" if user else "--additional-gids"
    return Wanted(spec, process, origins)


def _with(sets: Capabilities, names: Sequence[str]) -> Capabilities:
    """The sets with more capabilities: ambient only where config.json has an inheritable set, which is left as it is.

    What is ambient must be inheritable as well; and inheritable capabilities are given by nobody but config.json
    (CVE-2022-29162).
    """
    grown = ("bounding", "effective", "permitted", *(("ambient",) if "inheritable" in sets else ()))
    before: dict[str, list[str]] = cast("dict[str, list[str]]", sets)
    more = {key: [*dict.fromkeys((*before.get(key, ()), *names))] for key in grown}
    return cast("Capabilities", {**before, **more})


def _user(before: User, user: str, additional_gids: Sequence[str]) -> User:
    """The user that UID or UID:GID names, and the groups besides. A group that isn't named stays config.json's."""
    changed: User = {**before}
    if user:
        uid, colon, gid = user.partition(":")
        changed["uid"] = _id(uid, "--user")
        if colon:
            changed["gid"] = _id(gid, "--user")
    if additional_gids:
        more = [_id(gid, "--additional-gids") for gid in additional_gids]
        changed["additionalGids"] = [*before.get("additionalGids", ()), *more]
    return changed


def _id(text: str, option: str) -> int:
    """A user's or group's number, strictly: what is read loosely or cut at 32 bits may be root's (CVE-2026-30892)."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LAST_ID):
        raise UsageError(f"{text!r} is no ID: a number from 0 to {_LAST_ID}", where=option)
    return int(text)
