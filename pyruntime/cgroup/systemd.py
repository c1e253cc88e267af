"""The cgroup of a container as a transient scope of systemd's: made, settled and removed (`--systemd-cgroup`).

    runtime                          systemd                                      the scope's cgroup
      | fork --> placeholder           |
      | StartTransientUnit(PIDs) ----> | makes it, writes limits, moves the       [placeholder]
      | <--- JobRemoved, "done" ------ |                          placeholder in
      | controllers and files that systemd doesn't know
      | clone3(CLONE_INTO_CGROUP) ---------------------------------------------> [placeholder, container]
      | ends the placeholder ----------------------------------------------------> [container]
      |      ...
      | StopUnit, ResetFailedUnit ---> | forgets it, removes the cgroup

Why a placeholder: a scope is made around processes that exist, and ends with the last of them. runc and crun hand over
the container's process, which is then moved, after it has begun elsewhere: what it has used until then is counted
there, its cgroup namespace has to wait, and the move takes the kernel 8 ms. Ours is born inside, as without systemd, so
somebody must be in the scope before: a process that does nothing but wait for our end. If we are killed, it ends too,
the scope is empty, and systemd removes it by itself. It counts as one of the container's processes for that moment, so
a low pids.max is one higher until it has gone.

A user asks the service manager that is theirs. Then the runtime itself has to be below that one, too, and is taken in
where it is not: `come_below`.

Read beside opencontainers/cgroups:systemd/v2.go:/^func .*Apply/ and :systemd/common.go:/^func startUnit/.
"""

from __future__ import annotations

import _signal
import posix

from pyruntime import report
from pyruntime.cgroup import creation
from pyruntime.cgroup.manager import Cgroup
from pyruntime.errors import Error, ExistsError, SystemdError, UnsupportedError
from pyruntime.linux import proc
from pyruntime.linux.sdbus import Bus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Property = tuple[str, str, Any]  # as plan/scope.py makes them

_JOB_SECONDS = 30.0  # how long systemd may take to make or to stop a unit, as in runc
_EMPTY_SECONDS = 5.0  # how long killed processes may take to leave
_PLENTY = 100  # processes, of which a start takes a few
_OPTION = "--systemd-cgroup"
_ANNOTATIONS = "config.json#/annotations"
_UNIT_EXISTS, _NO_UNIT = "org.freedesktop.systemd1.UnitExists", "org.freedesktop.systemd1.NoSuchUnit"
_COLLECT = "inactive-or-failed"
_UNKNOWN_PROPERTY = "org.freedesktop.DBus.Error.PropertyReadOnly"


def is_users(*, rootless: bool) -> bool:
    """Whether the service manager to ask is this user's own: also for the root of a user namespace, if it has one.

    Companion: runc:rootless_linux.go:/^func shouldUseRootlessCgroupManager/.
    """
    return rootless or (not proc.in_first_user_namespace() and b"XDG_RUNTIME_DIR" in posix.environ)


def root_path(hierarchy_path: str, *, users: bool) -> str:
    """The host path of the cgroup that everything of the service manager's is below.

    hierarchy_path: where cgroup v2 is mounted. Raises UnsupportedError if systemd does not run; SystemdError.
    """
    try:
        posix.stat("/run/systemd/system")  # sd_booted(3)
    except OSError:
        message = "systemd not running on this host, cannot use systemd cgroups manager"
        raise UnsupportedError(message, where=_OPTION, hint="leave the option out") from None
    if not users:
        return hierarchy_path
    bus = _connect(users=True)
    try:
        return hierarchy_path + bus.property("ControlGroup").rstrip("/")
    finally:
        bus.close()


