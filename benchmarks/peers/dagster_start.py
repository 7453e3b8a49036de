"""What it costs to have Dagster there: seconds of its import, memory, and its daemon doing nothing.

    python_of_the_environment benchmarks/peers/dagster_start.py --runs 7

The daemon, with its code server, serves the small graph of `dagster_graph.py`: seven assets, a
file sensor over an empty folder and the automation sensor. Processor time and memory are those of
all its processes, read from /proc: on Linux only.
"""

import argparse
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from dagster_daemon import running  # type: ignore[import-not-found]  # beside this script
from fresh import say_start  # type: ignore[import-not-found]  # beside this script
from said import Side, say, within  # type: ignore[import-not-found]  # beside this script

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

IMPORT = (
    "a fresh process with compiled and cached modules imports what a file of definitions needs, "
    "and neither a daemon nor a webserver; the start of the interpreter does not count"
)
IDLE = {
    "best": "daemon and code server alone, without the webserver, seven assets and two sensors, "
    "no run queue, intervals of 1 s",
    "default": "daemon and code server alone, without the webserver, seven assets and two "
    "sensors, run queue and intervals of 30 s as installed",
}


def idle(home: Path, setting: str, seconds: float, runs: int) -> tuple[list[float], list[float]]:
    """Percent of one core that the daemon and what it started used, and their MB in all."""
    with running(home, setting) as started:
        time.sleep(seconds)
        cores, resident = [], []
        for _ in range(runs):
            before = _processor_s(started)
            time.sleep(seconds)
            cores.append(100 * (_processor_s(started) - before) / seconds)
            resident.append(sum(_resident_mb(process) for process in _family(started)))
    return cores, resident


def _family(first: list[int]) -> list[int]:
    """These processes and all below them that are alive."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    family = list(first)
    for process in family:  # grows while it is walked
        family.extend(child for child, parent in parents.items() if parent == process)
    return family


def _stat(process: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none if it has gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _processor_s(first: list[int]) -> float:
    """Processor seconds of the family, with those of its children that are over."""
    ticks = 0
    for process in _family(first):
        ticks += sum(int(field) for field in _stat(process)[11:15])
    return ticks / _TICKS


def _resident_mb(process: int) -> float:
    fields = _stat(process)
    return int(fields[21]) * _PAGE / 1e6 if fields else 0.0


def main() -> int:
    """Measure the import and the idle daemon; what fails is said as a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7, help="imports (default %(default)s)")
    parser.add_argument("--idle-s", type=float, default=20.0, help="(default %(default)s)")
    parser.add_argument("--idle-runs", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="for each figure")
    options = parser.parse_args()
    release = version("dagster")
    side = Side("Dagster", release, "start", "best", IMPORT)
    with within(side, options.timeout_s):
        say_start(side, "import dagster", options.runs)
    for setting, configuration in IDLE.items():
        side = Side("Dagster", release, "start", setting, configuration)
        with tempfile.TemporaryDirectory() as folder, within(side, options.timeout_s):
            cores, resident = idle(Path(folder), setting, options.idle_s, options.idle_runs)
            say(side, "idle daemon, share of one core", "%", cores)
            say(side, "idle daemon, memory", "MB", resident)
    return 0


if __name__ == "__main__":
    sys.exit(main())
