"""The shape of config.json for the type checker: runtime-spec 1.3, Linux.

Never imported at run time (`typing` costs 5 ms): a Spec is the JSON itself, and import this under TYPE_CHECKING only.
Keys are spelt as in the file. What `spec.schema` checks when a config is loaded is the same list: a test compares them.
All keys are optional to the type checker; which are required says the schema.

Read beside runtime-spec specs-go/config.go, config.md and config-linux.md.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Root(TypedDict, total=False):
    """config.md#root"""

    path: str
    readonly: bool


class IDMapping(TypedDict, total=False):
    """config-linux.md#user-namespace-mappings"""

    containerID: int
    hostID: int
    size: int


class Mount(TypedDict, total=False):
    """config.md#mounts"""

    destination: str
    type: str
    source: str
    options: list[str]
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]


class ConsoleSize(TypedDict, total=False):
    """config.md#process, in characters"""

    height: int
    width: int


class User(TypedDict, total=False):
    """config.md#posix-platform-user"""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]


class Capabilities(TypedDict, total=False):
    """config.md#linux-process; capabilities(7)"""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Rlimit(TypedDict, total=False):
    """config.md#posix-process; getrlimit(2). 2**64 - 1 is RLIM_INFINITY."""

    type: str
    soft: int
    hard: int


class Scheduler(TypedDict, total=False):
    """config.md#linux-process; sched_setattr(2). Times in nanoseconds."""

    policy: str
    nice: int
    priority: int
    flags: list[str]
    runtime: int
    deadline: int
    period: int


IOPriority = TypedDict("IOPriority", {"class": str, "priority": int}, total=False)


class ExecCPUAffinity(TypedDict, total=False):
    """config.md#linux-process"""

    initial: str
    final: str


class Process(TypedDict, total=False):
    """config.md#process"""

    terminal: bool
    consoleSize: ConsoleSize
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    oomScoreAdj: int
    scheduler: Scheduler
    selinuxLabel: str
    ioPriority: IOPriority
    execCPUAffinity: ExecCPUAffinity


class Hook(TypedDict, total=False):
    """config.md#posix-platform-hooks. timeout in seconds."""

    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    """config.md#posix-platform-hooks"""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


NamespaceType = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]


class Namespace(TypedDict, total=False):
    """config-linux.md#namespaces"""

    type: NamespaceType
    path: str


class TimeOffset(TypedDict, total=False):
    """config-linux.md#offset-for-time-namespace"""

    secs: int
    nanosecs: int


class TimeOffsets(TypedDict, total=False):
    """The clocks of time_namespaces(7)."""

    monotonic: TimeOffset
    boottime: TimeOffset


class Device(TypedDict, total=False):
    """config-linux.md#devices"""

    type: Literal["b", "c", "u", "p"]
    path: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class NetDevice(TypedDict, total=False):
    """config-linux.md#network-devices"""

    name: str


class DeviceRule(TypedDict, total=False):
    """config-linux.md#allowed-device-list. An absent major or minor, or -1, means any."""

    allow: bool
    type: Literal["a", "b", "c"]
    major: int
    minor: int
    access: str


class Memory(TypedDict, total=False):
    """config-linux.md#memory, in bytes; -1 is unlimited. `swap` is memory and swap together."""

    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class CPU(TypedDict, total=False):
    """config-linux.md#cpu, times in microseconds"""

    shares: int
    quota: int
    burst: int
    period: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class Pids(TypedDict, total=False):
    """config-linux.md#pids; 0 or less is unlimited"""

    limit: int


class WeightDevice(TypedDict, total=False):
    """config-linux.md#block-io"""

    major: int
    minor: int
    weight: int
    leafWeight: int


class ThrottleDevice(TypedDict, total=False):
    """config-linux.md#block-io; bytes or operations a second"""

    major: int
    minor: int
    rate: int


class BlockIO(TypedDict, total=False):
    """config-linux.md#block-io"""

    weight: int
    leafWeight: int
    weightDevice: list[WeightDevice]
    throttleReadBpsDevice: list[ThrottleDevice]
    throttleWriteBpsDevice: list[ThrottleDevice]
    throttleReadIOPSDevice: list[ThrottleDevice]
    throttleWriteIOPSDevice: list[ThrottleDevice]


class HugepageLimit(TypedDict, total=False):
    """config-linux.md#huge-page-limits; pageSize such as "2MB", limit in bytes"""

    pageSize: str
    limit: int


class InterfacePriority(TypedDict, total=False):
    """config-linux.md#network"""

    name: str
    priority: int


class Network(TypedDict, total=False):
    """config-linux.md#network; cgroup v1 only"""

    classID: int
    priorities: list[InterfacePriority]


class Rdma(TypedDict, total=False):
    """config-linux.md#rdma"""

    hcaHandles: int
    hcaObjects: int


class Resources(TypedDict, total=False):
    """config-linux.md#control-groups"""

    devices: list[DeviceRule]
    memory: Memory
    cpu: CPU
    pids: Pids
    blockIO: BlockIO
    hugepageLimits: list[HugepageLimit]
    network: Network
    rdma: dict[str, Rdma]
    unified: dict[str, str]


class IntelRdt(TypedDict, total=False):
    """config-linux.md#intelrdt"""

    closID: str
    schemata: list[str]
    l3CacheSchema: str
    memBwSchema: str
    enableMonitoring: bool


class MemoryPolicy(TypedDict, total=False):
    """config-linux.md#memory-policy"""

    mode: str
    nodes: str
    flags: list[str]


class Personality(TypedDict, total=False):
    """config-linux.md#personality"""

    domain: Literal["LINUX", "LINUX32"]
    flags: list[str]


class SeccompArg(TypedDict, total=False):
    """config-linux.md#seccomp"""

    index: int
    value: int
    valueTwo: int
    op: str


class SeccompSyscall(TypedDict, total=False):
    """config-linux.md#seccomp"""

    names: list[str]
    action: str
    errnoRet: int
    args: list[SeccompArg]


class Seccomp(TypedDict, total=False):
    """config-linux.md#seccomp"""

    defaultAction: str
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[SeccompSyscall]


class Linux(TypedDict, total=False):
    """config-linux.md"""

    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]
    sysctl: dict[str, str]
    resources: Resources
    cgroupsPath: str
    namespaces: list[Namespace]
    devices: list[Device]
    netDevices: dict[str, NetDevice]
    seccomp: Seccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: IntelRdt
    memoryPolicy: MemoryPolicy
    personality: Personality
    timeOffsets: TimeOffsets


class Spec(TypedDict, total=False):
    """config.md. The sections of other platforms are ignored with a warning."""

    ociVersion: str
    process: Process
    root: Root
    hostname: str
    domainname: str
    mounts: list[Mount]
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux
    solaris: dict[str, Any]
    windows: dict[str, Any]
    vm: dict[str, Any]
    zos: dict[str, Any]
    freebsd: dict[str, Any]
