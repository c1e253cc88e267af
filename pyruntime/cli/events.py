"""`events ID`: what a container uses, and when it lacked memory, a JSON object a line. Read beside runc:events.go."""

from __future__ import annotations

from pyruntime import watching
from pyruntime.cli import emit
from pyruntime.errors import UsageError
from pyruntime.jsontext import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cli.parse import Call

# Go's time.ParseDuration, in seconds.
UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def events(call: Call) -> int:
    """Print an event a line until the container ends; with --stats the statistics as they are now."""
    container_id, root = call.operands[0], call.settings["root"]
    interval = duration(call.options["interval"])
    if call.options["stats"]:
        tell({"type": "stats", "id": container_id, "data": watching.stats(container_id, root=root)})
        return 0
    for event in watching.events(container_id, root=root, interval=interval):
        tell(event)
    return 0


def tell(event: dict[str, Any]) -> None:
    """Print one event."""
    emit(encode(event) + "\n")


def duration(text: str) -> float:
    """The seconds of a time such as 5s, 100ms, 1.5h or 1m30s. Raises UsageError; also for what is not more than 0."""
    seconds = _seconds(text.removeprefix("+"))
    if seconds <= 0:
        hint = "such as 5s, 100ms or 1m30s"
        raise UsageError(f"duration interval must be greater than 0, not {text!r}", where="--interval", hint=hint)
    return seconds


def _seconds(text: str) -> float:
    """The sum of numbers with units; 0 for what is none."""
    seconds = 0.0
    while text:
        number = text[: len(text) - len(text.lstrip("0123456789."))]
        text = text[len(number) :]
        unit = text[: len(text) - len(text.lstrip("".join(UNITS)))]
        text = text[len(unit) :]
        if unit not in UNITS or not number.replace(".", "", 1).isdigit():
            return 0
        seconds += float(number) * UNITS[unit]
    return seconds
