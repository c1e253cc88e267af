"""net/cni.py with stand-ins for plugins: what they are told, in which order, and what comes of whatever they do.

tests/net/test_cni.py has Debian's plugins.
"""

from __future__ import annotations

import json
import os
import posix
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyruntime.errors import ConfigError, Error, StateError, UnsupportedError
from pyruntime.net import cni, cniplugin
from tests.support.mountinfo import parse

pytestmark = pytest.mark.needs("root")

RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/the/namespace"}],
    "ips": [{"address": "10.9.0.5/24", "interface": 1}, {"address": "10.9.0.1/24", "interface": 0}],
}
# It remembers what it was asked, and answers with the file that is named after the command, or with prevResult.
PLUGIN = """#!/bin/sh
here={here}
number=$(ls $here/asked | wc -l)
env | grep ^CNI_ > $here/asked/$number.env
echo "{kind}" > $here/asked/$number.kind
cat > $here/asked/$number.json
test -e $here/{kind}.$CNI_COMMAND && exec sh $here/{kind}.$CNI_COMMAND $here/asked/$number.json
test $CNI_COMMAND = ADD && cat $here/result
exit 0
"""


class Asked:
    """One call of a plugin."""

    def __init__(self, stem: Path) -> None:
        self.kind = stem.with_suffix(".kind").read_text().strip()
        lines = stem.with_suffix(".env").read_text().splitlines()
        self.environment = dict(line.split("=", 1) for line in lines)
        self.config: dict[str, Any] = json.loads(stem.with_suffix(".json").read_text())

    def __str__(self) -> str:
        return f"{self.environment['CNI_COMMAND']} {self.kind}"


