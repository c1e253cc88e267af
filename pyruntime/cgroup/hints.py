"""What a refused write to a cgroup file most likely means: the kernel has an errno for it, people need a sentence.

Imported only when a write has failed. No companion: runc shows the errno alone. Facts from cgroup-v2.rst and the
kernel's own checks (mm/memcontrol.c, kernel/sched/core.c, kernel/cgroup/cpuset.c, block/blk-throttle.c), tried out by
tests/cgroup/test_manager.py.
"""

from __future__ import annotations

import errno
import posix

# By file and errno: the cases in which the errno misleads.
_HINTS: dict[tuple[str, int], str] = {
    ("cpu.weight", errno.EINVAL): "a cgroup with cpu.idle = 1 has no weight: drop cpu.shares or cpu.idle",
    ("cpu.max", errno.EINVAL): "in microseconds: quota from 1000, period 1000 to 1000000, burst at most the quota",
    ("cpu.max.burst", errno.EINVAL): "burst is in microseconds and at most the quota",
    ("cpu.idle", errno.EINVAL): "idle is 0 or 1",
    ("cpu.idle", errno.ENOENT): "needs Linux 5.15 with CONFIG_FAIR_GROUP_SCHED",
    ("cpu.max.burst", errno.ENOENT): "needs Linux 5.14 with CONFIG_CFS_BANDWIDTH",
    ("cpu.max", errno.ENOENT): "the kernel was built without CONFIG_CFS_BANDWIDTH",
    ("cpuset.cpus", errno.EINVAL): "a list such as 0-3,7 of CPUs that exist; see /sys/devices/system/cpu/possible",
    ("cpuset.cpus", errno.ERANGE): "it names a CPU that this machine cannot have; see /sys/devices/system/cpu/possible",
    ("cpuset.mems", errno.EINVAL): "a list such as 0-1 of memory nodes; see /sys/devices/system/node/online",
    ("cpuset.mems", errno.ERANGE): "the list names a memory node that this machine cannot have",
    ("io.max", errno.ENODEV): "no such block device, or a partition: give the numbers of the whole disk (lsblk)",
    ("io.max", errno.ERANGE): "a rate of 0 removed the limit on cgroup v1; leave the entry out",
    ("io.weight", errno.ENOENT): "needs the BFQ scheduler or CONFIG_BLK_CGROUP_IOCOST",
    ("io.weight", errno.ENODEV): "no such block device, or a partition: give the numbers of the whole disk (lsblk)",
    ("io.weight", errno.EOPNOTSUPP): "io.cost is not enabled for this disk: see io.cost.qos of the root cgroup",
    ("io.bfq.weight", errno.ENODEV): "no such block device, or a partition: give the numbers of the whole disk (lsblk)",
    ("io.bfq.weight", errno.EOPNOTSUPP): "the disk does not use the BFQ scheduler: see /sys/block/*/queue/scheduler",
    ("io.bfq.weight", errno.EINVAL): "before Linux 5.4 the BFQ scheduler knows no weight a device",
    ("memory.swap.max", errno.ENOENT): "this kernel cannot limit swap: CONFIG_SWAP, or boot with swapaccount=1",
    ("memory.max", errno.EINVAL): "a number of bytes, or -1 for no limit",
    ("memory.low", errno.EINVAL): "a number of bytes, or -1 for no limit",
    ("memory.swap.max", errno.EINVAL): "a number of bytes, or -1 for no limit",
    ("pids.max", errno.EINVAL): "at most 4194304 (PID_MAX_LIMIT); -1 for no limit",
    ("rdma.max", errno.EINVAL): "no such RDMA device, or a number it does not take; see /sys/class/infiniband",
    ("rdma.max", errno.ENODEV): "no such RDMA device; see /sys/class/infiniband",
}

_ANY_FILE: dict[int, str] = {
    errno.EACCES: "only the owner of the cgroup may write it: root, or the user it was delegated to",
    errno.EPERM: "only the owner of the cgroup may write it: root, or the user it was delegated to",
    errno.EROFS: "the cgroup file system is mounted read-only here: inside a container?",
    errno.ENODEV: "the cgroup was removed meanwhile",
}


def write_hint(cgroup_path: str, file: str, value: str, number: int) -> str:
    """The likely cause of `number` (an errno) when `value` was written to `file` of the cgroup; "" if it is plain."""
    if hint := _HINTS.get((file, number)):
        return hint
    if number == errno.ENOENT:
        return _missing_file(cgroup_path, file)
    if number == errno.EINVAL and not value.strip():
        return "the value is empty"
    return _ANY_FILE.get(number, "")


def _missing_file(cgroup_path: str, file: str) -> str:
    """Why a file is not there: the page size, the kernel's age, or the controller."""
    controller = file.partition(".")[0]
    there = sorted(name for name in _names(cgroup_path) if name.startswith(f"{controller}."))
    if controller == "hugetlb" and there:
        sizes = sorted({name.split(".")[1] for name in there})
        return f"this kernel has huge pages of {', '.join(sizes)}"
    if there:
        return f"this kernel's {controller!r} controller has only {', '.join(there)}"
    return f"the controller {controller!r} is not enabled for {cgroup_path}"


def _names(path: str) -> list[str]:
    try:
        return posix.listdir(path)
    except OSError:
        return []
