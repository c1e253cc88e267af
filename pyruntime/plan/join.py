"""Spec -> Plan of an `exec`: how another process comes into a container that is there. Pure, as plan/build.py.

Read beside runc:libcontainer/setns_init_linux.go, whose order this is, but for what the host's /proc is needed for:
that comes before the container's namespaces are entered.
"""

from __future__ import annotations

from pyruntime.plan import process
from pyruntime.plan.numbers import members
from pyruntime.plan.rare import filter_steps, rare_steps
from pyruntime.plan.step import CGROUP, NAMESPACES, PARENT, PROCESS, ROOTFS, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyruntime.spec.types import Spec


class StartOnCpus(Step):
    """`process.execCPUAffinity.initial`: where the runtime runs while it makes the process (config.md#process)."""

    phase = CGROUP
    why = "the process shall not run anywhere else, not even before it is in the container's cgroup"

    cpus: tuple[int, ...]

    def text(self) -> str:
        return f"start on the CPUs {_list(self.cpus)}"


class PlaceOnCpus(Step):
    """`process.execCPUAffinity.final` (sched_setaffinity(2)); without any of the two, the caller's must not leak in."""

    phase = PARENT
    why = "process.execCPUAffinity asks for it; otherwise all that the cgroup allows are as good"

    cpus: tuple[int, ...]  # none: any

    def text(self) -> str:
        return f"let it run on the CPUs {_list(self.cpus)}" if self.cpus else "let it run on any CPU"


class LimitItself(Step):
    """An entry of `process.rlimits` (config.md#posix-process, prlimit(2)), set by the process that is to enter."""

    phase = NAMESPACES
    why = "inside of a user namespace it could only lower it"

    kind: str
    soft: int
    hard: int

    def text(self) -> str:
        return f"limit {self.kind} to {self.soft}, at most {self.hard}"


class EnterNamespaces(Step):
    """All namespaces of the container's init that are not ours, by one setns(2) of its pidfd.

    At once, so that the kernel judges all of them by the rights that we have before: a user namespace that is entered
    takes those over the others, and gives new ones.
    """

    phase = NAMESPACES
    why = "the program shares the container's view of the system"

    flags: int
    kinds: tuple[str, ...]

    def text(self) -> str:
        return f"enter the container's namespaces: {', '.join(self.kinds)}"


class JoinContainersKeyring(Step):
    """The session keyring that the container's init has made (keyctl_join_session_keyring(3)), by its name.

    Names of keyrings belong to a user namespace, so it is found inside alone.
    """

    phase = NAMESPACES
    why = "the program has the container's keys, and not the caller's"

    name: str

    def text(self) -> str:
        return f"join the session keyring {self.name}"


class OpenTerminalInside(Step):
    """`process.terminal`: a pty in the container's devpts. Its /dev/console is another's."""

    phase = NAMESPACES
    why = "process.terminal asks for it"

    rows: int  # 0 leaves the size to the other end
    columns: int

    def text(self) -> str:
        return "open a terminal"


def build(spec: Spec, id: str, kinds: dict[str, int], *, init_pid: int = 0, no_new_keyring: bool = False) -> Plan:
    """What executing `spec`'s process in the container `id` will do, step by step.

    `kinds`: the namespaces to enter, with their flags. `init_pid`: whose root is to be found where no mount namespace
    is among them. `spec` has passed validate.process_findings.
    """
    flags = 0
    for flag in kinds.values():
        flags |= flag
    rare = rare_steps(spec, new_keyring=not no_new_keyring)
    return Plan(
        [
            *_affinity_steps(spec),
            *(step for step in process.parent_steps(spec) if type(step) not in _INSIDE),
            *(step for step in rare if step.phase == PARENT),
            *_group_steps(spec, id),
            *(step for step in rare if step.phase == ROOTFS),
            *_inside(process.parent_steps(spec)),
            *((EnterNamespaces("", flags, tuple(kinds)),) if kinds else ()),
            *_root_steps(kinds, init_pid),
            *_inside(process.before_root_steps(id, no_new_keyring)),
            *_inside(process.terminal_steps(spec)),
            *(step for step in rare if step.phase == PROCESS),
            *process.process_steps(spec, filter_steps(spec)),
            process.execute_step(spec),
        ]
    )


def _root_steps(kinds: dict[str, int], init_pid: int) -> Iterator[Step]:
    if "mnt" not in kinds:  # whose root would come with it
        from pyruntime.plan.roottree import EnterTreeOf

        yield EnterTreeOf("", init_pid)


def _group_steps(spec: Spec, id: str) -> Iterable[Step]:
    if "intelRdt" not in spec.get("linux", {}):
        return ()
    from pyruntime.plan import resctrl

    return resctrl.follow_steps(spec, id)


def _affinity_steps(spec: Spec) -> Iterator[Step]:
    wanted = spec["process"].get("execCPUAffinity", {})
    where = "config.json#/process/execCPUAffinity"
    initial, final = members(wanted.get("initial", "")), members(wanted.get("final", ""))
    if initial:
        yield StartOnCpus(f"{where}/initial", initial)
    if final or not initial:
        yield PlaceOnCpus(f"{where}/final" if final else "", final)


def _list(cpus: tuple[int, ...]) -> str:
    return ", ".join(map(str, cpus))


def _inside(steps: Iterable[Step]) -> Iterator[Step]:
    """What these steps of a start are for a process that enters: they mean the same and are performed elsewhere."""
    for step in steps:
        if type(step) in _INSIDE:
            yield _INSIDE[type(step)](*step.__dict__.values())


_INSIDE: dict[type[Step], type[Step]] = {
    process.LimitResource: LimitItself,
    process.JoinSessionKeyring: JoinContainersKeyring,
    process.OpenTerminal: OpenTerminalInside,
}
