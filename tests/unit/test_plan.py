"""Spec -> Plan: what is done, in which order, and where in config.json it was asked for. Needs no root."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyruntime.cli.launcher import FLAGS
from pyruntime.errors import ConfigError, Error, UnsupportedError
from pyruntime.linux import constants as c
from pyruntime.plan import mounts as plan_mounts
from pyruntime.plan.build import build
from pyruntime.plan.hooks import KINDS, Hook
from pyruntime.plan.mounts import BindMount, MountFilesystem, ParsedOptions, PivotRoot
from pyruntime.plan.network import select
from pyruntime.plan.numbers import members
from pyruntime.plan.resctrl import FollowIntoGroup, group_steps
from pyruntime.plan.roottree import EnterTree, EnterTreeOf, LeaveMounts
from pyruntime.plan.scope import CreateScope
from pyruntime.plan.step import PHASES, Plan, Step
from pyruntime.spec.default import default_spec

LIBRARY = str(Path(__file__).resolve().parent.parent.parent)
Config = dict[str, Any]


def config() -> Config:
    """The default spec as a plain dict, to be edited."""
    spec: Any = default_spec()
    return copy.deepcopy(spec)


def plan(spec: Config, cgroup: str = "/web", **options: Any) -> Plan:
    return build(spec, "/bundle", "web", cgroup, **options)  # type: ignore[arg-type]


def lines(of: Plan) -> list[str]:
    """The plan as a person reads it, without the places."""
    return [f"{step.phase}: {step.text()}" for step in of]


DEFAULT_PLAN = """
cgroup: create cgroup /web
cgroup: devices: deny all but allow b *:* m, c *:* m, c 1:3 rwm, c 1:5 rwm, c 1:7 rwm, c 1:8 rwm, c 1:9 rwm, \
c 5:0 rwm, c 5:2 rwm, c 10:200 rwm, c 136:* rwm
namespaces: new pid namespace
namespaces: new network namespace
namespaces: new ipc namespace
namespaces: new uts namespace
namespaces: new mount namespace
namespaces: new cgroup namespace
parent: limit RLIMIT_NOFILE to 1024, at most 1024
rootfs: join the new session keyring _ses.web
rootfs: set lo up
rootfs: set the host name to runc
rootfs: make every mount MS_REC|MS_SLAVE
rootfs: bind /bundle/rootfs onto itself, with what is mounted below
rootfs: mount proc on /proc -
rootfs: mount tmpfs on /dev MS_NOSUID|MS_STRICTATIME with mode=755,size=65536k
rootfs: mount devpts on /dev/pts MS_NOSUID|MS_NOEXEC with newinstance,ptmxmode=0666,mode=0620,gid=5
rootfs: mount tmpfs on /dev/shm MS_NOSUID|MS_NODEV|MS_NOEXEC with mode=1777,size=65536k
rootfs: mount mqueue on /dev/mqueue MS_NOSUID|MS_NODEV|MS_NOEXEC
rootfs: mount sysfs on /sys MS_RDONLY|MS_NOSUID|MS_NODEV|MS_NOEXEC
rootfs: mount the container's cgroup on /sys/fs/cgroup MS_RDONLY|MS_NOSUID|MS_NODEV|MS_NOEXEC|MS_RELATIME
rootfs: make /dev/null c 1:3 mode 0666 owner 0:0
rootfs: make /dev/zero c 1:5 mode 0666 owner 0:0
rootfs: make /dev/full c 1:7 mode 0666 owner 0:0
rootfs: make /dev/random c 1:8 mode 0666 owner 0:0
rootfs: make /dev/urandom c 1:9 mode 0666 owner 0:0
rootfs: make /dev/tty c 5:0 mode 0666 owner 0:0
rootfs: link in /dev: fd -> /proc/self/fd, stdin -> /proc/self/fd/0, stdout -> /proc/self/fd/1, \
stderr -> /proc/self/fd/2, core -> /proc/kcore, ptmx -> pts/ptmx
rootfs: open a terminal, bind it to /dev/console
rootfs: make sure that / is a directory
rootfs: make the root mount read-only
rootfs: make /proc/bus read-only, if it exists
rootfs: make /proc/fs read-only, if it exists
rootfs: make /proc/irq read-only, if it exists
rootfs: make /proc/sys read-only, if it exists
rootfs: make /proc/sysrq-trigger read-only, if it exists
rootfs: hide /proc/acpi, if it exists
rootfs: hide /proc/asound, if it exists
rootfs: hide /proc/kcore, if it exists
rootfs: hide /proc/keys, if it exists
rootfs: hide /proc/latency_stats, if it exists
rootfs: hide /proc/timer_list, if it exists
rootfs: hide /proc/timer_stats, if it exists
rootfs: hide /proc/sched_debug, if it exists
rootfs: hide /sys/firmware, if it exists
rootfs: hide /proc/scsi, if it exists
rootfs: pivot_root into the root file system
process: set the umask to 0022
process: set no_new_privs
process: bound the capabilities to CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE
process: become 0:0, enter /
process: capabilities: effective CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE; permitted CAP_KILL, \
CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE; inheritable none; ambient none
process: execute sh
"""


def test_the_default_spec() -> None:
    assert lines(plan(config())) == DEFAULT_PLAN.strip().splitlines()


def rich_config() -> Config:
    """A config in which every kind of step occurs."""
    spec = config()
    process, linux = spec["process"], spec["linux"]
    spec["domainname"] = "example"
    process["cwd"] = "/work"
    process["consoleSize"] = {"height": 25, "width": 80}
    process["oomScoreAdj"] = -500
    process["scheduler"] = {"policy": "SCHED_RR", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    process["apparmorProfile"] = "docker-default"
    process["selinuxLabel"] = "system_u:system_r:t"
    process["user"] = {"uid": 1000, "gid": 100, "umask": 0o077, "additionalGids": [5, 6]}
    process["args"] = ["/bin/server", "--port", "80"]
    process["capabilities"]["inheritable"] = ["CAP_KILL"]
    process["capabilities"]["ambient"] = ["CAP_KILL", "CAP_OF_THE_FUTURE"]
    linux["namespaces"][1]["path"] = "/run/netns/blue"
    linux["namespaces"] += [{"type": "user"}, {"type": "time"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux["gidMappings"] = [
        {"containerID": 0, "hostID": 100000, "size": 1},
        {"containerID": 1, "hostID": 7, "size": 9},
    ]
    linux["timeOffsets"] = {"boottime": {"secs": 7}, "monotonic": {"secs": -1, "nanosecs": 5}}
    linux["sysctl"] = {"net.ipv4.ip_forward": "1", "net.ipv4.conf.a/1.forwarding": "0"}
    linux["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 1, "gid": 2},
        {"path": "/dev/null", "type": "u", "major": 1, "minor": 3},
        {"path": "/dev/pipe", "type": "p"},
    ]
    linux["resources"] |= {"memory": {"limit": 4096}, "pids": {"limit": 10}, "cpu": {"cpus": "0"}}
    linux["cgroupsPath"] = "/group/web"
    spec["mounts"][6]["options"].remove("ro")
    linux["rootfsPropagation"] = "shared"
    linux["personality"] = {"domain": "LINUX32"}
    spec["hooks"] = {
        "poststop": [{"path": "/bin/clear"}],
        "startContainer": [{"path": "/sbin/ldconfig"}],
        "createContainer": [{"path": "/bin/mounts", "args": ["mounts", "-v"], "timeout": 3}],
        "createRuntime": [{"path": "/bin/net", "env": ["A=1"]}, {"path": "/bin/net2"}],
        "poststart": [{"path": "/bin/tell"}],
        "prestart": [{"path": "/bin/first"}],
    }
    linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0-1,3", "flags": ["MPOL_F_STATIC_NODES"]}
    linux["mountLabel"] = "system_u:object_r:t"
    linux["intelRdt"] = {
        "closID": "gold",
        "l3CacheSchema": "L3:0=7f0;1=1f",
        "memBwSchema": "MB:0=20",
        "schemata": ["L2:0=f", "MB:1=70"],
        "enableMonitoring": True,
    }
    linux["netDevices"] = {"eth1": {"name": "lan%d"}, "ib~0": {}}
    linux["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW"}]}
    spec["mounts"] += [
        {"destination": "/data", "source": "data", "options": ["rbind", "ro", "rro", "rnosuid", "rslave"]},
        {"destination": "tmp", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup", "size=1m"]},
        {"destination": "/own", "source": "/srv", "options": ["bind", "idmap"]},
        {
            "destination": "/mapped",
            "source": "/srv/tree",
            "options": ["rbind", "ridmap"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
            "gidMappings": [{"containerID": 5, "hostID": 7, "size": 1}],
        },
    ]
    return spec


RICH_PLAN = """
resctrl config.json#/linux/intelRdt: wait for the lock of resctrl
resctrl config.json#/linux/intelRdt/closID: use the resctrl group gold, made if it is not there
resctrl config.json#/linux/intelRdt/l3CacheSchema: limit the resctrl group to L3:0=7f0;1=1f
resctrl config.json#/linux/intelRdt/memBwSchema: limit the resctrl group to MB:0=20
resctrl config.json#/linux/intelRdt/schemata/0: limit the resctrl group to L2:0=f
resctrl config.json#/linux/intelRdt/schemata/1: limit the resctrl group to MB:1=70
resctrl config.json#/linux/intelRdt/enableMonitoring: make the monitoring group web
cgroup config.json#/linux/cgroupsPath: create cgroup /group/web
cgroup config.json#/linux/resources/pids/limit: write '10' to pids.max
cgroup config.json#/linux/resources/memory/limit: write '4096' to memory.max
cgroup config.json#/linux/resources/cpu/cpus: write '0' to cpuset.cpus
cgroup config.json#/mounts/6: give the cgroup, and its files that the kernel lets a user have, to the host's user 101000
namespaces config.json#/linux/namespaces/1/path: enter the network namespace /run/netns/blue
namespaces config.json#/linux/namespaces/6: new user namespace
namespaces config.json#/linux/namespaces/7: new time namespace
namespaces config.json#/linux/uidMappings: map uid 0..65535 to 100000 and gid 0..0 to 100000, gid 1..9 to 7
namespaces config.json#/linux/timeOffsets: offset monotonic by -1 s 5 ns, boottime by 7 s 0 ns
namespaces config.json#/mounts/9: map the owners of /srv: uid 0..65535 to 100000 and gid 0..0 to 100000, 1..9 to 7
namespaces config.json#/mounts/10: map the owners of /srv/tree and below: uid 0..9 to 1000 and gid 5..5 to 7
parent config.json#/process/oomScoreAdj: set oom_score_adj to -500
parent config.json#/process/scheduler: schedule by SCHED_RR, priority 7, SCHED_FLAG_RESET_ON_FORK
parent config.json#/process/ioPriority: set the I/O priority to IOPRIO_CLASS_BE, 6
parent config.json#/linux/intelRdt: put the process into the resctrl group gold, \
and there into the monitoring group web
rootfs config.json#/linux/mountLabel: new ipc namespace
rootfs config.json#/process/selinuxLabel: label new keyrings system_u:system_r:t
rootfs config.json#/process/selinuxLabel: label the program system_u:system_r:t
rootfs config.json#/linux/netDevices/eth1: move the network device eth1 into the container as lan%d, \
with its global addresses, set up
rootfs config.json#/linux/netDevices/ib~00: move the network device ib~0 into the container, \
with its global addresses, set up
rootfs config.json#/domainname: set the NIS domain name to example
rootfs config.json#/linux/sysctl/net.ipv4.ip_forward: write '1' to /proc/sys/net/ipv4/ip_forward
rootfs config.json#/linux/sysctl/net.ipv4.conf.a~11.forwarding: write '0' to /proc/sys/net/ipv4/conf/a.1/forwarding
rootfs config.json#/linux/rootfsPropagation: make the mount at / MS_SHARED
rootfs config.json#/mounts/7: bind /bundle/data on /data MS_RDONLY|MS_BIND|MS_REC, then MS_REC|MS_SLAVE, \
then for the whole tree rro rnosuid
rootfs config.json#/mounts/8: mount tmpfs on /tmp MS_RDONLY with size=1m,context="system_u:object_r:t", \
filled with what it hides
rootfs config.json#/linux/mountLabel: label the mounts system_u:object_r:t, as an attribute /dev/mqueue
rootfs config.json#/linux/devices/0: bind the host's /dev/fuse c 10:229 mode 0600 owner 1:2
rootfs config.json#/linux/devices/1: bind the host's /dev/null c 1:3 mode 0666 owner 0:0
rootfs config.json#/linux/devices/2: make /dev/pipe p mode 0666 owner 0:0
rootfs config.json#/process/terminal: open a terminal, bind it to /dev/console, 80 by 25
rootfs config.json#/process/cwd: make sure that /work is a directory
rootfs config.json#/hooks/prestart/0: run the prestart hook /bin/first
rootfs config.json#/hooks/createRuntime/0: run the createRuntime hook /bin/net
rootfs config.json#/hooks/createRuntime/1: run the createRuntime hook /bin/net2
rootfs config.json#/hooks/createContainer/0: run the createContainer hook /bin/mounts -v, for at most 3 s
rootfs config.json#/mounts/8: remount /tmp read-only
rootfs config.json#/linux/rootfsPropagation: make the new root MS_SHARED
process config.json#/linux/memoryPolicy: take memory by MPOL_BIND|MPOL_F_STATIC_NODES of the nodes 0,1,3
process config.json#/linux/personality/domain: set the execution domain LINUX32
process config.json#/process/user/umask: set the umask to 0077
process config.json#/process/user: become 1000:100 with 5, 6, enter /work
process config.json#/linux/seccomp: load a seccomp filter: SCMP_ACT_ERRNO but for 1 system calls
process config.json#/hooks/startContainer/0: run the startContainer hook /sbin/ldconfig
process config.json#/process/args: execute /bin/server --port 80
started config.json#/hooks/poststart/0: run the poststart hook /bin/tell
stopped config.json#/hooks/poststop/0: run the poststop hook /bin/clear
"""


def test_what_else_a_config_can_ask_for() -> None:
    found = [f"{step.phase} {step.where}: {step.text()}" for step in plan(rich_config(), "/group/web")]
    expected = RICH_PLAN.strip().splitlines()
    assert [line for line in expected if line not in found] == []
    assert [line for line in found if line in expected] == expected, "another order"
    # A device of config.json takes the place of the default one.
    assert sum("/dev/null" in line for line in found) == 1


def test_phases_come_in_their_order() -> None:
    phases = [PHASES.index(step.phase) for step in plan(rich_config(), network=select("bridge", [], "", {}))]
    assert phases == sorted(phases)
    assert set(phases) == set(range(len(PHASES)))


def kinds(of: Plan) -> list[str]:
    return [type(step).__name__ for step in of]


@pytest.mark.parametrize(
    ("first", "then", "reason"),
    [
        ("RootPropagation", "BindRoot", "a mount event would reach the host"),
        ("MoveNetDevice", "AwaitNetwork", "either must be there for the sysctls"),
        ("AwaitNetwork", "WriteSysctl", "sysctls may be about the interface"),
        ("BindRoot", "MountFilesystem", "mounts below would be covered"),
        ("BindMount", "CreateDevice", "a mount over /dev would cover the node"),
        ("MountFilesystem", "ReadonlyRoot", "mount points could not be made any more"),
        ("LinkDevices", "RemountReadonly", "the links could not be written"),
        ("MakeWorkingDirectory", "ReadonlyRoot", "the directory could not be made"),
        ("CreateDevice", "MaskPath", "a mask on a device would be covered"),
        ("MaskPath", "PivotRoot", "the host's /proc and /dev/null are gone afterwards"),
        ("WriteSysctl", "MountFilesystem", "the container's /proc may be faked"),
        ("LabelKeyring", "JoinSessionKeyring", "it has the label that it is made with"),
        ("RenewIpc", "WriteSysctl", "the limits of the one before go with it"),
        ("RenewIpc", "MountFilesystem", "the message queues are those of the mounter's namespace"),
        ("MountFilesystem", "LabelMounts", "what it labels has to be there"),
        ("LabelMounts", "PivotRoot", "paths are looked up before"),
        ("PivotRoot", "SharedRoot", "pivot_root refuses a shared root"),
        ("LimitBounding", "BecomeUser", "dropping from the bounding set needs CAP_SETPCAP"),
        ("BecomeUser", "SetCapabilities", "setuid clears the sets"),
        ("SetCapabilities", "Execute", "execve comes last"),
        ("BindMount", "RuntimeHook", "the mounts are part of the environment that it finds"),
        ("CreateDevice", "RuntimeHook", "and so are the devices"),
        ("RuntimeHook", "ContainerHook", "runtime.md says so"),
        ("ContainerHook", "RemountReadonly", "it may write where the container may not"),
        ("ContainerHook", "PivotRoot", "its program is the host's"),
        ("SetCapabilities", "StartHook", "it is a program of the image, with no more rights than the container's own"),
        ("StartHook", "Execute", "runtime.md says so"),
    ],
)
def test_what_must_come_before_what(first: str, then: str, reason: str) -> None:
    """Each for its own reason, so that a new order which is right in the other respects shows what it breaks."""
    order = kinds(plan(rich_config(), network=select("bridge", [], "", {})))
    last_of_first = len(order) - 1 - order[::-1].index(first)
    assert last_of_first < order.index(then), reason


def test_options_of_the_command_line() -> None:
    default, other = lines(plan(config())), lines(plan(config(), no_pivot=True, no_new_keyring=True))
    assert [line for line in other if line not in default] == ["rootfs: move the root mount over / and chroot"]
    assert [line for line in default if line not in other] == [
        "rootfs: join the new session keyring _ses.web",
        "rootfs: pivot_root into the root file system",
    ]


def test_without_a_process_what_waits_has_no_rights_and_nothing_to_execute() -> None:
    spec = config()
    del spec["process"]
    before = copy.deepcopy(spec)
    assert lines(plan(spec))[-5:] == [
        "process: set the umask to 0022",
        "process: bound the capabilities to none",
        "process: become 0:0, enter /",
        "process: capabilities: effective none; permitted none; inheritable none; ambient none",
        "process: execute nothing: there is no process",
    ]
    assert spec == before


def test_a_rootfs_elsewhere() -> None:
    spec = config()
    spec["root"] = {"path": "/srv/image"}
    found = lines(plan(spec))
    assert "rootfs: bind /srv/image onto itself, with what is mounted below" in found
    assert "rootfs: make the root mount read-only" not in found


@pytest.mark.parametrize("destination", ["/dev", "dev", "/dev/"])
@pytest.mark.parametrize("how", [{"type": "bind"}, {"options": ["rbind"]}, {"options": ["bind"], "type": "none"}])
def test_a_bind_over_dev_brings_its_own_nodes(destination: str, how: Config) -> None:
    spec = config()
    spec["mounts"][1] = {"destination": destination, "source": "/dev", **how}
    assert not {"CreateDevice", "LinkDevices"} & set(kinds(plan(spec)))


@pytest.mark.parametrize("kind", ["cgroup", "network"])
def test_a_namespace_that_is_not_new(kind: str) -> None:
    """Without a network namespace `lo` is the host's; without a cgroup namespace the whole hierarchy is shown."""
    spec = config()
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != kind]
    gone = set(lines(plan(config()))) - set(lines(plan(spec)))
    assert f"namespaces: new {kind} namespace" in gone
    if kind == "network":
        assert "rootfs: set lo up" in gone
    else:
        assert any("mount the container's cgroup" in line for line in gone)


