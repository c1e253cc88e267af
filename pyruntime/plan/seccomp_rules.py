"""A seccomp profile -> rules in numbers, for linux/seccomp.py (config-linux.md#seccomp).

Read beside runc:libcontainer/seccomp/seccomp_linux.go and runc:libcontainer/seccomp/config.go.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import Seccomp, SeccompArg

    Condition = tuple[int, int, int, int]  # the argument's index, an operator, value, valueTwo: struct scmp_arg_cmp

# What a filter answers: seccomp(2), SECCOMP_RET_*, which are libseccomp's SCMP_ACT_*, too.
ACTIONS = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_TRAP": 0x00030000,
}
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")  # the lower 16 bits say which, or what the tracer is told

# enum scmp_compare of seccomp.h.
OPERATORS = {
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_MASKED_EQ": 7,
    "SCMP_CMP_NE": 1,
}

# Names of config.json, each being SCMP_ARCH_ and libseccomp's own name in capitals.
ARCHITECTURES = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        "AARCH64 ARM LOONGARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE RISCV64 S390 "
        "S390X X32 X86 X86_64"
    ).split()
)

_ENOSYS, _EPERM = 38, 1
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")


class Rule:
    """One rule for one system call: `action` (SECCOMP_RET_*) if all `conditions` hold. `where` it comes from."""

    __slots__ = ("action", "conditions", "name", "where")

    def __init__(self, name: str, action: int, conditions: list[Condition], where: str) -> None:
        self.name = name
        self.action = action
        self.conditions = conditions
        self.where = where


def rules(profile: Seccomp) -> Iterator[Rule]:
    """The profile's rules in its order, without those that say what the default says: libseccomp refuses them."""
    default = default_action(profile)
    for index, entry in enumerate(profile.get("syscalls", ())):
        answer = _action(entry["action"], entry.get("errnoRet", _EPERM))
        if answer == default:
            continue
        for name in entry["names"]:
            for conditions in _alternatives(entry.get("args", [])):
                yield Rule(name, answer, conditions, f"config.json#/linux/seccomp/syscalls/{index}")


def default_action(profile: Seccomp) -> int:
    """What the filter answers where no rule applies, as SECCOMP_RET_*."""
    return _action(profile["defaultAction"], profile.get("defaultErrnoRet", _EPERM))


def architectures(profile: Seccomp) -> list[str]:
    """The architectures besides this machine's own, by libseccomp's names."""
    return [name.removeprefix("SCMP_ARCH_").lower() for name in profile.get("architectures", ())]


def hides_new_calls(profile: Seccomp) -> bool:
    """Whether a call that the profile's author can't have known shall fail with ENOSYS, not as the default says.

    A C library tries the new call and falls back to the old one on ENOSYS; told EPERM, it gives up. What lets unknown
    calls pass needs no such care. runc:libcontainer/seccomp/patchbpf/enosys_linux.go:/^func generatePatch/
    """
    return profile["defaultAction"] not in _PERMISSIVE and profile.get("defaultErrnoRet") != _ENOSYS


def _action(name: str, errno: int) -> int:
    return ACTIONS[name] | (errno & 0xFFFF if name in WITH_ERRNO else 0)


def _alternatives(args: list[SeccompArg]) -> list[list[Condition]]:
    """The conditions, all of which must hold; but each is a rule of its own if two are about the same argument.

    libseccomp takes no two for one argument, and engines write such profiles. runc: /^func matchCall/
    """
    conditions = [(arg["index"], OPERATORS[arg["op"]], arg["value"], arg.get("valueTwo", 0)) for arg in args]
    if len({condition[0] for condition in conditions}) < len(conditions):
        return [[condition] for condition in conditions]
    return [conditions]
