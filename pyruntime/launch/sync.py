r"""How the parent and the container's child talk while a container is being made.

    parent                                                      child (or, before it, the stage that joins namespaces)
      | ---- clone3(new namespaces, into the cgroup) ----------->  |
      |                                                            |  (a new user namespace:)
      | <--------------------------------------------- MAPS -----  |  "I have no ids yet"
      |  writes uid_map and gid_map                                |
      | ---- GO ------------------------------------------------>  |
      |                                                            |  (from the stage only:)
      | <--------------------------------------------- PID ------  |  "the child is 1234, I am done"
      |  connects it to its network (net/)                         |
      | <--------------------------------------------- NETWORK --  |  (if sysctls or hooks need it:) "am I connected?"
      | ---- GO ------------------------------------------------>  |
      | <--------------------------------------------- DEVICE ---  |  (for each of linux.netDevices:) "give me eth0"
      |  moves it from its own network namespace                   |
      | ---- GO ------------------------------------------------>  |
      |  meanwhile: device program, state                          |  rootfs
      | <--------------------------------------------- SOURCE ---  |  (what a user namespace may not open:) "mounts/3"
      |  opens it in the child's mount namespace                   |
      | ---- SOURCE -------------------------------------------->  |  with the descriptor (SCM_RIGHTS)
      | <--------------------------------------------- HOOK -----  |  (each of prestart, createRuntime:) "run it"
      |  runs the hook                                             |
      | ---- GO ------------------------------------------------>  |
      |                                                            |  createContainer hooks, pivot_root
      | <--------------------------------------------- TERMINAL -  |  with the pty's master (SCM_RIGHTS)
      |                                                            |  the program looked for, execveat(the sealed hop)
      | <--------------------------------------------- READY ----  |  in its new root, and no longer Python
      |  rlimits, oom score, state, pid file                       |
      | ---- GO ------------------------------------------------>  |
      |                                                            |  credentials
      |                                                            |  (a filter that notifies:) seccomp
      | <--------------------------------------------- LISTENER -  |  "it is my descriptor 5"
      |  takes it, sends it to listenerPath                        |
      | ---- GO ------------------------------------------------>  |
      |                                                            |  `create`: waits for `start`; `run`: goes on
      |                                                            |  its label asked for; seccomp
      | <--------------------------------------------- end ------  |  execve has closed the socket
      |
      |  at any time: WARNING or DEBUG with a text; instead of any: ERROR with all its parts, or the hop's report.

Where the parent can build the root itself, the child is the hop from its birth, and all that is asked for here is done
without asking: see outside.py. With startContainer hooks the child hops when they have run: see hookpoints.py.

`start` later connects to the socket start.sock in the state directory: the hop accepts, executes, and the connection is
closed by that (started) or brings the hop's report, or ERROR where a startContainer hook failed.

Messages are datagrams of a SOCK_SEQPACKET pair: one word, then fields separated by NUL, all text, bounded by
MESSAGE_MAX; the hop's are binary, and begin with a number that no word begins with (tape.py). The child is our own code
up to execve, yet nothing that it says is trusted further than its type.

Read beside runc:libcontainer/sync.go and runc:libcontainer/message_linux.go.
"""

from __future__ import annotations

import posix
from _struct import unpack
from sys import byteorder

from pyruntime import errors, report
from pyruntime.errors import ConfigError, Error, KernelError, ProtocolError
from pyruntime.launch.tape import SAYS_ERROR, SAYS_LISTENER, SAYS_PID
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.call import hint as errno_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.plan.step import Plan

MAPS, GO, PID, TERMINAL, READY, ERROR, WARNING = "maps", "go", "pid", "terminal", "ready", "error", "warning"
LISTENER, HOOK, DEVICE, NETWORK, SOURCE, DEBUG = "listener", "hook", "device", "network", "source", "debug"
MOUNT = "mount"
_WORDS = (MAPS, GO, PID, TERMINAL, READY, WARNING, DEBUG, LISTENER, HOOK, DEVICE, NETWORK, SOURCE, MOUNT)

MESSAGE_MAX = 65536
_HOP = 8  # bytes of a hop's message (tape.py): a kind and a number; of a report twice as many


