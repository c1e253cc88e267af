"""`run` and `create`: which word is a bundle and which an ID, and IDs that are made up."""

from __future__ import annotations

import os
import posix
from pathlib import Path
from typing import Any

import pytest

from pyruntime import caller, creation
from pyruntime.cli import run
from pyruntime.cli.parse import Call, parse
from pyruntime.errors import ConfigError, ExistsError
from pyruntime.state.store import check_id


def a_bundle(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


@pytest.mark.parametrize(
    ("operand", "option", "expected"),
    [
        ("web", "", (".", "web")),
        ("web", "somewhere", ("somewhere", "web")),
        ("hello", "somewhere", ("somewhere", "hello")),
        ("hello", "", ("hello", None)),
        ("hello/", "", ("hello/", None)),
        ("./nothing", "", ("./nothing", None)),
        ("/abs", "", ("/abs", None)),
        (".", "", (".", None)),
        ("..", "", ("..", None)),
        ("rootfs", "", (".", "rootfs")),
    ],
)
def test_a_bundle_or_an_id(
    operand: str, option: str, expected: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_bundle(tmp_path / "hello")
    (tmp_path / "rootfs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run.bundle_and_id(operand, option) == expected


def test_in_a_bundle_a_name_is_an_id_as_for_runc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = a_bundle(tmp_path / "outer")
    a_bundle(bundle / "hello")
    monkeypatch.chdir(bundle)
    assert run.bundle_and_id("hello", "") == (".", "hello")


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("bundles/hello", "hello"),
        ("bundles/hello//", "hello"),
        ("/srv/My Bundle!", "My-Bundle"),
        ("/srv/ünï", "n"),
        ("/srv/日本", "bundle"),
        ("/", "bundle"),
        ("/srv/.hidden", "hidden"),
        ("/srv/" + "x" * 3000, "x" * run.ID_LENGTH),
        ("/srv/a\udcffb", "a-b"),
        ("/not/there/..", "bundle"),
    ],
)
def test_an_id_from_a_path(path: str, id: str) -> None:
    assert run.id_from_path(path) == id
    check_id(f"{id}-2")


def test_an_id_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = a_bundle(tmp_path / "demo")
    monkeypatch.chdir(bundle)
    assert run.id_from_path(".") == "demo"
    assert run.id_from_path("./") == "demo"
    assert run.id_from_path("..") == tmp_path.name.replace(" ", "-")


def test_free_ids_pass_over_those_that_are_taken(tmp_path: Path) -> None:
    for taken in ("hello", "hello-2", "hello-4"):
        (tmp_path / taken).mkdir()
    ids = run.free_ids("bundles/hello", str(tmp_path))
    assert [next(ids) for _ in range(3)] == ["hello-3", "hello-5", "hello-6"]


class Library:
    """Stands in for pyruntime.creation: notes the calls, and answers as told."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, bundle_path: str, id: str, **options: Any) -> object:
        self.calls.append((bundle_path, id, options))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def call_for(line: str, root: Path) -> Call:
    call = parse(line.split())
    call.settings["root"] = str(root)
    return call


def test_the_options_reach_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(7)
    monkeypatch.setattr(creation, "run", library)
    line = "run -d --keep --no-pivot --preserve-fds 2 --pid-file p --console-socket c --net bridge -p 1:2 -p 3:4 "
    line += "--ip 10.1.2.3 -b there web -- echo hi"
    assert run.run(call_for(line, tmp_path)) == 7
    [(bundle, id, options)] = library.calls
    assert (bundle, id) == ("there", "web")
    assert options == {
        "root": str(tmp_path),
        "systemd_cgroup": False,
        "rootless": "auto",
        "console_socket": "c",
        "pidfd_socket": "",
        "pid_file": "p",
        "no_pivot": True,
        "no_new_keyring": False,
        "preserve_fds": 2,
        "net": "bridge",
        "publish": ["1:2", "3:4"],
        "ip": "10.1.2.3",
        "args": ["echo", "hi"],
        "detach": True,
        "keep": True,
        "no_subreaper": False,
        "listen_fds": 0,
        "listen_fdnames": "",
        "notify_socket": "",
    }
    # The library takes exactly these: it refuses what it does not know.
    known = creation.Options.__annotations__.keys() | caller.CallerOptions.__annotations__.keys()
    assert options.keys() - {"root"} == known


def test_a_lost_race_for_a_made_up_id_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    library = Library(ExistsError("taken"), ExistsError("taken"), None)
    monkeypatch.setattr(creation, "create", library)
    call = call_for("create bundles/hello", tmp_path)
    assert run.create(call) == 0
    assert [id for _, id, _ in library.calls] == ["hello", "hello-2", "hello-3"]
    assert call.subject == "hello-3"
    assert capfd.readouterr().out == "hello-3\n"


def test_a_given_id_that_is_taken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(ExistsError("taken"))
    monkeypatch.setattr(creation, "create", library)
    with pytest.raises(ExistsError):
        run.create(call_for("create -b bundles/hello web", tmp_path))
    assert len(library.calls) == 1


def test_racing_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(ExistsError("taken"))
    monkeypatch.setattr(creation, "run", library)
    with pytest.raises(ExistsError):
        run.run(call_for("run bundles/hello", tmp_path))
    assert len(library.calls) == run.TRIES


@pytest.mark.parametrize(("line", "printed"), [("run bundles/hello", ""), ("run -d bundles/hello", "hello\n")])
def test_a_made_up_id_is_told_where_the_container_stays(
    line: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(creation, "run", Library(0))
    assert run.run(call_for(line, tmp_path)) == 0
    assert capfd.readouterr().out == printed


def test_other_errors_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(ConfigError("bad"))
    monkeypatch.setattr(creation, "run", library)
    with pytest.raises(ConfigError):
        run.run(call_for("run bundles/hello", tmp_path))
    assert len(library.calls) == 1


def test_a_root_below_the_runtime_directory_is_sticky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "geteuid", lambda: 1000)
    monkeypatch.setitem(posix.environ, b"XDG_RUNTIME_DIR", os.fsencode(tmp_path))
    monkeypatch.setattr(creation, "run", Library(0))
    for _ in range(2):
        run.run(call_for("run bundles/hello", tmp_path / "pyruntime"))
    assert (tmp_path / "pyruntime").stat().st_mode & 0o7777 == 0o1700
    run.run(call_for("run bundles/hello", tmp_path / "other"))
    assert not (tmp_path / "other").exists()
