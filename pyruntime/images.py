"""Images of modules (cli/image.py) that only some calls need, read when they are needed.

runc has no counterpart, being one binary.
"""

from __future__ import annotations

import posix
import sys
from marshal import loads


def load_image(name: str) -> None:
    """Load modules that few configs need from their image (cli/image.py), if we come from one ourselves.

    Those that are here already, from another image, stay as they are.
    Without one they are imported as ever, which takes three times as long.
    """
    if __spec__ is not None:
        return
    package_path = __file__.rpartition("/")[0]
    try:
        fd = posix.open(f"{package_path}/{name}.{sys.implementation.cache_tag}.image", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            boot, (libraries, others, modules) = loads(posix.read(fd, posix.fstat(fd).st_size))
        finally:
            posix.close(fd)
    except (OSError, EOFError, TypeError, ValueError):
        return
    content = libraries, others, [module for module in modules if module[0] not in sys.modules]
    exec(boot, {"library": package_path.rpartition("/")[0], "loads": loads, "content": content, "sys": sys})