# features.md A, "mount options". What each does to the flags of mount(2): + sets, - clears.
FLAG_OPTIONS = """
async -SYNCHRONOUS          atime -NOATIME            bind +BIND               defaults
dev -NODEV                  diratime -NODIRATIME      dirsync +DIRSYNC         exec -NOEXEC
mand +MANDLOCK              noatime +NOATIME          nodev +NODEV             nodiratime +NODIRATIME
noexec +NOEXEC              nomand -MANDLOCK          norelatime -RELATIME     nostrictatime -STRICTATIME
nosuid +NOSUID              rbind +BIND+REC           relatime +RELATIME       remount +REMOUNT
ro +RDONLY                  rw -RDONLY                strictatime +STRICTATIME suid -NOSUID
sync +SYNCHRONOUS           iversion +I_VERSION       noiversion -I_VERSION    lazytime +LAZYTIME
nolazytime -LAZYTIME        loud -SILENT              silent +SILENT           symfollow -NOSYMFOLLOW
nosymfollow +NOSYMFOLLOW
"""
# What each does to the attributes of mount_setattr(2).
ATTRIBUTE_OPTIONS = """
rro +RDONLY        rrw -RDONLY        rsuid -NOSUID      rnosuid +NOSUID     rdev -NODEV      rnodev +NODEV
rexec -NOEXEC      rnoexec +NOEXEC    rdiratime -NODIRATIME                  rnodiratime +NODIRATIME
rsymfollow -NOSYMFOLLOW               rnosymfollow +NOSYMFOLLOW
ratime +RELATIME-_ATIME               rnoatime +NOATIME-_ATIME
rrelatime +RELATIME-_ATIME            rnorelatime +STRICTATIME-_ATIME
rstrictatime +STRICTATIME-_ATIME      rnostrictatime +RELATIME-_ATIME
"""
PROPAGATION_OPTIONS = "private rprivate shared rshared slave rslave unbindable runbindable".split()


