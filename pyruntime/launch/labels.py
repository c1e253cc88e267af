"""`process.apparmorProfile` and `selinuxLabel`: they are for the user's program, and not for the hop that executes it.

A process asks for a profile by writing to its file attr/exec, which counts for the next execve: aa_change_onexec(2),
setexeccon(3). What follows is told of AppArmor, and true of SELinux (selinux.py).
If the child asked, the hop would be confined, and the program only if the profile lets the hop execute it, by whatever
transition the profile has for that. So the hop must ask; and it must open the file itself, since the kernel refuses a
write through a descriptor from before an execve. For that it gets a descriptor of the directory attr, taken from the
host's /proc before the image can have a say (CVE-2019-16884). The descriptor is of a detached mount of just that
directory: there is no way out of it.

Imported before the child is cloned, and only if the plan has such a step.
Read beside runc:libcontainer/apparmor/apparmor_linux.go.
"""

from __future__ import annotations

import posix

from pyruntime.launch.perform import performs
from pyruntime.linux import constants as c
from pyruntime.linux import syscalls
from pyruntime.linux.call import Struct
from pyruntime.plan.attributes import ConfineByProfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.launch.join import Newcomer
    from pyruntime.launch.rootfs import Rootfs
    from pyruntime.launch.tape import Tape
    from pyruntime.plan.step import Step


class Label:
    """What the hop is to ask for: the text to write to the file `exec` of the directory attr, `directory_fd`."""

    __slots__ = ("directory_fd", "mark", "step", "text")

    def __init__(self, step: Step, directory_fd: int, text: bytes) -> None:
        self.step = step
        self.directory_fd = directory_fd
        self.text = text
        self.mark = 0  # of its rows: set when the plan is compiled

    def ask(self, tape: Tape) -> None:
        """Add the rows that ask for it."""
        tape.mark = self.mark
        opens = tape.call(c.SYS_openat, self.directory_fd, "exec", posix.O_WRONLY | posix.O_CLOEXEC)
        writes = tape.call(c.SYS_write, -1, Struct(self.text), len(self.text))
        opens.into = (writes, 0)
        tape.call(c.SYS_close, self.directory_fd)


@performs(ConfineByProfile, by_hop=True)
def confine(step: ConfineByProfile, side: Rootfs | Newcomer) -> None:
    """Take the directory while /proc is the host's. The younger path is AppArmor's own, the older one may be another's.

    runc:libcontainer/apparmor/apparmor_linux.go:/^func setProcAttr/
    """
    path = "/proc/self/attr"
    if "apparmor" in posix.listdir(path):
        path += "/apparmor"
    side.label = Label(step, open_attributes(side, path), b"exec " + step.profile.encode())


def open_attributes(side: Rootfs | Newcomer, path: str) -> int:
    """A detached mount of the directory `path` of /proc/self, by its number in the process that is to use it."""
    flags = c.OPEN_TREE_CLONE | c.OPEN_TREE_CLOEXEC
    if side.tape is None:
        return syscalls.open_tree(c.AT_FDCWD, path, flags)
    directory_fd = side.tape.reserve()  # that is another process's: what we open would be ours
    side.tape.open_as(directory_fd, side.tape.call(c.SYS_open_tree, c.AT_FDCWD, path, flags))
    return directory_fd
