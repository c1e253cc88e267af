"""Python environments: the one that the tests and checks run in, and the launchers of the command.

Always on the distribution's interpreter: a version manager's shim in front of it costs 50 ms at every start.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

from scripts.lib.steps import CHECKOUT, cache_path, die, digest, must, need_packages, say

OLDEST = (3, 11)


def distribution_python() -> Path:
    """The real path of the distribution's python3, such as /usr/bin/python3.11."""
    python = Path("/usr/bin/python3").resolve()
    ask = [str(python), "-IS", "-c", f"import sys; print(sys.version_info >= {OLDEST})"]
    answer = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() if python.exists() else ""
    if answer != "True":
        die(f"{python} must be Python {OLDEST[0]}.{OLDEST[1]} or newer (Debian 12, Ubuntu 24.04)")
    return python


def make_venv(path: Path, python: Path, *requirements: str | Path) -> None:
    """A fresh virtual environment with these requirements, compiled."""
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    must([python, "-m", "venv", path])
    must([path / "bin/pip", "install", "-qq", "--use-pep517", "--compile", *requirements])


def test_environment() -> Path:
    """The interpreter of an environment with all that tests and checks import, made once for a pyproject.toml.

    The package itself is not in it: tests take it from the checkout.
    """
    python = distribution_python()
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    requirements = [*project["dependencies"], *optional["test"], *optional["lint"]]
    path = cache_path() / f"venv-{digest([python, *requirements])}"
    stamp = path / "complete"
    if not stamp.exists():
        need_packages("python3-venv", what_for="an environment for the tests")
        need_packages("gcc", "libc6-dev", "python3-dev", "libcap-dev", what_for="building python-prctl, for the tests")
        say(f"making the test environment {path} (once)")
        make_venv(path, python, *requirements)
        stamp.touch()
    return path / "bin/python"


def write_launcher(launcher: Path, python: str | Path, library: Path) -> None:
    """Write the command for the package below `library`, with the images of its hot modules (pyruntime/cli/image.py)
    and the interpreter's home (pyruntime/cli/home.py).

    Both are written by the interpreter that will read them.
    """
    from pyruntime.cli.home import home_path
    from pyruntime.cli.launcher import launcher_text

    for part in ("image", "home"):
        must([python, "-IS", library / f"pyruntime/cli/{part}.py", library])
    interpreter = home_path(library) / Path(python).name
    fresh = launcher.with_name(f".{launcher.name}.new")
    fresh.write_text(launcher_text(str(interpreter), str(library)))
    fresh.chmod(0o755)
    fresh.rename(launcher)


def checkout_launcher(folder: Path, python: str) -> Path:
    """The command as scripts/run installs it, but for the package of this checkout; `folder` is empty and temporary.

    An isolated interpreter (-IS) sees no site-packages, so the package and what it needs are put side by side in one
    folder. The package is copied: compiled files of root's would be a nuisance in the user's checkout.
    """
    library = folder / "library"
    shutil.copytree(CHECKOUT / "pyruntime", library / "pyruntime", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("click", "pyroute2"):
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            (library / name).symlink_to(Path(found.origin).parent)
    launcher = folder / "pyruntime"
    write_launcher(launcher, os.path.realpath(python), library)
    return launcher
