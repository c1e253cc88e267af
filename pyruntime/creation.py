"""Making containers: `create`, `run`, and the plan of what they would do.

This is where the pieces meet: bundle -> Spec -> Plan -> parent and child -> state. The verbs for containers that exist
are in container.py, which needs far less.

Read beside runc:utils_linux.go:/^func startContainer/ and runc:libcontainer/factory_linux.go.
"""

from __future__ import annotations

import errno
import posix
import time

from pyruntime import report
from pyruntime.caller import CallerOptions
from pyruntime.cgroup.creation import Hierarchy
from pyruntime.cgroup.manager import Cgroup
from pyruntime.errors import ConfigError, Error, KernelError, UnsupportedError
from pyruntime.images import load_image
from pyruntime.jsontext import encode
from pyruntime.launch import limits, parent
from pyruntime.launch.child import Launch
from pyruntime.launch.exeseal import seal_interpreter
from pyruntime.linux import constants, proc, syscalls
from pyruntime.linux.caps import last_cap
from pyruntime.plan.build import build, rootfs_path
from pyruntime.plan.namespaces import NETWORK_ANNOTATION, PUBLISH_ANNOTATION
from pyruntime.plan.resources import DevicePolicy, cgroup_path
from pyruntime.plan.step import CGROUP, RESCTRL
from pyruntime.spec import validate
from pyruntime.spec.load import load
from pyruntime.state.status import START_SOCKET
from pyruntime.state.store import NOTIFY_DIRECTORY, Store
from pyruntime.version import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.launch.foreground import Foreground
    from pyruntime.launch.handle import Child
    from pyruntime.launch.hookpoints import HookPoints
    from pyruntime.launch.notify import NotifySocket
    from pyruntime.networking import Connection
    from pyruntime.plan.network import Selection
    from pyruntime.plan.step import Plan
    from pyruntime.spec.types import Linux, Spec
    from pyruntime.state.store import Record


_NETWORK_ANNOTATIONS = {NETWORK_ANNOTATION, PUBLISH_ANNOTATION}
# What we ourselves look at, and Python; which sets LC_CTYPE where it is missing (PEP 538), and so must have it.
_OWN_ENVIRONMENT = (
    *(b"PATH", b"XDG_RUNTIME_DIR", b"LANG", b"LC_ALL", b"LC_CTYPE"),
    *(b"LISTEN_PID", b"LISTEN_FDS", b"LISTEN_FDNAMES", b"NOTIFY_SOCKET"),  # these are the container's, too
)


class Options(CallerOptions):
    """What a caller can say about making a container, besides config.json.

    The environment of a command counts as its options: listen_fds descriptors from 3 on that a service manager has
    opened, with their names (sd_listen_fds(3)), and notify_socket, where it waits for READY=1 (sd_notify(3)).
    """

    args: list[str] | None = None  # in place of process.args
    ip: str = ""
    keep: bool = False
    listen_fdnames: str = ""
    net: str = ""
    no_new_keyring: bool = False
    no_pivot: bool = False
    no_subreaper: bool = False
    notify_socket: str = ""
    publish: list[str] | None = None
    rootless: str = "auto"
    systemd_cgroup: bool = False

    def env(self) -> tuple[str, ...]:
        """What the container's environment has of ours. runc:utils_linux.go:/^func .*runner.*run/"""
        if not self.listen_fds:
            return ()
        names = (f"LISTEN_FDNAMES={self.listen_fdnames}",) if self.listen_fdnames else ()
        return (f"LISTEN_FDS={self.listen_fds}", "LISTEN_PID=1", *names)

    def is_rootless(self) -> bool:
        """--rootless: by default, whoever is not root is. runc:rootless_linux.go"""
        return posix.geteuid() != 0 if self.rootless == "auto" else self.rootless == "true"


def create(bundle_path: str, id: str, *, root: str, **options: Any) -> None:
    """Make a container whose process waits for `start` (runtime.md#create). The options are those of `Options`.

    Raises Error; then nothing is left behind. runc:create.go
    """
    start = Start(bundle_path, id, root, Options(detach=True, **options), wait=True)
    try:
        start.make()
    except BaseException:
        start.undo()
        raise
    start.close()


