"""What is wrong in config.json or on the command line: status 1, one line that names the place, nothing left behind.

Spec: config.md. Where runc lets something pass, the test says so.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers, host_mounts
from tests.support.runtime import Result, identify

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")


@pytest.fixture
def refused_file(container: Container, leftovers: Leftovers) -> Callable[..., Result]:
    """As `refused`, for a bundle whose config.json the test has written itself."""

    def refuse(*places: str) -> Result:
        result = container.runtime("run", "-b", str(container.path), container.id)
        assert result.status == 1, result
        assert "Traceback" not in result.stderr
        if identify().name == "pyruntime":
            assert len(result.lines()) == 1, result.stderr
            for place in places:
                assert place in result.stderr, result.stderr
        assert leftovers.found() == []
        return result

    return refuse


NIL_CRASH = pytest.mark.runc_since("1.2", "before, a nil pointer: status 2 and a Go traceback")


class TestFile:
    """config.json as a file."""

    def test_no_bundle(self, container: Container, leftovers: Leftovers) -> None:
        result = container.runtime("run", "-b", "/no/such/bundle", container.id)
        assert result.status == 1
        assert "/no/such/bundle" in result.stderr
        assert leftovers.found() == []

    def test_no_config(self, refused_file: Callable[..., Result]) -> None:
        assert "config.json" in refused_file("config.json").stderr

    def test_a_directory(self, container: Container, refused_file: Callable[..., Result]) -> None:
        (container.path / "config.json").mkdir()
        refused_file("config.json")

    @pytest.mark.only_pyruntime("runc waits for a writer")
    def test_a_fifo(self, container: Container, refused_file: Callable[..., Result]) -> None:
        os.mkfifo(container.path / "config.json")
        refused_file("config.json")

    @pytest.mark.parametrize(
        "text",
        ["", " ", "{", "[]", pytest.param("null", marks=NIL_CRASH), '"text"', "1", "{}{}", "{'a': 1}", '{"a": NaN}'],
    )
    def test_no_json_object(self, container: Container, refused_file: Callable[..., Result], text: str) -> None:
        (container.path / "config.json").write_text(text)
        refused_file("config.json")

    @pytest.mark.only_pyruntime("runc tells no line")
    def test_truncated_json_with_line_and_column(
        self, container: Container, refused_file: Callable[..., Result]
    ) -> None:
        container.write()
        text = (container.path / "config.json").read_text()
        cut = text[: text.index('"env"') + 3]
        (container.path / "config.json").write_text(cut)
        line = cut.count("\n") + 1
        refused_file("config.json", f"line {line}", "column")

    @pytest.mark.only_pyruntime("Go replaces what is no UTF-8")
    def test_not_utf8(self, container: Container, refused_file: Callable[..., Result]) -> None:
        container.write()
        data = (container.path / "config.json").read_bytes()
        (container.path / "config.json").write_bytes(data.replace(b'"runc"', b'"\xff\xfe"'))
        refused_file("config.json")

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_nested_100000_deep(self, container: Container, refused_file: Callable[..., Result], opening: str) -> None:
        closing = {"[": "]", '{"a":': "}"}[opening]
        (container.path / "config.json").write_text(f'{{"x": {opening * 100000}1{closing * 100000}}}')
        refused_file("config.json")

    @pytest.mark.only_pyruntime("runc reads whatever there is into memory")
    def test_an_endless_file(self, container: Container, refused_file: Callable[..., Result]) -> None:
        with open(container.path / "config.json", "wb") as file:
            file.truncate(1 << 40)
        refused_file("config.json")


def put(config: Any, path: str, value: Any) -> None:
    """Set the value at a slash-separated path of a config; `DELETE` removes the key."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in parents:
        config = config[part]
    if value is DELETE:
        del config[last]
    elif isinstance(config, list) and last == len(config):
        config.append(value)
    else:
        config[last] = value


DELETE = object()
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")

