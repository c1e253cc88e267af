"""libseccomp, as much of it as compiles a filter: rules in, a BPF program out. No policy.

What a rule becomes is libseccomp's business: it knows each architecture's numbers, the calls that only go through
socketcall(2) or ipc(2) there, and how to compare 64 bits by 32. It is bound here by hand, ten functions and one struct,
because its own Python module is compiled by distributions for their Python alone and is on no index, while the library
itself is wherever runc, systemd or Docker is. Whatever takes a filter later (a hop without a libc) gets plain bytes.

Only imported to compile; nothing here is called in the container's child. See seccomp_init(3),
seccomp_rule_add(3), seccomp_export_bpf(3). Read beside github.com/seccomp/libseccomp-golang:seccomp_internal.go.
"""

from __future__ import annotations

import errno
import posix
from sys import byteorder

from pyruntime.errors import Error, KernelError, UnsupportedError
from pyruntime.linux import constants as c
from pyruntime.linux import proc, syscalls
from pyruntime.linux.call import c_string, c_void_p, library, memory_at, u32, u64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Rule(Protocol):
        """As in plan.seccomp_rules: `action` for the call `name` if all conditions (struct scmp_arg_cmp) hold."""

        name: str
        action: int
        conditions: list[tuple[int, int, int, int]]
        where: str


INSTRUCTIONS_MAX = 4096  # BPF_MAXINSNS

_LIBRARY = "libseccomp.so.2"
_UNKNOWN = -1  # __NR_SCMP_ERROR: no architecture has a system call of that name
# enum scmp_filter_attr of seccomp.h.
_CTL_NNP, _CTL_OPTIMIZE = 3, 8
_BINARY_TREE = 2
_WORTH_A_TREE = 32  # rules; libseccomp 2.5 makes leaves of four calls, and fails with a tree without any
_X32 = 0x4000003E  # SCMP_ARCH_X32, which the kernel calls x86-64: its calls have bit 30 set
_AUDIT_X86_64 = 0xC000003E
_S390 = (0x16, 0x80000016)


class Library:
    """The loaded libseccomp. Raises UnsupportedError where there is none."""

    __slots__ = ("_functions",)

    def __init__(self) -> None:
        try:
            self._functions = library(_LIBRARY)
        except OSError as error:
            hint = "install libseccomp2 (Debian, Ubuntu) or libseccomp (Fedora, Arch, Alpine)"
            raise UnsupportedError(f"needs {_LIBRARY}: {error}", hint=hint) from error

    def version(self) -> tuple[int, int, int]:
        """Such as (2, 5, 4). See seccomp_version(3)."""
        words = memory_at(self._pointer("seccomp_version"), 12)
        major, minor, micro = (int.from_bytes(words[at : at + 4], byteorder) for at in (0, 4, 8))
        return major, minor, micro

    def path(self) -> str:
        """The file that was loaded, as the kernel names it. See proc_pid_maps(5)."""
        for line in proc.read_file("/proc/self/maps", 1 << 20).decode("utf-8", "surrogateescape").splitlines():
            if "/libseccomp.so" in line:
                return line[line.index("/") :]
        raise UnsupportedError(f"{_LIBRARY} has no file")

    def architecture(self, name: str) -> int:
        """The token of an architecture by its name in lower case; "" is this machine's own."""
        token: int = self._function("seccomp_arch_resolve_name", 1)(c_string(name)) if name else self._native()
        if not token:
            raise UnsupportedError(f"this libseccomp knows no architecture {name}", hint="a newer one may")
        return token & 0xFFFFFFFF

    def compile(self, default: int, rules: list[Rule], architectures: list[str], *, hide_new: bool) -> bytes:
        """A program: an array of struct sock_filter. Names that libseccomp does not know are left out.

        default: SECCOMP_RET_*, where no rule applies. architectures: besides the machine's own. hide_new: put before
        it what answers ENOSYS to a call newer than all that the rules name.
        Raises UnsupportedError, Error with the rule's place for what libseccomp refuses.
        """
        tokens = [self._native(), *map(self.architecture, architectures)]
        context = self._pointer("seccomp_init", default)
        if not context:
            raise UnsupportedError("this libseccomp or this kernel does not know the default action")
        try:
            for token in tokens:
                self._call("seccomp_arch_add", context, token, but=errno.EEXIST)  # the machine's own is in already
            self._call("seccomp_attr_set", context, _CTL_NNP, 0)
            if len(rules) > _WORTH_A_TREE:
                self._function("seccomp_attr_set", 3)(context, _CTL_OPTIMIZE, _BINARY_TREE)  # since 2.5: only an advice
            self._add(context, rules)
            program = self._export(context)
        finally:
            self._function("seccomp_release", 1)(context)
        if hide_new:
            program = enosys_stub(self._newest(tokens, rules)) + program
        if len(program) > INSTRUCTIONS_MAX * 8:
            raise Error(f"a filter of {len(program) // 8} instructions, and the kernel takes {INSTRUCTIONS_MAX}")
        return program

    def _add(self, context: int, rules: list[Rule]) -> None:
        resolve = self._function("seccomp_syscall_resolve_name", 1)
        add = self._function("seccomp_rule_add_array", 5)
        for rule in rules:
            number = resolve(c_string(rule.name))
            if number == _UNKNOWN:
                continue
            conditions = b"".join([u32(index, operator) + u64(a, b) for index, operator, a, b in rule.conditions])
            result = add(context, rule.action, number, len(rule.conditions), conditions)
            if result:
                what = f"libseccomp does not take the rule for {rule.name}"
                raise KernelError(f"{what}: seccomp_rule_add_array()", -result, where=rule.where, hint=_hint(-result))

    def _export(self, context: int) -> bytes:
        """The program as bytes. libseccomp only writes to a descriptor."""
        fd = syscalls.memfd_create("pyruntime-seccomp", c.MFD_CLOEXEC)
        try:
            self._call("seccomp_export_bpf", context, fd)
            return posix.pread(fd, posix.fstat(fd).st_size, 0)
        finally:
            posix.close(fd)

    def _newest(self, tokens: list[int], rules: list[Rule]) -> dict[int, int]:
        """The highest number among the rules' calls for each architecture that has any of them."""
        resolve = self._function("seccomp_syscall_resolve_name_arch", 2)
        names = {c_string(rule.name) for rule in rules}
        # Negative: this architecture does not have it, or not as a call of its own.
        newest = {token: max([0, *(resolve(token, name) for name in names)]) for token in tokens}
        return {token: number for token, number in newest.items() if number}

    def _native(self) -> int:
        token: int = self._function("seccomp_arch_native", 0)()
        return token & 0xFFFFFFFF

    def _function(self, name: str, count: int) -> Any:
        """A function of so many arguments, each handed over as a whole machine word (linux/call.py). Returns an int."""
        function = self._functions(name)
        function.argtypes = (c_void_p,) * count
        return function

    def _pointer(self, name: str, *arguments: int) -> int:
        function = self._function(name, len(arguments))
        function.restype = c_void_p
        return function(*arguments) or 0

    def _call(self, name: str, context: int, *arguments: int, but: int = 0) -> None:
        result = self._function(name, 1 + len(arguments))(context, *arguments)
        if result and -result != but:
            raise KernelError(f"{name}({', '.join(map(hex, arguments))})", -result, hint=_hint(-result))


