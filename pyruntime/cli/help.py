"""Help, the words for a wrong command line, and shell completion: click's work, done only when it is asked for.

click costs 25 ms and is a package that may be missing (a rescue system, an initramfs). Nothing but the beauty of these
texts depends on it.
"""

from __future__ import annotations

from pyruntime.cli import emit
from pyruntime.cli.options import COMMANDS, GLOBAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.options import Option
    from pyruntime.cli.parse import Call
    from pyruntime.errors import UsageError


def show(call: Call, argv: list[str], error: UsageError | None) -> int:
    """Print the help or the completion that `argv` asks for; return the exit status.

    With `error`, the command line is wrong: raises an error that says so, in click's words if it has any.
    """
    try:
        _find_click()
        from pyruntime.cli import click_app
    except ModuleNotFoundError as missing:
        if missing.name != "click":
            raise
        if error is not None:
            raise error from None
        emit(plain_help(call.verb))
        return 0
    if error is not None:
        raise click_app.explain(argv, error, call.verb) from None
    return click_app.help_or_complete(argv)


def _find_click() -> None:
    """Import click: from beside pyruntime, else from site-packages, which the launcher leaves off the path (`-S`)."""
    try:
        import click  # noqa: F401  # the import is the test
    except ModuleNotFoundError:
        import site

        site.main()


def plain_help(verb: str) -> str:
    """Help without click: the table as it stands."""
    if not verb:
        rows = [(name, text) for name, _options, _operands, _follows, _handler, text in COMMANDS]
        return "Usage: pyruntime [OPTIONS] COMMAND [ARGS]...\n\n" + _columns(rows) + "\n" + _columns(_rows(GLOBAL))
    members = [(row[0], row[-1]) for row in COMMANDS if row[0].startswith(f"{verb} ")]
    if members:
        return f"Usage: pyruntime {verb} COMMAND [ARGS]...\n\n" + _columns(members)
    for name, options, operands, follows, _handler, text in COMMANDS:
        if name == verb:
            usage = " ".join(("pyruntime", name, "[OPTIONS]", *operands, follows)).rstrip()
            return f"Usage: {usage}\n\n  {text}\n\n" + _columns(_rows(options))
    raise LookupError(verb)


def _rows(options: tuple[Option, ...]) -> list[tuple[str, str]]:
    return [(f"-{short}, --{name}" if short else f"--{name}", text) for name, short, _kind, _default, text in options]


def _columns(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _right in rows)
    return "".join(f"  {left:{width}}  {right}\n" for left, right in rows)
