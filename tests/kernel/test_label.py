"""What a labelled hop does first (launch/labels.py): its bytes are its source, and it writes where it is told.

A directory with a file `exec` stands in for /proc/self/attr, so that no security module is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyruntime.errors import UnsupportedError
from pyruntime.launch import exeseal, labels
from pyruntime.launch.labels import Label
from pyruntime.launch.sync import hop_error
from tests.support.assembly import assembled, every_machine

SOURCES = Path(labels.__file__).parent / "hop/label"
DATA = b"\xff" * 12 + bytes(4) + b"exec\0"
TEXT = b"exec a profile/with blanks"


@every_machine
def test_the_bytes_are_the_source(machine: str, tmp_path: Path) -> None:
    made = assembled(machine, SOURCES / f"{machine}.S", tmp_path)
    assert made.hex() == (labels.CODE[machine] + DATA).hex()


def test_every_source_is_held_here() -> None:
    assert {path.stem for path in SOURCES.glob("*.S")} == set(labels.CODE) == set(exeseal.CODE)


def test_another_architecture_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="vax"):
        Label(3, b"").prelude(4, waits=False, machine="vax")


Run = Callable[..., tuple[str, bytes]]


@pytest.fixture(params=["native", pytest.param("qemu", marks=pytest.mark.needs("qemu-aarch64"))])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Become a labelled hop, with attr/ as the directory, which lists its descriptors: (output, report)."""
    machine = os.uname().machine if request.param == "native" else "aarch64"
    attr = tmp_path / "attr"
    attr.mkdir()

    def run_hop() -> tuple[str, bytes]:
        directory_fd = os.open(attr, os.O_PATH | os.O_DIRECTORY)
        reader, channel_fd = os.pipe()
        prelude = Label(directory_fd, TEXT).prelude(channel_fd, waits=False, machine=machine)
        hop = tmp_path / "hop"
        hop.write_bytes(exeseal.image(-1, channel_fd, machine, prelude=prelude))
        hop.chmod(0o755)
        command = ["/bin/sh", "-c", f"test -e /proc/self/fd/{directory_fd} || echo gone"]
        emulator = shutil.which("qemu-aarch64-static") if request.param == "qemu" else None
        done = subprocess.run(
            [emulator, "-0", "/bin/sh", str(hop), *command] if emulator else ["/bin/sh", *command],
            executable=emulator or str(hop),
            pass_fds=[directory_fd, channel_fd],
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(directory_fd)
        os.close(channel_fd)
        with open(reader, "rb") as pipe:
            return done.stdout, pipe.read()

    return run_hop


def test_the_label_is_asked_for_before_the_program_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "attr/exec").touch()
    assert run() == ("gone\n", b"")
    assert (tmp_path / "attr/exec").read_bytes() == TEXT


def test_a_refusal_is_reported_and_the_program_does_not_run(run: Run) -> None:
    output, report = run()
    assert output == ""
    error = hop_error(report, "/bin/sh")
    assert error.where == "config.json#/process/apparmorProfile"
    assert "attr/apparmor/exec'): ENOENT" in str(error)
