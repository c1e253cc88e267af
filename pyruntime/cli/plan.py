"""`plan BUNDLE`: print every step that `run` would do, and do none of them. runc has no counterpart.

For people who want to learn what a container is made of, and for those who want to know what a change of config.json
changes: the text is stable, so two of them can be compared with diff.
"""

from __future__ import annotations

import posix
from textwrap import wrap

from pyruntime import creation
from pyruntime.cli import emit
from pyruntime.cli.run import id_from_path
from pyruntime.errors import UsageError
from pyruntime.jsontext import encode
from pyruntime.plan.step import CGROUP, NAMESPACES, NETWORK, PARENT, PHASES, PROCESS, RESCTRL, ROOTFS, STARTED, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cli.parse import Call
    from pyruntime.plan.step import Plan, Step

HEADINGS = {
    RESCTRL: "before there is a process: its part of the caches and of the memory bandwidth",
    CGROUP: "before there is a process: the limits it is born into",
    NAMESPACES: "the clone: which views of the system are new, which are shared",
    NETWORK: "from outside: a cable into the new network namespace",
    PARENT: "from outside, while the new process waits",
    ROOTFS: "inside, while the host's files are still in sight: build the container's file system",
    PROCESS: "inside, with the host out of sight: become the container's program",
    STARTED: "on the host, when the program has been executed",
    STOPPED: "on the host, when the container has been removed",
}
TEXT_WIDTH = 64  # of a step; longer ones are wrapped
BOLD, DIM, PLAIN = "\033[1m", "\033[2m", "\033[0m"


def plan(call: Call) -> int:
    """Print the plan as text or JSON."""
    bundle_path, id = _what(call)
    call.subject = id
    settings, options = call.settings, call.options
    found = creation.plan_bundle(
        bundle_path,
        id,
        root=settings["root"],
        args=call.args,
        systemd_cgroup=settings["systemd_cgroup"],
        net=options["net"],
        publish=options["publish"],
        ip=options["ip"],
    )
    if call.options["format"] == "json":
        emit(encode(as_json(found, bundle_path, id), indent="  ") + "\n")
    else:
        emit(as_text(found, bundle_path, id, colour=_has_colours()))
    return 0


def _what(call: Call) -> tuple[str, str]:
    """The bundle's directory and the container's ID. Raises UsageError where two bundles are named."""
    bundle_path = call.options["bundle"]
    if call.operands:
        if bundle_path:
            raise UsageError(f"--bundle names a bundle already: {call.operands[0]!r} is one too many")
        bundle_path = call.operands[0]
    return bundle_path or ".", call.options["id"] or id_from_path(bundle_path or ".")


def as_json(found: Plan, bundle_path: str, id: str) -> dict[str, Any]:
    """The plan as JSON values: the steps in order, each with all of its operands."""
    return {"id": id, "bundle": bundle_path, "steps": [step.as_dict() for step in found]}


def as_text(found: Plan, bundle_path: str, id: str, *, colour: bool = False) -> str:
    """The plan for a person: a paragraph a phase, each step with its place in config.json, each purpose said once."""
    bold, dim, plain = (BOLD, DIM, PLAIN) if colour else ("", "", "")
    count = len(found.steps)
    lines = [f"{bold}Plan of {id}{plain}: {count} steps from {bundle_path}/config.json; none of them is done.", ""]
    number = 0
    for phase in PHASES:
        steps = found.phase(phase)
        if not steps:
            continue
        lines.append(f"{bold}{phase}{plain}: {HEADINGS[phase]}")
        why = ""
        for step in steps:
            if step.why != why:
                why = step.why
                lines.append(f"       {dim}# {why}{plain}")
            number += 1
            lines += _step_lines(number, step, dim, plain)
        lines.append("")
    return "\n".join(lines)


def _step_lines(number: int, step: Step, dim: str, plain: str) -> list[str]:
    first, *more = wrap(step.text(), TEXT_WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
    place = f"{dim}{step.where.removeprefix('config.json#')}{plain}"
    return [f"  {number:3}  {first:{TEXT_WIDTH}}  {place}", *(f"         {line}" for line in more)]


def _has_colours() -> bool:
    """Colours are for terminals whose user did not turn them off (no-color.org)."""
    environment = posix.environ
    return posix.isatty(1) and not environment.get(b"NO_COLOR") and environment.get(b"TERM", b"dumb") != b"dumb"
