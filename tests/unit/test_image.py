"""The image (cli/image.py): the hot verbs run from it alone, and do without it if need be."""

from __future__ import annotations

import json
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyruntime.cli.image import image_path
from pyruntime.cli.launcher import FLAGS, launcher_code, launcher_text
from pyruntime.spec.default import default_spec
from pyruntime.state.store import Store
from scripts.lib.usual import docker_like
from tests.unit.test_cli_main import CHEAP
from tests.unit.test_layers import HEAVY

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PYTHON = os.path.realpath(sys.executable)

Finished = subprocess.CompletedProcess[str]


def copied(folder: Path) -> Path:
    """A library of its own, with both images."""
    library = folder / "library"
    shutil.copytree(
        CHECKOUT / "pyruntime", library / "pyruntime", ignore=shutil.ignore_patterns("__pycache__", "*.image")
    )
    script = library / "pyruntime/cli/image.py"
    subprocess.run([PYTHON, "-ISB", str(script), str(library)], check=True, timeout=60)
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its images, not to be changed."""
    return copied(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def images_alone(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library without a single module: whatever is not in the image is not there."""
    alone = tmp_path_factory.mktemp("alone")
    (alone / "pyruntime").mkdir()
    for image in (library / "pyruntime").glob("*.image"):
        shutil.copy(image, alone / "pyruntime")
    return alone


# Put in front of the launcher: on leaving, tell the modules, and for those of pyruntime whether the import system made
# them. (What the image makes has no __spec__.)
TELLING = """
import posix, sys
sys.dont_write_bytecode = True
def tell(status, leave=posix._exit):
    for name, module in list(sys.modules.items()):
        if module is not None:
            imported = name.partition(".")[0] == "pyruntime" and module.__spec__ is not None
            posix.write({fd}, b"%s %d\\n" % (name.encode(), imported))
    leave(status)
posix._exit = tell
"""


