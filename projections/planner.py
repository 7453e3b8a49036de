"""The planner: when each policy asks for a row, and what has to be built upstream for it.

A `max_lag` row is asked for at the latest moment that keeps its promise, by the times recent runs
took along the way from each row upstream that owes. With it goes what could be left to nobody
stricter, so that one run absorbs it all. Pure questions: the answers are recorded as `FellDue`.
"""

from collections import Counter, deque
from collections.abc import Iterable

import msgspec

from freshet.engine.keys import AssetPartition
from freshet.engine.policies import Cron, Eager, MaxLag, OnMissing
from freshet.engine.ticks import advance, next_open, next_tick
from freshet.projections.cells import Cell, concerns, wanted
from freshet.projections.marks import NOTHING
from freshet.projections.paths import Paths
from freshet.projections.pulls import debt_ahead, needed_above, routes_above
from freshet.projections.quiet import Quiet
from freshet.projections.runs import Runs
from freshet.projections.staleness import Staleness

MARGIN = 8
"""One part in so many of the time along the way is kept in reserve: runs vary."""

QUICK = 4
"""What takes at most one part in so many of a promise is built with the row rather than after it: a
run a little sooner costs less than one more.
"""

MIN_MARGIN_US = 20_000
"""The least reserve: a few commits and decisions lie between a moment and the start of a run."""


SMALL_STEP_US = 50_000
"""So near a moment it is not worked out once more."""


class Asked(msgspec.Struct, frozen=True):
    """What a row asks for when its time has come: itself or not, and what upstream."""

    itself: bool
    pulled: tuple[AssetPartition, ...] = ()


class Start(msgspec.Struct, frozen=True):
    """The latest start of a row for a promise: the moment (µs); how long (µs) it takes from there
    to the end of the promised row's run, reserve included; whether the two are built together; and
    whether nobody else needs it sooner.
    """

    at: int
    takes: int
    joins: bool
    strictest: bool


