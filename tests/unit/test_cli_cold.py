"""list, spec, features, plan, help and the launcher: what they print."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyruntime import container, creation
from pyruntime.cli import features, help, launcher, plan, spec, state
from pyruntime.cli import list as listing
from pyruntime.cli.click_app import help_or_complete
from pyruntime.cli.options import COMMANDS
from pyruntime.cli.parse import members_of, parse
from pyruntime.errors import ExistsError, UsageError
from pyruntime.plan.build import build
from pyruntime.spec.default import default_spec
from pyruntime.spec.validate import problems

STATE = {
    "ociVersion": "1.3.0",
    "id": "web",
    "pid": 4711,
    "status": "running",
    "bundle": "/srv/a-longish-name",
    "rootfs": "/srv/a-longish-name/rootfs",
    "created": "2026-01-02T03:04:05.123456789Z",
    "annotations": {},
    "owner": "root",
}


def run_verb(line: str, monkeypatch: pytest.MonkeyPatch, **library: Any) -> int:
    for name, value in library.items():
        monkeypatch.setattr(creation if hasattr(creation, name) else container, name, value)
    call = parse(line.split())
    call.settings["root"] = "/nowhere"
    module, _, function = call.handler.partition(":")
    verb = getattr(__import__(f"pyruntime.cli.{module}", fromlist=[function]), function)
    status: int = verb(call)
    return status


def test_the_table_is_laid_out_as_runc_lays_it_out() -> None:
    # The second and third line are runc's own, with its columns.
    assert listing.table([]) == "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
    other = STATE | {"id": "a-rather-long-id", "pid": 0, "status": "stopped", "bundle": "/b"}
    assert listing.table([STATE, other]).splitlines() == [
        "ID                 PID         STATUS      BUNDLE                CREATED                          OWNER",
        "web                4711        running     /srv/a-longish-name   2026-01-02T03:04:05.123456789Z   root",
        "a-rather-long-id   0           stopped     /b                    2026-01-02T03:04:05.123456789Z   root",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("list -q", "web\nweb\n"),
        ("list -q -f json", "web\nweb\n"),
        ("list", listing.table([STATE, STATE])),
    ],
)
def test_list(line: str, expected: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_verb(line, monkeypatch, list_containers=lambda *, root: [STATE, STATE]) == 0
    assert capfd.readouterr().out == expected


def test_list_as_json(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run_verb("list -f json", monkeypatch, list_containers=lambda *, root: [STATE | {"annotations": {"a": "b"}}, STATE])
    first, second = json.loads(capfd.readouterr().out)
    assert [*first] == [*STATE]
    assert "annotations" not in second
    run_verb("list -f json", monkeypatch, list_containers=lambda *, root: [])
    assert capfd.readouterr().out == "[]\n"


def test_state_is_indented_and_in_order(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run_verb("state web", monkeypatch, state=lambda id, *, root: STATE | {"annotations": {"k": "v"}})
    text = capfd.readouterr().out
    assert text == json.dumps(STATE | {"annotations": {"k": "v"}}, indent=2) + "\n"
    assert [*state.without_empty_annotations(STATE)] == [key for key in STATE if key != "annotations"]


def test_spec_writes_and_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert spec.spec(parse(["spec"])) == 0
    text = (tmp_path / "config.json").read_text()
    assert json.loads(text) == default_spec()
    assert '\n\t"process": {\n\t\t"terminal": true,' in text
    for there in (["spec"], ["spec", "--rootless"], ["spec", "-b", str(tmp_path)]):
        with pytest.raises(ExistsError, match="exists: remove it first"):
            spec.spec(parse(there))
    assert (tmp_path / "config.json").read_text() == text


def test_spec_does_not_follow_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExistsError):
        spec.spec(parse(["spec", "-b", str(tmp_path)]))
    assert not (tmp_path / "elsewhere").exists()


def test_spec_for_rootless(tmp_path: Path) -> None:
    spec.spec(parse(["spec", "-b", str(tmp_path), "--rootless"]))
    assert json.loads((tmp_path / "config.json").read_text()) == default_spec(rootless=True)


def test_spec_names_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spec.spec(parse(["spec", "-b", str(tmp_path / "missing")]))


def test_features_promise_only_what_is_served() -> None:
    promised = features.structure()
    assert [*promised][:4] == ["ociVersionMin", "ociVersionMax", "hooks", "mountOptions"]
    for version in (promised["ociVersionMin"], promised["ociVersionMax"]):
        assert not [*problems(default_spec() | {"ociVersion": version})]
    tried: Any = default_spec()
    tried["mounts"] = [
        {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": [option]}
        for option in promised["mountOptions"]
        if option not in ("bind", "rbind", "remount", "idmap", "ridmap")
    ]
    tried["linux"]["namespaces"] = [{"type": kind} for kind in promised["linux"]["namespaces"]]
    tried["linux"]["uidMappings"] = tried["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]
    tried["process"]["capabilities"] = {"bounding": promised["linux"]["capabilities"]}
    assert not [*problems(tried)]
    plan_of_options = build(tried, "/bundle", "id", "/id")
    for step in plan_of_options:
        if type(step).__name__ == "MountFilesystem" and step.__dict__["target"] == "/x":
            # Had an option not been known, it would have been passed to the file system.
            assert step.__dict__["data"] == ""


@pytest.mark.skipif(not shutil.which("runc"), reason="runc is not installed, whose list is the measure")
def test_features_know_what_runc_knows() -> None:
    theirs = json.loads(subprocess.run(["runc", "features"], check=True, capture_output=True).stdout)
    ours = features.structure()
    # acl and noacl left the runtime-spec: no kernel has a flag for them.
    assert {*theirs["mountOptions"]} - {*ours["mountOptions"]} <= {"acl", "noacl"}
    assert {*theirs["linux"]["namespaces"]} <= {*ours["linux"]["namespaces"]}
    assert {*theirs["linux"]["capabilities"]} <= {*ours["linux"]["capabilities"]}


def a_bundle(tmp_path: Path) -> Path:
    bundle = tmp_path / "hello"
    (bundle / "rootfs").mkdir(parents=True)
    (bundle / "config.json").write_text(json.dumps(default_spec()))
    return bundle


def test_a_plan_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = a_bundle(tmp_path)
    assert run_verb(f"plan {bundle}", monkeypatch) == 0
    text = capfd.readouterr().out
    assert text.startswith("Plan of hello: ")
    assert "\033" not in text
    steps = [*creation.plan_bundle(str(bundle), "hello", root="/r")]
    for step in steps:
        assert step.text().split()[0] in text
        assert step.why in text
    assert f" {len(steps)}  " in text
    assert "\n   15  " in text and "/mounts/0" in text
    assert max(map(len, text.splitlines())) < 140
    headings = [line.partition(":")[0] for line in text.splitlines() if line[:1].islower()]
    assert headings == ["cgroup", "namespaces", "parent", "rootfs", "process"]


def test_a_plan_in_colours_says_the_same(tmp_path: Path) -> None:
    found = creation.plan_bundle(str(a_bundle(tmp_path)), "hello", root="/r")
    coloured = plan.as_text(found, "b", "hello", colour=True)
    for code in (plan.BOLD, plan.DIM, plan.PLAIN):
        coloured = coloured.replace(code, "")
    assert coloured == plan.as_text(found, "b", "hello")


def test_a_plan_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = a_bundle(tmp_path)
    run_verb(f"plan --format json --id other -b {bundle} ", monkeypatch)
    text = capfd.readouterr().out
    found = json.loads(text)
    assert (found["id"], found["bundle"]) == ("other", str(bundle))
    assert len(found["steps"]) == len([*creation.plan_bundle(str(bundle), "other", root="/r")])
    for step in found["steps"]:
        assert step["text"] and step["why"] and step["phase"] and step["where"].startswith("config.json#")


def test_a_plan_with_another_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_verb(f"plan {a_bundle(tmp_path)} -- printf marker", monkeypatch)
    assert "printf marker" in capfd.readouterr().out


def test_a_plan_takes_one_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="one too many"):
        run_verb(f"plan -b {tmp_path} {tmp_path}", monkeypatch)


HELPS = [["--help"], ["network", "--help"], *([*row[0].split(), "--help"] for row in COMMANDS)]


@pytest.mark.parametrize("argv", HELPS, ids=" ".join)
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert help_or_complete(argv) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: pyruntime")
    verb = " ".join(argv[:-1])
    options = next((row[1] for row in COMMANDS if row[0] == verb), ())
    for name in (option[0] for option in options):
        assert f"--{name}" in text
        assert f"--{name}" in help.plain_help(verb)
    if not verb:
        for row in COMMANDS:
            assert row[0].split()[0] in text
            assert row[0] in help.plain_help("")
    if verb == "network":
        assert all(member in text and member in help.plain_help(verb) for member in members_of(verb))


def complete(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> set[str]:
    monkeypatch.setenv("_PYRUNTIME_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        help_or_complete([])
    return {line.partition(",")[2] for line in capsys.readouterr().out.splitlines()}


def test_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for id in ("web", "worker", "other"):
        (tmp_path / id).mkdir()
    assert complete("pyruntime st", monkeypatch, capsys) == {"start", "state"}
    assert "--preserve-fds" in complete("pyruntime run --", monkeypatch, capsys)
    assert complete(f"pyruntime --root {tmp_path} kill w", monkeypatch, capsys) == {"web", "worker"}
    assert complete(f"pyruntime --root {tmp_path} kill web USR", monkeypatch, capsys) == {"USR1", "USR2"}
    assert complete(f"pyruntime --root {tmp_path}/missing kill ", monkeypatch, capsys) == {""}  # click's last line


@pytest.mark.parametrize("path", ["python3", "/a path/python3", "/" + "x" * 300, ""])
def test_a_launcher_that_the_kernel_could_not_start_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        launcher.launcher_text(path, "/lib")


def test_the_launcher_takes_any_library_path() -> None:
    path = '/srv/it\'s "here" \\ and\nthere'
    text = launcher.launcher_text("/usr/bin/python3", path)
    assert text.startswith("#!/usr/bin/python3 -ISXutf8\n")
    assert repr(path) in text
    compile(text, "launcher", "exec")


def test_the_library_path_is_where_the_package_is() -> None:
    assert os.path.samefile(launcher.library_path(), Path(container.__file__).parent.parent)
