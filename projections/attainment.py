"""Attainment: how well promises of freshness were kept over a time that is past, exact to the
microsecond.

A fold of its own, beside its own staleness: a debt that begins, ends or becomes another one settles
the time since it began. Nothing is sampled, so what nothing happens to costs nothing. Each moment
is judged by the promise that was in force then, or all of it by one that is invented today.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import msgspec

from freshet.engine.events import (
    Demanded,
    GraphDeployed,
    Invalidated,
    Observed,
    PartitionsAdded,
    PartitionsRemoved,
    Recorded,
    SourceChanged,
    WindowsOpened,
)
from freshet.engine.graph import Graph
from freshet.engine.keys import AssetKey, PartitionKey
from freshet.engine.policies import MaxLag, describe
from freshet.engine.specs import AssetSpec
from freshet.engine.ticks import Hours, advance
from freshet.projections.arrivals import Arrivals
from freshet.projections.cells import Cell, concerns
from freshet.projections.marks import NOTHING
from freshet.projections.spread import Since, Spread, Worst, period_of
from freshet.projections.staleness import Staleness
from freshet.projections.states import AssetState


class AttainmentRow(msgspec.Struct, frozen=True):
    """How one promise was kept from `from_us` to `until_us`, over all partitions of the asset.

    Lag is the time since the change that is owed was recorded. `observed_us` is the time that
    partitions existed under the promise, `breach_us` that of it which was past their deadline, in
    `episodes`: those that lie in the period, whole or in part. `worst_*`: the longest lag, of which
    partition, when it came to that, and the position of the change that was owed.
    """

    asset: AssetKey
    promise: str
    from_us: int
    until_us: int
    observed_us: int
    breach_us: int
    episodes: int
    worst_lag_us: int = 0
    worst_partition: PartitionKey | None = None
    worst_at_us: int | None = None
    worst_owed: int | None = None

    def budget_us(self, target: Fraction) -> int:
        """The breach time that a target (a share, between 0 and 1) allows: whole microseconds."""
        return int(self.observed_us * (1 - target))


class Attainment:
    """The projection. Fold all events from the first one on; ask `report` at any time."""

    def __init__(self, periods: Sequence[int], invented: MaxLag | None = None) -> None:
        """`periods`: the moments (µs, ascending) at which periods begin; what was before the first
        is not measured. `invented`: judge every asset by this (its lag and hours) instead of by
        the promises that were in force.
        """
        self._periods = tuple(periods)
        self._invented = invented
        self._staleness = Staleness()
        self._arrivals = Arrivals(self._staleness)
        self._meters: dict[AssetKey, Meter] = {}
        self._growing: dict[AssetKey | None, list[Meter]] = {}
        self._sums: dict[tuple[AssetKey, MaxLag], Sums] = {}
        self._now = 0
        self._moved: set[tuple[AssetState, int]] = set()
        """Rows whose debt may be another one than before this moment."""
        self._resized: set[Meter] = set()
        """Meters of assets that may have more or fewer partitions than before this moment."""

    @property
    def graph(self) -> Graph:
        """The definitions as last deployed."""
        return self._staleness.graph

    @property
    def promised(self) -> list[AssetKey]:
        """The assets that have a promise now, upstream first."""
        return [key for key in self.graph.specs if key in self._meters]

    def apply(self, recorded: Recorded) -> None:
        """Fold the next event."""
        event = recorded.event
        if recorded.recorded_at > self._now:
            self._judge()  # a moment is over: what counts is what is owed after its last event
        self._now = max(self._now, recorded.recorded_at)
        self._staleness.apply(recorded)
        if isinstance(event, GraphDeployed):
            self._deployed()
        elif isinstance(event, SourceChanged | Observed):
            self._resized.update(self._growing_below(event.asset))
        elif isinstance(event, _RESIZING):
            self._resized.update(self._growing_below(None))
        self._moved.update((cell.home, cell.i) for cell in self._arrivals.apply(recorded))
        if self._staleness.position == recorded.position:  # else it moved nothing
            self._moved.update((state, i) for state, i, _ in self._staleness.marks.moved)

    def report(self, until_us: int) -> tuple[AttainmentRow, ...]:
        """How each promise was kept in each period up to `until_us`, which is not before the last
        event that was folded. By period, then upstream first; without those in which no partition
        existed under the promise.
        """
        if until_us < self._now:
            raise ValueError(f"events up to {self._now} are folded, and {until_us} was asked for")
        self._judge()
        order = {key: n for n, key in enumerate(self.graph.specs)}
        found: list[AttainmentRow] = []
        for (asset, promise), sums in self._sums.items():
            meter = self._meters.get(asset)
            if meter is not None and meter.sums is sums:
                sums = meter.summed_up(until_us)
            found += sums.rows(asset, describe(promise), until_us)
        found.sort(key=lambda row: (row.from_us, order.get(row.asset, len(order))))
        return tuple(found)

    def _judge(self) -> None:
        """The moment is over: what is owed now is owed from here on."""
        for meter in self._resized:
            meter.recount(self._now)
        for state, i in self._moved:
            meter_of = self._meters.get(state.spec.key)
            if meter_of is not None and meter_of.state is state:
                meter_of.look(i, self._now)
        self._resized.clear()
        self._moved.clear()

    def _deployed(self) -> None:
        """Other promises are in force, and other rows may be there to measure."""
        before, self._meters = self._meters, {}
        for state in self._staleness.order:
            asset, promise = state.spec.key, self._promise_of(state.spec)
            state.followed = promise is not None
            if promise is None:
                continue
            meter = before.get(asset)
            if meter is not None and meter.state is state and meter.promise == promise:
                self._meters[asset] = before.pop(asset)
                continue
            sums = self._sums.setdefault((asset, promise), Sums(self._periods))
            whole = self._invented is not None
            made = Meter(state, promise, whole, sums, self._now, self._arrivals)
            carried = meter.end(self._now) if meter is not None else {}
            same = meter is not None and meter.promise == promise
            made.begin(self._now, carried if same else {})
            self._meters[asset] = made
            before.pop(asset, None)
        for meter in before.values():
            meter.end(self._now)
        self._growing.clear()
        self._resized.update(self._meters.values())
        self._arrivals.watch([meter.state for meter in self._meters.values()])

    def _promise_of(self, spec: AssetSpec) -> MaxLag | None:
        """What an asset is judged by: of its policy what it promises, and nothing else."""
        if self._invented is not None:
            return None if spec.is_source else self._invented
        policy = spec.policy
        if spec.is_source or not isinstance(policy, MaxLag):
            return None
        return MaxLag(
            lag_ms=policy.lag_ms,
            hours=policy.hours,
            newest=policy.newest,
            condition=policy.condition,
        )

    def _growing_below(self, asset: AssetKey | None) -> list["Meter"]:
        """The meters whose assets may get or lose partitions by what happens to this one; all that
        can at all, for None.
        """
        found = self._growing.get(asset)
        if found is None:
            reached = [s for s in self._staleness.order if asset in (None, s.spec.key)]
            if asset is None:
                reached = [state for state in reached if state.grows]
            seen = set(reached)
            for state in reached:
                below = {link.down: None for link in state.down if link.down.grows}
                reached += [down for down in below if down not in seen]
                seen.update(below)
            meters = (self._meters.get(state.spec.key) for state in reached)
            found = [meter for meter in meters if meter is not None]
            if reached:
                self._growing[asset] = found
        return found


_RESIZING = Demanded | Invalidated | PartitionsAdded | PartitionsRemoved | WindowsOpened
"""What besides news of a source may bring partitions into being, or end them."""


# --- one promise over one asset -------------------------------------------------------------------


class Debt(NamedTuple):
    """What a row owes, and what is needed to settle it when the mark itself is forgotten."""

    start: int
    """From here on (µs) it is not summed up yet."""
    mark: int
    owed_at: int
    breach_at: int
    """From here on (µs) the promise is broken."""
    held: int
    """Since when (µs) it has owed what the promise speaks of, without a break."""
    counted: int
    """The last period in which its episode of breach is counted; -1 when none goes on."""


class Meter:
    """One promise over the rows of one asset, for as long as both stand."""

    def __init__(
        self,
        state: AssetState,
        promise: MaxLag,
        whole: bool,
        sums: "Sums",
        now: int,
        arrivals: Arrivals,
    ) -> None:
        self.state = state
        self.promise = promise
        self.sums = sums
        self._whole = whole
        """Does the promise speak of every row, whatever the policy says?"""
        self._arrivals = arrivals
        self._debts: dict[int, Debt] = {}
        self._count, self._since = 0, now

    def begin(self, now: int, carried: dict[PartitionKey, Debt]) -> None:
        """Take up the rows that owe, some of which were measured under other numbers."""
        state = self.state
        for i in range(state.n) if state.owes else ():
            if state.owed[i] < NOTHING:
                before = carried.get(state.space.key(i)) if carried else None
                if before is not None:
                    self._debts[i] = before
                self.look(i, now)

    def end(self, now: int) -> dict[PartitionKey, Debt]:
        """Settle everything; returns what is owed, for who goes on with it."""
        owed = {}
        for i, debt in self._debts.items():
            counted = self._settle(self.sums, i, debt, now)
            owed[self.state.space.key(i)] = debt._replace(start=now, counted=counted)
        self._observe(self.sums, now)
        self._debts, self._count = {}, 0
        return owed

    def summed_up(self, now: int) -> "Sums":
        """The sums as they would be if all ended now."""
        sums = deepcopy(self.sums)
        for i, debt in self._debts.items():
            self._settle(sums, i, debt, now)
        self._observe(sums, now)
        return sums

    def look(self, i: int, now: int) -> None:
        """Settle the row if it owes something else than before, and note what it owes now."""
        state, before = self.state, self._debts.get(i)
        owed = state.owed[i] if i < state.n and state.exists[i] else NOTHING
        cell = Cell(state, i)
        self._arrivals.look(cell, now)
        came = self._arrivals.since(cell)
        if came is None or owed == NOTHING or not (self._whole or concerns(state, i)):
            if before is not None:
                self._settle(self.sums, i, self._debts.pop(i), now)
            return
        held = before.held if before is not None else now
        owed_at = state.marks.at[owed]
        since = owed_at if self.promise.condition is None else max(owed_at, held)
        breach_at = _breach_at(self.promise.hours, max(since, came), self.promise.lag_ms * 1000)
        if before is not None and (before.mark, before.breach_at) == (owed, breach_at):
            return
        counted = self._settle(self.sums, i, before, now) if before is not None else -1
        counted = counted if breach_at <= now else -1
        self._debts[i] = Debt(now, owed, owed_at, breach_at, held, counted)

    def recount(self, now: int) -> None:
        """Other partitions may exist now: those observed are others, and so the newest."""
        newest, state = self.promise.newest, self.state
        count = state.existing if newest is None else min(newest, state.existing)
        if count != self._count:
            self._observe(self.sums, now)
            self._count = count
        if newest is not None:
            for i in list(self._debts):
                self.look(i, now)
            i = state.n
            for _ in range(count):
                i = state.exists.rfind(1, 0, i)
                self.look(i, now)

    def _observe(self, sums: "Sums", now: int) -> None:
        start = max(self._since, sums.start)
        if now > start and self._count:
            sums.observed.add(start, now, self._count)
        if sums is self.sums:
            self._since = now

    def _settle(self, sums: "Sums", i: int, debt: Debt, now: int) -> int:
        """Sum up a debt until now; returns the `counted` of an episode that may go on."""
        start = max(debt.start, sums.start)
        if now <= start:
            return debt.counted
        sums.worst.add(start, now, Since(debt.owed_at, debt.mark, i, self.state.space.key(i)))
        start = max(start, debt.breach_at)
        if start >= now:
            return -1
        sums.breach.add(start, now)
        last = period_of(sums.periods, now - 1)
        sums.episodes.cover(max(period_of(sums.periods, start), debt.counted + 1), last + 1)
        return last


@lru_cache(maxsize=1024)
def _breach_at(hours: Hours | None, since: int, lag_us: int) -> int:
    return advance(hours, since, lag_us)


class Sums:
    """What was measured of one promise of one asset, by period."""

    def __init__(self, periods: tuple[int, ...]) -> None:
        self.periods = periods
        self.start = periods[0]
        self.observed = Spread(periods)
        self.breach = Spread(periods)
        self.episodes = Spread(periods)
        self.worst = Worst(periods)

    def rows(self, asset: AssetKey, promise: str, until: int) -> Iterator[AttainmentRow]:
        """A row for each period in which anything was observed."""
        worst, ends = self.worst.by_period(), (*self.periods[1:], until)
        sums = (self.observed.totals(), self.breach.totals(), self.episodes.counts())
        for period, numbers in enumerate(zip(*sums, strict=True)):
            if numbers[0]:
                end = min(ends[period], until)
                row = AttainmentRow(asset, promise, self.periods[period], end, *numbers)
                yield (
                    row
                    if period not in worst
                    else msgspec.structs.replace(
                        row,
                        worst_lag_us=-worst[period].minus_us,
                        worst_partition=worst[period].partition,
                        worst_at_us=worst[period].at_us,
                        worst_owed=worst[period].owed,
                    )
                )
