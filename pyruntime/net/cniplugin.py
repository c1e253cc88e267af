"""One CNI plugin: finding its program, asking it, and telling what it answers (CNI SPEC.md, 2 and 5).

It is a program of the administrator's, run as root with the parameters in its environment and its configuration on
stdin; it answers with JSON on stdout, an error as well. Nothing is taken for granted of it: it may hang, or print
rubbish, or not be there.

Read beside containernetworking/cni:pkg/invoke/exec.go and :pkg/invoke/raw_exec.go.
"""

from __future__ import annotations

import posix

from pyruntime.errors import ConfigError, Error
from pyruntime.jsontext import decode, encode
from pyruntime.linux import program, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Json = dict[str, Any]

TIMEOUT = 60.0  # seconds for one plugin: DHCP is the slowest known, and takes some ten
_OUTPUT_MAX = 1 << 20  # bytes of a result
_ERRORS_MAX = 1024  # bytes that an error's text shows of what a plugin has written: the last ones
_INCOMPATIBLE, _TRY_AGAIN = 1, 11  # of CNI's error codes those with a remedy
_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def versions_of(kind: str, path: str) -> list[str]:
    """What a plugin answers to VERSION. Raises Error."""
    known = (ask("VERSION", kind, path, {"cniVersion": "1.1.0"}, {}) or {}).get("supportedVersions")
    if not isinstance(known, list):
        raise failure("VERSION", kind, "has told no supportedVersions")
    return [str(version) for version in known]


def ask(
    command: str,
    kind: str,
    path: str,
    asked: Json,
    variables: dict[str, str],
    interrupt_fd: int = -1,
) -> Json | None:
    """Ask a plugin, such as "bridge", for ADD or the like; the JSON object that it prints, None if it prints nothing.

    path: CNI_PATH. asked: its configuration. variables: what else its environment shall have.
    interrupt_fd: see program.run. Raises Error.
    """
    executable_path = executable(kind, path)
    environment = _environment({"CNI_COMMAND": command, "CNI_PATH": path, **variables})

    def become(_report_fd: int) -> NoReturn:
        syscalls.execve(executable_path, [executable_path.encode()], environment)

    stdin_fd = program.memfd(f"cni {kind}", encode(asked).encode())
    stdout, stderr = program.Output(_OUTPUT_MAX), program.Output(_ERRORS_MAX)
    try:
        reason = program.run(become, stdin_fd, stdout, stderr, timeout=TIMEOUT, interrupt_fd=interrupt_fd)
    except OSError as error:
        raise failure(command, kind, f"could not be run: {error.strerror}") from error
    finally:
        posix.close(stdin_fd)
        stdout.close()
        stderr.close()
    if stdout.lost:
        raise failure(command, kind, f"has printed more than {_OUTPUT_MAX} bytes")
    answer = _decoded(stdout.data)
    if reason:
        raise _told(command, kind, path, reason, answer or {}, stderr.data or stdout.data)
    if answer is None and stdout.data.strip():
        raise failure(command, kind, "has printed what is no JSON object", stdout.data)
    return answer


def executable(kind: str, path: str) -> str:
    """The plugin's program. Raises ConfigError if there is none."""
    for directory_path in path.split(":"):
        candidate = f"{directory_path}/{kind}"
        if posix.access(candidate, posix.X_OK) and not _is_directory(candidate):
            return candidate
    hint = "Debian: the package containernetworking-plugins; the environment variable CNI_PATH names other directories"
    raise ConfigError(f"there is no CNI plugin {kind} in {path}", hint=hint)


def failure(command: str, kind: str, reason: str, wrote: bytes = b"", hint: str = "") -> Error:
    """The error that a plugin's failure is. `reason` is the end of a sentence about it, `wrote` what it has written."""
    # repr: one line, and nothing in it that a terminal would obey.
    shown = f"; it wrote {wrote[-_ERRORS_MAX:].decode(errors='replace').strip()!r}" if wrote.strip() else ""
    return Error(f"{command} of the CNI plugin {kind}: it {reason}{shown}", hint=hint)


def _decoded(output: bytes) -> Json | None:
    """The JSON object that was printed; None if it is none."""
    try:
        answer = decode(output.decode())
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _told(command: str, kind: str, path: str, reason: str, answer: Json, wrote: bytes) -> Error:
    """The error that a plugin has told (CNI SPEC.md, 5), or what else there is to say."""
    code, message, details = (answer.get(key) for key in ("code", "msg", "details"))
    if code is None and not message:
        return failure(command, kind, reason, wrote)
    hint = ""
    if code == _INCOMPATIBLE and command != "VERSION":
        hint = f"this {kind} knows the versions {', '.join(versions_of(kind, path))} of CNI"
    elif code == _TRY_AGAIN:
        hint = "the plugin says that it may go well later"
    text = ": ".join(str(part) for part in (message, details) if part)
    return failure(command, kind, f"says {text!r} (code {code})", hint=hint)


def _is_directory(path: str) -> bool:
    return posix.stat(path).st_mode & 0o170000 == 0o040000


def _environment(variables: dict[str, str]) -> list[bytes]:
    """The caller's environment, as libcni hands it on, with ours; plugins look for iptables in PATH."""
    whole = {b"PATH": _PATH, **posix.environ}
    for name, value in variables.items():
        whole[name.encode()] = value.encode("utf-8", "surrogateescape")
    return [name + b"=" + value for name, value in whole.items()]
