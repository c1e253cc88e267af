"""The vocabulary of a Plan: what a Step is, and what a Plan is.

A Step is data. It says what shall be done (`text`), what for (`why`), where in config.json it was asked for (`where`)
and in which phase of a start it is performed (`phase`). It never does anything itself: `launch` performs it. So the
same list serves running, printing, comparing, timing and telling what failed.

The shape is learnt from mkosi's sandbox.py (class FSOperation); runc has no counterpart: its plan is the order of
the statements in runc:libcontainer/standard_init_linux.go:/^func .*linuxStandardInit.*Init/.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar, dataclass_transform
else:

    def dataclass_transform(**_options):
        """Stand in for typing.dataclass_transform, whose import would cost more than the whole plan."""
        return lambda cls: cls


# The phases of a start, in the order in which they happen.
CGROUP = "cgroup"  # parent, before the clone
RESCTRL = "resctrl"  # parent, before the clone: parts of caches and memory bandwidth
NAMESPACES = "namespaces"  # parent: the flags of clone3 and the joins before it
NETWORK = "network"  # parent: connects the new network namespace
PARENT = "parent"  # parent, while the child waits: id maps, oom score
ROOTFS = "rootfs"  # child, inside its namespaces, while the host's root is still visible
PROCESS = "process"  # child, after pivot_root: becomes the user's process
STARTED = "started"  # parent, or `start`, when the program has been executed
STOPPED = "stopped"  # whoever has removed the container
PHASES = (RESCTRL, CGROUP, NAMESPACES, NETWORK, PARENT, ROOTFS, PROCESS, STARTED, STOPPED)


@dataclass_transform(eq_default=True)
class _Data:
    """A class whose annotations are its fields, and the arguments of its constructor, in this order.

    (dataclasses would say the same and take 14 ms to import.)
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self.fields()
        self.__dict__.update(zip(fields, values, strict=False))
        if len(values) == len(fields) and not named:
            return  # as almost all are made
        self.__dict__.update(named)
        if len(values) > len(fields) or self.__dict__.keys() != set(fields):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(fields)}")

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The names of the fields."""
        raise NotImplementedError(cls.__name__)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({inside})"

    __hash__ = None  # type: ignore[assignment]  # mutable data, compared by value


class Step(_Data):
    """One operation of a Plan. A subclass lists its operands as annotations; they follow `where`."""

    where: str

    phase: ClassVar[str] = ""
    why: ClassVar[str] = ""

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The names of the fields, `where` first."""
        own = cls.__dict__.get("__annotations__", {})  # noqa: RUF063 - importing inspect costs 10 ms
        return ("where", *own)

    def text(self) -> str:
        """One line for a person: the operation and its operands."""
        raise NotImplementedError(type(self).__name__)

    def as_dict(self) -> dict[str, Any]:
        """The step as JSON values, for `pyruntime plan --format json`."""
        name = type(self).__name__
        return {"step": name, "phase": self.phase, "why": self.why, "text": self.text(), **self.__dict__}


class Plan:
    """What a start of one container will do: its Steps, in order."""

    __slots__ = ("_by_phase", "steps")

    def __init__(self, steps: list[Step]) -> None:
        self.replace(steps)

    def replace(self, steps: list[Step]) -> None:
        """Have other steps."""
        self.steps = steps
        self._by_phase: dict[str, list[Step]] = {}
        for step in steps:
            self._by_phase.setdefault(step.phase, []).append(step)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def phase(self, name: str) -> list[Step]:
        """The steps of one phase, in order."""
        return self._by_phase.get(name, [])
