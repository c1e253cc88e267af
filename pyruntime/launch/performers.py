"""Which modules perform the steps that only some plans have."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.plan.step import Plan


_TERMINALS = ("OpenTerminal", "OpenTerminalInside")


def import_performers(plan: Plan) -> None:
    """Import what performs this plan's steps, before the child is sealed: a terminal costs 0.3 ms.

    Raises UnsupportedError for what this host lacks, before anything is made.
    """
    kinds = {type(step) for step in plan}
    modules = {kind.__module__.rpartition(".")[2] for kind in kinds}
    # By their names: to load the steps of `exec` would cost each start as much as this function saves.
    if not {kind.__name__ for kind in kinds}.isdisjoint(_TERMINALS):
        from pyruntime.launch import console  # noqa: F401
    if "roottree" in modules:
        from pyruntime.launch import roottree  # noqa: F401
    if "attributes" in modules:
        from pyruntime.launch import attributes

        attributes.refuse_what_the_host_lacks(plan)
    if "resctrl" in modules:
        from pyruntime.launch import resctrl  # noqa: F401
    if "selinux" in modules:
        from pyruntime.launch import selinux

        selinux.refuse_where_it_is_off(plan)
    if "netdevices" in modules:
        from pyruntime.launch import netdevices  # noqa: F401
