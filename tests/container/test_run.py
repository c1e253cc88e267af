"""`run` in the foreground and detached: exit codes, standard streams, flags."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.container import Container, quiet, wait_until
from tests.support.leftovers import Leftovers
from tests.support.terminal import finish

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


@pytest.mark.parametrize("status", [0, 1, 3, 125, 126, 127, 255])
def test_exit_status_is_the_programs(container: Container, status: int) -> None:
    assert container.run_script(f"exit {status}").status == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_exit_status_of_a_signal_is_128_plus_its_number(container: Container, number: int) -> None:
    # In a PID namespace of its own the program would be an init, which its own signals do not reach.
    container.drop_namespace("pid")
    assert container.run_script(f"kill -{number} $$").status == 128 + number


def test_output_and_errors_stay_apart(container: Container) -> None:
    result = container.run_script("echo out; echo err >&2")
    assert result == (0, "out\n", "err\n")


def test_input_reaches_the_program(container: Container) -> None:
    result = container.run_script("tr a-z A-Z", stdin="loud\n")
    assert result == (0, "LOUD\n", "")


def test_a_megabyte_passes_whole_through_pipes(container: Container) -> None:
    data = bytes(range(256)) * 4096
    container.script("cat")
    process = container.spawn(stdin=subprocess.PIPE)
    out, _ = process.communicate(data, 30)
    assert (process.returncode, out == data) == (0, True)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_caller_with_closed_streams(container: Container, closed: tuple[int, ...]) -> None:
    """crun once crashed without a stdin; Python gives the lowest free number to the next file that it opens."""
    container.config["root"]["readonly"] = False
    container.script("echo $((6 * 7)) > /tmp/answer")
    container.write()

    def close_streams() -> None:
        for fd in closed:
            os.close(fd)

    process = container.runtime.spawn("run", "-b", str(container.path), container.id, preexec_fn=close_streams)
    assert finish(process) == 0
    assert container.read("tmp/answer") == "42\n"


def test_bundle_is_the_working_directory_by_default(container: Container) -> None:
    container.script("echo here")
    container.write()
    assert container.runtime("run", container.id, cwd=container.path).stdout == "here\n"


@pytest.mark.parametrize("spelling", [["-b", "{}"], ["--bundle", "{}"], ["--bundle={}"], ["-b={}"]])
def test_spellings_of_bundle(container: Container, spelling: list[str]) -> None:
    container.script("echo here")
    container.write()
    words = [word.format(container.path) for word in spelling]
    assert container.runtime("run", *words, container.id).stdout == "here\n"


def test_relative_bundle(container: Container) -> None:
    container.script("echo here")
    container.write()
    assert (
        container.runtime("run", "-b", container.path.name, container.id, cwd=container.path.parent).stdout == "here\n"
    )


@pytest.mark.only_pyruntime("runc takes an ID only; a directory in its place is this project's own calling convention")
def test_a_directory_in_place_of_an_id(container: Container, leftovers: Leftovers) -> None:
    container.script("echo here")
    container.write()
    assert container.runtime("run", str(container.path)).stdout == "here\n"
    assert leftovers.found() == []


@pytest.mark.only_pyruntime("runc has no way to override the command")
def test_words_after_two_dashes_override_the_command(container: Container) -> None:
    container.script("exit 9")
    container.write()
    result = container.runtime("run", str(container.path), "--", "echo", "hi", "--root", "-d")
    assert result == (0, "hi --root -d\n", "")


def test_nothing_is_left_after_a_foreground_run(container: Container, leftovers: Leftovers) -> None:
    assert container.run_script("exit 5").status == 5
    assert leftovers.found() == []


def test_keep_leaves_a_stopped_container(container: Container) -> None:
    assert container.run_script("exit 5", "--keep").status == 5
    assert container.state()["status"] == "stopped"
    assert container.delete().status == 0


def test_detach_returns_while_the_program_runs(container: Container) -> None:
    container.script("sleep 1000")
    assert container.run_detached().status == 0
    assert container.state()["status"] == "running"


def test_detach_keeps_the_streams_of_the_caller(container: Container, tmp_path: Path) -> None:
    container.script("cat; echo err >&2; read never < /proc/self/fd/1")
    container.write()
    with (
        open(tmp_path / "out", "wb") as out,
        open(tmp_path / "err", "wb") as err,
        open(tmp_path / "in", "w+b") as source,
    ):
        source.write(b"from the caller\n")
        source.seek(0)
        result = quiet(
            container.runtime,
            "run",
            "-d",
            "-b",
            str(container.path),
            container.id,
            stdin=source,
            stdout=out,
            stderr=err,
        )
    assert result.status == 0
    wait_until((tmp_path / "err").read_text, "the program's error output")
    assert (tmp_path / "out").read_text() == "from the caller\n"


@pytest.mark.parametrize("verb", ["run", "create"])
def test_pid_file_holds_the_digits_only(container: Container, tmp_path: Path, verb: str) -> None:
    container.script("sleep 1000")
    flags = ["--pid-file", str(tmp_path / "pid")]
    result = container.create(*flags) if verb == "create" else container.run_detached(*flags)
    assert result.status == 0
    assert (tmp_path / "pid").read_text() == str(container.pid())
    assert os.listdir(tmp_path) == ["pid"], "written in place, or a temporary file was left beside it"


def test_pid_file_of_a_foreground_run(container: Container, tmp_path: Path) -> None:
    container.script("read line; exit 4")
    process = container.spawn("--pid-file", str(tmp_path / "pid"), stdin=subprocess.PIPE)
    wait_until((tmp_path / "pid").exists, "the pid file")
    assert Path("/proc", (tmp_path / "pid").read_text()).is_dir()
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert finish(process) == 4


def test_pid_file_that_cannot_be_written(container: Container, tmp_path: Path, leftovers: Leftovers) -> None:
    result = container.run("--pid-file", str(tmp_path / "missing" / "pid"))
    assert result.status == 1
    assert str(tmp_path / "missing") in result.stderr
    assert leftovers.found() == []


def test_no_pivot(container: Container) -> None:
    """MS_MOVE and chroot in place of pivot_root(2), for a root file system on the initramfs."""
    assert "bin" in container.output("ls /", "--no-pivot").split()


@pytest.mark.needs("userns")
def test_no_pivot_leaves_no_whole_procfs(container: Container) -> None:
    """Beside one, the kernel would let a user namespace mount another, without what maskedPaths hide."""
    for kind in ("bounding", "permitted", "effective"):
        container.process["capabilities"][kind].append("CAP_SETFCAP")  # to map root: user_namespaces(7)
    assert container.run_script("unshare -mrpf true", "--no-pivot").status == 0
    result = container.run_script("unshare -mrpf mount -t proc none /proc", "--no-pivot")
    assert result.status != 0
    assert "permission denied" in result.stderr


def test_a_new_session_keyring(container: Container) -> None:
    """runc joins a session keyring named _ses.ID, so that the container doesn't hold the caller's keys."""
    container.linux["maskedPaths"].remove("/proc/keys")
    assert f"_ses.{container.id}" in container.output("cat /proc/keys")


def test_no_new_keyring(container: Container) -> None:
    container.linux["maskedPaths"].remove("/proc/keys")
    assert f"_ses.{container.id}" not in container.output("cat /proc/keys", "--no-new-keyring")


@pytest.mark.parametrize("verb", ["run", "create", "start", "state", "kill", "delete"])
def test_a_verb_without_its_id(container: Container, verb: str) -> None:
    result = container.runtime(verb)
    assert result.status == 1
    assert result.stderr or result.stdout


def test_state_root_is_made_when_missing(container: Container) -> None:
    assert not container.runtime.root.exists()
    assert container.run().status == 0
    assert container.runtime.root.is_dir()


def test_log_file_in_json(container: Container, tmp_path: Path) -> None:
    """containerd reads the last line with level=error and shows it, so it must stand alone."""
    container.config["process"]["args"] = ["/no/such/program"]
    container.write()
    log = tmp_path / "log.json"
    result = container.runtime(
        "--log", str(log), "--log-format", "json", "run", "-b", str(container.path), container.id
    )
    assert result.status == 1
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert "/no/such/program" in last["msg"]
    assert "time" in last


def test_log_file_in_text(container: Container, tmp_path: Path) -> None:
    container.config["process"]["args"] = ["/no/such/program"]
    container.write()
    log = tmp_path / "log"
    result = container.runtime("--log", str(log), "run", "-b", str(container.path), container.id)
    assert result.status == 1
    assert "level=error" in log.read_text()
    assert "/no/such/program" in log.read_text()


@pytest.mark.parametrize("word", ["no-such-verb", "--no-such-option"])
def test_unknown_words_are_refused(container: Container, word: str) -> None:
    result = container.runtime(word)
    assert result.status != 0
    assert word.strip("-") in result.stderr + result.stdout


def test_version_names_the_runtime_and_the_spec(container: Container) -> None:
    result = container.runtime("--version")
    assert result.status == 0
    first, *others = result.stdout.splitlines()
    assert " version " in first
    assert any(line.startswith("spec: 1.") for line in others)


def test_a_bundle_on_the_path_with_blanks(container: Container, scratch: Path) -> None:
    container.script("echo here")
    container.write()
    odd = scratch / "a b\tc\\d"
    shutil.move(container.path, odd)
    assert container.runtime("run", "-b", str(odd), container.id).stdout == "here\n"
