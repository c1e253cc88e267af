"""A view of cgroup v2 alone, for scripts that compare runtimes on a host where v1 and v2 are mounted side by side."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from scripts.lib.steps import v2_mount

V2_ALONE = """
mount -t cgroup2 none /sys/fs/cgroup &&
mkdir /sys/fs/cgroup/runner && # a cgroup that holds processes hands no controllers to its children
echo $$ >/sys/fs/cgroup/runner/cgroup.procs &&
exec "$@"
"""


def with_v2_alone(script: str, arguments: list[str]) -> int | None:
    """On a hybrid host: the status of a script, run again in a cgroup that it sees as the whole of cgroup v2.

    Otherwise runc would be charged for a dozen v1 hierarchies, and crun does not start. The host's mounts stay as they
    are.
    """
    v2 = v2_mount()
    if v2 in ("", "/sys/fs/cgroup"):
        return None
    own = Path(v2, f"pyruntime-script-{os.getpid()}")
    own.mkdir()
    unshare = ["unshare", "--mount", "--cgroup", "--propagation", "private", "sh", "-c", V2_ALONE, "sh"]
    join = f'echo $$ >"{own}/cgroup.procs" && exec "$@"'
    try:
        return subprocess.run(["sh", "-c", join, "sh", *unshare, script, *arguments], check=False).returncode
    finally:
        for folder in sorted((path for path in own.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        own.rmdir()
