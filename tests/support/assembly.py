"""Assembling the sources of the hop (launch/hop), to compare them with the bytes that the package holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

every_machine = pytest.mark.parametrize(
    "machine",
    [
        pytest.param("x86_64", marks=pytest.mark.needs("as-x86_64")),
        pytest.param("aarch64", marks=pytest.mark.needs("as-aarch64")),
    ],
)


def assembled(machine: str, source: Path, folder: Path) -> bytes:
    """The code and data of `source`, made in `folder` by the binutils for `machine`."""
    made, text = folder / "made.o", folder / "made.bin"
    subprocess.run([f"{machine}-linux-gnu-as", "-o", str(made), str(source)], check=True, timeout=60)
    copy = [f"{machine}-linux-gnu-objcopy", "-O", "binary", "--only-section=.text"]
    subprocess.run([*copy, str(made), str(text)], check=True, timeout=60)
    return text.read_bytes()
