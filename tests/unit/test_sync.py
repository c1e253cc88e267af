"""What the container's child tells its parent arrives whole, and what no child of ours says is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from pyruntime import errors, report
from pyruntime.errors import Error, KernelError, ProtocolError
from pyruntime.launch import sync
from pyruntime.launch.sync import Channel, channel_pair, hop_error, rebuild_error

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The parent's end and the child's."""
    ours, theirs = channel_pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def every_kind() -> list[type[Error]]:
    """The whole error tree, found, so that a new class can't be forgotten."""
    found: list[type[Error]] = [Error]
    for kind in found:
        found += kind.__subclasses__()
    return sorted(set(found), key=lambda kind: kind.__name__)


def sample(kind: type[Error], *, text: str, where: str, hint: str) -> Error:
    if kind is KernelError:
        return KernelError(text, errno.EBUSY, where=where, hint=hint)
    return kind(text, where=where, hint=hint)


def parts(error: Error) -> tuple[object, ...]:
    call = error.call if isinstance(error, KernelError) else ""
    number = error.errno if isinstance(error, KernelError) else 0
    return type(error), call, number, error.message, error.where, error.hint, str(error)


def crossed(error: Error, pair: Pair) -> Error:
    """The error that the parent raises when the child has sent this one."""
    ours, theirs = pair
    theirs.send_error(error)
    with pytest.raises(Error) as caught:
        ours.receive()
    return caught.value


def test_the_tree_is_found() -> None:
    assert {kind.__name__ for kind in every_kind()} == set(errors.__all__) - {"errno_name"}


TEXTS = [
    ("mount(source='proc')", "config.json#/mounts/3", "needs CAP_SYS_ADMIN"),
    ("m", "", ""),
    ("", "config.json#/process", ""),
    ("", "", "a hint alone"),
    ("two\nlines: ü € 𝄞", "config.json#/linux/sysctl/ü~1x", "\t"),
    ("any byte of a path: \udcff\udc80", "\udcfe", "\udcfd"),
]


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("text", "where", "hint"), TEXTS, ids=range(len(TEXTS)))
def test_every_error_crosses_whole(kind: type[Error], text: str, where: str, hint: str, pair: Pair) -> None:
    error = sample(kind, text=text, where=where, hint=hint)
    assert parts(crossed(error, pair)) == parts(error)


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: kind.__name__)
def test_a_nul_does_not_shift_the_fields(kind: type[Error], pair: Pair) -> None:
    sent = sample(kind, text="a\0b", where="c\0d", hint="e\0f")
    shown = sample(kind, text="a\\0b", where="c\\0d", hint="e\\0f")
    assert parts(crossed(sent, pair)) == parts(shown)


@pytest.mark.parametrize("number", [0, 1, errno.ENOTSUP, 512, 4095])
def test_every_errno_crosses(number: int, pair: Pair) -> None:
    error = KernelError("call()", number)
    assert parts(crossed(error, pair)) == parts(error)


def test_the_call_may_be_told_late(pair: Pair) -> None:
    """KernelError takes a function for its text, which must be called on the child's side."""
    arrived = crossed(KernelError(lambda: "openat2(path='x')", errno.ELOOP), pair)
    assert isinstance(arrived, KernelError)
    assert (arrived.call, arrived.errno) == ("openat2(path='x')", errno.ELOOP)


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("character", ["x", "ü", "€", "𝄞", "\udcff"])
@pytest.mark.parametrize("shift", range(4))
def test_a_long_text_is_cut_and_nothing_else(kind: type[Error], character: str, shift: int, pair: Pair) -> None:
    """Wherever in a character the cut falls: class, errno, place and hint are there, and it can be printed."""
    text = "x" * shift + character * sync.MESSAGE_MAX
    arrived = crossed(sample(kind, text=text, where="config.json#/mounts/3", hint="the remedy"), pair)
    assert (type(arrived), arrived.where, arrived.hint) == (kind, "config.json#/mounts/3", "the remedy")
    if isinstance(arrived, KernelError):
        assert arrived.errno == errno.EBUSY
    got = arrived.call if isinstance(arrived, KernelError) else arrived.message
    original = text.encode("utf-8", "surrogateescape")
    assert original.startswith(got.encode("utf-8", "surrogateescape"))
    assert sync.MESSAGE_MAX - 200 < len(got.encode("utf-8", "surrogateescape")) < sync.MESSAGE_MAX
    str(arrived).encode("utf-8", "surrogateescape")


def test_the_longest_message_passes_and_leaves_the_next_alone(pair: Pair) -> None:
    ours, theirs = pair
    room = sync.MESSAGE_MAX - len("hook\0")
    theirs.send(sync.HOOK, "x" * room)
    theirs.send(sync.HOOK, "x" * (room + 1))
    theirs.send(sync.READY)
    assert ours.receive() == ("hook", ["x" * room])
    assert ours.receive() == ("hook", ["x" * room])
    assert ours.receive() == ("ready", [])


