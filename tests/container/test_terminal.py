"""`terminal: true`: in the foreground on a person's terminal, and over --console-socket for an engine.

Companion: runc:docs/terminals.md. The test plays the terminal emulator: it holds the master and reads the screen.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers
from tests.support.terminal import ConsoleSocket, Terminal, finish, on_terminal

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


@pytest.fixture
def screen() -> Iterator[Terminal]:
    """A person's terminal."""
    with Terminal.open() as terminal:
        yield terminal


@pytest.fixture
def console(scratch: Path) -> Iterator[ConsoleSocket]:
    """An engine's socket for the console."""
    with ConsoleSocket(scratch / "console.sock") as listening:
        yield listening


@pytest.fixture
def shown(container: Container) -> Container:
    """A container with a terminal."""
    container.process["terminal"] = True
    return container


def run_on(screen: Terminal, container: Container, *flags: str) -> subprocess.Popen[bytes]:
    """`run` in the foreground on the screen."""
    return container.spawn(*flags, **on_terminal(screen))


class TestForeground:
    def test_output_and_status(self, shown: Container, screen: Terminal) -> None:
        shown.script("echo on the screen; exit 7")
        process = run_on(screen, shown)
        screen.close_slave()
        assert "on the screen\r\n" in screen.read_all()
        assert finish(process) == 7

    def test_the_programs_streams_are_its_own_terminal(self, shown: Container, screen: Terminal) -> None:
        shown.script("tty; readlink /proc/self/fd/1; test -t 0 -a -t 1 -a -t 2 && echo all three")
        process = run_on(screen, shown)
        assert "all three" in screen.read_until("all three")
        assert "/dev/pts/0\r\n/dev/pts/0\r\n" in screen.seen
        assert finish(process) == 0

    def test_it_is_the_controlling_terminal(self, shown: Container, screen: Terminal) -> None:
        shown.script("echo through /dev/tty > /dev/tty")
        process = run_on(screen, shown)
        screen.read_until("through /dev/tty")
        assert finish(process) == 0

    def test_dev_console_is_it(self, shown: Container, screen: Terminal) -> None:
        shown.script("stat -c %t:%T /dev/console /dev/pts/0; echo through the console > /dev/console")
        process = run_on(screen, shown)
        screen.read_until("through the console")
        assert "88:0\r\n88:0\r\n" in screen.seen
        assert finish(process) == 0

    def test_typing_is_echoed_once_and_read(self, shown: Container, screen: Terminal) -> None:
        """The caller's line is raw, so that the container's does the echo, and only it."""
        shown.script("echo ready; read word; echo you said $word")
        process = run_on(screen, shown)
        screen.read_until("ready\r\n")
        screen.type("hello\r")
        screen.read_until("you said hello\r\n")
        assert screen.seen.count("hello") == 2
        assert finish(process) == 0

    def test_control_c_interrupts_the_program_inside(self, shown: Container, screen: Terminal) -> None:
        shown.script("trap 'echo interrupted; exit 3' INT; echo ready; while :; do usleep 10000; done")
        process = run_on(screen, shown)
        screen.read_until("ready")
        screen.type("\x03")
        screen.read_until("interrupted")
        assert finish(process) == 3

    def test_control_d_ends_a_shell(self, shown: Container, screen: Terminal) -> None:
        shown.process["args"] = ["sh"]
        shown.process["env"].append("PS1=prompt> ")
        process = run_on(screen, shown)
        screen.read_until("prompt> ")
        screen.type("echo $((6*7))\r")
        screen.read_until("42\r\nprompt> ")
        screen.type("\x04")
        assert finish(process) == 0

    def test_it_starts_with_the_callers_window_size(self, shown: Container, screen: Terminal) -> None:
        screen.resize(37, 111)
        shown.script("stty size")
        process = run_on(screen, shown)
        screen.read_until("37 111")
        assert finish(process) == 0

    def test_it_follows_the_callers_window_size(self, shown: Container, screen: Terminal) -> None:
        screen.resize(24, 80)
        shown.script('echo ready; until [ "$(stty size)" = "50 132" ]; do usleep 10000; done; echo followed')
        process = run_on(screen, shown)
        screen.read_until("ready")
        screen.resize(50, 132)
        screen.read_until("followed")
        assert finish(process) == 0

    def test_the_line_is_raw_meanwhile_and_restored_after(self, shown: Container, screen: Terminal) -> None:
        before = screen.attributes()
        shown.script("echo ready; read word")
        process = run_on(screen, shown)
        screen.read_until("ready")
        local_modes = screen.attributes()[3]
        assert isinstance(local_modes, int)
        assert not local_modes & (termios.ICANON | termios.ECHO | termios.ISIG)
        screen.type("\r")
        assert finish(process) == 0
        assert screen.attributes() == before

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_the_line_is_restored_when_the_container_dies(
        self, shown: Container, screen: Terminal, number: int
    ) -> None:
        before = screen.attributes()
        shown.script("trap 'exit 9' TERM; echo ready; while :; do usleep 10000; done")
        process = run_on(screen, shown)
        screen.read_until("ready")
        assert shown.kill(str(int(number))).status == 0
        assert finish(process) == (9 if number == signal.SIGTERM else 128 + number)
        assert screen.attributes() == before

    @pytest.mark.only_pyruntime("runc leaves the terminal raw when it is killed")
    def test_the_line_is_restored_when_the_runtime_is_killed(self, shown: Container, screen: Terminal) -> None:
        before = screen.attributes()
        shown.script("echo ready; read word; sleep 1000")
        process = run_on(screen, shown)
        screen.read_until("ready")
        process.kill()
        finish(process)
        wait_until(lambda: screen.attributes() == before, "the guardian to restore the terminal")

    def test_the_line_is_restored_when_the_start_fails(self, shown: Container, screen: Terminal) -> None:
        before = screen.attributes()
        shown.process["args"] = ["/no/such/program"]
        process = run_on(screen, shown)
        screen.read_until("/no/such/program")
        assert finish(process) == 1
        assert screen.attributes() == before

    def test_much_output_arrives_whole(self, shown: Container, screen: Terminal) -> None:
        """More than any buffer, and the end of it only when the program has already gone."""
        shown.script("seq 1 40000")
        process = run_on(screen, shown)
        screen.close_slave()
        assert screen.read_all() == "".join(f"{number}\r\n" for number in range(1, 40001))
        assert finish(process) == 0

    def test_output_that_goes_elsewhere(self, shown: Container, screen: Terminal) -> None:
        """Into a pipe lines come as the program wrote them; and the screen is left to those who write on it."""
        shown.script("echo one; read word; echo $word")
        process = shown.spawn(**{**on_terminal(screen), "stdout": subprocess.PIPE})
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        flags = screen.attributes()[1]
        assert isinstance(flags, int)
        assert flags & termios.OPOST
        screen.type("two\n")
        assert process.stdout.read() == b"two\ntwo\n"  # once as its echo
        assert finish(process) == 0

    def test_console_size_of_the_config(self, shown: Container, screen: Terminal) -> None:
        """It sets the first size; the caller's window may overrule it at once, as with runc."""
        screen.resize(24, 80)
        shown.process["consoleSize"] = {"height": 30, "width": 100}
        shown.script("stty size; echo done")
        process = run_on(screen, shown)
        screen.read_until("done")
        assert "30 100" in screen.seen or "24 80" in screen.seen
        assert finish(process) == 0

    def test_the_user_of_the_container_owns_it(self, shown: Container, screen: Terminal) -> None:
        shown.process["user"] = {"uid": 7, "gid": 8}
        shown.script("stat -c 'owner %u' /dev/pts/0; echo again > $(tty) && echo done")
        process = run_on(screen, shown)
        screen.read_until("done")
        assert "owner 7" in screen.seen
        assert finish(process) == 0

    @pytest.mark.needs("userns")
    def test_in_a_user_namespace(self, shown: Container, screen: Terminal) -> None:
        shown.map_root_to(100000)
        shown.script("tty; echo done > /dev/console")
        process = run_on(screen, shown)
        screen.read_until("done")
        assert "/dev/pts/0" in screen.seen
        assert finish(process) == 0

    def test_nothing_is_left(self, shown: Container, screen: Terminal, leftovers: Leftovers) -> None:
        shown.script("echo done")
        process = run_on(screen, shown)
        screen.read_until("done")
        assert finish(process) == 0
        assert leftovers.found() == []

    def test_without_a_terminal_of_the_callers(self, shown: Container, leftovers: Leftovers) -> None:
        """Standard streams that are pipes: runc 1.1 refuses, later ones copy; neither may hang."""
        shown.script("echo done")
        result = shown.run(stdin=b"")
        assert result.status in (0, 1)
        assert leftovers.found() == []


