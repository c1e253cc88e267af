"""The schema of config.json as a table: which keys there are, what their values look like, which are not served yet.

What one value alone cannot tell is checked in spec.validate. The table is text because text costs next to nothing to
import; a row is read when a config has its key, so that a plain config does not pay for what it does not use. Places
(JSON pointers) are put together on the way out, by each container that a Finding passes: sound values pay nothing.

Read beside runtime-spec specs-go/config.go and schema/*.json; the bounds are the kernel's where the spec has none.
"""

from __future__ import annotations

from pyruntime import jsontext
from pyruntime.errors import ConfigError, Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Check = Callable[[object], Sequence["Finding"]]

# One block a JSON object, named as its TypedDict in spec.types (a test compares the keys), with the keys that are
# required. A row is a key and the kind of its value: a name in CHECKS; 1..9, a whole number within; a|b, one of these
# strings; [kind], an array, and [kind]+, one that is not empty; {form=kind}, any keys of that form; Name, another
# block; v1:kind and other:platform, ignored with a warning. A row * refused says that unknown keys are refused, too.
# Device numbers have 12 and 20 bits inside the kernel, a umask has 9.
TABLE = """\
Spec: ociVersion root
  ociVersion               version
  process                  Process
  root                     Root
  hostname                 utsname
  domainname               utsname
  mounts                   [Mount]
  hooks                    Hooks
  annotations              {filled=text}
  linux                    Linux
  solaris                  other:Solaris
  windows                  other:Windows
  vm                       other:virtual-machines
  zos                      other:z/OS
  freebsd                  other:FreeBSD

Root: path
  path                     filled
  readonly                 flag

Mount: destination
  destination              filled
  type                     text
  source                   text
  options                  [text]
  uidMappings              [IDMapping]
  gidMappings              [IDMapping]

Process: args cwd
  terminal                 flag
  consoleSize              ConsoleSize
  user                     User
  args                     [text]+
  env                      [assignment]
  cwd                      path
  capabilities             Capabilities
  rlimits                  [Rlimit]
  noNewPrivileges          flag
  apparmorProfile          text
  oomScoreAdj              -1000..1000
  scheduler                Scheduler
  selinuxLabel             text
  ioPriority               IOPriority
  execCPUAffinity          ExecCPUAffinity
  commandLine              other:Windows

ConsoleSize: height width
  height                   u16
  width                    u16

User:
  uid                      id
  gid                      id
  umask                    0..511
  additionalGids           [id]
  username                 other:Windows

Capabilities:
  bounding                 [text]
  effective                [text]
  inheritable              [text]
  permitted                [text]
  ambient                  [text]

Rlimit: type soft hard
  type                     rlimit
  soft                     u64
  hard                     u64

Scheduler: policy
  policy                   SCHED_OTHER|SCHED_FIFO|SCHED_RR|SCHED_BATCH|SCHED_ISO|SCHED_IDLE|SCHED_DEADLINE
  nice                     i32
  priority                 i32
  flags                    [schedflag]
  runtime                  u64
  deadline                 u64
  period                   u64

IOPriority: class
  class                    IOPRIO_CLASS_RT|IOPRIO_CLASS_BE|IOPRIO_CLASS_IDLE
  priority                 0..7

ExecCPUAffinity:
  initial                  ranges
  final                    ranges

Hooks:
  prestart                 [Hook]
  createRuntime            [Hook]
  createContainer          [Hook]
  startContainer           [Hook]
  poststart                [Hook]
  poststop                 [Hook]

Hook: path
  path                     path
  args                     [text]
  env                      [assignment]
  timeout                  1..2147483647

Linux:
  uidMappings              [IDMapping]
  gidMappings              [IDMapping]
  sysctl                   {filled=text}
  resources                Resources
  cgroupsPath              text
  namespaces               [Namespace]
  devices                  [Device]
  netDevices               {ifname=NetDevice}
  seccomp                  Seccomp
  rootfsPropagation        |private|rprivate|shared|rshared|slave|rslave|unbindable|runbindable
  maskedPaths              [path]
  readonlyPaths            [path]
  mountLabel               text
  intelRdt                 IntelRdt
  memoryPolicy             MemoryPolicy
  personality              Personality
  timeOffsets              TimeOffsets

IDMapping: containerID hostID size
  containerID              id
  hostID                   id
  size                     1..4294967295

Namespace: type
  type                     pid|network|mount|ipc|uts|user|cgroup|time
  path                     path?

Device: type path
  type                     c|b|u|p
  path                     path
  major                    0..4095
  minor                    0..1048575
  fileMode                 u32
  uid                      id
  gid                      id

NetDevice:
  name                     ifname?

Personality: domain
  domain                   LINUX|LINUX32
  flags                    undefined

MemoryPolicy: mode
  mode                     mempolicy
  nodes                    ranges
  flags                    [mempolicyflag]

IntelRdt:
  closID                   text
  schemata                 [schema?]
  l3CacheSchema            text
  memBwSchema              bandwidth?
  enableMonitoring         flag

Seccomp:
  defaultAction            action?
  defaultErrnoRet          u16
  architectures            [architecture]
  flags                    [filter-flag]
  listenerPath             path?
  listenerMetadata         text
  syscalls                 [SeccompSyscall]

SeccompSyscall: names action
  names                    [filled]+
  action                   action
  errnoRet                 u16
  args                     [SeccompArg]

SeccompArg: index value op
  index                    0..5
  value                    u64
  valueTwo                 u64
  op                       operator

TimeOffsets:
  *                        refused
  monotonic                TimeOffset
  boottime                 TimeOffset

TimeOffset:
  secs                     i64
  nanosecs                 0..999999999

Resources:
  devices                  [DeviceRule]
  memory                   Memory
  cpu                      CPU
  pids                     Pids
  blockIO                  BlockIO
  hugepageLimits           [HugepageLimit]
  network                  Network
  rdma                     {word=Rdma}
  unified                  {filled=text}

DeviceRule: allow access
  allow                    flag
  type                     |a|b|c
  major                    -1..4095
  minor                    -1..1048575
  access                   access

Memory:
  limit                    i64
  reservation              i64
  swap                     i64
  kernel                   v1:i64
  kernelTCP                v1:i64
  swappiness               v1:u64
  disableOOMKiller         v1:flag
  useHierarchy             v1:flag
  checkBeforeUpdate        flag

CPU:
  shares                   u64
  quota                    i64
  burst                    u64
  period                   u64
  realtimeRuntime          v1:i64
  realtimePeriod           v1:u64
  cpus                     text
  mems                     text
  idle                     0..1

Pids:
  limit                    i64

BlockIO:
  weight                   u16
  leafWeight               v1:u16
  weightDevice             [WeightDevice]
  throttleReadBpsDevice    [ThrottleDevice]
  throttleWriteBpsDevice   [ThrottleDevice]
  throttleReadIOPSDevice   [ThrottleDevice]
  throttleWriteIOPSDevice  [ThrottleDevice]

WeightDevice: major minor
  major                    0..4095
  minor                    0..1048575
  weight                   u16
  leafWeight               v1:u16

ThrottleDevice: major minor rate
  major                    0..4095
  minor                    0..1048575
  rate                     u64

HugepageLimit: pageSize limit
  pageSize                 text
  limit                    u64

Network:
  classID                  v1:u32
  priorities               v1:[InterfacePriority]

InterfacePriority: name priority
  name                     text
  priority                 u32

Rdma:
  hcaHandles               u32
  hcaObjects               u32
"""
BLOCKS = {block.partition(":")[0]: block for block in TABLE.split("\n\n")}

