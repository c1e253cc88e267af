"""Every number of linux/constants.py, linux/netfilter_constants.py and linux/caps.py is what the headers say."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pyruntime.linux import caps, constants, netfilter_constants
from tests.abi import headers

pytestmark = pytest.mark.needs("gcc")

# Header (after the one it depends on) -> the families of names that it defines. One program each: linux/mount.h and
# sys/mount.h, for one, exclude each other.
FAMILIES = {
    "fcntl.h linux/mount.h": "MS_ OPEN_TREE_ MOVE_MOUNT_ FSOPEN_ FSMOUNT_ FSCONFIG_ MOUNT_ATTR_",
    "sys/mount.h": "MNT_ UMOUNT_",
    "linux/fcntl.h": "O_ AT_ F_",
    "linux/openat2.h": "RESOLVE_",
    "linux/close_range.h": "CLOSE_RANGE_",
    "linux/memfd.h": "MFD_",
    "sys/stat.h": "S_IF",
    "linux/magic.h": (
        "CGROUP2_SUPER_MAGIC DEVPTS_SUPER_MAGIC NSFS_MAGIC OVERLAYFS_SUPER_MAGIC "
        "PROC_SUPER_MAGIC SYSFS_MAGIC TMPFS_MAGIC"
    ),
    "linux/sched.h": "CLONE_ SCHED_",
    "linux/ioprio.h": "IOPRIO_",
    "linux/mempolicy.h": "MPOL_",
    "linux/prctl.h": "PR_",
    "linux/capability.h": "_LINUX_CAPABILITY_VERSION_3",
    "linux/personality.h": "PER_",
    "signal.h": "SIG",
    "linux/signalfd.h": "SFD_",
    "linux/resource.h": "RLIMIT_ RLIM_",
    "linux/keyctl.h": "KEY_ KEYCTL_",
    "sys/ioctl.h": "TIOC",
    "linux/nsfs.h": "NS_",
    "linux/sockios.h": "SIOC",
    "linux/if.h": "IFNAMSIZ IFF_",
    "sys/socket.h": "AF_ SOCK_ SOL_ SO_ SCM_ MSG_",
    "linux/netlink.h": "NETLINK_ NLM_ NLMSG_ NLMSGERR_ NLA_",
    "linux/rtnetlink.h": "RTM_ RT_ RTA_ RTN_ RTPROT_",
    "linux/if_link.h": "IFLA_ IN6_ADDR_GEN_MODE_",
    "linux/veth.h": "VETH_INFO_",
    "linux/netfilter.h": "NF_ NFPROTO_",
    "linux/netlink.h linux/netfilter/nfnetlink.h": "NFNL_ NFNETLINK_",
    "linux/netfilter/nf_tables.h": "NFT_ NFTA_",
    "linux/netfilter/nfnetlink_conntrack.h": "IPCTNL_ CTA_",
    "linux/if_addr.h": "IFA_",
    "linux/bpf.h": "BPF_",
    "linux/seccomp.h": "SECCOMP_",
}
# Enumerators, which #ifdef does not see.
ENUMERATORS = (
    *("FSCONFIG_", "PER_", "SCM_", "MSG_", "BPF_MAP_", "BPF_PROG_", "BPF_CGROUP_", "BPF_DEVCG_", "IOPRIO_", "MPOL_"),
    *("NLMSGERR_", "RT_SCOPE_", "RT_TABLE_", "IFLA_", "IFA_", "RTA_", "RTN_"),
    *(
        "IN6_ADDR_GEN_MODE_",
        "VETH_INFO_",
        "NF_INET_",
        "NFPROTO_",
        "NFNL_BATCH_",
        "NFT_MSG_",
        "NFTA_",
        "IPCTNL_",
        "CTA_",
    ),
)
# Younger than the headers of the oldest system that the tests run on (Debian 12: Linux 6.1).
SINCE = {
    "F_SEAL_EXEC": (6, 3),
    "MFD_EXEC": (6, 3),
    "MFD_NOEXEC_SEAL": (6, 3),
    "MPOL_WEIGHTED_INTERLEAVE": (6, 9),
}
# The kernel's header calls it SCHED_NORMAL, and comments SCHED_ISO out.
OTHER_NAMES = {"SCHED_OTHER": "SCHED_NORMAL", "SCHED_ISO": "SCHED_BATCH + 1"}
FULL_WORD = 2**64
ALL = vars(constants) | vars(netfilter_constants)


def names_of(header: str) -> list[str]:
    """The constants that a header has to answer for: each belongs to the longest family that begins its name."""
    families = {family: at for at, listed in FAMILIES.items() for family in listed.split()}
    names = []
    for name, value in ALL.items():
        if type(value) is int and not name.startswith("SYS_"):
            known = [family for family in families if name.startswith(family)]
            assert known, f"{name}: no header is named for it in this test"
            if families[max(known, key=len)] == header:
                names.append(name)
    return names


def header_version(folder: Path) -> tuple[int, int]:
    found = headers.values(folder, ["linux/version.h"], {"LINUX_VERSION_CODE": "LINUX_VERSION_CODE"})
    code = found["LINUX_VERSION_CODE"]
    return code >> 16, code >> 8 & 0xFF


@pytest.mark.parametrize("header", FAMILIES)
def test_constants_are_those_of_the_header(header: str, tmp_path: Path) -> None:
    names = names_of(header)
    assert names, "a header that answers for nothing"
    asked = {name: f"0 + {name}" if name.startswith(ENUMERATORS) else OTHER_NAMES.get(name, name) for name in names}
    version = header_version(tmp_path)
    for name in names:
        if name.startswith(ENUMERATORS) and SINCE.get(name, (0, 0)) > version:
            del asked[name]  # it could not be compiled
    said = headers.values(tmp_path, header.split(), asked)
    assert said == {name: ALL[name] % FULL_WORD for name in said}
    absent = set(names) - said.keys()
    assert all(SINCE.get(name, (0, 0)) > version for name in absent), absent


def numbers_of(*machines: str) -> dict[str, int]:
    """The system call numbers in the branch of constants.py that is for these machines, and those for all."""
    numbers: dict[str, int] = {}

    def collect(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.If):
                named = {leaf.value for leaf in ast.walk(node.test) if isinstance(leaf, ast.Constant)}
                collect(node.body if named & set(machines) else node.orelse)
            elif isinstance(node, ast.Assign) and (name := ast.unparse(node.targets[0])).startswith("SYS_"):
                numbers[name] = ast.literal_eval(node.value)

    collect(ast.parse(Path(constants.__file__).read_text()).body)
    return numbers


def test_system_call_numbers_of_this_machine(tmp_path: Path) -> None:
    used = {name: value for name, value in vars(constants).items() if name.startswith("SYS_")}
    said = headers.values(tmp_path, ["sys/syscall.h"], {name: name for name in used})
    assert said == used


def test_system_call_numbers_of_the_generic_table(tmp_path: Path) -> None:
    """The table of arm64, riscv64 and loongarch64, which the headers of every machine carry."""
    numbers = numbers_of("aarch64")
    assert numbers.keys() == numbers_of("x86_64").keys()
    (tmp_path / "generic.h").write_text("#define __ARCH_WANT_SYS_CLONE3\n#include <asm-generic/unistd.h>\n")
    asked = {name: f"0 + __NR_{name.removeprefix('SYS_')}" for name in numbers}
    assert headers.values(tmp_path, [f"{tmp_path}/generic.h"], asked) == numbers


def test_capabilities(tmp_path: Path) -> None:
    asked = {name: name for name in (*caps.CAPABILITIES, "CAP_LAST_CAP")}
    said = headers.values(tmp_path, ["linux/capability.h"], asked)
    last = said.pop("CAP_LAST_CAP")
    assert said == {name: caps.CAPABILITIES[name] for name in said}
    assert sorted(said.values()) == list(range(last + 1)), "the header has one that caps.py lacks"
