"""`list`: the containers below --root. Read beside runc:list.go."""

from __future__ import annotations

from pyruntime import container
from pyruntime.cli import emit
from pyruntime.cli.state import without_empty_annotations
from pyruntime.jsontext import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cli.parse import Call

COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
MIN_WIDTH = (
    12  # of a cell and PADDING the blanks behind its widest text: as runc's tabwriter.NewWriter(out, 12, 1, 3, ' ', 0)
)
PADDING = 3


def list_containers(call: Call) -> int:
    """Print a table, IDs alone, or JSON in one line (an empty list where runc prints null)."""
    found = container.list_containers(root=call.settings["root"])
    if call.options["quiet"]:
        emit("".join(f"{entry['id']}\n" for entry in found))
    elif call.options["format"] == "json":
        emit(encode([without_empty_annotations(entry) for entry in found]) + "\n")
    else:
        emit(table(found))
    return 0


def table(found: list[dict[str, Any]]) -> str:
    """The containers in columns, laid out to the blank as runc lays them out."""
    return table_of(COLUMNS, [tuple(str(entry[name.lower()]) for name in COLUMNS) for entry in found])


def table_of(columns: tuple[str, ...], found: list[tuple[str, ...]]) -> str:
    """Rows of cells below their headings, laid out as `table`."""
    rows = [columns, *found]
    widths = [max(MIN_WIDTH, PADDING + max(len(cell) for cell in column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0  # tabwriter pads only what a tab ends
    return "".join("".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + "\n" for row in rows)
