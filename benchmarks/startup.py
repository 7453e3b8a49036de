"""What it costs to start and to wait: imports, help, the first reaction of a new daemon, and an
idle daemon with a thousand assets.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.case import Figure, measured

TRIES = 10
ASSETS = 1000
IDLE_S = 20.0
"""How long the idle daemon is watched: 20 s at 1 % are 200 ms of CPU, far
above the clock's tick.
"""

STARTED_S = 60.0
"""Longest wait for the daemon to be up."""

CASE = "start and idle"

CONFIGURATION = (
    f"fresh processes, warm caches, {TRIES} of each; the first reaction is that of a daemon of one"
    " asset without any state to a file that lies there already; the idle daemon has"
    f" {ASSETS:,} assets by day and one file sensor, seen from outside for {IDLE_S:g} s"
)

PROJECT = f"""
import freshet as fr

source = fr.source("s", partitions=fr.daily("2024-01-01", opens="data"))


def make(n):
    @fr.asset(key=f"n{{n}}", deps=["s" if n < 10 else f"n{{n // 10}}"],
              partitions=fr.daily("2024-01-01", opens="data"))
    async def made():
        return None

    return made


project = fr.Project(
    [source, *map(make, range({ASSETS}))],
    sensors=[fr.files("landing/{{partition}}.csv", source=source)],
)
"""

FIRST = """
import time
from pathlib import Path

import freshet as fr

landed = fr.source("landed")


@fr.asset
async def first(landed: str) -> str:
    Path("entered.part").write_text(repr(time.time()))
    Path("entered.part").rename("entered")
    return landed


project = fr.Project([landed, first], sensors=[fr.files("landing/one.csv", source=landed)])
"""

RSS = "print(int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6)"
"""Resident memory in MB, as a process sees its own."""


class _Started(NamedTuple):
    pid: int
    began: float
    """When its process was asked for, in seconds since the epoch."""


def run() -> list[Figure]:
    """Fresh processes, and the daemon as the system sees it."""
    imports, memories = imported(TRIES)
    helped = [1000 * _seconds(["-m", "freshet", "--help"]) for _ in range(TRIES)]
    first = [1000 * _first_reaction() for _ in range(TRIES)]
    memory, cpu = idle()
    return [
        measured(CASE, "import freshet (less a bare python)", imports, "ms", 200),
        measured(CASE, "memory of a process that has imported freshet", memories, "MB"),
        measured(CASE, "freshet --help, whole process", helped, "ms", 250),
        measured(CASE, "start of `freshet run` → first asset entered", first, "ms"),
        Figure(CASE, f"idle daemon, {ASSETS} assets: memory", memory, "MB", 60),
        Figure(CASE, f"idle daemon, {ASSETS} assets: CPU", cpu, "% of a core", 1),
    ]


def imported(tries: int) -> tuple[list[float], list[float]]:
    """Milliseconds of an import, less those of a bare python just before; memory (MB) after it."""
    seconds, memories = [], []
    for _ in range(tries):
        bare = _seconds(["-c", "pass"])
        seconds.append(1000 * (_seconds(["-c", "import freshet"]) - bare))
        command = [sys.executable, "-c", f"import freshet; {RSS}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        memories.append(float(done.stdout))
    return seconds, memories


def idle() -> tuple[float, float]:
    """Resident memory (MB) and CPU (% of a core) of a daemon to which nothing happens."""
    with _daemon(PROJECT) as (folder, daemon):
        _wait_until((folder / ".freshet" / "daemon.sock").exists)
        process = psutil.Process(daemon.pid)
        time.sleep(2)
        before = process.cpu_times()
        time.sleep(IDLE_S)
        after = process.cpu_times()
        used = after.user + after.system - before.user - before.system
        return process.memory_info().rss / 1e6, round(100 * used / IDLE_S, 2)


def _first_reaction() -> float:
    """Seconds from the start of the process to the function of an asset."""
    with _daemon(FIRST) as (folder, daemon):
        entered = folder / "entered"
        _wait_until(entered.exists)
        return float(entered.read_text()) - daemon.began


@contextmanager
def _daemon(project: str) -> Iterator[tuple[Path, _Started]]:
    """A new folder with a file in `landing/`, and a daemon in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "project.py").write_text(project)
        (folder / "landing").mkdir()
        (folder / "landing" / "one.csv").write_text("1")
        command = [sys.executable, "-m", "freshet", "run", "project.py"]
        began = time.time()
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as daemon:
            try:
                yield folder, _Started(daemon.pid, began)
            finally:
                daemon.terminate()


def _seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _wait_until(there: Callable[[], bool]) -> None:
    until = time.monotonic() + STARTED_S
    while not there():
        if time.monotonic() > until:
            raise TimeoutError("the daemon did not start")
        time.sleep(0.01)
