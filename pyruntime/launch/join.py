"""The process that enters a container, from clone to execve: one tape, and no Python.

    parent                                                      stage: the hop (exeseal.py)
      | ---- clone3(into the container's cgroup), execve ----->  |
      |                                                          |  what the host's /proc is needed for; rlimits
      |                                                          |  setns(init's pidfd, all namespaces)
      |                                                          |  credentials
      |                                                          |  (a filter that notifies:) seccomp
      | <--------------------------------------- LISTENER -----  |  "it is my descriptor 5"
      | ---- GO ---------------------------------------------->  |
      |                                                          |  clone(CLONE_PARENT) --------------> newcomer
      | <--------------------------------------- PID ----------  |  "it is 1234", and ends                 |
      |  oom score, scheduler, pid file                                                                    | setsid
      | ---- GO ---------------------------------------------------------------------------------------->  |
      |                                                                                                    | seccomp
      | <--------------------------------------- end ----------------------------------------------------  | execve

A PID namespace is entered by children only. So the stage is never seen in the container: nobody there can trace it, or
open what it is executed from. What is seen is its child: 12 KB of a sealed program with the rights and the descriptors
of the user's own (CVE-2016-9962, CVE-2019-5736). And that waits for the parent, so that nothing has been executed when
the parent fails or dies; then it ends.

What is to be known of the container is looked up by the parent, through the root of the container's init, which is
another's and may be changing: by openat2, as all that is untrusted (paths.py).

Read beside runc:libcontainer/setns_init_linux.go and runc:libcontainer/nsexec/nsexec.c.
"""

from __future__ import annotations

import errno
import posix

from pyruntime.launch.credentials import Process, begin, compile_steps, join_session_keyring, root_rows
from pyruntime.launch.ending import ask_for_label, end, load_early, settle
from pyruntime.launch.inside import default_signals
from pyruntime.launch.paths import Root
from pyruntime.launch.perform import perform, performs
from pyruntime.launch.tape import SAYS_PID, Row, Tape
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.call import Struct, u64
from pyruntime.plan.join import EnterNamespaces, JoinContainersKeyring, LimitItself
from pyruntime.plan.process import RLIMITS
from pyruntime.plan.step import NAMESPACES, ROOTFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.labels import Label
    from pyruntime.plan.step import Plan

_NO_LIMIT = 0xFFFFFFFFFFFFFFFF  # RLIM_INFINITY


class Entry:
    """What the parent knows of the process that is to enter.

    init_fd: a pidfd of the container's init, init_pid: its number. console_fd: a connected --console-socket; -1 to keep
    the terminal's master. filter: the program of the seccomp filter, b"" if there is none.
    """

    __slots__ = ("console_fd", "filter", "init_fd", "init_pid", "last_cap", "plan", "preserve_fds", "rootless")

    plan: Plan
    rootless: bool
    last_cap: int
    init_fd: int
    init_pid: int
    console_fd: int
    preserve_fds: int
    filter: bytes


class Newcomer:
    """The subject of the ROOTFS and NAMESPACES steps of an `exec`: a process at the container's door.

    tape: what it will do. late: what of it only the process does that the stage clones. fds: what it inherits for that,
    besides the channel; ours to close when it is there. process: what the PROCESS steps are performed on.
    master_fd: the terminal's, once there is one.
    """

    __slots__ = ("console_fd", "fds", "init_fd", "init_pid", "label", "late", "master_fd", "process", "root", "tape")

    def __init__(self, entry: Entry, channel_fd: int) -> None:
        self.tape = tape = Tape()
        self.init_fd, self.init_pid = entry.init_fd, entry.init_pid
        self.console_fd = entry.console_fd
        self.fds: list[int] = []
        self.late: list[Row] = []
        self.master_fd = -1
        self.label: Label | None = None
        self.root = Root(f"/proc/{entry.init_pid}/root")
        self.fds.append(self.root.fd)
        syscalls.pidfd_send_signal(entry.init_fd, 0)  # it is there all the time, so the number was not another's
        held = syscalls.capget()[1]
        self.process = Process(tape, self.root, held, entry.last_cap, channel_fd, rootless=entry.rootless)
        self.process.program = entry.filter

    def close(self) -> None:
        """Let go of what is only the process's."""
        for fds in (self.fds, self.tape.reserved):
            while fds:
                posix.close(fds.pop())


def compile_entry(entry: Entry, channel_fd: int) -> Newcomer:
    """Write the tape of the stage and of the process that it clones. Raises Error, and leaves nothing open then."""
    newcomer = Newcomer(entry, channel_fd)
    try:
        _compile(newcomer, entry, channel_fd)
    except BaseException:
        newcomer.close()
        if newcomer.master_fd >= 0:
            posix.close(newcomer.master_fd)
        raise
    return newcomer


def _compile(newcomer: Newcomer, entry: Entry, channel_fd: int) -> None:
    tape, process = newcomer.tape, newcomer.process
    begin(tape, channel_fd)
    tape.call(c.SYS_prctl, c.PR_SET_PDEATHSIG, c.SIGKILL)
    default_signals(tape)
    tape.call(c.SYS_setsid)
    for step in tape.marking(entry.plan):
        if step.phase in (ROOTFS, NAMESPACES):
            perform((step,), newcomer)
    process.label = newcomer.label
    compile_steps(entry.plan, process)
    ask_for_label(process)
    settle(process, entry.preserve_fds)
    load_early(process)
    tape.mark = 0
    clones = tape.call(c.SYS_clone, c.CLONE_PARENT | c.SIGCHLD, 0, 0, 0, 0)
    clones.into = (tape.say(channel_fd, SAYS_PID), 4)
    tape.call(c.SYS_exit_group, 0)
    clones.on_zero = tape.label()
    tape.call(c.SYS_setsid, expected=errno.EPERM)  # as a seccomp agent may answer
    if process.terminal_fd >= 0:
        tape.call(c.SYS_ioctl, 0, c.TIOCSCTTY, 0)
    tape.rows += newcomer.late
    tape.wait_for_word(channel_fd)
    end(process)


@performs(LimitItself)
def limit_itself(step: LimitItself, newcomer: Newcomer) -> None:
    """RLIMIT_NPROC comes last, when the stage, which is the user's by then, is not among the user's processes any more.

    runc:libcontainer/process_linux.go:/^func setupRlimits/, which the parent calls.
    """
    tape, number = newcomer.tape, RLIMITS[step.kind]
    words = (0, number, Struct(u64(step.soft, step.hard)), 0)
    if step.kind != "RLIMIT_NPROC":
        tape.call(c.SYS_prlimit64, *words)
        return
    newcomer.late.append(Row(c.SYS_prlimit64, words, tape.mark))
    # Only now may a hard limit be raised. Who may not raise it can't have more than there is, and is told so then.
    tape.call(c.SYS_prlimit64, 0, number, Struct(u64(_NO_LIMIT, _NO_LIMIT)), 0, expected=errno.EPERM)


@performs(EnterNamespaces)
def enter_namespaces(step: EnterNamespaces, newcomer: Newcomer) -> None:
    """runc:libcontainer/nsexec/nsexec.c:/^static void join_namespaces/, which joins one after the other, by path."""
    newcomer.tape.call(c.SYS_setns, newcomer.init_fd, step.flags)
    if step.flags & c.CLONE_NEWUSER:
        root_rows(newcomer.tape)
        newcomer.process.enter_user_namespace()


performs(JoinContainersKeyring)(join_session_keyring)
