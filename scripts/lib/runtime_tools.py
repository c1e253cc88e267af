"""The validation suite of runtime-tools: its source from Debian's archive, built with Debian's Go and Go packages.

Debian packs the suite's source and nearly all that it imports, but not its TAP package: tap.go beside this file stands
in for that.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from scripts.lib.steps import CHECKOUT, cache_path, clean_environment, die, digest, must, need_packages, say

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
OTHER_SUITE = "trixie"  # scripts/vm-image installs from it too


def suite() -> Path:
    """The folder of what is made once: `version`, and `suite` with the tests and what they need beside them."""
    folder = cache_path() / f"runtime-tools-{digest([TAP, Path(__file__)])}"
    if not (folder / "version").exists():
        need_packages(*GO_PACKAGES, what_for="building the suite of runtime-tools")
        for old in cache_path().glob("runtime-tools-*"):
            shutil.rmtree(old)
        (folder / "suite").mkdir(parents=True)
        archive = source_archive(folder / "source")
        say(f"building {archive.name} (once)")
        build(archive, folder)
        (folder / "version").write_text(archive.name.removeprefix(f"{PACKAGE}_").partition(".orig")[0])
    return folder


def tests(folder: Path) -> list[str]:
    """The names of the tests in the folder of built programs."""
    return sorted(path.name for path in folder.iterdir() if not path.suffix and path.name != "runtimetest")


def source_archive(folder: Path) -> Path:
    """Upstream's source as Debian has it, downloaded: of this machine's release, or else of the VM's.

    apt checks each file against the signed index. That Debian's own packaging comes along is not needed.
    """
    for release in ("", OTHER_SUITE):
        shutil.rmtree(folder, ignore_errors=True)
        options = apt_options(folder, release)
        say(f"looking for the source of {PACKAGE} in Debian {release or 'of this machine'}")
        for command in (["--quiet", "update"], ["--download-only", "source", PACKAGE]):
            apt = ["apt-get", *options, *command]
            subprocess.run(apt, env=clean_environment(), cwd=folder, capture_output=True, check=False)
        found = sorted(folder.glob("*.orig.tar.*"))
        if found:
            return found[-1]
    return die(f"apt-get source {PACKAGE} gave nothing, neither for this machine's release nor for {OTHER_SUITE}")


def apt_options(folder: Path, release: str) -> list[str]:
    """Options that give apt this machine's archives for source packages, and lists beside the system's."""
    sources, lists = folder / "sources", folder / "lists"
    sources.mkdir(parents=True)
    (lists / "partial").mkdir(parents=True)
    for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        if path.suffix in (".list", ".sources") and path.exists():
            (sources / path.name).write_text(source_entries(path.read_text(), release))
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": sources,
        "Dir::State::lists": lists,
        "Dir::Cache::srcpkgcache": "",
        "Dir::Cache::pkgcache": "",
        "APT::Sandbox::User": "root",  # the cache is not the archive user's to read
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def source_entries(text: str, release: str) -> str:
    """sources.list(5), in either form, with source packages in place of binary ones, perhaps of another release."""
    text = re.sub(r"(?m)^deb ", "deb-src ", text)
    text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", text)
    if release:
        text = re.sub(r"(?m)^(deb-src (?:\[[^]]*\] )?\S+) \S+", rf"\1 {release}", text)
        first, *_updates = re.split(r"\n\s*\n", text)  # the other stanzas name suites that the release may not have
        text = re.sub(r"(?m)^Suites:.*$", f"Suites: {release}", first) + "\n" if "Suites:" in text else text
    return text


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
