"""What the hop of a user with CAP_DAC_OVERRIDE does first (exeseal.lowering)."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pyruntime.errors import UnsupportedError
from pyruntime.launch import exeseal
from pyruntime.linux import caps, syscalls
from pyruntime.linux import constants as c

SOURCES = Path(exeseal.__file__).parent / "hop/override"
SPARE = caps.mask(["CAP_DAC_OVERRIDE"])
KEPT = caps.mask(["CAP_KILL"])


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param("x86_64", marks=pytest.mark.needs("as-x86_64")),
        pytest.param("aarch64", marks=pytest.mark.needs("as-aarch64")),
    ],
)
def test_the_bytes_are_the_source(machine: str, tmp_path: Path) -> None:
    made, text = tmp_path / "override.o", tmp_path / "override.bin"
    subprocess.run([f"{machine}-linux-gnu-as", "-o", made, SOURCES / f"{machine}.S"], check=True, timeout=60)
    copy = [f"{machine}-linux-gnu-objcopy", "-O", "binary", "--only-section=.text"]
    subprocess.run([*copy, made, text], check=True, timeout=60)
    code, ending = exeseal.OVERRIDE[machine]
    assert text.read_bytes().hex() == (code + bytes(48) + ending).hex()


def test_every_source_is_held_here() -> None:
    assert {path.stem for path in SOURCES.glob("*.S")} == set(exeseal.OVERRIDE) == set(exeseal.CODE)


def test_another_architecture_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="vax"):
        exeseal.lowering(0, 0, 0, machine="vax")


@pytest.mark.needs("root", "busybox")
@pytest.mark.parametrize("emulated", [False, pytest.param(True, marks=pytest.mark.needs("qemu-aarch64"))])
@pytest.mark.parametrize("inheritable", [KEPT, KEPT | SPARE])
def test_it_lowers(tmp_path: Path, inheritable: int, emulated: bool) -> None:
    """As user 7, a program that only CAP_DAC_OVERRIDE lets execute, which does not get it."""
    program = tmp_path / "grep"
    program.write_bytes(Path("/bin/busybox").read_bytes())
    program.chmod(0o700)
    machine = "aarch64" if emulated else os.uname().machine
    prelude = exeseal.lowering(KEPT | SPARE, inheritable, SPARE, machine=machine)
    args = [b"grep", b"Cap", b"/proc/self/status"]
    output, written = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(written, 1)
            os.set_inheritable(written, True)
            hop_fd = exeseal.sealed(-1, written, prelude)
            hop = tmp_path / "hop"
            # The emulator writes the header of capset(2) back, where the kernel only reads it.
            read_only, writable = struct.pack("<II", 1, 5), struct.pack("<II", 1, 7)
            hop.write_bytes(exeseal.image(-1, written, machine, prelude).replace(read_only, writable, 1))
            hop.chmod(0o755)
            syscalls.prctl(c.PR_SET_KEEPCAPS, 1)
            syscalls.setresuid(7, 7, 7)
            syscalls.capset(KEPT | SPARE, KEPT | SPARE, KEPT | SPARE)
            for number in range(64):
                if (KEPT | SPARE) >> number & 1:
                    syscalls.prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_RAISE, number)
            if emulated:
                qemu = shutil.which("qemu-aarch64-static") or ""
                os.execve(qemu, [b"qemu", b"-0", bytes(program), bytes(hop), *args], {})
            exeseal.execute(hop_fd, str(program), args, [])
        finally:
            os._exit(99)
    os.close(written)
    with os.fdopen(output) as pipe:
        lines = pipe.read().split("\n")
    assert os.waitpid(pid, 0)[1] == 0
    sets = {line.split()[0]: int(line.split()[1], 16) for line in lines if line}
    assert [sets[f"Cap{name}:"] for name in ("Inh", "Prm", "Eff", "Amb")] == [inheritable, KEPT, KEPT, KEPT]
