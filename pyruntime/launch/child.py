"""The container's first process, from clone to execve: everything here runs inside the new namespaces.

It performs the ROOTFS and PROCESS steps of the Plan, reports each failure whole, and ends as the user's program. It is
small and imports nothing new, for two reasons: an import after pivot_root would load the image's files with the
runtime's rights (the seal), and whoever reads it must be able to hold all of it in mind.

Read beside runc:libcontainer/standard_init_linux.go.
"""

from __future__ import annotations

import _signal
import posix
import sys

from pyruntime import report
from pyruntime.errors import Error, KernelError
from pyruntime.launch import exeseal
from pyruntime.launch.credentials import Process
from pyruntime.launch.perform import perform
from pyruntime.launch.rootfs import Rootfs
from pyruntime.launch.sync import GO, READY, WARNING, Channel
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.process import Execute
from pyruntime.plan.step import PROCESS, ROOTFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyruntime.launch.hookpoints import HookPoints
    from pyruntime.plan.step import Plan


class Launch:
    """What the parent hands to the child, by the memory that clone copies.

    listen_fd: the socket on which the hop waits for `start`; -1 for `run`. console_fd: a connected --console-socket;
    -1 to send the terminal's master to the parent. preserve_fds: how many descriptors from 3 on the container inherits.
    trees: the idmapped mounts to attach (launch/idmap.py).
    filter, hop_filter: the container's seccomp filter, if the child is to load it or if the hop is.
    """

    __slots__ = (
        "cgroup_path",
        "console_fd",
        "filter",
        "hooks",
        "hop_filter",
        "last_cap",
        "listen_fd",
        "plan",
        "preserve_fds",
        "rootfs_path",
        "rootless",
        "trees",
    )

    plan: Plan
    hooks: HookPoints | None  # None where the plan has no hooks
    rootfs_path: str
    cgroup_path: str
    rootless: bool
    last_cap: int
    listen_fd: int
    console_fd: int
    preserve_fds: int
    trees: dict[str, int]
    filter: bytes
    hop_filter: tuple[int, bytes]  # the flags of seccomp(2), too


def become_container(launch: Launch, channel: Channel) -> NoReturn:
    """Never returns: the process becomes the user's program, or reports why not and ends."""
    try:
        report.sinks[:] = [lambda level, message: _pass_on(channel, level, message)]
        _seal()
        _cut_ties()
        rootfs = Rootfs(launch.rootfs_path, launch.cgroup_path, launch.console_fd, channel)
        rootfs.trees = launch.trees
        rootfs.hooks = hooks = launch.hooks
        perform(launch.plan.phase(ROOTFS), rootfs)
        label, waits, report_fd = rootfs.label, launch.listen_fd >= 0, channel.fd
        # Written now: the parent is about to set the rlimits, which it may do only while we are still its own user.
        if hooks and hooks.prepare(launch, channel, label):
            waits, report_fd = False, hooks.answer_fd  # it is Python that waits
        prelude = label.prelude(report_fd, waits=waits) if label else b""
        listen_fd, report_fd = (launch.listen_fd, -1) if waits else (-1, report_fd)
        hop_fd = exeseal.sealed(listen_fd, report_fd, prelude, launch.hop_filter)
        channel.send(READY)
        channel.expect(GO)
        process = Process(launch.last_cap, rootless=launch.rootless, filter=launch.filter)
        perform(launch.plan.phase(PROCESS), process)
        if hooks and hooks.are_starting:
            if process.last_act:  # now: the hooks are the image's programs
                process.last_act(channel)
                process.last_act = None
            channel = hooks.start(launch, channel, hop_fd)
            hooks.run()
        syscalls.close_range(3 + launch.preserve_fds, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
        if label:
            label.hand_over(channel.fd)
        _hop(launch, channel, hop_fd, process)
    except Error as error:
        channel.send_error(error)
    except OSError as error:
        channel.send_error(KernelError(f"in the child: {error.filename or error}", error.errno or 0))
    except BaseException as error:
        channel.send_error(Error(f"a bug in the child: {type(error).__name__}: {error}"))
    finally:
        posix._exit(1)


def _seal() -> None:
    """From here on nothing can be imported: not by us, and not by the standard library behind our back.

    CVE-2019-14271 was a library that loaded another one late, by then from inside the container.
    """
    for finders in (sys.meta_path, sys.path, sys.path_hooks):
        finders.clear()


def _cut_ties() -> None:
    """Leave the caller's session, die with the parent until we are ready, and take none of its signal state along."""
    posix.setsid()
    syscalls.prctl(c.PR_SET_PDEATHSIG, _signal.SIGKILL)
    syscalls.prctl(c.PR_SET_DUMPABLE, 0)  # CVE-2016-9962: not to be traced from inside of a namespace that we join
    for number in range(1, _signal.NSIG):
        if _signal.getsignal(number) == _signal.SIG_IGN:  # by Python (SIGPIPE, SIGXFSZ), or by a caller such as nohup
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _hop(launch: Launch, channel: Channel, hop_fd: int, process: Process) -> None:
    """Execute the hop. It keeps one descriptor, which it closes when it executes the user's program."""
    # The parent may end from here on; before, its end was ours.
    syscalls.prctl(c.PR_SET_PDEATHSIG, 0)
    posix.set_inheritable(channel.fd if launch.listen_fd < 0 else launch.listen_fd, True)
    if process.last_act:
        process.last_act(channel)
    try:
        exeseal.execute(hop_fd, process.program, process.args, process.env)
    except KernelError as error:
        error.where = next(step.where for step in launch.plan if isinstance(step, Execute))
        raise


def _pass_on(channel: Channel, level: str, message: str) -> None:
    if level == "warning":
        channel.send(WARNING, message)