class Command:
    """The installed command, by which every call also says what it has imported."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self.folder = folder
        self.root = folder / "state"
        self.modules: set[str] = set()
        self.from_files: set[str] = set()
        self.prefix: list[str] = []

    def __call__(self, *words: str) -> Finished:
        output = self.folder / "modules"
        with output.open("wb") as file:
            program = TELLING.format(fd=file.fileno()) + launcher_code(str(self.library))
            command = [*self.prefix, PYTHON, FLAGS, "-c", program, "--root", str(self.root), *words]
            # Not a pipe for the output: what a container inherits would keep it open.
            with (self.folder / "out").open("w+") as out, (self.folder / "err").open("w+") as err:
                done = subprocess.run(
                    command,
                    stdout=out,
                    stderr=err,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[file.fileno()],
                    timeout=60,
                    check=False,
                )
                out.seek(0)
                err.seek(0)
                finished = Finished(command, done.returncode, out.read(), err.read())
        pairs = [line.split() for line in output.read_text().splitlines()]
        self.modules = {name for name, _ in pairs}
        self.from_files = {name for name, imported in pairs if imported == "1"}
        return finished

    def ours(self) -> set[str]:
        return {name for name in self.modules if name.partition(".")[0] == "pyruntime"}


@pytest.fixture
def command(library: Path, tmp_path: Path) -> Command:
    return Command(library, tmp_path)


@pytest.fixture
def alone(images_alone: Path, tmp_path: Path) -> Command:
    """The command without the files of the modules."""
    return Command(images_alone, tmp_path)


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """The modules of an interpreter that has done nothing."""
    asked = [PYTHON, FLAGS, "-c", "import sys; print(*sys.modules)"]
    return set(subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def stopped(command: Command, **more: Any) -> None:
    """A container whose process is gone, written by hand: no root is needed to look at it and to delete it."""
    store = Store(str(command.root), "web")
    store.reserve()
    record: Any = {
        "ociVersion": "1.3.0", "id": "web", "pid": 4194305, "bundle": "/b", "rootfs": "/b/rootfs",
        "created": "2026-01-01T00:00:00Z", "annotations": {}, "owner": "", "startTime": 1, "uid": 0,
        "cgroup": "", "cgroupIntended": "", "config": False, "rootless": False, **more,
    }  # fmt: skip
    store.write(record)


def test_verbs_that_look_and_remove_run_from_the_image_alone(alone: Command, bare: set[str]) -> None:
    stopped(alone)
    for words, sign in (("state", '"status": "stopped"'), ("delete", ""), ("delete --force", "")):
        done = alone(*words.split(), "web")
        assert (done.returncode, done.stderr) == (0, ""), words
        assert sign in done.stdout
        assert alone.from_files == set()
        assert alone.modules - alone.ours() - bare <= CHEAP - {"__future__"}, words
        assert not alone.modules & (HEAVY | {"_ctypes"}), words


@pytest.mark.parametrize(
    "words", ["state web", "start web", "kill web", "pause web", "resume web", "ps web", "delete web"]
)
def test_only_the_telling_of_an_error_comes_from_a_file(words: str, command: Command) -> None:
    done = command(*words.split())
    verb = words.split(maxsplit=1)[0]
    assert (done.returncode, done.stderr) == (1, f"pyruntime: {verb} web: container does not exist\n")
    assert command.from_files == {"pyruntime.cli.log"}
    assert "_ctypes" not in command.modules


def bundle(folder: Path, *args: str) -> Path:
    """The default spec with a busybox."""
    path = folder / "bundle"
    for name in ("bin", "dev", "proc", "sys"):
        (path / "rootfs" / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is not None:
        shutil.copy(busybox, path / "rootfs/bin/busybox")
    config = default_spec()
    config["process"]["terminal"] = False
    config["process"]["args"] = ["/bin/busybox", *args]
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def container(alone: Command, command: Command, tmp_path: Path) -> Iterator[str]:
    """An ID, which is free again afterwards."""
    yield f"image-{os.getpid()}"
    for id in [path.name for path in alone.root.iterdir()] if alone.root.exists() else []:
        command("delete", "--force", id)


@pytest.mark.needs("root", "busybox", "cgroup2")
def test_a_life_from_the_image_alone(alone: Command, bare: set[str], container: str, tmp_path: Path) -> None:
    path = bundle(tmp_path, "sleep", "1000")
    making = ["create", "-b", str(path)], ["run", "-d", "-b", str(path)]
    for words in (
        *making[:1],
        ["state"],
        ["start"],
        ["pause"],
        ["resume"],
        ["ps"],
        ["kill"],
        ["delete", "-f"],
        *making[1:],
        ["kill"],
        ["delete", "-f"],
    ):
        signal = ["KILL"] if words == ["kill"] else []
        done = alone(*words, container, *signal)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert alone.from_files == set(), words
        assert not alone.modules & HEAVY, words
        makes = words in making
        assert ("_ctypes" in alone.modules) == makes, words
        assert alone.modules - alone.ours() - bare <= CHEAP - {"__future__"} | {"_ctypes"}, words
        assert ("pyruntime.creation" in alone.modules) == makes, words


@pytest.mark.needs("root", "busybox", "cgroup2")
@pytest.mark.parametrize("status", [0, 7])
def test_a_run_in_the_foreground_from_the_image_alone(
    alone: Command, container: str, status: int, tmp_path: Path
) -> None:
    done = alone("run", "-b", str(bundle(tmp_path, "sh", "-c", f"echo inside; exit {status}")), container)
    assert (done.returncode, done.stdout, done.stderr) == (status, "inside\n", "")
    assert alone.from_files == set()
    assert not alone.modules & HEAVY


@pytest.mark.needs("root", "busybox", "cgroup2")
def test_an_exec_from_the_image_alone(alone: Command, bare: set[str], container: str, tmp_path: Path) -> None:
    assert alone("run", "-d", "-b", str(bundle(tmp_path, "sleep", "1000")), container).returncode == 0
    for words, said in ((["exec"], "inside"), (["exec", "-d"], ""), (["exec", "--cwd", "/proc"], "inside")):
        done = alone(*words, container, "/bin/busybox", "sh", "-c", f"echo {said}; exit 7")
        assert (done.returncode, done.stderr) == (0 if "-d" in words else 7, ""), words
        assert done.stdout.startswith(said)
        assert alone.from_files == set()
        assert not alone.modules & HEAVY
        assert alone.modules - alone.ours() - bare <= CHEAP - {"__future__"} | {"_ctypes", "select"}
        making = {"creation", "launch.rootfs", "launch.parent", "linux.bpf", "plan.mounts", "plan.namespaces"}
        assert not alone.modules & {f"pyruntime.{name}" for name in making}
        # What checks config.json is needed only if more is new than the command.
        assert ("pyruntime.spec.validate" in alone.modules) == ("--cwd" in words)


@pytest.mark.needs("root", "busybox", "cgroup2", "libseccomp")
def test_a_filter_comes_from_an_image_of_its_own(command: Command, container: str, tmp_path: Path) -> None:
    """Who has none loads nothing for it; who has a new one imports what compiles it, from files, once."""
    path = bundle(tmp_path, "true")
    config = json.loads((path / "config.json").read_text())
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    ours = {"pyruntime.plan.seccomp", "pyruntime.launch.seccomp"}
    compiling = {"pyruntime.linux.seccomp", "pyruntime.plan.seccomp_rules"}
    for seccomp, files in ((None, set()), (profile, compiling), (profile, set())):
        config["linux"]["seccomp"] = seccomp
        (path / "config.json").write_text(json.dumps(config))
        done = command("run", "-b", str(path), container)
        assert (done.returncode, done.stderr) == (0, "")
        assert command.from_files == files
        assert command.modules & ours == (ours if seccomp else set())


NETWORK_IMAGE = {
    *("pyruntime.networking", "pyruntime.plan.network", "pyruntime.net.connect", "pyruntime.net.bridge"),
    "pyruntime.net.firewall",
}
PORTS_IMAGE = {"pyruntime.net.publishing", "pyruntime.net.ports", "pyruntime.linux.conntrack"}
# What the first use of a network in a boot takes, and no other: to define it, to make its bridge and its rules.
ONCE = {
    "pyruntime.linux.program",
    *(f"pyruntime.net.{name}" for name in ("definitions", "forwarding", "nft", "ruleset", "setup")),
}


@pytest.mark.needs("root", "busybox", "cgroup2", "bridge", "nft")
def test_a_network_comes_from_an_image_of_its_own(command: Command, container: str, tmp_path: Path) -> None:
    """In a network namespace of the test's own, whose host forwards packets already."""
    forward = "echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
    command.prefix = ["unshare", "--net", "sh", "-c", f'{forward} && exec "$@"', "sh"]
    path = bundle(tmp_path, "true")
    bridge = ("--net", "bridge")
    for flags, files, parts in (
        ((), set(), set()),
        (bridge, ONCE, NETWORK_IMAGE),
        ((*bridge, "-p", "8080:80"), ONCE, NETWORK_IMAGE | PORTS_IMAGE),
    ):
        done = command("run", *flags, "-b", str(path), container)
        assert (done.returncode, done.stderr) == (0, "")
        assert command.from_files == files
        assert not command.modules & HEAVY
        assert command.modules & (NETWORK_IMAGE | PORTS_IMAGE) == parts


