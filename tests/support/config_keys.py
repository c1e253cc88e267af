"""The keys of config.json as the runtime-spec's JSON schema has them, each with a value that means something."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple, cast

from pyruntime.errors import ConfigError
from pyruntime.spec.default import default_spec
from pyruntime.spec.types import Spec
from pyruntime.spec.validate import findings

LIST = Path(__file__).parent.parent / "data" / "runtime-spec-keys.txt"

SERVED, REFUSED, WARNED = "served", "refused", "warned"


def schema_keys() -> dict[str, str]:
    """key -> type: {"process.user.uid": "0..4294967295", "mounts[].options": "string[]", ...}."""
    lines = [line for line in LIST.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split() for line in lines)


MAPPING = {"containerID": 0, "hostID": 0, "size": 65536}
THROTTLE = {"major": 8, "minor": 0, "rate": 1000}
DEADLINE = {"process.scheduler": {"policy": "SCHED_DEADLINE", "runtime": 10000, "deadline": 20000, "period": 30000}}
HOOK = {"path": "/bin/true"}
HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

# What the type alone does not tell, and objects with what they need.
SAMPLES: dict[str, Any] = {
    "annotations": {"org.example.key": "value"},
    "hooks": {"poststop": [HOOK]},
    **{f"hooks.{name}": [HOOK] for name in HOOK_KINDS},
    **{f"hooks.{name}[].env": ["A=b"] for name in HOOK_KINDS},
    "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}]},
    "linux.cgroupsPath": "/pyruntime/x",
    "linux.devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}],
    "linux.devices[].path": "/dev/y",
    "linux.devices[].type": "b",
    "linux.gidMappings": [MAPPING],
    "linux.gidMappings[].size": 1000,
    "linux.uidMappings": [MAPPING],
    "linux.uidMappings[].size": 1000,
    "linux.uidMappings[].containerID": 0,
    "linux.gidMappings[].containerID": 0,
    "linux.intelRdt": {"closID": "x"},
    "linux.intelRdt.closID": "x",
    "linux.intelRdt.memBwSchema": "MB:0=70",
    "linux.intelRdt.l3CacheSchema": "L3:0=f",
    "linux.intelRdt.schemata": ["L3:0=f"],
    "linux.maskedPaths": ["/proc/kcore"],
    "linux.readonlyPaths": ["/proc/sys"],
    "linux.memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"},
    "linux.memoryPolicy.mode": "MPOL_BIND",
    "linux.memoryPolicy.nodes": "0",
    "linux.memoryPolicy.flags": ["MPOL_F_STATIC_NODES"],
    "linux.namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "user"}],
    "linux.namespaces[].type": "mount",
    "linux.namespaces[].path": "/proc/1/ns/pid",
    "linux.netDevices": {"eth0": {"name": "eth1"}},
    "linux.netDevices{}.name": "eth2",
    "linux.personality": {"domain": "LINUX"},
    "linux.resources.blockIO.throttleReadBpsDevice": [THROTTLE],
    "linux.resources.blockIO.throttleReadIOPSDevice": [THROTTLE],
    "linux.resources.blockIO.throttleWriteBpsDevice": [THROTTLE],
    "linux.resources.blockIO.throttleWriteIOPSDevice": [THROTTLE],
    "linux.resources.blockIO.weight": 100,
    "linux.resources.blockIO.weightDevice": [{"major": 8, "minor": 0, "weight": 100}],
    "linux.resources.blockIO.weightDevice[].weight": 200,
    "linux.resources.cpu.cpus": "0",
    "linux.resources.cpu.mems": "0",
    "linux.resources.devices": [{"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"}],
    "linux.resources.devices[].access": "r",
    "linux.resources.devices[].type": "b",
    "linux.resources.hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
    "linux.resources.hugepageLimits[].pageSize": "2MB",
    "linux.resources.memory.swap": -1,
    "linux.resources.network": {"classID": 1},
    "linux.resources.network.priorities": [{"name": "eth0", "priority": 1}],
    "linux.resources.rdma": {"mlx5_1": {"hcaHandles": 3}},
    "linux.resources.unified": {"memory.high": "1000000000"},
    "linux.seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
    "linux.seccomp.defaultAction": "SCMP_ACT_ERRNO",
    "linux.seccomp.architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
    "linux.seccomp.flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "linux.seccomp.syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_ERRNO"}],
    "linux.seccomp.syscalls[].action": "SCMP_ACT_ERRNO",
    "linux.seccomp.syscalls[].names": ["chmod"],
    "linux.seccomp.syscalls[].args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
    "linux.seccomp.syscalls[].args[].op": "SCMP_CMP_NE",
    "linux.sysctl": {"net.ipv4.ip_forward": "1"},
    "linux.timeOffsets": {"boottime": {"secs": 1}},
    "mounts": [{"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}],
    "mounts[].destination": "/x",
    "mounts[].gidMappings": [MAPPING],
    "mounts[].gidMappings[].size": 1000,
    "mounts[].uidMappings": [MAPPING],
    "mounts[].uidMappings[].size": 1000,
    "mounts[].options": ["ro"],
    "mounts[].type": "proc",
    "ociVersion": "1.2.0",
    "process": {"args": ["true"], "cwd": "/"},
    "process.args": ["true"],
    "process.capabilities": {"bounding": ["CAP_KILL"]},
    **{
        f"process.capabilities.{name}": ["CAP_KILL"]
        for name in ("ambient", "bounding", "effective", "inheritable", "permitted")
    },
    "process.consoleSize": {"height": 24, "width": 80},
    "process.cwd": "/tmp",
    "process.env": ["A=b"],
    "process.execCPUAffinity": {"initial": "0"},
    "process.execCPUAffinity.final": "0",
    "process.execCPUAffinity.initial": "0",
    "process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
    "process.oomScoreAdj": 100,
    "process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1024}],
    "process.rlimits[].hard": 2048,
    "process.rlimits[].type": "RLIMIT_CORE",
    "process.scheduler": {"policy": "SCHED_OTHER"},
    "process.scheduler.deadline": 30000,
    "process.scheduler.period": 40000,
    "process.scheduler.runtime": 20000,
    "root": {"path": "rootfs"},
    "windows": {"layerFolders": ["x"]},
    "vm": {"kernel": {"path": "/x"}},
    "solaris": {"milestone": "x"},
    "zos": {"namespaces": [{"type": "pid"}]},
    "freebsd": {"jail": {"parent": "x"}},
}
# Objects in whose sample no key is required: it is not put beside another key.
NOTHING_REQUIRED = ("hooks", "linux", "linux.resources.network")

# Keys that need others beside them.
COMPANIONS: dict[str, dict[str, Any]] = {
    "linux.resources.memory.swap": {"linux.resources.memory.limit": 1000000},
    **{
        f"mounts[].{kind}Mappings{part}": {"mounts[].options": ["bind"], f"mounts[].{other}Mappings": [MAPPING]}
        for kind, other in (("uid", "gid"), ("gid", "uid"))
        for part in ("", "[].containerID", "[].hostID", "[].size")
    },
    "process.capabilities.effective": {"process.capabilities.permitted": ["CAP_KILL"]},
    "process.capabilities.permitted": {"process.capabilities.effective": []},
    "process.capabilities.ambient": {
        "process.capabilities.effective": [],
        "process.capabilities.permitted": ["CAP_KILL"],
        "process.capabilities.inheritable": ["CAP_KILL"],
    },
    "process.scheduler.priority": {"process.scheduler.policy": "SCHED_FIFO"},
    **{f"process.scheduler.{name}": DEADLINE for name in ("deadline", "period", "runtime")},
    "linux.seccomp.defaultErrnoRet": {"linux.seccomp.defaultAction": "SCMP_ACT_ERRNO"},
    "linux.seccomp.listenerPath": {
        "linux.seccomp.syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"}],
        "linux.seccomp.listenerMetadata": "x",
    },
    "linux.seccomp.listenerMetadata": {
        "linux.seccomp.syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"}],
        "linux.seccomp.listenerPath": "/run/x",
    },
}


def sample_value(key: str, kind: str) -> Any:
    """A value for the key that asks for something."""
    if key in SAMPLES:
        return copy.deepcopy(SAMPLES[key])
    if kind.endswith("[]"):
        return [sample_value("", kind[:-2])]
    if kind.endswith("{}"):
        return {"x": sample_value("", kind[:-2])}
    if kind in ("object", "boolean", "string"):
        return {"object": {}, "boolean": True, "string": "/x"}[kind]
    return 1 if kind == "integer" or ".." in kind else kind.partition("|")[0]


def put(spec: Any, key: str, value: Any) -> str:
    """Set the key, with whatever must be around it; returns its JSON pointer."""
    at, prefix, pointer = spec, "", ""
    *parents, last = key.split(".")
    for part in parents:
        name = part.rstrip("[]{}")
        prefix += name
        if not at.get(name):
            at[name] = {} if prefix in NOTHING_REQUIRED else copy.deepcopy(SAMPLES.get(prefix, {}))
        at, pointer = at[name], f"{pointer}/{name}"
        for bracket in ("[]", "{}"):
            if part.endswith(bracket):
                first: Any = 0 if bracket == "[]" else next(iter(at))
                at, pointer, prefix = at[first], f"{pointer}/{first}", prefix + bracket
        prefix += "."
    at[last] = value
    return f"{pointer}/{last}"


def base_spec() -> Any:
    """The default Spec with the namespaces that some keys ask for."""
    spec: Any = default_spec()
    spec["linux"]["namespaces"] += [{"type": "user"}, {"type": "time"}]
    spec["linux"]["uidMappings"] = [MAPPING.copy()]
    spec["linux"]["gidMappings"] = [MAPPING.copy()]
    return spec


class Sample(NamedTuple):
    """A Spec with one key set to a value that asks for something; the key's place, and those of what it needs."""

    spec: Spec
    pointer: str
    companions: list[str]


