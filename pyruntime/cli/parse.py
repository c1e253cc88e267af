"""Read a command line from the table in `cli.options`, without click.

It accepts what runc's parser (urfave/cli) and click accept: options before and after the operands, `--name VALUE`,
`--name=VALUE`, `-n VALUE`, `-nVALUE`, `-n=VALUE`, Go's `-name`, `--flag=false`, `-qf json`, and `--`. Global options
come before the verb. Where another program's words follow the operands, the options end before those.
"""

from __future__ import annotations

from pyruntime.cli.options import COMMAND, COMMANDS, COUNT, FLAG, GLOBAL, LIST, NOT_SERVED, WORDS
from pyruntime.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cli.options import Command, Option

# The words that Go's strconv.ParseBool knows; runc takes `--detach=false`.
BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


class Call:
    """One parsed command line. Keys of `settings` and `options` are the options' names with `_` for `-`."""

    __slots__ = ("args", "failure", "handler", "log_fd", "operands", "options", "settings", "subject", "verb")

    def __init__(self) -> None:
        self.verb = ""
        self.settings: dict[str, Any] = {}  # the global options
        self.options: dict[str, Any] = {}
        self.operands: list[str] = []
        self.args: list[str] | None = None  # what followed the operands: the container's command, arguments for ps(1)
        self.handler = ""
        self.subject = ""  # the container that messages name, once it is known
        self.log_fd = -1  # the opened --log
        self.failure = 1  # the exit status of a failure


def parse(argv: list[str]) -> Call:
    """The Call that `argv`, without the program's name, asks for. Its verb is "" where argv names none.

    `--help` and `--version` end the parsing: the operands may be missing then. Raises UsageError where the command line
    is wrong, UnsupportedError for a verb of runc that is not served yet.
    """
    call = Call()
    parse_verb(call, argv, parse_globals(call, argv))
    return call


def parse_globals(call: Call, argv: list[str]) -> int:
    """Read the options before the verb into `call.settings`; return the verb's index. Raises UsageError."""
    return _read(argv, 0, GLOBAL, call.settings, [], 0)


def parse_verb(call: Call, argv: list[str], index: int) -> None:
    """Read the verb at argv[index] and what belongs to it. Raises UsageError, UnsupportedError."""
    if index == len(argv) or call.settings["help"] or call.settings["version"]:
        return
    verb, index = _verb_at(argv, index)
    call.verb = verb
    if verb in groups():
        if {"-h", "--help"}.isdisjoint(argv[index : index + 1]):
            raise UsageError(f"missing command: one of {', '.join(members_of(verb))}")
        call.options = {"help": True}
        return
    name, options, operands, follows, call.handler, _help = command_named(verb)
    if call.handler == NOT_SERVED and not {"-h", "--help"}.intersection(argv[index:]):
        raise UnsupportedError("not served yet")
    end = _read(argv, index, options, call.options, call.operands, len(operands) if follows == WORDS else -1)
    if call.options["help"]:
        return
    rest = argv[end:]  # empty, or a `--` and what follows, or another program's words
    if follows == WORDS:
        _take_words(call, rest, len(operands))
    elif follows == COMMAND and call.operands and rest:
        call.args = rest[1:]
    elif rest:
        _take_operands(call, rest[1:], follows)
    if call.args == []:
        raise UsageError("'--' needs a command behind it")
    check_operands(name, operands, call.operands, follows)
    if call.operands:
        call.subject = call.operands[0]


def groups() -> set[str]:
    """The verbs that are nothing without a second word: `network` of `network create`."""
    return {command[0].partition(" ")[0] for command in COMMANDS if " " in command[0]}


def members_of(group: str) -> list[str]:
    """The second words of such a verb, in the table's order."""
    return [command[0].partition(" ")[2] for command in COMMANDS if command[0].startswith(f"{group} ")]


def _verb_at(argv: list[str], index: int) -> tuple[str, int]:
    """The verb at argv[index], of one word or two, and the index behind it."""
    verb, index = argv[index], index + 1
    if verb in groups() and index < len(argv) and argv[index][:1] != "-":
        return f"{verb} {argv[index]}", index + 1
    return verb, index


def command_named(name: str) -> Command:
    """The command's row of the table. Raises UsageError."""
    for command in COMMANDS:
        if command[0] == name:
            return command
    raise UsageError(f"no such command: {name!r}")


