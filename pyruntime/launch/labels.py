"""`process.apparmorProfile` and `selinuxLabel`: they are for the user's program, and not for the hop that executes it.

A process asks for a profile by writing to its file attr/exec, which counts for the next execve: aa_change_onexec(2),
setexeccon(3). What follows is told of AppArmor, and true of SELinux (selinux.py).
If the child asked, the hop would be confined, and the program only if the profile lets the hop execute it, by whatever
transition the profile has for that. So the hop must ask; and it must open the file itself, since the kernel refuses a
write through a descriptor from before an execve. For that it gets a descriptor of the directory attr, taken from the
host's /proc before the image can have a say (CVE-2019-16884). The descriptor is of a detached mount of just that
directory: there is no way out of it. A few instructions before those of the hop do the work and close it, only for a
container with a profile. They are hop/label/ARCHITECTURE.S, assembled; a test assembles them again and compares.

Imported before the child is cloned, and only if the plan has such a step.
Read beside runc:libcontainer/apparmor/apparmor_linux.go.
"""

from __future__ import annotations

import errno
import posix
from _struct import pack

from pyruntime.errors import KernelError, UnsupportedError
from pyruntime.launch.perform import performs
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.plan.attributes import ConfineByProfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.rootfs import Rootfs

# Machine of uname(2) -> the code up to the data at its end.
CODE = {
    "x86_64": bytes.fromhex(
        "8b3d7d000000488d35860000006a015ab8010100000f0585c0784289c389c7488d35720000008b15630000006a01580f0585c078"
        "2889dfe8410000008b3d41000000e8360000008b3d3e00000085ff7805e827000000b878004000ffe0482d00000200508b3d1d00"
        "00004889e66a045a6a01580f056a015f6a3c580f056a03580f05c3"
    ),
    "aarch64": bytes.fromhex(
        "2004001881040010220080d2080780d2010000d44002f837f603002ae103003082030018080880d2010000d48001f837e003162a"
        "280780d2010000d440020018010000d4400200184000f837010000d40908a0d2090f80f220011fd6008040d1e00f1ff820010018"
        "e1030091820080d2080880d2010000d4200080d2a80b80d2010000d4"
    ),
}


class Label:
    """What the hop is to ask for: the text to write to the file `exec` of the directory attr, `directory_fd`."""

    __slots__ = ("directory_fd", "text")

    def __init__(self, directory_fd: int, text: bytes) -> None:
        self.directory_fd = directory_fd
        self.text = text

    def prelude(self, channel_fd: int, *, waits: bool, machine: str = posix.uname().machine) -> bytes:
        """The code that comes before the hop's own (exeseal.image).

        It reports a failure to the parent's channel. A hop that waits for `start` has no other use for the channel, and
        closes it then. Raises UnsupportedError on a machine that it has not been written for.
        """
        if machine not in CODE:
            raise UnsupportedError(
                f"no last hop for the architecture {machine}", hint=f"written for: {', '.join(CODE)}"
            )
        done_fd = channel_fd if waits else -1
        data = pack("<iiiI5s", self.directory_fd, channel_fd, done_fd, len(self.text), b"exec")
        return CODE[machine] + data + self.text

    def hand_over(self, channel_fd: int) -> None:
        """Have the two descriptors survive the execve of the hop."""
        posix.set_inheritable(self.directory_fd, True)
        posix.set_inheritable(channel_fd, True)


@performs(ConfineByProfile)
def confine(step: ConfineByProfile, rootfs: Rootfs) -> None:
    """Take the directory while /proc is the host's. The younger path is AppArmor's own, the older one may be another's.

    runc:libcontainer/apparmor/apparmor_linux.go:/^func setProcAttr/
    """
    flags = c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC
    try:
        directory_fd = syscalls.open_tree(c.AT_FDCWD, "/proc/self/attr/apparmor", flags)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        directory_fd = syscalls.open_tree(c.AT_FDCWD, "/proc/self/attr", flags)
    rootfs.label = Label(directory_fd, b"exec " + step.profile.encode())
