"""create, start, kill, delete: the states of a container and who may do what in each (runtime.md#lifecycle)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyruntime.state.store import STATE_FILE, Store
from tests.support.container import Container, wait_until
from tests.support.leftovers import Leftovers, cgroups_named, read_environment
from tests.support.runtime import Runtime

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

DOES_NOT_EXIST = "does not exist"


@pytest.fixture
def sleeper(container: Container) -> Container:
    """A container that does nothing for long, not yet created."""
    container.process["args"] = ["sleep", "1000"]
    return container


@pytest.fixture
def running(sleeper: Container) -> Container:
    assert sleeper.run_detached().status == 0
    return sleeper


@pytest.fixture
def created(sleeper: Container) -> Container:
    assert sleeper.create().status == 0
    return sleeper


@pytest.fixture
def stopped(container: Container) -> Container:
    assert container.run_detached().status == 0
    container.wait_for("stopped")
    return container


def test_create_does_not_run_the_program(container: Container) -> None:
    container.config["root"]["readonly"] = False
    container.script("echo ran > /tmp/proof")
    assert container.create().status == 0
    assert container.state()["status"] == "created"
    assert Path(f"/proc/{container.pid()}").exists()
    assert not (container.rootfs / "tmp/proof").exists()
    assert container.start().status == 0
    container.wait_for("stopped")
    assert container.read("tmp/proof") == "ran\n"


def test_created_container_is_one_process(created: Container, leftovers: Leftovers) -> None:
    """Between create and start only the container's init is there: no helper of the runtime's may live on."""
    assert leftovers.processes() in ([], [created.pid()])


def test_running_container_is_the_program_alone(running: Container, leftovers: Leftovers) -> None:
    pid = running.pid()
    wait_until(lambda: read_environment(pid).startswith(b"PATH="), "the program to be executed")
    assert leftovers.processes() == [pid]
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\0"


def test_start_shows_the_program_at_once(created: Container) -> None:
    assert created.start().status == 0
    wait_until(lambda: b"1000" in Path(f"/proc/{created.pid()}/cmdline").read_bytes(), "the program's own command line")


def test_states_in_order(created: Container) -> None:
    assert created.state()["status"] == "created"
    assert created.start().status == 0
    assert created.state()["status"] == "running"
    assert created.kill("KILL").status == 0
    created.wait_for("stopped")
    assert created.delete().status == 0
    assert created.runtime("state", created.id).status == 1


@pytest.mark.parametrize("when", ["running", "stopped"])
def test_start_of_what_was_started(when: str, request: pytest.FixtureRequest) -> None:
    container: Container = request.getfixturevalue(when)
    result = container.start()
    assert result.status == 1
    assert when in result.stderr
    assert container.state()["status"] == when


def test_start_twice(created: Container) -> None:
    assert created.start().status == 0
    assert created.start().status == 1
    assert created.state()["status"] == "running"


@pytest.mark.parametrize("verb", ["create", "run"])
def test_the_same_id_twice(running: Container, new_container: Callable[[], Container], verb: str) -> None:
    second = new_container()
    second.write()
    result = running.runtime(verb, "-b", str(second.path), running.id)
    assert result.status == 1
    assert "exist" in result.stderr
    assert running.state()["status"] == "running", "the refused second container has hurt the first"
    assert running.state()["bundle"] == str(running.path)
    assert cgroups_named(running.id)


@pytest.mark.parametrize("verb", ["start", "state", "kill", "delete"])
def test_unknown_id(driver: Runtime, verb: str) -> None:
    result = driver(verb, "nobody")
    assert result.status == 1
    assert DOES_NOT_EXIST in result.stderr
    assert len(result.lines()) == 1


def test_delete_force_of_an_unknown_id_succeeds(driver: Runtime) -> None:
    """Engines delete twice; with --force the second is no error."""
    assert driver("delete", "--force", "nobody") == (0, "", "")


@pytest.mark.parametrize("verb", ["create", "run", "start", "state", "kill", "delete"])
@pytest.mark.parametrize("bad", ["../up", "a/b", "..", ".", "", "a b", "a\nb", "é/", "/"])
def test_an_id_that_could_leave_the_state_directory(
    container: Container, leftovers: Leftovers, verb: str, bad: str
) -> None:
    """`delete ..` once emptied the parent of --root in crun."""
    container.write()
    container.runtime.root.mkdir()
    witness = container.path / "config.json"
    words = ["-b", str(container.path)] if verb in ("create", "run") else []
    result = container.runtime(verb, *words, bad)
    assert result.status == 1
    assert result.stderr or result.stdout
    assert witness.exists()
    assert leftovers.found() == []


@pytest.mark.parametrize("verb", ["delete"])
@pytest.mark.parametrize("bad", ["../up", "..", "."])
def test_forced_delete_stays_in_the_state_directory(container: Container, verb: str, bad: str) -> None:
    container.write()
    container.runtime.root.mkdir()
    result = container.runtime(verb, "--force", bad)
    assert result.status == 1
    assert (container.path / "config.json").exists()


@pytest.mark.parametrize("good", ["a", "a_b", "a+b.c-d", "0", "A..b", "-x"])
def test_odd_but_allowed_ids(container: Container, marker: str, good: str) -> None:
    container.id = f"{marker}{good}"
    container.script("echo here")
    assert container.run().stdout == "here\n"


TRAPS = "trap 'echo got TERM; exit 1' TERM; trap 'echo got HUP; exit 2' HUP; trap 'echo got USR1; exit 3' USR1"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "TERM"),
        (["TERM"], "TERM"),
        (["SIGTERM"], "TERM"),
        (["term"], "TERM"),
        (["15"], "TERM"),
        (["HUP"], "HUP"),
        (["1"], "HUP"),
        (["SIGUSR1"], "USR1"),
    ],
)
def test_kill_sends_the_signal(container: Container, words: list[str], name: str) -> None:
    container.config["root"]["readonly"] = False
    container.script(f"exec > /tmp/log; {TRAPS}; touch /tmp/ready; while :; do usleep 10000; done")
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "tmp/ready").exists, "the traps to be set")
    assert container.kill(*words) == (0, "", "")
    container.wait_for("stopped")
    assert container.read("tmp/log") == f"got {name}\n"


@pytest.mark.parametrize("word", ["NOSUCH", "SIGNOSUCH", "x9", "1.5", " 9"])
def test_kill_with_an_unknown_signal(running: Container, word: str) -> None:
    result = running.kill(word)
    assert result.status == 1
    assert word.strip() in result.stderr
    assert running.state()["status"] == "running"


@pytest.mark.only_pyruntime("runc's strconv takes any number and lets the kernel refuse it, with a message of its own")
@pytest.mark.parametrize("word", ["-9", "65", "9999999999", "1_5", "１５"])
def test_kill_with_an_impossible_number(running: Container, word: str) -> None:
    result = running.kill("--", word) if word.startswith("-") else running.kill(word)
    assert result.status == 1
    assert running.state()["status"] == "running"


def test_kill_of_a_created_container(created: Container) -> None:
    assert created.kill("KILL").status == 0
    created.wait_for("stopped")
    assert created.delete().status == 0


def test_kill_of_a_stopped_container(stopped: Container) -> None:
    result = stopped.kill("KILL")
    assert result.status == 1
    assert "not running" in result.stderr


def test_kill_all_reaches_every_process_of_the_cgroup(container: Container, leftovers: Leftovers) -> None:
    """Without a PID namespace of its own the container's children outlive its init."""
    container.drop_namespace("pid")
    container.config["root"]["readonly"] = False
    container.script("sleep 1000 & sleep 1000 & touch /tmp/ready; wait")
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "tmp/ready").exists, "the children")
    assert container.runtime("kill", "--all", container.id, "KILL").status == 0
    wait_until(lambda: leftovers.processes() == [], "all processes to be killed")


