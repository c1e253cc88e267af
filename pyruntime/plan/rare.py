"""Spec -> the Steps for keys of a process that few configs have, whose modules are imported by those alone.

runc has no counterpart, being one binary.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.plan.seccomp import LoadSeccomp
    from pyruntime.plan.step import Step
    from pyruntime.spec.types import Spec

_RARE_OF_PROCESS = frozenset(("scheduler", "ioPriority", "apparmorProfile", "selinuxLabel"))
_RARE_OF_LINUX = frozenset(("memoryPolicy", "mountLabel"))


def rare_steps(spec: Spec) -> list[Step]:
    """How it is scheduled, where its memory comes from, its labels."""
    if _RARE_OF_PROCESS.isdisjoint(spec["process"]) and _RARE_OF_LINUX.isdisjoint(spec.get("linux", {})):
        return []
    from pyruntime.plan import attributes

    return [
        *attributes.parent_steps(spec),
        *attributes.before_root_steps(spec),
        *attributes.process_steps(spec),
    ]


def filter_steps(spec: Spec) -> Iterator[LoadSeccomp]:
    """The filter of linux.seccomp."""
    if "seccomp" in spec.get("linux", {}):
        from pyruntime.plan.seccomp import seccomp_steps

        yield from seccomp_steps(spec)
