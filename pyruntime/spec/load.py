"""A bundle's config.json to a Spec: read, decoded, and nothing checked yet but that it is a JSON object.

Read beside runtime-spec bundle.md and runc:spec.go:/^func loadSpec/.
"""

from __future__ import annotations

import errno
import posix

from pyruntime import jsontext
from pyruntime.errors import ConfigError, Error, KernelError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import cast

    from pyruntime.spec.types import Spec
else:

    def cast(_type, value):
        """Stand in for typing.cast, whose import would cost more than the whole of loading."""
        return value


CONFIG_NAME = "config.json"
SIZE_LIMIT = 16 << 20  # bytes. Real configs have 3 to 100 KB; runc has no limit and would read a disk into memory.

# Not to block, so that a FIFO in the place of the file cannot hang the runtime.
OPEN = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY

# inode(7); the module stat would cost an import.
_S_IFMT, _S_IFDIR, _S_IFREG, _S_IFIFO = 0o170000, 0o040000, 0o100000, 0o010000


def load(bundle_path: str) -> tuple[Spec, bytes]:
    """The Spec of the bundle in the directory `bundle_path` ("" is the current one), and the bytes of its config.json.

    Raises ConfigError if the bundle or its config.json is missing, of the wrong file type, larger than SIZE_LIMIT or
    not a JSON object; KernelError if it cannot be read for another reason. Companion: runc:spec.go:/^func loadSpec/.
    """
    data = read(bundle_path)
    return parse(data), data


def parse(data: bytes) -> Spec:
    """The Spec in the bytes of a config.json. Raises as `parse_object`."""
    return cast("Spec", parse_object(data, CONFIG_NAME))


def parse_object(data: bytes, where: str) -> dict[str, object]:
    """The JSON object in the bytes of the file `where`.

    Keys whose value is null are dropped: to Go, and so to runc, null is absent.
    Raises ConfigError with line and column if the bytes are not UTF-8, not JSON or no object.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"not UTF-8: byte {data[error.start]:#04x} at line {line}", where=where) from None
    try:
        value = jsontext.decode(text)
    except ValueError as error:
        raise ConfigError(str(error), where=where) from None
    if not isinstance(value, dict):
        raise ConfigError(f"must hold a JSON object, not {jsontext.encode(value)[:40]}", where=where)
    if "null" in text:
        _drop_nulls(value)
    return value


def _drop_nulls(root: dict[str, object]) -> None:
    """Remove members that are null, at every depth. Elements of arrays stay: there the validator refuses a null."""
    pending: list[object] = [root]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for key in [key for key, item in value.items() if item is None]:
                del value[key]
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def read(bundle_path: str) -> bytes:
    """The bytes of config.json. Raises as `load`."""
    path = f"{bundle_path or '.'}/{CONFIG_NAME}"
    try:
        config_fd = posix.open(path, OPEN)
    except ValueError:
        raise UsageError(f"the bundle's path {bundle_path!r} has a character that no file name can have") from None
    except OSError as error:
        raise _cannot_open(bundle_path, path, error) from None
    return read_and_close(config_fd, path, CONFIG_NAME)


def read_and_close(config_fd: int, path: str, where: str, *, pipe: bool = False) -> bytes:
    """The bytes of the file, opened by OPEN; of a pipe, up to its end, where that is allowed.

    Raises ConfigError for what is no file or too large, KernelError.
    """
    try:
        status = posix.fstat(config_fd)
        if pipe and status.st_mode & _S_IFMT == _S_IFIFO:
            posix.set_blocking(config_fd, True)
        elif status.st_mode & _S_IFMT != _S_IFREG:
            kind = "a directory" if status.st_mode & _S_IFMT == _S_IFDIR else "a special file"
            raise ConfigError(f"{path!r} is {kind}, not a regular file", where=where)
        chunks, size = [], 0
        while chunk := posix.read(config_fd, max(min(status.st_size, SIZE_LIMIT) - size, 0) + 1):
            chunks.append(chunk)
            size += len(chunk)
            if size > SIZE_LIMIT:
                raise ConfigError(f"larger than {SIZE_LIMIT >> 20} MiB", where=where)
    except OSError as error:
        raise KernelError(f"read({path!r})", error.errno or 0, where=where) from None
    finally:
        posix.close(config_fd)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _cannot_open(bundle_path: str, path: str, error: OSError) -> Error:
    """The sentence for a failed open: is it the bundle that is missing, or only its config.json?"""
    if error.errno == errno.ENOENT:
        try:
            posix.stat(bundle_path)
        except OSError:
            return ConfigError(f"the bundle {bundle_path!r} does not exist", where=CONFIG_NAME)
        hint = "a bundle is a directory with a config.json; `pyruntime spec` writes one"
        return ConfigError(f"there is none in the bundle {bundle_path!r}", where=CONFIG_NAME, hint=hint)
    if error.errno == errno.ENOTDIR:
        return ConfigError(f"the bundle {bundle_path!r} is not a directory", where=CONFIG_NAME)
    return KernelError(f"open({path!r}, O_RDONLY)", error.errno or 0, where=CONFIG_NAME)
