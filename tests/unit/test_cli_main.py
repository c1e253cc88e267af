"""The program as a process: what it imports, what it makes of its surroundings, how it ends.

Nothing here makes a container, and nothing here needs root.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyruntime.cli.launcher import FLAGS, launcher_text
from pyruntime.spec.default import default_spec
from tests.unit.test_layers import HEAVY

LIBRARY = str(Path(__file__).resolve().parent.parent.parent)
# What a hot verb may import besides pyruntime and what the bare interpreter has: each costs next to nothing.
CHEAP = {"__future__", "_json", "_socket", "_struct", "errno", "fcntl", "gc", "select"}

Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def pyruntime(tmp_path: Path) -> str:
    """The installed command, as scripts/run would write it for this checkout."""
    path = tmp_path / "pyruntime"
    path.write_text(launcher_text(sys.executable, LIBRARY))
    path.chmod(0o755)
    return str(path)


def call(*command: str, **options: object) -> Finished:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


def python(program: str, *arguments: str, **options: object) -> Finished:
    """Run a program as the launcher's interpreter would, with the checkout's package."""
    start = f"import sys; sys.path.insert(0, {LIBRARY!r})\n"
    return call(sys.executable, FLAGS, "-c", start + program, *arguments, **options)


LIST_MODULES = """
import posix
leave = posix._exit
def tell(status):
    posix.write(3, " ".join(sys.modules).encode())
    leave(status)
