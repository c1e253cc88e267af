"""`start ID`: let a created container run its program. Read beside runc:start.go and runtime.md#start."""

from __future__ import annotations

import posix

from pyruntime import container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def start(call: Call) -> int:
    """Start the container; prints nothing. With $NOTIFY_SOCKET, return when it is ready: sd_notify(3)."""
    notify_socket = posix.environ.get(b"NOTIFY_SOCKET", b"").decode("utf-8", "surrogateescape")
    container.start(call.operands[0], root=call.settings["root"], notify_socket=notify_socket)
    return 0
