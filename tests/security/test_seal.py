"""Nothing of the image, the bundle or the caller's environment runs inside the runtime (CVE-2019-14271).

A Python runtime meets it in forms of its own: an import, a codec, a locale or a name service after the root has changed
would load a file of the image with the runtime's privileges. Each planted file leaves a mark if anybody runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.programs import compiled_library
from tests.support.terminal import finish

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

# What a late import, codec look-up, traceback, name service or locale would reach for.
MODULES = (
    "_posixsubprocess", "click/__init__", "codecs", "contextlib", "ctypes/__init__", "encodings/__init__",
    "encodings/idna", "encodings/latin_1", "encodings/utf_8", "encodings/utf_8_sig", "enum", "genericpath", "grp", "io",
    "json/__init__", "linecache", "locale", "os", "posixpath", "pwd", "pyruntime/__init__", "pyruntime/errors",
    "pyruntime/launch/__init__", "pyruntime/launch/child", "re/__init__", "select", "signal", "site", "sitecustomize",
    "socket", "stat", "string", "struct", "termios", "threading", "time", "tokenize", "traceback", "types",
    "usercustomize", "warnings", "zipimport",
)  # fmt: skip
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PLACES = ("", f"usr/lib/{VERSION}", "usr/lib/python3/dist-packages", f"usr/local/lib/{VERSION}/site-packages", "root")


def planted(mark: str) -> str:
    """A module that leaves a mark by whichever means are there."""
    return f"import posix\nposix.close(posix.open({mark!r}, posix.O_CREAT | posix.O_WRONLY, 0o600))\n"


def plant(folder: Path, mark: str) -> None:
    """Every module of MODULES, below `folder`."""
    for name in MODULES:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(planted(mark))


@pytest.fixture
def poisoned(container: Container) -> Container:
    """An image in which every file that a runtime could load late is the attacker's."""
    container.config["root"]["readonly"] = False
    for place in PLACES:
        plant(container.rootfs / place, "/mark")
    # The runtime's own library's path, wherever that is on this host.
    for place in {path.lstrip("/") for path in sys.path if path}:
        plant(container.rootfs / place, "/mark")
    for name in ("libc.so.6", "libnss_files.so.2", "libffi.so.8", "gconv/gconv-modules", "gconv/UTF-16.so"):
        for folder in ("lib", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
            container.add_file(f"{folder}/{name}", b"\x7fELF not really")
    container.add_file("etc/nsswitch.conf", "passwd: evil\ngroup: evil\nhosts: evil\n")
    container.add_file("etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:7:7::/home/user:/bin/sh\n")
    return container


def assert_unmarked(container: Container) -> None:
    assert not (container.rootfs / "mark").exists(), "something of the image was run by the runtime"


def test_a_start(poisoned: Container) -> None:
    assert poisoned.output("echo fine") == "fine"
    assert_unmarked(poisoned)


def test_a_start_with_everything_that_looks_something_up(poisoned: Container) -> None:
    poisoned.process["user"] = {"uid": 7, "gid": 7, "additionalGids": [8]}
    poisoned.process["env"] += ["LANG=de_DE.ISO-8859-1", "LC_ALL=xx_XX", "GCONV_PATH=/usr/lib/gconv", "NLSPATH=/%N"]
    poisoned.process["cwd"] = "/new"
    assert poisoned.output("echo $HOME") == "/home/user"
    assert_unmarked(poisoned)


@pytest.mark.parametrize(
    "break_it",
    [lambda c: c.process.update(args=["/no/such"]), lambda c: c.process.update(args=["/etc/passwd"]),
     lambda c: c.process.update(cwd="/etc/passwd"), lambda c: c.add_mount("/mnt", "nosuchfs"),
     lambda c: c.add_mount("/mnt", "tmpfs", "no_such_option=ü"),
     lambda c: c.linux.update(maskedPaths=["/etc/passwd/x"]),
     lambda c: c.process.update(args=["\udcff"])],
    ids=["missing", "not executable", "cwd", "fstype", "data", "mask", "surrogate"],
)  # fmt: skip
def test_a_failing_start(poisoned: Container, break_it: Callable[[Container], object]) -> None:
    """Making an error's text is when Python imports most: traceback, linecache, codecs."""
    break_it(poisoned)
    result = poisoned.run()
    assert "Traceback" not in result.stderr
    assert_unmarked(poisoned)


def test_an_exec(poisoned: Container) -> None:
    poisoned.run_sleeping()
    assert poisoned.exec_output("echo $HOME", "-u", "7", "-e", "LANG=de_DE.ISO-8859-1", "--cwd", "/tmp") == "/home/user"
    for words, flags in (
        (["/no/such"], []),
        (["true"], ["--cwd", "/etc/passwd"]),
        (["\udcff"], []),
        (["/etc/passwd"], []),
    ):
        result = poisoned.exec(*words, flags=flags)
        assert result.status != 0
        assert "Traceback" not in result.stderr
    assert_unmarked(poisoned)


def test_the_bundle_and_the_callers_directory(container: Container) -> None:
    """A script's first sys.path entry, or the current directory, is a classic for planting modules."""
    mark = container.path / "mark"
    plant(container.path, str(mark))
    container.script("echo fine")
    container.write()
    result = container.runtime("run", container.id, cwd=container.path)
    assert result.stdout == "fine\n"
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTHONPATH", "{}"), ("PYTHONHOME", "{}"), ("PYTHONSTARTUP", "{}/site.py"), ("PYTHONINSPECT", "1"),
     ("PYTHONVERBOSE", "1"), ("PYTHONDEVMODE", "1"), ("PYTHONWARNINGS", "error"), ("PYTHONPROFILEIMPORTTIME", "1"),
     ("PYTHONUSERBASE", "{}"), ("PYTHONPLATLIBDIR", "{}"), ("PYTHONBREAKPOINT", "site.x"), ("PYTHONUTF8", "0"),
     ("PYTHONCOERCECLOCALE", "0"), ("PYTHONIOENCODING", "utf-16"), ("PYTHONMALLOC", "debug"), ("LC_ALL", "xx_XX"),
     ("LANG", "C"), ("LC_ALL", "C"), ("HOME", "{}"), ("GCONV_PATH", "{}"), ("LD_LIBRARY_PATH", "{}"), ("TMPDIR", "/no"),
     ("LD_BIND_NOW", "1"), ("GLIBC_TUNABLES", "glibc.malloc.check=3"), ("XDG_RUNTIME_DIR", "/no")],
)  # fmt: skip
def test_the_callers_environment(container: Container, scratch: Path, name: str, value: str) -> None:
    (scratch / "evil").mkdir()
    plant(scratch / "evil", str(scratch / "mark"))
    container.runtime.environment[name] = value.format(scratch / "evil")
    container.process["env"].append("WORD=wörd €")
    result = container.run_script('printf "%s\\n" "$WORD"; env')
    assert (result.status, result.stderr) == (0, ""), result
    assert result.stdout.startswith("wörd €\n")
    if name not in ("HOME",):
        assert f"{name}=" not in result.stdout
    assert not (scratch / "mark").exists()


