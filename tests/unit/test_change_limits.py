"""launch/change.py: all of a change or nothing, on files that behave as the kernel's do, and on some that misbehave."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pyruntime import report
from pyruntime.cgroup import creation
from pyruntime.cgroup.manager import Cgroup
from pyruntime.errors import KernelError
from pyruntime.launch.change import change_limits
from pyruntime.plan.change import change_steps, merge


class Files(Cgroup):
    """A cgroup whose files are kept here. As in the kernel a burst exceeds no quota, and cpu.idle resets the weight."""

    __slots__ = ("broken", "content")

    def __init__(self, **content: str) -> None:
        super().__init__("/sys/fs/cgroup/web")
        self.content = {name.replace("_", ".", 1).replace("_", "."): text for name, text in content.items()}
        self.broken: set[str] = set()

    def read(self, file: str) -> str:
        if file not in self.content:
            raise FileNotFoundError(errno.ENOENT, "", file)
        return self.content[file]

    def write(self, file: str, value: str, where: str = "") -> None:
        if file in self.broken or not self._allows(file, value):
            raise KernelError(f"write({file!r}, {value!r})", errno.EINVAL, where=where)
        if file not in self.content:
            raise KernelError(f"open({file!r})", errno.ENOENT, where=where)
        if file == "cpu.idle":
            self.content["cpu.weight"] = "0\n" if value.strip() == "1" else "100\n"
        if file == "io.max":
            device, _, limits = value.strip().partition(" ")
            now = {line.split()[0]: line for line in self.content[file].splitlines()}
            now[device] = f"{device} {limits}"
            self.content[file] = "".join(f"{line}\n" for line in now.values() if not line.endswith("=max"))
            return
        self.content[file] = value.strip() + "\n"

    def _allows(self, file: str, value: str) -> bool:
        text = {**self.content, file: value}
        if file == "cpu.weight" and text["cpu.idle"].strip() == "1":
            return False
        if file in ("cpu.max", "cpu.max.burst"):
            quota = text["cpu.max"].split()[0]
            return quota == "max" or int(text["cpu.max.burst"]) <= int(quota)
        return True


@pytest.fixture(autouse=True)
def with_all_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "available", lambda _directory, _needed: [])


def never() -> None:
    raise KernelError("write the state", errno.ENOSPC)


def change(cgroup: Files, resources: dict[str, Any], then: Any = lambda: None) -> None:
    after = merge({}, resources)  # type: ignore[arg-type]
    change_limits(change_steps(after, resources), cgroup, then)  # type: ignore[arg-type]


def a_cgroup() -> Files:
    return Files(
        memory_max="max\n", memory_swap_max="max\n", pids_max="20\n", cpu_weight="79\n", cpu_idle="0\n",
        cpu_max="50000 100000\n", cpu_max_burst="40000\n", io_max="8:16 rbps=5\n", cpuset_cpus="\n",
    )  # fmt: skip


CHANGES: list[dict[str, Any]] = [
    {"memory": {"limit": 4096, "swap": 8192}, "pids": {"limit": 3}},
    {"cpu": {"idle": 1}},
    {"cpu": {"quota": 20000, "burst": 10000}},
    {"cpu": {"quota": 90000, "burst": 80000}},
    {"cpu": {"cpus": "0"}},
    {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}, {"major": 8, "minor": 16, "rate": 7}]}},
]


@pytest.mark.parametrize("resources", CHANGES, ids=str)
def test_a_change_that_cannot_be_remembered_is_taken_back(resources: dict[str, Any]) -> None:
    cgroup = a_cgroup()
    change(cgroup, resources)
    assert cgroup.content != a_cgroup().content
    cgroup = a_cgroup()
    with pytest.raises(KernelError, match="ENOSPC"):
        change(cgroup, resources, never)
    assert cgroup.content == a_cgroup().content


def test_a_signal_takes_it_back_as_well() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    cgroup = a_cgroup()
    with pytest.raises(KeyboardInterrupt):
        change(cgroup, {"pids": {"limit": 3}}, interrupted)
    assert cgroup.content == a_cgroup().content


def test_what_cannot_be_taken_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(report, "sinks", [lambda _level, message: told.append(message)])
    cgroup = a_cgroup()

    def broken() -> None:
        cgroup.broken.add("pids.max")
        never()

    with pytest.raises(KernelError, match="ENOSPC"):
        change(cgroup, {"memory": {"limit": 4096}, "pids": {"limit": 3}}, broken)
    assert cgroup.content["memory.max"] == "max\n"
    (line,) = told
    assert line.startswith("pids.max of /sys/fs/cgroup/web stays changed: it says '3\\n'")