def table(text: str, prefix: str) -> dict[str, tuple[int, int]]:
    """Option -> (set, clear), from one of the tables above."""
    found: dict[str, tuple[int, int]] = {}
    option = ""
    for word in text.split():
        if word[0] not in "+-":
            option = word
            found[option] = 0, 0
            continue
        on = off = 0
        for change in word.replace("+", " +").replace("-", " -").split():
            value = getattr(c, prefix + change[1:])
            on, off = (on | value, off) if change[0] == "+" else (on, off | value)
        found[option] = on, off
    return found


FLAG_TABLE = table(FLAG_OPTIONS, "MS_")
ATTRIBUTE_TABLE = table(ATTRIBUTE_OPTIONS, "MOUNT_ATTR_")


def sorted_out(*options: str) -> dict[str, Any]:
    """What is not as it is without options."""
    parsed, empty = ParsedOptions([*options], "config.json#/mounts/0"), ParsedOptions([], "")
    names = ParsedOptions.__slots__
    return {name: getattr(parsed, name) for name in names if getattr(parsed, name) != getattr(empty, name)}


def without_zeros(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (0, (0, 0))}


@pytest.mark.parametrize("option", FLAG_TABLE)
def test_a_flag(option: str) -> None:
    on, off = FLAG_TABLE[option]
    assert sorted_out(option) == without_zeros(flags=on, clear=off)


