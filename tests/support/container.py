"""A bundle with an ID, and the verbs on it: what a black-box test holds in its hand."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import mountinfo
from .bundle import Bundle
from .mountinfo import MountLine
from .runtime import DEFAULT_TIMEOUT, Result, Runtime


class Container(Bundle):
    """A container to be: edit its `config`, then `run` it, or `create` and `start` it.

    Each verb returns the Result of the command and judges nothing; `output` is the short way to say "it ran well, and
    this is what it wrote".
    """

    def __init__(self, path: Path, id: str, runtime: Runtime) -> None:
        super().__init__(path)
        self.id = id
        self.runtime = runtime
        # The marker makes the container's own processes findable from outside (leftovers.py).
        self.process["env"].append(f"PYRUNTIME_TEST_MARKER={runtime.marker}")

    def run(self, *flags: str, **options: Any) -> Result:
        """`run [flags] -b BUNDLE ID`, waited for; the options are those of Runtime's call."""
        self.write()
        return self.runtime("run", *flags, "-b", str(self.path), self.id, **options)

    def run_script(self, text: str, *flags: str, **options: Any) -> Result:
        """`run` with a shell script for the program."""
        self.script(text)
        return self.run(*flags, **options)

    def output(self, text: str, *flags: str, **options: Any) -> str:
        """Standard output of a shell script that must succeed, without its last newline."""
        result = self.run_script(text, *flags, **options)
        assert result.status == 0, result
        return result.stdout.removesuffix("\n")

    def mounts_inside(self) -> list[MountLine]:
        """The mounts that the container's program sees."""
        return mountinfo.parse(self.output("cat /proc/self/mountinfo"))

    def mount_at(self, point: str) -> MountLine:
        """The mount that the container's program sees on top at `point`."""
        return mountinfo.find(self.mounts_inside(), point)

    def status_fields(self) -> dict[str, str]:
        """/proc/self/status of the container's program, by field. See proc_pid_status(5)."""
        lines = self.output("cat /proc/self/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def spawn(self, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        """`run` in the foreground, not waited for."""
        self.write()
        return self.runtime.spawn("run", *flags, "-b", str(self.path), self.id, **options)

    def create(self, *flags: str, **options: Any) -> Result:
        """`create`; by default its standard output and error are /dev/null, since the container holds them open."""
        self.write()
        return quiet(self.runtime, "create", *flags, "-b", str(self.path), self.id, **options)

    def run_detached(self, *flags: str, **options: Any) -> Result:
        """`run -d`; standard output and error as for `create`."""
        self.write()
        return quiet(self.runtime, "run", "-d", *flags, "-b", str(self.path), self.id, **options)

    def exec(self, *words: str, flags: Sequence[str] = (), **options: Any) -> Result:
        """`exec [flags] ID words`, waited for."""
        return self.runtime("exec", *flags, self.id, *words, **options)

    def exec_script(self, text: str, *flags: str, **options: Any) -> Result:
        """`exec` of a shell script."""
        return self.exec("/bin/sh", "-c", text, flags=flags, **options)

    def exec_output(self, text: str, *flags: str, **options: Any) -> str:
        """Standard output of a shell script that must succeed in the running container, without its last newline."""
        result = self.exec_script(text, *flags, **options)
        assert result.status == 0, result
        return result.stdout.removesuffix("\n")

    def exec_detached(self, *words: str, flags: Sequence[str] = (), **options: Any) -> Result:
        """`exec -d`; standard output and error as for `create`."""
        return quiet(self.runtime, "exec", "-d", *flags, self.id, *words, **options)

    def run_sleeping(self, *flags: str) -> None:
        """Have it run and wait, for others to come in."""
        self.process["args"] = ["sleep", "1000"]
        result = self.run_detached(*flags)
        assert result.status == 0, result

    def start(self) -> Result:
        return self.runtime("start", self.id)

    def kill(self, *arguments: str) -> Result:
        return self.runtime("kill", self.id, *arguments)

    def delete(self, *flags: str) -> Result:
        return self.runtime("delete", *flags, self.id)

    def state(self) -> dict[str, Any]:
        """What `state` prints."""
        result = self.runtime("state", self.id)
        assert result.status == 0, result
        state: dict[str, Any] = json.loads(result.stdout)
        return state

    def pid(self) -> int:
        """The host's PID of the container's first process."""
        pid: int = self.state()["pid"]
        return pid

    def wait_for(self, status: str) -> None:
        """Return when `state` says so; a bounded wait, not a measure."""
        wait_until(lambda: self.state()["status"] == status, f"{self.id} to be {status}")

    def read(self, name: str) -> str:
        """A file that the container has written into its root filesystem."""
        return (self.rootfs / name).read_text()


def quiet(runtime: Runtime, *arguments: str, **options: Any) -> Result:
    """Run a verb that leaves a process behind: a pipe for its output would stay open, so errors go through a file."""
    errors = runtime.root.parent / "stderr"
    with open(errors, "wb") as sink:
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", sink)
        result = runtime(*arguments, **options)
    return Result(result.status, result.stdout, errors.read_text())


def wait_until(condition: Any, what: str) -> None:
    """Poll until the condition holds; fails loudly at the bound."""
    deadline = time.monotonic() + DEFAULT_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
