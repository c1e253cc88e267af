"""A user whose right to execute the program is a capability that the program does not get: capabilities(7).

Until its execve the process holds what config.json says; what of that is not ambient ends there, for whoever is not
root. So nothing has to be passed on, and nothing may be.
"""

from __future__ import annotations

import pytest

from tests.support.container import Container
from tests.support.fixtures import Refused

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

OVERRIDE, KILL = 1 << 1, 1 << 5  # CAP_DAC_OVERRIDE, CAP_KILL
SETS = {
    "CapInh": "inheritable",
    "CapPrm": "permitted",
    "CapEff": "effective",
    "CapBnd": "bounding",
    "CapAmb": "ambient",
}


@pytest.fixture
def container(container: Container) -> Container:
    """User 7, who may not execute a program of root's, but for the capability. What it keeps is CAP_KILL."""
    program = container.rootfs / "opt/busybox"
    program.parent.mkdir(exist_ok=True)
    program.write_bytes((container.rootfs / "bin/busybox").read_bytes())
    program.chmod(0o700)
    container.process["user"] = {"uid": 7, "gid": 7}
    both, kept = ["CAP_DAC_OVERRIDE", "CAP_KILL"], ["CAP_KILL"]
    container.process["capabilities"] = {
        "bounding": both,
        "permitted": both,
        "effective": both,
        "inheritable": kept,
        "ambient": kept,
    }
    container.process["args"] = ["/opt/busybox", "grep", "^Cap", "/proc/self/status"]
    return container


def sets_in(output: str) -> dict[str, int]:
    return {SETS[name.rstrip(":")]: int(value, 16) for name, value in map(str.split, output.splitlines())}


@pytest.mark.parametrize("inheritable", [["CAP_KILL"], ["CAP_KILL", "CAP_DAC_OVERRIDE"]])
def test_it_executes_the_program_which_does_not_get_it(container: Container, inheritable: list[str]) -> None:
    container.process["capabilities"]["inheritable"] = inheritable
    result = container.run()
    assert result.status == 0, result
    found = sets_in(result.stdout)
    kept = KILL | (OVERRIDE if len(inheritable) > 1 else 0)
    assert found == {
        "inheritable": kept,
        "permitted": KILL,
        "effective": KILL,
        "ambient": KILL,
        "bounding": OVERRIDE | KILL,
    }


def test_exec_does_as_well(container: Container) -> None:
    words, container.process["args"] = container.process["args"], ["/opt/busybox", "sleep", "100000"]
    assert container.run_detached().status == 0
    result = container.exec(*words)
    assert result.status == 0, result
    assert sets_in(result.stdout)["permitted"] == KILL


def test_without_it_the_program_is_refused(container: Container, refused: Refused) -> None:
    """The control."""
    for name in ("permitted", "effective"):
        container.process["capabilities"][name] = ["CAP_KILL"]
    refused("permission denied")
