"""What this machine can do, found out by trying it: `missing(name)` says why a capability is not there, or "".

Tests name what they need (`@pytest.mark.needs("root", "memory")`, see conftest.py). A probe does a small part of
what the test would do and undoes it: a user ID proves nothing (root in a container), nor does a kernel's version.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.lib.steps import v2_mount

CONTROLLERS = ("cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma")


def attempt(*command: str, text: str = "") -> str:
    """Run a command with `text` as its input: "" if it exits with 0, else the last line it said."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return "" if done.returncode == 0 else last[0]


def root() -> str:
    """May make namespaces and mounts; a container's root without CAP_SYS_ADMIN may not."""
    with tempfile.TemporaryDirectory() as target:
        script = 'mount -t tmpfs none "$1"'
        return attempt("unshare", "--mount", "--pid", "--fork", "--uts", "--net", "sh", "-c", script, "sh", target)


def cgroup2() -> str:
    """May make a cgroup on the v2 hierarchy."""
    if not v2_mount():
        return "no cgroup2 is mounted"
    probe = Path(v2_mount(), f"probe-{os.getpid()}")
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return str(error)
    return ""


def controller(name: str) -> str:
    """The v2 hierarchy has the controller and hands it to a cgroup made at its top."""
    if gap := missing("cgroup2"):
        return gap
    top = Path(v2_mount())
    there = (top / "cgroup.controllers").read_text().split()
    if name not in there:
        return f"the cgroup v2 hierarchy at {top} has only: {' '.join(there) or 'no controllers'}"
    switch = top / "cgroup.subtree_control"
    try:
        # Never switched off again: that would take the limits from every container that runs meanwhile.
        switch.write_text(f"+{name}")
    except OSError as error:
        return f"+{name} > {switch}: {error.strerror}"
    return ""


def compiler() -> str:
    """gcc with the C library's and the kernel's headers."""
    source = "#include <stdio.h>\n#include <linux/mount.h>\nint main(void) { return 0; }\n"
    return attempt("gcc", "-x", "c", "-o", "/dev/null", "-", text=source)


def busybox() -> str:
    """A busybox that needs no library, for root filesystems without any."""
    path = shutil.which("busybox")
    if not path:
        return "no busybox is installed"
    dynamic = b"/ld-linux" in Path(path).read_bytes()[:4096] or b"/ld-musl" in Path(path).read_bytes()[:4096]
    return f"{path} is not static (Debian: busybox-static)" if dynamic else ""


def idmap() -> str:
    """A tmpfs can be mounted with an id mapping (mount_setattr(2), MOUNT_ATTR_IDMAP), asked of mount(8) as users do."""
    with tempfile.TemporaryDirectory() as target:
        script = (
            'mount -t tmpfs none "$1" && mkdir "$1/a" "$1/b" && mount --bind -o X-mount.idmap=b:0:1000:1 "$1/a" "$1/b"'
        )
        return attempt("unshare", "--mount", "sh", "-c", script, "sh", target)


def numa() -> str:
    """The kernel has memory policies (CONFIG_NUMA), and no filter around us hides the call."""
    if not Path("/proc/self/numa_maps").exists():
        return "this kernel was built without CONFIG_NUMA"
    from pyruntime.linux.call import raw_call
    from pyruntime.linux.constants import SYS_set_mempolicy

    number = -raw_call(SYS_set_mempolicy, 0, 0, 0)  # MPOL_DEFAULT, which is in force
    return os.strerror(number) if number else ""


def apparmor() -> str:
    """AppArmor is on, and a profile may be loaded."""
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if not enabled.exists() or enabled.read_text().strip() != "Y":
        return "AppArmor is not enabled in this kernel"
    loader = "/sys/kernel/security/apparmor/.replace"
    return "" if os.access(loader, os.W_OK) else f"no right to write {loader}"


def selinux() -> str:
    """SELinux is on, and lets us become what a container's program is by the policies of distributions."""
    if "selinuxfs" not in Path("/proc/filesystems").read_text():
        return "SELinux is not enabled in this kernel"
    ask = 'echo -n system_u:system_r:container_t:s0:c1,c2 > /proc/self/attr/exec && exec sh -c "$1"'
    return attempt("bash", "-c", ask, "sh", "grep -q :container_t: /proc/self/attr/current")


