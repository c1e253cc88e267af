"""Where the hooks of a start run: asked for by the child, and performed by the parent or by the child itself.

    parent                                            child
      | <--- HOOK "config.json#/hooks/prestart/0" -----  |  mounts and devices are there
      |  runs it on the host                             |
      | ---- GO ---------------------------------------> |
      |                                                  |  createContainer: runs it, before its root changes
      | <--- READY ... GO -----------------------------> |  credentials, by Python in place of the hop
      | <--- end (`create` only) ----------------------- |  waits for `start`, still as Python
    `start` --- connects ------------------------------> |  startContainer: runs it, as the container's user
      | <--- end, or ERROR ----------------------------- |  hops to the program, as without hooks

A startContainer hook comes from the image, so neither it nor the program may be executed by the interpreter: an image's
link to /proc/self/exe would be the host's Python (CVE-2019-5736). Each goes through the hop (exeseal.py). While Python
waits, its own executable is a read-only mount that nobody can change, and its memory has nothing of the caller's
environment (exeseal.seal_interpreter); it is not dumpable, and it holds no descriptor but those that it still needs. So
what a hook of the image finds below /proc/1 is of no use to it, even with CAP_SYS_PTRACE.

A createContainer hook is the host's, trusted as all of config.json, and executed directly. Where a PID namespace is
shared, its neighbours may look at it as runc's allow: who has CAP_SYS_PTRACE there, and nobody else.

A seccomp filter counts for the hooks of the image, too: the hops to them load it as well. One that notifies, or needs
CAP_SYS_ADMIN to be loaded, is loaded before `start` is waited for: it must allow what waiting and forking take, as
runc's must.

Imported for configs with hooks alone. Read beside runc:libcontainer/standard_init_linux.go and :rootfs_linux.go.
"""

from __future__ import annotations

import _signal
import _socket
import posix

from pyruntime import report
from pyruntime.errors import Error, UnsupportedError
from pyruntime.launch import exeseal
from pyruntime.launch.credentials import begin
from pyruntime.launch.ending import end, execute, load_filter
from pyruntime.launch.hooks import run_hook, run_on_host, state_fd, words
from pyruntime.launch.inside import hop
from pyruntime.launch.perform import performs
from pyruntime.launch.sync import GO, HOOK, READY, Channel
from pyruntime.launch.tape import Tape
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.hooks import ContainerHook, Hook, PoststartHook, PoststopHook, RuntimeHook, StartHook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from pyruntime.launch.child import Launch
    from pyruntime.launch.credentials import Process
    from pyruntime.launch.rootfs import Rootfs
    from pyruntime.plan.step import Plan


