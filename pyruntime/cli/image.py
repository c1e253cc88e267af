"""The image: all modules of the hot verbs in one file, read and run without the import system.

Half of the time of a small Python program goes into finding its modules: some 50 of them, each with a stat, an open,
a read, and the bookkeeping of importlib. The image holds their compiled code in the order in which importing them would
have run it, so that the launcher (launcher.py) has only to run it. Nothing in a module can tell the difference, and
whatever is not in the image is imported as ever.

There are three: `control` for the verbs that look at containers or end them, `launch` for run and create, `exec` for
exec; small ones for what few configs need; and the launcher's own code. What no usual call of these verbs comes by is
in them, too, but held back (condense.py): it is unmarshalled and run when it is first asked for, from memory, so that
this is no import and may happen behind the seal. Written at install, by the interpreter that will read them: marshal's
format is the bytecode's.
"""

from __future__ import annotations

import ast
import marshal
import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

    from pyruntime.cli.condense import Condensed, Definition, Links
    from pyruntime.images import Held

# What the verbs import, including what they import late. tests/unit/test_image.py holds that nothing is missing.
IMAGES = {
    "control": (
        "pyruntime.__main__",
        "pyruntime.container",
        "pyruntime.cgroup.manager",
        "pyruntime.cli.start",
        "pyruntime.cli.state",
        "pyruntime.cli.kill",
        "pyruntime.cli.pause",
        "pyruntime.cli.ps",
        "pyruntime.cli.delete",
    ),
    "launch": (
        "pyruntime.__main__",
        "pyruntime.cli.run",
        "pyruntime.launch.foreground",
    ),
    "exec": (
        "pyruntime.__main__",
        "pyruntime.cli.exec",
        "pyruntime.launch.foreground",
    ),
}
# Images of their own for what few containers need (images.py): whoever does not use it does not load it. Each comes on
# top of others: (which, what else).
EXTRA = {
    "checks": (("exec",), ("pyruntime.spec.validate",)),
    "seccomp": (("launch",), ("pyruntime.plan.seccomp", "pyruntime.launch.seccomp")),
    "systemd": (("launch",), ("pyruntime.launch.scope",)),
    "stop": (("control",), ("pyruntime.cgroup.systemd",)),
    "network": (
        ("launch",),
        ("pyruntime.networking", "pyruntime.net.connect", "pyruntime.net.bridge", "pyruntime.net.firewall"),
    ),
    "disconnect": (("control",), ("pyruntime.net.connect", "pyruntime.linux.netlink")),
    "publish": (("control", "disconnect"), ("pyruntime.net.publishing",)),
}

_TOOLS = ("pyruntime.cli.condense", "pyruntime.cli.cold", "pyruntime.linux.constants")

_LOADER = "pyruntime.images"
# Run by the launcher with `content` as its data: the code of that module, and the arguments of its function run().
BOOT = """
images = sys.modules["pyruntime.images"] = type(sys)("pyruntime.images")
images.__file__ = f"{library}/pyruntime/images.py"
images.__package__ = "pyruntime"
exec(content[0], images.__dict__)
images.run(*content[1:])
"""


def write_images(library_path: str) -> None:
    """Write all images into the package below `library_path`, from its sources. Raises OSError, SyntaxError."""
    sys.path.insert(0, library_path)
    entries = {**IMAGES, **{name: own for name, (_, own) in EXTRA.items()}}
    late: dict[str, frozenset[Definition]] = {}
    for name, own in entries.items():
        below = EXTRA[name][0] if name in EXTRA else ()
        modules = list(_in_order_of_completion(own, after=tuple(entry for other in below for entry in entries[other])))
        # An extra image may come on top of any: what is late in one of them is asked for.
        elsewhere = frozenset(what for found in late.values() for what in found) if below else frozenset()
        condensed = _condensed(modules, below[0] if below else name, elsewhere)
        late[name] = condensed.late
        held: list[Held] = []
        linked: set[str] = set()
        for module in modules:
            if module.__name__ == _LOADER:
                held.append((_LOADER, False, (), None, b""))
                continue
            links, *parts = condensed.parts(module.__name__)
            linked.update(links.get("", {}).values(), filter(None, links))
            now, later = map(_compile, parts)
            late_part = b"" if later is None else marshal.dumps(later)
            held.append((module.__name__, hasattr(module, "__path__"), tuple(_tuples(links)), now, late_part))
        others = sorted(linked.difference(module.__name__ for module in modules))
        content = condensed.libraries(linked), others, held
        _write(image_path(library_path, name), content if below else (_boot(), (_loader(library_path), *content)))
    launcher = import_module("pyruntime.cli.launcher")
    _write(image_path(library_path, "launcher"), compile(launcher.launcher_code(library_path), "<launcher>", "exec"))


