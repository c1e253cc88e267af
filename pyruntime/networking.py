"""The network of one start: what was asked for, and having it done. Imported only by a start that asks for something.

Between plan/network.py, which is pure, and net/, which knows no container: the pieces meet here, as in creation.py,
whose part this is.
"""

from __future__ import annotations

from pyruntime import net
from pyruntime.errors import Error, KernelError, NotFoundError, StateError, UnsupportedError
from pyruntime.plan import network
from pyruntime.state.status import is_alive
from pyruntime.state.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.creation import Options
    from pyruntime.plan.network import ConnectNetwork, Selection
    from pyruntime.plan.step import Plan
    from pyruntime.spec.types import Spec


def select(spec: Spec, options: Options, store: Store, annotations: dict[str, Any]) -> Selection | None:
    """What options and annotations say of the network, made true in `linux.namespaces`; None if they say nothing.

    Comes before the Spec is validated, which looks at the namespaces. Raises UsageError, and StateError if the
    container whose network is to be shared does not run.
    """
    texts = {name: text for name, text in annotations.items() if isinstance(text, str)}
    selection = network.select(options.net, options.publish or [], options.ip, texts)
    if selection is None:
        return None
    path = ""
    if selection.is_connected:
        selection.files_path = store.path
    elif selection.kind == "container":
        try:
            other = Store(store.root_path, selection.value)
            path = _share(other, selection)
        except Error as error:
            error.where = selection.where
            raise
    network.apply(selection, spec, path)
    return selection


PUBLISH = "--publish"  # where an error of net/ about a port says to be; the option may not have been given


class Connection:
    """A container's cable to a network, of whatever kind (net.KINDS): laid by `connect`, taken away by `disconnect`.

    `attachment` is what the container's record says of it, from before there is anything to take away.
    """

    __slots__ = ("_publish_where", "_store", "_where", "attachment")

    def __init__(self, step: ConnectNetwork, store: Store) -> None:
        self._store = store
        self._where = step.where
        self._publish_where = step.publish_where
        self.attachment: dict[str, Any] = {
            "kind": step.kind,
            "name": step.name,
            "ip": step.ip,
            "ports": step.ports,
            "hostname": step.hostname,
        }

    def prepare(self) -> None:
        """Before the clone: make the files that the plan binds. Raises Error."""
        net.module_for(self.attachment["kind"]).prepare(self._store.path)

    def connect(self, pid: int) -> None:
        """Connect the network namespace of process `pid`. Raises Error, with the place where it was asked for."""
        try:
            net.module_for(self.attachment["kind"]).connect(self._store.root_path, self._store.id, self.attachment, pid)
        except Error as error:
            error.where = self._publish_where if error.where == PUBLISH else error.where or self._where
            raise
        except OSError as error:
            raise KernelError(f"connect to the network: {error}", error.errno or 0, where=self._where) from error

    def disconnect(self, *, force: bool = False) -> None:
        """Take it away, if there is one: a `connect` that failed has either left nothing, or told of an endpoint.

        Raises Error. force: what can't be taken back is told, and left behind.
        """
        if "endpoint" in self.attachment:
            net.disconnect(self._store.root_path, self._store.id, self.attachment, force=force)


def connection(plan: Plan, store: Store, *, rootless: bool) -> Connection | None:
    """What the plan says of a connection; None if it says nothing. Raises UnsupportedError without root."""
    step = next((step for step in plan if isinstance(step, network.ConnectNetwork)), None)
    if step is None:
        return None
    if rootless:
        message = f"the network {step.kind!r} changes the host's interfaces, which takes root"
        raise UnsupportedError(message, where=step.where)
    return Connection(step, store)


def _share(store: Store, selection: Selection) -> str:
    """The network namespace of a running container, whose names are shared, too. Raises StateError."""
    try:
        record = store.read()
    except NotFoundError:
        raise StateError(f"there is no container {store.id!r} whose network could be shared") from None
    if not is_alive(record):
        raise StateError(f"the container {store.id!r} does not run, and so has no network to share")
    if "network" in record:
        selection.files_path = store.path
    return f"/proc/{record['pid']}/ns/net"
