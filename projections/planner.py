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
from freshet.projections.arrivals import Arrivals
from freshet.projections.cells import SHUT, Cell, concerns, gate, has_work, must_run, wanted
from freshet.projections.marks import DEFERRED, MOVING, NOTHING
from freshet.projections.paths import Paths
from freshet.projections.pulls import Ways, debt_ahead, needed_above, ways_above
from freshet.projections.quiet import Quiet
from freshet.projections.runs import Runs
from freshet.projections.staleness import Staleness

MARGIN = 8
"""One part in so many of the time along the way is kept in reserve: runs vary."""

QUICK = 4
"""What takes at most one part in so many of a promise is built with the row rather than after it: a
run a little sooner costs less than one more.
"""

LAST_CALL = 4
"""What was asked for together with others goes on without them when one part in so many of the
reserve is left.
"""

MIN_MARGIN_US = 20_000
"""The least reserve: a few commits and decisions lie between a moment and the start of a run."""

LAG_MARGIN = 100
"""And at least one part in so many of the promise, up to `MAX_LAG_MARGIN_US`: machines hiccup."""

MAX_LAG_MARGIN_US = 1_000_000


class Asked(msgspec.Struct, frozen=True):
    """What a row asks for when its time has come: itself or not, and what upstream."""

    itself: bool
    pulled: tuple[AssetPartition, ...] = ()


class Start(msgspec.Struct, frozen=True):
    """The latest start of a row for a promise: the moment (µs); how long (µs) it takes from there
    to the end of the promised row's run, reserve included; whether the two are built together; and
    whether they may be.
    """

    at: int
    takes: int
    joins: bool
    optional: bool


