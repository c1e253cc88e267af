"""Where scripts/run puts things, and scripts/uninstall finds them."""

from __future__ import annotations

from pathlib import Path

from scripts.lib.steps import die

LIBRARY = Path("/usr/local/lib/pyruntime")
COMMAND = Path("/usr/local/bin/pyruntime")
STATE = Path("/run/pyruntime")


def is_ours(command: Path = COMMAND) -> bool:
    """Whether the command is a launcher that scripts/run wrote; another program of that name is not touched."""
    return command.is_file() and str(LIBRARY).encode() in command.read_bytes()[:4096]


def refuse_foreign_command() -> None:
    """Leave if something else is installed under the command's name."""
    if COMMAND.exists() and not is_ours():
        die(f"{COMMAND} was not installed by scripts/run; remove it first")


def containers() -> list[str]:
    """The IDs of the containers that exist under the default --root."""
    return sorted(path.name for path in STATE.iterdir() if path.is_dir()) if STATE.is_dir() else []