class Scope(Cgroup):
    """The cgroup of a scope: as any other, but that systemd removes it. `users`: the manager of this user does."""

    __slots__ = ("pids_max", "placeholder", "unit", "users")

    def __init__(self, path: str, unit: str, *, users: bool) -> None:
        super().__init__(path)
        self.unit = unit
        self.users = users
        self.placeholder: Placeholder | None = None
        self.pids_max = ""  # what the file shall say when the placeholder has gone

    def settle(self) -> None:
        """Have the placeholder leave, if it is still there: the container's process is inside. Raises KernelError."""
        if self.placeholder is None:
            return
        self.placeholder.end()
        self.placeholder = None
        if self.pids_max:
            self.write("pids.max", self.pids_max)

    def make_room(self) -> None:
        """Let there be one process more than allowed, for the placeholder, where one matters. Raises KernelError."""
        try:
            limit = self.read("pids.max").strip()
        except FileNotFoundError:
            return  # no controller, no limit
        if limit != "max" and int(limit) < _PLENTY:
            self.write("pids.max", str(int(limit) + 1))
            self.pids_max = limit

    def remove_made(self) -> None:
        """As in a cgroup that was made for this start alone, which a scope always is."""
        if self.placeholder is not None:
            self.placeholder.end()
            self.placeholder = None
        self.remove()

    def remove(self) -> None:
        """Have systemd stop the scope and forget it, then remove what is left of the cgroup. Raises as Cgroup.remove.

        That systemd can't be asked is only told: it will notice by itself that the scope is empty.
        """
        self.wait_for("populated 0", _EMPTY_SECONDS)  # or systemd would begin with SIGTERM, and wait
        try:
            self._stop()
        except (SystemdError, UnsupportedError) as error:
            report.warn(f"systemd was not told of the end of {self.unit}: {error}")
        super().remove()

    def _stop(self) -> None:
        """Companion: opencontainers/cgroups:systemd/common.go:/^func stopUnit/."""
        bus = _connect(users=self.users)
        try:
            try:
                job = bus.call("StopUnit", "ss", self.unit, "replace")
            except SystemdError as error:
                if error.name != _NO_UNIT:
                    raise
                return  # it ended by itself
            result = bus.wait_for_job(job, _JOB_SECONDS)
            if result != "done":
                report.warn(f"systemd did not stop {self.unit}: {result or 'it takes too long'}")
            _reset_failed(bus, self.unit)
        finally:
            bus.close()


class Placeholder:
    """A process that does nothing: it waits until it is ended, or we are. Raises OSError."""

    __slots__ = ("_pipe_fd", "pid")

    def __init__(self) -> None:
        wait_fd, self._pipe_fd = posix.pipe2(posix.O_CLOEXEC)
        self.pid = posix.fork()
        if self.pid == 0:
            try:
                posix.close(self._pipe_fd)
                posix.read(wait_fd, 1)  # nothing is ever written: it returns when nobody is left who could
            finally:
                posix._exit(0)
        posix.close(wait_fd)

    def end(self) -> None:
        """End it and wait for it, so that it is counted no more."""
        # By a signal: others that were cloned meanwhile have the other end of its pipe, too, until they execute.
        try:
            posix.kill(self.pid, _signal.SIGKILL)
            posix.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return  # our caller has us ignore SIGCHLD: then the kernel does the waiting
        finally:
            posix.close(self._pipe_fd)


def make_scope(
    path: str,
    unit: str,
    slice: str,
    properties: list[Property],
    limits: list[Property],
    needed: dict[str, str],
    *,
    root_path: str,
    users: bool,
) -> Scope:
    """Have systemd make the scope `unit` with these properties, whose cgroup is `path` below `root_path`.

    Its placeholder is inside: `settle` is to be called once the container is. limits: properties that may be left out,
    for the files say the same. needed: as for creation.create.
    Raises UnsupportedError for a controller that is not there, ExistsError if there is such a unit, or somebody in the
    cgroup, SystemdError, StateError if it is frozen, KernelError. Then nothing is left behind.
    """
    creation.available(root_path, needed)
    scope = Scope(root_path + path, unit, users=users)
    if scope.exists():
        creation.refuse_used(scope)
        creation.refuse_frozen(scope)
    if users:
        come_below(root_path)
    bus = _connect(users=users)
    try:
        scope.placeholder = Placeholder()
        own: list[Property] = [
            ("Description", "s", f"pyruntime container {unit.removesuffix('.scope')}"),
            ("Slice", "s", slice),
            ("Delegate", "b", True),
            ("PIDs", "au", [scope.placeholder.pid]),
            *((f"{name}Accounting", "b", True) for name in ("Memory", "CPU", "IO", "Tasks")),
            ("DefaultDependencies", "b", False),
        ]
        try:
            _start(bus, unit, own, properties, limits)
        except BaseException:
            scope.placeholder.end()
            raise
    finally:
        bus.close()
    try:
        _check_place(scope, root_path + path)
        creation.hand_down(root_path, path, needed)
        creation.refuse_frozen(scope)
    except BaseException:
        scope.undo()
        raise
    return scope