class Channel:
    """One end of the pair. `receive` raises what the other side raised; `program` and `plan` are for its words.

    has_told: the other side has said why it ends.
    """

    __slots__ = ("fd", "has_told", "plan", "program")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.program = ""
        self.plan: Plan | None = None
        self.has_told = False

    def close(self) -> None:
        """Close this end; does nothing the second time."""
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    def send(self, word: str, *fields: str) -> None:
        """Send one message, cut to MESSAGE_MAX. Raises ProtocolError if the other side is gone."""
        text = "\0".join((word, *(field.replace("\0", "\\0") for field in fields)))
        try:
            posix.write(self.fd, text.encode("utf-8", "surrogateescape")[:MESSAGE_MAX])
        except OSError as error:
            raise ProtocolError(f"the other side of the start is gone: {error}") from error

    def send_error(self, error: Error) -> None:
        """Send an error with all its parts, so that the parent raises the same. Its text comes last: it may be cut."""
        number = error.errno if isinstance(error, KernelError) else 0
        call = error.call if isinstance(error, KernelError) else error.message
        self.send(ERROR, type(error).__name__, str(number), error.where, error.hint, call)

    def receive(self) -> tuple[str, list[str]]:
        """The next message, as its word and fields; ("", []) when the other side has closed.

        What the child only has to tell (WARNING, DEBUG) is told on the way. Raises the Error that the child sent;
        KernelError for the hop's report; ProtocolError for anything unheard of.
        """
        word, fields = self._receive()
        while word in (WARNING, DEBUG):
            tell = report.warn if word == WARNING else report.debug
            tell("".join(fields))
            word, fields = self._receive()
        return word, fields

    def receive_descriptor(self, word: str) -> int:
        """The descriptor that comes with the next message, which must be `word`; the caller's to close.

        Raises as `receive`.
        """
        data, fd = syscalls.recvmsg(self.fd, 256)
        got = self._parse(data)[0] if data else ""
        if got != word or fd < 0:
            raise ProtocolError(f"expected {word!r} with a descriptor, " + (f"got {got!r}" if got else "but it ended"))
        return fd

    def _receive(self) -> tuple[str, list[str]]:
        try:
            data = posix.read(self.fd, MESSAGE_MAX)
        except OSError as error:  # ECONNRESET: it has ended without reading what we sent, see unix(7)
            raise ProtocolError(f"the other side of the start is gone: {error}") from error
        return self._parse(data) if data else ("", [])

    def _parse(self, data: bytes) -> tuple[str, list[str]]:
        if data[0] == SAYS_ERROR:
            self.has_told = True
            raise hop_error(data, self.program, self.plan)
        if data[0] in _KINDS and len(data) == _HOP:
            return _KINDS[data[0]], [str(int.from_bytes(data[4:], byteorder))]
        word, *fields = data.decode("utf-8", "surrogateescape").split("\0")
        if word == ERROR:
            self.has_told = True
            raise rebuild_error(fields)
        if word not in _WORDS:
            raise ProtocolError(f"unknown message {word[:40]!r}")
        return word, fields

    def expect(self, word: str) -> list[str]:
        """The fields of the next message, which must be `word`. Raises ProtocolError otherwise."""
        got, fields = self.receive()
        if got != word:
            raise ProtocolError(f"expected {word!r}, " + (f"got {got!r}" if got else "but the other side ended"))
        return fields


def channel_pair() -> tuple[Channel, Channel]:
    """A connected pair, both ends close-on-exec. See socketpair(2), unix(7) SOCK_SEQPACKET."""
    ours, theirs = syscalls.socketpair(c.AF_UNIX, c.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)


_KINDS = {SAYS_PID: PID, SAYS_LISTENER: LISTENER}
_LAST_ERRNO = 4095


