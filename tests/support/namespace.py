"""Network namespaces of a test's own: "the host", "the outside", and whatever else it wants to be a machine.

Nothing here touches the machine's real network: every interface, address and packet is inside of a Machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
# What some kernels put into every new network namespace.
FALL_BACKS = {"sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0", "ip6_vti0"}
TIMEOUT = 10.0  # seconds for one connection or one command: a bound on a hang, never a measure

# /sys shows the network namespace of whoever mounted it, so it is mounted anew; the cgroups below stay the same ones.
_SYSFS = 'mount -t sysfs sysfs "$1" && mount --rbind /sys/fs/cgroup "$1/fs/cgroup" && mount --rbind "$1" /sys'
_HOLD = "ip link set lo up && echo up && exec sleep 100000"


class Machine:
    """A network namespace and a mount namespace, held by a process that sleeps in them. To be closed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        script = f"mount --make-rprivate / && {_SYSFS} && {_HOLD}"
        command = ["unshare", "--net", "--mount", "sh", "-c", script, "sh", str(folder)]
        self.holder = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"up\n", f"no namespaces for {name}"
        self.path = f"/proc/{self.holder.pid}/ns/net"

    def close(self) -> None:
        """Let the namespaces end, and with them every interface in there."""
        self.holder.kill()
        self.holder.communicate()

    def command(self, *words: str) -> list[str]:
        """A command line that runs in here."""
        pid = self.holder.pid
        return ["nsenter", f"--net=/proc/{pid}/ns/net", f"--mount=/proc/{pid}/ns/mnt", "--", *words]

    def launcher(self, path: Path, *words: str) -> str:
        """A program at `path` that runs a command in here: two lines, so that signals and exit status are its own."""
        path.write_text(f'#!/bin/sh\nexec {" ".join(self.command(*words))} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def run(self, *words: str, check: bool = True, text: str = "") -> str:
        """Run a command in here, with `text` as its input; its output. With `check` it must succeed."""
        done = subprocess.run(self.command(*words), input=text, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, f"{self.name}: {shlex.join(words)}: {done.stderr}"
        return done.stdout

    def ip(self, *words: str) -> None:
        """Run ip(8) in here."""
        self.run("ip", *words)

    def links(self) -> dict[str, dict[str, Any]]:
        """What iproute2 says of the interfaces, by name, with their addresses."""
        told = json.loads(self.run("ip", "-j", "-d", "address"))
        return {link["ifname"]: link for link in told if link["ifname"] not in FALL_BACKS}

    def addresses(self, link: str) -> set[str]:
        """The addresses of an interface with their prefix lengths, but for the link-local ones."""
        told = self.links()[link]["addr_info"]
        return {f"{info['local']}/{info['prefixlen']}" for info in told if info["scope"] == "global"}

    def rules(self) -> str:
        """The nftables ruleset, "" where there is no nft(8)."""
        try:
            return self.run("nft", "list", "ruleset", check=False)
        except FileNotFoundError:
            return ""

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """This thread is in here meanwhile: a socket that it opens belongs to this network for good."""
        return entered(self.path)

    def connect(self, address: str, port: int, *, udp: bool = False, source_port: int = 0) -> socket.socket:
        """A socket of this machine, connected. The caller closes it. Raises OSError as connect(2)."""
        with self.entered():
            opened = _socket_for(address, udp)
        opened.settimeout(TIMEOUT)
        try:
            if source_port:
                opened.bind(("", source_port))
            opened.connect((address, port))
        except BaseException:
            opened.close()
            raise
        return opened

    def listen(self, address: str, port: int, *, udp: bool = False) -> socket.socket:
        """A socket of this machine that waits for others. The caller closes it."""
        return listen(self.path, address, port, udp=udp)

    def ask(self, address: str, port: int, text: str = "", *, udp: bool = False) -> str:
        """Connect, send `text`, and return all that comes back (of UDP: one datagram). Raises OSError."""
        with self.connect(address, port, udp=udp) as opened:
            opened.sendall(text.encode())
            if udp:
                return opened.recv(65536).decode()
            opened.shutdown(socket.SHUT_WR)
            answer = b""
            while part := opened.recv(65536):
                answer += part
        return answer.decode()

    def reaches(self, address: str, port: int, *, udp: bool = False, within: float = 1.0) -> bool:
        """Whether something answers there. `within` bounds the wait for an answer that is not to come."""
        try:
            with self.entered():
                opened = _socket_for(address, udp)
            with opened:
                opened.settimeout(within)
                opened.connect((address, port))
                if udp:
                    opened.send(b"?")
                    return bool(opened.recv(1))
                return True
        except OSError:
            return False


class Servers:
    """Who comes to a port, by TCP or UDP, by IPv4 or IPv6, is told a name, and the address that it is seen to have."""

    def __init__(self, namespace: str, port: int, name: str) -> None:
        self._name = name
        self._listed = [listen(namespace, "::", port), listen(namespace, "::", port, udp=True)]
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def close(self) -> None:
        """No more answers."""
        self._stop.close()
        self._thread.join()
        for each in (*self._listed, self._stopped):
            each.close()

    def _answer(self) -> None:
        while True:
            ready, _, _ = select.select([*self._listed, self._stopped], [], [])
            if self._stopped in ready:
                return
            for server in ready:
                if server.type == socket.SOCK_STREAM:
                    client, peer = server.accept()
                    with client:
                        client.recv(100)
                        client.sendall(self._told(peer))
                else:
                    _, peer = server.recvfrom(100)
                    server.sendto(self._told(peer), peer)

    def _told(self, peer: tuple[str, int]) -> bytes:
        return f"{self._name} {peer[0].removeprefix('::ffff:')}".encode()


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This thread is in a network namespace meanwhile, given as a path."""
    with open("/proc/thread-self/ns/net") as home, open(namespace) as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def listen(namespace: str, address: str, port: int, *, udp: bool = False) -> socket.socket:
    """A socket of a network namespace that waits for others. The caller closes it."""
    with entered(namespace):
        opened = _socket_for(address, udp)
    opened.settimeout(TIMEOUT)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((address, port))
    if not udp:
        opened.listen(16)
    return opened


def in_namespace_of(pid: int, *words: str) -> str:
    """Run a command of this host in the network namespace of a process; its output."""
    return subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *words], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def join_by_cable(one: Machine, other: Machine, end: str, other_end: str) -> None:
    """Connect two machines by a veth pair, both ends up."""
    one.ip("link", "add", end, "type", "veth", "peer", "name", other_end, "netns", str(other.holder.pid))
    one.ip("link", "set", end, "up")
    other.ip("link", "set", other_end, "up")


def _socket_for(address: str, udp: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")
