"""`lint BUNDLE`: tell every problem of a bundle's config.json, each with its line and column. runc has no counterpart.

A line for a person is what compilers print, FILE:LINE:COLUMN: SEVERITY: ..., so that editors jump to it.
"""

from __future__ import annotations

from pyruntime.cli import emit
from pyruntime.cli.log import one_line
from pyruntime.errors import UsageError
from pyruntime.jsontext import encode
from pyruntime.lint import ERROR, lint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call
    from pyruntime.lint import Remark


def lint_bundle(call: Call) -> int:
    """Print the remarks as text or JSON; return 1 if one of them is an error."""
    bundle_path = call.options["bundle"]
    if call.operands:
        if bundle_path:
            raise UsageError(f"--bundle names a bundle already: {call.operands[0]!r} is one too many")
        bundle_path = call.operands[0]
    file_path = f"{(bundle_path or '.').rstrip('/')}/config.json"
    call.subject = bundle_path or "."
    found = lint(bundle_path)
    errors = sum(remark.severity == ERROR for remark in found)
    if call.options["format"] == "json":
        problems = [remark.as_dict() for remark in found]
        counts = {"errors": errors, "warnings": len(found) - errors}
        emit(encode({"file": file_path, **counts, "problems": problems}, indent="  ") + "\n")
    else:
        emit(as_text(found, file_path, errors))
    return 1 if errors else 0


def as_text(found: list[Remark], file_path: str, errors: int) -> str:
    """A line a remark, and the sum."""
    lines = []
    for one in found:
        place = f"{one_line(one.pointer)}: " if one.pointer else ""
        hint = f" ({one_line(one.hint)})" if one.hint else ""
        lines.append(f"{file_path}:{one.line}:{one.column}: {one.severity}: {place}{one_line(one.message)}{hint}")
    lines.append(f"{file_path}: {_count(errors, 'error')}, {_count(len(found) - errors, 'warning')}")
    return "".join(f"{line}\n" for line in lines)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
