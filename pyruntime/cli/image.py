"""The image: all modules of the hot verbs in one file, read and run without the import system.

Half of the time of a small Python program goes into finding its modules: some 50 of them, each with a stat, an open,
a read, and the bookkeeping of importlib. The image holds their compiled code in the order in which importing them would
have run it, so that the launcher (launcher.py) has only to run it. Nothing in a module can tell the difference, and
whatever is not in the image is imported as ever.

There are three: `control` for the verbs that look at containers or end them; `launch` for run and create, which holds
the other's modules too; `exec` for exec; and small ones for what few configs need. Written at install, by the
interpreter that will read them: marshal's format is the bytecode's.
"""

from __future__ import annotations

import ast
import marshal
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

# What the verbs import, including what they import late. tests/unit/test_image.py holds that nothing is missing.
CONTROL = (
    "pyruntime.__main__",
    "pyruntime.container",
    "pyruntime.cgroup.manager",
    "pyruntime.cli.start",
    "pyruntime.cli.state",
    "pyruntime.cli.kill",
    "pyruntime.cli.pause",
    "pyruntime.cli.ps",
    "pyruntime.cli.delete",
)
LAUNCH = (
    *CONTROL,
    "pyruntime.cli.run",
    "pyruntime.launch.foreground",
)
EXEC = (
    "pyruntime.__main__",
    "pyruntime.cli.exec",
    "pyruntime.launch.foreground",
)
# Images of their own for what few containers need (images.py): whoever does not use it does not load it. Each comes on
# top of one of those above: (which, what else).
_NETWORK = ("pyruntime.networking", "pyruntime.net.connect", "pyruntime.net.bridge", "pyruntime.net.firewall")
_DISCONNECT = ("pyruntime.net.connect", "pyruntime.linux.netlink")
EXTRA = {
    "seccomp": (LAUNCH, ("pyruntime.plan.seccomp", "pyruntime.launch.seccomp")),
    "network": (LAUNCH, _NETWORK),
    "disconnect": (CONTROL, _DISCONNECT),
    "publish": ((*CONTROL, *_DISCONNECT), ("pyruntime.net.publishing",)),
}

# Run by the launcher with `modules` as its data: [(name, whether it is a package, its code)].
BOOT = """
for name, is_package, _ in modules:
    module = sys.modules[name] = type(sys)(name)
    module.__file__ = f"{library}/{name.replace('.', '/')}" + ("/__init__.py" if is_package else ".py")
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = [module.__file__[:-12]]
for name, _, code in modules:
    module = sys.modules[name]
    exec(code, module.__dict__)
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], leaf, module)
"""


def write_images(library_path: str) -> None:
    """Write both images into the package below `library_path`, from its sources. Raises OSError, SyntaxError."""
    sys.path.insert(0, library_path)
    images = {"control": ((), CONTROL), "launch": ((), LAUNCH), "exec": ((), EXEC), **EXTRA}
    for name, (after, entries) in images.items():
        modules = list(_in_order_of_completion(entries, after=after))
        data = marshal.dumps((compile(BOOT, "<image>", "exec", optimize=2), modules))
        with open(image_path(library_path, name), "wb") as file:
            file.write(data)


def image_path(library_path: str, name: str) -> str:
    """Where the image `name` is; another Python than the one it was written for looks for another file."""
    return f"{library_path}/pyruntime/{name}.{sys.implementation.cache_tag}.image"


def _in_order_of_completion(
    entries: tuple[str, ...], *, after: tuple[str, ...] = ()
) -> Iterator[tuple[str, bool, CodeType]]:
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
    for module in completed:
        if module.__name__.partition(".")[0] == "pyruntime":
            yield module.__name__, hasattr(module, "__path__"), _compile(str(module.__file__))


class _Strip(ast.NodeTransformer):
    """Leaves out what only type checkers and people read. A class keeps its annotations: they are a Step's fields."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        """`from __future__` would import a module to no effect; the flag is given to compile() instead."""
        return None if node.module == "__future__" else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """`if TYPE_CHECKING` is never true."""
        self.generic_visit(node)
        return node.orelse if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """The annotations of a function are strings that somebody would have to load."""
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """See visit_FunctionDef."""
        node.annotation = None
        return node


def _compile(path: str) -> CodeType:
    """As `python -OO` compiles, without what _Strip leaves out."""
    with open(path, encoding="utf-8") as file:
        tree = ast.fix_missing_locations(_Strip().visit(ast.parse(file.read(), path)))
    code: CodeType = compile(tree, path, "exec", flags=_FUTURE_ANNOTATIONS, dont_inherit=True, optimize=2)
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