class Planner:
    """Moments of rows, from what they owe, their policies, and the times of recent runs."""

    def __init__(self, staleness: Staleness, runs: Runs) -> None:
        self.paths = Paths(runs)
        self.quiet = Quiet(staleness)
        self.arrivals = Arrivals(staleness)
        self.slots = 1
        self.held_since: dict[Cell, int] = {}
        """Since when (µs) a row that owes has had something to do, and what its policy wants has
        held: of those whose policy may begin to ask although the debt stays the same.
        """
        self.starts: dict[Cell, deque[int]] = {}
        """The last starts (µs) of rows whose policy has a limit."""
        self._staleness = staleness
        self._runs = runs

    def asks_at(self, cell: Cell, *, after: int = 0) -> int | None:
        """When (µs) the policy of this row asks for something; None when it does not by itself.
        `after`: not counting what a promise has asked for by then.
        """
        state, i = cell.home, cell.i
        policy = state.spec.policy
        since = self._since(cell)
        if since is None or state.at_once or state.is_wall:
            return None
        if isinstance(policy, MaxLag):
            starts = self._latest_starts(cell).values()
            at = min((start.at for start in starts if start.at > after), default=None)
        elif wanted(state, i) or not self.asks_for_something(cell):
            return None
        elif isinstance(policy, Cron):
            since = self._oldest_work(cell, since)
            at = next_tick(policy.expression, policy.tz, since + 1)  # what changed before it
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

    def early_us(self, cell: Cell) -> int | None:
        """Before this moment (µs) nothing needs to be done for the promise of a row, whatever comes
        to owe upstream meanwhile: the longest way there is begins then. None without a promise.
        """
        policy = cell.home.spec.policy
        debt = debt_ahead(cell.home, cell.i)
        if not isinstance(policy, MaxLag) or debt == NOTHING or cell.running:
            return None
        if self._held(cell) is None:
            return None
        longest = self.paths.length.get(cell.home.spec.key, 0)
        spare = self.room_us(cell) - longest - reserve_us(longest, self.room_us(cell))
        return advance(policy.hours, self._staleness.marks.at[debt], spare) if spare > 0 else 0

    def deadline_us(self, cell: Cell) -> int | None:
        """The moment (µs) at which the promise of a row is broken if it still owes what it owes."""
        policy = cell.home.spec.policy
        owed_us = self._staleness.marks.at.get(cell.owed)
        if not isinstance(policy, MaxLag) or owed_us is None or not concerns(cell.home, cell.i):
            return None
        spoken = self._spoken_since(cell)
        if spoken is None:
            return None
        since = max(owed_us, spoken)
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
            return Asked(itself=False, pulled=_lazy(self._useful(cell, urgent)))
        since, hours = self._since(cell) or now, cell.home.spec.policy.hours
        room = max(advance(hours, since, self.room_us(cell)) - now, 0)
        asked = [
            u
            for u, start in latest.items()
            if u == cell
            or (start.joins or start.at <= now or (start.optional and start.takes <= room))
        ]
        useful = self._useful(cell, asked)
        return Asked(itself=cell in useful, pulled=_lazy(u for u in useful if u != cell))

    def _useful(self, cell: Cell, asked: list[Cell]) -> list[Cell]:
        """Of these rows on the way to the row, those for which asking changes something: they have
        work, or will have once another of these, upstream, was built. Any other would absorb
        nothing, and be asked for again and again.
        """
        if all(u.running or has_work(u.home, u.i) for u in asked):
            return asked
        ways, wanted_now = self._ways(cell), set(asked)
        reads: dict[Cell, list[Cell]] = {}
        for reader, read in ways.steps:
            reads.setdefault(reader, []).append(read)
        kept: list[Cell] = []
        bringing: set[Cell] = set()  # by which something of what is asked for arrives
        for u in sorted(ways.routes, key=lambda u: (u.home.index, u.i)):  # upstream first
            brought = not bringing.isdisjoint(reads.get(u, ()))
            if u in wanted_now and (brought or u.running or has_work(u.home, u.i)):
                kept.append(u)
                brought = True
            if brought:
                bringing.add(u)
        return kept

    def _latest_starts(self, cell: Cell) -> dict[Cell, Start]:
        """When the row, and each row upstream that is not asked for yet, has to start at the latest
        so that what it owes arrives in time.

        What the row cannot do without starts in time for what the row itself owes; so does what is
        quickly made and left to nobody stricter, or would soon need the row again, if it holds up
        nothing else. The rest starts in time for what it owes.
        """
        found: dict[Cell, Start] = {}
        ways, at = self._ways(cell), self._staleness.marks.at
        lag_us, held, time_us = self.room_us(cell), self._held(cell) or 0, self.paths.time_us
        debt = debt_ahead(cell.home, cell.i)
        asked = cell.home.due.newest(cell.i) > cell.run
        reads: dict[Cell, list[Cell]] = {}
        for reader, read in ways.steps:
            reads.setdefault(reader, []).append(read)
        bounds = self._bounds(ways)
        left: set[Cell] = set()  # what is left to others, and what would wait for it
        for u in sorted(ways.routes, key=lambda u: (u.home.index, u.i)):  # upstream first
            route, owed = ways.routes[u], debt_ahead(u.home, u.i)
            reserve = reserve_us(route, lag_us)
            if not u.running and wanted(u.home, u.i):
                reserve //= LAST_CALL  # asked for already: what it waits for has most of the rest
            takes = route + reserve
            needed = owed <= debt < NOTHING
            strictest = lag_us - route <= self.paths.slack.get(u.home.spec.key, 0)
            waits = any(w in left and debt_ahead(w.home, w.i) <= owed for w in reads.get(u, ()))
            optional = not (waits or asked or u.running) and not needed and debt < NOTHING
            # What comes so soon after the row's own debt would need it again before its run ends.
            collides = optional and at.get(owed, NOTHING) - at[debt] < route - time_us(
                u.home.spec.key
            )
            optional = optional and (strictest or collides)
            can_ask = owed < NOTHING and _can_ask(u)
            since = at[debt] if needed or optional else at.get(owed, 0)
            if u.home.spec.policy.on_failure == "proceed":  # beside what it goes on without
                since = max(since, self.held_since.get(u, 0))
            moment = advance(cell.home.spec.policy.hours, max(since, held), max(0, lag_us - takes))
            optional = optional and moment <= bounds.get(u, moment)
            joins = needed or (optional and (collides or QUICK * takes <= lag_us))
            if not joins and (can_ask or waits or u.home.stalled[u.i] == MOVING):
                left.add(u)
            if can_ask:
                if optional and not joins:
                    moment = advance(
                        cell.home.spec.policy.hours, max(at[owed], held), max(0, lag_us - takes)
                    )
                found[u] = Start(moment, takes, joins, optional)
        return found

    def _bounds(self, ways: Ways) -> dict[Cell, int]:
        """When (µs) each row has to start at the latest if what reads it waits for it, and is to
        keep the promises at and below it.
        """
        at, slack, time_us = self._staleness.marks.at, self.paths.slack, self.paths.time_us
        bounds: dict[Cell, int] = {}
        for reader, read in ways.steps:
            since = at.get(debt_ahead(reader.home, reader.i), NOTHING)
            own = since + slack.get(reader.home.spec.key, NOTHING)
            bound = min(own, bounds.get(reader, NOTHING)) - time_us(read.home.spec.key)
            bounds[read] = min(bound, bounds.get(read, NOTHING))
        return bounds

    def _ways(self, cell: Cell) -> Ways:
        """The ways to the row, with the time of an asset taken as often as its rows that owe fill
        the slots.
        """
        time_us = self.paths.time_us
        ways = ways_above(cell.home, cell.i, time_us)
        if len(ways.routes) <= self.slots:
            return ways
        rows = Counter(u.home.spec.key for u in ways.routes)
        batch = {u.home.spec.key: u.home.spec.batch for u in ways.routes}
        rounds = {key: -(-n // (self.slots * batch[key])) for key, n in rows.items()}
        if max(rounds.values()) == 1:
            return ways
        return ways_above(cell.home, cell.i, lambda key: time_us(key) * rounds.get(key, 1))

    def longest_us(self, cell: Cell) -> int:
        """How long (µs) building the row takes with all that it needs upstream."""
        return max(self._ways(cell).routes.values())

    def _is_too_long(self, cell: Cell, lag_us: int) -> bool:
        longest = self.paths.length.get(cell.home.spec.key, 0)
        return longest > lag_us and self.longest_us(cell) > lag_us

    def room_us(self, cell: Cell) -> int:
        """How far behind (µs) the row may be by plan."""
        policy = cell.home.spec.policy
        return policy.planned_ms * 1000 if isinstance(policy, MaxLag) else 0

    def risk_at(self, cell: Cell, deadline: int) -> int:
        """When (µs) it is foreseeable that the promise will be missed, as far as is known now."""
        policy = cell.home.spec.policy
        assert isinstance(policy, MaxLag)
        since = max(self._staleness.marks.at[cell.owed], self._spoken_since(cell) or 0)
        time_us = self.paths.time_us(cell.home.spec.key)
        reserve = reserve_us(time_us, policy.lag_ms * 1000)
        run = self._runs.live.get(cell.run)
        if run is not None:
            late = min(deadline - 1, run.started_at + time_us + reserve)
        elif self._is_too_long(cell, policy.lag_ms * 1000):
            late = since
        else:
            late = deadline - time_us - reserve // 2
        if policy.warn_ms is not None:
            late = min(late, advance(policy.hours, since, policy.warn_ms * 1000))
        return late

    def asks_for_something(self, cell: Cell) -> bool:
        """Is there anything that this row, or a row upstream that it pulls, would do?"""
        state, i = cell.home, cell.i
        if isinstance(state.spec.policy, OnMissing) and state.there[i]:
            return False
        if cell.running or has_work(state, i):
            return True
        if not isinstance(state.spec.policy, Cron | MaxLag):
            return False
        # It asks for all of them together, so what waits for the others would go on waiting.
        return any(
            _can_ask(u) and (u.running or not wanted(u.home, u.i)) for u in needed_above(state, i)
        )

    def _oldest_work(self, cell: Cell, since: int) -> int:
        """When (µs) the oldest of what could be built for a row came; `since` if nothing could.
        What has failed for good upstream does not make everything else overdue.
        """
        state, i, at = cell.home, cell.i, self._staleness.marks.at
        rows = [u for u in needed_above(state, i) if _can_ask(u)]
        if gate(state, i) != SHUT and must_run(state, i):
            rows.append(cell)
        debts = ((at.get(debt_ahead(u.home, u.i), 0), self.held_since.get(u, 0)) for u in rows)
        return min(map(max, debts), default=since)

    def _since(self, cell: Cell) -> int | None:
        """Since when (µs) the row owes what nothing under way will absorb, in the eyes of its
        policy.
        """
        debt = debt_ahead(cell.home, cell.i)
        if debt == NOTHING or not concerns(cell.home, cell.i):
            return None
        held = self._held(cell)
        return None if held is None else max(self._staleness.marks.at[debt], held)

    def _spoken_since(self, cell: Cell) -> int | None:
        """Since when (µs) the promise has spoken of a row that owes, if not since it owes; None if
        it does not. What it cannot absorb counts: only a condition or a missing source excuses.
        """
        if cell.home.conditional:
            return self.held_since.get(cell)
        return self.arrivals.since(cell)

    def _held(self, cell: Cell) -> int | None:
        """Since when (µs) the policy of a row that owes could speak of it, if it is not since it
        owes; None if it cannot.
        """
        if cell.home.relook:
            return self.held_since.get(cell)
        return self.arrivals.since(cell)

    def _limited_until(self, cell: Cell) -> int:
        """When (µs) the limit of its policy lets a row run again."""
        starts, limit = self.starts.get(cell), cell.home.spec.policy.limit
        if limit is None or starts is None or len(starts) < limit.runs:
            return 0
        return starts[0] + limit.per_ms * 1000


def _can_ask(cell: Cell) -> bool:
    """Would asking for this row change anything? It is not asked for yet; or it waits for what was
    demanded together with it, and, asked for alone, would not.
    """
    state, i = cell.home, cell.i
    if cell.running:  # asked for since, it runs once more
        return state.due.newest(i) < cell.run
    if not wanted(state, i):
        standing = state.stalled[i]
        return standing == DEFERRED or (standing == MOVING and has_work(state, i))
    if i not in state.due or state.ready[i] or gate(state, i) != SHUT:
        return False
    return gate(state, i, alone=True) != SHUT


def reserve_us(time_us: int, lag_us: int) -> int:
    """The time (µs) kept in reserve on a way that takes `time_us` under a promise of `lag_us`."""
    of_lag = min(lag_us // LAG_MARGIN, MAX_LAG_MARGIN_US)
    return max(MIN_MARGIN_US, time_us // MARGIN, of_lag)


def _lazy(cells: Iterable[Cell]) -> tuple[AssetPartition, ...]:
    """Of these rows, the names of those that do not ask by themselves."""
    return tuple(c.key for c in cells if not c.home.is_eager and not c.home.is_wall)
