"""What the image holds of the modules' sources: all that a start need not load is left out or put off.

Passes over the syntax trees, none of which changes what a module does:

- `_Strip` leaves out what only type checkers and people read;
- `_Fold` writes numbers of the kernel in place of their names: an image is written for the machine it is on;
- `Condensed.parts` parts the functions and classes that usual starts do not use, and what only those read, from the
  rest. They are the module's late part, which is run when one of its names is first asked for: see images.Late.
  A bare name does not ask, it would only not be there; so `hint(...)` becomes `__late__.hint(...)`. What is registered
  with a late class, by `@performs(TheStep)`, comes with it. The imports at the top become a table of what they bind,
  since the statements take four times as long.

Why: to make a class costs 6 us, to unmarshal a function 2 us, each page of memory that they fill 1.4 us, and more after
the clone.
"""

from __future__ import annotations

import _signal
import ast
import errno
import posix
import select
import sys
from collections import Counter
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    Definition = tuple[str, str]  # the full name of a module, and a name that it defines; "" for the module itself
    Links = dict[str, dict[str, str]]  # of each module that something is imported from, the names here and there

_CONSTANTS = "pyruntime.linux.constants"
_NUMBERS = {module.__name__: module for module in (_signal, errno, posix, select)}
_PURE = ("dict", "frozenset", "set", "split", "tuple")  # what may be called later as well as now


