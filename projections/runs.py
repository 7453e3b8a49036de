"""Runs: which are alive, how the last one of each asset partition ended, and
how many of each kind.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec

from freshet.engine.events import (
    Recorded,
    RunAbandoned,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
)
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.parts import Target
from freshet.projections.projection import Projection

Outcome = Literal["running", "succeeded", "failed", "cancelled", "abandoned"]


RECENT = 32
"""Runs of each asset whose time is remembered: enough for a median that follows changes."""


FEW = 10
"""Runs up to which the 90th percentile would be the slowest of them."""


class Run(msgspec.Struct, frozen=True):
    """One run: its id (position of `RunStarted`), when it started (µs), what
    for, and how it ended.
    """

    run: int
    started_at: int
    event: RunStarted
    outcome: Outcome = "running"
    ended: int = 0
    duration_us: int = 0
    error: str = ""
    retry_at: int | None = None


class Recent:
    """The times (µs) of the newest runs of an asset, as they came and in order."""

    __slots__ = ("_came", "sorted")

    def __init__(self) -> None:
        self.sorted: list[int] = []
        self._came: deque[int] = deque()

    def add(self, time_us: int) -> None:
        """One more; the oldest goes."""
        self._came.append(time_us)
        if len(self._came) > RECENT:
            del self.sorted[bisect_left(self.sorted, self._came.popleft())]
        insort(self.sorted, time_us)


class Runs(Projection):
    """The projection: `live` by run id, `failed` by asset partition, `counts` by outcome.

    `failed` holds what failed last and has not been built since.
    """

    def __init__(self) -> None:
        self.live: dict[int, Run] = {}
        self.failed: dict[AssetPartition, Run] = {}
        self.counts: dict[Outcome, int] = {
            "succeeded": 0,
            "failed": 0,
            "cancelled": 0,
            "abandoned": 0,
        }
        self.ended: tuple[Target, ...] = ()
        """Targets of the run that ended with the last event, if one did."""
        self.cut_off = False
        """Did that run end because it was cut off?"""
        self._recent: dict[AssetKey, Recent] = {}
        self.folds = {
            RunStarted: self._started,
            RunSucceeded: self._succeeded,
            RunFailed: self._failed,
            RunCancelled: self._cancelled,
            RunAbandoned: self._abandoned,
        }
        self.run_us = 0
        """Time spent in runs that ended, succeeded or failed, in µs."""

    def apply(self, recorded: Recorded) -> None:
        """Fold the next event; `ended` is of this one alone."""
        self.ended = ()
        super().apply(recorded)

    def _started(self, event: RunStarted, recorded: Recorded) -> None:
        self.live[recorded.position] = Run(recorded.position, recorded.recorded_at, event)

    def _succeeded(self, event: RunSucceeded, recorded: Recorded) -> None:
        run = self._end(event.run, "succeeded", event.duration_us)
        if run is None:
            return
        if not event.adopted:
            self._note_time(run.event.targets, event.duration_us)
        if self.failed:
            for target in run.event.targets:
                self.failed.pop(AssetPartition(target.asset, target.partition), None)

    def _failed(self, event: RunFailed, recorded: Recorded) -> None:
        run = self._end(event.run, "failed", event.duration_us)
        if run is None:
            return
        ended = Run(
            run.run,
            run.started_at,
            run.event,
            "failed",
            recorded.position,
            event.duration_us,
            event.error,
            event.retry_at,
        )
        for target in run.event.targets:
            self.failed[AssetPartition(target.asset, target.partition)] = ended

    def _cancelled(self, event: RunCancelled, recorded: Recorded) -> None:
        self._end(event.run, "cancelled", 0)

    def _abandoned(self, event: RunAbandoned, recorded: Recorded) -> None:
        self._end(event.run, "abandoned", 0)

    def typical_us(self, asset: AssetKey) -> int | None:
        """The median time (µs) of a partition in recent runs that succeeded; None without any."""
        recent = self._recent.get(asset)
        return int(median(recent.sorted)) if recent else None

    def p90_us(self, asset: AssetKey, *, of: int = 1) -> int | None:
        """The time (µs) of a run that nine of ten recent ones did not exceed; None if there are not
        as many as `of`. While there are few, a single slow one is not taken for the rule.
        """
        recent = self._recent.get(asset)
        if recent is None or (n := len(recent.sorted)) < of:
            return None
        return recent.sorted[n - 2 if 3 <= n <= FEW else (9 * n - 1) // 10]

    def _note_time(self, targets: Sequence[Target], time_us: int) -> None:
        if len(targets) == 1:
            self._recent_of(targets[0].asset).add(time_us)
            return
        for asset, partitions in Counter(target.asset for target in targets).items():
            self._recent_of(asset).add(time_us // partitions)

    def _recent_of(self, asset: AssetKey) -> Recent:
        found = self._recent.get(asset)
        if found is None:
            found = self._recent[asset] = Recent()
        return found

    def _end(self, id_: int, outcome: Outcome, duration_us: int) -> Run | None:
        """The run that ends here; None of one that had ended: refused, and already history."""
        run = self.live.pop(id_, None)
        if run is not None:
            self.counts[outcome] += 1
            self.ended = run.event.targets
            self.cut_off = outcome == "abandoned"
            self.run_us += duration_us
        return run
