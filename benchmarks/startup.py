"""What it costs to start and to wait: imports, help, and an idle daemon with a thousand assets."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.case import Figure

TRIES = 10
ASSETS = 1000
IDLE_S = 20.0
"""How long the idle daemon is watched: 20 s at 1 % are 200 ms of CPU, far
above the clock's tick.
"""

STARTED_S = 60.0
"""Longest wait for the daemon to be up."""

CASE = "start and idle"

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


def run() -> list[Figure]:
    """Medians of fresh processes, and the daemon as the system sees it."""
    bare = _seconds(["-c", "pass"])
    imported = _seconds(["-c", "import freshet"])
    helped = _seconds(["-m", "freshet", "--help"])
    memory, cpu = _idle()
    return [
        Figure(CASE, "import freshet (less a bare python)", (imported - bare) * 1000, "ms", 200),
        Figure(CASE, "freshet --help, whole process", helped * 1000, "ms", 250),
        Figure(CASE, f"idle daemon, {ASSETS} assets: memory", memory, "MB", 60),
        Figure(CASE, f"idle daemon, {ASSETS} assets: CPU", cpu, "% of a core", 1),
    ]


def _seconds(arguments: list[str]) -> float:
    found = []
    for _ in range(TRIES):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _idle() -> tuple[float, float]:
    """Resident memory (MB) and CPU (% of a core) of a daemon to which nothing happens."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "project.py").write_text(PROJECT)
        Path(folder, "landing").mkdir()
        command = [sys.executable, "-m", "freshet", "run", "project.py"]
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as daemon:
            try:
                _wait_until_up(Path(folder, ".freshet", "daemon.sock"))
                process = psutil.Process(daemon.pid)
                time.sleep(2)
                before = process.cpu_times()
                time.sleep(IDLE_S)
                after = process.cpu_times()
                used = after.user + after.system - before.user - before.system
                return process.memory_info().rss / 1e6, 100 * used / IDLE_S
            finally:
                daemon.terminate()


def _wait_until_up(socket: Path) -> None:
    until = time.monotonic() + STARTED_S
    while not socket.exists():
        if time.monotonic() > until:
            raise TimeoutError("the daemon did not start")
        time.sleep(0.05)