# What "rlimit" may be: getrlimit(2).
RLIMITS = "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK"

# sched_setattr(2) and set_mempolicy(2), without what all of a kind begin with.
SCHED_FLAGS = "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX"
MEMORY_MODES = "DEFAULT BIND INTERLEAVE WEIGHTED_INTERLEAVE PREFERRED PREFERRED_MANY LOCAL"
MEMORY_FLAGS = "NUMA_BALANCING RELATIVE_NODES STATIC_NODES"
_GREATEST_NUMBER = 65536  # of a CPU or a NUMA node; runc:libcontainer/configs/config.go:/^const MaxCPU/

UNKNOWN_KEY = "unknown key, ignored"
ENOUGH = 500  # findings, and an error among them: a config that is wrong a million times is refused as soon

# linux.seccomp, without the common beginnings. What they mean: plan.seccomp_rules, which a test compares.
ACTIONS = "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG NOTIFY TRACE TRAP"
ARCHITECTURES = (
    "AARCH64 ARM LOONGARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE RISCV64 S390 S390X "
    "X32 X86 X86_64"
)
FILTER_FLAGS = "LOG SPEC_ALLOW TSYNC WAIT_KILLABLE_RECV"
OPERATORS = "EQ GE GT LE LT MASKED_EQ NE"


