"""How long Dagster's daemon takes from a change to the asset that it calls for.

    python_of_the_environment benchmarks/peers/dagster_reaction.py --setting best --samples 10

A real daemon and code server (`dagster_daemon.py`) over a small graph (`dagster_graph.py`): a file
sensor and its asset, with two eager assets below; an outside source with a chain of three eager
assets below. A sample begins when the file is closed, or the event of the source is recorded,
at a random moment of the daemon's interval; it ends with the first line of the asset's own
function. Nothing else happens until all that the change calls for is over.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg  # type: ignore[import-not-found]  # only in the environment of this script
from dagster_daemon import running  # type: ignore[import-not-found]  # beside this script
from said import Side, say, within  # type: ignore[import-not-found]  # beside this script

CONFIGURATIONS = {
    "best": "no run queue (DefaultRunCoordinator), minimum_interval_seconds=1 for the file sensor "
    "and the automation sensor, both on from the start, in-process executor, the assets of a "
    "chain in one run; an asset's end is the end of its function, not its recorded event",
    "default": "as installed (run queue, 30 s intervals, multiprocess executor) but for the two "
    "sensors being on from the start; an asset's end is the end of its function, not its "
    "recorded event",
}
INTERVAL_S = {"best": 5.0, "default": 30.0}
"""How long the daemon sleeps, at most, between two looks at the same thing."""

BELOW_A_FILE = ("root", "child", "leaf")
CHAIN = ("first", "second", "third")

ROOT = "file closed → asset entered"
LEAF = "file closed → end of a chain of three, the lower two eager"
THIRD = "source change → end of the third of a chain of eager assets"

LOST_S = 180.0
"""After this a change counts as lost: `eager()` overlooks one that comes at a bad moment."""

WARM_UP_S = 60.0
POLL_S = 0.01


class Place:
    """The daemon's folder: what is changed in it, and what the assets wrote down."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._instance = dg.DagsterInstance.get()
        self._files = 0

    def file_closed(self) -> float:
        """A new file lands in the inbox; the moment it was closed."""
        self._files += 1
        with (self._home / "inbox" / f"{self._files:06}").open("w", encoding="utf-8") as file:
            file.write("data")
        return time.time()

    def source_changed(self) -> float:
        """The outside source is said to be new; the moment that is on disk."""
        self._instance.report_runless_asset_event(dg.AssetMaterialization("source"))
        return time.time()

    def entered(self, asset: str, after: float, limit_s: float) -> float:
        """When the asset was first entered after this moment; TimeoutError if never."""
        notes = self._home / "notes" / asset
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            lines = notes.read_text(encoding="utf-8").split() if notes.exists() else []
            if later := [float(line) for line in lines if float(line) >= after]:
                return later[0]
            time.sleep(POLL_S)
        raise TimeoutError(f"{asset} was not entered within {limit_s:g} s of a change: {self.log}")

    def followed(self, assets: Sequence[str], after: float, limit_s: float = LOST_S) -> list[float]:
        """When each of a chain was entered, each after the one before it."""
        moments = [after]
        for asset in assets:
            moments.append(self.entered(asset, moments[-1], limit_s))
        return moments[1:]

    @property
    def log(self) -> str:
        """The last that the daemon said."""
        return (self._home / "log").read_text(encoding="utf-8", errors="replace")[-300:]

    def settle(self) -> None:
        """Returns once no run is queued or under way."""
        unfinished = dg.RunsFilter(
            statuses=[status for status in dg.DagsterRunStatus if not _is_over(status)]
        )
        until = time.monotonic() + LOST_S
        while self._instance.get_runs_count(unfinished):
            if time.monotonic() > until:
                raise TimeoutError(f"a run is not over after {LOST_S:g} s")
            time.sleep(0.1)


def _is_over(status: object) -> bool:
    status_of = dg.DagsterRunStatus
    return status in (status_of.SUCCESS, status_of.FAILURE, status_of.CANCELED)


def _warm_up(change: Callable[[], float], place: Place, assets: Sequence[str]) -> None:
    """Changes until one is followed to the end: what comes before the first evaluation is lost."""
    until = time.monotonic() + LOST_S
    while True:
        try:
            place.followed(assets, change(), WARM_UP_S)
        except TimeoutError:
            if time.monotonic() > until:
                raise
        else:
            return


def measure(
    home: Path, setting: str, samples: int, budget_s: float
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of the samples by what was measured, and for each change 1 if it was lost, else 0.

    So many samples of each kind, unless the budget is over before: at least one then.
    """
    rhythm = random.Random(1)
    seconds: dict[str, list[float]] = {ROOT: [], LEAF: [], THIRD: []}
    lost: list[float] = []
    with running(home, setting):
        place = Place(home)
        kinds = [(place.source_changed, CHAIN), (place.file_closed, BELOW_A_FILE)]
        for change, assets in kinds:
            _warm_up(change, place, assets)
        late = time.monotonic() + budget_s
        for number in range(samples):
            if number and time.monotonic() > late:
                break
            for change, assets in kinds:
                _pause(place, rhythm, setting)
                began = change()
                try:
                    moments = place.followed(assets, began)
                except TimeoutError:
                    lost.append(1)
                    continue
                lost.append(0)
                if assets is CHAIN:
                    seconds[THIRD].append(moments[-1] - began)
                else:
                    seconds[ROOT].append(moments[0] - began)
                    seconds[LEAF].append(moments[-1] - began)
    return seconds, lost


def _pause(place: Place, rhythm: random.Random, setting: str) -> None:
    """Until all is over, and then to a random moment of the daemon's interval."""
    place.settle()
    time.sleep(2 + rhythm.uniform(0, INTERVAL_S[setting]))


def main() -> int:
    """Measure one setting, or both; what fails is said as a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--setting", choices=["best", "default", "both"], default="both")
    parser.add_argument("--samples", type=int, help="(default 10 of the best, 3 of the default)")
    parser.add_argument("--budget-s", type=float, default=900.0, help="begins no sample after")
    parser.add_argument("--timeout-s", type=float, default=1200.0, help="for each setting")
    options = parser.parse_args()
    settings = ["best", "default"] if options.setting == "both" else [options.setting]
    for setting in settings:
        side = Side("Dagster", dg.__version__, "reaction", setting, CONFIGURATIONS[setting])
        samples = options.samples or {"best": 10, "default": 3}[setting]
        with tempfile.TemporaryDirectory() as folder, within(side, options.timeout_s):
            seconds, lost = measure(Path(folder), setting, samples, options.budget_s)
            for what, values in seconds.items():
                say(side, what, "s", values)
            say(side, f"changes not followed to their end within {LOST_S:g} s", "lost", lost)
        os.environ.pop("DAGSTER_HOME", None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
