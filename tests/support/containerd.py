"""A containerd of the tests' own, driven by `ctr`, with the runtime under test for its runtime."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .leftovers import all_pids, command_of
from .runtime import DEFAULT_TIMEOUT, Result, as_text

IMAGE = "example.test/busybox:latest"

# No CRI and no NRI: `ctr` needs neither, and they would want a network and sockets in /var/run.
CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
[grpc]
address = "{folder}/containerd.sock"
"""


class Containerd:
    """The daemon, its containers in a namespace (containerd's word for a tenant) that is named after the tests."""

    def __init__(self, folder: Path, namespace: str, runtime: str) -> None:
        self.folder = folder
        self.namespace = namespace
        self.runtime = runtime
        self.log = folder / "containerd.log"
        self.state_root = folder / "runtime"
        overlay = "\toverlay\n" in Path("/proc/filesystems").read_text()
        self.snapshotter = "overlayfs" if overlay else "native"  # which copies
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "config.toml").write_text(CONFIG.format(folder=folder))

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with self.log.open("ab") as log:
            command = ["containerd", "--config", str(self.folder / "config.toml")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: self("version").status == 0, f"containerd does not answer: {self.log.read_text()}")

    def stop(self) -> None:
        """End the daemon. Shims, and their containers, go on without it."""
        if self.process:
            self.process.terminate()
            self.process.wait(DEFAULT_TIMEOUT)

    def load(self, archive: Path) -> None:
        """Import an image."""
        result = self("images", "import", str(archive))
        assert result.status == 0, result

    def command(self, *arguments: str) -> list[str]:
        """The command line of `ctr ARGUMENTS...` for this daemon."""
        return ["ctr", "--address", f"{self.folder}/containerd.sock", "--namespace", self.namespace, *arguments]

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = DEFAULT_TIMEOUT) -> Result:
        """Run `ctr ARGUMENTS...` to its end."""
        process = self.spawn(*arguments, stdin=subprocess.PIPE)
        try:
            stdout, stderr = process.communicate(stdin.encode(), timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            told = f"stdout: {stdout!r}\nstderr: {stderr!r}\n{self.log.read_text()[-4000:]}"
            raise AssertionError(f"ctr {' '.join(arguments)} hangs\n{told}") from None
        return Result(process.returncode, as_text(stdout), as_text(stderr))

    def spawn(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start `ctr ARGUMENTS...` and don't wait."""
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        popen.setdefault("env", os.environ | {"CONTAINERD_SNAPSHOTTER": self.snapshotter})
        return subprocess.Popen(self.command(*arguments), **popen)

    def run_arguments(self, *flags: str) -> list[str]:
        """`run` with the runtime under test, and flags; the image, the ID and the command follow."""
        return ["run", "--runc-binary", self.runtime, "--runc-root", str(self.state_root), *flags]

    def statuses(self) -> dict[str, str]:
        """Each task's status, such as "RUNNING", by its ID."""
        rows = [line.split() for line in self("tasks", "list").stdout.splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def pid(self, container_id: str) -> int:
        """The PID of a container's first process."""
        rows = [line.split() for line in self("tasks", "list").stdout.splitlines()[1:]]
        return next(int(row[1]) for row in rows if row[0] == container_id)

    def shims(self) -> list[int]:
        """The PIDs of this daemon's shims."""
        return [pid for pid in all_pids() if "containerd-shim" in (said := command_of(pid)) and self.namespace in said]

    def cgroup(self, container_id: str) -> Path:
        """A container's cgroup, where `ctr` asks for it."""
        return Path("/sys/fs/cgroup", self.namespace, container_id)

    def wait_for(self, container_id: str, status: str) -> None:
        """Wait until a task has this status."""
        until(lambda: self.statuses().get(container_id) == status, f"{container_id} does not get {status}")

    def sweep(self) -> None:
        """Delete every container of the namespace, however it does."""
        for container_id in self("tasks", "list", "--quiet").stdout.split():
            self("tasks", "delete", "--force", container_id)
        for container_id in self("containers", "list", "--quiet").stdout.split():
            self("containers", "delete", container_id)

    def left(self) -> list[str]:
        """What containers that are gone have left; one line each."""
        state = self.state_root / self.namespace
        cgroup = Path("/sys/fs/cgroup", self.namespace)
        left = [f"state {path}" for path in (state.iterdir() if state.exists() else ()) if path.name[0] != "~"]
        left += [f"cgroup {path}" for path in (cgroup.iterdir() if cgroup.exists() else ()) if path.is_dir()]
        return left + [f"shim {pid}" for pid in self.shims()]


def until(condition: Callable[[], object], otherwise: str) -> None:
    """Wait for a condition, with a bound."""
    deadline = time.monotonic() + DEFAULT_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def end(pid: int) -> None:
    """Kill a process that a test has started, if only through an engine."""
    os.kill(pid, signal.SIGKILL)
