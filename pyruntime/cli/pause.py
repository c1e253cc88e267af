"""`pause ID` and `resume ID`: the cgroup freezer. Read beside runc:pause.go."""

from __future__ import annotations

from pyruntime import container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def pause(call: Call) -> int:
    """Stop the container's processes; prints nothing."""
    container.pause(call.operands[0], root=call.settings["root"])
    return 0


def resume(call: Call) -> int:
    """Let the container's processes go on; prints nothing."""
    container.resume(call.operands[0], root=call.settings["root"])
    return 0
