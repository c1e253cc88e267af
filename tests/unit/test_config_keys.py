"""docs/config-keys.md, held: no key of the specification is missing, and nothing is claimed that is not so."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.support.config_keys import schema_keys, status_of

CHECKOUT = Path(__file__).resolve().parent.parent.parent
TABLE = CHECKOUT / "docs" / "config-keys.md"
ROW = re.compile(r"\| `(?P<key>[^`]+)` \| (?P<status>\w+) \| (?P<proofs>`[^|]+`) \|")

KEYS = schema_keys()
ROWS = [match.groupdict() for match in map(ROW.fullmatch, TABLE.read_text().splitlines()) if match]


def test_the_table_has_every_key_once() -> None:
    assert sorted(row["key"] for row in ROWS) == sorted(KEYS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["key"])
def test_the_status_is_what_the_validator_does(row: dict[str, str]) -> None:
    key = row["key"]
    assert status_of(key, KEYS[key]) == row["status"], f"docs/config-keys.md says otherwise of {key}"


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """The tests of a file: "test_x", "TestY::test_z"."""
    file = CHECKOUT / path
    if not file.is_file():
        return frozenset()
    found = set()
    for node in ast.parse(file.read_text()).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else (node,):
            if isinstance(inner, ast.FunctionDef) and inner.name.startswith("test_"):
                found.add(inner.name if inner is node else f"{node.name}::{inner.name}")  # type: ignore[attr-defined]
    return frozenset(found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["key"])
def test_the_proof_exists(row: dict[str, str]) -> None:
    for proof in re.findall("`([^`]+)`", row["proofs"]):
        path, _, name = proof.partition("::")
        assert name in names_in(path), f"{row['key']}: there is no {proof}"
        if path == Path(__file__).relative_to(CHECKOUT).as_posix():
            continue  # each row is a case of the test above
        leaf = row["key"].rpartition(".")[2]
        assert re.search(rf"\b{leaf}\b", (CHECKOUT / path).read_text()), f"{path} never mentions {leaf}"
