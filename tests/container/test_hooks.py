"""The six hooks: when, where and as whom they run, what they are told, and what their failure does.

Every host-side hook here is one shell script that notes its name, its namespaces and its stdin in a file of the test's.
Sources: config.md#posix-platform-hooks, runtime.md#lifecycle.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.injection import SLOW_STAGE, commands
from tests.support.leftovers import Leftovers
from tests.support.runtime import Runtime, identify

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

ON_CREATE = ["prestart", "createRuntime", "createContainer"]
KINDS = [*ON_CREATE, "startContainer", "poststart", "poststop"]
ON_HOST = ["prestart", "createRuntime", "poststart", "poststop"]
NOTE = """
state=$(cat)
for kind in mnt net pid uts; do links="$links $kind=$(readlink /proc/self/ns/$kind)"; done
printf '%s\\n' "$0" "$links" "$state" "$PWD" "$@" > "$NOTES/$0.new"
mv "$NOTES/$0.new" "$NOTES/$0"
echo "$0" >> "$NOTES/order"
"""


def hook(script: str, *args: str, name: str = "hook", path: str = "/bin/sh", **more: Any) -> dict[str, Any]:
    """An entry that runs a shell script; `name` is its $0, `args` are its $1 and so on."""
    env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"} | more.pop("env", {})
    return {
        "path": path,
        "args": ["sh", "-c", script, name, *args],
        "env": [f"{k}={v}" for k, v in env.items()],
        **more,
    }


@pytest.fixture
def notes(container: Container) -> Path:
    """Where the hooks write: seen from the host, and from inside under the same path."""
    folder = container.path.parent / "notes"
    folder.mkdir()
    folder.chmod(0o777)
    container.add_bind(folder, str(folder))
    (folder / "order").touch()
    (folder / "order").chmod(0o666)  # hooks have several users
    (container.rootfs / str(folder).lstrip("/")).mkdir(parents=True)
    return folder


@pytest.fixture
def noted(container: Container, notes: Path) -> Container:
    """A container with one hook of each kind, all of which take notes."""
    container.config["hooks"] = {kind: [hook(NOTE, "a b", name=kind, env={"NOTES": str(notes)})] for kind in KINDS}
    container.script(f"echo program >> {notes}/order")
    return container


class Note:
    """What one hook has seen."""

    def __init__(self, notes: Path, kind: str) -> None:
        lines = (notes / kind).read_text().split("\n")
        self.name, links, state, self.cwd, *self.args = lines[:-1]
        self.namespaces = dict(word.split("=", 1) for word in links.split())
        self.state: dict[str, Any] = json.loads(state)


def order(notes: Path) -> list[str]:
    return (notes / "order").read_text().split()


@pytest.mark.runc_since("1.4", "poststart hooks after the program")
def test_order_of_a_run(noted: Container, notes: Path) -> None:
    result = noted.run()
    assert result.status == 0, result
    found = order(notes)
    # The program runs while poststart does.
    assert [name for name in found if name != "program"] == KINDS
    assert [name for name in found if name != "poststart"] == [*KINDS[:4], "program", "poststop"]


@pytest.mark.needs("timens")
@pytest.mark.only_pyruntime("what is made slow is a function of pyruntime's")
def test_a_stage_that_is_slow_to_say_who_the_process_is(
    noted: Container, notes: Path, driver: Runtime, scratch: Path
) -> None:
    _, driver.command = map(str, commands(scratch, SLOW_STAGE))
    driver.environment = driver.environment | {"INJECT": "nowhere:0:0"}
    del noted.config["hooks"]["startContainer"]  # which has the command start again without this environment
    noted.set_namespace("time")
    noted.linux["timeOffsets"] = {"monotonic": {"secs": 100}}
    assert noted.create().status == 0
    assert Note(notes, "createRuntime").state["pid"] == noted.state()["pid"]


@pytest.mark.runc_since("1.4", "poststart hooks after the program")
def test_order_of_the_verbs(noted: Container, notes: Path) -> None:
    noted.script(f"echo program >> {notes}/order; exec sleep 1000")
    assert noted.create().status == 0
    assert order(notes) == ON_CREATE
    assert noted.state()["status"] == "created"
    assert noted.start().status == 0
    wait_until(lambda: "program" in order(notes), "the program")
    assert sorted(order(notes)[4:]) == ["poststart", "program"]
    assert order(notes)[3] == "startContainer"
    assert noted.delete("--force").status == 0
    assert order(notes)[-1] == "poststop"


def test_namespaces(noted: Container, notes: Path) -> None:
    noted.script(f"for k in mnt net pid uts; do readlink /proc/self/ns/$k; done > {notes}/inside")
    assert noted.run().status == 0
    host = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net", "pid", "uts")}
    inside = dict(zip(("mnt", "net", "pid", "uts"), (notes / "inside").read_text().split(), strict=True))
    assert not set(host.values()) & set(inside.values())
    for kind in KINDS:
        expected = host if kind in ON_HOST else inside
        assert Note(notes, kind).namespaces == expected, kind


def test_state_on_stdin(noted: Container, notes: Path) -> None:
    noted.config["annotations"] = {"com.example.key": 'a "value"'}
    noted.process["args"] = ["sleep", "1000"]
    assert noted.create().status == 0
    pid = noted.pid()
    assert noted.start().status == 0
    assert noted.delete("--force").status == 0
    status = ["creating"] * 3 + ["created", "running", "stopped"]
    pids = [pid, pid, 1, 1, pid, None]
    for kind, expected, number in zip(KINDS, status, pids, strict=True):
        state = Note(notes, kind).state
        if identify().name == "pyruntime" or kind != "poststart":  # of runc's since 1.4 only
            assert state["status"] == expected, kind
        assert state.get("pid") == number, kind
        assert state["id"] == noted.id
        assert state["bundle"] == str(noted.path)
        assert state["annotations"] == {"com.example.key": 'a "value"'}
        assert state["ociVersion"].startswith("1.")


def test_arguments_and_directory(noted: Container, notes: Path) -> None:
    noted.process["cwd"] = "/tmp"
    assert noted.run().status == 0
    for kind in KINDS:
        note = Note(notes, kind)
        assert (note.name, note.args) == (kind, ["a b"])
    assert Note(notes, "createContainer").cwd == str(noted.rootfs)
    assert Note(notes, "startContainer").cwd == "/tmp"


def test_environment(container: Container, notes: Path) -> None:
    """Exactly what is given, in its order, whatever the runtime's own may be."""
    env = ["ODD=x y", "PATH=/nowhere", "A==b", "EMPTY="]
    container.config["hooks"] = {
        kind: [{"path": "/bin/cp", "args": ["cp", "/proc/self/environ", f"{notes}/{kind}.env"], "env": env}]
        for kind in KINDS
    }
    assert container.run().status == 0
    for kind in KINDS:
        assert (notes / f"{kind}.env").read_text().split("\0") == [*env, ""], kind


