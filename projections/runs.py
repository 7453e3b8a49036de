"""Runs: which are alive, how the last one of each asset partition ended, and
how many of each kind.
"""

from collections import Counter, deque
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


class Runs:
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
        self._recent: dict[AssetKey, deque[int]] = {}
        self.run_us = 0
        """Time spent in runs that ended, succeeded or failed, in µs."""

    def apply(self, recorded: Recorded) -> None:
        self.ended = ()
        match recorded.event:
            case RunStarted() as event:
                run = Run(recorded.position, recorded.recorded_at, event)
                self.live[run.run] = run
            case RunSucceeded(run=id_, duration_us=duration, adopted=adopted):
                self._end(id_, "succeeded", recorded, duration, timed=not adopted)
            case RunFailed(run=id_, duration_us=duration, error=error, retry_at=retry_at):
                self._end(id_, "failed", recorded, duration, error, retry_at)
            case RunCancelled(run=id_, reason=reason):
                self._end(id_, "cancelled", recorded, 0, reason)
            case RunAbandoned(run=id_, reason=reason):
                self._end(id_, "abandoned", recorded, 0, reason)
            case _:
                pass

    def typical_us(self, asset: AssetKey) -> int | None:
        """The median time (µs) of a partition in recent runs that succeeded; None without any."""
        recent = self._recent.get(asset)
        return int(median(recent)) if recent else None

    def succeeded(self, asset: AssetKey) -> int:
        """How many recent runs are known by their time; at most `RECENT`."""
        return len(self._recent.get(asset, ()))

    def p90_us(self, asset: AssetKey) -> int | None:
        """The time (µs) of a run that nine of ten recent ones did not exceed; None without any.
        While there are few, a single slow one is not taken for the rule.
        """
        recent = self._recent.get(asset)
        if not recent:
            return None
        n = len(recent)
        return sorted(recent)[n - 2 if 3 <= n <= FEW else (9 * n - 1) // 10]

    def _end(
        self,
        id_: int,
        outcome: Outcome,
        recorded: Recorded,
        duration_us: int,
        error: str = "",
        retry_at: int | None = None,
        *,
        timed: bool = True,
    ) -> None:
        run = self.live.pop(id_, None)
        if run is None:
            return  # the end of a run that had ended: refused, and already history
        self.counts[outcome] += 1
        self.ended = run.event.targets
        self.cut_off = outcome == "abandoned"
        self.run_us += duration_us
        if outcome == "succeeded" and timed:
            targets = run.event.targets
            made = Counter(target.asset for target in targets)
            for asset, partitions in made.items():
                recent = self._recent.setdefault(asset, deque(maxlen=RECENT))
                recent.append(duration_us // partitions)
        ended = Run(
            id_,
            run.started_at,
            run.event,
            outcome,
            recorded.position,
            duration_us,
            error,
            retry_at,
        )
        for target in run.event.targets:
            name = AssetPartition(target.asset, target.partition)
            if outcome == "succeeded":
                self.failed.pop(name, None)
            elif outcome == "failed":
                self.failed[name] = ended
