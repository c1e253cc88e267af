"""`-p`: published ports of containers, from the command line to the packet. (What the rules do: test_firewall.py.)"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.net.conftest import HOST, HOST6, OUTSIDE, OUTSIDE6, Started, published
from tests.support.container import Container
from tests.support.namespace import Machine, Servers
from tests.support.runtime import Runtime

pytestmark = pytest.mark.needs("nft")

Serving = Callable[..., Container]


@pytest.fixture
def serving(started: Started) -> Iterator[Serving]:
    """Start a container that serves: `serving("8080:80", inside=80)`. It answers with its ID."""
    servers: list[Servers] = []

    def start(*publish: str, inside: tuple[int, ...] = (80,), net: str = "bridge") -> Container:
        container = started("sleep 1000", "--net", net, *(word for each in publish for word in ("-p", each)))
        servers.extend(Servers(f"/proc/{container.pid()}/ns/net", port, container.id) for port in inside)
        return container

    yield start
    for each in servers:
        each.close()


class TestReached:
    @pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
    def test_from_everywhere(self, serving: Serving, host: Machine, outside: Machine, udp: bool) -> None:
        container = serving(f"8080:80{'/udp' * udp}")
        assert outside.ask(HOST, 8080, "?", udp=udp) == f"{container.id} {OUTSIDE}"
        assert outside.ask(HOST6, 8080, "?", udp=udp) == f"{container.id} {OUTSIDE6}"
        assert host.ask("127.0.0.1", 8080, "?", udp=udp).startswith(container.id)

    def test_ranges(self, serving: Serving, outside: Machine) -> None:
        container = serving("8000-8002:80-82", "8100-8101:80-81/udp", inside=(80, 81, 82))
        for port in (8000, 8001, 8002):
            assert outside.ask(HOST, port).startswith(container.id)
        for port in (8100, 8101):
            assert outside.ask(HOST, port, "?", udp=True).startswith(container.id)

    def test_at_an_address(self, serving: Serving, host: Machine, outside: Machine) -> None:
        container = serving("127.0.0.1:8080:80", f"[{HOST6}]:8081:80")
        assert host.ask("127.0.0.1", 8080).startswith(container.id)
        assert outside.ask(HOST6, 8081).startswith(container.id)
        assert not outside.reaches(HOST, 8080, within=0.2)
        assert not outside.reaches(HOST, 8081, within=0.2)

    def test_by_annotation(self, started: Started, new_container: Callable[[], Container], host: Machine) -> None:
        container = new_container()
        container.config["annotations"] = {
            "org.pyruntime.network": "bridge",
            "org.pyruntime.publish": "8080:80, 127.0.0.1:53:53/udp",
        }
        container.script("exec sleep 1000")
        assert container.run_detached().status == 0
        assert len(published(host)) == 3

    def test_from_another_container_by_the_address_of_the_host(self, serving: Serving, container: Container) -> None:
        """The kernel of a test has bridge-nf-call-iptables on, as most hosts with Docker have."""
        server = serving("8080:80")
        assert container.output(f"echo | nc {HOST} 8080", "--net", "bridge").startswith(server.id)

    def test_its_own_by_the_address_of_the_host(self, serving: Serving) -> None:
        container = serving("8080:80")
        for address in (HOST, HOST6):
            assert container.exec_output(f"echo | nc {address} 8080").startswith(container.id)

    def test_the_outside_sees_the_host(self, started: Started, outside: Machine) -> None:
        for there, seen in ((OUTSIDE, HOST), (OUTSIDE6, HOST6)):
            with outside.listen(there, 80) as listener:
                started(f"nc {there} 80\nsleep 1000", "--net", "bridge")
                client, peer = listener.accept()
                client.close()
            assert peer[0] == seen

    def test_created_and_started(self, container: Container, outside: Machine, host: Machine) -> None:
        container.script("exec sleep 1000")
        assert container.create("--net", "bridge", "-p", "8080:80").status == 0
        assert len(published(host)) == 2
        assert container.start().status == 0
        container.kill("KILL")
        container.wait_for("stopped")
        assert container.delete().status == 0
        assert published(host) == []


class TestGivenBack:
    """However a container ends, its ports are free afterwards (which the stage looks at, too)."""

    def test_when_it_ends(self, container: Container, host: Machine) -> None:
        assert container.run_script("true", "--net", "bridge", "-p", "8080:80").status == 0
        assert published(host) == []

    def test_deleted_by_force(self, serving: Serving, host: Machine) -> None:
        container = serving("8080:80", "8080:80/udp", "127.0.0.1:8081:80")
        assert len(published(host)) == 5
        assert container.delete("--force").status == 0
        assert published(host) == []

    def test_the_start_fails(self, container: Container, host: Machine) -> None:
        container.process["args"] = ["/bin/nope"]
        assert container.run("--net", "bridge", "-p", "8080:80").status == 1
        assert published(host) == []

    def test_a_udp_client_reaches_the_next_container(self, serving: Serving, outside: Machine) -> None:
        first = serving("5353:53/udp", inside=(53,))
        with outside.connect(HOST, 5353, udp=True, source_port=40000) as client:
            client.send(b"?")
            assert client.recv(100).decode().startswith(first.id)
            assert first.delete("--force").status == 0
            second = serving("5353:53/udp", inside=(53,))
            client.send(b"?")
            assert client.recv(100).decode().startswith(second.id)

    def test_the_runtime_is_killed(
        self, serving: Serving, new_container: Callable[[], Container], host: Machine
    ) -> None:
        """At whatever step: `delete --force` takes back what there is, and the port can be published anew."""
        for delay in range(0, 40, 4):
            container = new_container()
            container.script("exec sleep 1000")
            process = container.spawn(
                "-d", "--net", "bridge", "-p", "8080:80", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(delay / 1000)
            except subprocess.TimeoutExpired:
                process.kill()
            process.wait()
            assert container.delete("--force").status == 0
            assert published(host) == []
        serving("8080:80")


class TestTaken:
    def test_by_a_container(self, serving: Serving, new_container: Callable[[], Container], host: Machine) -> None:
        first = serving("8080:80")
        before = published(host)
        for wanted in ("8080:80", "127.0.0.1:8080:81", "8079-8081:79-81"):
            second = new_container()
            second.script("true")
            result = second.run("--net", "bridge", "-p", wanted)
            assert result.status == 1
            assert f"--publish: the port {wanted.rpartition(':')[0].replace('8079-8081', '8080')}/tcp is taken: " in (
                result.stderr
            )
            assert f"the container {first.id} of the network default has it" in result.stderr
            assert published(host) == before

    def test_by_a_container_of_another_network(
        self, serving: Serving, container: Container, driver: Runtime, host: Machine
    ) -> None:
        first = serving("8080:80")
        assert driver("network", "create", "other").status == 0
        container.script("true")
        result = container.run("--net", "bridge:other", "-p", "8080:80")
        assert result.status == 1
        assert f"the container {first.id} of the network default has it" in result.stderr

    def test_by_a_process_of_the_host(self, container: Container, host: Machine) -> None:
        container.script("true")
        with host.listen(HOST, 8080):
            result = container.run("--net", "bridge", "-p", "8080:80")
            assert result.status == 1
            assert "--publish: the port 8080/tcp is taken: '" in result.stderr
            assert f"(process {os.getpid()}) of this host has it" in result.stderr
        assert container.run("--net", "bridge", "-p", "8080:80").status == 0

    def test_two_at_once(self, new_container: Callable[[], Container], host: Machine) -> None:
        """One of them has it, and the other is told who."""
        pair = [new_container(), new_container()]
        for one in pair:
            one.script("exec sleep 1000")
        files = [tempfile.TemporaryFile() for _ in pair]
        started = [
            one.spawn("-d", "--net", "bridge", "-p", "8080:80", stdout=subprocess.DEVNULL, stderr=file)
            for one, file in zip(pair, files, strict=True)
        ]
        statuses = [process.wait() for process in started]
        assert sorted(statuses) == [0, 1]
        winner, loser = pair[statuses.index(0)], statuses.index(1)
        files[loser].seek(0)
        assert f"the container {winner.id} of the network default has it" in files[loser].read().decode()
        for file in files:
            file.close()

    def test_an_address_that_the_host_does_not_have(self, container: Container, host: Machine) -> None:
        container.script("true")
        result = container.run("--net", "bridge", "-p", "198.51.100.77:8080:80")
        assert result.status == 1
        assert "--publish: the port 198.51.100.77:8080/tcp can't be published: this host does not have" in result.stderr


class TestRules:
    def test_flushed_by_somebody(self, serving: Serving, host: Machine, outside: Machine) -> None:
        """The next container on the network brings them back, with what others have published."""
        first = serving("8080:80")
        host.run("nft", "flush", "ruleset")
        serving("8081:80")
        assert outside.ask(HOST, 8080).startswith(first.id)

    def test_no_nft(self, container: Container, host: Machine) -> None:
        container.script("true")
        host.run("mount", "-t", "tmpfs", "none", "/usr/sbin")
        result = container.run("--net", "bridge")
        assert result.status == 1
        assert "a network needs the program nft" in result.stderr

    def test_others_rules_are_as_they_were(self, serving: Serving, host: Machine) -> None:
        host.run(
            "nft",
            "-f",
            "-",
            text="table ip filter { chain FORWARD { type filter hook forward priority 0; counter; }; }\n",
        )
        before = host.run("nft", "list", "table", "ip", "filter")
        serving("8080:80").delete("--force")
        assert host.run("nft", "list", "table", "ip", "filter") == before