class Finding:
    """What is to be said about one place in config.json: an Error to raise or, without an `error`, a warning.

    `path` is the place, `lacks` the key that is missing there.
    """

    __slots__ = ("error", "hint", "lacks", "message", "path")

    def __init__(
        self,
        error: type[Error] | None,
        message: str,
        path: tuple[str | int, ...] = (),
        *,
        hint: str = "",
        lacks: str = "",
    ) -> None:
        self.error = error
        self.message = message
        self.path = path
        self.hint = hint
        self.lacks = lacks

    def where(self) -> str:
        """The place: the file's name and a JSON pointer."""
        return f"config.json#{self.pointer()}"

    def pointer(self) -> str:
        """The place as a JSON pointer (RFC 6901)."""
        return "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in self.path)

    def culprit(self) -> tuple[str | int, ...]:
        """The place of what is wrong: of the missing key, if one is missing."""
        return (*self.path, self.lacks) if self.lacks else self.path


def is_enough(found: Sequence[Finding]) -> bool:
    """Whether to stop looking. Never for the sake of warnings alone: an error may come after them."""
    return len(found) >= ENOUGH and found[-1].error is not None


def check(value: object, kind: str) -> Sequence[Finding]:
    """What is wrong with a value of that kind, or to be warned of; nothing, as a rule. Places are relative to it."""
    return (CHECKS.get(kind) or _make(kind))(value)


def members(name: str) -> tuple[dict[str, str], list[str]]:
    """The keys of a block with their kinds, and those that are required."""
    head, _, rows = BLOCKS[name].partition("\n")
    words = rows.split()
    return dict(zip(words[::2], words[1::2], strict=True)), head.split()[1:]


def _make(kind: str) -> Check:
    """The check of a kind, made when the first value of that kind is met."""
    if kind in BLOCKS:
        made = _object(kind)
    elif kind[0] == "[":
        made = _array(kind.strip("[]+"), nonempty=kind[-1] == "+")
    elif ".." in kind:
        made = _number(*map(int, kind.split("..")))
    elif "|" in kind:
        made = _choice(kind, separator="|")
    else:
        made = _make_rare(kind)
    CHECKS[kind] = made
    return made


def _make_rare(kind: str) -> Check:
    """The same for what few configs have a value of."""
    if kind[0] == "{":
        return _map(*kind[1:-1].split("="))
    if kind in _RARE_NAMES:
        prefix, names = _RARE_NAMES[kind]
        return _choice(names, prefix)
    if kind in _RARE_FORMS:
        return _text(_RARE_FORMS[kind])
    whose, _, rest = kind.partition(":")
    if whose == "v1":
        return _ignored(rest, "it is for cgroup v1, and cgroup v2 has nothing like it")
    if whose == "other":
        return _ignored("any", f"it is for {rest.replace('-', ' ')}")
    return _ignored("[text]", "the specification defines no such flag so far")


def _wrong(value: object, wanted: str) -> list[Finding]:
    return [Finding(ConfigError, f"must be {wanted}, not {_shown(value)}")]


def _shown(value: object) -> str:
    """A JSON value in a sentence."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    try:
        text = jsontext.encode(value)
    except (TypeError, ValueError):  # given by a program, not read from a file
        return f"a Python {type(value).__name__}"
    return f"{'the string ' if isinstance(value, str) else ''}{text if len(text) < 80 else text[:76] + '...'}"


def _within(key: str | int, findings: Sequence[Finding]) -> Sequence[Finding]:
    """The findings of a member, placed within its container."""
    for finding in findings:
        finding.path = (key, *finding.path)
    return findings


# The checks: value -> findings. Most are made by a function from what the kind says.


def _check_flag(value: object) -> Sequence[Finding]:
    """true or false; 0 and 1 are not."""
    return () if value is True or value is False else _wrong(value, "true or false")


def _check_access(value: object) -> Sequence[Finding]:
    """Letters of which some mean something: if none does, plan.devices refuses the rule."""
    found = check(value, "text")
    if not found and 0 < len([letter for letter in str(value) if letter in "rwm"]) < len(str(value)):
        return [Finding(None, f"only r, w and m have a meaning here: {_shown(value)}")]
    return found


def _number(least: int, greatest: int) -> Check:
    """An integer within bounds. As in Go 1.0 and 1e3 are none; Python's True would be one."""

    def check_number(value: object) -> Sequence[Finding]:
        if type(value) is int and least <= value <= greatest:
            return ()
        return _wrong(value, f"a whole number from {least} to {greatest}")

    return check_number