@pytest.mark.parametrize("option", ATTRIBUTE_TABLE)
def test_a_recursive_attribute(option: str) -> None:
    assert sorted_out(option) == without_zeros(recursive=ATTRIBUTE_TABLE[option])


@pytest.mark.parametrize("option", PROPAGATION_OPTIONS)
def test_a_propagation(option: str) -> None:
    kind = getattr(c, "MS_" + option.removeprefix("r").upper())
    assert sorted_out(option) == {"propagation": (kind | (c.MS_REC if option[0] == "r" else 0),)}


def test_no_option_is_unknown_to_this_test() -> None:
    assert plan_mounts.OPTIONS.keys() == FLAG_TABLE.keys()
    assert plan_mounts.RECURSIVE.keys() == ATTRIBUTE_TABLE.keys()
    assert sorted(plan_mounts.PROPAGATION) == sorted(PROPAGATION_OPTIONS)


@pytest.mark.parametrize(
    "option", ["mode=755", "acl", "RO", "ro=recursive", "x-mount.mkdir", "", "ü=1", "lowerdir=/a:/b"]
)
def test_the_rest_goes_to_the_file_system(option: str) -> None:
    assert sorted_out("ro", option, "size=1m") == {"flags": c.MS_RDONLY, "data": f"{option},size=1m"}


