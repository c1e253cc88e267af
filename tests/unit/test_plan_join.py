"""plan.join and spec.execution: what an `exec` will do, and by which name its user knows each part of it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pyruntime.errors import ConfigError, Error, KernelError, UnsupportedError, UsageError
from pyruntime.linux import constants as c
from pyruntime.plan import join
from pyruntime.plan.process import AdjustOomScore, BecomeUser, Execute, SetCapabilities
from pyruntime.plan.step import PHASES, Step
from pyruntime.spec.execution import Wanted, from_file, from_object, from_options
from tests.support.bundle import default_config

KINDS = {"mnt": c.CLONE_NEWNS, "pid": c.CLONE_NEWPID}


def config(**process: Any) -> Any:
    made = default_config()
    made["process"] |= process
    return made


def steps(wanted: Wanted, **options: Any) -> list[Step]:
    return join.build(wanted.spec, "web", KINDS, **options).steps


def the(kind: type[Step], wanted: Wanted) -> Any:
    (found,) = [step for step in steps(wanted) if isinstance(step, kind)]
    return found


def names(found: list[Step]) -> list[str]:
    return [type(step).__name__ for step in found]


RICH = {
    "oomScoreAdj": 5,
    "scheduler": {"policy": "SCHED_BATCH"},
    "apparmorProfile": "tight",
    "execCPUAffinity": {"initial": "0-1,3", "final": "2"},
}


def test_the_order() -> None:
    spec = config(**RICH)
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    spec["linux"]["personality"] = {"domain": "LINUX32"}
    spec["linux"]["memoryPolicy"] = {"mode": "MPOL_DEFAULT"}
    spec["linux"]["intelRdt"] = {"schemata": ["L3:0=f"]}
    assert names(steps(from_options(spec, ["ls"], tty=True))) == [
        "StartOnCpus", "PlaceOnCpus", "AdjustOomScore", "SetScheduler", "FollowIntoGroup", "ConfineByProfile",
        "LimitItself", "EnterNamespaces", "JoinContainersKeyring", "OpenTerminalInside", "SetMemoryPolicy",
        "SetPersonality", "SetUmask", "ForbidNewPrivileges", "LimitBounding", "BecomeUser", "LoadSeccomp",
        "SetCapabilities", "Execute",
    ]  # fmt: skip


def test_without_a_mount_namespace_the_root_is_the_inits() -> None:
    wanted = from_options(config(), ["ls"])
    found = join.build(wanted.spec, "web", {"pid": c.CLONE_NEWPID}, init_pid=12).steps
    index = names(found).index("EnterNamespaces")
    assert found[index + 1].text() == "chroot into the root of process 12"
    found = join.build(wanted.spec, "web", {}, init_pid=12).steps
    assert "EnterNamespaces" not in names(found), "setns(2) takes no 0"


def test_nothing_of_the_containers_own_is_done_again() -> None:
    spec = config()
    spec["linux"] |= {"netDevices": {"eth0": {}}, "sysctl": {"net.ipv4.ip_forward": "1"}}
    spec["hooks"] = {"poststart": [{"path": "/bin/true"}]}
    assert names(steps(from_options(spec, ["ls"]), no_new_keyring=True)) == [
        *("PlaceOnCpus", "LimitItself", "EnterNamespaces", "SetUmask", "ForbidNewPrivileges"),
        *("LimitBounding", "BecomeUser", "SetCapabilities", "Execute"),
    ]


def test_the_texts_of_its_own_steps() -> None:
    wanted = from_options(config(**RICH), ["ls"], tty=True)
    texts = [step.text() for step in steps(wanted) if type(step).__module__ == "pyruntime.plan.join"]
    assert texts == [
        "start on the CPUs 0, 1, 3",
        "let it run on the CPUs 2",
        "limit RLIMIT_NOFILE to 1024, at most 1024",
        "enter the container's namespaces: mnt, pid",
        "join the session keyring _ses.web",
        "open a terminal",
    ]
    assert all(step.phase in PHASES and step.why for step in steps(wanted))
    assert the(join.PlaceOnCpus, from_options(config(), ["ls"])).text() == "let it run on any CPU"
    initial = config(execCPUAffinity={"initial": "1"})
    assert "PlaceOnCpus" not in names(steps(from_options(initial, ["ls"])))


def test_the_flags_of_the_namespaces() -> None:
    step = the(join.EnterNamespaces, from_options(config(), ["ls"]))
    assert step.flags == c.CLONE_NEWNS | c.CLONE_NEWPID


class TestOptions:
    """In place of config.json's keys, or besides them (runc:exec.go:/^func getProcess/)."""

    def test_config_json_is_left_as_it_is(self) -> None:
        spec = config(user={"uid": 1, "gid": 2, "additionalGids": [3]})
        before = json.dumps(spec)
        from_options(spec, ["ls"], env=["A=1"], user="7", additional_gids=["9"], cap=["CAP_KILL"], no_new_privs=False)
        assert json.dumps(spec) == before

    def test_a_config_without_a_process(self) -> None:
        spec = config()
        del spec["process"]
        wanted = from_options(spec, ["ls"], user="7")
        assert wanted.spec["process"] == {"cwd": "/", "args": ["ls"], "terminal": False, "user": {"uid": 7}}
        assert from_options(spec, ["ls"]).is_plain()
        assert "process" not in spec

    def test_each(self) -> None:
        spec = config(user={"uid": 1, "gid": 2, "additionalGids": [3], "umask": 0o77}, terminal=True)
        wanted = from_options(
            spec,
            ["ls", "-l"],
            cwd="/tmp",
            env=["A=1"],
            user="7",
            additional_gids=["9", "0"],
            no_new_privs=False,
            apparmor="tight",
            process_label="label",
        )
        process = wanted.spec["process"]
        assert (process["args"], process["cwd"], process["terminal"]) == (["ls", "-l"], "/tmp", False)
        assert process["env"] == [*spec["process"]["env"], "A=1"]
        assert process["user"] == {"uid": 7, "gid": 2, "additionalGids": [3, 9, 0], "umask": 0o77}
        assert (process["noNewPrivileges"], process["apparmorProfile"]) == (False, "tight")
        assert process["selinuxLabel"] == "label"
        assert from_options(spec, ["ls"], user="7:8").spec["process"]["user"]["gid"] == 8

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " 1",
            "1 ",
            "+1",
            "-1",
            "1_0",
            "٣",
            "0x1",
            "1.0",
            "4294967295",
            "4294967296",
            "99999999999999999999",
            "root",
        ],
    )
    def test_ids_are_read_strictly(self, text: str) -> None:
        """CVE-2026-30892: what is cut at 32 bits, or taken for 0, is root."""
        tries: list[tuple[str, dict[str, Any]]] = [
            ("--user", {"user": f"0:{text}"}),
            ("--user", {"user": f"{text}:0"}),
            ("--additional-gids", {"additional_gids": [text]}),
        ]
        for option, given in tries:
            with pytest.raises(UsageError) as caught:
                from_options(config(), ["ls"], **given)
            assert caught.value.where == option

    def test_the_greatest_id(self) -> None:
        assert from_options(config(), ["ls"], user="4294967294").spec["process"]["user"]["uid"] == 4294967294

    @pytest.mark.parametrize(
        ("inheritable", "ambient"), [(None, None), ([], ["CAP_NET_RAW"]), (["CAP_KILL"], ["CAP_NET_RAW"])]
    )
    def test_capabilities(self, inheritable: list[str] | None, ambient: list[str] | None) -> None:
        """Inheritable ones are nobody's to give but config.json's (CVE-2022-29162)."""
        sets: dict[str, list[str]] = {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"]}
        if inheritable is not None:
            sets["inheritable"] = inheritable
        wanted = from_options(config(capabilities=sets), ["ls"], cap=["CAP_NET_RAW", "CAP_KILL"])
        grown: Any = wanted.spec["process"]["capabilities"]
        assert grown["bounding"] == grown["permitted"] == ["CAP_KILL", "CAP_NET_RAW"]
        assert grown["effective"] == ["CAP_NET_RAW", "CAP_KILL"]
        assert grown.get("inheritable") == inheritable
        assert (grown.get("ambient") or [])[:1] == (ambient or [])

    def test_capabilities_where_config_json_has_none(self) -> None:
        spec = config()
        del spec["process"]["capabilities"]
        step = the(SetCapabilities, from_options(spec, ["ls"], cap=["CAP_KILL"]))
        assert (step.effective, step.permitted, step.inheritable, step.ambient) == (1 << 5, 1 << 5, 0, 0)


class TestObject:
    """--process: runc:libcontainer/container_linux.go:/^func .*newInitConfig/ says what comes from the container."""

    def test_what_it_says_counts(self) -> None:
        given = {"args": ["ls"], "cwd": "/", "user": {"uid": 5}, "noNewPrivileges": False, "env": ["A=1"], **RICH}
        process = from_object(config(), given, "p").spec["process"]
        assert {key: process[key] for key in given} == given  # type: ignore[literal-required]

    def test_what_it_leaves_to_the_container(self) -> None:
        spec = config(**RICH, selinuxLabel="label", ioPriority={"class": "IOPRIO_CLASS_BE"})
        process = from_object(spec, {"args": ["ls"], "cwd": "/", "rlimits": [], "apparmorProfile": ""}, "p").spec[
            "process"
        ]
        for key in ("capabilities", "rlimits", "selinuxLabel", "ioPriority", *RICH):
            assert process[key] == spec["process"][key]  # type: ignore[literal-required]
        for key in ("env", "user", "noNewPrivileges", "terminal"):
            assert key not in process

    def test_a_config_without_a_process(self) -> None:
        spec = config()
        del spec["process"]
        given = {"args": ["ls"], "cwd": "/tmp"}
        assert from_object(spec, given, "p").spec["process"] == given

    def test_the_umask(self) -> None:
        spec = config(user={"umask": 0o77, "uid": 9})
        assert from_object(spec, {"args": ["ls"], "cwd": "/"}, "p").spec["process"]["user"] == {"umask": 0o77}
        given = {"args": ["ls"], "cwd": "/", "user": {"umask": 0o27}}
        assert from_object(spec, given, "p").spec["process"]["user"] == {"umask": 0o27}


class TestFile:
    """The file of --process."""

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text('{"args": ["ls"], "cwd": "/", "env": null}')
        assert from_file(config(), str(tmp_path / "p.json")).spec["process"]["args"] == ["ls"]

    def test_a_pipe(self) -> None:
        """As a shell's <(...) gives it."""
        reader, writer = os.pipe()
        text = b'{"args": ["' + b"x" * 100000 + b'"], "cwd": "/"}'

        def write() -> None:
            with os.fdopen(writer, "wb") as file:
                file.write(text)

        thread = threading.Thread(target=write)
        thread.start()
        wanted = from_file(config(), f"/dev/fd/{reader}")
        thread.join()
        os.close(reader)
        assert len(wanted.spec["process"]["args"][0]) == 100000

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"", "the text is empty"), (b"[]", "must hold a JSON object"), (b"{", "ends too early"),
         (b"\xff", "not UTF-8"), (b" " * ((16 << 20) + 1), "larger than 16 MiB")],
    )  # fmt: skip
    def test_what_is_no_object(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "p.json"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            from_file(config(), str(path))
        assert caught.value.where == str(path)

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        tries: list[tuple[str, type[Error], str]] = [
            (str(tmp_path), ConfigError, str(tmp_path)),
            ("/dev/zero", ConfigError, "/dev/zero"),
            ("/nowhere/at/all", KernelError, "--process"),
            ("nul\0", UsageError, "--process"),
        ]
        for path, kind, where in tries:
            with pytest.raises(kind) as caught:
                from_file(config(), path)
            assert caught.value.where == where


class TestPlaces:
    """An error names the option or the file's key, not config.json's, where it came from there."""

    @pytest.mark.parametrize(
        ("options", "place"),
        [({"cwd": "tmp"}, "--cwd"), ({"env": ["novalue"]}, "--env"), ({"args": [""]}, ""), ({"args": ["a\0"]}, "")],
    )
    def test_options(self, options: dict[str, Any], place: str) -> None:
        with pytest.raises(ConfigError) as caught:
            from_options(config(), **{"args": ["ls"], **options}).check()
        assert caught.value.where == place

    @pytest.mark.parametrize(
        ("given", "place"),
        [({"args": []}, "p.json#/args"), ({"args": [1]}, "p.json#/args/0"), ({"cwd": "/"}, "p.json#"),
         ({"args": ["ls"], "cwd": 5}, "p.json#/cwd"), ({"args": ["ls"], "cwd": "/", "user": 0}, "p.json#/user"),
         ({"args": ["ls"], "cwd": "/", "user": {"uid": -1}}, "p.json#/user/uid"),
         ({"args": ["ls"], "cwd": "/", "rlimits": [{"type": "X"}]}, "p.json#/rlimits/0/type"),
         ({"args": ["ls"], "cwd": "/", "terminal": 1}, "p.json#/terminal")],
    )  # fmt: skip
    def test_files(self, given: dict[str, Any], place: str) -> None:
        with pytest.raises(ConfigError) as caught:
            from_object(config(), given, "p.json").check()
        assert caught.value.where == place

    def test_a_command_alone_needs_no_more_checks(self) -> None:
        assert from_options(config(), ["ls", "\udcff"], tty=True).is_plain()
        for args, options in ((["ls"], {"cwd": "/"}), ([""], {}), (["ls", "\0"], {}), (["ls", 1], {})):
            assert not from_options(config(), args, **options).is_plain()  # type: ignore[arg-type]
        for given in ({}, {"args": ["ls"], "cwd": "/"}):
            assert not from_object(config(), given, "p").is_plain()

    def test_what_comes_from_config_json_is_told_by_its_place_there(self) -> None:
        wanted = from_object(config(), {"args": ["ls"], "cwd": "/"}, "p.json")
        assert wanted.place("config.json#/process/rlimits/0") == "config.json#/process/rlimits/0"
        assert wanted.place("config.json#/linux/seccomp") == "config.json#/linux/seccomp"
        assert wanted.place("") == ""

    def test_an_unmapped_user(self) -> None:
        spec = config()
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"] |= {key: [{"containerID": 0, "hostID": 1, "size": 10}] for key in ("uidMappings", "gidMappings")}
        with pytest.raises(ConfigError, match="1000 is not mapped") as caught:
            from_options(spec, ["ls"], user="1000:1").check()
        assert caught.value.where == "--user"

    def test_what_is_not_served(self) -> None:
        given = {"args": ["ls"], "cwd": "/", "scheduler": {"policy": "SCHED_ISO"}}
        with pytest.raises(UnsupportedError) as caught:
            from_object(config(), given, "p.json").check()
        assert caught.value.where == "p.json#/scheduler/policy"

    def test_warnings(self) -> None:
        assert (
            from_options(config(), ["ls"], cap=["CAP_FLY"]).check()[0].startswith("--cap: unknown capability CAP_FLY")
        )
        told = from_object(config(), {"args": ["ls"], "cwd": "/", "argz": 1}, "p.json").check()
        assert told == ["p.json#/argz: unknown key, ignored"]


def test_the_steps_have_what_was_asked_for() -> None:
    wanted = from_options(config(oomScoreAdj=7), ["ls", "-l"], user="7:8", cwd="/tmp")
    assert the(Execute, wanted).args == ("ls", "-l")
    assert (the(BecomeUser, wanted).uid, the(BecomeUser, wanted).cwd) == (7, "/tmp")
    assert the(AdjustOomScore, wanted).score == 7
    assert the(join.LimitItself, wanted).soft == 1024
