"""What Podman and Docker have in common; test_podman.py and test_docker.py run it with each."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.containerd import IMAGE, until
from tests.support.engine import Engine
from tests.support.runtime import Result


class Driven:
    """One test's view of the engine."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name

    def run(self, *command: str, flags: tuple[str, ...] = (), stdin: str = "") -> Result:
        """`run --rm` in the foreground."""
        return self.engine("run", "--rm", *self.engine.run_flags(), *flags, IMAGE, *command, stdin=stdin)

    def start(self, *command: str, flags: tuple[str, ...] = (), name: str = "") -> str:
        """`run --detach`; the container's name."""
        name = name or self.name
        arguments = ["run", "--detach", "--name", name, *self.engine.run_flags(), *flags, IMAGE]
        result = self.engine(*arguments, *(command or ("sleep", "1000")))
        assert result.status == 0, result
        return name

    def execute(self, one: str, *command: str, flags: tuple[str, ...] = (), stdin: str = "") -> Result:
        """`exec` in the foreground."""
        return self.engine("exec", *flags, one, *command, stdin=stdin)


class TestRun:
    def test_output_and_status(self, driven: Driven) -> None:
        result = driven.run("sh", "-c", "echo out; echo err >&2; exit 7")
        assert (result.status, result.stdout, result.stderr) == (7, "out\n", "err\n")

    def test_standard_input(self, driven: Driven) -> None:
        assert driven.run("cat", flags=("--interactive",), stdin="words").stdout == "words"

    def test_terminal(self, driven: Driven) -> None:
        assert driven.run("tty", flags=("--tty",)).stdout == "/dev/pts/0\r\n"

    def test_no_such_program(self, driven: Driven) -> None:
        result = driven.run("/no/such")
        assert result.status == 127
        assert "no such file or directory" in result.stderr

    def test_not_executable(self, driven: Driven) -> None:
        result = driven.run("/etc/passwd")
        assert result.status == 126
        assert "permission denied" in result.stderr

    def test_user_root_capabilities_limits_and_name(self, driven: Driven) -> None:
        flags = "--user guest --read-only --cap-drop all --hostname box --ulimit nofile=100:100 --workdir /tmp".split()
        script = "id -u; id -g; hostname; ulimit -n; pwd; grep CapBnd /proc/self/status; touch /x"
        result = driven.run("sh", "-c", script, flags=tuple(flags))
        assert result.stdout.split() == ["1000", "1001", "box", "100", "/tmp", "CapBnd:", "0000000000000000"], result
        assert "Read-only file system" in result.stderr

    def test_mounts_and_devices(self, driven: Driven, scratch: Path) -> None:
        (scratch / "file").write_text("shared\n")
        flags = ("--volume", f"{scratch}:/data:ro", "--tmpfs", "/t:size=1m,mode=1770", "--device", "/dev/kmsg")
        script = "cat /data/file; stat -c %a /t; test -c /dev/kmsg; echo $?; touch /data/x 2>/dev/null || echo closed"
        result = driven.run("sh", "-c", script, flags=flags)
        assert result.stdout == "shared\n1770\n0\nclosed\n", result

    def test_privileged(self, driven: Driven) -> None:
        result = driven.run("sh", "-c", "mount -t tmpfs none /mnt && echo mounted", flags=("--privileged",))
        assert result.stdout == "mounted\n", result

    def test_the_hosts_namespaces(self, driven: Driven) -> None:
        flags = ("--pid", "host", "--ipc", "host", "--uts", "host")
        script = "for kind in pid ipc uts; do readlink /proc/self/ns/$kind; done"
        wanted = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "uts")]
        assert driven.run("sh", "-c", script, flags=flags).stdout.split() == wanted

    @pytest.mark.needs("libseccomp")
    def test_the_default_seccomp_profile(self, driven: Driven) -> None:
        assert driven.run("grep", "Seccomp:", "/proc/self/status").stdout == "Seccomp:\t2\n"

    def test_a_sysctl(self, driven: Driven) -> None:
        flags = ("--sysctl", "kernel.shm_rmid_forced=1")
        assert driven.run("cat", "/proc/sys/kernel/shm_rmid_forced", flags=flags).stdout == "1\n"


