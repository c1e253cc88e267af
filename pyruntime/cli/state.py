"""`state ID`: a container's state as JSON. Read beside runc:state.go and runtime.md#query-state."""

from __future__ import annotations

from pyruntime import container
from pyruntime.cli import emit
from pyruntime.jsontext import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cli.parse import Call


def state(call: Call) -> int:
    """Print the state with runc's keys, order and indentation."""
    found = container.state(call.operands[0], root=call.settings["root"])
    emit(encode(without_empty_annotations(found), indent="  ") + "\n")
    return 0


def without_empty_annotations(found: dict[str, Any]) -> dict[str, Any]:
    """The state as runc prints it: no `annotations` where there are none."""
    return {key: value for key, value in found.items() if value or key != "annotations"}
