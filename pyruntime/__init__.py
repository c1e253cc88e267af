"""pyruntime: a Linux container runtime in Python.

`import pyruntime` costs next to nothing: each name is loaded at its first use.

Read beside runc:libcontainer/README.md.
"""

from __future__ import annotations

from pyruntime import version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = version.VERSION

__all__ = (
    "__version__",
    "create",
    "delete",
    "events",
    "execute",
    "kill",
    "list_containers",
    "pause",
    "plan_bundle",
    "processes",
    "resume",
    "run",
    "start",
    "state_of",
    "stats",
    "update",
)


def __getattr__(name: str) -> Any:
    """The verbs, by PEP 562, each from the module that has it, which is loaded then."""
    if name not in __all__:
        raise AttributeError(f"module 'pyruntime' has no attribute {name!r}")
    if name in ("create", "plan_bundle", "run"):
        from pyruntime import creation

        return getattr(creation, name)
    if name == "execute":
        from pyruntime import execution

        return execution.execute
    if name in ("events", "stats"):
        from pyruntime import watching

        return getattr(watching, name)
    if name == "update":
        from pyruntime import updating

        return updating.update
    from pyruntime import container

    # Not `state`: that name is the package's pyruntime.state, once anything has imported it.
    return container.state if name == "state_of" else getattr(container, name)
