"""`state` and `list`: what they print, in runc's shapes (runtime.md#state)."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyruntime.state.store import STATE_FILE
from tests.support.container import Container
from tests.support.runtime import Runtime

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


@pytest.fixture
def running(container: Container) -> Container:
    container.process["args"] = ["sleep", "1000"]
    container.config["annotations"] = {"org.example.name": 'wörd "quoted"\n', "b": ""}
    assert container.run_detached().status == 0
    return container


def test_state_of_a_running_container(running: Container) -> None:
    state = running.state()
    assert list(state) == ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]
    assert state["ociVersion"].startswith("1.")
    assert state["id"] == running.id
    assert state["status"] == "running"
    assert state["bundle"] == str(running.path)
    assert state["rootfs"] == str(running.rootfs)
    assert state["annotations"] == running.config["annotations"]
    assert state["owner"] in ("", "root")  # runc fills it in `list` only
    assert Path(f"/proc/{state['pid']}").is_dir()


def test_created_is_the_present_in_utc(running: Container) -> None:
    created = running.state()["created"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", created)
    moment = datetime.datetime.fromisoformat(re.sub(r"(\.\d+)?Z$", "+00:00", created))
    assert abs(datetime.datetime.now(datetime.UTC) - moment) < datetime.timedelta(hours=1)


def test_state_is_indented_json(running: Container) -> None:
    text = running.runtime("state", running.id).stdout
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n" * text.endswith("\n")


def test_state_of_a_stopped_container_has_no_pid(container: Container) -> None:
    assert container.run_detached().status == 0
    container.wait_for("stopped")
    assert container.state()["pid"] == 0


def test_annotations_are_left_out_when_there_are_none(container: Container) -> None:
    assert container.create().status == 0
    assert "annotations" not in container.state()


def test_bundle_is_absolute_and_free_of_dots(container: Container) -> None:
    container.process["args"] = ["sleep", "1000"]
    container.write()
    odd = f"../{container.path.parent.name}/./{container.path.name}/"
    assert (
        container.runtime("run", "-d", "-b", odd, container.id, cwd=container.path.parent, stdout=-3, stderr=-3).status
        == 0
    )
    assert container.state()["bundle"] == str(container.path)


def test_absolute_root_path(container: Container) -> None:
    container.config["root"]["path"] = str(container.rootfs)
    container.process["args"] = ["sleep", "1000"]
    assert container.run_detached().status == 0
    assert container.state()["rootfs"] == str(container.rootfs)


def test_list_as_a_table(running: Container) -> None:
    result = running.runtime("list")
    assert result.status == 0
    header, row, *rest = result.stdout.splitlines()
    assert header.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert row.split()[:4] == [running.id, str(running.pid()), "running", str(running.path)]
    assert row.split()[5] == "root"
    assert rest == []
    # The columns stand below their headings.
    assert row.index(str(running.path)) == header.index("BUNDLE")


def test_list_as_json(running: Container) -> None:
    result = running.runtime("list", "--format", "json")
    assert result.status == 0
    (entry,) = json.loads(result.stdout)
    assert entry == running.state() | {"owner": "root"}


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_list_quietly(new_container: Callable[[], Container], flag: str) -> None:
    containers = [new_container() for _ in range(3)]
    for one in containers:
        assert one.create().status == 0
    result = containers[0].runtime("list", flag)
    assert sorted(result.stdout.split()) == sorted(one.id for one in containers)


def test_list_shows_all_states(new_container: Callable[[], Container]) -> None:
    created, stopped = new_container(), new_container()
    assert created.create().status == 0
    assert stopped.run_detached().status == 0
    stopped.wait_for("stopped")
    entries = json.loads(created.runtime("list", "-f", "json").stdout)
    assert {entry["id"]: entry["status"] for entry in entries} == {created.id: "created", stopped.id: "stopped"}
    rows = {row.split()[0]: row.split()[1] for row in created.runtime("list").stdout.splitlines()[1:]}
    assert rows == {created.id: str(created.pid()), stopped.id: "0"}


def test_list_of_nothing(driver: Runtime) -> None:
    driver.root.mkdir()
    assert driver("list", "-q") == (0, "", "")
    assert driver("list").stdout.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert json.loads(driver("list", "--format", "json").stdout) in (None, [])


def test_list_with_an_unknown_format(driver: Runtime) -> None:
    driver.root.mkdir()
    result = driver("list", "--format", "xml")
    assert result.status == 1
    assert "format" in result.stderr


def test_list_passes_over_a_foreign_directory(running: Container) -> None:
    """Something that is no container under --root must not hide the containers."""
    (running.runtime.root / "foreign").mkdir()
    result = running.runtime("list", "-q")
    assert running.id in result.stdout.split()
    (running.runtime.root / "foreign").rmdir()


def test_state_with_a_damaged_record(running: Container) -> None:
    """A record cut short (a full disk, a crash) is told, not a traceback; --force still removes the container."""
    (record,) = (running.runtime.root / running.id).glob("state*.json*")
    text = record.read_text()
    record.write_text(text[: len(text) // 3])
    result = running.runtime("state", running.id)
    assert result.status == 1
    assert "Traceback" not in result.stderr
    assert len(result.lines()) == 1
    record.write_text(text)


@pytest.mark.only_pyruntime("runc leaves such a container to be removed by hand")
def test_delete_of_a_damaged_record_tells_what_it_leaves(running: Container) -> None:
    """The record alone says which processes are the container's: they are not guessed, and that is said."""
    record = running.runtime.root / running.id / STATE_FILE
    text = record.read_text()
    record.write_text("")
    status, _, stderr = running.runtime("delete", "--force", running.id)
    assert status == 0 and "damaged" in stderr and running.id in stderr
    record.parent.mkdir()
    record.write_text(text)
