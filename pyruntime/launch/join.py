"""The process that enters a container, from clone to execve.

    parent                                                      stage
      | ---- clone3(into the container's cgroup) --------------->  |
      |                                                            |  what the host's /proc is needed for; rlimits
      |                                                            |  setns(init's pidfd, all namespaces)
      | <--------------------------------------------- TERMINAL -  |  with the pty's master (SCM_RIGHTS)
      |                                                            |  credentials, the program looked for
      |                                                            |  (a filter that the hop can't load:) seccomp
      | <--------------------------------------------- LISTENER -  |  (one that notifies:) "it is my descriptor 5"
      | ---- GO ------------------------------------------------>  |
      |                                                            |  execveat(the sealed hop)
      |                                                            |  clone(CLONE_PARENT) --------------> newcomer
      | <--------------------------------------------- PID ------  |  "it is 1234", and ends                 |
      |  oom score, scheduler, pid file                                                                      | setsid
      | ---- GO ------------------------------------------------------------------------------------------>  |
      |                                                                                                      | seccomp
      | <--------------------------------------------- end ------------------------------------------------  | execve

A PID namespace is entered by children only. So the stage, which is Python, is never seen in the container: nobody there
can trace it, or open what it is executed from, and it need not be restarted from a read-only mount as a start has to
(exeseal.seal_interpreter). What is seen is its child, by then 12 KB of a sealed program with the rights and the
descriptors of the user's own (CVE-2016-9962, CVE-2019-5736). And that waits for the parent, so that nothing has been
executed when the parent fails or dies; then it ends.

From setns on /proc is the container's, in which the stage is not, and the image's root may have covered it: nothing
here looks at it.

Read beside runc:libcontainer/setns_init_linux.go and runc:libcontainer/nsexec/nsexec.c.
"""

from __future__ import annotations

from pyruntime.launch import exeseal
from pyruntime.launch.credentials import Process, become_root, join_session_keyring, spare_for_hop
from pyruntime.launch.inside import go_inside, hop
from pyruntime.launch.perform import perform, performs
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.join import EnterNamespaces, JoinContainersKeyring, LimitItself, OpenTerminalInside
from pyruntime.plan.process import RLIMITS
from pyruntime.plan.step import NAMESPACES, PROCESS, ROOTFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyruntime.launch.labels import Label
    from pyruntime.launch.sync import Channel
    from pyruntime.plan.step import Plan


class Entry:
    """What the parent hands to the stage, by the memory that clone copies: see launch/child.py:Launch.

    init_fd: a pidfd of the container's init. hop_fd: from `sealed_hop`.
    """

    __slots__ = (
        "console_fd",
        "filter",
        "hop_fd",
        "hop_filter",
        "init_fd",
        "last_cap",
        "plan",
        "preserve_fds",
        "rootless",
    )

    plan: Plan
    rootless: bool
    last_cap: int
    init_fd: int
    console_fd: int
    preserve_fds: int
    filter: bytes
    hop_filter: tuple[int, bytes]
    hop_fd: int


class Newcomer:
    """The subject of the ROOTFS and NAMESPACES steps of an `exec`: a process at the container's door."""

    __slots__ = ("channel", "console_fd", "init_fd", "label")

    def __init__(self, init_fd: int, console_fd: int, channel: Channel) -> None:
        self.init_fd = init_fd
        self.console_fd = console_fd
        self.channel = channel
        self.label: Label | None = None


def enter_container(entry: Entry, channel: Channel) -> NoReturn:
    """Never returns: the process clones the one that becomes the user's program, or reports why not, and ends."""
    go_inside(channel, lambda: _enter(entry, channel))


def _enter(entry: Entry, channel: Channel) -> None:
    newcomer = Newcomer(entry.init_fd, entry.console_fd, channel)
    perform(entry.plan.phase(ROOTFS), newcomer)
    prelude = newcomer.label.prelude(channel.fd, waits=False) if newcomer.label else b""
    spare, prelude = spare_for_hop(entry.plan, entry.last_cap, prelude)
    hop_fd = sealed_hop(entry, channel, prelude) if prelude else entry.hop_fd
    perform(entry.plan.phase(NAMESPACES), newcomer)
    process = Process(entry.last_cap, rootless=entry.rootless, filter=entry.filter)
    process.spare = spare
    perform(entry.plan.phase(PROCESS), process)
    syscalls.close_range(3 + entry.preserve_fds, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
    if newcomer.label:
        newcomer.label.hand_over(channel.fd)
    hop(process, channel, hop_fd, channel.fd)


def sealed_hop(entry: Entry, channel: Channel, prelude: bytes = b"") -> int:
    """The hop that is to enter; made by the parent, in whom it costs less, where that knows all that it is told of."""
    has_terminal = any(isinstance(step, OpenTerminalInside) for step in entry.plan)
    enter = exeseal.ENTER_WITH_TERMINAL if has_terminal else exeseal.ENTER
    return exeseal.sealed(-1, channel.fd, prelude, entry.hop_filter, enter)


@performs(LimitItself)
def limit_itself(step: LimitItself, _newcomer: Newcomer) -> None:
    """runc:libcontainer/process_linux.go:/^func setupRlimits/, which the parent calls."""
    syscalls.prlimit(0, RLIMITS[step.kind], step.soft, step.hard)


@performs(EnterNamespaces)
def enter_namespaces(step: EnterNamespaces, newcomer: Newcomer) -> None:
    """runc:libcontainer/nsexec/nsexec.c:/^static void join_namespaces/, which joins one after the other, by path."""
    syscalls.setns(newcomer.init_fd, step.flags)
    if step.flags & c.CLONE_NEWUSER:
        become_root()


performs(JoinContainersKeyring)(join_session_keyring)
