"""The validation suite of runtime-tools: its source from Debian's archive, built with Debian's Go and Go packages.

Debian packs the suite's source and nearly all that it imports, but not its TAP package: tap.go beside this file stands
in for that.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from scripts.lib import observed, tap
from scripts.lib.debian_source import VM_RELEASE, source_archive
from scripts.lib.steps import CHECKOUT, cache_path, clean_environment, digest, must, need_packages, say

RUNTIMES = ("runc", "crun")  # beside ours
VM_PACKAGES = ()
PACKAGE = "golang-github-opencontainers-runtime-tools"
IMPORT_PATH = "github.com/opencontainers/runtime-tools"
TAP = CHECKOUT / "scripts/lib/tap.go"
GO_PACKAGES = (
    "golang-go",
    "dpkg-dev",
    f"{PACKAGE}-dev",  # for what it depends on
    "golang-github-google-uuid-dev",
    "golang-github-blang-semver-dev",
)
LONGEST = 60  # seconds that no test takes

# Some tests have the runtime mount into the namespace that they run in, which must not outlive them. As systemd leaves
# it, mounts are shared there.
OWN_MOUNTS = ("unshare", "--mount", "sh", "-c", 'mount --make-rshared / && exec "$0"')


def suite() -> Path:
    """The folder of what is made once: `version`, and `suite` with the tests and what they need beside them."""
    folder = cache_path() / f"runtime-tools-{digest([TAP, Path(__file__)])}"
    if not (folder / "version").exists():
        need_packages(*GO_PACKAGES, what_for="building the suite of runtime-tools")
        for old in cache_path().glob("runtime-tools-*"):
            shutil.rmtree(old)
        (folder / "suite").mkdir(parents=True)
        archive = source_archive(PACKAGE, folder / "source", ("", VM_RELEASE))
        say(f"building {archive.name} (once)")
        build(archive, folder)
        (folder / "version").write_text(archive.name.removeprefix(f"{PACKAGE}_").partition(".orig")[0])
    return folder


def tests(folder: Path) -> list[str]:
    """The names of the tests in the folder of built programs."""
    return sorted(path.name for path in folder.iterdir() if not path.suffix and path.name != "runtimetest")


def build(archive: Path, folder: Path) -> None:
    """Unpack, build every test and `runtimetest` without libc, so that they run in any root file system."""
    path = folder / "go"
    source = path / "src" / IMPORT_PATH
    source.mkdir(parents=True)
    must(["tar", "-xf", archive, "-C", source, "--strip-components=1", "--no-same-owner"])
    stand_in = path / "src/github.com/mndrix/tap-go"
    stand_in.mkdir(parents=True)
    shutil.copy(TAP, stand_in)
    environment = {
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": f"{path}:/usr/share/gocode",
        "GOCACHE": str(folder / "gocache"),
        "CGO_ENABLED": "0",
        "PWD": str(source),
    }
    command = ["go", "build", "-ldflags=-s -w", "-o", f"{folder / 'suite'}/", "./validation/...", "./cmd/runtimetest"]
    must(command, environment, cwd=source)
    for root_archive in source.glob("rootfs-*.tar.gz"):
        shutil.copy(root_archive, folder / "suite")
    shutil.rmtree(folder / "gocache", ignore_errors=True)


def shares_a_cgroup(test: str) -> bool:
    """Whether a test uses a cgroup that it uses with every runtime."""
    return "cgroup" in test or "resources" in test


def run(folder: Path, test: str, runtime: str, _pattern: str = "") -> dict[str, tap.Verdict]:
    """Run one test program with a state folder, a TMPDIR and a mount namespace of its own; remove what it leaves."""
    scratch = Path(tempfile.mkdtemp(prefix="pyruntime-test-"))
    scratch.chmod(0o755)  # users of the container pass through it
    command = scratch / "runtime"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(runtime)} --root {scratch}/state "$@"\n')
    command.chmod(0o755)
    environment = clean_environment({"RUNTIME": str(command), "TMPDIR": str(scratch)})
    said, status = observed.run([*OWN_MOUNTS, folder / test], folder, environment, scratch / "output", LONGEST)
    for state in (scratch / "state").glob("*"):
        subprocess.run([command, "delete", "--force", state.name], capture_output=True, check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", scratch], check=False)
    return {test: tap.judge(said, status)}