class Condensed:
    """The sources of an image, parted.

    cold: functions and classes that usual starts do not use; constants: linux/constants.py; elsewhere: what may be
    late in the images below this one.
    """

    def __init__(
        self,
        sources: dict[str, ast.Module],
        cold: set[Definition],
        constants: ModuleType,
        elsewhere: frozenset[Definition] = frozenset(),
    ) -> None:
        self._trees = {name: stripped(tree) for name, tree in sources.items()}
        self._folded = {name: _Fold(tree, constants).fold(tree) for name, tree in self._trees.items()}
        self._bound = {name: _bindings(tree) for name, tree in self._trees.items()}
        self._leaders = {
            (module, node.name): self._leaders_of(module, node)
            for module, tree in self._trees.items()
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        self.late = self._late_of(cold)
        self._asked = self.late | elsewhere
        self._wanted = {what for name in sources for what in self._imports(name).values()} - self.late

    def parts(self, module: str) -> tuple[Links, ast.Module, ast.Module]:
        """What the imports at the top of a module bind, what of it is run at once, and its late part."""
        tree = self._trees[module]
        asked = {name: what for name, what in self._imports(module).items() if what in self._asked}
        asked |= {name: (module, name) for owner, name in self.late if owner == module}
        ask = _Ask(module, asked)
        rest = [ask.visit(node) for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
        late = {node for node in rest if self._may_wait(module, node)}
        early = late
        while early:
            read = _read(set(rest) - late)
            early = {node for node in late if _defined(node) & read}
            late -= early
        now, later = ([node for node in rest if (node in late) == which] for which in (False, True))
        later += map(ask.complete, sorted(self._followers(module)))
        superfluous = (self._folded[module] | asked.keys()) - _read(rest)
        imported = {name: what for node in tree.body for name, what in _imported(node).items()}
        links = _links({name: what for name, what in imported.items() if name not in superfluous} | ask.modules())
        return links, ast.Module(now, []), ast.Module(later, [])

    def libraries(self, linked: set[str]) -> list[tuple[str, str]]:
        """The modules in C that are `linked`, or tried at the top of ours; and of each shared library, its path."""
        tried = {
            module
            for tree in self._trees.values()
            for statement in tree.body
            for node in (statement.body if isinstance(statement, ast.Try) else ())
            for module, _ in _imported(node).values()
        }
        names = {name for name in linked | tried if name.partition(".")[0] != "pyruntime"}
        specs = [spec for name in sorted(names) if (spec := find_spec(name))]
        shared = [(spec.name, spec.origin or "") for spec in specs if isinstance(spec.loader, ExtensionFileLoader)]
        return shared + [(spec.name, "") for spec in specs if spec.origin == "built-in"]

    def _imports(self, module: str) -> dict[str, Definition]:
        """What the imports at the top of a module bind, without what was folded."""
        found: dict[str, Definition] = {}
        for node in self._trees[module].body:
            found |= _imported(node)
        return {name: what for name, what in found.items() if name not in self._folded[module]}

    def _late_of(self, cold: set[Definition]) -> frozenset[Definition]:
        """What of `cold` can be late: it is not used while modules are run, but by what is late itself."""
        late = frozenset(cold & self._leaders.keys())
        while early := late & self._used(late) | {what for what in late if not self._leaders[what] <= late}:
            late -= early
        return late

    def _used(self, late: frozenset[Definition]) -> set[Definition]:
        """What is used while modules are run without what is `late`, or under a name that means two things."""
        used: set[Definition] = set()
        for module, tree in self._trees.items():
            running = (node for node in tree.body if (module, getattr(node, "name", "")) not in late)
            bound, read, imports = self._bound[module], _read(running, running=True), self._imports(module)
            used |= {(module, name) for name in bound if name in read or bound[name] > 1}
            used |= {what for name, what in imports.items() if name in read or bound[name] > 1}
            attributes = (name.split(".") for name in read if "." in name)
            used |= {(".".join(filter(None, imports[name])), there) for name, there in attributes if name in imports}
        return used

    def _leaders_of(self, module: str, node: ast.FunctionDef | ast.ClassDef) -> set[Definition]:
        """The classes with which a function is registered, by `@performs(TheStep)`: it is late only if all are.

        For any other decorator, one that never is.
        """
        imports = self._imports(module)
        leaders: set[Definition] = set()
        for decorator in node.decorator_list:
            arguments = decorator.args if isinstance(decorator, ast.Call) else []
            names = [argument.id for argument in arguments if isinstance(argument, ast.Name)]
            leaders |= {imports.get(name, (module, name)) for name in names or [""]}
        return leaders

    def _followers(self, module: str) -> set[str]:
        """The other modules with late functions that are registered with late classes of this one."""
        leaders = {what for what in self.late if what[0] == module}
        return {other for other, name in self.late if other != module and self._leaders[other, name] & leaders}

    def _may_wait(self, module: str, node: ast.stmt) -> bool:
        """Whether a statement at the top level can be run later: what is late, or a table that has no effect."""
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            return (module, node.name) in self.late
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            return False
        names = _defined(node)
        calls = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
        return (
            bool(names)
            and (isinstance(node.value, ast.Constant) or all(name[0] == "_" for name in names))
            and not any((module, name) in self._wanted for name in names)
            and all(self._bound[module][name] == 1 for name in names)
            and all(getattr(call, "id", getattr(call, "attr", "")) in _PURE for call in calls)
        )


def stripped(tree: ast.Module) -> ast.Module:
    """The tree, changed: without what only type checkers and people read."""
    changed: ast.Module = _Strip().visit(tree)
    return changed


class _Strip(ast.NodeTransformer):
    """Leaves out what only type checkers and people read. A class keeps the names it annotates: a Step's fields."""

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        """`TYPE_CHECKING = False`: see visit_If."""
        return None if "TYPE_CHECKING" in _defined(node) else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        """`from __future__` would import a module to no effect; the flag is given to compile() instead."""
        return None if node.module == "__future__" else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """`if TYPE_CHECKING` is never true."""
        self.generic_visit(node)
        return node.orelse if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """What a class annotates stays annotated."""
        for part in node.body:
            if isinstance(part, ast.AnnAssign):
                part.annotation = ast.Constant(None)
        node.body = [self.visit(part) if not isinstance(part, ast.AnnAssign) else part for part in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.Assign | ast.AnnAssign:
        """`name: type = value` anywhere else."""
        node.annotation = ast.Constant(None)
        return ast.copy_location(ast.Assign([node.target], node.value), node) if node.value else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """The annotations of a function are strings that somebody would have to load."""
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """See visit_FunctionDef."""
        node.annotation = None
        return node


class _Fold(ast.NodeTransformer):
    """Writes numbers in place of their names: those of `errno`, `posix` and the like, and of linux/constants.py."""

    def __init__(self, tree: ast.Module, constants: ModuleType) -> None:
        self._modules: dict[str, ModuleType] = {}
        self._values: dict[str, int] = {}
        bound = _bindings(tree)
        for node in tree.body:
            for name, (module, attribute) in _imported(node).items():
                if bound[name] > 1:  # it may mean something else somewhere
                    continue
                if not attribute and module in _NUMBERS:
                    self._modules[name] = _NUMBERS[module]
                elif f"{module}.{attribute}" == _CONSTANTS:
                    self._modules[name] = constants
                else:
                    home = constants if module == _CONSTANTS else _NUMBERS.get(module)
                    value = getattr(home, attribute, None)
                    if type(value) is int:
                        self._values[name] = value

    def fold(self, tree: ast.Module) -> set[str]:
        """Change the tree; return the names that it no longer reads."""
        self.visit(tree)
        return self._values.keys() | self._modules.keys() - _read(tree.body)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """`c.MS_BIND`, `errno.ENOENT`; and errno.errorcode, a table that only errors read."""
        self.generic_visit(node)
        if not isinstance(node.value, ast.Name) or node.value.id not in self._modules:
            return node
        value = getattr(self._modules[node.value.id], node.attr, None)
        if type(value) is not int and value is not errno.errorcode:
            return node
        return ast.copy_location(ast.parse(repr(value), mode="eval").body, node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """What was imported by its own name: `SYS_mount`."""
        value = self._values.get(node.id)
        return node if value is None else ast.copy_location(ast.Constant(value), node)


class _Ask(ast.NodeTransformer):
    """Writes what is late as attributes of its modules. `late`: that, by the names it has here."""

    def __init__(self, module: str, late: dict[str, Definition]) -> None:
        self._module = module
        self._late = late
        self._asked: set[str] = set()

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name that is read: as an attribute of `__late__`, which is the module itself, or of another module."""
        if node.id not in self._late or not isinstance(node.ctx, ast.Load):
            return node
        return ast.copy_location(self._attribute(*self._late[node.id]), node)

    def complete(self, module: str) -> ast.stmt:
        """The statement that has another module's late part run, if it has not been yet."""
        return ast.Expr(ast.Call(self._attribute(module, "__complete__"), [], []))

    def _attribute(self, module: str, name: str) -> ast.Attribute:
        self._asked.add(module)
        alias = ast.Name("__late__" if module == self._module else _alias(module), ast.Load())
        return ast.Attribute(alias, name, ast.Load())

    def modules(self) -> dict[str, Definition]:
        """The other modules which are asked, by the names that they have here."""
        return {_alias(module): (module, "") for module in sorted(self._asked - {self._module})}


def _alias(module: str) -> str:
    return f"__{module.replace('.', '_')}__"


def _imported(node: ast.stmt) -> dict[str, Definition]:
    """What an import binds: each name, and what it is."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return {}


def _defined(node: ast.stmt) -> set[str]:
    """The names that a function, class or table at the top level defines; none for any other statement."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {node.target.id} if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else set()


def _links(imported: dict[str, Definition]) -> Links:
    """The names that imports bind, by the modules that they come from; those of whole modules are at ""."""
    links: Links = {}
    for name, (module, attribute) in imported.items():
        whole = f"{module}.{attribute}" if attribute else module
        if not attribute or whole in sys.modules:  # `from package import module`, too
            links.setdefault("", {})[name] = sys.intern(whole)
        else:
            links.setdefault(module, {})[name] = attribute
    return links


def _bindings(tree: ast.AST) -> Counter[str]:
    """How often each name is bound in a tree, in whatever scope."""
    bound: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound[node.id] += 1
        elif isinstance(node, ast.arg):
            bound[node.arg] += 1
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            bound[node.name or ""] += 1
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Global):
            bound.update(node.names)
    return bound


def _read(nodes: Iterable[ast.AST], *, running: bool = False) -> set[str]:
    """The names that are read in some trees, and with their attributes, as "name.attribute".

    With `running`, without those that only the bodies of functions read.
    """
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        if running and isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += [node.args, *getattr(node, "decorator_list", [])]
        else:
            waiting += ast.iter_child_nodes(node)
    return found
