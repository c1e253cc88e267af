"""What the container's child tells its parent arrives whole, and what no child of ours says is refused."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from pyruntime import errors, report
from pyruntime.errors import Error, KernelError, ProtocolError
from pyruntime.launch import sync
from pyruntime.launch.console import send_master
from pyruntime.launch.sync import Channel, channel_pair, rebuild_error, start_error
from pyruntime.launch.tape import SAYS_ERROR, SAYS_LISTENER, SAYS_PID
from pyruntime.linux import constants as c
from pyruntime.plan.attributes import ConfineByProfile
from pyruntime.plan.process import BecomeUser, SetUmask
from pyruntime.plan.selinux import LabelProcess
from pyruntime.plan.step import Plan, Step

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


def said(kind: int, number: int, call: int | None = None, mark: int = 0) -> bytes:
    """A hop's message (tape.py): a kind and a number, and in a report what failed and what it was for."""
    return struct.pack("=Ii", kind, number) + (b"" if call is None else struct.pack("=II", call, mark))


def failed(call: int, number: int, mark: int = 0) -> bytes:
    return said(SAYS_ERROR, -number, call, mark)


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
    os.write(theirs.fd, failed(c.SYS_execve, number))
    with pytest.raises(KernelError, match=r"execve\('/bin/app'\)") as caught:
        ours.receive()
    assert caught.value.errno == number
    assert caught.value.where == "config.json#/process/args/0"
    assert hint in caught.value.hint and bool(hint) == bool(caught.value.hint)


USER = BecomeUser("config.json#/process/user", uid=7, gid=7, groups=(), cwd="/work")


@pytest.mark.parametrize(
    ("call", "number", "where", "text"),
    [
        (c.SYS_openat2, errno.ENOENT, "process/cwd", "chdir('/work'): ENOENT: No such file or directory"),
        (c.SYS_fchdir, errno.EACCES, "process/cwd", "chdir('/work'): EACCES: Permission denied"),
        (c.SYS_openat2, errno.ELOOP, "process/cwd", "the working directory /work is outside of the container (a link"),
        (c.SYS_faccessat2, errno.EACCES, "process/args/0", 'exec: "app": permission denied'),
        (c.SYS_openat, errno.ENOENT, "process/user", f"{USER.text()}: write('/proc/self/attr/exec'): ENOENT: "),
        (c.SYS_write, errno.EACCES, "process/user", f"{USER.text()}: write('/proc/self/attr/exec'): EACCES: "),
        (c.SYS_setresuid, errno.EINVAL, "process/user", f"{USER.text()}: setresuid(): EINVAL: Invalid argument (a uid"),
        (c.SYS_seccomp, errno.EINVAL, "linux/seccomp", "seccomp(SECCOMP_SET_MODE_FILTER): "),
        (c.SYS_ioctl, errno.ENOTTY, "process/terminal", "ioctl(0, TIOCSCTTY): "),
        (0xFFF, errno.ENOSYS, "process/user", f"{USER.text()}: 4095(): ENOSYS: "),
    ],
)
def test_the_hop_tells_what_failed_and_for_what(call: int, number: int, where: str, text: str, pair: Pair) -> None:
    """A mark is 1 + the index of the plan's step."""
    ours, theirs = pair
    ours.program, ours.plan = "app", Plan([SetUmask("config.json#/process/user/umask", mask=0), USER])
    os.write(theirs.fd, failed(call, number, 2))
    with pytest.raises(Error) as caught:
        ours.receive()
    assert str(caught.value).startswith(f"config.json#/{where}: {text}")


PROFILE = ConfineByProfile("config.json#/process/apparmorProfile", profile="p")
LABEL = LabelProcess("config.json#/process/selinuxLabel", label="l")


