"""The verbs for containers that exist, each as one function (runtime.md#operations). Nothing here prints or exits.

Making them is creation.py's part, which imports ten times as much.

Read beside runc:libcontainer/container_linux.go.
"""

from __future__ import annotations

import _signal
import errno
import posix
import time

from pyruntime import report
from pyruntime.cgroup.manager import Cgroup
from pyruntime.errors import ConfigError, Error, HookError, KernelError, NotFoundError, StateError, UnsupportedError
from pyruntime.images import load_image
from pyruntime.state.status import START_SOCKET, is_alive, open_init, status
from pyruntime.state.store import NOTIFY_DIRECTORY, Store, listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.launch.notify import NotifySocket
    from pyruntime.state.store import Record

_ORPHAN_SECONDS = 2.0  # how long the child of a killed start may take to end
_KILL_SECONDS = 10.0  # how long `delete --force` waits for a killed init to be gone; runc:delete.go waits as long


def start(id: str, *, root: str, notify_socket: str = "") -> None:
    """Let a created container execute its program; returns when it has (runtime.md#start).

    notify_socket: where to tell that the container is ready, for which is waited then (sd_notify(3)); "" for nowhere.
    Raises StateError unless it is created, NotFoundError; KernelError if execve fails; ConfigError if config.json has
    no process, and the container has stopped then; HookError if a hook fails, and then it has been removed
    (runtime.md#lifecycle). runc:start.go
    """
    store = Store(root, id)
    notify: NotifySocket | None = None
    pidfd = -1
    try:
        lock_fd = store.lock()
        try:
            record = store.read()
            _refuse_started(record, store)
            if "noProcess" in record:
                _end(record)
                raise ConfigError("config.json has no process to start", where="config.json#/process")
            if notify_socket:
                pidfd = open_init(record)
                notify = _listen_for_readiness(store, notify_socket)
            answer = _connect(store)
            store.remove_file(START_SOCKET)
        finally:
            posix.close(lock_fd)
        _finish_start(store, record, answer)
        if notify is not None:
            notify.wait(record["pid"], pidfd)
    finally:
        if notify is not None:
            notify.close()
        if pidfd >= 0:
            posix.close(pidfd)


def kill(id: str, signal: int, *, root: str, all: bool = False) -> None:
    """Send a signal, by number, to the container's init; `all`: to every process of its cgroup (runtime.md#kill).

    Where its processes have no PID namespace of their own that would end with the init, SIGKILL is for all of them,
    and works when the init is gone, too. Raises NotFoundError; StateError if it is not running, but not with `all`.
    runc:kill.go, where --all has nothing left to do; before 1.2, and in crun, it means what it says.
    """
    record = Store(root, id).read()
    concerns_all = all or (signal == _signal.SIGKILL and "sharesPids" in record)
    if concerns_all and record["cgroup"]:
        cgroup = Cgroup(record["cgroup"])
        if not all and not is_alive(record) and not cgroup.pids(recursive=True):
            raise StateError("container not running", where=id)
        cgroup.signal(signal)
    elif is_alive(record):
        if concerns_all:
            report.warn("the container has no cgroup, so its first process alone is sent the signal")
        _signal_init(record, signal)
    elif not all:
        raise StateError("container not running", where=id)


def pause(id: str, *, root: str) -> None:
    """Stop every process of the container in the cgroup freezer; returns when they have stopped.

    Raises StateError if it is not running or does not stop (then it goes on), NotFoundError, UnsupportedError if it has
    no cgroup, KernelError. runc:pause.go, runc:libcontainer/container_linux.go:/^func .*Pause/
    """
    store = Store(root, id)
    record = store.read()
    state = status(record, store)
    if state not in ("created", "running"):
        raise StateError(f"container not running: it is {state}", where=id)
    cgroup = cgroup_of(record)
    try:
        cgroup.freeze()
    except StateError:
        cgroup.thaw()
        raise


