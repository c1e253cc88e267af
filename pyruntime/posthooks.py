"""The hooks of containers that exist, poststart and poststop, out of the copy of config.json that their start has left.

Imported by `start` and `delete` only where the record says that there are such hooks.

Read beside runc:libcontainer/container_linux.go:/^func .*postStart/ and :state_linux.go:/^func runPoststopHooks/.
"""

from __future__ import annotations

from pyruntime import report
from pyruntime.errors import Error, StateError
from pyruntime.launch.hooks import run_on_host
from pyruntime.plan.hooks import hook_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyruntime.plan.hooks import Hook
    from pyruntime.state.store import Record, Store


def recorded(store: Store, kind: str) -> list[Hook]:
    """The hooks of this kind. None where a start was killed before it wrote the copy: none has run by then, either.

    Raises StateError where the copy can't be read.
    """
    try:
        return list(hook_steps(store.read_config(), kind))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StateError(f"the hooks can't be read from its copy of config.json: {error}", where=store.id) from error


def poststart(store: Store, record: Record) -> None:
    """Run the poststart hooks. Raises HookError: then the container is to be stopped and removed (runtime.md)."""
    for hook in recorded(store, "poststart"):
        run_on_host(hook, dict(record), "running", record["pid"])


def to_run_at_the_end(store: Store) -> list[Hook]:
    """The poststop hooks, read before the container is removed, which what can't be read does not hinder."""
    try:
        return recorded(store, "poststop")
    except StateError as error:
        report.warn(str(error))
        return []


def poststop(hooks: Iterable[Hook], identity: dict[str, Any]) -> None:
    """Run these poststop hooks of a container that has been removed. A failure is told, and the others go on."""
    for hook in hooks:
        try:
            run_on_host(hook, identity, "stopped")
        except Error as error:
            report.warn(str(error))
