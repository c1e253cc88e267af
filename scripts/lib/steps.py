"""What the scripts share: saying what they do, calling programs, Debian's packages, and where caches live."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def say(text: str) -> None:
    """Tell the user what happens next."""
    print(f"== {text}", flush=True)


def die(text: str) -> NoReturn:
    """Leave with a message; status 1."""
    sys.exit(f"{Path(sys.argv[0]).name}: {text}")


def need_root(what_for: str) -> None:
    """Leave unless root: these scripts are typed with sudo."""
    if os.geteuid() != 0:
        die(f"must be root to {what_for}: sudo scripts/{Path(sys.argv[0]).name}")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for programs called here: the caller's PYTHON* settings change neither results nor timings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, **(extra or {})}


def call(command: Sequence[str | Path], extra: Mapping[str, str] | None = None, cwd: Path | None = None) -> int:
    """Run a program with our own input and output; its exit status."""
    return subprocess.run(command, env=clean_environment(extra), cwd=cwd, check=False).returncode


def must(command: Sequence[str | Path], extra: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run a program whose failure ends the script."""
    if status := call(command, extra, cwd):
        die(f"failed with status {status}: {' '.join(map(str, command))}")


def cache_path() -> Path:
    """The folder of what is made once: environments for the tests, the VM's disk. scripts/vm-image uses the same."""
    if os.geteuid() == 0:
        return Path("/var/cache/pyruntime")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pyruntime")


def v2_mount() -> str:
    """Where cgroup v2 is mounted (beside v1 on a hybrid host), or "". See cgroups(7)."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, target, fstype, *_rest = line.split()
        if fstype == "cgroup2" and Path(target, "cgroup.controllers").exists():  # else another mount covers it
            return target
    return ""


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """A short checksum over texts and the contents of files: is a thing still what it was made from?"""
    total = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()[:16]


def installed(package: str) -> bool:
    """Whether a Debian package is installed."""
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def need_packages(*packages: str, what_for: str, optional: bool = False) -> bool:
    """Whether some Debian packages are there; as root those that are missing are installed first.

    Leaves with the command to type if they cannot be had, unless they are optional.
    """
    if not shutil.which("apt-get"):
        say(f"not a Debian or Ubuntu: expecting {' '.join(packages)}, or their like, for {what_for}")
        return False
    missing = [package for package in packages if not installed(package)]
    if not missing:
        return True
    if os.geteuid() == 0:
        say(f"installing {' '.join(missing)} with apt ({what_for})")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "--yes", "--quiet", "--quiet", "--no-install-recommends"]
        install += ["-o", "DPkg::Lock::Timeout=300", *missing]
        # A new image has no package list, and an old one names versions that are gone.
        if call(install, quiet) == 0 or call(["apt-get", "update", "-q"], quiet) + call(install, quiet) == 0:
            return True
    told = f"{what_for} needs the packages {' '.join(missing)}: sudo apt-get install {' '.join(missing)}"
    if not optional:
        die(told)
    say(told)
    return False
