"""`--net cni:NAME`: a network that CNI plugins make, as Podman's and containerd's networks are made (CNI SPEC.md, 2).

    ADD     for each plugin in order: its part of the file, and what the one before it answered (prevResult)
    CHECK   the same with the last answer: is all of it still there?
    DEL     in reverse order with the last answer; all are asked, whatever one of them says

What was asked for and answered is written to a file beside the container's record *before* anything is asked, and
after each answer: the parameters of DEL are those of ADD, whatever became of /etc/cni/net.d meanwhile, and also for a
start that was killed half-way. A plugin is an untrusted program in one respect only: it may hang, or print rubbish.

The network namespace is held by a bind mount beside the record until DEL is done: plugins read from it what they have
to take back (bridge 1.1 leaves its masquerading rules otherwise). Where it has gone all the same, DEL comes without.

Environment: NETCONFPATH, the directory of the networks [/etc/cni/net.d]; CNI_PATH, the directories of the plugins
[/opt/cni/bin:/usr/lib/cni:/usr/libexec/cni]. Both are cnitool's.

Read beside containernetworking/cni:libcni/api.go and :pkg/invoke/raw_exec.go.
"""

from __future__ import annotations

import posix

from pyruntime import report
from pyruntime.errors import ConfigError, Error, KernelError, StateError, UnsupportedError
from pyruntime.jsontext import decode, encode
from pyruntime.linux import constants as c
from pyruntime.linux import files, proc, program, syscalls
from pyruntime.net import cniplugin, conflist, names
from pyruntime.net.leases import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict, cast

    from pyruntime.net.conflist import Json, Network
    from pyruntime.net.types import Attachment, Endpoint, Port

    class Parameters(TypedDict):
        """One container on one network, as DEL needs to know it."""

        id: str
        network: Network
        version: str  # of the protocol
        path: str  # CNI_PATH
        args: str  # CNI_ARGS
        capabilities: Json  # what was asked for, by CNI's conventions: portMappings, ips
        result: Json | None  # the last answer to ADD
else:

    def cast(_kind, value):
        """Stand in for typing.cast."""
        return value


CONFIGURATIONS = "/etc/cni/net.d"
PLUGINS = "/opt/cni/bin:/usr/lib/cni:/usr/libexec/cni"
INTERFACE = "eth0"  # in the container, as everywhere
PARAMETERS = "cni.json"  # beside the container's record
NAMESPACE = "netns"  # beside the container's record: the bind mount

_CHECKS_SINCE = "0.4.0"
_FILE_MAX = 1 << 22  # bytes of what is written beside the record
_KEYS = {"id", "network", "version", "path", "args", "capabilities", "result"}


def prepare(state_path: str) -> None:
    """Before there is a process: make the files that are bound into the container. Raises KernelError."""
    names.place_files(state_path)


def connect(root_path: str, id: str, attachment: Attachment, pid: int) -> None:
    """Put the network namespace of process `pid` on the network, and say in `attachment` under which addresses.

    Raises Error; all is taken back then.
    """
    state_path = f"{root_path}/{id}"
    ports = [_port_mapping(port) for port in attachment["ports"]]
    ips = [attachment["ip"]] if attachment["ip"] else []
    result = attach(attachment["name"], id, pid, state_path, ports=ports, ips=ips)
    attachment["endpoint"] = endpoint = _endpoint(id, attachment, result)
    names.tell_all(root_path, [endpoint])
    names.tell_servers(state_path, result.get("dns") or {})


def disconnect(root_path: str, id: str, _attachment: Attachment) -> None:
    """Take the container off again; that it has nothing (any more) is no error. Raises Error, as `detach`."""
    detach(f"{root_path}/{id}")


def forget(root_path: str, id: str) -> None:
    """After a `disconnect` that failed: let the namespace go, whatever the plugins have left. Raises KernelError."""
    let_go(f"{root_path}/{id}")


def attach(name: str, id: str, pid: int, state_path: str, *, ports: list[Json], ips: list[str]) -> Json:
    """Put the network namespace of `pid` on a network; the last plugin's answer, a result of CNI.

    id: the container's. state_path: the directory of its record. ports: for the capability portMappings. ips:
    addresses to be had, for the capability ips. Raises Error; all is taken back then.
    """
    parameters = _asked(name, id, ports, ips)
    _save(state_path, parameters)
    try:
        netns_path = _hold_namespace(pid, state_path)
        interrupt_fd = program.interrupts_fd()
        try:
            _add(parameters, netns_path, state_path, interrupt_fd)
        finally:
            posix.close(interrupt_fd)
        _check_addresses(parameters, ips)
        return parameters["result"] or {}
    except BaseException:
        _take_back(state_path)
        raise


