"""plan.selinux: what a label asks for, and of which mounts. And launch.selinux where it is off: no kernel is asked."""

from __future__ import annotations

from typing import Any

import pytest

from pyruntime.errors import ConfigError, UnsupportedError
from pyruntime.launch import selinux as launch_selinux
from pyruntime.linux import constants as c
from pyruntime.linux import proc
from pyruntime.plan import join
from pyruntime.plan.build import build
from pyruntime.plan.mounts import DATA_MAX, EMPTY_TMPFS, MaskPath, MountFilesystem
from pyruntime.plan.selinux import LabelKeyring, LabelMounts, LabelProcess, RenewIpc
from pyruntime.plan.step import ROOTFS, Step
from tests.support.bundle import default_config, mount

LABEL = "system_u:object_r:container_file_t:s0:c1,c2"
CONTEXT = f'context="{LABEL}"'


def config(label: str = LABEL) -> Any:
    made = default_config()
    made["linux"]["mountLabel"] = label
    return made


def steps(spec: Any, **options: Any) -> list[Step]:
    return build(spec, "/bundle", "web", "/web", **options).steps


def data_of(found: list[Step]) -> dict[str, str]:
    """The options of each mount, by its place in the container."""
    return {step.target: step.data for step in found if isinstance(step, MountFilesystem)}


def the_label(found: list[Step]) -> LabelMounts:
    (one,) = [step for step in found if isinstance(step, LabelMounts)]
    return one


class TestMounts:
    def test_which_have_it(self) -> None:
        """As the default mounts of every engine are."""
        before, after = data_of(steps(default_config())), data_of(steps(config()))
        labelled = {target: data.removesuffix(f",{CONTEXT}") for target, data in after.items() if CONTEXT in data}
        assert labelled == {target: before[target] for target in ("/dev", "/dev/pts", "/dev/shm")}
        assert {target for target in after if target not in labelled} == {"/proc", "/sys", "/dev/mqueue"}
        assert the_label(steps(config())).targets == ("/dev/mqueue",)

    def test_one_without_other_options(self) -> None:
        spec = config()
        spec["mounts"].append(mount("/x", "tmpfs"))
        assert data_of(steps(spec))["/x"] == CONTEXT

    @pytest.mark.parametrize("options", [["remount", "ro"], ["bind"], ["rbind", "ro"]])
    def test_what_is_mounted_already_is_left_alone(self, options: list[str]) -> None:
        spec = config()
        spec["mounts"].append(mount("/x", "tmpfs", *options, source="/srv"))
        found = [step for step in steps(spec) if getattr(step, "target", "") == "/x"]
        assert found
        assert CONTEXT not in repr(found)

    @pytest.mark.parametrize("own", ["context=a:b:c", 'context="a:b:c:s0:c1,c2"'])
    def test_ones_own_is_kept(self, own: str) -> None:
        spec = config()
        spec["mounts"].append(mount("/x", "tmpfs", "size=1m", own))
        assert data_of(steps(spec))["/x"] == f"size=1m,{own}"

    def test_what_hides_a_directory_has_it(self) -> None:
        assert {step.data for step in steps(config()) if isinstance(step, MaskPath)} == {f"{EMPTY_TMPFS},{CONTEXT}"}
        assert {step.data for step in steps(default_config()) if isinstance(step, MaskPath)} == {EMPTY_TMPFS}

    def test_without_any_mount_it_is_still_asked_whether_there_is_a_policy(self) -> None:
        spec = config()
        spec["mounts"] = []
        found = steps(spec)
        assert the_label(found) == next(step for step in found if step.phase == ROOTFS)

    @pytest.mark.parametrize("label", [None, ""])
    def test_no_label_is_no_step(self, label: str | None) -> None:
        spec = config()
        spec["linux"]["mountLabel"] = label
        if label is None:
            del spec["linux"]["mountLabel"]
        assert steps(spec) == steps(default_config())

    @pytest.mark.parametrize(
        ("kinds", "renewed"),
        [({"user": "", "ipc": ""}, True), ({"ipc": ""}, False), ({"user": "", "ipc": "/proc/7/ns/ipc"}, False),
         ({"user": "/proc/7/ns/user", "ipc": ""}, False)],
    )  # fmt: skip
    def test_queues_that_would_belong_to_nobody(self, kinds: dict[str, str], renewed: bool) -> None:
        spec = config()
        spec["linux"]["namespaces"] = [{"type": "mount"}]
        spec["linux"]["namespaces"] += [
            {"type": kind} | ({"path": path} if path else {}) for kind, path in kinds.items()
        ]
        assert any(isinstance(step, RenewIpc) for step in steps(spec)) is renewed
        spec["mounts"] = [each for each in spec["mounts"] if each["type"] != "mqueue"]
        assert not any(isinstance(step, RenewIpc) for step in steps(spec))

    def test_a_label_that_would_end_early(self) -> None:
        with pytest.raises(ConfigError, match="double quote") as caught:
            steps(config('a",nosuch="b'))
        assert caught.value.where == "config.json#/linux/mountLabel"

    def test_more_options_than_mount_takes(self) -> None:
        spec = config()
        spec["mounts"].append(mount("/x", "tmpfs", "x" * (DATA_MAX - 1 - len(f",{CONTEXT}"))))
        assert len(data_of(steps(spec))["/x"]) == DATA_MAX - 1
        spec["mounts"][-1]["options"][0] += "x"
        with pytest.raises(ConfigError, match="with linux") as caught:
            steps(spec)
        assert caught.value.where == f"config.json#/mounts/{len(spec['mounts']) - 1}"


