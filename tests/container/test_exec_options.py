"""The options of `exec`: whom it runs as, where, with what, who is told of it (runc:exec.go)."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container, wait_until
from tests.support.runtime import Result, identify
from tests.support.terminal import ConsoleSocket, DescriptorSocket, Terminal, finish, on_terminal

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")
OURS = identify().name == "pyruntime"
SHOW_CAPABILITIES = "grep '^Cap' /proc/self/status"


@pytest.fixture
def running(container: Container) -> Container:
    """A container that waits."""
    container.run_sleeping()
    return container


def fails(result: Result, place: str) -> None:
    """By itself, in one line that names the place (of pyruntime)."""
    assert result.status in (1, 255), result
    assert "Traceback" not in result.stderr
    if OURS:
        assert result.status == 255 and len(result.lines()) == 1, result
        assert f": {place}" in result.stderr, result


class TestUser:
    def test_a_user_without_a_group_keeps_the_group(self, container: Container) -> None:
        container.process["user"] = {"uid": 1, "gid": 5}
        container.run_sleeping()
        assert container.exec_output("id -u; id -g", "-u", "1000") == "1000\n5"

    def test_home_is_the_users(self, running: Container) -> None:
        running.add_file("etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:7:7::/home/user:/bin/sh\n")
        assert running.exec_output("echo $HOME", "-u", "7") == "/home/user"
        assert running.exec_output("echo $HOME", "-u", "8") == "/"
        assert running.exec_output("echo $HOME", "-u", "7", "-e", "HOME=/mine") == "/mine"

    @pytest.mark.only_pyruntime("CVE-2026-30892: Atoi and a cast read them")
    @pytest.mark.parametrize(
        "user", [" 1", "1 ", "+1", "1_0", "4294967295", "4294967296", "-1", "root", "", "1:", ":1"]
    )
    def test_what_is_no_id(self, running: Container, user: str) -> None:
        if not user:
            return  # not given
        fails(running.exec("true", flags=["--user", user]), "--user: ")

    @pytest.mark.parametrize("gid", ["x", "-1", "1,2"])
    def test_what_is_no_group(self, running: Container, gid: str) -> None:
        fails(running.exec("true", flags=["-g", gid]), "--additional-gids: ")

    @pytest.mark.needs("userns")
    def test_an_unmapped_user(self, container: Container) -> None:
        container.map_root_to(100000, size=1000)
        container.run_sleeping()
        assert container.exec_output("id -u; id -g", "-u", "999:998") == "999\n998"
        fails(container.exec("true", flags=["-u", "1000"]), "--user: ")


class TestCapabilities:
    def sets(self, container: Container, *flags: str) -> dict[str, int]:
        """CapInh, CapPrm, CapEff, CapBnd, CapAmb."""
        lines = container.exec_output(SHOW_CAPABILITIES, *flags).splitlines()
        return {name: int(value, 16) for name, value in (line.split(":\t") for line in lines)}

    def test_more(self, running: Container) -> None:
        before, after = self.sets(running), self.sets(running, "--cap", "CAP_NET_RAW", "--cap", "CAP_SYS_PTRACE")
        more = 1 << 13 | 1 << 19
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert after[name] == before[name] | more
        assert (after["CapInh"], after["CapAmb"]) == (0, 0)

    @pytest.mark.runc_since("1.3", "before, ambient was left alone")
    def test_ambient_where_config_json_has_inheritable_ones(self, container: Container) -> None:
        container.process["capabilities"]["inheritable"] = ["CAP_KILL"]
        container.process["capabilities"]["ambient"] = ["CAP_KILL"]
        container.run_sleeping()
        found = self.sets(container, "--cap", "CAP_NET_RAW")
        assert (found["CapInh"], found["CapAmb"]) == (1 << 5, 1 << 5)  # what is not inheritable can't be ambient

    def test_what_nobody_knows_is_told(self, running: Container) -> None:
        result = running.exec("true", flags=["--cap", "CAP_FLY"])
        assert result.status == 0
        assert "CAP_FLY" in result.stderr
        assert not OURS or len(result.lines()) == 1

    def test_no_new_privs(self, container: Container) -> None:
        container.process["noNewPrivileges"] = False
        container.run_sleeping()
        show = "grep NoNewPrivs /proc/self/status"
        assert container.exec_output(show).endswith("0")
        assert container.exec_output(show, "--no-new-privs").endswith("1")

    @pytest.mark.runc_since("1.1", "a boolean flag with a value")
    def test_new_privs(self, running: Container) -> None:
        assert running.exec_output("grep NoNewPrivs /proc/self/status", "--no-new-privs=false").endswith("0")


class TestWhere:
    def test_a_working_directory_that_is_not_there(self, running: Container) -> None:
        fails(running.exec("true", flags=["--cwd", "/no/such"]), "--cwd: chdir('/no/such'): ENOENT")

    def test_a_relative_one(self, running: Container) -> None:
        fails(running.exec("true", flags=["--cwd", "tmp"]), "--cwd: ")

    def test_one_for_the_user_alone(self, running: Container) -> None:
        directory = running.rootfs / "mnt/private"
        directory.mkdir(mode=0o700)
        os.chown(directory, 1000, 1000)
        assert running.exec_output("pwd", "--cwd", "/mnt/private", "-u", "1000") == "/mnt/private"

    def test_an_environment_that_is_none(self, running: Container) -> None:
        if OURS:
            fails(running.exec("true", flags=["-e", "WORD"]), "--env: ")

    def test_a_relative_program_is_the_working_directorys(self, running: Container) -> None:
        running.add_file("mnt/tool", "#!/bin/sh\necho here\n", 0o755)
        assert running.exec("./tool", flags=["--cwd", "/mnt"]).stdout == "here\n"


class TestFile:
    """--process."""

    def write(self, scratch: Path, **process: Any) -> list[str]:
        path = scratch / "process.json"
        path.write_text(json.dumps({"cwd": "/", "env": ["PATH=/bin"], **process}))
        return ["--process", str(path)]

    def test_what_it_leaves_out_is_the_containers(self, container: Container, scratch: Path) -> None:
        container.process["user"] = {"uid": 7, "gid": 7}
        container.run_sleeping()
        words = self.write(scratch, args=["sh", "-c", "id -u; grep CapBnd /proc/self/status"])
        told = container.exec(flags=words).stdout.splitlines()
        assert told == ["0", container.exec_output("grep CapBnd /proc/self/status")]

    @pytest.mark.only_pyruntime("with runc they are the runtime's own")
    def test_limits_that_it_leaves_out_are_the_containers(self, container: Container, scratch: Path) -> None:
        container.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]
        container.run_sleeping()
        assert container.exec(flags=self.write(scratch, args=["sh", "-c", "ulimit -n"])).stdout == "77\n"

    @pytest.mark.parametrize(
        ("process", "pointer"),
        [({"args": []}, "/args: "), ({"args": ["ls"], "cwd": ""}, "/cwd: "), ({"args": [7]}, "/args/0: "),
         ({"args": ["ls"], "user": {"uid": "0"}}, "/user/uid: "), ({"args": ["no-such"]}, "/args/0: "),
         ({"args": ["ls"], "cwd": "/no/such"}, "/cwd: "), ({}, ": the key args is missing")],
    )  # fmt: skip
    def test_what_is_wrong_is_told_by_its_place(
        self, running: Container, scratch: Path, process: dict[str, Any], pointer: str
    ) -> None:
        flags = self.write(scratch, **process)
        fails(running.exec(flags=flags), f"{flags[1]}#{pointer}")

    def test_no_such_file(self, running: Container) -> None:
        fails(running.exec(flags=["--process", "/no/such"]), "--process: ")

    def test_a_pipe(self, running: Container) -> None:
        text = json.dumps({"args": ["echo", "piped"], "cwd": "/", "env": ["PATH=/bin"]})
        assert running.exec(flags=["--process", "/dev/stdin"], stdin=text).stdout == "piped\n"

    def test_a_command_besides_is_ignored(self, running: Container, scratch: Path) -> None:
        result = running.exec("echo", "second", flags=self.write(scratch, args=["echo", "first"]))
        assert (result.status, result.stdout) == (0, "first\n")

    def test_a_terminal(self, running: Container, scratch: Path) -> None:
        flags = self.write(
            scratch, args=["sh", "-c", "stty size; tty"], terminal=True, consoleSize={"height": 11, "width": 22}
        )
        with ConsoleSocket(scratch / "c.sock") as console:
            result = running.exec_detached(flags=[*flags, "--console-socket", str(console.path)])
            assert result.status == 0, result
            _name, terminal = console.receive()
            with terminal:
                assert terminal.read_until("/dev/pts/0").startswith("11 22\r\n")


class TestPaused:
    @pytest.fixture
    def paused(self, running: Container) -> Iterator[Container]:
        """A container in the freezer."""
        assert running.runtime("pause", running.id).status == 0
        yield running
        running.runtime("resume", running.id)

    def test_it_is_refused(self, paused: Container) -> None:
        result = paused.exec("true")
        assert result.status == 255
        assert "cannot exec in a paused container (use --ignore-paused to override)" in result.stderr

    def test_it_runs_when_the_container_is_resumed(self, paused: Container) -> None:
        process = paused.runtime.spawn("exec", "--ignore-paused", paused.id, "echo", "thawed")
        assert process.stdout is not None
        assert not select.select([process.stdout], [], [], 0.2)[0]
        assert paused.runtime("resume", paused.id).status == 0
        assert process.stdout.readline() == b"thawed\n"
        assert finish(process) == 0

    @pytest.mark.only_pyruntime("runc hangs until the container is resumed")
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_the_waiting(self, paused: Container, number: int) -> None:
        process = paused.runtime.spawn("exec", "--ignore-paused", paused.id, "touch", "/dev/executed")
        assert process.stdout is not None
        assert not select.select([process.stdout], [], [], 0.2)[0]
        process.send_signal(number)
        assert finish(process) == -number
        assert paused.runtime("resume", paused.id).status == 0
        assert paused.exec("ls", "/dev/executed").status == 1


class TestDescriptors:
    def test_preserved(self, running: Container) -> None:
        reader, writer = os.pipe()
        third, fourth = (fcntl.fcntl(reader, fcntl.F_DUPFD, 30), fcntl.fcntl(writer, fcntl.F_DUPFD, 30))

        def place() -> None:
            os.dup2(third, 3)
            os.dup2(fourth, 4)

        process = running.runtime.spawn(
            *("exec", "--preserve-fds", "2", running.id, "sh", "-c", "echo through >&4; ls /proc/self/fd"),
            preexec_fn=place,
            close_fds=False,
        )
        os.close(writer)
        os.close(fourth)
        stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stderr) == (0, b"")
        assert set(stdout.split()) - {b"5"} == {b"0", b"1", b"2", b"3", b"4"}
        assert os.read(reader, 100) == b"through\n"
        os.close(reader)
        os.close(third)

    @pytest.mark.only_pyruntime("runc has something of its own open there")
    def test_one_that_is_not_open(self, running: Container) -> None:
        fails(running.exec("true", flags=["--preserve-fds", "1"]), "--preserve-fds: ")

    def test_no_other_is_inherited(self, running: Container) -> None:
        process = running.runtime.spawn("exec", running.id, "ls", "/proc/self/fd", close_fds=False)
        stdout, _ = process.communicate(timeout=30)
        assert stdout.split() == [b"0", b"1", b"2", b"3"]

    @pytest.mark.runc_since("1.2", "--pidfd-socket")
    def test_a_pidfd(self, running: Container, scratch: Path) -> None:
        with DescriptorSocket(scratch / "pidfd.sock") as listener:
            flags = ["--pidfd-socket", str(listener.path), "--pid-file", str(scratch / "pid")]
            assert running.exec_detached("sleep", "1001", flags=flags).status == 0
            _, pidfd = listener.receive_descriptor()
        fdinfo = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        assert f"Pid:\t{(scratch / 'pid').read_text()}\n" in fdinfo
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)

    def test_its_output_ends_with_it(self, running: Container) -> None:
        """Detached: whoever reads the pipe sees its end when the program ends, not when the runtime does."""
        reader, writer = os.pipe()
        result = running.exec_detached("sh", "-c", "sleep 0.2; echo late", stdout=writer)
        os.close(writer)
        assert result.status == 0
        with os.fdopen(reader) as output:
            assert output.read() == "late\n"


class TestTerminal:
    @pytest.fixture
    def screen(self) -> Iterator[Terminal]:
        """A person's terminal."""
        with Terminal.open() as terminal:
            yield terminal

    def show(
        self, screen: Terminal, container: Container, *words: str, flags: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """`exec -t` in the foreground on the screen."""
        return container.runtime.spawn("exec", "-t", *flags, container.id, *words, **on_terminal(screen))

    def test_output_and_status(self, running: Container, screen: Terminal) -> None:
        process = self.show(screen, running, "sh", "-c", "tty; echo on the screen; exit 7")
        screen.close_slave()
        assert screen.read_all() == "/dev/pts/0\r\non the screen\r\n"
        assert finish(process) == 7

    def test_it_is_the_controlling_terminal(self, running: Container, screen: Terminal) -> None:
        process = self.show(screen, running, "sh", "-c", "echo through > /dev/tty; ps -o pid,sid,tty | grep $$")
        screen.read_until("through\r\n")
        assert finish(process) == 0

    def test_control_c_interrupts_it(self, running: Container, screen: Terminal) -> None:
        script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do usleep 10000; done"
        process = self.show(screen, running, "sh", "-c", script)
        screen.read_until("ready")
        screen.type("\x03")
        screen.read_until("interrupted")
        assert finish(process) == 3

    def test_the_window_size(self, running: Container, screen: Terminal) -> None:
        screen.resize(37, 111)
        script = 'stty size; until [ "$(stty size)" = "12 34" ]; do usleep 1000; done; echo followed'
        process = self.show(screen, running, "sh", "-c", script)
        screen.read_until("37 111\r\n")
        screen.resize(12, 34)
        screen.read_until("followed\r\n")
        assert finish(process) == 0

    def test_the_line_is_restored(self, running: Container, screen: Terminal) -> None:
        before = screen.attributes()
        process = self.show(screen, running, "sh", "-c", "echo ready; read x")
        screen.read_until("ready")
        wait_until(lambda: screen.attributes() != before, "raw mode")
        screen.type("\r")
        assert finish(process) == 0
        assert screen.attributes() == before

    def test_two_at_once(self, running: Container, screen: Terminal) -> None:
        process = self.show(screen, running, "sh", "-c", "tty; read x")
        screen.read_until("/dev/pts/0")
        with Terminal.open() as second:
            other = self.show(second, running, "tty")
            second.read_until("/dev/pts/1")
            assert finish(other) == 0
        screen.type("\r")
        assert finish(process) == 0

    def test_the_user_owns_it(self, running: Container, screen: Terminal) -> None:
        process = self.show(
            screen, running, "sh", "-c", "stat -c %u /dev/pts/0; : < /dev/tty && echo open", flags=("-u", "7")
        )
        screen.read_until("7\r\nopen\r\n")
        assert finish(process) == 0

    @pytest.mark.needs("userns")
    def test_in_a_user_namespace(self, container: Container, screen: Terminal) -> None:
        container.map_root_to(100000)
        container.run_sleeping()
        process = self.show(screen, container, "sh", "-c", "tty; echo typed > /dev/tty")
        screen.read_until("/dev/pts/0\r\ntyped\r\n")
        assert finish(process) == 0

    @pytest.mark.needs("userns")
    @pytest.mark.parametrize(
        "uid", [pytest.param("0", marks=pytest.mark.only_pyruntime("runc leaves it to the host's root")), "7"]
    )
    def test_the_user_of_a_user_namespace_owns_it(self, container: Container, screen: Terminal, uid: str) -> None:
        container.map_root_to(100000)
        container.run_sleeping()
        process = self.show(screen, container, "stat", "-c", "%u", "/dev/pts/0", flags=("-u", uid))
        screen.read_until(f"{uid}\r\n")
        assert finish(process) == 0

    def test_without_a_terminal_of_the_callers(self, running: Container) -> None:
        process = running.runtime.spawn(
            "exec", "-t", running.id, "true", stdin=subprocess.DEVNULL, start_new_session=True
        )
        _, stderr = process.communicate(timeout=30)
        assert process.returncode in (1, 255)
        if OURS:
            assert process.returncode == 255
            assert b": --tty: " in stderr

    def test_an_image_without_dev_pts(self, container: Container, screen: Terminal) -> None:
        container.config["mounts"] = [m for m in container.mounts if m["destination"] != "/dev/pts"]
        container.run_sleeping()
        process = self.show(screen, container, "true")
        screen.close_slave()
        told = screen.read_all()
        assert finish(process) in (1, 255)
        if OURS:
            assert "--tty" in told and "devpts" in told

    def test_a_console_socket(self, running: Container, scratch: Path) -> None:
        with ConsoleSocket(scratch / "c.sock") as console:
            words = ("exec", "-d", "-t", "--console-socket", str(console.path), running.id)
            assert running.runtime(*words, "sh", "-c", "echo there; read x; echo $x").status == 0
            name, terminal = console.receive()
            with terminal:
                assert name == "/dev/pts/0" or not OURS
                terminal.read_until("there\r\n")
                terminal.type("answer\r")
                assert terminal.read_all().endswith("answer\r\n")

    def test_misfits(self, running: Container, scratch: Path) -> None:
        fails(running.exec("true", flags=["-d", "-t"]), "--console-socket: ")
        fails(running.exec("true", flags=["--console-socket", str(scratch)]), "--console-socket: ")
        fails(running.exec("true", flags=["-d", "-t", "--console-socket", "/no/such"]), "--console-socket: ")


of_v2_alone = pytest.mark.only_pyruntime("where there is cgroup v1 besides, runc wants to enter its cgroups, too")


class TestCgroup:
    """--cgroup, and which cgroup it is without."""

    def own(self, container: Container) -> str:
        """The container's cgroup as the host sees it."""
        return Path(f"/proc/{container.pid()}/cgroup").read_text().split("0::")[1].split()[0]

    def directory(self, container: Container) -> Path:
        from scripts.lib.steps import v2_mount

        return Path(v2_mount() + self.own(container))

    def of(self, container: Container, *flags: str) -> str:
        """The cgroup of an `exec`, from the host."""
        file = container.path / "pid"
        result = container.exec_detached("sleep", "1001", flags=[*flags, "--pid-file", str(file)])
        assert result.status == 0, result
        pid = int(file.read_text())
        found = Path(f"/proc/{pid}/cgroup").read_text().split("0::")[1].split()[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid), "its end")
        return found

    def test_the_containers(self, running: Container) -> None:
        assert self.of(running) == self.own(running)

    @of_v2_alone
    @pytest.mark.parametrize("name", ["sub", "/sub", "./sub/", "sub/../sub", "sub/."])
    def test_one_below(self, running: Container, name: str) -> None:
        (self.directory(running) / "sub").mkdir()
        assert self.of(running, "--cgroup", name) == f"{self.own(running)}/sub"

    @pytest.mark.parametrize("name", ["/", ".", "", "sub/.."])
    def test_the_containers_by_name(self, running: Container, name: str) -> None:
        assert self.of(running, "--cgroup", name) == self.own(running)

    @pytest.mark.parametrize("name", ["..", "../..", "/../x", "sub/../../sub", "../{}-other"])
    def test_it_cannot_climb(self, running: Container, name: str) -> None:
        """Nor into a neighbour whose name begins with the container's, as prefixes of paths would let it (runc)."""
        own = self.directory(running)
        neighbour = own.with_name(f"{own.name}-other")
        neighbour.mkdir()
        try:
            fails(running.exec("true", flags=["--cgroup", name.format(own.name)]), "--cgroup: ")
        finally:
            neighbour.rmdir()

    def test_one_that_is_not_there(self, running: Container) -> None:
        fails(running.exec("true", flags=["--cgroup", "nowhere"]), "--cgroup: ")

    @pytest.mark.only_pyruntime("it is for cgroup v1")
    def test_controllers(self, running: Container) -> None:
        fails(running.exec("true", flags=["--cgroup", "cpu:sub"]), "--cgroup: ")
        fails(running.exec("true", flags=["--cgroup", "a", "--cgroup", "b"]), "--cgroup: ")

    @pytest.fixture
    def moved(self, container: Container) -> Iterator[Container]:
        """A container whose init has moved into a cgroup below its own."""
        container.run_sleeping()
        below = self.directory(container) / "init"
        below.mkdir()
        (below / "cgroup.procs").write_text(str(container.pid()))
        yield container
        container.delete("--force")

    def test_an_init_that_has_moved(self, moved: Container) -> None:
        own = self.own(moved)
        assert own.endswith("/init")
        assert self.of(moved) == own.removesuffix("/init"), "while that can hold processes it is the place"

    @pytest.mark.needs("memory")
    def test_a_cgroup_that_can_hold_no_process(self, moved: Container) -> None:
        """Its controllers are handed down: EBUSY. runc joins the init's then, unless --cgroup says otherwise."""
        (self.directory(moved).parent / "cgroup.subtree_control").write_text("+memory")
        assert self.of(moved) == self.own(moved)
        fails(moved.exec("true", flags=["--cgroup", "/"]), "--cgroup: clone3(")
        assert self.of(moved, "--cgroup", "init") == self.own(moved)

    @of_v2_alone
    def test_a_cgroup_that_is_gone(self, container: Container, marker: str) -> None:
        container.run_sleeping()
        own = self.directory(container)
        other = own.with_name(f"{marker}-elsewhere")
        other.mkdir()
        try:
            (other / "cgroup.procs").write_text(str(container.pid()))
            own.rmdir()
            assert self.of(container).endswith(f"/{marker}-elsewhere")
            container.delete("--force")
        finally:
            wait_until(lambda: not (other / "cgroup.procs").read_text(), "its processes to be gone")
            other.rmdir()


