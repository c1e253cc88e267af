"""What a tape is performed with (launch/tape.py): the caller's limits and descriptors, and what is long.

That it is performed, and each of its rows told when it fails, is what all other tests of containers show.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.fixtures import Refused

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

LIST = "ls /proc/self/fd | wc -l"


@pytest.mark.parametrize("limit", [32, 64, 200])
def test_a_caller_with_few_descriptors(container: Container, limit: int) -> None:
    """RLIMIT_NOFILE, which the process has until its own is set."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

    assert container.run_script(LIST, preexec_fn=few).stdout == "4\n"
    container.process["args"] = ["sleep", "100000"]
    assert container.run_detached(preexec_fn=few).status == 0
    assert container.exec_script(LIST, preexec_fn=few).stdout == "4\n"


def test_a_caller_that_leaves_many_descriptors_open(container: Container) -> None:
    """However many: ours come after them, and none is taken for another."""
    for count in (*range(185, 205), 700):

        def leave() -> None:
            for fd in range(3, 3 + count):  # noqa: B023
                os.dup2(0, fd)

        result = container.run_script(LIST, preexec_fn=leave, close_fds=False)
        assert (result.status, result.stdout, result.stderr) == (0, "4\n", ""), count


@pytest.mark.parametrize("megabytes", [3, 7, 9, 15])
def test_more_arguments_than_the_kernel_takes(container: Container, refused: Refused, megabytes: int) -> None:
    container.process["args"] = ["true", *["x" * 100_000] * 10 * megabytes]
    refused("E2BIG")


@pytest.mark.parametrize("megabytes", [7, 9])
def test_more_environment_than_the_kernel_takes(container: Container, refused: Refused, megabytes: int) -> None:
    container.process["env"] += [f"V{number}={'x' * 100_000}" for number in range(10 * megabytes)]
    refused("E2BIG")


def test_what_the_user_may_not_execute_is_passed_over(container: Container) -> None:
    """Of several candidates the hop executes the first that the user may."""
    container.process["user"] = {"uid": 7, "gid": 7}
    container.process["env"][0] = "PATH=/a:/b:/bin"
    container.add_file("a/tool", "#!/bin/sh\necho first\n", 0o700)
    container.add_file("b/tool", "#!/bin/sh\necho second\n", 0o755)
    container.process["args"] = ["tool"]
    assert container.run().stdout == "second\n"
    container.process["args"] = ["sleep", "100000"]
    assert container.run_detached().status == 0
    assert container.exec("tool").stdout == "second\n"


@pytest.mark.needs("root")
def test_a_caller_without_the_right_to_chroot(container: Container) -> None:
    """CAP_SYS_CHROOT, which setns(2) asks for to enter a mount namespace: the root is built by the child then."""
    command = f"{container.runtime.command} --root {container.runtime.root} run -b {container.path} {container.id}"
    container.process["args"] = ["echo", "inside"]
    for sets in ("bounding", "effective", "permitted"):
        container.process["capabilities"][sets] = []
    container.write()
    drop = ["setpriv", "--bounding-set", "-sys_chroot", "--inh-caps", "-sys_chroot", *command.split()]
    result = subprocess.run(drop, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "inside\n", "")


def test_a_caller_in_a_chroot(container: Container, tmp_path: Path) -> None:
    """Its root is not that of its mount namespace, to which setns(2) leads, and by which pivot_root(2) moves."""
    container.process["args"] = ["ls", "/"]
    container.write()
    here = f'exec chroot {tmp_path} {container.runtime.command} --root {container.runtime.root} run -b "$0" "$1"'
    script = f"mount --rbind / {tmp_path}; {here}"
    command = ["unshare", "-m", "sh", "-c", script, str(container.path), container.id]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=-3, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == set(os.listdir(container.rootfs))


@pytest.mark.parametrize("own", ["-Urm", "-Urmnui"])
def test_a_caller_who_is_root_of_a_user_namespace(container: Container, own: str) -> None:
    """Who may make namespaces, and enter them, but not return to those that are the host's."""
    container.mounts[:] = [each for each in container.mounts if each["destination"] != "/dev/pts"]  # of a gid, 5
    del container.linux["resources"]
    container.process["args"] = ["echo", "inside"]
    container.write()
    runtime = [container.runtime.command, "--root", str(container.runtime.root), "--rootless", "true"]
    command = ["unshare", own, *runtime, "run", "-b", str(container.path), container.id]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=-3, timeout=60)
    assert (done.returncode, done.stdout) == (0, "inside\n"), done.stderr


@pytest.mark.parametrize("limit", [1, 50])
def test_an_exec_of_a_user_who_may_have_one_process(container: Container, tmp_path: Path, limit: int) -> None:
    """RLIMIT_NPROC counts those of the user on the host, and who brings the process there is not to be one of them."""
    container.process["args"] = ["sleep", "100000"]
    assert container.run_detached().status == 0
    limits = [{"type": "RLIMIT_NPROC", "soft": limit, "hard": limit}]
    user = {"uid": 71077, "gid": 71077}
    process = container.process | {"args": ["cat", "/proc/self/limits"], "user": user, "rlimits": limits}
    (tmp_path / "process.json").write_text(json.dumps(process))
    result = container.exec(flags=["--process", str(tmp_path / "process.json")])
    (line,) = [line for line in result.stdout.splitlines() if "processes" in line] or [result.stderr]
    assert line.split()[2:4] == [str(limit)] * 2
