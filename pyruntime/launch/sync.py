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
      | <--------------------------------------------- READY ----  |  in its new root
      |  rlimits, oom score, state, pid file                       |
      | ---- GO ------------------------------------------------>  |
      |                                                            |  credentials, the program looked for
      |                                                            |  (a filter that the hop can't load:) seccomp
      | <--------------------------------------------- LISTENER -  |  (one that notifies:) "it is my descriptor 5"
      |  takes it, sends it to listenerPath                        |
      | ---- GO ------------------------------------------------>  |
      |                                                            |  execveat(the sealed hop)
      |                                                            |  its AppArmor profile asked for, if there is one
      |                                                            |  `create`: waits for `start`; `run`: goes on
      |                                                            |  seccomp, if it wasn't loaded before
      | <--------------------------------------------- end ------  |  execve has closed the socket
      |
      |  at any time: WARNING or DEBUG with a text; instead of any: ERROR with all its parts; from the hop -errno of
      |  execve or, made distinct (FILTER_FAILED), of seccomp.

With startContainer hooks the child does not hop before they have run: see hookpoints.py.

`start` later connects to the socket start.sock in the state directory: the hop accepts, executes, and the connection is
closed by that (started) or brings -errno, or ERROR where a startContainer hook failed.

Messages are datagrams of a SOCK_SEQPACKET pair: one word, then fields separated by NUL, all text, bounded by
MESSAGE_MAX. The child is our own code up to execve, yet nothing that it says is trusted further than its type.

Read beside runc:libcontainer/sync.go and runc:libcontainer/message_linux.go.
"""

from __future__ import annotations

import posix

from pyruntime import errors, report
from pyruntime.errors import Error, KernelError, ProtocolError
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.call import hint as errno_hint

MAPS, GO, PID, TERMINAL, READY, ERROR, WARNING = "maps", "go", "pid", "terminal", "ready", "error", "warning"
LISTENER, HOOK, DEVICE, NETWORK, SOURCE, DEBUG = "listener", "hook", "device", "network", "source", "debug"

MESSAGE_MAX = 65536
# What the hop adds to an errno that is not execve's; no errno is that large. (LABEL_FAILED: hop/label/x86_64.S.)
FILTER_FAILED, LABEL_FAILED, CLONE_FAILED, TERMINAL_FAILED, WAIT_FAILED = 0x10000, 0x20000, 0x40000, 0x80000, 0x100000
_REPORT = 4  # bytes of a message of the hop: a C int, which is a negative errno or the pid of what it has cloned


class Channel:
    """One end of the pair. `receive` raises what the other side raised; `program` is for its words about execve."""

    __slots__ = ("fd", "program")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.program = ""

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

    def _receive(self) -> tuple[str, list[str]]:
        try:
            data = posix.read(self.fd, MESSAGE_MAX)
        except OSError as error:  # ECONNRESET: it has ended without reading what we sent, see unix(7)
            raise ProtocolError(f"the other side of the start is gone: {error}") from error
        if not data:
            return "", []
        if len(data) == _REPORT and data[-1] in b"\xff\0":  # no word ends so
            if data[-1]:
                raise hop_error(data, self.program)
            return PID, [str(int.from_bytes(data, "little"))]
        word, *fields = data.decode("utf-8", "surrogateescape").split("\0")
        if word == ERROR:
            raise rebuild_error(fields)
        if word not in (MAPS, GO, PID, TERMINAL, READY, WARNING, DEBUG, LISTENER, HOOK, DEVICE, NETWORK, SOURCE):
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


def hop_error(report: bytes, program: str) -> KernelError:
    """The error that the hop reported: execve of the user's program failed, after everything else had worked.

    Or, before that, the profile by which AppArmor shall confine the program could not be asked for, the kernel refused
    the seccomp filter, or it refused `exec` a process or its terminal.
    """
    number = -int.from_bytes(report, "little", signed=True)
    if number >= WAIT_FAILED:
        return KernelError("read(the runtime's word)", number - WAIT_FAILED, hint=_FILTER_HINT)
    if number >= TERMINAL_FAILED:
        return KernelError("ioctl(0, TIOCSCTTY)", number - TERMINAL_FAILED, where="config.json#/process/terminal")
    if number >= CLONE_FAILED:
        number -= CLONE_FAILED
        hint = _FILTER_HINT if errors.errno_name(number) == "EPERM" else errno_hint("clone3", number)
        return KernelError("clone(CLONE_PARENT)", number, hint=hint)
    if number >= LABEL_FAILED:
        number -= LABEL_FAILED
        hint = LABEL_HINTS.get(errors.errno_name(number), "")
        where = "config.json#/process/apparmorProfile"
        return KernelError("write('/proc/self/attr/apparmor/exec')", number, where=where, hint=hint)
    if number >= FILTER_FAILED:
        number -= FILTER_FAILED
        call = "seccomp(SECCOMP_SET_MODE_FILTER)"
        return KernelError(call, number, where="config.json#/linux/seccomp", hint=errno_hint("seccomp", number))
    hint = EXECVE_HINTS.get(errors.errno_name(number), "")
    return KernelError(f"execve({program!r})", number, where="config.json#/process/args/0", hint=hint)


def start_error(answer: bytes, program: str) -> Error:
    """What the container's process has answered to `start`: the hop's report, or the ERROR of a startContainer hook."""
    if len(answer) == _REPORT and answer[-1] == 0xFF:
        return hop_error(answer, program)
    word, *fields = answer.decode("utf-8", "surrogateescape").split("\0")
    return rebuild_error(fields) if word == ERROR else ProtocolError(f"unknown answer {word[:40]!r}")


_FILTER_HINT = (
    "without noNewPrivileges a seccomp profile must allow exec clone, setsid, ioctl, read, write and exit, too"
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
