"""Staleness: which asset partitions owe a change, which may run, and what that change is.

The fold of DESIGN.md's appendix, event by event. The cost of an event is the number of rows it
moves, not the size of the graph. Invariant after each event: no row is fresher than what it is made
from, `owed(n) <= owed(u)`.
"""

from collections.abc import Iterable
from itertools import product
from typing import Any

from freshet.engine.events import (
    DemandCancelled,
    Demanded,
    FellDue,
    GraphDeployed,
    Invalidated,
    Materialized,
    Observed,
    PartitionsAdded,
    PartitionsRemoved,
    Recorded,
    RolledBack,
    RunAbandoned,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SourceChanged,
    WindowsOpened,
)
from freshet.engine.graph import EMPTY, Graph
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.policies import Cron
from freshet.engine.spaces import is_too_far
from freshet.projections.cells import Cell, fingerprint, upstream_owed, version_hash
from freshet.projections.deployment import deploy, link_up, next_opening, open_by_time
from freshet.projections.feeds import absorb, feeds_of, read_again
from freshet.projections.kills import is_suspect, kills_of
from freshet.projections.marks import BULK, FRESH, NOTHING, Kills, Live, Tally, failure_of
from freshet.projections.plain import weigh
from freshet.projections.projection import Fold
from freshet.projections.pulls import needed_above
from freshet.projections.sightings import Sightings
from freshet.projections.states import AssetState