def test_leaving_a_network_runs_from_an_image_of_its_own(alone: Command, bare: set[str]) -> None:
    stopped(alone, network={"kind": "bridge", "name": "default", "ip": "", "ports": [], "hostname": ""})
    leases = alone.root / "~networks/default.leases.json"
    leases.parent.mkdir()
    leases.write_text('{"last":[],"leases":[]}')
    done = alone("delete", "web")
    assert (done.returncode, done.stderr) == (0, "")
    assert alone.from_files == set()
    assert alone.modules - alone.ours() - bare <= CHEAP - {"__future__"}
    assert "pyruntime.net.connect" in alone.modules
    assert "_ctypes" not in alone.modules


def held(library: Path, name: str) -> list[tuple[str, bool, Any, Any, bytes]]:
    """What an image holds: (module, whether it is a package, its links, its code, its late part), in order."""
    _boot, (_loader, _libraries, _others, modules) = marshal.loads(Path(image_path(str(library), name)).read_bytes())
    return modules  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["control", "launch", "exec"])
def test_what_an_image_holds(library: Path, name: str) -> None:
    modules = held(library, name)
    names = [module for module, *_ in modules]
    assert len(names) == len(set(names))
    assert {module for module, is_package, *_ in modules if is_package} == {
        module for module in names if (library / module.replace(".", "/")).is_dir()
    }
    for _, _, _links, code, late in modules:
        for part in filter(None, (code, marshal.loads(late) if late else None)):
            assert part.co_filename == "<image>"
            assert "__future__" not in part.co_names
    making = {"pyruntime.launch.child", "pyruntime.plan.build"}
    assert making & set(names) == (making if name == "launch" else set())
    assert ("pyruntime.linux.call" in names) == (name != "control")


