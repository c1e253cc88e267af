"""containerd drives the runtime: what `ctr` asks for, through containerd's shim for runc, in all its ways.

Companions: containerd:cmd/containerd-shim-runc-v2/process/init.go, go-runc:runc.go. Where a row needs the runtime's own
words, they are the ones that the shim looks for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.bundle import Bundle
from tests.support.containerd import IMAGE, Containerd, end, until
from tests.support.runtime import Result
from tests.support.terminal import Terminal, finish, on_terminal

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2", "containerd")

Run = Callable[..., Result]
Start = Callable[..., str]


class TestRun:
    def test_output(self, run: Run) -> None:
        assert run("echo", "hi") == (0, "hi\n", "")

    def test_standard_error_apart(self, run: Run) -> None:
        assert run("sh", "-c", "echo out; echo err >&2") == (0, "out\n", "err\n")

    def test_exit_status(self, run: Run) -> None:
        assert run("sh", "-c", "exit 7").status == 7

    def test_killed_by_a_signal(self, run: Run) -> None:
        assert run("sh", "-c", "kill -9 $$; sleep 9").status in (0, 137)  # the PID namespace's first is immune
        assert run("sh", "-c", "sh -c 'kill -9 $$'; exit $?").status == 137

    def test_standard_input_and_its_end(self, ctr: Containerd, marker: str) -> None:
        process = ctr.spawn(*ctr.run_arguments("--rm"), IMAGE, marker, "cat", stdin=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"words\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"words\n"
        process.stdin.close()  # not before the program runs: an early end is lost in `ctr`
        assert process.stdout.read() == b""
        assert finish(process) == 0

    def test_much_output(self, run: Run) -> None:
        result = run("sh", "-c", "yes 0123456789abcde | head -c 1000000")
        assert (result.status, len(result.stdout)) == (0, 1000000)

    def test_the_images_command(self, run: Run) -> None:
        assert run(stdin="echo from the image; exit\n") == (0, "from the image\n", "")

    def test_a_root_filesystem_without_an_image(self, ctr: Containerd, marker: str, scratch: Path) -> None:
        rootfs = Bundle(scratch / "bundle").rootfs
        result = ctr(*ctr.run_arguments("--rm", "--rootfs"), str(rootfs), marker, "/bin/echo", "hi")
        assert result == (0, "hi\n", ""), result

    def test_output_to_a_file(self, ctr: Containerd, marker: str, scratch: Path) -> None:
        log = scratch / "log"
        arguments = ctr.run_arguments("--rm", "--log-uri", f"file://{log}")
        assert ctr(*arguments, IMAGE, marker, "sh", "-c", "echo out; echo err >&2").status == 0
        assert sorted(log.read_text().splitlines()) == ["err", "out"]

    def test_no_output_at_all(self, run: Run) -> None:
        assert run("sh", "-c", "echo lost; exit 3", flags=("--null-io",)) == (3, "", "")

    def test_a_signal_to_ctr_reaches_the_program(self, ctr: Containerd, marker: str) -> None:
        script = "trap 'exit 5' WINCH; while :; do usleep 10000; done"
        process = ctr.spawn(*ctr.run_arguments("--rm"), IMAGE, marker, "sh", "-c", script, stdin=subprocess.DEVNULL)

        def ended() -> bool:
            process.send_signal(signal.SIGWINCH)  # it does no harm before `ctr` or the program is ready for it
            return process.poll() is not None

        until(ended, "no signal reaches the program")
        assert finish(process) == 5


class TestTerminal:
    def test_it_is_one(self, ctr: Containerd, marker: str) -> None:
        with Terminal.open() as screen:
            screen.resize(33, 99)
            script = "tty; until test \"$(stty size)\" = '33 99'; do usleep 10000; done; stty size; exit 4"
            arguments = ctr.run_arguments("--rm", "--tty")
            process = ctr.spawn(*arguments, IMAGE, marker, "sh", "-c", script, **on_terminal(screen))
            screen.close_slave()
            shown = screen.read_all()
            assert "/dev/pts/0" in shown
            assert "33 99" in shown
            assert finish(process) == 4

    def test_typing_and_control_c(self, ctr: Containerd, marker: str) -> None:
        with Terminal.open() as screen:
            arguments = ctr.run_arguments("--rm", "--tty")
            wait = "while :; do usleep 10000; done"
            script = f"trap 'echo interrupted; exit 6' INT; echo type; read line; echo got $line; {wait}"
            process = ctr.spawn(*arguments, IMAGE, marker, "sh", "-c", script, **on_terminal(screen))
            screen.close_slave()
            screen.read_until("type")
            screen.type("words\n")
            screen.read_until("got words")
            screen.type("\x03")
            screen.read_until("interrupted")
            screen.read_all()
            assert finish(process) == 6

    def test_a_new_size(self, ctr: Containerd, marker: str) -> None:
        with Terminal.open() as screen:
            check = 'test "$(stty size)" = "40 50" && echo resized && exit'
            script = f"trap '{check}' WINCH; echo ready; while :; do usleep 10000; done"
            arguments = ctr.run_arguments("--rm", "--tty")
            screen.resize(24, 80)
            process = ctr.spawn(*arguments, IMAGE, marker, "sh", "-c", script, **on_terminal(screen))
            screen.read_until("ready")
            screen.resize(40, 50)

            def ended() -> bool:
                process.send_signal(signal.SIGWINCH)  # `ctr` ignores it until it is ready for it
                return process.poll() is not None

            until(ended, "the new size does not arrive")
            assert "resized" in screen.read_until("resized")
            assert finish(process) == 0


class TestDetached:
    def test_status_and_processes(self, ctr: Containerd, start: Start) -> None:
        one = start("sh", "-c", "sleep 1000 & sleep 1000 & wait")
        assert ctr.statuses() == {one: "RUNNING"}
        until(lambda: len(processes_of(ctr, one)) == 3, "no three processes")
        assert ctr.pid(one) in processes_of(ctr, one)

    def test_the_pid_file(self, ctr: Containerd, start: Start, scratch: Path) -> None:
        one = start(flags=("--pid-file", f"{scratch}/pid"))
        assert int((scratch / "pid").read_text()) == ctr.pid(one)

    def test_end_and_exit_status(self, ctr: Containerd, start: Start) -> None:
        one = start("sh", "-c", "exit 9")
        ctr.wait_for(one, "STOPPED")
        assert "exit code 9" in ctr("tasks", "delete", one).stderr

    def test_delete_while_it_runs(self, ctr: Containerd, start: Start) -> None:
        one = start()
        assert "must be stopped" in ctr("tasks", "delete", one).stderr
        assert ctr.statuses() == {one: "RUNNING"}
        ctr("tasks", "delete", "--force", one)
        assert ctr.statuses() == {}
        assert not ctr.cgroup(one).exists()

    def test_the_name_again_after_delete(self, ctr: Containerd, start: Start, marker: str) -> None:
        for _ in range(2):
            one = start()
            assert ctr("tasks", "delete", "--force", one).status == 0
            assert ctr("containers", "delete", one).status == 0

    def test_the_task_again(self, ctr: Containerd, start: Start) -> None:
        one = start()
        ctr("tasks", "delete", "--force", one)
        assert ctr("tasks", "start", "--detach", "--null-io", one).status == 0
        assert ctr.statuses() == {one: "RUNNING"}


class TestKill:
    def test_term(self, ctr: Containerd, start: Start) -> None:
        one = start("sh", "-c", "trap 'exit 3' TERM; while :; do usleep 10000; done")
        until(lambda: handles(ctr.pid(one), signal.SIGTERM), "no trap")
        assert ctr("tasks", "kill", one).status == 0
        ctr.wait_for(one, "STOPPED")
        assert "exit code 3" in ctr("tasks", "delete", one).stderr

    def test_kill(self, ctr: Containerd, start: Start) -> None:
        one = start()
        assert ctr("tasks", "kill", "--signal", "KILL", one).status == 0
        ctr.wait_for(one, "STOPPED")
        assert "exit code 137" in ctr("tasks", "delete", one).stderr

    def test_all(self, ctr: Containerd, start: Start) -> None:
        one = start("sh", "-c", "sleep 1000 & wait")
        until(lambda: len(processes_of(ctr, one)) == 2, "no two processes")
        assert ctr("tasks", "kill", "--all", "--signal", "KILL", one).status == 0
        ctr.wait_for(one, "STOPPED")

    def test_what_has_ended(self, ctr: Containerd, start: Start) -> None:
        one = start("true")
        ctr.wait_for(one, "STOPPED")
        result = ctr("tasks", "kill", one)
        assert result.status == 1
        assert "process already finished" in result.stderr

    def test_an_end_behind_containerds_back(self, ctr: Containerd, start: Start) -> None:
        one = start()
        end(ctr.pid(one))
        ctr.wait_for(one, "STOPPED")
        assert "exit code 137" in ctr("tasks", "delete", one).stderr


class TestPause:
    def test_there_and_back(self, ctr: Containerd, start: Start) -> None:
        one = start()
        assert ctr("tasks", "pause", one).status == 0
        assert ctr.statuses() == {one: "PAUSED"}
        assert "frozen 1" in (ctr.cgroup(one) / "cgroup.events").read_text()
        assert ctr("tasks", "resume", one).status == 0
        assert ctr.statuses() == {one: "RUNNING"}

    def test_kill(self, ctr: Containerd, start: Start) -> None:
        one = start()
        ctr("tasks", "pause", one)
        assert ctr("tasks", "kill", "--signal", "KILL", one).status == 0
        ctr.wait_for(one, "STOPPED")

    def test_delete(self, ctr: Containerd, start: Start) -> None:
        one = start()
        ctr("tasks", "pause", one)
        assert ctr("tasks", "delete", "--force", one).status == 0
        assert ctr.statuses() == {}

    def test_what_has_ended(self, ctr: Containerd, start: Start) -> None:
        one = start("true")
        ctr.wait_for(one, "STOPPED")
        assert ctr("tasks", "pause", one).status == 1


class TestExec:
    def test_output_and_status(self, ctr: Containerd, start: Start) -> None:
        assert execute(ctr, start(), "sh", "-c", "echo out; echo err >&2; exit 8") == (8, "out\n", "err\n")

    def test_standard_input(self, ctr: Containerd, start: Start) -> None:
        assert execute(ctr, start(), "cat", stdin="words") == (0, "words", "")

    def test_where(self, ctr: Containerd, start: Start) -> None:
        one = start(flags=("--env", "A=b"))
        script = "id -u; id -g; pwd; echo $A; cat /proc/1/comm"
        result = execute(ctr, one, "sh", "-c", script, flags=("--user", "guest", "--cwd", "/tmp"))
        assert result == (0, "1000\n1001\n/tmp\nb\nsleep\n", "")

    def test_on_a_terminal(self, ctr: Containerd, start: Start) -> None:
        one = start()
        with Terminal.open() as screen:
            arguments = ["tasks", "exec", "--tty", "--exec-id", "e", one, "sh", "-c", "tty; exit 2"]
            process = ctr.spawn(*arguments, **on_terminal(screen))
            screen.close_slave()
            assert "/dev/pts/" in screen.read_all()
            assert finish(process) == 2

    def test_detached_and_killed(self, ctr: Containerd, start: Start) -> None:
        one = start()
        result = ctr(
            "tasks", "exec", "--detach", "--exec-id", "e", "--log-uri", "file:///dev/null", one, "sleep", "1000"
        )
        assert result.status == 0, result
        assert len(processes_of(ctr, one)) == 2
        assert 'exec_id:"e"' in ctr("tasks", "ps", one).stdout
        assert ctr("tasks", "kill", "--exec-id", "e", "--signal", "KILL", one).status == 0
        until(lambda: len(processes_of(ctr, one)) == 1, "it still runs")
        assert ctr("tasks", "delete", "--exec-id", "e", one).status == 137

    def test_no_such_program(self, ctr: Containerd, start: Start) -> None:
        one = start()
        result = execute(ctr, one, "/no/such")
        assert result.status == 1
        assert "/no/such" in result.stderr
        assert "no such file or directory" in result.stderr.lower()
        assert execute(ctr, one, "echo", "still there").stdout == "still there\n"

    def test_a_paused_container(self, ctr: Containerd, start: Start) -> None:
        one = start()
        ctr("tasks", "pause", one)
        assert execute(ctr, one, "true").status == 1
        ctr("tasks", "resume", one)
        assert execute(ctr, one, "true").status == 0

    def test_one_that_ends_with_its_container(self, ctr: Containerd, start: Start) -> None:
        one = start()
        process = ctr.spawn("tasks", "exec", "--exec-id", "e", one, "sh", "-c", "echo ready; sleep 1000")
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        ctr("tasks", "kill", "--signal", "KILL", one)
        assert finish(process) == 137

    def test_many_at_once(self, ctr: Containerd, start: Start) -> None:
        one = start()
        with ThreadPoolExecutor(8) as pool:
            results = pool.map(lambda number: execute(ctr, one, "echo", str(number), name=f"e{number}"), range(16))
            assert [result.stdout for result in results] == [f"{number}\n" for number in range(16)]


class TestFailedStart:
    def test_no_such_program(self, run: Run, ctr: Containerd) -> None:
        result = run("/no/such")
        assert result.status == 1
        assert "/no/such" in result.stderr
        assert "no such file or directory" in result.stderr.lower()
        assert ctr.statuses() == {}

    def test_not_executable(self, run: Run) -> None:
        result = run("/etc/passwd")
        assert result.status == 1
        assert "permission denied" in result.stderr.lower()

    def test_a_mount_whose_source_is_missing(self, run: Run) -> None:
        result = run("true", flags=("--mount", "type=bind,src=/no/such,dst=/mnt,options=rbind:ro"))
        assert result.status == 1
        assert "/no/such" in result.stderr

    @pytest.mark.only_pyruntime("runc names no place in config.json")
    def test_our_whole_message(self, run: Run) -> None:
        result = run("true", flags=("--mount", "type=bind,src=/no/such,dst=/mnt,options=rbind:ro"))
        assert "OCI runtime create failed" in result.stderr
        assert "config.json#/mounts/" in result.stderr
        assert "ENOENT" in result.stderr

    @pytest.mark.only_pyruntime("runc 1.1 says that a pipe has ended")
    def test_a_namespace_that_is_none(self, run: Run) -> None:
        result = run("true", flags=("--with-ns", "network:/etc/passwd"))
        assert result.status == 1
        assert "/etc/passwd" in result.stderr

    def test_a_runtime_that_is_missing(self, ctr: Containerd, marker: str) -> None:
        result = ctr("run", "--rm", "--runc-binary", "/no/such/runtime", IMAGE, marker, "true")
        assert result.status == 1
        assert "/no/such/runtime" in result.stderr


class TestLimits:
    @pytest.mark.needs("memory", "cpu")
    def test_files(self, ctr: Containerd, start: Start) -> None:
        flags = ("--memory-limit", "67108864", "--cpu-quota", "50000", "--cpu-period", "100000")
        cgroup = ctr.cgroup(start(flags=flags))
        assert (cgroup / "memory.max").read_text() == "67108864\n"
        assert (cgroup / "cpu.max").read_text() == "50000 100000\n"

    @pytest.mark.needs("memory")
    def test_out_of_memory(self, run: Run) -> None:
        script = "dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?"
        assert run("sh", "-c", script, flags=("--memory-limit", "33554432")).status == 137

    @pytest.mark.needs("memory")
    def test_the_event_of_it(self, ctr: Containerd, run: Run, marker: str) -> None:
        events = ctr.spawn("events")
        try:
            script = "dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?"
            run("sh", "-c", script, flags=("--memory-limit", "33554432"))
        finally:
            events.terminate()
        said = events.communicate()[0].decode()
        seen = [line.split()[5] for line in said.splitlines() if marker in line]
        wanted = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
        assert [topic for topic in seen if topic in wanted] == wanted, said
        assert "/tasks/oom" in seen, said

    @pytest.mark.needs("memory", "pids")
    def test_metrics(self, ctr: Containerd, start: Start) -> None:
        one = start(flags=("--memory-limit", "67108864"))
        metrics = json.loads(ctr("tasks", "metrics", "--format", "json", one).stdout)
        assert metrics["memory"]["usage_limit"] == 67108864
        assert metrics["pids"]["current"] == 1

    def test_a_cgroup_of_ones_choice(self, ctr: Containerd, start: Start) -> None:
        path = f"/{ctr.namespace}/chosen"
        one = start(flags=("--cgroup", path))
        assert Path(f"/proc/{ctr.pid(one)}/cgroup").read_text() == f"0::{path}\n"

    @pytest.mark.needs("CAP_SYS_RESOURCE")
    def test_open_files(self, run: Run) -> None:
        assert run("sh", "-c", "ulimit -n").stdout == "1024\n"


class TestNamespaces:
    def test_joined(self, ctr: Containerd, start: Start, run: Run, marker: str) -> None:
        one = start(name=f"{marker}-host", flags=("--hostname", "first"))
        pid = ctr.pid(one)
        kinds = {"network": "net", "ipc": "ipc", "uts": "uts"}
        flags = [word for kind, file in kinds.items() for word in ("--with-ns", f"{kind}:/proc/{pid}/ns/{file}")]
        script = "hostname; for file in net ipc uts; do readlink /proc/self/ns/$file; done"
        hostname, *inside = run("sh", "-c", script, flags=tuple(flags)).stdout.splitlines()
        assert hostname == "first"
        assert inside == [os.readlink(f"/proc/{pid}/ns/{file}") for file in ("net", "ipc", "uts")]

    def test_a_joined_pid_namespace(self, ctr: Containerd, start: Start, run: Run, marker: str) -> None:
        one = start(name=f"{marker}-host")
        result = run("sh", "-c", "cat /proc/1/comm", flags=("--with-ns", f"pid:/proc/{ctr.pid(one)}/ns/pid"))
        assert result == (0, "sleep\n", "")

    def test_the_hosts_network(self, run: Run) -> None:
        assert run("readlink", "/proc/self/ns/net", flags=("--net-host",)).stdout.strip() == os.readlink(
            "/proc/self/ns/net"
        )

    @pytest.mark.needs("userns")
    def test_a_user_namespace(self, run: Run) -> None:
        flags = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
        result = run("sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/x && stat -c %u /tmp/x", flags=flags)
        assert (result.status, result.stdout.split()) == (0, ["0", "0", "100000", "65536", "0"]), result

    def test_several_in_one_shim(self, ctr: Containerd, start: Start, marker: str) -> None:
        """As a pod has it: one shim for a group of containers, which each come and go."""
        flags = ("--label", f"io.containerd.runc.v2.group={marker}")
        first, *others = [start(name=f"{marker}-{number}", flags=flags) for number in range(3)]
        assert len(ctr.shims()) == 1
        for one in others:
            ctr("tasks", "delete", "--force", one)
        assert ctr.statuses() == {first: "RUNNING"}


class TestOptions:
    def test_user_directory_environment_and_hostname(self, run: Run) -> None:
        flags = ("--user", "guest", "--cwd", "/tmp", "--env", "A=b c", "--hostname", "box")
        result = run("sh", "-c", "id -u; id -g; id -G; pwd; echo $A; hostname", flags=flags)
        assert result == (0, "1000\n1001\n1001 2002\n/tmp\nb c\nbox\n", "")

    def test_a_read_only_root(self, run: Run) -> None:
        result = run("touch", "/x", flags=("--read-only",))
        assert result.status == 1
        assert "Read-only file system" in result.stderr

    def test_a_mount(self, run: Run, scratch: Path) -> None:
        (scratch / "file").write_text("shared")
        mount = f"type=bind,src={scratch},dst=/mnt,options=rbind:ro"
        result = run("sh", "-c", "cat /mnt/file; touch /mnt/x", flags=("--mount", mount))
        assert result.stdout == "shared"
        assert "Read-only file system" in result.stderr

    def test_capabilities(self, run: Run) -> None:
        flags = ("--cap-drop", "CAP_CHOWN", "--cap-add", "CAP_SYS_TIME")
        line = run("grep", "CapEff", "/proc/self/status", flags=flags).stdout
        effective = int(line.split()[1], 16)
        assert not effective >> 0 & 1
        assert effective >> 25 & 1

    @pytest.mark.needs("libseccomp")
    def test_the_default_seccomp_profile(self, run: Run) -> None:
        result = run("sh", "-c", "grep Seccomp: /proc/self/status; unshare -U true", flags=("--seccomp",))
        assert result.stdout == "Seccomp:\t2\n"
        assert result.status != 0

    def test_privileged(self, run: Run) -> None:
        result = run("sh", "-c", "mount -t tmpfs none /mnt && echo mounted", flags=("--privileged",))
        assert result == (0, "mounted\n", "")

    def test_a_device(self, run: Run) -> None:
        number = os.stat("/dev/kmsg").st_rdev
        result = run("stat", "-c", "%F %t:%T", "/dev/kmsg", flags=("--device", "/dev/kmsg"))
        assert result.stdout == f"character special file {os.major(number):x}:{os.minor(number):x}\n", result

    def test_new_privileges(self, run: Run) -> None:
        assert run("grep", "NoNewPrivs", "/proc/self/status").stdout == "NoNewPrivs:\t1\n"
        assert run("grep", "NoNewPrivs", "/proc/self/status", flags=("--allow-new-privs",)).stdout == "NoNewPrivs:\t0\n"

    def test_no_pivot(self, run: Run) -> None:
        assert run("echo", "hi", flags=("--no-pivot",)) == (0, "hi\n", "")

    @pytest.mark.only_pyruntime(
        "runc 1.1 leaves the root private; runtime-tools' linux_rootfs_propagation finds the same"
    )
    def test_propagation(self, run: Run) -> None:
        result = run("cat", "/proc/self/mountinfo", flags=("--rootfs-propagation", "rshared"))
        root = next(line for line in result.stdout.splitlines() if line.split()[4] == "/")
        assert " shared:" in root, result.stdout


class TestManyAtOnce:
    def test_each_has_its_own_output(self, ctr: Containerd, marker: str) -> None:
        def one(number: int) -> Result:
            return ctr(*ctr.run_arguments("--rm"), IMAGE, f"{marker}-{number}", "echo", str(number), timeout=100)

        with ThreadPoolExecutor(10) as pool:
            results = list(pool.map(one, range(20)))
        assert results == [(0, f"{number}\n", "") for number in range(20)]

    def test_all_run(self, ctr: Containerd, start: Start, marker: str) -> None:
        with ThreadPoolExecutor(5) as pool:
            names = list(pool.map(lambda number: start(name=f"{marker}-{number}"), range(10)))
        assert ctr.statuses() == dict.fromkeys(names, "RUNNING")


class TestTrouble:
    def test_the_shim_dies(self, ctr: Containerd, start: Start) -> None:
        """containerd then calls `delete --force`, from a shim that knows nothing but the ID."""
        one = start()
        pid, cgroup = ctr.pid(one), ctr.cgroup(one)
        for shim in ctr.shims():
            end(shim)
        until(lambda: not os.path.exists(f"/proc/{pid}") and not cgroup.exists(), "the container outlives its shim")
        assert ctr("containers", "delete", one).status == 0

    def test_containerd_starts_anew(self, ctr: Containerd, start: Start) -> None:
        one = start()
        ctr.stop()
        ctr.start()
        assert ctr.statuses() == {one: "RUNNING"}
        assert ctr("tasks", "kill", "--signal", "KILL", one).status == 0
        ctr.wait_for(one, "STOPPED")

    def test_deleted_behind_containerds_back(self, ctr: Containerd, start: Start) -> None:
        one = start()
        root = str(ctr.state_root / ctr.namespace)
        subprocess.run([ctr.runtime, "--root", root, "delete", "--force", one], check=True)
        ctr.wait_for(one, "STOPPED")
        assert ctr("tasks", "delete", one).status == 0

    def test_the_runtimes_own_answers(self, ctr: Containerd, start: Start) -> None:
        one = start()
        root = str(ctr.state_root / ctr.namespace)
        listed = subprocess.run([ctr.runtime, "--root", root, "list", "--format=json"], capture_output=True, check=True)
        (row,) = json.loads(listed.stdout)
        assert (row["id"], row["pid"], row["status"]) == (one, ctr.pid(one), "running")
        gone = subprocess.run([ctr.runtime, "--root", root, "state", "nobody"], capture_output=True, check=False)
        assert gone.returncode == 1
        assert b"does not exist" in gone.stderr


def processes_of(ctr: Containerd, one: str) -> list[int]:
    """The PIDs that `ctr task ps` shows; containerd asks the runtime for them."""
    result = ctr("tasks", "ps", one)
    assert result.status == 0, result
    return [int(line.split()[0]) for line in result.stdout.splitlines()[1:]]


def execute(
    ctr: Containerd, one: str, *command: str, flags: tuple[str, ...] = (), stdin: str = "", name: str = "e"
) -> Result:
    """`ctr task exec` in the foreground."""
    return ctr("tasks", "exec", "--exec-id", name, *flags, one, *command, stdin=stdin)


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal. See proc_pid_status(5)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