class Staleness(Sightings):
    """The projection. Read `states`, `ready`, `timed`; only `apply` changes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: Graph = EMPTY
        self.opens_at: int | None = None
        """The moment (µs) at which the next window is over and comes into being."""
        self._runs: dict[int, list[AssetPartition]] = {}
        self.folds = {
            GraphDeployed: self._deployed,
            SourceChanged: self.sight,
            Observed: self.sight,
            RolledBack: self.roll_back,
            RunStarted: self._started,
            Materialized: self._materialized,
            RunSucceeded: self._succeeded,
            RunFailed: self._failed,
            RunCancelled: self._failed,
            RunAbandoned: self._abandoned,
            Demanded: self._demanded,
            FellDue: self._fell_due,
            DemandCancelled: self._demand_cancelled,
            Invalidated: self._invalidated,
            PartitionsAdded: self._partitions_added,
            PartitionsRemoved: self._partitions_removed,
            WindowsOpened: self._windows_opened,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As it was written down (see `AssetState.__getstate__`)."""
        self.__dict__.update(state)
        link_up(self)

    def heeds(self, kind: type[object]) -> Fold | None:
        """What folds and settles events of this type."""
        return self._fold if kind in self.folds else None

    def _fold(self, event: Any, recorded: Recorded) -> None:
        """Fold one event; afterwards everything is settled."""
        if self.marks.moved:
            self.marks.moved.clear()
        self.position = recorded.position
        self.marks.now = (recorded.position, recorded.recorded_at)
        self.folds[type(event)](event, recorded)
        if self._pending:
            self.settle()
        if self.marks.known:
            self.marks.known.clear()
        if self.timed.at:
            self.timed.trim()

    def cell(self, asset: AssetKey, partition: PartitionKey) -> Cell | None:
        """The asset partition, if it is defined and exists."""
        row = self._row(asset, partition)
        return Cell(*row) if row is not None else None

    def _row(self, asset: AssetKey, partition: PartitionKey) -> tuple[AssetState, int] | None:
        state = self.states.get(asset)
        if state is None:
            return None
        i = state.space.ordinal(partition)
        if i is None or i >= state.n or not state.exists[i]:
            return None
        return state, i

    def made_at(self, asset: AssetKey, partition: PartitionKey) -> int:
        """Position of the newest event that states its version, defined or not; 0 for none."""
        cell = self.cell(asset, partition)
        if cell is not None:
            return cell.made_at if cell.there else 0
        kept = self.attic.get(AssetPartition(asset, partition))
        return kept.made_at if kept is not None else 0

    # --- results ----------------------------------------------------------------------------------

    def _materialized(self, event: Materialized, recorded: Recorded) -> None:
        name = AssetPartition(event.asset, event.partition)
        names = self._runs.get(event.run)
        if names is None or name not in names:
            return  # a late result of a run that has ended: history, but no news
        names.remove(name)
        found = self._live(event.run, name)
        if found is None:
            self.drop_ghost(name, event.run)  # it is gone: history, but no news
            return
        state, i, live = found
        version = version_hash(event.asset, event.partition, event.data_version)
        first = not state.there[i]
        changed = first or state.hash[i] != version
        state.consumed[i] = live.pinned
        state.code[i] = state.code_number(event.code_version)
        state.started_at[i] = event.run
        by_change = live.feeds or state.absorbed or state.elsewhere or state.halfway
        rest = self._absorb(state, i, event) if by_change else NOTHING
        state.made(i, recorded.position)
        state.failures.pop(i, None)
        state.kills.pop(i, None)
        if i in state.forced:
            state.forced.take(i, event.run)
        if i in state.due:
            state.due.take(i, min(event.run, rest))
        if i in state.demand:
            self.satisfy(state, i, min(event.run, rest))
        if changed:
            state.set_version(i, version, recorded.position)
        # Those below owe what a run pays, so they will look; but nobody owes a wall's debt, nor
        # that of a run whose reason went away between the decision and its start; and who went on
        # without this partition may owe nothing.
        unexpected = state.is_wall or live.paying == NOTHING
        if live.paying < NOTHING:
            self.marks.known[live.paying] = self.marks.at[live.paying]
        self._end(state, i, min(live.next, rest))
        self._come_home(state, i)
        if changed and unexpected:
            self.mark_below(state, i, self.wave_of(recorded))
        elif first:
            self.mark_below(state, i, live.paying)

    def _absorb(self, state: AssetState, i: int, event: Materialized) -> int:
        """Note up to where a run has read changes. What it left is owed on: the position of the
        first of that, NOTHING if there is none.
        """
        feeds, found = state.live[i].feeds, event.absorbed
        if not feeds or found is None or not found.rest:
            absorb(state, i, feeds, event.run, event.run)
            return NOTHING
        absorb(state, i, feeds, event.run, found.until)
        self.marks.known[found.rest] = found.rest_us
        return found.rest

    # --- runs ---------------------------------------------------------------------------------

    def _started(self, event: RunStarted, recorded: Recorded) -> None:
        names = []
        for target in event.targets:
            row = self._row(target.asset, target.partition)
            if row is None:
                continue
            state, i = row
            if i in state.live:
                continue
            as_decided = target.code_version == state.spec.code_version
            trial = state.trial if as_decided else target.code_version
            if state.plain:
                _, low, total, news = weigh(state, i)
            else:
                low, total, news = upstream_owed(state, i), fingerprint(state, i), False
            live = Live(recorded.position, state.owed[i], total, trial)
            state.live[i] = live
            if state.ready[i] == BULK:
                self.live_bulk.add(recorded.position)
            if state.kills and is_suspect(state, i):
                self.live_suspects.add(recorded.position)
            if state.reads_changes:
                live.feeds = feeds_of(state, i)
            if low < NOTHING:
                self._set_next(live, low)
            if state.plain:
                self._set_out(state, i, news)
            elif len(event.targets) == 1:
                self._settle_one(state, i)  # nothing that it reads has moved
            else:
                self.touch(state, i)
            if not state.there[i]:
                self.touch_below(state, i, skipping=True)  # who goes on without it waits for it now
            state.cursor = i + 1
            state.served_at = recorded.position
            if state in self.ready:  # served last, so it comes last
                self.ready.leave(state)
                self.ready.join(state)
            names.append(state.key(i))
        self._runs[recorded.position] = names

    def _succeeded(self, event: RunSucceeded, recorded: Recorded) -> None:
        self._restore(event.run, None)

    def _failed(self, event: RunFailed | RunCancelled, recorded: Recorded) -> None:
        self._restore(event.run, recorded)

    def _abandoned(self, event: RunAbandoned, recorded: Recorded) -> None:
        for name in self._runs.get(event.run, ()) if event.killed else ():
            found = self._live(event.run, name)
            if found is not None:
                state, i, live = found
                state.kills[i] = Kills(kills_of(state, i) + 1, live.pinned, live.trial)
        self._restore(event.run, None)

    def kills_during(self, run: int) -> int:
        """How often in a row the engine was killed in runs of what this live run makes, with the
        same inputs and code.
        """
        found = filter(None, (self._live(run, name) for name in self._runs.get(run, ())))
        return max((kills_of(state, i) for state, i, _ in found), default=0)

    def _restore(self, run: int, failed: Recorded | None) -> None:
        """End a run for the rows it did not materialize: each owes again what it set out to pay.
        `failed` says how it ended, if not like this of its own accord.
        """
        if self.live_bulk or self.live_suspects:
            self.live_bulk.discard(run)
            self.live_suspects.discard(run)
        for name in self._runs.pop(run, ()):
            found = self._live(run, name)
            if found is None:
                self.drop_ghost(name, run)
                continue
            state, i, live = found
            # What came meanwhile may be older than what it set out to pay: an upstream that a
            # deployment added, or any news at all if the run had no reason any more.
            owed = min(live.paying, live.next)
            if failed is not None:
                state.kills.pop(i, None)
            if failed is not None and owed < NOTHING and state.forced.newest(i) < run:
                # (A wish made during the run outlives its failure, and who owes nothing, and was
                # only to be made together with others, has not failed.)
                before = state.failures.get(i)
                state.failures[i] = failure_of(failed, live, before)
            self._end(state, i, owed)
            self.touch(state, i)

    def _end(self, state: AssetState, i: int, owed: int) -> None:
        """The live run of this row is over; it owes `owed` from here on."""
        live = state.live.pop(i)
        state.owe(i, owed)
        if owed < live.paying and not state.is_wall:
            self.mark_below(state, i, owed)  # they owe what it set out to pay, which is later
        if live.next < NOTHING:
            self._set_next(live, NOTHING)
        self.touch_below(state, i)

    def _live(self, run: int, name: AssetPartition) -> tuple[AssetState, int, Live] | None:
        row = self._row(*name)
        live = row[0].live.get(row[1]) if row is not None else None
        return (*row, live) if row is not None and live is not None and live.run == run else None

    # --- wishes -------------------------------------------------------------------------------

    def _demanded(self, event: Demanded, recorded: Recorded) -> None:
        if event.bulk:
            self.bulk[recorded.position] = Tally(0)  # before anything settles: its runs are bulk
        rows = self._targets(event.targets, recorded, force=event.force)
        for state, i in rows:
            state.demand.add(i, recorded.position)
            self.ask(needed_above(state, i), recorded.position)
        if event.bulk:
            self.bulk[recorded.position].wanted = len(rows)

    def _fell_due(self, event: FellDue, recorded: Recorded) -> None:
        found = [self.cell(*name) for name in (*event.targets, *event.pulled)]
        self.ask([cell for cell in found if cell is not None], recorded.position)

    def ask(self, cells: Iterable[Cell], position: int) -> None:
        """These rows are to absorb, now, what they owe; but for those that ask by themselves."""
        for cell in cells:
            state, i = cell.home, cell.i
            if state.owed[i] < NOTHING and not state.is_wall and not state.is_eager:
                state.due.add(i, position)
                self.touch(state, i)
                self.touch_below(state, i)  # what is demanded together waits for each other

    def _invalidated(self, event: Invalidated, recorded: Recorded) -> None:
        for state, i in self._targets(event.targets, recorded, force=True):
            if state.reads_changes:
                read_again(state, i)  # what was wrong may be in any of them

    def _targets(
        self, targets: Iterable[AssetPartition], recorded: Recorded, *, force: bool
    ) -> list[tuple[AssetState, int]]:
        """Make these rows owe a rebuild, with `force` even from equal inputs; failures are
        forgiven.
        """
        rows = []
        for asset, partition in dict.fromkeys(targets):
            state = self.states.get(asset)
            i = None
            if state is not None and not state.is_source:
                i = state.number(partition, add=state.adds_keys)
            if state is None or i is None or is_too_far(state.space, i, recorded.recorded_at):
                continue
            if i >= state.n or not state.exists[i]:
                self._open_by_name(state, partition, recorded.position)
            if not force and state.state[i] == FRESH:
                continue
            if force:
                state.forced.add(i, recorded.position)
            state.failures.pop(i, None)
            state.kills.pop(i, None)
            self.mark(state, i, min(recorded.position, upstream_owed(state, i)))
            rows.append((state, i))
        return rows

    def _demand_cancelled(self, event: DemandCancelled, recorded: Recorded) -> None:
        for state in self.order:
            for i in [i for i, demands in state.demand.items() if event.demand in demands]:
                state.demand.withdraw(i, event.demand)
                state.forced.withdraw(i, event.demand)
                self.touch(state, i)
            for i in [i for i, wishes in state.due.items() if event.demand in wishes]:
                state.due.withdraw(i, event.demand)
                self.touch(state, i)
                self.touch_below(state, i)

    def _ask_again(self) -> None:
        """Other policies: what is demanded already pulls by these from now on."""
        for state in self.order:
            due = state.due if isinstance(state.spec.policy, Cron) else ()
            for i in {*state.demand, *due}:
                newest = max(state.due.newest(i), state.demand.newest(i))
                self.ask(needed_above(state, i), newest)

    # --- partitions ---------------------------------------------------------------------------

    def _partitions_added(self, event: PartitionsAdded, recorded: Recorded) -> None:
        state = self.states.get(event.asset)
        for key in event.keys if state is not None else ():
            assert state is not None
            i = state.number(key, add=True)
            if i is not None and not is_too_far(state.space, i, recorded.recorded_at):
                self._open_by_name(state, key, recorded.position)

    def _partitions_removed(self, event: PartitionsRemoved, recorded: Recorded) -> None:
        state = self.states.get(event.asset)
        if state is not None and state.grows:
            for mate, key in product(self.mates(state), event.keys):
                i = mate.number(key)
                if i is not None and i < mate.n and mate.exists[i]:
                    self.remove(mate, i, self.wave_of(recorded))

    def _open_by_name(self, state: AssetState, key: PartitionKey, position: int) -> None:
        """Somebody named this partition: it exists, of all assets that are made together."""
        for mate in self.mates(state):
            i = mate.number(key, add=mate.grows)
            if i is not None:
                self.open(mate, i, position)
                mate.explicit.add(i)

    def _windows_opened(self, event: WindowsOpened, recorded: Recorded) -> None:
        self.now_us = max(self.now_us, event.until)
        for state in self.order:
            if state.calendar is not None:
                open_by_time(self, state, recorded.position)
        self.opens_at = next_opening(self)

    def _deployed(self, event: GraphDeployed, recorded: Recorded) -> None:
        old, self.graph = self.graph, Graph.build(event.assets)
        deploy(self, old, self.graph, recorded)
        before = old.specs
        if any(k in before and s.policy != before[k].policy for k, s in self.graph.specs.items()):
            self._ask_again()
        self.opens_at = next_opening(self)
