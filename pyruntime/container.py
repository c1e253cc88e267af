"""The verbs: what can be done to a container, each as one function (runtime.md#operations).

This is where the pieces meet: bundle -> Spec -> Plan -> parent and child -> state. Nothing here prints or exits.

Read beside runc:libcontainer/container_linux.go and runc:utils_linux.go.
"""

from __future__ import annotations

import _signal
import errno
import posix
import time

from pyruntime import report
from pyruntime.cgroup.manager import Cgroup
from pyruntime.errors import Error, KernelError, NotFoundError, StateError, UsageError
from pyruntime.linux import proc
from pyruntime.state.status import START_SOCKET, is_alive, status
from pyruntime.state.store import Store, listing
from pyruntime.version import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.launch.child import Launch
    from pyruntime.launch.foreground import Foreground
    from pyruntime.launch.parent import Child
    from pyruntime.plan.step import Plan
    from pyruntime.spec.types import Spec
    from pyruntime.state.store import Record

_KILL_SECONDS = 10.0  # how long `delete --force` waits for a killed init to be gone; runc:delete.go waits as long


class _Start:
    """One start of one container, from its reservation to the moment when its process can execute.

    Whatever it has made it takes back in `undo`, in the reverse order. Each attribute is set when the thing exists.
    """

    __slots__ = (
        *("bundle_path", "cgroup", "child", "config", "foreground", "launch"),
        *("listen_fd", "options", "plan", "reserved", "spec", "store"),
    )

    def __init__(self, bundle_path: str, id: str, root: str, options: dict[str, Any]) -> None:
        self.options = options
        self.store = Store(root, id)
        self.bundle_path = _absolute(bundle_path)
        self.spec, self.config = _load(self.bundle_path, options["args"])
        self.plan = plan_spec(self.spec, self.bundle_path, id, options)
        self.cgroup: Cgroup | None = None
        self.child: Child | None = None
        self.foreground: Foreground | None = None
        self.listen_fd = -1
        self.reserved = False

    def make(self, *, wait: bool) -> None:
        """Do everything up to the child being ready, then record it. `wait`: the container shall wait for `start`."""
        from pyruntime.launch import limits, parent
        from pyruntime.plan.resources import DevicePolicy
        from pyruntime.plan.step import CGROUP

        launch = self._launch()
        self.store.reserve()
        self.reserved = True
        record = self._record(launch.rootfs_path)
        steps = self.plan.phase(CGROUP)
        # Recorded before it is made, so that `delete --force` finds it if we are killed in between.
        self.store.write(record)
        self.store.write_file("config.json", self.config)
        self.cgroup = limits.make_cgroup(steps, rootless=launch.rootless)
        cgroup_fd = None
        if self.cgroup is not None:
            record["cgroup"] = launch.cgroup_path = self.cgroup.path
            self.store.write(record)
            limits.fill_cgroup([s for s in steps if not isinstance(s, DevicePolicy)], self.cgroup, rootless=launch.rootless)
            cgroup_fd = self.cgroup.open_fd()
        if wait:
            self.listen_fd = launch.listen_fd = _listen(self.store)
        try:
            self.child = parent.start_child(launch, cgroup_fd)
        finally:
            if cgroup_fd is not None:
                posix.close(cgroup_fd)
        if self.cgroup is not None:
            # While the child builds its root: loading a device program takes the kernel a while.
            limits.fill_cgroup([s for s in steps if isinstance(s, DevicePolicy)], self.cgroup, rootless=launch.rootless)
            for warning in self.cgroup.warnings:
                report.warn(warning)
        parent.serve_until_ready(self.child, launch)
        record["pid"] = self.child.pid
        record["startTime"] = proc.start_time(self.child.pid)
        self.store.write(record)
        self._publish()
        parent.release(self.child)

    def undo(self) -> None:
        """Take back what was made, after a failure. What can't be taken back is told, not raised: a failure is on its way."""
        self.close()
        if not self.reserved:
            return  # nothing of ours exists, and what has this ID is another's
        if self.child is not None:
            self.child.kill()
        try:
            if self.cgroup is not None:
                self.cgroup.undo()
            self.store.remove()
            if self.options["pid_file"]:
                _unlink(self.options["pid_file"])
        except Error as error:
            report.warn(f"left behind: {error}")

    def close(self) -> None:
        """Let go of the descriptors and of the caller's signals."""
        if self.child is not None:
            self.child.close()
        if self.listen_fd >= 0:
            posix.close(self.listen_fd)
            self.listen_fd = -1
        if self.foreground is not None:
            self.foreground.close()

    def _launch(self) -> Launch:
        """What the child is to know. Connects the console socket, so that a wrong one fails before anything is made."""
        from pyruntime.launch.child import Launch
        from pyruntime.linux.caps import last_cap
        from pyruntime.plan.build import rootfs_path

        launch = Launch()
        launch.plan = self.plan
        launch.rootfs_path = _root_directory(rootfs_path(self.spec, self.bundle_path))
        launch.cgroup_path = ""
        launch.rootless = _is_rootless(self.options["rootless"])
        launch.last_cap = last_cap()
        launch.listen_fd = launch.console_fd = -1
        launch.preserve_fds = self.options["preserve_fds"]
        if self.options["console_socket"]:
            from pyruntime.launch.console import connect_console_socket

            launch.console_fd = connect_console_socket(self.options["console_socket"])
        return launch

    def _record(self, rootfs: str) -> Record:
        uid = posix.geteuid()
        return {
            "ociVersion": SPEC_VERSION,
            "id": self.store.id,
            "pid": 0,
            "bundle": self.bundle_path,
            "rootfs": rootfs,
            "created": _now(),
            "annotations": self.spec.get("annotations") or {},
            "owner": _user_name(uid),
            "startTime": 0,
            "uid": uid,
            "cgroup": "",
            "config": True,
            "rootless": _is_rootless(self.options["rootless"]),
        }

    def _publish(self) -> None:
        """Tell others of the process: --pid-file, --pidfd-socket."""
        assert self.child is not None
        if self.options["pid_file"]:
            _write_pid_file(self.options["pid_file"], self.child.pid)
        if self.options["pidfd_socket"]:
            _send_pidfd(self.options["pidfd_socket"], self.child.pidfd)