class Stage:
    """Networks, plugins and a container's directory, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("asked", "net.d", "bin", "state"):
            (folder / name).mkdir()
        self.state = folder / "state"
        (folder / "result").write_text(json.dumps(RESULT))
        for kind in ("one", "two"):
            path = folder / "bin" / kind
            path.write_text(PLUGIN.format(here=folder, kind=kind))
            path.chmod(0o755)
        self.network({"type": "one", "capabilities": {"ips": True}}, {"type": "two"})

    def network(self, *plugins: dict[str, Any], **more: Any) -> None:
        content = {"cniVersion": "1.0.0", "name": "web", "plugins": plugins, **more}
        (self.folder / "net.d/web.conflist").write_text(json.dumps(content))

    def on(self, kind: str, command: str, script: str) -> None:
        """What a plugin does: a shell script, given the file of its stdin as $1."""
        (self.folder / f"{kind}.{command}").write_text(script)

    def attach(self, **options: Any) -> dict[str, Any]:
        asked: dict[str, Any] = {"ports": [], "ips": [], **options}
        return cni.attach("web", "c1", os.getpid(), str(self.state), **asked)

    def detach(self) -> None:
        cni.detach(str(self.state))

    def asked(self) -> list[Asked]:
        paths = sorted((self.folder / "asked").glob("*.json"), key=lambda path: int(path.stem))
        return [Asked(path.with_suffix("")) for path in paths]

    def order(self) -> list[str]:
        return [str(each) for each in self.asked()]

    def left(self) -> list[str]:
        mounts = [mount.point for mount in parse(Path("/proc/self/mountinfo").read_text())]
        return [*os.listdir(self.state), *(point for point in mounts if point.startswith(str(self.folder)))]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setitem(posix.environ, b"NETCONFPATH", bytes(tmp_path / "net.d"))
    monkeypatch.setitem(posix.environ, b"CNI_PATH", bytes(tmp_path / "bin"))
    stage = Stage(tmp_path)
    yield stage
    cni.let_go(str(stage.state))


def test_add_check_and_delete(stage: Stage) -> None:
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    stage.network({"type": "one", "x": [1]}, {"type": "two", "capabilities": {"portMappings": True}})
    assert stage.attach(ports=ports) == RESULT
    cni.check(str(stage.state))
    stage.detach()
    assert stage.order() == ["ADD one", "ADD two", "CHECK one", "CHECK two", "DEL two", "DEL one"]
    first, *others = asked = stage.asked()
    common = {"cniVersion": "1.0.0", "name": "web"}
    assert first.config == {"type": "one", "x": [1]} | common
    for each in others:
        told = (
            {"type": "one", "x": [1]}
            if each.kind == "one"
            else {"type": "two", "runtimeConfig": {"portMappings": ports}}
        )
        assert each.config == told | common | {"prevResult": RESULT}
    for each in asked:
        assert each.environment == {
            "CNI_COMMAND": str(each).split()[0],
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": str(stage.state / "netns"),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": "IgnoreUnknown=1",
            "CNI_PATH": str(stage.folder / "bin"),
        }
    assert stage.left() == []


def test_the_namespace_is_there_for_every_plugin(stage: Stage) -> None:
    here = os.stat("/proc/self/ns/net")
    for command in ("ADD", "DEL"):
        stage.on("one", command, f"stat -L -c %d:%i $CNI_NETNS >> {stage.folder}/seen; cat {stage.folder}/result")
    stage.attach()
    stage.detach()
    assert (stage.folder / "seen").read_text().split() == [f"{here.st_dev}:{here.st_ino}"] * 2


def test_each_is_given_the_answer_of_the_one_before(stage: Stage) -> None:
    changed = RESULT | {"dns": {"nameservers": ["10.9.0.1"]}}
    stage.on("two", "ADD", f"echo '{json.dumps(changed)}'")
    assert stage.attach() == changed
    assert cni.addresses(changed) == ["10.9.0.5/24"]
    stage.detach()
    assert [each.config.get("prevResult") for each in stage.asked()] == [None, RESULT, changed, changed]


def test_delete_does_not_read_the_configuration_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.attach()
    (stage.folder / "net.d/web.conflist").unlink()
    monkeypatch.delitem(posix.environ, b"CNI_PATH")
    stage.detach()
    assert stage.order()[2:] == ["DEL two", "DEL one"]
    stage.detach()  # what is off is off
    assert len(stage.order()) == 4


def test_delete_with_the_namespace_gone(stage: Stage) -> None:
    stage.attach()
    os.system(f"umount {stage.state}/netns")
    stage.detach()
    assert [each.environment["CNI_NETNS"] for each in stage.asked()[2:]] == ["", ""]
    assert stage.left() == []


def test_an_old_plugin_leaves_the_version_out(stage: Stage) -> None:
    bare = {"ips": [{"version": "4", "address": "10.9.0.5/24"}]}
    (stage.folder / "result").write_text(json.dumps(bare))
    stage.network({"type": "one"}, {"type": "two"}, cniVersion="0.3.1")
    assert stage.attach() == bare | {"cniVersion": "0.3.1"}
    cni.check(str(stage.state))  # which 0.3.1 does not know: nobody is asked
    assert stage.order() == ["ADD one", "ADD two"]
    stage.detach()


FAULTS = {
    "code and text": (
        'echo \'{"code": 7, "msg": "Invalid", "details": "too small"}\'; exit 1',
        r"it says 'Invalid: too small' \(code 7\)$",
    ),
    "try again": ('echo \'{"code": 11, "msg": "busy"}\'; exit 1', r"it says 'busy' \(code 11\) \(.*later\)"),
    "no text": ("echo of what it died >&2; exit 3", "it failed with exit status 3; it wrote 'of what it died'"),
    "by a signal": ("kill -9 $$", "it was ended by signal 9 \\(killed\\)$"),
    "rubbish": ("echo '<html>'", "it has printed what is no JSON object; it wrote '<html>'"),
    "a list": ("echo '[]'", "it has printed what is no JSON object"),
    "nothing": ("true", "it has printed no result"),
    "too much": ("head -c 2000000 /dev/zero", "it has printed more than 1048576 bytes"),
    "another version": ('echo \'{"cniVersion": "0.2.0"}\'', "a result of version '0.2.0', not 1.0.0"),
    "no addresses": ('echo \'{"ips": ["10.9.0.5"]}\'', "a result whose ips are no list of objects with address"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plugin_that_fails_is_told_and_all_are_taken_back(stage: Stage, fault: str) -> None:
    script, told = FAULTS[fault]
    stage.on("two", "ADD", script)
    with pytest.raises(Error, match=f"^ADD of the CNI plugin two: .*{told}"):
        stage.attach()
    assert stage.order() == ["ADD one", "ADD two", "DEL two", "DEL one"]
    assert stage.asked()[-1].config["prevResult"] == RESULT
    assert stage.left() == []


def test_a_plugin_that_hangs_is_ended_with_what_it_has_started(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cniplugin, "TIMEOUT", 0.5)
    stage.on("two", "ADD", "sleep 1000 & sleep 1000")
    with pytest.raises(Error, match=r"ADD of the CNI plugin two: it ran for more than its timeout of 0.5 s"):
        stage.attach()
    assert stage.order()[2:] == ["DEL two", "DEL one"]
    assert stage.left() == []


def test_what_a_plugin_does_not_know_names_what_it_knows(stage: Stage) -> None:
    stage.on("one", "ADD", 'echo \'{"code": 1, "msg": "incompatible CNI versions"}\'; exit 1')
    stage.on("one", "VERSION", 'echo \'{"supportedVersions": ["0.3.1", "0.4.0"]}\'')
    with pytest.raises(Error, match=r"\(code 1\) \(this one knows the versions 0.3.1, 0.4.0 of CNI\)"):
        stage.attach()


def test_all_are_asked_to_delete_and_can_be_again(stage: Stage, recwarn: pytest.WarningsRecorder) -> None:
    stage.attach()
    for kind in ("one", "two"):
        stage.on(kind, "DEL", 'echo \'{"code": 99, "msg": "not now"}\'; exit 1')
    with pytest.raises(Error, match="DEL of the CNI plugin two: it says 'not now'"):
        stage.detach()
    assert [str(each.message) for each in recwarn] == ["DEL of the CNI plugin one: it says 'not now' (code 99)"]
    for kind in ("one", "two"):
        (stage.folder / f"{kind}.DEL").unlink()
    stage.detach()
    assert stage.order()[2:] == ["DEL two", "DEL one"] * 2
    assert stage.left() == []


def test_a_start_that_fails_is_taken_off_though_a_plugin_does_not_let_go(
    stage: Stage, recwarn: pytest.WarningsRecorder
) -> None:
    stage.on("two", "ADD", "exit 3")
    stage.on("one", "DEL", "exit 4")
    with pytest.raises(Error, match="ADD of the CNI plugin two"):
        stage.attach()
    assert "left behind on the network: DEL of the CNI plugin one: it failed with exit status 4" in str(
        recwarn[0].message
    )
    assert stage.left() == []


KNOWN = {"one": ["0.4.0", "1.0.0"], "two": ["0.3.1", "0.4.0"]}


def test_of_several_versions_the_highest_that_all_know(stage: Stage) -> None:
    stage.network({"type": "one"}, {"type": "two"}, cniVersions=["0.3.1", "0.4.0", "1.1.0"])
    for kind in ("one", "two"):
        stage.on(kind, "VERSION", f"echo '{json.dumps({'supportedVersions': KNOWN[kind]})}'")
    (stage.folder / "result").write_text(json.dumps(RESULT | {"cniVersion": "0.4.0"}))
    stage.attach()
    assert stage.order() == ["VERSION one", "VERSION two", "ADD one", "ADD two"]
    assert [each.config["cniVersion"] for each in stage.asked()[2:]] == ["0.4.0", "0.4.0"]
    stage.detach()


def test_no_version_that_all_know(stage: Stage) -> None:
    stage.network({"type": "one", "ipam": {"type": "two"}}, cniVersions=["1.1.0"])
    for kind, known in (("one", ["1.0.0"]), ("two", ["0.3.1"])):
        stage.on(kind, "VERSION", f"echo '{json.dumps({'supportedVersions': known})}'")
    with pytest.raises(
        UnsupportedError, match=r"no version that all plugins know \(two knows 0.3.1; .* wants 1.0.0, 1.1.0"
    ):
        stage.attach()
    assert stage.left() == []


def test_an_address_of_ones_own(stage: Stage) -> None:
    assert stage.attach(ips=["10.9.0.5"]) == RESULT
    assert stage.asked()[0].config["runtimeConfig"] == {"ips": ["10.9.0.5"]}
    assert "runtimeConfig" not in stage.asked()[1].config
    stage.detach()


def test_an_address_of_ones_own_as_it_was_asked_for_before_there_were_capabilities(stage: Stage) -> None:
    stage.network({"type": "one"})
    stage.attach(ips=["10.9.0.5"])
    assert stage.asked()[0].environment["CNI_ARGS"] == "IgnoreUnknown=1;IP=10.9.0.5"
    stage.detach()


def test_an_address_that_is_not_given(stage: Stage) -> None:
    with pytest.raises(ConfigError, match=r"web does not give the address 10.9.0.1 \(its .* gave 10.9.0.5/24"):
        stage.attach(ips=["10.9.0.1"])
    assert stage.order()[2:] == ["DEL two", "DEL one"]
    assert stage.left() == []


def refusals() -> dict[str, tuple[Callable[[Stage], object], str]]:
    return {
        "a plugin that is missing": (
            lambda stage: (stage.folder / "bin/two").unlink(),
            r"no CNI plugin two in .*/bin \(Debian: .*containernetworking-plugins; .*CNI_PATH",
        ),
        "a plugin that is no program": (lambda stage: (stage.folder / "bin/two").chmod(0o644), "no CNI plugin two in"),
        "no such network": (lambda stage: (stage.folder / "net.d/web.conflist").unlink(), "there are no CNI networks"),
    }


@pytest.mark.parametrize("which", refusals())
def test_what_is_refused_before_anything_is_asked(stage: Stage, which: str) -> None:
    spoil, told = refusals()[which]
    spoil(stage)
    with pytest.raises(ConfigError, match=told):
        stage.attach()
    assert (stage.order(), stage.left()) == ([], [])


def test_ports_that_nobody_publishes(stage: Stage) -> None:
    with pytest.raises(ConfigError, match=r"web publishes no ports \(no plugin of .*portMappings"):
        stage.attach(ports=[{"hostPort": 1}])
    assert (stage.order(), stage.left()) == ([], [])


def test_an_id_that_cni_does_not_take(stage: Stage) -> None:
    with pytest.raises(ConfigError, match="CNI takes no container ID '_c'"):
        cni.attach("web", "_c", os.getpid(), str(stage.state), ports=[], ips=[])
    assert (stage.order(), stage.left()) == ([], [])


def test_what_was_written_is_damaged(stage: Stage) -> None:
    stage.attach()
    path = stage.state / "cni.json"
    for text in ("{", "{}", "[]"):
        path.write_text(text)
        with pytest.raises(StateError, match=r"cni\.json is damaged"):
            stage.detach()


def test_a_check_that_fails(stage: Stage) -> None:
    stage.attach()
    stage.on("one", "CHECK", 'echo \'{"code": 100, "msg": "no such link"}\'; exit 1')
    with pytest.raises(Error, match="CHECK of the CNI plugin one: it says 'no such link'"):
        cni.check(str(stage.state))
    stage.network({"type": "one"}, disableCheck=True)
    stage.detach()
    stage.attach()
    cni.check(str(stage.state))
    stage.detach()
    with pytest.raises(StateError):
        cni.check(str(stage.state))