def hop_error(report: bytes, program: str, plan: Plan | None = None) -> Error:
    """The error that the hop reported: what failed on the way from the new root to the execve of the user's program."""
    _, result, call, mark = unpack("=IiII", report) if len(report) == 2 * _HOP else (0, 0, 0, 0)
    if not 0 < -result <= _LAST_ERRNO:
        return ProtocolError(f"unknown report {report[:40]!r}")
    number, name = -result, c.value_name(call, "SYS_").removeprefix("SYS_")
    if call == c.SYS_execve:
        where, hint = "config.json#/process/args/0", EXECVE_HINTS.get(errors.errno_name(number), "")
        return KernelError(f"execve({program!r})", number, where=where, hint=hint)
    if call == c.SYS_faccessat2:
        reason = posix.strerror(number).lower()
        return ConfigError(f'exec: "{program}": {reason}', where="config.json#/process/args/0")
    step = plan.steps[mark - 1] if plan is not None and 0 < mark <= len(plan.steps) else None
    where, hint = step.where if step is not None else "", errno_hint(name, number)
    if call in (c.SYS_openat2, c.SYS_fchdir):
        return _directory_error(number, getattr(step, "cwd", ""))
    if call in (c.SYS_openat, c.SYS_write):
        hint = LABEL_HINTS.get(errors.errno_name(number), "")
        if step is not None and type(step).__name__ != "ConfineByProfile":
            return KernelError(f"{step.text()}: write('/proc/self/attr/exec')", number, where=where)
        where = where or "config.json#/process/apparmorProfile"
        return KernelError("write('/proc/self/attr/apparmor/exec')", number, where=where, hint=hint)
    if call == c.SYS_seccomp:
        where, name = "config.json#/linux/seccomp", "seccomp(SECCOMP_SET_MODE_FILTER)"
    elif call == c.SYS_clone:
        name, hint = "clone(CLONE_PARENT)", errno_hint("clone3", number)
    elif call == c.SYS_ioctl:
        where, name = "config.json#/process/terminal", "ioctl(0, TIOCSCTTY)"
    if errors.errno_name(number) == "EPERM" and call in _FILTERED:
        hint = _FILTER_HINT
    if "(" not in name:
        name = f"{step.text()}: {name}()" if step is not None else f"{name}()"
    return KernelError(name, number, where=where, hint=hint)


def _directory_error(number: int, cwd: str) -> Error:
    """Why the working directory could not be entered."""
    where = "config.json#/process/cwd"
    if errors.errno_name(number) == "ELOOP":
        hint = "a link of /proc leads there, or links lead in a loop"
        return Error(f"the working directory {cwd} is outside of the container", where=where, hint=hint)
    return KernelError(f"chdir({cwd!r})", number, where=where)


def start_error(answer: bytes, program: str) -> Error:
    """What the container's process has answered to `start`: the hop's report, or the ERROR of a startContainer hook."""
    if answer[0] == SAYS_ERROR:
        return hop_error(answer, program)
    word, *fields = answer.decode("utf-8", "surrogateescape").split("\0")
    return rebuild_error(fields) if word == ERROR else ProtocolError(f"unknown answer {word[:40]!r}")


# What the hop still calls when a filter is loaded.
_FILTERED = (
    c.SYS_read,
    c.SYS_capset,
    c.SYS_prlimit64,
    c.SYS_clone,
    c.SYS_setsid,
    c.SYS_ioctl,
    c.SYS_accept4,
    c.SYS_close,
)
_FILTER_HINT = (
    "without noNewPrivileges a seccomp profile must allow capset, too, and one that notifies what a start still takes: "
    "read, close, accept4, close_range, for exec also clone, setsid and prlimit64"
)

# See aa_change_onexec(2).
LABEL_HINTS = {
    "ENOENT": "no such profile is loaded: see aa-status(8), apparmor_parser(8)",
    "EACCES": "the runtime is confined itself, by a profile that does not allow the change",
    "EPERM": "the runtime is confined itself, and no_new_privs forbids to gain by another profile",
}

# The program was found and is executable, so these are about what is inside of it. See execve(2).
EXECVE_HINTS = {
    "ENOENT": "the program exists, but its interpreter does not: the #! line, or the loader of a dynamic executable",
    "ENOEXEC": "neither a binary for this architecture nor a script with a #! line",
    "EACCES": "the file system is mounted noexec, the interpreter is not executable, or SELinux does not allow the "
    "change to process.selinuxLabel by this program (ausearch -m avc)",
    "EPERM": "of SELinux, process.noNewPrivileges or a nosuid mount: the policy has to allow nnp_transition or "
    "nosuid_transition to process.selinuxLabel",
    "E2BIG": "the arguments and the environment together are too long",
}


def rebuild_error(fields: list[str]) -> Error:
    """The inverse of Channel.send_error."""
    name, number, where, hint, call = (*fields, "", "", "", "", "")[:5]
    kind = getattr(errors, name, None)
    if kind is KernelError and number.isdecimal() and len(number) < 6:
        return KernelError(call, int(number), where=where, hint=hint)
    if isinstance(kind, type) and issubclass(kind, Error) and kind is not KernelError:
        return kind(call, where=where, hint=hint)
    return ProtocolError(f"the child reported {name}: {call}", where=where, hint=hint)
