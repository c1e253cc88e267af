"""Device rules: what remains of a list of them, and what the program made of that says to each access.

The program is run here by a small interpreter of BPF; tests/kernel/test_bpf_device.py lets the kernel run it.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyruntime.errors import ConfigError
from pyruntime.linux.bpf import device_program
from pyruntime.plan.devices import DEFAULT_RULES, effective_rules, rule_text

if TYPE_CHECKING:
    from pyruntime.plan.devices import Rule

PLACE = "config.json#/linux/resources/devices"
NOTHING = {path for path, _rule in DEFAULT_RULES if path}
ACCESS = {"m": 1, "r": 2, "w": 4}  # linux/bpf.h: BPF_DEVCG_ACC_*
TYPE = {"b": 1, "c": 2}


def entry(allow: bool, text: str) -> dict[str, Any]:
    """A rule of config.json, written as in v1's devices.allow: "c 1:3 rwm", "a"."""
    kind, _, rest = text.partition(" ")
    if kind == "a":
        return {"allow": allow, "access": "rwm"}
    numbers, access = rest.split()
    major, minor = (int(number) if number != "*" else -1 for number in numbers.split(":"))
    return {"allow": allow, "type": kind, "major": major, "minor": minor, "access": access}


def effect(*entries: dict[str, Any]) -> tuple[bool, list[Rule]]:
    return effective_rules(list(entries), NOTHING)  # type: ignore[arg-type]


def run(program: bytes, kind: str, access: str, major: int, minor: int) -> bool:
    """Interpret a device program: the handful of instructions that it consists of, and none other."""
    mask = sum(ACCESS[letter] for letter in access)
    context = struct.pack("=III", mask << 16 | TYPE[kind], major, minor)
    registers = [0] * 11
    at = 0
    while True:
        code, both, offset, immediate = struct.unpack_from("=BBhI", program, at * 8)
        to, source = (both & 15, both >> 4) if sys.byteorder == "little" else (both >> 4, both & 15)
        operand = registers[source] if code & 8 else immediate
        at += 1
        match code:
            case 0x61:  # LDX | MEM | W
                registers[to] = struct.unpack_from("=I", context, offset)[0]
            case 0x54:  # ALU | AND
                registers[to] &= operand
            case 0x74:  # ALU | RSH
                registers[to] >>= operand
            case 0xB4:  # ALU | MOV
                registers[to] = operand
            case 0x56:  # JMP32 | JNE
                at += offset if registers[to] != operand else 0
            case 0x16:  # JMP32 | JEQ
                at += offset if registers[to] == operand else 0
            case 0x46:  # JMP32 | JSET
                at += offset if registers[to] & operand else 0
            case 0x05:  # JMP | JA
                at += offset
            case 0x95:  # EXIT
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def v1_says(entries: list[dict[str, Any]], kind: str, access: str, major: int, minor: int) -> bool:
    """What cgroup v1 would say, after security/device_cgroup.c: behaviour, exceptions, and its two ways of matching."""
    allow_all, exceptions = False, list[list[Any]]()
    for rule in entries:
        if rule.get("type", "a") == "a":
            allow_all, exceptions = rule["allow"], []
            continue
        key = [rule["type"], rule["major"], rule["minor"]]
        same = [exception for exception in exceptions if exception[:3] == key]
        if rule["allow"] != allow_all:
            if same:
                same[0][3] |= set(rule["access"])
            else:
                exceptions.append([*key, set(rule["access"])])
        elif same:
            same[0][3] -= set(rule["access"])
            if not same[0][3]:
                exceptions.remove(same[0])
    asked = set(access)
    found = False
    for kind_, major_, minor_, access_ in exceptions:
        if kind_ == kind and major_ in (-1, major) and minor_ in (-1, minor):
            found = found or bool(access_ & asked if allow_all else access_ >= asked)
    return not found if allow_all else found


def test_the_default_rules_alone() -> None:
    default_allow, rules = effective_rules([], set())
    assert not default_allow
    assert [rule_text(rule) for rule in rules] == [
        "b *:* m",
        "c *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
        "c 10:200 rwm",
        "c 136:* rwm",
    ]


