"""launch/paths.py: whatever an image holds, and whatever it swaps meanwhile, no path leads out of the root."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyruntime.errors import ConfigError, Error, KernelError
from pyruntime.launch.paths import Root, proc_fd
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host's beside the root, to be found as it was."""
    path = tmp_path / "outside"
    (path / "below").mkdir(parents=True)
    (path / "file").write_text("of the host")
    yield path
    assert sorted(str(found.relative_to(path)) for found in path.rglob("*")) == ["below", "file"]
    assert (path / "file").read_text() == "of the host"


@pytest.fixture
def tree(tmp_path: Path, outside: Path) -> Path:
    """An image that tries everything."""
    path = tmp_path / "root"
    (path / "dir" / "sub").mkdir(parents=True)
    (path / "file").write_text("of the image")
    os.mkfifo(path / "fifo")
    links = {
        "to-dir": "dir",
        "to-sub": "/dir/sub",
        "to-file": "file",
        "absolute": str(outside),
        "upwards": "../outside",
        "far-up": "../" * 30 + str(outside).lstrip("/"),
        "host-file": f"{outside}/file",
        "to-root": "/",
        "above": "..",
        "dangling": "nowhere",
        "dangling-out": f"{outside}/new",
        "loop": "loop",
        "ping": "pong",
        "pong": "ping",
        "dir/up": "../..",
        "dir/self": ".",
        "to-fifo": "fifo",
    }
    for name, target in links.items():
        (path / name).symlink_to(target)
    return path


@pytest.fixture
def root(tree: Path) -> Iterator[Root]:
    """The root, and an eye on its descriptors: all that was opened in a test must be closed in it."""
    before = set(os.listdir("/proc/self/fd"))
    made = Root(str(tree))
    yield made
    made.close()
    assert set(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


def place(fd: int, tree: Path) -> str:
    """Where a descriptor is, below the root ("" for the root itself). Closes it."""
    try:
        found = os.readlink(f"/proc/self/fd/{fd}")
        assert found == str(tree) or found.startswith(f"{tree}/"), f"outside: {found}"
        return found[len(str(tree)) + 1 :]
    finally:
        os.close(fd)


LEADS_TO = [
    ("dir", "dir"),
    ("/dir/sub", "dir/sub"),
    ("//dir//sub//", "dir/sub"),
    ("./dir/./sub", "dir/sub"),
    ("", ""),
    ("/", ""),
    (".", ""),
    ("..", ""),
    ("../../../..", ""),
    ("dir/../../../dir/sub", "dir/sub"),
    ("to-dir/sub", "dir/sub"),
    ("to-sub", "dir/sub"),
    ("to-root/dir", "dir"),
    ("above/dir", "dir"),
    ("above/above/above", ""),
    ("dir/up/dir", "dir"),
    ("dir/self/self/sub", "dir/sub"),
    ("dir/up/outside/../dir", None),
    ("file", "file"),
    ("to-file", "file"),
    ("fifo", "fifo"),
    ("to-fifo", "fifo"),
    # What these point to does not exist inside, though it does outside.
    ("absolute", None),
    ("absolute/file", None),
    ("upwards/file", None),
    ("far-up/below", None),
    ("host-file", None),
    ("dangling", None),
    ("dangling-out", None),
    ("missing/..", None),
    ("file/below", None),
    ("file/..", None),
    ("fifo/below", None),
    ("to-file/below", None),
]


@pytest.mark.parametrize(("path", "expected"), LEADS_TO)
def test_where_a_path_leads(root: Root, tree: Path, path: str, expected: str | None) -> None:
    found = root.find(path)
    assert (None if found is None else place(found, tree)) == expected
    if expected is not None:
        assert place(root.open(path), tree) == expected
        return
    with pytest.raises(KernelError) as caught:
        root.open(path)
    assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR)


@pytest.mark.parametrize("path", ["loop", "ping", "loop/x", "dir/../pong"])
@pytest.mark.parametrize("use", [Root.open, Root.find, Root.make_directories, Root.make_file])
def test_a_loop_of_links_is_told(root: Root, use: Callable[[Root, str], int | None], path: str) -> None:
    with pytest.raises(KernelError) as caught:
        use(root, path)
    assert caught.value.errno == errno.ELOOP


def test_the_images_absolute_links_are_its_own(root: Root, tree: Path, outside: Path) -> None:
    """Once the image has such a path, the link leads there, and not to the host's of the same name."""
    inside = tree / str(outside).lstrip("/")
    inside.mkdir(parents=True)
    (inside / "file").write_text("of the image")
    for name in ("absolute/file", "far-up/file", "host-file"):
        fd = root.open(name, os.O_RDONLY)
        assert os.read(fd, 100) == b"of the image"
        os.close(fd)


@pytest.mark.parametrize("path", ["to-dir", "to-dir/sub", "to-root/dir", "dir/self"])
def test_links_can_be_forbidden(root: Root, path: str) -> None:
    with pytest.raises(KernelError) as caught:
        root.open(path, resolve=c.RESOLVE_NO_SYMLINKS)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("path", ["proc/self/root/etc", "proc/self/exe", "proc/self/cwd", "proc/thread-self/fd/0"])
