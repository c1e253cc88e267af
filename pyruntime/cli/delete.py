"""`delete ID`: remove all that is left of a container. Read beside runc:delete.go and runtime.md#delete."""

from __future__ import annotations

from pyruntime import container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def delete(call: Call) -> int:
    """Delete the container; prints nothing."""
    container.delete(call.operands[0], root=call.settings["root"], force=call.options["force"])
    return 0