@pytest.mark.only_pyruntime("runc starts the hooks of `start` and `delete` wherever it was called")
def test_hooks_on_the_host_start_in_the_bundle(noted: Container, notes: Path) -> None:
    assert noted.run().status == 0
    assert {Note(notes, kind).cwd for kind in ON_HOST} == {str(noted.path)}


@pytest.mark.only_pyruntime("runc gives its own environment to a hook without one, and the program's since 1.4 only")
def test_no_environment_of_the_callers(container: Container, notes: Path) -> None:
    container.config["hooks"] = {
        kind: [{"path": "/bin/cp", "args": ["cp", "/proc/self/environ", f"{notes}/{kind}.env"]}] for kind in KINDS
    }
    assert container.run().status == 0
    for kind in KINDS:
        found = (notes / f"{kind}.env").read_text()
        assert found.split("\0")[:-1] == (container.process["env"] if kind == "startContainer" else []), kind


def test_without_arguments_the_path_is_the_first(container: Container, notes: Path) -> None:
    script = container.path / "script"
    script.write_text(f'#!/bin/sh\necho "$0 $#" > {notes}/seen\n')
    script.chmod(0o755)
    container.config["hooks"] = {"createRuntime": [{"path": str(script)}]}
    assert container.run().status == 0
    assert (notes / "seen").read_text() == f"{script} 0\n"


