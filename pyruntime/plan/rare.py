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

_RARE_OF_PROCESS = frozenset(("scheduler", "ioPriority", "apparmorProfile"))


def rare_steps(spec: Spec, *, new_keyring: bool) -> list[Step]:
    """How it is scheduled, where its memory comes from, its profile and its label, and that of a new keyring."""
    steps: list[Step] = []
    if not _RARE_OF_PROCESS.isdisjoint(spec["process"]) or "memoryPolicy" in spec.get("linux", {}):
        from pyruntime.plan import attributes

        steps += attributes.parent_steps(spec)
        steps += attributes.before_root_steps(spec)
        steps += attributes.process_steps(spec)
    if spec["process"].get("selinuxLabel"):
        from pyruntime.plan import selinux

        steps += selinux.process_steps(spec, new_keyring=new_keyring)
    return steps


def label_mounts(spec: Spec, steps: list[Step]) -> None:
    """Give the mounts among the steps of a start the label that they are to have, if any."""
    label = spec.get("linux", {}).get("mountLabel")
    if label:
        from pyruntime.plan import selinux

        selinux.label_mounts(steps, label)


def filter_steps(spec: Spec) -> Iterator[LoadSeccomp]:
    """The filter of linux.seccomp."""
    if "seccomp" in spec.get("linux", {}):
        from pyruntime.plan.seccomp import seccomp_steps

        yield from seccomp_steps(spec)