def test_tmpcopyup_is_an_extension() -> None:
    assert sorted_out("tmpcopyup") == {"copy_up": True}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("ro rw", {"clear": c.MS_RDONLY}),
        ("rw ro", {"flags": c.MS_RDONLY}),
        ("ro rw ro nosuid", {"flags": c.MS_RDONLY | c.MS_NOSUID}),
        ("noatime atime", {"clear": c.MS_NOATIME}),
        ("rro rrw", {"recursive": (0, c.MOUNT_ATTR_RDONLY)}),
        ("rrw rro", {"recursive": (c.MOUNT_ATTR_RDONLY, 0)}),
        ("rnoatime rstrictatime", {"recursive": (c.MOUNT_ATTR_STRICTATIME, c.MOUNT_ATTR__ATIME)}),
        ("rstrictatime rrelatime", {"recursive": (c.MOUNT_ATTR_RELATIME, c.MOUNT_ATTR__ATIME)}),
        ("rnoatime rro", {"recursive": (c.MOUNT_ATTR_NOATIME | c.MOUNT_ATTR_RDONLY, c.MOUNT_ATTR__ATIME)}),
        ("rnodiratime rnoatime rdiratime", {
            "recursive": (c.MOUNT_ATTR_NOATIME, c.MOUNT_ATTR__ATIME | c.MOUNT_ATTR_NODIRATIME),
        }),
        ("private rshared", {"propagation": (c.MS_PRIVATE, c.MS_SHARED | c.MS_REC)}),
        ("rbind bind", {"flags": c.MS_BIND | c.MS_REC}),
    ],
)  # fmt: skip
def test_the_last_one_wins(options: str, expected: Config) -> None:
    assert sorted_out(*options.split()) == expected