def test_create_container_finds_its_program_on_the_host(container: Container, notes: Path) -> None:
    """config.md: the path resolves in the runtime namespace, and what it mounts is the container's."""
    (container.path / "only-here").mkdir()
    (container.path / "only-here/file").write_text("mounted by a hook\n")
    script = f"cat > /dev/null; mount --bind {container.path}/only-here {container.rootfs}/mnt"
    container.config["hooks"] = {"createContainer": [hook(script)]}
    assert container.output("cat /mnt/file") == "mounted by a hook"


def test_create_runtime_can_reach_into_the_namespaces(container: Container) -> None:
    """What network plugins do: the namespaces are there, and the PID leads to them."""
    make = "ip link add hooked type veth peer name peer"
    script = 'pid=$(sed "s/.*\\"pid\\": *//; s/[^0-9].*//"); nsenter -t $pid -n -- ' + make
    container.config["hooks"] = {"createRuntime": [hook(script)]}
    assert "hooked" in container.output("ip link show hooked")


def test_start_container_runs_as_the_containers_user(container: Container, notes: Path) -> None:
    container.process["user"] = {"uid": 1000, "gid": 1001}
    container.add_file(
        "bin/only-inside", f"#!/bin/sh\nid -u > {notes}/user; grep Cap /proc/self/status > {notes}/caps\n", 0o755
    )
    container.config["hooks"] = {"startContainer": [{"path": "/bin/only-inside", "env": ["PATH=/bin"]}]}
    own = container.output("grep Cap /proc/self/status")
    assert (notes / "user").read_text() == "1000\n"
    assert (notes / "caps").read_text().strip() == own


@pytest.mark.only_pyruntime("runc 1.1 has its own descriptors in a createContainer hook")
def test_descriptors_and_signals(container: Container, notes: Path) -> None:
    """A hook gets stdin, stdout and stderr, and no descriptor or signal setting of the runtime's."""
    container.config["hooks"] = {
        kind: [
            hook(f"cat > /dev/null; ls /proc/self/fd > {notes}/$0.fd", name=kind),
            # Without a shell: busybox's ignores SIGQUIT.
            {"path": "/bin/cp", "args": ["cp", "/proc/self/status", f"{notes}/{kind}.status"]},
        ]
        for kind in KINDS
    }
    assert container.run().status == 0
    for kind in KINDS:
        # 3 is the directory that ls reads.
        assert (notes / f"{kind}.fd").read_text().split() == ["0", "1", "2", "3"], kind
        fields = dict(line.split(":\t") for line in (notes / f"{kind}.status").read_text().splitlines())
        assert int(fields["SigBlk"], 16) == 0 == int(fields["SigIgn"], 16), (kind, fields)


def test_state_that_nobody_reads(container: Container) -> None:
    container.config["annotations"] = {f"key{i}": "x" * 1000 for i in range(300)}
    container.config["hooks"] = {kind: [{"path": "/bin/true"}] for kind in KINDS}
    assert container.output("echo fine") == "fine"


def test_much_output(container: Container) -> None:
    container.config["hooks"] = {kind: [hook("cat; yes | head -c 300000; yes | head -c 300000 >&2")] for kind in KINDS}
    result = container.run_script("echo fine")
    assert (result.status, result.stdout) == (0, "fine\n"), result


