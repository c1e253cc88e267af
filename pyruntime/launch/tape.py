"""A tape: a list of system calls, made in advance, that the hop (exeseal.py) performs in the container.

The last steps of a start, from the runtime's rights to the user's program, can't be Python's: whoever takes them stands
in the container, with the image's files around and sometimes with others who may look at it. They need no thinking
either, only one call after the other. So Python writes them down, and 120 bytes of machine code in a sealed memfd
perform them. A tape is data: it can be compared and tested without a kernel.

A row is twelve words of 64 bits, in the byte order of the machine:

    number | mark << 32     what to call, and what the call is for: 1 + the index of a step of the plan, or 0
    argument 0 ... 5
    into                    where the result goes, if it matters: a word of a row that comes later, or of a message
    expected, then          the one -errno that is no failure, and the row which goes on then
    on_zero, on_positive    the row which goes on after such a result; by default the next one

In front of the first row is the head: the descriptor of the channel, and a report. If a call fails, the machine puts
-errno and the first word of the row there, writes the report to the channel, and ends. Texts and structs lie behind
the rows; a tape is linked for the address at which it will lie, as a program is.

runc has no counterpart: its child is the runtime's own Go program until execve.
"""

from __future__ import annotations

import posix
from _struct import pack, unpack

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c
from pyruntime.linux.call import Struct, address, c_string, raw_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

    from pyruntime.plan.step import Plan, Step

    # An int; a C string; a struct; memory that is written to; a block of words, such as an argv; another row's word.
    Word: TypeAlias = "int | str | bytes | Struct | bytearray | list[Any] | tuple[Any, int]"

HEAD = 32  # bytes
ROW = 96
# The first word of what a hop says on the channel; what Python says begins with a letter (sync.py).
SAYS_PID, SAYS_LISTENER, SAYS_ERROR = 1, 2, 3

_LABEL = -1
_NO_ARGUMENTS = (0, 0, 0, 0, 0, 0)
_WORD = 0xFFFFFFFFFFFFFFFF


class Row:
    """One call. `into` is (a row, the index of its argument), or (memory or its address, an offset in bytes)."""

    __slots__ = ("arguments", "expected", "into", "mark", "number", "on_positive", "on_zero", "place", "then")

    def __init__(self, number: int, arguments: tuple[Word, ...], mark: int) -> None:
        self.number = number
        self.arguments = arguments
        self.mark = mark
        self.into: tuple[Row | bytearray | int, int] | None = None
        self.expected = 0  # an errno
        self.then: Row | None = None
        self.on_zero: Row | None = None
        self.on_positive: Row | None = None
        self.place = 0  # its address, when it is linked


