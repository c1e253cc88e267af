"""The interpreter of a Plan: performs its Steps in order and tells which one failed.

Each function that performs a step says so with `@performs(TheStep)`; the loop below is the only caller. An error that
leaves it has its place in config.json, so that no function that performs a step needs to know config.json.
"""

from __future__ import annotations

from pyruntime import report
from pyruntime.errors import Error, KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from pyruntime.plan.step import Step

    Performer = TypeVar("Performer", bound=Callable[[Any, Any], None])

_PERFORMERS: dict[type[Step], Callable[[Any, Any], None]] = {}
BY_HOP: set[type[Step]] = set()


def performs(kind: type[Step], *, by_hop: bool = False) -> Callable[[Performer], Performer]:
    """Register the function that performs steps of this kind, given the step and what it is performed on.

    by_hop: where there is a hop already, this is for it alone, and goes on its tape.
    """

    def register(function: Performer) -> Performer:
        _PERFORMERS[kind] = function
        if by_hop:
            BY_HOP.add(kind)
        return function

    return register


def perform(steps: Iterable[Step], subject: object) -> None:
    """Perform `steps` on `subject`, in order, until one fails.

    Raises the first Error, with the step's place where it has none. An OSError of a call that isn't ours to wrap
    (posix.mkdir and the like) becomes a KernelError that tells the step.
    """
    for step in steps:
        if report.debugging:
            report.debug(f"{step.where}: {step.text()}" if step.where else step.text())
        try:
            _PERFORMERS[type(step)](step, subject)
        except Error as error:
            error.where = error.where or step.where
            raise
        except OSError as error:
            what = f"{step.text()}: {error.filename}" if error.filename is not None else step.text()
            raise KernelError(what, error.errno or 0, where=step.where) from error
