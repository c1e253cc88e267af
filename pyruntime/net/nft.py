"""Running nft(8): one transaction, all of it or nothing.

It is needed once a boot for a network, and when somebody has flushed our rules: what a start changes are elements,
which linux/nftables.py writes itself.
"""

from __future__ import annotations

import posix

from pyruntime.errors import Error, NftError
from pyruntime.linux import program, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_OUTPUT_MAX = 4096  # bytes of what it says; the first error is what counts, and all of ours fit
_TIMEOUT = 60.0  # seconds: it waits for other transactions, and on a machine with 100,000 rules that is long
DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"  # a daemon's PATH may lack the first ones


def apply(rules: str) -> None:
    """Perform these commands, all or none. Raises NftError, Error: there is no nft; KernelError, OSError."""
    path = _find()

    def become(_report_fd: int) -> NoReturn:
        syscalls.execve(path, [b"nft", b"-f", b"-"], [b"PATH=" + DIRECTORIES.encode(), b"LC_ALL=C"])

    rules_fd = program.memfd("nft", rules.encode())
    output = program.Output(_OUTPUT_MAX)
    try:
        reason = program.run(become, rules_fd, output, timeout=_TIMEOUT)
    finally:
        output.close()
        posix.close(rules_fd)
    if reason:
        raise NftError(f"{path} -f - {reason}{_words(output.data, rules)}")


def _find() -> str:
    for directory in f"{posix.environ.get(b'PATH', b'').decode(errors='surrogateescape')}:{DIRECTORIES}".split(":"):
        path = f"{directory}/nft"
        if directory.startswith("/") and posix.access(path, posix.X_OK):
            return path
    raise Error(
        "a network needs the program nft to make its rules, and there is none",
        hint="install the package nftables; or choose --net none or --net host",
    )


def _words(output: bytes, rules: str) -> str:
    """What nft says is wrong, with the line that it means: "/dev/stdin:3:1-20: Error: Could not process rule: ..."."""
    lines = output.decode(errors="replace").splitlines()
    said = next((line for line in lines if "rror" in line), next(iter(lines), ""))
    place, _, words = said.partition(" ")
    number = place.split(":")[1] if place.count(":") > 1 else ""
    if not number.isdigit() or not 0 < int(number) <= rules.count("\n"):
        return f": {said}" if said else ""
    return f": {words.strip()} in {rules.splitlines()[int(number) - 1].strip()!r}"
