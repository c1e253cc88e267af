"""Random configs, made from the schema's own table: sound ones, and such with something odd in them.

The sound ones are sound for the schema alone (a hostname without its namespace may well be among them).
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from pyruntime.spec.default import default_spec
from pyruntime.spec.schema import BLOCKS, MEMORY_FLAGS, MEMORY_MODES, RLIMITS, SCHED_FLAGS, members

WORDS = st.sampled_from(
    "a b.c /tmp /proc/self/fd/7 .. ../x x=y 0-3,7 2MB memory.high a:b:c ro bind rbind size=1k 1".split()
)
PRINTABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
# What the schema calls a name, and what the strings of such a name may be.
TEXTS: dict[str, st.SearchStrategy[str]] = {
    "text": WORDS | PRINTABLE,
    "filled": WORDS | PRINTABLE.filter(bool),
    "utsname": PRINTABLE,
    "assignment": st.builds("A{}={}".format, PRINTABLE, PRINTABLE),
    "path": st.builds("/{}".format, WORDS | PRINTABLE),
    "path?": st.just("") | st.builds("/{}".format, WORDS | PRINTABLE),
    "word": st.sampled_from(["mlx5_0", "hfi1", "a.b/c~d"]),
    "ifname": st.sampled_from(["eth0", "lo", "dummy0", "a.b~c"]),
    "ifname?": st.sampled_from(["", "eth0", "net%d", "a.b~c"]),
    "access": st.sampled_from(["r", "w", "m", "rw", "mr", "rwm", "rwa"]),
    "version": st.sampled_from(["1.0.0", "1.2.1", "1.3.0-rc.1", "1.99.0"]),
    "mempolicy": st.sampled_from([f"MPOL_{name}" for name in MEMORY_MODES.split()]),
    "mempolicyflag": st.sampled_from([f"MPOL_F_{name}" for name in MEMORY_FLAGS.split()]),
    "schedflag": st.sampled_from([f"SCHED_FLAG_{name}" for name in SCHED_FLAGS.split()]),
    "ranges": st.sampled_from(["", "0", "0-1", "0,2-3", "1023"]),
    "action": st.sampled_from("SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_LOG SCMP_ACT_KILL SCMP_ACT_TRAP".split()),
    "action?": st.sampled_from("SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_LOG SCMP_ACT_KILL_PROCESS".split()),
    "architecture": st.sampled_from("SCMP_ARCH_X86_64 SCMP_ARCH_X86 SCMP_ARCH_AARCH64 SCMP_ARCH_S390X".split()),
    "filter-flag": st.sampled_from("LOG SPEC_ALLOW TSYNC".split()).map("SECCOMP_FILTER_FLAG_{}".format),
    "operator": st.sampled_from("EQ GE GT LE LT MASKED_EQ NE".split()).map("SCMP_CMP_{}".format),
    "rlimit": st.sampled_from([f"RLIMIT_{name}" for name in RLIMITS.split()]),
}
BITS = {
    "u16": (0, 2**16 - 1),
    "u32": (0, 2**32 - 1),
    "u64": (0, 2**64 - 1),
    "i64": (-(2**63), 2**63 - 1),
    "i32": (-(2**31), 2**31 - 1),
}

# Odd values: wrong types, numbers at and beyond every edge, text that no kernel takes, deep nests.
EDGES = [0, 1, -1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400]
TEXT = st.text(st.characters(categories=["L", "N", "P", "Cc", "Cs", "Cf", "Zl", "So"]), max_size=8)
ODD_TEXT = TEXT | st.sampled_from(
    ["", "\0", "a\0b", "\ud800", "\udcff", "\n", "\x1b[2J", "é" * 40, "x" * 5000, "/" * 300]
)
ODD_LEAF = st.sampled_from([None, True, False, 0.0, -0.0, 1.0, 1e308, 5e-324, *EDGES]) | ODD_TEXT | st.integers()


def nested(depth: int, key: str) -> Any:
    """An array or object with as many levels."""
    value: Any = 1
    for _ in range(depth):
        value = {key: value} if key else [value]
    return value


ODD = (
    st.recursive(ODD_LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXT, inner, max_size=3))
    | st.builds(nested, st.integers(1, 300), st.sampled_from(["", "a", "type"]))
    | st.sampled_from([[1] * 2000, [{}] * 300, {str(number): {} for number in range(500)}])
).map(copy.deepcopy)


def of_kind(kind: str) -> st.SearchStrategy[Any]:
    """Values that are sound for a kind of the table; anything for a kind that is not known here."""
    if kind[0] == "[":
        return st.lists(of_kind(kind.strip("[]+")), min_size=kind[-1] == "+", max_size=3)
    if kind[0] == "{":
        form, _, item = kind[1:-1].partition("=")
        return st.dictionaries(of_kind(form), of_kind(item), max_size=3)
    if ".." in kind:
        least, greatest = map(int, kind.split(".."))
        return st.integers(least, greatest)
    if "|" in kind:
        return st.sampled_from(kind.split("|"))
    if kind in BLOCKS:
        return st.deferred(lambda: block(kind))
    if kind[:3] == "v1:":
        return of_kind(kind[3:])
    if kind in BITS:
        least, greatest = BITS[kind]
        return st.integers(least, greatest) | st.sampled_from([least, greatest, 0, 1])
    if kind == "id":
        return st.sampled_from([0, 1, 1000, 2**32 - 2])
    return st.booleans() if kind == "flag" else TEXTS.get(kind, ODD)


def block(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of one block: all that is required, some of the rest."""
    kinds, required = members(name)
    kinds.pop("*", None)
    made = {key: of_kind(kind) for key, kind in kinds.items()}
    return st.fixed_dictionaries(
        {key: made[key] for key in required}, optional={key: made[key] for key in kinds if key not in required}
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@st.composite
def near(draw: st.DrawFn, base: Any) -> Any:
    """A Spec with some of its blocks' keys set to sound values: most get past the schema, many past the rules."""
    spec = copy.deepcopy(base)
    homes = {"Process": spec["process"], "Linux": spec["linux"], "Resources": spec["linux"]["resources"], "Spec": spec}
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(homes)))
        kinds, _ = members(name)
        key = draw(st.sampled_from(sorted(kinds)))
        homes[name][key] = draw(of_kind(kinds[key]))
    return spec


def near_default() -> st.SearchStrategy[Any]:
    """Such Specs near the one that `pyruntime spec` writes."""
    return near(default_spec())


def odd_specs() -> st.SearchStrategy[Any]:
    """Odd Specs, near the default one or far away."""
    return odd(near_default() | block("Spec"))


def odd_resources() -> st.SearchStrategy[Any]:
    """Odd `linux.resources`, as a file for `update` may have them."""
    return odd(block("Resources"))


@st.composite
def odd(draw: st.DrawFn, sound: st.SearchStrategy[Any]) -> Any:
    """A Spec that was sound, or nearly, until something odd was put somewhere, or taken away."""
    spec = copy.deepcopy(draw(sound))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(places(spec)[1:] or [()]))
        if not path:
            break  # nothing is left
        holder = spec
        for key in path[:-1]:
            holder = holder[key]
        how = draw(st.sampled_from(["odd", "odd", "unknown key", "gone", "twice"]))
        if how == "gone":
            del holder[path[-1]]
        elif how == "twice" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[path[-1]]))
        elif how == "unknown key" and isinstance(holder, dict):
            holder[draw(ODD_TEXT)] = draw(ODD)
        elif how == "odd":
            holder[path[-1]] = draw(ODD)
    return spec
