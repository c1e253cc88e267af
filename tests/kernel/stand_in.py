"""Stands in for `run`: supervises one command as if it were a container's init, and leaves with its status.

    python stand_in.py [--terminal] COMMAND...

Prints nothing. The pid of the command goes to descriptor $READY, if that is set.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from pyruntime.launch import console
from pyruntime.launch.foreground import Foreground
from pyruntime.linux import syscalls
from pyruntime.linux.constants import PR_SET_CHILD_SUBREAPER


def start(command: list[str], foreground: Foreground, slave_fd: int) -> int:
    """Fork the command with a clean signal state, in a session of its own."""
    pid = os.fork()
    if pid == 0:
        become(command, foreground, slave_fd)
    return pid


def become(command: list[str], foreground: Foreground, slave_fd: int) -> NoReturn:
    """The child's side of `start`."""
    os.setsid()
    if slave_fd >= 0:
        console.become_controlling(slave_fd)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, foreground.original_mask)
    os.execvp(command[0], command)


def main(arguments: list[str]) -> int:
    """What launch.parent does around Foreground, without a container."""
    ready_fd = int(os.environ.get("READY", "-1"))
    if ready_fd >= 0:
        os.set_inheritable(ready_fd, False)
    wants_terminal = arguments[0] == "--terminal"
    command = arguments[1:] if wants_terminal else arguments
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
    foreground = Foreground(terminal=wants_terminal)
    master_fd, slave_fd = -1, -1
    if wants_terminal:
        root_fd = os.open("/", os.O_PATH)
        master_fd, slave_fd = console.open_pty(root_fd)
        os.close(root_fd)
    pid = start(command, foreground, slave_fd)
    if wants_terminal:
        os.close(slave_fd)
    pidfd = os.pidfd_open(pid)
    if ready_fd >= 0:
        os.write(ready_fd, str(pid).encode())
        os.close(ready_fd)
    try:
        return foreground.supervise(pid, pidfd, master_fd if wants_terminal else None)
    finally:
        foreground.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
