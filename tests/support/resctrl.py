"""Stands in for the kernel's resctrl, as no test machine has a CPU with Intel RDT: a file system in user space.

    python -m tests.support.resctrl POINT SUBTYPE      serves until killed, in a mount namespace of its own

What makes resctrl unlike a plain directory is here, by the kernel's Documentation/filesystems/resctrl.rst and its
fs/resctrl: mkdir makes a group with files in it and fails when the processor has no more, rmdir removes a group that
has files and members, a write is judged and the reason of a refusal put into info/last_cmd_status, a process is in one
group and monitored in that one only. Left out: that children of members are members, CPUs, modes of sharing; and the
counters do not count.

The protocol is fuse(4), of which linux/fuse.h has the structures; a library for it would be another dependency.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyruntime.cli.launcher import FLAGS, launcher_code
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls

CACHES = (0, 1)
GROUPS = 4  # with the default one
MONITORS = 4
STEP = 10  # per cent of the bandwidth
DEFAULTS = {"MB": 100, "L3": 0xFFFFF}
INFO = {
    "L3": {"cbm_mask": "fffff\n", "min_cbm_bits": "1\n", "num_closids": f"{GROUPS}\n"},
    "L3_MON": {"mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n", "num_rmids": "9\n"},
    "MB": {"bandwidth_gran": f"{STEP}\n", "min_bandwidth": f"{STEP}\n", "num_closids": f"{GROUPS}\n"},
}


COUNTERS = {"llc_occupancy": "4096\n", "mbm_total_bytes": "8192\n", "mbm_local_bytes": "Unavailable\n"}
LESS = {"llc_occupancy": "2048\n"}  # in a monitoring group
CACHE_COUNTERS = [f"mon_L3_{cache:02}" for cache in CACHES]


class Refused(OSError):
    """A request that resctrl refuses, and why in its words."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(number, words)
        self.number = number
        self.words = words


class Group:
    """A group, or a monitoring group, which has a group it is `below`."""

    def __init__(self, below: Group | None = None) -> None:
        self.below = below
        self.parts = {resource: dict.fromkeys(CACHES, part) for resource, part in DEFAULTS.items()}
        self.monitors: dict[str, Group] = {}

    def schemata(self) -> str:
        """The file's text, aligned as the kernel does it."""
        text = ""
        for resource, parts in self.parts.items():
            form = "d" if resource == "MB" else "x"
            text += f"{resource:>6}:" + ";".join(f"{cache}={part:{form}}" for cache, part in parts.items()) + "\n"
        return text

    def limit(self, text: str) -> None:
        """What a write to `schemata` does: all of it or nothing."""
        if not text.endswith("\n"):
            raise Refused(errno.EINVAL)
        new = {resource: dict(parts) for resource, parts in self.parts.items()}
        for line in text.splitlines():
            named, colon, rest = line.partition(":")
            resource = named.strip()
            if not colon:
                raise Refused(errno.EINVAL, "Missing ':'")
            if resource not in new:
                raise Refused(errno.EINVAL, f"Unknown or unsupported resource name '{resource}'")
            for pair in rest.split(";"):
                cache, equals, part = pair.partition("=")
                if not equals or not cache.isdecimal():
                    raise Refused(errno.EINVAL, "Missing '=' or non-numeric domain")
                if int(cache) not in CACHES:
                    raise Refused(errno.EINVAL)
                new[resource][int(cache)] = read_part(resource, part)
        self.parts = new