def sample(key: str, kind: str) -> Sample:
    """A sound Spec that uses the key."""
    spec = base_spec()
    if key.startswith("linux.namespaces[]"):
        spec["linux"]["namespaces"] = copy.deepcopy(SAMPLES["linux.namespaces"])
    if key.startswith(("linux.resources.devices", "mounts")):
        put(spec, key.partition("[]")[0], copy.deepcopy(SAMPLES[key.partition("[]")[0]]))
    companions = [put(spec, other, copy.deepcopy(value)) for other, value in COMPANIONS.get(key, {}).items()]
    pointer = put(spec, key, sample_value(key, kind))
    return Sample(cast("Spec", spec), pointer, companions)


def status_of(key: str, kind: str) -> str:
    """What becomes of the key: served, refused by name or warned of; or what else was found, which fits no status."""
    spec, pointer, companions = sample(key, kind)
    found = findings(spec)
    about = [one for one in found if any(_is_around(one.pointer(), place) for place in (pointer, *companions))]
    if len(about) < len(found):
        return f"the sample is unsound: {[(one.pointer(), one.message) for one in found]}"
    if not about:
        return SERVED
    if all(one.error is None for one in about):
        return WARNED
    if any(one.error is ConfigError for one in about):
        return f"the sample is unsound: {[(one.pointer(), one.message) for one in about]}"
    return REFUSED


def _is_around(one: str, other: str) -> bool:
    """Whether one place is the other, or above or below it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
