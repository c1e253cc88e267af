"""Lists of numbers as config.json writes them: of CPUs, of NUMA nodes."""

from __future__ import annotations


def members(text: str) -> tuple[int, ...]:
    """The numbers of a list such as "0-3,7" that spec.schema has found sound, in order and each once."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip(" \t").partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))
