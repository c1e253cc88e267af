"""A tape (launch/tape.py) as memory: rows, and what they point to. And performed by Python, which is as by the hop."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from pyruntime.errors import Error, KernelError
from pyruntime.launch import exeseal
from pyruntime.launch.credentials import begin
from pyruntime.launch.tape import HEAD, ROW, SAYS_ERROR, SAYS_PID, Row, Tape
from pyruntime.linux import constants as c
from pyruntime.linux.call import Struct

BASE = 0x500000
WORD = 2**64


class Linked:
    """A linked tape, read as the hop reads it."""

    def __init__(self, tape: Tape, base: int = BASE, report_fd: int | None = None) -> None:
        self.base = base
        self.memory = tape.linked(base, report_fd)
        self.start = 0 if report_fd is None else HEAD

    def row(self, index: int) -> tuple[int, ...]:
        """Its twelve words."""
        return struct.unpack_from("=12Q", self.memory, self.start + ROW * index)

    def place(self, index: int) -> int:
        """A row's address."""
        return self.base + self.start + ROW * index

    def at(self, address: int, size: int) -> bytes:
        found = self.memory[address - self.base :][:size]
        assert len(found) == size, "not in the tape's memory"
        return found

    def words(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"={count}Q", self.at(address, 8 * count))

    def text(self, address: int) -> bytes:
        return self.memory[address - self.base :].partition(b"\0")[0]


