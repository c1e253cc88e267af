"""The parent's side of a start: everything that happens outside of the container while its child is being made.

Read beside runc:libcontainer/process_linux.go:/^func .*initProcess.*start/.
"""

from __future__ import annotations

import errno
import posix
import select

from pyruntime.errors import KernelError, ProtocolError
from pyruntime.launch import outside
from pyruntime.launch.child import Launch, become_container
from pyruntime.launch.handle import Child, fate
from pyruntime.launch.inside import prepare_to_go
from pyruntime.launch.namespaces import Namespaces, clone_child, write_maps
from pyruntime.launch.perform import perform
from pyruntime.launch.performers import import_performers
from pyruntime.launch.sync import (
    DEVICE,
    GO,
    HOOK,
    LISTENER,
    MAPS,
    NETWORK,
    PID,
    READY,
    SOURCE,
    TERMINAL,
    channel_pair,
)
from pyruntime.linux import constants as c
from pyruntime.linux import proc, syscalls
from pyruntime.plan.mounts import BindMount, MapMount
from pyruntime.plan.namespaces import MapIds
from pyruntime.plan.process import Execute
from pyruntime.plan.step import NAMESPACES, PARENT, ROOTFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


_PF_EXITING = 0x4  # linux/sched.h


def start_child(launch: Launch, cgroup_fd: int | None) -> Child:
    """Clone the container's process into its namespaces and its cgroup. It begins to build its root at once.

    Raises KernelError, ConfigError for a namespace that can't be joined.
    """
    import_performers(launch.plan)
    if any(isinstance(step, MapMount) for step in launch.plan):
        from pyruntime.launch.idmap import open_trees

        launch.trees = open_trees(launch.plan)
    ours, theirs = channel_pair()
    ours.plan = launch.plan
    ours.program = next(step.program for step in launch.plan if isinstance(step, Execute))
    namespaces = Namespaces(launch.plan.phase(NAMESPACES))
    is_stage = namespaces.needs_stage
    if namespaces.has_user and any(isinstance(step, BindMount) for step in launch.plan):
        from pyruntime.launch import sources

        launch.ask_for_source = sources.ask
    try:
        namespaces.refuse_host_network(launch.plan.phase(ROOTFS))
        namespaces.refuse_own_mounts()
        if posix.geteuid() == 0:
            # The child takes it over, so that there is no moment in which it could be traced from a joined namespace.
            # Others than root could not write the id maps of a child that is not dumpable: its files are root's.
            syscalls.prctl(c.PR_SET_DUMPABLE, 0)
        if outside.can_build(launch, namespaces):
            pid, pidfd = outside.start_hop(launch, namespaces, theirs, cgroup_fd)
        else:
            prepare_to_go()
            pid, pidfd = clone_child(namespaces, theirs, ours, cgroup_fd)
            if pid == 0:
                become_container(launch, theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        namespaces.close()
        if launch.tape_fd < 0:  # they are the child's
            for tree_fd in launch.trees.values():
                posix.close(tree_fd)
    child = Child(pid, pidfd, ours, is_stage=is_stage)
    if launch.tape_fd >= 0:
        child.fds = [launch.tape_fd, *launch.trees.values()]
    return child


def identify(child: Child, launch: Launch) -> None:
    """Wait until `child` is the container's process, where a stage has to clone it first.

    It waits until the stage has said so, and has its network namespace then. Raises whatever failed in the stage.
    """
    while child.is_stage:
        word, fields = child.channel.receive()
        if word == MAPS:
            _serve_maps(child, launch)
        elif word == PID:
            child.take_over(int(fields[0]))
        else:
            raise ProtocolError("the container's stage ended without a word", hint=fate(child.pid))


def raise_what_is_waiting(child: Child, *, ends: bool = False) -> None:
    """Raise the error that the child has sent meanwhile, if it has: why something of its own was not there for us.

    ProtocolError if it has ended without a word. ends: it is about to, and closes its channel last.
    """
    poll = select.poll()
    poll.register(child.channel.fd, select.POLLIN)
    while not child.channel.has_told and poll.poll(None if ends else 0):
        try:
            word, _ = child.channel.receive()
        except ProtocolError:  # ECONNRESET, which comes before what was said
            word, _ = child.channel.receive()
        if not word:
            raise ProtocolError("the container's child ended without a word", hint=fate(child.pid))


def serve_until_ready(child: Child, launch: Launch) -> None:
    """Do for the child what it can't do itself until its root stands, and then set what only the parent may.

    Raises whatever failed in the child; ProtocolError if it died without a word.
    """
    if launch.tape_fd >= 0:
        try:
            outside.build(child, launch)
        except (KernelError, ProtocolError) as error:
            raise_what_is_waiting(child, ends=isinstance(error, KernelError) and error.errno == errno.ESRCH)
            raise
    else:
        identify(child, launch)
        _serve(child, launch)
    perform(launch.plan.phase(PARENT), child)


def _serve(child: Child, launch: Launch) -> None:
    """Answer the child until it is ready."""
    while True:
        word, fields = child.channel.receive()
        if word == READY:
            return
        if word == MAPS:
            _serve_maps(child, launch)
        elif word == DEVICE:
            _move_device(child, launch, fields[0])
        elif word == SOURCE:
            _give_source(child, launch, fields[0])
        elif word == NETWORK:  # which has been connected before
            child.channel.send(GO)
        elif word == TERMINAL:
            from pyruntime.launch.terminal import receive_terminal

            child.master_fd = receive_terminal(child.channel.fd)
        elif word == HOOK and launch.hooks is not None:
            launch.hooks.serve(fields[0], child.pid)
            child.channel.send(GO)
        else:
            raise ProtocolError("the container's child ended without a word", hint=fate(child.pid))


def release(child: Child, on_listener: Callable[[Child, int], None] | None = None) -> None:
    """Let the child become the user's process and execute: the hop for `create`, the program for `run`. Waits for it.

    on_listener: what to do with the listener of a seccomp filter, a descriptor of the child's.
    Raises whatever failed: ConfigError if there is no such program, KernelError if execve fails.
    """
    try:
        child.channel.send(GO)
        word, fields = child.channel.receive()
    except ProtocolError:  # EPIPE, ECONNRESET: it has ended
        raise_what_is_waiting(child)
        raise
    while word == LISTENER and on_listener is not None:
        on_listener(child, int(fields[0]))
        child.channel.send(GO)
        word, fields = child.channel.receive()
    if word:
        raise ProtocolError(f"unexpected message {word!r}")


def check_alive(child: Child) -> None:
    """Raise ProtocolError if the child has ended: where it waits for `start`, it must not have.

    The channel's end says that the hop was executed, or that a filter has killed the child before. Who is about to end
    closes its descriptors before it can be waited for, so its flags are asked: proc_pid_stat(5), field 9.
    """
    fields = proc.read_file(f"/proc/{child.pid}/stat").rpartition(b")")[2].split()
    if int(fields[6]) & _PF_EXITING:
        raise ProtocolError("the container's child ended without a word", hint=fate(child.pid))


def _serve_maps(child: Child, launch: Launch) -> None:
    step = next(step for step in launch.plan if isinstance(step, MapIds))
    try:
        write_maps(child.pid, step, privileged=not launch.rootless)
    except KernelError as error:
        error.where = error.where or step.where
        raise
    child.channel.send(GO)


def _give_source(child: Child, launch: Launch, where: str) -> None:
    from pyruntime.launch.sources import give

    give(child, launch.plan, where)


def _move_device(child: Child, launch: Launch, name: str) -> None:
    from pyruntime.launch.netdevices import Guests

    if child.guests is None:
        child.guests = Guests(child.pid)
    child.guests.take(launch.plan, name)
    child.channel.send(GO)
