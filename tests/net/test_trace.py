"""`network trace`: every hop from a container to the outside, and what is in the way."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.net.conftest import HOST, OUTSIDE, OUTSIDE6, Started, address_of, inside
from tests.support.container import Container
from tests.support.namespace import Machine, in_namespace_of
from tests.support.runtime import Result, Runtime

pytestmark = pytest.mark.needs("nft")

# What a router does; that the runtime sees to it itself is tests/net/test_firewall.py's.
FORWARD = "table inet router { chain forward { type filter hook forward priority 5; policy accept;\n%s\n}\n}\n"


def traced(container: Container, *address: str) -> dict[str, Any]:
    """The way as data."""
    result = container.runtime("network", "trace", "--format", "json", container.id, *address)
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.status == (0 if found["arrives"] and not found["problems"] else 1)
    return found


def problems(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(the interface, what is wrong there)."""
    return [(hop["interface"], problem) for hop in found["hops"] for problem in hop["problems"]]


def text(container: Container) -> Result:
    return container.runtime("network", "trace", container.id)


@pytest.mark.parametrize(("target", "family"), [(OUTSIDE, "inet"), (OUTSIDE6, "inet6")])
def test_every_hop_of_a_way_that_is_open(started: Started, host: Machine, target: str, family: str) -> None:
    container = started()
    found = traced(container, target)
    links = inside(container)
    ends = [link for link in host.links().values() if link.get("master") == "pyruntime0"]
    assert [hop["interface"] for hop in found["hops"]] == ["eth0", ends[0]["ifname"], "pyruntime0", "out0"]
    assert [hop["place"] for hop in found["hops"]] == ["container", "host", "host", "host"]
    assert [hop["kind"] for hop in found["hops"]] == ["veth", "veth", "bridge", "veth"]
    assert found["hops"][0]["mac"] == links["eth0"]["address"]
    assert found["hops"][1]["master"] == "pyruntime0"
    assert found["source"] == address_of(container, family)
    assert found["destination"] == target
    assert f"{address_of(container, family)}/" in " ".join(found["hops"][0]["addresses"])
    assert found["hops"][0]["route"].startswith("via ") and "by eth0" in found["hops"][0]["route"]
    assert found["hops"][2]["route"] == "by out0"
    assert found["hops"][3]["neighbour"].startswith(f"{target} has not been asked for yet")
    assert (problems(found), found["translated"], found["arrives"]) == ([], True, True)


def test_a_rule_with_its_counter(started: Started, host: Machine, outside: Machine) -> None:
    container = started()
    host.run("nft", "-f", "-", text=FORWARD % 'iifname "pyruntime0" ip protocol tcp counter accept comment "seen"')
    with outside.listen(OUTSIDE, 7) as listener:
        asked = subprocess.Popen(
            ["nsenter", f"--net=/proc/{container.pid()}/ns/net", "--", "busybox", "nc", "-w", "5", OUTSIDE, "7"],
            stdin=subprocess.DEVNULL,
        )
        listener.accept()[0].close()
        asked.wait(10)
    rules = traced(container, OUTSIDE)["hops"][2]["rules"]
    seen = next(rule for rule in rules if "seen" in rule["rule"])
    assert (seen["table"], seen["chain"], seen["hook"]) == ("inet router", "forward", "forward")
    assert not seen["certain"]  # it asks for a protocol
    assert seen["packets"] >= 3 and seen["bytes"] > 100
    assert f"[{seen['packets']} packets, {seen['bytes']} bytes]" in " ".join(text(container).stdout.split())


def test_who_has_answered(started: Started, outside: Machine) -> None:
    container = started()
    in_namespace_of(container.pid(), "busybox", "ping", "-c", "1", "-w", "5", OUTSIDE)
    first, *_, last = traced(container, OUTSIDE)["hops"]
    assert "10.89.0.1 is at " in first["neighbour"]
    assert last["neighbour"].startswith(f"{OUTSIDE} is at {outside.links()['eth0']['address']}")


BROKEN = {
    "a cable that is down": (["ip", "link", "set", "{end}", "down"], "{end}", "{end} is down"),
    "a bridge that is down": (["ip", "link", "set", "pyruntime0", "down"], "pyruntime0", "pyruntime0 is down"),
    "a cable that is not plugged in": (
        ["ip", "link", "set", "{end}", "nomaster"],
        "{end}",
        "it is no port of a bridge",
    ),
    "no way out": (["ip", "route", "del", "default"], "pyruntime0", "the host has no route to 192.0.2.1"),
    "no forwarding": (["sysctl", "net.ipv4.ip_forward=0"], "pyruntime0", "sysctl net.ipv4.ip_forward is 0"),
    "a rule of another's": (
        ["nft", FORWARD % "ip saddr 10.89.0.0/16 drop"],
        "pyruntime0",
        "dropped by a rule in chain forward of table inet router: ip saddr 10.89.0.0/16 drop",
    ),
    "a policy of another's": (
        ["nft", (FORWARD % "").replace("policy accept", "policy drop")],
        "pyruntime0",
        "dropped by the policy of chain forward of table inet router",
    ),
    "a rule that may match": (
        ["nft", FORWARD % "meta mark 7 drop"],
        "pyruntime0",
        "may be dropped by a rule in chain forward of table inet router: meta mark 0x00000007 drop",
    ),
}


