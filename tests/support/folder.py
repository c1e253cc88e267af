"""A folder for an engine's state."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short name, for it holds sockets, which a container's mapped root may pass through."""
    with tempfile.TemporaryDirectory(prefix="eng-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder
