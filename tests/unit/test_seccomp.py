"""linux.seccomp without a kernel: the Step, a profile's rules, what is refused, and our own instructions."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pyruntime.errors import ConfigError
from pyruntime.linux import constants as c
from pyruntime.linux.seccomp import enosys_stub
from pyruntime.plan import seccomp, seccomp_rules
from pyruntime.plan.build import build
from pyruntime.plan.process import SetCapabilities
from pyruntime.plan.seccomp import LoadSeccomp
from pyruntime.spec import schema
from pyruntime.spec.default import default_spec
from pyruntime.spec.validate import problems, warnings
from tests.support.classic_bpf import I386, NATIVE, X32_BIT, decide

WHERE = "config.json#/linux/seccomp"
ALLOW, ERRNO, NOTIFY = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY"


def spec_with(profile: Any, *, no_new_privileges: bool = True) -> Any:
    spec: Any = default_spec()
    spec["linux"]["seccomp"] = profile
    spec["process"]["noNewPrivileges"] = no_new_privileges
    return spec


def entry(*names: str, action: str = ALLOW, **more: Any) -> Any:
    return {"names": list(names), "action": action, **more}


def step_of(profile: Any, **options: bool) -> LoadSeccomp:
    plan = build(spec_with(profile, **options), "/bundle", "web", "")
    (step,) = [step for step in plan if isinstance(step, LoadSeccomp)]
    return step


def simple(profile: Any) -> list[tuple[str, int, list[tuple[int, int, int, int]]]]:
    return [(rule.name, rule.action, rule.conditions) for rule in seccomp_rules.rules(profile)]


@pytest.mark.parametrize("profile", [{}, {"defaultAction": ""}, {"architectures": ["SCMP_ARCH_X86"]}])
def test_no_default_action_is_no_filter(profile: Any) -> None:
    spec = spec_with(profile)
    assert not list(problems(spec))
    assert not [step for step in build(spec, "/bundle", "web", "") if isinstance(step, LoadSeccomp)]


NOTIFYING = {"defaultAction": ALLOW, "syscalls": [entry("mkdir", action=NOTIFY)]}


@pytest.mark.parametrize("profile", [{"defaultAction": ALLOW}, NOTIFYING])
@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_what_loading_it_takes(profile: Any, no_new_privileges: bool) -> None:
    """CAP_SYS_ADMIN or no_new_privs: seccomp(2)."""
    step = step_of(profile, no_new_privileges=no_new_privileges)
    assert step.privileged is not no_new_privileges
    assert bool(step.flags & c.SECCOMP_FILTER_FLAG_NEW_LISTENER) is (profile is NOTIFYING)
    assert step.where == WHERE


def test_it_is_arranged_before_the_capabilities_go() -> None:
    kinds = [type(step) for step in build(spec_with({"defaultAction": ALLOW}), "/bundle", "web", "")]
    assert kinds.index(LoadSeccomp) < kinds.index(SetCapabilities)


def test_the_text_tells_what_it_does() -> None:
    step = step_of({"defaultAction": ERRNO, "syscalls": [entry("read", "write"), entry("close")]})
    assert step.text() == "load a seccomp filter: SCMP_ACT_ERRNO but for 3 system calls"


PREFIX = "SECCOMP_FILTER_FLAG_"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, c.SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        ([], 0),
        ([PREFIX + "TSYNC"], 0),
        ([PREFIX + "LOG"], c.SECCOMP_FILTER_FLAG_LOG),
        ([PREFIX + "LOG", PREFIX + "SPEC_ALLOW"], c.SECCOMP_FILTER_FLAG_LOG | c.SECCOMP_FILTER_FLAG_SPEC_ALLOW),
    ],
)
def test_flags(flags: list[str] | None, expected: int) -> None:
    more = {} if flags is None else {"flags": flags}
    assert step_of({"defaultAction": ERRNO, **more}).flags == expected


def test_a_listener_is_asked_for_where_something_notifies() -> None:
    profile = {"defaultAction": ALLOW, "flags": [PREFIX + "WAIT_KILLABLE_RECV"], "listenerPath": "/x"}
    flags = step_of({**profile, "syscalls": [entry("mkdir", action=NOTIFY)]}).flags
    assert flags == c.SECCOMP_FILTER_FLAG_NEW_LISTENER | c.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"action": ERRNO}, 0x00050000 | errno.EPERM),
        ({"action": ERRNO, "errnoRet": 38}, 0x00050000 | 38),
        ({"action": ERRNO, "errnoRet": 0}, 0x00050000),
        ({"action": "SCMP_ACT_TRACE"}, 0x7FF00000 | errno.EPERM),
        ({"action": "SCMP_ACT_TRACE", "errnoRet": 7}, 0x7FF00000 | 7),
        ({"action": "SCMP_ACT_LOG", "errnoRet": 7}, 0x7FFC0000),
        ({"action": "SCMP_ACT_KILL"}, 0),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, 0x80000000),
    ],
)
def test_what_a_rule_answers(more: Any, expected: int) -> None:
    assert simple({"defaultAction": ALLOW, "syscalls": [entry("mkdir", **more)]}) == [("mkdir", expected, [])]


def test_a_rule_that_says_what_the_default_says_is_left_out() -> None:
    profile = {
        "defaultAction": ERRNO,
        "defaultErrnoRet": 5,
        "syscalls": [entry("a", action=ERRNO, errnoRet=5), entry("b", action=ERRNO)],
    }
    assert simple(profile) == [("b", 0x00050001, [])]


def argument(index: int, op: str, value: int, **more: int) -> Any:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, **more}


def test_conditions_on_different_arguments_hold_together() -> None:
    args = [argument(0, "EQ", 1), argument(1, "MASKED_EQ", 0xF0, valueTwo=0x10)]
    profile = {"defaultAction": ERRNO, "syscalls": [entry("socket", args=args)]}
    assert simple(profile) == [("socket", 0x7FFF0000, [(0, 4, 1, 0), (1, 7, 0xF0, 0x10)])]


def test_conditions_on_one_argument_are_alternatives() -> None:
    """As runc has it: libseccomp takes no two for one argument."""
    args = [argument(0, "EQ", 1), argument(0, "EQ", 2), argument(1, "NE", 3)]
    profile = {"defaultAction": ERRNO, "syscalls": [entry("socket", args=args)]}
    expected = [[(0, 4, 1, 0)], [(0, 4, 2, 0)], [(1, 1, 3, 0)]]
    assert [conditions for _, _, conditions in simple(profile)] == expected


def test_a_rule_knows_its_place() -> None:
    profile: Any = {"defaultAction": ERRNO, "syscalls": [entry("a"), entry("b", "c")]}
    assert [rule.where for rule in seccomp_rules.rules(profile)] == [f"{WHERE}/syscalls/{n}" for n in (0, 1, 1)]


@pytest.mark.parametrize(
    ("profile", "hides"),
    [
        ({"defaultAction": ERRNO}, True),
        ({"defaultAction": ERRNO, "defaultErrnoRet": errno.ENOSYS}, False),
        ({"defaultAction": "SCMP_ACT_KILL_PROCESS"}, True),
        ({"defaultAction": "SCMP_ACT_TRAP"}, True),
        ({"defaultAction": ALLOW}, False),
        ({"defaultAction": "SCMP_ACT_LOG"}, False),
        ({"defaultAction": "SCMP_ACT_TRACE"}, False),
    ],
)
def test_which_profiles_hide_what_is_new(profile: Any, hides: bool) -> None:
    assert seccomp_rules.hides_new_calls(profile) is hides


def test_the_schema_knows_the_same_names() -> None:
    def told(prefix: str, names: str) -> set[str]:
        return {prefix + name for name in names.split()}

    assert set(seccomp_rules.ACTIONS) == told("SCMP_ACT_", schema.ACTIONS)
    assert set(seccomp_rules.OPERATORS) == told("SCMP_CMP_", schema.OPERATORS)
    assert set(seccomp_rules.ARCHITECTURES) == told("SCMP_ARCH_", schema.ARCHITECTURES)
    assert set(seccomp.FLAGS) == told("SECCOMP_FILTER_FLAG_", schema.FILTER_FLAGS)


BAD: list[tuple[Any, str, str]] = [
    ({"syscalls": [entry("a")]}, "", "defaultAction is missing"),
    ({"defaultAction": NOTIFY}, "/defaultAction", "cannot be SCMP_ACT_NOTIFY"),
    ({"defaultAction": "ALLOW"}, "/defaultAction", "must be one of"),
    ({"defaultAction": ALLOW, "flags": ["X"]}, "/flags/0", "must be one of"),
    ({"defaultAction": ALLOW, "flags": [PREFIX + "WAIT_KILLABLE_RECV"]}, "/flags", "needs a system call with"),
    ({"defaultAction": ALLOW, "architectures": ["amd64"]}, "/architectures/0", "must be one of"),
    ({"defaultAction": ALLOW, "listenerPath": "x"}, "/listenerPath", "absolute path"),
    ({"defaultAction": ALLOW, "syscalls": [{"action": ERRNO}]}, "/syscalls/0", "the key names is missing"),
    ({"defaultAction": ALLOW, "syscalls": [entry(action=ERRNO)]}, "/syscalls/0/names", "must not be empty"),
    ({"defaultAction": ALLOW, "syscalls": [entry("", action=ERRNO)]}, "/syscalls/0/names/0", "must not be empty"),
    ({"defaultAction": ALLOW, "syscalls": [{"names": ["a"]}]}, "/syscalls/0", "the key action is missing"),
    ({"defaultAction": ALLOW, "syscalls": [entry("a", errnoRet=-1)]}, "/syscalls/0/errnoRet", "whole number"),
    (
        {"defaultAction": ERRNO, "syscalls": [entry("a", args=[argument(6, "EQ", 1)])]},
        "/syscalls/0/args/0/index",
        "from 0 to 5",
    ),
    (
        {"defaultAction": ERRNO, "syscalls": [entry("a", args=[argument(0, "IS", 1)])]},
        "/syscalls/0/args/0/op",
        "must be one of",
    ),
    ({"defaultAction": ALLOW, "syscalls": [entry("mkdir", action=NOTIFY)]}, "", "needs the key listenerPath"),
    (
        {"defaultAction": ALLOW, "listenerPath": "/a", "syscalls": [entry("read", "write", action=NOTIFY)]},
        "/syscalls/0/names",
        "SCMP_ACT_NOTIFY cannot be used for the write syscall",
    ),
]


@pytest.mark.parametrize(("profile", "place", "message"), BAD)
def test_what_is_refused(profile: Any, place: str, message: str) -> None:
    found = list(problems(spec_with(profile)))
    assert [error.where for error in found] == [WHERE + place]
    assert isinstance(found[0], ConfigError)
    assert message in found[0].message


@pytest.mark.parametrize(
    ("profile", "place"),
    [
        ({"defaultAction": ALLOW, "defaultErrnoRet": 1}, "/defaultErrnoRet"),
        ({"defaultAction": ERRNO, "syscalls": [entry("a", errnoRet=1)]}, "/syscalls/0/errnoRet"),
        ({"defaultAction": ERRNO, "listenerPath": "/a"}, "/listenerPath"),
        ({"defaultAction": ERRNO, "listenerMetadata": "x"}, "/listenerMetadata"),
    ],
)
def test_what_is_ignored_with_a_warning(profile: Any, place: str) -> None:
    spec = spec_with(profile)
    assert not list(problems(spec))
    assert [line for line in warnings(spec) if line.startswith(f"{WHERE}{place}: ignored")]


# The stub, in front of a filter that allows everything.

PASS = bytes.fromhex("060000000000ff7f")
HIDDEN = 0x00050000 | errno.ENOSYS
ALLOWED = 0x7FFF0000
X32, ARM, S390X = 0x4000003E, 0x40000028, 0x80000016


def test_nothing_to_compare_with_is_no_stub() -> None:
    assert enosys_stub({}) == b""


@pytest.mark.parametrize(
    ("arch", "number", "expected"),
    [
        (NATIVE, 0, ALLOWED),
        (NATIVE, 300, ALLOWED),
        (NATIVE, 301, HIDDEN),
        (NATIVE, X32_BIT - 1, HIDDEN),
        (NATIVE, X32_BIT, ALLOWED),
        (NATIVE, X32_BIT | 200, ALLOWED),
        (NATIVE, X32_BIT | 201, HIDDEN),
        (NATIVE, 0xFFFFFFFF, HIDDEN),
        (I386, 100, ALLOWED),
        (I386, 101, HIDDEN),
        (ARM, 5, ALLOWED),
        (ARM, 6, HIDDEN),
        (S390X, 0, HIDDEN),
        (S390X, 1, ALLOWED),
        (S390X, 50, ALLOWED),
        (S390X, 51, HIDDEN),
        (0xDEAD, 99999, ALLOWED),
    ],
)
def test_what_is_newer_is_hidden(arch: int, number: int, expected: int) -> None:
    program = enosys_stub({NATIVE: 300, X32: X32_BIT | 200, I386: 100, ARM: 5, S390X: 50}) + PASS
    assert decide(program, number, arch=arch) == expected


def test_a_mode_without_rules_is_left_to_the_filter() -> None:
    alone = enosys_stub({NATIVE: 300}) + PASS
    assert decide(alone, X32_BIT | 999) == ALLOWED
    assert decide(alone, 301) == HIDDEN
    other = enosys_stub({X32: X32_BIT | 200}) + PASS
    assert decide(other, 9999) == ALLOWED
    assert decide(other, X32_BIT | 201) == HIDDEN
