"""The command line once more, for click: help, better words for a wrong command line, and shell completion.

Built from the table in `cli.options`. What is called is decided by `cli.parse` alone, which also knows Go's spellings
(-b=X, -bundle X, --detach=false); a test holds that both understand click's spellings alike.

Completion is click's (click.palletsprojects.com, "Shell Completion"). For bash, in ~/.bashrc (zsh and fish likewise):

    eval "$(_PYRUNTIME_COMPLETE=bash_source pyruntime)"
"""

from __future__ import annotations

import posix
from typing import Any

import click
from click.shell_completion import CompletionItem

from pyruntime.cli import manual
from pyruntime.cli.options import COMMANDS, COUNT, DEFAULT_ROOT, DIRECTORY, FILE, FLAG, GLOBAL, LIST, WORDS
from pyruntime.cli.parse import Call, key_of, without_dashes
from pyruntime.errors import UsageError
from pyruntime.net.networks import Networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.options import Command, Option

PROGRAM = "pyruntime"
COMPLETION_VARIABLE = "_PYRUNTIME_COMPLETE"
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def help_or_complete(argv: list[str]) -> int:
    """Print the help that `argv` asks for, or do what the completion variable says; return the exit status."""
    status = build().main(argv, PROGRAM, complete_var=COMPLETION_VARIABLE, standalone_mode=False, obj=Call())
    return status if isinstance(status, int) else 0


def explain(argv: list[str], error: UsageError, verb: str = "") -> UsageError:
    """The error in click's words, which tell what may have been meant; as it came where click sees nothing wrong."""
    try:
        read(argv)
    except click.ClickException as complaint:
        text = complaint.format_message()
        return UsageError(text[:1].lower() + text[1:].rstrip("."), where=error.where, hint=_hint(complaint, verb))
    return error


def read(argv: list[str]) -> Call:
    """The Call that click understands `argv` to be. Raises click.ClickException, and click's Exit for --help."""
    call = Call()
    build().main(argv, PROGRAM, obj=call, standalone_mode=False)
    return call


def _hint(complaint: click.ClickException, verb: str) -> str:
    """Where help is; and for a global option behind the verb, where it belongs."""
    context = getattr(complaint, "ctx", None)
    path = context.command_path if context is not None else f"{PROGRAM} {verb}".rstrip()
    misplaced = getattr(complaint, "option_name", None) in [f"--{option[0]}" for option in GLOBAL]
    return "a global option: it goes before the command" if misplaced else f"see {path} --help"


def build() -> click.Group:
    """The click group of the whole program."""
    group = Program(
        name=PROGRAM,
        help=manual.PROGRAM,
        epilog=manual.COMPLETION,
        params=[_option(option) for option in GLOBAL if option[0] != "help"],
        context_settings=HELP_NAMES,
        callback=_take_settings,
        invoke_without_command=True,
        subcommand_metavar="COMMAND [ARGS]...",
    )
    for row in COMMANDS:
        name, _, member = row[0].partition(" ")
        if not member:
            group.add_command(_command(row))
            continue
        if name not in group.commands:
            help_text, summary = manual.GROUPS[name]
            members = Program(name, help=help_text, short_help=summary, context_settings=HELP_NAMES)
            members.no_args_is_help = False  # the words are cli.parse's, and the status is that of an error
            group.add_command(members)
        within = group.commands[name]
        assert isinstance(within, Program)
        within.add_command(_command(row), member)
    return group


class Program(click.Group):
    """A group that lists its commands in the table's order: as a newcomer needs them, not as the alphabet has them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return list(self.commands)


def _command(row: Command) -> click.Command:
    name, options, operands, follows, handler, summary = row
    parameters: list[click.Parameter] = [_option(option) for option in options if option[0] != "help"]
    for number, word in enumerate(operands):
        parameters.append(Operand(number, word))
    if follows:
        # `--` is where options end for click; that it must stand before a command is a matter for cli.parse.
        parameters.append(click.Argument(["args"], metavar=follows, nargs=-1, type=click.UNPROCESSED))

    @click.pass_obj
    def take(call: Call, /, **values: Any) -> None:
        call.verb, call.handler = name, handler
        given = [values.pop(f"operand{number}") for number in range(len(operands))]
        call.operands = [text for text in given if text is not None]
        words = list(values.pop("args", ()))
        call.args = (without_dashes(words) if follows == WORDS else words) or None
        lists = {key_of(option): list(values[key_of(option)]) for option in options if option[2] == LIST}
        call.options = {**values, **lists, "help": False}

    return click.Command(
        name=name.rpartition(" ")[2],
        help=manual.VERBS.get(name, f"{summary[:1].upper()}{summary[1:]}."),
        short_help=summary,
        params=parameters,
        callback=take,
        context_settings={**HELP_NAMES, "allow_interspersed_args": follows != WORDS},
    )


@click.pass_obj
def _take_settings(call: Call, /, **settings: Any) -> None:
    call.settings = {**settings, "help": False}


def _option(option: Option) -> click.Option:
    name, short, kind, default, text = option
    names = [key_of(option), f"--{name}", *([f"-{short}"] if short else [])]
    if kind == FLAG:
        return click.Option(names, is_flag=True, default=default, help=text)
    if kind == LIST:
        return click.Option(names, multiple=True, metavar="TEXT", help=f"{text} (may be repeated)")
    if isinstance(kind, tuple):
        return click.Option(names, type=click.Choice(kind), default=default, show_default=True, help=text)
    kinds: dict[str, Count | Place] = {COUNT: Count(), FILE: Place("file"), DIRECTORY: Place("dir")}
    return click.Option(names, type=kinds.get(kind, click.STRING), default=default, metavar=_metavar(kind), help=text)


def _metavar(kind: str) -> str:
    return {COUNT: "N", FILE: "FILE", DIRECTORY: "DIR"}.get(kind, "TEXT")


class Count(click.types.IntParamType):
    """A decimal number as `cli.parse` takes it: click's INT would also take ' 1' and '1_0'."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Raises click's BadParameter."""
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**31):
            self.fail(f"{text!r} is not a number from 0 to {2**31 - 1}", param, ctx)
        return int(text)


class Place(click.types.StringParamType):
    """A path: any text (who uses it checks it; a check here would only be a race), completed by the shell."""

    name = "path"

    def __init__(self, completion: str) -> None:
        self.completion = completion

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete names of files or directories."""
        return [CompletionItem(incomplete, type=self.completion)]


class Operand(click.Argument):
    """An operand of the table, such as "ID" or "[SIGNAL]", with what a shell can offer for it."""

    def __init__(self, number: int, word: str) -> None:
        super().__init__([f"operand{number}"], metavar=word, required=word[0] != "[")
        self.word = word

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """IDs of the containers below --root, names of networks or signals, or directories."""
        if "BUNDLE" in self.word:
            return [CompletionItem(incomplete, type="dir")]
        if self.word in ("NAME", "[ADDRESS]"):
            return []  # the one is to be made, the other anybody's
        if "SIGNAL" in self.word:
            names = _signal_names()
        else:
            names = Networks(_root(ctx)).names() if self.word == "NETWORK" else _container_ids(ctx)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _signal_names() -> list[str]:
    import _signal

    return [name[3:] for name in dir(_signal) if name.startswith("SIG") and "_" not in name]


def _root(ctx: click.Context) -> str:
    return ctx.find_root().params.get("root") or DEFAULT_ROOT


def _container_ids(ctx: click.Context) -> list[str]:
    try:
        return sorted(posix.listdir(_root(ctx)))
    except OSError:
        return []  # nothing to offer, and no place to say why
