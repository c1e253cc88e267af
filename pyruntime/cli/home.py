"""Python's home for the installed command: a directory of links, from which the interpreter starts 0.6 ms sooner.

Python takes its places for modules from a file `INTERPRETER._pth`, if there is one beside the interpreter, be that a
link: see the library reference, "The initialization of the sys.path module search path". Here the first place is this
directory, with nothing in it but utf8.py, as the package `encodings`. All others are the interpreter's own; nothing
is copied, so that an upgrade of Python is one here, too.

runc has no counterpart, being one binary.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from py_compile import compile as write_compiled


def home_path(library_path: str | Path) -> Path:
    """Where the home is, in the package below the directory `library_path`."""
    return Path(library_path, "pyruntime/home")


def write_home(home: Path) -> None:
    """Make the home of the interpreter that runs this, with a link to it of the same name. Raises OSError."""
    shutil.rmtree(home, ignore_errors=True)
    standard: str = sys._stdlib_dir  # type: ignore[attr-defined]
    python = Path(sys.executable).resolve()
    links: dict[str, Path | str] = {
        python.name: python,
        f"{sys.platlibdir}/{Path(standard).name}": standard,  # where Python looks for itself in its home
        "encodings/__init__.py": Path(__file__).resolve().with_name("utf8.py"),
    }
    for name, target in links.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).symlink_to(target)
    (home / f"{python.name}._pth").write_text("\n".join([".", *filter(os.path.isdir, sys.path), ""]))
    write_compiled(str(home / "encodings/__init__.py"), doraise=True)


if __name__ == "__main__":
    write_home(home_path(sys.argv[1]))
