"""A bundle made for one test: busybox for a root filesystem, and the spec that `runc spec` writes for a config.json."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

Config = dict[str, Any]

ROOTFS_DIRECTORIES = ("bin", "dev", "etc", "mnt", "proc", "root", "sys", "tmp", "var")
CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def find_busybox() -> str | None:
    """The path of a busybox on this host, or None. Debian's busybox-static has what the tests need."""
    return shutil.which("busybox")


def default_config() -> Config:
    """What `runc spec` writes, but without a terminal, and with a cgroup namespace on every host.

    runc:libcontainer/specconv/example.go:/^func Example/
    """
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runc",
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k", source="shm"),
            mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }  # fmt: skip


def mount(destination: str, fstype: str = "", *options: str, source: str = "") -> Config:
    """One entry of `mounts` (config.md#mounts). The source of a file system without a device is its type."""
    entry: Config = {"destination": destination, "source": source or fstype}
    if fstype:
        entry["type"] = fstype
    if options:
        entry["options"] = list(options)
    return entry


class Bundle:
    """A directory with config.json and rootfs/, both the test's own to spoil.

    `config` is a plain dict, written to config.json by `write`; `process`, `linux` and `mounts` are its parts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        self.config = default_config()
        self.rootfs.mkdir(parents=True)
        for name in ROOTFS_DIRECTORIES:
            (self.rootfs / name).mkdir()
        self._install_busybox()

    @property
    def process(self) -> Config:
        process: Config = self.config["process"]
        return process

    @property
    def linux(self) -> Config:
        linux: Config = self.config["linux"]
        return linux

    @property
    def mounts(self) -> list[Config]:
        mounts: list[Config] = self.config["mounts"]
        return mounts

    def add_mount(self, destination: str, fstype: str = "", *options: str, source: str = "") -> None:
        """Append one entry to `mounts`."""
        self.mounts.append(mount(destination, fstype, *options, source=source))

    def add_bind(self, source: Path | str, destination: str, *options: str) -> None:
        """Append a bind mount of a host's path, recursive only if the options say "rbind"."""
        kind = () if "rbind" in options else ("bind",)
        self.add_mount(destination, "", *kind, *options, source=str(source))

    def set_namespace(self, kind: str, path: str | None = None) -> None:
        """Have a new namespace of this kind, or join the one at `path` (config-linux.md#namespaces)."""
        self.drop_namespace(kind)
        self.linux["namespaces"].append({"type": kind} | ({"path": path} if path else {}))

    def drop_namespace(self, kind: str) -> None:
        """Stay in the caller's namespace of this kind."""
        self.linux["namespaces"] = [entry for entry in self.linux["namespaces"] if entry["type"] != kind]

    def map_root_to(self, host_id: int, size: int = 65536) -> None:
        """Have a user namespace whose root is `host_id` outside, and give it the root filesystem."""
        self.set_namespace("user")
        mapping = {"containerID": 0, "hostID": host_id, "size": size}
        self.linux["uidMappings"], self.linux["gidMappings"] = [dict(mapping)], [dict(mapping)]
        for directory, _, files in os.walk(self.rootfs):
            for name in (".", *files):
                os.lchown(os.path.join(directory, name), host_id, host_id)

    def grant(self, *capabilities: str) -> None:
        """Add to the bounding, permitted and effective sets."""
        for name in ("bounding", "effective", "permitted"):
            held = self.process["capabilities"][name]
            held.extend(set(capabilities) - set(held))

    def script(self, text: str) -> None:
        """Have the container's program be a shell script."""
        self.process["args"] = ["/bin/sh", "-c", text]

    def add_file(self, name: str, content: str | bytes = "", mode: int = 0o644) -> Path:
        """Plant a file in the image. `name` is relative to the root filesystem; the file's parents are made."""
        path = self.rootfs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def add_program(self, name: str, program: Path) -> None:
        """Plant a copy of a host's executable."""
        self.add_file(name, program.read_bytes(), 0o755)

    def write(self) -> None:
        """Write config.json, with every marker in `config` that a test has set by now."""
        (self.path / "config.json").write_text(json.dumps(self.config, indent=1))

    def _install_busybox(self) -> None:
        busybox = find_busybox()
        if busybox is None:
            raise FileNotFoundError("no busybox on this host: install Debian's busybox-static")
        shutil.copy(busybox, self.rootfs / "bin" / "busybox")
        for applet in APPLETS:
            (self.rootfs / "bin" / applet).symlink_to("busybox")


# The applets that scripts of the tests name; `busybox --list` has 300, and each link costs a test's time.
APPLETS = (
    "cat", "chmod", "chown", "cp", "cut", "dd", "df", "dirname", "dmesg", "echo", "env", "false", "find", "grep",
    "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount", "mv", "nc", "od",
    "printf", "ps", "pwd", "readlink", "realpath", "rm", "sed", "seq", "setpriv", "sh", "sleep", "sort", "stat",
    "stty", "tail", "tee", "test", "touch", "tr", "true", "tty", "umount", "uname", "unshare", "usleep", "wc", "yes",
)  # fmt: skip