def create(bundle_path: str, id: str, *, root: str, **options: Any) -> None:
    """Make a container whose process waits for `start` (runtime.md#create).

    The options are those of the command line, by name: console_socket, pidfd_socket, pid_file, no_pivot,
    no_new_keyring, preserve_fds, systemd_cgroup, rootless, args.
    Raises Error; then nothing is left behind. runc:create.go
    """
    options = _with_defaults(options)
    start = _Start(bundle_path, id, root, options)
    if start.spec["process"].get("terminal") and not options["console_socket"]:
        raise UsageError("cannot allocate tty if runc will detach without setting console socket".replace("runc", "pyruntime"))
    _check_console(start, detached=True)
    try:
        start.make(wait=True)
    except BaseException:
        start.undo()
        raise
    start.close()


def run(bundle_path: str, id: str, *, root: str, **options: Any) -> int:
    """Make a container and start it. In the foreground: pass signals on, wait, remove it, and return its exit status.

    The options are those of `create`, and detach, keep, no_subreaper. With detach, return 0 once the program runs.
    Raises Error; then nothing is left behind. runc:run.go
    """
    options = _with_defaults(options)
    start = _Start(bundle_path, id, root, options)
    _check_console(start, detached=options["detach"])
    try:
        if not options["detach"]:
            _come_to_the_foreground(start)
        start.make(wait=False)
        if options["detach"]:
            start.close()
            return 0
        return _stay(start)
    except BaseException:
        start.undo()
        raise


def start(id: str, *, root: str) -> None:
    """Let a created container execute its program; returns when it has (runtime.md#start).

    Raises StateError unless it is created, NotFoundError, KernelError if execve fails. runc:start.go
    """
    store = Store(root, id)
    lock_fd = store.lock()
    try:
        record = store.read()
        state = status(record, store)
        if state == "stopped":
            raise StateError("cannot start a container that has stopped", where=id)
        if state != "created":
            raise StateError(f"cannot start an already running container (it is {state})", where=id)
        report_of_hop = _connect(store)
        _unlink(store.file_path(START_SOCKET))
    finally:
        posix.close(lock_fd)
    if report_of_hop:
        from pyruntime.launch.sync import execve_error

        raise execve_error(report_of_hop)


def kill(id: str, signal: int, *, root: str, all: bool = False) -> None:
    """Send a signal, by number, to the container's init; `all`: to every process of its cgroup (runtime.md#kill).

    Raises StateError if it is not running, NotFoundError. runc:kill.go
    """
    store = Store(root, id)
    record = store.read()
    if all and record["cgroup"]:
        cgroup = Cgroup(record["cgroup"])
        if signal == _signal.SIGKILL:
            cgroup.kill()
        else:
            cgroup.signal(signal)
        return
    if status(record, store) in ("stopped", "creating"):
        raise StateError("container not running", where=id)
    _signal_init(record, signal)