# path into the default config, value: refused by every runtime
REFUSED_BY_ALL: list[tuple[str, Any]] = [
    ("process/args", "true"),
    ("process/args", [1]),
    ("process/args/0", None),
    ("process/env", "A=1"),
    ("process/cwd", 1),
    ("process/terminal", "yes"),
    ("process/user/uid", "0"),
    ("process/user/uid", -1),
    ("process/user/uid", 1.5),
    ("process/user/uid", 1 << 32),
    ("process/user/gid", 1 << 64),
    ("process/user/gid", True),
    ("process/user/additionalGids", [0, "x"]),
    ("process/user/additionalGids", [-1]),
    ("process/user/umask", "022"),
    ("process/rlimits/0/soft", "1024"),
    ("process/rlimits/0/soft", -1),
    ("process/rlimits/0/type", "RLIMIT_NO_SUCH"),
    ("process/rlimits/0/type", "nofile"),
    ("process/rlimits/0/soft", 4096),
    ("process/oomScoreAdj", 1001),
    ("process/oomScoreAdj", "0"),
    ("process/noNewPrivileges", 1),
    ("process/capabilities/bounding", "CAP_KILL"),
    ("process", DELETE),
    ("process/cwd", DELETE),
    ("process/cwd", ""),
    ("process/cwd", "relative"),
    ("process/args", DELETE),
    ("process/args", []),
    ("root/path", "no-such-rootfs"),
    ("root/path", "config.json"),
    ("root/path", 7),
    ("root/readonly", "true"),
    ("hostname", 1),
    ("mounts", {}),
    ("mounts/0/destination", 1),
    ("mounts/0/options", "ro"),
    ("mounts/1/options/0", 3),
    ("linux/namespaces", {}),
    ("linux/namespaces/0/type", "no-such-namespace"),
    ("linux/namespaces/6", {"type": "pid"}),
    ("linux/namespaces/1/path", "/no/such/namespace"),
    ("linux/namespaces/0", "pid"),
    ("linux/rootfsPropagation", "sideways"),
    ("linux/sysctl", {"vm.swappiness": "1"}),
    ("linux/sysctl", {"net.ipv4.ip_forward": 1}),
    ("linux/devices", [{"path": "/dev/x", "type": "z"}]),
    ("linux/devices", [{"path": "/dev/x", "type": "c", "major": "1", "minor": 1}]),
    ("linux/maskedPaths", "/proc/kcore"),
    ("linux/resources/devices", [{"allow": "yes", "access": "r"}]),
    ("linux/resources/devices", [{"allow": True, "type": "z", "access": "r"}]),
    ("linux/resources/memory", {"limit": "1g"}),
    ("linux/resources/pids", {"limit": "many"}),
    ("annotations", {"key": 1}),
]  # fmt: skip

# path, value, why runc lets it pass
REFUSED_BY_US: list[tuple[str, Any, str]] = [
    ("ociVersion", "0.1.0", "runc never looks at the version"),
    ("ociVersion", "2.0.0", "runc never looks at the version"),
    ("ociVersion", "one", "runc never looks at the version"),
    ("ociVersion", "", "runc never looks at the version"),
    ("ociVersion", DELETE, "runc never looks at the version"),
    ("process/args/0", "a\0b", "runc's create lets it pass, its start fails"),
    ("process/args/0", "", "runc fails after the container is made, without naming the key"),
    ("process/env/0", "A=\0", "runc's create lets it pass"),
    ("process/cwd", "/a\0b", "runc's create lets it pass"),
    ("process/rlimits/1", {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}, "runc takes the last of duplicates"),
    ("mounts/7", {"destination": "", "type": "tmpfs"}, "runc mounts over the root"),
    ("mounts/7", {"type": "tmpfs", "source": "tmpfs"}, "runc mounts over the root"),
    ("mounts/7", {"destination": "/mnt\0", "type": "tmpfs"}, "runc fails later"),
    ("hostname", "x" * 65, "runc fails later"),
    ("linux/resources/unified", {"../memory.max": "1"}, "runc on v1 never looks"),
    ("linux/resources/unified", {"memory.no_such_file": "1"}, "runc on v1 never looks"),
    ("linux/cgroupsPath", "a:b:c", "runc takes it for a path"),
    ("linux/cgroupsPath", 3, "runc's message has no place"),
    ("linux/maskedPaths/0", "relative", "runc takes it as from the root"),
    ("linux/devices", [{"path": "/dev/x", "type": "c", "major": -5, "minor": 1}], "runc makes some device"),
    ("linux/devices", [{"path": "relative", "type": "c", "major": 1, "minor": 1}], "runc takes it as from the root"),
    (
        "linux/uidMappings",
        [{"containerID": 0, "hostID": 0, "size": 1}],
        "runc passes mappings without a namespace over",
    ),
    ("linux/resources/devices", [{"allow": True, "access": "x"}], "runc on v1 never looks"),
    ("hooks", {"poststop": [{"path": "bin/true"}]}, "runc looks in its own directory"),
    ("hooks", {"poststop": [{"path": "/bin/true", "timeout": 0}]}, "runc kills it at once"),
    ("hooks", {"prestart": [{}]}, "runc fails when it executes nothing"),
    ("linux/intelRdt", {"closID": "x"}, "runc fails without resctrl"),
    ("process/apparmorProfile", "no-such-profile", "runc without AppArmor fails in its own words"),
    ("process/selinuxLabel", "a:b:c", "runc without SELinux passes it over"),
    ("linux/mountLabel", "a:b:c", "runc without SELinux passes it over"),
]


