"""clone3(2): the one place where the container's processes come from.

`spawn` executes a file at once, as vfork(2) and execve do together: nothing of this process is copied. `clone3` is for
what has to be Python for a while.

A child made behind Python's back starts with Python's locks as the parent's threads left them. So the call is bracketed
with the hooks that CPython's own fork uses, keeps the GIL (call.py), and is refused in a process with a second thread:
there it can hang the child. The C library is not told either: in the child its cached thread ID is the parent's, which
matters to nothing but recursive and error-checking mutexes; os.fork would have corrected it.

Read beside runc:libcontainer/nsexec/nsexec.c:/^static int clone_parent/ and os_fork1_impl in CPython's posixmodule.c.
"""

from __future__ import annotations

import posix
from sys import byteorder

from pyruntime.errors import Error, KernelError
from pyruntime.linux.call import (
    Struct,
    address,
    c_void_p,
    call,
    function_at,
    hint,
    native,
    string_vector,
    u64,
)
from pyruntime.linux.constants import (
    AT_EMPTY_PATH,
    CLONE_CLEAR_SIGHAND,
    CLONE_INTO_CGROUP,
    CLONE_PIDFD,
    CLONE_VFORK,
    CLONE_VM,
    SIGCHLD,
    SYS_clone3,
    SYS_execveat,
    flag_names,
)

_before_fork, _after_fork_in_parent, _after_fork_in_child = _hooks = [
    native(f"PyOS_{name}") for name in ("BeforeFork", "AfterFork_Parent", "AfterFork_Child")
]
for _hook in _hooks:
    _hook.argtypes = ()
    _hook.restype = None


def clone3(
    flags: int, *, exit_signal: int = SIGCHLD, cgroup_fd: int | None = None, pidfd: bool = True
) -> tuple[int, int]:
    """Make a child in the new namespaces that `flags` names: (its pid, a pidfd of the caller's), in the child (0, -1).

    `cgroup_fd`, a descriptor of a cgroup2 directory, is where the child starts (CLONE_INTO_CGROUP): no moment outside
    its limits, and no wait for the RCU grace period that a write to cgroup.procs costs. Without `pidfd` there is -1.
    The child must leave by posix._exit or execve on every path: it shares the parent's stack frames.

    Raises KernelError; Error if this process has threads. See clone(2), section clone3.
    """
    if (threads := thread_count()) > 1:
        raise Error(f"clone3 in a process with {threads} threads could hang its child")
    pidfd_cell = bytearray(4)
    clone_args = _arguments(flags, exit_signal, cgroup_fd, pidfd_cell if pidfd else None)
    _before_fork()
    try:
        pid = call(SYS_clone3, clone_args, len(clone_args))
    except KernelError:
        _after_fork_in_parent()
        raise
    if pid == 0:
        _after_fork_in_child()
        return 0, -1
    _after_fork_in_parent()
    return pid, int.from_bytes(pidfd_cell, byteorder) if pidfd else -1


def spawn(
    flags: int, image_fd: int, entry: int, name: bytes, *, cgroup_fd: int | None = None, may_sleep: bool = True
) -> tuple[int, int]:
    """Make a child in new namespaces (`flags`, `cgroup_fd` as for clone3) that executes a file: (its pid, a pidfd).

    It inherits the descriptors that do not close on exec, ignored signals and the signal mask; argv is `name` alone.
    The code that clones and executes is the file's own, `entry` bytes from its start (launch/hop): machine code, since
    the child runs in our memory until its execve, while we sleep. Where we may not sleep, or can't execute memory of
    such a file (a security module), the child is forked.

    Raises KernelError of clone3, or of execveat.
    """
    (argv, _keep), (envp, _keep_too), pidfd_cell = string_vector((name,)), string_vector(()), bytearray(4)
    code = _map(None, _PAGE, _PROT_READ_EXEC, _MAP_PRIVATE, image_fd, 0) if may_sleep else None
    if code in (None, _MAP_FAILED):
        pid, pidfd = clone3(flags, cgroup_fd=cgroup_fd)
        if pid == 0:
            try:
                call(SYS_execveat, image_fd, "", argv, envp, AT_EMPTY_PATH)
            finally:
                posix._exit(1)
        return pid, pidfd
    try:
        empty, arguments, environment = bytearray(1), bytearray(argv), bytearray(envp)
        execution = bytearray(u64(image_fd, address(empty), address(arguments), address(environment), AT_EMPTY_PATH, 0))
        flags |= CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND
        clone_args = _arguments(flags, SIGCHLD, cgroup_fd, pidfd_cell)
        birth = function_at(code + entry)
        birth.argtypes = (c_void_p,) * 3
        pid = birth(clone_args, len(clone_args), address(execution))
    finally:
        _unmap(code, _PAGE)
    if pid < 0:
        raise KernelError(f"clone3(flags={flag_names(flags, 'CLONE_')})", -pid, hint=hint("clone3", -pid))
    pidfd = int.from_bytes(pidfd_cell, byteorder)
    error = int.from_bytes(execution[40:48], byteorder, signed=True)
    if error:
        posix.waitpid(pid, 0)
        posix.close(pidfd)
        raise KernelError(f"execveat(fd={image_fd})", -error, hint=hint("execveat", -error))
    return pid, pidfd


def _arguments(flags: int, exit_signal: int, cgroup_fd: int | None, pidfd_cell: bytearray | None) -> Struct:
    """A struct clone_args."""
    words = {
        "flags": flags | (0 if pidfd_cell is None else CLONE_PIDFD) | (0 if cgroup_fd is None else CLONE_INTO_CGROUP),
        "pidfd": 0 if pidfd_cell is None else address(pidfd_cell),
        "child_tid": 0,
        "parent_tid": 0,
        "exit_signal": exit_signal,
        "stack": 0,  # the parent's, or a copy of it
        "stack_size": 0,
        "tls": 0,
        "set_tid": 0,
        "set_tid_size": 0,
        "cgroup": cgroup_fd or 0,
    }
    return Struct(u64(*words.values()))


_PAGE = 0x1000
_PROT_READ_EXEC, _MAP_PRIVATE, _MAP_FAILED = 5, 2, 2**64 - 1  # mmap(2)
_map, _unmap = native("mmap"), native("munmap")
_map.argtypes, _map.restype = (c_void_p,) * 6, c_void_p
_unmap.argtypes = (c_void_p,) * 2


def thread_count() -> int:
    """How many threads this process has, those of C libraries included. Raises OSError without a /proc."""
    return posix.stat("/proc/self/task").st_nlink - 2
