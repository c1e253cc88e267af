"""`kill ID [SIGNAL]`: send a signal. Read beside runc:kill.go:/^func parseSignal/ and runtime.md#kill."""

from __future__ import annotations

import _signal

from pyruntime import container
from pyruntime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def kill(call: Call) -> int:
    """Send the signal to the container's first process, or to all of them with --all; prints nothing."""
    name = call.operands[1] if len(call.operands) > 1 else "SIGTERM"
    container.kill(call.operands[0], signal_number(name), root=call.settings["root"], all=call.options["all"])
    return 0


def signal_number(text: str) -> int:
    """The number of a signal given as 15, TERM, SIGTERM, sigterm, RTMIN+1 or RTMAX-1. See signal(7).

    0 asks whether the process is there, as in kill(2). Raises UsageError.
    """
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) < 4 else -1
        if not 0 <= number <= _signal.SIGRTMAX:
            raise UsageError(f"no such signal: {text!r} (numbers go from 0 to {_signal.SIGRTMAX:d})")
        return number
    name = text.upper().removeprefix("SIG")
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    known = getattr(_signal, "SIG" + base, None) if base.isascii() and base.isalnum() else None
    if isinstance(known, int) and not sign:
        return known
    # Only the real-time signals are counted from: glibc keeps the first two for itself, so SIGRTMIN is 34.
    if offset.isascii() and offset.isdigit() and len(offset) < 4 and base + sign in ("RTMIN+", "RTMAX-"):
        number = _signal.SIGRTMIN + int(offset) if sign == "+" else _signal.SIGRTMAX - int(offset)
        if _signal.SIGRTMIN <= number <= _signal.SIGRTMAX:
            return number
    raise UsageError(f"no such signal: {text!r} (such as TERM, SIGTERM, 15 or RTMIN+1)")
