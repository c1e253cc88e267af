"""`--net bridge`: containers that talk to each other, to the host and to the outside."""

from __future__ import annotations

import pytest

from tests.net.conftest import Started, address_of, inside
from tests.support.container import Container
from tests.support.namespace import Machine

FAMILIES = ("inet", "inet6")


class TestInterface:
    def test_is_up_and_has_an_address_of_each_subnet(self, started: Started) -> None:
        link = inside(started())["eth0"]
        assert "UP" in link["flags"] and link["operstate"] == "UP"
        addresses = {(info["family"], info["prefixlen"], info["scope"]) for info in link["addr_info"]}
        assert addresses == {("inet", 24, "global"), ("inet6", 64, "global"), ("inet6", 64, "link")}
        assert not any(info.get("tentative") for info in link["addr_info"])

    def test_its_hardware_address_is_made_of_its_address(self, started: Started) -> None:
        container = started()
        octets = [int(part) for part in address_of(container).split(".")]
        assert inside(container)["eth0"]["address"] == "02:50:" + ":".join(f"{octet:02x}" for octet in octets)

    def test_addresses_are_given_in_turn(self, started: Started) -> None:
        first, second = started(), started()
        assert (address_of(first), address_of(second)) == ("10.89.0.2", "10.89.0.3")
        second.delete("--force")
        assert address_of(started()) == "10.89.0.4"


@pytest.mark.parametrize("family", FAMILIES)
class TestTraffic:
    def test_the_host_reaches_a_container(self, started: Started, host: Machine, family: str) -> None:
        container = started("while :; do echo hello | nc -l -p 80; done\n")
        assert ask_when_ready(host, address_of(container, family), 80) == "hello\n"

    def test_a_container_reaches_the_host(self, started: Started, host: Machine, family: str) -> None:
        started()  # so that the bridge is there
        gateway = next(info["local"] for info in host.links()["pyruntime0"]["addr_info"] if info["family"] == family)
        with host.listen(gateway, 80) as listener:
            client = started(f"echo hi | nc {gateway} 80\nsleep 1000")
            connection, peer = listener.accept()
            with connection:
                assert connection.recv(100) == b"hi\n"
        assert peer[0] == address_of(client, family)

    def test_containers_reach_each_other(self, container: Container, started: Started, family: str) -> None:
        server = started("while :; do echo hello | nc -l -p 80; done\n")
        target = address_of(server, family)
        script = f"until nc -w 5 {target} 80 </dev/null 2>/dev/null; do usleep 10000; done"
        assert container.output(script, "--net", "bridge") == "hello"


def ask_when_ready(machine: Machine, address: str, port: int) -> str:
    """Ask a server that is about to listen."""
    for _ in range(500):
        try:
            return machine.ask(address, port)
        except ConnectionRefusedError:
            continue
    return machine.ask(address, port)
