"""launch.handle: whom the parent takes for the process that it has made."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pyruntime.errors import ProtocolError
from pyruntime.launch.handle import Child
from pyruntime.launch.sync import channel_pair


def fork(status: int | None = None) -> int:
    """A child that ends with a status, or waits to be killed."""
    pid = os.fork()
    if pid == 0:
        try:
            if status is None:
                signal.pause()
        finally:
            os._exit(status or 0)
    return pid


@pytest.fixture
def stage() -> Iterator[Child]:
    """A stage that has ended, and a child that it might have cloned."""
    ours, theirs = channel_pair()
    pid = fork(1)
    child = Child(pid, os.pidfd_open(pid), ours, is_stage=True)
    yield child
    theirs.close()
    child.kill()
    child.close()


def test_the_cloned_child(stage: Child) -> None:
    former, pid = stage.pid, fork()
    stage.take_over(pid)
    assert (stage.pid, stage.is_stage) == (pid, False)
    with open(f"/proc/self/fdinfo/{stage.pidfd}") as info:
        assert f"Pid:\t{pid}\n" in info.read()
    with pytest.raises(ChildProcessError):
        os.waitpid(former, 0)


@pytest.mark.parametrize("whose", ["init's", "our own", "the stage's", "nobody's", "a grandchild's"])
def test_a_number_that_is_not_the_childs(stage: Child, whose: str) -> None:
    """Who has got hold of the channel in a container may say any: no other process may be limited, named or killed."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.write(writer, str(fork()).encode())
            signal.pause()
        finally:
            os._exit(0)
    grandchild = int(os.read(reader, 20))
    numbers = {
        "init's": 1,
        "our own": os.getpid(),
        "the stage's": stage.pid,
        "nobody's": 2**22 + 1,
        "a grandchild's": grandchild,
    }
    try:
        with pytest.raises(ProtocolError, match="is not the one that was cloned"):
            stage.take_over(numbers[whose])
        assert stage.is_stage
    finally:
        for pid in (grandchild, parent):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.close(reader)
        os.close(writer)
