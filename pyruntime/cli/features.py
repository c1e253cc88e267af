"""`features`: what this runtime knows and serves, as JSON (runtime-spec: features.md, features-linux.md).

The spec wants it to be independent of the host, but for seccomp's flags: what the kernel at hand can do is another
question. Every list comes from the table that serves it, so that none can promise what is not there.
Read beside runc:features.go.
"""

from __future__ import annotations

from pyruntime.cli import emit
from pyruntime.errors import UnsupportedError
from pyruntime.jsontext import encode
from pyruntime.linux.caps import CAPABILITIES
from pyruntime.plan.attributes import MEMORY_FLAGS, MEMORY_MODES
from pyruntime.plan.hooks import KINDS as HOOKS
from pyruntime.plan.mounts import IDMAP, OPTIONS, PROPAGATION, RECURSIVE
from pyruntime.plan.namespaces import KINDS
from pyruntime.plan.scope import ANNOTATION as SYSTEMD_ANNOTATIONS
from pyruntime.plan.seccomp import FLAGS
from pyruntime.plan.seccomp_rules import ACTIONS, ARCHITECTURES, OPERATORS
from pyruntime.version import SPEC_VERSION, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cli.parse import Call

OLDEST_SPEC_VERSION = "1.0.0"
ANNOTATIONS = "org.pyruntime."  # what begins so may connect the container to a network: plan/network.py
COPY_UP = "tmpcopyup"  # not a flag of the kernel's, so in none of the tables


def features(call: Call) -> int:
    """Print the features structure, indented as runc indents it."""
    emit(encode(structure(), indent="    ") + "\n")
    return 0


def structure() -> dict[str, Any]:
    """The features structure (features.md). An empty list says that none is known, which null would not."""
    return {
        "ociVersionMin": OLDEST_SPEC_VERSION,
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": sorted((*OPTIONS, *PROPAGATION, *RECURSIVE, *IDMAP, COPY_UP)),
        "linux": {
            "namespaces": sorted(KINDS),
            "capabilities": list(CAPABILITIES),
            "cgroup": {"v1": False, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": _seccomp(),
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "memoryPolicy": {"modes": sorted(MEMORY_MODES), "flags": sorted(MEMORY_FLAGS)},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {"org.pyruntime.version": VERSION},
        "potentiallyUnsafeConfigAnnotations": [ANNOTATIONS, SYSTEMD_ANNOTATIONS],
    }


def _seccomp() -> dict[str, Any]:
    """features-linux.md#seccomp. Without libseccomp on this host there is none; its flags are the kernel's."""
    from pyruntime.linux.seccomp import Library, supported_flags

    try:
        Library()
    except UnsupportedError:
        return {"enabled": False}
    return {
        "enabled": True,
        "actions": sorted(ACTIONS),
        "operators": sorted(OPERATORS),
        "archs": sorted(ARCHITECTURES),
        "knownFlags": list(FLAGS),
        "supportedFlags": supported_flags(FLAGS),
    }