def run(bundle_path: str, id: str, *, root: str, **options: Any) -> int:
    """Make a container and start it. In the foreground: pass signals on, wait, remove it, and return its exit status.

    With detach, return 0 once the program runs, or with notify_socket, once it is ready. Raises Error; then nothing is
    left behind. runc:run.go
    """
    start = Start(bundle_path, id, root, Options(**options), wait=False)
    try:
        if not start.options.detach:
            start.come_to_the_foreground()
        start.make()
        if not start.options.detach:
            return start.stay()
    except BaseException:
        start.undo()
        raise
    try:
        start.tell_readiness()
    finally:
        start.close()
    return 0


def plan_bundle(bundle_path: str, id: str, *, root: str, **options: Any) -> Plan:
    """What `create` would do with this bundle. Needs no root and changes nothing. Raises Error as `create` would."""
    path = _absolute(bundle_path)
    given = Options(**options)
    store = Store(root, id)
    spec, _, network = _load(path, given, store)
    return _plan(spec, validate.validate(spec), path, store, given, network, Hierarchy())


class Start:
    """One start of one container, from its reservation to the moment when its process can execute.

    wait: it shall not before `start` has come, so there may be no process to be executed (config.md#process).
    Each attribute is set when the thing exists; whatever has been made, `undo` takes back.
    """

    __slots__ = (
        "bundle_path",
        "cgroup",
        "child",
        "config",
        "connection",
        "foreground",
        "group",
        "hierarchy",
        "hooks",
        "listen_fd",
        "notify",
        "options",
        "plan",
        "reserved",
        "spec",
        "store",
        "wait",
    )

    def __init__(self, bundle_path: str, id: str, root: str, options: Options, *, wait: bool) -> None:
        """Read, check and compile; nothing is made yet."""
        self.options = options
        self.wait = wait
        self.store = Store(root, id)
        self.bundle_path = _absolute(bundle_path)
        self.spec, self.config, network = _load(self.bundle_path, options, self.store)
        warnings = validate.validate(self.spec)
        if not wait and "process" not in self.spec:
            raise ConfigError("the key process is missing", where="config.json#")
        if any(n["type"] == "pid" and n.get("path") for n in self.spec.get("linux", {}).get("namespaces", ())):
            seal_interpreter()
        elif self.spec.get("hooks", {}).get("startContainer"):
            # The image's own programs will run beside the child as long as it is Python: see launch/hookpoints.py.
            seal_interpreter(keep=_OWN_ENVIRONMENT)
        self.hierarchy = Hierarchy()
        self.plan = _plan(self.spec, warnings, self.bundle_path, self.store, options, network, self.hierarchy)
        options.check(terminal=self.spec.get("process", {}).get("terminal", False))
        _check_devices(self.spec, options)
        self.connection = self._connection() if network is not None else None
        self.reserved = False
        self.cgroup: Cgroup | None = None
        self.child: Child | None = None
        self.foreground: Foreground | None = None
        self.group: dict[str, Any] | None = None  # of resctrl, as the record tells it
        self.hooks: HookPoints | None = None  # set when one may have run
        self.notify: NotifySocket | None = None
        self.listen_fd = -1

    def make(self) -> None:
        """Do everything up to the process being able to execute, and let it."""
        launch = self._launch()
        self.store.reserve()
        self.reserved = True
        record = self._record(launch.rootfs_path)
        if self.connection is not None:
            record["network"] = self.connection.attachment
            self.connection.prepare()
        if self.options.notify_socket:
            self._prepare_readiness()
        if "seccomp" in self.spec.get("linux", {}):
            from pyruntime.launch.seccomp import compile_filter

            launch.filter = compile_filter(self.plan, self.store.root_path)
        self._make_group(record)
        cgroup_fd = self._make_cgroup(launch, record)
        try:
            if self.wait:
                self.listen_fd = launch.listen_fd = _listen(self.store)
            if launch.hooks is not None:
                # Before any hook can run: what `delete` needs if we are killed, with the cgroup of what a hook leaves.
                self.store.write_file("config.json", self.config)
                self.store.write(record)
                self.hooks = launch.hooks
            self.child = parent.start_child(launch, cgroup_fd)
        finally:
            if cgroup_fd is not None:
                posix.close(cgroup_fd)
        # While the child builds its root: both take the kernel a while.
        self._set_device_policy(launch)
        if launch.hooks is None:
            self.store.write_file("config.json", self.config)
        if self.connection is not None:
            parent.identify(self.child, launch)
            try:
                self.connection.connect(self.child.pid)
            except Error:
                parent.raise_what_is_waiting(self.child)
                raise
        parent.serve_until_ready(self.child, launch)
        if self.foreground is not None and self.child.master_fd >= 0:
            self.foreground.size_terminal(self.child.master_fd)
        record["pid"] = self.child.pid
        record["startTime"] = proc.start_time(self.child.pid)
        self.store.write(record)
        self.options.announce(self.child.pid, self.child.pidfd, "standard")
        parent.release(self.child, self._send_listener)
        if launch.filter and self.wait:
            parent.check_alive(self.child)
        if self.hooks is not None and not self.wait:
            self.hooks.started(self.child.pid)
        self.child.keep_devices()

    def come_to_the_foreground(self) -> None:
        """Take the signals that are meant for the container, and its orphans unless --no-subreaper."""
        from pyruntime.launch.foreground import Foreground

        self.foreground = Foreground(terminal=self.spec["process"].get("terminal", False))
        if not self.options.no_subreaper:
            syscalls.prctl(constants.PR_SET_CHILD_SUBREAPER, 1)

    def tell_readiness(self) -> None:
        """Wait until a detached container is ready, if it is to say so, and tell it. runc: forward."""
        if self.notify is not None and self.child is not None:
            self.notify.wait(self.child.pid, self.child.pidfd)

    def stay(self) -> int:
        """Wait for a container in the foreground, then remove it unless --keep. Returns its exit status."""
        child, foreground = self.child, self.foreground
        if child is None or foreground is None:
            raise TypeError("only what was started in the foreground can be waited for")
        exit_status = foreground.supervise(child.pid, child.pidfd, child.give_master(), self.notify)
        if not self.options.keep:
            if self.cgroup is not None:
                self.cgroup.end()
            self._remove_group(finished=True)
            if self.connection is not None:
                self.connection.disconnect()
            self.store.remove()
        self.close()
        if not self.options.keep:
            self._tell_stopped()
        return exit_status

    def undo(self) -> None:
        """Take back what was made. What can't be taken back is told, not raised: an error is on its way already."""
        try:
            if self.reserved:  # or else nothing of ours exists, and what has this ID is another's
                self._undo()
        finally:
            self.close()  # the last, for signals that are waiting may end us
        self._tell_stopped()

    def _undo(self) -> None:
        if self.child is not None:
            self.child.return_devices()  # before the container's network namespace ends, and they with it
            self.child.kill()
        try:
            if self.cgroup is not None:
                self.cgroup.undo()
            self._remove_group(finished=False)
            if self.connection is not None:
                self.connection.disconnect(force=True)
            self.store.remove()
            self.options.withdraw()
        except (Error, OSError) as error:
            report.warn(f"left behind: {error}")

    def _tell_stopped(self) -> None:
        """Run the poststop hooks, if any hook may have run (runtime.md#lifecycle, 13)."""
        if self.hooks is not None:
            self.hooks.stopped()

    def close(self) -> None:
        """Let go of the descriptors and of the caller's signals."""
        if self.child is not None:
            self.child.close()
        if self.listen_fd >= 0:
            posix.close(self.listen_fd)
            self.listen_fd = -1
        if self.notify is not None:
            self.notify.close()
        if self.foreground is not None:
            self.foreground.close()

    def _prepare_readiness(self) -> None:
        """Make what the container shall be shown of $NOTIFY_SOCKET; where it is to wait, `start` will listen there."""
        self.store.make_notify_directory()
        if not self.wait:
            from pyruntime.launch.notify import NotifySocket

            self.notify = NotifySocket(self.store.file_path(NOTIFY_DIRECTORY), self.options.notify_socket)

    def _launch(self) -> Launch:
        """What the child is to know. Connects the console socket, so that a wrong one fails before anything is made."""
        launch = Launch()
        launch.plan = self.plan
        launch.rootfs_path = _root_directory(rootfs_path(self.spec, self.bundle_path))
        launch.cgroup_path = ""
        launch.trees, launch.ask_for_source = {}, None
        launch.rootless = self.options.is_rootless()
        launch.last_cap = last_cap()
        launch.hooks = self._hook_points()
        launch.listen_fd = launch.tape_fd = -1
        launch.filter = b""
        launch.preserve_fds = self.options.listen_fds + self.options.preserve_fds
        launch.console_fd = self.options.connect_console()
        return launch

    def _connection(self) -> Connection | None:
        """The cable to a network that the plan has, if it has one."""
        from pyruntime import networking

        return networking.connection(self.plan, self.store, rootless=self.options.is_rootless())

    def _hook_points(self) -> HookPoints | None:
        """Who runs the hooks; None where there are none, which is not to cost anything."""
        if not any(self.spec.get("hooks", {}).values()):
            return None
        from pyruntime.launch.hookpoints import HookPoints

        return HookPoints(self.plan, self._identity())

    def _identity(self) -> dict[str, Any]:
        """What a hook and the listener of a seccomp filter are told, besides status and pid (runtime.md#state)."""
        return {
            "ociVersion": SPEC_VERSION,
            "id": self.store.id,
            "bundle": self.bundle_path,
            "annotations": self.spec.get("annotations") or {},
        }

    def _record(self, rootfs: str) -> Record:
        """What the state directory will say, but for the process."""
        uid = posix.geteuid()
        record: Record = {
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
            "cgroupIntended": "",
            "config": True,
            "rootless": self.options.is_rootless(),
        }
        if not any(n["type"] == "pid" and not n.get("path") for n in self.spec.get("linux", {}).get("namespaces", ())):
            record["sharesPids"] = True
        if "process" not in self.spec:
            record["noProcess"] = True
        if self.options.no_new_keyring:
            record["noNewKeyring"] = True
        lists = self.spec.get("hooks", {})
        if lists.get("poststart") or lists.get("poststop"):
            record["hooks"] = [kind for kind in ("poststart", "poststop") if lists.get(kind)]
        return record

    def _make_group(self, record: Record) -> None:
        """Make the group of resctrl, if one is asked for. What the record tells of it is written before."""
        if "intelRdt" not in self.spec.get("linux", {}):
            return
        from pyruntime.launch.resctrl import make_group

        def keep(entry: dict[str, Any]) -> None:
            self.group = record["resctrl"] = entry
            self.store.write(record)

        make_group(self.plan.phase(RESCTRL), keep)

    def _remove_group(self, *, finished: bool) -> None:
        if self.group is not None:
            from pyruntime.resctrl import groups

            groups.remove(self.group, finished=finished)

    def _make_cgroup(self, launch: Launch, record: Record) -> int | None:
        """Make and fill the cgroup; its descriptor, or None where the container has none.

        Its path is recorded before, so that `delete --force` finds what we leave if we are killed, and as the
        container's own only after: until then it may be another's.
        """
        steps = self.plan.phase(CGROUP)
        if self.options.systemd_cgroup:
            record["scope"] = limits.recorded_scope(steps)
        record["cgroupIntended"] = limits.intended_path(steps, self.hierarchy)
        self.store.write(record)
        self.cgroup = limits.make_cgroup(steps, record["cgroupIntended"], rootless=launch.rootless)
        if self.cgroup is None:
            return None
        record["cgroup"] = launch.cgroup_path = self.cgroup.path
        now = [step for step in steps if not isinstance(step, DevicePolicy)]
        limits.fill_cgroup(now, self.cgroup, rootless=launch.rootless)
        self.cgroup.make_room()
        return self.cgroup.open_fd()

    def _send_listener(self, child: Child, fd: int) -> None:
        """Hand the descriptor that is told of a filter's notifications to who waits for it."""
        from pyruntime.launch.seccomp import send_listener, take_listener

        state = {**self._identity(), "status": "creating", "pid": child.pid}
        profile = self.spec["linux"]["seccomp"]
        metadata = profile.get("listenerMetadata", "")
        send_listener(take_listener(child, fd), profile["listenerPath"], metadata, child.pid, state)

    def _set_device_policy(self, launch: Launch) -> None:
        """Load and attach the device program, before anything of the image runs. The container's process is inside."""
        if self.cgroup is None:
            return
        self.cgroup.settle()
        steps = [step for step in self.plan.phase(CGROUP) if isinstance(step, DevicePolicy)]
        limits.fill_cgroup(steps, self.cgroup, rootless=launch.rootless)
        for warning in self.cgroup.warnings:
            report.warn(warning)