class TestLinking:
    def test_the_head_has_the_channel_and_a_report(self) -> None:
        memory = Tape().linked(BASE, 7)
        assert len(memory) == HEAD == 32
        assert struct.unpack("=qIiQQ", memory) == (7, SAYS_ERROR, 0, 0, 0)

    def test_what_continues_a_tape_has_none(self) -> None:
        assert Tape().linked(BASE) == b""

    def test_a_row_is_its_call_and_goes_on_to_the_next(self) -> None:
        tape = Tape()
        tape.mark = 5
        tape.call(39, 1, -1, 2**63, WORD - 2)
        tape.call(40, 1, 2, 3, 4, 5, 6, expected=errno.EPERM)
        linked = Linked(tape, report_fd=7)
        following = [linked.place(1)] * 3
        arguments = (1, WORD - 1, 2**63, WORD - 2, 0, 0)
        assert linked.row(0) == (39 | 5 << 32, *arguments, 0, 0, *following)
        following = [linked.place(2)] * 3
        assert linked.row(1) == (40 | 5 << 32, 1, 2, 3, 4, 5, 6, 0, WORD - errno.EPERM, *following)
        assert len(linked.memory) == HEAD + 2 * ROW

    def test_the_mark_is_that_of_the_time(self) -> None:
        tape = Tape()
        for mark in (0, 1, 0xFFFFFFFF):
            tape.mark = mark
            tape.call(9)
        assert [Linked(tape).row(index)[0] for index in range(3)] == [9, 9 | 1 << 32, 9 | 0xFFFFFFFF << 32]

    def test_a_label_is_no_row_but_the_place_of_the_next(self) -> None:
        tape = Tape()
        first = tape.call(1)
        tape.call(2)
        early = tape.label()
        first.then = tape.label()
        third = tape.call(3)
        third.on_zero, third.on_positive = early, first
        last = tape.label()
        third.then = last
        linked = Linked(tape)
        assert [linked.row(index)[0] for index in range(3)] == [1, 2, 3]
        assert linked.row(0)[9:] == (linked.place(2), linked.place(1), linked.place(1))
        assert linked.row(2)[9:] == (linked.place(3), linked.place(2), linked.place(0))
        assert len(linked.memory) == 3 * ROW

    def test_a_row_may_lie_elsewhere(self) -> None:
        """read_on: the rows at CONTINUED are another tape's."""
        tape = Tape()
        tape.read_on(5, 0x600000, 1000)
        linked = Linked(tape)
        assert linked.row(0)[:5] == (c.SYS_pread64, 5, 0x600000, 1000, 0)
        assert linked.row(0)[10:] == (linked.place(1), 0x600000)
        assert linked.row(1)[:2] == (c.SYS_exit_group, 1)

    def test_texts_and_structs_lie_behind_the_rows(self) -> None:
        tape = Tape()
        tape.call(1, "text", b"bytes", Struct(b"\0struct\0"), "ü\udcff")
        tape.call(2, "")
        linked = Linked(tape)
        text, raw, record, odd = linked.row(0)[1:5]
        assert [linked.text(place) for place in (text, raw, odd)] == [b"text", b"bytes", "ü".encode() + b"\xff"]
        assert linked.at(record, 8) == b"\0struct\0"
        assert linked.text(linked.row(1)[1]) == b""
        assert all(place >= linked.place(2) and place % 8 == 0 for place in (text, raw, record, odd))

    @pytest.mark.parametrize("text", ["a\0b", b"\0"])
    def test_a_text_with_a_nul_is_refused(self, text: str | bytes) -> None:
        """It would end early, and so name something else."""
        for word in (text, [text, 0]):
            tape = Tape()
            tape.call(1, word)
            with pytest.raises(Error, match="contains a NUL"):
                tape.linked(BASE)

    def test_a_block_is_words_and_what_they_stand_for(self) -> None:
        tape = Tape()
        argv: list[Any] = ["one", b"two", 0]
        tape.call(1, argv, [3, [-1, "deep"]])
        linked = Linked(tape)
        one, two, end = linked.words(linked.row(0)[1], 3)
        assert (linked.text(one), linked.text(two), end) == (b"one", b"two", 0)
        three, inner = linked.words(linked.row(0)[2], 2)
        minus, deep = linked.words(inner, 2)
        assert (three, minus, linked.text(deep)) == (3, WORD - 1, b"deep")

    def test_memory_is_one_for_all_who_name_it(self) -> None:
        """By identity: an equal one is another."""
        tape = Tape()
        cell, equal = bytearray(b"abcd"), bytearray(b"abcd")
        row = tape.call(1, cell, equal, cell, [cell], (cell, 2))
        row.into = (cell, 3)
        linked = Linked(tape)
        number, place, other, again, block, inside, _, into, *_ = linked.row(0)
        assert number == 1
        assert place == again == linked.words(block, 1)[0] == inside - 2 == into - 3
        assert other != place
        assert linked.at(place, 4) == linked.at(other, 4) == b"abcd"
        assert linked.memory.count(b"abcd") == 2

    def test_an_argv_is_one_for_all_candidates(self) -> None:
        """However many there are of a program: it may be of megabytes."""
        tape = Tape()
        argv: list[Any] = ["one", 0]
        for path in ("/bin/one", "/usr/bin/one"):
            tape.call(c.SYS_execve, path, argv, ["two", 0])
        linked = Linked(tape)
        assert linked.row(0)[2] == linked.row(1)[2]
        assert linked.row(0)[3] != linked.row(1)[3]

    def test_a_result_goes_into_a_rows_argument(self) -> None:
        tape = Tape()
        first = tape.call(1)
        second = tape.call(2, 0, 0, -1)
        first.into = (second, 2)
        linked = Linked(tape, report_fd=3)
        assert linked.row(0)[7] == linked.place(1) + 8 * 3
        assert linked.words(linked.row(0)[7], 1) == (WORD - 1,)

    def test_a_result_goes_to_an_address(self) -> None:
        tape = Tape()
        tape.call(1).into = (exeseal.TAPE, 0)
        assert Linked(tape).row(0)[7] == exeseal.TAPE

    def test_it_can_be_linked_anew(self) -> None:
        tape = Tape()
        tape.wait_for_word(4)
        tape.tell(4, "word")
        first = tape.linked(BASE, 4)
        assert tape.linked(0x10000) != first[HEAD:]
        assert tape.linked(BASE, 4) == first