def come_below(root_path: str) -> None:
    """Have this user's service manager take us in, into a scope of our own, unless we are below `root_path` already.

    A user may start a process in another cgroup only if both are below one that is theirs, and a session's is not
    (cgroups(7), "Delegation containment"). Podman does the same. Raises UnsupportedError, SystemdError.
    """
    hierarchy = creation.Hierarchy()
    if f"{hierarchy.path_of(hierarchy.cgroup_of())}/".startswith(f"{root_path}/"):
        return
    pid = posix.getpid()
    own: list[Property] = [("Description", "s", "pyruntime"), ("PIDs", "au", [pid]), ("CollectMode", "s", _COLLECT)]
    bus = _connect(users=True)
    try:
        _start(bus, f"pyruntime-{pid}.scope", own, [], [])
    except SystemdError as error:
        error.hint = "start pyruntime where the service manager of this user is: systemd-run --user --scope ..."
        raise
    finally:
        bus.close()


def _connect(*, users: bool) -> Bus:
    try:
        return Bus(users=users)
    except Error as error:
        error.where = _OPTION
        if users and not error.hint:
            error.hint = "the service manager of this user: is XDG_RUNTIME_DIR set? See loginctl(1), enable-linger"
        raise


def _start(bus: Bus, unit: str, own: list[Property], asked: list[Property], limits: list[Property]) -> None:
    """Start a transient unit and wait until it has started. What is left of a failed one of the name is forgotten.

    Its properties are our own, those that the user has asked for, and the limits.

    Companion: opencontainers/cgroups:systemd/common.go:/^func startUnit/; that an old systemd does not know a property
    is found out as in crun:src/libcrun/cgroup-systemd.c:/^register_missing_property_from_message/.
    """

    def ask(known: list[Property]) -> str:
        listed = _listed([*own, *asked, *known])
        return bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", listed, [])

    try:
        try:
            job = _with_what_is_known(ask, limits)
        except SystemdError as error:
            if error.name != _UNIT_EXISTS:
                raise
            _reset_failed(bus, unit)
            job = _with_what_is_known(ask, limits)
    except SystemdError as error:
        if error.name == _UNIT_EXISTS:
            hint = f"see systemctl status {unit}; each container needs a unit of its own"
            raise ExistsError(f"systemd has a unit {unit} already", where=creation.PATH_KEY, hint=hint) from None
        is_theirs = any(name in error.message for name, _, _ in asked)
        error.where = _ANNOTATIONS if is_theirs else creation.PATH_KEY
        error.hint = f"systemd was asked for {unit}"
        raise
    result = bus.wait_for_job(job, _JOB_SECONDS)
    if result != "done":
        _reset_failed(bus, unit)
        hint = f"see journalctl --unit {unit}"
        raise SystemdError(f"systemd did not make {unit}: {result or 'it takes too long'}", where=_OPTION, hint=hint)


def set_limits(unit: str, limits: list[Property], *, users: bool) -> None:
    """Have systemd know other limits of a unit that runs, as long as it does; returns when it has written them.

    Raises SystemdError, UnsupportedError. Companion: :systemd/common.go:/^func setUnitProperties/.
    """
    bus = _connect(users=users)
    try:
        _with_what_is_known(lambda known: bus.call("SetUnitProperties", "sba(sv)", unit, True, _listed(known)), limits)
        bus.property("ControlGroup")  # its next answer comes when it has written what was waiting
    finally:
        bus.close()


def _with_what_is_known(ask: Callable[[list[Property]], str], limits: list[Property]) -> str:
    """`ask` with those of the limits that this systemd knows: which that are depends on its version."""
    while True:
        try:
            return ask(limits)
        except SystemdError as error:
            known = [limit for limit in limits if f" {limit[0]}," not in error.message]
            if error.name != _UNKNOWN_PROPERTY or len(known) == len(limits):
                raise
            limits = known


def _listed(properties: list[Property]) -> list[tuple[str, tuple[str, Any]]]:
    """Properties as an array of structs of a name and a variant: a(sv)."""
    return [(name, (kind, value)) for name, kind, value in properties]


def _reset_failed(bus: Bus, unit: str) -> None:
    """Have a unit that has failed forgotten; it is none, if it has not."""
    try:
        bus.call("ResetFailedUnit", "s", unit)
    except SystemdError as error:
        if error.name != _NO_UNIT:
            raise


def _check_place(scope: Scope, expected_path: str) -> None:
    """Be sure that the placeholder is where the container shall be: then so is the scope. Raises SystemdError."""
    if scope.placeholder is not None and scope.placeholder.pid not in scope.pids():
        message = f"systemd has made {scope.unit}, but its cgroup is not {expected_path}"
        hint = f"see systemctl show --property ControlGroup {scope.unit}"
        raise SystemdError(message, where=_OPTION, hint=hint)