def gone(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


LAST = str(max(os.sched_getaffinity(0)))  # CPU


class TestCpus:
    """process.execCPUAffinity."""

    @pytest.mark.runc_since("1.3", "execCPUAffinity")
    def test_final(self, container: Container) -> None:
        container.process["execCPUAffinity"] = {"initial": "0", "final": LAST}
        container.run_sleeping()
        assert container.exec_output("grep Cpus_allowed_list /proc/self/status").endswith(f"\t{LAST}")

    @pytest.mark.runc_since("1.3", "execCPUAffinity")
    def test_initial_alone_stays(self, container: Container) -> None:
        container.process["execCPUAffinity"] = {"initial": LAST}
        container.run_sleeping()
        assert container.exec_output("grep Cpus_allowed_list /proc/self/status").endswith(f"\t{LAST}")

    @pytest.mark.runc_since("1.4", "before, it was the caller's")
    def test_the_callers_does_not_leak_in(self, running: Container) -> None:
        every = running.exec_output("grep Cpus_allowed_list /proc/self/status")
        one = running.exec_script(
            "grep Cpus_allowed_list /proc/self/status", preexec_fn=lambda: os.sched_setaffinity(0, {int(LAST)})
        )
        assert one.stdout.strip() == every

    @pytest.mark.only_pyruntime("runc's words differ")
    def test_a_cpu_that_is_not_there(self, container: Container) -> None:
        container.process["execCPUAffinity"] = {"final": "999"}
        container.run_sleeping()
        fails(container.exec("true"), "config.json#/process/execCPUAffinity/final: sched_setaffinity(")


@pytest.mark.runc_since("1.2", "scheduler and ioPriority")
def test_scheduler_and_io_priority(container: Container) -> None:
    flags = ["SCHED_FLAG_RESET_ON_FORK"]
    container.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5, "flags": flags}
    container.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE"}
    container.run_sleeping()
    file = container.path / "pid"
    assert container.exec_detached("sleep", "1001", flags=["--pid-file", str(file)]).status == 0
    pid = int(file.read_text())
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, "it does not outlive a fork"
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5
    import ctypes

    assert ctypes.CDLL(None).syscall({"x86_64": 252, "aarch64": 31}[os.uname().machine], 1, pid) >> 13 == 3
    os.kill(pid, signal.SIGKILL)


