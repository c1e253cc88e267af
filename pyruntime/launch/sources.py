"""The source of a bind mount that only the parent may reach, as an engine keeps it in a directory of root's alone.

In a user namespace the child is root over nothing but its own IDs. It asks the parent for what it may not open. A
helper of the parent's enters the child's mount namespace, where the source has to be opened for the child to bind it,
opens it with the rights of the host, and sends the descriptor. What the user namespace has locked stays locked, as it
would not in a copy of the host's own mount.

Imported before the clone, and only for a container with a user namespace and bind mounts.
Read beside runc:libcontainer/process_linux.go:/^func .*goCreateMountSources/.
"""

from __future__ import annotations

import _socket
import _struct
import posix

from pyruntime.errors import KernelError, ProtocolError
from pyruntime.launch.sync import SOURCE
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.clone import clone3
from pyruntime.plan.mounts import BindMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.handle import Child
    from pyruntime.launch.sync import Channel
    from pyruntime.plan.step import Plan

_O_PATH = posix.O_PATH | posix.O_CLOEXEC


def ask(channel: Channel, where: str) -> int:
    """In the child: a descriptor (O_PATH) of the source of the bind mount at this place; the caller's to close.

    Raises ProtocolError if the parent has none: it tells why itself.
    """
    channel.send(SOURCE, where)
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, channel.fd)
    try:
        _data, control, _, _ = socket.recvmsg(64, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise ProtocolError(f"no source came from the parent: {error.strerror}") from None
    finally:
        socket.detach()
    for level, kind, data in control:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int.from_bytes(data[:4], "little")
    raise ProtocolError("no source came from the parent")


def give(child: Child, plan: Plan, where: str) -> None:
    """In the parent: answer `ask`. Raises KernelError if the source cannot be opened from here either."""
    step = next((step for step in plan if isinstance(step, BindMount) and step.where == where), None)
    if step is None:
        raise ProtocolError(f"the child asks for the source of {where[:100]!r}, which is no bind mount")
    pid, _ = clone3(0, pidfd=False)
    if pid == 0:
        posix._exit(_help(child, step))
    _, status = posix.waitpid(pid, 0)
    if status:
        number = posix.waitstatus_to_exitcode(status)
        raise KernelError(f"{step.text()}: open({step.source!r})", max(number, 0), where=where)


def _help(child: Child, step: BindMount) -> int:
    """The errno of what failed, or 0."""
    try:
        syscalls.setns(child.pidfd, c.CLONE_NEWNS)
        source_fd = posix.open(step.source, _O_PATH)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _struct.pack("i", source_fd))]
        socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, child.channel.fd)
        socket.sendmsg([SOURCE.encode()], rights, _socket.MSG_NOSIGNAL)
        socket.detach()
    except OSError as error:  # KernelError is one
        return error.errno or 255
    return 0