def test_delete_of_a_running_container_is_refused(running: Container) -> None:
    result = running.delete()
    assert result.status == 1
    assert running.id in result.stderr
    assert "running" in result.stderr or "not stopped" in result.stderr
    assert running.state()["status"] == "running"


@pytest.mark.parametrize("when", ["created", "running", "stopped"])
def test_forced_delete_leaves_nothing(when: str, request: pytest.FixtureRequest, leftovers: Leftovers) -> None:
    container: Container = request.getfixturevalue(when)
    assert container.delete("--force") == (0, "", "")
    assert leftovers.found() == []


def test_delete_of_a_created_container(created: Container, leftovers: Leftovers) -> None:
    """runc:delete.go: a container that was never started is killed and removed without --force."""
    assert created.delete().status == 0
    assert leftovers.found() == []


def test_delete_twice(stopped: Container) -> None:
    assert stopped.delete().status == 0
    result = stopped.delete()
    assert result.status == 1
    assert DOES_NOT_EXIST in result.stderr


def test_an_id_can_be_used_again(stopped: Container) -> None:
    assert stopped.delete().status == 0
    assert stopped.output("echo again") == "again"


def test_forced_delete_kills_children_without_a_pid_namespace(container: Container, leftovers: Leftovers) -> None:
    container.drop_namespace("pid")
    container.config["root"]["readonly"] = False
    container.script("trap '' TERM; sleep 1000 & sleep 1000 & touch /tmp/ready; wait")
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "tmp/ready").exists, "the children")
    assert container.delete("--force").status == 0
    assert leftovers.found() == []