ours_alone = pytest.mark.only_pyruntime("with runc each exec in a user namespace has its own")


class TestKeyring:
    """keyrings(7): the caller's keys are not the container's, whose session keyring `exec` joins."""

    def ring(self, container: Container, text: str) -> str:
        """The serial number of the session keyring, with its name."""
        found = [line.split() for line in text.splitlines() if f"_ses.{container.id}" in line]
        return found[0][0] if found else text

    @pytest.mark.needs("keyrings")
    @pytest.mark.parametrize("mapped", [False, pytest.param(True, marks=[pytest.mark.needs("userns"), ours_alone])])
    def test_it_is_the_containers(self, container: Container, mapped: bool) -> None:
        container.linux["maskedPaths"].remove("/proc/keys")
        if mapped:
            container.map_root_to(100000)
        container.config["root"]["readonly"] = False
        container.script("cat /proc/keys > /keys; sleep 1000")
        assert container.run_detached().status == 0
        wait_until(lambda: (container.rootfs / "keys").exists() and container.read("keys"), "the init's keys")
        assert self.ring(container, container.exec_output("cat /proc/keys")) == self.ring(
            container, container.read("keys")
        )

    @pytest.mark.needs("keyrings")
    def test_the_callers_is_kept_if_the_container_has_kept_it(self, container: Container) -> None:
        container.linux["maskedPaths"].remove("/proc/keys")
        container.run_sleeping("--no-new-keyring")
        assert f"_ses.{container.id}" not in container.exec_output("cat /proc/keys; :")


def test_labels_that_the_host_lacks(running: Container) -> None:
    result = running.exec("true", flags=["--process-label", "a:b:c:d"])
    assert result.status != 0
    if OURS:
        assert ": --process-label: " in result.stderr
