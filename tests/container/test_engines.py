"""What engines read of a runtime: each answer is decoded as Go would, into the structures that go-runc and others have.

Read beside go-runc: container.go, runc.go, utils.go; containerd: cmd/containerd-shim-runc-v2/process/utils.go;
runtime-spec: specs-go/features/features.go.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container
from tests.support.runtime import Runtime

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

# A Go type: int, str, bool; Time; [type] a slice; {"": type} a map; {name: type, ...} a struct; pointers are the same.
Type = Any


class Time:
    """time.Time, which encoding/json reads as RFC 3339 only."""

    PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


CONTAINER: Type = {
    "id": str, "pid": int, "status": str, "bundle": str, "rootfs": str, "created": Time, "annotations": {"": str},
}  # fmt: skip
LOG_LINE: Type = {"level": str, "msg": str, "time": Time}
ENABLED: Type = {"enabled": bool}
FEATURES: Type = {
    "ociVersionMin": str,
    "ociVersionMax": str,
    "hooks": [str],
    "mountOptions": [str],
    "linux": {
        "namespaces": [str],
        "capabilities": [str],
        "cgroup": {"v1": bool, "v2": bool, "systemd": bool, "systemdUser": bool, "rdma": bool},
        "seccomp": {
            **ENABLED,
            **{key: [str] for key in ("actions", "operators", "archs", "knownFlags", "supportedFlags")},
        },
        "apparmor": ENABLED,
        "selinux": ENABLED,
        "intelRdt": {**ENABLED, "schemata": bool, "monitoring": bool},
        "memoryPolicy": {"modes": [str], "flags": [str]},
        "mountExtensions": {"idmap": ENABLED},
        "netDevices": ENABLED,
    },
    "annotations": {"": str},
    "potentiallyUnsafeConfigAnnotations": [str],
}
PSI: Type = {kind: {"avg10": float, "avg60": float, "avg300": float, "total": int} for kind in ("some", "full")}
MEMORY_ENTRY: Type = dict.fromkeys(("limit", "usage", "max", "failcnt"), int)
BLOCK_IO: Type = [{"major": int, "minor": int, "op": str, "value": int}]
# go-runc: events.go
EVENT: Type = {
    "type": str,
    "id": str,
    "data": {
        "cpu": {
            "usage": {"total": int, "percpu": [int], "kernel": int, "user": int},
            "throttling": {"periods": int, "throttledPeriods": int, "throttledTime": int},
            "psi": PSI,
        },
        "memory": {
            "cache": int,
            **dict.fromkeys(("usage", "swap", "kernel", "kernelTCP"), MEMORY_ENTRY),
            "raw": {"": int},
            "psi": PSI,
        },
        "pids": {"current": int, "limit": int},
        "blkio": {"ioServiceBytesRecursive": BLOCK_IO, "ioServicedRecursive": BLOCK_IO, "psi": PSI},
        "hugetlb": {"": {"usage": int, "max": int, "failcnt": int}},
        "network_interfaces": [{"Name": str, "RxBytes": int, "TxBytes": int}],
    },
}


def decode(value: Any, wanted: Type, place: str = "") -> None:
    """Fail where encoding/json would: at another type. null is the zero of any; unknown keys are passed over."""
    if value is None:
        return
    if isinstance(wanted, list):
        assert isinstance(value, list), place
        for index, each in enumerate(value):
            decode(each, wanted[0], f"{place}[{index}]")
    elif isinstance(wanted, dict):
        assert isinstance(value, dict), place
        for key, each in value.items():
            if kind := wanted.get(key, wanted.get("")):
                decode(each, kind, f"{place}.{key}")
    elif wanted is Time:
        assert isinstance(value, str) and Time.PATTERN.fullmatch(value), place
        datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value))
    elif wanted is float:
        assert type(value) in (int, float), f"{place}: {value!r}"
    else:
        assert type(value) is wanted, f"{place}: {value!r}"


class Engine:
    """Calls the runtime as containerd's shim does through go-runc: stdout and stderr of an answer come together."""

    def __init__(self, runtime: Runtime, log_path: Path) -> None:
        self.runtime = runtime
        self.log_path = log_path

    def call(self, *words: str, status: int = 0) -> str:
        """Both outputs, as cmdOutput(combined) and runOrError see them."""
        result = self.runtime("--log", str(self.log_path), "--log-format", "json", *words)
        assert result.status == status, result
        return result.stdout + result.stderr

    def last_error(self) -> str:
        """getLastRuntimeError: the last line of level "error"; a line that can't be decoded ends the reading."""
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines()]
        for line in lines:
            decode(line, LOG_LINE)
        errors = [line["msg"] for line in lines if line["level"] == "error"]
        return str(errors[-1].strip())


@pytest.fixture
def engine(driver: Runtime, scratch: Path) -> Engine:
    return Engine(driver, scratch / "log.json")


@pytest.fixture
def running(container: Container) -> Container:
    container.process["args"] = ["sleep", "1000"]
    container.config["annotations"] = {"org.example": "x"}
    assert container.run_detached().status == 0
    return container