def _text(form: Callable[[str], str] | None = None) -> Check:
    """A string that can be handed to the kernel. The form, if any, returns a complaint or ""."""

    def check_text(value: object) -> Sequence[Finding]:
        if type(value) is not str:
            return _wrong(value, "a string")
        complaint = "" if form is None else form(value)
        if "\0" in value:
            complaint = "has a NUL character, which no string of the kernel can hold"
        elif not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            complaint = "has half of a surrogate pair, which is no character"
        return [Finding(ConfigError, f"{complaint}: {_shown(value)}")] if complaint else ()

    return check_text


def _choice(names: str, prefix: str = "", *, separator: str | None = None) -> Check:
    """One of a few strings: the words of `names`, with a prefix that they have in common."""
    words = names.split(separator)

    def check_choice(value: object) -> Sequence[Finding]:
        if type(value) is str and value.startswith(prefix) and value[len(prefix) :] in words:
            return ()
        return _wrong(value, f"one of {', '.join([prefix + word for word in words if word])}")

    return check_choice


def _array(item: str, nonempty: bool) -> Check:
    """Values of one kind."""

    def check_array(value: object) -> Sequence[Finding]:
        if type(value) is not list:
            return _wrong(value, "an array")
        if nonempty and not value:
            return [Finding(ConfigError, "must not be empty")]
        if item in ("filled", "text") and _are_plain(value):
            return ()
        found: list[Finding] = []
        check_item = CHECKS.get(item) or _make(item)
        for index, entry in enumerate(value):
            if inside := check_item(entry):
                found += _within(index, inside)
                if is_enough(found):
                    break
        return found

    return check_array


def _are_plain(values: list[object]) -> bool:
    """Whether nobody could find fault with any of these strings: a look at all of the 330 of a seccomp profile at once.

    They are strings, of ASCII without NUL, and not empty.
    """
    try:
        together = "".join(values)  # type: ignore[arg-type]
    except TypeError:
        return False
    return together.isascii() and "\0" not in together and "" not in values


def _map(form: str, item: str) -> Check:
    """Any keys of a form, all values of one kind."""

    def check_map(value: object) -> Sequence[Finding]:
        if type(value) is not dict:
            return _wrong(value, "an object")
        found: list[Finding] = []
        for key, entry in value.items():
            in_key = check(key, form)
            for finding in in_key:
                finding.message = f"the key {finding.message}"
            found += _within(key, [*in_key, *check(entry, item)])
            if found and is_enough(found):
                break
        return found

    return check_map


def _object(name: str) -> Check:
    """The keys of a block. An unknown key is a warning, as runc ignores it; an error if the block is closed."""
    kinds, required = members(name)
    closed = kinds.pop("*", "") == "refused"

    def check_object(value: object) -> Sequence[Finding]:
        if type(value) is not dict:
            return _wrong(value, "an object")
        found: list[Finding] = []
        for key, entry in value.items():
            kind = kinds.get(key)
            if kind is None:
                if closed or len(found) < ENOUGH:
                    found.append(_unknown(key, kinds, closed=closed))
            elif inside := (CHECKS.get(kind) or _make(kind))(entry):
                found += _within(key, inside)
            if found and is_enough(found):
                return found
        for key in required:
            if key not in value:
                found.append(Finding(ConfigError, f"the key {key} is missing", lacks=key))
        return found

    return check_object


def _unknown(key: str, kinds: Iterable[str], *, closed: bool) -> Finding:
    if closed:
        return Finding(ConfigError, f"unknown key; there are only {', '.join(kinds)}", (key,))
    alike = [known for known in kinds if known.lower() == str(key).lower()]
    return Finding(None, UNKNOWN_KEY, (key,), hint=f"did you mean {alike[0]}?" if alike else "")


def _ignored(kind: str, why: str) -> Check:
    """A key without a meaning here. Its value is checked all the same; false and empty ask for nothing."""

    def check_ignored(value: object) -> Sequence[Finding]:
        found = check(value, kind)
        if found or value is False or value in ("", [], {}):
            return found
        return [Finding(None, f"ignored: {why}")]

    return check_ignored


# The forms: what a string must look like besides.


def _version(text: str) -> str:
    """https://semver.org: MAJOR.MINOR.PATCH[-PRERELEASE][+BUILD]."""
    rest, plus, build = text.partition("+")
    core, dash, prerelease = rest.partition("-")
    numbers = core.split(".")
    sound = (
        text.isascii()
        and len(numbers) == 3
        and all(number.isdigit() and (number == "0" or number[0] != "0") for number in numbers)
        and (not dash or _identifiers(prerelease))
        and (not plus or _identifiers(build))
    )
    return "" if sound else "must be a version of the form 1.2.3"


