"""Everything that can be said about a bundle without starting it: each problem with its line and column.

A start refuses a config by its first problem; here all are found: those of the values (spec.schema), between values
(spec.validate), of their translation (plan), keys that stand twice, and what the bundle lacks on disk. Cold: nothing
here is imported by a start. runc has no counterpart.
"""

from __future__ import annotations

import json
import posix

from pyruntime.errors import ConfigError, Error
from pyruntime.plan import network
from pyruntime.plan.build import build
from pyruntime.plan.resources import cgroup_path, names_scope
from pyruntime.plan.scope import ask_systemd, scope_path
from pyruntime.spec.load import parse, read
from pyruntime.spec.positions import Lines, places
from pyruntime.spec.schema import BLOCKS, ENOUGH, UNKNOWN_KEY, Finding, members
from pyruntime.spec.validate import findings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from pyruntime.spec.types import Spec

ERROR, WARNING = "error", "warning"


class Remark:
    """One thing to be said: where in config.json (pointer; line and column from 1), how bad, what, and what to do."""

    __slots__ = ("column", "hint", "line", "message", "pointer", "severity")

    def __init__(self, severity: str, pointer: str, message: str, hint: str = "") -> None:
        self.severity = severity
        self.pointer = pointer
        self.message = message
        self.hint = hint
        self.line = self.column = 1

    def as_dict(self) -> dict[str, Any]:
        """The remark as JSON values."""
        return {name: getattr(self, name) for name in ("severity", "line", "column", "pointer", "message", "hint")}


def lint(bundle_path: str) -> list[Remark]:
    """What is wrong or doubtful in the bundle, in the order of the file.

    Raises Error if there is no config.json to read. Needs no root, and changes nothing.
    """
    data = read(bundle_path)
    try:
        spec = parse(data)
    except ConfigError as error:
        return [_no_config(data, error)]
    text = data.decode()
    found = [*_of_the_network(spec), *map(_of_finding, findings(spec))]
    if all(remark.severity is WARNING for remark in found):
        planned = parse(data)
        found += [*_of_the_network(planned), *_of_the_plan(planned)]
    if len(found) >= ENOUGH:
        found.append(Remark(WARNING, "", "so much is wrong that the rest was not looked at: mend this first"))
    found += _on_disk(spec, bundle_path)
    return _placed(found, text)


def _of_the_network(spec: Spec) -> Iterator[Remark]:
    """What is wrong with the annotations of the network; `linux.namespaces` is as they say afterwards."""
    annotations: Any = spec.get("annotations")
    texts = {name: text for name, text in _items(annotations) if isinstance(text, str)}
    try:
        selection = network.select("", [], "", texts)
    except Error as error:
        yield Remark(ERROR, error.where.removeprefix("config.json#"), error.message, error.hint)
        return
    if selection is not None:
        network.apply(selection, spec, "/proc/self/ns/net")  # of another container: whether it runs is no matter here


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _no_config(data: bytes, error: ConfigError) -> Remark:
    """Bytes that hold no JSON object have one problem: where they stop to make sense."""
    remark = Remark(ERROR, "", error.message, error.hint)
    try:
        json.loads(data.decode())
    except json.JSONDecodeError as mistake:
        remark.line, remark.column = mistake.lineno, mistake.colno
    except UnicodeDecodeError as mistake:
        before = data[: mistake.start].decode()
        remark.line, remark.column = Lines(before).position(len(before))
    except (ValueError, RecursionError):
        pass  # a number of 5000 digits, or an endless nesting: such has no place that the parser would tell
    return remark


def _of_finding(finding: Finding) -> Remark:
    severity = ERROR if finding.error else WARNING
    hint = finding.hint
    if finding.message == UNKNOWN_KEY:
        hint = _what_was_meant(finding.path)
    return Remark(severity, finding.pointer(), finding.message, hint)


def _of_the_plan(spec: Spec) -> list[Remark]:
    """What the translation into steps refuses. It stops at the first, so take that away from the Spec and try again."""
    found: list[Remark] = []
    while len(found) < ENOUGH:
        try:
            _plan(spec)
        except Error as error:
            pointer = error.where.removeprefix("config.json#")
            if any((pointer, error.message) == (one.pointer, one.message) for one in found):
                break
            found.append(Remark(ERROR, pointer, error.message, error.hint))
            if not _take_away(spec, pointer):
                break
        else:
            break
    return found


def _plan(spec: Spec) -> None:
    """Make a plan, with --systemd-cgroup if the cgroup's path is for that. Raises Error."""
    linux = spec.get("linux", {})
    if names_scope(linux.get("cgroupsPath", "")):
        plan = build(spec, "/bundle", "lint", scope_path(linux, "lint", users=False))
        ask_systemd(plan, spec, "lint", users=False)
    else:
        build(spec, "/bundle", "lint", cgroup_path(linux, "lint"))


def _take_away(spec: Any, pointer: str) -> bool:
    """Remove what an error is about, and say whether that was possible without making the Spec unsound.

    Of an array's element the whole array goes, but for mounts: there a harmless one takes the place.
    """
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    if keys[:1] == ["mounts"] and len(keys) > 1:
        spec["mounts"][int(keys[1])] = {"destination": "/proc", "type": "proc"}
        return True
    if keys[:1] != ["linux"]:
        return False
    holder = spec
    for key, below in zip(keys, [*keys[1:], ""], strict=True):
        if not isinstance(holder, dict) or key not in holder:
            return False
        if below == "" or isinstance(holder[key], list):
            del holder[key]
            return True
        holder = holder[key]
    return False


