"""What a container may not leave behind, and how to see it: compare the host before and after.

A runtime that fails half-way is judged by this as much as by its message: crun, for one, often leaves its cgroup.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from . import mountinfo

CGROUP_ROOT = "/sys/fs/cgroup"
# Below --root, what outlives the containers: compiled filters (launch/seccomp.py), networks (net/networks.py).
LASTING = {"~seccomp", "~networks"}
PATIENCE = 5.0  # seconds for killed processes to be gone: a bound, not a measure


class Leftovers:
    """Watches one test: its cgroups, mounts, state directories, marked processes, and the network interfaces.

    Made before the test's first container; `found` may be asked at any time after.
    """

    def __init__(self, directory: Path, state_root: Path, marker: str) -> None:
        self.directory = directory
        self.state_root = state_root
        self.marker = marker
        self.interfaces = set(os.listdir("/sys/class/net"))

    def found(self) -> list[str]:
        """One line for each thing left, after a patient wait for it to go by itself; empty when all is clean."""
        deadline = time.monotonic() + PATIENCE
        while (left := self._look()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def processes(self) -> list[int]:
        """The PIDs with the test's marker in their environment: the runtime's own and the containers'."""
        needle = self.marker.encode()
        return [pid for pid in all_pids() if needle in read_environment(pid)]

    def _look(self) -> list[str]:
        here = str(self.directory)
        left = [f"process {pid}: {command_of(pid)}" for pid in self.processes()]
        left += [f"cgroup {path}" for path in cgroups_named(self.marker)]
        # By point or by root: a bind mount of something in the test's directory may have been left anywhere.
        left += [f"mount {mount.point}" for mount in host_mounts() if here in mount.point or self.marker in mount.root]
        left += [f"interface {name}" for name in sorted(set(os.listdir("/sys/class/net")) - self.interfaces)]
        if self.state_root.exists():
            left += [f"state {path}" for path in self.state_root.iterdir() if path.name not in LASTING]
        return left


def host_mounts() -> list[mountinfo.MountLine]:
    """The mounts of the test's own mount namespace."""
    return mountinfo.parse(Path("/proc/self/mountinfo").read_text())


def cgroups_named(part: str) -> list[str]:
    """Every cgroup directory, in all hierarchies, whose name contains `part`."""
    return [os.path.join(parent, name) for parent, names, _ in os.walk(CGROUP_ROOT) for name in names if part in name]


def all_pids() -> list[int]:
    """Every PID of the test's PID namespace, but for the test itself."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def read_environment(pid: int) -> bytes:
    """The environment that a process started with; empty for a zombie, or for one that is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def command_of(pid: int) -> str:
    """A process's command line for a person."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "(gone)"
