"""How many assets that do nothing Dagster materializes in a second.

    python_of_the_environment benchmarks/peers/dagster_noop.py --assets 200 --runs 3

One run in one process materializes all of them: as a chain, each after the one before, or as a
fan-out, all after the first.
"""

import argparse
import itertools
import sys
import time
from typing import Any

import dagster as dg  # type: ignore[import-not-found]  # only in the environment of this script
from dagster_instance import STORAGES, instance  # type: ignore[import-not-found]  # beside this
from said import Side, say, within  # type: ignore[import-not-found]  # beside this script

SHAPES = ("chain", "fan-out")
FAVOUR = (
    "one in-process run of all assets, its plan of the graph made before the clock starts, no "
    "value stored or loaded (deps only), no log on the console, no daemon, queue or launch of a run"
)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def job(shape: str, assets: int) -> Any:
    """A job of this many assets that do nothing."""
    names = [f"asset{number:05}" for number in range(assets)]
    graph = [_asset(names[0], [])]
    for before, name in itertools.pairwise(names):
        graph.append(_asset(name, [before if shape == "chain" else names[0]]))
    everything = dg.define_asset_job("everything", executor_def=dg.in_process_executor)
    return dg.Definitions(graph, jobs=[everything]).resolve_job_def("everything")


def _asset(name: str, deps: list[str]) -> Any:
    def nothing() -> None: ...

    return dg.asset(name=name, deps=deps)(nothing)


def rates(shape: str, storage: str, assets: int, runs: int) -> list[float]:
    """Assets per second of each run; a run of ten, with the tables made in it, comes first."""
    few, many = job(shape, 10), job(shape, assets)
    with instance(storage) as opened:
        _seconds(few, opened)
        return [assets / _seconds(many, opened) for _ in range(runs)]


def _seconds(whole: Any, opened: Any) -> float:
    began = time.perf_counter()
    done = whole.execute_in_process(instance=opened, run_config=QUIET)
    seconds = time.perf_counter() - began
    if not done.success:
        raise RuntimeError("the run of assets that do nothing has failed")
    return seconds


def main() -> int:
    """Measure each shape on each storage; what fails is said as a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--assets", type=int, default=200, help="(default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--storage", choices=list(STORAGES), action="append", help="(default all)")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="for each figure")
    options = parser.parse_args()
    for storage in options.storage or STORAGES:
        side = Side("Dagster", dg.__version__, "noop", "best", f"{STORAGES[storage]}; {FAVOUR}")
        for shape in SHAPES:
            with within(side, options.timeout_s):
                values = rates(shape, storage, options.assets, options.runs)
                say(side, f"no-op materializations, {shape}, {storage}", "/s", values)
    return 0


if __name__ == "__main__":
    sys.exit(main())
