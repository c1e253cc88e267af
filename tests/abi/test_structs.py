"""The structs that are put together from words have the kernel's sizes and offsets."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pyruntime.linux import clone, net_if, syscalls
from tests.abi import headers

pytestmark = pytest.mark.needs("gcc")


def layout(folder: Path, header: str, struct: str, *fields: str) -> tuple[int, dict[str, int]]:
    """(size, field -> offset) of a struct."""
    asked = {"sizeof": f"sizeof(struct {struct})"}
    asked |= {field: f"offsetof(struct {struct}, {field})" for field in fields}
    said = headers.values(folder, [header], asked)
    return said.pop("sizeof"), said


def words(*fields: str) -> tuple[int, dict[str, int]]:
    """The layout that u64() makes: 64-bit words, one after the other."""
    return 8 * len(fields), {field: 8 * place for place, field in enumerate(fields)}


def clone_args_fields() -> list[str]:
    """The names in the dict from which clone3 makes its struct."""
    tree = ast.parse(Path(clone.__file__).read_text())
    literal = next(node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    return [key.value for key in literal.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def test_clone_args(tmp_path: Path) -> None:
    fields = clone_args_fields()
    assert len(fields) == 11
    assert layout(tmp_path, "linux/sched.h", "clone_args", *fields) == words(*fields)


@pytest.mark.parametrize(
    ("header", "struct", "fields"),
    [
        ("linux/openat2.h", "open_how", ["flags", "mode", "resolve"]),
        ("linux/mount.h", "mount_attr", ["attr_set", "attr_clr", "propagation", "userns_fd"]),
        ("linux/resource.h", "rlimit64", ["rlim_cur", "rlim_max"]),
    ],
)
def test_structs_of_words(header: str, struct: str, fields: list[str], tmp_path: Path) -> None:
    assert layout(tmp_path, header, struct, *fields) == words(*fields)


def test_capability_sets(tmp_path: Path) -> None:
    """Two structs of three 32-bit words, the low halves first."""
    size, offsets = layout(
        tmp_path, "linux/capability.h", "__user_cap_data_struct", "effective", "permitted", "inheritable"
    )
    assert (size, offsets) == (12, {"effective": 0, "permitted": 4, "inheritable": 8})
    size, offsets = layout(tmp_path, "linux/capability.h", "__user_cap_header_struct", "version", "pid")
    assert (size, offsets) == (8, {"version": 0, "pid": 4})
    said = headers.values(tmp_path, ["linux/capability.h"], {"n": "0 + _LINUX_CAPABILITY_U32S_3"})
    assert said == {"n": 2}


def test_sched_attr(tmp_path: Path) -> None:
    """Put together from words of 32 and of 64 bits; the C library has another header for it."""
    fields = {"size": 0, "sched_policy": 4, "sched_flags": 8, "sched_nice": 16, "sched_priority": 20}
    fields |= {
        "sched_runtime": 24,
        "sched_deadline": 32,
        "sched_period": 40,
        "sched_util_min": 48,
        "sched_util_max": 52,
    }
    assert layout(tmp_path, "linux/sched/types.h", "sched_attr", *fields) == (syscalls._SIZEOF_SCHED_ATTR, fields)


def test_statfs(tmp_path: Path) -> None:
    size, offsets = layout(tmp_path, "sys/vfs.h", "statfs", "f_type")
    assert offsets == {"f_type": 0}
    assert size <= 256
    assert headers.values(tmp_path, ["sys/vfs.h"], {"n": "sizeof(((struct statfs *)0)->f_type)"}) == {"n": 8}


def test_ifreq(tmp_path: Path) -> None:
    size, offsets = layout(tmp_path, "net/if.h", "ifreq", "ifr_name", "ifr_flags")
    assert (size, offsets) == (net_if._SIZEOF_IFREQ, {"ifr_name": 0, "ifr_flags": 16})
    assert headers.values(tmp_path, ["net/if.h"], {"n": "sizeof(((struct ifreq *)0)->ifr_flags)"}) == {"n": 2}


def test_signal_set(tmp_path: Path) -> None:
    """The kernel's sigset_t, which signalfd4 takes, is one word; the C library's is sixteen."""
    assert headers.values(tmp_path, ["asm/signal.h"], {"size": "sizeof(sigset_t)"}) == {"size": 8}
