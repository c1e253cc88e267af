"""The kernel's names and numbers: flags, commands, magics and system call numbers, spelled as the headers spell them.

Only what pyruntime uses is here. Every value is compared with the kernel's own headers by tests/abi/, so a typing error
cannot live long. Flags that differ between architectures (O_DIRECTORY, O_NOFOLLOW) come from `posix`, which was
compiled on this one. `flag_names` and `value_name` turn numbers back into names, for a plan's text and for errors.

Read beside golang.org/x/sys/unix:zerrors_linux.go and include/uapi/linux/ in the kernel.
"""

from __future__ import annotations

import posix

from pyruntime.errors import UnsupportedError

# open(2): asm/fcntl.h
O_RDONLY = posix.O_RDONLY
O_WRONLY = posix.O_WRONLY
O_RDWR = posix.O_RDWR
O_CREAT = posix.O_CREAT
O_EXCL = posix.O_EXCL
O_NOCTTY = posix.O_NOCTTY
O_TRUNC = posix.O_TRUNC
O_APPEND = posix.O_APPEND
O_NONBLOCK = posix.O_NONBLOCK
O_DIRECTORY = posix.O_DIRECTORY
O_NOFOLLOW = posix.O_NOFOLLOW
O_CLOEXEC = posix.O_CLOEXEC
O_PATH = posix.O_PATH
O_TMPFILE = posix.O_TMPFILE

# mount(2), umount2(2): linux/mount.h, sys/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

# The mount calls on descriptors: open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2)
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70  # the mask of the three below, which are one field and not bits
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# Paths: linux/fcntl.h, linux/openat2.h, linux/close_range.h, linux/memfd.h, linux/stat.h
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EACCESS = 0x200
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
CLOSE_RANGE_CLOEXEC = 4
MFD_CLOEXEC = 0x1
MFD_ALLOW_SEALING = 0x2
MFD_NOEXEC_SEAL = 0x8
MFD_EXEC = 0x10
F_GETFD = 1
F_SETFD = 2
F_ADD_SEALS = 1033
F_GET_SEALS = 1034
F_SEAL_SEAL = 0x1
F_SEAL_SHRINK = 0x2
F_SEAL_GROW = 0x4
F_SEAL_WRITE = 0x8
F_SEAL_FUTURE_WRITE = 0x10
F_SEAL_EXEC = 0x20
S_IFMT = 0o170000
S_IFSOCK = 0o140000
S_IFLNK = 0o120000
S_IFREG = 0o100000
S_IFBLK = 0o060000
S_IFDIR = 0o040000
S_IFCHR = 0o020000
S_IFIFO = 0o010000

# File system types, as statfs(2) tells them: linux/magic.h
CGROUP2_SUPER_MAGIC = 0x63677270
DEVPTS_SUPER_MAGIC = 0x1CD1
NSFS_MAGIC = 0x6E736673
OVERLAYFS_SUPER_MAGIC = 0x794C7630
PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994

# Processes: linux/sched.h, linux/prctl.h, linux/capability.h, linux/personality.h
CLONE_NEWTIME = 0x80
CLONE_VM = 0x100
CLONE_FS = 0x200
CLONE_PIDFD = 0x1000
CLONE_VFORK = 0x4000
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2  # this and the next are second arguments of PR_CAP_AMBIENT
PR_CAP_AMBIENT_CLEAR_ALL = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
PER_LINUX = 0
PER_LINUX32 = 8
SIGHUP = 1
SIGINT = 2
SIGKILL = 9
SIGTERM = 15
SIGCHLD = 17
SIGCONT = 18
SIGSTOP = 19
SFD_CLOEXEC = O_CLOEXEC
SFD_NONBLOCK = O_NONBLOCK

# Filters of system calls: linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 0x1
SECCOMP_FILTER_FLAG_LOG = 0x2
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 0x4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 0x8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 0x20

# Limits: asm-generic/resource.h. prlimit64 says "no limit" by 2**64 - 1 on every architecture.
RLIMIT_CPU = 0
RLIMIT_FSIZE = 1
RLIMIT_DATA = 2
RLIMIT_STACK = 3
RLIMIT_CORE = 4
RLIMIT_RSS = 5
RLIMIT_NPROC = 6
RLIMIT_NOFILE = 7
RLIMIT_MEMLOCK = 8
RLIMIT_AS = 9
RLIMIT_LOCKS = 10
RLIMIT_SIGPENDING = 11
RLIMIT_MSGQUEUE = 12
RLIMIT_NICE = 13
RLIMIT_RTPRIO = 14
RLIMIT_RTTIME = 15
RLIM_INFINITY = 2**64 - 1

