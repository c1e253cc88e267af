"""`spec`: write a config.json to begin with. Read beside runc:spec.go."""

from __future__ import annotations

import posix

from pyruntime.errors import ExistsError
from pyruntime.jsontext import encode
from pyruntime.spec.default import default_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def spec(call: Call) -> int:
    """Write BUNDLE/config.json. Raises ExistsError rather than overwrite one, OSError."""
    bundle_path = call.options["bundle"]
    path = f"{bundle_path}/config.json" if bundle_path else "config.json"
    text = encode(default_spec(rootless=call.options["rootless"]), indent="\t")
    # O_EXCL: looking first would race with another writer, and follow a dangling symlink.
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise ExistsError(f"{path} exists: remove it first") from None
    try:
        data = memoryview(text.encode())
        while data:
            data = data[posix.write(fd, data) :]
    except OSError:
        posix.unlink(path)  # half a file would stand in the way of the next try
        raise
    finally:
        posix.close(fd)
    return 0
