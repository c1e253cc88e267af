"""Python's home of the installed command (cli/home.py): it starts sooner, and nothing else is different."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyruntime.cli.launcher import FLAGS
from scripts.lib.environment import checkout_launcher

PYTHON = os.path.realpath(sys.executable)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout_launcher(tmp_path_factory.mktemp("installed"), PYTHON)


@pytest.fixture(scope="module")
def interpreter(launcher: Path) -> str:
    """The interpreter of the first line."""
    return launcher.read_text().split()[0].removeprefix("#!")


def told(interpreter: str, program: str) -> str:
    done = subprocess.run([interpreter, FLAGS, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_command_starts_from_it_without_the_package(launcher: Path, interpreter: str) -> None:
    assert interpreter == str(launcher.parent / "library/pyruntime/home" / Path(PYTHON).name)
    modules = "import sys; print(*sys.modules)"
    unneeded = {"encodings.aliases", "encodings.utf_8"}
    assert unneeded <= set(told(PYTHON, modules).split())
    assert not unneeded & set(told(interpreter, modules).split())


SAME = {
    "flags": "import sys; print(sys.flags, sys.version, sys.getfilesystemencoding())",
    "other places": "import sys, os; print(*[os.path.realpath(p) for p in sys.path if p[-4:] != '.zip'][-2:])",
    "frozen modules": (
        "import os, posixpath, importlib.metadata as m\n"
        "print(*(os.path.realpath(x.__file__) for x in (os, posixpath, m)))"
    ),
    "text in and out": "import sys; print('é\\udc80'.encode('utf-8', 'surrogateescape'), sys.stdout.encoding, 'ä😀')",
    "a file": "f = open('/proc/self/comm', encoding='utf-8'); print(len(f.read()) > 3)",
    "decoding in parts": (
        "import codecs; d = codecs.getincrementaldecoder('utf-8')()\n"
        "print(*map(d.decode, (b'a\\xc3', b'\\xa9', b'\\xf0')), d.getstate())\n"
        "try: d.decode(b'', True)\nexcept UnicodeDecodeError as e: print(e)"
    ),
    "encoding in parts": "import codecs; print(codecs.getincrementalencoder('UTF-8')().encode('é'))",
    "codecs of it": (
        "import codecs; c = codecs.lookup('utf-8'); print(c.name, c.encode('é'), c.decode(b'\\xc3\\xa9'))"
    ),
    "streams": (
        "import codecs, io; b = io.BytesIO(); codecs.getwriter('utf-8')(b).write('é')\n"
        "print(codecs.getreader('utf-8')(io.BytesIO(b.getvalue())).read())"
    ),
    "other codecs": "print('é'.encode('idna'), b'\\xe9'.decode('cp1252'), 'x'.encode('utf8'), 'x'.encode('u8'))",
    "an unknown codec": "try: 'x'.encode('nonsense')\nexcept LookupError as e: print(type(e), e)",
    "the package": (
        "import encodings, encodings.aliases, encodings.utf_8, locale\n"
        "print(encodings.normalize_encoding('a-b'), encodings.aliases.aliases['u8'])\n"
        "print(encodings.utf_8.getregentry().name)\n"
        "print(hasattr(encodings, 'nonsense'), hasattr(encodings, '__wrapped__'), locale.getpreferredencoding())"
    ),
    "behind the seal": (
        "import sys\nfor finders in (sys.meta_path, sys.path, sys.path_hooks): finders.clear()\n"
        "try: print('x'.encode('cp1252'))\nexcept LookupError as e: print(type(e), e)\nprint('é')"
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_nothing_else_is_different(what: str, interpreter: str) -> None:
    assert told(interpreter, SAME[what]) == told(PYTHON, SAME[what])


def test_behind_the_seal_no_file_is_looked_for(interpreter: str) -> None:
    """It would be a file of the container's."""
    program = f"""import sys
sys.addaudithook(lambda event, args: print(event, args) if event in ("open", "os.listdir") else None)
{SAME["behind the seal"]}"""
    assert "open" not in told(interpreter, program)


def test_a_second_start_without_variables_of_the_dynamic_loader(launcher: Path) -> None:
    environment = {"LD_LIBRARY_PATH": "/nowhere"}
    command = [str(launcher), "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pyruntime version")


def test_without_what_is_in_it_the_interpreter_does_as_well(launcher: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    shutil.copytree(launcher.parent / "library", library, symlinks=True)
    home = library / "pyruntime/home"
    interpreter = home / Path(PYTHON).name
    for part in (home / "encodings", home / f"{interpreter.name}._pth"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        assert told(str(interpreter), "print('é'.encode('cp1252'))") == "b'\\xe9'\n"
