"""python3 make_keys.py SCHEMA_DIRECTORY > runtime-spec-keys.txt: every key of config.json that the JSON schema knows.

SCHEMA_DIRECTORY is runtime-spec's schema/. A key is written a.b; a[].b in each element of an array, a{}.b under any key
of a map. What is below the keys of other platforms is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OTHERS = ("solaris", "windows", "vm", "zos", "freebsd")
HEADER = """\
# Every key of config.json and its type, from the JSON schema of the Open Container Initiative's runtime-spec
# (https://github.com/opencontainers/runtime-spec, schema/*.json, 1.3.0 and what came after it until 2026-04-25).
# Copyright 2015 The Linux Foundation, Apache License 2.0. Changed in form: made by make_keys.py beside this file.
"""


class Schema:
    """The files of the schema, and the references between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> Any:
        """A file, parsed."""
        return json.loads((self.folder / name).read_text())

    def resolved(self, node: dict[str, Any], file: str) -> tuple[dict[str, Any], str]:
        """The node that a chain of references leads to, with the file it is in, and with all of `allOf` in one."""
        while "$ref" in node:
            name, _, pointer = node["$ref"].partition("#")
            file = name or file
            node = self.load(file)
            for key in pointer.split("/")[1:]:
                node = node[key]
        for part in [*node.get("allOf", ()), *node.get("anyOf", ())]:
            inner, file = self.resolved(part, file)
            node = node | inner | {"properties": node.get("properties", {}) | inner.get("properties", {})}
        return node, file

    def keys(self, node: dict[str, Any], file: str, prefix: str) -> Iterator[tuple[str, str]]:
        """(key, type) of the properties of an object, in the order of the file, and of all below."""
        for name, inner in node.get("properties", {}).items():
            yield from self.key(inner, file, f"{prefix}{name}")

    def key(self, node: dict[str, Any], file: str, key: str) -> Iterator[tuple[str, str]]:
        """One key, and those below."""
        node, file = self.resolved(node, file)
        brackets = ""
        while node.get("type") == "array" or "additionalProperties" in node or "patternProperties" in node:
            if node.get("type") == "array":
                brackets, inner = brackets + "[]", node["items"]
            else:
                brackets += "{}"
                inner = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
            node, file = self.resolved(inner, file)
        yield key, type_of(node) + brackets
        if key not in OTHERS:
            yield from self.keys(node, file, f"{key}{brackets}.")


def type_of(node: dict[str, Any]) -> str:
    """string, A|B|C, boolean, object, integer, or 0..255."""
    if "enum" in node:
        return "|".join(node["enum"])
    if "minimum" in node:
        return f"{node['minimum']}..{node.get('maximum', 2**31 - 1)}"
    return str(node.get("type", "object"))


def main(folder: str) -> None:
    schema = Schema(Path(folder))
    rows = [*schema.keys(schema.load("config-schema.json"), "config-schema.json", "")]
    width = max(len(key) for key, _ in rows)
    print(HEADER, *(f"{key:{width}} {kind}\n" for key, kind in sorted(rows)), sep="", end="")


if __name__ == "__main__":
    main(sys.argv[1])