class HookPoints:
    """The hooks of one start. `identity` is what they are told of the container: see hooks.state_fd.

    The descriptors are the child's, made by `wait`: the hops to the image's hooks, and what they report to.
    """

    __slots__ = ("_hop_fds", "_report_fd", "_starting", "hooks", "identity")

    def __init__(self, plan: Plan, identity: dict[str, Any]) -> None:
        self.hooks = [step for step in plan if isinstance(step, Hook)]
        self.identity = identity
        self._starting: list[Hook] = [step for step in self.hooks if isinstance(step, StartHook)]
        self._hop_fds: list[int] = []
        self._report_fd = -1

    def serve(self, where: str, pid: int) -> None:
        """In the parent: run the hook that the child, `pid`, asks for. Raises HookError, KernelError."""
        for hook in self.hooks:
            if hook.where == where and isinstance(hook, RuntimeHook):
                run_on_host(hook, self.identity, "creating", pid)

    def started(self, pid: int) -> None:
        """In the parent of a `run`: the program has been executed. Raises HookError, KernelError."""
        for hook in self.hooks:
            if isinstance(hook, PoststartHook):
                run_on_host(hook, self.identity, "running", pid)

    def stopped(self) -> None:
        """In the parent: the container has been removed. A failing hook is told, and the others go on."""
        for hook in self.hooks:
            if isinstance(hook, PoststopHook):
                try:
                    run_on_host(hook, self.identity, "stopped")
                except Error as error:
                    report.warn(str(error))

    @property
    def are_inside(self) -> bool:
        """Whether some run in the container, for which a process of ours has to be there."""
        return any(isinstance(hook, (ContainerHook, StartHook)) for hook in self.hooks)

    @property
    def are_starting(self) -> bool:
        """Whether there are startContainer hooks."""
        return bool(self._starting)

    def wait(self, launch: Launch, process: Process, channel: Channel) -> NoReturn:
        """In the child, whose tape has the PROCESS steps: perform them, wait for `start`, run the startContainer hooks.

        All that can't be written when the rlimits are set is made before the parent is told that we are ready. Ends in
        the hop to the program. Raises HookError, KernelError.
        """
        if process.label is not None:
            message = "a startContainer hook can't be confined by process.apparmorProfile or selinuxLabel yet"
            raise UnsupportedError(message, where=self._starting[0].where)
        credentials = process.tape
        if process.filter is not None and (process.filter.notifies or process.keep):
            load_filter(process, process.filter)  # what it takes would be lost by the execve of a hop
            process.filter = None
        # Copies of anything hold the numbers until the real ones come; of the channel, `create` would wait for them.
        stdin_fds = [state_fd(self.identity, "created", posix.getpid()) for _ in self._starting]
        self._report_fd = posix.dup(stdin_fds[0])
        answer_fd = channel.fd if launch.listen_fd < 0 else posix.dup(stdin_fds[0])
        self._hop_fds = [self._hop_to(hook, process) for hook in self._starting]
        process.tape, process.channel_fd = Tape(), answer_fd
        begin(process.tape, answer_fd)
        end(process)
        hop_fd = exeseal.sealed(process.tape, answer_fd)
        channel.send(READY)
        channel.expect(GO)
        credentials.perform()
        # For Python it would be an exception; until execve it is what it is to any other program.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        ours = [hop_fd, channel.fd, launch.listen_fd, *process.descriptors()]
        hooks = [self._report_fd, *self._hop_fds, *stdin_fds]
        _close_all_but([0, 1, 2, *range(3, 3 + launch.preserve_fds), *ours, *hooks])
        if launch.listen_fd < 0:
            syscalls.prctl(c.PR_SET_PDEATHSIG, _signal.SIGKILL)  # the change of user may have cleared it
        else:
            _wait_for_start(launch, channel, answer_fd)
        for hook, stdin_fd in zip(self._starting, stdin_fds, strict=True):
            run_hook(hook, stdin_fd, become=self._hop)
        syscalls.prctl(c.PR_SET_PDEATHSIG, 0)
        hop(hop_fd, process.descriptors(), launch.preserve_fds)

    def _hop_to(self, hook: Hook, process: Process) -> int:
        """The hop to a hook, which is judged by the container's filter as the program is."""
        process.tape, program_fd = Tape(), process.channel_fd
        begin(process.tape, self._report_fd)
        if process.filter is not None:
            load_filter(process, process.filter)
        argv, envp = words(hook)
        execute(process.tape, [hook.path], argv, envp)
        process.channel_fd = program_fd
        return exeseal.sealed(process.tape, self._report_fd)

    def _hop(self, hook: Hook, report_end: int) -> NoReturn:
        """In the hook's process: become the hop, which becomes the hook."""
        posix.dup2(report_end, self._report_fd)
        exeseal.execute(self._hop_fds[self._starting.index(hook)])


def _wait_for_start(launch: Launch, channel: Channel, answer_fd: int) -> None:
    """Let `create` return, and wait until `start` connects, who is who the channel leads to from then on."""
    syscalls.prctl(c.PR_SET_PDEATHSIG, 0)
    channel.close()
    listener = _socket.socket(fileno=launch.listen_fd)
    launch.listen_fd = -1
    connection_fd, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.accept calls
    listener.close()
    posix.dup2(connection_fd, answer_fd, inheritable=False)
    posix.close(connection_fd)
    channel.fd = answer_fd


@performs(RuntimeHook)
def ask_the_parent(step: RuntimeHook, rootfs: Rootfs) -> None:
    """It runs on the host, where the child is no more. runc:libcontainer/init_linux.go:/^func syncParentHooks/"""
    rootfs.channel.send(HOOK, step.where)
    rootfs.channel.expect(GO)


@performs(ContainerHook)
def run_in_container(step: ContainerHook, rootfs: Rootfs) -> None:
    """In the root file system's directory, as with runc. runc:libcontainer/rootfs_linux.go:/^func prepareRootfs/"""
    if rootfs.hooks is None:
        raise AssertionError("a plan with hooks is performed without its HookPoints")
    stdin_fd = state_fd(rootfs.hooks.identity, "creating", posix.getpid())
    try:
        run_hook(step, stdin_fd, directory_fd=rootfs.root.fd)
    finally:
        posix.close(stdin_fd)


@performs(StartHook)
def leave_for_later(_step: StartHook, _process: Process) -> None:
    """Nothing now: the image's programs run when `start` has come, by HookPoints.run."""


def _close_all_but(keep: list[int]) -> None:
    """Close every other descriptor."""
    first = 0
    for fd in sorted({fd for fd in keep if fd >= 0}):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first, 0xFFFFFFFF)
