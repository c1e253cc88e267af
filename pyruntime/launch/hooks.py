"""Running one hook: a program of the caller's, given the container's state on stdin (config.md#posix-platform-hooks).

    the caller of run_hook                              the hook
      | ---- fork ---------------------------------------> |  a session of its own, default signals, no descriptors
      |                                                    |  stdin: the state, in a memfd: nobody waits for a reader
      | <--- report: -errno of a failed execve ----------- |
      | <--- stdout and stderr, in one pipe -------------- |  the last of it is kept for the error's text
      | <--- pidfd: it has ended ------------------------- |

It is over when the hook itself has ended. What it leaves running may go on, and may hold the pipe: runc waits for the
pipe, for ever if need be, and its timeout ends the hook alone. Here a timeout ends all descendants.

Read beside runc:libcontainer/configs/config.go:/^func .*Command.*Run/.
"""

from __future__ import annotations

import _signal
import errno
import posix
import select
import time

from pyruntime.errors import HookError, errno_name
from pyruntime.jsontext import encode
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.call import address, buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeAlias

    from pyruntime.plan.hooks import Hook

    Execute: TypeAlias = Callable[[Hook, int], NoReturn]

_OUTPUT_MAX = 1024  # bytes of a hook's output that an error's text shows: the last ones
_DRAIN_READS = 16  # at most so many more reads when it has ended: another process may go on writing
_KILL_ROUNDS = 200  # each ends all descendants that are seen; those that fork meanwhile are met in the next
_LONG = 3600.0  # seconds, then it is looked again: poll(2) takes milliseconds in 31 bits
_INTERRUPTS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)


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
    fd = syscalls.memfd_create("state")
    text = encode(state).encode("utf-8", "surrogateescape")
    while text:
        text = text[posix.write(fd, text) :]
    posix.lseek(fd, 0, 0)
    return fd


def run_on_host(hook: Hook, identity: dict[str, Any], status: str, pid: int = 0) -> None:
    """Run a hook in the runtime's own namespaces, in the bundle's directory. Raises HookError, KernelError.

    Meanwhile we are the subreaper, so that whatever the hook has started is our descendant, and a timeout finds it. A
    signal that is blocked and waiting, since the container was to get it, ends the hook as well.
    """
    former = buffer(4)
    syscalls.prctl(c.PR_GET_CHILD_SUBREAPER, address(former))
    syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, 1)
    interrupt_fd = syscalls.signalfd4(-1, sum(1 << (number - 1) for number in _INTERRUPTS))
    stdin_fd, directory_fd = state_fd(identity, status, pid), _open_directory(identity["bundle"])
    others = _children_of_ours()

    def end(hook_pid: int) -> None:
        _end_descendants(hook_pid, others)

    try:
        run_hook(hook, stdin_fd, directory_fd=directory_fd, interrupt_fd=interrupt_fd, end=end)
    finally:
        for fd in (interrupt_fd, stdin_fd, directory_fd):
            posix.close(fd)
        syscalls.prctl(c.PR_SET_CHILD_SUBREAPER, former.raw[0])


def execute(hook: Hook, _report_fd: int) -> NoReturn:
    """Become the hook's program. Raises KernelError."""
    syscalls.execve(hook.path, *words(hook))


def words(hook: Hook) -> tuple[list[bytes], list[bytes]]:
    """Its argv and its whole environment, as execve takes them."""
    argv, envp = ([word.encode("utf-8", "surrogateescape") for word in part] for part in (hook.args, hook.env))
    return argv, envp


def end_group(hook_pid: int) -> None:
    """Kill a hook with its process group, and reap it. What has left the group ends with the container it is in."""
    try:
        posix.killpg(hook_pid, _signal.SIGKILL)
    except ProcessLookupError:  # it has not made its own session yet
        posix.kill(hook_pid, _signal.SIGKILL)
    posix.waitpid(hook_pid, 0)


def run_hook(
    hook: Hook,
    stdin_fd: int,
    *,
    directory_fd: int = -1,
    interrupt_fd: int = -1,
    become: Execute = execute,
    end: Callable[[int], None] = end_group,
) -> None:
    """Run a hook and wait for it. Raises HookError unless it succeeds.

    directory_fd: where it starts; -1: where we are. interrupt_fd: ends it when readable. become: called in the new
    process to execute the program. end: kills what has been started, when the hook is not to go on, and reaps it.
    """
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, there would be no exit status
    try:
        reason, output = _outcome(hook, stdin_fd, directory_fd, interrupt_fd, become, end)
    except OSError as error:  # no more processes or descriptors
        reason, output = f"could not be run: {error.strerror}", b""
    if reason:
        # repr: one line, and nothing in it that a terminal would obey; a hook may be a program of the image.
        wrote = f"; it wrote {output.decode(errors='replace').strip()!r}" if output.strip() else ""
        raise HookError(f"the {hook.kind} hook {hook.path} {reason}{wrote}", where=hook.where)


