"""Podman and Docker, by their common command line, with the runtime under test for their runtime.

Neither gets a network (`--network none`) or a registry; what they keep is below a folder of the test's own. Where
systemd manages the machine, Podman has it make the cgroups, as it does by itself.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .containerd import until
from .runtime import DEFAULT_TIMEOUT, Result, as_text


class Engine:
    """An engine's command. The first container words come from a subclass; `name` is what the engine calls itself."""

    name = ""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.folder = folder
        self.runtime = runtime

    def command(self) -> list[str]:
        """The command line up to the verb."""
        raise NotImplementedError

    def run_flags(self) -> list[str]:
        """What `run` needs besides."""
        return ["--network", "none"]

    def start(self, archive: Path) -> None:
        """Have the engine ready, with the image."""
        result = self("load", "--input", str(archive))
        assert result.status == 0, result

    def stop(self) -> None:
        """End what `start` has started."""

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = 2 * DEFAULT_TIMEOUT) -> Result:
        """Run the engine's command to its end."""
        command = [*self.command(), *arguments]
        done = subprocess.run(command, input=stdin.encode(), capture_output=True, timeout=timeout, check=False)
        return Result(done.returncode, as_text(done.stdout), as_text(done.stderr))

    def inspect(self, container: str, field: str) -> str:
        """One field of `inspect`, such as ".State.Status"."""
        return self("inspect", "--format", f"{{{{{field}}}}}", container).stdout.strip()

    def cgroup(self, container: str) -> Path:
        """The cgroup of a running container."""
        pid = self.inspect(container, ".State.Pid")
        return Path("/sys/fs/cgroup", Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/"))


class Podman(Engine):
    """No daemon: conmon calls the runtime."""

    name = "podman"

    def command(self) -> list[str]:
        kept = ["--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run", "--storage-driver", "vfs"]
        cgroups = "systemd" if os.path.isdir("/run/systemd/system") else "cgroupfs"
        return [self.name, *kept, "--cgroup-manager", cgroups, "--events-backend", "none", "--runtime", self.runtime]


class Docker(Engine):
    """dockerd, with a containerd of its own that calls the runtime."""

    name = "docker"
    daemon: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [self.name, "--host", f"unix://{self.folder}/docker.sock"]

    def run_flags(self) -> list[str]:
        return [*super().run_flags(), "--runtime", "tested"]

    def start(self, archive: Path) -> None:
        options = {
            "host": f"unix://{self.folder}/docker.sock",
            "data-root": f"{self.folder}/data",
            "exec-root": f"{self.folder}/exec",
            "pidfile": f"{self.folder}/pid",
            "iptables": "false",
            "ip6tables": "false",
            "bridge": "none",
            "storage-driver": "vfs",
            "exec-opt": "native.cgroupdriver=cgroupfs",
            "add-runtime": f"tested={self.runtime}",
        }
        command = ["dockerd", *(f"--{name}={value}" for name, value in options.items())]
        log = os.open(f"{self.folder}/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.close(log)
        until(lambda: self("version").status == 0, f"dockerd does not answer: see {self.folder}/log")
        super().start(archive)

    def stop(self) -> None:
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(DEFAULT_TIMEOUT)
