"""The library's face, `import pyruntime`: every name is what it says, whatever has been imported before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pyruntime

LIBRARY = str(Path(__file__).resolve().parent.parent.parent)
FUNCTIONS = [name for name in pyruntime.__all__ if name != "__version__"]


def output_of(program: str) -> str:
    """What a new interpreter prints that knows nothing of the package yet."""
    program = f"import sys; sys.path.insert(0, {LIBRARY!r})\nimport pyruntime\n{program}"
    return subprocess.run(
        [sys.executable, "-IS", "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_each_is_a_function_however_often_it_is_asked_for() -> None:
    """A subpackage of that name would take its place when it is imported."""
    told = output_of(
        "kinds = {name: type(getattr(pyruntime, name)).__name__ for name in pyruntime.__all__ * 2}\nprint(kinds)"
    )
    assert told.strip() == str({name: "function" if name in FUNCTIONS else "str" for name in pyruntime.__all__})


def test_importing_it_loads_nothing() -> None:
    told = output_of("print(sorted(name for name in sys.modules if name.startswith('pyruntime')))")
    assert told.strip() == "['pyruntime', 'pyruntime.version']"


@pytest.mark.parametrize("name", ["State", "creation_", "main"])
def test_what_it_does_not_have(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(pyruntime, name)