class Tape:
    """Rows, in order. `mark` is what the rows that are added are for. reserved: see `reserve`."""

    __slots__ = ("mark", "reserved", "rows")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.mark = 0
        self.reserved: list[int] = []

    def marking(self, plan: Plan) -> Iterator[Step]:
        """The steps of a plan; the rows that are added meanwhile are marked as for the one at hand."""
        for index, step in enumerate(plan):
            self.mark = index + 1
            yield step

    def call(self, number: int, *arguments: Word, expected: int = 0) -> Row:
        """Add a call. `expected` is an errno after which the next row goes on as after success."""
        row = Row(number, arguments, self.mark)
        row.expected = expected
        self.rows.append(row)
        return row

    def close_on_exec(self, fd: int) -> Row:
        """Add: have a descriptor close when the program is executed. fcntl(2)"""
        return self.call(c.SYS_fcntl, fd, c.F_SETFD, 1)

    def reserve(self) -> int:
        """The number of a descriptor that more than one row has to know: that of a placeholder, for the hop to inherit.

        It closes on exec as yet, and is the caller's to close when the hop is there. Raises OSError.
        """
        self.reserved.append(posix.open("/dev/null", posix.O_PATH | posix.O_CLOEXEC))
        return self.reserved[-1]

    def open_as(self, number: int, opens: Row) -> None:
        """Add: give the descriptor that the row before opens a reserved number as well. dup3(2)"""
        opens.into = (self.call(c.SYS_dup3, -1, number, c.O_CLOEXEC), 0)

    def close_all_but(self, keep: list[int], first: int) -> None:
        """Add: close every descriptor from `first` on that is not to be kept. close_range(2)"""
        for fd in sorted(keep):
            if fd > first:
                self.call(c.SYS_close_range, first, fd - 1, 0)
            first = max(first, fd + 1)
        self.call(c.SYS_close_range, first, 0xFFFFFFFF, 0)

    def tell(self, channel_fd: int, word: str) -> Row:
        """Add: say a word to the runtime, as Channel.send does."""
        return self.call(c.SYS_write, channel_fd, word, len(word))

    def say(self, channel_fd: int, kind: int) -> bytearray:
        """Add: write (kind, a number) to the channel. Returns the memory where the number is, at 4, to be stored."""
        message = bytearray(pack("=II", kind, 0))
        self.call(c.SYS_write, channel_fd, message, len(message))
        return message

    def wait_for_word(self, channel_fd: int) -> None:
        """Add: wait until the runtime says to go on, and end if it is gone."""
        word = bytearray(64)
        waits = self.call(c.SYS_read, channel_fd, word, len(word))
        self.call(c.SYS_exit_group, 1)  # nothing was read
        waits.on_positive = self.label()

    def label(self) -> Row:
        """Add a place to go on: no call, but the row that comes next."""
        return self.call(_LABEL)

    def send_descriptor(self, channel_fd: int, word: str, opens: Row) -> None:
        """Add: send the descriptor that row `opens` opens, with a word. See cmsg(3)."""
        control = bytearray(pack("=QiiiI", 20, c.SOL_SOCKET, c.SCM_RIGHTS, -1, 0))
        iovec: list[Any] = [word, len(word)]
        self.call(c.SYS_sendmsg, channel_fd, [0, 0, iovec, 1, control, len(control), 0], 0)
        opens.into = (control, 16)

    def read_on(self, fd: int, place: int, size: int) -> None:
        """Add: read what follows from a file to the address `place`, and go on there; end if there is nothing."""
        reads = self.call(c.SYS_pread64, fd, place, size, 0)
        self.call(c.SYS_exit_group, 1)  # nothing was read
        reads.on_positive = Row(_LABEL, (), 0)
        reads.on_positive.place = place

    def perform(self) -> None:
        """Perform the rows here and now, as the hop would. Raises KernelError, by the name of what failed."""
        memory = bytearray(self.linked(0))
        base = address(memory)
        memory[:] = self.linked(base)
        place, end = 0, ROW * sum(row.number != _LABEL for row in self.rows)
        while place < end:
            number, *words = unpack("=12Q", memory[place : place + ROW])
            result = raw_call(number & 0xFFFFFFFF, *words[:6])
            into, expected, then, on_zero, on_positive = words[6:]
            if result < 0 and result & _WORD != expected:
                raise KernelError(c.value_name(number & 0xFFFFFFFF, "SYS_").removeprefix("SYS_"), -result)
            if result >= 0 and into:
                memory[into - base : into - base + 4] = pack("=i", result)
            place = (then if result < 0 else on_positive if result else on_zero) - base

    def linked(self, base: int, report_fd: int | None = None) -> bytes:
        """The tape as memory at the address `base`. report_fd: the channel; None: it continues a tape with a head."""
        place = base
        head = b""
        if report_fd is not None:
            head = pack("=qIiqq", report_fd, SAYS_ERROR, 0, 0, 0)
            place += HEAD
        for row in self.rows:
            row.place = place
            place += ROW if row.number != _LABEL else 0
        memory = _Memory(place)
        linked = [head]
        for row in self.rows:
            if row.number == _LABEL:
                continue
            following = row.place + ROW
            # Almost all arguments are numbers: to ask for each of them would take half of the time.
            words = [word & _WORD if type(word) is int else memory.word(word) for word in row.arguments]
            linked.append(
                pack(
                    "=12Q",
                    row.number | row.mark << 32,
                    *words,
                    *_NO_ARGUMENTS[len(words) :],
                    memory.word(row.into) if row.into else 0,
                    -row.expected & _WORD if row.expected else 0,
                    row.then.place if row.then else following,
                    row.on_zero.place if row.on_zero else following,
                    row.on_positive.place if row.on_positive else following,
                )
            )
        return b"".join((*linked, *memory.pieces))


class _Memory:
    """What the words of the rows point to, laid out from an address on."""

    __slots__ = ("cells", "end", "pieces")

    def __init__(self, start: int) -> None:
        self.end = start
        self.pieces: list[bytes | bytearray] = []
        self.cells: dict[int, int] = {}  # where a bytearray or a list lies, by id: all who name it mean the same

    def word(self, value: Word) -> int:
        """The number itself, or the address of what it stands for."""
        if isinstance(value, int):
            return value & _WORD
        if isinstance(value, tuple):
            target, offset = value
            return target.place + 8 * (1 + offset) if isinstance(target, Row) else self.word(target) + offset
        if isinstance(value, (list, bytearray)):
            if id(value) not in self.cells:
                self.cells[id(value)] = self._put(value if isinstance(value, bytearray) else self._block(value))
            return self.cells[id(value)]
        return self._put(value if isinstance(value, Struct) else c_string(value) + b"\0")

    def _block(self, items: list[Any]) -> bytes:
        return pack(f"={len(items)}Q", *[self.word(item) for item in items])

    def _put(self, content: bytes | bytearray) -> int:
        place = self.end
        self.pieces.append(content)
        padding = -len(content) % 8
        if padding:
            self.pieces.append(bytes(padding))
        self.end += len(content) + padding
        return place
