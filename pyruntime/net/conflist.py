"""CNI network configurations: the files in /etc/cni/net.d, and what one plugin is told of them (CNI SPEC.md, 1 and 3).

    NAME.conflist        {"cniVersion", "name", "plugins": [{"type": "bridge", ...}, {"type": "portmap", ...}]}
    NAME.conf, .json     a single plugin's: {"cniVersion", "name", "type", ...}
    NETWORK/*.conf       more plugins of the network in the file beside, unless it says loadOnlyInlinedPlugins

The first file in the order of names that has the network's name counts, and lists before single plugins, as with
Podman and containerd. Reads and runs nothing else; plugins are run by cni.py.

Read beside containernetworking/cni:libcni/conf.go.
"""

from __future__ import annotations

import posix

from pyruntime.errors import ConfigError, UnsupportedError
from pyruntime.jsontext import decode
from pyruntime.linux import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypedDict

    Json = dict[str, Any]

    class Network(TypedDict):
        """A network as its file describes it."""

        name: str
        file: str  # its path on the host
        versions: list[str]  # of the protocol, that both the file and we know; the highest last
        checks: bool  # whether CHECK makes sense (disableCheck)
        plugins: list[Json]  # in the order of ADD, as they stand in the file


# Of the protocol. Older ones have results of another shape, and no chains of plugins.
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_SIZE_MAX = 1 << 20  # bytes of a file
_ELSEWHERE = "the environment variable NETCONFPATH names another directory"


def is_name(text: object) -> bool:
    """Whether CNI takes this for a network's name or a container's ID: a letter or digit, then also any of _ . -"""
    return isinstance(text, str) and text[:1] in _LETTERS and bool(text) and _LETTERS.union("_.-").issuperset(text)


def find(name: str, directory_path: str) -> Network:
    """The network of this name. Raises ConfigError, which tells those that there are, if there is none.

    A file of another network that can't be read is told with those, and is no reason to fail. UnsupportedError where
    the file wants another CNI.
    """
    found: list[str] = []
    for path in _files(directory_path):
        try:
            content = _object(path)
            if not is_name(content.get("name")):
                raise ConfigError(
                    f"{path}: /name must be letters, digits and _ . - and begin with one of the first two"
                )
        except ConfigError as error:
            found.append(str(error))
            continue
        if content["name"] == name:
            return {
                "name": name,
                "file": path,
                "versions": _versions(path, content),
                "checks": content.get("disableCheck") is not True,
                "plugins": _plugins(path, content),
            }
        found.append(content["name"])
    raise ConfigError(f"there is no CNI network {name!r} in {directory_path}", hint=f"there are: {'; '.join(found)}")


def request(network: Network, version: str, plugin: Json, capabilities: Json, previous: Json | None) -> Json:
    """What a plugin gets on stdin: its own part of the file, the version, and what was asked for and done so far."""
    asked = {key: value for key, value in plugin.items() if key != "capabilities"}
    asked |= {"cniVersion": version, "name": network["name"]}
    wanted = {
        key: capabilities[key] for key, on in plugin.get("capabilities", {}).items() if on and key in capabilities
    }
    if wanted:
        asked["runtimeConfig"] = wanted
    if previous is not None:
        asked["prevResult"] = previous
    return asked


def serves(network: Network, capability: str) -> bool:
    """Whether a plugin of the network says that it takes this capability's arguments."""
    return any(plugin.get("capabilities", {}).get(capability) for plugin in network["plugins"])


def _files(directory_path: str) -> list[str]:
    """The configuration files, lists first. Raises ConfigError if there are none."""
    try:
        names = sorted(posix.listdir(directory_path))
    except OSError as error:
        raise ConfigError(f"there are no CNI networks: {directory_path}: {error.strerror}", hint=_ELSEWHERE) from error
    lists = [name for name in names if name.endswith(".conflist")]
    single = [name for name in names if name.endswith((".conf", ".json"))]
    if not lists and not single:
        raise ConfigError(f"there are no CNI networks: {directory_path} has no .conflist and no .conf", hint=_ELSEWHERE)
    return [f"{directory_path}/{name}" for name in (*lists, *single)]


def _object(path: str) -> Json:
    """A file's JSON object. Raises ConfigError."""
    try:
        content = decode(proc.read_file(path, _SIZE_MAX).decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: it is no JSON object")
    return content


def _plugins(path: str, content: Json) -> list[Json]:
    if not path.endswith(".conflist"):
        return [_plugin(path, "", {key: value for key, value in content.items() if key != "cniVersions"})]
    inlined = content.get("plugins", [])
    if not isinstance(inlined, list):
        raise ConfigError(f"{path}: /plugins must be a list")
    plugins = [_plugin(path, f"/plugins/{number}", plugin) for number, plugin in enumerate(inlined)]
    if content.get("loadOnlyInlinedPlugins") is not True:
        plugins += _beside(f"{path.rpartition('/')[0]}/{content['name']}")
    if not plugins:
        raise ConfigError(f"{path}: /plugins: the network has no plugin")
    return plugins


def _beside(directory_path: str) -> Iterator[Json]:
    """The plugins in a directory of the network's own."""
    try:
        names = sorted(posix.listdir(directory_path))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.endswith((".conf", ".json")):
            path = f"{directory_path}/{name}"
            yield _plugin(path, "", _object(path))


def _plugin(path: str, pointer: str, plugin: object) -> Json:
    """One plugin's object, checked as far as the protocol knows it."""
    if not isinstance(plugin, dict):
        raise ConfigError(f"{path}: {pointer} must be an object")
    kind = plugin.get("type")
    if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
        raise ConfigError(f"{path}: {pointer}/type must be the name of a plugin")
    for key in ("capabilities", "ipam"):
        if not isinstance(plugin.get(key, {}), dict):
            raise ConfigError(f"{path}: {pointer}/{key} must be an object")
    return plugin


def _versions(path: str, content: Json) -> list[str]:
    """The versions that the file names and we know. Raises UnsupportedError if there is none."""
    more = content.get("cniVersions") or []
    named = [content.get("cniVersion", ""), *(more if isinstance(more, list) else [])]
    common = [version for version in VERSIONS if version in named]
    if not common:
        told = ", ".join(map(str, filter(None, named))) or "no version, which means 0.1.0"
        hint = f"served are {', '.join(VERSIONS)}"
        raise UnsupportedError(f"{path}: /cniVersion: the network is for {told} of CNI", hint=hint)
    return common