@pytest.fixture
def stopped(container: Container) -> Container:
    assert container.run_detached().status == 0
    container.wait_for("stopped")
    return container


@pytest.mark.parametrize("status", ["created", "running", "paused", "stopped"])
def test_state(container: Container, engine: Engine, status: str) -> None:
    """The words are those that the shim turns into its own: anything else is an unknown state to it."""
    container.process["args"] = ["true"] if status == "stopped" else ["sleep", "1000"]
    assert (container.create() if status == "created" else container.run_detached()).status == 0
    if status == "paused":
        assert engine.call("pause", container.id) == ""
    container.wait_for(status)
    state = json.loads(engine.call("state", container.id))
    decode(state, CONTAINER)
    assert state["status"] == status
    assert (state["pid"] == 0) == (status == "stopped")


def test_list(running: Container, engine: Engine) -> None:
    entries = json.loads(engine.call("list", "--format=json"))
    decode(entries, [CONTAINER])
    assert [entry["id"] for entry in entries] == [running.id]


def test_ps(running: Container, engine: Engine) -> None:
    pids = json.loads(engine.call("ps", "--format", "json", running.id))
    decode(pids, [int])
    assert pids == [running.pid()]


def test_top(running: Container, engine: Engine) -> None:
    """ParsePSOutput: as many fields in each line as there are headers, the last one with the blanks in it."""
    headers, *lines = [line.split() for line in engine.call("ps", "--format", "table", running.id, "-ef").splitlines()]
    assert headers[-1] == "CMD"
    (fields,) = lines
    assert fields[headers.index("PID")] == str(running.pid())
    assert fields[len(headers) - 1 :] == ["sleep", "1000"]


def test_stats(running: Container, engine: Engine) -> None:
    """The shim and `ctr` read cgroups themselves; whoever calls Stats of go-runc gets this."""
    event = json.loads(engine.call("events", "--stats", running.id))
    decode(event, EVENT)
    assert (event["type"], event["id"]) == ("stats", running.id)
    assert event["data"]["pids"]["current"] == 1


def test_events(running: Container, engine: Engine) -> None:
    """go-runc reads one object after the other, until the command ends."""
    listener = running.runtime.spawn("events", "--interval", "0.05s", running.id)
    assert listener.stdout is not None
    lines = [listener.stdout.readline() for _ in range(2)]
    assert running.delete("--force").status == 0
    rest, _ = listener.communicate(timeout=30)
    for line in (*lines, *rest.splitlines()):
        decode(json.loads(line), EVENT)
    assert listener.returncode == 0


def test_update(running: Container, engine: Engine) -> None:
    """--resources=- with what LinuxResources is as JSON: what is nil is null or not there."""
    words = ("--log", str(engine.log_path), "--log-format", "json", "update", "--resources=-", running.id)
    resources = {
        "devices": None,
        "memory": {},
        "cpu": {"shares": 0, "cpus": ""},
        "pids": {},
        "blockIO": {"weight": 0},
    }
    result = running.runtime(*words, stdin=json.dumps(resources))
    assert result == (0, "", "")
    assert running.runtime(*words, stdin='{"memory": {"limit": "much"}}').status == 1
    assert "limit" in engine.last_error()


def test_features(engine: Engine) -> None:
    answer = json.loads(engine.call("features"))
    decode(answer, FEATURES)
    assert answer["linux"]["cgroup"]["v2"] is True
    assert "createRuntime" in answer["hooks"]


@pytest.mark.only_pyruntime("runc serves keys that are not served here, and the other way round")
def test_features_have_all_that_the_specification_names(engine: Engine) -> None:
    def keys(value: Any) -> Any:
        return {key: keys(each) for key, each in value.items()} if isinstance(value, dict) else None

    answer = json.loads(engine.call("features"))
    assert answer.pop("annotations").keys() == {"org.pyruntime.version"}
    wanted = {key: each for key, each in FEATURES.items() if key != "annotations"}
    assert keys(answer) == keys(wanted)


def test_version(engine: Engine) -> None:
    """moby: parseRuntimeVersion: the first line names runtime and version, the others are "key: value"."""
    first, *others = engine.call("--version").splitlines()
    assert re.fullmatch(r"\w+ version \S+", first)
    assert all(re.fullmatch(r"\w+: \S+", line) for line in others)
    assert "spec" in [line.partition(":")[0] for line in others]


def test_pid_file(container: Container, engine: Engine, scratch: Path) -> None:
    """ReadPidFile: strconv.Atoi of the whole file, which takes neither blanks nor a newline."""
    assert container.create("--pid-file", str(scratch / "pid")).status == 0
    assert re.fullmatch(r"[1-9]\d*", (scratch / "pid").read_text())


GONE = "does not exist"


