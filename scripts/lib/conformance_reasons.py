"""Why tests of runtime-tools fail with pyruntime (docs/conformance.md)."""

from __future__ import annotations

REASONS: dict[str, str] = {}
