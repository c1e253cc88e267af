"""Finding the v2 hierarchy and the runtime's own place in it, on hosts of many kinds, told by their /proc."""

from __future__ import annotations

import pytest

from pyruntime.cgroup import creation
from pyruntime.errors import UnsupportedError
from pyruntime.linux import proc

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = "31 24 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw"
V1 = "33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"
TMPFS = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755"
ELSEWHERE = "40 23 0:31 / /mnt/with\\040blank\\134040 rw - cgroup2 none rw"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files that the host shows; a test fills them in."""
    files: dict[str, str] = {}
    monkeypatch.setattr(proc, "read_file", lambda path, limit=0: files[path].encode())
    return files


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((UNIFIED,), "/sys/fs/cgroup"),
        ((TMPFS, V1, HYBRID), "/sys/fs/cgroup/unified"),
        ((TMPFS, HYBRID, UNIFIED), "/sys/fs/cgroup"),
        ((V1, ELSEWHERE), "/mnt/with blank\\040"),
        ((ELSEWHERE, UNIFIED), "/sys/fs/cgroup"),
    ],
)
def test_find_v2(host: dict[str, str], lines: tuple[str, ...], expected: str) -> None:
    host["/proc/self/mountinfo"] = "\n".join(lines) + "\n"
    assert creation.find_v2() == expected


def test_without_v2_the_remedy_is_told(host: dict[str, str]) -> None:
    host["/proc/self/mountinfo"] = f"{TMPFS}\n{V1}\n"
    with pytest.raises(UnsupportedError, match=r"no cgroup v2 .*unified_cgroup_hierarchy=1"):
        creation.find_v2()


@pytest.mark.parametrize(
    ("root", "own", "expected"),
    [
        ("/", "/", "/"),
        ("/", "/user.slice/user-0.slice/session-1.scope", "/user.slice/user-0.slice/session-1.scope"),
        ("/", "/gone (deleted)", "/gone"),
        ("/docker/1234", "/docker/1234", "/"),
        ("/docker/1234", "/docker/1234/init", "/init"),
        ("/docker/1234", "/docker/12345", "/"),
        ("/", "/../../other", "/"),
    ],
)
def test_own_cgroup(host: dict[str, str], root: str, own: str, expected: str) -> None:
    host["/proc/self/mountinfo"] = UNIFIED.replace(" / /sys", f" {root} /sys")
    host["/proc/self/cgroup"] = f"4:memory:/elsewhere\n0::{own}\n"
    assert creation.Hierarchy().cgroup_of() == expected


def test_own_cgroup_where_v2_is_not_mounted(host: dict[str, str]) -> None:
    """A plan is made on any machine; that a container can't be is for `create` to say."""
    host["/proc/self/mountinfo"] = f"{TMPFS}\n{V1}\n"
    host["/proc/self/cgroup"] = "4:memory:/elsewhere\n0::/mine\n"
    assert creation.Hierarchy().cgroup_of() == "/"


def test_own_cgroup_on_a_host_with_v1_alone(host: dict[str, str]) -> None:
    host["/proc/self/mountinfo"] = f"{TMPFS}\n{V1}\n"
    host["/proc/self/cgroup"] = "4:memory:/elsewhere\n"
    assert creation.Hierarchy().cgroup_of() == "/"


@pytest.mark.parametrize(
    ("controller", "own", "known", "remedy"),
    [
        ("memory", "4:memory:/\n0::/\n", "", r"cgroup v1 holds 'memory'.*cgroup_no_v1=memory"),
        ("io", "7:blkio,net_cls:/\n0::/\n", "", r"cgroup v1 holds 'blkio'.*cgroup_no_v1=blkio"),
        (
            "memory",
            "0::/\n",
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t0\n",
            r"cgroup_enable=memory",
        ),
        (
            "memory",
            "0::/\n",
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t1\n",
            r"does not hand it down",
        ),
        ("rdma", "0::/\n", "", r"built without it"),
    ],
)
def test_a_missing_controller_comes_with_its_remedy(
    host: dict[str, str], controller: str, own: str, known: str, remedy: str
) -> None:
    host.update({"/proc/self/cgroup": own, "/proc/cgroups": known, "/top/cgroup.controllers": "hugetlb\n"})
    key = "config.json#/linux/resources/x"
    with pytest.raises(UnsupportedError, match=rf"'{controller}'.*only: hugetlb.*{remedy}") as caught:
        creation.create("/top", "/web", {controller: key})
    assert caught.value.where == key