def delete(id: str, *, root: str, force: bool = False) -> None:
    """Remove a stopped container; with `force` any, killing it, and also one that is half made or not there at all.

    Raises StateError if it is running, NotFoundError. runc:delete.go
    """
    store = Store(root, id)
    try:
        record = store.read()
    except (NotFoundError, StateError):
        if not force:
            raise
        store.remove()  # a start that was killed before its first record, or a damaged record
        return
    state = status(record, store)
    if state != "stopped" and not force:
        if state == "created":
            _signal_init(record, _signal.SIGKILL)  # it has not run anything yet; runc kills it too
        else:
            raise StateError(f"cannot delete container {id} that is not stopped: {state}", hint="kill it first, or use --force")
    _end(record)
    if record["cgroup"]:
        cgroup = Cgroup(record["cgroup"])
        cgroup.kill()
        cgroup.remove()
    store.remove()


def state(id: str, *, root: str) -> dict[str, Any]:
    """The container's state (runtime.md#state), in runc's order of keys. Raises NotFoundError. runc:state.go"""
    store = Store(root, id)
    return _describe(store, store.read())


def list_containers(*, root: str) -> list[dict[str, Any]]:
    """The state of every container below `root`. One that vanishes or is damaged meanwhile is told and left out. runc:list.go"""
    found = []
    for store in listing(root):
        try:
            found.append(_describe(store, store.read()))
        except NotFoundError:
            continue
        except Error as error:
            report.warn(str(error))
    return found


def plan_bundle(bundle_path: str, id: str, **options: Any) -> Plan:
    """What `create` would do with this bundle. Needs no root and changes nothing. Raises Error as `create` would."""
    options = _with_defaults(options)
    spec, _ = _load(_absolute(bundle_path), options["args"])
    return plan_spec(spec, _absolute(bundle_path), id, options)


def plan_spec(spec: Spec, bundle_path: str, id: str, options: dict[str, Any]) -> Plan:
    """Validate a Spec and compile it."""
    from pyruntime.cgroup.creation import own_cgroup
    from pyruntime.plan.build import build
    from pyruntime.plan.resources import cgroup_path
    from pyruntime.spec import validate

    for warning in validate.validate(spec):
        report.warn(warning)
    if options["systemd_cgroup"]:
        from pyruntime.errors import UnsupportedError

        raise UnsupportedError("the systemd cgroup driver is not served yet", where="--systemd-cgroup")
    linux = spec.get("linux", {})
    own = "/" if linux.get("cgroupsPath", "").startswith("/") else own_cgroup()
    cgroup = cgroup_path(linux, id, own)
    return build(spec, bundle_path, id, cgroup, no_pivot=options["no_pivot"], no_new_keyring=options["no_new_keyring"])


_DEFAULTS: dict[str, Any] = {
    "console_socket": "",
    "pidfd_socket": "",
    "pid_file": "",
    "no_pivot": False,
    "no_new_keyring": False,
    "preserve_fds": 0,
    "systemd_cgroup": False,
    "rootless": "auto",
    "args": None,
    "detach": False,
    "keep": False,
    "no_subreaper": False,
}


def _with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    unknown = options.keys() - _DEFAULTS.keys()
    if unknown:
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
    return _DEFAULTS | options


def _load(bundle_path: str, args: list[str] | None) -> tuple[Spec, bytes]:
    """The bundle's Spec, with its command replaced where one was given."""
    from pyruntime.jsontext import encode
    from pyruntime.spec.load import load

    spec, text = load(bundle_path)
    if args:
        process = spec.get("process")
        if isinstance(process, dict):
            process["args"] = args
            text = encode(spec).encode("utf-8", "surrogateescape")
    return spec, text


def _check_console(start: _Start, *, detached: bool) -> None:
    """runc:utils_linux.go:/^func .*runner.*checkTerminal/"""
    terminal = start.spec["process"].get("terminal", False)
    socket = start.options["console_socket"]
    if detached and terminal and not socket:
        raise UsageError("cannot allocate tty if pyruntime will detach without setting console socket", where="--console-socket")
    if socket and not (detached and terminal):
        raise UsageError("cannot use console socket if pyruntime will not detach or allocate tty", where="--console-socket")


