"""The wrappers of mount calls, each doing its work in a mount namespace that ends with the test."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c
from pyruntime.linux import proc, syscalls
from tests.kernel.child import closes_on_exec, in_child

pytestmark = pytest.mark.needs("root")

ST_NOSYMFOLLOW = 0x2000


def test_mount_puts_a_file_system_with_flags_and_data(tmp_path: Path) -> None:
    def body() -> None:
        syscalls.mount("none", str(tmp_path), "tmpfs", c.MS_NOSUID | c.MS_NODEV, "size=64k,mode=700")
        found = os.statvfs(tmp_path)
        assert found.f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC) == os.ST_NOSUID | os.ST_NODEV
        assert found.f_blocks * found.f_frsize == 64 << 10
        assert tmp_path.stat().st_mode & 0o777 == 0o700

    in_child(body, unshare=c.CLONE_NEWNS)


def test_mount_binds_and_remounts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "b").mkdir()

    def body() -> None:
        target = str(tmp_path / "b")
        syscalls.mount(str(tmp_path / "a"), target, None, c.MS_BIND)
        assert (tmp_path / "b" / "file").read_text() == "x"
        syscalls.mount(None, target, None, c.MS_BIND | c.MS_REMOUNT | c.MS_RDONLY)
        with pytest.raises(OSError) as caught:
            (tmp_path / "b" / "file").write_text("y")
        assert caught.value.errno == errno.EROFS

    in_child(body, unshare=c.CLONE_NEWNS)
    assert list((tmp_path / "b").iterdir()) == [], "the mount left its namespace"


def test_mount_takes_paths_that_are_no_utf8(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe \xc3\xa9"
    os.mkdir(odd)

    def body() -> None:
        syscalls.mount("none", odd, "tmpfs", 0)
        assert os.path.ismount(odd)
        syscalls.umount2(os.fsdecode(odd), 0)
        assert not os.path.ismount(odd)

    in_child(body, unshare=c.CLONE_NEWNS)


def test_umount2_detaches_what_is_in_use(tmp_path: Path) -> None:
    def body() -> None:
        syscalls.mount("none", str(tmp_path), "tmpfs", 0)
        used = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(KernelError) as caught:
            syscalls.umount2(str(tmp_path), c.UMOUNT_NOFOLLOW)
        assert caught.value.errno == errno.EBUSY
        assert "flags=UMOUNT_NOFOLLOW" in str(caught.value)
        syscalls.umount2(str(tmp_path), c.MNT_DETACH)
        assert not tmp_path.is_mount()
        os.close(used)

    in_child(body, unshare=c.CLONE_NEWNS)


def test_pivot_root_changes_the_root(tmp_path: Path) -> None:
    def body() -> None:
        syscalls.mount("none", str(tmp_path), "tmpfs", 0)
        (tmp_path / "inside").touch()
        os.chdir(tmp_path)
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", c.MNT_DETACH)
        os.chdir("/")
        assert os.listdir("/") == ["inside"]

    in_child(body, unshare=c.CLONE_NEWNS)


def test_pivot_root_explains_itself(tmp_path: Path) -> None:
    def body() -> list[str]:
        syscalls.mount("none", str(tmp_path), "tmpfs", 0)
        (tmp_path / "below").mkdir()
        told = []
        for path in ("/", str(tmp_path / "below")):
            with pytest.raises(KernelError) as caught:
                syscalls.pivot_root(path, path)
            told.append(str(caught.value))
        return told

    same_mount, no_mount_point = in_child(body, unshare=c.CLONE_NEWNS)
    told = "pivot_root(new_root='/', put_old='/'): EBUSY: Device or resource busy (the new root is no mount of its own"
    assert same_mount.startswith(told)
    assert "EINVAL: Invalid argument (the new root is no mount point" in no_mount_point


def test_a_detached_copy_is_attached_elsewhere(tmp_path: Path) -> None:
    """open_tree and move_mount."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "b").mkdir()

    def body() -> None:
        tree_fd = syscalls.open_tree(c.AT_FDCWD, str(tmp_path / "a"), c.OPEN_TREE_CLONE)
        assert closes_on_exec(tree_fd)
        target_fd = os.open(tmp_path / "b", os.O_PATH)
        flags = c.MOVE_MOUNT_F_EMPTY_PATH | c.MOVE_MOUNT_T_EMPTY_PATH
        syscalls.move_mount(tree_fd, "", target_fd, "", flags)
        assert (tmp_path / "b" / "file").read_text() == "x"

    in_child(body, unshare=c.CLONE_NEWNS)


def test_mount_setattr_sets_and_clears_recursively(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()

    def body() -> None:
        top = str(tmp_path / "top")
        syscalls.mount("none", top, "tmpfs", c.MS_NOEXEC)
        os.mkdir(f"{top}/below")
        syscalls.mount("none", f"{top}/below", "tmpfs", c.MS_NOEXEC)
        clear = c.MOUNT_ATTR_NOEXEC
        syscalls.mount_setattr(c.AT_FDCWD, top, c.AT_RECURSIVE, c.MOUNT_ATTR_RDONLY | c.MOUNT_ATTR_NOSYMFOLLOW, clear)
        for path in (top, f"{top}/below"):
            flags = os.statvfs(path).f_flag
            assert flags & os.ST_RDONLY
            assert flags & ST_NOSYMFOLLOW
            assert not flags & os.ST_NOEXEC

    in_child(body, unshare=c.CLONE_NEWNS)


def test_mount_setattr_changes_propagation(tmp_path: Path) -> None:
    def body() -> str:
        syscalls.mount("none", str(tmp_path), "tmpfs", 0)
        syscalls.mount_setattr(c.AT_FDCWD, str(tmp_path), 0, 0, 0, c.MS_SHARED)
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return next(line for line in lines if line.split()[4] == str(tmp_path))

    assert "shared:" in in_child(body, unshare=c.CLONE_NEWNS)


@pytest.mark.needs("root", "userns", "idmap")
def test_mount_setattr_maps_ids_by_a_user_namespace(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()

    def body() -> int:
        syscalls.mount("none", str(tmp_path / "target"), "tmpfs", 0)
        (tmp_path / "target" / "file").touch()
        pid = os.fork()
        if pid == 0:
            syscalls.unshare(c.CLONE_NEWUSER)
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        os.waitpid(pid, os.WUNTRACED)
        for kind in ("uid_map", "gid_map"):
            proc.write_file(f"/proc/{pid}/{kind}", b"0 70000 10")
        userns_fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        tree_fd = syscalls.open_tree(c.AT_FDCWD, str(tmp_path / "target"), c.OPEN_TREE_CLONE)
        syscalls.mount_setattr(tree_fd, "", c.AT_EMPTY_PATH, c.MOUNT_ATTR_IDMAP, 0, userns_fd=userns_fd)
        return os.stat("file", dir_fd=tree_fd).st_uid

    assert in_child(body, unshare=c.CLONE_NEWNS) == 70000
