"""A config.json without `process`, which is required when `start` is called, and not before (config.md#process)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container, quiet
from tests.support.leftovers import Leftovers

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2"),
    pytest.mark.only_pyruntime("runc refuses it at `create`; crun takes it, and its `start` succeeds"),
]
PLACE = "config.json#/process: config.json has no process to start"


def plain(_container: Container) -> None:
    """The parent builds the root."""


def in_user_namespace(container: Container) -> None:
    """A child that is Python builds it."""
    container.map_root_to(100000)


def with_start_hook(container: Container) -> None:
    """Python waits for `start`, and the hook must not run then."""
    container.config["hooks"] = {"startContainer": [{"path": "/bin/touch", "args": ["touch", "/tmp/hook"]}]}
    container.config["root"]["readonly"] = False
    (container.rootfs / "tmp").chmod(0o777)


def with_filter(container: Container) -> None:
    """Nothing could be executed, nor a failure be reported."""
    kill = {"action": "SCMP_ACT_KILL_PROCESS", "names": ["execve", "write"]}
    container.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [kill]}


VARIETIES = [
    plain,
    in_user_namespace,
    with_start_hook,
    pytest.param(with_filter, marks=pytest.mark.needs("libseccomp")),
]


@pytest.fixture(params=VARIETIES, ids=lambda make: make.__name__)
def created(container: Container, request: pytest.FixtureRequest) -> Container:
    """Created, and with what `start` will have to refuse."""
    make: Callable[[Container], None] = request.param
    del container.config["process"]
    make(container)
    result = container.create()
    assert result.status == 0, result
    (line,) = result.lines()
    assert "config.json#: the key process is missing" in line
    return container


def test_start_fails_and_the_container_has_stopped(created: Container, leftovers: Leftovers) -> None:
    assert created.state()["status"] == "created"
    result = created.start()
    assert (result.status, len(result.lines())) == (1, 1), result
    assert PLACE in result.stderr
    assert not (created.rootfs / "tmp/hook").exists()
    assert created.state()["status"] == "stopped"
    assert "has stopped" in created.start().stderr
    assert created.delete().status == 0
    assert leftovers.found() == []


def test_it_can_be_deleted_at_once(created: Container, leftovers: Leftovers) -> None:
    assert created.delete().status == 0
    assert leftovers.found() == []


@pytest.fixture
def waiting(container: Container) -> Container:
    """Created, with nothing of its own."""
    del container.config["process"]
    result = container.create()
    assert result.status == 0, result
    return container


def test_what_waits_has_no_rights(waiting: Container) -> None:
    fields = dict(line.split(":\t") for line in Path(f"/proc/{waiting.pid()}/status").read_text().splitlines())
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}


def test_the_copy_of_the_config_has_none_either(waiting: Container) -> None:
    (copy,) = waiting.runtime.root.glob("*/config.json")
    assert json.loads(copy.read_text()) == waiting.config


class TestExec:
    """Others come into the container that waits, each as its own words say."""

    def test_a_command(self, waiting: Container) -> None:
        assert waiting.exec_output("pwd; id -u; grep CapEff /proc/self/status").split() == [
            "/",
            "0",
            "CapEff:",
            "0" * 16,
        ]

    def test_options(self, waiting: Container) -> None:
        flags = ("--cwd", "/tmp", "--user", "7:8", "--env", "PATH=/bin", "--cap", "CAP_KILL")
        assert waiting.exec_output("pwd; id -u; id -g; echo $PATH", *flags).split() == ["/tmp", "7", "8", "/bin"]

    def test_a_file(self, waiting: Container) -> None:
        process = waiting.path / "process.json"
        process.write_text(json.dumps({"cwd": "/tmp", "args": ["/bin/pwd"]}))
        result = waiting.runtime("exec", "--process", str(process), waiting.id)
        assert (result.status, result.stdout) == (0, "/tmp\n"), result

    def test_a_command_needs_a_path(self, waiting: Container) -> None:
        result = waiting.exec("pwd")
        assert 'exec: "pwd": executable file not found in $PATH' in result.stderr
        assert result.status == 255


class TestRun:
    """`run` calls start, so it refuses: but for a command line that says what to run."""

    def test_it_is_refused(self, container: Container, refused: Callable[..., Any]) -> None:
        del container.config["process"]
        refused("config.json#: the key process is missing")

    def test_a_command_stands_for_it(self, container: Container) -> None:
        del container.config["process"]
        container.write()
        result = container.runtime("run", str(container.path), "--", "/bin/sh", "-c", "exit 5")
        assert (result.status, result.stderr) == (5, ""), result

    def test_a_command_stands_for_it_in_create(self, container: Container) -> None:
        del container.config["process"]
        container.write()
        place = ("-b", str(container.path), container.id)
        result = quiet(container.runtime, "create", *place, "--", "/bin/true")
        assert (result.status, result.stderr) == (0, ""), result
        assert container.start().status == 0


def test_poststop_hooks_run_and_poststart_hooks_do_not(container: Container) -> None:
    notes = container.path / "notes"
    script = ["sh", "-c", f'echo "$0" >> {notes}']
    hooks = {
        kind: [{"path": "/bin/sh", "args": [*script, kind]}] for kind in ("createRuntime", "poststart", "poststop")
    }
    container.config["hooks"] = hooks
    del container.config["process"]
    assert container.create().status == 0
    assert container.start().status == 1
    assert container.delete().status == 0
    assert notes.read_text().split() == ["createRuntime", "poststop"]
