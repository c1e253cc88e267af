"""The program's entry: make the process fit for a runtime, read the command line, call the verb, leave.

Hot: every start of a container passes here, so this module imports nothing that the six hot verbs do not need (see
architecture.md, rule 4). Help, usage errors and completion are click's (`cli.click_app`).

The installed command is a launcher of a few lines (`cli.launcher`) that calls `main`. Read beside runc:main.go.
"""

from __future__ import annotations

import posix
import sys

from pyruntime import report
from pyruntime.cli import emit
from pyruntime.cli.options import DEFAULT_ROOT
from pyruntime.cli.parse import Call, parse_globals, parse_verb
from pyruntime.errors import KernelError, UsageError
from pyruntime.linux.proc import in_first_user_namespace
from pyruntime.version import SPEC_VERSION, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def main() -> NoReturn:
    """Run the command line in `sys.argv` and end the process. Calls no atexit function and runs no finalizer.

    Ends by posix._exit: tearing down the interpreter costs a millisecond and nothing needs it.
    """
    call = Call()
    try:
        hold_standard_descriptors()
        distrust_environment()
        report.sinks.append(lambda level, message: _log(call, level, message))
        status = _run(call, sys.argv[1:])
    except BaseException as problem:
        status = _failed(call, problem)
    posix._exit(status)


def console_script() -> NoReturn:
    """`python -m pyruntime`, and the command that pip makes: start again as the launcher would.

    Under `-I` and `-S` neither PYTHON* variables, nor the current directory, nor a .pth file decide what a program that
    runs as root imports.
    """
    if not (sys.flags.isolated and sys.flags.no_site):
        from pyruntime.cli.launcher import FLAGS, launcher_code, library_path

        code = launcher_code(library_path())
        posix.execve(sys.executable, [sys.executable, FLAGS, "-c", code, *sys.argv[1:]], posix.environ)
    main()


def hold_standard_descriptors() -> None:
    """Open /dev/null on each of the descriptors 0 to 2 that the caller has closed.

    Otherwise the next file opened, a socket or the state, would become the container's stdin or stderr.
    """
    for fd in (0, 1, 2):
        try:
            posix.get_inheritable(fd)
        except OSError:
            posix.set_inheritable(posix.open("/dev/null", posix.O_RDWR), True)  # takes the lowest number free: fd


def distrust_environment() -> None:
    """Start again without the variables that make the dynamic loader load or do something else. See ld.so(8).

    The loader ignores them for setuid programs only; a runtime is started by sudo, systemd or a daemon, which may pass
    them on. The container's environment is config.json's alone, so it loses nothing.
    """
    for name in posix.environ:
        if name[:3] == b"LD_" or name == b"GLIBC_TUNABLES":
            break
    else:
        return
    kept = {name: value for name, value in posix.environ.items() if name[:3] != b"LD_" and name != b"GLIBC_TUNABLES"}
    posix.execve(sys.executable, sys.orig_argv, kept)


def _run(call: Call, argv: list[str]) -> int:
    """Do what `argv` asks for; return the exit status."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if b"_PYRUNTIME_COMPLETE" in posix.environ:
        return _help(call, argv)
    try:
        index = parse_globals(call, argv)
        _apply(call.settings, call)
        parse_verb(call, argv, index)
    except UsageError as error:
        return _help(call, argv, error)
    if call.settings["version"]:
        emit(f"pyruntime version {VERSION}\nspec: {SPEC_VERSION}\npython: {sys.version.split()[0]}\n")
        return 0
    if not call.verb:
        return _help(call, ["--help"])
    if call.options["help"]:
        return _help(call, argv)
    module, _, function = call.handler.partition(":")
    name = "pyruntime.cli." + module
    __import__(name)
    status: int = getattr(sys.modules[name], function)(call)
    return status


def _help(call: Call, argv: list[str], error: UsageError | None = None) -> int:
    from pyruntime.cli.help import show

    return show(call, argv, error)


def _apply(settings: dict[str, Any], call: Call) -> None:
    """Make the global options true: open --log, make --root absolute. Raises UsageError, KernelError."""
    report.debugging = settings["debug"]
    if settings["log"]:
        flags = posix.O_CREAT | posix.O_WRONLY | posix.O_APPEND | posix.O_SYNC | posix.O_CLOEXEC
        try:
            call.log_fd = posix.open(settings["log"], flags, 0o644)
        except OSError as error:
            raise KernelError(f"open({settings['log']!r})", error.errno or 0, where="--log") from error
    root_path = settings["root"] or _default_root()
    if root_path[0] != "/":
        try:
            root_path = f"{posix.getcwd()}/{root_path}"
        except OSError as error:
            hint = "the current directory was removed"
            raise KernelError("getcwd()", error.errno or 0, where="--root", hint=hint) from error
    if settings["root"] and _is_slash(root_path):
        raise UsageError("must not be /", where="--root")
    settings["root"] = root_path


def _default_root() -> str:
    """/run/pyruntime for root; for others below $XDG_RUNTIME_DIR, where they can write.

    Others are also those who are root of a user namespace only, unless $USER says that they want to be taken for root.
    runc:main.go, runc:rootless_linux.go:/^func shouldHonorXDGRuntimeDir/
    """
    runtime_dir = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
    if not runtime_dir:
        return DEFAULT_ROOT
    if posix.geteuid() == 0 and (in_first_user_namespace() or posix.environ.get(b"USER") == b"root"):
        return DEFAULT_ROOT
    return f"{runtime_dir}/pyruntime"


def _is_slash(path: str) -> bool:
    """Whether the path leads to the root directory; "delete" below it would be a bad surprise."""
    try:
        found, slash = posix.stat(path), posix.stat("/")
    except OSError:
        return False
    return found.st_ino == slash.st_ino and found.st_dev == slash.st_dev


def _log(call: Call, level: str, message: str) -> None:
    from pyruntime.cli.log import tell

    tell(call, level, message)


def _failed(call: Call, problem: BaseException) -> int:
    from pyruntime.cli.log import failed

    return failed(call, problem)


if __name__ == "__main__":
    console_script()
