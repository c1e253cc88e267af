"""Another program in a container that is there: `exec`.

The pieces meet as in creation.py: record and options -> Spec -> Plan -> parent and stage. launch/join.py draws both.

Read beside runc:exec.go and runc:libcontainer/process_linux.go:/^func .*setnsProcess.*start/.
"""

from __future__ import annotations

import posix

from pyruntime import report
from pyruntime.caller import CallerOptions
from pyruntime.cgroup.joining import below, start_below, start_in
from pyruntime.errors import Error, KernelError, ProtocolError, StateError, UnsupportedError, UsageError
from pyruntime.images import load_image
from pyruntime.launch import (
    affinity,  # noqa: F401  # performs what config.json says of CPUs
    exeseal,
)
from pyruntime.launch.handle import Child, fate
from pyruntime.launch.join import Entry, compile_entry
from pyruntime.launch.perform import perform
from pyruntime.launch.performers import import_performers
from pyruntime.launch.sync import GO, LISTENER, PID, channel_pair
from pyruntime.linux import constants as c
from pyruntime.linux.caps import last_cap
from pyruntime.plan.join import build
from pyruntime.plan.step import CGROUP, PARENT
from pyruntime.spec.execution import Wanted, from_file, from_object, from_options
from pyruntime.spec.load import parse
from pyruntime.state.status import open_init, status
from pyruntime.state.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyruntime.launch.foreground import Foreground
    from pyruntime.plan.step import Plan

# The names below /proc/PID/ns, with their flags: namespaces(7).
_NAMESPACES = {
    "user": c.CLONE_NEWUSER,
    "mnt": c.CLONE_NEWNS,
    "pid": c.CLONE_NEWPID,
    "net": c.CLONE_NEWNET,
    "ipc": c.CLONE_NEWIPC,
    "uts": c.CLONE_NEWUTS,
    "cgroup": c.CLONE_NEWCGROUP,
    "time": c.CLONE_NEWTIME,
}


class Options(CallerOptions):
    """What a caller can say about an `exec`: runc's options, by their names.

    process: a file with the JSON object `process`, or that object; it stands in place of all from `cwd` to `tty`.
    """

    process: str | dict[str, Any] = ""
    cwd: str = ""
    env: Sequence[str] = ()
    user: str = ""
    additional_gids: Sequence[str] = ()
    cap: Sequence[str] = ()
    no_new_privs: bool | None = None
    apparmor: str = ""
    process_label: str = ""
    tty: bool = False
    cgroup: Sequence[str] = ()
    ignore_paused: bool = False


def execute(id: str, args: Sequence[str] = (), *, root: str, **options: Any) -> int:
    """Execute a program in a container. In the foreground: pass signals on, wait, and return its exit status.

    With detach, return 0 once the program runs. The options are those of `Options`. Raises Error; then nothing was
    executed and nothing is left behind. runc:exec.go
    """
    execution = Execution(id, args, root, Options(**options))
    try:
        execution.make()
        if not execution.options.detach:
            return execution.stay()
    except BaseException as error:
        execution.undo()
        if isinstance(error, Error):
            error.where = execution.wanted.place(error.where)
        raise
    execution.close()
    return 0


