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

    from pyruntime.cli.condense import Condensed, Definition, Links

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

# Run by the launcher with `content` as its data: the name and path of each module in C that they import, so that it
# is not searched for; the names of all modules that are imported from and not held here; and of each module its name,
# whether it is a package, what its imports bind (condense.Links), its code, and its late part or b"".
BOOT = """
import _imp
from _frozen_importlib import ModuleSpec
libraries, others, modules = content
for name, path in libraries:
    if name in sys.modules:
        continue
    try:
        module = (_imp.create_dynamic if path else _imp.create_builtin)(ModuleSpec(name, None, origin=path))
        (_imp.exec_dynamic if path else _imp.exec_builtin)(module)
    except ImportError:
        continue  # it has moved, and will be searched for when it is imported
    sys.modules[name] = module
for name in others:
    if name not in sys.modules:
        __import__(name)
class Late(type(sys)):
    def __getattr__(self, name):
        if name[:2] != "__" and self in late:
            self.__complete__()
            return getattr(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
    def __complete__(self):
        if self in late:
            exec(loads(late.pop(self)), self.__dict__)
late = {}
for name, is_package, _, _, later in modules:
    module = sys.modules[name] = (Late if later else type(sys))(name)
    module.__file__ = f"{library}/{name.replace('.', '/')}" + ("/__init__.py" if is_package else ".py")
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = [module.__file__[:-12]]
    if later:
        module.__late__ = module
        late[module] = later
for name, _, links, code, _ in modules:
    module = sys.modules[name]
    namespace = module.__dict__
    for source, names, attributes in links:
        known = sys.modules[source].__dict__ if source else sys.modules
        try:
            namespace.update(zip(names, map(known.__getitem__, attributes)))
        except KeyError:  # one of another image, and late there
            namespace.update((name, getattr(sys.modules[source], there)) for name, there in zip(names, attributes))
    if code:
        exec(code, namespace)
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], leaf, module)
"""


def write_images(library_path: str) -> None:
    """Write all images into the package below `library_path`, from its sources. Raises OSError, SyntaxError."""
    sys.path.insert(0, library_path)
    entries = {**IMAGES, **{name: own for name, (_, own) in EXTRA.items()}}
    late: dict[str, frozenset[Definition]] = {}
    for name, own in entries.items():
        below = EXTRA[name][0] if name in EXTRA else ()
        modules = list(_in_order_of_completion(own, after=tuple(entry for other in below for entry in entries[other])))
        elsewhere = frozenset(what for other in below for what in late[other])
        condensed = _condensed(modules, below[0] if below else name, elsewhere)
        late[name] = condensed.late
        contents = []
        linked: set[str] = set()
        for module in modules:
            links, *parts = condensed.parts(module.__name__)
            linked.update(links.get("", {}).values(), filter(None, links))
            now, later = map(_compile, parts)
            held = b"" if later is None else marshal.dumps(later)
            contents.append((module.__name__, hasattr(module, "__path__"), tuple(_tuples(links)), now, held))
        others = sorted(linked.difference(module.__name__ for module in modules))
        boot = compile(BOOT, "<image>", "exec", optimize=2)
        with open(image_path(library_path, name), "wb") as file:
            file.write(marshal.dumps((boot, (condensed.libraries(linked), others, contents))))
    launcher = import_module("pyruntime.cli.launcher")
    with open(image_path(library_path, "launcher"), "wb") as file:
        file.write(marshal.dumps(compile(launcher.launcher_code(library_path), "<launcher>", "exec", optimize=2)))


def _condensed(modules: list[ModuleType], image: str, elsewhere: frozenset[Definition]) -> Condensed:
    """The sources of the modules, condensed for what starts with this image do; `elsewhere`: see there."""
    sources = {}
    for module in modules:
        with open(str(module.__file__), encoding="utf-8") as file:
            sources[module.__name__] = ast.parse(file.read(), str(module.__file__))
    # Imported only now: the library to be written is on the path, and where it is from may be none.
    condense, cold, constants = map(import_module, _TOOLS)
    listed = {(module, name) for module, names in cold.COLD[image].items() for name in names.split()}
    condensed: Condensed = condense.Condensed(sources, listed, constants, elsewhere)
    return condensed


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
    """Line tables and paths are a quarter of the image, and only tracebacks want them."""
    constants = (
        _without_lines(constant) if isinstance(constant, type(code)) else constant for constant in code.co_consts
    )
    return code.replace(co_linetable=b"", co_filename="<image>", co_consts=tuple(constants))


_FUTURE_ANNOTATIONS = annotations.compiler_flag


if __name__ == "__main__":
    write_images(sys.argv[1])
