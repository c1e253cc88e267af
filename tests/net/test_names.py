"""Who is who on a network: /etc/hosts, and /etc/resolv.conf."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.net.conftest import Started, address_of
from tests.support.container import Container
from tests.support.namespace import Machine

SERVE = "while :; do echo hello | nc -l -p 80; done\n"


def seen_inside(container: Container, path: str) -> str:
    """A file as a running container sees it."""
    return Path(f"/proc/{container.pid()}/root{path}").read_text()


def names(container: Container) -> dict[str, str]:
    """The names in a container's /etc/hosts, each with its first IPv4 address: as resolvers read it."""
    found: dict[str, str] = {}
    for line in seen_inside(container, "/etc/hosts").splitlines():
        address, *words = line.split()
        for word in words if ":" not in address else ():
            found.setdefault(word, address)
    return found


def test_two_containers_reach_each_other_by_name(started: Started, container: Container) -> None:
    server = started(SERVE)
    script = f"until nc -w 5 {server.id} 80 </dev/null 2>/dev/null; do usleep 10000; done"
    assert container.output(script, "--net", "bridge") == "hello"


def test_who_joins_and_leaves_is_told_to_all(started: Started) -> None:
    first, second = started(), started()
    for one in (first, second):
        assert names(one)[first.id] == address_of(first)
        assert names(one)[second.id] == address_of(second)
        assert names(one)["localhost"] == "127.0.0.1"
    second.delete("--force")
    assert second.id not in names(first)
    assert first.id in names(first)


def test_a_host_name_is_known_too(new_container: Callable[[], Container], started: Started) -> None:
    other = started()
    named = new_container()
    named.config["hostname"] = "database"
    named.script("sleep 1000")
    assert named.run_detached("--net", "bridge").status == 0
    assert names(other)["database"] == address_of(named)


def test_the_own_host_name_is_oneself(new_container: Callable[[], Container]) -> None:
    """Many containers have the host name that `spec` writes."""
    for _ in range(2):
        one = new_container()
        one.script("sleep 1000")
        assert one.run_detached("--net", "bridge").status == 0
        assert names(one)["runc"] == address_of(one)


def test_a_host_name_can_not_take_another_ones(new_container: Callable[[], Container], started: Started) -> None:
    victim = started()
    for hostname in (victim.id, "x\n10.9.9.9 evil", "two words", "localhost", "\u00e4"):
        one = new_container()
        one.config["hostname"] = hostname
        one.script("sleep 1000")
        result = one.run_detached("--net", "bridge")
        assert result.status == 0, result
        found = names(victim)
        assert found[victim.id] == address_of(victim)
        assert found["localhost"] == "127.0.0.1"
        assert "evil" not in found and "two" not in found


def test_the_files_are_read_only(container: Container) -> None:
    script = "echo x >/etc/hosts; echo x >/etc/resolv.conf; echo done"
    result = container.run_script(script, "--net", "bridge")
    assert (result.stdout, result.stderr.count("Read-only file system")) == ("done\n", 2)


def test_the_files_of_config_json_stay(container: Container, scratch: Path) -> None:
    own = scratch / "own"
    own.write_text("127.0.0.1 mine\n")
    container.add_bind(own, "/etc/hosts")
    assert container.output("cat /etc/hosts", "--net", "bridge") == "127.0.0.1 mine"


def test_another_user_of_the_container_can_read_them(container: Container) -> None:
    container.process["user"] = {"uid": 1000, "gid": 1000}
    assert container.id in container.output("umask; cat /etc/hosts /etc/resolv.conf", "--net", "bridge")


class TestResolvConf:
    def given(self, host: Machine, scratch: Path, text: str, path: str = "/etc/resolv.conf") -> None:
        """Give the host of the test a resolv.conf, in its own mount namespace."""
        file = scratch / "resolv.conf"
        file.write_text(text)
        host.run("mount", "--bind", str(file), path)

    def test_is_the_hosts(self, container: Container, host: Machine, scratch: Path) -> None:
        self.given(host, scratch, "search a.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions ndots:2\n")
        assert container.output("cat /etc/resolv.conf", "--net", "bridge").splitlines() == [
            "search a.example",
            "nameserver 192.0.2.53",
            "nameserver 2001:db8::53",
            "options ndots:2",
        ]

    def test_without_what_only_the_host_reaches(self, container: Container, host: Machine, scratch: Path) -> None:
        self.given(
            host, scratch, "nameserver 127.0.0.1\nnameserver fe80::1%out0\nnameserver 192.0.2.53\nnameserver ::1\n"
        )
        assert container.output("cat /etc/resolv.conf", "--net", "bridge") == "nameserver 192.0.2.53"

    def test_nothing_left_is_told(self, container: Container, host: Machine, scratch: Path) -> None:
        self.given(host, scratch, "nameserver 127.0.0.1\n")
        result = container.run_script("cat /etc/resolv.conf", "--net", "bridge")
        assert (result.status, result.stdout) == (0, "")
        assert "the container has no name server: /etc/resolv.conf names only" in result.stderr

    def test_behind_the_stub_of_systemd(self, container: Container, host: Machine, scratch: Path) -> None:
        self.given(host, scratch, "nameserver 127.0.0.53\n")
        host.run("mount", "-t", "tmpfs", "none", "/run")
        host.run("mkdir", "-p", "/run/systemd/resolve")
        host.run("sh", "-c", "echo nameserver 192.0.2.1 > /run/systemd/resolve/resolv.conf")
        assert container.output("cat /etc/resolv.conf", "--net", "bridge") == "nameserver 192.0.2.1"


def test_a_shared_network_shares_the_names(started: Started, container: Container) -> None:
    other = started()
    assert other.id in container.output("cat /etc/hosts", "--net", f"container:{other.id}")