@pytest.mark.parametrize("which", BROKEN)
def test_what_is_in_the_way_on_the_host(started: Started, host: Machine, which: str) -> None:
    container = started()
    end = next(link["ifname"] for link in host.links().values() if link.get("master") == "pyruntime0")
    words, interface, told = BROKEN[which]
    host.run(*[word.replace("{end}", end) for word in words])
    found = traced(container)
    assert not found["arrives"]
    there = [problem for name, problem in problems(found) if name == interface.format(end=end)]
    assert any(told.format(end=end) in problem for problem in there), problems(found)
    result = text(container)
    assert result.status == 1
    assert "in the way, see !" in result.stdout


def test_what_is_in_the_way_in_the_container(started: Started) -> None:
    container = started()
    in_namespace_of(container.pid(), "ip", "route", "del", "default")
    assert problems(traced(container)) == [("eth0", "the container has no route to 192.0.2.1")]
    in_namespace_of(container.pid(), "ip", "link", "set", "eth0", "down")
    assert ("eth0", "eth0 is down") in problems(traced(container))


def test_a_neighbour_that_does_not_answer(started: Started, host: Machine) -> None:
    container = started()
    host.run("busybox", "ping", "-c", "1", "-W", "1", "198.51.100.77", check=False)
    found = traced(container, "198.51.100.77")
    assert ("out0", "198.51.100.77 does not answer on out0") in problems(found)


def test_to_another_container_and_to_the_host(started: Started) -> None:
    first, second = started(), started()
    way = traced(first, address_of(second))
    assert [hop["interface"] for hop in way["hops"]][-1] == "pyruntime0"
    assert "switched" in way["hops"][-1]["route"]
    for address in ("10.89.0.1", HOST):
        way = traced(first, address)
        assert (way["hops"][-1]["interface"], way["hops"][-1]["route"]) == ("pyruntime0", "to this host itself")
        assert way["arrives"]


def test_a_container_without_a_network(started: Started) -> None:
    assert problems(traced(started("sleep 1000", "--net", "none"))) == [
        ("lo", "the container has nothing but a loopback: --net bridge connects it")
    ]


def test_a_container_in_the_hosts_network(started: Started) -> None:
    way = traced(started("sleep 1000", "--net", "host"))
    assert [(hop["place"], hop["interface"]) for hop in way["hops"]] == [("host", "out0")]
    assert (way["source"], way["arrives"]) == (HOST, True)


@pytest.mark.needs("cni")
def test_plugins_of_cni_are_asked_what_they_miss(started: Started, driver: Runtime, scratch: Any) -> None:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.87.0.0/24"}]], "dataDir": str(scratch / "leases")}
    bridge = {"type": "bridge", "bridge": "cni-test", "isGateway": True, "isDefaultGateway": True, "ipMasq": True}
    (scratch / "net.d").mkdir()
    content = {"cniVersion": "1.0.0", "name": "web", "plugins": [bridge | {"ipam": ipam}]}
    (scratch / "net.d/web.conflist").write_text(json.dumps(content))
    driver.environment |= {"NETCONFPATH": str(scratch / "net.d"), "CNI_PATH": "/usr/lib/cni"}
    container = started("sleep 1000", "--net", "cni:web")
    way = traced(container)
    assert ([hop["kind"] for hop in way["hops"]], way["translated"]) == (["veth", "veth", "bridge", "veth"], True)
    assert way["problems"] == []
    in_namespace_of(container.pid(), "ip", "address", "flush", "dev", "eth0")
    assert "CHECK of the CNI plugin bridge: it says " in traced(container)["problems"][0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nobody"], "container does not exist"),
        (["ID", "far-away"], "'far-away' does not appear to be an IPv4 or IPv6 address"),
        (["ID", "1.2.3.4", "5"], "unexpected extra argument (5)"),
        ([], "missing argument 'ID'"),
    ],
)
def test_what_is_refused(started: Started, driver: Runtime, words: list[str], told: str) -> None:
    id = started().id if "ID" in words else ""
    result = driver("network", "trace", *[word.replace("ID", id) for word in words])
    assert result.status == 1
    assert told in result.stderr
    assert len(result.lines()) == 1


def test_a_container_that_has_stopped(started: Started, driver: Runtime) -> None:
    container = started()
    container.kill("KILL")
    container.wait_for("stopped")
    result = text(container)
    assert (result.status, len(result.lines())) == (1, 1)
    assert "the container does not run" in result.stderr
