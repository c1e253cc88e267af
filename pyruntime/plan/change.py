"""A change of `linux.resources` -> the resources as they are afterwards, and the files of the cgroup to write for it.

Only what is asked for is written, and what the same file holds besides: what others have changed in the cgroup, and
device rules, stay as they are. The Steps are those of a start (plan/resources.py), so that the two cannot differ.

Read beside runc:update.go, which merges likewise, and then writes all that it remembers.
"""

from __future__ import annotations

from pyruntime.plan.resources import limit_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyruntime.plan.step import Step
    from pyruntime.spec.types import Resources

_DEVICES = ("major", "minor")
# Lists whose entries are about something, which these members name: two entries never are about the same.
_NAMED_BY = {
    "weightDevice": _DEVICES,
    "throttleReadBpsDevice": _DEVICES,
    "throttleWriteBpsDevice": _DEVICES,
    "throttleReadIOPSDevice": _DEVICES,
    "throttleWriteIOPSDevice": _DEVICES,
    "hugepageLimits": ("pageSize",),
}
# Values that are written together: into one file, or one computed from another.
_TOGETHER = (("memory", ("limit", "swap")), ("cpu", ("quota", "period")))
_NEVER_CHANGED = ("devices", "network")


def merge(before: Resources, change: Resources) -> Resources:
    """The resources that hold once `change` has been made. Neither argument is altered."""
    after: Any = _merged(before, {key: value for key, value in change.items() if key not in _NEVER_CHANGED})
    memory, cpu = change.get("memory", {}), change.get("cpu", {})
    if memory.get("limit") == -1 and "swap" not in memory:
        after["memory"].pop("swap", None)  # without a limit of memory there is none of memory and swap together
    if "idle" in cpu and "shares" not in cpu:
        after["cpu"].pop("shares", None)  # the kernel forgets a weight when cpu.idle is written
    if "checkBeforeUpdate" in memory:  # that was said of this change alone
        was = before.get("memory", {}).get("checkBeforeUpdate", False)
        after["memory"]["checkBeforeUpdate"] = was
    return after  # type: ignore[no-any-return]


def change_steps(after: Resources, change: Resources) -> list[Step]:
    """The steps that make `change`, where `after` is what `merge` has made of it. Raises as plan.resources."""
    written: dict[str, Any] = {key: value for key, value in change.items() if key not in _NEVER_CHANGED}
    known: Mapping[str, Any] = after
    for group, together in _TOGETHER:
        if any(key in written.get(group, {}) for key in together):
            kept = {key: known[group][key] for key in together if key in known[group]}
            written[group] = {**kept, **written[group]}
    if "memory" in written:
        check = after["memory"].get("checkBeforeUpdate", False)
        written["memory"] = {"checkBeforeUpdate": check, **written["memory"]}
    before_devices, after_devices = limit_steps(written)  # type: ignore[arg-type]
    return [*before_devices, *after_devices]


def _merged(before: Any, change: Any, key: str = "") -> Any:
    """Objects are merged by key, lists of what has a name by that name; anything else is replaced."""
    if isinstance(change, dict):
        known = before or {}
        return {**known, **{name: _merged(known.get(name), value, name) for name, value in change.items()}}
    if key in _NAMED_BY:
        entries = {_name_of(entry, key): entry for entry in before or ()}
        for entry in change:
            entries[_name_of(entry, key)] = {**entries.get(_name_of(entry, key), {}), **entry}
        return list(entries.values())
    return change


def _name_of(entry: dict[str, Any], key: str) -> tuple[Any, ...]:
    return tuple(entry[member] for member in _NAMED_BY[key])
