"""`pause`, `resume`, and what can be done with a paused container; `ps`, which reads the same cgroup."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyruntime.state.store import STATE_FILE, Store
from tests.support.container import Container, wait_until
from tests.support.leftovers import Leftovers, cgroups_named
from tests.support.runtime import Runtime

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

VERBS = ("pause", "resume", "ps")


@pytest.fixture
def running(container: Container) -> Container:
    """A container of three processes, the innermost in a cgroup of its own below the container's."""
    container.config["root"]["readonly"] = False
    container.script("sleep 1000 & sleep 1000 & touch /tmp/ready; wait")
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "tmp/ready").exists, "the children")
    return container


@pytest.fixture
def paused(running: Container) -> Container:
    assert running.runtime("pause", running.id) == (0, "", "")
    return running


def is_frozen(container: Container) -> bool:
    """Whether the kernel says so, in cgroup v2's words or, where runc uses those, in v1's."""
    files = [Path(path, name) for path in cgroups_named(container.id) for name in ("cgroup.events", "freezer.state")]
    words = [file.read_text().split() for file in files if file.exists()]
    return any("FROZEN" in each or "frozen 1" in " ".join(each) for each in words)


def test_pause_and_resume(container: Container) -> None:
    """A paused program does nothing at all, and goes on as if nothing had been."""
    container.script("while read line; do echo $line; done")
    process = container.spawn(stdin=subprocess.PIPE)
    assert process.stdin and process.stdout
    try:
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"one\n"
        assert container.runtime("pause", container.id) == (0, "", "")
        assert container.state()["status"] == "paused"
        process.stdin.write(b"two\n")
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        assert process.stdout.read() is None
        os.set_blocking(process.stdout.fileno(), True)
        assert container.runtime("resume", container.id) == (0, "", "")
        assert container.state()["status"] == "running"
        assert process.stdout.readline() == b"two\n"
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe
            pipe.close()


def test_pause_waits_until_all_have_stopped(paused: Container) -> None:
    assert is_frozen(paused)
    assert paused.runtime("resume", paused.id) == (0, "", "")
    assert not is_frozen(paused)


def test_a_created_container_can_be_paused(container: Container) -> None:
    assert container.create().status == 0
    assert container.runtime("pause", container.id).status == 0
    assert container.state()["status"] == "paused"
    result = container.start()
    assert result.status == 1
    assert "paused" in result.stderr
    assert container.runtime("resume", container.id).status == 0
    assert container.state()["status"] == "created"
    assert container.start().status == 0


def test_pause_of_a_paused_container(paused: Container) -> None:
    result = paused.runtime("pause", paused.id)
    assert result.status == 1
    assert "container not running" in result.stderr
    assert paused.state()["status"] == "paused"


def test_resume_of_a_running_container(running: Container) -> None:
    result = running.runtime("resume", running.id)
    assert result.status == 1
    assert "container not paused" in result.stderr
    assert running.state()["status"] == "running"


@pytest.mark.parametrize(("verb", "words"), [("pause", "container not running"), ("resume", "container not paused")])
def test_a_stopped_container(container: Container, verb: str, words: str) -> None:
    assert container.run_detached().status == 0
    container.wait_for("stopped")
    result = container.runtime(verb, container.id)
    assert result.status == 1
    assert words in result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_id(driver: Runtime, verb: str) -> None:
    result = driver(verb, "nobody")
    assert result.status == 1
    assert "container does not exist" in result.stderr
    assert len(result.lines()) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_no_id(driver: Runtime, verb: str) -> None:
    assert driver(verb).status == 1


def test_delete_of_a_paused_container_is_refused(paused: Container) -> None:
    result = paused.delete()
    assert result.status == 1
    assert "paused" in result.stderr
    assert paused.state()["status"] == "paused"


def test_forced_delete_of_a_paused_container(paused: Container, leftovers: Leftovers) -> None:
    assert paused.delete("--force") == (0, "", "")
    assert leftovers.found() == []


def test_a_killed_one_needs_no_resume(paused: Container, leftovers: Leftovers) -> None:
    assert paused.kill("KILL") == (0, "", "")
    paused.wait_for("stopped")
    assert paused.delete() == (0, "", "")
    assert leftovers.found() == []