class TestProcess:
    def test_it_and_its_keyring(self) -> None:
        spec = default_config()
        spec["process"]["selinuxLabel"] = LABEL
        where = "config.json#/process/selinuxLabel"
        for options, keyrings in (({}, [LabelKeyring(where, LABEL)]), ({"no_new_keyring": True}, [])):
            found = steps(spec, **options)
            assert [step for step in found if isinstance(step, LabelKeyring)] == keyrings
            assert [step for step in found if isinstance(step, LabelProcess)] == [LabelProcess(where, LABEL)]

    def test_of_an_exec(self) -> None:
        spec = config()
        kinds = {"mnt": c.CLONE_NEWNS}
        assert not [step for step in join.build(spec, "web", kinds) if type(step).__module__.endswith("selinux")]
        spec["process"]["selinuxLabel"] = "a:b:c"
        names = [type(step).__name__ for step in join.build(spec, "web", kinds)]
        assert names.index("LabelKeyring") < names.index("LabelProcess") < names.index("EnterNamespaces")
        assert "LabelMounts" not in names


class TestWhereItMeansNothing:
    @pytest.mark.parametrize("key", ["selinuxLabel", "mountLabel"])
    @pytest.mark.parametrize(
        ("files", "told"),
        [({"/proc/filesystems": b"nodev\ttmpfs\n"}, "SELinux is disabled on this host"),
         ({"/proc/filesystems": b"nodev\tselinuxfs\n", "/proc/self/attr/current": b"kernel\0"}, "no policy has been"),
         ({"/proc/filesystems": b"nodev\tselinuxfs\n", "/proc/self/attr/current": b"u:r:kernel:s0\0"}, "")],
    )  # fmt: skip
    def test_what_it_tells(self, key: str, files: dict[str, bytes], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(proc, "read_file", files.__getitem__)
        spec = default_config()
        part = "process" if key == "selinuxLabel" else "linux"
        spec[part][key] = LABEL
        plan = build(spec, "/bundle", "web", "/web")  # type: ignore[arg-type]
        if not told:
            return launch_selinux.refuse_where_it_is_off(plan)
        with pytest.raises(UnsupportedError, match=told) as caught:
            launch_selinux.refuse_where_it_is_off(plan)
        assert caught.value.where == f"config.json#/{part}/{key}"
        assert caught.value.hint
        return None
