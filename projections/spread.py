"""Sums over time by period. What spans many periods costs as much to add as what lies in one.

Periods are given by the moments (µs, ascending) at which they begin; the last has no end.
"""

from bisect import bisect_right
from typing import NamedTuple

from freshet.engine.keys import PartitionKey


class Lag(NamedTuple):
    """A lag that was reached: the longest is the least, the earlier and older first."""

    minus_us: int
    at_us: int
    owed: int
    row: int
    partition: PartitionKey


class Since(NamedTuple):
    """A debt that lasted: the oldest is the least."""

    owed_at: int
    owed: int
    row: int
    partition: PartitionKey


class Spread:
    """A sum over time by period; of the periods that are filled only the first and last is kept."""

    def __init__(self, periods: tuple[int, ...]) -> None:
        self._periods = periods
        self._parts: dict[int, int] = {}
        self._steps: dict[int, int] = {}

    def add(self, start: int, end: int, weight: int = 1) -> None:
        """So much for each microsecond from `start` up to `end`, which is later."""
        periods = self._periods
        first, last = period_of(periods, start), period_of(periods, end - 1)
        if first == last:
            self._add_part(first, weight * (end - start))
            return
        self._add_part(first, weight * (periods[first + 1] - start))
        self._add_part(last, weight * (end - periods[last]))
        self.cover(first + 1, last, weight)

    def cover(self, first: int, end: int, weight: int = 1) -> None:
        """So much for each period from `first` up to, not including, `end`: in `counts` as it is,
        in `totals` for each of its microseconds.
        """
        if first < end:
            self._steps[first] = self._steps.get(first, 0) + weight
            self._steps[end] = self._steps.get(end, 0) - weight

    def counts(self) -> list[int]:
        """What covers each period."""
        found, whole = [], 0
        for period in range(len(self._periods)):
            whole += self._steps.get(period, 0)
            found.append(whole)
        return found

    def totals(self) -> list[int]:
        """The sum over each period."""
        found = []
        for period, whole in enumerate(self.counts()):
            total = self._parts.get(period, 0)
            if whole:  # so it is not the last one, which nothing covers
                total += whole * (self._periods[period + 1] - self._periods[period])
            found.append(total)
        return found

    def _add_part(self, period: int, amount: int) -> None:
        self._parts[period] = self._parts.get(period, 0) + amount


class Worst:
    """The longest lag by period. A debt that outlasts several periods is noted for two runs of 2^k
    of them, which together are those, so that it costs as much as one.
    """

    def __init__(self, periods: tuple[int, ...]) -> None:
        self._periods = periods
        self._inside: dict[int, Lag] = {}
        self._runs: dict[tuple[int, int], Since] = {}
        """By k and first period."""

    def add(self, start: int, end: int, since: Since) -> None:
        """A debt was owed in the time from `start` up to `end`, which is later."""
        first, last = period_of(self._periods, start), period_of(self._periods, end - 1)
        lag = Lag(since.owed_at - end, end, *since[1:])
        self._inside[last] = min(lag, self._inside.get(last, lag))
        if first < last:
            k = (last - first).bit_length() - 1
            for run in ((k, first), (k, last - (1 << k))):
                self._runs[run] = min(since, self._runs.get(run, since))

    def by_period(self) -> dict[int, Lag]:
        """The longest lag of each period in which anything was owed."""
        runs = dict(self._runs)
        for k in range(max((k for k, _ in runs), default=0), 0, -1):
            for start in [start for level, start in runs if level == k]:
                since = runs.pop((k, start))
                for half in ((k - 1, start), (k - 1, start + (1 << (k - 1)))):
                    runs[half] = min(since, runs.get(half, since))
        found = dict(self._inside)
        for (_, period), since in runs.items():
            end = self._periods[period + 1]
            lag = Lag(since.owed_at - end, end, *since[1:])
            found[period] = min(lag, found.get(period, lag))
        return found


def period_of(periods: tuple[int, ...], at: int) -> int:
    """The number of the period in which a moment lies."""
    return bisect_right(periods, at) - 1