@pytest.mark.parametrize("entry", [{"type": "tmpfs"}, {"source": "/src", "options": ["bind"]}, {"type": "cgroup"}])
def test_options_reach_the_step(entry: Config) -> None:
    spec = config()
    more = ["ro", "nosuid", "rnoexec", "rslave"]
    spec["mounts"] = [{"destination": "/x", **entry, "options": [*entry.get("options", []), *more]}]
    step: Any = next(step for step in plan(spec) if step.where == "config.json#/mounts/0")
    assert step.flags & ~c.MS_BIND == c.MS_RDONLY | c.MS_NOSUID
    assert step.recursive == (c.MOUNT_ATTR_NOEXEC, 0)
    assert step.propagation == (c.MS_SLAVE | c.MS_REC,)
    assert step.text().endswith(", then MS_REC|MS_SLAVE, then for the whole tree rnoexec")


@pytest.mark.parametrize("options", ["rro rnosuid rdev", "rrelatime", "rstrictatime rnodiratime", "rnoatime rrw", ""])
def test_recursive_attributes_are_told_one_by_one(options: str) -> None:
    spec = config()
    spec["mounts"] = [{"destination": "/x", "type": "tmpfs", "options": options.split()}]
    text = next(step for step in plan(spec) if isinstance(step, MountFilesystem)).text()
    assert set(text.partition(", then for the whole tree ")[2].split()) == set(options.split())


def test_a_relative_source_is_the_bundles() -> None:
    spec = config()
    spec["mounts"] = [
        {"destination": "/a", "source": "data/a", "options": ["bind"]},
        {"destination": "/b", "source": "/data/b", "type": "bind"},
    ]
    binds = [step for step in plan(spec) if isinstance(step, BindMount)]
    assert [(step.source, step.target) for step in binds] == [("/bundle/data/a", "/a"), ("/data/b", "/b")]
    assert [step.flags for step in binds] == [c.MS_BIND, c.MS_BIND]


MOUNTS = "config.json#/mounts/7"


@pytest.mark.parametrize(
    ("mount", "kind", "where"),
    [
        ({"source": "/s", "options": ["bind", "size=1"]}, ConfigError, f"{MOUNTS}/options"),
        ({"source": "/s", "options": ["bind", "tmpcopyup"]}, ConfigError, f"{MOUNTS}/options"),
        ({"options": ["bind"]}, ConfigError, f"{MOUNTS}/source"),
        ({"type": "bind"}, ConfigError, f"{MOUNTS}/source"),
        ({"source": "/s"}, ConfigError, f"{MOUNTS}/type"),
        ({"type": "proc", "options": ["ro", "tmpcopyup"]}, ConfigError, f"{MOUNTS}/options"),
    ],
)
def test_a_mount_that_cannot_be(mount: Config, kind: type[Error], where: str) -> None:
    spec = config()
    spec["mounts"].append({"destination": "/x", **mount})
    with pytest.raises(kind) as caught:
        plan(spec)
    assert caught.value.where == where


