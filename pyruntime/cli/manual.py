"""The long texts of help. A line with \\b keeps the paragraph after it as it is laid out (click's convention)."""

from __future__ import annotations

PROGRAM = """\
Run OCI containers: a bundle is a directory with a config.json and a root filesystem.

\b
  pyruntime spec                           write a config.json to begin with
  sudo pyruntime run BUNDLE                run it; the ID is made from its name
  sudo pyruntime run -b BUNDLE ID          the same, with an ID of your own
  sudo pyruntime run BUNDLE -- echo hi     run another command in it
  pyruntime plan BUNDLE                    see what run would do, and do nothing
  pyruntime lint BUNDLE                    see every problem of its config.json, with line and column

The commands, their options and what they print are runc's, so whatever drives runc can drive pyruntime.
Global options go before the command.
"""

COMPLETION = """\
\b
Completion, for bash (zsh_source and fish_source do the same for those):
  eval "$(_PYRUNTIME_COMPLETE=bash_source pyruntime)"
"""

_BUNDLE_OR_ID = """\
ID is the container's name: letters, digits and _ + - . in any order. Where --bundle is not given, the current
directory is the bundle. If it is not one, or if there is a slash in what you give, it is taken for the bundle's
directory, and the ID is made from that directory's name: hello, or hello-2 if there is a hello already.

What follows `--` runs in place of process.args of config.json.

With --net bridge the container is on a network: it has an address, reaches others and the outside, and -p lets others
reach it. The annotations org.pyruntime.network and org.pyruntime.publish of config.json say the same as --net and -p;
without either, the network namespace is what linux.namespaces says.
"""

GROUPS = {
    "network": (
        """\
The networks of --net bridge[:NAME]: define, list, inspect and remove them; and the way of a packet, traced.

A network is a bridge on the host with a range of addresses. Containers on it reach each other by name (their ID, their
hostname), the host, and through it the outside.
""",
        "define and remove the networks of --net bridge",
    ),
}

VERBS = {
    "create": f"""\
Create a container. It waits, with everything set up, for `pyruntime start` to let its program run.

{_BUNDLE_OR_ID}
An ID that was made up is printed.
""",
    "run": f"""\
Create a container and run its program. Without --detach it ends when the program ends, with the same exit status
(128 + N if signal N ended it), hands on the signals it gets, and deletes the container.

{_BUNDLE_OR_ID}
With --detach, an ID that was made up is printed.
""",
    "start": "Let the program of a created container run.",
    "state": """\
Print a container's state as JSON: ociVersion, id, pid, status, bundle, rootfs, created, annotations, owner.

Its status is creating, created, running, paused or stopped; the pid of a stopped container is 0.
""",
    "kill": """\
Send a signal to a container's first process: SIGTERM, or the one given as TERM, SIGTERM, 15 or RTMIN+1.

A program that is its namespace's process 1 and has no handler for a signal never gets it from outside either,
except KILL and STOP: see pid_namespaces(7).

Where the container has no PID namespace of its own, KILL is for all of its processes, even if the first has ended.
""",
    "pause": """\
Stop all processes of a container by the cgroup freezer. Signals wait until `resume`, but KILL works at once.
""",
    "resume": "Let the processes of a paused container go on.",
    "ps": """\
List the processes of a container: of what ps(1) prints on the host, the lines with their PIDs.

What follows the ID are arguments for ps, -ef unless there are any; its output must have a column PID.

\b
  pyruntime ps web
  pyruntime ps web -o pid,rss,args -e
  pyruntime ps --format json web           the process IDs as a JSON list
""",
    "events": """\
Print as JSON, an object a line, what happens to a container until it ends: at each --interval what it uses of CPU,
memory, processes, disks, huge pages and network, with the pressure that it feels (type "stats"); and at once when the
kernel kills a process of it for want of memory (type "oom").

\b
  pyruntime events web
  pyruntime events --stats web | jq .data.memory.usage
""",
    "update": """\
Change limits of a container that is created, running or paused. What is not named stays as it is, device rules as well.

\b
  pyruntime update --memory 512M --memory-swap 1G web
  pyruntime update --cpu-quota 50000 --pids-limit 100 web
  pyruntime update --cpu-quota -1 web
  echo '{"unified": {"memory.high": "400M"}}' | pyruntime update -r - web

All is changed or nothing: if the kernel refuses one value, those before it are put back. Less memory than is in use
ends processes of the container, unless `checkBeforeUpdate` is asked for, in the file of --resources or in config.json.
""",
    "delete": """\
Delete what is left of a stopped container: its state, its cgroup. A created container is killed first.

With --force a running one is killed first, too, and an unknown ID is no error.
""",
    "exec": """\
Run another program in a container: its namespaces, cgroup, seccomp filter, user, capabilities, limits, environment and
working directory are those of config.json, but for what the options say. What follows the ID is the program's own.

\b
  pyruntime exec web ls -l /
  pyruntime exec -t web sh
  pyruntime exec -d --pid-file web2.pid -u 1000:1000 web server --port 80

Without --detach it ends when the program ends, with the same exit status (128 + N if signal N ended it), and hands on
the signals it gets. The exit status is 255 if no program could be run.
""",
    "spec": """\
Write a config.json to begin with: it runs sh in ./rootfs, read-only. An existing file is never overwritten.

\b
  mkdir -p demo/rootfs && cd demo
  (put a root filesystem into rootfs)
  pyruntime spec
  sudo pyruntime run demo
""",
    "plan": """\
Print every step that `run` would do, in order, with what it is for and the place in config.json that asks for it.

Nothing is done, and root is not needed.
""",
    "lint": """\
Print every problem of a bundle: what breaks the runtime-spec, what this version does not serve, unknown keys (with the
one that may have been meant), keys for cgroup v1, and what is missing on disk. Each with its line and column.

The exit status is 1 if there is an error, 0 if there are warnings only. Root is not needed.
""",
    "network create": """\
Define a network: a name, a bridge, and the addresses that containers get. `run --net bridge:NAME` connects one to it.

--subnet may be given twice, for IPv4 and for IPv6: a container has an address of each. The first address is the
host's. A subnet must not overlap what the host has a route to already.

\b
  pyruntime network create back
  pyruntime network create --subnet 10.1.2.0/24 --subnet fd00:1:2::/64 --mtu 1400 front

The network `default` of plain `--net bridge` makes itself. Networks are below --root, and end with it: /run is empty
after a reboot.
""",
    "network inspect": """\
Print as JSON what a network is, what of it there is in the kernel, and which containers have which addresses.

A container whose lease is stale (it is gone, or from before a reboot) is marked so; the next start takes it back.
""",
    "network remove": """\
Remove a network: its bridge, its nftables rules, its definition. Not while a container is on it.
""",
    "network trace": """\
Print the way of a packet from a container to the outside, or to ADDRESS: each interface with its addresses, the route,
the neighbour, and the nftables rules that concern it, with their counters. What is in the way is marked with a `!`: an
interface that is down, a route that is missing, a rule of somebody else's that drops. No packet is sent.

A rule with a `?` may match: it asks for a port, a mark, or something else that a packet may or may not have.
Without ADDRESS it is 192.0.2.1, which is nobody's: any machine that is far away. The exit status is 1 if something is
in the way, or if a plugin of CNI finds that something is missing.
""",
    "features": """\
Print as JSON what this runtime knows and serves, whatever the kernel allows (runtime-spec: features.md).
""",
}
