"""Timing whole programs: what scripts/bench measures, and how it shows it.

Wall time is the clock's; CPU is user and system time of every process that was started, and of this one.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from scripts.lib.steps import clean_environment, die

REST = {"busy": 0.0, "idle": 0.06}  # seconds between two starts
WARM_UP = 3
PR_SET_CHILD_SUBREAPER = 36
ENVIRONMENT = clean_environment()
DEVNULL = os.open(os.devnull, os.O_RDWR)
KINDS: dict[str, Callable[[list[float]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
    "min": min,
}

kept: set[int] = set()  # processes that are to outlive the passes

Action = Callable[[str], None]  # given an ID that no container has
Row = dict[str, float]  # column -> milliseconds


class Sample(NamedTuple):
    """One pass of a workload, in milliseconds."""

    wall: float
    cpu: float

    @classmethod
    def columns(cls) -> list[str]:
        """The headings of what `row` computes."""
        return [f"{what} {how}" for what in cls._fields for how in KINDS]


class Failed(Exception):
    """A runtime cannot run the workload here."""


def be_subreaper() -> None:
    """Become the parent of whatever the programs leave behind, so that `reap` can wait for it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Wait until no process of the pass is left. We are their subreaper, so that none escapes the accounting.

    But for those that are `kept`, which outlive the pass.
    """
    while left := children() - kept:
        for pid in left:
            os.waitpid(pid, 0)


def children() -> set[int]:
    """The processes whose parent we are, those that we became by others' end included."""
    return {int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def spawn(argv: list[str], log: Path, environment: dict[str, str] = ENVIRONMENT, stdin: int = DEVNULL) -> None:
    """Run a program to its end. Raises Failed with the last line that it has written."""
    with log.open("wb") as output:
        descriptors = (stdin, output.fileno(), output.fileno())
        actions = [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate(descriptors)]
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=actions)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        said = log.read_text(errors="replace").strip().splitlines()[-1:] or [f"status {status}"]
        raise Failed(f"{Path(argv[0]).name}: {said[0]}")


def command(runtime: str, root: Path, *arguments: str, log: str = "bench.log") -> None:
    """One call of a runtime, to its end; what it writes goes to a file below `root`. Raises Failed."""
    spawn([runtime, "--root", str(root / "state"), *arguments], root / log)


def clean(runtime: str, root: Path) -> None:
    """Remove what a failed pass has left."""
    for state in (root / "state").glob("[!~]*"):
        delete = [runtime, "--root", str(root / "state"), "delete", "--force", state.name]
        subprocess.run(delete, capture_output=True, check=False)
    reap()


def timed(action: Action, id: str, *, ourselves: bool = False) -> Sample:
    """Do it once; `ourselves`: what we use meanwhile counts, too. Raises what it raises."""
    before = cpu_seconds(ourselves)
    start = time.perf_counter()
    action(id)
    wall = time.perf_counter() - start
    reap()
    return Sample(wall * 1000, (cpu_seconds(ourselves) - before) * 1000)


def cpu_seconds(ourselves: bool) -> float:
    """What our children that have ended have used so far, and maybe we."""
    who = [resource.RUSAGE_CHILDREN, *([resource.RUSAGE_SELF] if ourselves else [])]
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


def take_turns(
    actions: Mapping[str, Action], regime: str, rounds: int, *, ourselves: bool = False
) -> dict[str, list[Sample]]:
    """All samples of all actions, which take turns: a busy moment of the machine hits all of them. Raises Failed."""
    samples: dict[str, list[Sample]] = {name: [] for name in actions}
    for turn in range(rounds):
        for number, (name, taken) in enumerate(samples.items()):
            time.sleep(REST[regime])
            taken.append(timed(actions[name], f"bench-{number}-{turn}", ourselves=ourselves))
    return samples


def make_bundle(folder: Path, writer: str, *words: str) -> Path:
    """The config that `writer spec` writes, with a command of busybox, or `true`, in place of the shell."""
    words = words or ("true",)
    bundle = folder / f"bundle-{words[0]}"
    (bundle / "rootfs/bin").mkdir(parents=True)
    busybox = shutil.which("busybox") or die("busybox is missing (apt-get install busybox-static)")
    for name in {"true", words[0]}:
        shutil.copy(busybox, bundle / "rootfs/bin" / name)
    subprocess.run([writer, "spec"], cwd=bundle, check=True, env=ENVIRONMENT)
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["ociVersion"] = "1.0.2"  # old releases refuse a newer one
    config["process"] |= {"terminal": False, "args": [f"/bin/{words[0]}", *words[1:]]}
    path.write_text(json.dumps(config))
    return bundle


def version(runtime: str) -> str:
    """A runtime's own words for its version, on one line."""
    said = subprocess.run([runtime, "--version"], capture_output=True, text=True, check=False, env=ENVIRONMENT).stdout
    return "; ".join(said.strip().splitlines()[:3])


def table_of(samples: dict[str, list[Sample]]) -> dict[str, Row]:
    """What to show of each."""
    return {
        name: {
            f"{what} {how}": function([getattr(sample, what) for sample in taken])
            for what in Sample._fields
            for how, function in KINDS.items()
        }
        for name, taken in samples.items()
    }


def show_row(name: str, values: Row | None = None) -> None:
    """A line of a table; without values its headings."""
    columns = Sample.columns()
    cells = [f"{column:>13}" for column in columns] if values is None else [f"{values[each]:13.2f}" for each in columns]
    print(f"   {name:34}" + "".join(cells))


def ratio(values: Row, others: Row) -> Row:
    """One row divided by another."""
    return {column: values[column] / others[column] if others[column] else 0.0 for column in values}


def difference(values: Row, others: Row) -> Row:
    """One row less another."""
    return {column: values[column] - others[column] for column in values}