posix._exit = tell
from pyruntime.__main__ import main
main()
"""


def modules_of(*arguments: str, directory: Path) -> tuple[set[str], Finished]:
    """The modules that a call has imported by the time it leaves."""
    output = directory / "modules"
    with output.open("wb") as file:
        program = f"import posix; posix.dup2({file.fileno()}, 3)\n" + LIST_MODULES
        done = python(program, *arguments, pass_fds=[file.fileno()])
    return set(output.read_text().split()), done


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """The modules of an interpreter that has done nothing."""
    return set(call(sys.executable, FLAGS, "-c", "import sys; print(*sys.modules)").stdout.split())


@pytest.mark.parametrize("verb", ["state", "start", "kill", "pause", "resume", "ps", "delete", "delete --force"])
def test_a_verb_that_makes_nothing_imports_next_to_nothing(verb: str, bare: set[str], tmp_path: Path) -> None:
    modules, done = modules_of("--root", str(tmp_path / "root"), *verb.split(), "web", directory=tmp_path)
    assert "pyruntime.container" in modules, done.stderr
    assert done.returncode == (0 if "--force" in verb else 1), done.stderr
    ours = {name for name in modules if name.partition(".")[0] == "pyruntime"}
    # An error may be told; whatever does the telling is ours.
    assert modules - ours - bare <= CHEAP
    assert not {name.split(".")[1] for name in ours if "." in name} & {"launch", "plan", "spec"}


@pytest.mark.parametrize("verb", ["run", "run -d", "create"])
def test_a_verb_that_makes_a_container_imports_no_heavy_module(verb: str, bare: set[str], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    config = default_spec()
    config["process"]["terminal"] = False
    (bundle / "config.json").write_text(json.dumps(config))
    # The state directory can't be made below a file: the call ends where everything is planned and nothing is done.
    (tmp_path / "file").touch()
    root = str(tmp_path / "file" / "root")
    modules, done = modules_of("--root", root, *verb.split(), "-b", str(bundle), "web", directory=tmp_path)
    assert done.returncode == 1
    assert "mkdir" in done.stderr
    assert {"pyruntime.launch.parent", "pyruntime.launch.child", "pyruntime.plan.build"} <= modules
    assert not modules & HEAVY
    ours = {name for name in modules if name.partition(".")[0] == "pyruntime"}
    assert modules - ours - bare <= CHEAP | {"_ctypes"}


@pytest.mark.parametrize(
    ("line", "status", "out", "err"),
    [
        ("--version", 0, "pyruntime version ", ""),
        ("-v", 0, "pyruntime version ", ""),
        ("", 0, "Usage: pyruntime [OPTIONS] COMMAND", ""),
        ("-h", 0, "Usage: pyruntime [OPTIONS] COMMAND", ""),
        ("help", 0, "Usage: pyruntime [OPTIONS] COMMAND", ""),
        ("help kill", 0, "Usage: pyruntime kill ", ""),
        ("run --help", 0, "Usage: pyruntime run ", ""),
        ("exec --help", 0, "Usage: pyruntime exec ", ""),
        ("features", 0, "{\n    ", ""),
        ("list", 0, "ID          PID ", ""),
        ("state web", 1, "", "pyruntime: state web: container does not exist\n"),
        ("kill web", 1, "", "pyruntime: kill web: container does not exist\n"),
        ("start web", 1, "", "pyruntime: start web: container does not exist\n"),
        ("delete web", 1, "", "pyruntime: delete web: container does not exist\n"),
        ("pause web", 1, "", "pyruntime: pause web: container does not exist\n"),
        ("resume web", 1, "", "pyruntime: resume web: container does not exist\n"),
        ("ps web -ef", 1, "", "pyruntime: ps web: container does not exist\n"),
        ("ps -f json web", 1, "", "pyruntime: ps web: container does not exist\n"),
        ("ps --help", 0, "Usage: pyruntime ps [OPTIONS] ID [ARGS...]\n", ""),
        ("events web", 1, "", "pyruntime: events web: container does not exist\n"),
        ("events --stats --interval 0s web", 1, "", "pyruntime: events web: --interval: duration interval must be gre"),
        ("update --memory 1G web", 1, "", "pyruntime: update web: container does not exist\n"),
        ("update --memory lots web", 1, "", "pyruntime: update web: --memory: 'lots' is no size"),
        ("update --mem-bw-schema L3:0=f web", 1, "", "pyruntime: update web: --mem-bw-schema: must begin with 'MB:'"),
        ("delete -f web", 0, "", ""),
        ("kill web FOO", 1, "", "pyruntime: kill web: no such signal: 'FOO' (such as TERM, SIGTERM, 15 or RTMIN+1)\n"),
        ("exec web ls -l", 255, "", "pyruntime: exec web: container does not exist\n"),
        ("exec web", 255, "", "pyruntime: exec web: container does not exist\n"),
        ("exec --nonsense web ls", 1, "", "pyruntime: exec: no such option"),
        ("checkpoint", 1, "", "pyruntime: checkpoint: not served yet\n"),
        ("nonsense", 1, "", "pyruntime: "),
        ("state ../web", 1, "", "pyruntime: state ../web: "),
        ("--log /nowhere/at/all state web", 1, "", "pyruntime: --log: open('/nowhere/at/all'): ENOENT: "),
        ("--root / list", 1, "", "pyruntime: --root: must not be /\n"),
        ("--root /proc/self/root list", 1, "", "pyruntime: --root: must not be /\n"),
    ],
)
def test_what_a_call_prints_and_returns(
    line: str, status: int, out: str, err: str, pyruntime: str, tmp_path: Path
) -> None:
    words = line.split()
    root = [] if "--root" in words or words[:1] == ["help"] else ["--root", str(tmp_path / "root")]
    done = call(pyruntime, *root, *words)
    assert done.returncode == status, done.stderr
    assert done.stdout.startswith(out) and bool(done.stdout) == bool(out)
    assert done.stderr.startswith(err) and bool(done.stderr) == bool(err)
    assert done.stderr.count("\n") <= 1


def test_errors_reach_the_log_whatever_is_wrong_behind_it(pyruntime: str, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    for words in (["state", "web"], ["state", "--nonsense"], ["nonsense"], ["restore", "web"]):
        done = call(pyruntime, "--root", str(tmp_path), "--log", str(log), "--log-format", "json", *words)
        assert done.returncode == 1
        last = json.loads(log.read_text().splitlines()[-1])
        assert last["level"] == "error"
        assert f"pyruntime: {last['msg']}\n" == done.stderr


def test_without_click_everything_but_the_beauty_works(tmp_path: Path) -> None:
    program = "sys.modules['click'] = None\nfrom pyruntime.__main__ import main\nmain()"
    done = python(program, "run", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--preserve-fds" in done.stdout
    done = python(program, "run", "--nonsense")
    assert (done.returncode, done.stderr) == (1, "pyruntime: run: no such option: --nonsense\n")
    assert python(program, "features").stdout.startswith("{")


def test_closed_descriptors_become_dev_null(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = f"""import sys; sys.path.insert(0, {LIBRARY!r})
import posix
from pyruntime.__main__ import hold_standard_descriptors
hold_standard_descriptors()
found = [posix.readlink(f"/proc/self/fd/{{fd}}") + str(posix.get_inheritable(fd)) for fd in (0, 1, 2)]
posix.write(posix.open({str(out)!r}, posix.O_WRONLY | posix.O_CREAT), "|".join(found).encode())
"""
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        out.unlink(missing_ok=True)
        script = f'exec "$0" {FLAGS} -c "$1" {closed}'
        subprocess.run(["sh", "-c", script, sys.executable, program], check=True, stdin=subprocess.PIPE, timeout=60)
        found = out.read_text().split("|")
        for sign, fd in (("<&-", 0), (">&-", 1), ("2>&-", 2)):
            assert (found[fd] == "/dev/nullTrue") == (sign in closed.split()), (closed, found)


def test_a_call_with_everything_closed_ends_as_ever(pyruntime: str, tmp_path: Path) -> None:
    for words, status in (("--version", 0), ("state web", 1), ("run --help", 0), ("nonsense", 1), ("features", 0)):
        command = f"exec {pyruntime} --root {tmp_path} {words} <&- >&- 2>&-"
        assert subprocess.run(["sh", "-c", command], check=False, timeout=60).returncode == status, words


@pytest.mark.parametrize("words", ["--version", "features", "list"])
def test_a_reader_that_has_left_is_no_error(words: str, pyruntime: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [pyruntime, "--root", str(tmp_path), *words.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == -signal.SIGPIPE


def test_a_full_disk_behind_stdout_is_an_error(pyruntime: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([pyruntime, "features"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"pyruntime: features: write to stdout: ENOSPC: No space left on device\n"


def test_a_current_directory_that_is_gone(pyruntime: str, tmp_path: Path) -> None:
    for words in ("plan x", "--root rel list"):
        script = f'mkdir gone && cd gone && rmdir ../gone && exec "$0" {words}'
        done = subprocess.run(
            ["sh", "-c", script, pyruntime], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "getcwd(): ENOENT" in done.stderr and "the current directory was removed" in done.stderr


@pytest.mark.needs("userns")
@pytest.mark.parametrize(
    ("wrapper", "env", "root"),
    [
        ([], {}, "/run/pyruntime"),
        (["unshare", "--map-root-user"], {}, "/run/pyruntime"),
        (["unshare", "--map-root-user"], {"XDG_RUNTIME_DIR": "/own"}, "/own/pyruntime"),
        (["unshare", "--map-root-user"], {"XDG_RUNTIME_DIR": "/own", "USER": "root"}, "/run/pyruntime"),
    ],
)
def test_where_the_state_is(wrapper: list[str], env: dict[str, str], root: str) -> None:
    """As runc has it: root of a user namespace alone can't write to /run as a rule."""
    show = f"import sys; sys.path.insert(0, {LIBRARY!r})\nfrom pyruntime.__main__ import _default_root as f; print(f())"
    done = call(*wrapper, sys.executable, FLAGS, "-c", show, env={"PATH": os.environ["PATH"], **env})
    assert done.stdout == f"{root}\n", done.stderr