def without_mount_namespace() -> Config:
    spec = config()
    spec["linux"]["namespaces"] = [{"type": "pid"}]
    return spec


def test_without_a_mount_namespace_the_root_is_a_tree_of_its_own() -> None:
    """Every other step on the root comes between: before, it would be done to the host, and after, it can't be."""
    kinds = [type(step) for step in plan(without_mount_namespace())]
    built = [index for index, kind in enumerate(kinds) if kind.__module__ == "pyruntime.plan.mounts"]
    assert [kinds.index(LeaveMounts), kinds.index(EnterTree)] == [min(built) - 1, max(built) + 1]
    assert PivotRoot not in kinds


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda spec: spec["linux"].update(rootfsPropagation="shared"), "config.json#/linux/rootfsPropagation"),
        (lambda spec: spec["mounts"][1].update(options=["runbindable"]), "config.json#/mounts/1/options"),
        (lambda spec: spec["linux"]["namespaces"].append({"type": "user"}), "config.json#/linux/namespaces/1"),
    ],
)
def test_what_needs_a_mount_namespace(change: Callable[[Config], None], where: str) -> None:
    spec = without_mount_namespace()
    change(spec)
    with pytest.raises(ConfigError, match="needs a mount namespace") as caught:
        plan(spec)
    assert caught.value.where == where


def test_a_limit_without_a_cgroup() -> None:
    spec = config()
    spec["linux"]["resources"]["pids"] = {"limit": 1}
    with pytest.raises(UnsupportedError) as caught:
        plan(spec, cgroup="")
    assert caught.value.where == "config.json#/linux/resources/pids/limit"
    assert not [step for step in plan(config(), cgroup="") if step.phase == "cgroup"]


