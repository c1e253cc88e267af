"""`run` and `create`: bring a container up.

Read beside runc:run.go, runc:create.go, runc:utils_linux.go:/^func startContainer/.

Beyond runc: a bundle's directory in place of an ID (`run bundles/hello`; the ID is made from its name), and a command
in place of config.json's (`run bundles/hello -- echo hi`).
"""

from __future__ import annotations

import posix

from pyruntime import creation
from pyruntime.cli import emit
from pyruntime.errors import ExistsError
from pyruntime.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyruntime.cli.parse import Call

ID_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")
ID_LENGTH = 200  # of a generated ID before its number: a file name ends at 255
LONGEST_COUNT = 7  # digits of $LISTEN_FDS: there are never more descriptors than fs.nr_open allows
TRIES = 100  # for a generated ID, against other callers that take the same one at the same time


def run(call: Call) -> int:
    """Create and start a container; return its exit status, or 0 at once with --detach."""
    options = call.options
    extra = {name: options[name] for name in ("detach", "keep", "no_subreaper")}
    return _bring_up(call, creation.run, extra, tell_id=options["detach"])


def create(call: Call) -> int:
    """Create a container that waits for `start`."""
    return _bring_up(call, creation.create, {}, tell_id=True)


def _bring_up(call: Call, action: Callable[..., int | None], extra: dict[str, bool], *, tell_id: bool) -> int:
    """Call the library once with the ID given, or until one of the generated IDs is free."""
    settings, options = call.settings, call.options
    _keep_from_cleaners(settings["root"])
    bundle_path, id = bundle_and_id(call.operands[0], options["bundle"])
    keywords = {
        "root": settings["root"],
        "systemd_cgroup": settings["systemd_cgroup"],
        "rootless": settings["rootless"],
        "console_socket": options["console_socket"],
        "pidfd_socket": options["pidfd_socket"],
        "pid_file": options["pid_file"],
        "no_pivot": options["no_pivot"],
        "no_new_keyring": options["no_new_keyring"],
        "preserve_fds": options["preserve_fds"],
        "net": options["net"],
        "publish": options["publish"],
        "ip": options["ip"],
        "args": call.args,
        **_from_service_manager(),
        **extra,
    }
    if id is not None:
        return action(bundle_path, id, **keywords) or 0
    tries = 0
    for free in free_ids(bundle_path, settings["root"]):
        call.subject = free
        tries += 1
        try:
            status = action(bundle_path, free, **keywords) or 0
        except ExistsError:
            if tries == TRIES:
                raise
            continue  # taken since free_ids looked
        if tell_id:
            emit(free + "\n")  # the caller could not know it, and needs it for start, state and delete
        break
    return status


def _keep_from_cleaners(root: str) -> None:
    """Make a --root below $XDG_RUNTIME_DIR sticky: a cleaner of that directory passes such files over.

    See the XDG Base Directory Specification, and runc:main.go:/XDG_RUNTIME_DIR/. Raises OSError.
    """
    runtime_dir = posix.environ.get(b"XDG_RUNTIME_DIR")
    if not posix.geteuid() or not runtime_dir or root.encode("utf-8", "surrogateescape") != runtime_dir + b"/pyruntime":
        return
    try:
        posix.mkdir(root, 0o700)
    except FileExistsError:
        return  # made so by an earlier call
    posix.chmod(root, 0o1700)


def bundle_and_id(operand: str, bundle_option: str) -> tuple[str, str | None]:
    """What the operand names: (bundle, ID), with None where an ID has to be generated.

    With --bundle it is an ID, and so it is where the current directory is a bundle: `runc run NAME` means that. Else a
    path, or the name of a directory with a config.json, is a bundle. An ID can't hold a slash.
    """
    if bundle_option:
        return bundle_option, operand
    if "/" in operand or operand in (".", ".."):
        return operand, None
    if not _is_file("config.json") and _is_file(operand + "/config.json"):
        return operand, None
    return ".", operand


def _from_service_manager() -> dict[str, str | int]:
    """What a service manager has put into our environment for the container: sd_listen_fds(3), sd_notify(3).

    LISTEN_FDS counts where LISTEN_PID says that it is meant for us. runc: internal/third_party/systemd/activation
    """
    count = _variable(b"LISTEN_FDS") if _variable(b"LISTEN_PID") == str(posix.getpid()) else ""
    is_number = count.isascii() and count.isdigit() and len(count) <= LONGEST_COUNT
    return {
        "listen_fds": int(count) if is_number else 0,
        "listen_fdnames": _variable(b"LISTEN_FDNAMES"),
        "notify_socket": _variable(b"NOTIFY_SOCKET"),
    }


def _variable(name: bytes) -> str:
    return posix.environ.get(name, b"").decode("utf-8", "surrogateescape")


def free_ids(bundle_path: str, root: str) -> Iterator[str]:
    """IDs made from the bundle's name that no container has at this moment: hello, hello-2, hello-3 and so on."""
    stem = id_from_path(bundle_path)
    number = 1
    while True:
        id = stem if number == 1 else f"{stem}-{number}"
        number += 1
        if not files.exists(f"{root}/{id}"):
            yield id


def id_from_path(bundle_path: str) -> str:
    """The path's last name, with `-` for each character that an ID may not hold; "bundle" where nothing is left."""
    name = bundle_path.rstrip("/").rpartition("/")[2]
    if name in ("", ".", ".."):
        # The name is elsewhere: behind a chdir, which tells it.
        name = _real_name(bundle_path)
    return "".join(char if char in ID_LETTERS else "-" for char in name)[:ID_LENGTH].strip(".-") or "bundle"


def _real_name(path: str) -> str:
    """The last name of the directory that "." or ".." stands for; "" for the root or a directory that is not there."""
    fd = -1
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        return posix.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2]
    except OSError:
        return ""  # the library will say what is wrong with the bundle
    finally:
        if fd >= 0:
            posix.close(fd)


def _is_file(path: str) -> bool:
    try:
        return posix.stat(path).st_mode & 0o170000 == 0o100000
    except OSError:
        return False
