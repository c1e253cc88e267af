"""The container's process where its root can't be built from outside (outside.py): Python until that stands.

From the clone on it is inside the new namespaces. It performs the ROOTFS steps of the Plan, writes the tape of all that
is left, reports each failure whole, and becomes the hop. It is small and imports nothing new, for two reasons: after
pivot_root an import would load the image's files with the runtime's rights (the seal), and whoever reads it must be
able to hold all of it in mind.

Read beside runc:libcontainer/standard_init_linux.go.
"""

from __future__ import annotations

from pyruntime.launch import exeseal
from pyruntime.launch.credentials import Process, begin, compile_steps
from pyruntime.launch.ending import ask_for_label, end, load_early, settle, wait_for_start
from pyruntime.launch.inside import go_inside, hop
from pyruntime.launch.paths import Root
from pyruntime.launch.perform import perform
from pyruntime.launch.rootfs import Rootfs
from pyruntime.launch.sync import READY
from pyruntime.launch.tape import Tape
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.step import ROOTFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pyruntime.launch.hookpoints import HookPoints
    from pyruntime.launch.labels import Label
    from pyruntime.launch.sync import Channel
    from pyruntime.plan.step import Plan


class Launch:
    """What the parent knows of a start; for the child it is there by the memory that clone copies.

    listen_fd: the socket on which the hop waits for `start`; -1 for `run`. console_fd: a connected --console-socket;
    -1 to send the terminal's master to the parent. preserve_fds: how many descriptors from 3 on the container inherits.
    tape_fd, channel_fd, entered: where the second half of the hop's tape goes, its end of the channel, and the
    namespaces in which the parent builds its root (outside.py); tape_fd is -1 where the child builds it itself.
    trees: the idmapped mounts to attach (launch/idmap.py). ask_for_source: see launch/sources.py; None: the child may
    open all itself.
    filter: the program of the container's seccomp filter, b"" if it has none.
    """

    __slots__ = (
        "ask_for_source",
        "cgroup_path",
        "channel_fd",
        "console_fd",
        "entered",
        "filter",
        "hooks",
        "label",
        "last_cap",
        "listen_fd",
        "plan",
        "preserve_fds",
        "rootfs_path",
        "rootless",
        "tape_fd",
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
    ask_for_source: Callable[[Channel, str], int] | None
    filter: bytes
    tape_fd: int
    channel_fd: int
    entered: int
    label: Label | None  # set with tape_fd


def become_container(launch: Launch, channel: Channel) -> NoReturn:
    """Never returns: the process becomes the user's program, or reports why not and ends."""
    go_inside(channel, lambda: _become(launch, channel))


def _become(launch: Launch, channel: Channel) -> None:
    rootfs = Rootfs(launch.rootfs_path, launch.cgroup_path, launch.console_fd, channel)
    rootfs.trees, rootfs.ask_for_source = launch.trees, launch.ask_for_source
    rootfs.hooks = hooks = launch.hooks
    perform(launch.plan.phase(ROOTFS), rootfs)
    # All is written now: the parent is about to set the rlimits, when the hop is ready, and no file may fit them then.
    tape = Tape()
    if hooks and hooks.are_starting:
        hooks.wait(launch, last_steps(launch, tape, channel.fd, rootfs.label), channel)
    begin(tape, channel.fd)
    tape.tell(channel.fd, READY)
    tape.wait_for_word(channel.fd)
    process = last_steps(launch, tape, channel.fd, rootfs.label)
    finish(launch, process)
    hop(exeseal.sealed(tape, channel.fd), process.descriptors(launch.listen_fd), launch.preserve_fds)


def last_steps(launch: Launch, tape: Tape, channel_fd: int, label: Label | None = None) -> Process:
    """Add the PROCESS steps to a tape. The container's root is ours by now. Raises ConfigError, KernelError."""
    tape.call(c.SYS_prctl, c.PR_SET_PDEATHSIG, 0)  # the parent may end from here on; before, its end was ours
    root = Root("/")
    try:
        process = Process(tape, root, syscalls.capget()[1], launch.last_cap, channel_fd, rootless=launch.rootless)
        process.program, process.label = launch.filter, label
        compile_steps(launch.plan, process)
    finally:
        root.close()
    return process


def finish(launch: Launch, process: Process) -> None:
    """Add what comes after the PROCESS steps: `create` waits for `start`, and the program is executed."""
    ask_for_label(process)
    settle(process, launch.preserve_fds, launch.listen_fd)
    load_early(process)
    if launch.listen_fd >= 0:
        wait_for_start(process, launch.listen_fd)
    end(process)
