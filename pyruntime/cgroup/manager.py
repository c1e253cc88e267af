"""A container's cgroup of the v2 hierarchy, once it is there: write and read its files, freeze, kill, remove.

A cgroup is a directory and its knobs are files in it (cgroup-v2.rst), so all of this is file work, without ctypes.
Making one is in cgroup/creation.py, what limits are written in launch/limits.py: the verbs that end a container (kill,
delete) need neither, only the path that the record keeps.

Read beside opencontainers/cgroups:fs2/fs2.go, :getallpids.go, :fs2/freezer.go, :utils.go:/^func RemovePath/.
"""

from __future__ import annotations

import errno
import posix
from time import monotonic, sleep

from pyruntime.errors import KernelError, StateError
from pyruntime.linux import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_REMOVE_SECONDS = 5.0  # how long killed processes may take to leave before a removal fails
_FREEZE_SECONDS = 10.0
_THAW_SECONDS = 1.0  # at once, unless a cgroup above is frozen
_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENODEV)  # removed before, or between open and read


class Cgroup:
    """One cgroup, by the absolute host path of its directory. Constructing it touches no file."""

    __slots__ = ("made", "path", "warnings")

    def __init__(self, path: str) -> None:
        self.path = path
        self.made: list[str] = []  # the directories that creation.create made, the topmost first
        self.warnings: list[str] = []  # what was accepted though it failed, for the caller to tell

    def exists(self) -> bool:
        """Whether the directory is there."""
        try:
            posix.stat(self.path)
        except OSError:
            return False
        return True

    def undo(self) -> None:
        """Take back a start that failed after creation.create: kill what is inside, remove the directories it made.

        A cgroup that was there before stays, but it was empty then, so whoever is inside came with this start.
        Raises KernelError if the container's own directory cannot be removed.
        """
        self.kill()
        self.remove_made()

    def remove_made(self) -> None:
        """Remove what creation.create made, unless somebody else has moved in. Raises KernelError as `remove` does."""
        if self.path in self.made:
            self.remove()
        for directory in reversed(self.made):
            try:
                posix.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                break  # another container has moved in meanwhile
        self.made.clear()

    def end(self) -> None:
        """Remove the cgroup with all that runs in it. Nothing does, as a rule: then nobody needs to be killed.

        Raises KernelError as `remove`.
        """
        try:
            posix.rmdir(self.path)
        except OSError:
            self.kill()
        self.remove()

    def make_room(self) -> None:
        """To be called when the limits are written: what keeps the cgroup for the container shall not count.

        Here nothing does; see cgroup/systemd.py.
        """

    def settle(self) -> None:
        """To be called when the container's process is inside: what kept the cgroup may go. Nothing does here."""

    def open_fd(self) -> int:
        """A descriptor of the directory, for CLONE_INTO_CGROUP and for attaching the device program."""
        try:
            return posix.open(self.path, _DIRECTORY)
        except OSError as error:
            raise KernelError(f"open({self.path!r}, O_DIRECTORY)", error.errno or errno.EIO) from None

    def read(self, file: str) -> str:
        """The content of one file of the cgroup. Raises OSError as open(2) and read(2) do."""
        return read_text(f"{self.path}/{file}")

    def files(self) -> list[str]:
        """The names of all files of the cgroup, and of the cgroups below. Raises OSError."""
        return posix.listdir(self.path)

    def write(self, file: str, value: str, where: str = "") -> None:
        """Write `value` into one file of the cgroup, line by line: the kernel takes one request a write.

        Raises KernelError with `where`, and a hint where the errno alone does not say what is wrong.
        Companion: opencontainers/cgroups:file.go:/^func WriteFileByLine/.
        """
        for line in [f"{line}\n" for line in value.removesuffix("\n").split("\n")] if "\n" in value else [value]:
            try:
                proc.write_file(f"{self.path}/{file}", line.encode(errors="surrogateescape"))
            except KernelError as error:
                from pyruntime.cgroup.hints import write_hint  # only a failure needs it

                error.where, error.hint = where, write_hint(self.path, file, line, error.errno or 0)
                raise

    def pids(self, recursive: bool = False) -> list[int]:
        """The processes inside, as seen from our PID namespace; with `recursive` those of the cgroups below, too.

        A cgroup that is gone has none. Companion: opencontainers/cgroups:getallpids.go:/^func GetAllPids/.
        """
        found: list[int] = []
        for directory in self._directories() if recursive else iter((self.path,)):
            try:
                text = read_text(f"{directory}/cgroup.procs")
            except OSError as error:
                if error.errno in _GONE:
                    continue
                if error.errno != errno.EOPNOTSUPP:  # a threaded cgroup has no list of processes
                    raise KernelError(f"read({directory + '/cgroup.procs'!r})", error.errno or errno.EIO) from None
                text = read_text(f"{directory}/cgroup.threads")
            found += (int(word) for word in text.split())
        return found

    def _directories(self) -> Iterator[str]:
        """The cgroup and those below it, the deepest last."""
        directories = [self.path]
        for directory in directories:
            yield directory
            directories += (f"{directory}/{name}" for name in _children(directory))

    def kill(self) -> None:
        """Send SIGKILL to every process inside and below, also to those that are being forked.

        Returns before they are gone: `remove` waits. See cgroup-v2.rst, cgroup.kill (Linux 5.14). A cgroup that is
        gone is no error. Companion: runc:libcontainer/init_linux.go:/^func signalAllProcesses/.
        """
        try:
            proc.write_file(f"{self.path}/cgroup.kill", b"1")
        except KernelError as error:
            if error.errno == errno.EOPNOTSUPP or (error.errno == errno.ENOENT and self.exists()):
                self._kill_one_by_one()  # a kernel without cgroup.kill, or a threaded cgroup
            elif error.errno not in _GONE:
                raise

    def _kill_one_by_one(self) -> None:
        """Again and again until a round finds nobody: a process may fork between the reading and the killing."""
        end = monotonic() + _REMOVE_SECONDS
        while (pids := self.pids(recursive=True)) and monotonic() < end:
            _signal_each(pids, 9)
            sleep(0.005)

    def signal(self, number: int) -> None:
        """Send a signal to every process inside and below; frozen meanwhile, so that none forks past it.

        A paused container stays paused: a signal that a process handles waits for the resume, one that it does not
        handle ends the process even so.
        """
        if number == 9:
            self.kill()
            return
        if not self.exists():
            return
        paused = "frozen 1" in self._read_or_empty("cgroup.events")
        try:
            if not paused:
                self.freeze()
            _signal_each(self.pids(recursive=True), number)
        finally:
            if not paused:
                self.thaw()

    def freeze(self) -> None:
        """Stop every process inside and below, and wait until all have stopped (cgroup-v2.rst, cgroup.freeze).

        Raises KernelError; StateError if some process does not stop (it hangs in the kernel, state D). The others have
        stopped even so. Companion: opencontainers/cgroups:fs2/freezer.go:/^func setFreezer/.
        """
        proc.write_file(f"{self.path}/cgroup.freeze", b"1")
        if not self.wait_for("frozen 1", _FREEZE_SECONDS):
            raise StateError(f"processes in {self.path} did not freeze within {_FREEZE_SECONDS:.0f} seconds")

    def thaw(self) -> None:
        """Let every process inside and below go on, and wait until they do. A cgroup that is gone is no error.

        Raises KernelError; StateError where a cgroup above keeps them frozen.
        """
        try:
            proc.write_file(f"{self.path}/cgroup.freeze", b"0")
        except KernelError as error:
            if error.errno in _GONE:
                return
            raise
        if not self.wait_for("frozen 0", _THAW_SECONDS):
            raise StateError(f"{self.path} stays frozen", hint="a cgroup above it is: see cgroup.freeze of each")

    def wait_for(self, event: str, seconds: float) -> bool:
        """Wait until cgroup.events holds the line `event`, such as "populated 0"; False if that takes too long.

        The kernel signals changes of this file (POLLPRI), so no time is lost. A cgroup that is gone: True.
        """
        from select import POLLPRI, poll  # waiting is rare

        end = monotonic() + seconds
        try:
            events_fd = posix.open(f"{self.path}/cgroup.events", posix.O_RDONLY | posix.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            poller = poll()
            poller.register(events_fd, POLLPRI)
            # The read comes before the poll, and each poll starts from what was read last: no change is missed.
            while event.encode() not in posix.pread(events_fd, 4096, 0).split(b"\n"):
                if (left := end - monotonic()) <= 0:
                    return False
                poller.poll(left * 1000)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        finally:
            posix.close(events_fd)
        return True

    def remove(self) -> None:
        """Remove the cgroup and those below it (the container may have made some); wait for killed processes.

        That it is gone already is no error. Raises KernelError, with EBUSY if processes stay.
        Companion: opencontainers/cgroups:utils.go:/^func RemovePath/.
        """
        try:
            posix.rmdir(self.path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                self._refuse_removal(error)
        self.wait_for("populated 0", _REMOVE_SECONDS)
        try:
            _remove_below(self.path)
            _rmdir_patiently(self.path)
        except OSError as error:
            self._refuse_removal(error)

    def _refuse_removal(self, error: OSError) -> None:
        number = error.errno or errno.EIO
        if number in _GONE or not self.exists():
            return  # a read-only mount says EROFS even of what is not there
        hint = ""
        if number == errno.EBUSY:
            pids = self.pids(recursive=True)
            hint = f"processes are inside: {', '.join(map(str, pids[:10]))}" if pids else "something still uses it"
        raise KernelError(f"rmdir({self.path!r})", number, hint=hint) from None

    def _read_or_empty(self, file: str) -> str:
        try:
            return self.read(file)
        except OSError:
            return ""


def _remove_below(path: str) -> None:
    """Remove all cgroups below `path`, by descriptors: a container can nest them deeper than a path may be long."""
    directory_fd = posix.open(path, _DIRECTORY)
    names: list[str] = []  # how we came from `path` to directory_fd
    try:
        while True:
            stuck = ""
            for name in _children(directory_fd):
                try:
                    posix.rmdir(name, dir_fd=directory_fd)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    stuck = name
            if stuck:
                below_fd = posix.open(stuck, _DIRECTORY, dir_fd=directory_fd)
                posix.close(directory_fd)
                directory_fd = below_fd
                names.append(stuck)
            elif names:
                above_fd = posix.open("..", _DIRECTORY, dir_fd=directory_fd)
                posix.close(directory_fd)
                directory_fd = above_fd
                _rmdir_patiently(names.pop(), directory_fd)
            else:
                return
    finally:
        posix.close(directory_fd)


def _rmdir_patiently(name: str, directory_fd: int | None = None) -> None:
    """rmdir(2), again for about a second while the kernel says EBUSY: it lets go of a dead process a little late."""
    delay = 0.001
    while True:
        try:
            posix.rmdir(name, dir_fd=directory_fd)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or delay > 0.5:
                raise
        sleep(delay)
        delay *= 2


def _children(directory: str | int) -> list[str]:
    """The names of the cgroups in a cgroup; none if it is gone."""
    try:
        with posix.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def _signal_each(pids: list[int], number: int) -> None:
    for pid in pids:
        if pid <= 0:
            continue  # of a PID namespace that we cannot see into: shown as 0, which kill(2) takes for our own group
        try:
            posix.kill(pid, number)
        except ProcessLookupError:
            continue


def read_text(path: str) -> str:
    """The content of a small kernel file. Raises OSError as open(2) and read(2) do."""
    return proc.read_file(path).decode(errors="surrogateescape")