def resolve(pointer: str, document: Any) -> tuple[Any, list[str]]:
    """Follow a JSON pointer (RFC 6901) as far as it goes: what is there, and the parts that are not."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    while parts:
        key: Any = int(parts[0]) if isinstance(document, list) else parts[0]
        if (isinstance(document, list) and key >= len(document)) or (
            isinstance(document, dict) and key not in document
        ):
            break
        document = document[key]
        parts.pop(0)
    return document, parts


# Steps for what the runtime does where config.json says nothing, with the place where one would say it.
DEFAULTS = {"CreateDevice", "LinkDevices", "SetUmask"}


@pytest.mark.parametrize("make", [config, rich_config])
def test_every_place_is_in_config_json(make: Any) -> None:
    spec = make()
    for step in plan(spec):
        prefix, _, pointer = step.where.partition("#")
        missing = resolve(pointer, spec)[1]
        assert prefix == "config.json"
        assert not missing or (type(step).__name__ in DEFAULTS and len(missing) == 1), step


@pytest.mark.parametrize("make", [config, rich_config])
def test_every_step_can_be_told(make: Any) -> None:
    for step in plan(make()):
        told = json.loads(json.dumps(step.as_dict()))
        assert {"step", "phase", "why", "text", "where"} <= told.keys()
        assert told["why"] and told["text"] and "\n" not in told["text"]
        assert told["step"] in repr(step)


def every_step_class() -> set[type[Step]]:
    found = Step.__subclasses__()
    for kind in found:
        found += kind.__subclasses__()
    # Those with subclasses are what these have in common.
    return {kind for kind in found if kind.__module__.startswith("pyruntime.") and not kind.__subclasses__()}


def test_every_step_is_in_its_phase() -> None:
    spec = rich_config()
    spec["linux"]["mountLabel"] = "system_u:object_r:container_file_t:s0"
    made = plan(spec)
    of_phases = [step for phase in PHASES for step in made.phase(phase)]
    assert of_phases == sorted(made, key=lambda step: PHASES.index(step.phase))


def test_hooks_of_all_kinds() -> None:
    """config.md: path, args and env as execve takes them. Without args, the path is argv[0]."""
    spec = rich_config()
    hooks = {step.where: step for step in plan(spec) if isinstance(step, Hook)}
    assert [*hooks] == [
        *(f"config.json#/hooks/{place}" for place in ("prestart/0", "createRuntime/0", "createRuntime/1")),
        *(f"config.json#/hooks/{kind}/0" for kind in ("createContainer", "startContainer", "poststart", "poststop")),
    ]
    first, timed = hooks["config.json#/hooks/createRuntime/0"], hooks["config.json#/hooks/createContainer/0"]
    assert (first.path, first.args, first.env, first.timeout) == ("/bin/net", ("/bin/net",), ("A=1",), 0)
    assert (timed.kind, timed.args, timed.env, timed.timeout) == ("createContainer", ("mounts", "-v"), (), 3)
    assert hooks["config.json#/hooks/startContainer/0"].env == tuple(spec["process"]["env"])


@pytest.mark.parametrize("hooks", [{}, {"prestart": []}, dict.fromkeys(KINDS)])
def test_no_hooks(hooks: Config) -> None:
    spec = config()
    spec["hooks"] = hooks
    assert lines(plan(spec)) == DEFAULT_PLAN.strip().splitlines()


def test_the_rich_config_has_every_kind_of_step() -> None:
    seen = {type(step) for spec in (config(), rich_config()) for step in plan(spec)}
    seen |= {type(step) for step in plan(rich_config(), network=select("bridge", [], "", {}))}
    seen |= {type(step) for step in plan(without_mount_namespace())}
    elsewhere = {"CheckMemoryUsage", "WriteCgroupUnless", "WriteCgroupFirst"}  # in test_resources.py
    elsewhere |= {CreateScope.__name__}  # in test_scope.py
    of_exec = {kind for kind in every_step_class() if kind.__module__ == "pyruntime.plan.join"}  # test_plan_join.py
    of_exec |= {EnterTreeOf, FollowIntoGroup}
    assert {kind.__name__ for kind in every_step_class() - seen - of_exec} == elsewhere


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, ["use the resctrl group web, made if it is not there"]),
        ({"closID": ""}, ["use the resctrl group web, made if it is not there"]),
        ({"closID": "gold", "schemata": []}, ["use the resctrl group gold, which must be there"]),
        ({"closID": "/", "l3CacheSchema": ""}, ["use the default group of resctrl"]),
        (
            {"l3CacheSchema": "L3:0=f\nMB:0=70\n"},
            [
                "use the resctrl group web, made if it is not there",
                *("limit the resctrl group to L3:0=f", "limit the resctrl group to MB:0=70"),
            ],
        ),
    ],
)
def test_a_part_of_the_caches(wanted: Config, told: list[str]) -> None:
    spec: Any = config()
    spec["linux"]["intelRdt"] = wanted
    _lock, *before, join = [step.text() for step in group_steps(spec, "web")]
    assert before == told
    name = wanted.get("closID") or "web"
    group = "default group of resctrl" if name == "/" else f"resctrl group {name}"
    assert join == f"put the process into the {group}"


@pytest.mark.parametrize(
    ("text", "numbers"), [("", ()), ("7", (7,)), ("0-3,7", (0, 1, 2, 3, 7)), (" 2-3 , 3,,0", (0, 2, 3)), ("5-5", (5,))]
)
def test_lists_of_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert members(text) == numbers


def test_a_plain_config_does_not_import_what_it_has_no_key_for() -> None:
    program = (
        f"import sys; sys.path.insert(0, {LIBRARY!r})\n"
        "from pyruntime.plan.build import build\n"
        f"build({config()!r}, '/b', 'web', '/web')\n"
        "rare = ('attributes', 'hooks', 'netdevices', 'resctrl')\n"
        "print([name for name in rare if f'pyruntime.plan.{name}' in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, FLAGS, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"


def test_the_same_input_gives_the_same_plan_and_stays_as_it_was() -> None:
    spec = rich_config()
    before = copy.deepcopy(spec)
    first, second = plan(spec), plan(spec)
    assert spec == before
    assert first.steps == second.steps
    spec["hostname"] = "other"
    assert plan(spec).steps != first.steps


# Whatever asks the kernel anything goes through posix, time, _socket, fcntl or open. (`_ctypes` is not even imported.)
PURE = """
import builtins, posix, sys, time
sys.path.insert(0, {library!r})
from pyruntime.plan import attributes, hooks, netdevices, resctrl, seccomp, selinux  # from files; few need them
from pyruntime.plan.build import build
from pyruntime.linux import constants
emit, leave = posix.write, posix._exit
imported = [name for name in sys.modules if name in ("_ctypes", "_socket", "fcntl", "pyruntime.linux.syscalls")]

def forbid(name):
    def forbidden(*_arguments, **_named):
        raise AssertionError("planning called " + name)
    return forbidden

for module in (posix, time):
    for name, value in list(vars(module).items()):
        if callable(value) and not isinstance(value, type):
            setattr(module, name, forbid(name))
import_module = builtins.__import__
builtins.open = forbid("open")
builtins.__import__ = lambda name, *more: import_module(name, *more) if name in sys.modules else forbid(name)()
try:
    steps = build({spec!r}, "/nowhere/bundle", "web", "/web").steps
    text = "\\n".join([*imported, *(repr(step) + step.text() for step in steps)])
except BaseException as error:
    text = "failed: " + repr(error)
emit(1, text.encode())
leave(0)
"""


def test_planning_asks_nobody() -> None:
    """Each run has another hash seed, so that an order which comes out of a set would differ."""
    spec = rich_config()
    program = PURE.format(library=LIBRARY, spec=spec)
    told = {
        subprocess.run([sys.executable, FLAGS, "-c", program], capture_output=True, check=True, timeout=60).stdout
        for _ in range(4)
    }
    expected = build(spec, "/nowhere/bundle", "web", "/web").steps  # type: ignore[arg-type]
    assert told == {"\n".join(repr(step) + step.text() for step in expected).encode()}
