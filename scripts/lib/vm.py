"""A small virtual machine for the tests whose cgroup controllers this machine does not hand out.

User-mode Linux first: an ordinary program, it needs no KVM and boots in a second. Then QEMU, with the same disks:
the root (a copy-on-write view of scripts/vm-image's), the project's tree as a tar archive, and an empty disk that takes
what comes back. lib/guest-init is the other end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from scripts.lib.steps import CHECKOUT, clean_environment, die, need_packages

# What a test that needs one of these finds in the machine, if it does not find it here (tests/capabilities.py), besides
# its security module.
OFFERS = "vm root cgroup2 systemd cpu cpuset io memory misc pids rdma userns timens idmap CAP_SYS_RESOURCE".split()
NOT_SENT = (".git", "__pycache__", ".*_cache", ".hypothesis", ".venv", "*.egg-info", "bundles/debian/rootfs")
OUT_SIZE = 64 << 20
MEMORY = "2G"
TIMEOUT = int(os.environ.get("PYRUNTIME_VM_TIMEOUT", "1500"))


class Machine(NamedTuple):
    """A way to boot: "uml" with its program, or "qemu" with its program and a kernel.

    security: "apparmor" or "selinux", for no kernel enforces both.
    """

    kind: str
    program: Path
    kernel: Path | None = None
    security: str = "apparmor"

    def __str__(self) -> str:
        what = f"user-mode Linux ({self.program})" if self.kind == "uml" else f"QEMU ({self.kernel})"
        return f"{what} with SELinux" if self.security == "selinux" else what


def umls() -> Iterator[Machine]:
    """User-mode Linux: $PYRUNTIME_UML, a copy kept beside the checkout, or Debian's package."""
    chosen = os.environ.get("PYRUNTIME_UML")
    beside = CHECKOUT.parent / "shared/vm/linux.uml"
    packaged = shutil.which("linux.uml")
    for path in (chosen, beside, packaged):
        if path and os.access(path, os.X_OK):
            yield Machine("uml", Path(path).resolve())


def find_qemu() -> Machine | None:
    """QEMU with a kernel that has the NVMe driver and ext4 built in (Debian's "cloud" flavour): no initrd is made."""
    program = shutil.which(f"qemu-system-{os.uname().machine}")
    chosen = os.environ.get("PYRUNTIME_KERNEL")
    kernels = [Path(chosen)] if chosen else sorted(Path("/boot").glob("vmlinuz-*-cloud-*"))
    return Machine("qemu", Path(program), kernels[-1]) if program and kernels else None


def find() -> Machine | None:
    """The first machine of UML, QEMU that is here."""
    return next(umls(), None) or find_qemu()


def find_selinux() -> Machine | None:
    """The first machine that is here whose kernel has SELinux, as all of Debian's; and what compiles its policy."""
    qemu = find_qemu()
    found = [machine for machine in umls() if b"selinuxfs" in machine.program.read_bytes()] or ([qemu] if qemu else [])
    if not found or not need_packages("checkpolicy", what_for="the policy of SELinux in the test VM", optional=True):
        return None
    return found[0]._replace(security="selinux")


def find_or_install() -> Machine | None:
    """As `find`, and Debian's user-mode-linux is installed if that is all that is missing; None: cannot be had."""
    return find() or (find() if need_packages("user-mode-linux", what_for="the test VM", optional=True) else None)


def find_or_install_selinux() -> Machine | None:
    """As `find_selinux`, and Debian's user-mode-linux is installed if there is none."""
    what_for = "the test VM with SELinux"
    return find_selinux() or (
        find_selinux() if need_packages("user-mode-linux", what_for=what_for, optional=True) else None
    )


HOW_TO_GET_ONE = """\
no virtual machine to run them in. Any of these will do:
  PYRUNTIME_UML=/path/to/linux          a user-mode Linux with cgroup controllers
  apt-get install user-mode-linux       Debian's (an older one, without cpuset)
  apt-get install qemu-system-x86 linux-image-cloud-amd64"""