class TestRows:
    """What the methods add."""

    @pytest.mark.parametrize(
        ("keep", "first", "closed"),
        [
            ([], 3, [(3, 0xFFFFFFFF)]),
            ([3], 3, [(4, 0xFFFFFFFF)]),
            ([7, 5], 3, [(3, 4), (6, 6), (8, 0xFFFFFFFF)]),
            ([5, 6, 9], 3, [(3, 4), (7, 8), (10, 0xFFFFFFFF)]),
            ([1, 4], 3, [(3, 3), (5, 0xFFFFFFFF)]),
            ([5, 5], 3, [(3, 4), (6, 0xFFFFFFFF)]),
            ([5, 200], 10, [(10, 199), (201, 0xFFFFFFFF)]),
        ],
    )
    def test_all_but_some_are_closed(self, keep: list[int], first: int, closed: list[tuple[int, int]]) -> None:
        tape = Tape()
        tape.close_all_but(keep, first)
        assert {row.number for row in tape.rows} == {c.SYS_close_range}
        assert [row.arguments for row in tape.rows] == [(low, high, 0) for low, high in closed]

    def test_a_descriptor_is_sent_as_cmsg_3_has_it(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, open(os.devnull) as file:
            tape = Tape()
            opens = tape.call(c.SYS_openat, c.AT_FDCWD, os.devnull, os.O_RDONLY)
            tape.send_descriptor(theirs.fileno(), "word", opens)
            tape.perform()
            data, fds, flags, _ = socket.recv_fds(ours, 100, 4)
            assert (data, len(fds), flags & socket.MSG_CTRUNC) == (b"word", 1, 0)
            assert os.path.sameopenfile(fds[0], file.fileno())
            os.close(fds[0])

    def test_reserved_numbers_are_placeholders(self) -> None:
        tape = Tape()
        numbers = [tape.reserve() for _ in range(9)]
        assert numbers == tape.reserved
        assert len(set(numbers)) == 9
        for fd in numbers:
            assert not os.get_inheritable(fd)
            os.close(fd)

    def test_it_tells_as_a_channel_does(self) -> None:
        tape = Tape()
        tape.tell(4, "word")
        linked = Linked(tape)
        number, fd, text, length = linked.row(0)[:4]
        assert (number, fd, linked.at(text, length)) == (c.SYS_write, 4, b"word")

    def test_what_it_says_is_memory(self) -> None:
        tape = Tape()
        memory = tape.say(4, SAYS_PID)
        linked = Linked(tape)
        assert linked.at(linked.row(0)[2], linked.row(0)[3]) == memory == struct.pack("=II", SAYS_PID, 0)


def by_python(tape: Tape, channel: socket.socket) -> bytes:
    """Perform it in a forked child, which reports as the hop would."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            tape.perform()
            status = 0
        except KernelError as error:
            number = int(error.call) if error.call.isdigit() else getattr(c, f"SYS_{error.call}")
            channel.send(struct.pack("=IiII", SAYS_ERROR, -(error.errno or 0), number, MARK))
            status = 1
        finally:
            os._exit(status)
    return bytes([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])


def by_hop(tape: Tape, channel: socket.socket) -> bytes:
    """Perform it in a hop, which has to be told to end."""
    hop = Tape()
    hop.mark = MARK
    begin(hop, channel.fileno())
    hop.rows += tape.rows
    hop.call(c.SYS_exit_group, 0)
    pid = os.fork()
    if pid == 0:
        try:
            hop_fd = exeseal.sealed(hop, channel.fileno())
            channel.set_inheritable(True)
            exeseal.execute(hop_fd)
        finally:
            os._exit(99)
    return bytes([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])


MARK = 9


def tell(tape: Tape, fd: int) -> None:
    tape.tell(fd, "told")


def store(tape: Tape, fd: int) -> None:
    tape.call(c.SYS_umask, 0o26)
    asks = tape.call(c.SYS_umask, 0)
    asks.into = (tape.say(fd, SAYS_PID), 4)


def hand_on(tape: Tape, fd: int) -> None:
    """A result of 32 bits, into an argument of 64."""
    tape.open_as(150, tape.call(c.SYS_openat, c.AT_FDCWD, "/", os.O_PATH))
    tape.call(c.SYS_fchdir, 150)
    tape.call(c.SYS_dup3, fd, 151, 0)
    tape.tell(151, "by another number")


def expect(tape: Tape, fd: int) -> None:
    """What is expected is no result: nothing is stored."""
    fails = tape.call(c.SYS_close, -1, expected=errno.EBADF)
    fails.into = (tape.say(fd, SAYS_PID), 4)
    jumps = tape.call(c.SYS_chdir, "/nowhere", expected=errno.ENOENT)
    tape.tell(fd, "left out")
    jumps.then = tape.label()
    tape.tell(fd, "went on")


def branch(tape: Tape, fd: int) -> None:
    zero = tape.call(c.SYS_umask, 0o22)
    skipped = tape.tell(fd, "some mask")
    zero.on_zero = skipped
    again = tape.call(c.SYS_umask, 0)
    tape.tell(fd, "zero")
    again.on_positive = tape.label()
    tape.tell(fd, "end")


def to_the_end(tape: Tape, fd: int) -> None:
    jumps = tape.tell(fd, "first")
    tape.tell(fd, "left out")
    jumps.on_positive = tape.label()


def fail(tape: Tape, fd: int) -> None:
    tape.tell(fd, "before")
    tape.call(c.SYS_chdir, "/nowhere", expected=errno.EACCES)
    tape.tell(fd, "after")


def lack(tape: Tape, _fd: int) -> None:
    tape.call(0xFFF)


def wait(tape: Tape, fd: int) -> None:
    tape.wait_for_word(fd)
    tape.tell(fd, "went on")


def write_memory(tape: Tape, fd: int) -> None:
    """The kernel writes to memory that a later row reads."""
    limits = bytearray(16)
    tape.call(c.SYS_prlimit64, 0, 7, Struct(struct.pack("=QQ", 77, 88)), 0)
    tape.call(c.SYS_prlimit64, 0, 7, 0, limits)
    tape.call(c.SYS_write, fd, limits, 16)


def blocks(tape: Tape, fd: int) -> None:
    """sendmsg: blocks in blocks."""
    vector: list[Any] = ["abc", 3, "defg", 4]
    tape.call(c.SYS_sendmsg, fd, [0, 0, vector, 2, 0, 0, 0], 0)


@pytest.mark.parametrize(
    "write", [tell, store, hand_on, expect, branch, to_the_end, fail, lack, wait, write_memory, blocks]
)
def test_python_performs_it_as_the_hop_does(write: Callable[[Tape, int], None]) -> None:
    """What is told, how it ends, and the report of what fails."""
    said = []
    for perform in (by_python, by_hop):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            tape = Tape()
            tape.mark = MARK
            write(tape, theirs.fileno())
            if write is wait:
                ours.send(b"go")
            status = perform(tape, theirs)
            theirs.close()
            said.append([*iter(lambda: ours.recv(100), b""), status])  # noqa: B023
    assert said[0] == said[1]
    assert len(said[0]) > 1, "nothing was told"


def test_performing_it_leaves_the_tape_as_it_was() -> None:
    tape = Tape()
    asks = tape.call(c.SYS_umask, 0o22)
    memory = bytearray(4)
    asks.into = (memory, 0)
    back: Row = tape.call(c.SYS_umask, 0)
    asks.into = (back, 0)
    before = tape.linked(BASE)
    tape.perform()
    assert tape.linked(BASE) == before
    assert memory == bytes(4)
