"""Why tests of the engines fail with a runtime (docs/engines.md)."""

from __future__ import annotations

_CRUN = "Docker knows by runc's words what was wrong with the program (126, 127); crun's are others, and it says 125."

REASONS: dict[str, str] = {
    "Run: no such program": _CRUN,
    "Run: not executable": _CRUN,
}