@pytest.mark.needs("gcc")
def test_a_preloaded_library_of_the_callers_is_not_in_the_container(
    container: Container, scratch: Path, tmp_path: Path
) -> None:
    """The loader obeys it before any code of the runtime's runs; what enters the container must be free of it."""
    library = compiled_library("preload", tmp_path)
    container.runtime.environment |= {"LD_PRELOAD": str(library), "PRELOAD_MARK": str(scratch / "mark")}
    container.process["args"] = ["sleep", "1000"]
    assert container.create().status == 0
    pid = container.pid()
    assert "preload.so" not in Path(f"/proc/{pid}/maps").read_text()
    assert b"PRELOAD" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize(
    "entry",
    ["PYTHONPATH=/evil", "PYTHONHOME=/evil", "PYTHONSTARTUP=/evil/site.py", "PYTHONINSPECT=1", "LD_PRELOAD=/evil/x.so",
     "LD_LIBRARY_PATH=/evil", "LD_AUDIT=/evil/x.so", "GLIBC_TUNABLES=glibc.malloc.check=3", "GCONV_PATH=/evil",
     "LC_ALL=xx_XX", "_LIBCONTAINER_INITTYPE=setns", "_LIBCONTAINER_STATEDIR=/"],
)  # fmt: skip
def test_the_configs_environment(container: Container, entry: str) -> None:
    """It is the program's, and reaches it; the runtime itself doesn't look at it."""
    container.config["root"]["readonly"] = False
    plant(container.rootfs / "evil", "/mark")
    container.process["env"].append(entry)
    result = container.run_script("env")
    assert (result.status, result.stderr) == (0, "")
    assert entry in result.stdout.splitlines()
    assert_unmarked(container)