# Scheduling and NUMA: linux/sched.h, linux/ioprio.h, linux/mempolicy.h
SCHED_OTHER = 0  # the headers of the C library call it so, the kernel's SCHED_NORMAL
SCHED_FIFO = 1
SCHED_RR = 2
SCHED_BATCH = 3
SCHED_ISO = 4  # reserved since 2.6, and taken by no kernel
SCHED_IDLE = 5
SCHED_DEADLINE = 6
SCHED_FLAG_RESET_ON_FORK = 0x01
SCHED_FLAG_RECLAIM = 0x02
SCHED_FLAG_DL_OVERRUN = 0x04
SCHED_FLAG_KEEP_POLICY = 0x08
SCHED_FLAG_KEEP_PARAMS = 0x10
SCHED_FLAG_UTIL_CLAMP_MIN = 0x20
SCHED_FLAG_UTIL_CLAMP_MAX = 0x40
IOPRIO_CLASS_SHIFT = 13
IOPRIO_CLASS_RT = 1
IOPRIO_CLASS_BE = 2
IOPRIO_CLASS_IDLE = 3
IOPRIO_WHO_PROCESS = 1
MPOL_DEFAULT = 0
MPOL_PREFERRED = 1
MPOL_BIND = 2
MPOL_INTERLEAVE = 3
MPOL_LOCAL = 4
MPOL_PREFERRED_MANY = 5
MPOL_WEIGHTED_INTERLEAVE = 6
MPOL_F_NUMA_BALANCING = 1 << 13
MPOL_F_RELATIVE_NODES = 1 << 14
MPOL_F_STATIC_NODES = 1 << 15

# Keyrings: linux/keyctl.h
KEY_SPEC_SESSION_KEYRING = -3
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL_SETPERM = 5

# Terminals, namespaces and network devices through ioctl(2): asm/ioctls.h, linux/nsfs.h, linux/sockios.h, linux/if.h
TIOCSCTTY = 0x540E
TIOCGWINSZ = 0x5413
TIOCSWINSZ = 0x5414
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
NS_GET_USERNS = 0xB701
NS_GET_PARENT = 0xB702
NS_GET_NSTYPE = 0xB703
NS_GET_OWNER_UID = 0xB704
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFNAMSIZ = 16
IFF_UP = 0x1
AF_UNIX = 1
AF_INET = 2
AF_BRIDGE = 7
AF_INET6 = 10
AF_NETLINK = 16
SOCK_STREAM = 1
SOCK_DGRAM = 2
SOCK_RAW = 3
SOCK_SEQPACKET = 5
SOCK_CLOEXEC = O_CLOEXEC
SOL_SOCKET = 1
SCM_RIGHTS = 1
MSG_CMSG_CLOEXEC = 0x40000000

# Network devices through netlink(7): linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/veth.h, linux/if_addr.h
SOL_NETLINK = 270
NETLINK_ROUTE = 0
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_ACK_TLVS = 0x200
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_GETROUTE = 26
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_TABLE_MAIN = 254
RTN_UNICAST = 1
RTN_BROADCAST = 3
RTN_ANYCAST = 4
RTN_MULTICAST = 5
RTPROT_STATIC = 4
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_MASTER = 10
IFLA_PROTINFO = 12
IFLA_LINKINFO = 18
IFLA_STATS64 = 23
IFLA_AF_SPEC = 26
IFLA_NET_NS_FD = 28
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INET6_ADDR_GEN_MODE = 8
IFLA_BRPORT_MODE = 4
IN6_ADDR_GEN_MODE_NONE = 1
VETH_INFO_PEER = 1
NLA_F_NESTED = 0x8000
IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_LABEL = 3
IFA_BROADCAST = 4
IFA_CACHEINFO = 6
IFA_FLAGS = 8
IFA_RT_PRIORITY = 9
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80

# BPF device programs on a cgroup: linux/bpf.h, linux/bpf_common.h
BPF_MAP_CREATE = 0
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
BPF_F_REPLACE = 4
BPF_DEVCG_ACC_MKNOD = 1
BPF_DEVCG_ACC_READ = 2
BPF_DEVCG_ACC_WRITE = 4
BPF_DEVCG_DEV_BLOCK = 1
BPF_DEVCG_DEV_CHAR = 2
BPF_LDX = 0x01
BPF_ALU = 0x04
BPF_JMP = 0x05
BPF_JMP32 = 0x06
BPF_W = 0x00
BPF_MEM = 0x60
BPF_K = 0x00
BPF_JA = 0x00
BPF_JEQ = 0x10
BPF_JSET = 0x40
BPF_JNE = 0x50
BPF_AND = 0x50
BPF_RSH = 0x70
BPF_MOV = 0xB0
BPF_EXIT = 0x90