class Execution:
    """One program that enters one container, until it is executed. What has been made, `undo` takes back."""

    __slots__ = (
        "child",
        "foreground",
        "init_fd",
        "is_paused",
        "options",
        "plan",
        "record",
        "store",
        "wanted",
    )

    def __init__(self, id: str, args: Sequence[str], root: str, options: Options) -> None:
        """Read, check and compile; nothing is made yet, but the descriptor of the container's init."""
        self.options = options
        self.store = Store(root, id)
        self.record = self.store.read()
        self._refuse_state()
        self.wanted = self._what(args)
        self._check()
        options.check(terminal=self.wanted.spec["process"].get("terminal", False))
        self.child: Child | None = None
        self.foreground: Foreground | None = None
        self.plan = self._plan()
        self.init_fd = open_init(self.record)

    def make(self) -> None:
        """Do everything up to the program's execve, and let it."""
        if not self.is_paused:
            self._come_to_the_foreground()
        self.child = child = self._start_stage(self._entry())
        self._serve_until_entered(child)
        if self.is_paused:  # until now: a signal that came meanwhile meant us, who waited
            self._come_to_the_foreground()
        perform(self.plan.phase(PARENT), child)
        if self.foreground is not None and child.master_fd >= 0:
            self.foreground.size_terminal(child.master_fd)
        self.options.announce(child.pid, child.pidfd, "setns")
        _let_execute(child)

    def _come_to_the_foreground(self) -> None:
        """Take the signals that are meant for the program, unless we leave."""
        if self.options.detach:
            return
        from pyruntime.launch.foreground import Foreground

        self.foreground = Foreground(terminal=self.wanted.spec["process"].get("terminal", False))

    def stay(self) -> int:
        """Wait for the program in the foreground. Returns its exit status."""
        child, foreground = self.child, self.foreground
        if child is None or foreground is None:
            raise TypeError("only what was started in the foreground can be waited for")
        exit_status = foreground.supervise(child.pid, child.pidfd, child.give_master())
        self.close()
        return exit_status

    def undo(self) -> None:
        """Take back what was made. What can't be taken back is told, not raised: an error is on its way already."""
        try:
            if self.child is not None:
                self.child.kill()
            self.options.withdraw()
        except OSError as error:
            report.warn(f"left behind: {error}")
        finally:
            self.close()  # the last, for signals that are waiting may end us

    def close(self) -> None:
        """Let go of the descriptors and of the caller's signals."""
        if self.child is not None:
            self.child.close()
        if self.init_fd >= 0:
            posix.close(self.init_fd)
            self.init_fd = -1
        if self.foreground is not None:
            self.foreground.close()

    def _refuse_state(self) -> None:
        state = status(self.record, self.store)
        if state == "creating":
            raise StateError("cannot exec in a container that is still being created", where=self.store.id)
        if state == "stopped":
            raise StateError("cannot exec in a stopped container", where=self.store.id)
        self.is_paused = state == "paused"
        if self.is_paused and not self.options.ignore_paused:
            message = "cannot exec in a paused container (use --ignore-paused to override)"
            raise StateError(message, where=self.store.id)

    def _check(self) -> None:
        """Refuse what is wrong with the process, and tell what is odd. Raises ConfigError, UnsupportedError."""
        if self.wanted.is_plain():
            return
        load_image("checks")
        for warning in dict.fromkeys(self.wanted.check()):  # a capability of --cap is one of several sets
            report.warn(warning)

    def _what(self, args: Sequence[str]) -> Wanted:
        """What shall be executed, from the copy of config.json that the container was made from."""
        spec, options = parse(self.store.read_file("config.json")), self.options
        if isinstance(options.process, dict):
            return from_object(spec, options.process, "process")
        if options.process:
            return from_file(spec, options.process)
        if not args:
            raise UsageError("exec args cannot be empty", where=self.store.id, hint="exec ID CMD ARGS..., or --process")
        return from_options(
            spec,
            args,
            cwd=options.cwd,
            env=options.env,
            user=options.user,
            additional_gids=options.additional_gids,
            cap=options.cap,
            no_new_privs=options.no_new_privs,
            apparmor=options.apparmor,
            process_label=options.process_label,
            tty=options.tty,
        )

    def _plan(self) -> Plan:
        if "seccomp" in self.wanted.spec.get("linux", {}):
            load_image("seccomp")
        no_new_keyring = self.record.get("noNewKeyring", False)
        kinds = foreign_namespaces(self.record["pid"])
        pid = self.record["pid"]
        plan = build(self.wanted.spec, self.store.id, kinds, init_pid=pid, no_new_keyring=no_new_keyring)
        for step in plan:
            step.where = self.wanted.place(step.where)
        return plan

    def _entry(self) -> Entry:
        """What is known of the process. Connects the console socket, so that a wrong one fails before all else."""
        entry = Entry()
        entry.plan = self.plan
        entry.rootless = self.record["rootless"]
        entry.last_cap = last_cap()
        entry.init_fd, entry.init_pid = self.init_fd, self.record["pid"]
        entry.preserve_fds = self.options.preserve_fds
        entry.filter = b""
        if "seccomp" in self.wanted.spec.get("linux", {}):
            from pyruntime.launch.seccomp import compile_filter

            entry.filter = compile_filter(self.plan, self.store.root_path)
        entry.console_fd = self.options.connect_console()
        return entry

    def _start_stage(self, entry: Entry) -> Child:
        import_performers(self.plan)
        ours, theirs = channel_pair()
        ours.program, ours.plan = self.wanted.spec["process"]["args"][0], self.plan
        placing = self.plan.phase(CGROUP)
        cpus = posix.sched_getaffinity(0) if placing else set()
        newcomer, hop_fd = None, -1
        try:
            newcomer = compile_entry(entry, theirs.fd)
            hop_fd = exeseal.sealed(newcomer.tape, theirs.fd)
            for fd in (theirs.fd, entry.init_fd, *newcomer.fds, *newcomer.tape.reserved):
                posix.set_inheritable(fd, True)
            perform(placing, None)
            pid, pidfd = self._spawn(hop_fd)
        except BaseException:
            ours.close()
            raise
        finally:
            if placing:
                posix.sched_setaffinity(0, cpus)
            theirs.close()
            if newcomer is not None:
                newcomer.close()
            for fd in (entry.console_fd, hop_fd):
                if fd >= 0:
                    posix.close(fd)
        child = Child(pid, pidfd, ours, is_stage=True)
        child.master_fd = newcomer.master_fd
        return child

    def _spawn(self, hop_fd: int) -> tuple[int, int]:
        """Start the stage in the container's cgroup, or the one below it that --cgroup names: (pid, pidfd)."""

        def start(cgroup_fd: int | None) -> tuple[int, int]:
            # In a cgroup that is frozen, whoever shares our memory would have us sleep until that ends.
            return exeseal.spawn(0, hop_fd, cgroup_fd=cgroup_fd, is_frozen=self.is_paused)

        path, pid, given = self.record["cgroup"], self.record["pid"], self.options.cgroup
        if not path:
            if given:
                raise UnsupportedError("the container has no cgroup of its own", where="--cgroup")
            return start(None)
        try:
            return start_below(path, below(given), start) if given else start_in(path, pid, start)
        except KernelError as error:
            if given or not self.record["rootless"]:
                raise
            report.warn(f"the program will not be in the container's cgroup: {error}")
            return start(None)

    def _serve_until_entered(self, child: Child) -> None:
        """Do for the stage what it can't do itself, until it has cloned the process that enters.

        Raises whatever failed in the stage, ProtocolError if it died without a word.
        """
        while child.is_stage:
            word, fields = child.channel.receive()
            if word == PID:
                child.take_over(int(fields[0]))
            elif word == LISTENER:
                self._send_listener(child, int(fields[0]))
            else:
                raise ProtocolError("the process ended without a word", hint=fate(child.pid))

    def _send_listener(self, child: Child, fd: int) -> None:
        """Hand the descriptor that is told of a filter's notifications to who waits for it, when the process is there.

        Or before, if the stage has something to be told of: it waits for an answer then.
        """
        from select import POLLIN, poll

        from pyruntime.launch.seccomp import send_listener, take_listener

        listener_fd = take_listener(child, fd)
        child.channel.send(GO)
        poller = poll()
        poller.register(listener_fd, POLLIN)
        poller.register(child.channel.fd, POLLIN)
        if child.channel.fd in dict(poller.poll()):
            word, fields = child.channel.receive()
            if word == PID:
                child.take_over(int(fields[0]))
        profile = self.wanted.spec["linux"]["seccomp"]
        metadata = profile.get("listenerMetadata", "")
        send_listener(listener_fd, profile["listenerPath"], metadata, child.pid, self._state())

    def _state(self) -> dict[str, Any]:
        """The container's state (runtime.md#state)."""
        record = self.record
        return {
            "ociVersion": record["ociVersion"],
            "id": record["id"],
            "status": "running",
            "pid": record["pid"],
            "bundle": record["bundle"],
            "annotations": record["annotations"],
        }


def _let_execute(child: Child) -> None:
    """Give the process the word that it waits for. Returns when it has executed the program.

    Raises what it reported; ProtocolError if it has ended before: whoever may in the container can kill it.
    """
    try:
        child.channel.send(GO)
        word, _ = child.channel.receive()
    except ProtocolError:  # EPIPE, ECONNRESET: it has ended without having read that
        child.channel.receive()  # raises what it has said before, if it has
        raise ProtocolError("the process ended before it could execute the program") from None
    if word:
        raise ProtocolError(f"unexpected message {word!r}")


def foreign_namespaces(pid: int) -> dict[str, int]:
    """The kinds of namespaces in which a process is and we are not, with their flags. See namespaces(7).

    To enter one that is ours would be refused where we have no rights over it, and always for a user namespace. If the
    process has ended meanwhile there is nothing wrong with the answer: its pidfd is refused then.
    """
    found = {}
    for kind, flag in _NAMESPACES.items():
        try:
            theirs, ours = posix.stat(f"/proc/{pid}/ns/{kind}"), posix.stat(f"/proc/self/ns/{kind}")
        except FileNotFoundError:
            continue  # a kernel without this kind
        if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
            found[kind] = flag
    return found
