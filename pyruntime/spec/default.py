"""The Spec that `pyruntime spec` writes.

It is the one of `runc spec`, value for value and in the same order of keys. Read beside
runc:libcontainer/specconv/example.go.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.types import Mount, Spec

SPEC_VERSION = "1.3.0"  # of the runtime-spec that this runtime was written against
HOSTNAME = "runc"


def default_spec(rootless: bool = False) -> Spec:
    """A new Spec for an interactive `sh` in the directory `rootfs`; with `rootless`, one for a caller who is not root.

    The cgroup namespace is always there: runc leaves it out on cgroup v1, which this runtime does not serve.
    Companion: runc:libcontainer/specconv/example.go:/^func Example/.
    """
    capabilities = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    spec: Spec = {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": [*capabilities],
                "effective": [*capabilities],
                "permitted": [*capabilities],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": HOSTNAME,
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"},
                {"type": "network"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }
    if rootless:
        _make_rootless(spec)
    return spec


def _mounts() -> list[Mount]:
    rows: tuple[tuple[str, str, str, list[str]], ...] = (
        ("/proc", "proc", "proc", []),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
    )
    mounts: list[Mount] = []
    for destination, fstype, source, options in rows:
        mount: Mount = {"destination": destination, "type": fstype, "source": source}
        if options:
            mount["options"] = options
        mounts.append(mount)
    return mounts


def _make_rootless(spec: Spec) -> None:
    """Take out what only root may do, and map the caller to root. runc:specconv/example.go:/^func ToRootless/."""
    linux = spec["linux"]
    kept = [namespace for namespace in linux["namespaces"] if namespace["type"] not in ("network", "user")]
    spec["linux"] = {
        "uidMappings": [{"containerID": 0, "hostID": posix.geteuid(), "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": posix.getegid(), "size": 1}],
        "namespaces": [*kept, {"type": "user"}],
        "maskedPaths": linux["maskedPaths"],
        "readonlyPaths": linux["readonlyPaths"],
    }
    for mount in spec["mounts"]:
        if mount["destination"] == "/sys":
            # A new sysfs needs a network namespace of one's own.
            mount.update({"type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]})
        elif "options" in mount:
            # Group 5 is not mapped.
            mount["options"] = [option for option in mount["options"] if not option.startswith(("gid=", "uid="))]