def _identifiers(text: str) -> bool:
    return all(word.replace("-", "a").isalnum() for word in text.split("."))


def _ranges(text: str) -> str:
    """What members() of plan.attributes takes: "0-3,7", with blanks around and empty parts, as runc."""
    for part in text.split(","):
        first, dash, last = part.strip(" \t").partition("-")
        numbers = [first, last] if dash else [first] if first else []
        if not all(number.isascii() and number.isdigit() for number in numbers):
            return "must be a list of numbers and ranges such as 0-3,7"
        if any(len(number) > 9 or int(number) > _GREATEST_NUMBER for number in numbers):
            return f"has a number above {_GREATEST_NUMBER}"
        if dash and int(first) > int(last):
            return "has a range whose end is before its beginning"
    return ""


def _interface(text: str) -> str:
    """What the kernel takes for the name of a network device: netdevice(7), net/core/dev.c:dev_valid_name()."""
    octets = text.encode(errors="replace")
    if not 1 <= len(octets) <= 15 or text in (".", "..") or any(octet in b"/: \t\n\v\f\r\xa0" for octet in octets):
        return "must be the name of a network device: 1 to 15 bytes without blanks, / and :"
    return ""


def _new_interface(text: str) -> str:
    """The name that a device shall have: none, to keep its own; or a template with %d for the first free number."""
    if "%" in text.replace("%d", "", 1):
        return "must have no % but one %d, which stands for a number"
    return _interface(text) if text else ""


def schema_line(text: str) -> str:
    """A line of a file `schemata` (resctrl.rst), or none. Which resources and caches there are is the host's matter."""
    resource, _, rest = text.partition(":")
    pairs = [part.partition("=") for part in rest.removesuffix(";").split(";")]
    if "\n" in text:
        return "must not have a line break"
    if not text or (
        resource.strip().isalnum() and all(cache.strip().isdecimal() and value for cache, _, value in pairs)
    ):
        return ""
    return "must be of the form RESOURCE:CACHE=VALUE;... such as L3:0=7f0;1=1f"


def _bandwidth(text: str) -> str:
    return schema_line(text) if text[:3] in ("MB:", "") else "must begin with 'MB:'"


_RARE_FORMS: dict[str, Callable[[str], str]] = {
    "bandwidth?": _bandwidth,
    "ifname": _interface,
    "ifname?": _new_interface,
    "ranges": _ranges,
    "schema?": schema_line,
    "word": lambda text: "" if text.split() == [text] else "must be a name without blanks",
}
_RARE_NAMES = {
    "filter-flag": ("SECCOMP_FILTER_FLAG_", FILTER_FLAGS),
    "mempolicy": ("MPOL_", MEMORY_MODES),
    "mempolicyflag": ("MPOL_F_", MEMORY_FLAGS),
    "operator": ("SCMP_CMP_", OPERATORS),
    "schedflag": ("SCHED_FLAG_", SCHED_FLAGS),
}

# By kind. Those that are not here are made when they are met.
CHECKS: dict[str, Check] = {
    "any": lambda _value: (),
    "flag": _check_flag,
    "access": _check_access,
    "u16": _number(0, 2**16 - 1),
    "u32": _number(0, 2**32 - 1),
    "u64": _number(0, 2**64 - 1),
    "i32": _number(-(2**31), 2**31 - 1),
    "i64": _number(-(2**63), 2**63 - 1),
    "id": _number(0, 2**32 - 2),  # to setresuid(2) and chown(2) 2**32 - 1 is -1, "leave it as it is"
    "text": _text(),
    "assignment": _text(lambda text: "" if text.find("=") > 0 else "must be of the form NAME=VALUE"),  # environ(7)
    "filled": _text(lambda text: "" if text else "must not be empty"),
    "path": _text(lambda text: "" if text[:1] == "/" else "must be an absolute path"),
    "path?": _text(lambda text: "" if text[:1] in ("/", "") else "must be an absolute path"),
    "utsname": _text(
        lambda text: "" if len(text.encode(errors="replace")) <= 64 else "must not be longer than 64 bytes"
    ),
    "version": _text(_version),
    "action": _choice(ACTIONS, "SCMP_ACT_"),
    "action?": lambda value: () if value == "" else check(value, "action"),
    "architecture": _choice(ARCHITECTURES, "SCMP_ARCH_"),
    "rlimit": _choice(RLIMITS, "RLIMIT_"),
}