# System call numbers. x86_64 has its own table; arm64, riscv64 and loongarch64 share asm-generic/unistd.h; from 424 on
# all architectures agree.
MACHINE = posix.uname().machine
if MACHINE == "x86_64":
    SYS_read = 0
    SYS_write = 1
    SYS_close = 3
    SYS_rt_sigaction = 13
    SYS_rt_sigprocmask = 14
    SYS_ioctl = 16
    SYS_pread64 = 17
    SYS_socket = 41
    SYS_sendmsg = 46
    SYS_recvmsg = 47
    SYS_bind = 49
    SYS_listen = 50
    SYS_socketpair = 53
    SYS_clone = 56
    SYS_execve = 59
    SYS_fcntl = 72
    SYS_chdir = 80
    SYS_fchdir = 81
    SYS_fchown = 93
    SYS_umask = 95
    SYS_setsid = 112
    SYS_setgroups = 116
    SYS_setresuid = 117
    SYS_setresgid = 119
    SYS_capget = 125
    SYS_capset = 126
    SYS_personality = 135
    SYS_fstatfs = 138
    SYS_pivot_root = 155
    SYS_prctl = 157
    SYS_chroot = 161
    SYS_mount = 165
    SYS_umount2 = 166
    SYS_sethostname = 170
    SYS_setdomainname = 171
    SYS_sched_setaffinity = 203
    SYS_exit_group = 231
    SYS_set_mempolicy = 238
    SYS_keyctl = 250
    SYS_ioprio_set = 251
    SYS_openat = 257
    SYS_mknodat = 259
    SYS_unshare = 272
    SYS_accept4 = 288
    SYS_signalfd4 = 289
    SYS_dup3 = 292
    SYS_prlimit64 = 302
    SYS_setns = 308
    SYS_sched_setattr = 314
    SYS_seccomp = 317
    SYS_memfd_create = 319
    SYS_bpf = 321
    SYS_execveat = 322
elif MACHINE in ("aarch64", "riscv64", "loongarch64"):
    SYS_dup3 = 24
    SYS_fcntl = 25
    SYS_ioctl = 29
    SYS_ioprio_set = 30
    SYS_mknodat = 33
    SYS_umount2 = 39
    SYS_mount = 40
    SYS_pivot_root = 41
    SYS_fstatfs = 44
    SYS_chdir = 49
    SYS_fchdir = 50
    SYS_chroot = 51
    SYS_fchown = 55
    SYS_openat = 56
    SYS_close = 57
    SYS_read = 63
    SYS_write = 64
    SYS_pread64 = 67
    SYS_signalfd4 = 74
    SYS_capget = 90
    SYS_capset = 91
    SYS_personality = 92
    SYS_exit_group = 94
    SYS_unshare = 97
    SYS_sched_setaffinity = 122
    SYS_rt_sigaction = 134
    SYS_rt_sigprocmask = 135
    SYS_setresuid = 147
    SYS_setresgid = 149
    SYS_setsid = 157
    SYS_setgroups = 159
    SYS_sethostname = 161
    SYS_setdomainname = 162
    SYS_umask = 166
    SYS_prctl = 167
    SYS_socket = 198
    SYS_socketpair = 199
    SYS_bind = 200
    SYS_listen = 201
    SYS_sendmsg = 211
    SYS_recvmsg = 212
    SYS_keyctl = 219
    SYS_clone = 220
    SYS_execve = 221
    SYS_set_mempolicy = 237
    SYS_accept4 = 242
    SYS_prlimit64 = 261
    SYS_setns = 268
    SYS_sched_setattr = 274
    SYS_seccomp = 277
    SYS_memfd_create = 279
    SYS_bpf = 280
    SYS_execveat = 281
else:
    raise UnsupportedError(f"no system call numbers for the architecture {MACHINE!r}")
SYS_pidfd_send_signal = 424
SYS_open_tree = 428
SYS_move_mount = 429
SYS_fsopen = 430
SYS_fsconfig = 431
SYS_fsmount = 432
SYS_pidfd_open = 434
SYS_clone3 = 435
SYS_close_range = 436
SYS_openat2 = 437
SYS_pidfd_getfd = 438
SYS_faccessat2 = 439
SYS_mount_setattr = 442


def value_name(value: int, prefix: str) -> str:
    """The name of a number that stands alone: value_name(38, "PR_") is "PR_SET_NO_NEW_PRIVS". Else its digits."""
    for name, number in globals().items():
        if number == value and name.startswith(prefix):
            return name
    return str(value)


def flag_names(value: int, prefix: str) -> str:
    """The names of a word of flags: flag_names(6, "MS_") is "MS_NOSUID|MS_NODEV". A bit without a name comes in hex.

    `prefix` may name several families: "MNT_ UMOUNT_".
    """
    family = tuple(prefix.split())
    known = [(bits, name) for name, bits in globals().items() if type(bits) is int and name.startswith(family)]
    names = []
    # The names of many bits first: O_TMPFILE contains O_DIRECTORY.
    for bits, name in sorted(known, key=lambda item: -item[0].bit_count()):
        if bits > 0 and value & bits == bits:
            names.append(name)
            value &= ~bits
    if value or not names:
        names.append(hex(value) if value else "0")
    return "|".join(names)