@pytest.mark.parametrize("kind", ON_CREATE)
def test_a_failure_while_creating(container: Container, notes: Path, refused: Refused, kind: str) -> None:
    """The first failure ends it: no other hook, no program, nothing left; poststop hooks run (runtime.md, 3 to 5)."""
    container.config["hooks"] = {
        kind: [
            hook(f"echo first >> {notes}/order"),
            hook("echo to-stdout; echo the reason >&2; exit 7"),
            hook(f"echo third >> {notes}/order"),
        ],
        "startContainer": [hook(f"echo startContainer >> {notes}/order")],
        "poststop": [hook(f"echo poststop >> {notes}/order")],
    }
    container.script(f"echo program >> {notes}/order")
    result = refused(f"config.json#/hooks/{kind}/1")
    assert order(notes) == ["first", "poststop"]
    assert "the reason" in result.stderr
    assert "7" in result.stderr


@pytest.mark.parametrize("kind", ON_CREATE)
def test_a_failure_fails_create(container: Container, leftovers: Leftovers, kind: str) -> None:
    container.config["hooks"] = {kind: [hook("exit 1")]}
    assert container.create().status != 0
    assert not leftovers.found()


def test_a_failing_start_container_hook_of_a_run(container: Container, notes: Path, refused: Refused) -> None:
    container.config["hooks"] = {
        "startContainer": [hook("echo the reason; exit 9"), hook(f"echo second >> {notes}/order")],
        "poststop": [hook(f"echo poststop >> {notes}/order")],
    }
    container.script(f"echo program >> {notes}/order")
    if identify().name == "runc":
        assert container.run().status != 0
        assert "program" not in order(notes)
        return
    result = refused("config.json#/hooks/startContainer/0")
    assert "the reason" in result.stderr
    assert "9" in result.stderr
    assert order(notes) == ["poststop"]


@pytest.mark.only_pyruntime("runc's start succeeds, and its container stays, stopped; the spec has it removed")
@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_a_failure_while_starting(container: Container, notes: Path, leftovers: Leftovers, kind: str) -> None:
    """runtime.md#lifecycle, 7 and 9: generate an error, stop the container, go on with its removal."""
    container.config["hooks"] = {
        kind: [hook("exit 9"), hook(f"echo second >> {notes}/order")],
        "poststop": [hook(f"echo poststop >> {notes}/order")],
    }
    container.process["args"] = ["sleep", "1000"]
    assert container.create().status == 0
    result = container.start()
    assert result.status == 1
    assert f"config.json#/hooks/{kind}/0" in result.stderr
    assert len(result.lines()) == 1
    assert order(notes) == ["poststop"]
    assert not leftovers.found()


@pytest.mark.parametrize("detach", [False, True])
def test_a_failing_poststart_hook_of_a_run(container: Container, leftovers: Leftovers, detach: bool) -> None:
    container.config["hooks"] = {"poststart": [hook("exit 9")]}
    container.process["args"] = ["sleep", "1000"]
    result = container.run_detached() if detach else container.run()
    assert result.status != 0
    assert not leftovers.found()


@pytest.mark.only_pyruntime("runc fails the delete and leaves out the other hooks, which the spec does not want")
def test_failing_poststop_hooks_are_only_told(container: Container, notes: Path, leftovers: Leftovers) -> None:
    container.config["hooks"] = {
        "poststop": [hook("exit 5"), {"path": "/no/such"}, hook(f"echo third >> {notes}/order")]
    }
    result = container.run()
    assert result.status == 0, result
    assert order(notes) == ["third"]
    assert "config.json#/hooks/poststop/0" in result.lines()[0]
    assert "config.json#/hooks/poststop/1" in result.lines()[1]
    assert not leftovers.found()


@pytest.mark.parametrize("kind", [*ON_CREATE, "startContainer"])
def test_a_program_that_is_not_there(container: Container, refused: Refused, kind: str) -> None:
    container.config["hooks"] = {kind: [{"path": "/no/such/program"}]}
    result = refused(f"config.json#/hooks/{kind}/0")
    if identify().name == "pyruntime":
        assert "/no/such/program could not be executed: ENOENT" in result.stderr


@pytest.mark.parametrize("kind", [*ON_CREATE, "startContainer"])
def test_a_hook_that_a_signal_ends(container: Container, refused: Refused, kind: str) -> None:
    container.config["hooks"] = {kind: [hook("kill -9 $$")]}
    result = refused(f"config.json#/hooks/{kind}/0")
    if identify().name == "pyruntime":
        assert "was ended by signal 9" in result.stderr