def test_deny_all_as_runc_spec_writes_it_changes_nothing() -> None:
    assert effective_rules([{"allow": False, "access": "rwm"}], set()) == effective_rules([], set())


def test_allow_all_leaves_no_rule() -> None:
    assert effect(entry(False, "c 1:3 r"), entry(True, "a")) == (True, [])


def test_a_device_defined_anew_loses_its_default_rule() -> None:
    _default, rules = effective_rules([], {"/dev/null", "/dev/sda"})
    assert ("c", 1, 3, "rwm") not in rules
    assert ("c", 1, 5, "rwm") in rules


def test_rules_add_up_and_are_taken_back_in_part() -> None:
    _default, rules = effect(entry(True, "b 8:0 r"), entry(True, "b 8:0 m"), entry(True, "b 8:0 w"))
    assert ("b", 8, 0, "rwm") in rules
    _default, rules = effect(entry(True, "b 8:0 rwm"), entry(False, "b 8:0 w"))
    assert ("b", 8, 0, "rm") in rules
    _default, rules = effect(entry(True, "b 8:0 rw"), entry(False, "b 8:0 rwm"))
    assert not [rule for rule in rules if rule[:3] == ("b", 8, 0)]


def test_a_default_rule_is_an_exception_again_after_an_explicit_denial() -> None:
    """As with runc: the default devices come last, whatever the config says of them."""
    _default, rules = effective_rules([entry(False, "c 1:3 rwm")], set())  # type: ignore[list-item]
    assert ("c", 1, 3, "rwm") in rules


@pytest.mark.parametrize(
    ("first", "second"),
    [("c 10:* rwm", "c 10:5 w"), ("c *:5 r", "c 10:5 r"), ("b *:* w", "b 8:* w"), ("b *:* w", "b 8:0 w")],
)
@pytest.mark.parametrize("default", [True, False])
def test_a_hole_in_a_wider_rule_is_refused(first: str, second: str, default: bool) -> None:
    with pytest.raises(ConfigError, match=r"after the wider rule") as caught:
        effect(entry(default, "a"), entry(not default, first), entry(default, second))
    assert caught.value.where == f"{PLACE}/2"


def test_a_hole_for_a_device_that_every_container_has_is_explained() -> None:
    with pytest.raises(ConfigError, match="every container is allowed this device") as caught:
        effective_rules([entry(True, "a"), entry(False, "c 1:* r")], set())  # type: ignore[list-item]
    assert caught.value.where == PLACE


