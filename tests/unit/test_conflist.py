"""CNI network configurations: which file counts, what is wrong with one, and what a plugin is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyruntime.errors import ConfigError, UnsupportedError
from pyruntime.net import conflist

BRIDGE = {"type": "bridge", "bridge": "cni0", "capabilities": {"ips": True}, "ipam": {"type": "host-local"}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True, "bandwidth": False}}


def write(path: Path, content: Any, **more: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps({"cniVersion": "1.0.0", **content, **more})
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "10-web.conflist", {"name": "web", "plugins": [BRIDGE, PORTMAP]})
    assert conflist.find("web", str(tmp_path)) == {
        "name": "web",
        "file": str(path),
        "versions": ["1.0.0"],
        "checks": True,
        "plugins": [BRIDGE, PORTMAP],
    }


@pytest.mark.parametrize("name", ["web.conf", "web.json"])
def test_a_single_plugin(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, BRIDGE, name="web", disableCheck=True)
    found = conflist.find("web", str(tmp_path))
    assert [plugin["type"] for plugin in found["plugins"]] == ["bridge"]
    assert not found["checks"]


def test_the_first_counts_and_lists_before_single_plugins(tmp_path: Path) -> None:
    write(tmp_path / "00.conf", BRIDGE, name="web")
    second = write(tmp_path / "20.conflist", {"name": "web", "plugins": [BRIDGE]})
    assert conflist.find("web", str(tmp_path))["file"] == str(second)
    first = write(tmp_path / "10.conflist", {"name": "web", "plugins": [PORTMAP]})
    assert conflist.find("web", str(tmp_path))["file"] == str(first)


def test_more_plugins_in_a_directory_of_the_networks_own(tmp_path: Path) -> None:
    write(tmp_path / "web/10.conf", PORTMAP)
    write(tmp_path / "web/20.txt", "not looked at")
    path = write(tmp_path / "web.conflist", {"name": "web", "plugins": [BRIDGE]})
    assert [plugin["type"] for plugin in conflist.find("web", str(tmp_path))["plugins"]] == ["bridge", "portmap"]
    write(path, {"name": "web", "plugins": [BRIDGE]}, loadOnlyInlinedPlugins=True)
    assert [plugin["type"] for plugin in conflist.find("web", str(tmp_path))["plugins"]] == ["bridge"]


def test_a_broken_file_of_another_network_is_only_told(tmp_path: Path) -> None:
    write(tmp_path / "00.conflist", "{")
    write(tmp_path / "10.conflist", {"name": "web", "plugins": [BRIDGE]})
    assert conflist.find("web", str(tmp_path))["name"] == "web"
    with pytest.raises(ConfigError, match=r"no CNI network 'other' in .*there are: .*00\.conflist: .*; web\)"):
        conflist.find("other", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"plugins": {}}, "/plugins must be a list"),
        ({"plugins": []}, "/plugins: the network has no plugin"),
        ({}, "/plugins: the network has no plugin"),
        ({"plugins": ["bridge"]}, "/plugins/0 must be an object"),
        ({"plugins": [BRIDGE, {}]}, "/plugins/1/type must be the name of a plugin"),
        ({"plugins": [{"type": "../bin/sh"}]}, "/plugins/0/type must be"),
        ({"plugins": [{"type": "bridge", "ipam": 1}]}, "/plugins/0/ipam must be an object"),
        ({"plugins": [{"type": "bridge", "capabilities": []}]}, "/plugins/0/capabilities must be an object"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, content: dict[str, Any], told: str) -> None:
    path = write(tmp_path / "web.conflist", content, name="web")
    with pytest.raises(ConfigError) as caught:
        conflist.find("web", str(tmp_path))
    assert f"{path}: {told}" in str(caught.value)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "..", 7, None])
def test_what_is_no_name(tmp_path: Path, name: object) -> None:
    write(tmp_path / "web.conflist", {"plugins": [BRIDGE]}, name=name)
    with pytest.raises(ConfigError, match="/name must be"):
        conflist.find("web", str(tmp_path))


@pytest.mark.parametrize("versions", [{}, {"cniVersion": "0.2.0"}, {"cniVersion": "2.0.0", "cniVersions": ["0.1.0"]}])
def test_a_version_that_we_do_not_know(tmp_path: Path, versions: dict[str, Any]) -> None:
    (tmp_path / "web.conflist").write_text(json.dumps({"name": "web", "plugins": [BRIDGE], **versions}))
    with pytest.raises(UnsupportedError, match=r"/cniVersion: .*served are 0.3.0, .* 1.1.0"):
        conflist.find("web", str(tmp_path))


def test_the_versions_in_order(tmp_path: Path) -> None:
    more = {"cniVersion": "1.0.0", "cniVersions": ["1.1.0", "0.4.0", "9.0.0"]}
    write(tmp_path / "web.conflist", {"name": "web", "plugins": [BRIDGE]}, **more)
    assert conflist.find("web", str(tmp_path))["versions"] == ["0.4.0", "1.0.0", "1.1.0"]


def test_no_directory_and_no_file(tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=r"there are no CNI networks: .*NETCONFPATH"):
            conflist.find("web", str(place))


def test_what_a_plugin_is_told(tmp_path: Path) -> None:
    write(tmp_path / "web.conflist", {"name": "web", "plugins": [BRIDGE, PORTMAP]})
    network = conflist.find("web", str(tmp_path))
    asked = {"ips": ["10.0.0.9"], "portMappings": [{"hostPort": 80}], "bandwidth": {}}
    first, second = (conflist.request(network, "1.0.0", plugin, asked, None) for plugin in network["plugins"])
    common = {"cniVersion": "1.0.0", "name": "web"}
    ipam = {"type": "host-local"}
    assert first == {"type": "bridge", "bridge": "cni0", "ipam": ipam, "runtimeConfig": {"ips": ["10.0.0.9"]}} | common
    assert second == {"type": "portmap", "runtimeConfig": {"portMappings": [{"hostPort": 80}]}} | common
    later = conflist.request(network, "1.0.0", PORTMAP, {}, {"ips": []})
    assert later == {"type": "portmap", "prevResult": {"ips": []}} | common
    assert [conflist.serves(network, kind) for kind in ("ips", "portMappings", "bandwidth", "mac")] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize(
    ("name", "fits"), [("web-1.x_", True), ("9", True), ("+a", False), ("a+", False), ("é", False)]
)
def test_names_of_cni(name: str, fits: bool) -> None:
    assert conflist.is_name(name) is fits