def test_a_plan_is_of_an_id_that_run_would_take(pyruntime: str) -> None:
    done = call(pyruntime, "plan", "--id", "a/b", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "invalid container ID format" in done.stderr


PATCHED = """
from pyruntime import container
def state(id, *, root):
    raise {0}
container.state = state
from pyruntime.__main__ import main
main()
"""


def test_an_interrupt_ends_the_process_by_its_signal() -> None:
    done = python(PATCHED.format("KeyboardInterrupt"), "state", "web")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("problem", ["ZeroDivisionError('x')", "RecursionError()", "MemoryError()", "KeyError('k')"])
def test_a_bug_is_told_in_one_line(problem: str) -> None:
    done = python(PATCHED.format(problem), "state", "web")
    assert done.returncode == 1
    assert done.stderr.startswith("pyruntime: state web: a bug in pyruntime: ")
    assert done.stderr.count("\n") == 1
    shown = python(PATCHED.format(problem), "--debug", "state", "web")
    assert shown.returncode == 1
    assert "Traceback (most recent call last)" in shown.stderr


SHOW = """
from pyruntime.__main__ import distrust_environment
distrust_environment()
import posix
print(sorted(name.decode() for name in posix.environ if b"LD_" in name or b"GLIBC" in name), sys.argv[1:])
"""


def test_the_loaders_variables_are_dropped_and_nothing_else_is(tmp_path: Path) -> None:
    kept = {"PATH": os.environ["PATH"], "OLD_LD_X": "1"}
    loaders = {"LD_LIBRARY_PATH": str(tmp_path), "LD_BIND_NOW": "1", "GLIBC_TUNABLES": "glibc.malloc.check=0"}
    done = python(SHOW, "a b", "", "--", env=kept | loaders)
    assert done.stdout == "['OLD_LD_X'] ['a b', '', '--']\n", done.stderr


def test_a_preloaded_library_is_gone_before_anything_is_done(pyruntime: str) -> None:
    done = call(pyruntime, "--version", env={"LD_PRELOAD": "/nowhere/x.so"})
    assert done.returncode == 0
    # Once by the first start; the second has no such variable.
    assert done.stderr.count("/nowhere/x.so") == 1


def test_the_callers_python_settings_and_directory_have_no_effect(pyruntime: str, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    (evil / "pyruntime").mkdir(parents=True)
    for name in ("pyruntime/__init__", "errno", "click", "sitecustomize", "usercustomize", "site"):
        (evil / f"{name}.py").write_text("raise SystemExit('imported from the wrong place')")
    environment = {
        "PYTHONPATH": str(evil),
        "PYTHONHOME": str(evil),
        "PYTHONSTARTUP": str(evil / "errno.py"),
        "PYTHONINSPECT": "1",
        "PYTHONUSERBASE": str(evil),
        "HOME": str(evil),
    }
    for words in ("--version", "state web", "run --help"):
        done = call(pyruntime, "--root", str(tmp_path), *words.split(), cwd=evil, env=environment)
        assert "wrong place" not in done.stderr
        assert done.returncode == (1 if words == "state web" else 0), done.stderr


def test_python_dash_m_starts_again_in_isolation(tmp_path: Path) -> None:
    done = call(sys.executable, "-m", "pyruntime", "--root", str(tmp_path), "state", "web", cwd=LIBRARY)
    assert (done.returncode, done.stderr) == (1, "pyruntime: state web: container does not exist\n")


def test_any_bytes_in_a_name_come_out_as_they_went_in(pyruntime: str, tmp_path: Path) -> None:
    for locale in ("C", "C.UTF-8", "POSIX"):
        command = [pyruntime.encode(), b"--root", os.fsencode(tmp_path), b"kill", b"web", b"\xff\xc3\xbc"]
        done = subprocess.run(command, capture_output=True, check=False, env={"LC_ALL": locale}, timeout=60)
        assert b"no such signal: '\\udcff\xc3\xbc'" in done.stderr