def test_a_hole_in_other_access_or_type_is_none() -> None:
    effect(entry(True, "c 10:* r"), entry(False, "c 10:5 w"), entry(False, "b 10:5 r"))


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ({"allow": True, "access": ""}, "access"),
        ({"allow": True}, "access"),
        ({"allow": True, "access": "x"}, "access"),
        ({"allow": True, "type": "p", "access": "r"}, "type"),
        ({"allow": True, "type": "c", "major": -2, "access": "r"}, "major"),
        ({"allow": True, "type": "c", "minor": 1 << 32, "access": "r"}, "minor"),
    ],
)
def test_rules_that_make_no_sense(rule: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        effect(rule)
    assert caught.value.where == f"{PLACE}/0/{key}"


def test_letters_that_mean_nothing_are_passed_over() -> None:
    """spec.schema warns of them; runc has some in its own tests."""
    assert ("c", 4, 64, "rw") in effect({"allow": True, "type": "c", "major": 4, "minor": 64, "access": "rwa"})[1]


def test_type_u_is_a_character_device() -> None:
    assert ("c", 4, 64, "rw") in effect({"allow": True, "type": "u", "major": 4, "minor": 64, "access": "wr"})[1]


def test_a_partial_match_denies_but_does_not_allow() -> None:
    """The case in which runc's program is too lenient: opened for reading and writing, where writing is denied."""
    denies_writing = device_program([("c", 1, 3, "w")], True)
    assert run(denies_writing, "c", "r", 1, 3)
    assert not run(denies_writing, "c", "w", 1, 3)
    assert not run(denies_writing, "c", "rw", 1, 3)
    allows_writing = device_program([("c", 1, 3, "w")], False)
    assert run(allows_writing, "c", "w", 1, 3)
    assert not run(allows_writing, "c", "rw", 1, 3)


@pytest.mark.parametrize("default", [False, True])
def test_rules_are_told_apart_by_all_of_their_parts(default: bool) -> None:
    """Rules of one type and access are compiled together, by their majors."""
    rules: list[Rule] = [
        *[("c", 1, 3, "rwm"), ("c", 5, 0, "rwm"), ("c", 1, 5, "rwm"), ("b", 1, 7, "rwm"), ("c", 9, -1, "rwm")],
        *[("c", 9, 4, "rwm"), ("c", -1, 200, "rwm"), ("c", 1, 8, "r"), ("b", -1, -1, "m")],
    ]
    program = device_program(rules, default)
    for kind in "bc":
        for major in (0, 1, 5, 9):
            for minor in (0, 3, 4, 5, 7, 8, 200):
                for access in ("r", "m", "rw"):
                    fits = [
                        set(access) <= set(rule[3])
                        for rule in rules
                        if rule[0] == kind and rule[1] in (-1, major) and rule[2] in (-1, minor)
                    ]
                    partly = [rule for rule in rules if rule[:3] == ("c", 1, 8) == (kind, major, minor)]
                    expected = any(fits) or (default and access == "rw" and bool(partly))
                    assert run(program, kind, access, major, minor) == (expected != default), (
                        kind,
                        major,
                        minor,
                        access,
                    )


def test_more_rules_than_one_jump_can_pass() -> None:
    rules: list[Rule] = [("c", number % 4096, number, "rwm") for number in range(40000)]
    program = device_program(rules, False)
    for number in (0, 1, 8191, 8192, 39999):
        assert run(program, "c", "rw", number % 4096, number)
        assert not run(program, "c", "rw", (number + 1) % 4096, number)
        assert not run(program, "b", "rw", number % 4096, number)


def test_the_usual_program_is_short() -> None:
    """The verifier takes a microsecond or two for each instruction of it, at every start."""
    default_allow, rules = effect(entry(False, "a"))
    assert len(device_program(rules, default_allow)) // 8 <= 30


def test_numbers_of_32_bits() -> None:
    program = device_program([("b", (1 << 32) - 2, (1 << 31), "rwm")], False)
    assert run(program, "b", "r", (1 << 32) - 2, 1 << 31)
    assert not run(program, "b", "r", (1 << 32) - 2, 0)
    assert not run(program, "b", "r", 0, 1 << 31)


numbers = st.sampled_from([-1, 0, 1, 2, (1 << 32) - 1])
accesses = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda letters: "".join(sorted(letters)))
one_entry = st.one_of(
    st.builds(lambda allow: {"allow": allow, "access": "rwm"}, st.booleans()),
    st.fixed_dictionaries(
        {"allow": st.booleans(), "type": st.sampled_from("bc"), "major": numbers, "minor": numbers, "access": accesses}
    ),
)
question = st.tuples(st.sampled_from("bc"), accesses, st.integers(0, 3), st.integers(0, 3))


@given(st.lists(one_entry, max_size=8), st.lists(question, max_size=10))
def test_program_and_v1_agree(entries: list[dict[str, Any]], questions: list[tuple[str, str, int, int]]) -> None:
    try:
        default_allow, rules = effect(*entries)
    except ConfigError:
        return  # a hole: v1 would ignore the rule
    program = device_program(rules, default_allow)
    pathless = [
        {"allow": True, **dict(zip(("type", "major", "minor", "access"), rule, strict=True))}
        for rule in (rule for path, rule in DEFAULT_RULES if not path)
    ]
    for asked in questions:
        assert run(program, *asked) == v1_says([*entries, *pathless], *asked)