@pytest.mark.only_pyruntime("runc's hook output is not bounded, and goes to the terminal as it is")
@pytest.mark.parametrize("kind", ["createRuntime", "startContainer"])
def test_output_in_the_error_is_bounded_and_tame(container: Container, refused: Refused, kind: str) -> None:
    container.config["hooks"] = {kind: [hook("yes | head -c 300000; printf '\\033[31mlast\\nwords'; exit 1")]}
    result = refused(f"config.json#/hooks/{kind}/0")
    assert len(result.stderr) < 4000
    assert "\033" not in result.stderr
    assert "last\\nwords" in result.stderr


@pytest.mark.parametrize("kind", [*ON_CREATE, "startContainer"])
def test_timeout(container: Container, refused: Refused, kind: str) -> None:
    container.config["hooks"] = {kind: [hook("exec sleep 1000", timeout=1)]}
    result = refused(f"config.json#/hooks/{kind}/0")
    assert "timeout of 1" in result.stderr


def test_timeout_of_a_poststart_hook(container: Container, leftovers: Leftovers) -> None:
    container.config["hooks"] = {"poststart": [hook("exec sleep 1000", timeout=1)]}
    container.process["args"] = ["sleep", "1000"]
    result = container.run()
    assert result.status != 0
    assert "timeout of 1" in result.stderr
    assert not leftovers.found()


def test_timeout_of_a_poststop_hook(container: Container, leftovers: Leftovers) -> None:
    container.config["hooks"] = {"poststop": [hook("exec sleep 1000", timeout=1)]}
    assert "timeout of 1" in container.run().stderr
    assert not leftovers.found()


@pytest.mark.only_pyruntime("runc's timeout ends the hook alone, and then waits for all who hold its output")
@pytest.mark.parametrize("kind", [*ON_CREATE, "startContainer"])
def test_timeout_ends_all_descendants(container: Container, notes: Path, refused: Refused, kind: str) -> None:
    """One in the background, one in a session of its own, one whose parents have ended; all hold the output."""
    script = (
        f"export PYRUNTIME_TEST_MARKER={container.runtime.marker}; sleep 999 & setsid sleep 998 & "
        f"(setsid sh -c 'sleep 997 & exit' &) ; (trap '' TERM; sleep 996) & touch {notes}/ready; sleep 1000"
    )
    if kind == "startContainer":
        script = script.replace("setsid ", "")  # the image has none
    container.config["hooks"] = {kind: [hook(script, timeout=1)]}
    refused(f"config.json#/hooks/{kind}/0")  # which looks for processes with the marker
    assert (notes / "ready").exists()


@pytest.mark.only_pyruntime("runc waits until nobody holds the hook's output any more")
def test_what_a_hook_leaves_running_is_not_waited_for(container: Container, notes: Path) -> None:
    """A daemon that a hook starts, such as slirp4netns, outlives it."""
    container.config["hooks"] = {"createRuntime": [hook(f"sleep 1000 & echo $! > {notes}/pid")]}
    assert container.output("echo fine") == "fine"
    pid = int((notes / "pid").read_text())
    os.kill(pid, signal.SIGKILL)  # raises if it is gone


@pytest.mark.only_pyruntime("runc 1.1 has no record at this point, and its hook goes on")
@pytest.mark.parametrize("kind", ON_CREATE)
def test_the_runtime_is_killed_while_a_hook_runs(
    container: Container, notes: Path, leftovers: Leftovers, kind: str
) -> None:
    """`delete --force` clears up what is left, and the poststop hooks run, as for any container that had hooks."""
    container.config["hooks"] = {
        kind: [
            hook(f"touch {notes}/running; exec sleep 1000", env={"PYRUNTIME_TEST_MARKER": container.runtime.marker})
        ],
        "poststop": [hook(f"echo poststop >> {notes}/order")],
    }
    process = container.spawn()
    wait_until((notes / "running").exists, "the hook")
    process.kill()
    process.communicate()
    assert container.delete("--force").status == 0
    assert order(notes) == ["poststop"]
    assert not leftovers.found()