def test_another_signal_waits_for_the_resume(container: Container) -> None:
    container.config["root"]["readonly"] = False
    container.script("trap 'echo got > /tmp/log; exit 0' TERM; touch /tmp/ready; while :; do usleep 10000; done")
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "tmp/ready").exists, "the trap")
    assert container.runtime("pause", container.id).status == 0
    assert container.kill("TERM") == (0, "", "")
    assert container.state()["status"] == "paused"
    assert not (container.rootfs / "tmp/log").exists()
    assert container.runtime("resume", container.id).status == 0
    container.wait_for("stopped")
    assert container.read("tmp/log") == "got\n"


def host_pids(container: Container) -> list[int]:
    """What `ps` says, as a list."""
    result = container.runtime("ps", "--format", "json", container.id)
    assert (result.status, result.stderr) == (0, "")
    pids = json.loads(result.stdout) or []
    assert all(type(pid) is int for pid in pids)
    return pids


def test_ps_in_json_is_the_list_of_pids(running: Container, leftovers: Leftovers) -> None:
    """go-runc decodes it into []int; containerd's task API shows it."""
    found = host_pids(running)
    assert sorted(found) == sorted(leftovers.processes())
    assert len(found) == 3
    assert running.pid() in found


def test_ps_knows_those_of_cgroups_below(container: Container, leftovers: Leftovers) -> None:
    """A container with a cgroup namespace may sort its processes into cgroups of its own."""
    container.config["root"]["readonly"] = False
    assert container.create().status == 0
    (path,) = [path for path in cgroups_named(container.id) if Path(path, "cgroup.events").exists()]
    below = Path(path, "below")
    below.mkdir()
    (below / "cgroup.procs").write_text(str(container.pid()))
    assert host_pids(container) == [container.pid()]
    assert container.delete("--force").status == 0
    assert leftovers.found() == []


def test_ps_prints_the_lines_of_ps(running: Container) -> None:
    result = running.runtime("ps", running.id)
    assert (result.status, result.stderr) == (0, "")
    title, *lines = result.stdout.splitlines()
    column = title.split().index("PID")
    assert "CMD" in title
    assert sorted(int(line.split()[column]) for line in lines) == sorted(host_pids(running))
    assert sum("sleep 1000" in line for line in lines) >= 2


@pytest.mark.parametrize(
    "words", [["-e", "-o", "ppid,pid,args"], ["-eo", "ppid,pid,args"], ["-A", "-o", "ppid,pid,args"]]
)
def test_words_behind_the_id_are_for_ps(running: Container, words: list[str]) -> None:
    result = running.runtime("ps", running.id, *words)
    assert (result.status, result.stderr) == (0, "")
    title, *lines = result.stdout.splitlines()
    assert title.split() == ["PPID", "PID", "COMMAND"]
    assert sorted(int(line.split()[1]) for line in lines) == sorted(host_pids(running))


@pytest.mark.parametrize(
    ("words", "told"),
    [(["-e", "-o", "args"], "PID"), (["-e", "-o", "args,pid"], ""), (["--nonsense"], "exit status 1")],
)
def test_ps_with_arguments_that_do_not_fit(running: Container, words: list[str], told: str) -> None:
    result = running.runtime("ps", running.id, *words)
    assert result.status == 1
    assert told in result.stderr


def test_ps_in_an_unknown_format(running: Container) -> None:
    assert running.runtime("ps", "-f", "yaml", running.id).status == 1


def test_ps_without_a_ps(running: Container, scratch: Path) -> None:
    result = running.runtime("ps", running.id, env=running.runtime.environment | {"PATH": str(scratch)})
    assert result.status == 1
    assert "ps" in result.stderr
    assert running.runtime("ps", "-f", "json", running.id, env={"PATH": str(scratch)}).status == 0


@pytest.mark.runc_since("1.2", "before, the cgroup being gone was an error")
def test_ps_of_a_stopped_container_prints_the_title(container: Container) -> None:
    assert container.run_detached().status == 0
    container.wait_for("stopped")
    result = container.runtime("ps", container.id)
    assert (result.status, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1
    assert host_pids(container) == []


@pytest.fixture
def orphaned(container: Container, new_container: Callable[[], Container]) -> Container:
    """Without a PID namespace of its own, whose init has ended and whose children run."""
    container.drop_namespace("pid")
    container.config["root"]["readonly"] = False
    container.script("sleep 1000 & sleep 1000 & touch /tmp/ready; wait")
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "tmp/ready").exists, "the children")
    os.kill(container.pid(), signal.SIGKILL)
    container.wait_for("stopped")
    return container