def detach(state_path: str) -> None:
    """Take a container off its network, whatever came of `attach`; nothing where there was none.

    Every plugin is asked to, the last first, though another fails: the first failure is raised then, the others are
    told. The namespace is let go. Raises Error; what `attach` wrote is still there then, and it can be called again.
    """
    parameters = read(state_path)
    if parameters is None:
        return
    netns_path = _held_namespace(state_path)
    failures: list[Error] = []
    for plugin in reversed(parameters["network"]["plugins"]):
        try:
            _run("DEL", plugin, parameters, netns_path)
        except Error as error:
            failures.append(error)
    if failures:
        for failure in failures[1:]:
            report.warn(str(failure))
        raise failures[0]
    let_go(state_path)


def let_go(state_path: str) -> None:
    """Let the namespace go and remove what `attach` wrote, whatever the plugins have left. Raises KernelError."""
    if held := _held_namespace(state_path):
        syscalls.umount2(held, c.MNT_DETACH)
    for name in (NAMESPACE, PARAMETERS):
        path = f"{state_path}/{name}"
        try:
            files.unlink(path)
        except OSError as error:
            raise KernelError(f"unlink({path!r})", error.errno or 0) from error


def check(state_path: str) -> None:
    """Ask the plugins whether all that they have made is still there. Raises Error as the first says that it isn't."""
    parameters = read(state_path)
    if parameters is None:
        raise StateError("the container is on no network of CNI")
    if not parameters["network"]["checks"] or parameters["version"] < _CHECKS_SINCE:
        return
    netns_path = _held_namespace(state_path)
    for plugin in parameters["network"]["plugins"]:
        _run("CHECK", plugin, parameters, netns_path)


def read(state_path: str) -> Parameters | None:
    """What `attach` has written; None if it has not. Raises StateError if it is damaged, KernelError."""
    path = f"{state_path}/{PARAMETERS}"
    try:
        found = decode(proc.read_file(path, _FILE_MAX).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError(f"open({path!r})", error.errno or 0) from error
    except ValueError as error:
        raise StateError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict) or found.keys() != _KEYS:
        raise StateError(f"{path} is damaged: it is no attachment to a network")
    return cast("Parameters", found)


def addresses(result: Json) -> list[str]:
    """The container's own addresses in a result, with their prefix lengths."""
    interfaces, found = result.get("interfaces") or [], []
    for ip in result.get("ips") or []:
        index = ip.get("interface")
        inside = not isinstance(index, int) or not 0 <= index < len(interfaces) or interfaces[index].get("sandbox")
        if inside:
            found.append(str(ip["address"]))
    return found


def _endpoint(id: str, attachment: Attachment, result: Json) -> Endpoint:
    """What the record says of a result. The host's end of the cable is the one device of the host that is no bridge."""
    interfaces = result.get("interfaces") or []
    inside = [each for each in interfaces if each.get("sandbox")]
    return {
        "id": id,
        "network": attachment["name"],
        "ips": addresses(result),
        "mac": inside[0].get("mac", "") if inside else "",
        "interface": next((each["name"] for each in reversed(interfaces) if not each.get("sandbox")), ""),
        "hostname": attachment["hostname"],
        "ports": attachment["ports"],
        "bootId": boot_id(),
    }


def _port_mapping(port: Port) -> Json:
    """A published port by CNI's conventions: CONVENTIONS.md, portMappings."""
    mapping: Json = {"hostPort": port["hostPort"], "containerPort": port["port"], "protocol": port["protocol"]}
    return mapping | ({"hostIP": port["address"]} if port["address"] else {})


def _asked(name: str, id: str, ports: list[Json], ips: list[str]) -> Parameters:
    """What is to be asked for. Raises ConfigError where the network can't give it."""
    if not conflist.is_name(id):
        raise ConfigError(
            f"CNI takes no container ID {id!r}", hint="letters, digits and _ . - with one of the first two in front"
        )
    path = _environment("CNI_PATH") or PLUGINS
    network = conflist.find(name, _environment("NETCONFPATH") or CONFIGURATIONS)
    capabilities: Json = {}
    args = "IgnoreUnknown=1"
    if ports:
        if not conflist.serves(network, "portMappings"):
            hint = f'no plugin of {network["file"]} has "capabilities": {{"portMappings": true}}, as portmap needs it'
            raise ConfigError(f"the CNI network {name} publishes no ports", hint=hint)
        capabilities["portMappings"] = ports
    if ips and conflist.serves(network, "ips"):
        capabilities["ips"] = ips
    elif ips:
        args += f";IP={ips[0]}"  # older than the capability, and still known to the plugins
    for plugin in network["plugins"]:
        cniplugin.executable(plugin["type"], path)
    return {
        "id": id,
        "network": network,
        "version": _version(network, path),
        "path": path,
        "args": args,
        "capabilities": capabilities,
        "result": None,
    }


