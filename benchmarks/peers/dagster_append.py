"""How many events a second Dagster writes down.

    python_of_the_environment benchmarks/peers/dagster_append.py --events 500 --runs 5

One event is one AssetMaterialization reported outside of any run, of 100 assets in turn, with one
short piece of metadata. One by one through `report_runless_asset_event`; in batches of 100 through
the buffer of the instance (`DAGSTER_EVENT_BATCH_SIZE`), which hands them to the storage at once.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import dagster as dg  # type: ignore[import-not-found]  # only in the environment of this script
from dagster._core.events import (  # type: ignore[import-not-found]
    DagsterEventBatchMetadata,
    StepMaterializationData,
)
from dagster_instance import STORAGES, instance  # type: ignore[import-not-found]  # beside this
from said import Side, say, within  # type: ignore[import-not-found]  # beside this script

ASSETS = 100
BATCH = 100
FAVOUR = (
    "small events outside of any run, none of which starts or ends one, by one writer to whom "
    "nothing else happens"
)


def one_by_one(opened: Any, events: int) -> None:
    """Each event is on disk before the next is begun."""
    for number in range(events):
        opened.report_runless_asset_event(_materialization(number))


def in_batches(opened: Any, events: int) -> None:
    """The storage is handed BATCH events at a time."""
    for number in range(events):
        event = dg.DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name="",
            event_specific_data=StepMaterializationData(_materialization(number)),
        )
        end = number % BATCH == BATCH - 1 or number == events - 1
        opened.report_dagster_event(
            event, run_id="", batch_metadata=DagsterEventBatchMetadata(f"{number // BATCH}", end)
        )


def _materialization(number: int) -> Any:
    return dg.AssetMaterialization(f"asset{number % ASSETS:03}", metadata={"rows": number})


WAYS: dict[str, Callable[[Any, int], None]] = {
    "append, one by one": one_by_one,
    f"append, {BATCH} at a time": in_batches,
}


def rates(way: Callable[[Any, int], None], storage: str, events: int, runs: int) -> list[float]:
    """Events per second of each run; a short one, with the tables made in it, comes first."""
    with instance(storage) as opened:
        way(opened, min(events, BATCH))
        return [events / _seconds(way, opened, events) for _ in range(runs)]


def _seconds(way: Callable[[Any, int], None], opened: Any, events: int) -> float:
    began = time.perf_counter()
    way(opened, events)
    return time.perf_counter() - began


def main() -> int:
    """Measure each way on each storage; what fails is said as a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=500, help="of a run (default %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--storage", choices=list(STORAGES), action="append", help="(default all)")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="for each figure")
    options = parser.parse_args()
    os.environ["DAGSTER_EVENT_BATCH_SIZE"] = str(BATCH)
    for storage in options.storage or STORAGES:
        configuration = f"{STORAGES[storage]}; {FAVOUR}"
        side = Side("Dagster", dg.__version__, "append", "best", configuration)
        for what, way in WAYS.items():
            with within(side, options.timeout_s):
                say(
                    side,
                    f"{what}, {storage}",
                    "/s",
                    rates(way, storage, options.events, options.runs),
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
