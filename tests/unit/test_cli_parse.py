"""One table, two readers: what cli.parse understands, and that click understands the same."""

from __future__ import annotations

from typing import Any

import click
import pytest

from pyruntime.cli import click_app
from pyruntime.cli.options import COMMANDS, GLOBAL, NOT_SERVED
from pyruntime.cli.parse import Call, key_of, parse
from pyruntime.errors import UnsupportedError, UsageError

# Spellings that both readers know.
SHARED = [
    "run web",
    "run -b bundle web",
    "run --bundle bundle web",
    "run --bundle=bundle web",
    "run -bbundle web",
    "run web --bundle bundle",
    "run web -d --keep --no-subreaper --no-pivot --no-new-keyring",
    "run -db bundle web",
    "run --preserve-fds 3 --pid-file p --console-socket c --pidfd-socket f web",
    "run --bundle= web",
    "run --bundle one --bundle two web",
    "run -b -d web",
    "run -- web",
    "run - ",
    "create --preserve-fds=0 web",
    "run web -- echo -n hi",
    "run -b bundle web -- sh -c --",
    "create bundles/hello -- true",
    "start web",
    "state web",
    "exec web ls -l /",
    "exec -d web ls -d",
    "exec web -- ls -- -x",
    "exec -- web ls --help",
    "exec -dt web sh",
    "exec -e A=1 --env B=2 -eC=3 --env=D=4,5 web env",
    "exec -g 1 -g 2 -u 1:2 -c CAP_KILL --cap CAP_CHOWN --cwd /tmp web id",
    "exec --no-new-privs web true",
    "exec -p process.json --detach --pid-file p --console-socket c --pidfd-socket f web",
    "exec --cgroup a --cgroup b --ignore-paused --apparmor x --process-label y --preserve-fds 2 web true",
    "exec web",
    "exec web --",
    "kill web",
    "kill web KILL",
    "kill --all web 9",
    "kill web 9 -a",
    "kill -- web",
    "delete -f web",
    "delete web --force",
    "pause web",
    "resume web",
    "ps web",
    "ps -f json web",
    "ps web -f json",
    "ps --format=table web -e -o pid,args --help",
    "ps -- web -ef",
    "ps web -- -ef",
    "ps -- web -- -ef",
    "ps web - --",
    "list",
    "list -q",
    "list -qf json",
    "list --format=table",
    "spec --rootless -b there",
    "features",
    "plan",
    "plan there",
    "plan there --format json --id x -- echo",
    "--root /r state web",
    "--root=/r --debug --log l --log-format json state web",
    "--systemd-cgroup --rootless true run web",
    "--rootless=auto list",
    "-- state web",
    "run --net bridge -p 1:2 --publish 3:4/udp -p5:6 --ip 10.1.2.3 web",
    "plan --net none there",
    "network create back",
    "network create back --subnet 10.1.2.0/24 --subnet=fd00::/64 --mtu 1400",
    "network list -q",
    "--root /r network list -f json",
    "network inspect back",
    "network remove -- back",
]

# What both refuse.
WRONG = [
    "stat web",
    "network",
    "network nonsense",
    "network create",
    "network create one two",
    "network --subnet x create one",
    "network create one --mtu x",
    "networkcreate one",
    "state",
    "state one two",
    "state --root /r web",
    "state web --nonsense",
    "state -x web",
    "kill web TERM KILL",
    "pause",
    "resume one two",
    "ps",
    "ps -f json",
    "ps -f yaml web",
    "ps -x web",
    "ps --",
    "run web --bundle",
    "run web -b",
    "run --preserve-fds x web",
    "run --preserve-fds -1 web",
    "run --preserve-fds 1_0 web",
    "run --preserve-fds 2147483648 web",
    "exec",
    "exec -e",
    "exec --env",
    "exec --preserve-fds x web true",
    "exec --nonsense web true",
    "list -f yaml",
    "list extra",
    "--log-format xml list",
    "--rootless maybe list",
    "--root",
    "--nonsense list",
    "features extra",
    "spec extra",
    "run",
]


def contents(call: Call) -> dict[str, Any]:
    return {
        "verb": call.verb,
        "handler": call.handler,
        "settings": {name: value for name, value in call.settings.items() if name not in ("help", "version")},
        "options": {name: value for name, value in call.options.items() if name != "help"},
        "operands": call.operands,
        "args": call.args,
    }


@pytest.mark.parametrize("line", SHARED)
def test_click_reads_what_we_read(line: str) -> None:
    assert contents(parse(line.split())) == contents(click_app.read(line.split()))


@pytest.mark.parametrize("line", WRONG)
def test_click_refuses_what_we_refuse(line: str) -> None:
    with pytest.raises(UsageError):
        parse(line.split())
    with pytest.raises(click.ClickException):
        click_app.read(line.split())


