"""The architecture, held: who imports whom, what the hot path never imports, and who may use a path in a container.

All three are read from the source by `ast`: nothing is executed. A new exception is written down here with its reason,
and an exception that nobody uses any more fails too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "pyruntime"

# A module or package -> what of pyruntime it may import, besides itself. The longest name that fits counts.
MAY_IMPORT = {
    "errors": (),
    "version": (),
    "report": ("errors",),
    "jsontext": ("errors",),
    "linux": ("errors", "report"),
    "spec": ("errors", "report", "jsontext", "linux.constants", "linux.caps"),
    # Pure: it may know the kernel's names and numbers, never its calls.
    "plan": ("errors", "report", "spec.types", "spec.validate", "linux.constants", "linux.caps"),
    "state": ("errors", "report", "jsontext", "linux"),
    "cgroup": ("errors", "report", "linux"),
    "resctrl": ("errors", "report", "linux"),
    "net": ("errors", "report", "images", "jsontext", "linux"),
    "launch": ("errors", "report", "jsontext", "linux", "plan", "cgroup", "resctrl"),
    "caller": ("errors", "launch.console"),
    "images": (),
    "execution": (
        *("errors", "report", "caller", "images", "jsontext", "linux", "state", "cgroup", "plan", "launch"),
        *("spec.execution", "spec.load"),
    ),
    "posthooks": ("errors", "report", "state", "plan.hooks", "launch.hooks"),
    "container": (
        "errors",
        "report",
        "images",
        "linux",
        "state",
        "cgroup",
        "resctrl",
        "net",
        "launch.sync",
        "launch.notify",
        "posthooks",
    ),
    "watching": ("errors", "report", "container", "state", "cgroup", "resctrl", "net.counters"),
    "updating": (
        *("errors", "report", "jsontext", "container", "state", "cgroup", "resctrl", "plan", "launch"),
        *("spec.change", "spec.load", "spec.types"),
    ),
    "networking": ("errors", "state", "net", "plan", "spec.types", "creation"),
    "creation": (
        "errors",
        "report",
        "version",
        "caller",
        "images",
        "jsontext",
        "linux",
        "spec",
        "plan",
        "state",
        "cgroup",
        "resctrl",
        "net",
        "networking",
        "launch",
    ),
    "lint": ("errors", "spec", "plan"),
    "cli": (
        *("errors", "images", "report", "version", "jsontext", "linux.constants", "linux.caps", "linux.proc"),
        "linux.files",  # which IDs are free
        "linux.seccomp",  # `features`: what libseccomp and the kernel at hand can do
        *("spec", "plan", "state", "container", "creation", "execution", "updating", "watching", "lint"),
        "net",  # `network`, which needs no container; and the completion of networks' names
    ),
    "__init__": ("errors", "version", "container", "creation", "execution", "updating", "watching"),
    "__main__": ("errors", "report", "version", "linux.proc", "cli"),
}
NEVER = {("launch.child", "launch.parent")}

HEAVY = set(
    "asyncio click collections contextlib ctypes dataclasses enum functools json logging os pathlib prctl psutil "
    "pyroute2 re shutil signal socket stat struct subprocess tempfile traceback typing warnings".split()
)
# Reached only for help, errors and the verbs that make no container.
# Annotations alone: no module may import it at run time, so it may use what it likes.
TYPES_ALONE = {"spec.types", "net.types"}
COLD = {
    "net.admin",
    *("net.packet", "net.trace", "cli.trace"),
    *(
        "cli.click_app",
        "cli.condense",
        "cli.features",
        "cli.help",
        "cli.home",
        "cli.lint",
        "cli.list",
        "cli.manual",
        "cli.network",
        "net.admin",
        "cli.plan",
        "cli.spec",
    ),
    *("lint", "spec.positions"),
}


class Import(NamedTuple):
    """One import statement's name, and how it stands in the module."""

    module: str
    name: str
    line: int
    types_only: bool
    late: bool
    fall_back: bool

    def __str__(self) -> str:
        return f"pyruntime/{self.module.replace('.', '/')}.py:{self.line} imports {self.name}"


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its name without "pyruntime.", parsed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(), str(path))


MODULES = dict(sources())


def imported_names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The full names: `from pyruntime.linux import caps` is pyruntime.linux.caps if that is a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, "relative imports hide which layer is meant"
    for alias in node.names:
        full = f"{node.module}.{alias.name}"
        yield full if full.removeprefix("pyruntime.") in MODULES else str(node.module)