def _condensed(modules: list[ModuleType], image: str, elsewhere: frozenset[Definition]) -> Condensed:
    """The sources of the modules, condensed for what starts with this image do; `elsewhere`: see there."""
    sources = {module.__name__: _source(str(module.__file__)) for module in modules if module.__name__ != _LOADER}
    # Imported only now: the library to be written is on the path, and where it is from may be none.
    condense, cold, constants = map(import_module, _TOOLS)
    listed = {(module, name) for module, names in cold.COLD[image].items() for name in names.split()}
    condensed: Condensed = condense.Condensed(sources, listed, constants, elsewhere)
    return condensed


def _source(path: str) -> ast.Module:
    with open(path, encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def _boot() -> CodeType:
    return compile(BOOT, "<image>", "exec")


def _loader(library_path: str) -> CodeType | None:
    """The module that runs images, which none can run: its imports are statements."""
    condense = import_module("pyruntime.cli.condense")
    return _compile(condense.stripped(_source(f"{library_path}/pyruntime/images.py")))


def _write(path: str, content: Any) -> None:
    with open(path, "wb") as file:
        file.write(marshal.dumps(content))


def _tuples(links: Links) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Of each module that something is imported from: its name, the names here, and there. (The same takes no room.)"""
    for source, names in links.items():
        here, there = tuple(names), tuple(names.values())
        yield source, here, here if here == there else there


def image_path(library_path: str, name: str) -> str:
    """Where the image `name` is; another Python than the one it was written for looks for another file."""
    return f"{library_path}/pyruntime/{name}.{sys.implementation.cache_tag}.image"


def _in_order_of_completion(entries: tuple[str, ...], *, after: tuple[str, ...] = ()) -> Iterator[ModuleType]:
    """Import `entries` anew and tell every module of ours in the order in which they were complete.

    after: what is there already, and what it imports is not told.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyruntime"]:
        del sys.modules[name]
    for name in after:
        __import__(name)
    completed: list[ModuleType] = []
    exec_module = SourceFileLoader.exec_module

    def exec_and_note(loader: SourceFileLoader, module: ModuleType) -> None:
        exec_module(loader, module)
        completed.append(module)

    SourceFileLoader.exec_module = exec_and_note  # type: ignore[method-assign, assignment]
    try:
        for name in entries:
            __import__(name)
    finally:
        SourceFileLoader.exec_module = exec_module  # type: ignore[method-assign]
    yield from (module for module in completed if module.__name__.partition(".")[0] == "pyruntime")


def _compile(tree: ast.Module) -> CodeType | None:
    """As `python -OO` compiles. None for an empty module."""
    if not tree.body:
        return None
    ast.fix_missing_locations(tree)
    code: CodeType = compile(tree, "<image>", "exec", flags=_FUTURE_ANNOTATIONS, dont_inherit=True, optimize=2)
    return _without_lines(code)


def _without_lines(code: CodeType) -> CodeType:
    """Line tables, paths and the classes of methods are a quarter of the image, and only tracebacks want them."""
    constants = (
        _without_lines(constant) if isinstance(constant, type(code)) else constant for constant in code.co_consts
    )
    return code.replace(co_linetable=b"", co_filename="<image>", co_qualname=code.co_name, co_consts=tuple(constants))


_FUTURE_ANNOTATIONS = annotations.compiler_flag


if __name__ == "__main__":
    write_images(sys.argv[1])
