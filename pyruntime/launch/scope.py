"""Performing plan/scope.py's step: the container's cgroup is asked of systemd. Imported only with --systemd-cgroup.

Read beside opencontainers/cgroups:systemd/v2.go:/^func .*Apply/.
"""

from __future__ import annotations

from pyruntime.cgroup import systemd
from pyruntime.cgroup.creation import find_v2
from pyruntime.errors import Error
from pyruntime.launch.limits import perform
from pyruntime.plan.scope import CreateScope, resource_properties

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.cgroup.creation import Hierarchy
    from pyruntime.cgroup.manager import Cgroup
    from pyruntime.plan.step import Step


def scope_step(steps: list[Step]) -> CreateScope:
    """The one of them that asks for a scope. Raises StopIteration."""
    return next(step for step in steps if isinstance(step, CreateScope))


def recorded(steps: list[Step]) -> dict[str, Any]:
    """What the container's record has to say of its scope, so that it can be removed (`Record.scope`)."""
    step = scope_step(steps)
    return {"unit": step.unit, "users": step.users}


def intended_path(steps: list[Step], hierarchy: Hierarchy) -> str:
    """The host path of the cgroup that systemd is going to make. Raises as systemd.root_path."""
    step = scope_step(steps)
    return systemd.root_path((hierarchy.path or find_v2()).rstrip("/"), users=step.users) + step.path


def make_scope(steps: list[Step], needed: dict[str, str], path: str) -> systemd.Scope:
    """Perform the step; `needed`: the controllers for all the others; `path`: from `intended_path`.

    Raises as systemd.make_scope; what has no place yet gets that of cgroupsPath.
    """
    step = scope_step(steps)
    try:
        return systemd.make_scope(
            step.path,
            step.unit,
            step.slice,
            step.properties,
            step.limits,
            needed,
            root_path=path.removesuffix(step.path),
            users=step.users,
        )
    except Error as error:
        error.where = error.where or step.where
        raise


def change(
    scope: dict[str, Any], cgroup: Cgroup, steps: list[Step], then: Callable[[], None], undo: Callable[[], None]
) -> Callable[[], None]:
    """What does `then`, and tells systemd of the limits that these steps have changed; if that fails, it does `undo`.

    `scope` is the container's `Record.scope`. To be asked for before the steps are performed: a quota is rounded as
    systemd does. With what systemd is told it also writes what it can't be told of a scope that runs, as it knew that
    before (memory.oom.group): so the steps are performed once more. What this returns raises as `then`,
    systemd.set_limits, and limits.perform.
    """
    limits = resource_properties(steps)

    def tell() -> None:
        then()
        try:
            if limits:
                systemd.set_limits(scope["unit"], limits, users=scope["users"])
                for step in steps:
                    perform(step, cgroup)
        except BaseException:
            undo()
            raise

    return tell
