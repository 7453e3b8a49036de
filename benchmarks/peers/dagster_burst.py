"""How long Dagster's automation takes to decide what one change, or many at once, calls for.

    python_of_the_environment benchmarks/peers/dagster_burst.py --burst 3500 --fan-in 100000

A plain script for an environment with Dagster in it (see `environment.py`); it imports nothing
of Freshet. Two cases, each in a process of its own, each some lines of JSON on stdout:

burst    `size` partitions of an outside source land at once; the asset downstream has the same
         partitions and is eager, so `size` of them are to be requested.
fan-in   one of `size` partitions of a source lands anew; the asset downstream has no partitions,
         depends on all of them and is eager, so one is to be requested.

Figures: the one evaluation that sees the change, and nothing else. For the record: how long the
events of the change took to be written before that, and the evaluation just before the change, with
nothing to do. A case that is not over in time, all preparation included, is a line that says so.

Chosen in Dagster's favour: storage in memory (`--storage sqlite` is what a local deployment has);
static partitions, whose evaluation is shorter than that of daily ones, and of which `eager()`
takes all, where of daily ones it takes only the latest; events outside of any run, written before
the clock starts; the condition evaluated in the process that holds the definitions, twice before
the change, without the daemon's interval (30 s unless configured), its code server, and the
launch of the runs that were requested.
"""

import argparse
import contextlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg  # type: ignore[import-not-found]  # only in the environment of this script

SOURCE = "source"
DOWNSTREAM = "downstream"

Line = dict[str, Any]


class Graph:
    """A source outside of Dagster and one eager asset downstream, with what is recorded of them."""

    def __init__(self, instance: Any, source: Any, downstream: Any) -> None:
        self._instance = instance
        self._definitions = dg.Definitions(assets=[source, downstream])
        self._cursor: Any = None

    def landed(self, asset: str, partitions: Sequence[str | None]) -> float:
        """Records that these partitions are made anew; the seconds that took."""
        began = time.perf_counter()
        for partition in partitions:
            event = dg.AssetMaterialization(asset, partition=partition)
            self._instance.report_runless_asset_event(event)
        return time.perf_counter() - began

    def evaluated(self) -> tuple[float, int]:
        """One evaluation of every condition: its seconds, and how many partitions it requests."""
        began = time.perf_counter()
        result = dg.evaluate_automation_conditions(
            defs=self._definitions, instance=self._instance, cursor=self._cursor
        )
        seconds = time.perf_counter() - began
        self._cursor = result.cursor
        return seconds, int(result.total_requested)

    def change(self, partitions: Sequence[str | None]) -> Line:
        """Settles, lets these partitions of the source land, and times the evaluation after it."""
        self.evaluated()
        baseline, requested = self.evaluated()
        if requested:
            raise RuntimeError(f"{requested} partitions requested before anything changed")
        reported = self.landed(SOURCE, partitions)
        seconds, requested = self.evaluated()
        return {
            "seconds": seconds,
            "requested": requested,
            "report_seconds": reported,
            "baseline_seconds": baseline,
        }


def burst(instance: Any, size: int) -> Line:
    """All `size` partitions land for the first time, each with one partition downstream."""
    keys = _keys(size)
    partitions = dg.StaticPartitionsDefinition(keys)
    source = dg.AssetSpec(SOURCE, partitions_def=partitions)
    downstream = _eager(deps=[source], partitions_def=partitions)
    return Graph(instance, source, downstream).change(keys)


def fan_in(instance: Any, size: int) -> Line:
    """One of `size` partitions lands anew, all of them and the asset downstream being there."""
    keys = _keys(size)
    source = dg.AssetSpec(SOURCE, partitions_def=dg.StaticPartitionsDefinition(keys))
    every = dg.AssetDep(source, partition_mapping=dg.AllPartitionMapping())
    graph = Graph(instance, source, _eager(deps=[every]))
    graph.landed(SOURCE, keys)
    graph.landed(DOWNSTREAM, [None])
    return graph.change([keys[size // 2]])


CASES: dict[str, Callable[[Any, int], Line]] = {"burst": burst, "fan-in": fan_in}


def _keys(size: int) -> list[str]:
    return [f"p{number:07}" for number in range(size)]


def _eager(**options: Any) -> Any:
    """An asset with these options that is requested as soon as what it depends on is new."""
    condition = dg.AutomationCondition.eager()
    return dg.asset(name=DOWNSTREAM, automation_condition=condition, **options)(_nothing)


def _nothing() -> None:
    """Never called: the cases end where the runs would begin."""


@contextlib.contextmanager
def _instance(storage: str, folder: str) -> Iterator[Any]:
    opened = dg.DagsterInstance.local_temp(folder) if storage == "sqlite" else None
    with opened or dg.DagsterInstance.ephemeral() as instance:
        yield instance


def _measure(case: str, size: int, storage: str, folder: str) -> None:
    """One case from preparation to its printed line."""
    with _instance(storage, folder) as instance:
        figures = CASES[case](instance, size)
    what = {
        "seconds": f"{case}: evaluation that sees the change",
        "baseline_seconds": f"idle before the {case}",
        "report_seconds": f"events of the {case} written",
    }
    for name, text in what.items():
        figure = {"what": text, "unit": "s", "values": [figures[name]], "size": size}
        print(json.dumps(_side(case, storage) | figure), flush=True)


def _side(case: str, storage: str) -> Line:
    """Who says it, and how it was set."""
    return {
        "peer": "Dagster",
        "version": dg.__version__,
        "case": case,
        "setting": "best" if storage == "memory" else storage,
        "configuration": f"storage {storage}; static partitions, events outside of runs, the "
        "condition evaluated in the process that holds the definitions, without the daemon's "
        "interval, its code server and the launch of runs",
    }


def _within(timeout_s: float, case: str, size: int, storage: str) -> bool:
    """Runs one case in its own process, ended after `timeout_s` seconds; False if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_measure, args=(case, size, storage, folder))
        process.start()
        process.join(timeout_s)
        if not process.is_alive():
            return process.exitcode == 0
        process.kill()
        process.join()
    late = {"failed": f"{case} of {size} not over after {timeout_s:g} s"}
    print(json.dumps(_side(case, storage) | late), flush=True)
    return True


def main() -> int:
    """Run the cases in turn; exit 1 if one failed (one that took too long has not failed)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    none = "partitions; 0 leaves the case out (default %(default)s)"
    parser.add_argument("--burst", type=int, default=3500, metavar="SIZE", help=none)
    parser.add_argument("--fan-in", type=int, default=100_000, metavar="SIZE", help=none)
    parser.add_argument("--storage", choices=["memory", "sqlite"], default="memory")
    parser.add_argument(
        "--timeout-s", type=float, default=300.0, help="for each case (default %(default)s)"
    )
    options = parser.parse_args()
    sizes = {"burst": options.burst, "fan-in": options.fan_in}
    asked = [(case, size) for case, size in sizes.items() if size > 0]
    done = [_within(options.timeout_s, case, size, options.storage) for case, size in asked]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
