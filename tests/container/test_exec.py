"""`exec`: another program in a container that is there (runc:exec.go), seen from inside and from the host."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container, wait_until
from tests.support.leftovers import read_environment
from tests.support.runtime import identify

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


@pytest.fixture
def running(container: Container) -> Container:
    """A container that waits."""
    container.run_sleeping()
    return container


def assert_refused(container: Container, *words: str, flags: tuple[str, ...] = (), saying: str = "") -> str:
    """`exec` fails by itself: 255, one line (of pyruntime), and no process is left. Returns what it said."""
    result = container.exec(*words, flags=flags)
    assert result.status == 255, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if identify().name == "pyruntime":
        assert len(result.lines()) == 1, result.stderr
        assert container.id in result.stderr
        assert saying in result.stderr, result.stderr
    return result.stderr


class TestForeground:
    """Without --detach."""

    def test_what_it_writes_and_reads(self, running: Container) -> None:
        result = running.exec_script("read line; echo out $line; echo err >&2", stdin="typed\n")
        assert (result.status, result.stdout, result.stderr) == (0, "out typed\n", "err\n")

    def test_its_exit_status(self, running: Container) -> None:
        assert [running.exec_script(f"exit {code}").status for code in (0, 1, 42, 255)] == [0, 1, 42, 255]

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
    def test_a_signal_ends_it(self, running: Container, number: int) -> None:
        assert running.exec_script(f"kill -{number:d} $$").status == 128 + number

    def test_words_that_look_like_options_are_the_commands(self, running: Container) -> None:
        assert running.exec("echo", "-d", "--help", "--", "-x").stdout == "-d --help -- -x\n"

    def test_signals_are_passed_on(self, running: Container) -> None:
        script = "trap 'echo usr1; exit 3' USR1; echo ready; while :; do sleep 0.01; done"
        process = running.runtime.spawn("exec", running.id, "sh", "-c", script)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        stdout, _ = process.communicate(timeout=30)
        assert (stdout, process.returncode) == (b"usr1\n", 3)

    def test_the_container_goes_on(self, running: Container) -> None:
        running.exec("true")
        assert running.state()["status"] == "running"


class TestDetached:
    """With --detach."""

    def test_it_goes_on_alone(self, running: Container, scratch: Path) -> None:
        pid_file = scratch / "pid"
        assert running.exec_detached("sleep", "1001", flags=["--pid-file", str(pid_file)]).status == 0
        text = pid_file.read_text()
        assert text.isascii() and text.isdigit()
        assert Path(f"/proc/{text}/cmdline").read_bytes() == b"sleep\x001001\0"
        assert Path(f"/proc/{text}/ns/pid").readlink() == Path(f"/proc/{running.pid()}/ns/pid").readlink()

    def test_it_ends_with_the_container(self, running: Container, scratch: Path) -> None:
        assert running.exec_detached("sleep", "1001", flags=["--pid-file", str(scratch / "pid")]).status == 0
        pid = (scratch / "pid").read_text()
        running.kill("KILL")
        wait_until(lambda: not read_environment(int(pid)), "the program to end with its container")

    def test_what_fails_before_is_told(self, running: Container) -> None:
        result = running.exec_detached("nonsense")
        assert result.status == 255
        assert "nonsense" in result.stderr


class TestRefusals:
    """255, and nothing was executed."""

    def test_no_such_container(self, container: Container) -> None:
        container.write()
        assert "does not exist" in assert_refused(container, "true")

    def test_a_stopped_container(self, container: Container) -> None:
        container.process["args"] = ["true"]
        assert container.run_detached().status == 0
        container.wait_for("stopped")
        assert "cannot exec in a stopped container" in assert_refused(container, "true")

    def test_no_such_program(self, running: Container) -> None:
        told = assert_refused(running, "nonsense")
        assert "nonsense" in told and "executable file not found in $PATH" in told

    @pytest.mark.runc_since("1.2", "before it returns 1")
    def test_a_program_that_cannot_be_executed(self, running: Container) -> None:
        running.add_file("bin/broken", "#!/nowhere\n", 0o755)
        assert_refused(running, "/bin/broken", saying="execve('/bin/broken'): ENOENT")
        assert_refused(running, "/etc", saying="is a directory")

    @pytest.mark.only_pyruntime("runc executes it, and fails then")
    def test_a_pid_file_that_cannot_be_written(self, running: Container) -> None:
        assert_refused(running, "touch", "/dev/executed", flags=("--pid-file", "/no/such"), saying="--pid-file: ")
        assert running.exec("ls", "/dev/executed").status == 1

    def test_no_command(self, running: Container) -> None:
        assert_refused(running, saying="exec args cannot be empty")


def namespaces_of(pid: int) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in NAMESPACES}


def have_clocks(container: Container) -> None:
    container.set_namespace("time")
    container.linux["timeOffsets"] = {"boottime": {"secs": 1000}}


def share_most(container: Container) -> None:
    del container.config["hostname"]
    for kind in ("ipc", "uts", "cgroup", "network"):
        container.drop_namespace(kind)


since_1_2 = pytest.mark.runc_since("1.2", "it has no time namespaces before")
SHAPES: list[Any] = [
    pytest.param(lambda container: None, id="private"),
    pytest.param(lambda container: container.map_root_to(100000), id="mapped"),
    pytest.param(lambda container: container.drop_namespace("pid"), id="host pids"),
    pytest.param(have_clocks, id="clocks", marks=since_1_2),
    pytest.param(share_most, id="few"),
]


@pytest.mark.needs("userns", "timens")
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_where_the_containers_init_is(
    container: Container, scratch: Path, shape: Callable[[Container], None]
) -> None:
    shape(container)
    container.run_sleeping()
    assert container.exec_detached("sleep", "1001", flags=["--pid-file", str(scratch / "pid")]).status == 0
    pid, init = int((scratch / "pid").read_text()), container.pid()
    assert namespaces_of(pid) == namespaces_of(init)
    assert os.stat(f"/proc/{pid}/root").st_ino == os.stat(f"/proc/{init}/root").st_ino
    for file in ("cgroup", "uid_map", "setgroups"):
        assert Path(f"/proc/{pid}/{file}").read_text() == Path(f"/proc/{init}/{file}").read_text()
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts"])
def test_joined_namespaces(container: Container, new_container: Callable[[], Container], kind: str) -> None:
    other = new_container()
    other.run_sleeping()
    name = {"network": "net"}.get(kind, kind)
    container.set_namespace(kind, f"/proc/{other.pid()}/ns/{name}")
    if kind == "uts":
        del container.config["hostname"]
    container.run_sleeping()
    assert container.exec_output(f"readlink /proc/self/ns/{name}") == other.exec_output(
        f"readlink /proc/self/ns/{name}"
    )


def test_a_created_container(container: Container) -> None:
    container.process["args"] = ["sleep", "1000"]
    assert container.create().status == 0
    assert container.exec_output("echo fine") == "fine"
    assert container.state()["status"] == "created"
    assert container.start().status == 0


class TestProcess:
    """What it has of config.json, and from the options."""

    def test_it_is_config_jsons_but_for_the_command(self, container: Container) -> None:
        (container.rootfs / "home").mkdir()
        user = {"uid": 7, "gid": 8, "additionalGids": [9, 10]}
        container.process.update(user=user, cwd="/home", oomScoreAdj=321)
        container.process["env"].append("WORD=thing")
        container.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
        container.run_sleeping()
        script = "id -u; id -g; id -G; pwd; echo $WORD; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj"
        told = container.exec_output(script).splitlines()
        assert told == ["7", "8", "8 9 10", "/home", "thing", "100", "200", "321"]

    @pytest.mark.runc_since("1.2", "before, it is the caller's")
    def test_its_umask(self, container: Container) -> None:
        container.process["user"]["umask"] = 0o077
        container.run_sleeping()
        assert container.exec_output("umask") == "0077"

    def test_capabilities_and_no_new_privs(self, running: Container) -> None:
        show = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status"
        assert running.exec_output(show) == running.exec_output(show.replace("self", "1"))

    def test_options(self, running: Container) -> None:
        flags = ["--user", "7:8", "-g", "9", "-g", "10", "--cwd", "/tmp", "-e", "A=1", "-e", "B=2,3"]
        assert running.exec_output("id -u; id -g; id -G; pwd; echo $A $B", *flags).splitlines() == [
            "7",
            "8",
            "8 9 10",
            "/tmp",
            "1 2,3",
        ]


def test_a_process_from_a_file(running: Container, scratch: Path) -> None:
    file = scratch / "process.json"
    file.write_text(json.dumps({"args": ["sh", "-c", "pwd; echo $A"], "cwd": "/tmp", "env": ["A=1", "PATH=/bin"]}))
    result = running.runtime("exec", "--process", str(file), running.id)
    assert (result.status, result.stdout) == (0, "/tmp\n1\n"), result


@pytest.mark.only_pyruntime("it is its library")
def test_the_library(running: Container) -> None:
    import pyruntime

    assert pyruntime.execute(running.id, ["sh", "-c", "exit 5"], root=str(running.runtime.root)) == 5


class TestRootless:
    """A caller without any right, in a container with a user namespace of its own."""

    UID = 65534

    @pytest.fixture
    def own(self, container: Container) -> Container:
        """A container of nobody's that waits, as `spec --rootless` has it."""
        container.map_root_to(self.UID, size=1)
        for kind in ("network", "cgroup"):
            container.drop_namespace(kind)
        container.config["mounts"] = [m for m in container.mounts if not m["destination"].startswith("/sys")]
        container.add_mount("/sys", "none", "rbind", "nosuid", "noexec", "nodev", "ro", source="/sys")
        next(m for m in container.mounts if m["type"] == "devpts")["options"].remove("gid=5")
        del container.linux["resources"]
        container.runtime.root.mkdir()
        for path in (container.runtime.root, container.path):
            os.chown(path, self.UID, self.UID)
        container.process["args"] = ["sleep", "1000"]
        result = container.run_detached(**self.nobody)
        if result.status and identify().name != "pyruntime":
            pytest.skip(f"{identify().name} has no container for a caller without rights here: {result.stderr}")
        assert result.status == 0, result
        return container

    @property
    def nobody(self) -> dict[str, Any]:
        """How to spawn as nobody."""
        return {"user": self.UID, "group": self.UID, "extra_groups": []}

    @pytest.mark.needs("userns")
    def test_it_is_root_inside(self, own: Container) -> None:
        assert own.exec_output("id -u; readlink /proc/self/ns/user", **self.nobody).splitlines() == [
            "0",
            os.readlink(f"/proc/{own.pid()}/ns/user"),
        ]

    @pytest.mark.needs("userns")
    def test_detached(self, own: Container, scratch: Path) -> None:
        os.chown(scratch, self.UID, self.UID)
        flags = ["--pid-file", str(scratch / "pid")]
        assert own.exec_detached("sleep", "1001", flags=flags, **self.nobody).status == 0
        pid = int((scratch / "pid").read_text())
        assert os.stat(f"/proc/{pid}").st_uid == self.UID

    @pytest.mark.needs("userns")
    @pytest.mark.only_pyruntime("runc's words differ")
    def test_what_it_may_not(self, own: Container) -> None:
        refused = "--additional-gids: become 0:0 with 0, enter /: setgroups("
        for flags, place in ((["-u", "1"], "--user: 1 is not mapped"), (["-g", "0"], refused)):
            result = own.exec("true", flags=flags, **self.nobody)
            assert result.status == 255
            assert place in result.stderr

    @pytest.mark.needs("userns")
    @pytest.mark.only_pyruntime("runc sets the limits later, which takes CAP_SYS_RESOURCE")
    def test_root_enters_it_too(self, own: Container) -> None:
        assert own.exec_output("id -u") == "0"


def test_many_at_once(container: Container) -> None:
    """Ten at once: each its own process, none mistaken for another's."""
    container.run_sleeping()
    started = [container.runtime.spawn("exec", container.id, "sh", "-c", f"exit {n}") for n in range(10)]
    assert [process.wait(timeout=60) for process in started] == list(range(10))
    for process in started:
        process.communicate()