def test_magic_links_are_no_way_out(path: str) -> None:
    """RESOLVE_IN_ROOT alone would follow them; with /proc of the host mounted in a rootfs they lead anywhere."""
    root = Root("/")
    with pytest.raises(KernelError) as caught:
        root.open(path)
    root.close()
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("path", ["file\0.txt", "\0", "dir\0/../.."])
def test_a_nul_is_refused(root: Root, path: str) -> None:
    for use in (root.open, root.find, root.make_directories, root.make_file):
        with pytest.raises(Error, match="NUL"):
            use(path)


def test_opening_a_fifo_does_not_wait(root: Root, tree: Path) -> None:
    fd = root.find("to-fifo")
    assert fd is not None
    assert stat.S_ISFIFO(os.fstat(fd).st_mode)
    os.close(fd)
    assert place(root.make_file("fifo"), tree) == "fifo"


def test_descriptors_close_on_exec(root: Root) -> None:
    made = [root.fd, root.open("dir"), root.make_directories("new/dir"), root.make_file("new/file")]
    assert [os.get_inheritable(fd) for fd in made] == [False] * 4
    for fd in made[1:]:
        os.close(fd)


def test_a_descriptor_has_a_name_for_calls_that_take_paths(root: Root, tree: Path) -> None:
    fd = root.open("to-sub")
    os.mkdir(f"{proc_fd(fd)}/made")
    os.close(fd)
    assert (tree / "dir/sub/made").is_dir()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("dir/sub", "dir/sub"),
        ("/", ""),
        ("new", "new"),
        ("new/deep/deeper", "new/deep/deeper"),
        ("/new//deep/./x/", "new/deep/x"),
        ("to-dir/new", "dir/new"),
        ("to-sub/new/x", "dir/sub/new/x"),
        ("dir/up/new", "new"),
        ("above/new", "new"),
        ("../../new", "new"),
        ("dir/../new/x", "new/x"),
        ("new/../dir/new", "dir/new"),
        ("new/../../../other", "other"),
    ],
)
def test_directories_are_made(root: Root, tree: Path, path: str, expected: str) -> None:
    fd = root.make_directories(path, 0o711)
    assert os.get_inheritable(fd) is False
    assert stat.S_ISDIR(os.fstat(fd).st_mode)
    assert place(fd, tree) == expected
    if "new" in expected:
        assert stat.S_IMODE((tree / expected).stat().st_mode) == 0o711
    assert place(root.make_directories(path), tree) == expected  # a second time it is just there


@pytest.mark.parametrize("path", ["dangling", "dangling-out", "dangling/x", "absolute/x", "upwards", "far-up/x/y"])
def test_a_link_to_nothing_is_not_followed_to_make_directories(root: Root, tree: Path, path: str) -> None:
    before = sorted(tree.rglob("*"))
    with pytest.raises(ConfigError, match="is a symbolic link to nothing"):
        root.make_directories(path)
    with pytest.raises(ConfigError, match="is a symbolic link to nothing"):
        root.make_file(f"{path}/file")
    assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize("path", ["file", "file/x", "to-file", "to-file/x/y", "fifo", "fifo/x", "dir/../file/x"])
def test_a_file_in_the_way_of_directories(root: Root, path: str) -> None:
    with pytest.raises(KernelError) as caught:
        root.make_directories(path)
    assert caught.value.errno == errno.ENOTDIR


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("file", "file"),
        ("to-file", "file"),
        ("dir", "dir"),
        ("new", "new"),
        ("new/deep/file", "new/deep/file"),
        ("to-sub/file", "dir/sub/file"),
        ("../../above/new", "new"),
        ("/new/", "new"),
    ],
)
def test_a_file_is_made(root: Root, tree: Path, path: str, expected: str) -> None:
    existed = (tree / expected).exists()
    assert place(root.make_file(path, 0o640), tree) == expected
    if not existed:
        assert (tree / expected).read_bytes() == b""
        assert stat.S_IMODE((tree / expected).stat().st_mode) == 0o640
    assert (tree / "file").read_text() == "of the image", "an existing file was emptied"


@pytest.mark.parametrize("path", ["dangling", "dangling-out", "host-file", "absolute"])
def test_a_file_is_not_made_through_a_link(root: Root, tree: Path, path: str) -> None:
    before = sorted(tree.rglob("*"))
    with pytest.raises(FileExistsError):
        root.make_file(path)
    assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize("path", ["", "/", ".", "..", "dir/.", "dir/..", "a/b/../"])
def test_what_names_no_file(root: Root, path: str) -> None:
    with pytest.raises(ConfigError, match="names no file"):
        root.open_parent(path)


