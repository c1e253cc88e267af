"""Performing the steps of plan/resctrl.py: the group is made before there is a child, and the child put into it.

Imported only for a plan that has these steps.

Read beside runc:libcontainer/process_linux.go:/^func .*initProcess.*start/.
"""

from __future__ import annotations

import errno

from pyruntime import report
from pyruntime.errors import KernelError
from pyruntime.launch.perform import perform, performs
from pyruntime.plan.resctrl import FollowIntoGroup, JoinGroup, LimitGroup, LockGroups, MonitorGroup, UseGroup
from pyruntime.resctrl.groups import Group, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.launch.handle import Child
    from pyruntime.plan.step import Step


def make_group(steps: list[Step], keep: Callable[[dict[str, Any]], None]) -> None:
    """Perform the steps of the phase "resctrl". `keep`: as of groups.Group. Raises Error; `keep` has what was made."""
    group = Group(keep)
    try:
        perform(steps, group)
    finally:
        group.close()


@performs(LockGroups)
def lock_groups(_step: LockGroups, group: Group) -> None:
    """runc does without, and may find a group half made."""
    group.lock()


@performs(UseGroup)
def use_group(step: UseGroup, group: Group) -> None:
    """runc:libcontainer/intelrdt/intelrdt.go:/^func .*Manager.*Apply/"""
    group.use(step.group, is_shared=step.is_shared, must_exist=step.must_exist)


@performs(LimitGroup)
def limit_group(step: LimitGroup, group: Group) -> None:
    """One write a line, so that an error has its place; runc writes all at once, where no line may correct another."""
    group.limit(step.line)


@performs(MonitorGroup)
def monitor_group(step: MonitorGroup, group: Group) -> None:
    """runc:libcontainer/intelrdt/intelrdt.go:/^func .*Manager.*GetMonPath/"""
    group.monitor(step.monitor)


@performs(JoinGroup)
def join_group(step: JoinGroup, child: Child) -> None:
    """While the child waits, so that neither the hop nor anything of the image has run before."""
    join(step.group, step.monitor, child.pid)


@performs(FollowIntoGroup)
def follow_into_group(step: FollowIntoGroup, child: Child) -> None:
    """If somebody has removed the group, the container is in the default one, where we are as well.

    runc:libcontainer/process_linux.go:/^func .*setnsProcess.*start/, which leaves the monitoring group out.
    """
    try:
        join(step.group, step.monitor, child.pid)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        report.warn(f"the container's resctrl group was removed: {error}")