def resume(id: str, *, root: str) -> None:
    """Let the processes of a paused container go on. Raises StateError if it is not paused, NotFoundError, KernelError.

    runc:pause.go, runc:libcontainer/container_linux.go:/^func .*Resume/
    """
    store = Store(root, id)
    record = store.read()
    if (state := status(record, store)) != "paused":
        raise StateError(f"container not paused: it is {state}", where=id)
    cgroup_of(record).thaw()


def processes(id: str, *, root: str) -> list[int]:
    """The process IDs of all that runs in the container, by its cgroup; those that we can't see are left out.

    None run in a stopped container, as a rule: without a PID namespace of its own, some may.
    Raises NotFoundError, UnsupportedError if it has no cgroup. runc:ps.go
    """
    record = Store(root, id).read()
    return [pid for pid in cgroup_of(record).pids(recursive=True) if pid]


def delete(id: str, *, root: str, force: bool = False) -> None:
    """Remove a stopped container; with `force` any, killing it, and also one that is half made or not there at all.

    Raises StateError if it is running, NotFoundError. runc:delete.go
    """
    store = Store(root, id)
    try:
        record = store.read()
    except (NotFoundError, StateError) as error:
        if not force:
            raise
        if not isinstance(error, NotFoundError):  # to guess a cgroup, and kill what is in there, would be worse
            report.warn(f"the record is damaged: if processes or a cgroup named {id} are left, they stay")
        store.remove()  # a start that was killed before its first record, or a damaged record
        return
    state = status(record, store)
    if state != "stopped" and not force:
        if state == "created":
            _signal_init(record, _signal.SIGKILL)  # it has not run anything yet; runc kills it too
        else:
            raise StateError(
                f"cannot delete container {id} that is not stopped: {state}", hint="kill it first, or use --force"
            )
    _remove(store, record, force=force)


def state(id: str, *, root: str) -> dict[str, Any]:
    """The container's state (runtime.md#state), in runc's order of keys. Raises NotFoundError. runc:state.go"""
    store = Store(root, id)
    return _describe(store, store.read())


def list_containers(*, root: str) -> list[dict[str, Any]]:
    """The state of every container below `root`. One that is damaged is told and left out. runc:list.go"""
    found = []
    for store in listing(root):
        try:
            found.append(_describe(store, store.read()))
        except NotFoundError:
            continue
        except Error as error:
            report.warn(str(error))
    return found


def _refuse_started(record: Record, store: Store) -> None:
    state = status(record, store)
    if state == "stopped":
        raise StateError("cannot start a container that has stopped", where=store.id)
    if state == "running":
        raise StateError("cannot start an already running container", where=store.id)
    if state != "created":
        raise StateError(f"cannot start a container in the {state} state", where=store.id)


def _listen_for_readiness(store: Store, notify_socket: str) -> NotifySocket | None:
    """The socket that the container has been shown; None, with a warning, if it was created without one."""
    from pyruntime.launch.notify import NotifySocket

    directory_path = store.file_path(NOTIFY_DIRECTORY)
    try:
        posix.stat(directory_path)
    except FileNotFoundError:
        report.warn("NOTIFY_SOCKET was not set at `create`, so the container can't say when it is ready")
        return None
    return NotifySocket(directory_path, notify_socket)


def _finish_start(store: Store, record: Record, answer: bytes) -> None:
    """What is left to do when the container's process has given its answer."""
    if answer:
        from pyruntime.launch.sync import start_error

        failure = start_error(answer, store.read_config()["process"]["args"][0])
        if isinstance(failure, HookError):
            _remove(store, record)
        raise failure
    if "poststart" in record.get("hooks", ()):
        from pyruntime import posthooks

        try:
            posthooks.poststart(store, record)
        except BaseException:
            _remove(store, record)
            raise


