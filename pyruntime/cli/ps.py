"""`ps ID [ARGUMENTS OF PS]`: the processes of a container. Read beside runc:ps.go."""

from __future__ import annotations

import posix

from pyruntime import container
from pyruntime.cli import emit
from pyruntime.errors import Error, KernelError
from pyruntime.jsontext import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def ps(call: Call) -> int:
    """Print those lines of ps(1) that are about the container's processes, or their IDs as JSON."""
    pids = container.processes(call.operands[0], root=call.settings["root"])
    if call.options["format"] == "json":
        emit(encode(pids) + "\n")
    else:
        emit(lines_about(set(pids), output_of_ps(call.args or ["-ef"])))
    return 0


def output_of_ps(args: list[str]) -> str:
    """What ps(1) of the host prints, errors included. Raises KernelError without a ps, Error if it fails."""
    read_fd, write_fd = posix.pipe2(posix.O_CLOEXEC)
    try:
        actions = [(posix.POSIX_SPAWN_DUP2, write_fd, fd) for fd in (1, 2)]
        pid = posix.posix_spawnp("ps", ["ps", *args], posix.environ, file_actions=actions)
    except OSError as error:
        posix.close(read_fd)
        hint = "it is in Debian's package procps"
        raise KernelError("execve('ps')", error.errno or 0, hint=hint) from None
    finally:
        posix.close(write_fd)
    parts = []
    while part := posix.read(read_fd, 1 << 16):
        parts.append(part)
    posix.close(read_fd)
    output = b"".join(parts).decode("utf-8", "surrogateescape")
    if status := posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1]):
        raise Error(f"exit status {status} of ps {' '.join(args)}: {output.strip()}")
    return output


def lines_about(pids: set[int], output: str) -> str:
    """The title, and the lines with one of `pids` in the column PID. Raises Error where it can't be told which."""
    title, *lines = output.splitlines() or [""]
    if "PID" not in title.split():
        raise Error("couldn't find the column PID in what ps prints, by which the container's processes are known")
    column = title.split().index("PID")
    kept = [line for line in lines if line.split() and _number(line.split(), column) in pids]
    return "\n".join((title, *kept, ""))


def _number(fields: list[str], column: int) -> int:
    """The number in one column."""
    text = fields[column] if column < len(fields) else ""
    if not text.isdecimal():
        hint = "columns before it may hold no blanks: have ps print it first"
        raise Error(f"ps prints {text!r} in the column PID", hint=hint)
    return int(text)
