"""What the images hold of a source (cli/condense.py): what is put off comes when it is asked for, and only then."""

from __future__ import annotations

import ast
import errno
import sys
from types import ModuleType
from typing import Any

import pytest

from pyruntime import report  # noqa: F401 - a test tells that it is a module
from pyruntime.cli.condense import Condensed
from pyruntime.linux import constants

COLD = {
    ("p.a", "rare"),
    ("p.a", "rarer"),
    ("p.a", "used_when_run"),
    ("p.a", "decorated"),
    ("p.a", "also_a_local"),
    ("p.a", "gone"),
    *(("p.a", name) for name in ("Rare", "Rarer", "Base", "Mentioned", "Twice", "Shared")),
    *(("p.b", name) for name in ("perform_rare", "perform_usual", "perform_both")),
}

A = """
from __future__ import annotations
import errno
from pyruntime.linux import constants as c
from pyruntime.linux.constants import MS_RDONLY, SYS_mount, flag_names
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
_TABLE = {"a": 1, "b": frozenset((2, 3))}
_READ_BY_BOTH = (1, 2)
_MADE = print_nothing() if False else [].copy()
PUBLIC = [1]
def rare(number: int) -> Any:
    return rarer(number), _TABLE, _READ_BY_BOTH
def rarer(number, default=errno.ENOENT):
    return number, default
def used_when_run(): return 7
NUMBER = used_when_run()
def decorate(function): return function
@decorate
def decorated(): return 8
def also_a_local(): return 9
def usual(also_a_local=None):
    return c.MS_BIND | MS_RDONLY, errno.EPERM, SYS_mount, also_a_local, _READ_BY_BOTH
def call_rare(number):
    try:
        return rare(number)
    except OSError as rare_error:
        return rare_error
def shadow(errno):
    return errno
class Rare(Exception):
    field: Any
    other: Any = 1
class Rarer(Rare): pass
class Base: pass
class Usual(Base):
    def rarely(self):
        return Rarer(self)
class Mentioned: pass
class Twice: pass
class Shared: pass
def also(Twice): return Twice
def catch(error):
    try:
        raise error
    except Rarer as caught:
        return "rarer", caught
    except Rare as caught:
        return "rare", caught
"""

B = """
from p.a import PUBLIC, Rare, Shared, rare as seldom, usual
from p import a
def through_a_name(): return seldom(1)
def through_the_module(): return a.rarer(2, default=3)
KINDS = {a.Mentioned: 1}
PERFORMERS = {}
def performs(kind):
    return lambda function: PERFORMERS.setdefault(kind, function)
@performs(a.Usual)
def perform_usual(): return "usual"
@performs(Rare)
def perform_rare(): return "rare"
@performs(a.Usual)
@performs(Shared)
def perform_both(): return "both"
"""


