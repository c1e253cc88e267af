"""The one table of commands and their options, as plain data.

Two readers use it: `cli.parse` (no import: every command line is read by it first) and `cli.click_app` (click: help,
the words for a wrong command line, completion). A test feeds both the same argument lists. The texts below
are what help shows; longer texts are in `cli.manual`.

The options and their meaning are runc's: read beside runc:main.go:/^func main/, runc:run.go, runc:kill.go and so on.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Choice = tuple[str, ...]
    # name, short name or "", kind, default, help
    Option = tuple[str, str, str | Choice, str | int | bool | tuple[()] | None, str]
    # name (of two words: a group's member), the options, the operands ("[X]" may be left out), what may follow them,
    # handler, help
    Command = tuple[str, tuple[Option, ...], tuple[str, ...], str, str, str]

# Kinds of a value. A choice is a tuple of the words allowed. Paths differ from text only for shell completion.
FLAG = "flag"
TEXT = "text"
FILE = "file"
DIRECTORY = "directory"
LIST = "list"  # text; may be given more than once
COUNT = "count"  # a decimal number from 0 to 2**31 - 1
LIST = "list"  # of texts: the option may be given more than once

# What may follow the operands, as usage shows it: nothing; behind a `--` a command; or, from the last operand on, words
# that are another program's, options included (a `--` in front of them is left out).
NOTHING = ""
COMMAND = "[-- CMD ARGS...]"
WORDS = "[ARGS...]"

DEFAULT_ROOT = "/run/pyruntime"  # or $XDG_RUNTIME_DIR/pyruntime for a user who is not root

GLOBAL: tuple[Option, ...] = (
    ("debug", "", FLAG, False, "log each step, and show Python's traceback of an error"),
    ("log", "", FILE, "", "append log lines and errors to FILE (errors still go to stderr too)"),
    ("log-format", "", ("text", "json"), "text", "format of the log lines"),
    ("root", "", DIRECTORY, "", f"directory of the containers' state, best in a tmpfs [default: {DEFAULT_ROOT}]"),
    ("systemd-cgroup", "", FLAG, False, 'let systemd make the cgroup; cgroupsPath is then "slice:prefix:name"'),
    ("rootless", "", ("true", "false", "auto"), "auto", "go on where cgroups may not be written"),
    ("version", "v", FLAG, False, "print the version"),
    ("help", "h", FLAG, False, "show this message"),
)

HELP: Option = ("help", "h", FLAG, False, "show this message")
BUNDLE: Option = ("bundle", "b", DIRECTORY, "", "the bundle: a directory with config.json [default: .]")

NETWORK: tuple[Option, ...] = (
    ("net", "", TEXT, "", "the container's network: none, host, container:ID, ns:PATH, bridge[:NAME], or cni:NAME"),
    ("publish", "p", LIST, "", "publish a port of the container: [ADDRESS:]HOSTPORT:PORT[/udp]; may be repeated"),
    ("ip", "", TEXT, "", "the container's address on the network, in place of the next free one"),
)

CREATE: tuple[Option, ...] = (
    BUNDLE,
    ("console-socket", "", FILE, "", "AF_UNIX socket that receives the master end of the container's terminal"),
    ("pidfd-socket", "", FILE, "", "AF_UNIX socket that receives a pidfd of the container's first process"),
    ("pid-file", "", FILE, "", "write the process ID of the container's first process to this file"),
    ("no-pivot", "", FLAG, False, "use MS_MOVE and chroot instead of pivot_root, as a rootfs on a ramdisk needs"),
    ("no-new-keyring", "", FLAG, False, "let the container keep the caller's session keyring"),
    ("preserve-fds", "", COUNT, 0, "pass N more descriptors to the container, after stdio and $LISTEN_FDS"),
    *NETWORK,
    HELP,
)

RUN: tuple[Option, ...] = (
    ("detach", "d", FLAG, False, "return once the container runs"),
    ("keep", "", FLAG, False, "do not delete the container when it ends"),
    ("no-subreaper", "", FLAG, False, "leave the container's orphans to the system's reaper"),
    *CREATE,
)

EXEC: tuple[Option, ...] = (
    ("detach", "d", FLAG, False, "return once the program runs"),
    ("tty", "t", FLAG, False, "give the program a terminal"),
    ("cwd", "", TEXT, "", "directory in the container to run it in [default: process.cwd of config.json]"),
    ("env", "e", LIST, (), "set an environment variable, NAME=VALUE"),
    ("user", "u", TEXT, "", "run it as this user, UID or UID:GID"),
    ("additional-gids", "g", LIST, (), "add it to the group GID"),
    ("cap", "c", LIST, (), "give it a capability, such as CAP_NET_RAW"),
    ("no-new-privs", "", FLAG, None, "no setuid program may give it more rights"),
    ("apparmor", "", TEXT, "", "confine it by this AppArmor profile"),
    ("process-label", "", TEXT, "", "give it this SELinux label"),
    ("process", "p", FILE, "", "take all of it from a file with the JSON object `process`"),
    ("cgroup", "", LIST, (), "put it into this cgroup below the container's own"),
    ("ignore-paused", "", FLAG, False, "allow it in a paused container: it runs when that is resumed"),
    ("console-socket", "", FILE, "", "AF_UNIX socket that receives the master end of its terminal"),
    ("pidfd-socket", "", FILE, "", "AF_UNIX socket that receives a pidfd of it"),
    ("pid-file", "", FILE, "", "write its process ID to this file"),
    ("preserve-fds", "", COUNT, 0, "pass N more descriptors to it, after stdio"),
    HELP,
)

# Sizes are bytes, or have one of the letters K, M, G, T, P behind them; -1 is no limit.
UPDATE: tuple[Option, ...] = (
    ("resources", "r", FILE, "", "take all from a file with the JSON object `linux.resources`; -: from standard input"),
    ("blkio-weight", "", TEXT, "", "weight of its disk I/O, 10 to 1000"),
    ("cpu-period", "", TEXT, "", "period of --cpu-quota, in microseconds"),
    ("cpu-quota", "", TEXT, "", "CPU time a period, in microseconds; -1: no limit"),
    ("cpu-burst", "", TEXT, "", "CPU time saved from earlier periods that it may use besides, in microseconds"),
    ("cpu-share", "", TEXT, "", "weight of its CPU time, 2 to 262144, usually 1024"),
    ("cpu-rt-period", "", TEXT, "", "of cgroup v1 only: ignored"),
    ("cpu-rt-runtime", "", TEXT, "", "of cgroup v1 only: ignored"),
    ("cpuset-cpus", "", TEXT, "", "the CPUs that it may run on, such as 0-3,7"),
    ("cpuset-mems", "", TEXT, "", "the memory nodes that it may use, such as 0-1"),
    ("kernel-memory", "", TEXT, "", "of cgroup v1 only: ignored"),
    ("kernel-memory-tcp", "", TEXT, "", "of cgroup v1 only: ignored"),
    ("memory", "", TEXT, "", "limit of its memory, such as 512M; -1: none"),
    ("cpu-idle", "", TEXT, "", "1: it runs only where nobody else wants to (SCHED_IDLE); 0: as ever"),
    ("memory-reservation", "", TEXT, "", "memory that is not taken from it while others have more than theirs"),
    ("memory-swap", "", TEXT, "", "limit of memory and swap together; -1: none"),
    ("pids-limit", "", TEXT, "", "how many processes it may have; -1: any number"),
    ("l3-cache-schema", "", TEXT, "", "its part of the L3 cache, Intel RDT, such as L3:0=7f0;1=1f"),
    ("mem-bw-schema", "", TEXT, "", "its part of the memory bandwidth, Intel RDT, such as MB:0=20;1=70"),
    HELP,
)

# A command whose handler is NOT_SERVED is known, so that help is true, and refuses by name.
NOT_SERVED = ""

# The handler is "module:function" below pyruntime.cli; the function takes a Call and returns the exit status.
COMMANDS: tuple[Command, ...] = (
    ("create", CREATE, ("ID|BUNDLE",), COMMAND, "run:create", "create a container; `start` lets its program run"),
    ("start", (HELP,), ("ID",), NOTHING, "start:start", "run the program of a created container"),
    ("run", RUN, ("ID|BUNDLE",), COMMAND, "run:run", "create a container, run its program, wait for its end"),
    ("state", (HELP,), ("ID",), NOTHING, "state:state", "print a container's state as JSON"),
    (
        "kill",
        (("all", "a", FLAG, False, "signal every process of the container; no error if there is none"), HELP),
        ("ID", "[SIGNAL]"),
        NOTHING,
        "kill:kill",
        "send a signal (SIGTERM unless told otherwise) to a container's first process",
    ),
    ("pause", (HELP,), ("ID",), NOTHING, "pause:pause", "stop all processes of a container, until `resume`"),
    ("resume", (HELP,), ("ID",), NOTHING, "pause:resume", "let the processes of a paused container go on"),
    (
        "ps",
        (("format", "f", ("table", "json"), "table", "what ps(1) prints of them, or their IDs alone"), HELP),
        ("ID",),
        WORDS,
        "ps:ps",
        "list the processes of a container; what follows the ID is for ps(1)",
    ),
    ("exec", EXEC, ("ID",), WORDS, "exec:execute", "run another program in a container"),
    (
        "events",
        (
            ("interval", "", TEXT, "5s", "how often to print statistics, such as 100ms or 1m30s"),
            ("stats", "", FLAG, False, "print the statistics as they are now, and end"),
            HELP,
        ),
        ("ID",),
        NOTHING,
        "events:events",
        "print as JSON what a container uses, and when the kernel kills for want of memory",
    ),
    ("update", UPDATE, ("ID",), NOTHING, "update:update", "change limits of a container; what is not named stays"),
    (
        "delete",
        (("force", "f", FLAG, False, "kill it first if it still runs; no error if there is none"), HELP),
        ("ID",),
        NOTHING,
        "delete:delete",
        "delete all that is left of a container",
    ),
    (
        "list",
        (
            ("format", "f", ("table", "json"), "table", "how to print the list"),
            ("quiet", "q", FLAG, False, "print the IDs only"),
            HELP,
        ),
        (),
        NOTHING,
        "list:list_containers",
        "list the containers below --root",
    ),
    (
        "spec",
        (BUNDLE, ("rootless", "", FLAG, False, "for a container that needs no root"), HELP),
        (),
        NOTHING,
        "spec:spec",
        "write a config.json to begin with",
    ),
    ("features", (HELP,), (), NOTHING, "features:features", "print as JSON what this runtime knows and serves"),
    (
        "plan",
        (
            BUNDLE,
            ("format", "f", ("text", "json"), "text", "how to print the steps"),
            ("id", "", TEXT, "", "the container's ID, which its cgroup is named after [default: the bundle's name]"),
            *NETWORK,
            HELP,
        ),
        ("[BUNDLE]",),
        COMMAND,
        "plan:plan",
        "print every step that `run` would do, and do none of them",
    ),
    (
        "lint",
        (BUNDLE, ("format", "f", ("text", "json"), "text", "how to print the problems"), HELP),
        ("[BUNDLE]",),
        NOTHING,
        "lint:lint_bundle",
        "print every problem of a config.json, with line and column",
    ),
    (
        "network create",
        (
            ("subnet", "", LIST, "", "a range of addresses as 10.1.2.0/24 [default: a free /24, and an IPv6 /64]"),
            ("mtu", "", COUNT, 0, "the largest packet, in bytes [default: the kernel's choice, 1500]"),
            HELP,
        ),
        ("NAME",),
        NOTHING,
        "network:create",
        "define a network, for --net bridge:NAME",
    ),
    (
        "network list",
        (
            ("format", "f", ("table", "json"), "table", "how to print the list"),
            ("quiet", "q", FLAG, False, "print the names only"),
            HELP,
        ),
        (),
        NOTHING,
        "network:list_networks",
        "list the networks below --root",
    ),
    (
        "network inspect",
        (HELP,),
        ("NETWORK",),
        NOTHING,
        "network:inspect",
        "print as JSON what a network is, and who is on it",
    ),
    (
        "network remove",
        (HELP,),
        ("NETWORK",),
        NOTHING,
        "network:remove",
        "remove a network that no container is on: its bridge, its rules, its definition",
    ),
    (
        "network trace",
        (("format", "f", ("text", "json"), "text", "how to print the way"), HELP),
        ("ID", "[ADDRESS]"),
        NOTHING,
        "trace:trace_container",
        "print the way of a packet from a container to the outside, hop by hop",
    ),
    ("checkpoint", (HELP,), (), NOTHING, NOT_SERVED, "save a running container (not served yet)"),
    ("restore", (HELP,), (), NOTHING, NOT_SERVED, "bring a saved container back (not served yet)"),
)
