"""Spec -> Steps for `hooks`: programs of the caller's that run at fixed moments of a container's life.

    create:  mounts ... | prestart, createRuntime | createContainer | read-only, masks, pivot_root ... | READY
    start:   startContainer | the program | poststart
    delete:  everything removed | poststop

Where a step stands in the Plan is when it happens; its class says who runs it, and in whose view of the system.

Read beside runc:libcontainer/configs/config.go:/^func .*Hooks.*Run/ and runtime.md#lifecycle.
"""

from __future__ import annotations

from pyruntime.plan.step import PROCESS, ROOTFS, STARTED, STOPPED, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.spec.types import Hook as Entry
    from pyruntime.spec.types import Spec


class Hook(Step):
    """An entry of a list in `hooks` (config.md#posix-platform-hooks)."""

    path: str  # absolute
    args: tuple[str, ...]  # argv, its first word included
    env: tuple[str, ...]  # all of the environment
    timeout: int  # seconds; 0: wait as long as it takes

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The same for all kinds."""
        return ("where", "path", "args", "env", "timeout")

    @property
    def kind(self) -> str:
        """The list that it stands in, such as "createRuntime"."""
        return self.where.split("/")[-2]

    def text(self) -> str:
        limit = f", for at most {self.timeout} s" if self.timeout else ""
        return f"run the {self.kind} hook {' '.join((self.path, *self.args[1:]))}{limit}"


class RuntimeHook(Hook):
    """`prestart` and `createRuntime`: run by the parent, on the host, while the child waits."""

    phase = ROOTFS
    why = "the caller sets up from outside what the new namespaces shall have, such as a network"


class ContainerHook(Hook):
    """`createContainer`: a program of the host, run in the container's namespaces before its root changes."""

    phase = ROOTFS
    why = "the caller changes the container's file system while the host's is still in sight"


class StartHook(Hook):
    """`startContainer`: a program of the container, run as its user when `start` has come."""

    phase = PROCESS
    why = "the image prepares itself before its program runs"


class PoststartHook(Hook):
    """`poststart`: run on the host by `start`, once the container's program has been executed."""

    phase = STARTED
    why = "the caller learns that the program runs, and may still object"


class PoststopHook(Hook):
    """`poststop`: run on the host when the container has been removed; a failure is only told."""

    phase = STOPPED
    why = "the caller clears away what its other hooks have made"


KINDS: dict[str, type[Hook]] = {
    "prestart": RuntimeHook,
    "createRuntime": RuntimeHook,
    "createContainer": ContainerHook,
    "startContainer": StartHook,
    "poststart": PoststartHook,
    "poststop": PoststopHook,
}


def hook_steps(spec: Spec, *kinds: str) -> Iterator[Hook]:
    """The hooks of these kinds, in order.

    A hook without `env` has an empty environment, but for startContainer, which has the program's: as runc decided,
    and unlike it nothing of the caller's own environment gets into a hook.
    """
    hooks = spec.get("hooks") or {}
    for kind in kinds:
        entries: list[Entry] = hooks.get(kind) or []  # type: ignore[assignment]  # a TypedDict wants a literal key
        for index, hook in enumerate(entries):
            env = hook.get("env") or (spec["process"].get("env", ()) if kind == "startContainer" else ())
            args = tuple(hook.get("args") or (hook["path"],))
            where = f"config.json#/hooks/{kind}/{index}"
            yield KINDS[kind](where, hook["path"], args, tuple(env), hook.get("timeout") or 0)
