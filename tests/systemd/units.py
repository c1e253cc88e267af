"""Units as systemctl shows them."""

from __future__ import annotations

import subprocess


def units_named(part: str) -> list[str]:
    """The units that systemd knows whose name contains `part`, active, failed or whatever."""
    listed = systemctl("list-units", "--all", "--plain", "--no-legend", "--full", f"*{part}*")
    return [line.split()[0] for line in listed.splitlines()]


def properties(unit: str) -> dict[str, str]:
    """What `systemctl show` says of a unit."""
    lines = systemctl("show", unit).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def systemctl(*arguments: str) -> str:
    """Standard output of a call that must succeed."""
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=60, check=True).stdout
