"""Spec -> Steps for the contexts that SELinux shall see: of the program, of its session keyring, of the mounts.

Imported only for a config that has one of the keys (plan/rare.py), so that the others do not pay for it.

Read beside runc:libcontainer/standard_init_linux.go:/SetKeyLabel|SetExecLabel/ and, of the mounts,
runc:libcontainer/rootfs_linux.go:/mountLabel/ with FormatMountLabel of github.com/opencontainers/selinux.
"""

from __future__ import annotations

from pyruntime.errors import ConfigError
from pyruntime.linux import constants as c
from pyruntime.plan.mounts import DATA_MAX, MaskPath, MountFilesystem
from pyruntime.plan.namespaces import NewNamespace
from pyruntime.plan.step import ROOTFS, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import Spec

# What has contexts of its own for each file, which one for all would hide; runc leaves the same ones alone.
_LABELLED_BY_THE_KERNEL = ("proc", "sysfs")
# Takes no option `context`, but the attribute of a file.
_LABELLED_BY_ATTRIBUTE = ("mqueue",)


class LabelKeyring(Step):
    """`process.selinuxLabel` of the keys that the process makes until it executes something: of its session keyring."""

    phase = ROOTFS
    why = "the program could not use a keyring with the runtime's label"

    label: str

    def text(self) -> str:
        return f"label new keyrings {self.label}"


class LabelProcess(Step):
    """`process.selinuxLabel` (config.md#linux-process), in force from its execve on: launch/labels.py."""

    phase = ROOTFS
    why = "process.selinuxLabel asks for it"

    label: str

    def text(self) -> str:
        return f"label the program {self.label}"


class RenewIpc(Step):
    """Make the IPC namespace once more, which was made by the same system call as the user namespace.

    The directory of its message queues belongs to who made it: then to the host's root, now to the container's. runc
    makes it only now in any case.
    """

    phase = ROOTFS
    why = "nobody inside could label a directory that belongs to the host's root"

    def text(self) -> str:
        return "new ipc namespace"


class LabelMounts(Step):
    """`linux.mountLabel` (config-linux.md#mount-label): the mounts that can have it have it as an option already."""

    phase = ROOTFS
    why = "linux.mountLabel asks for it: the program may use files of its own label alone"

    label: str
    targets: tuple[str, ...]  # the mounts that take it as an attribute of their root directory

    def text(self) -> str:
        last = f", as an attribute {', '.join(self.targets)}" if self.targets else ""
        return f"label the mounts {self.label}{last}"


def process_steps(spec: Spec, *, new_keyring: bool) -> Iterator[Step]:
    """The label of what is executed, and of the session keyring if it is to get one."""
    label, where = spec["process"]["selinuxLabel"], "config.json#/process/selinuxLabel"
    if new_keyring:
        yield LabelKeyring(where, label)
    yield LabelProcess(where, label)


def label_mounts(steps: list[Step], label: str) -> None:
    """Add `label` to those of a start's steps that mount something new, and the step for what takes no such option.

    The kernel ignores the option where something is mounted that is mounted already: a bind, and a remount.
    Raises ConfigError for a label that can be no part of mount(2)'s options.
    """
    where = "config.json#/linux/mountLabel"
    if '"' in label:
        raise ConfigError("a double quote can't be part of a SELinux context", where=where)
    mounted = [step for step in steps if isinstance(step, MountFilesystem) and not step.flags & c.MS_REMOUNT]
    for step in mounted:
        if step.fstype not in (*_LABELLED_BY_THE_KERNEL, *_LABELLED_BY_ATTRIBUTE):
            step.data = _with_context(step.data, label, step.where)
    for mask in steps:
        if isinstance(mask, MaskPath):
            mask.data = _with_context(mask.data, label, mask.where)
    targets = tuple(step.target for step in mounted if step.fstype in _LABELLED_BY_ATTRIBUTE)
    first = [step.phase for step in steps].index(ROOTFS)
    last = max((steps.index(step) for step in mounted), default=first - 1)
    steps.insert(last + 1, LabelMounts(where, label, targets))
    if targets and {"user", "ipc"} <= {step.kind for step in steps if isinstance(step, NewNamespace)}:
        steps.insert(first, RenewIpc(where))


def _with_context(data: str, label: str, where: str) -> str:
    """The options of a mount with the label; one of its own is kept. Quoted, for a level may have commas."""
    options = data.split(",") if data else []
    if not any(option.startswith("context=") for option in options):
        options.append(f'context="{label}"')
    joined = ",".join(options)
    if len(joined.encode("utf-8", "surrogateescape")) >= DATA_MAX:
        raise ConfigError(f"with linux.mountLabel more than the {DATA_MAX - 1} bytes that mount(2) takes", where=where)
    return joined
