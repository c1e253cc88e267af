"""Performing the steps of plan/resources.py: a container's cgroup is made and filled, before or while its child starts.

Only a start imports this; the verbs that end a container use cgroup/manager.py alone.

Read beside opencontainers/cgroups:fs2/fs2.go:/^func .*Apply/ and :/^func .*Set/.
"""

from __future__ import annotations

import errno
import posix

from pyruntime.cgroup import creation
from pyruntime.cgroup.manager import Cgroup
from pyruntime.errors import Error, KernelError, StateError
from pyruntime.linux import bpf, proc
from pyruntime.plan import resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyruntime.plan.step import Step


def intended_path(steps: list[Step], hierarchy: creation.Hierarchy) -> str:
    """The host path of the cgroup that `make_cgroup` is going to make; "" if there is no such step, or no cgroup v2."""
    step = next((step for step in steps if isinstance(step, resources.CreateCgroup)), None)
    if step is not None and step.by_systemd:
        from pyruntime.launch import scope

        return scope.intended_path(steps, hierarchy)
    return hierarchy.path_of(step.path) if step is not None else ""


def recorded_scope(steps: list[Step]) -> dict[str, Any]:
    """What the container's record has to say of the scope that `make_cgroup` is going to ask systemd for."""
    from pyruntime.launch import scope

    return scope.recorded(steps)


def make_cgroup(steps: list[Step], intended_path: str = "", *, rootless: bool = False) -> Cgroup | None:
    """Perform the CreateCgroup among `steps`, having checked that the controllers of all the others can be had.

    With --systemd-cgroup it is plan.scope.CreateScope, and systemd makes the cgroup. None if there is no such step; and
    for a rootless user, root of a user namespace included, who asked neither for a limit nor for a path and may not
    make a cgroup: such a container runs without (runc does so, too). Raises what creation.create raises, or
    launch.scope.make_scope; then nothing is left behind.

    intended_path: what the function of that name has found; to look for the hierarchy again takes as long.
    """
    step = next((step for step in steps if isinstance(step, resources.CreateCgroup)), None)
    if step is None:
        return None
    needed = resources.needed_controllers(steps)
    if step.by_systemd:
        from pyruntime.launch import scope

        return scope.make_scope(steps, needed, intended_path)
    try:
        root_path = intended_path.removesuffix(step.path) or creation.find_v2()
        return creation.create(root_path, step.path, needed)
    except Error as error:
        unneeded = not needed and not step.where.endswith("/cgroupsPath")
        if unneeded and (rootless or not proc.in_first_user_namespace()):
            return None
        error.where = error.where or step.where
        raise


def fill_cgroup(steps: Sequence[Step], cgroup: Cgroup, *, rootless: bool = False) -> None:
    """Perform all the steps of the phase but CreateCgroup, in order. Raises what `perform` raises."""
    for step in steps:
        if not isinstance(step, resources.CreateCgroup):
            perform(step, cgroup, rootless=rootless)


def perform(step: Step, cgroup: Cgroup, *, rootless: bool = False) -> None:
    """Perform one step of plan/resources.py (CreateCgroup is for `make_cgroup`) on a cgroup that exists.

    What may fail for a rootless user is noted in `cgroup.warnings`. Raises KernelError, StateError with step.where.
    """
    try:
        PERFORMERS[type(step)](step, cgroup)
    except KernelError as error:
        error.where = error.where or step.where
        if isinstance(step, resources.DevicePolicy) and (rootless or not proc.in_first_user_namespace()):
            # Loading a device program takes CAP_BPF or CAP_SYS_ADMIN of the first user namespace. A user without
            # them cannot make device nodes either, so nothing is opened up by going on.
            cgroup.warnings.append(f"device rules are not in force: {error}")
            return
        raise


def _write(step: resources.WriteCgroup, cgroup: Cgroup) -> None:
    cgroup.write(step.file, step.value, step.where)


def _write_unless(step: resources.WriteCgroupUnless, cgroup: Cgroup) -> None:
    try:
        cgroup.write(step.file, step.value, step.where)
    except KernelError as error:
        if errno.errorcode.get(error.errno or 0) != step.accepted:
            raise


def _write_first(step: resources.WriteCgroupFirst, cgroup: Cgroup) -> None:
    """The first file that is there; if none is, the error of the last is told."""
    *others, last = step.choices
    for file, value in others:
        try:
            cgroup.write(file, value, step.where)
            return
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
    cgroup.write(*last, step.where)


def _check_memory_usage(step: resources.CheckMemoryUsage, cgroup: Cgroup) -> None:
    """Companion: opencontainers/cgroups:fs2/fs2.go:/^func CheckMemoryUsage/; it, too, lets an unreadable usage pass."""
    try:
        usage = int(cgroup.read("memory.current"))
    except OSError:
        return
    for name, limit in (("memory+swap", step.swap), ("memory", step.limit)):
        if 0 < limit <= usage:
            raise StateError(f"rejecting {name} limit {limit} <= usage {usage}", where=step.where)


def _set_device_policy(step: resources.DevicePolicy, cgroup: Cgroup) -> None:
    cgroup_fd = cgroup.open_fd()
    try:
        program_fd = bpf.load(bpf.device_program(step.rules, step.default_allow))
        try:
            bpf.attach(program_fd, cgroup_fd, fresh=cgroup.path in cgroup.made)
        finally:
            posix.close(program_fd)  # the cgroup holds the program from here on
    finally:
        posix.close(cgroup_fd)


# What cgroup v2 lets a user have at least; what else, the kernel lists itself since Linux 4.15. See cgroups(7).
_DELEGATED = "cgroup.procs cgroup.subtree_control cgroup.threads"


def _own_cgroup(step: resources.OwnCgroup, cgroup: Cgroup) -> None:
    """Change the owner of the directory and of the delegated files; the limits stay root's.

    Without root only IDs of one's own can be given: that is noted, for the container works without.
    Companion: opencontainers/cgroups:systemd/v2.go:/^func cgroupFilesToChown/.
    """
    try:
        files = proc.read_file("/sys/kernel/cgroup/delegate").decode()
    except FileNotFoundError:
        files = _DELEGATED
    for file in (".", *files.split()):
        try:
            posix.chown(f"{cgroup.path}/{file}", step.uid, -1)
        except FileNotFoundError:
            continue  # of a controller that is not enabled here
        except OSError as error:
            refusal = KernelError(f"chown({cgroup.path + '/' + file!r}, {step.uid}, -1)", error.errno or 0)
            if error.errno != errno.EPERM or posix.geteuid() == 0:
                raise refusal from None
            cgroup.warnings.append(f"{step.where}: the cgroup stays the runtime's own: {refusal}")
            return


PERFORMERS: dict[type[Step], Callable[[Any, Cgroup], None]] = {
    resources.WriteCgroup: _write,
    resources.WriteCgroupUnless: _write_unless,
    resources.WriteCgroupFirst: _write_first,
    resources.CheckMemoryUsage: _check_memory_usage,
    resources.DevicePolicy: _set_device_policy,
    resources.OwnCgroup: _own_cgroup,
}
