"""How a call is made and how a failed one is told (linux/call.py)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyruntime.errors import Error, KernelError
from pyruntime.linux import call, syscalls
from pyruntime.linux import constants as c

PROJECT = Path(__file__).parents[2]


def python(code: str) -> str:
    """Run code in an isolated interpreter that finds this checkout: what it prints."""
    prefix = f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
    command = [sys.executable, "-IS", "-c", prefix + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_text_is_the_call_as_a_person_writes_it() -> None:
    with pytest.raises(KernelError) as caught:
        syscalls.mount("proc", "/no/such/place", "proc", c.MS_NOSUID | c.MS_NODEV, "")
    assert caught.value.call == "mount(source='proc', target='/no/such/place', type='proc', flags=MS_NOSUID|MS_NODEV)"
    assert caught.value.errno == errno.ENOENT
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("value", "prefix", "text"),
    [
        (0, "MS_", "0"),
        (c.MS_BIND | c.MS_REC, "MS_", "MS_BIND|MS_REC"),
        (c.MS_BIND | 1 << 31, "MS_", "MS_BIND|0x80000000"),
        (c.O_TMPFILE | c.O_CLOEXEC, "O_", "O_TMPFILE|O_CLOEXEC"),
        (c.MNT_DETACH | c.UMOUNT_NOFOLLOW, "MNT_ UMOUNT_", "MNT_DETACH|UMOUNT_NOFOLLOW"),
        (c.MOUNT_ATTR__ATIME, "MOUNT_ATTR_", "MOUNT_ATTR__ATIME"),
    ],
)
def test_flag_names(value: int, prefix: str, text: str) -> None:
    assert c.flag_names(value, prefix) == text


def test_value_name() -> None:
    assert c.value_name(0, "RLIMIT_") == "RLIMIT_CPU"
    assert c.value_name(38, "PR_") == "PR_SET_NO_NEW_PRIVS"
    assert c.value_name(4, "PR_") == "PR_SET_DUMPABLE", "not the argument of PR_CAP_AMBIENT with the same number"
    assert c.value_name(-7, "PR_") == "-7"


def test_every_family_of_an_argument_exists() -> None:
    """The table names wrappers, parameters and prefixes by text: none may be misspelt."""
    from pyruntime.linux import clone

    for key, family in call._FAMILIES.items():
        name, parameter = key.split(".")
        code = getattr(syscalls, name, None) or getattr(clone, name)
        assert parameter in code.__code__.co_varnames[: code.__code__.co_argcount + code.__code__.co_kwonlyargcount]
        for prefix in family.removeprefix("=").split():
            assert any(constant.startswith(prefix) for constant in vars(c))


def test_every_hint_belongs_to_a_call_and_an_errno() -> None:
    known = set(errno.errorcode.values())
    for key in call._HINTS:
        name, number = key.split()
        assert number in known
        assert f"SYS_{name}" in vars(c) or name == "prlimit"
    assert call._PROGRAM.keys() <= known
    assert all(f"SYS_{name}" in vars(c) for name in call._SINCE)


def test_an_old_kernel_or_a_filter_is_named() -> None:
    assert "Linux 5.6" in call.hint("openat2", errno.ENOSYS)
    assert "seccomp" in call.hint("keyctl", errno.ENOSYS)
    assert call.hint("openat2", errno.ENOENT) == ""


def test_an_expected_failure_is_no_exception() -> None:
    assert syscalls.openat2(c.AT_FDCWD, "/no/such/place", c.O_PATH, expected=(errno.ENOENT,)) == -errno.ENOENT
    with pytest.raises(KernelError) as caught:
        syscalls.openat2(c.AT_FDCWD, "/no/such/place", c.O_PATH, expected=(errno.EAGAIN,))
    assert caught.value.call == "openat2(dirfd=AT_FDCWD, path='/no/such/place', flags=O_CLOEXEC|O_PATH)"


@pytest.mark.parametrize("size", [1, 255, 256, 257, 5000])
def test_the_address_of_bytes_is_where_they_lie(size: int) -> None:
    memory = bytearray(range(1, 252)) * 20
    del memory[size:]
    assert call.memory_at(call.address(memory), size) == memory


def test_a_struct_is_no_string() -> None:
    """It may hold a NUL. The kernel reads it to its end."""
    fd = syscalls.signalfd4(-1, 1 << 9)  # by a Struct of eight bytes, seven of them zero
    os.close(fd)
    with pytest.raises(Error):
        call.call(c.SYS_mount, b"a\0b")


def test_no_argument_is_cut_at_32_bits() -> None:
    """Public ctypes would send 2**32 as 0, which close_range would take for standard input."""
    with pytest.raises(KernelError) as caught:
        syscalls.prctl(c.PR_SET_DUMPABLE, 2**32 + 1)
    assert caught.value.errno == errno.EINVAL
    assert "a2=0x100000001" in str(caught.value)


def test_long_arguments_are_shortened_and_secrets_left_out() -> None:
    with pytest.raises(KernelError) as caught:
        syscalls.execve("/" + "x" * 3000, [b"y" * 3000], [b"PASSWORD=z"])
    assert len(str(caught.value)) < 700
    assert "PASSWORD" not in str(caught.value)


LIGHT = "pyruntime.linux.constants, pyruntime.linux.proc, pyruntime.linux.caps"
HEAVY = "pyruntime.linux.syscalls, pyruntime.linux.clone, pyruntime.linux.net_if"


def test_cheap_modules_do_without_ctypes() -> None:
    assert python(f"import {LIGHT}; print('_ctypes' in sys.modules)") == "False\n"


def test_no_module_needs_the_heavy_half_of_ctypes() -> None:
    told = python(f"import {LIGHT}, {HEAVY}; print(*sorted(sys.modules))").split()
    heavy = {"ctypes", "os", "re", "json", "typing", "enum", "struct", "socket", "signal", "stat", "collections"}
    assert "_ctypes" in told
    assert not heavy & set(told)


def test_public_ctypes_serves_where_the_private_half_differs() -> None:
    code = f"""
import _ctypes, posix
del _ctypes.dlsym
import {HEAVY}
from pyruntime.linux import clone, constants as c, syscalls
print('ctypes' in sys.modules, syscalls.fstatfs_type(posix.open('/proc', c.O_PATH)) == c.PROC_SUPER_MAGIC)
try:
    syscalls.prctl(c.PR_SET_DUMPABLE, 2**32 + 1)
except OSError as error:
    print(error)
sys.stdout.flush()
pid, pidfd = clone.clone3(0)
if pid == 0:
    posix._exit(5)
print(posix.waitpid(pid, 0)[1] >> 8)
"""
    told = "True True\nprctl(option=PR_SET_DUMPABLE, a2=0x100000001): EINVAL: Invalid argument\n5\n"
    assert python(code) == told


def test_a_failure_after_the_seal_imports_nothing() -> None:
    """The child empties the import system after pivot_root; an error must still be told whole."""
    code = """
from pyruntime.linux import syscalls, constants as c
sys.path.clear(); sys.meta_path.clear(); sys.path_hooks.clear()
before = set(sys.modules)
try:
    syscalls.mount('none', '/no/such/place', 'tmpfs', c.MS_RDONLY)
except OSError as error:
    print(error, set(sys.modules) - before)
"""
    told = "mount(source='none', target='/no/such/place', type='tmpfs', flags=MS_RDONLY): ENOENT: "
    assert python(code) == f"{told}No such file or directory set()\n"