def test_a_container_may_have_the_name_of_a_verb(command: Command) -> None:
    """The launcher looks for verbs among all arguments; then the files serve."""
    done = command("state", "run")
    assert (done.returncode, done.stderr) == (1, "pyruntime: state run: container does not exist\n")


# Put before the launcher: says which modules had their late part run, by whatever process.
TELLING_LOADS = """
import marshal, posix
def loads(data, really=marshal.loads):
    value = really(data)
    if type(value) is not tuple:
        posix.write({fd}, b"%s\\n" % " ".join(value.co_names).encode())
    return value
marshal.loads = loads
"""


def late_parts(library: Path, folder: Path, *words: str) -> str:
    """What the late parts define that a call runs; the call must succeed."""
    with (folder / "late").open("wb+") as file:
        code = TELLING_LOADS.format(fd=file.fileno()) + launcher_code(str(library))
        command = [PYTHON, FLAGS, "-c", code, "--root", str(folder / "state"), *words]
        subprocess.run(command, check=True, timeout=60, pass_fds=[file.fileno()], stdin=subprocess.DEVNULL)
        file.seek(0)
        return file.read().decode()


@pytest.mark.needs("root", "busybox", "cgroup2")
def test_a_usual_start_runs_no_late_part(library: Path, container: str, tmp_path: Path) -> None:
    """If this fails, someone has changed what a start does: run scripts/cold."""
    path = str(bundle(tmp_path, "true"))
    late_parts(library, tmp_path, "run", "-b", path, container)  # makes the directory of the state
    assert late_parts(library, tmp_path, "run", "-b", path, container) == ""
    assert late_parts(library, tmp_path, "create", "-b", path, container) == ""
    assert late_parts(library, tmp_path, "start", container) == ""


@pytest.mark.needs("root", "busybox", "cgroup2", "libseccomp")
def test_a_usual_exec_runs_no_late_part(library: Path, container: str, tmp_path: Path) -> None:
    path = bundle(tmp_path, "sleep", "1000")
    (path / "config.json").write_text(json.dumps(docker_like(json.loads((path / "config.json").read_text()))))
    late_parts(library, tmp_path, "run", "-d", "-b", str(path), container)
    for verb in (["exec"], ["exec", "-d"]):
        assert late_parts(library, tmp_path, *verb, container, "/bin/busybox", "true") == ""
    assert late_parts(library, tmp_path, "kill", container, "KILL") == ""
    assert late_parts(library, tmp_path, "delete", "--force", container) == ""


@pytest.mark.needs("root", "busybox", "cgroup2")
def test_an_unusual_start_runs_a_late_part_even_behind_the_seal(
    alone: Command, images_alone: Path, container: str, tmp_path: Path
) -> None:
    """copy_up is the child's; a program that can't be found is told by the child, with a hint from a late part."""
    path = bundle(tmp_path, "true")
    config = json.loads((path / "config.json").read_text())
    (path / "rootfs/data").mkdir()
    config["mounts"].append({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]})
    (path / "config.json").write_text(json.dumps(config))
    assert "copy_up" in late_parts(images_alone, tmp_path, "run", "-b", str(path), container)
    config["mounts"][-1]["options"] = ["size=nonsense"]
    (path / "config.json").write_text(json.dumps(config))
    done = alone("run", "-b", str(path), container)
    assert done.returncode == 1
    assert "config.json#/mounts/" in done.stderr
    assert "EINVAL: Invalid argument (an option in data that the file system does not know" in done.stderr