def supported_flags(flags: dict[str, int]) -> list[str]:
    """Which of some flags of seccomp(2), by name, this kernel knows: it looks at them before it looks at the filter."""
    supported = []
    for name, flag in flags.items():
        with_it = c.SECCOMP_FILTER_FLAG_NEW_LISTENER if flag == c.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV else 0
        try:
            syscalls.seccomp(c.SECCOMP_SET_MODE_FILTER, flag | with_it, None)
        except KernelError as error:
            if error.errno == errno.EFAULT:
                supported.append(name)
    return supported


def enosys_stub(newest: dict[int, int]) -> bytes:
    """Instructions that answer ENOSYS to calls above the newest one, for each architecture; others fall through.

    newest: {libseccomp's token: the highest number that the profile names}. For each architecture:

        jeq  its token, next, over        A holds the architecture
        ld   the call's number
        jset bit 30, +1, +0               x86-64 only: a call of x32
        jgt  newest of x86-64, ENOSYS, out
        jgt  newest of x32, ENOSYS, out
        ret  ENOSYS
    out:ja   the filter itself

    It goes by numbers, as runc's does: a call that came late but in a hole of the table is taken for an old one.
    Companion: runc:libcontainer/seccomp/patchbpf/enosys_linux.go:/^func generateEnosysStub/.
    """
    bodies = []
    for audit in sorted({_AUDIT_X86_64 if token == _X32 else token for token in newest}):
        bodies.append((audit, _body(audit, newest)))
    code = b""
    for audit, body in reversed(bodies):
        # `out` is the end of what has been made so far; the jump to it is the body's last instruction.
        code = _insn(_JEQ, audit, 0, len(body) // 8 + 1) + body + _insn(_JA, len(code) // 8) + code
    return _insn(_LD, _ARCH_OFFSET) + code if code else b""


def _body(audit: int, newest: dict[int, int]) -> bytes:
    """One architecture's part: answers ENOSYS, or gets to its end."""
    load, refuse = _insn(_LD, _NUMBER_OFFSET), _insn(_RET, _ENOSYS)
    if audit == _AUDIT_X86_64:
        never = 0xFFFFFFFF  # without rules for one of the two, libseccomp's own part answers
        plain, x32 = newest.get(_AUDIT_X86_64, never), newest.get(_X32, never)
        return load + _insn(_JSET, 1 << 30, 1, 0) + _insn(_JGT, plain, 1, 2) + _insn(_JGT, x32, 0, 1) + refuse
    if audit in _S390:
        # There call 0 stands for any that has no number below 256, and for all that the kernel does not know.
        return load + _insn(_JEQ, 0, 1, 0) + _insn(_JGT, newest[audit], 0, 1) + refuse
    return load + _insn(_JGT, newest[audit], 0, 1) + refuse


# Classic BPF (bpf_common.h) on struct seccomp_data: {int nr; u32 arch; ...}.
_LD, _JEQ, _JGT, _JSET, _JA, _RET = 0x20, 0x15, 0x25, 0x45, 0x05, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4
_ENOSYS = 0x00050000 | errno.ENOSYS


def _insn(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    """A struct sock_filter."""
    return code.to_bytes(2, byteorder) + bytes((jt, jf)) + k.to_bytes(4, byteorder)


def _hint(number: int) -> str:
    """libseccomp's errnos have meanings of their own, see seccomp_rule_add(3)."""
    return {
        errno.EINVAL: "it knows no such action, operator or number of arguments, or this kernel does not",
        errno.EOPNOTSUPP: "this kernel does not know the action",
        errno.EEXIST: "another rule of the profile says otherwise for the same call and arguments",
        errno.EDOM: "an architecture of the profile can't express it",
        errno.EFAULT: "an error inside of libseccomp",
    }.get(number, "")
