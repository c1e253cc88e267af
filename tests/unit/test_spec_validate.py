"""Every way in which a config.json can be wrong has a sentence and a place of its own."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.errors import ConfigError, Error, UnsupportedError
from pyruntime.spec import schema, types
from pyruntime.spec.default import default_spec
from pyruntime.spec.types import Spec
from pyruntime.spec.validate import CAPABILITIES, problems, sysctl_path, validate, warnings

GONE = "(gone)"


def changed(changes: dict[str, object]) -> Spec:
    """The default Spec with values put at slash-separated places ("-" appends), or taken away by GONE."""
    spec: Any = default_spec()
    for place, value in copy.deepcopy(changes).items():
        *parents, last = place.split("/")
        at = spec
        for key in parents:
            at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
        if value == GONE:
            del at[last]
        elif last == "-":
            at.append(value)
        elif isinstance(at, list):
            at[int(last)] = value
        else:
            at[last] = value
    return cast("Spec", spec)


def told(changes: dict[str, object]) -> list[tuple[str, str]]:
    """(where, message) of each problem."""
    return [(error.where.removeprefix("config.json#"), error.message) for error in problems(changed(changes))]


NEW_USER = {
    "linux/namespaces/-": {"type": "user"},
    "linux/uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
    "linux/gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
}

WRONG_TYPES = [
    ({"process/user/uid": "0"}, "/process/user/uid", 'must be a whole number from 0 to 4294967294, not the string "0"'),
    ({"process/user/uid": True}, "/process/user/uid", "must be a whole number from 0 to 4294967294, not true"),
    ({"process/user/uid": 1.0}, "/process/user/uid", "must be a whole number from 0 to 4294967294, not 1.0"),
    ({"process/user/uid": -1}, "/process/user/uid", "must be a whole number from 0 to 4294967294, not -1"),
    (
        {"process/user/gid": 2**32 - 1},
        "/process/user/gid",
        "must be a whole number from 0 to 4294967294, not 4294967295",
    ),
    ({"process/user/uid": 2**32}, "/process/user/uid", "must be a whole number from 0 to 4294967294, not 4294967296"),
    ({"process/user/additionalGids": [0, "5"]}, "/process/user/additionalGids/1", "must be a whole number from 0"),
    ({"process/user/umask": 0o1000}, "/process/user/umask", "must be a whole number from 0 to 511, not 512"),
    ({"process/terminal": 1}, "/process/terminal", "must be true or false, not 1"),
    ({"process/args": "sh"}, "/process/args", 'must be an array, not the string "sh"'),
    ({"process/args": ["sh", None]}, "/process/args/1", "must be a string, not null"),
    ({"process": []}, "/process", "must be an object, not an array"),
    ({"process/oomScoreAdj": 1001}, "/process/oomScoreAdj", "must be a whole number from -1000 to 1000, not 1001"),
    ({"process/consoleSize": {"height": 70000, "width": 1}}, "/process/consoleSize/height", "from 0 to 65535"),
    ({"hostname": {}}, "/hostname", "must be a string, not an object"),
    ({"annotations": {"a": 1}}, "/annotations/a", "must be a string, not 1"),
    ({"annotations": {"a/b~c": 1}}, "/annotations/a~1b~0c", "must be a string, not 1"),
    ({"annotations": {"": "x"}}, "/annotations/", 'the key must not be empty: the string ""'),
    ({"mounts": {}}, "/mounts", "must be an array, not an object"),
    ({"mounts/1/options/0": 5}, "/mounts/1/options/0", "must be a string, not 5"),
    ({"linux/resources/memory": {"limit": "512M"}}, "/linux/resources/memory/limit", 'not the string "512M"'),
    ({"linux/resources/memory": {"limit": 2**63}}, "/linux/resources/memory/limit", "to 9223372036854775807"),
    ({"linux/resources/cpu": {"idle": 2}}, "/linux/resources/cpu/idle", "from 0 to 1, not 2"),
    ({"linux/resources/devices/0/type": "x"}, "/linux/resources/devices/0/type", "one of a, b, c"),
    ({"linux/resources/rdma": {"a b": {}}}, "/linux/resources/rdma/a b", "the key must be a name without blanks"),
    ({"linux/rootfsPropagation": "rpriv"}, "/linux/rootfsPropagation", "must be one of private, rprivate, shared"),
    ({"linux/personality": {"domain": "LINUX64"}}, "/linux/personality/domain", "must be one of LINUX, LINUX32"),
]

WRONG_VALUES = [
    ({"hooks": {"prestart": [{}]}}, "/hooks/prestart/0", "the key path is missing"),
    ({"hooks": {"poststop": [{"path": "x"}]}}, "/hooks/poststop/0/path", "must be an absolute path"),
    ({"hooks": {"createRuntime": [{"path": "/x", "timeout": 0}]}}, "/hooks/createRuntime/0/timeout", "whole number"),
    ({"hooks": {"createContainer": [{"path": "/x", "args": [1]}]}}, "/hooks/createContainer/0/args/0", "a string"),
    ({"hooks": {"startContainer": [{"path": "/x", "env": ["A"]}]}}, "/hooks/startContainer/0/env/0", "NAME=VALUE"),
    ({"hooks": {"poststart": {"path": "/x"}}}, "/hooks/poststart", "must be an array"),
    ({"ociVersion": GONE}, "", "the key ociVersion is missing"),
    ({"root": GONE}, "", "the key root is missing"),
    ({"root/path": GONE}, "/root", "the key path is missing"),
    ({"root/path": ""}, "/root/path", "must not be empty"),
    ({"process/args": GONE}, "/process", "the key args is missing"),
    ({"process/args": []}, "/process/args", "must not be empty"),
    ({"process/args": [""]}, "/process/args/0", "the program to execute must not be empty"),
    (
        {"process/args": ["echo", "a\0b"]},
        "/process/args/1",
        "has a NUL character, which no string of the kernel can hold",
    ),
    ({"process/args": ["echo", "\udc80"]}, "/process/args/1", "has half of a surrogate pair"),
    ({"process/cwd": GONE}, "/process", "the key cwd is missing"),
    ({"process/cwd": ""}, "/process/cwd", "must be an absolute path"),
    ({"process/cwd": "tmp"}, "/process/cwd", 'must be an absolute path: the string "tmp"'),
    ({"process/env/-": "NOVALUE"}, "/process/env/2", "must be of the form NAME=VALUE"),
    ({"process/env/-": "=x"}, "/process/env/2", "must be of the form NAME=VALUE"),
    ({"process/rlimits/0/type": "RLIMIT_FILES"}, "/process/rlimits/0/type", "must be one of RLIMIT_AS, RLIMIT_CORE"),
    ({"process/rlimits/0/type": "NOFILE"}, "/process/rlimits/0/type", "must be one of RLIMIT_AS, RLIMIT_CORE"),
    ({"process/rlimits/0/soft": 2048}, "/process/rlimits/0/soft", "above the hard limit: 2048 > 1024"),
    ({"process/rlimits/0/soft": GONE}, "/process/rlimits/0", "the key soft is missing"),
    (
        {"process/rlimits/-": {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}},
        "/process/rlimits/1/type",
        "a second RLIMIT_NOFILE; the first is rlimits/0",
    ),
    (
        {"process/capabilities/effective/-": "CAP_SYS_ADMIN"},
        "/process/capabilities/effective/3",
        "CAP_SYS_ADMIN cannot be effective without being permitted",
    ),
    ({"mounts/-": {"type": "tmpfs"}}, "/mounts/7", "the key destination is missing"),
    ({"mounts/0/destination": ""}, "/mounts/0/destination", "must not be empty"),
    ({"mounts/0/source": "a\0b"}, "/mounts/0/source", "has a NUL character"),
    (
        {"mounts/-": {"destination": "/a", "source": "/", "type": "bind"}},
        "/mounts/7/type",
        "no file system has the type",
    ),
    (
        {"linux/namespaces/-": {"type": "net"}},
        "/linux/namespaces/6/type",
        "must be one of pid, network, mount, ipc, uts",
    ),
    ({"linux/namespaces/-": {"path": "/x"}}, "/linux/namespaces/6", "the key type is missing"),
    ({"linux/namespaces/-": {"type": []}}, "/linux/namespaces/6/type", "must be one of .*, not an array"),
    (
        {"linux/namespaces/-": {"type": "pid"}},
        "/linux/namespaces/6/type",
        "a second pid namespace; the first is namespaces/0",
    ),
    ({"linux/namespaces/0/path": "ns/pid"}, "/linux/namespaces/0/path", "must be an absolute path"),
    ({"linux/namespaces": [{"type": "mount"}]}, "/hostname", "needs a uts namespace: it would be the host's name"),
    ({"hostname": "ü" * 33}, "/hostname", "must not be longer than 64 bytes"),
    (
        {"domainname": "d", "hostname": "", "linux/namespaces": [{"type": "mount"}]},
        "/domainname",
        "needs a uts namespace: it would be the host's name",
    ),
    ({"linux/maskedPaths/0": "proc/acpi"}, "/linux/maskedPaths/0", "must be an absolute path"),
    (
        {"linux/devices": [{"path": "/dev/x", "type": "c"}]},
        "/linux/devices/0",
        "a device of type c needs the key major",
    ),
    ({"linux/devices": [{"path": "x", "type": "p"}]}, "/linux/devices/0/path", "must be an absolute path"),
    (
        {"linux/devices": [{"path": "/dev/x", "type": "b", "major": 4096, "minor": 0}]},
        "/linux/devices/0/major",
        "must be a whole number from 0 to 4095",
    ),
    (
        {"linux/devices": [{"path": "/dev/x", "type": "p"}, {"path": "/dev/x", "type": "p"}]},
        "/linux/devices/1/path",
        "devices/0 is /dev/x, too",
    ),
    ({"linux/timeOffsets": {"boottime": {"secs": 1}}}, "/linux/timeOffsets", "needs a time namespace"),
    (
        {"linux/timeOffsets": {"realtime": {}}},
        "/linux/timeOffsets/realtime",
        "unknown key; there are only monotonic, boot",
    ),
    (
        {"linux/timeOffsets": {"boottime": {"nanosecs": 10**9}}},
        "/linux/timeOffsets/boottime/nanosecs",
        "from 0 to 999999999",
    ),
    (
        {"linux/timeOffsets": {"boottime": {"secs": 1}}, "linux/namespaces/-": {"type": "time", "path": "/t"}},
        "/linux/timeOffsets",
        "the clocks of the joined time namespace /t are already running",
    ),
]

SCHEDULER, MEMORY_POLICY = "process/scheduler", "linux/memoryPolicy"
ATTRIBUTES = [
    ({SCHEDULER: {}}, "/process/scheduler", "the key policy is missing"),
    ({SCHEDULER: {"policy": "SCHED_FAST"}}, "/process/scheduler/policy", "must be one of SCHED_OTHER, SCHED_FIFO"),
    ({SCHEDULER: {"policy": "SCHED_OTHER", "nice": 20}}, "/process/scheduler/nice", "from -20 to 19 for SCHED_OTHER"),
    ({SCHEDULER: {"policy": "SCHED_BATCH", "nice": -21}}, "/process/scheduler/nice", "from -20 to 19 for SCHED_BATCH"),
    ({SCHEDULER: {"policy": "SCHED_OTHER", "priority": 1}}, "/process/scheduler/priority", "only for SCHED_FIFO and"),
    ({SCHEDULER: {"policy": "SCHED_FIFO"}}, "/process/scheduler", "SCHED_FIFO needs a priority from 1 to 99, not 0"),
    ({SCHEDULER: {"policy": "SCHED_RR", "priority": 100}}, "/process/scheduler/priority", "from 1 to 99, not 100"),
    ({SCHEDULER: {"policy": "SCHED_IDLE", "runtime": 1}}, "/process/scheduler/runtime", "only for SCHED_DEADLINE"),
    (
        {SCHEDULER: {"policy": "SCHED_FIFO", "priority": 1, "period": 1}},
        "/process/scheduler/period",
        "only for SCHED_D",
    ),
    (
        {SCHEDULER: {"policy": "SCHED_OTHER", "flags": ["X"]}},
        "/process/scheduler/flags/0",
        "must be one of SCHED_FLAG_",
    ),
    ({"process/ioPriority": {"priority": 1}}, "/process/ioPriority", "the key class is missing"),
    ({"process/ioPriority": {"class": "IOPRIO_CLASS_NONE"}}, "/process/ioPriority/class", "must be one of IOPRIO_"),
    (
        {"process/ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}},
        "/process/ioPriority/priority",
        "from 0 to 7",
    ),
    ({"process/execCPUAffinity": {"initial": "a"}}, "/process/execCPUAffinity/initial", "must be a list of numbers"),
    ({"process/execCPUAffinity": {"final": "1-"}}, "/process/execCPUAffinity/final", "must be a list of numbers"),
    ({"process/execCPUAffinity": {"final": "-1"}}, "/process/execCPUAffinity/final", "must be a list of numbers"),
    ({"process/execCPUAffinity": {"final": "1-2-3"}}, "/process/execCPUAffinity/final", "must be a list of numbers"),
    ({"process/execCPUAffinity": {"final": "٣"}}, "/process/execCPUAffinity/final", "must be a list of numbers"),
    ({"process/execCPUAffinity": {"final": "3-1"}}, "/process/execCPUAffinity/final", "a range whose end is before"),
    ({"process/execCPUAffinity": {"final": "0-65537"}}, "/process/execCPUAffinity/final", "a number above 65536"),
    ({"process/execCPUAffinity": {"final": "9" * 5000}}, "/process/execCPUAffinity/final", "a number above 65536"),
    ({MEMORY_POLICY: {}}, "/linux/memoryPolicy", "the key mode is missing"),
    ({MEMORY_POLICY: {"mode": "MPOL_MAX"}}, "/linux/memoryPolicy/mode", "must be one of MPOL_DEFAULT"),
    ({MEMORY_POLICY: {"mode": "MPOL_LOCAL", "nodes": "0"}}, "/linux/memoryPolicy/nodes", "MPOL_LOCAL takes no nodes"),
    ({MEMORY_POLICY: {"mode": "MPOL_DEFAULT", "nodes": "0"}}, "/linux/memoryPolicy/nodes", "takes no nodes"),
    ({MEMORY_POLICY: {"mode": "MPOL_BIND"}}, "/linux/memoryPolicy", "MPOL_BIND needs at least one node"),
    ({MEMORY_POLICY: {"mode": "MPOL_INTERLEAVE", "nodes": ","}}, "/linux/memoryPolicy/nodes", "at least one node"),
    ({MEMORY_POLICY: {"mode": "MPOL_BIND", "nodes": "x"}}, "/linux/memoryPolicy/nodes", "must be a list of numbers"),
    ({MEMORY_POLICY: {"mode": "MPOL_LOCAL", "flags": ["F"]}}, "/linux/memoryPolicy/flags/0", "must be one of MPOL_F_"),
    (
        {
            MEMORY_POLICY: {
                "mode": "MPOL_BIND",
                "nodes": "0",
                "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"],
            }
        },
        "/linux/memoryPolicy/flags",
        "exclude each other",
    ),
    *[
        (
            {"linux/netDevices": {name: {}}},
            f"/linux/netDevices/{name.replace('/', '~1')}",
            "the key must be the name of",
        )
        for name in ("", ".", "..", "a/b", "a:b", "a b", "a\u00a0b", "x" * 16, "\u00e9" * 8)
    ],
    ({"linux/netDevices": {"a\0": {}}}, "/linux/netDevices/a\0", "the key has a NUL character"),
    ({"linux/netDevices": []}, "/linux/netDevices", "must be an object"),
    ({"linux/netDevices": {"eth0": {"name": "a/b"}}}, "/linux/netDevices/eth0/name", "must be the name of a network"),
    ({"linux/netDevices": {"eth0": {"name": "a%d%d"}}}, "/linux/netDevices/eth0/name", "must have no % but one %d"),
    ({"linux/netDevices": {"eth0": {"name": "a%s"}}}, "/linux/netDevices/eth0/name", "must have no % but one %d"),
    (
        {"linux/netDevices": {"eth0": {"name": "eth1"}, "eth1": {}}},
        "/linux/netDevices/eth1",
        "the device eth0 is to have the name eth1, too",
    ),
    (
        {"linux/netDevices": {"eth1": {}, "eth0": {"name": "eth1"}}},
        "/linux/netDevices/eth0/name",
        "the device eth1 is to have the name eth1, too",
    ),
    (
        {"linux/netDevices": {"eth0": {}}, "linux/namespaces": [{"type": "mount"}, {"type": "uts"}]},
        "/linux/netDevices",
        "needs a network namespace, and linux.namespaces has none",
    ),
    ({"linux/intelRdt": {"closID": ".."}}, "/linux/intelRdt/closID", "must be the name of one directory"),
    ({"linux/intelRdt": {"closID": "a/b"}}, "/linux/intelRdt/closID", "must be the name of one directory"),
    ({"linux/intelRdt": {"memBwSchema": "L3:0=f"}}, "/linux/intelRdt/memBwSchema", "must begin with 'MB:'"),
    ({"linux/intelRdt": {"memBwSchema": "MB:0"}}, "/linux/intelRdt/memBwSchema", "must be of the form RESOURCE:CACHE"),
    ({"linux/intelRdt": {"memBwSchema": "MB:0=1\n"}}, "/linux/intelRdt/memBwSchema", "must not have a line break"),
    ({"linux/intelRdt": {"schemata": ["", "L3"]}}, "/linux/intelRdt/schemata/1", "must be of the form RESOURCE:CACHE"),
    ({"linux/intelRdt": {"schemata": ["L3:a=f"]}}, "/linux/intelRdt/schemata/0", "must be of the form RESOURCE:CACHE"),
    ({"linux/intelRdt": {"schemata": ["L3:0=f;1"]}}, "/linux/intelRdt/schemata/0", "must be of the form RESOURCE:CA"),
    ({"linux/intelRdt": {"schemata": ["L3:0=f\nMB:0=1"]}}, "/linux/intelRdt/schemata/0", "must not have a line break"),
    (
        {"linux/intelRdt": {"l3CacheSchema": "L3:0=f\nx"}},
        "/linux/intelRdt/l3CacheSchema",
        "must be of the form RESOURC",
    ),
]

USER_NAMESPACE = [
    ({"linux/uidMappings": NEW_USER["linux/uidMappings"]}, "/linux/uidMappings", "needs a user namespace"),
    ({**NEW_USER, "linux/gidMappings": []}, "/linux", "a new user namespace needs gidMappings"),
    ({**NEW_USER, "linux/uidMappings/0/size": 0}, "/linux/uidMappings/0/size", "must be a whole number from 1"),
    ({**NEW_USER, "linux/uidMappings/0/size": GONE}, "/linux/uidMappings/0", "the key size is missing"),
    ({**NEW_USER, "linux/uidMappings/0/size": 2**32 - 1}, "/linux/uidMappings/0/size", "goes beyond the last ID"),
    ({**NEW_USER, "linux/uidMappings/0/containerID": 1}, "/linux/uidMappings", "must map 0: the container is set up"),
    ({**NEW_USER, "process/user/uid": 10}, "/process/user/uid", "10 is not mapped by linux.uidMappings"),
    ({**NEW_USER, "process/user/gid": 10}, "/process/user/gid", "10 is not mapped by linux.gidMappings"),
    ({**NEW_USER, "process/user/additionalGids": [9, 77]}, "/process/user/additionalGids/1", "77 is not mapped by"),
    (
        {**NEW_USER, "linux/uidMappings/-": {"containerID": 9, "hostID": 1, "size": 1}},
        "/linux/uidMappings/1/containerID",
        "overlaps the range of entry 0",
    ),
    (
        {**NEW_USER, "linux/gidMappings/-": {"containerID": 10, "hostID": 999, "size": 2}},
        "/linux/gidMappings/0/hostID",
        "overlaps the range of entry 1",
    ),
]

SYSCTLS = [
    (
        "kernel.core_pattern",
        "kernel.core_pattern",
        "not allowed: it belongs to no namespace, so it would change the host",
    ),
    ("kernel/core_pattern", "kernel~1core_pattern", "not allowed"),
    ("net/../kernel/core_pattern", "net~1..~1kernel~1core_pattern", "not the name of a sysctl"),
    ("net.//.kernel.core_pattern", "net.~1~1.kernel.core_pattern", "not the name of a sysctl"),
    ("/kernel/core_pattern", "~1kernel~1core_pattern", "not the name of a sysctl"),
    ("net", "net", "not the name of a sysctl"),
    ("kernel.hostname", "kernel.hostname", "set by the key hostname, not as a sysctl"),
    ("user.max_user_namespaces", "user.max_user_namespaces", "needs a user namespace: it would change the host"),
]


def one_problem(changes: dict[str, object], where: str, sentence: str) -> None:
    found = told(changes)
    assert [place for place, _ in found] == [where], found
    assert re.search(sentence.replace("(", r"\("), found[0][1]), found[0][1]
    assert "\n" not in found[0][1]
    with pytest.raises(Error) as caught:
        validate(changed(changes))
    assert caught.value.where == f"config.json#{where}"


@pytest.mark.parametrize(("changes", "where", "sentence"), WRONG_TYPES + WRONG_VALUES + ATTRIBUTES + USER_NAMESPACE)
def test_one_sentence_with_its_place(changes: dict[str, object], where: str, sentence: str) -> None:
    if "linux/devices" in changes and "needs the key" in sentence:
        changes = {**changes, "linux/devices/0/minor": 1}
    one_problem(changes, where, sentence)


@pytest.mark.parametrize(("key", "where", "sentence"), SYSCTLS)
def test_sysctls_of_the_host_are_refused(key: str, where: str, sentence: str) -> None:
    one_problem({"linux/sysctl": {key: "1"}}, f"/linux/sysctl/{where}", sentence)


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        ("net.ipv4.ip_forward", "network"),
        ("net/ipv4/conf/eth0.100/rp_filter", "network"),
        ("kernel.shmmax", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.domainname", "uts"),
        ("user.max_user_namespaces", "user"),
    ],
)
def test_sysctls_need_their_namespace(key: str, owner: str) -> None:
    others = [{"type": kind} for kind in ("mount", "network", "ipc", "uts", "pid") if kind != owner]
    without = told({"hostname": "", "linux/namespaces": others, "linux/sysctl": {key: "1"}})
    assert [message for _, message in without] == [f"needs a {owner} namespace: it would change the host"]
    ids = NEW_USER if owner == "user" else {}
    assert told({**ids, "linux/sysctl": {key: "1"}}) == []


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.conf.eth0.rp_filter", "net/ipv4/conf/eth0/rp_filter"),
        ("net.ipv4.conf.eno2/100.rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
        ("net/ipv4/conf/eno2.100/rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
    ],
)
def test_sysctl_separators(key: str, path: str) -> None:
    assert sysctl_path(key) == path


IDS = [{"containerID": 0, "hostID": 1000, "size": 10}]


@pytest.mark.parametrize(
    ("mount", "more", "place", "sentence"),
    [
        ({"options": ["bind", "idmap"]}, {}, "/options", "needs uidMappings and gidMappings of the mount, or a user"),
        ({"options": ["rbind", "ridmap"]}, {}, "/options", "needs uidMappings and gidMappings of the mount, or a user"),
        ({"options": ["bind", "idmap"], "uidMappings": IDS}, {}, "/uidMappings", "need gidMappings, too"),
        ({"options": ["bind"], "gidMappings": IDS}, NEW_USER, "/gidMappings", "need uidMappings, too"),
        ({"type": "tmpfs", "options": ["idmap"]}, NEW_USER, "", "only a bind mount can be idmapped"),
        ({"type": "tmpfs", "uidMappings": IDS, "gidMappings": IDS}, {}, "", "only a bind mount can be idmapped"),
        (
            {"options": ["bind"], "uidMappings": IDS + IDS, "gidMappings": IDS},
            {},
            "/uidMappings/1/containerID",
            "overlaps the range of entry 0",
        ),
    ],
)
def test_idmapped_mounts_that_cannot_be(
    mount: dict[str, object], more: dict[str, object], place: str, sentence: str
) -> None:
    found = told({**more, "mounts/-": {"destination": "/a", "source": "/", **mount}})
    assert found[0][0] == f"/mounts/7{place}"
    assert sentence in found[0][1]


@pytest.mark.parametrize(
    ("mount", "more"),
    [
        ({"options": ["bind", "idmap"]}, NEW_USER),
        ({"options": ["bind", "idmap"]}, {"linux/namespaces/-": {"type": "user", "path": "/proc/1/ns/user"}}),
        ({"options": ["rbind", "ridmap"], "uidMappings": IDS, "gidMappings": IDS}, {}),
        ({"type": "bind", "options": ["bind"], "uidMappings": IDS, "gidMappings": IDS}, {}),
    ],
)
def test_idmapped_mounts_that_can_be(mount: dict[str, object], more: dict[str, object]) -> None:
    assert validate(changed({**more, "mounts/-": {"destination": "/a", "source": "/", **mount}})) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("process/apparmorProfile", ""),
        ("process/selinuxLabel", ""),
        ("linux/seccomp", {}),
        ("linux/netDevices", {}),
        ("hooks", {}),
        ("hooks/prestart", []),
        ("mounts/0/uidMappings", []),
        ("linux/resources/network", {}),
        ("linux/resources/memory", {"disableOOMKiller": False}),
        ("linux/rootfsPropagation", ""),
        ("linux/namespaces/0/path", ""),
        ("process/user", GONE),
        ("linux/resources/devices/-", {"allow": True, "access": "rwm", "major": -1, "minor": -1, "type": "a"}),
    ],
)
def test_what_asks_for_nothing_passes(place: str, value: object) -> None:
    assert validate(changed({place: value})) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (SCHEDULER, {"policy": "SCHED_BATCH", "nice": -20, "flags": ["SCHED_FLAG_KEEP_PARAMS"]}),
        (SCHEDULER, {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3, "nice": 77}),
        ("process/ioPriority", {"class": "IOPRIO_CLASS_IDLE"}),
        ("process/execCPUAffinity", {"initial": "0-3,7", "final": " 1 , 2-2 ,,"}),
        ("process/execCPUAffinity", {"initial": "", "final": ""}),
        ("linux/netDevices", {"eth0": {}, "eth1": {"name": ""}, "a": {"name": "b%d"}, "c": {"name": "b%d"}}),
        (MEMORY_POLICY, {"mode": "MPOL_PREFERRED"}),
        (MEMORY_POLICY, {"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0-1023"}),
        ("linux/intelRdt", {"closID": "/", "schemata": ["L3:0=f"], "enableMonitoring": True, "memBwSchema": "MB:0=70"}),
        ("linux/intelRdt", {"closID": "", "schemata": ["", "L2 : 0 = f;1=3;"], "l3CacheSchema": "", "memBwSchema": ""}),
    ],
)
def test_sound_attributes(place: str, value: object) -> None:
    assert validate(changed({place: value})) == []


def test_a_reserved_policy_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="scheduler/policy: SCHED_ISO is a reserved name"):
        validate(changed({SCHEDULER: {"policy": "SCHED_ISO"}}))


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.1.0-rc.1", "1.2.1", "1.3.0+dev", "1.3.99-a.b-c+x.1"])
def test_versions_that_pass(version: str) -> None:
    assert validate(changed({"ociVersion": version})) == []


@pytest.mark.parametrize(
    "version",
    ["", "1", "1.2", "1.2.3.4", "v1.0.0", "1.0.x", "01.0.0", "1.0.0-", "1.0.0-a..b", "1.0.0+", "1.٢.0", "1.0.0 "],
)
def test_versions_that_are_none(version: str) -> None:
    one_problem({"ociVersion": version}, "/ociVersion", "must be a version of the form 1.2.3")


@pytest.mark.parametrize("version", ["0.1.0", "2.0.0", "10.0.0"])
def test_other_major_versions_are_refused(version: str) -> None:
    with pytest.raises(UnsupportedError, match=f"config.json#/ociVersion: runtime-spec {version} is not served"):
        validate(changed({"ociVersion": version}))


WARNED = [
    ({"ociVersion": "1.4.0"}, "/ociVersion: newer than 1.3"),
    ({"process": GONE}, ": the key process is missing: such a container can be created, but not started"),
    ({**NEW_USER, "process": GONE}, ": the key process is missing"),
    ({"windows": {"a": 1}}, "/windows: ignored: it is for Windows"),
    ({"vm": {"a": 1}}, "/vm: ignored: it is for virtual machines"),
    ({"solaris": {"a": 1}}, "/solaris: ignored: it is for Solaris"),
    ({"zos": {"a": 1}}, "/zos: ignored: it is for z/OS"),
    ({"freebsd": {"a": 1}}, "/freebsd: ignored: it is for FreeBSD"),
    ({"process/commandLine": "x"}, "/process/commandLine: ignored: it is for Windows"),
    ({"process/user/username": "x"}, "/process/user/username: ignored: it is for Windows"),
    ({"linux/foo": {"a": 1}}, "/linux/foo: unknown key, ignored"),
    ({"process/capabilities/foo": 5}, "/process/capabilities/foo: unknown key, ignored"),
    ({"linux/maskedpaths": []}, "/linux/maskedpaths: unknown key, ignored (did you mean maskedPaths?)"),
    ({"linux/resources/memory": {"swappiness": 0}}, "/linux/resources/memory/swappiness: ignored: it is for cgroup v1"),
    ({"linux/resources/memory": {"kernel": 1}}, "/linux/resources/memory/kernel: ignored: it is for cgroup v1"),
    ({"linux/resources/memory": {"kernelTCP": 1}}, "/linux/resources/memory/kernelTCP: ignored"),
    ({"linux/resources/memory": {"disableOOMKiller": True}}, "/linux/resources/memory/disableOOMKiller: ignored"),
    ({"linux/resources/cpu": {"realtimePeriod": 1}}, "/linux/resources/cpu/realtimePeriod: ignored"),
    ({"linux/resources/network": {"classID": 1}}, "/linux/resources/network/classID: ignored"),
    ({"process/capabilities/Bounding": [None]}, "/process/capabilities/Bounding: unknown key, ignored (did you mean"),
    (
        {"linux/personality": {"domain": "LINUX", "flags": ["X"]}},
        "/linux/personality/flags: ignored: the specification defines no such flag",
    ),
    (
        {"linux/intelRdt": {"l3CacheSchema": "L3:0=f\nMB:0=10\n"}},
        "/linux/intelRdt/l3CacheSchema: should begin with L3: and be one line, not 'MB:0=10'",
    ),
    ({"process/capabilities/bounding/-": "CAP_FLY"}, "/process/capabilities/bounding/3: unknown capability CAP_FLY"),
    ({"process/capabilities/bounding/-": "KILL"}, "/process/capabilities/bounding/3: unknown capability KILL"),
    ({"process/capabilities/ambient": ["CAP_KILL"]}, "/process/capabilities/ambient: ambient without being permitted"),
    (
        {"mounts/0/destination": "proc"},
        "/mounts/0/destination: not an absolute path, which is deprecated; taken as /proc",
    ),
    (
        {
            "linux/namespaces/-": {"type": "user", "path": "/proc/1/ns/user"},
            "linux/uidMappings": NEW_USER["linux/uidMappings"],
        },
        "/linux/uidMappings: ignored: the user namespace /proc/1/ns/user has its own mapping",
    ),
    (
        {"linux/resources/devices/-": {"allow": False, "type": "c", "access": "rwa"}},
        '/linux/resources/devices/1/access: only r, w and m have a meaning here: the string "rwa"',
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), WARNED)
def test_warnings(changes: dict[str, object], sentence: str) -> None:
    spec = changed(changes)
    (warning,) = warnings(spec)
    assert warning.startswith(f"config.json#{sentence}")
    assert validate(spec) == [warning]
    assert list(problems(spec)) == []


@pytest.mark.parametrize("rootless", [False, True])
def test_the_default_spec_is_sound(rootless: bool) -> None:
    assert validate(default_spec(rootless)) == []


def test_a_user_namespace_with_mappings_is_sound() -> None:
    more = {"linux/uidMappings/-": {"containerID": 10, "hostID": 0, "size": 1}, "process/user/uid": 10}
    assert validate(changed({**NEW_USER, **more})) == []


def test_time_offsets_are_sound_in_a_new_time_namespace() -> None:
    offsets = {"boottime": {"secs": -5}, "monotonic": {"secs": 5, "nanosecs": 1}}
    assert validate(changed({"linux/namespaces/-": {"type": "time"}, "linux/timeOffsets": offsets})) == []


def test_every_problem_is_told() -> None:
    found = told({"process/args": [], "process/cwd": 5, "linux/seccomp": {"defaultAction": 5}, "mounts/2/type": None})
    places = ["/process/args", "/process/cwd", "/mounts/2/type", "/linux/seccomp/defaultAction"]
    assert [where for where, _ in found] == places


def test_problems_raise_nothing_and_leave_the_spec_alone() -> None:
    spec = changed({"process/args": []})
    before = repr(spec)
    assert [type(error) for error in problems(spec)] == [ConfigError]
    assert repr(spec) == before


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["/a", "pid"])
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, place: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place] * bool(place) + [p for key, item in items for p in places(item, f"{place}/{key}".lstrip("/"))]


@given(st.sampled_from(places(default_spec())), json_values)
def test_whatever_stands_anywhere_is_told_and_never_crashes(place: str, value: object) -> None:
    spec = changed({place: value})
    for error in problems(spec):
        assert str(error).startswith("config.json#")
    for warning in warnings(spec):
        assert warning.startswith("config.json#")


# Blocks of the table whose objects are refused or ignored unread have no TypedDict's keys to compare.
FOREIGN_KEYS = {"Process": {"commandLine"}, "User": {"username"}, "TimeOffsets": {"*"}}


@pytest.mark.parametrize("name", schema.BLOCKS)
def test_the_schema_has_the_keys_of_the_types(name: str) -> None:
    kinds, required = schema.members(name)
    assert set(kinds) - FOREIGN_KEYS.get(name, set()) == set(typing.get_type_hints(getattr(types, name)))
    assert set(required) <= set(kinds)


def test_every_kind_in_the_table_can_be_made() -> None:
    for name in schema.BLOCKS:
        for key, kind in schema.members(name)[0].items():
            if key != "*":
                schema.check(None, kind)


def test_the_capabilities_are_those_of_the_kernel_interface() -> None:
    from pyruntime.linux import caps

    assert {f"CAP_{name}" for name in CAPABILITIES.split()} == set(caps.CAPABILITIES)


def test_the_names_of_attributes_are_those_of_the_plan() -> None:
    from pyruntime.plan import attributes

    assert [f"SCHED_FLAG_{name}" for name in schema.SCHED_FLAGS.split()] == [*attributes.SCHED_FLAGS]
    assert [f"MPOL_{name}" for name in schema.MEMORY_MODES.split()] == [*attributes.MEMORY_MODES]
    assert [f"MPOL_F_{name}" for name in schema.MEMORY_FLAGS.split()] == [*attributes.MEMORY_FLAGS]
    assert schema.members("Scheduler")[0]["policy"].split("|") == [*attributes.POLICIES]
    assert schema.members("IOPriority")[0]["class"].split("|") == [*attributes.IO_CLASSES]


def test_the_rlimits_are_those_of_the_plan() -> None:
    from pyruntime.plan import process

    assert [f"RLIMIT_{name}" for name in schema.RLIMITS.split()] == sorted(process.RLIMITS)


def test_a_sound_config_imports_nothing_heavy(tmp_path: Path) -> None:
    from pyruntime import jsontext

    (tmp_path / "config.json").write_text(jsontext.encode(default_spec(), "\t"))
    root = Path(schema.__file__).parents[2]
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r}); before = set(sys.modules)\n"
        "from pyruntime.spec import load, validate\n"
        f"validate.validate(load.load({str(tmp_path)!r})[0])\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    run = subprocess.run([sys.executable, "-IS", "-c", program], check=True, capture_output=True, text=True)
    new = {name for name in run.stdout.split() if not name.startswith("pyruntime")}
    assert new <= {"__future__", "_json", "errno", "posix"}


@pytest.mark.parametrize("wrong", ["", "a\0b", "\udc80", 7, None, ["a"]])
def test_one_wrong_string_among_many_is_found(wrong: object) -> None:
    """Sound arrays of text are looked at as a whole, so each kind of fault must show in the whole."""
    spec: Any = default_spec()
    names: list[Any] = ["read", "write", wrong, "close"]
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }
    assert [found.where for found in problems(spec)] == ["config.json#/linux/seccomp/syscalls/0/names/2"]
    names[2] = "\u00e9"  # sound, though not plain
    assert not list(problems(spec))