def _load(bundle_path: str, options: Options, store: Store) -> tuple[Spec, bytes, Selection | None]:
    """The bundle's Spec, its text, and what is said of the network; with what the options have in place of its own."""
    spec, text = load(bundle_path)
    network = _select_network(spec, options, store)
    if options.args:
        process = spec.setdefault("process", {"cwd": "/"})
        if isinstance(process, dict):
            process["args"] = options.args
    elif network is None:
        return spec, text, None
    return spec, encode(spec).encode("utf-8", "surrogateescape"), network


def _select_network(spec: Spec, options: Options, store: Store) -> Selection | None:
    """What options and annotations say of the network, made true in `linux.namespaces`. Raises as networking.select."""
    annotations: Any = spec.get("annotations")
    if not isinstance(annotations, dict):
        annotations = {}
    if not (options.net or options.publish or options.ip or annotations.keys() & _NETWORK_ANNOTATIONS):
        return None
    load_image("network")
    from pyruntime import networking

    return networking.select(spec, options, store, annotations)


def _plan(
    spec: Spec,
    warnings: list[str],
    bundle_path: str,
    store: Store,
    options: Options,
    network: Selection | None,
    hierarchy: Hierarchy,
) -> Plan:
    """Tell the oddities of a Spec that is valid, and compile it."""
    for warning in warnings:
        report.warn(warning)
    linux = spec.get("linux", {})
    if "seccomp" in linux:
        load_image("seccomp")
    plan = build(
        spec,
        bundle_path,
        store.id,
        _cgroup_path(linux, store.id, options, hierarchy),
        no_pivot=options.no_pivot,
        no_new_keyring=options.no_new_keyring,
        network=network,
        env=options.env(),
        notify_path=store.file_path(NOTIFY_DIRECTORY) if options.notify_socket else "",
    )
    if options.systemd_cgroup:
        from pyruntime.plan import scope

        scope.ask_systemd(plan, spec, store.id, users=_asks_own_systemd(options))
    return plan


