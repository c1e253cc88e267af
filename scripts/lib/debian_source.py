"""Source packages of the archive that this machine installs from, by apt, without touching the system's own lists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from scripts.lib.steps import clean_environment, die, say

VM_RELEASE = "trixie"  # what scripts/vm-image installs


def source_archive(package: str, folder: Path, releases: tuple[str, ...]) -> Path:
    """Upstream's source as Debian has it, downloaded from the first of some releases; "": this machine's.

    apt checks each file against the signed index. Debian's own packaging, which comes along, is not needed.
    """
    for release in releases:
        shutil.rmtree(folder, ignore_errors=True)
        options = apt_options(folder, release)
        say(f"looking for the source of {package} in Debian {release or 'of this machine'}")
        for command in (["--quiet", "update"], ["--download-only", "source", package]):
            apt = ["apt-get", *options, *command]
            subprocess.run(apt, env=clean_environment(), cwd=folder, capture_output=True, check=False)
        found = sorted(folder.glob("*.orig.tar.*"))
        if found:
            return found[-1]
    return die(f"apt-get source {package} gave nothing for {', '.join(name or 'this machine' for name in releases)}")


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
