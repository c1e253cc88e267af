"""What the core has to say without failing: warnings and debug lines, handed to whoever listens.

The core never prints (architecture.md, rule 8). It calls `warn` or `debug`; the command line puts a sink into `sinks`
that writes to stderr or to `--log`. A library user who installs no sink gets warnings as Python warnings, so that none
is lost in silence.

Read beside runc:main.go:/^func configLogrus/: logrus is what runc's core prints through.
"""

from __future__ import annotations

from _warnings import warn as _python_warning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Sink = Callable[[str, str], None]

# Whether debug lines are wanted: what would make one asks first, where that costs something.
debugging = False

# Each is called with (level, message); level is "warning" or "debug", named as logrus names them.
sinks: list[Sink] = []


def warn(message: str) -> None:
    """Tell the user of something that is odd but no reason to stop, such as a key that only cgroup v1 knows."""
    for sink in sinks:
        sink("warning", message)
    if not sinks:
        _python_warning(message, UserWarning, 2)


def debug(message: str) -> None:
    """Tell whoever asked for `--debug` what is going on. Without a sink nobody asked, and nothing is said."""
    for sink in sinks:
        sink("debug", message)
