"""Where the hooks of a start run: asked for by the child, and performed by the parent or by the child itself.

    parent                                            child
      | <--- HOOK "config.json#/hooks/prestart/0" -----  |  mounts and devices are there
      |  runs it on the host                             |
      | ---- GO ---------------------------------------> |
      |                                                  |  createContainer: runs it, before its root changes
      | <--- READY ... GO -----------------------------> |  credentials, the program looked for
      | <--- end (`create` only) ----------------------- |  waits for `start`, still as Python
    `start` --- connects ------------------------------> |  startContainer: runs it, as the container's user
      | <--- end, or ERROR ----------------------------- |  hops to the program, as without hooks

A startContainer hook comes from the image, so neither it nor the program may be executed by the interpreter: an image's
link to /proc/self/exe would be the host's Python (CVE-2019-5736). Each goes through the hop (exeseal.py). While Python
waits, its own executable is a read-only mount that nobody can change, and its memory has nothing of the caller's
environment (exeseal.seal_interpreter); it is not dumpable, and it holds no descriptor but those named in `_keep`. So
what a hook of the image finds below /proc/1 is of no use to it, even with CAP_SYS_PTRACE.

A createContainer hook is the host's, trusted as all of config.json, and executed directly. Where a PID namespace is
shared, its neighbours may look at it as runc's allow: who has CAP_SYS_PTRACE there, and nobody else.

A seccomp filter counts for the hooks of the image, too: one that the hop loads is loaded by theirs as well, another
is loaded before `start` is waited for, so that it must allow what waiting and forking take, as runc's must.

Imported for configs with hooks alone. Read beside runc:libcontainer/standard_init_linux.go and :rootfs_linux.go.
"""

from __future__ import annotations

import _signal
import _socket
import posix

from pyruntime import report
from pyruntime.errors import Error, UnsupportedError
from pyruntime.launch import exeseal
from pyruntime.launch.hooks import run_hook, run_on_host, state_fd, words
from pyruntime.launch.perform import performs
from pyruntime.launch.sync import GO, HOOK, Channel
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.hooks import ContainerHook, Hook, PoststartHook, PoststopHook, RuntimeHook, StartHook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from pyruntime.launch.child import Launch
    from pyruntime.launch.credentials import Process
    from pyruntime.launch.labels import Label
    from pyruntime.launch.rootfs import Rootfs
    from pyruntime.plan.step import Plan


class HookPoints:
    """The hooks of one start. `identity` is what they are told of the container: see hooks.state_fd.

    The descriptors are the child's, made by `prepare`: `_report_fd` and `answer_fd` hold the numbers that the two
    hops have been told to report to.
    """

    __slots__ = ("_hop_fd", "_report_fd", "_starting", "_stdin_fds", "answer_fd", "hooks", "identity")

    def __init__(self, plan: Plan, identity: dict[str, Any]) -> None:
        self.hooks = [step for step in plan if isinstance(step, Hook)]
        self.identity = identity
        self._starting = [step for step in self.hooks if isinstance(step, StartHook)]
        self._stdin_fds: list[int] = []
        self.answer_fd = self._hop_fd = self._report_fd = -1

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
    def are_starting(self) -> bool:
        """Whether there are startContainer hooks."""
        return bool(self._starting)

    def prepare(self, launch: Launch, channel: Channel, label: Label | None) -> bool:
        """In the child: make all that can't be written when the rlimits are set. Whether Python is to wait for `start`.

        If so, the hop to the program shall not wait, and report to `answer_fd`. Raises UnsupportedError.
        """
        if not self._starting:
            return False
        if label is not None:
            message = "a startContainer hook can't be confined by process.apparmorProfile or selinuxLabel yet"
            raise UnsupportedError(message, where=self._starting[0].where)
        self._stdin_fds = [state_fd(self.identity, "created", posix.getpid()) for _ in self._starting]
        # Copies of anything hold the numbers until the real ones come; of the channel, `create` would wait for them.
        self._report_fd = posix.dup(self._stdin_fds[0])
        self.answer_fd = channel.fd if launch.listen_fd < 0 else posix.dup(self._stdin_fds[0])
        self._hop_fd = exeseal.sealed(-1, self._report_fd, seccomp=launch.hop_filter)
        return True

    def start(self, launch: Launch, channel: Channel, hop_fd: int) -> None:
        """In the child, with the user's rights: wait for `start`, which is who the channel leads to from then on."""
        # For Python it would be an exception; until execve it is what it is to any other program.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        _close_all_but([0, 1, 2, *range(3, 3 + launch.preserve_fds), *self._keep(launch, channel, hop_fd)])
        if launch.listen_fd < 0:
            syscalls.prctl(c.PR_SET_PDEATHSIG, _signal.SIGKILL)  # the change of user may have cleared it
        else:
            self._wait(launch, channel)

    def run(self) -> None:
        """In the child: run the startContainer hooks. Raises HookError, KernelError."""
        for hook, stdin_fd in zip(self._starting, self._stdin_fds, strict=True):
            run_hook(hook, stdin_fd, become=self._hop)

    def _keep(self, launch: Launch, channel: Channel, hop_fd: int) -> list[int]:
        return [
            *(hop_fd, channel.fd, launch.listen_fd, self._hop_fd, self._report_fd, self.answer_fd),
            *self._stdin_fds,
        ]

    def _wait(self, launch: Launch, channel: Channel) -> None:
        """Let `create` return, and wait until `start` connects."""
        syscalls.prctl(c.PR_SET_PDEATHSIG, 0)
        channel.close()
        listener = _socket.socket(fileno=launch.listen_fd)
        launch.listen_fd = -1
        connection_fd, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.accept calls
        listener.close()
        posix.dup2(connection_fd, self.answer_fd, inheritable=False)
        posix.close(connection_fd)
        channel.fd = self.answer_fd

    def _hop(self, hook: Hook, report_end: int) -> NoReturn:
        """In the hook's process: become the hop, which becomes the hook."""
        posix.dup2(report_end, self._report_fd)
        exeseal.execute(self._hop_fd, hook.path, *words(hook))


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