@pytest.mark.parametrize("call", [c.SYS_openat, c.SYS_write])
@pytest.mark.parametrize(
    ("step", "text"),
    [
        (PROFILE, "write('/proc/self/attr/apparmor/exec'): ENOENT: "),
        (LABEL, f"{LABEL.text()}: write('/proc/self/attr/exec'): ENOENT: "),
    ],
)
def test_a_label_that_is_refused(step: Step, text: str, call: int, pair: Pair) -> None:
    pair[0].plan = Plan([step])
    os.write(pair[1].fd, failed(call, errno.ENOENT, 1))
    with pytest.raises(KernelError) as caught:
        pair[0].receive()
    assert str(caught.value).startswith(f"{step.where}: {text}")
    assert bool(caught.value.hint) is (step is PROFILE)


@pytest.mark.parametrize("mark", [0, 2, 0xFFFFFFFF])
def test_a_mark_that_no_step_has_is_no_step(mark: int, pair: Pair) -> None:
    ours, theirs = pair
    ours.plan = Plan([USER])
    os.write(theirs.fd, failed(c.SYS_setsid, errno.EIO, mark))
    with pytest.raises(KernelError) as caught:
        ours.receive()
    assert str(caught.value) == "setsid(): EIO: Input/output error"


def test_a_clone_that_fails_has_the_hint_of_clone3(pair: Pair) -> None:
    os.write(pair[1].fd, failed(c.SYS_clone, errno.ENOMEM))
    with pytest.raises(KernelError, match=r"clone\(CLONE_PARENT\): ENOMEM: .*no init any more"):
        pair[0].receive()


def test_what_a_filter_has_refused_has_a_hint(pair: Pair) -> None:
    os.write(pair[1].fd, failed(c.SYS_capset, errno.EPERM))
    with pytest.raises(KernelError, match="a seccomp profile must allow capset"):
        pair[0].receive()


def test_the_hops_words_can_be_told_from_every_other() -> None:
    words = (sync.MAPS, sync.GO, sync.PID, sync.TERMINAL, sync.READY, sync.ERROR, sync.WARNING, sync.MOUNT)
    assert {SAYS_PID, SAYS_LISTENER, SAYS_ERROR} == {1, 2, 3}
    assert all(word[0].isalpha() for word in words)


@pytest.mark.parametrize(("kind", "word"), [(SAYS_PID, sync.PID), (SAYS_LISTENER, sync.LISTENER)])
@pytest.mark.parametrize("number", [0, 5, 4194303])
def test_the_hop_tells_a_number(kind: int, word: str, number: int, pair: Pair) -> None:
    ours, theirs = pair
    os.write(theirs.fd, said(kind, number))
    assert ours.receive() == (word, [str(number)])


def test_who_starts_is_told_the_same() -> None:
    error = start_error(failed(c.SYS_execve, errno.ENOENT), "/bin/app")
    assert str(error).startswith("config.json#/process/args/0: execve('/bin/app'): ENOENT: ")
    assert start_error(b"error\0ConfigError\x000\0place\0\0text", "app").where == "place"
    assert isinstance(start_error(b"nonsense", "app"), ProtocolError)


def test_a_descriptor_comes_with_its_word(pair: Pair) -> None:
    ours, theirs = pair
    send_master(theirs.fd, theirs.fd, sync.MOUNT)
    got = ours.receive_descriptor(sync.MOUNT)
    assert os.path.sameopenfile(got, theirs.fd)
    assert not os.get_inheritable(got)
    os.close(got)


@pytest.mark.parametrize("message", [failed(c.SYS_fsopen, errno.EPERM), b"mount", b"ready", b""])
def test_a_word_without_its_descriptor_is_an_error(message: bytes, pair: Pair) -> None:
    """And where there is a report in its place, that is told."""
    ours, theirs = pair
    if message:
        os.write(theirs.fd, message)
    theirs.close()
    with pytest.raises(Error) as caught:
        ours.receive_descriptor(sync.MOUNT)
    assert isinstance(caught.value, KernelError if message[:1] == b"\3" else ProtocolError)


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
        b"\3",
        said(SAYS_ERROR, -errno.EIO),
        b"\3" * 15,
        failed(c.SYS_setsid, 2**31),
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
