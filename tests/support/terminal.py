"""Both ends of a pseudo-terminal as seen by a test, and the socket that `--console-socket` names."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Self

from .runtime import DEFAULT_TIMEOUT


class Terminal:
    """A master that the test holds, and a slave for the runtime or the container to be on. Use it in a `with`."""

    def __init__(self, master_fd: int, slave_fd: int = -1) -> None:
        self.master_fd = master_fd
        self.slave_fd = slave_fd
        self.seen = ""

    @classmethod
    def open(cls) -> Terminal:
        """A new pair on the host, as a person's terminal emulator makes it."""
        return cls(*os.openpty())

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_slave()
        os.close(self.master_fd)

    def close_slave(self) -> None:
        """Leave the slave to the runtime, so that its end shows as end of file."""
        if self.slave_fd >= 0:
            os.close(self.slave_fd)
        self.slave_fd = -1

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self.master_fd, text.encode())

    def read_until(self, text: str) -> str:
        """What the screen shows, up to and with `text`; fails loudly when it never comes."""
        deadline = time.monotonic() + DEFAULT_TIMEOUT
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            assert self._read_more(0.1) is not False, f"the terminal ended without {text!r}: {self.seen!r}"
        return self.seen

    def read_all(self) -> str:
        """What the screen shows until the last process has left the slave."""
        deadline = time.monotonic() + DEFAULT_TIMEOUT
        while self._read_more(0.1) is not False:
            assert time.monotonic() < deadline, f"the terminal doesn't end: {self.seen!r}"
        return self.seen

    def _read_more(self, seconds: float) -> bool | None:
        """True: something came; None: nothing yet; False: the other end is closed (EIO on Linux)."""
        if not select.select([self.master_fd], [], [], seconds)[0]:
            return None
        try:
            data = os.read(self.master_fd, 65536)
        except OSError:
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def size(self) -> tuple[int, int]:
        """Rows and columns, by TIOCGWINSZ."""
        rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(self.master_fd, termios.TIOCGWINSZ, bytes(8)))
        return rows, columns

    def resize(self, rows: int, columns: int) -> None:
        """What a terminal emulator does when its window is dragged; the kernel sends SIGWINCH."""
        fcntl.ioctl(self.master_fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def attributes(self) -> list[object]:
        """The line's modes, see termios(3)."""
        return list(termios.tcgetattr(self.slave_fd))


def on_terminal(terminal: Terminal) -> dict[str, object]:
    """Options for Popen: the slave is its standard streams, and the controlling terminal of a new session."""
    slave_fd = terminal.slave_fd

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave_fd, termios.TIOCSCTTY, 0)

    return {"stdin": slave_fd, "stdout": slave_fd, "stderr": slave_fd, "preexec_fn": take_terminal}


class DescriptorSocket:
    """The engine's end of --pidfd-socket and --console-socket. Use it in a `with`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(DEFAULT_TIMEOUT)
        self.socket.bind(str(path))
        self.socket.listen(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def receive_descriptor(self) -> tuple[str, int]:
        """The data of the one message, and the one descriptor that came with it."""
        connection, _ = self.socket.accept()
        with connection:
            connection.settimeout(DEFAULT_TIMEOUT)
            data, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4 * array.array("i").itemsize))
            fds = array.array("i")
            for level, kind, payload in ancillary:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                fds.frombytes(payload)
            assert len(fds) == 1, f"{len(fds)} descriptors in the message"
        return data.decode(), fds[0]


class ConsoleSocket(DescriptorSocket):
    """The engine's end of --console-socket, which receives the master of the container's terminal."""

    def receive(self) -> tuple[str, Terminal]:
        """The data of the one message, and the terminal whose master came with it."""
        data, master_fd = self.receive_descriptor()
        return data, Terminal(master_fd)


def finish(process: subprocess.Popen[bytes]) -> int:
    """Wait for a spawned process with a bound, and give its exit status."""
    try:
        return process.wait(DEFAULT_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError("the runtime hangs") from None
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