def check_operands(name: str, wanted: tuple[str, ...], given: list[str], follows: str) -> None:
    """Raise UsageError unless as many operands were given as the table wants."""
    least = len([word for word in wanted if word[0] != "["])
    if least <= len(given) <= len(wanted):
        return
    if len(given) > len(wanted):
        usage = " ".join((name, *wanted, follows)).rstrip()
        raise UsageError(f"unexpected argument: {given[len(wanted)]!r} (usage: {usage})")
    raise UsageError(f"missing argument: {wanted[len(given)]} (usage: {name} {' '.join(wanted)})")


def without_dashes(words: list[str]) -> list[str]:
    """Another program's words, without the `--` that may stand before them."""
    return words[1:] if words[:1] == ["--"] else words


def _take_words(call: Call, rest: list[str], wanted: int) -> None:
    """Sort what follows the options: the operands that a `--` has stood before, and another program's words."""
    missing = wanted - len(call.operands)
    if missing:
        rest = without_dashes(rest)
        call.operands += rest[:missing]
    call.args = without_dashes(rest[missing:]) or None


def _take_operands(call: Call, rest: list[str], follows: str) -> None:
    """Sort what follows a `--` that came before any operand: operands, and behind a second `--` the command."""
    if follows == COMMAND and "--" in rest:
        cut = rest.index("--")
        rest, call.args = rest[:cut], rest[cut + 1 :]
    call.operands.extend(rest)


def _read(
    argv: list[str], index: int, options: tuple[Option, ...], values: dict[str, Any], operands: list[str], most: int
) -> int:
    """Read options and operands from argv[index:] up to the end or a `--`; return the index of what was not read.

    most: how many operands end the reading, too; 0: the first does, and is not read; -1: no number does.
    """
    known = {}
    for option in options:
        values[key_of(option)] = option[3] if option[2] != LIST else []
        known["--" + option[0]] = option
        if option[1]:
            known["-" + option[1]] = option
    while index < len(argv):
        word = argv[index]
        if word == "--":
            return index if most else index + 1  # before the verb it means nothing, as for runc
        if word[:1] != "-" or word == "-":
            if most == 0:
                return index
            operands.append(word)
            if len(operands) == most:
                return index + 1
            word = ""
        while word:
            option, value, word = split(word, known)
            if option[2] == FLAG:
                values[key_of(option)] = value is None or _boolean(option[0], value)
                continue
            if value is None:
                index += 1
                if index == len(argv):
                    raise UsageError(f"option --{option[0]} needs a value")
                value = argv[index]
            if option[2] == LIST:
                values[key_of(option)].append(value)
            else:
                values[key_of(option)] = _value(option[0], option[2], value)
        index += 1
    return index


def key_of(option: Option) -> str:
    """The key of an option in `Call.options`: its name with `_` for `-`."""
    return option[0].replace("-", "_")


def split(word: str, known: dict[str, Option]) -> tuple[Option, str | None, str]:
    """One word of the command line as (option, the value attached to it or None, the rest of a cluster).

    `known` has the options by their names with dashes: "--format", "-f". Raises UsageError.
    """
    name, equals, value = word.partition("=")
    option = known.get(name) or known.get("-" + name)  # the second is Go's spelling: -format
    if option is not None:
        return option, value if equals else None, ""
    option = known.get(word[:2])
    if option is None:
        raise UsageError(f"no such option: {name if word[1] == '-' else word[:2]}")
    if option[2] == FLAG:
        return option, None, "-" + word[2:]
    return option, word[2:], ""


def _boolean(name: str, text: str) -> bool:
    if text not in BOOLEANS:
        raise UsageError(f"option --{name}: {text!r} is not a boolean")
    return BOOLEANS[text]


def _value(name: str, kind: str | tuple[str, ...], text: str) -> str | int:
    """The value of an option as its kind wants it. Strict: int() would take ' 1' and '1_0'."""
    if kind == COUNT:
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**31):
            raise UsageError(f"option --{name}: {text!r} is not a number from 0 to {2**31 - 1}")
        return int(text)
    if isinstance(kind, tuple) and text not in kind:
        raise UsageError(f"option --{name}: {text!r} is not one of {', '.join(kind)}")
    return text
