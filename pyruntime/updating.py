"""`update`: the limits of a container that is there, changed (runc:update.go). Nothing here prints or exits."""

from __future__ import annotations

import posix

from pyruntime import report
from pyruntime.container import cgroup_of
from pyruntime.errors import Error, StateError
from pyruntime.jsontext import encode
from pyruntime.launch.change import change_limits
from pyruntime.plan.change import change_steps, merge
from pyruntime.spec.change import SCHEMA_OPTIONS, Change, schemata
from pyruntime.spec.load import CONFIG_NAME, parse
from pyruntime.state.status import status
from pyruntime.state.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.spec.types import IntelRdt, Linux
    from pyruntime.state.store import Record


def update(
    id: str, change: Change | dict[str, Any], *, root: str, l3_cache_schema: str = "", mem_bw_schema: str = ""
) -> None:
    """Change limits of a container: those that `change` names (linux.resources of config.md); the others stay.

    The schemas are lines for the container's group of resctrl, "" for none (config-linux.md#intelrdt).

    All of them or none: if one can't be had, what had been changed is put back. What is asked for is remembered, so
    that a later change of one value knows the others. Device rules stay as they are.

    Raises ConfigError, with its place, for what is no limit, UnsupportedError for one that the container's cgroup can't
    have, KernelError for one that the kernel refuses, StateError if the container is not there any more, NotFoundError.
    """
    if not isinstance(change, Change):
        change = Change(change, "resources")
    try:
        warnings = change.check()
        shares = schemata(l3_cache_schema, mem_bw_schema)
        store = Store(root, id)
        lock_fd = store.lock()
        try:
            warnings += _update(store, change, shares)
        finally:
            posix.close(lock_fd)
    except Error as error:
        error.where = change.place(error.where)
        raise
    for warning in warnings:
        report.warn(warning)


def _update(store: Store, change: Change, shares: IntelRdt) -> list[str]:
    """Do it while nobody else does. The warnings are returned: nothing shall be told of what is then refused."""
    record = store.read()
    state = status(record, store)
    if state in ("creating", "stopped"):
        raise StateError(f"container not running: it is {state}", where=store.id)
    cgroup = cgroup_of(record)
    data = store.read_file(CONFIG_NAME)
    config = parse(data)
    linux = config.setdefault("linux", {})
    before = linux.get("resources", {})
    linux["resources"] = merge(before, change.resources)

    def remember() -> None:
        store.write_file(CONFIG_NAME, encode(config).encode())

    steps = change_steps(linux["resources"], change.resources)
    then = remember
    if "scope" in record:
        from pyruntime.launch import scope

        then = scope.change(record["scope"], cgroup, steps, then, undo=lambda: store.write_file(CONFIG_NAME, data))
    if shares:
        then = _change_shares(record, linux, shares, then)
    change_limits(steps, cgroup, then)
    devices = change.resources.get("devices")
    if devices and devices != before.get("devices"):
        return [f"{change.place('config.json#/linux/resources/devices')}: ignored: device rules stay as they are"]
    return []


def _change_shares(record: Record, linux: Linux, shares: IntelRdt, then: Callable[[], None]) -> Callable[[], None]:
    """What changes the container's group of resctrl, and then does `then`. Raises StateError if it has none."""
    places = [(SCHEMA_OPTIONS[key], text) for key, text in shares.items()]
    if "resctrl" not in record:
        message = "config.json has asked for no part of the caches"
        raise StateError(message, where=places[0][0], hint="linux.intelRdt makes the group that can be changed later")
    from pyruntime.resctrl import groups

    linux["intelRdt"] |= shares
    lines = [(where, line) for where, text in places for line in str(text).split("\n") if line]
    return lambda: groups.change(record["resctrl"], lines, then)