def name_of(value: Any) -> str:
    return "missing" if value is DELETE else repr(value)[:40] if not isinstance(value, str) else value[:40]


@pytest.mark.parametrize(("path", "value"), REFUSED_BY_ALL, ids=name_of)
def test_a_wrong_value(container: Container, refused: Refused, path: str, value: Any) -> None:
    put(container.config, path, value)
    # A missing key may be told at its parent; an element of a list at its own place.
    refused(f"config.json#/{path.rpartition('/')[0] if value is DELETE else path}".rstrip("/"))


@pytest.mark.only_pyruntime("runc lets these pass, or fails later and in other words: see the table")
@pytest.mark.parametrize(("path", "value", "why"), REFUSED_BY_US, ids=name_of)
def test_a_wrong_value_that_runc_lets_pass(
    container: Container, refused: Refused, path: str, value: Any, why: str
) -> None:
    assert why
    put(container.config, path, value)
    refused(f"config.json#/{path.rpartition('/')[0] if value is DELETE else path}".rstrip("/"))


class TestTogether:
    """Values that are wrong only beside others."""

    def test_a_hostname_without_a_uts_namespace(self, container: Container, refused: Refused) -> None:
        container.drop_namespace("uts")
        refused("config.json#/hostname")

    @pytest.mark.runc_since("1.2", "domainname")
    def test_a_domainname_without_a_uts_namespace(self, container: Container, refused: Refused) -> None:
        container.drop_namespace("uts")
        del container.config["hostname"]
        container.config["domainname"] = "example.org"
        refused("config.json#/domainname")

    def test_a_user_namespace_without_mappings(self, container: Container, refused: Refused) -> None:
        container.set_namespace("user")
        refused("config.json#/linux")

    @pytest.mark.runc_since("1.2", "time namespaces")
    def test_offsets_without_a_time_namespace(self, container: Container, refused: Refused) -> None:
        container.linux["timeOffsets"] = {"boottime": {"secs": 1}}
        refused("config.json#/linux/timeOffsets")

    @pytest.mark.parametrize("name", NAMESPACES)
    def test_duplicate_namespaces(self, container: Container, refused: Refused, name: str) -> None:
        container.linux["namespaces"].append({"type": name})
        refused("config.json#/linux/namespaces/6")

    def test_no_linux_at_all(self, container: Container, leftovers: Leftovers) -> None:
        del container.config["linux"]
        assert container.run().status == 1
        assert leftovers.found() == []

    def test_overlapping_mappings(self, container: Container, refused: Refused) -> None:
        container.map_root_to(100000)
        container.linux["uidMappings"].append({"containerID": 1, "hostID": 1, "size": 1})
        refused("config.json#/linux/uidMappings")

    def test_a_rootfs_that_is_the_hosts_root(self, container: Container, leftovers: Leftovers) -> None:
        container.config["root"]["path"] = "/"
        container.process["args"] = ["/bin/true"]
        before = len(host_mounts())
        container.run()
        assert len(host_mounts()) <= before
        assert leftovers.found() == []


