"""Promises: the rows whose policies look at a clock, and the episodes in which a lag is not kept.

What asks at once is a matter for the fold of staleness. Of every other row that owes something this
keeps the next moment at which there is something to do; `findings` says what to record then.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from freshet.engine.events import (
    EngineReloaded,
    EngineStarted,
    FellDue,
    FreshnessAtRisk,
    FreshnessBreached,
    FreshnessRestored,
    GraphDeployed,
    Materialized,
    Observed,
    Recorded,
    RolledBack,
    RunStarted,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.policies import MaxLag, describe
from freshet.projections.alarms import Alarms
from freshet.projections.causes import blocker, blocker_text
from freshet.projections.cells import Cell, cells_of, concerns, lacks
from freshet.projections.circuits import Circuits, circuit_text
from freshet.projections.marks import NOTHING
from freshet.projections.pauses import Pauses
from freshet.projections.planner import Planner
from freshet.projections.projection import Fold, Projection
from freshet.projections.runs import Runs
from freshet.projections.staleness import Staleness

SMALL_STEP_US = 50_000
"""So near a moment it is not worked out once more."""

ALWAYS = (
    EngineStarted, EngineReloaded, GraphDeployed,
    FellDue, FreshnessAtRisk, FreshnessBreached, FreshnessRestored,
)  # fmt: skip
"""What is folded also while no policy looks at a clock."""


class Findings(msgspec.Struct):
    """What to record at a moment, and the next moment (µs) at which there will be something."""

    events: list[FellDue | FreshnessAtRisk | FreshnessBreached | FreshnessRestored] = []
    wake_at: int | None = None


class Promises(Projection):
    """The projection: `alarms` of rows, `at_risk` and `breached` episodes by asset partition."""

    def __init__(
        self, staleness: Staleness, runs: Runs, pauses: Pauses, circuits: Circuits
    ) -> None:
        self.alarms = Alarms()
        self.planner = Planner(staleness, runs)
        self.at_risk: dict[AssetPartition, int] = {}
        """What they owed when it was recorded."""
        self.breached: dict[AssetPartition, Recorded] = {}
        self.recovered: dict[AssetPartition, None] = {}
        """Breached ones that keep their promise again, to be recorded."""
        self._looked_at = 0
        self._watching = False
        """Does any policy look at a clock?"""
        self._staleness = staleness
        self._runs = runs
        self._pauses = pauses
        self._circuits = circuits

    def heeds(self, kind: type[object]) -> Fold | None:
        """Every event, as what is promised may move with anything; while no policy looks at a
        clock, few.
        """
        return self._fold if self._watching or kind in ALWAYS else None

    def _fold(self, event: Any, recorded: Recorded) -> None:
        """Fold one event, after the projections this one reads."""
        now = recorded.recorded_at
        match event:
            case EngineStarted(slots=slots) | EngineReloaded(slots=slots):
                self.planner.slots = max(1, slots)
            case GraphDeployed():
                self._deployed()
            case RunStarted():
                self._started(event, now)
            case SourceChanged() | Observed() | Materialized() | RolledBack():
                self.planner.quiet.note(event.asset, event.partition, recorded)
            case FellDue():
                for name in (*event.targets, *event.pulled):
                    self._look_by_name(name, now)
            case FreshnessAtRisk():
                self.at_risk[AssetPartition(event.asset, event.partition)] = event.owed
                self._look_by_name(AssetPartition(event.asset, event.partition), now)
            case FreshnessBreached():
                name = AssetPartition(event.asset, event.partition)
                self.breached[name] = recorded
                self._look_by_name(name, now)
            case FreshnessRestored():
                name = AssetPartition(event.asset, event.partition)
                self.breached.pop(name, None)
                self.recovered.pop(name, None)
                self._look_by_name(name, now)
            case _:
                pass
        for cell in self.planner.arrivals.apply(recorded):
            self._look(cell, now)
        for state, i, _ in self._staleness.marks.moved:
            self._look(Cell(state, i), now)
        self._staleness.marks.moved.clear()  # it was of this event
        for target in self._runs.ended:
            state = self._staleness.states.get(target.asset)
            if state is not None:
                self.planner.paths.learn(state)
                self._look_by_name(AssetPartition(target.asset, target.partition), now)
        if self.alarms:
            self.alarms.trim()
            if now > self._looked_at:  # an estimate was passed: the exact moment may be later
                self._looked_at = now
                for cell in self.alarms.due(now)[0]:
                    self._look(cell, now)

    # --- what to record -------------------------------------------------------------------------

    def findings(self, now: int) -> Findings:
        """What is to be recorded at `now`. Costs the rows whose moment has come."""
        found = Findings()
        cells, found.wake_at = self.alarms.due(now)
        due: dict[AssetPartition, FellDue] = {}
        for cell in cells:
            asked = self.planner.planned(cell, now)
            if asked is not None and (asked.itself or asked.pulled):
                # What is asked for together waits for each other: so each row that needs others
                # has an event of its own.
                key = cell.key if asked.pulled else AssetPartition(cell.home.spec.key, "")
                before = due.get(key, FellDue((), describe(cell.home.spec.policy)))
                targets = (*before.targets, cell.key) if asked.itself else before.targets
                due[key] = FellDue(targets, before.policy, asked.pulled or before.pulled)
            else:  # all that is due by now asks by itself: the rest has its own moments
                self._wake(found, self.planner.asks_at(cell, after=now), now)
            found.events += self._verdicts(cell, now)
            self._wake(found, self.next_moment(cell), now)
        found.events = [*due.values(), *found.events]
        for name in self.recovered:
            promise = getattr(self.breached[name].event, "promise", "")
            found.events.append(FreshnessRestored(*name, promise=promise))
        return found

    def _wake(self, found: Findings, at: int | None, now: int) -> None:
        if at is not None and at > now:
            found.wake_at = at if found.wake_at is None else min(found.wake_at, at)

    def _verdicts(self, cell: Cell, now: int) -> Iterator[FreshnessAtRisk | FreshnessBreached]:
        """Is the promise of this row at risk, or broken?"""
        deadline = self.planner.deadline_us(cell)
        if deadline is None:
            return
        name, promise = cell.key, describe(cell.home.spec.policy)
        if deadline <= now:
            if name not in self.breached:
                yield FreshnessBreached(*name, promise, cell.owed, self._reason(cell))
        elif self.at_risk.get(name) != cell.owed and self.planner.risk_at(cell, deadline) <= now:
            yield FreshnessAtRisk(*name, promise, self._reason(cell), cell.owed)

    def _reason(self, cell: Cell) -> str:
        """What keeps a row from being in time, in words."""
        pause = self._pauses.holding(cell.home.spec)
        if pause is not None:
            return f"it is paused since position {pause.position}"
        circuit = self._circuits.holding(cell)
        if circuit is not None:
            return circuit_text(circuit)
        longest = self.planner.longest_us(cell)
        if longest > self.planner.room_us(cell):
            return f"building it takes {longest / 1e6:.3g} s, by its recent runs"
        found = blocker(cell)
        if found is None or found.what in ("queued", "deferred"):
            busy = len(self._runs.live) >= self.planner.slots
            return "all slots are taken" if busy else "nothing ran it in time"
        return blocker_text(found)

    # --- moments --------------------------------------------------------------------------------

    def next_moment(self, cell: Cell) -> int | None:
        """The next moment (µs) at which there is something to do about a row; it may be past."""
        moments = []
        asks = self.planner.asks_at(cell)
        if asks is not None:
            moments.append(asks)
        deadline = self.planner.deadline_us(cell)
        if deadline is not None:
            if cell.key not in self.breached:
                moments.append(deadline)
            if self.at_risk.get(cell.key) != cell.owed:
                moments.append(min(deadline, self.planner.risk_at(cell, deadline)))
        return min(moments, default=None)

    def _look_by_name(self, name: AssetPartition, now: int) -> None:
        cell = self._staleness.cell(*name)
        if cell is not None:
            self._look(cell, now)

    def _look(self, cell: Cell, now: int) -> None:
        """Work out anew what is next for a row."""
        state, i = cell.home, cell.i
        if not state.followed:
            return
        name = cell.key
        self.planner.arrivals.look(cell, now)
        owes = i < state.n and bool(state.exists[i]) and state.owed[i] < NOTHING
        if state.relook:
            works = owes and concerns(state, i) and not lacks(state, i)
            if works and self.planner.asks_for_something(cell):
                self.planner.held_since.setdefault(cell, now)
            else:
                self.planner.held_since.pop(cell, None)
        deadline = self.planner.deadline_us(cell) if owes else None
        if name in self.breached and (deadline is None or deadline > now):
            self.recovered[name] = None
        else:
            self.recovered.pop(name, None)
        if not owes or self.at_risk.get(name) != state.owed[i]:
            self.at_risk.pop(name, None)
        early = self.planner.early_us(cell) if owes and not state.relook else None
        if early is not None and early > now:
            self.alarms.set(cell, early)
            return
        at = self.next_moment(cell) if owes else None
        if at is None:
            self.alarms.drop(cell)
        else:
            # What comes to owe upstream may move it forward: look again, in ever smaller steps.
            near = early is None or at - now <= SMALL_STEP_US
            self.alarms.set(cell, at if near else now + (at - now) // 2)

    def _deployed(self) -> None:
        """Other definitions: everything anew."""
        self.alarms = Alarms()
        self.planner.held_since, self.planner.starts = {}, {}
        order = self._staleness.order
        for state in order:
            state.followed = not (state.at_once or state.is_wall)
        self._watching = any(s.followed or s.spec.policy.limit is not None for s in order)
        self.planner.arrivals.watch([s for s in order if isinstance(s.spec.policy, MaxLag)])
        self.planner.quiet.watch([s for s in order if getattr(s.spec.policy, "debounce_ms", 0)])
        self.planner.paths.deploy(order, learning=self._watching)
        self._forget_moves()
        known = self._staleness.states
        for name in self.breached:
            if name.asset not in known or not isinstance(known[name.asset].spec.policy, MaxLag):
                self.recovered[name] = None  # nothing is promised any more
        for state in order:
            for cell in cells_of(state) if state.followed else ():
                if cell.owed < NOTHING:
                    self._look(cell, self._staleness.marks.now[1])

    def _forget_moves(self) -> None:
        """A row whose asset has other partitions now was numbered anew, and its debt with it: what
        it was under its old number owes nothing, which is no news of the row.
        """
        known, moved = self._staleness.states, self._staleness.marks.moved
        moved[:] = [
            (state, i, before)
            for state, i, before in moved
            if known.get(state.spec.key) is state or self._staleness.cell(*state.key(i)) is None
        ]

    def _started(self, event: RunStarted, now: int) -> None:
        for target in event.targets:
            cell = self._staleness.cell(target.asset, target.partition)
            if cell is None:
                continue
            limit = cell.home.spec.policy.limit
            if limit is not None:
                self.planner.starts.setdefault(cell, deque(maxlen=limit.runs)).append(now)
            self._look(cell, now)
