"""What one evaluation of Dagster's automation costs, against the size of the graph.

    python_of_the_environment benchmarks/peers/dagster_evaluation.py --assets 100 300 1000

assets       eager assets in chains of five, each chain below an outside source of its own; one
             source changes, so five are requested, however many others there are.
partitions   one eager asset of so many static partitions below a source that has the same; one
             partition of the source changes, so one is requested.

For each size: the evaluation that sees the change, and the one after all is settled again. Every
sample changes something else.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg  # type: ignore[import-not-found]  # only in the environment of this script
from dagster_instance import STORAGES, instance  # type: ignore[import-not-found]  # beside this
from said import Side, say, within  # type: ignore[import-not-found]  # beside this script

CHAIN = 5
SETTLING = 5
"""Evaluations with nothing to request come at the latest after so many."""

FAVOUR = (
    "the conditions evaluated in the process that has the definitions, without the daemon's "
    "interval, its code server, the storing of what was evaluated, and the launch of runs"
)

Change = tuple[list[tuple[str, str | None]], list[tuple[str, str | None]]]
"""What is reported as new, and what has to be materialized for it: assets and partitions."""


class Automation:
    """Definitions, what is recorded of them, and the cursor of the evaluations so far."""

    def __init__(self, opened: Any, assets: Sequence[Any]) -> None:
        self._instance = opened
        self._definitions = dg.Definitions(list(assets))
        self._cursor: Any = None

    def report(self, made: Sequence[tuple[str, str | None]]) -> None:
        """These are materialized, outside of any run."""
        for asset, partition in made:
            event = dg.AssetMaterialization(asset, partition=partition)
            self._instance.report_runless_asset_event(event)

    def evaluate(self) -> tuple[float, int]:
        """One evaluation of every condition: its seconds, and how many are requested."""
        began = time.perf_counter()
        result = dg.evaluate_automation_conditions(
            defs=self._definitions, instance=self._instance, cursor=self._cursor
        )
        seconds = time.perf_counter() - began
        self._cursor = result.cursor
        return seconds, int(result.total_requested)

    def settle(self) -> None:
        """Evaluates until what was reported has been seen; RuntimeError if it never is."""
        self.evaluate()
        for _ in range(SETTLING):
            if not self.evaluate()[1]:
                return
        raise RuntimeError(f"assets are still requested after {SETTLING} evaluations")

    def sample(self, change: Change) -> tuple[float, float]:
        """Seconds of the evaluation that sees the change, and of an idle one after it."""
        new, called_for = change
        self.report(new)
        seconds, requested = self.evaluate()
        if requested != len(called_for):
            raise RuntimeError(f"{requested} requested, where {len(called_for)} should be")
        self.report(called_for)
        self.settle()
        idle, requested = self.evaluate()
        if requested:
            raise RuntimeError(f"{requested} requested, where nothing had changed")
        return seconds, idle


def of_assets(opened: Any, size: int) -> tuple[Automation, Callable[[int], Change]]:
    """`size` eager assets that are up to date, and one change of a source for each number."""
    assets: list[Any] = []
    chains: list[list[tuple[str, str | None]]] = []
    for chain in range(size // CHAIN):
        names = [f"asset{chain:05}_{number}" for number in range(CHAIN)]
        assets.append(dg.AssetSpec(f"source{chain:05}"))
        for name, after in zip(names, [f"source{chain:05}", *names], strict=False):
            assets.append(_eager(name, after))
        chains.append([(name, None) for name in names])
    automation = Automation(opened, assets)
    automation.report([(f"source{chain:05}", None) for chain in range(size // CHAIN)])
    automation.report([made for chain in chains for made in chain])

    def change(number: int) -> Change:
        chain = number * 37 % len(chains)
        return [(f"source{chain:05}", None)], chains[chain]

    return automation, change


def of_partitions(opened: Any, size: int) -> tuple[Automation, Callable[[int], Change]]:
    """One eager asset of `size` partitions that is up to date, and one change for each number."""
    keys = [f"p{number:07}" for number in range(size)]
    partitions = dg.StaticPartitionsDefinition(keys)
    source = dg.AssetSpec("source", partitions_def=partitions)
    automation = Automation(opened, [source, _eager("asset", source, partitions_def=partitions)])
    automation.report([("source", key) for key in keys])
    automation.report([("asset", key) for key in keys])

    def change(number: int) -> Change:
        key = keys[number * 37 % size]
        return [("source", key)], [("asset", key)]

    return automation, change


def _eager(name: str, after: Any, **options: Any) -> Any:
    """An asset that is requested as soon as what it depends on is new."""
    condition = dg.AutomationCondition.eager()
    return dg.asset(name=name, deps=[after], automation_condition=condition, **options)(_nothing)


def _nothing() -> None:
    """Never called: an evaluation ends where the runs would begin."""


GRAPHS = {"assets": of_assets, "partitions": of_partitions}


def measure(kind: str, storage: str, size: int, samples: int) -> tuple[list[float], list[float]]:
    """Seconds of each evaluation that saw a change, and of each idle one."""
    with instance(storage) as opened:
        automation, change = GRAPHS[kind](opened, size)
        automation.settle()
        pairs = [automation.sample(change(number)) for number in range(samples)]
    return [seconds for seconds, _ in pairs], [idle for _, idle in pairs]


def main() -> int:
    """Measure every size; what fails is said as a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--assets", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--partitions", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--samples", type=int, default=3, help="of a size (default %(default)s)")
    parser.add_argument("--storage", choices=list(STORAGES), default="memory")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="for each size")
    options = parser.parse_args()
    warnings.simplefilter("ignore", dg.BetaWarning)  # of Dagster, about its own use of itself
    side = Side(
        "Dagster", dg.__version__, "evaluation", "best", f"{STORAGES[options.storage]}; {FAVOUR}"
    )
    for kind, sizes in (("assets", options.assets), ("partitions", options.partitions)):
        for size in sizes:
            with within(side, options.timeout_s):
                changed, idle = measure(kind, options.storage, size, options.samples)
                say(side, f"evaluation with one change, by {kind}", "s", changed, size)
                say(side, f"idle evaluation, by {kind}", "s", idle, size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
