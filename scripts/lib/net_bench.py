"""sudo scripts/bench net: what a network adds to a start, beside what the standard CNI bridge plugin adds to runc.

  pyruntime           run ID: the loopback alone
  pyruntime, bridge   run --net bridge ID
  runc                run ID: the same
  runc, CNI bridge    a network namespace; ADD of the plugin bridge with ipMasq and host-local; run ID in it; DEL; the
                      namespace removed: as an engine does it, but without the engine

With --publish the networked ones also publish a port; runc's by the plugin portmap. All take turns, in a network
namespace of the benchmark's own with private mounts. CPU is that of all processes and of the benchmark itself, which
makes the namespaces. "adds" is the difference, the making and the taking away together; the last row is ours as a part
of CNI's. --pieces times what a start could be made of besides.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from scripts.lib.environment import checkout_launcher, distribution_python, test_environment
from scripts.lib.steps import CHECKOUT, die, need_root
from scripts.lib.timing import (
    ENVIRONMENT,
    REST,
    WARM_UP,
    Action,
    Failed,
    be_subreaper,
    clean,
    command,
    difference,
    make_bundle,
    ratio,
    show_row,
    spawn,
    table_of,
    take_turns,
    version,
)
from scripts.lib.view import with_v2_alone

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
PLUGINS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
BRIDGE = {
    "cniVersion": "1.0.0",
    "name": "bench",
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": True,
    "ipMasq": True,
    "hairpinMode": True,
}
PORTMAP = {
    "cniVersion": "1.0.0",
    "name": "bench",
    "type": "portmap",
    "runtimeConfig": {"portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]},
}
libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> None:
    """Raise OSError if a call of the C library has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def leave_the_machine() -> None:
    """A network namespace and mounts of our own: no packet, rule, lock or file of ours reaches the machine's."""
    must(libc.unshare(CLONE_NEWNET | CLONE_NEWNS), "unshare")
    must(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount /")
    must(libc.mount(b"none", b"/run", b"tmpfs", 0, None), "mount /run")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Namespace:
    """A network namespace at a path, as engines hold it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def make(self) -> None:
        """Without another process: so does a Go engine, which has a thread to spare."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        must(libc.unshare(CLONE_NEWNET), "unshare")
        must(libc.mount(b"/proc/self/ns/net", bytes(self.path), None, MS_BIND, None), "mount")
        must(libc.setns(home, CLONE_NEWNET), "setns")
        os.close(home)

    def remove(self) -> None:
        must(libc.umount2(bytes(self.path), MNT_DETACH), "umount")


class Cni:
    """The plugins, run as libcni runs them."""

    def __init__(self, folder: Path, *, publish: bool) -> None:
        self.folder = folder
        self.namespace = Namespace(folder / "netns")
        self.directory = next((path for path in PLUGINS if Path(path, "bridge").exists()), "")
        if not self.directory:
            die("the CNI plugins are missing (apt-get install containernetworking-plugins)")
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": "10.88.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(folder / "leases"),
        }
        self.chain: list[dict[str, Any]] = [BRIDGE | {"ipam": ipam}, *([PORTMAP] if publish else [])]

    def plugin(self, verb: str, config: dict[str, Any], id: str) -> dict[str, Any]:
        """Run one; its result, empty for DEL."""
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": id,
            "CNI_NETNS": str(self.namespace.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": self.directory,
        }
        stdin, log = self.folder / "stdin", self.folder / "plugin.log"
        stdin.write_text(json.dumps(config))
        fd = os.open(stdin, os.O_RDONLY)
        try:
            spawn([f"{self.directory}/{config['type']}"], log, ENVIRONMENT | variables, fd)
        finally:
            os.close(fd)
        return json.loads(log.read_text() or "{}")  # type: ignore[no-any-return]

    def add(self, id: str) -> dict[str, Any]:
        """All of the chain; the last result."""
        result: dict[str, Any] = {}
        for config in self.chain:
            result = self.plugin("ADD", config | ({"prevResult": result} if result else {}), id)
        return result

    def delete(self, id: str, result: dict[str, Any]) -> None:
        for config in reversed(self.chain):
            self.plugin("DEL", config | {"prevResult": result}, id)

    def run(self, runtime: str, root: Path, bundle: Path, id: str) -> None:
        """What an engine does for a container with a network."""
        self.namespace.make()
        result = self.add(id)
        command(runtime, root, "run", "--bundle", str(bundle), id)
        self.delete(id, result)
        self.namespace.remove()


def plain_run(runtime: str, root: Path, bundle: Path, flags: list[str], id: str) -> None:
    command(runtime, root, "run", *flags, "--bundle", str(bundle), id)


