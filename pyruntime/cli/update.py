"""`update ID`: change limits of a container. Read beside runc:update.go."""

from __future__ import annotations

from pyruntime import report, updating
from pyruntime.spec.change import OPTIONS, from_file, from_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def update(call: Call) -> int:
    """Change what the options name, or a file of --resources. Prints nothing."""
    options = call.options
    named = {name: options[name] for name in OPTIONS if options[name]}
    if options["resources"] and named:
        ignored = ", ".join("--" + name.replace("_", "-") for name in named)
        report.warn(f"ignored, for --resources says what to change: {ignored}")
    change = from_file(options["resources"]) if options["resources"] else from_options(named)
    shares = {name: options[name] for name in ("l3_cache_schema", "mem_bw_schema")}
    updating.update(call.operands[0], change, root=call.settings["root"], **shares)
    return 0
