"""/proc/PID/mountinfo as data. See proc_pid_mountinfo(5)."""

from __future__ import annotations

import re
from typing import NamedTuple


class MountLine(NamedTuple):
    """One mount: `options` are its own flags, `super_options` the file system's, `propagation` is like {"shared:7"}."""

    root: str
    point: str
    options: set[str]
    propagation: set[str]
    fstype: str
    source: str
    super_options: set[str]

    @property
    def peer_groups(self) -> set[str]:
        """The kinds of propagation without numbers: "shared", "master", "unbindable"; none if private."""
        return {tag.partition(":")[0] for tag in self.propagation}


def parse(text: str) -> list[MountLine]:
    """All mounts of a mountinfo text, in its order (a later mount covers an earlier one at the same point)."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, root, point, options, *tags = before.split(" ")
        fstype, source, super_options = after.split(" ", 2)
        mounts.append(
            MountLine(
                unescape(root),
                unescape(point),
                set(options.split(",")),
                set(tags),
                fstype,
                unescape(source),
                set(super_options.split(",")),
            )
        )
    return mounts


def find(mounts: list[MountLine], point: str) -> MountLine:
    """The topmost mount at `point`."""
    found = [mount for mount in mounts if mount.point == point]
    assert found, f"nothing is mounted on {point}, only on {sorted(mount.point for mount in mounts)}"
    return found[-1]


def unescape(field: str) -> str:
    """A field without the kernel's octal escapes for blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
