"""Device programs in the kernel's hands: a process in a cgroup opens and makes nodes, and is told EPERM or not."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyruntime.cgroup import creation
from pyruntime.cgroup.manager import Cgroup
from pyruntime.errors import KernelError
from pyruntime.linux import bpf
from pyruntime.plan.devices import effective_rules

pytestmark = pytest.mark.needs("root", "cgroup2")

NULL, ZERO, FULL = (1, 3), (1, 5), (1, 7)


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    made = creation.create(creation.find_v2(), f"/pyruntime-test-bpf-{os.getpid()}", {})
    yield made
    made.undo()


def put(cgroup: Cgroup, instructions: bytes, *, fresh: bool = False) -> None:
    program_fd = bpf.load(instructions)
    cgroup_fd = cgroup.open_fd()
    try:
        bpf.attach(program_fd, cgroup_fd, fresh=fresh)
    finally:
        os.close(program_fd)
        os.close(cgroup_fd)


def attached(cgroup: Cgroup) -> list[int]:
    cgroup_fd = cgroup.open_fd()
    try:
        return bpf.attached_ids(cgroup_fd)
    finally:
        os.close(cgroup_fd)


def inside(cgroup: Cgroup, flags: int, device: tuple[int, int], folder: Path, *, mknod: bool = False) -> str:
    """What a process in the cgroup is told when it opens (or makes) a device: an errno's name, or "ok"."""
    path = str(folder / f"{device[0]}-{device[1]}")
    if not mknod and not os.path.exists(path):
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(*device))
    child = os.fork()
    if child == 0:
        status = 255
        try:
            Path(cgroup.path, "cgroup.procs").write_text("0")
            if mknod:
                os.mknod(f"{path}-new", stat.S_IFCHR | 0o600, os.makedev(*device))
                os.unlink(f"{path}-new")
            else:
                os.close(os.open(path, flags))
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return errno.errorcode[status] if status else "ok"


def test_an_allow_list(cgroup: Cgroup, tmp_path: Path) -> None:
    put(cgroup, bpf.device_program([("c", *NULL, "rw"), ("c", *ZERO, "r"), ("c", -1, -1, "m")], False), fresh=True)
    assert inside(cgroup, os.O_RDWR, NULL, tmp_path) == "ok"
    assert inside(cgroup, os.O_RDONLY, ZERO, tmp_path) == "ok"
    assert inside(cgroup, os.O_WRONLY, ZERO, tmp_path) == "EPERM"
    assert inside(cgroup, os.O_RDWR, ZERO, tmp_path) == "EPERM"
    assert inside(cgroup, os.O_RDONLY, FULL, tmp_path) == "EPERM"
    assert inside(cgroup, 0, FULL, tmp_path, mknod=True) == "ok"


def test_a_deny_list_denies_reading_and_writing_where_writing_is_denied(cgroup: Cgroup, tmp_path: Path) -> None:
    put(cgroup, bpf.device_program([("c", *NULL, "w"), ("c", *ZERO, "m")], True), fresh=True)
    assert inside(cgroup, os.O_RDONLY, NULL, tmp_path) == "ok"
    assert inside(cgroup, os.O_WRONLY, NULL, tmp_path) == "EPERM"
    assert inside(cgroup, os.O_RDWR, NULL, tmp_path) == "EPERM"
    assert inside(cgroup, os.O_RDWR, ZERO, tmp_path) == "ok"
    assert inside(cgroup, 0, ZERO, tmp_path, mknod=True) == "EPERM"


@pytest.mark.parametrize(("rule", "answer"), [(("c", 1, -1, "rwm"), "ok"), (("c", -1, 3, "rwm"), "ok")])
@pytest.mark.parametrize("device", [NULL, FULL])
def test_wildcards(
    cgroup: Cgroup, tmp_path: Path, rule: tuple[str, int, int, str], answer: str, device: tuple[int, int]
) -> None:
    put(cgroup, bpf.device_program([rule], False), fresh=True)
    expected = answer if rule[1] == 1 or device == NULL else "EPERM"
    assert inside(cgroup, os.O_RDWR, device, tmp_path) == expected


def test_the_default_rules_are_what_a_container_needs_and_no_more(cgroup: Cgroup, tmp_path: Path) -> None:
    default_allow, rules = effective_rules([{"allow": False, "access": "rwm"}], set())
    put(cgroup, bpf.device_program(rules, default_allow), fresh=True)
    for device in (NULL, ZERO, FULL, (1, 8), (1, 9)):
        assert inside(cgroup, os.O_RDWR, device, tmp_path) == "ok", device
    assert inside(cgroup, os.O_RDONLY, (1, 11), tmp_path) == "EPERM"  # /dev/kmsg
    assert inside(cgroup, 0, (1, 11), tmp_path, mknod=True) == "ok"


def test_device_numbers_use_all_bits(cgroup: Cgroup, tmp_path: Path) -> None:
    """The program sees 12 bits of major and 20 of minor; a rule for more must load, and match nothing."""
    put(cgroup, bpf.device_program([("c", (1 << 32) - 1, 1 << 31, "rwm"), ("c", *NULL, "rwm")], False), fresh=True)
    assert inside(cgroup, os.O_RDWR, NULL, tmp_path) == "ok"


def test_many_rules_load(cgroup: Cgroup, tmp_path: Path) -> None:
    rules = [("c", 4095, minor, "r") for minor in range(2000)]
    put(cgroup, bpf.device_program([*rules, ("c", *NULL, "rwm")], False), fresh=True)
    assert inside(cgroup, os.O_RDWR, NULL, tmp_path) == "ok"
    assert inside(cgroup, os.O_RDWR, ZERO, tmp_path) == "EPERM"


def test_a_second_program_replaces_the_first(cgroup: Cgroup, tmp_path: Path) -> None:
    put(cgroup, bpf.device_program([], False), fresh=True)
    (first,) = attached(cgroup)
    assert inside(cgroup, os.O_RDONLY, NULL, tmp_path) == "EPERM"
    put(cgroup, bpf.device_program([("c", *NULL, "rwm")], False))
    (second,) = attached(cgroup)
    assert second != first
    assert inside(cgroup, os.O_RDONLY, NULL, tmp_path) == "ok"


def test_several_old_programs_are_all_replaced(cgroup: Cgroup, tmp_path: Path) -> None:
    for device in (NULL, ZERO):
        put(cgroup, bpf.device_program([("c", *device, "rwm")], False), fresh=True)
    assert len(attached(cgroup)) == 2
    assert inside(cgroup, os.O_RDONLY, NULL, tmp_path) == "EPERM"  # both would have to allow it
    put(cgroup, bpf.device_program([], True))
    assert len(attached(cgroup)) == 1
    assert inside(cgroup, os.O_RDONLY, NULL, tmp_path) == "ok"


def test_a_rejected_program_is_explained_by_the_verifier() -> None:
    endless = bpf._instruction(0x05, 0, 0, -1)  # a jump to itself
    with pytest.raises(KernelError, match="the verifier says: ") as caught:
        bpf.load(endless)
    assert caught.value.errno == errno.EINVAL


def test_descriptors_do_not_leak(cgroup: Cgroup) -> None:
    put(cgroup, bpf.device_program([], True), fresh=True)
    before = os.listdir("/proc/self/fd")
    put(cgroup, bpf.device_program([], False))
    with pytest.raises(KernelError):
        put(cgroup, b"\xff" * 8)
    assert os.listdir("/proc/self/fd") == before