def _on_disk(spec: Spec, bundle_path: str) -> Iterator[Remark]:
    """What the config names and the host does not have. Only the root file system is no matter of when one looks."""
    raw: Any = spec  # it may be unsound: every step down is looked at
    path = _at(raw, "root", "path")
    if isinstance(path, str) and path:
        complaint = _not_a_directory(path if path[0] == "/" else f"{bundle_path or '.'}/{path}")
        if complaint:
            yield Remark(ERROR, "/root/path", f"{path!r} {complaint}", "it holds the container's root file system")
    for index, mount in enumerate(_list(_at(raw, "mounts"))):
        source, options = _at(mount, "source"), _list(_at(mount, "options"))
        if isinstance(source, str) and source and ("bind" in options or "rbind" in options):
            source_path = source if source[0] == "/" else f"{bundle_path or '.'}/{source}"
            if _is_missing(source_path):
                yield Remark(WARNING, f"/mounts/{index}/source", f"{source!r} does not exist on this host")
    for index, namespace in enumerate(_list(_at(raw, "linux", "namespaces"))):
        path = _at(namespace, "path")
        if isinstance(path, str) and path and _is_missing(path):
            yield Remark(WARNING, f"/linux/namespaces/{index}/path", f"{path!r} does not exist on this host")


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _not_a_directory(path: str) -> str:
    """Why the path is no directory, as the end of a sentence; "" if it is one, or where one may not look."""
    try:
        mode = posix.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError):
        return ""  # not ours to judge: the user of the start may see more; a NUL is told by the schema
    return "" if mode & 0o170000 == 0o040000 else "is not a directory"


def _is_missing(path: str) -> bool:
    return _not_a_directory(path) == "does not exist"


def _placed(found: list[Remark], text: str) -> list[Remark]:
    """The remarks with their lines, in the order of the file, and one more for each key that stands twice.

    What has no place of its own, being missing, is told at the nearest value around it.
    """
    wanted = {around for remark in found for around in _upwards(remark.pointer)}
    lines = Lines(text)
    at: dict[str, tuple[int, int]] = {}
    for place in places(text):
        if place.is_repeated:
            remark = Remark(WARNING, place.pointer, "the key stands here a second time: only the last counts")
            found.append(remark)
            wanted.add(place.pointer)
        if place.pointer in wanted:
            at[place.pointer] = lines.position(place.offset)
    for remark in found:
        remark.line, remark.column = next(at[around] for around in _upwards(remark.pointer) if around in at)
    return sorted(found, key=lambda remark: (remark.line, remark.column))


def _upwards(pointer: str) -> Iterator[str]:
    """The pointer, and those of the values around it, from inside out; the last is the whole document's, ""."""
    while pointer:
        yield pointer
        pointer = pointer.rpartition("/")[0]
    yield ""


# Did you mean ...?


def _what_was_meant(path: Sequence[str | int]) -> str:
    """A hint for an unknown key: a known one in its object that is almost the same, or the outermost that are."""
    *around, word = (str(key) for key in path)
    block = _block_at(around)
    known = [key for key in members(block)[0] if key != "*"] if block else []
    if near := almost(word, known):
        return f"did you mean {near}?"
    homes = sorted(home for home in _homes("Spec", "") if home.rpartition(".")[2] == word)
    outermost = min((home.count(".") for home in homes), default=0)  # process.args rather than those of some hook
    homes = [home for home in homes if home.count(".") == outermost]
    return f"there is {', '.join(homes[:3])}" if homes else ""


def _block_at(keys: Sequence[str]) -> str:
    """The block of the schema's table that describes the object at that place; "" if none does."""
    kind = "Spec"
    for key in keys:
        kind = members(kind)[0].get(key, "any") if kind in BLOCKS else _inner(kind)
    return kind if kind in BLOCKS else ""


def _inner(kind: str) -> str:
    """The kind of an array's elements, or of a map's values."""
    if kind[0] == "[":
        return kind.strip("[]+")
    return kind[1:-1].partition("=")[2] if kind[0] == "{" else "any"


def _homes(block: str, prefix: str) -> Iterator[str]:
    """Every key that the table knows, dotted: linux.resources.memory.limit, mounts[].type."""
    for key, kind in members(block)[0].items():
        if key == "*":
            continue
        yield f"{prefix}{key}"
        many = kind[0] in "[{"
        inner = _inner(kind) if many else kind
        if inner in BLOCKS:
            yield from _homes(inner, f"{prefix}{key}{'[]' if many else ''}.")


def almost(word: str, known: Sequence[str]) -> str:
    """The known word that is the same but for case, or for few letters of many; "" if there is none."""
    if not known or len(word) > 40:
        return ""
    distance, best = min((_distance(word.lower(), other.lower()), other) for other in known)
    return best if distance <= len(word) // 4 else ""


def _distance(one: str, other: str) -> int:
    """How many letters must be added, taken away, exchanged or swapped with their neighbour (Damerau's distance)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, opposite in enumerate(other, 1):
            cost = min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != opposite))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == opposite:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = above
    return row[-1]
