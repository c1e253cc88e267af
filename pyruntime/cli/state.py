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
    emit(indented(container.state(call.operands[0], root=call.settings["root"])) + "\n")
    return 0


def indented(found: dict[str, Any]) -> str:
    """The state as Go's json.MarshalIndent prints it; empty annotations are left out, as runc leaves them out."""
    lines = []
    for key, value in found.items():
        if key == "annotations":
            if not value:
                continue
            inside = ",\n".join(f"    {encode(name)}: {encode(text)}" for name, text in value.items())
            lines.append(f'  "annotations": {{\n{inside}\n  }}')
        else:
            lines.append(f"  {encode(key)}: {encode(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"