@pytest.mark.only_pyruntime("runc's hook is in the foreground's process group, and gets the signal itself")
@pytest.mark.parametrize("kind", ["createRuntime", "poststart"])
def test_an_interrupt_ends_a_hook_that_hangs(
    container: Container, notes: Path, leftovers: Leftovers, kind: str
) -> None:
    container.config["hooks"] = {kind: [hook(f"touch {notes}/running; exec sleep 1000")]}
    container.process["args"] = ["sleep", "1000"]
    process = container.spawn()
    wait_until((notes / "running").exists, "the hook")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert b"Traceback" not in errors
    assert not leftovers.found()


def test_a_second_start_while_the_first_runs_hooks(container: Container, notes: Path) -> None:
    container.config["hooks"] = {
        "startContainer": [hook(f"touch {notes}/running; while ! test -e {notes}/go; do sleep 0.1; done")]
    }
    container.process["args"] = ["sleep", "1000"]
    assert container.create().status == 0
    starting = container.runtime.spawn("start", container.id)
    wait_until((notes / "running").exists, "the hook")
    assert container.state()["status"] == "created"
    (notes / "go").touch()
    starting.communicate(timeout=20)
    assert starting.returncode == 0
    assert container.start().status != 0
    assert container.state()["status"] == "running"


def test_killed_while_it_waits_for_start(container: Container, notes: Path) -> None:
    container.config["hooks"] = {"startContainer": [hook(f"touch {notes}/ran")]}
    assert container.create().status == 0
    assert container.kill("KILL").status == 0
    container.wait_for("stopped")
    assert container.start().status != 0
    assert container.delete().status == 0
    assert not (notes / "ran").exists()


def test_a_user_namespace(noted: Container, notes: Path) -> None:
    noted.map_root_to(100000)
    result = noted.run()
    assert result.status == 0, result
    assert {name for name in order(notes) if name != "program"} == set(KINDS)


def test_when_no_file_may_grow(container: Container) -> None:
    """Files may not grow by a byte any more when the hops are needed."""
    container.process["rlimits"].append({"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0})
    container.config["hooks"] = {"startContainer": [hook("cat > /dev/null")]}
    assert container.output("echo fine") == "fine"


def test_the_program_inherits_nothing_of_the_hooks(container: Container) -> None:
    container.config["hooks"] = {"startContainer": [hook("true")], "createContainer": [hook("true")]}
    assert container.output("ls /proc/self/fd").split() == ["0", "1", "2", "3"]
    if identify().name == "pyruntime":  # runc passes on what its caller ignores
        container.process["args"] = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]  # a shell ignores SIGQUIT
        assert {line.split()[1] for line in container.run().stdout.splitlines()} == {"0" * 16}


def test_timestamps_of_create_and_start(noted: Container, notes: Path) -> None:
    """startContainer hooks wait for `start`, however long it takes."""
    assert noted.create().status == 0
    time.sleep(0.2)
    assert "startContainer" not in order(notes)
    assert noted.start().status == 0
    assert "startContainer" in order(notes)


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_a_seccomp_filter_counts_for_the_images_hooks(
    container: Container, notes: Path, no_new_privileges: bool
) -> None:
    container.process["noNewPrivileges"] = no_new_privileges
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    container.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    script = f"grep Seccomp: /proc/self/status > {notes}/$0; mkdir {notes}/$0.d 2> /dev/null && echo made >> {notes}/$0"
    container.config["hooks"] = {
        kind: [hook(f"{script}; true", name=kind)] for kind in ("createContainer", "startContainer")
    }
    container.process["args"] = ["sleep", "1000"]
    assert container.create().status == 0
    assert container.start().status == 0
    assert (notes / "createContainer").read_text().split() == ["Seccomp:", "0", "made"]
    assert (notes / "startContainer").read_text().split() == ["Seccomp:", "2"]