def image(packages: Sequence[str] = ()) -> Path:
    """The root disk, made now if it was not before; with some more packages of Debian's it is one of its own."""
    need_packages("mmdebstrap", "e2fsprogs", "debian-archive-keyring", what_for="making the VM's disk", optional=True)
    made = subprocess.run([CHECKOUT / "scripts/vm-image", *packages], stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        die("the VM's disk could not be made (scripts/vm-image)")
    return Path(made.stdout.strip())


def pack(command: str, disk: Path, extra: Sequence[Path] = ()) -> None:
    """The checkout, the command and some extra files as a disk: a tar archive."""
    with tempfile.NamedTemporaryFile("w", suffix=".command") as script, tarfile.open(disk, "w") as archive:
        script.write(command + "\n")
        script.flush()
        archive.add(CHECKOUT, ".", filter=sent)
        archive.add(script.name, ".vm-command")
        for path in extra:
            archive.add(path, path.name)


LOAD_POLICY = """\
mount -t selinuxfs selinuxfs /sys/fs/selinux && cat .vm-selinux-policy >/sys/fs/selinux/load || exit
echo 1 >/sys/fs/selinux/enforce"""


def selinux_policy(folder: Path) -> Path:
    """The policy that a machine with SELinux is to load."""
    policy = folder / ".vm-selinux-policy"
    source = Path(__file__).with_name("guest-selinux.conf")
    # MLS, for the categories of containers; and a version of the format that the kernel of Debian 12 takes.
    subprocess.run(["checkpolicy", "-M", "-U", "allow", "-c", "33", "-o", policy, source], check=True)
    return policy


def sent(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what a clean clone would not have; everything belongs to root over there."""
    if any(Path(entry.name).match(pattern) for pattern in NOT_SENT):
        return None
    entry.uid = entry.gid = 0
    return entry


def boot_command(
    machine: Machine, root: Path, tree: Path, out: Path, scratch: Path, cpus: int, *, systemd: bool
) -> list[str]:
    """The command line that boots guest-init on these three disks and shows its console on stdout."""
    guest = ["init=/guest-init", "rw", "quiet", "loglevel=0", "panic=-1", f"lsm=landlock,yama,{machine.security}"]
    guest += ["manager=systemd"] if systemd else []
    if machine.kind == "uml":
        disks = [f"ubd0={scratch}/cow,{root}", f"ubd1r={tree}", f"ubd2={out}"]
        console = ["con0=null,fd:1", "con=null", f"uml_dir={scratch}/", f"umid={scratch.name}"]
        size = [f"mem={MEMORY}", f"ncpus={cpus}", "seccomp=on"]
        names = ["root=/dev/ubda", "tree=/dev/ubdb", "out=/dev/ubdc"]
        return [str(machine.program), *size, *disks, *console, *guest, *names]
    command = [str(machine.program), "-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-smp", "1"]
    command += ["-no-reboot", "-nodefaults", "-nographic", "-serial", "stdio", "-nic", "none"]
    # One controller with three namespaces: several controllers would get their names in the order they are found.
    command += ["-device", "nvme,id=disks,serial=disks"]
    for number, (disk, options) in enumerate(((root, ",snapshot=on"), (tree, ",readonly=on"), (out, "")), start=1):
        command += ["-drive", f"file={disk},format=raw,if=none,id=d{number}{options}"]
        command += ["-device", f"nvme-ns,drive=d{number},bus=disks,nsid={number}"]
    names = ["root=/dev/nvme0n1", "rootwait", "tree=/dev/nvme0n2", "out=/dev/nvme0n3", "console=ttyS0"]
    return [*command, "-kernel", str(machine.kernel), "-append", " ".join([*guest, *names])]


def start(
    machine: Machine,
    root: Path,
    command: str,
    scratch: Path,
    output: IO[bytes],
    *,
    cpus: int = 1,
    extra: Sequence[Path] = (),
    systemd: bool = False,
) -> subprocess.Popen[bytes]:
    """Boot, run a shell command in a copy of the tree and power off; `scratch` keeps the disks meanwhile.

    systemd: it manages the machine, and the command is a service of its.
    """
    tree, out = scratch / "tree", scratch / "out"
    if machine.security == "selinux":
        extra = [*extra, selinux_policy(scratch)]
        command = f"{LOAD_POLICY}\n{command}"
    pack(command, tree, extra)
    with out.open("wb") as file:
        file.truncate(OUT_SIZE)
    boot = boot_command(machine, root, tree, out, scratch, cpus, systemd=systemd)
    environment = clean_environment({"TMPDIR": str(scratch)})
    return subprocess.Popen(
        boot, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes], scratch: Path, into: Path | None = None) -> int:
    """Wait for the machine; the command's exit status, or 125 if it did not get that far. `into` gets its /out."""
    try:
        process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        print(f"the VM was still running after {TIMEOUT} s (PYRUNTIME_VM_TIMEOUT)", file=sys.stderr)
    finally:
        stop(process)
    result = into or scratch / "result"
    result.mkdir(parents=True, exist_ok=True)
    unpacked = subprocess.run(["tar", "-xf", scratch / "out", "-C", result], stderr=subprocess.DEVNULL, check=False)
    status = result / "status"
    return int(status.read_text()) if unpacked.returncode == 0 and status.exists() else 125


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the machine and its helpers: they are a session of their own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for disks and UML's memory, in memory itself if there is room for it that may hold a program's pages."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and shutil.disk_usage(shm).free > 4 << 30 and not os.statvfs(shm).f_flag & os.ST_NOEXEC
    return tempfile.TemporaryDirectory(prefix="pyruntime-vm-", dir=shm if roomy else None)
