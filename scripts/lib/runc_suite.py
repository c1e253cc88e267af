"""runc's own integration suite: bats files from Debian's source of runc, with its helpers built by Debian's Go.

The tests are not changed. What they need from elsewhere is put where they look for it: the images that the suite would
download are made here, and a `go` that only tells the architecture stands first in their PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from scripts.lib import bats, observed
from scripts.lib.debian_source import VM_RELEASE, source_archive
from scripts.lib.steps import CHECKOUT, cache_path, clean_environment, digest, must, need_packages, say
from scripts.lib.tap import Verdict

RUNTIMES = ("runc",)  # beside ours
VM_PACKAGES = ("bats", "jq")
IMPORT_PATH = "github.com/opencontainers/runc"
GO_PACKAGES = (
    "golang-go",
    "gcc",
    "pkg-config",
    "libseccomp-dev",
    "dpkg-dev",
    "golang-dbus-dev",
    "golang-github-cilium-ebpf-dev",
    "golang-github-containerd-console-dev",
    "golang-github-coreos-go-systemd-dev",
    "golang-github-cyphar-filepath-securejoin-dev",
    "golang-github-docker-go-units-dev",
    "golang-github-moby-sys-dev",
    "golang-github-opencontainers-specs-dev",
    "golang-github-seccomp-libseccomp-golang-dev",
    "golang-github-sirupsen-logrus-dev",
    "golang-github-urfave-cli-dev",
    "golang-golang-x-sys-dev",
)
HELPERS = {"recvtty": "0", "sd-helper": "0", "seccompagent": "1"}  # with libc (CGO_ENABLED), as libseccomp is C
TEST_TOOLS = ("bats", "busybox-static", "gcc", "libc6-dev", "iproute2", "jq", "procps", "util-linux")
# Seconds that no file takes. bats' own limit of a test would hang those that wait for all of their children.
LONGEST = 600

# What a test leaves behind, such as the receiver of a terminal, ends with its file; nothing gets to the machine's own
# network. As systemd leaves it, mounts are shared, and there is a cgroup below the root, where the suite looks for a
# freezer.
OWN_NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
IN_NAMESPACES = 'mount --make-rshared / && ip link set lo up && mkdir -p /sys/fs/cgroup/runner && "$@"; exit $?'


def suite() -> Path:
    """The folder of what is made once: `version`, and `suite` with the tests, helpers and images."""
    need_packages(*TEST_TOOLS, what_for="runc's integration suite")
    build_script = CHECKOUT / "bundles/busybox/build"
    folder = cache_path() / f"runc-suite-{digest([build_script, Path(__file__)])}"
    if not (folder / "version").exists():
        need_packages(*GO_PACKAGES, "mmdebstrap", what_for="building runc's integration suite")
        for old in cache_path().glob("runc-suite-*"):
            shutil.rmtree(old)
        folder.mkdir(parents=True)
        archive = source_archive("runc", folder / "source", (VM_RELEASE,))
        say(f"building the helpers of {archive.name} (once)")
        build(archive, folder)
        say("making the images of busybox and Debian (once)")
        make_images(build_script, folder / "suite")
        (folder / "version").write_text(archive.name.removeprefix("runc_").partition(".orig")[0])
    return folder


def build(archive: Path, folder: Path) -> None:
    """Unpack, build the helpers, and keep what the tests use: tests/integration and contrib/cmd."""
    source = folder / "go/src" / IMPORT_PATH
    source.mkdir(parents=True)
    must(["tar", "-xf", archive, "-C", source, "--strip-components=1", "--no-same-owner"])
    environment = {
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": f"{folder / 'go'}:/usr/share/gocode",
        "GOCACHE": str(folder / "gocache"),
    }
    for helper, cgo in HELPERS.items():
        path = source / "contrib/cmd" / helper
        here = {"CGO_ENABLED": cgo, "PWD": str(path)}
        must(["go", "build", "-tags=seccomp", "-ldflags=-s -w", "-o", helper, "."], {**environment, **here}, cwd=path)
    for part in ("tests/integration", "contrib/cmd"):
        shutil.copytree(source / part, folder / "suite" / part)
    for used in ("go", "gocache"):
        shutil.rmtree(folder / used)


def make_images(build_script: Path, suite_path: Path) -> None:
    """The archives that get-images.sh would download. tar knows them by their content, so they need no compression."""
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    testdata = suite_path / "tests/integration/testdata"
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(build_script, name)
        must([Path(name, "build")])
        finish_busybox(Path(name, "rootfs"))
        with tarfile.open(testdata / f"busybox-{architecture}.tar.xz", "w") as archive:
            archive.add(Path(name, "rootfs"), ".")
    image = Path(f"{suite_path}/debian.tar")
    keyring = "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg"
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    mirror = [os.environ["MIRROR"]] if os.environ.get("MIRROR") else []
    must(["mmdebstrap", "--quiet", "--variant=essential", keyring, *left_out, VM_RELEASE, image, *mirror])
    image.rename(testdata / f"debian-{architecture}.tar.xz")
    stand_in = suite_path / "bin/go"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\n# Answers `go env GOARCH` for get-images.sh.\necho {architecture}\n")
    stand_in.chmod(0o755)


def finish_busybox(rootfs: Path) -> None:
    """What the image on the Docker Hub has beyond our bundle: folders that the tests mount on or change into."""
    for path in ("dev", "home", "usr/sbin", "var/spool/mail", "var/www"):
        (rootfs / path).mkdir(parents=True, exist_ok=True)


def tests(folder: Path) -> list[str]:
    """The names of the files with tests."""
    return sorted(path.stem for path in (folder / "tests/integration").glob("*.bats"))


def shares_a_cgroup(_test: str) -> bool:
    """The files use the containers' names as cgroups, with every runtime."""
    return True


def run(folder: Path, test: str, runtime: str, pattern: str = "") -> dict[str, Verdict]:
    """Run a file's tests, or those whose names match a pattern (bats(1), --filter), each named "file: test"."""
    with tempfile.TemporaryDirectory(prefix="pyruntime-test-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)  # users of the container pass through it
        environment = clean_environment(
            {
                "RUNC": runtime,
                "TMPDIR": name,
                "PATH": f"{folder}/bin:{os.environ['PATH']}",
            }
        )
        chosen = ["--filter", pattern] if pattern else []
        argv = [*OWN_NAMESPACES, IN_NAMESPACES, "sh", "bats", "--tap", *chosen, f"tests/integration/{test}.bats"]
        said, status = observed.run(
            argv, folder, environment, scratch / "output", LONGEST, terminal=True, complete=bats.complete
        )
    return {f"{test}: {which}": verdict for which, verdict in bats.judge(said, status).items()}
