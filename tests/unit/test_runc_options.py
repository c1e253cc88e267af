"""docs/runc.md has every command and option of runc's and of ours, and promises what the table of options holds."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pyruntime.cli.options import COMMANDS, GLOBAL, NOT_SERVED

CHECKOUT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = (CHECKOUT / "docs/runc.md").read_text()
ROW = re.compile(r"^\| `--([\w-]+)` \| (.+) \|$", re.MULTILINE)

# Command -> its options; "" has the global ones.
Options = dict[str, set[str]]


def runcs() -> Options:
    """Those of runc, as tests/data/make_options.py has found them in its sources."""
    found: Options = {}
    for line in (CHECKOUT / "tests/data/runc-options.txt").read_text().splitlines():
        command, *option = line.split()[:2] if line and line[0] != "#" else [""]
        if command:
            found.setdefault("" if command == "runc" else command, set()).update(each[2:] for each in option)
    return found


def ours() -> Options:
    """Those of the table that are served."""
    found = {row[0]: {option[0] for option in row[1]} - {"help"} for row in COMMANDS if row[4] != NOT_SERVED}
    return {"": {option[0] for option in GLOBAL}, **found}


RUNCS, OURS = runcs(), ours()
SECTIONS = {
    "" if title == "Global options" else title: text
    for title, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
}
LAST = "What runc has not"


def test_the_sections_are_runcs_commands() -> None:
    assert SECTIONS.keys() == RUNCS.keys() | {LAST}


@pytest.mark.parametrize("command", RUNCS)
def test_every_option_of_runcs_is_there(command: str) -> None:
    named = set(re.findall(r"`--([\w-]+)`", SECTIONS[command]))
    assert sorted(RUNCS[command] - named) == []


@pytest.mark.parametrize("command", RUNCS.keys() & OURS.keys())
def test_what_is_said_of_an_option_is_so(command: str) -> None:
    rows = dict(ROW.findall(SECTIONS[command]))
    assert rows.keys() == RUNCS[command] | OURS[command]
    for option, text in rows.items():
        kind = text.split()[0].rstrip(",.:;")
        assert (kind == "Ours") == (option not in RUNCS[command] and option not in ("help", "version")), option
        assert kind in ("Same", "Differs", "Ours", "Not"), option
        assert kind == "Not" or option in OURS[command], option


@pytest.mark.parametrize("command", RUNCS.keys() - OURS.keys())
def test_a_command_that_is_not_served_is_called_so(command: str) -> None:
    assert SECTIONS[command].lstrip().startswith("Not served")


def test_commands_of_ours_are_named() -> None:
    for command in OURS.keys() - RUNCS.keys():
        assert f"`{command}`" in SECTIONS[LAST]


@pytest.mark.needs("runc")
@pytest.mark.parametrize("command", sorted(RUNCS))
def test_the_installed_runc_has_no_others(command: str) -> None:
    """Whatever version it is."""
    words = [command, "--help"] if command else ["--help"]
    done = subprocess.run(["runc", *words], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        assert "No help topic" in done.stdout + done.stderr, "a command that this version lacks"
        return
    told = set(re.findall(r"^ +--([\w-]+)", done.stdout, re.MULTILINE)) - {"help", "version"}
    assert sorted(told - RUNCS[command] - {"criu"}) == []