@pytest.mark.parametrize(
    ("line", "same_as"),
    [
        ("run -b=bundle web", "run -b bundle web"),
        ("run -bundle bundle web", "run --bundle bundle web"),
        ("run -bundle=bundle web", "run --bundle bundle web"),
        ("run --detach=true web", "run --detach web"),
        ("run -d=false web", "run web"),
        ("run --detach --detach=false web", "run web"),
        ("-root /r -debug state web", "--root /r --debug state web"),
        ("run -- web -- echo", "run web -- echo"),
        ("delete -force=1 web", "delete -f web"),
        ("exec -env A=1 -e=B=2 web env", "exec -e A=1 -e B=2 web env"),
    ],
)
def test_spellings_of_go_mean_the_same(line: str, same_as: str) -> None:
    assert contents(parse(line.split())) == contents(parse(same_as.split()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run web --detach=maybe", "option --detach: 'maybe' is not a boolean"),
        ("run web --", "'--' needs a command behind it"),
        ("run -- web extra", "unexpected argument: 'extra' (usage: run ID|BUNDLE [-- CMD ARGS...])"),
        ("run web echo hi", "unexpected argument: 'echo' (usage: run ID|BUNDLE [-- CMD ARGS...])"),
        ("kill", "missing argument: ID (usage: kill ID [SIGNAL])"),
        ("state -- one two", "unexpected argument: 'two' (usage: state ID)"),
        ("list -qx", "no such option: -x"),
        ("run web --bundle", "option --bundle needs a value"),
        ("run --preserve-fds ٣ web", "option --preserve-fds: '٣' is not a number from 0 to 2147483647"),
    ],
)
def test_what_is_wrong_is_told(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line.split())
    assert str(caught.value) == message


def test_a_value_may_look_like_an_option() -> None:
    call = parse(["run", "-b", "--", "web"])
    assert (call.options["bundle"], call.operands, call.args) == ("--", ["web"], None)


def test_an_option_that_is_given_twice_is_a_list_of_its_own() -> None:
    first, second = parse(["exec", "-e", "A=1", "-e", "", "web", "env"]), parse(["exec", "web", "env"])
    assert (first.options["env"], second.options["env"]) == (["A=1", ""], [])


def test_a_flag_may_be_left_to_config_json() -> None:
    values = [parse(["exec", *words, "web", "ls"]).options["no_new_privs"] for words in
              ([], ["--no-new-privs"], ["--no-new-privs=false"])]  # fmt: skip
    assert values == [None, True, False]


def test_an_empty_operand_is_an_operand() -> None:
    assert parse(["state", ""]).operands == [""]


def test_the_command_keeps_every_word() -> None:
    assert parse(["run", "web", "--", "--", "", "-b", "--help"]).args == ["--", "", "-b", "--help"]


def test_another_programs_words_begin_behind_the_operands() -> None:
    call = parse(["ps", "-f", "json", "web", "-f", "--help", "--", ""])
    assert (call.options["format"], call.operands, call.args) == ("json", ["web"], ["-f", "--help", "--", ""])
    assert parse(["ps", "web", "--", "-ef"]).args == ["-ef"]
    assert parse(["ps", "web", "--"]).args is None
    assert parse(["ps", "web"]).args is None


def test_help_and_version_need_nothing_else() -> None:
    assert parse(["run", "--help"]).options["help"] is True
    assert parse(["-h"]).settings["help"] is True
    assert parse(["--version"]).settings["version"] is True
    assert parse(["-v", "nonsense"]).verb == ""
    assert parse(["exec", "-h"]).options["help"] is True


@pytest.mark.parametrize("verb", [row[0] for row in COMMANDS if row[4] == NOT_SERVED])
def test_verbs_that_are_not_served_say_so(verb: str) -> None:
    with pytest.raises(UnsupportedError, match="not served yet"):
        parse([verb, "web", "--tty", "sh"])
    # Help that promised them would be a lie.
    assert "(not served yet)" in next(row[5] for row in COMMANDS if row[0] == verb)


def test_runc_has_no_verb_that_we_do_not_know() -> None:
    runc = "checkpoint create delete events exec features kill list pause ps restore resume run spec start state update"
    assert set(runc.split()) <= {row[0] for row in COMMANDS}


def test_the_table_is_sound() -> None:
    for options in (GLOBAL, *(row[1] for row in COMMANDS)):
        names = [f"--{option[0]}" for option in options] + [f"-{option[1]}" for option in options if option[1]]
        assert len(names) == len(set(names))
        assert "--help" in names
    globals_ = {key_of(option) for option in GLOBAL}
    for row in COMMANDS:
        assert {key_of(option) for option in row[1]} & globals_ <= {"help", "rootless"}, row[
            0
        ]  # spec --rootless is runc's


def test_every_handler_exists() -> None:
    for row in COMMANDS:
        if row[4] != NOT_SERVED:
            module, _, function = row[4].partition(":")
            assert callable(getattr(__import__(f"pyruntime.cli.{module}", fromlist=[function]), function))


def test_click_tells_what_may_have_been_meant() -> None:
    line = ["run", "--detatch", "web"]
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert "--detach" in str(click_app.explain(line, caught.value))


def test_the_hint_names_the_verb_of_an_option_without_its_value() -> None:
    line = ["run", "web", "-b"]
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert "see pyruntime run --help" in str(click_app.explain(line, caught.value, "run"))


def test_a_global_option_behind_the_verb_is_told_where_it_belongs() -> None:
    line = ["state", "web", "--root", "/r"]
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert "before the command" in str(click_app.explain(line, caught.value))
