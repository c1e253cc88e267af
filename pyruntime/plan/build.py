"""Spec -> Plan. Pure: no system call, no root, and the same input gives the same output.

The order of the phases is the order of runc:libcontainer/standard_init_linux.go:/^func .*linuxStandardInit.*Init/,
but for one thing: whatever is reached by a path is done before pivot_root, through descriptors, while the host's own
/proc can still be trusted. runc masks, writes sysctls and makes the working directory afterwards.
"""

from __future__ import annotations

from pyruntime.plan import mounts, namespaces, process, resources
from pyruntime.plan.rare import filter_steps, label_mounts, rare_steps
from pyruntime.plan.step import PARENT, PROCESS, RESCTRL, ROOTFS, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyruntime.plan.network import Selection
    from pyruntime.plan.step import Step
    from pyruntime.spec.types import Spec


def build(
    spec: Spec,
    bundle_path: str,
    id: str,
    cgroup: str,
    *,
    no_pivot: bool = False,
    no_new_keyring: bool = False,
    network: Selection | None = None,
    env: tuple[str, ...] = (),
    notify_path: str = "",
) -> Plan:
    """What starting `spec` as the container `id` will do, step by step.

    `spec` has passed spec.validate; `bundle_path` is absolute; `cgroup` is the container's path below the v2 hierarchy,
    or "" for none; `network` is what was said of it besides `linux.namespaces`. `env`: what the caller adds to
    process.env. `notify_path`: a directory of the host with the socket that the container is to find in $NOTIFY_SOCKET;
    "" for none.
    Raises ConfigError and UnsupportedError with the place in config.json.
    """
    if "process" not in spec:  # which only `start` needs: what waits for that has no rights, and nothing to execute
        spec = {**spec, "process": {"cwd": "/", "args": []}}
    kinds = {namespace["type"] for namespace in spec.get("linux", {}).get("namespaces", ())}
    leave: tuple[Step, ...] = ()
    change_root: Step = mounts.PivotRoot("config.json#/root/path", no_pivot)
    if "mount" not in kinds:
        from pyruntime.plan import roottree

        leave, change_root = (roottree.leave_step(spec),), roottree.enter_step()
    rare = [*rare_steps(spec, new_keyring=not no_new_keyring), *_group_steps(spec, id), *_device_steps(spec)]
    mount_steps = [*mounts.mount_steps(spec, bundle_path)]
    steps = [
        *(step for step in rare if step.phase == RESCTRL),
        *resources.resource_steps(spec.get("linux", {}), cgroup),
        *resources.owner_steps(spec, cgroup),
        *_at_place_of(network, namespaces.namespace_steps(spec)),
        *mounts.mapping_steps(spec, mount_steps),
        *_connect_steps(network, spec),
        *process.parent_steps(spec),
        *(step for step in rare if step.phase == PARENT),
        *(step for step in rare if step.phase == ROOTFS),
        *process.before_root_steps(id, no_new_keyring),
        *_await_network(network, spec),
        *namespaces.identity_steps(spec),
        *leave,
        *mounts.root_steps(spec, rootfs_path(spec, bundle_path)),
        *mount_steps,
        *_file_steps(network, spec),
        *mounts.notify_steps(notify_path),
        *mounts.device_steps(spec),
        *process.terminal_steps(spec),
        mounts.MakeWorkingDirectory("config.json#/process/cwd", spec["process"]["cwd"]),
        *_hooks(spec, "prestart", "createRuntime", "createContainer"),
        *mounts.closing_steps(spec, mount_steps, change_root),
        *(step for step in rare if step.phase == PROCESS),
        *process.process_steps(spec, filter_steps(spec)),
        *_hooks(spec, "startContainer"),
        process.execute_step(spec, (*env, f"NOTIFY_SOCKET={mounts.NOTIFY_SOCKET}") if notify_path else env),
        *_hooks(spec, "poststart", "poststop"),
    ]
    label_mounts(spec, steps)
    return Plan(steps)


def _group_steps(spec: Spec, id: str) -> Iterable[Step]:
    """A part of the caches and of the memory bandwidth; its module is imported by those alone that ask for one."""
    if "intelRdt" not in spec.get("linux", {}):
        return ()
    from pyruntime.plan import resctrl

    return resctrl.group_steps(spec, id)


def _device_steps(spec: Spec) -> Iterable[Step]:
    """The host's network devices to take; their module is imported by those alone that take some."""
    if not spec.get("linux", {}).get("netDevices"):
        return ()
    from pyruntime.plan import netdevices

    return netdevices.device_steps(spec)


def _at_place_of(network: Selection | None, steps: Iterable[Step]) -> Iterator[Step]:
    """The namespaces, with the place where the path of the network's was given: not in config.json."""
    for step in steps:
        if network is not None and isinstance(step, namespaces.JoinNamespace) and step.kind == "network":
            step.where = network.where
        yield step


def _connect_steps(network: Selection | None, spec: Spec) -> Iterator[Step]:
    if network is not None and network.is_connected:
        from pyruntime.plan.network import connect_step

        yield connect_step(network, spec)


def _await_network(network: Selection | None, spec: Spec) -> Iterator[Step]:
    """The child goes its way while the parent connects it, unless something in it is about the interface."""
    if network is None or not network.is_connected:
        return
    sysctls = spec.get("linux", {}).get("sysctl", {})
    if spec.get("hooks", {}).get("createContainer") or any(name.startswith("net") for name in sysctls):
        yield namespaces.AwaitNetwork(network.where)


def _file_steps(network: Selection | None, spec: Spec) -> Iterator[Step]:
    if network is not None and network.files_path:
        from pyruntime.plan.network import file_steps

        yield from file_steps(network, spec)


def _hooks(spec: Spec, *kinds: str) -> Iterable[Step]:
    """The hooks of these kinds; their module, too, is imported by those alone that have some."""
    if not spec.get("hooks"):
        return ()
    from pyruntime.plan.hooks import hook_steps

    return hook_steps(spec, *kinds)


def rootfs_path(spec: Spec, bundle_path: str) -> str:
    """`root.path`, absolute (config.md#root: relative to the bundle)."""
    path = spec["root"]["path"]
    return path if path.startswith("/") else f"{bundle_path}/{path}"
