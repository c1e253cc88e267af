"""Images of modules (cli/image.py): modules are run from them, without the import system.

An image's launcher runs this module before any other; images that only some calls need are loaded when they are needed.
runc has no counterpart, being one binary.
"""

from __future__ import annotations

import _imp
import posix
import sys
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    # Of each module that something is imported from, or "" for whole modules: the names here, and there.
    Links = tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    # A module: its name, whether it is a package, what its imports bind, its code, and its late part or b"".
    Held = tuple[str, bool, Links, CodeType | None, bytes]
else:
    ModuleType = type(sys)

_late: dict[ModuleType, bytes] = {}


class Late(ModuleType):
    """A module with a late part (cli/condense.py), which is run when one of its names is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name[:2] != "__" and self in _late:
            self.__complete__()
            return getattr(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __complete__(self) -> None:
        if self in _late:
            exec(loads(_late.pop(self)), self.__dict__)


def load_image(name: str) -> None:
    """Load modules that few configs need from their image, if we come from one ourselves.

    Those that are here already, from another image, stay as they are.
    Without one they are imported as ever, which takes three times as long.
    """
    if __spec__ is not None:
        return
    package_path = __file__.rpartition("/")[0]
    try:
        fd = posix.open(f"{package_path}/{name}.{sys.implementation.cache_tag}.image", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            libraries, others, modules = loads(posix.read(fd, posix.fstat(fd).st_size))
        finally:
            posix.close(fd)
    except (OSError, EOFError, TypeError, ValueError):
        return
    run(libraries, others, [module for module in modules if module[0] not in sys.modules])


def run(libraries: list[tuple[str, str]], others: list[str], modules: list[Held]) -> None:
    """Make and run modules, which stand in the order in which their imports would have.

    libraries: the name and path of each module in C that they import, so that it is not searched for; others: all
    modules that are imported from and not among these.
    """
    known = sys.modules
    _load(libraries)
    for name in others:
        if name not in known:
            __import__(name)
    for name, is_package, _, _, late in modules:
        if name not in known:
            known[name] = _made(name, is_package, late)
    for name, _, links, code, _ in modules:
        module = known[name]
        names = module.__dict__
        for source, here, there in links:
            place = known[source].__dict__ if source else known
            try:
                names.update(zip(here, map(place.__getitem__, there)))  # noqa: B905 - 0.1 us, 200 times
            except KeyError:  # one of another image, and late there
                names.update((name, getattr(known[source], what)) for name, what in zip(here, there, strict=True))
        if code:
            exec(code, names)
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(known[parent], leaf, module)


def _load(libraries: list[tuple[str, str]]) -> None:
    """Make modules in C as the import system would, without the attributes that it alone reads: they cost 0.1 ms."""
    from _frozen_importlib import ModuleSpec

    sys.setdlopenflags(posix.RTLD_LAZY)  # most of the 360 functions that _ctypes knows of are never called
    for name, path in libraries:
        if name in sys.modules:
            continue
        try:
            module = (_imp.create_dynamic if path else _imp.create_builtin)(ModuleSpec(name, None, origin=path))
            (_imp.exec_dynamic if path else _imp.exec_builtin)(module)
        except ImportError:
            continue  # it has moved, and will be searched for when it is imported
        sys.modules[name] = module


def _made(name: str, is_package: bool, late: bytes) -> ModuleType:
    """A module with the attributes that its code may read."""
    module = Late(name) if late else ModuleType(name)
    path = f"{__file__[:-20]}/{name.replace('.', '/')}"  # without /pyruntime/images.py
    module.__file__ = f"{path}/__init__.py" if is_package else f"{path}.py"
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = [path]
    if late:
        module.__dict__["__late__"] = module
        _late[module] = late
    return module