LOOK = """
import sys
from pyruntime import container
print(container.__file__, container.__package__, container.__name__, sys.modules["pyruntime"].container is container)
print(sys.modules["pyruntime.cli"].__path__, sys.modules["pyruntime.cli"].__package__)
from pyruntime.cli import spec
print(spec.__spec__.origin)
"""


def test_nothing_in_a_module_can_tell_the_difference(library: Path) -> None:
    """What is not in the image is imported as ever, from the same place."""
    code = launcher_code(str(library)).replace("from pyruntime.__main__ import main\nmain()\n", LOOK)
    done = subprocess.run([PYTHON, FLAGS, "-B", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    package = f"{library}/pyruntime"
    assert done.stdout.splitlines() == [
        f"{package}/container.py pyruntime pyruntime.container True",
        f"['{package}/cli'] pyruntime.cli",
        f"{package}/cli/spec.py",
    ]


def test_debug_does_without_the_image_for_the_sake_of_line_numbers(command: Command, alone: Command) -> None:
    done = command("--debug", "delete", "--force", "web")
    assert (done.returncode, done.stderr) == (0, "")
    assert command.from_files == command.ours()
    assert alone("--debug", "delete", "--force", "web").returncode != 0


BROKEN = {
    "missing": None,
    "empty": b"",
    "cut": slice(None, 1000),
    "another format": b"\xff\xfe no marshal",
    "another thing": marshal.dumps(42),
    "another shape": marshal.dumps((1, 2, 3)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_without_a_fit_image_the_files_serve(how: str, tmp_path: Path) -> None:
    library = copied(tmp_path)
    change = BROKEN[how]
    for image in (library / "pyruntime").glob("*.image"):
        whole = image.read_bytes()
        image.unlink()
        if change is not None:
            image.write_bytes(whole[change] if isinstance(change, slice) else change)
    command = Command(library, tmp_path)
    stopped(command)
    done = command("state", "web")
    assert (done.returncode, done.stderr) == (0, "")
    assert command.ours() and command.from_files == command.ours()


def test_another_pythons_image_is_not_looked_at(library: Path, tmp_path: Path) -> None:
    other = tmp_path / "library"
    shutil.copytree(library, other)
    for image in (other / "pyruntime").glob("*.image"):
        name, _tag, _ = image.name.split(".")
        image.rename(image.with_name(f"{name}.cpython-39.image"))
    command = Command(other, tmp_path)
    assert command("delete", "--force", "web").returncode == 0
    assert command.from_files == command.ours()


def test_a_bug_in_the_image_is_not_hidden_by_the_files(library: Path, tmp_path: Path) -> None:
    """Only reading may fail in silence: a module half run would be run again."""
    broken = tmp_path / "library"
    shutil.copytree(library, broken)
    boot = compile("raise ValueError('a bug in the image')", "<image>", "exec")
    for image in (broken / "pyruntime").glob("*.image"):
        image.write_bytes(marshal.dumps((boot, [])))
    done = Command(broken, tmp_path)("delete", "--force", "web")
    assert "a bug in the image" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("content", [None, b"", b"\xe3cut", b"\xff\xfe no marshal"])
def test_without_its_image_the_launcher_does_as_well(content: bytes | None, library: Path, tmp_path: Path) -> None:
    other = tmp_path / "library"
    shutil.copytree(library, other)
    Path(image_path(str(other), "launcher")).unlink()
    if content is not None:
        Path(image_path(str(other), "launcher")).write_bytes(content)
    launcher = tmp_path / "pyruntime"
    for place in (library, other):
        launcher.write_text(launcher_text(PYTHON, str(place)))
        launcher.chmod(0o755)
        done = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("pyruntime version")
