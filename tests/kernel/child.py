"""Run a part of a test in a process of its own, since what these wrappers change cannot be changed back."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

from pyruntime.linux import constants as c
from pyruntime.linux import syscalls

T = TypeVar("T")


def in_child(body: Callable[[], T], *, unshare: int = 0) -> T:
    """What `body` returns in a forked child that left the namespaces of `unshare`; what it raises fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            if unshare:
                syscalls.unshare(unshare)
            if unshare & c.CLONE_NEWNS:
                syscalls.mount("none", "/", "none", c.MS_REC | c.MS_PRIVATE)
            answer: tuple[str, object] = ("", body())
        except BaseException:  # pytest must not go on in the child, whatever happened
            answer = (traceback.format_exc(), None)
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    _pid, status = os.waitpid(pid, 0)
    assert raw, f"the child ended with status {status} and no answer"
    failure, result = pickle.loads(raw)
    assert not failure, failure
    return result  # type: ignore[no-any-return]


def closes_on_exec(fd: int) -> bool:
    return not os.get_inheritable(fd)
