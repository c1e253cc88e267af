"""Running one hook: a program of the caller's, given the container's state on stdin (config.md#posix-platform-hooks).

It is over when the hook itself has ended. What it leaves running may go on, and may hold the pipe: runc waits for the
pipe, for ever if need be, and its timeout ends the hook alone. Here a timeout ends all descendants.

How a program is run is told in linux/program.py.

Read beside runc:libcontainer/configs/config.go:/^func .*Command.*Run/.
"""

from __future__ import annotations

import _signal
import posix
import time

from pyruntime.errors import HookError
from pyruntime.jsontext import encode
from pyruntime.linux import constants as c
from pyruntime.linux import program, syscalls
from pyruntime.linux.call import address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeAlias

    from pyruntime.plan.hooks import Hook

    Execute: TypeAlias = Callable[[Hook, int], NoReturn]

_OUTPUT_MAX = 1024  # bytes of a hook's output that an error's text shows: the last ones
_KILL_ROUNDS = 200  # each ends all descendants that are seen; those that fork meanwhile are met in the next


def state_fd(identity: dict[str, Any], status: str, pid: int = 0) -> int:
    """A descriptor of the container's state as JSON (runtime.md#state), to be a hook's stdin.

    `identity` has ociVersion, id, bundle and annotations; pid 0 is left out. The order is that of runc's state.
    """
    state = {"ociVersion": identity["ociVersion"], "id": identity["id"], "status": status}
    if pid:
        state["pid"] = pid
    state["bundle"] = identity["bundle"]
    if identity["annotations"]:
        state["annotations"] = identity["annotations"]
    return program.memfd("state", encode(state).encode("utf-8", "surrogateescape"))


def run_on_host(hook: Hook, identity: dict[str, Any], status: str, pid: int = 0) -> None:
    """Run a hook in the runtime's own namespaces, in the bundle's directory. Raises HookError, KernelError.

    Meanwhile we are the subreaper, so that whatever the hook has started is our descendant, and a timeout finds it. A
    signal that is blocked and waiting, since the container was to get it, ends the hook as well.
    """
    former = bytearray(4)
    syscalls.prctl(c.PR_GET_CHILD_SUBREAPER, address(former))
    syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, 1)
    interrupt_fd = program.interrupts_fd()
    stdin_fd, directory_fd = state_fd(identity, status, pid), _open_directory(identity["bundle"])
    others = _children_of_ours()

    def end(hook_pid: int) -> None:
        _end_descendants(hook_pid, others)

    try:
        run_hook(hook, stdin_fd, directory_fd=directory_fd, interrupt_fd=interrupt_fd, end=end)
    finally:
        for fd in (interrupt_fd, stdin_fd, directory_fd):
            posix.close(fd)
        syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, former[0])


def execute(hook: Hook, _report_fd: int) -> NoReturn:
    """Become the hook's program. Raises KernelError."""
    syscalls.execve(hook.path, *words(hook))


def words(hook: Hook) -> tuple[list[bytes], list[bytes]]:
    """Its argv and its whole environment, as execve takes them."""
    argv, envp = ([word.encode("utf-8", "surrogateescape") for word in part] for part in (hook.args, hook.env))
    return argv, envp


def run_hook(
    hook: Hook,
    stdin_fd: int,
    *,
    directory_fd: int = -1,
    interrupt_fd: int = -1,
    become: Execute = execute,
    end: Callable[[int], None] = program.end_group,
) -> None:
    """Run a hook and wait for it. Raises HookError unless it succeeds.

    directory_fd: where it starts; -1: where we are. interrupt_fd: ends it when readable. become: called in the new
    process to execute the program. end: kills what has been started, when the hook is not to go on, and reaps it.
    """
    written = b""
    try:
        output = program.Output(_OUTPUT_MAX)
        try:
            reason = program.run(
                lambda report_end: become(hook, report_end),
                stdin_fd,
                output,
                timeout=hook.timeout,
                directory_fd=directory_fd,
                interrupt_fd=interrupt_fd,
                end=end,
            )
            written = output.data
        finally:
            output.close()
    except OSError as error:  # no more processes or descriptors
        reason = f"could not be run: {error.strerror}"
    if reason:
        # repr: one line, and nothing in it that a terminal would obey; a hook may be a program of the image.
        wrote = f"; it wrote {written.decode(errors='replace').strip()!r}" if written.strip() else ""
        message = f"error running hook: {hook.kind} hook {hook.path} {reason}{wrote}"  # runc's words first
        raise HookError(message, where=hook.where)


def _open_directory(path: str) -> int:
    """The bundle's directory, or `/` where it is gone by now, as it may be for `delete`."""
    flags = posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC
    try:
        return posix.open(path, flags)
    except OSError:
        return posix.open("/", flags)


def _end_descendants(hook_pid: int, others: set[int]) -> None:
    """Kill the hook and all that it has started, in whatever session by now, and reap what has come to us.

    `others` are the children that we had before. Bounded: what can't be killed (state D) is left to the kernel.
    """
    program.end_group(hook_pid)  # its children are ours from now on
    for _ in range(_KILL_ROUNDS):
        found = list(_children_of_ours() - others)
        if not found:
            return
        for pid in found:
            found += _children(pid)
            try:
                posix.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                continue
        for pid in found:
            try:
                posix.waitpid(pid, posix.WNOHANG)
            except ChildProcessError:  # a grandchild: the next round finds it among ours
                continue
        time.sleep(0.001)


def _children_of_ours() -> set[int]:
    return set(_children(posix.getpid()))


def _children(pid: int) -> list[int]:
    """The children of a process of ours, by proc_pid_task_children(5). One that has ended has none."""
    found: list[int] = []
    try:
        for thread in posix.listdir(f"/proc/{pid}/task"):
            fd = posix.open(f"/proc/{pid}/task/{thread}/children", posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                found += map(int, posix.read(fd, 65536).split())
            finally:
                posix.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found