def _asks_own_systemd(options: Options) -> bool:
    """Whether it is the service manager of this user that is to make the cgroup, instead of the system's."""
    from pyruntime.cgroup.systemd import is_users

    return is_users(rootless=options.is_rootless())


def _cgroup_path(linux: Linux, id: str, options: Options, hierarchy: Hierarchy) -> str:
    """Where the container's cgroup goes, below the v2 hierarchy, or below what is systemd's."""
    if options.systemd_cgroup:
        load_image("systemd")
        from pyruntime.plan import scope

        return scope.scope_path(linux, id, users=_asks_own_systemd(options))
    own = "/" if linux.get("cgroupsPath", "").startswith("/") else hierarchy.cgroup_of()
    return cgroup_path(linux, id, own)


def _check_devices(spec: Spec, options: Options) -> None:
    """The host's network devices are not a user's to take. runc:libcontainer/configs/validate/validator.go"""
    if options.is_rootless() and spec.get("linux", {}).get("netDevices"):
        message = "network devices are not supported for rootless containers"
        raise UnsupportedError(message, where="config.json#/linux/netDevices")


def _root_directory(path: str) -> str:
    """The root file system with no link left in its path, since its parents are walked by name."""
    where = "config.json#/root/path"
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as error:
        hint = {errno.ENOENT: "the bundle has no such directory", errno.ENOTDIR: "it must be a directory"}
        number = error.errno or 0
        raise KernelError(f"open({path!r})", number, where=where, hint=hint.get(number, "")) from error
    try:
        found = posix.readlink(f"/proc/self/fd/{fd}")
    finally:
        posix.close(fd)
    if found == "/":
        raise ConfigError("the host's own root cannot be the container's", where=where)
    return found


def _listen(store: Store) -> int:
    """The socket on which the hop waits for `start`. Bound through a descriptor: unix(7) takes 107 bytes of a path."""
    listen_fd = syscalls.socket(constants.AF_UNIX, constants.SOCK_STREAM)
    directory_fd = posix.open(store.path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        syscalls.bind(listen_fd, f"/proc/self/fd/{directory_fd}/{START_SOCKET}")
        syscalls.listen(listen_fd, 1)
    except BaseException:
        posix.close(listen_fd)
        raise
    finally:
        posix.close(directory_fd)
    return listen_fd


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
    """An absolute path without `.` and `..`, by its words alone, as Go's filepath.Abs."""
    try:
        full = path if path.startswith("/") else f"{posix.getcwd()}/{path}"
    except OSError as error:
        raise KernelError("getcwd()", error.errno or 0, hint="the current directory was removed") from error
    parts: list[str] = []
    for part in full.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
