"""Spec -> Steps for `process`: what the child must become before it executes the user's program.

Read beside runc:libcontainer/init_linux.go:/^func finalizeNamespace/.
"""

from __future__ import annotations

from pyruntime.linux import caps
from pyruntime.plan.step import PARENT, PROCESS, ROOTFS, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyruntime.spec.types import Spec

# personality(2): config-linux.md#personality knows these two.
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}

# getrlimit(2): the numbers that every architecture of this project shares.
RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}


class AdjustOomScore(Step):
    """`process.oomScoreAdj`, from -1000 (never) to 1000 (first). See proc_pid_oom_score_adj(5)."""

    phase = PARENT
    why = "it tells the kernel whom to kill first when memory runs out"

    score: int

    def text(self) -> str:
        return f"set oom_score_adj to {self.score}"


class LimitResource(Step):
    """An entry of `process.rlimits` (config.md#posix-process, prlimit(2)), set where raising is allowed."""

    phase = PARENT
    why = "a user namespace could only lower it"

    kind: str
    soft: int
    hard: int

    def text(self) -> str:
        return f"limit {self.kind} to {self.soft}, at most {self.hard}"


class JoinSessionKeyring(Step):
    """A session keyring of the container's own (keyctl_join_session_keyring(3)); left out by --no-new-keyring."""

    phase = ROOTFS
    why = "the caller's keys are not the container's"

    name: str

    def text(self) -> str:
        return f"join the new session keyring {self.name}"


class OpenTerminal(Step):
    """`process.terminal`: a pty in the container's own devpts (config.md#process)."""

    phase = ROOTFS
    why = "process.terminal asks for it"

    rows: int  # 0 leaves the size to the other end
    columns: int

    def text(self) -> str:
        size = f", {self.columns} by {self.rows}" if self.rows or self.columns else ""
        return f"open a terminal, bind it to /dev/console{size}"


class SetPersonality(Step):
    """`linux.personality` (personality(2))."""

    phase = PROCESS
    why = "linux.personality asks for it"

    domain: str
    number: int

    def text(self) -> str:
        return f"set the execution domain {self.domain}"


class SetUmask(Step):
    """`process.user.umask`, or 0022 (config.md#posix-platform-user)."""

    phase = PROCESS
    why = "files are made with it; the caller's own must not leak in"

    mask: int

    def text(self) -> str:
        return f"set the umask to {self.mask:04o}"


class ForbidNewPrivileges(Step):
    """`process.noNewPrivileges` (prctl(2), PR_SET_NO_NEW_PRIVS)."""

    phase = PROCESS
    why = "no setuid program may give back what is dropped here"

    def text(self) -> str:
        return "set no_new_privs"


class LimitBounding(Step):
    """`process.capabilities.bounding` (capabilities(7), "Capability bounding set")."""

    phase = PROCESS
    why = "no program executed later can have more"

    mask: int

    def text(self) -> str:
        return f"bound the capabilities to {_names(self.mask)}"


class BecomeUser(Step):
    """`process.user` and `process.cwd`: groups, gid, uid, in this order, for each needs the one before.

    The directory is entered with the runtime's rights or, if these do not suffice, with the user's.
    """

    phase = PROCESS
    why = "the program runs as this user, in this directory"

    uid: int
    gid: int
    groups: tuple[int, ...]
    cwd: str

    def text(self) -> str:
        more = f" with {', '.join(map(str, self.groups))}" if self.groups else ""
        return f"become {self.uid}:{self.gid}{more}, enter {self.cwd}"


class SetCapabilities(Step):
    """The other four sets of `process.capabilities` (capset(2), capabilities(7))."""

    phase = PROCESS
    why = "root in a container is not root of the host"

    effective: int
    permitted: int
    inheritable: int
    ambient: int

    def text(self) -> str:
        parts = (
            f"{name} {_names(self.__dict__[name])}" for name in ("effective", "permitted", "inheritable", "ambient")
        )
        return "capabilities: " + "; ".join(parts)


class Execute(Step):
    """`process.args` and `process.env`: the last step (execve(2)). No args: there is no `process`, so no such step."""

    phase = PROCESS
    why = "this is what the container is for"

    args: tuple[str, ...]
    env: tuple[str, ...]
    uid: int  # whose home directory is $HOME, if env has none

    @property
    def program(self) -> str:
        """What messages call it: its first argument."""
        return self.args[0] if self.args else ""

    def text(self) -> str:
        return "execute " + (" ".join(self.args) or "nothing: there is no process")


def before_root_steps(id: str, no_new_keyring: bool) -> Iterator[Step]:
    """What `process` wants before the root file system is built."""
    if not no_new_keyring:
        yield JoinSessionKeyring("config.json#/process", f"_ses.{id}")


def terminal_steps(spec: Spec) -> Iterator[OpenTerminal]:
    """The terminal, if one is asked for: after /dev is there, before the root changes."""
    process = spec["process"]
    if process.get("terminal"):
        size = process.get("consoleSize", {})
        yield OpenTerminal("config.json#/process/terminal", size.get("height", 0), size.get("width", 0))


def parent_steps(spec: Spec) -> Iterator[Step]:
    """What only the parent may do to the child."""
    process = spec["process"]
    if "oomScoreAdj" in process:
        yield AdjustOomScore("config.json#/process/oomScoreAdj", process["oomScoreAdj"])
    for index, limit in enumerate(process.get("rlimits", ())):
        yield LimitResource(f"config.json#/process/rlimits/{index}", limit["type"], limit["soft"], limit["hard"])


def process_steps(spec: Spec, filter_steps: Iterable[Step] = ()) -> Iterator[Step]:
    """From the new root to the user's rights, in the order in which each step still has those that it needs.

    filter_steps: those of linux.seccomp, which may need a right that the capabilities don't have.
    """
    process = spec["process"]
    user = process.get("user", {})
    uid, gid = user.get("uid", 0), user.get("gid", 0)
    domain = spec.get("linux", {}).get("personality", {}).get("domain")
    if domain:
        yield SetPersonality("config.json#/linux/personality/domain", domain, PERSONALITIES[domain])
    yield SetUmask("config.json#/process/user/umask", user.get("umask", 0o022))
    if process.get("noNewPrivileges"):
        yield ForbidNewPrivileges("config.json#/process/noNewPrivileges")
    asked = process.get("capabilities", {})
    yield LimitBounding("config.json#/process/capabilities/bounding", _mask(asked.get("bounding", [])))
    yield BecomeUser("config.json#/process/user", uid, gid, tuple(user.get("additionalGids", ())), process["cwd"])
    yield from filter_steps
    yield SetCapabilities(
        "config.json#/process/capabilities",
        _mask(asked.get("effective", [])),
        _mask(asked.get("permitted", [])),
        _mask(asked.get("inheritable", [])),
        _mask(asked.get("ambient", [])),
    )


def execute_step(spec: Spec, env: tuple[str, ...] = ()) -> Execute:
    """The end of it. `env` is added to process.env."""
    process = spec["process"]
    uid = process.get("user", {}).get("uid", 0)
    return Execute("config.json#/process/args", tuple(process["args"]), (*process.get("env", ()), *env), uid)


def _mask(names: list[str]) -> int:
    """The set as a word. A name that we don't know was warned about and is left out (config.md#linux-process)."""
    return caps.mask(name for name in names if name in caps.CAPABILITIES)


def _names(mask: int) -> str:
    names = [name for name, number in caps.CAPABILITIES.items() if mask >> number & 1]
    if len(names) == len(caps.CAPABILITIES):
        return "all"
    return ", ".join(names) or "none"
