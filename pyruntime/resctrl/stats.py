"""What the kernel counts for a container's group of resctrl, in the shape in which `runc events` prints it.

Read beside runc:types/events.go:/^type IntelRdt/ and runc:libcontainer/intelrdt/intelrdt.go:/^func .*GetStats/.
"""

from __future__ import annotations

import posix

from pyruntime.linux import proc
from pyruntime.resctrl.groups import find, schemata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Of each resource: its name in resctrl and in the shape, and the files of info/NAME that are told.
_RESOURCES = (
    ("L3", "l3_cache", ("cbm_mask", "min_cbm_bits", "num_closids")),
    ("MB", "mem_bw", ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids")),
)
_MASK = "cbm_mask"  # the one that is no number
_COUNTERS = (("mbm_stats", ("mbm_total_bytes", "mbm_local_bytes")), ("cmt_stats", ("llc_occupancy",)))


def read_stats(entry: dict[str, Any]) -> dict[str, Any]:
    """What there is and what the group has of it; and what the container has used, if it has a monitoring group.

    Without one the counters are those of the whole group. One that the kernel cannot read now is left out.
    entry: as of groups.Group. Raises OSError: ENOENT if the group is gone; UnsupportedError if resctrl is.
    """
    root_path = find()
    path = f"{root_path}/{entry['group']}".rstrip("/")
    everything, own = schemata(root_path), schemata(path)
    told: dict[str, Any] = {}
    for resource, name, files in _RESOURCES:
        if resource in everything:
            told[f"{name}_info"] = _info(f"{root_path}/info/{resource}", files)
            told[f"{name}_schema_root"] = everything[resource]
            told[f"{name}_schema"] = own[resource]
    told["schemata"] = [*own.values()]
    monitor_path = f"{path}/mon_groups/{entry['monitor']}" if entry["monitor"] else path
    return told | _counters(monitor_path, _read(f"{root_path}/info/L3_MON/mon_features").split())


def _info(path: str, files: tuple[str, ...]) -> dict[str, Any]:
    """What is known of a resource; as in runc's JSON, without what is 0."""
    words = {file: _read(f"{path}/{file}").strip() for file in files}
    return {file: word if file == _MASK else int(word) for file, word in words.items() if word not in ("", "0")}


def _counters(path: str, features: list[str]) -> dict[str, Any]:
    """For each cache a member of a list: "mbm_stats" of the bandwidth, "cmt_stats" of the room in the cache."""
    found: dict[str, Any] = {}
    for name, files in _COUNTERS:
        if not set(files).isdisjoint(features):
            caches = [f"{path}/mon_data/{cache}" for cache in sorted(posix.listdir(f"{path}/mon_data"))]
            texts = [{file: _read(f"{cache}/{file}").strip() for file in files} for cache in caches]
            found[name] = [{file: int(text) for file, text in each.items() if text.isdecimal()} for each in texts]
    return found


def _read(path: str) -> str:
    """The text of a file; "" where the hardware does not have it."""
    try:
        return proc.read_file(path).decode()
    except FileNotFoundError:
        return ""