class Planner:
    """Moments of rows, from what they owe, their policies, and the times of recent runs."""

    def __init__(self, staleness: Staleness, runs: Runs) -> None:
        self.paths = Paths()
        self.quiet = Quiet(staleness)
        self.slots = 1
        self.held_since: dict[Cell, int] = {}
        """Since when (µs) the condition of a row that owes has been true."""
        self.starts: dict[Cell, deque[int]] = {}
        """The last starts (µs) of rows whose policy has a limit."""
        self._staleness = staleness
        self._runs = runs

    def asks_at(self, cell: Cell) -> int | None:
        """When (µs) the policy of this row asks for something; None when it does not by itself."""
        state, i = cell.home, cell.i
        policy = state.spec.policy
        since = self._since(cell)
        if since is None or state.at_once or state.is_wall:
            return None
        if isinstance(policy, MaxLag):
            at = min((start.at for start in self._latest_starts(cell).values()), default=None)
        elif wanted(state, i) or (isinstance(policy, OnMissing) and state.there[i]):
            return None
        elif isinstance(policy, Cron):
            at = next_tick(policy.expression, policy.tz, since)
        elif isinstance(policy, Eager) and policy.debounce_ms:
            quiet = max(since, self.quiet.last_change(cell)) + policy.debounce_ms * 1000
            at = min(quiet, since + (policy.max_wait_ms or 0) * 1000)
        else:
            at = since
        if at is None:
            return None
        if policy.limit is not None:
            at = max(at, self._limited_until(cell))
        return at if policy.hours is None else next_open(policy.hours, at)

    def look_again_at(self, cell: Cell, at: int, now: int) -> int:
        """When (µs) to work `at` out anew: what comes to owe upstream meanwhile may move it forward,
        but not before the longest way there is would have to begin; from there on in ever
        smaller steps.
        """
        policy = cell.home.spec.policy
        debt = debt_ahead(cell.home, cell.i)
        if not isinstance(policy, MaxLag) or debt == NOTHING:
            return at
        longest = self.paths.length.get(cell.home.spec.key, 0)
        spare = max(0, self.room_us(cell) - longest - _margin(longest))
        early = advance(policy.hours, self._staleness.marks.at[debt], spare)
        if early > now:
            return min(at, early)
        return now + (at - now) // 2 if at - now > SMALL_STEP_US else at

    def deadline_us(self, cell: Cell) -> int | None:
        """The moment (µs) at which the promise of a row is broken if it still owes what it owes."""
        policy = cell.home.spec.policy
        owed_us = self._staleness.marks.at.get(cell.owed)
        if not isinstance(policy, MaxLag) or owed_us is None or not concerns(cell.home, cell.i):
            return None
        since = max(owed_us, self.held_since.get(cell, 0))
        return advance(policy.hours, since, policy.lag_ms * 1000)

    def planned(self, cell: Cell, now: int) -> Asked | None:
        """What this row asks for at `now`; None if its time has not come."""
        at = self.asks_at(cell)
        if at is None or at > now:
            return None
        policy = cell.home.spec.policy
        if isinstance(policy, MaxLag):
            return self._planned_lag(cell, now)
        above = needed_above(cell.home, cell.i) if isinstance(policy, Cron) else []
        return Asked(itself=True, pulled=_lazy(above))

    # --- the lag planner ------------------------------------------------------------------------

    def _planned_lag(self, cell: Cell, now: int) -> Asked:
        """What has to start now so that the promise of this row is kept; and, if it is to run
        itself, what upstream can be built in time for it and would be left to nobody stricter:
        then one run absorbs it all.
        """
        latest = self._latest_starts(cell)
        urgent = [u for u, start in latest.items() if start.at <= now]
        if not any(latest[u].joins for u in urgent):
            return Asked(itself=False, pulled=_lazy(urgent))
        room = max((self.deadline_us(cell) or now) - now, 0)
        pulled = [
            u
            for u, start in latest.items()
            if u != cell
            and (start.joins or start.at <= now or (start.strictest and start.takes <= room))
        ]
        return Asked(itself=cell.i not in cell.home.due, pulled=_lazy(pulled))

    def _latest_starts(self, cell: Cell) -> dict[Cell, Start]:
        """When the row, and each row upstream that is not asked for yet, has to start at the latest
        so that what it owes arrives in time.

        What the row cannot do without, and what is quickly made and left to nobody stricter, starts
        in time for what the row itself owes; the rest for what it owes.
        """
        found = {}
        at, hours = self._staleness.marks.at, cell.home.spec.policy.hours
        lag_us, held = self.room_us(cell), self.held_since.get(cell, 0)
        debt = debt_ahead(cell.home, cell.i)
        asked = cell.i in cell.home.due and not cell.running
        for u, route in self._routes(cell).items():
            owed = debt_ahead(u.home, u.i)
            if owed == NOTHING or (wanted(u.home, u.i) and not u.running):
                continue
            takes = route + _margin(route)
            strictest = lag_us - route <= self.paths.slack.get(u.home.spec.key, 0)
            strictest = strictest and not u.running and not asked
            joins = owed <= debt or (strictest and QUICK * takes <= lag_us)
            since = at[debt if joins and debt < NOTHING else owed]
            moment = advance(hours, max(since, held), max(0, lag_us - takes))
            found[u] = Start(moment, takes, joins and debt < NOTHING, strictest)
        return found

    def _routes(self, cell: Cell) -> dict[Cell, int]:
        """The ways to the row, with the time of an asset taken as often as its rows that owe fill
        the slots.
        """
        time_us = self.paths.time_us
        routes = routes_above(cell.home, cell.i, time_us)
        if len(routes) <= self.slots:
            return routes
        rows = Counter(u.home.spec.key for u in routes)
        batch = {u.home.spec.key: u.home.spec.batch for u in routes}
        rounds = {key: -(-n // (self.slots * batch[key])) for key, n in rows.items()}
        if max(rounds.values()) == 1:
            return routes
        return routes_above(cell.home, cell.i, lambda key: time_us(key) * rounds.get(key, 1))

    def longest_us(self, cell: Cell) -> int:
        """How long (µs) building the row takes with all that it needs upstream."""
        return max(self._routes(cell).values())

    def room_us(self, cell: Cell) -> int:
        """The promised lag in µs."""
        policy = cell.home.spec.policy
        return policy.lag_ms * 1000 if isinstance(policy, MaxLag) else 0

    def risk_at(self, cell: Cell, deadline: int) -> int:
        """When (µs) it is foreseeable that the promise will be missed, as far as is known now."""
        policy, owed_us = cell.home.spec.policy, self._staleness.marks.at[cell.owed]
        assert isinstance(policy, MaxLag)
        warn = policy.warn_ms * 1000 if policy.warn_ms is not None else policy.lag_ms * 1000
        time_us = self.paths.time_us(cell.home.spec.key)
        run = self._runs.live.get(cell.run)
        if run is not None:
            late = min(deadline - 1, run.started_at + time_us + _margin(time_us))
        elif self.longest_us(cell) > policy.lag_ms * 1000:
            late = owed_us
        else:
            late = deadline - time_us - _margin(time_us) // 2
        return min(late, owed_us + warn)

    def _since(self, cell: Cell) -> int | None:
        """Since when (µs) the row owes what nothing under way will absorb, in the eyes of its
        policy.
        """
        debt = debt_ahead(cell.home, cell.i)
        if debt == NOTHING or not concerns(cell.home, cell.i):
            return None
        return max(self._staleness.marks.at[debt], self.held_since.get(cell, 0))

    def _limited_until(self, cell: Cell) -> int:
        """When (µs) the limit of its policy lets a row run again."""
        starts, limit = self.starts.get(cell), cell.home.spec.policy.limit
        if limit is None or starts is None or len(starts) < limit.runs:
            return 0
        return starts[0] + limit.per_ms * 1000


def _margin(time_us: int) -> int:
    return max(MIN_MARGIN_US, time_us // MARGIN)


def _lazy(cells: Iterable[Cell]) -> tuple[AssetPartition, ...]:
    """Of these rows, the names of those that do not ask by themselves."""
    return tuple(c.key for c in cells if not c.home.is_eager and not c.home.is_wall)