def realtime() -> str:
    """A process in a new cgroup may be scheduled in real time: not so under CONFIG_RT_GROUP_SCHED with cgroup v2."""
    if gap := missing("cgroup2"):
        return gap
    missing("cpu")  # hands the controller down if it can be had, as a runtime does
    probe = Path(v2_mount(), f"probe-realtime-{os.getpid()}")
    probe.mkdir()
    try:
        return attempt("sh", "-c", 'echo $$ > "$1/cgroup.procs" && exec chrt --rr 1 true', "sh", str(probe))
    finally:
        probe.rmdir()


def cni() -> str:
    """The standard plugins of CNI, where Debian puts them, and iptables, which they run."""
    if gap := attempt("iptables", "--version"):
        return gap
    return attempt("env", "CNI_COMMAND=VERSION", "/usr/lib/cni/bridge", text='{"cniVersion": "1.0.0"}')


def fuse() -> str:
    """May mount a file system of its own making."""
    with tempfile.TemporaryDirectory() as target:
        options = "fd=3,rootmode=40000,user_id=0,group_id=0"
        script = f'exec 3<>/dev/fuse && mount -i -t fuse.probe -o {options} probe "$1"'
        return attempt("unshare", "--mount", "sh", "-c", script, "sh", target)


def vm() -> str:
    """A machine of the test run's own (scripts/vm-run), whose global settings a test may change."""
    return "" if os.environ.get("PYRUNTIME_VM") else "not in the test VM that scripts/test boots"


def systemd() -> str:
    """systemd manages this machine, and makes a scope for us."""
    return attempt("systemd-run", "--quiet", "--scope", "true")


def effective_capability(name: str) -> str:
    """The tests hold a capability of capabilities(7), such as "CAP_SYS_RESOURCE"."""
    from pyruntime.linux.caps import CAPABILITIES

    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff:"))
    return "" if int(line.split()[1], 16) >> CAPABILITIES[name] & 1 else f"{name} is not effective"


PROBES: dict[str, Callable[[], str]] = {
    "root": root,
    "cgroup2": cgroup2,
    **{name: functools.partial(controller, name) for name in CONTROLLERS},
    "userns": functools.partial(attempt, "unshare", "--user", "--map-root-user", "true"),
    "timens": functools.partial(attempt, "unshare", "--time", "true"),
    "idmap": idmap,
    "numa": numa,
    "realtime": realtime,
    "apparmor": apparmor,
    "selinux": selinux,
    "gcc": compiler,
    # By the names that Debian's binutils and binutils-aarch64-linux-gnu have on every architecture.
    "as-x86_64": functools.partial(attempt, "x86_64-linux-gnu-as", "--version"),
    "as-aarch64": functools.partial(attempt, "aarch64-linux-gnu-as", "--version"),
    "qemu-aarch64": functools.partial(attempt, "qemu-aarch64-static", "--version"),  # Debian: qemu-user-static
    "busybox": busybox,
    "runc": functools.partial(attempt, "runc", "--version"),
    "crun": functools.partial(attempt, "crun", "--version"),
    **{name: functools.partial(attempt, name, "--version") for name in ("containerd", "podman", "docker")},
    "veth": functools.partial(attempt, "unshare", "--net", "ip", "link", "add", "type", "veth"),
    "cni": cni,
    "bridge": functools.partial(attempt, "unshare", "--net", "ip", "link", "add", "type", "bridge"),
    "nft": functools.partial(attempt, "unshare", "--net", "nft", "add", "table", "inet", "probe"),
    "libseccomp": functools.partial(attempt, sys.executable, "-c", "import ctypes; ctypes.CDLL('libseccomp.so.2')"),
    "keyrings": functools.partial(attempt, "cat", "/proc/keys"),
    "strace": functools.partial(attempt, "strace", "-o", "/dev/null", "true"),
    "fuse": fuse,
    "systemd": systemd,
    "vm": vm,
}


def known(name: str) -> bool:
    """Whether a test may ask for this capability."""
    return name in PROBES or name.startswith("CAP_")


@functools.cache
def missing(name: str) -> str:
    """Why this machine lacks a capability, or "" if it has it. Probed once."""
    probe = PROBES.get(name) or functools.partial(effective_capability, name)
    return probe()
