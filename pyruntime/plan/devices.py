"""`linux.resources.devices` -> the few rules that matter in the end (config-linux.md#allowed-device-list).

The list has the meaning of writes to cgroup v1's devices.allow and devices.deny, one after the other: a rule for all
devices resets everything and sets the default; any other one adds or takes back an exception to the default. What is
left when all have been applied is a default and a set of exceptions, all of the opposite action: that is what the
device program of linux/bpf.py tests.

Read beside opencontainers/cgroups:devices/devices_emulator.go and the kernel's security/device_cgroup.c.
"""

from __future__ import annotations

from pyruntime.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import DeviceRule

    # type "b" or "c", major, minor (-1: any), access: some of "r", "w", "m" in this order
    Rule = tuple[str, int, int, str]

PLACE = "config.json#/linux/resources/devices"
ANY = -1

# What every container may do besides, as with runc:libcontainer/specconv/spec_linux.go:/^var AllowedDevices/: making
# any node (opening it is another matter), and using the devices that config-linux.md#default-devices promises.
# The path is the one under which linux.devices may define the device anew: then only its own rules count.
DEFAULT_RULES: tuple[tuple[str, Rule], ...] = (
    ("", ("c", ANY, ANY, "m")),
    ("", ("b", ANY, ANY, "m")),
    ("/dev/null", ("c", 1, 3, "rwm")),
    ("/dev/random", ("c", 1, 8, "rwm")),
    ("/dev/full", ("c", 1, 7, "rwm")),
    ("/dev/tty", ("c", 5, 0, "rwm")),
    ("/dev/zero", ("c", 1, 5, "rwm")),
    ("/dev/urandom", ("c", 1, 9, "rwm")),
    ("", ("c", 136, ANY, "rwm")),  # /dev/pts/*
    ("", ("c", 5, 2, "rwm")),  # /dev/ptmx
    ("", ("c", 10, 200, "rwm")),  # /dev/net/tun: engines came to rely on it
)


def effective_rules(entries: list[DeviceRule], own_paths: set[str]) -> tuple[bool, list[Rule]]:
    """The default (True: allow) and its exceptions, sorted. `own_paths` are the paths of `linux.devices`.

    Raises ConfigError with the entry's place. Companion: :devices_emulator.go:/^func .*Apply/.
    """
    emulator = Emulator()
    for index, entry in enumerate(entries):
        emulator.apply(entry["allow"], _rule(entry, f"{PLACE}/{index}"), f"{PLACE}/{index}")
    for path, rule in DEFAULT_RULES:
        if path in own_paths:
            continue
        try:
            emulator.apply(True, rule, PLACE)
        except ConfigError as error:
            error.hint = "every container is allowed this device: deny the others by name"
            raise
    return emulator.default_allow, emulator.rules()


def _rule(entry: DeviceRule, where: str) -> Rule:
    kind: str = entry.get("type") or "a"
    if kind == "u":
        kind = "c"
    if kind not in ("a", "b", "c"):
        raise ConfigError(f"a device rule is for type a, b or c, not {kind!r}", where=f"{where}/type")
    access = "".join(letter for letter in entry.get("access", "") if letter in "rwm")
    if not access:
        raise ConfigError(f"access is some of r, w and m, not {entry.get('access', '')!r}", where=f"{where}/access")
    return kind, _number(entry.get("major"), f"{where}/major"), _number(entry.get("minor"), f"{where}/minor"), access


def _number(number: int | None, where: str) -> int:
    """A device number of 32 bits, or ANY for -1 and for none."""
    if number is None:
        return ANY
    if not ANY <= number < 1 << 32:
        raise ConfigError(f"no device has the number {number}", where=where)
    return number


class Emulator:
    """The state of one v1 device cgroup. It starts as runc's does: nothing is allowed."""

    __slots__ = ("_exceptions", "default_allow")

    def __init__(self) -> None:
        self.default_allow = False
        self._exceptions: dict[tuple[str, int, int], set[str]] = {}

    def apply(self, allow: bool, rule: Rule, where: str) -> None:
        """Do what a write of the rule to devices.allow or devices.deny would do."""
        kind, major, minor, access = rule
        if kind == "a":  # numbers and access of such a rule mean nothing, in v1 as here
            self.default_allow = allow
            self._exceptions.clear()
        elif allow == self.default_allow:
            self._take_back(kind, major, minor, set(access), where)
        else:
            self._exceptions.setdefault((kind, major, minor), set()).update(access)

    def _take_back(self, kind: str, major: int, minor: int, access: set[str], where: str) -> None:
        """Remove an exception, or the part of it that `access` names.

        A hole in an exception with wildcards is refused: v1 would silently ignore the rule that should make it, and
        a rule that forbids nothing is worse than an error.
        """
        for wider in ((kind, ANY, minor), (kind, major, ANY), (kind, ANY, ANY)):
            if wider != (kind, major, minor) and self._exceptions.get(wider, set()) & access:
                action = "allow" if self.default_allow else "deny"
                raise ConfigError(
                    f"cannot {action} {rule_text((kind, major, minor, _ordered(access)))} after the wider rule "
                    f"{rule_text((*wider, _ordered(self._exceptions[wider])))}",
                    where=where,
                    hint="device rules cannot punch a hole into a rule with wildcards; name the devices one by one",
                )
        left = self._exceptions.get((kind, major, minor), set()) - access
        self._exceptions.pop((kind, major, minor), None)
        if left:
            self._exceptions[kind, major, minor] = left

    def rules(self) -> list[Rule]:
        """The exceptions, by major, minor and type, so that equal configs give equal plans."""
        keys = sorted(self._exceptions, key=lambda key: (key[1], key[2], key[0]))
        return [(*key, _ordered(self._exceptions[key])) for key in keys]


def rule_text(rule: Rule) -> str:
    """The rule as devices.list of v1 shows it: "c 1:3 rwm", "b 8:* r"."""
    kind, major, minor, access = rule
    return f"{kind} {'*' if major == ANY else major}:{'*' if minor == ANY else minor} {access}"


def _ordered(access: set[str]) -> str:
    return "rwm" if len(access) == 3 else "".join([letter for letter in "rwm" if letter in access])
