"""How a process of ours goes into a container: on its own, sealed while it is Python, and with every failure reported.

Read beside runc:libcontainer/init_linux.go:/^func startInitialization/.
"""

from __future__ import annotations

import _signal
import posix
import sys

from pyruntime import report
from pyruntime.errors import Error, KernelError
from pyruntime.launch import exeseal
from pyruntime.launch.sync import DEBUG, WARNING
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.call import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pyruntime.launch.sync import Channel
    from pyruntime.launch.tape import Tape


_ignored: list[int] = []  # signals


def prepare_to_go() -> None:
    """In the parent, right before the clone, for each page that the child touches is copied: which signals are ignored.

    By Python (SIGPIPE, SIGXFSZ), or by a caller such as nohup.
    """
    _ignored[:] = [number for number in range(1, _signal.NSIG) if _signal.getsignal(number) == _signal.SIG_IGN]


def default_signals(tape: Tape) -> None:
    """Add: treat each signal as by default, and block none. See rt_sigaction(2)."""
    prepare_to_go()
    action = Struct(bytes(64))  # a struct sigaction of the kernel's: SIG_DFL
    for number in _ignored:
        tape.call(c.SYS_rt_sigaction, number, action, 0, 8)
    tape.call(c.SYS_rt_sigprocmask, _signal.SIG_SETMASK, Struct(bytes(8)), 0, 8)


def go_inside(channel: Channel, become: Callable[[], object]) -> NoReturn:
    """Seal this process, which has just been cloned, and have it become the user's program. Never returns.

    The parent has called `prepare_to_go`. If `become` fails the process reports why not on the channel, and ends.
    """
    try:
        report.sinks[:] = [lambda level, message: _pass_on(channel, level, message)]
        _seal()
        _cut_ties()
        become()
    except Error as error:
        channel.send_error(error)
    except OSError as error:
        channel.send_error(KernelError(f"in the child: {error.filename or error}", error.errno or 0))
    except BaseException as error:
        channel.send_error(Error(f"a bug in the child: {type(error).__name__}: {error}"))
    finally:
        posix._exit(1)


def _seal() -> None:
    """From here on nothing can be imported: not by us, and not by the standard library behind our back.

    CVE-2019-14271 was a library that loaded another one late, by then from inside the container.
    """
    for finders in (sys.meta_path, sys.path, sys.path_hooks):
        finders.clear()


def _cut_ties() -> None:
    """Leave the caller's session, die with the parent until we are ready, and take none of its signal state along."""
    posix.setsid()
    syscalls.prctl(c.PR_SET_PDEATHSIG, _signal.SIGKILL)
    syscalls.prctl(c.PR_SET_DUMPABLE, 0)  # CVE-2016-9962: not to be traced from inside of a namespace that we join
    for number in _ignored:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def hop(hop_fd: int, keep: list[int], preserve_fds: int) -> NoReturn:
    """Become the hop, with the descriptors that its tape names, and those of the container's. Raises KernelError."""
    syscalls.close_range(3 + preserve_fds, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
    for fd in keep:
        posix.set_inheritable(fd, True)
    exeseal.execute(hop_fd)


def _pass_on(channel: Channel, level: str, message: str) -> None:
    channel.send(WARNING if level == "warning" else DEBUG, message)
