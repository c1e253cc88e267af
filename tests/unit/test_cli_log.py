"""What is told of an error, where, and in which words: the contract that containerd and CRI-O rely on."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from pyruntime.cli import log
from pyruntime.cli.parse import Call
from pyruntime.errors import ConfigError, KernelError, NotFoundError

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)"


@pytest.fixture
def call() -> Call:
    made = Call()
    made.verb, made.subject = "run", "web"
    made.settings = {"debug": False, "log": "", "log_format": "text"}
    return made


def with_log(call: Call, path: Path, log_format: str = "text") -> Call:
    call.settings |= {"log": str(path), "log_format": log_format}
    call.log_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return call


def test_an_error_on_stderr(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    problem = ConfigError("no such key", where="config.json#/mounts/3", hint="look again")
    assert log.failed(call, problem) == 1
    assert capfd.readouterr().err == "pyruntime: run web: config.json#/mounts/3: no such key (look again)\n"


def test_an_error_goes_to_the_log_and_to_stderr(call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.failed(with_log(call, tmp_path / "log"), ConfigError("bad"))
    assert re.fullmatch(rf'time="{STAMP}" level=error msg="run web: bad"\n', (tmp_path / "log").read_text())
    assert capfd.readouterr().err == "pyruntime: run web: bad\n"


def test_the_log_as_json(call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.json"
    log.tell(with_log(call, path, "json"), "warning", 'odd "thing"')
    log.failed(call, ConfigError("bad\nworse\udcff"))
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [list(line) for line in lines] == [["level", "msg", "time"]] * 2
    assert [(line["level"], line["msg"]) for line in lines] == [
        ("warning", 'run web: odd "thing"'),
        ("error", "run web: bad\nworse\udcff"),
    ]
    assert all(re.fullmatch(STAMP, line["time"]) for line in lines)
    assert capfd.readouterr().err == "pyruntime: run web: bad\\nworse\\xff\n"


def test_json_without_a_log_goes_to_stderr(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    call.settings["log_format"] = "json"
    log.failed(call, ConfigError("bad"))
    assert json.loads(capfd.readouterr().err)["msg"] == "run web: bad"


def test_warnings_go_to_one_place(call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.tell(call, "warning", "odd")
    assert capfd.readouterr().err == "pyruntime: warning: run web: odd\n"
    log.tell(with_log(call, tmp_path / "log"), "warning", "odd")
    assert capfd.readouterr().err == ""
    assert "level=warning" in (tmp_path / "log").read_text()


def test_debug_lines_are_for_those_who_ask(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    log.tell(call, "debug", "detail")
    assert capfd.readouterr().err == ""
    call.settings["debug"] = True
    log.tell(call, "debug", "detail")
    assert capfd.readouterr().err == "pyruntime: debug: run web: detail\n"


def test_a_container_is_not_named_twice(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    log.failed(call, NotFoundError("container does not exist", where="web"))
    assert capfd.readouterr().err == "pyruntime: run web: container does not exist\n"


def test_what_stderr_gets_is_one_line_and_no_more(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    call.subject = "a\nb"
    log.failed(call, ConfigError("it's \x1b[31m\u00e9\udcff"))
    assert capfd.readouterr().err == "pyruntime: run a\\nb: it's \\x1b[31m\u00e9\\xff\n"
    call.subject = "a" * 300
    log.failed(call, ConfigError("bad"))
    assert capfd.readouterr().err == f"pyruntime: run {'a' * 255}...: bad\n"


def test_a_bug_is_one_line_that_says_where_to_report_it(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    assert log.failed(call, ZeroDivisionError("division by zero")) == 1
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "a bug in pyruntime: ZeroDivisionError: division by zero" in line
    assert "CONTRIBUTING.md" in line and "--debug" in line


def test_debug_shows_the_traceback(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    call.settings["debug"] = True
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as problem:
        log.failed(call, problem)
    assert "Traceback (most recent call last)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/x"), "'/run/x': ENOSPC: No space left on device"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "EIO: Input/output error"),
        (KernelError("mount()", errno.EPERM), "mount(): EPERM: Operation not permitted"),
    ],
)
def test_a_failure_of_the_system_is_no_bug(
    problem: OSError, text: str, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    log.failed(call, problem)
    assert capfd.readouterr().err == f"pyruntime: run web: {text}\n"


def test_a_log_that_is_full_does_not_hide_the_error(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    call.settings["log"] = "/dev/full"
    call.log_fd = os.open("/dev/full", os.O_WRONLY)
    log.failed(call, ConfigError("bad"))
    assert capfd.readouterr().err == "pyruntime: run web: bad\n"


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        # As logrus writes them: checked by running it.
        ("plain", "plain"),
        ("a-b._/@^+c", "a-b._/@^+c"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x" \\ y', '"say \\"x\\" \\\\ y"'),
        ("a\nb\tc\rd", '"a\\nb\\tc\\rd"'),
        ("esc\x1b", '"esc\\x1b"'),
        ("ünï", '"ünï"'),
        ("\u00a0", '"\\u00a0"'),
        ("\udcff", '"\\xff"'),
        ("\U000e0001", '"\\U000e0001"'),
    ],
)
def test_text_is_quoted_as_go_quotes_it(text: str, quoted: str) -> None:
    assert log.quoted(text) == quoted


@pytest.mark.parametrize(
    ("zone", "suffix"), [("UTC0", "Z"), ("XXX-5:30", "+05:30"), ("XXX3:30", "-03:30"), ("XXX-2", "+02:00")]
)
def test_the_time_is_local_with_its_zone(zone: str, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert log.timestamp().endswith(suffix)
        assert re.fullmatch(STAMP, log.timestamp())
    finally:
        monkeypatch.undo()
        time.tzset()


def test_an_error_before_the_command_line_is_understood(capfd: pytest.CaptureFixture[str]) -> None:
    empty: Any = Call()
    log.failed(empty, ConfigError("bad"))
    assert capfd.readouterr().err == "pyruntime: bad\n"


def test_a_message_is_one_line_that_gives_no_orders_to_the_terminal(
    call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a message tells of may come from config.json, where a key can be anything, half a surrogate pair too."""
    call.settings["debug"] = True
    problem = ConfigError("bad", where="config.json#/a\n\x1b[2J\ud800\u202e\r")
    try:
        raise problem
    except ConfigError:
        assert log.failed(call, problem) == 1
    first, *traceback = capfd.readouterr().err.splitlines()
    assert first == r"pyruntime: run web: config.json#/a\n\x1b[2J\ud800\u202e\r: bad"
    assert traceback[0].startswith("Traceback")