def read_part(resource: str, text: str) -> int:
    """A number as the hardware takes it."""
    try:
        part = int(text, 10 if resource == "MB" else 16)
    except ValueError:
        raise Refused(errno.EINVAL, f"Invalid value '{text}'") from None
    if resource == "MB":
        if not STEP <= part <= 100:
            raise Refused(errno.EINVAL, f"MB value {part} out of range [{STEP},100]")
        return -(-part // STEP) * STEP
    if not 0 < part <= DEFAULTS[resource]:
        raise Refused(errno.EINVAL, "Mask out of range")
    if "0" in f"{part:b}".strip("0"):
        raise Refused(errno.EINVAL, f"The mask {part:x} has non-consecutive 1-bits")
    return part


class Resctrl:
    """The tree, by paths such as "gold/tasks"."""

    def __init__(self) -> None:
        self.groups = {"": Group()}
        self.members: dict[int, Group] = {}  # who is in none of them is in the default one
        self.monitored: dict[int, Group] = {}
        self.status = "ok"

    def find(self, path: str) -> Group | None:
        """The group whose directory `path` is."""
        name, _, rest = path.rpartition("mon_groups/")
        if path != rest:
            group = self.groups.get(name.rstrip("/"))
            return group.monitors.get(rest) if group else None
        return self.groups.get(path)

    def listing(self, path: str) -> list[str] | None:
        """The names in a directory; None if it is none."""
        if group := self.find(path):
            names = ["cpus", "mon_data", "tasks"]
            names += [] if group.below else ["schemata", "mon_groups"]
            return [*names, "info", *filter(None, self.groups)] if path == "" else names
        above, _, name = path.rpartition("/")
        if name == "mon_groups" and above in self.groups:
            return [*self.groups[above].monitors]
        if name == "mon_data" and self.find(above):
            return CACHE_COUNTERS
        if name in CACHE_COUNTERS and above.endswith("mon_data"):
            return [*COUNTERS]
        if path == "info":
            return [*INFO, "last_cmd_status"]
        return [*INFO[name]] if above == "info" and name in INFO else None

    def text(self, path: str) -> str | None:
        """The content of a file; None if it is none."""
        above, _, name = path.rpartition("/")
        if path == "info/last_cmd_status":
            return f"{self.status}\n"
        if above.rpartition("/")[2] in CACHE_COUNTERS:
            return {**COUNTERS, **(LESS if "mon_groups/" in above else {})}.get(name)
        if above.startswith("info/"):
            return INFO[above.removeprefix("info/")].get(name)
        group = self.find(above)
        if group is None or name not in (self.listing(above) or ()):
            return None
        return {"tasks": self.tasks(group), "schemata": group.schemata(), "cpus": "0\n"}.get(name)

    def tasks(self, group: Group) -> str:
        """The members that live, a line each."""
        members = self.monitored if group.below else self.members
        pids = [pid for pid, theirs in members.items() if theirs is group]
        return "".join(f"{pid}\n" for pid in pids if Path(f"/proc/{pid}").exists())

    def write(self, path: str, data: bytes) -> None:
        """A write(2) to a file."""
        above, _, name = path.rpartition("/")
        group = self.find(above)
        if group is None:
            raise Refused(errno.ENOENT)
        if name == "schemata":
            group.limit(data.decode())
        elif name == "tasks":
            self.join(group, data)
        else:
            raise Refused(errno.EACCES)

    def join(self, group: Group, data: bytes) -> None:
        """Move a process; who leaves a group is no more monitored in it."""
        pid = int(data)
        if not Path(f"/proc/{pid}").exists():
            raise Refused(errno.ESRCH, f"No task {pid}")
        if group.below:
            if self.members.get(pid, self.groups[""]) is not group.below:
                raise Refused(errno.EINVAL, "Can't move task to different control group")
            self.monitored[pid] = group
        else:
            self.members[pid] = group
            self.monitored.pop(pid, None)

    def mkdir(self, path: str) -> None:
        """A new group, or a monitoring group."""
        above, _, name = path.rpartition("/")
        count = sum(1 + len(group.monitors) for group in self.groups.values())
        if path == name:
            if len(self.groups) == GROUPS:
                raise Refused(errno.ENOSPC, "Out of CLOSIDs")
            self.groups[name] = Group()
        elif above.rpartition("/")[2] == "mon_groups" and self.listing(above) is not None:
            if count >= GROUPS + MONITORS:
                raise Refused(errno.ENOSPC, "Out of RMIDs")
            owner = self.groups[above.removesuffix("mon_groups").rstrip("/")]
            owner.monitors[name] = Group(owner)
        else:
            raise Refused(errno.EPERM)

    def rmdir(self, path: str) -> None:
        """Remove a group; its members go to the one above or to the default one."""
        group = self.find(path)
        if group is None or path == "":
            raise Refused(errno.EPERM)
        gone = [group, *group.monitors.values()]
        for members in (self.members, self.monitored):
            for pid in [pid for pid, theirs in members.items() if theirs in gone]:
                del members[pid]
        if group.below:
            del group.below.monitors[path.rpartition("/")[2]]
        else:
            del self.groups[path]


class Server:
    """fuse(4) on top of it. A node is a path that was looked up; nothing is cached by the kernel."""

    def __init__(self, fuse_fd: int) -> None:
        self.fuse_fd = fuse_fd
        self.tree = Resctrl()
        self.paths = {1: ""}

    def serve(self) -> None:
        """Answer until the file system is unmounted."""
        while True:
            try:
                request = os.read(self.fuse_fd, 1 << 18)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno == errno.ENOENT:  # interrupted before it was read
                    continue
                raise
            operation, unique, node = struct.unpack_from("<4xIQQ", request)
            answer = getattr(self, _OPERATIONS.get(operation, "unknown"))
            if operation in _UNANSWERED:
                continue
            try:
                number, data = 0, answer(self.paths.get(node, "?"), node, request[40:])
            except Refused as refused:
                number, data = refused.number, b""
                self.tree.status = refused.words or "ok"
            os.write(self.fuse_fd, struct.pack("<IiQ", 16 + len(data), -number, unique) + data)

    def init(self, _path: str, _node: int, body: bytes) -> bytes:
        readahead = struct.unpack_from("<I", body, 8)[0]
        return struct.pack("<IIIIHHIIHH32x", 7, 31, readahead, 0, 16, 12, 1 << 16, 1, 0, 0)

    def _attributes(self, path: str, node: int) -> bytes:
        if self.tree.listing(path) is not None:
            mode = stat.S_IFDIR | 0o755
        elif self.tree.text(path) is not None:
            mode = stat.S_IFREG | 0o644
        else:
            raise Refused(errno.ENOENT)
        return struct.pack("<QQQQQQIIIIIIIIII", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _entry(self, path: str) -> bytes:
        node = next((node for node, theirs in self.paths.items() if theirs == path), len(self.paths) + 1)
        attributes = self._attributes(path, node)
        self.paths[node] = path
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + attributes

    def lookup(self, path: str, _node: int, body: bytes) -> bytes:
        return self._entry(inside(path, body))

    def getattr(self, path: str, node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(path, node)

    def mkdir(self, path: str, _node: int, body: bytes) -> bytes:
        made = inside(path, body[8:])
        self.tree.mkdir(made)
        return self._entry(made)

    def rmdir(self, path: str, _node: int, body: bytes) -> bytes:
        self.tree.rmdir(inside(path, body))
        return b""

    def open(self, _path: str, _node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, _DIRECT_IO, 0)

    def read(self, path: str, _node: int, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<8xQI", body)
        return (self.tree.text(path) or "").encode()[offset : offset + size]

    def readdir(self, path: str, _node: int, body: bytes) -> bytes:
        offset, data = struct.unpack_from("<8xQ", body)[0], b""
        for index, name in enumerate((self.tree.listing(path) or [])[offset:], offset + 1):
            entry = struct.pack("<QQII", 99, index, len(name), 0) + name.encode()
            data += entry + bytes(-len(entry) % 8)
        return data

    def write(self, path: str, _node: int, body: bytes) -> bytes:
        size = struct.unpack_from("<16xI", body)[0]
        self.tree.write(path, body[40 : 40 + size])
        self.tree.status = "ok"
        return struct.pack("<II", size, 0)

    def nothing(self, _path: str, _node: int, _body: bytes) -> bytes:
        return b""

    def unknown(self, _path: str, _node: int, _body: bytes) -> bytes:
        raise Refused(errno.ENOSYS)


_DIRECT_IO = 1  # FOPEN_DIRECT_IO: reads and writes arrive as they are made
_UNANSWERED = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
_OPERATIONS = {
    26: "init",
    1: "lookup",
    3: "getattr",
    4: "getattr",
    9: "mkdir",
    11: "rmdir",
    14: "open",
    15: "read",
    16: "write",
    27: "open",
    28: "readdir",
    18: "nothing",
    29: "nothing",
    25: "nothing",
}


def inside(path: str, body: bytes) -> str:
    """The path of the name that a request ends with."""
    return f"{path}/{body.split(bytes(1))[0].decode()}".lstrip("/")


def main(point: str, subtype: str) -> None:
    """Mount, say so, and serve."""
    syscalls.unshare(c.CLONE_NEWNS)
    syscalls.mount("none", "/", "none", c.MS_REC | c.MS_PRIVATE)
    fuse_fd = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={fuse_fd},rootmode=40000,user_id=0,group_id=0,allow_other"
    syscalls.mount("resctrl", point, f"fuse.{subtype}", c.MS_NOSUID | c.MS_NODEV, data)
    print("mounted", flush=True)
    Server(fuse_fd).serve()
    signal.pause()  # unmounted, but the mount namespace may still be entered


@contextmanager
def mounted(point: Path, subtype: str) -> Iterator[int]:
    """The stand-in at `point`, which only the process whose PID this gives sees, and who enters its mount namespace."""
    command = [sys.executable, "-m", "tests.support.resctrl", str(point), subtype]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "mounted\n"
            yield server.pid
        finally:
            server.kill()


def entering(pid: int, subtype: str) -> str:
    """Python that makes a command one of the mount namespace of `pid`, where `subtype` is taken for resctrl."""
    return f"""
import posix
from pyruntime.resctrl import groups
from pyruntime.linux import syscalls
syscalls.setns(posix.open("/proc/{pid}/ns/mnt", posix.O_CLOEXEC), 0)
groups.FSTYPE = "fuse.{subtype}"
"""


def launcher(path: Path, library: Path, code: str) -> Path:
    """Write a command that is pyruntime once `code` has run."""
    main_line = "from pyruntime.__main__ import main\n"
    path.write_text(f"#!{sys.executable} {FLAGS}\n{launcher_code(str(library)).replace(main_line, code + main_line)}")
    path.chmod(0o755)
    return path


if __name__ == "__main__":
    main(*sys.argv[1:])