def _come_to_the_foreground(start: _Start) -> None:
    """Take the signals that are meant for the container, and its orphans unless --no-subreaper."""
    from pyruntime.launch.foreground import Foreground
    from pyruntime.linux import constants, syscalls

    start.foreground = Foreground(terminal=start.spec["process"].get("terminal", False))
    if not start.options["no_subreaper"]:
        syscalls.prctl(constants.PR_SET_CHILD_SUBREAPER, 1)


def _stay(start: _Start) -> int:
    """Wait for a container in the foreground, then remove it unless --keep."""
    assert start.child is not None and start.foreground is not None
    child = start.child
    master_fd = child.master_fd if child.master_fd >= 0 else None
    child.master_fd = -1  # supervise takes it over
    exit_status = start.foreground.supervise(child.pid, child.pidfd, master_fd)
    if not start.options["keep"]:
        if start.cgroup is not None:
            start.cgroup.kill()
            start.cgroup.remove()
        start.store.remove()
    start.close()
    return exit_status


def _root_directory(path: str) -> str:
    """The root file system with no link left in its path, since its parents are walked by name."""
    where = "config.json#/root/path"
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"open({path!r})", error.errno or 0, where=where, hint="the bundle has no such directory") from error
    try:
        return posix.readlink(f"/proc/self/fd/{fd}")
    finally:
        posix.close(fd)


def _is_rootless(option: str) -> bool:
    """--rootless: by default, whoever is not root is (runc:rootless_linux.go)."""
    return posix.geteuid() != 0 if option == "auto" else option == "true"


def _listen(store: Store) -> int:
    """The socket on which the hop waits for `start`. The state directory's descriptor keeps its name short: unix(7) ends at 107."""
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    directory_fd = posix.open(store.path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory_fd}/{START_SOCKET}")
        listener.listen(1)
    finally:
        posix.close(directory_fd)
    return listener.detach()


def _connect(store: Store) -> bytes:
    """Release the hop and return its report: nothing if the program was executed."""
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

    directory_fd = posix.open(store.path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        connection.connect(f"/proc/self/fd/{directory_fd}/{START_SOCKET}")
        return connection.recv(4)
    except OSError as error:
        if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOENT):
            raise StateError("the container's process has ended before it was started", where=store.id) from error
        raise KernelError(f"connect({START_SOCKET!r})", error.errno or 0, where=store.id) from error
    finally:
        posix.close(directory_fd)


def _signal_init(record: Record, signal: int) -> None:
    """Signal the init by a pidfd whose process has been compared with the record: a pid alone may be another's by now."""
    try:
        pidfd = posix.pidfd_open(record["pid"])
    except ProcessLookupError:
        raise StateError("container not running", where=record["id"]) from None
    try:
        if not is_alive(record):
            raise StateError("container not running", where=record["id"])
        _signal.pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        raise StateError("container not running", where=record["id"]) from None
    except OSError as error:
        raise KernelError(f"pidfd_send_signal(pid {record['pid']}, {signal})", error.errno or 0, where=record["id"]) from error
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


def _write_pid_file(path: str, pid: int) -> None:
    """Digits only, and never half of them: written beside and renamed. runc:utils_linux.go:/^func createPidFile/"""
    directory, _, name = path.rpartition("/")
    temporary = f"{directory}/.{name}" if directory else f".{name}"
    try:
        fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o666)
        try:
            posix.write(fd, str(pid).encode())
        finally:
            posix.close(fd)
        posix.rename(temporary, path)
    except OSError as error:
        raise KernelError(f"write {path!r}", error.errno or 0, where="--pid-file") from error


def _send_pidfd(path: str, pidfd: int) -> None:
    """runc:libcontainer/init_linux.go:/^func setupPidfd/"""
    from pyruntime.launch.console import connect_console_socket, send_master

    try:
        socket_fd = connect_console_socket(path)
    except Error as error:
        error.where = "--pidfd-socket"
        raise
    try:
        send_master(socket_fd, pidfd, "pidfd")
    finally:
        posix.close(socket_fd)


def _now() -> str:
    """RFC 3339 in UTC with nanoseconds, as Go writes it."""
    now = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
    return f"{seconds}.{now % 1_000_000_000:09d}Z"


def _user_name(uid: int) -> str:
    """The name of a user of the host, "" if it has none. On the host NSS may be asked: nothing is sealed yet."""
    if uid == 0:
        return "root"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _absolute(path: str) -> str:
    """An absolute path without a trailing slash or `.` parts."""
    full = path if path.startswith("/") else f"{posix.getcwd()}/{path}"
    return "/" + "/".join(part for part in full.split("/") if part not in ("", "."))


def _unlink(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        return
