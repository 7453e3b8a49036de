"""How long Dagster takes to say which of all assets are stale, after one change.

    python_of_the_environment benchmarks/peers/dagster_staleness.py --sizes 1000 5000

The graph is one root and chains of five assets below it, all of them materialized once and then
the root anew. The answer is Dagster's own (`CachingStaleStatusResolver`), asked for every asset:
it says stale of what depends directly on the root, and fresh of what lies further down.
"""

import argparse
import sys
import time
from typing import Any

import dagster as dg  # type: ignore[import-not-found]  # only in the environment of this script
from dagster._core.definitions.data_version import (  # type: ignore[import-not-found]
    CachingStaleStatusResolver,
    StaleStatus,
)
from dagster._core.loader import LoadingContextForTest  # type: ignore[import-not-found]
from dagster_instance import STORAGES, instance  # type: ignore[import-not-found]  # beside this
from said import Side, say, within  # type: ignore[import-not-found]  # beside this script

CHAIN = 5
FAVOUR = (
    "in the process that has the definitions; events reported outside of runs, so that times are "
    "compared and not data versions; the shortest graph of dependencies (one each)"
)
WAYS = {
    "unaided": "each asset's records are read as they are asked for, and kept for the others",
    "preloaded": "the records of all assets read in one query before, within the time",
}


def chains(assets: int) -> tuple[list[str], dict[str, list[str]]]:
    """The names in an order of the graph, and what each depends on."""
    names = ["root", *(f"asset{number:05}" for number in range(assets - 1))]
    deps: dict[str, list[str]] = {"root": []}
    for number, name in enumerate(names[1:]):
        deps[name] = ["root" if number % CHAIN == 0 else names[number]]
    return names, deps


def asset_graph(deps: dict[str, list[str]]) -> Any:
    """Dagster's graph of these assets, each of which would do nothing."""
    assets = [dg.asset(name=name, deps=after)(_nothing) for name, after in deps.items()]
    return dg.Definitions(assets).resolve_asset_graph()


def _nothing() -> None:
    """Never called: what is recorded is all that counts."""


def stale(opened: Any, graph: Any, keys: list[Any], preload: bool) -> int:
    """How many assets are stale, by a resolver that knows nothing yet."""
    resolver = CachingStaleStatusResolver(opened, graph, LoadingContextForTest(opened))
    if preload:
        resolver.instance_queryer.prefetch_asset_records(keys)
    return sum(resolver.get_status(key) is StaleStatus.STALE for key in keys)


def measure(storage: str, assets: int, runs: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of each run, for each way."""
    names, deps = chains(assets)
    graph = asset_graph(deps)
    keys = [dg.AssetKey(name) for name in names]
    direct = sum(after == ["root"] for after in deps.values())
    seconds: dict[str, list[float]] = {}
    with instance(storage) as opened:
        for name in [*names, "root"]:
            opened.report_runless_asset_event(dg.AssetMaterialization(name))
        for way, times in runs.items():
            seconds[way] = []
            for _ in range(times):
                began = time.perf_counter()
                found = stale(opened, graph, keys, preload=way == "preloaded")
                seconds[way].append(time.perf_counter() - began)
                if found != direct:
                    raise RuntimeError(f"{found} assets are stale, where {direct} should be")
    return seconds


def main() -> int:
    """Measure each size both ways; what fails is said as a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000], metavar="ASSETS")
    parser.add_argument("--storage", choices=list(STORAGES), default="sqlite")
    parser.add_argument("--runs", type=int, default=5, help="preloaded (default %(default)s)")
    parser.add_argument("--unaided-runs", type=int, default=1, help="(default %(default)s)")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="for each size")
    options = parser.parse_args()
    runs = {"unaided": options.unaided_runs, "preloaded": options.runs}
    for size in options.sizes:
        place = f"{STORAGES[options.storage]}; {FAVOUR}"
        side = Side("Dagster", dg.__version__, "staleness", "best", place)
        with within(side, options.timeout_s):
            for way, values in measure(options.storage, size, runs).items():
                setting = "best" if way == "preloaded" else "default"
                told = Side(side.peer, side.version, side.case, setting, f"{place}; {WAYS[way]}")
                say(told, "staleness of all assets after one change", "s", values, size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
