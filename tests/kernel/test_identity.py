"""The wrappers that change who a process is. A mistake here leaves a container with root's rights."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyruntime.errors import ConfigError, Error, KernelError
from pyruntime.linux import caps, syscalls
from pyruntime.linux import constants as c
from tests.kernel.child import in_child


def status(key: str) -> list[str]:
    """A line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{key}:")).split()[1:]


@pytest.mark.needs("root")
def test_setresuid_setresgid_and_setgroups() -> None:
    def body() -> None:
        syscalls.setgroups([5, 4_000_000_000, 7])
        syscalls.setresgid(1001, 1002, 1003)
        syscalls.setresuid(2001, 2002, 2003)
        assert os.getresgid() == (1001, 1002, 1003)
        assert os.getresuid() == (2001, 2002, 2003)
        assert sorted(os.getgroups()) == [5, 7, 4_000_000_000]
        with pytest.raises(KernelError) as caught:
            syscalls.setresuid(0, 0, 0)
        assert caught.value.errno == errno.EPERM

    in_child(body)


@pytest.mark.needs("root")
def test_no_groups_at_all() -> None:
    def body() -> list[int]:
        syscalls.setgroups([4])
        syscalls.setgroups([])
        return os.getgroups()

    assert in_child(body) == []


@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**32, 2**64])
def test_a_number_that_the_kernel_would_take_for_another_is_refused(number: int) -> None:
    """-1 keeps the old ID, which is root's; 2**32 is cut to 0, which is root."""
    with pytest.raises(Error, match="no user or group ID"):
        syscalls.setresuid(number, 0, 0)
    with pytest.raises(Error, match="no user or group ID"):
        syscalls.setresgid(0, number, 0)
    with pytest.raises(Error, match="no user or group ID"):
        syscalls.setgroups([number])


@pytest.mark.needs("userns")
def test_an_unmapped_id_is_explained() -> None:
    def body() -> str:
        uid = os.getuid()
        syscalls.unshare(c.CLONE_NEWUSER)
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        with pytest.raises(KernelError) as caught:
            syscalls.setresuid(1000, 1000, 1000)
        return str(caught.value)

    text = in_child(body)
    assert text.startswith("setresuid(ruid=1000, euid=1000, suid=1000): EINVAL")
    assert "uidMappings" in text


@pytest.mark.needs("root")
def test_capset_and_capget_carry_all_three_sets() -> None:
    def body() -> None:
        effective = caps.mask(["CAP_CHOWN"])
        permitted = caps.mask(["CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE"])
        inheritable = caps.mask(["CAP_KILL"])
        syscalls.capset(effective, permitted, inheritable)
        assert syscalls.capget() == (effective, permitted, inheritable)
        for key, mask in (("CapEff", effective), ("CapPrm", permitted), ("CapInh", inheritable)):
            assert int(status(key)[0], 16) == mask
        with pytest.raises(KernelError, match="lacks a capability"):
            syscalls.capset(effective, permitted | 1 << caps.CAPABILITIES["CAP_SYS_ADMIN"], inheritable)

    in_child(body)


@pytest.mark.needs("root")
def test_bounding_and_ambient_sets() -> None:
    def body() -> None:
        kill = caps.CAPABILITIES["CAP_KILL"]
        syscalls.prctl(c.PR_CAPBSET_DROP, caps.CAPABILITIES["CAP_CHOWN"])
        assert not int(status("CapBnd")[0], 16) & caps.mask(["CAP_CHOWN"])
        with pytest.raises(KernelError, match=r"option=PR_CAP_AMBIENT, .*EPERM.*inheritable"):
            syscalls.prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_RAISE, kill)
        effective, permitted, _inheritable = syscalls.capget()
        syscalls.capset(effective, permitted, 1 << kill)
        syscalls.prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_RAISE, kill)
        assert int(status("CapAmb")[0], 16) == 1 << kill
        syscalls.prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_CLEAR_ALL)
        assert int(status("CapAmb")[0], 16) == 0

    in_child(body)


def test_the_kernel_s_last_capability_is_known() -> None:
    last = caps.last_cap()
    assert last == int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert last > 30


def test_a_mask_of_names() -> None:
    assert caps.mask([]) == 0
    assert caps.mask(["CAP_CHOWN", "CAP_KILL", "CAP_CHOWN"]) == 0b100001
    assert caps.mask(caps.CAPABILITIES) == 2 ** len(caps.CAPABILITIES) - 1
    with pytest.raises(ConfigError, match="CAP_NONE"):
        caps.mask(["CAP_NONE"])


def test_a_session_keyring_is_joined_and_protected() -> None:
    def body() -> None:
        ring = syscalls.keyctl_join_session_keyring("_ses.test")
        syscalls.keyctl_setperm(ring, 0x3F1B0000)
        (line,) = (
            line.split() for line in Path("/proc/keys").read_text().splitlines() if line.split()[0] == f"{ring:08x}"
        )
        assert line[4:9] == ["3f1b0000", str(os.getuid()), str(os.getgid()), "keyring", "_ses.test:"]

    in_child(body)
