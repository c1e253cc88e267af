"""`start ID`: let a created container run its program. Read beside runc:start.go and runtime.md#start."""

from __future__ import annotations

from pyruntime import container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def start(call: Call) -> int:
    """Start the container; prints nothing."""
    container.start(call.operands[0], root=call.settings["root"])
    return 0