def imports(module: str) -> Iterator[Import]:
    """All imports of a module, wherever they stand."""

    def walk(node: ast.AST, types_only: bool, late: bool, fall_back: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (Import(module, name, node.lineno, types_only, late, fall_back) for name in imported_names(node))
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from walk_all(node.body, True, late, fall_back)
            yield from walk_all(node.orelse, types_only, late, fall_back)
        else:
            late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            caught = ast.unparse(node.type) if isinstance(node, ast.ExceptHandler) and node.type else ""
            yield from walk_all(ast.iter_child_nodes(node), types_only, late, fall_back or "ImportError" in caught)

    def walk_all(nodes: Iterator[ast.AST] | list[ast.stmt], *how: bool) -> Iterator[Import]:
        for node in nodes:
            yield from walk(node, *how)

    return walk(MODULES[module], False, False, False)


def fits(name: str, prefix: str) -> bool:
    """Whether a module is `prefix` or below it."""
    return name == prefix or name.startswith(f"{prefix}.")


def rule_for(module: str) -> str:
    """The longest entry of MAY_IMPORT that covers a module."""
    module = module or "__init__"
    entries = [entry for entry in MAY_IMPORT if fits(module, entry)]
    assert entries, f"pyruntime.{module} belongs to no layer: say in MAY_IMPORT what it may import"
    return max(entries, key=len)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_lies_below(module: str) -> None:
    rule = rule_for(module)
    for found in imports(module):
        if not fits(found.name, "pyruntime"):
            continue
        target = found.name.removeprefix("pyruntime").removeprefix(".")
        # `from pyruntime import X` of a constant: the package's face, which only the outermost layers show.
        assert any(fits(target, prefix) for prefix in (*MAY_IMPORT[rule], rule)), f"{found}: not below {rule}"
        assert (module, target) not in NEVER, str(found)


@pytest.mark.parametrize("module", [name for name in MODULES if name not in COLD | TYPES_ALONE])
def test_the_hot_path_imports_nothing_heavy(module: str) -> None:
    for found in imports(module):
        top = found.name.partition(".")[0]
        paid = found.types_only or found.late or found.fall_back
        assert paid or top not in HEAVY, f"{found}, which every start of a container would pay for"


def test_types_are_not_imported_at_run_time() -> None:
    names = {f"pyruntime.{module}" for module in TYPES_ALONE}
    assert [
        str(each) for module in MODULES for each in imports(module) if each.name in names and not each.types_only
    ] == []


def test_the_exempt_modules_are_there() -> None:
    assert sorted((COLD | TYPES_ALONE) - MODULES.keys()) == []


def reached_at_import(module: str) -> set[str]:
    """The modules of the package that importing this one brings along."""
    found = {module}
    waiting = [module]
    while waiting:
        for each in imports(waiting.pop()):
            name = each.name.removeprefix("pyruntime.")
            if name in MODULES and name not in found and not (each.types_only or each.late):
                found.add(name)
                waiting.append(name)
    return found


# Late imports in modules that the child holds, in functions that run in the parent or before the seal.
LATE_BUT_BEFORE_THE_SEAL: dict[str, str] = {}


def test_the_child_imports_nothing_late() -> None:
    """After pivot_root an import would load the container's files (CVE-2019-14271)."""
    # The child carries the cgroup modules along, being a copy of the parent, but only the parent calls them.
    modules = [module for module in reached_at_import("launch.child") if not fits(module, "cgroup")]
    late = {str(each): each for module in modules for each in imports(module) if each.late}
    places = {f"{each.module}: {each.name}" for each in late.values() if not each.types_only}
    assert places - LATE_BUT_BEFORE_THE_SEAL.keys() == set()
    assert LATE_BUT_BEFORE_THE_SEAL.keys() - places == set(), "exceptions that are not needed any more"


# Calls that look a path up, and which of their arguments is the path.
BY_PATH = dict.fromkeys(
    "access chdir chmod chown chroot lchown link listdir lstat mkdir mkfifo mknod open readlink remove rename replace "
    "rmdir scandir setxattr stat symlink truncate unlink utime".split(),
    0,
)
BY_PATH_ON_A_TAPE = ("chdir", "chroot", "execve", "faccessat2", "open_tree", "openat", "openat2")
BY_PATH_OF_OTHERS = {
    "syscalls": {"mount": 1, "umount2": 0, "pivot_root": 0},
    "files": dict.fromkeys(("append", "exists", "replace", "rewrite", "unlink"), 0),
}

# Where a path may be looked up after all: function -> why nothing of the image can decide what is found.
LOOKS_UP = {
    "launch.paths.Root.__init__": "the root directory itself: the bundle's path on the host",
    "launch.paths.Root._look": "the one door: openat2(RESOLVE_IN_ROOT)",
    "launch.paths.Root._make_directory": "openat2(RESOLVE_BENEATH), one name",
    "launch.console._open_ptmx": "openat2 of fixed names without any link, and the file is verified",
    "launch.console.connect_console_socket": "the caller's own path, on the host",
    "launch.terminal.HostTerminal.__init__": "the caller's own terminal, on the host",
    "launch.terminal._guard": "the guardian leaves the caller's directory, on the host",
    "launch.idmap._open": "paths of config.json, and a namespace, on the host",
    "launch.limits._own_cgroup": "the cgroup's directory on the host",
    "launch.exeseal.seal_interpreter": "our own executable, on the host, before there is a child",
    "launch.namespaces.write_sysctl": "the host's /proc, before the pivot; the names are checked against an allow-list",
    "launch.namespaces.Namespaces.refuse_host_network": "our own namespace, before the pivot",
    "launch.namespaces._open_namespace": "a path of config.json, which is trusted, on the host",
    "launch.namespaces._open_offsets": "the host's /proc, before the pivot",
    "launch.hooks._open_directory": "the bundle's directory, on the host",
    "launch.hooks._children": "the host's /proc, in the parent: what a hook that is to end has started",
    "launch.netdevices.Guests.__init__": "in the parent, on the host: its own namespace and the child's",
    "launch.notify._listen": "the directory below --root and the socket that we make in it, on the host",
    "launch.rootfs.cut_propagation": "the bundle's path on the host and what lies above it",
    "launch.rootfs._remove_full_mounts": "mount points of the host, with --no-pivot before the root is changed",
    "launch.rootfs._unmount_or_cover": "the same",
    "launch.rootfs.bind_root": "the bundle's path on the host",
    "launch.rootfs._open_source": "the source of a bind: a path of config.json, on the host",
    "launch.rootfs.link_devices": "a fixed name in the host's /proc, before the pivot",
    "launch.rootfs.mount_cgroup": "target is proc_fd(target_fd)",
    "launch.rootfs.mask_path": "the host's /dev/null, verified",
    "launch.rootfs.pivot_root": "the working directory is the root's descriptor",
    "launch.rootfs.share_root": "the root of the mount namespace",
    "launch.sources._help": "the source of a bind: a path of config.json, on the host",
    "launch.roottree.leave_mounts": "our own namespace, on the host",
    "launch.roottree.enter_tree_of": "the working directory is the root's descriptor",
    "launch.roottree._change_root": "the working directory is the root's descriptor",
    "launch.namespaces.Namespaces.refuse_own_mounts": "our own namespace, before the pivot",
    "launch.seccomp._open_directory": "the cache below --root, on the host",
    "launch.seccomp._identity": "libseccomp's file, on the host",
    "launch.credentials._enter": "process.cwd as the container sees it, but by no link of /proc",
    "launch.credentials.prepare_execution": "the program as the container sees it, with the rights of its user",
    "launch.ending.execute": "the program as the container sees it, with the rights of its user",
    "launch.labels.confine": "the host's /proc, before the pivot",
    "launch.labels.Label.ask": "in a detached mount of the directory attr alone",
    "launch.labels.open_attributes": "the host's /proc, before the pivot",
    "launch.selinux.label_keyring": "the host's /proc, before the pivot",
    "launch.tape.Tape.reserve": "the host's null device, whose number alone matters",
    "launch.outside._write_first_half": "the root of the mount namespace, the host's yet",
    "launch.outside._is_at_home": "our own namespaces, root and directory, on the host",
    "launch.outside._Visit.__init__": "our own namespaces, root and directory, on the host",
}


def is_anchored(argument: ast.expr) -> bool:
    """Whether an argument is a descriptor, or a name that reaches one."""
    if isinstance(argument, ast.Call):
        return ast.unparse(argument.func).endswith("proc_fd")
    if isinstance(argument, ast.Name | ast.Attribute):
        return (argument.id if isinstance(argument, ast.Name) else argument.attr).endswith("fd")
    return ast.unparse(argument).removeprefix("f").strip("'\"").startswith("/proc/self/fd/")


def looks_up(call: ast.Call) -> bool:
    """Whether a call resolves a path by name in whatever root and working directory it happens to run."""
    if not isinstance(call.func, ast.Attribute):
        return isinstance(call.func, ast.Name) and call.func.id == "open"
    owner, name = ast.unparse(call.func.value), call.func.attr
    if owner.endswith("tape") and name == "call":
        return ast.unparse(call.args[0]).removeprefix("c.SYS_") in BY_PATH_ON_A_TAPE
    if owner == "syscalls" and name == "openat2":
        return True
    table = BY_PATH if owner in ("posix", "os") else BY_PATH_OF_OTHERS.get(owner, {})
    if name not in table or any((word.arg or "").endswith("dir_fd") for word in call.keywords):
        return False
    position = table[name]
    return position < len(call.args) and not is_anchored(call.args[position])


def lookups(module: str) -> Iterator[tuple[str, str]]:
    """The functions of a module that look paths up, with the call."""

    def walk(node: ast.AST, place: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            place = f"{place}.{node.name}"
        if isinstance(node, ast.Call) and looks_up(node):
            yield place, f"line {node.lineno}: {ast.unparse(node)}"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, place)

    return walk(MODULES[module], module)


def test_paths_in_a_container_are_looked_up_in_one_place() -> None:
    found = [each for module in MODULES if fits(module, "launch") for each in lookups(module)]
    assert [f"{place}, {call}" for place, call in found if place not in LOOKS_UP] == []
    assert LOOKS_UP.keys() - {place for place, _ in found} == set(), "exceptions that are not needed any more"