def in_namespace(bundle: Path, namespace: Path) -> Path:
    """A copy of the bundle, for a container that joins a network namespace."""
    copy = bundle.with_name("bundle-cni")
    shutil.copytree(bundle, copy)
    config = json.loads((copy / "config.json").read_text())
    for entry in config["linux"]["namespaces"]:
        if entry["type"] == "network":
            entry["path"] = str(namespace)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def bench_net(arguments: list[str], script: str) -> int:
    """The whole of `scripts/bench net`."""
    parser = argparse.ArgumentParser(
        prog="bench net", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="passes of each (%(default)s)")
    parser.add_argument("--regime", choices=[*REST, "both"], default="both")
    parser.add_argument("--publish", action="store_true", help="publish a port, too")
    parser.add_argument("--pieces", action="store_true", help="time imports, nft and netlink alone, and nothing else")
    parser.add_argument("--pyruntime", help="the command to measure (this checkout's)")
    parser.add_argument("--json", type=Path, help="write all samples to a file")
    options = parser.parse_args(arguments)
    need_root("make networks")
    again = with_v2_alone(script, ["net", *arguments])
    if again is not None:
        return again
    be_subreaper()
    leave_the_machine()
    with tempfile.TemporaryDirectory(prefix="pyruntime-bench-") as name:
        os.chmod(name, 0o755)
        folder = Path(name)
        if options.pieces:
            pieces(options.rounds)
            return 0
        results = [
            compare(regime, options, folder) for regime in (REST if options.regime == "both" else [options.regime])
        ]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0


def compare(regime: str, options: argparse.Namespace, parent: Path) -> dict[str, Any]:
    """One regime: the table, and what is added."""
    folder = parent / regime
    folder.mkdir()
    own = folder / "own"
    own.mkdir()
    ours = options.pyruntime or str(checkout_launcher(own, str(distribution_python())))
    runc = shutil.which("runc") or die("runc is missing (apt-get install runc)")
    bundle = make_bundle(folder, ours)
    cni = Cni(folder, publish=options.publish)
    flags = ["--net", "bridge", *(["-p", "8080:80"] if options.publish else [])]
    roots = {name: folder / f"root-{name}" for name in ("ours", "runc")}
    for root in roots.values():
        root.mkdir()
    networked = "bridge, port" if options.publish else "bridge"
    actions: dict[str, Action] = {
        "pyruntime": partial(plain_run, ours, roots["ours"], bundle, []),
        f"pyruntime, {networked}": partial(plain_run, ours, roots["ours"], bundle, flags),
        "runc": partial(plain_run, runc, roots["runc"], bundle, []),
        f"runc, CNI {networked}": partial(cni.run, runc, roots["runc"], in_namespace(bundle, cni.namespace.path)),
    }
    print(f"\n{regime} ({REST[regime] * 1000:.0f} ms between starts), {options.rounds} rounds")
    print(f"   pyruntime: {version(ours)}\n   runc: {version(runc)}\n   CNI: {plugin_version(cni)}")
    print(f"   kernel {os.uname().release}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    try:
        take_turns(actions, regime, WARM_UP, ourselves=True)
        samples = take_turns(actions, regime, options.rounds, ourselves=True)
    except Failed as failure:
        die(str(failure))
    finally:
        clean(ours, roots["ours"])
        clean(runc, roots["runc"])
    table = table_of(samples)
    show_row("")
    for name, row in table.items():
        show_row(f"{name}, ms", row)
    plain, with_network, other_plain, other_with_network = table.values()
    added, other_added = difference(with_network, plain), difference(other_with_network, other_plain)
    show_row("pyruntime adds, ms", added)
    show_row("CNI adds, ms", other_added)
    show_row("pyruntime / CNI", ratio(added, other_added))
    return {"regime": regime, "samples": samples, "table": table}


def plugin_version(cni: Cni) -> str:
    """What Debian calls its plugins' version; "" elsewhere."""
    query = ["dpkg-query", "--show", "containernetworking-plugins"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or cni.directory
    except FileNotFoundError:
        return cni.directory


def pieces(rounds: int) -> None:
    """What a start could be made of, each as a program of its own, beside the interpreter that does nothing."""
    python = str(distribution_python())
    libraries = next(test_environment().parent.parent.glob("lib/python*/site-packages"))
    start = f"import sys; sys.path[:0] = {[str(CHECKOUT), str(libraries)]!r}; "
    ours = f"{start}from pyruntime.linux.netlink import Netlink; n = Netlink(); "
    theirs = f"{start}from pyroute2 import IPRoute; n = IPRoute(); "
    programs: dict[str, list[str]] = {
        "python3 -IS, nothing": [python, "-ISB", "-c", ""],
        "import our netlink, one request": [python, "-ISB", "-c", f"{ours}n.find('lo')"],
        "import pyroute2": [python, "-ISB", "-c", f"{start}import pyroute2"],
        "import pyroute2, one request": [python, "-ISB", "-c", f"{theirs}n.get_links()"],
        "nft: an empty transaction": [shutil.which("nft") or die("nft is missing"), "-f", "/dev/null"],
        "nft: list the ruleset": [shutil.which("nft") or "", "list", "ruleset"],
        "ip: a veth pair made": [shutil.which("ip") or "", *"link add a0 type veth peer a1".split()],
        "ip: a veth pair removed": [shutil.which("ip") or "", *"link delete a0".split()],
    }
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        actions: dict[str, Action] = {name: partial(program, argv, log) for name, argv in programs.items()}
        take_turns(actions, "busy", WARM_UP, ourselves=False)
        table = table_of(take_turns(actions, "busy", rounds, ourselves=False))
    show_row("")
    for name, row in table.items():
        show_row(f"{name}, ms", row)


def program(argv: list[str], log: Path, _id: str) -> None:
    spawn(argv, log)