def test_the_parent_and_the_name(root: Root, tree: Path) -> None:
    for path, parent, last in (("node", "", "node"), ("/to-dir/node", "dir", "node"), ("x/y/node/", "x/y", "node")):
        fd, name = root.open_parent(path)
        assert (place(fd, tree), name) == (parent, last)


def test_no_failure_leaves_a_descriptor_open(root: Root) -> None:
    """Held by the fixture: each of these fails half-way, with a parent open."""
    for use in (root.make_directories, root.make_file, root.open_parent):
        for path in ("dir/up/file/x/y", "dir/../dangling/x/y", "dir/x/\0/y", "dir/../loop/x/y"):
            with pytest.raises(Error):
                use(path)


def test_a_root_is_a_directory(tree: Path) -> None:
    for name, error in (("file", NotADirectoryError), ("missing", FileNotFoundError)):
        with pytest.raises(error):
            Root(str(tree / name))


def test_a_disturbed_resolution_is_tried_again(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tries = syscalls.openat2, 0

    def disturbed(*arguments: Any, expected: tuple[int, ...] = ()) -> int:
        nonlocal tries
        tries += 1
        if tries % 4 and errno.EAGAIN in expected:
            return -errno.EAGAIN
        return real(*arguments, expected=expected)

    monkeypatch.setattr(syscalls, "openat2", disturbed)
    assert place(root.open("dir/sub"), tree) == "dir/sub"
    assert tries == 4


def test_a_resolution_that_is_always_disturbed_fails(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def disturbed(*_arguments: Any, expected: tuple[int, ...] = ()) -> int:
        nonlocal tries
        tries += 1
        if errno.EAGAIN in expected:
            return -errno.EAGAIN
        raise KernelError("openat2()", errno.EAGAIN)

    monkeypatch.setattr(syscalls, "openat2", disturbed)
    with pytest.raises(KernelError) as caught:
        root.find("dir")
    assert caught.value.errno == errno.EAGAIN
    assert 1 < tries < 10000


RENAME_EXCHANGE = 2  # renameat2(2): both names exist at any moment


@pytest.fixture
def swapper(tree: Path, outside: Path) -> Iterator[None]:
    """A process that exchanges the directory `a` for links out of the root, as fast as it can."""
    (tree / "a").mkdir()
    links = ("out-1", f"{outside}"), ("out-2", "../outside"), ("out-3", "../" * 30 + str(outside).lstrip("/"))
    for name, target in links:
        (tree / name).symlink_to(target)
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        here = os.open(tree, os.O_PATH)
        while os.getppid() != 1:
            for name, _ in links:
                libc.renameat2(here, b"a", here, name.encode(), RENAME_EXCHANGE)
                libc.renameat2(here, b"a", here, name.encode(), RENAME_EXCHANGE)
        os._exit(0)
    yield
    os.kill(pid, 9)
    os.waitpid(pid, 0)


ROUNDS = 1500


@pytest.mark.parametrize("use", [Root.open, Root.find, Root.make_directories, Root.make_file, Root.open_parent])
@pytest.mark.parametrize("path", ["a/{}", "a/../a/{}"])
def test_a_swap_meanwhile_leads_nowhere_else(
    root: Root, tree: Path, swapper: None, use: Callable[[Root, str], int | None], path: str
) -> None:
    """CVE-2021-30465. What is found lies inside of the root or is not found; `outside` looks after itself."""
    inside = refused = 0
    for turn in range(ROUNDS):
        # Alternately a new name and one that is there, inside or outside.
        try:
            found: object = use(root, path.format(("below", "file", f"new{turn}")[turn % 3]))
        except (KernelError, ConfigError, FileExistsError):
            refused += 1
            continue
        fd = found[0] if isinstance(found, tuple) else found
        if fd is None:
            refused += 1
        else:
            assert isinstance(fd, int)
            # Where a descriptor is may be told by a name that is being swapped, so the inode decides.
            status = os.fstat(fd)
            os.close(fd)
            identity = status.st_dev, status.st_ino
            assert identity not in identities(tree.parent / "outside"), "the host's file was opened"
            inside += 1
    assert inside + refused == ROUNDS
    assert refused, "nothing was ever swapped meanwhile"


def identities(there: Path) -> set[tuple[int, int]]:
    """A directory's identity and those of what is in it."""
    return {(found.st_dev, found.st_ino) for found in map(os.stat, (there, there / "below", there / "file"))}


@pytest.mark.parametrize("target", ["../outside", "/dir", "../root/dir"])
def test_a_directory_that_is_swapped_as_soon_as_it_is_made(
    root: Root, tree: Path, outside: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between mkdir and open. No link is followed there, not even one that stays inside: nobody else made one."""
    real = os.mkdir

    def swapped(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real(name, mode, dir_fd=dir_fd)
        os.rmdir(name, dir_fd=dir_fd)
        os.symlink(target, name, dir_fd=dir_fd)

    monkeypatch.setattr("posix.mkdir", swapped)
    with pytest.raises(KernelError) as caught:
        root.make_directories("new/below")
    assert caught.value.errno == errno.ELOOP