@pytest.mark.parametrize(
    "words",
    [
        ["state"],
        ["kill", "9"],
        ["kill", "--all", "9"],
        ["delete"],
        ["start"],
        ["pause"],
        ["resume"],
        ["ps"],
        ["update"],
        ["events"],
    ],
)
def test_what_is_gone_is_told_in_the_words_that_are_looked_for(engine: Engine, words: list[str]) -> None:
    """checkKillError, and Delete of a shim that lost its container: strings.Contains of these words."""
    verb, *rest = words
    signal = rest[-1:] if verb == "kill" else []
    told = engine.call(verb, *rest[: len(rest) - len(signal)], "gone", *signal, status=1)
    assert GONE in told
    assert GONE in engine.last_error()


def test_kill_after_the_end(stopped: Container, engine: Engine) -> None:
    assert "container not running" in engine.call("kill", stopped.id, "15", status=1)
    assert "container not running" in engine.last_error()
    assert engine.call("delete", stopped.id) == ""
    assert GONE in engine.call("delete", stopped.id, status=1)
    assert engine.call("delete", "--force", stopped.id) == ""


# What the engines look for in the error of a failed start, to choose the exit status of their own command
# (moby: daemon/start_unix.go and errors; podman: libpod/oci_util.go, getOCIRuntimeError).
NOT_FOUND = re.compile(r"executable file not found|no such file or directory", re.IGNORECASE)
DENIED = re.compile(r"permission denied", re.IGNORECASE)


@pytest.mark.parametrize(
    ("program", "pattern"),
    [
        ("no-such-program", NOT_FOUND),
        ("/no/such/program", NOT_FOUND),
        ("/etc/data", DENIED),
        ("/root/secret/program", DENIED),
    ],
)
def test_a_program_that_cannot_be_executed(
    container: Container, engine: Engine, program: str, pattern: re.Pattern[str]
) -> None:
    """Exit status 127 or 126 of `docker run` and `podman run` hangs on these words, and on the program's name."""
    container.add_file("etc/data", "no program")
    container.add_file("root/secret/program", "#!/bin/sh\n", 0o755).parent.chmod(0o700)
    container.process["user"] = {"uid": 1000, "gid": 1000}
    container.process["args"] = [program]
    container.write()
    engine.call("run", "-b", str(container.path), container.id, status=1)
    assert pattern.search(engine.last_error()), engine.last_error()
    assert program in engine.last_error()


MISTAKES: dict[str, Callable[[Container], None]] = {
    "config.json#/mounts/7": lambda c: c.add_mount("/mnt", "nosuchfs"),
    "config.json#/process/cwd": lambda c: c.process.update(cwd="relative"),
    "config.json#/linux/namespaces/5/path": lambda c: c.set_namespace("network", "/no/such/namespace"),
    "config.json#/root/path": lambda c: c.config["root"].update(path="nowhere"),
    "config.json#/process/args/0": lambda c: c.process.update(args=["/no/such/program"]),
}


@pytest.mark.only_pyruntime("runc names neither the key nor the container")
@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize("place", MISTAKES)
def test_the_last_error_alone_explains_the_failure(container: Container, engine: Engine, place: str, verb: str) -> None:
    """It is all that `docker run` and `kubectl describe` show: what was to be done, to which container, and where."""
    MISTAKES[place](container)
    container.write()
    engine.call(verb, "-b", str(container.path), container.id, status=1)
    told = engine.last_error()
    assert told.startswith(f"{verb} {container.id}: {place}: ")
    assert "\n" not in told


@pytest.mark.only_pyruntime("its --debug is not runc's")
def test_debug_lines_tell_each_step(container: Container, engine: Engine) -> None:
    """Those of the parent and those of the child, in the log and nowhere else."""
    container.write()
    assert engine.call("--debug", "run", "-b", str(container.path), container.id) == ""
    lines = [json.loads(line) for line in engine.log_path.read_text().splitlines()]
    for line in lines:
        decode(line, LOG_LINE)
    assert {line["level"] for line in lines} == {"debug"}
    told = [line["msg"] for line in lines]
    for place in ("config.json#/mounts/0: mount proc on /proc", "config.json#/process/args: execute true"):
        assert any(f"run {container.id}: {place}" in each for each in told), told


def test_warnings_do_not_come_into_an_answer(container: Container, engine: Engine) -> None:
    """go-runc reads both outputs as one: with a log, a warning belongs there."""
    container.linux["resources"]["memory"] = {"kernel": 1 << 30}
    container.process["args"] = ["sleep", "1000"]
    container.write()
    log = ["--log", str(engine.log_path), "--log-format", "json"]
    with open(engine.log_path.parent / "both", "w+b") as both:
        done = container.runtime(*log, "create", "-b", str(container.path), container.id, stdout=both, stderr=both)
        both.seek(0)
        assert (done.status, both.read()) == (0, b"")


def test_an_unknown_log_format(driver: Runtime) -> None:
    assert driver("--log-format", "xml", "list", "-q").status == 1


def test_the_log_is_appended_to(engine: Engine) -> None:
    for _ in range(3):
        engine.call("state", "gone", status=1)
    assert len(engine.log_path.read_text().splitlines()) == 3
    assert engine.log_path.stat().st_mode & 0o777 == 0o644