def _version(network: Network, path: str) -> str:
    """The highest version that the file, its plugins and we know. Where the file leaves no choice nobody is asked."""
    *_, highest = versions = network["versions"]
    if len(versions) == 1:
        return highest
    for plugin in network["plugins"]:
        delegate = (plugin.get("ipam") or {}).get("type")
        for kind in filter(None, (plugin["type"], delegate)):
            known = cniplugin.versions_of(kind, path)
            versions = [version for version in versions if version in known]
            if not versions:
                told = f"{kind} knows {', '.join(known)}; {network['file']} wants {', '.join(network['versions'])}"
                raise UnsupportedError(
                    f"the CNI network {network['name']} has no version that all plugins know", hint=told
                )
    return versions[-1]


def _add(parameters: Parameters, netns_path: str, state_path: str, interrupt_fd: int) -> None:
    """ADD of all plugins, each given the answer of the one before. Raises Error."""
    for plugin in parameters["network"]["plugins"]:
        answer = _run("ADD", plugin, parameters, netns_path, interrupt_fd)
        if answer is None:
            raise cniplugin.failure("ADD", plugin["type"], "has printed no result")
        answer.setdefault("cniVersion", parameters["version"])  # old plugins leave it out
        if fault := _fault(answer, parameters["version"]):
            raise cniplugin.failure("ADD", plugin["type"], f"has printed a result {fault}")
        parameters["result"] = answer
        _save(state_path, parameters)


def _fault(result: Json, version: str) -> str:
    """What is wrong with a result, as far as we and the next plugin rely on it; "" if nothing is."""
    if result["cniVersion"] != version:
        return f"of version {result['cniVersion']!r}, not {version}"
    for kind, key in (("interfaces", "name"), ("ips", "address")):
        entries = result.get(kind) or []
        if not isinstance(entries, list) or not all(isinstance(each, dict) and key in each for each in entries):
            return f"whose {kind} are no list of objects with {key}"
    return ""


def _take_back(state_path: str) -> None:
    """After a failure: what can't be taken back is told, not raised: an error is on its way already."""
    try:
        detach(state_path)
    except Error as error:
        report.warn(f"left behind on the network: {error}")
        let_go(state_path)


def _check_addresses(parameters: Parameters, ips: list[str]) -> None:
    """A plugin that does not know how to give an address gives another."""
    given = addresses(parameters["result"] or {})
    for ip in ips:
        if ip.partition("/")[0] not in [address.partition("/")[0] for address in given]:
            name = parameters["network"]["name"]
            hint = f"its address management gave {', '.join(given) or 'none'}: it may not know how to be asked for one"
            raise ConfigError(f"the CNI network {name} does not give the address {ip}", hint=hint)


def _run(
    command: str,
    plugin: Json,
    parameters: Parameters,
    netns_path: str,
    interrupt_fd: int = -1,
) -> Json | None:
    """Ask one plugin for one thing, and return its answer, None if it has none. Raises Error."""
    asked = conflist.request(
        parameters["network"], parameters["version"], plugin, parameters["capabilities"], parameters["result"]
    )
    variables = {
        "CNI_CONTAINERID": parameters["id"],
        "CNI_NETNS": netns_path,
        "CNI_IFNAME": INTERFACE,
        "CNI_ARGS": parameters["args"],
    }
    return cniplugin.ask(command, plugin["type"], parameters["path"], asked, variables, interrupt_fd)


def _environment(name: str) -> str:
    return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")


def _hold_namespace(pid: int, state_path: str) -> str:
    """Bind the network namespace of a process beside the container's record: the path. Raises KernelError."""
    path = f"{state_path}/{NAMESPACE}"
    try:
        posix.close(posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600))
    except OSError as error:
        raise KernelError(f"open({path!r})", error.errno or 0) from error
    syscalls.mount(f"/proc/{pid}/ns/net", path, None, c.MS_BIND)
    return path


def _held_namespace(state_path: str) -> str:
    """The path by which the namespace is held; "" if it is not."""
    path = f"{state_path}/{NAMESPACE}"
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return path if syscalls.fstatfs_type(fd) == c.NSFS_MAGIC else ""
    finally:
        posix.close(fd)


def _save(state_path: str, parameters: Parameters) -> None:
    """Write it whole or not at all. Raises KernelError."""
    path = f"{state_path}/{PARAMETERS}"
    try:
        files.replace(path, encode(parameters).encode())
    except OSError as error:
        raise KernelError(f"write {path!r}", error.errno or 0, where="--root") from error
