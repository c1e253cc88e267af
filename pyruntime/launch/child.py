"""The container's first process, from clone to execve: everything here runs inside the new namespaces.

It performs the ROOTFS and PROCESS steps of the Plan, reports each failure whole, and ends as the user's program. It is
small and imports nothing new, for two reasons: an import after pivot_root would load the image's files with the
runtime's rights (the seal), and whoever reads it must be able to hold all of it in mind.

Read beside runc:libcontainer/standard_init_linux.go.
"""

from __future__ import annotations

from pyruntime.launch import exeseal
from pyruntime.launch.credentials import Process, spare_for_hop
from pyruntime.launch.inside import go_inside, hop
from pyruntime.launch.perform import perform
from pyruntime.launch.rootfs import Rootfs
from pyruntime.launch.sync import GO, READY
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.step import PROCESS, ROOTFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pyruntime.launch.hookpoints import HookPoints
    from pyruntime.launch.sync import Channel
    from pyruntime.plan.step import Plan


class Launch:
    """What the parent hands to the child, by the memory that clone copies.

    listen_fd: the socket on which the hop waits for `start`; -1 for `run`. console_fd: a connected --console-socket;
    -1 to send the terminal's master to the parent. preserve_fds: how many descriptors from 3 on the container inherits.
    trees: the idmapped mounts to attach (launch/idmap.py). ask_for_source: see launch/sources.py; None: the child may
    open all itself.
    filter, hop_filter: the container's seccomp filter, if the child is to load it or if the hop is.
    """

    __slots__ = (
        "ask_for_source",
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
    ask_for_source: Callable[[Channel, str], int] | None
    filter: bytes
    hop_filter: tuple[int, bytes]  # the flags of seccomp(2), too


def become_container(launch: Launch, channel: Channel) -> NoReturn:
    """Never returns: the process becomes the user's program, or reports why not and ends."""
    go_inside(channel, lambda: _become(launch, channel))


def _become(launch: Launch, channel: Channel) -> None:
    rootfs = Rootfs(launch.rootfs_path, launch.cgroup_path, launch.console_fd, channel)
    rootfs.trees, rootfs.ask_for_source = launch.trees, launch.ask_for_source
    rootfs.hooks = hooks = launch.hooks
    perform(launch.plan.phase(ROOTFS), rootfs)
    label, waits, report_fd = rootfs.label, launch.listen_fd >= 0, channel.fd
    # Written now: the parent is about to set the rlimits, which it may do only while we are still its own user.
    if hooks and hooks.prepare(launch, channel, label):
        waits, report_fd = False, hooks.answer_fd  # it is Python that waits
    prelude = label.prelude(report_fd, waits=waits) if label else b""
    spare = 0
    if not hooks or not hooks.are_starting:  # which are others' programs
        spare, prelude = spare_for_hop(launch.plan, launch.last_cap, prelude)
    listen_fd, report_fd = (launch.listen_fd, -1) if waits else (-1, report_fd)
    hop_fd = exeseal.sealed(listen_fd, report_fd, prelude, launch.hop_filter)
    channel.send(READY)
    channel.expect(GO)
    process = Process(launch.last_cap, rootless=launch.rootless, filter=launch.filter)
    process.spare = spare
    perform(launch.plan.phase(PROCESS), process)
    if hooks and hooks.are_starting:
        if process.last_act:  # now: the hooks are the image's programs
            process.last_act(channel)
            process.last_act = None
        hooks.start(launch, channel, hop_fd)
        hooks.run()
    syscalls.close_range(3 + launch.preserve_fds, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
    if label:
        label.hand_over(channel.fd)
    hop(process, channel, hop_fd, launch.listen_fd if launch.listen_fd >= 0 else channel.fd)
