"""Why tests of the engines fail with a runtime (docs/engines.md)."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "Limits: update": "`update` is not served yet.",
}
