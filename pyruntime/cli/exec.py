"""`exec ID CMD ARGS...`: run another program in a container. Read beside runc:exec.go."""

from __future__ import annotations

from pyruntime import execution, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call

FAILURE = 255  # runc's: what the program itself returns is told apart from that there was none


def execute(call: Call) -> int:
    """Execute the program; return its exit status, or 0 at once with --detach. 255 if there is none to wait for."""
    call.failure = FAILURE
    options = {name: value for name, value in call.options.items() if name != "help"}
    if options["process"] and call.args:
        report.warn(f"ignored, for --process says what to execute: {' '.join(call.args)}")
    return execution.execute(call.operands[0], call.args or (), root=call.settings["root"], **options)
