"""Staleness: which asset partitions owe a change, which may run, and what that change is.

The fold of DESIGN.md's appendix, event by event. Debts spread from a change to what newly owes
(push); gates open as debts are paid, and whatever turns out equal is cut off without a run (pull).
The cost of an event is the number of cells it moves, not the size of the graph.
Invariant after each event: no cell is fresher than what it is made from, `eff(n) <= eff(u)`.
"""

from collections.abc import Callable, Iterable
from typing import Any

from freshet.engine.events import (
    DemandCancelled,
    Demanded,
    GraphDeployed,
    Invalidated,
    Materialized,
    Observed,
    PartitionsAdded,
    PartitionsRemoved,
    Recorded,
    RunAbandoned,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.graph import EMPTY, Graph
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.partitions import declared
from freshet.engine.specs import AssetSpec
from freshet.projections.cells import (
    NOTHING,
    AssetState,
    Cell,
    Failure,
    fingerprint,
    upstream_eff,
)
from freshet.projections.debts import Debts, Keepsake, belongs


class Staleness(Debts):
    """The projection. Read `states`, `ready`, `retries`; only `apply` changes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: Graph = EMPTY
        self._runs: dict[int, list[Cell]] = {}
        self._folds: dict[type[Any], Callable[[Any, Recorded], None]] = {
            GraphDeployed: self._deployed,
            SourceChanged: self._observed,
            Observed: self._observed,
            RunStarted: self._started,
            Materialized: self._materialized,
            RunSucceeded: self._succeeded,
            RunFailed: self._failed,
            RunCancelled: self._cancelled,
            RunAbandoned: self._abandoned,
            Demanded: self._demanded,
            DemandCancelled: self._demand_cancelled,
            Invalidated: self._invalidated,
            PartitionsAdded: self._partitions_added,
            PartitionsRemoved: self._partitions_removed,
        }

    def apply(self, recorded: Recorded) -> None:
        """Fold one event; afterwards everything is settled."""
        fold = self._folds.get(type(recorded.event))
        if fold is None:
            return
        self.position = recorded.position
        fold(recorded.event, recorded)
        self.settle()

    def cell(self, asset: AssetKey, partition: PartitionKey) -> Cell | None:
        """The cell of an asset partition that is defined and exists, or None."""
        state = self.states.get(asset)
        return state.cells.get(partition) if state is not None else None

    # --- changes of versions ------------------------------------------------------------------

    def _observed(self, event: SourceChanged | Observed, recorded: Recorded) -> None:
        state = self.states.get(event.asset)
        if state is None or not state.admits(event.partition):
            self._keep_unseen(event)
            return
        cell = state.cells.get(event.partition)
        if event.data_version == ((cell.version or "") if cell is not None else ""):
            return
        wave = self.wave_of(recorded)
        if not event.data_version:
            self._withdraw(state, event.partition, recorded.position, wave)
            return
        if cell is None:
            cell = self.open(state, event.partition, wave)
        state.set_version(cell, event.data_version, recorded.position)
        self.touch_below(cell)
        self.mark_below(cell, wave)

    def _keep_unseen(self, event: SourceChanged | Observed) -> None:
        """A version of what no definition admits now: no news yet, but a later
        definition will ask.
        """
        key = AssetPartition(event.asset, event.partition)
        if event.data_version:
            self.attic[key] = Keepsake(event.data_version)
        else:
            self.attic.pop(key, None)

    def _withdraw(self, state: AssetState, key: PartitionKey, position: int, wave: int) -> None:
        """A value is gone. An open definition loses the partition; a bounded one has it missing."""
        cell = state.cells[key]
        state.forget_version(cell)
        cell.changed_at = position
        self.touch_below(cell)
        self.mark_below(cell, wave)
        if not state.is_source:
            self.mark(cell, min(wave, upstream_eff(cell)))
        elif state.is_open:
            self.remove(cell, wave)

    def _materialized(self, event: Materialized, recorded: Recorded) -> None:
        cell = self._live(event.run, event.asset, event.partition)
        if cell is None:
            return  # a late result of a run that has ended: history, but no news
        if cell.gone:
            self._end(cell, NOTHING)
            return
        changed = cell.version != event.data_version
        cell.consumed = cell.pinned
        cell.code = event.code_version
        cell.started_at = cell.run
        cell.failure = None
        cell.forced = cell.forced if cell.forced > cell.run else 0
        cell.demand = cell.demand if cell.demand > cell.run else 0
        if changed:
            cell.home.set_version(cell, event.data_version, recorded.position)
        # Those below owe what a run pays, so they will look; but nobody owes a wall's debt, nor
        # that of a run whose reason went away between the decision and its start.
        unexpected = cell.home.is_wall or cell.running == NOTHING
        self._end(cell, cell.next)
        if changed and unexpected:
            self.mark_below(cell, self.wave_of(recorded))

    # --- runs ---------------------------------------------------------------------------------

    def _started(self, event: RunStarted, recorded: Recorded) -> None:
        cells = []
        for target in event.targets:
            cell = self.cell(target.asset, target.partition)
            if cell is None or cell.running is not None:
                continue
            cell.running = cell.owed
            cell.run = recorded.position
            cell.next = upstream_eff(cell)
            cell.pinned = fingerprint(cell)
            cell.pinned_code = target.code_version
            self.touched[cell] = None
            cells.append(cell)
        self._runs[recorded.position] = cells

    def _succeeded(self, event: RunSucceeded, recorded: Recorded) -> None:
        self._restore(event.run, None)

    def _failed(self, event: RunFailed, recorded: Recorded) -> None:
        self._restore(event.run, (recorded.position, event.retry_at))

    def _cancelled(self, event: RunCancelled, recorded: Recorded) -> None:
        self._restore(event.run, (recorded.position, None))

    def _abandoned(self, event: RunAbandoned, recorded: Recorded) -> None:
        self._restore(event.run, None)

    def _restore(self, run: int, failed: tuple[int, int | None] | None) -> None:
        """End a run for the cells it did not materialize: each owes again what
        it set out to pay.
        """
        for cell in self._runs.pop(run, ()):
            if cell.run != run or cell.running is None:
                continue
            if failed is not None:
                position, retry_at = failed
                tried = (cell.pinned, cell.pinned_code)
                before = cell.failure
                again = before is not None and (before.fingerprint, before.code_version) == tried
                attempt = before.attempt + 1 if before is not None and again else 1
                if cell.forced < run:  # a wish made during the run outlives its failure
                    cell.failure = Failure(position, attempt, *tried, retry_at)
            self._end(cell, cell.running)

    def _end(self, cell: Cell, owed: int) -> None:
        """The live run of this cell is over; it owes `owed` from here on."""
        cell.running = None
        cell.next = NOTHING
        cell.owed = owed
        if cell.gone:
            self.ghosts.pop(cell.key, None)
            return
        cell.home.note_eff(cell)
        self.touched[cell] = None
        self.touch_below(cell)

    def _live(self, run: int, asset: AssetKey, partition: PartitionKey) -> Cell | None:
        for cell in self._runs.get(run, ()):
            if cell.key == (asset, partition) and cell.run == run and cell.running is not None:
                return cell
        return None

    # --- wishes -------------------------------------------------------------------------------

    def _demanded(self, event: Demanded, recorded: Recorded) -> None:
        for cell in self._targets(event.targets, recorded):
            cell.demand = recorded.position

    def _invalidated(self, event: Invalidated, recorded: Recorded) -> None:
        for _ in self._targets(event.targets, recorded):
            pass

    def _targets(self, targets: Iterable[AssetPartition], recorded: Recorded) -> list[Cell]:
        """Make these cells owe a rebuild even from equal inputs; failures are forgiven."""
        self.remember(recorded)
        cells = []
        for asset, partition in targets:
            state = self.states.get(asset)
            if state is None or state.is_source or not state.admits(partition):
                continue
            cell = state.cells.get(partition)
            if cell is None:
                cell = self.open(state, partition, recorded.position)
                cell.explicit = True
            cell.forced = recorded.position
            cell.failure = None
            self.mark(cell, min(recorded.position, upstream_eff(cell)))
            self.touched[cell] = None
            cells.append(cell)
        return cells

    def _demand_cancelled(self, event: DemandCancelled, recorded: Recorded) -> None:
        for state in self.states.values():
            for cell in state.cells.values():
                if cell.demand == event.demand:
                    cell.demand = 0
                    cell.forced = 0 if cell.forced == event.demand else cell.forced
                    self.touched[cell] = None

    # --- partitions ---------------------------------------------------------------------------

    def _partitions_added(self, event: PartitionsAdded, recorded: Recorded) -> None:
        self.remember(recorded)
        state = self.states.get(event.asset)
        if state is not None:
            for key in filter(state.admits, event.keys):
                self.open(state, key, recorded.position).explicit = True

    def _partitions_removed(self, event: PartitionsRemoved, recorded: Recorded) -> None:
        state = self.states.get(event.asset)
        if state is not None and state.is_open:
            for cell in [state.cells[key] for key in event.keys if key in state.cells]:
                self.remove(cell, self.wave_of(recorded))

    # --- definitions --------------------------------------------------------------------------

    def _deployed(self, event: GraphDeployed, recorded: Recorded) -> None:
        old = self.graph
        self.graph = Graph.build(event.assets)
        self.remember(recorded)
        for key in [key for key in self.states if key not in self.graph.specs]:
            for cell in self.states.pop(key).cells.values():
                self.retire(cell)
        states = {}
        for key, spec in self.graph.specs.items():
            states[key] = self.states.get(key) or AssetState(spec)
            states[key].define(spec)
        self.states = states
        for state in states.values():
            state.link(states)
        for key, state in states.items():
            self._redefine(state, old.specs.get(key), recorded.position)

    def _redefine(self, state: AssetState, before: AssetSpec | None, position: int) -> None:
        """Fit the cells to the new definition (upstreams first), and let those
        that changed owe it.
        """
        spec = state.spec
        for cell in [cell for cell in state.cells.values() if not belongs(cell)]:
            self.remove(cell, position)
        keys = dict.fromkeys(declared(spec.partitions))
        if spec.is_source:
            kept = [name.partition for name in self.attic if name.asset == spec.key]
            keys.update(dict.fromkeys(filter(state.admits, kept)))
        for link in state.up:
            if not link.all_ and state.is_open:
                keys.update(dict.fromkeys(key for key in link.other.cells if state.admits(key)))
        for key in keys:
            self.open(state, key, position)
        state.rebuild_heap()
        changed = before is None or _staleness_part(before) != _staleness_part(spec)
        for cell in state.cells.values():
            if not spec.is_source:
                self.mark(
                    cell, min(position, upstream_eff(cell)) if changed else upstream_eff(cell)
                )
            self.touched[cell] = None


def _staleness_part(spec: AssetSpec) -> tuple[object, ...]:
    """The part of a definition that decides staleness; the rest (owner, tags
    …) is only metadata.
    """
    return (spec.kind, spec.deps, spec.partitions, spec.code_version, spec.policy)
