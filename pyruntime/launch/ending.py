"""How a tape ends: what the hop does when the process has the user's rights, up to the execve of the program.

The AppArmor or SELinux label is asked for first: it takes effect with execve. `create` waits then for `start`, and
reports to its connection from there on; `run` goes on. The seccomp filter, which takes effect at once, comes last, so
that it needs to allow nothing else.

Read beside the end of runc:libcontainer/standard_init_linux.go and of runc:libcontainer/setns_init_linux.go.
"""

from __future__ import annotations

import errno

from pyruntime.launch.credentials import capset
from pyruntime.launch.exeseal import TAPE
from pyruntime.launch.tape import SAYS_LISTENER
from pyruntime.linux import constants as c
from pyruntime.linux.call import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.credentials import Filter, Process
    from pyruntime.launch.tape import Tape


def ask_for_label(process: Process) -> None:
    """Add: ask for the profile or the label of what is executed next, by this process or by a child that it clones.

    Before `create` returns, so that it fails for one that the kernel does not know.
    """
    if process.label is not None:
        process.label.ask(process.tape)


def settle(process: Process, preserve_fds: int, *others: int) -> None:
    """Add: close what was only needed so far. Who looks at the process from inside of the container finds nothing.

    CVE-2016-9962, CVE-2024-21626. others: descriptors to keep; -1 stands for none.
    """
    process.tape.mark = 0
    process.tape.close_all_but(process.descriptors(*others), 3 + preserve_fds)


def wait_for_start(process: Process, listen_fd: int) -> None:
    """Add: let `create` return, by closing its channel, and wait on a listening socket until `start` connects."""
    tape = process.tape
    tape.mark = 0
    tape.call(c.SYS_close, process.channel_fd)
    waits = tape.call(c.SYS_accept4, listen_fd, 0, 0, c.SOCK_CLOEXEC, expected=errno.EINTR)
    waits.then = waits
    waits.into = (TAPE, 0)  # the head's descriptor: who is to be told from now on
    tape.call(c.SYS_close, listen_fd)


def end(process: Process) -> None:
    """Add: filter, execve. What is open yet closes on that, but what the program shall inherit."""
    tape = process.tape
    tape.mark = 0
    if process.filter is not None and not process.filter.notifies:
        load_filter(process, process.filter)
    execute(tape, process.candidates, process.args, process.env)


def load_early(process: Process) -> None:
    """Add: load a filter that notifies, whose listener the runtime has to take before it lets the process go on."""
    if process.filter is not None and process.filter.notifies:
        load_filter(process, process.filter)


def load_filter(process: Process, filter: Filter) -> None:
    """Add: load the seccomp filter, and give up the capability that this may have needed. See seccomp(2).

    From the first call on everything is judged by the filter. A listener is only named, by a write (which therefore
    must not notify), and the runtime takes it: sendmsg(2) is among the calls that real listeners want to hear of.
    """
    tape = process.tape
    tape.mark = filter.mark
    traced = filter.notifies and process.rootless  # or the runtime, who isn't root, could not take the listener
    if traced:
        tape.call(c.SYS_prctl, c.PR_SET_DUMPABLE, 1)
    program: list[int | Struct] = [len(filter.program) // 8, Struct(filter.program)]  # a struct sock_fprog
    loads = tape.call(c.SYS_seccomp, c.SECCOMP_SET_MODE_FILTER, filter.flags, program)
    if filter.notifies:
        loads.into = (tape.say(process.channel_fd, SAYS_LISTENER), 4)
        tape.wait_for_word(process.channel_fd)
    if traced:
        tape.call(c.SYS_prctl, c.PR_SET_DUMPABLE, 0)
    if process.keep:
        capset(tape, *process.capabilities)


def execute(tape: Tape, paths: list[str], args: list[bytes], env: list[bytes]) -> None:
    """Add: the execve(2) of the first of the paths that the user may execute. Its success closes the channel."""
    argv: list[bytes | int] = [*args, 0]
    envp: list[bytes | int] = [*env, 0]
    for path in paths:
        tape.call(c.SYS_execve, path, argv, envp, expected=errno.EACCES)
    tape.rows[-1].expected = 0
