"""The verbs as functions: what a Python program does that makes containers itself. It is a process of its own here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.leftovers import Leftovers

pytestmark = [
    pytest.mark.needs("root", "busybox", "cgroup2"),
    pytest.mark.only_pyruntime("a Python library"),
]

PROGRAM = """
import signal, sys, time
sys.path.insert(0, {library!r})
import pyruntime
from pyruntime.errors import NotFoundError

at = dict(root={root!r})
print(pyruntime.run({bundle!r}, {id!r}, args=["sh", "-c", "exit 7"], **at), flush=True)

pyruntime.create({bundle!r}, {id!r}, args=["sleep", "1000"], **at)
print(pyruntime.state_of({id!r}, **at)["status"], [each["id"] for each in pyruntime.list_containers(**at)])
pyruntime.start({id!r}, **at)
print(pyruntime.state_of({id!r}, **at)["status"], len(pyruntime.processes({id!r}, **at)), flush=True)
print(pyruntime.execute({id!r}, ["sh", "-c", "exit 3"], **at), "pids" in pyruntime.stats({id!r}, **at), flush=True)
pyruntime.kill({id!r}, signal.SIGKILL, **at)
pyruntime.delete({id!r}, force=True, **at)
try:
    pyruntime.state_of({id!r}, **at)
except NotFoundError as error:
    print(error)
"""


def run_with(container: Container, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the library's user, with the container's names in it."""
    container.write()
    library = Path(__file__).resolve().parent.parent.parent
    code = program.format(
        library=str(library), root=str(container.runtime.root), bundle=str(container.path), id=container.id
    )
    command = [sys.executable, "-IS", "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, stdin=-3, timeout=60)


def test_the_verbs(container: Container, leftovers: Leftovers) -> None:
    done = run_with(container, PROGRAM)
    expected = ["7", f"created ['{container.id}']", "running 1", "3 True", f"{container.id}: container does not exist"]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, expected, "")
    assert not leftovers.found()


FAILING = """
import os, sys, threading
sys.path.insert(0, {library!r})
import pyruntime
from pyruntime.errors import Error

at = dict(root={root!r})

def ours():
    links = [os.readlink(f"/proc/self/{{name}}") for name in ("cwd", "root", "ns/mnt", "ns/net", "ns/uts", "ns/ipc")]
    return len(os.listdir("/proc/self/fd")), links

def attempt(function, *given, **options):
    before = ours()
    try:
        function(*given, **options, **at)
    except Error as error:
        print(error)
    assert ours() == before, (function, given, ours(), before)

for args in (["true"], ["/nowhere"], ["true", "x" * 200_000]):
    attempt(pyruntime.run, {bundle!r}, {id!r}, args=args)
attempt(pyruntime.run, {bundle!r}, {id!r}, args=["sleep", "1000"], detach=True)
for args in (["true"], ["/nowhere"], ["true", "x" * 200_000]):
    attempt(pyruntime.execute, {id!r}, args)
attempt(pyruntime.delete, {id!r}, force=True)
other = threading.Thread(target=attempt, args=(pyruntime.run, {bundle!r}, {id!r}))
other.start()
other.join()
sys.stdout.flush()
"""


def test_nothing_is_left_in_the_callers_process(container: Container, leftovers: Leftovers) -> None:
    """No descriptor, also by what fails; and it is in its own namespaces."""
    done = run_with(container, FAILING)
    assert (done.returncode, done.stderr) == (0, "")
    *failed, threaded = done.stdout.splitlines()
    assert [word for line in failed for word in ("/nowhere", "E2BIG") if word in line] == ["/nowhere", "E2BIG"] * 2
    assert threaded == "only the main thread can stay with a container in the foreground"
    assert not leftovers.found()