LONG_LINE = pytest.param(b":" * 100000, marks=pytest.mark.runc_since("1.2", "before, a line had a bound"))


class TestNameFiles:
    """/etc/passwd and /etc/group are the image's: whatever they are, the start neither hangs nor fails nor grows."""

    @pytest.mark.parametrize("name", ["passwd", "group"])
    @pytest.mark.only_pyruntime("runc opens a FIFO and waits for its writer")
    def test_a_fifo(self, container: Container, name: str) -> None:
        os.mkfifo(container.rootfs / "etc" / name)
        assert container.output("echo fine") == "fine"

    @pytest.mark.only_pyruntime("runc reads devices and endless files to their end")
    @pytest.mark.parametrize("kind", ["zero", "sparse", "long line"])
    def test_an_endless_one(self, container: Container, kind: str) -> None:
        path = container.rootfs / "etc/passwd"
        if kind == "zero":
            os.mknod(path, 0o020666, os.makedev(1, 5))
        elif kind == "sparse":
            path.touch()
            os.truncate(path, 1 << 40)
        else:
            path.write_bytes(b"x" * (8 << 20))
        assert container.output("echo fine") == "fine"

    def test_a_directory(self, container: Container) -> None:
        (container.rootfs / "etc/passwd").mkdir()
        container.run_script("echo fine")

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00\n", b"root:x:zero:0::/x:\n", LONG_LINE, b"root:x:0:0::\n"])
    def test_nonsense(self, container: Container, content: bytes) -> None:
        container.add_file("etc/passwd", content)
        container.add_file("etc/group", content)
        assert container.output("echo fine") == "fine"

    def test_a_symlink_to_the_hosts(self, container: Container, scratch: Path) -> None:
        (scratch / "passwd").write_text("root:x:0:0::/host:/bin/sh\n")
        (container.rootfs / "etc/passwd").symlink_to(scratch / "passwd")
        assert container.output("echo $HOME") != "/host"

    @pytest.mark.only_pyruntime("Go's encoder and os/exec pass a newline on")
    @pytest.mark.parametrize("home", ["/a\0b", "/a=b\x7f"])
    def test_a_home_that_breaks_the_environment(self, container: Container, home: str) -> None:
        container.add_file("etc/passwd", f"root:x:0:0::{home}:/bin/sh\n")
        assert container.output("echo fine") == "fine"


def test_a_program_that_floods_the_error_output(container: Container) -> None:
    """The image's program may write what it likes to stderr: it can't forge a line of the runtime's log."""
    log = container.path / "log"
    container.script("echo 'level=error msg=forged' >&2; exit 0")
    container.write()
    result = container.runtime("--log", str(log), "run", "-b", str(container.path), container.id)
    assert result.status == 0
    assert not log.exists() or "forged" not in log.read_text()


def test_many_starts_with_closed_input(container: Container) -> None:
    """The image controls nothing of the runtime's own descriptors 0 to 2, even when the caller has closed them."""
    container.script("ls -l /proc/self/fd >&2; exit 0")
    container.write()
    process = container.runtime.spawn(
        "run", "-b", str(container.path), container.id, stdin=subprocess.DEVNULL, preexec_fn=lambda: os.close(0)
    )
    _, stderr = process.communicate(timeout=60)
    assert finish(process) == 0
    assert str(container.runtime.root) not in stderr.decode()