def _outcome(
    hook: Hook, stdin_fd: int, directory_fd: int, interrupt_fd: int, become: Execute, end: Callable[[int], None]
) -> tuple[str, bytes]:
    """Why the hook has failed, "" if it has not, and the last of what it wrote. Raises OSError."""
    output_fd, output_end = posix.pipe2(posix.O_CLOEXEC)
    report_fd, report_end = posix.pipe2(posix.O_CLOEXEC)
    try:
        posix.set_blocking(output_fd, False)
        posix.set_blocking(report_fd, False)
        try:
            hook_pid = posix.fork()
            if hook_pid == 0:
                _become(hook, become, stdin_fd, output_end, report_end, directory_fd)
        finally:
            posix.close(output_end)
            posix.close(report_end)
        try:
            reason, output = _watch(hook_pid, output_fd, interrupt_fd, hook.timeout)
        except BaseException:
            end(hook_pid)
            raise
        if reason:
            end(hook_pid)
        else:
            _, status = posix.waitpid(hook_pid, 0)
            reason = _failed_execve(report_fd) or _told(posix.waitstatus_to_exitcode(status))
        return reason, output
    finally:
        posix.close(output_fd)
        posix.close(report_fd)


def _become(
    hook: Hook, become: Execute, stdin_fd: int, output_end: int, report_end: int, directory_fd: int
) -> NoReturn:
    """The new process up to execve. It ends with whoever waits for it: a half-made container's hook has no purpose."""
    number = errno.EIO
    try:
        posix.setsid()
        syscalls.prctl(c.PR_SET_PDEATHSIG, _signal.SIGKILL)
        for signal in range(1, _signal.NSIG):
            if _signal.getsignal(signal) not in (_signal.SIG_DFL, None):
                _signal.signal(signal, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        if directory_fd >= 0:
            posix.fchdir(directory_fd)
        for target, fd in enumerate((stdin_fd, output_end, output_end)):
            posix.dup2(fd, target)
        syscalls.close_range(3, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
        become(hook, report_end)
    except OSError as error:
        number = error.errno or number
    finally:
        posix.write(report_end, (-number).to_bytes(4, "little", signed=True))
        posix._exit(127)


def _watch(hook_pid: int, output_fd: int, interrupt_fd: int, timeout: int) -> tuple[str, bytes]:
    """Wait for the hook, reading what it writes: ("", the last of it), or why it has to end."""
    pidfd = posix.pidfd_open(hook_pid)
    output = b""
    deadline = time.monotonic() + timeout
    poll = select.poll()
    for fd in (pidfd, output_fd, interrupt_fd):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    try:
        while True:
            left = max(0.0, deadline - time.monotonic()) if timeout else _LONG
            ready = dict(poll.poll(min(left, _LONG) * 1000 + 1))
            if output_fd in ready:
                chunk = _read(output_fd)
                if chunk == b"":
                    poll.unregister(output_fd)
                output = (output + (chunk or b""))[-_OUTPUT_MAX:]
            if pidfd in ready:
                return "", _drain(output_fd, output)
            if interrupt_fd in ready:
                return "was interrupted", output
            if left == 0:
                return f"ran for more than its timeout of {timeout} s and was killed", output
    finally:
        posix.close(pidfd)


def _read(fd: int) -> bytes | None:
    """What a pipe holds; b"" at its end, None where nothing is in it."""
    try:
        return posix.read(fd, 65536)
    except BlockingIOError:
        return None


def _drain(output_fd: int, output: bytes) -> bytes:
    """The last of what the hook has written before it ended."""
    for _ in range(_DRAIN_READS):
        chunk = _read(output_fd)
        if not chunk:
            break
        output = (output + chunk)[-_OUTPUT_MAX:]
    return output


def _failed_execve(report_fd: int) -> str:
    """Why the program was not executed; "" if it was."""
    report = _read(report_fd)
    if not report:
        return ""
    number = -int.from_bytes(report[:4], "little", signed=True)
    return f"could not be executed: {errno_name(number)}: {posix.strerror(number)}"


def _told(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code}"
    return f"failed with exit status {code}" if code else ""


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
    end_group(hook_pid)  # its children are ours from now on
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
