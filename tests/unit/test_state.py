"""The state directory: reservation, atomic records, damage, and the status worked out from them. No root needed."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyruntime.errors import ExistsError, KernelError, NotFoundError, StateError, UsageError
from pyruntime.linux import proc
from pyruntime.state.status import START_SOCKET, is_frozen, status
from pyruntime.state.store import STATE_FILE, Store, check_id, listing

if TYPE_CHECKING:
    from pyruntime.state.store import Record


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "ociVersion": "1.3.0",
        "id": "web",
        "pid": 0,
        "bundle": "/b",
        "rootfs": "/b/rootfs",
        "created": "2025-01-31T12:00:00.123456789Z",
        "annotations": {},
        "owner": "root",
        "startTime": 0,
        "uid": 0,
        "cgroup": "",
        "cgroupIntended": "",
        "config": True,
        "rootless": False,
    }
    return {**values, **changes}  # type: ignore[typeddict-item]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    reserved = Store(str(tmp_path / "root"), "web")
    reserved.reserve()
    return reserved


@pytest.mark.parametrize("name", ["a", "web", "A_b+c-d.9", "...", ".hidden", "-", "x" * 255])
def test_ids(name: str) -> None:
    check_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a b", "a\0", "a\n", "é", "١", "a:b", "~", "x" * 256])
def test_what_is_no_id(name: str) -> None:
    with pytest.raises(UsageError, match="container ID"):
        check_id(name)


def test_reserve_makes_the_root_and_keeps_others_from_listing_it(tmp_path: Path) -> None:
    os.umask(os.umask(0o022))
    store = Store(str(tmp_path / "a" / "b"), "web")
    store.reserve()
    assert Path(store.path).stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o711


def test_the_second_reservation_fails(store: Store) -> None:
    with pytest.raises(ExistsError, match="container with given ID already exists"):
        Store(store.root_path, "web").reserve()


def test_one_of_many_racing_reservations_wins(tmp_path: Path) -> None:
    won = []

    def reserve() -> None:
        try:
            Store(str(tmp_path / "new" / "root"), "web").reserve()
            won.append(1)
        except ExistsError:
            return

    threads = [threading.Thread(target=reserve) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [1]


def test_a_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KernelError, match=r"ENOTDIR.*no directory") as caught:
        Store(str(tmp_path / "file" / "root"), "web").reserve()
    assert caught.value.where == "--root"


def test_a_root_that_is_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    for root in ("link", "link/deeper"):
        with pytest.raises(KernelError, match="link to nowhere"):
            Store(str(tmp_path / root), "web").reserve()


def test_a_relative_root_without_a_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(KernelError, match=r"getcwd\(\)") as caught:
        Store("root", "web")
    assert caught.value.where == "--root"


def test_a_relative_root_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("root", "web").path == f"{tmp_path}/root/web"


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    written = record(annotations={"k\udcff\u2028": 'é"\\\n\0'}, startTime=1 << 40)
    store.write(written)
    assert store.read() == written
    assert os.stat(store.file_path(STATE_FILE)).st_mode & 0o777 == 0o600
    assert os.listdir(store.path) == [STATE_FILE]


def test_readers_never_see_half_a_record(store: Store) -> None:
    long, short = record(annotations={"a": "x" * 100_000}), record()
    store.write(short)
    done = threading.Event()

    def write() -> None:
        for number in range(100):
            store.write(long if number % 2 else short)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set() or reads == 0:
        assert store.read() in (long, short)
        reads += 1
    writer.join()


FULL_DISK = """
import resource, sys
from pyruntime.state.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))  # SIGXFSZ is ignored by Python: write(2) takes 50 bytes, then EFBIG
store = Store(sys.argv[1], "web")
store._has_record = sys.argv[2] == "append"
store.write({"id": "x" * 100})
"""


@pytest.mark.parametrize("how", ["append", "replace"])
def test_a_write_that_fails_leaves_the_old_record_and_nothing_else(store: Store, how: str) -> None:
    store.write(record())
    command = [sys.executable, "-c", FULL_DISK, store.root_path, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "KernelError" in done.stderr
    assert "EFBIG" in done.stderr
    assert store.read() == record()
    assert os.listdir(store.path) == [STATE_FILE]


def test_the_limit_of_the_test_above_is_not_in_force_here() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50


@pytest.mark.parametrize("prepare", [lambda path: None, os.mkdir, lambda path: Path(path).touch()])
def test_no_such_container(tmp_path: Path, prepare: Any) -> None:
    """Also when a create died between the reservation and the first record."""
    store = Store(str(tmp_path), "web")
    prepare(store.path)
    with pytest.raises(NotFoundError, match="container does not exist"):
        store.read()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"pid": 1}', b"[" * 100_000, b'{"pid": true}'],
)
def test_a_damaged_record_says_how_to_get_rid_of_it(store: Store, data: bytes) -> None:
    for ending in (b"", b"\n"):
        store.write_file(STATE_FILE, data + ending)
        with pytest.raises(StateError, match=r"damaged.*delete --force web"):
            store.read()


def test_a_line_that_is_not_whole_does_not_count(store: Store) -> None:
    """It is being written, or its writer was killed."""
    store.write(record())
    store.write(record(pid=1))
    whole = Path(store.file_path(STATE_FILE)).read_bytes()
    for size in range(len(whole.partition(b"\n")[0]) + 1, len(whole)):
        store.write_file(STATE_FILE, whole[:size])
        assert store.read() == record()
    store.write_file(STATE_FILE, whole)
    assert store.read() == record(pid=1)


def test_a_record_with_a_wrong_type_is_damaged(store: Store) -> None:
    for key, value in (("pid", True), ("pid", "1"), ("startTime", 1.5), ("annotations", []), ("cgroup", None)):
        store.write(record(**{key: value}))
        with pytest.raises(StateError, match="damaged"):
            store.read()


def test_remove(store: Store) -> None:
    store.write(record())
    store.write_file("config.json", b"{}")
    store.remove()
    assert not os.path.exists(store.path)
    assert os.path.exists(store.root_path)
    store.remove()  # twice is once


def test_remove_of_what_is_not_ours_is_told(store: Store) -> None:
    os.mkdir(store.file_path("folder"))
    with pytest.raises(KernelError, match="remove"):
        store.remove()


def test_the_lock_is_exclusive_and_ends_with_its_descriptor(store: Store) -> None:
    lock_fd = store.lock()
    other_fd = os.open(store.path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock_fd)
    fcntl.flock(other_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other_fd)


def test_the_lock_of_no_container(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Store(str(tmp_path), "web").lock()


def test_listing(tmp_path: Path) -> None:
    assert listing(str(tmp_path / "none")) == []
    for name in ("b", "a", "not an id"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a")
    assert [store.id for store in listing(str(tmp_path))] == ["a", "b"]


# --- status ---


@pytest.fixture
def sleeper() -> Any:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def of(process: subprocess.Popen[bytes], **changes: Any) -> Record:
    return record(pid=process.pid, startTime=proc.start_time(process.pid), **changes)


def test_creating_until_there_is_a_process(store: Store) -> None:
    assert status(record(), store) == "creating"


def test_created_while_the_start_socket_is_there(store: Store, sleeper: subprocess.Popen[bytes]) -> None:
    store.write_file(START_SOCKET, b"")
    assert status(of(sleeper), store) == "created"
    os.unlink(store.file_path(START_SOCKET))
    assert status(of(sleeper), store) == "running"


def test_paused_when_the_cgroup_is_frozen(store: Store, sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert status(of(sleeper, cgroup=str(tmp_path)), store) == "running"
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert status(of(sleeper, cgroup=str(tmp_path)), store) == "paused"


def test_a_missing_cgroup_is_not_frozen(tmp_path: Path) -> None:
    assert not is_frozen(str(tmp_path / "none"))


def test_stopped_when_the_process_is_gone(store: Store) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert status(record(pid=process.pid, startTime=1), store) == "stopped"


def test_stopped_when_the_pid_is_anothers(store: Store, sleeper: subprocess.Popen[bytes]) -> None:
    other = of(sleeper)
    other["startTime"] += 1
    assert status(other, store) == "stopped"


def test_stopped_when_the_process_is_a_zombie(store: Store, sleeper: subprocess.Popen[bytes]) -> None:
    known = of(sleeper)
    sleeper.send_signal(signal.SIGKILL)
    while proc.state_and_start_time(sleeper.pid)[0] != "Z":
        time.sleep(0.001)
    assert status(known, store) == "stopped"


def test_errors_other_than_absence_are_not_taken_for_it(store: Store, sleeper: subprocess.Popen[bytes]) -> None:
    """A start socket that cannot be looked at is an error, not a container that runs."""
    os.rename(store.path, f"{store.path}-away")
    Path(store.path).touch()
    with pytest.raises(OSError, match=r"start\.sock") as caught:
        status(of(sleeper), store)
    assert caught.value.errno == errno.ENOTDIR