@pytest.mark.parametrize(
    ("word", "fields"),
    [("maps", []), ("go", []), ("pid", ["1234"]), ("terminal", []), ("ready", []), ("hook", ["", "ü\udcff\n"])],
)
def test_words_arrive_with_their_fields(word: str, fields: list[str], pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(word, *fields)
    assert ours.receive() == (word, fields)
    theirs.send(word, *fields)
    assert ours.expect(word) == fields


def test_what_is_only_to_be_told_is_told_on_the_way(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(report, "sinks", [lambda level, message: told.append((level, message))])
    ours, theirs = pair
    theirs.send(sync.WARNING, "odd")
    theirs.send(sync.DEBUG, "a step\udcff")
    theirs.send(sync.READY)
    theirs.send(sync.WARNING, "late")
    assert ours.expect(sync.READY) == []
    assert told == [("warning", "odd"), ("debug", "a step\udcff")]
    theirs.close()
    assert ours.receive() == ("", [])
    assert told[2:] == [("warning", "late")]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOENT, "interpreter does not"),
        (errno.ENOEXEC, "neither a binary"),
        (errno.EACCES, "noexec"),
        (errno.E2BIG, "too long"),
        (errno.ELOOP, ""),
        (133, ""),
    ],
)
def test_the_hop_reports_an_errno(number: int, hint: str, pair: Pair) -> None:
    ours, theirs = pair
    ours.program = "/bin/app"
    os.write(theirs.fd, (-number).to_bytes(4, "little", signed=True))
    with pytest.raises(KernelError, match=r"execve\('/bin/app'\)") as caught:
        ours.receive()
    assert caught.value.errno == number
    assert caught.value.where == "config.json#/process/args/0"
    assert hint in caught.value.hint and bool(hint) == bool(caught.value.hint)


def test_the_hops_report_can_be_told_from_every_word() -> None:
    reports = {(-number).to_bytes(4, "little", signed=True) for number in errno.errorcode}
    assert {report[-1] for report in reports} == {0xFF}
    words = (sync.MAPS, sync.GO, sync.PID, sync.TERMINAL, sync.READY, sync.ERROR, sync.WARNING)
    assert not {word.encode() for word in words} & reports
    assert {hop_error(report, "app").errno for report in reports} == set(errno.errorcode)


def test_the_hop_tells_whom_it_has_cloned(pair: Pair) -> None:
    ours, theirs = pair
    os.write(theirs.fd, (4194303).to_bytes(4, "little"))
    assert ours.receive() == (sync.PID, ["4194303"])


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense",
        b"MAPS",
        b"maps ",
        b"\0",
        b"\0ready",
        b"\xff",
        b"\xff\xff\xff",
        b"\xfe\xff\xff\x7f",
        b"\xfe\xff\xff\xff\xff",
        b"\x80\0\0\1",
        b"error",
        b"error\0",
        b"error\0KernelError",
        b"error\0KernelError\0EIO\0w\0h\0t",
        b"error\0KernelError\0-5\0w\0h\0t",
        "error\0KernelError\0²\0w\0h\0t".encode(),
        b"error\0KernelError\x00" + b"9" * 5000,
        b"error\0Channel\x000\0w\0h\0t",
        b"error\0annotations\x000\0w\0h\0t",
        b"error\0__doc__\x000\0w\0h\0t",
        b"error\0Exception\x000\0w\0h\0t",
        b"error\0errno_name\x000\0w\0h\0t",
        b"error\0\xff\x000\0w\0h\0t",
        b"x" * sync.MESSAGE_MAX,
    ],
    ids=lambda message: repr(message[:30]),
)
def test_garbage_is_a_protocol_error(message: bytes, pair: Pair) -> None:
    ours, theirs = pair
    os.write(theirs.fd, message)
    with pytest.raises(ProtocolError) as caught:
        ours.receive()
    assert len(str(caught.value)) < 300


def test_more_fields_than_an_error_has_do_no_harm() -> None:
    assert (
        str(rebuild_error(["ConfigError", "0", "place", "hint", "text", "more", "still more"])) == "place: text (hint)"
    )


def test_the_other_side_has_closed(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    theirs.close()
    assert ours.receive() == ("", [])
    with pytest.raises(ProtocolError, match="expected 'ready', but the other side ended"):
        ours.expect(sync.READY)
    with pytest.raises(ProtocolError, match="the other side of the start is gone"):
        ours.send(sync.GO)


def test_the_other_side_was_killed_before_it_read_our_message(pair: Pair) -> None:
    """Not taken for the end that a successful execve brings: that one reads GO first."""
    ours, theirs = pair
    ours.send(sync.GO)
    theirs.close()
    with pytest.raises(ProtocolError, match="the other side of the start is gone"):
        ours.receive()


def test_another_word_than_expected(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(sync.MAPS)
    with pytest.raises(ProtocolError, match="expected 'ready', got 'maps'"):
        ours.expect(sync.READY)


def test_both_ends_close_on_exec(pair: Pair) -> None:
    assert [os.get_inheritable(channel.fd) for channel in pair] == [False, False]
