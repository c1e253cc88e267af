"""The C programs that see what a shell can't. Static and without a C library, so that they run in an empty image."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "programs"
# -static-pie: a program that can stand in for the dynamic loader, too, at whatever address the kernel picks.
FLAGS = (
    "-Os",
    "-Wall",
    "-Werror",
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-static-pie",
    "-fPIE",
)


def compiled(name: str, folder: Path) -> Path:
    """The executable of programs/NAME.c, compiled into `folder` once."""
    target = folder / name
    if not target.exists():
        source = SOURCES / f"{name}.c"
        subprocess.run(["gcc", *FLAGS, "-o", str(target), str(source)], check=True, capture_output=True, text=True)
    return target


def compiled_library(name: str, folder: Path) -> Path:
    """The shared object of programs/NAME.c, for LD_PRELOAD on the host."""
    target = folder / f"{name}.so"
    source = SOURCES / f"{name}.c"
    subprocess.run(
        ["gcc", "-Os", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(target), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    return target