def _connect(store: Store) -> bytes:
    """Release the waiting process and return its answer: nothing if the program was executed."""
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

    directory_fd = posix.open(store.path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        connection.connect(f"/proc/self/fd/{directory_fd}/{START_SOCKET}")
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer
    except OSError as error:
        if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOENT):
            raise StateError("the container's process has ended before it was started", where=store.id) from error
        raise KernelError(f"connect({START_SOCKET!r})", error.errno or 0, where=store.id) from error
    finally:
        posix.close(directory_fd)


def cgroup_of(record: Record) -> Cgroup:
    """The container's cgroup. Raises UnsupportedError if it has none."""
    if not record["cgroup"]:
        hint = "its user may not make any: see Delegate= in systemd.resource-control(5)"
        raise UnsupportedError("the container has no cgroup", where=record["id"], hint=hint)
    return Cgroup(record["cgroup"])


def _signal_init(record: Record, signal: int) -> None:
    pidfd = open_init(record)
    try:
        _signal.pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        raise StateError("container not running", where=record["id"]) from None
    except OSError as error:
        raise KernelError(
            f"pidfd_send_signal(pid {record['pid']}, {signal})", error.errno or 0, where=record["id"]
        ) from error
    finally:
        posix.close(pidfd)


def _end(record: Record) -> None:
    """Kill the init, if it is there, and wait until it is gone. Raises StateError if it does not go."""
    if not is_alive(record):
        return
    try:
        _signal_init(record, _signal.SIGKILL)
    except StateError:
        return
    deadline = time.monotonic() + _KILL_SECONDS
    while is_alive(record):
        if time.monotonic() > deadline:
            raise StateError(f"process {record['pid']} does not end after SIGKILL", where=record["id"])
        time.sleep(0.001)


def _remove(store: Store, record: Record, *, force: bool = False) -> None:
    """Kill what runs, remove all that there is of the container, and have its poststop hooks run.

    force: what its network does not let go of is told, and left behind.
    """
    hooks = []
    if "poststop" in record.get("hooks", ()):
        from pyruntime import posthooks

        hooks = posthooks.to_run_at_the_end(store)
    _end(record)
    if record["cgroup"]:
        _removable(record, record["cgroup"]).end()
    elif record["cgroupIntended"]:
        _remove_if_empty(_removable(record, record["cgroupIntended"]))
    if "resctrl" in record:
        from pyruntime.resctrl import groups

        groups.remove(record["resctrl"], finished=bool(record["pid"]))
    if "network" in record:
        load_image("disconnect")
        from pyruntime import net

        net.disconnect(store.root_path, store.id, record["network"], force=force)
    store.remove()
    if hooks:
        posthooks.poststop(hooks, dict(record))


def _removable(record: Record, path: str) -> Cgroup:
    """The cgroup, by whoever has to remove it: we, or systemd."""
    if "scope" not in record:
        return Cgroup(path)
    load_image("stop")
    from pyruntime.cgroup.systemd import Scope

    return Scope(path, record["scope"]["unit"], users=record["scope"]["users"])


def _remove_if_empty(cgroup: Cgroup) -> None:
    """Remove what a start has left that was killed before it could say that the cgroup was its own.

    A child of that start ends with it; whatever else is in there is not ours to kill.
    """
    if not cgroup.exists():
        return
    if cgroup.wait_for("populated 0", _ORPHAN_SECONDS):
        cgroup.remove()
    else:
        report.warn(f"left alone, for it has processes that are not the container's: {cgroup.path}")


def _describe(store: Store, record: Record) -> dict[str, Any]:
    state = status(record, store)
    shown: dict[str, Any] = {
        "ociVersion": record["ociVersion"],
        "id": record["id"],
        "pid": 0 if state == "stopped" else record["pid"],
        "status": state,
        "bundle": record["bundle"],
        "rootfs": record["rootfs"],
        "created": record["created"],
    }
    if record["annotations"]:
        shown["annotations"] = record["annotations"]
    shown["owner"] = record["owner"]
    return shown
