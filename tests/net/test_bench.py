"""`scripts/bench net` measures what it says it does; nobody would notice otherwise before the next release."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "scripts/bench"


@pytest.mark.needs("nft", "cni", "runc")
def test_a_round_of_it() -> None:
    links = os.listdir("/sys/class/net")
    command = [str(BENCH), "net", "--rounds", "1", "--regime", "busy", "--publish"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = [line.strip().partition("  ")[0] for line in done.stdout.splitlines()]
    names = ("pyruntime, ms", "pyruntime, bridge, port, ms", "runc, ms", "runc, CNI bridge, port, ms")
    assert [row for row in rows if row in names] == list(names)
    assert rows[-3:] == ["pyruntime adds, ms", "CNI adds, ms", "pyruntime / CNI"]
    assert os.listdir("/sys/class/net") == links