@pytest.mark.runc_since("1.2", "before, only --all reached them")
def test_sigkill_is_for_all_where_the_pid_namespace_is_shared(orphaned: Container, leftovers: Leftovers) -> None:
    assert len(leftovers.processes()) == 2
    assert orphaned.kill("KILL") == (0, "", "")
    wait_until(lambda: leftovers.processes() == [], "all to be killed")
    assert orphaned.delete() == (0, "", "")


@pytest.mark.runc_since("1.2", "before, only --all reached them")
def test_sigkill_of_a_running_one_is_for_all_too(container: Container, leftovers: Leftovers) -> None:
    container.drop_namespace("pid")
    container.config["root"]["readonly"] = False
    container.script("sleep 1000 & sleep 1000 & touch /tmp/ready; wait")
    assert container.run_detached().status == 0
    wait_until((container.rootfs / "tmp/ready").exists, "the children")
    assert container.kill("9") == (0, "", "")
    wait_until(lambda: leftovers.processes() == [], "all to be killed")


def test_another_signal_is_for_the_init_alone(orphaned: Container, leftovers: Leftovers) -> None:
    result = orphaned.kill("TERM")
    assert result.status == 1
    assert "not running" in result.stderr
    assert len(leftovers.processes()) == 2


def test_kill_all_of_a_stopped_container(orphaned: Container, leftovers: Leftovers) -> None:
    assert orphaned.runtime("kill", "--all", orphaned.id, "KILL") == (0, "", "")
    wait_until(lambda: leftovers.processes() == [], "all to be killed")
    # As containerd does it: again, and nobody is there any more.
    assert orphaned.runtime("kill", "-a", orphaned.id, "KILL").status == 0


@pytest.mark.only_pyruntime("since 1.2 runc's --all is for the init, too; before, and in crun, it is for all")
def test_kill_all_means_all_for_any_signal(orphaned: Container, leftovers: Leftovers) -> None:
    assert orphaned.runtime("kill", "--all", orphaned.id, "TERM") == (0, "", "")
    wait_until(lambda: leftovers.processes() == [], "all to be terminated")


@pytest.mark.only_pyruntime("since 1.2 runc's --all is for the init alone; before, it resumes the container")
def test_kill_all_of_a_paused_container_leaves_it_paused(paused: Container) -> None:
    assert paused.runtime("kill", "--all", paused.id, "USR1").status == 0
    assert paused.state()["status"] == "paused"


@pytest.fixture
def without_cgroup(running: Container) -> Iterator[Container]:
    """A record as a user's container has it who may make no cgroup; put back, so that `delete` removes ours."""
    path = running.runtime.root / running.id / STATE_FILE
    text = path.read_text()
    record = Store(str(running.runtime.root), running.id).read() | {
        "cgroup": "",
        "cgroupIntended": "",
        "sharesPids": True,
    }
    path.write_text(json.dumps(record) + "\n")
    yield running
    path.write_text(text)


@pytest.mark.only_pyruntime("it writes the record")
@pytest.mark.parametrize("verb", ["pause", "ps", "update", "events"])
def test_without_a_cgroup_it_is_said_what_is_missing(without_cgroup: Container, verb: str) -> None:
    result = without_cgroup.runtime(verb, without_cgroup.id)
    assert result.status == 1
    assert "the container has no cgroup" in result.stderr and "Delegate=" in result.stderr
    assert len(result.lines()) == 1


@pytest.mark.only_pyruntime("it writes the record")
@pytest.mark.parametrize("words", [["KILL"], ["--all", "KILL"]])
def test_kill_without_a_cgroup_warns_of_those_it_cannot_reach(without_cgroup: Container, words: list[str]) -> None:
    result = without_cgroup.runtime("kill", *words[:-1], without_cgroup.id, words[-1])
    assert result.status == 0
    assert "the container has no cgroup" in result.stderr
    without_cgroup.wait_for("stopped")
