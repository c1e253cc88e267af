"""How the hop asks for a label (launch/labels.py): right before the execve, through its own directory attr.

A directory with a file `exec` stands in for /proc/self/attr, so that no security module is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyruntime.launch import exeseal
from pyruntime.launch.credentials import Filter, Process, begin
from pyruntime.launch.ending import ask_for_label, end, settle
from pyruntime.launch.labels import Label, confine
from pyruntime.launch.paths import Root
from pyruntime.launch.sync import channel_pair, hop_error
from pyruntime.launch.tape import Tape
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.attributes import ConfineByProfile
from pyruntime.plan.step import Plan
from tests.kernel.child import in_child

STEP = ConfineByProfile("config.json#/process/apparmorProfile", profile="a profile/with blanks")
TEXT = b"exec a profile/with blanks"


@pytest.fixture
def attr(tmp_path: Path) -> Path:
    path = tmp_path / "attr"
    path.mkdir()
    return path


@pytest.fixture
def root() -> Iterator[Root]:
    made = Root("/")
    yield made
    made.close()


class Subject:
    """A process to be, with a tape of its own, which is enough of a Newcomer for `confine`."""

    def __init__(self, root: Root, script: str) -> None:
        self.ours, self.theirs = channel_pair()
        self.tape = Tape()
        begin(self.tape, self.theirs.fd)
        self.process = Process(self.tape, root, 0, 0, self.theirs.fd, rootless=False)
        self.process.candidates, self.process.args, self.process.env = ["/bin/sh"], [b"sh", b"-c", script.encode()], []
        self.label: Label | None = None

    def run(self, *fds: int) -> tuple[str, bytes]:
        """Become the hop, and the program: (output, report)."""
        ask_for_label(self.process)
        settle(self.process, 0)
        end(self.process)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(writer, 1)
                hop_fd = exeseal.sealed(self.tape, self.theirs.fd)
                syscalls.close_range(3, 0xFFFFFFFF, c.CLOSE_RANGE_CLOEXEC)
                for fd in (self.theirs.fd, *fds):
                    os.set_inheritable(fd, True)
                exeseal.execute(hop_fd)
            finally:
                os._exit(99)
        os.close(writer)
        self.theirs.close()
        report = os.read(self.ours.fd, 100)
        self.ours.close()
        os.waitpid(pid, 0)
        with os.fdopen(reader) as output:
            return output.read(), report


def run_labelled(root: Root, attr: Path, script: str, filter: Filter | None = None) -> tuple[str, bytes]:
    """A hop with a label, which is asked for in the directory `attr`."""
    directory_fd = os.open(attr, os.O_PATH | os.O_DIRECTORY)
    subject = Subject(root, script.format(fd=directory_fd))
    subject.process.label = Label(STEP, directory_fd, TEXT)
    subject.process.label.mark = 1
    subject.process.filter = filter
    try:
        return subject.run(directory_fd)
    finally:
        os.close(directory_fd)


def test_it_is_asked_for_before_the_program_runs(root: Root, attr: Path) -> None:
    (attr / "exec").touch()
    show = f"cat {attr}/exec; test -e /proc/$$/fd/{{fd}} || echo ' gone'"
    assert run_labelled(root, attr, show) == (f"{TEXT.decode()} gone\n", b"")


def test_a_refusal_is_reported_and_the_program_does_not_run(root: Root, attr: Path) -> None:
    output, report = run_labelled(root, attr, "echo executed")
    assert output == ""
    error = hop_error(report, "/bin/sh", Plan([STEP]))
    assert str(error).startswith(
        "config.json#/process/apparmorProfile: write('/proc/self/attr/apparmor/exec'): ENOENT: "
    )
    assert "no such profile is loaded" in error.hint


def test_what_is_written_in_part_or_not_at_all_is_one(root: Root, attr: Path) -> None:
    """A device that is always full."""
    (attr / "exec").symlink_to("/dev/full")
    output, report = run_labelled(root, attr, "echo executed")
    assert output == ""
    assert "ENOSPC" in str(hop_error(report, "/bin/sh", Plan([STEP])))


@pytest.mark.skipif(c.MACHINE != "x86_64", reason="the numbers are those of x86-64")
def test_the_filter_comes_after_it(root: Root, attr: Path) -> None:
    """A profile of seccomp needs not allow what asking takes: here openat, which kills."""
    (attr / "exec").touch()
    program = bytes.fromhex("2000000000000000 1500000101010000 0600000000000080 060000000000ff7f")

    def body() -> tuple[str, bytes]:
        syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)
        return run_labelled(root, attr, ":", Filter(program, 0, 2))

    assert in_child(body) == ("", b"")
    assert (attr / "exec").read_bytes() == TEXT


@pytest.mark.needs("root")
def test_the_directory_is_the_hops_own(root: Root) -> None:
    """Where a hop enters it opens its own /proc/self/attr: a detached mount of just that, by a number of its own."""
    subject = Subject(
        root, "test . -ef /proc/$$/attr && ls . && cd .. && test . -ef /proc/$$/attr && echo nothing above"
    )
    confine(STEP, subject)  # type: ignore[arg-type]
    assert subject.label is not None
    assert subject.label.text == TEXT
    assert [subject.label.directory_fd] == subject.tape.reserved
    subject.tape.call(c.SYS_fchdir, subject.label.directory_fd)
    output, report = subject.run()
    assert report == b""
    assert "current\n" in output
    assert output.endswith("nothing above\n")
