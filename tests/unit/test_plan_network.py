"""--net, -p, --ip and their annotations: what they mean, and what is refused, by the name of what said it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pyruntime.errors import UsageError
from pyruntime.plan.build import build
from pyruntime.plan.mounts import BindMount
from pyruntime.plan.namespaces import AwaitNetwork, JoinNamespace, NewNamespace, RaiseLoopback
from pyruntime.plan.network import ConnectNetwork, Selection, apply, parse_ports, port_text, select
from pyruntime.plan.step import Plan
from pyruntime.spec.default import default_spec
from pyruntime.spec.validate import validate

NET = "org.pyruntime.network"
PUBLISH = "org.pyruntime.publish"


def chosen(net: str = "", ports: list[str] | None = None, ip: str = "", **annotations: str) -> Selection:
    found = select(net, ports or [], ip, {f"org.pyruntime.{name}": text for name, text in annotations.items()})
    assert found is not None
    return found


def planned(selection: Selection, **changes: Any) -> Plan:
    spec: Any = copy.deepcopy(default_spec())
    spec.update(changes)
    apply(selection, spec)
    validate(spec)
    selection.files_path = "/run/pyruntime/web" if selection.is_connected else ""
    return build(spec, "/bundle", "web", "/web", network=selection)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("none", "none", ""),
        ("host", "host", ""),
        ("container:web", "container", "web"),
        ("ns:/run/netns/a:b", "ns", "/run/netns/a:b"),
        ("bridge", "bridge", "default"),
        ("bridge:back-end.1", "bridge", "back-end.1"),
    ],
)
def test_the_networks(text: str, kind: str, value: str) -> None:
    for found, where in ((chosen(text), "--net"), (chosen(network=text), f"config.json#/annotations/{NET}")):
        assert (found.kind, found.value, found.where) == (kind, value, where)


@pytest.mark.parametrize(
    "text", ["", "bridg", "none:", "none:x", "host:x", "container", "container:", "ns:", "ns:relative", "ns",
             "bridge:", "bridge:../x", "bridge:a/b", "bridge:.x", "bridge:a\0b", "ns:/x\0y", "Bridge", " none"],
)  # fmt: skip
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        select("", [], "", {NET: text})
    assert caught.value.where == f"config.json#/annotations/{NET}"
    if text:
        with pytest.raises(UsageError) as caught:
            select(text, [], "", {})
        assert caught.value.where == "--net"


def test_an_option_beats_its_annotation() -> None:
    found = chosen("bridge:a", ["1:2"], network="bridge:b", publish="3:4")
    assert (found.value, [port["hostPort"] for port in found.ports]) == ("a", [1])
    assert chosen("none", network="bridge").kind == "none"


def test_nothing_said_is_nothing_selected() -> None:
    assert select("", [], "", {"other": "x"}) is None


def test_a_bundle_can_carry_it() -> None:
    found = chosen(network="bridge", publish="8080:80, 127.0.0.1:53:53/udp,")
    assert [port_text(port) for port in found.ports] == ["8080:80/tcp", "127.0.0.1:53:53/udp"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", ["8080:80/tcp"]),
        ("8080:80/udp", ["8080:80/udp"]),
        ("127.0.0.1:8080:80/tcp", ["127.0.0.1:8080:80/tcp"]),
        ("0.0.0.0:8080:80", ["8080:80/tcp"]),
        ("[::1]:8080:80", ["[::1]:8080:80/tcp"]),
        ("[2001:DB8:0::1]:1:2", ["[2001:db8::1]:1:2/tcp"]),
        ("8000-8002:80-82", ["8000:80/tcp", "8001:81/tcp", "8002:82/tcp"]),
        ("7-7:9", ["7:9/tcp"]),
        ("1:65535", ["1:65535/tcp"]),
    ],
)
def test_ports(text: str, expected: list[str]) -> None:
    assert [port_text(port) for port in parse_ports([text], "-p")] == expected


@pytest.mark.parametrize(
    "text",
    ["", "80", ":80", "80:", "0:80", "80:0", "65536:80", "80:65536", "a:80", "8080:80/sctp", "8080:80/", "8080:80/TCP",
     "1-3:1-2", "3-1:1-3", "1-:2", "-1:2", "::1:80:80", "[::1]80:80", "[::1:80:80", "[1.2.3.4]:80:80", "1.2.3:80:80",
     "1.2.3.4.5:80:80", "localhost:80:80", "1:2:3:4", " 80:80", "+80:80", "8_0:80", "٨٠:80", "80:80 "],
)  # fmt: skip
def test_what_is_no_port(text: str) -> None:
    for given, noted, where in (
        ([text], {}, "--publish"),
        ([], {PUBLISH: f"1:1,{text}x" if text else "1:1,x"}, f"config.json#/annotations/{PUBLISH}"),
    ):
        with pytest.raises(UsageError) as caught:
            select("bridge", given, "", noted)
        assert caught.value.where == where


def test_a_port_is_published_once() -> None:
    with pytest.raises(UsageError, match="'8081:81' publishes port 8081/tcp again, after '8080-8082:80-82'"):
        parse_ports(["8080-8082:80-82", "8081:81"], "--publish")
    assert len(parse_ports(["80:80", "80:80/udp", "127.0.0.1:80:80"], "")) == 3


@pytest.mark.parametrize("net", ["", "none", "host", "container:web", "ns:/x"])
def test_ports_and_addresses_need_a_network(net: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(net, ["80:80"], "", {})
    assert (caught.value.where, "--net bridge" in caught.value.hint) == ("--publish", True)
    with pytest.raises(UsageError) as caught:
        select(net, [], "10.89.0.9", {})
    assert caught.value.where == "--ip"
    with pytest.raises(UsageError) as caught:
        select(net, [], "", {PUBLISH: "80:80"})
    assert caught.value.where == f"config.json#/annotations/{PUBLISH}"


def test_what_is_no_address() -> None:
    for text in ("x", "10.89.0.2/24", "10.89.0", "::g"):
        with pytest.raises(UsageError) as caught:
            select("bridge", [], text, {})
        assert caught.value.where == "--ip"


class TestPlans:
    """What a selection does to the plan."""

    def network_steps(self, plan: Plan) -> list[Any]:
        return [step for step in plan if getattr(step, "kind", "") == "network" or isinstance(step, RaiseLoopback)]

    def test_none_is_a_namespace_with_a_loopback(self) -> None:
        new, loopback = self.network_steps(
            planned(chosen("none"), linux={"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}]})
        )
        assert isinstance(new, NewNamespace)
        assert isinstance(loopback, RaiseLoopback)

    def test_host_is_no_namespace(self) -> None:
        assert self.network_steps(planned(chosen("host"))) == []

    def test_a_namespace_is_joined_by_the_path_that_the_option_gave(self) -> None:
        (joined,) = self.network_steps(planned(chosen("ns:/run/netns/blue")))
        assert isinstance(joined, JoinNamespace)
        assert (joined.path, joined.where) == ("/run/netns/blue", "--net")

    def test_bridge_is_a_namespace_and_a_cable(self) -> None:
        plan = planned(chosen("bridge:back", ["8080:80"], "10.1.2.3"))
        assert isinstance(self.network_steps(plan)[0], NewNamespace)
        (cable,) = [step for step in plan if isinstance(step, ConnectNetwork)]
        assert cable.text() == "connect to the bridge network back as 10.1.2.3, publish 8080:80/tcp"
        bound = {step.target: step.source for step in plan if isinstance(step, BindMount)}
        assert bound["/etc/hosts"] == "/run/pyruntime/web/hosts"
        assert bound["/etc/resolv.conf"] == "/run/pyruntime/web/resolv.conf"
        assert not [step for step in plan if isinstance(step, AwaitNetwork)]

    def test_what_config_json_mounts_itself_stays(self) -> None:
        own = {"destination": "/etc/hosts/", "source": "/my/hosts", "options": ["bind"]}
        plan = planned(chosen("bridge"), mounts=[own])
        assert [step.source for step in plan if isinstance(step, BindMount)] == [
            "/my/hosts",
            "/run/pyruntime/web/resolv.conf",
        ]

    @pytest.mark.parametrize(
        "changes",
        [
            {
                "linux": {
                    "namespaces": [{"type": "mount"}, {"type": "uts"}],
                    "sysctl": {"net.ipv4.conf.eth0.forwarding": "1"},
                }
            },
            {"hooks": {"createContainer": [{"path": "/bin/true"}]}},
        ],
    )
    def test_who_may_look_at_the_interface_waits_for_it(self, changes: Any) -> None:
        assert [step for step in planned(chosen("bridge"), **changes) if isinstance(step, AwaitNetwork)]

    @pytest.mark.parametrize("broken", [{"linux": []}, {"linux": {"namespaces": {}}}, {"linux": {"namespaces": [1]}}])
    def test_a_broken_config_is_left_to_validation(self, broken: Any) -> None:
        apply(chosen("bridge"), broken)