class TestConsoleSocket:
    def test_create_sends_one_master(self, shown: Container, console: ConsoleSocket) -> None:
        shown.script("read word; echo you said $word")
        assert shown.create("--console-socket", str(console.path)).status == 0
        name, terminal = console.receive()
        with terminal:
            # Debian's runc says /dev/ptmx, newer ones /dev/pts/ptmx: a name for people, that no engine relies on.
            assert name.startswith("/dev/p")
            assert os.isatty(terminal.master_fd)
            assert shown.start().status == 0
            terminal.type("hello\n")
            terminal.read_until("you said hello")

    def test_run_detached(self, shown: Container, console: ConsoleSocket) -> None:
        shown.script("echo detached; exit 3")
        assert shown.run_detached("--console-socket", str(console.path)).status == 0
        _, terminal = console.receive()
        with terminal:
            assert "detached" in terminal.read_all()

    def test_console_size(self, shown: Container, console: ConsoleSocket) -> None:
        shown.process["consoleSize"] = {"height": 33, "width": 99}
        shown.script("stty size")
        assert shown.create("--console-socket", str(console.path)).status == 0
        _, terminal = console.receive()
        with terminal:
            assert terminal.size() == (33, 99)
            assert shown.start().status == 0
            terminal.read_until("33 99")

    def test_the_master_hangs_up_when_the_container_ends(self, shown: Container, console: ConsoleSocket) -> None:
        """Nobody else may hold the slave: the runtime's parent, the container's init, a guardian."""
        shown.script("echo bye")
        assert shown.run_detached("--console-socket", str(console.path)).status == 0
        _, terminal = console.receive()
        with terminal:
            assert terminal.read_all().endswith("bye\r\n")

    def test_the_container_has_no_descriptor_of_the_socket(self, shown: Container, console: ConsoleSocket) -> None:
        shown.process["args"] = ["sleep", "1000"]
        assert shown.run_detached("--console-socket", str(console.path)).status == 0
        _, terminal = console.receive()
        with terminal:
            folder = f"/proc/{shown.pid()}/fd"
            assert {name: os.readlink(f"{folder}/{name}") for name in os.listdir(folder)} == dict.fromkeys(
                "012", "/dev/pts/0"
            )

    @pytest.mark.only_pyruntime("runc hands the path to connect(2), which refuses it")
    def test_a_long_path(self, shown: Container, scratch: Path) -> None:
        """A Unix socket's address holds 107 bytes; an engine's path may be longer."""
        folder = scratch / ("d" * 60) / ("e" * 60)
        folder.mkdir(parents=True)
        listening = socket.socket(socket.AF_UNIX)
        with listening:
            here = os.open(folder, os.O_PATH)
            listening.bind(f"/proc/self/fd/{here}/s")
            os.close(here)
            listening.listen(1)
            listening.settimeout(30)
            result = shown.create("--console-socket", str(folder / "s"))
            assert result.status == 0, result

    def test_a_socket_that_is_not_there(self, shown: Container, refused: Refused, scratch: Path) -> None:
        result = refused("console-socket", "-d", "--console-socket", str(scratch / "missing"))
        assert "missing" in result.stderr or "no such file" in result.stderr.lower()

    def test_a_file_in_place_of_a_socket(self, shown: Container, refused: Refused, scratch: Path) -> None:
        (scratch / "file").touch()
        refused("console-socket", "-d", "--console-socket", str(scratch / "file"))

    def test_detached_with_a_terminal_but_no_socket(self, shown: Container, refused: Refused) -> None:
        result = refused("", "-d")
        assert "console socket" in result.stderr or "--console-socket" in result.stderr

    def test_create_with_a_terminal_but_no_socket(self, shown: Container, leftovers: Leftovers) -> None:
        result = shown.create()
        assert result.status == 1
        assert "console socket" in result.stderr or "--console-socket" in result.stderr
        assert leftovers.found() == []

    def test_a_socket_but_no_terminal(self, container: Container, console: ConsoleSocket, refused: Refused) -> None:
        refused("", "-d", "--console-socket", str(console.path))