class Late(ModuleType):
    """As images.Late."""

    late: ast.Module | None

    def __getattr__(self, name: str) -> Any:
        if self.__dict__["late"] is None or name.startswith("__"):
            raise AttributeError(name)
        self.__complete__()
        return getattr(self, name)

    def __complete__(self) -> None:
        late, self.late = self.late, None
        if late is not None:
            exec(compile(ast.fix_missing_locations(late), self.__name__, "exec"), self.__dict__)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Both sources, condensed and run."""
    condensed = Condensed({"p.a": ast.parse(A), "p.b": ast.parse(B)}, COLD, constants)
    package: Any = ModuleType("p")
    monkeypatch.setitem(sys.modules, "p", package)
    parts = {}
    for name in ("a", "b"):
        links, now, late = condensed.parts(f"p.{name}")
        module: Any = Late(f"p.{name}")
        module.late = late
        module.__late__ = module
        monkeypatch.setitem(sys.modules, f"p.{name}", module)
        setattr(package, name, module)
        parts[module] = links, now
    for module, (links, now) in parts.items():
        for source, names in links.items():
            known = vars(sys.modules[source]) if source else sys.modules
            vars(module).update({here: known[there] for here, there in names.items()})
        exec(compile(ast.fix_missing_locations(now), module.__name__, "exec"), module.__dict__)
    return dict(vars(package))


def test_what_is_at_hand_and_what_is_late(modules: dict[str, Any]) -> None:
    a = vars(modules["a"])
    for name in (
        "usual",
        "call_rare",
        "used_when_run",
        "decorated",
        "also_a_local",
        "_READ_BY_BOTH",
        "_MADE",
        "PUBLIC",
    ):
        assert name in a, name
    for name in ("rare", "rarer", "_TABLE", "TYPE_CHECKING", "annotations", "MS_RDONLY", "SYS_mount"):
        assert name not in a, name


def test_late_functions_come_when_they_are_called(modules: dict[str, Any]) -> None:
    a = modules["a"]
    expected = ((1, errno.ENOENT), {"a": 1, "b": frozenset((2, 3))}, (1, 2))
    assert a.call_rare(1) == expected
    assert a.late is None
    assert a.call_rare(1) == expected  # it was run once


def test_another_module_asks(modules: dict[str, Any]) -> None:
    assert modules["b"].through_a_name()[0] == (1, errno.ENOENT)
    assert modules["b"].through_the_module() == (2, 3)


def test_another_module_asks_by_its_attribute_first(modules: dict[str, Any]) -> None:
    assert modules["b"].through_the_module() == (2, 3)


def test_which_classes_are_late(modules: dict[str, Any]) -> None:
    """Not what another one, a table or a usual performer needs while the module is run, nor a name of two things."""
    a = vars(modules["a"])
    assert {"Base", "Usual", "Mentioned", "Twice", "Shared"} <= a.keys()
    assert not {"Rare", "Rarer"} & a.keys()


def test_late_classes_come_when_they_are_used(modules: dict[str, Any]) -> None:
    a = modules["a"]
    error = a.Usual().rarely()
    assert type(error).__mro__[:2] == (a.Rarer, a.Rare)
    assert a.catch(error) == ("rarer", error)
    assert a.catch(a.Rare())[0] == "rare"
    assert [*a.Rare.__annotations__] == ["field", "other"]


def test_what_is_registered_with_a_late_class_comes_with_it(modules: dict[str, Any]) -> None:
    a, b = modules["a"], modules["b"]
    assert {*b.PERFORMERS} == {a.Usual, a.Shared}
    assert "perform_rare" not in vars(b)
    assert b.PERFORMERS[a.Rare]() == "rare"
    assert "perform_rare" in vars(b)


def test_a_late_performer_may_be_asked_first(modules: dict[str, Any]) -> None:
    a, b = modules["a"], modules["b"]
    assert b.perform_rare() == "rare"
    assert b.PERFORMERS[a.Rare]() == "rare"


def test_numbers_stand_where_their_names_were(modules: dict[str, Any]) -> None:
    usual = modules["a"].usual
    assert usual() == (constants.MS_BIND | constants.MS_RDONLY, errno.EPERM, constants.SYS_mount, None, (1, 2))
    assert not {"c", "MS_RDONLY", "SYS_mount"} & set(usual.__code__.co_names)


def test_a_name_that_means_two_things_is_not_folded(modules: dict[str, Any]) -> None:
    """`errno` is a parameter somewhere, so errno.ENOENT is asked of the module everywhere."""
    assert modules["a"].shadow(5) == 5
    assert "errno" in vars(modules["a"])


def test_a_name_that_is_not_there_is_an_attribute_error(modules: dict[str, Any]) -> None:
    with pytest.raises(AttributeError):
        _ = modules["a"].nothing


def test_what_is_cold_and_not_there_does_not_matter() -> None:
    source = {"p.a": ast.parse("def f(): return 1")}
    _, now, late = Condensed(source, {("p.a", "gone"), ("z", "f")}, constants).parts("p.a")
    assert (len(now.body), len(late.body)) == (1, 0)


def test_what_is_late_in_an_image_below_is_asked_there() -> None:
    source = {"p.c": ast.parse("from p.a import Rare, usual\ndef f(): raise Rare(usual)")}
    late = frozenset({("p.a", "Rare")})
    links, now, _ = Condensed(source, set(), constants, late).parts("p.c")
    assert "Rare" not in links["p.a"]
    assert ast.unparse(now) == "def f():\n    raise __p_a__.Rare(usual)"


def test_modules_in_c_are_known_by_their_paths() -> None:
    source = (
        "import posix\nfrom pyruntime import report\nG = posix.getpid\ntry: import _ctypes\nexcept ImportError: pass"
    )
    condensed = Condensed({"a": ast.parse(source)}, set(), constants)
    links, _, _ = condensed.parts("a")
    assert links == {"": {"posix": "posix", "report": "pyruntime.report"}}
    found = dict(condensed.libraries({"posix", "pyruntime.report"}))
    assert set(found) == {"_ctypes", "posix"}
    assert (found["posix"], found["_ctypes"].rpartition(".")[2]) == ("", "so")