class TestDetached:
    def test_stop(self, driven: Driven) -> None:
        one = driven.start("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do usleep 10000; done")
        until(lambda: driven.engine("logs", one).stdout == "ready\n", "it is not ready")
        assert driven.engine("stop", one).status == 0
        assert driven.engine.inspect(one, ".State.ExitCode") == "3"

    def test_kill_and_start_again(self, driven: Driven) -> None:
        one = driven.start()
        assert driven.engine("kill", one).status == 0
        assert driven.engine("wait", one).stdout == "137\n"
        assert driven.engine("start", one).status == 0
        assert driven.engine.inspect(one, ".State.Status") == "running"
        assert driven.engine("restart", "--time", "0", one).status == 0
        assert driven.engine.inspect(one, ".State.Status") == "running"

    def test_an_end_behind_the_engines_back(self, driven: Driven) -> None:
        one = driven.start()
        os.kill(int(driven.engine.inspect(one, ".State.Pid")), signal.SIGKILL)
        assert driven.engine("wait", one).stdout == "137\n"

    def test_pause(self, driven: Driven) -> None:
        one = driven.start()
        assert driven.engine("pause", one).status == 0
        assert driven.engine.inspect(one, ".State.Status") == "paused"
        assert driven.engine("unpause", one).status == 0
        assert driven.engine.inspect(one, ".State.Status") == "running"

    def test_processes(self, driven: Driven) -> None:
        shown = driven.engine("top", driven.start())
        assert "sleep 1000" in shown.stdout, shown

    def test_another_containers_network(self, driven: Driven) -> None:
        one = driven.start(name=f"{driven.name}-first")
        pid = driven.engine.inspect(one, ".State.Pid")
        flags = [flag for flag in driven.engine.run_flags() if flag not in ("--network", "none")]
        arguments = ["run", "--rm", *flags, "--network", f"container:{one}", IMAGE]
        result = driven.engine(*arguments, "readlink", "/proc/self/ns/net")
        assert result.stdout.strip() == os.readlink(f"/proc/{pid}/ns/net"), result


class TestExec:
    def test_output_and_status(self, driven: Driven) -> None:
        result = driven.execute(driven.start(), "sh", "-c", "echo out; echo err >&2; exit 3")
        assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")

    def test_standard_input(self, driven: Driven) -> None:
        assert driven.execute(driven.start(), "cat", flags=("--interactive",), stdin="words").stdout == "words"

    def test_where(self, driven: Driven) -> None:
        flags = ("--user", "guest", "--workdir", "/tmp", "--env", "A=b")
        result = driven.execute(driven.start(), "sh", "-c", "id -u; pwd; echo $A", flags=flags)
        assert result.stdout == "1000\n/tmp\nb\n", result

    def test_no_such_program(self, driven: Driven) -> None:
        result = driven.execute(driven.start(), "/no/such")
        assert result.status in (126, 127)
        assert "no such file or directory" in (result.stdout + result.stderr).lower()


class TestLimits:
    @pytest.mark.needs("memory", "cpu", "pids")
    def test_files(self, driven: Driven) -> None:
        cgroup = driven.engine.cgroup(driven.start(flags=("--memory", "64m", "--cpus", "0.5", "--pids-limit", "50")))
        read = [(cgroup / name).read_text() for name in ("memory.max", "cpu.max", "pids.max")]
        assert read == ["67108864\n", "50000 100000\n", "50\n"]

    @pytest.mark.needs("memory")
    def test_out_of_memory(self, driven: Driven) -> None:
        one = driven.start(
            "sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?", flags=("--memory", "32m")
        )
        assert driven.engine("wait", one).stdout == "137\n"
        assert driven.engine.inspect(one, ".State.OOMKilled") == "true"

    @pytest.mark.needs("memory")
    def test_update(self, driven: Driven) -> None:
        one = driven.start(flags=("--memory", "64m"))
        result = driven.engine("update", "--memory", "128m", "--memory-swap", "256m", one)
        assert result.status == 0, result
        assert (driven.engine.cgroup(one) / "memory.max").read_text() == "134217728\n"