def test_unknown_keys_are_no_error(container: Container) -> None:
    """The spec: "MUST NOT generate an error if they encounter an unknown property" (config.md#extensibility)."""
    container.config["noSuchKey"] = {"a": 1}
    container.process["noSuchKey"] = [1]
    container.linux["resources"]["noSuchKey"] = None
    container.mounts[0]["noSuchKey"] = ""
    assert container.output("echo fine") == "fine"


def test_null_is_as_good_as_missing(container: Container) -> None:
    """Go's encoder writes null for an empty slice or pointer, so engines' configs have it."""
    container.config["annotations"] = None
    container.config["hooks"] = None
    container.process["rlimits"] = None
    container.process["apparmorProfile"] = ""
    container.linux.update(sysctl=None, devices=None, seccomp=None, uidMappings=None, maskedPaths=None)
    container.mounts[0]["options"] = None
    container.linux["resources"].update(memory=None, unified=None)
    assert container.output("echo fine") == "fine"


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_full_disk_under_root(container: Container, scratch: Path, leftovers: Leftovers, verb: str) -> None:
    """The state can't be written: the container must not run unseen."""
    container.config["root"]["readonly"] = False
    container.script("touch /tmp/ran")
    container.write()
    container.runtime.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=3", "full", container.runtime.root], check=True)
    try:
        (container.runtime.root / "filler").write_bytes(b"x" * 4096)
        result = container.runtime(verb, "-b", str(container.path), container.id)
        assert result.status == 1
        assert "no space left" in result.stderr.lower()
        assert not (container.rootfs / "tmp/ran").exists()
        (container.runtime.root / "filler").unlink()
        container.runtime("delete", "--force", container.id)
    finally:
        subprocess.run(["umount", "--lazy", container.runtime.root], check=True)
    assert leftovers.found() == []


def test_a_root_that_is_a_file(container: Container, leftovers: Leftovers) -> None:
    container.runtime.root.write_text("not a directory")
    result = container.run()
    assert result.status == 1
    container.runtime.root.unlink()
    container.runtime.root.mkdir()
    assert leftovers.found() == []


@pytest.fixture
def as_nobody(container: Container) -> Iterator[Callable[..., Result]]:
    """Run the runtime as a user without any right."""
    container.write()
    container.runtime.root.mkdir()
    os.chown(container.runtime.root, 65534, 65534)
    yield lambda *words: container.runtime(*words, user=65534, group=65534, extra_groups=[])


@pytest.mark.only_pyruntime(
    "a runtime's own installation decides whether nobody may read it; ours must tell what is missing"
)
def test_no_root(container: Container, as_nobody: Callable[..., Result], leftovers: Leftovers) -> None:
    result = as_nobody("run", "-b", str(container.path), container.id)
    assert result.status == 1
    assert "user namespace" in result.stderr and "pyruntime spec --rootless" in result.stderr
    assert len(result.lines()) == 1
    assert leftovers.found() == []


@pytest.mark.only_pyruntime("runc works with v1 alone")
def test_no_cgroup_v2(container: Container, leftovers: Leftovers) -> None:
    """In a mount namespace of the test's own, from which every cgroup mount is gone."""
    container.write()
    script = 'umount --recursive --lazy /sys/fs/cgroup && exec "$@"'
    words = [container.runtime.command, "--root", str(container.runtime.root), "run", "-b", str(container.path)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *words, container.id],
        capture_output=True, text=True, timeout=60, check=False, env=container.runtime.environment,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cgroup" in done.stderr
    assert "Traceback" not in done.stderr
    assert leftovers.found() == []


def test_the_message_of_a_failure_is_for_people(container: Container) -> None:
    """No traceback, whatever happens, and the same text in the log file as on the screen."""
    container.config["root"]["path"] = "missing"
    log = container.path / "log"
    container.write()
    result = container.runtime(
        "--log", str(log), "--log-format", "json", "run", "-b", str(container.path), container.id
    )
    assert "missing" in result.stderr
    entry = json.loads(log.read_text().splitlines()[-1])
    assert "missing" in entry["msg"]
