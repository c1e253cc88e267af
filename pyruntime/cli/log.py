"""Tell what went wrong: on stderr for a person, and in --log for the program that called us.

runc's contract, which containerd and CRI-O read: a line of `--log` is `time=... level=... msg=...`, or with
`--log-format json` an object {"level", "msg", "time"}; the last line with level "error" is what they show their user,
so it stands alone. Errors go to stderr too. Read beside runc:main.go:/^func configLogrus/,
runc:utils.go:/^func fatalWithCode/, and logrus: text_formatter.go, json_formatter.go.
"""

from __future__ import annotations

import posix
import time

from pyruntime import jsontext
from pyruntime.cli import OutputClosed
from pyruntime.errors import Error, errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call

LONGEST_SUBJECT = 255  # characters; no ID is longer, but what is given as one may be

# What logrus leaves without quotes: see text_formatter.go, needsQuoting.
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")


def failed(call: Call, problem: BaseException) -> int:
    """Tell of what ended the call and return the exit status; does not return where a signal's death says it best."""
    if isinstance(problem, OutputClosed):
        return die_by("SIGPIPE")
    if isinstance(problem, KeyboardInterrupt):
        return die_by("SIGINT")
    if isinstance(problem, SystemExit):
        return problem.code if isinstance(problem.code, int) else call.failure
    if isinstance(problem, Error):
        message = str(problem).removeprefix(f"{call.subject}: ")  # the line says already which container it is about
    elif isinstance(problem, OSError) and problem.errno is not None:
        message = os_error_text(problem)
    else:
        message = (
            f"a bug in pyruntime: {type(problem).__name__}: {problem} (please report it as CONTRIBUTING.md says, with"
            " what the same command prints under `pyruntime --debug`)"
        )
    tell(call, "error", message)
    if call.settings.get("debug"):
        import traceback

        _write(2, "".join(traceback.format_exception(problem)))
    return call.failure


def tell(call: Call, level: str, message: str) -> None:
    """Write one line to --log, where there is one, and to stderr; `level` is "error", "warning" or "debug".

    As in runc, with a --log the caller reads warnings there, and stderr gets errors only.
    """
    settings = call.settings
    if level == "debug" and not settings.get("debug"):
        return
    place = f"{call.verb} {_shortened(call.subject)}".rstrip()
    about = f"{place}: {message}" if place else message
    line = json_line if settings.get("log_format") == "json" else text_line
    if call.log_fd >= 0:
        _write(call.log_fd, line(level, about))
    if call.log_fd < 0 or level == "error":
        if line is json_line and call.log_fd < 0:
            _write(2, json_line(level, about))
        else:
            _write(2, f"pyruntime: {'' if level == 'error' else level + ': '}{one_line(about)}\n")


def text_line(level: str, message: str) -> str:
    """One line as logrus writes it to a file: time="2026-01-02T03:04:05Z" level=error msg="..."."""
    return f'time="{timestamp()}" level={level} msg={quoted(message)}\n'


def json_line(level: str, message: str) -> str:
    """One line as logrus' JSON formatter writes it, keys in alphabetical order."""
    return jsontext.encode({"level": level, "msg": message, "time": timestamp()}) + "\n"


def timestamp() -> str:
    """The local time as RFC 3339, to the second."""
    now = time.localtime()
    minutes = abs(now.tm_gmtoff or 0) // 60
    zone = f"{'-' if now.tm_gmtoff < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}" if minutes else "Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S", now) + zone


def quoted(text: str) -> str:
    """The text as logrus quotes a value: bare where it is one plain word, else as a Go string literal."""
    if text and PLAIN.issuperset(text):
        return text
    return '"' + one_line(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def one_line(text: str) -> str:
    """The text with what would end the line, or move a terminal's cursor, as escapes: file names may hold anything."""
    known = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return "".join(known.get(char) or (char if char.isprintable() else _escaped(ord(char))) for char in text)


def _shortened(subject: str) -> str:
    return subject if len(subject) <= LONGEST_SUBJECT else subject[:LONGEST_SUBJECT] + "..."


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that was no UTF-8
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def os_error_text(problem: OSError) -> str:
    """An OSError that nobody made a KernelError of, in the same words: '/run/x': ENOSPC: No space left on device."""
    place = f"{problem.filename!r}: " if problem.filename is not None else ""
    return f"{place}{errno_name(problem.errno or 0)}: {problem.strerror}"


def die_by(name: str) -> int:
    """End the process by a signal's default action, so that a shell sees what happened; or return 128 + number."""
    import _signal

    number = int(getattr(_signal, name))
    _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {number})
    posix.kill(posix.getpid(), number)
    return 128 + number


def _write(fd: int, text: str) -> None:
    """Write what can be written: an error can't be told where telling it fails."""
    try:
        data = memoryview(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half of a surrogate pair, in a traceback
        data = memoryview(text.encode("utf-8", "backslashreplace"))
    try:
        while data:
            data = data[posix.write(fd, data) :]
    except OSError:
        return
