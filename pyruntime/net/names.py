"""/etc/hosts and /etc/resolv.conf of a container: files of its state directory, bound into it read-only.

Containers of a network know each other by ID and by host name. There is no server for that: each has a hosts(5) of its
own, its own names first, and whoever joins or leaves rewrites all of them, in place, for a bind mount shows the file
and not its name.

Companion: libnetwork's sandbox_dns_unix.go, which asks the host's resolver likewise.
"""

from __future__ import annotations

import posix

from pyruntime import report
from pyruntime.errors import KernelError
from pyruntime.linux import files
from pyruntime.linux.proc import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.net.types import Endpoint

HOSTS = "hosts"
RESOLV_CONF = "resolv.conf"
_LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._+")
# systemd-resolved's file with the servers themselves, where /etc/resolv.conf names its stub on 127.0.0.53.
_UPSTREAM = "/run/systemd/resolve/resolv.conf"
_LIMIT = 1 << 20


def is_name(text: str) -> bool:
    """Whether a host name may stand in others' files: config.json may have blanks and lines in it."""
    return 0 < len(text) <= 253 and _LETTERS.issuperset(text) and text != "localhost"


def place_files(state_path: str) -> None:
    """Make both files in a container's state directory, so that they can be bound. Raises KernelError.

    resolv.conf is complete; the names are told by `tell_all`, when the container has an address.
    """
    for name, text in ((HOSTS, _LOCALHOST), (RESOLV_CONF, resolv_conf())):
        path = f"{state_path}/{name}"
        try:
            files.replace(path, text.encode("utf-8", "surrogateescape"), 0o644)
            posix.chmod(path, 0o644)  # whatever the umask: it is for every user of the container
        except OSError as error:
            raise KernelError(f"write {path!r}", error.errno or 0, where="--root") from None


def tell_all(root_path: str, endpoints: list[Endpoint]) -> None:
    """Rewrite the hosts file of each of these containers, which are all of a network. Raises KernelError."""
    ids = {endpoint["id"] for endpoint in endpoints}
    lines = {endpoint["id"]: _lines(endpoint, ids) for endpoint in endpoints}
    everybody = "".join(lines.values())
    for id, own in lines.items():
        text = f"{_LOCALHOST}{own}{everybody.replace(own, '', 1)}"
        path = f"{root_path}/{id}/{HOSTS}"
        try:
            files.rewrite(path, text.encode())
        except FileNotFoundError:
            continue  # it is being deleted
        except OSError as error:
            raise KernelError(f"write {path!r}", error.errno or 0) from None


def tell_servers(state_path: str, dns: dict[str, Any]) -> None:
    """Write a container's resolv.conf anew, if a network names servers of its own. Raises KernelError.

    dns: "nameservers", "domain", "search" and "options", as CNI has them (SPEC.md, 5).
    """
    if not dns.get("nameservers"):
        return
    lines = [f"nameserver {server}" for server in dns["nameservers"]]
    search = dns.get("search") or ([dns["domain"]] if dns.get("domain") else [])
    lines += [f"search {' '.join(search)}"] if search else []
    lines += [f"options {' '.join(dns['options'])}"] if dns.get("options") else []
    path = f"{state_path}/{RESOLV_CONF}"
    try:
        files.rewrite(path, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise KernelError(f"write {path!r}", error.errno or 0) from None


def _lines(endpoint: Endpoint, ids: set[str]) -> str:
    """The lines of one container: its addresses, its ID, and its host name unless that is another one's ID."""
    hostname = endpoint["hostname"]
    names = endpoint["id"] if not hostname or hostname in ids else f"{endpoint['id']} {hostname}"
    return "".join(f"{address.partition('/')[0]}\t{names}\n" for address in endpoint["ips"])


def resolv_conf() -> str:
    """The host's resolv.conf(5) without the servers that only the host itself can reach.

    Those on a loopback address would be the container's own, those with a zone (fe80::1%eth0) name an interface that
    it does not have. Warns if none is left.
    """
    text = _read("/etc/resolv.conf")
    servers = _servers(text)
    if servers and all(server.startswith("127.") for server in servers):
        text = _read(_UPSTREAM) or text
    kept = [line for line in text.splitlines() if not _is_of_the_host(line)]
    if servers and not _servers("\n".join(kept)):
        report.warn(
            "the container has no name server: /etc/resolv.conf names only addresses that it cannot reach: "
            + ", ".join(servers)
        )
    return "".join(f"{line}\n" for line in kept)


def _servers(text: str) -> list[str]:
    words = [line.split() for line in text.splitlines()]
    return [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]


def _is_of_the_host(line: str) -> bool:
    return any(server.startswith("127.") or server == "::1" or "%" in server for server in _servers(line))


def _read(path: str) -> str:
    try:
        return read_file(path, _LIMIT).decode("utf-8", "surrogateescape")
    except OSError:
        return ""  # no name servers: then there are none for the container