def test_an_init_killed_from_outside(running: Container) -> None:
    os.kill(running.pid(), signal.SIGKILL)
    running.wait_for("stopped")
    assert running.delete().status == 0


def test_a_killed_foreground_runtime_is_cleaned_up_by_delete(sleeper: Container, leftovers: Leftovers) -> None:
    # Not pipes, which the container may go on holding.
    process = sleeper.spawn(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: sleeper.runtime("state", sleeper.id).status == 0, "the container")
    sleeper.wait_for("running")
    process.kill()
    process.wait()
    assert sleeper.delete("--force").status == 0
    assert leftovers.found() == []


def test_a_runtime_killed_while_it_creates(sleeper: Container, leftovers: Leftovers) -> None:
    """Kill `create` at growing delays: whatever it had done by then, `delete --force` removes it."""
    sleeper.write()
    for step in range(12):
        process = sleeper.runtime.spawn(
            "create", "-b", str(sleeper.path), sleeper.id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(step * 0.008)
        process.kill()
        process.wait()
        result = sleeper.delete("--force")
        assert result.status == 0, result
    assert leftovers.found() == []


def test_a_second_create_while_the_first_is_there(created: Container) -> None:
    first = created.pid()
    assert created.create().status == 1
    assert created.pid() == first
    assert created.start().status == 0


def test_many_at_the_same_time(new_container: Callable[[], Container]) -> None:
    containers = [new_container() for _ in range(6)]
    processes = []
    for one in containers:
        one.script(f"echo {one.id}")
        processes.append(one.spawn())
    outputs = [process.communicate(timeout=60)[0].decode().strip() for process in processes]
    assert outputs == [one.id for one in containers]


def test_a_failing_start_is_reported_by_start(container: Container) -> None:
    """A program that vanishes after create: `start` has to tell, or the state must become stopped."""
    container.add_program("bin/own", container.rootfs / "bin/busybox")
    container.process["args"] = ["/bin/own", "sleep", "1000"]
    assert container.create().status == 0
    (container.rootfs / "bin/own").unlink()
    container.start()
    container.wait_for("stopped")


def test_sigterm_to_init_without_a_handler_is_ignored(running: Container) -> None:
    """The kernel protects a PID namespace's init: SIGTERM without a handler does nothing, SIGKILL does."""
    pid = running.pid()
    wait_until(lambda: b"1000" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the program")
    assert running.kill("TERM").status == 0
    assert running.state()["status"] == "running"
    assert running.kill("KILL").status == 0
    running.wait_for("stopped")


@pytest.mark.only_pyruntime("it looks into the state directory")
@pytest.mark.parametrize("inhabited", [False, True])
def test_a_cgroup_that_was_made_and_never_recorded(container: Container, leftovers: Leftovers, inhabited: bool) -> None:
    """`create` was killed between making its cgroup and saying so: delete removes it, but kills nobody in it."""
    assert container.create().status == 0
    record_path = container.runtime.root / container.id / STATE_FILE
    record = Store(str(container.runtime.root), container.id).read()
    group = Path(record["cgroup"])
    assert container.delete("--force").status == 0
    record_path.parent.mkdir()
    record_path.write_text(json.dumps(record | {"cgroup": "", "cgroupIntended": str(group), "pid": 0}) + "\n")
    group.mkdir()
    if not inhabited:
        assert container.delete("--force").status == 0
        assert leftovers.found() == []
        return
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (group / "cgroup.procs").write_text(str(stranger.pid))
        result = container.delete("--force")
        assert (result.status, stranger.poll()) == (0, None)
        assert f"{group}" in result.stderr
    finally:
        stranger.kill()
        stranger.wait()
        group.rmdir()
