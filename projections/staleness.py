"""Staleness: which asset partitions owe a change, which may run, and what that change is.

The fold of DESIGN.md's appendix, event by event. Debts spread from a change to what newly owes
(push); gates open as debts are paid, and whatever turns out equal is cut off without a run (pull).
The cost of an event is the number of cells it moves, not the size of the graph.
Invariant after each event: no cell is fresher than what it is made from, `eff(n) <= eff(u)`.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

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
    downstream,
    fingerprint,
    gate_open,
    must_run,
    upstream_eff,
)

class Keepsake(NamedTuple):
    """What an asset partition that is not defined (any more) last was, and was made from."""

    version: str
    consumed: int | None = None
    code: str = ""
    started_at: int = 0


WAVE_US = 250_000
"""Source changes recorded within this time of the first share its mark (DESIGN.md: 250 ms)."""

MARKS_KEPT = 4096
"""Recorded times of marks kept, at least, before those nobody owes any more are dropped."""


class Staleness:
    """The projection. Read `states`, `ready`, `retries`; only `apply` changes anything."""

    def __init__(self) -> None:
        self.graph: Graph = EMPTY
        self.states: dict[AssetKey, AssetState] = {}
        self.attic: dict[AssetPartition, Keepsake] = {}
        """What is known of asset partitions that are not defined now, should they return."""
        self.ready: dict[Cell, None] = {}
        """Cells whose policy wants them run and whose gate is open, the first to be so first."""
        self.retries: dict[Cell, None] = {}
        """The same, but their last attempt failed: startable at `failure.retry_at`."""
        self.marked_at: dict[int, int] = {}
        """Recorded time (µs) of positions that are or were owed."""
        self._position = 0
        self._runs: dict[int, list[Cell]] = {}
        self._ghosts: dict[AssetPartition, Cell] = {}
        self._marks_limit = MARKS_KEPT
        self._wave = 0
        self._wave_until = -1
        self._touched: dict[Cell, None] = {}
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
        self._position = recorded.position
        fold(recorded.event, recorded)
        self._settle()

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
        wave = self._wave_of(recorded)
        if not event.data_version:
            self._withdraw(state, event.partition, recorded.position, wave)
            return
        if cell is None:
            cell = self._open(state, event.partition, wave)
        state.set_version(cell, event.data_version, recorded.position)
        self._touch_below(cell)
        self._mark_below(cell, wave)

    def _keep_unseen(self, event: SourceChanged | Observed) -> None:
        """A version of what no definition admits now: no news yet, but a later definition will ask."""
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
        self._touch_below(cell)
        self._mark_below(cell, wave)
        if not state.is_source:
            self._mark(cell, min(wave, upstream_eff(cell)))
        elif state.is_open:
            self._remove(cell, wave)

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
        self._end(cell, cell.next)
        if changed and cell.home.is_wall:
            self._mark_below(cell, self._wave_of(recorded))

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
            self._touched[cell] = None
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
        """End a run for the cells it did not materialize: each owes again what it set out to pay."""
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
            self._ghosts.pop(cell.key, None)
            return
        cell.home.note_eff(cell)
        self._touched[cell] = None
        self._touch_below(cell)

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
        self._remember(recorded)
        cells = []
        for asset, partition in targets:
            state = self.states.get(asset)
            if state is None or state.is_source or not state.admits(partition):
                continue
            cell = state.cells.get(partition)
            if cell is None:
                cell = self._open(state, partition, recorded.position)
                cell.explicit = True
            cell.forced = recorded.position
            cell.failure = None
            self._mark(cell, min(recorded.position, upstream_eff(cell)))
            self._touched[cell] = None
            cells.append(cell)
        return cells

    def _demand_cancelled(self, event: DemandCancelled, recorded: Recorded) -> None:
        for state in self.states.values():
            for cell in state.cells.values():
                if cell.demand == event.demand:
                    cell.demand = 0
                    cell.forced = 0 if cell.forced == event.demand else cell.forced
                    self._touched[cell] = None

    # --- partitions ---------------------------------------------------------------------------

    def _partitions_added(self, event: PartitionsAdded, recorded: Recorded) -> None:
        self._remember(recorded)
        state = self.states.get(event.asset)
        if state is not None:
            for key in filter(state.admits, event.keys):
                self._open(state, key, recorded.position).explicit = True

    def _partitions_removed(self, event: PartitionsRemoved, recorded: Recorded) -> None:
        state = self.states.get(event.asset)
        if state is not None and state.is_open:
            for cell in [state.cells[key] for key in event.keys if key in state.cells]:
                self._remove(cell, self._wave_of(recorded))

    def _open(self, state: AssetState, key: PartitionKey, mark: int) -> Cell:
        """Bring a partition into being, and with it those that open downstream definitions derive from it."""
        cell = state.cells.get(key)
        if cell is None:
            cell = self._revive(state, key)
            state.cells[key] = cell
            self._touch_below(cell)
            for link in state.down:
                if not link.all_ and link.other.is_open and link.other.admits(key):
                    self._open(link.other, key, mark)
            if not state.is_source:
                self._mark(cell, min(mark, upstream_eff(cell)))
        return cell

    def _revive(self, state: AssetState, key: PartitionKey) -> Cell:
        """A cell for a partition that comes into being: a new one, or as far as it is remembered the old."""
        name = AssetPartition(state.spec.key, key)
        cell = self._ghosts.pop(name, None) or Cell(state, key)
        cell.home = state
        cell.gone = False
        kept = self.attic.pop(name, None)
        if kept is not None:
            cell.consumed = kept.consumed
            cell.code = kept.code
            cell.started_at = kept.started_at
            state.set_version(cell, kept.version, self._position)
        return cell

    def _retire(self, cell: Cell) -> None:
        """Take a cell out of the game, remembering what it made; a live run may still end."""
        if cell.version is not None:
            self.attic[cell.key] = Keepsake(cell.version, cell.consumed, cell.code, cell.started_at)
        cell.home.forget_version(cell)
        cell.home.recent.pop(cell.partition, None)
        cell.gone = True
        cell.explicit = False
        cell.owed = cell.next = NOTHING
        cell.forced = cell.demand = 0
        cell.consumed = cell.failure = None
        self._touched.pop(cell, None)
        self._unlist(cell)
        if cell.running is not None:
            self._ghosts[cell.key] = cell

    def _remove(self, cell: Cell, wave: int) -> None:
        """End a partition; what open definitions derived from it alone ends too."""
        below = list(downstream(cell))
        self._retire(cell)
        del cell.home.cells[cell.partition]
        for other in below:
            if other.gone:
                continue  # a deeper branch of the same removal came first
            self._touched[other] = None
            if _belongs(other):
                self._mark(other, wave)
            else:
                self._remove(other, wave)

    # --- definitions --------------------------------------------------------------------------

    def _deployed(self, event: GraphDeployed, recorded: Recorded) -> None:
        old = self.graph
        self.graph = Graph.build(event.assets)
        self._remember(recorded)
        for key in [key for key in self.states if key not in self.graph.specs]:
            for cell in self.states.pop(key).cells.values():
                self._retire(cell)
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
        """Fit the cells to the new definition (upstreams first), and let those that changed owe it."""
        spec = state.spec
        for cell in [cell for cell in state.cells.values() if not _belongs(cell)]:
            self._remove(cell, position)
        keys = dict.fromkeys(declared(spec.partitions))
        if spec.is_source:
            kept = [name.partition for name in self.attic if name.asset == spec.key]
            keys.update(dict.fromkeys(filter(state.admits, kept)))
        for link in state.up:
            if not link.all_ and state.is_open:
                keys.update(dict.fromkeys(key for key in link.other.cells if state.admits(key)))
        for key in keys:
            self._open(state, key, position)
        state.rebuild_heap()
        changed = before is None or _staleness_part(before) != _staleness_part(spec)
        for cell in state.cells.values():
            if not spec.is_source:
                self._mark(cell, min(position, upstream_eff(cell)) if changed else upstream_eff(cell))
            self._touched[cell] = None

    # --- push and pull ------------------------------------------------------------------------

    def _wave_of(self, recorded: Recorded) -> int:
        """The mark shared by all changes recorded within `WAVE_US` of the first of them."""
        if recorded.recorded_at > self._wave_until:
            self._wave = recorded.position
            self._wave_until = recorded.recorded_at + WAVE_US
            self._remember(recorded)
        return self._wave

    def _remember(self, recorded: Recorded) -> None:
        if len(self.marked_at) >= self._marks_limit:
            cells = [cell for state in self.states.values() for cell in state.cells.values()]
            owed = {cell.eff for cell in cells} | {cell.next for cell in cells}
            self.marked_at = {mark: at for mark, at in self.marked_at.items() if mark in owed}
            self._marks_limit = max(MARKS_KEPT, 2 * len(self.marked_at))
        self.marked_at[recorded.position] = recorded.recorded_at

    def _mark_below(self, cell: Cell, mark: int) -> None:
        for other in downstream(cell):
            self._mark(other, mark)

    def _mark(self, cell: Cell, mark: int) -> None:
        """Push: the cell and all below owe `mark`, unless they owe as much already."""
        stack = [cell]
        while stack:
            here = stack.pop()
            if here.running is not None:
                here.next = min(here.next, mark)
            elif here.owed > mark:
                here.owed = mark
                here.home.note_eff(here)
                self._touched[here] = None
                if not here.home.is_wall:
                    stack.extend(downstream(here))
            else:
                self._touched[here] = None  # its gate may have been open, and has just shut

    def _touch_below(self, cell: Cell) -> None:
        for other in downstream(cell):
            self._touched[other] = None

    def _settle(self) -> None:
        """Pull: open gates, cut off what is equal, until nothing moves."""
        while self._touched:
            cell, _ = self._touched.popitem()
            if cell.gone or cell.home.is_source:
                continue
            if cell.owed == NOTHING or cell.running is not None or not gate_open(cell):
                self._unlist(cell)
            elif must_run(cell):
                self._list(cell)
            else:
                cell.owed = upstream_eff(cell)
                cell.failure = None
                cell.home.note_eff(cell)
                self._unlist(cell)
                if not cell.home.is_wall:
                    self._touch_below(cell)

    def _list(self, cell: Cell) -> None:
        """Put a cell that would do something new where its policy and its last failure say."""
        failure = cell.failure
        tried = (fingerprint(cell), cell.home.spec.code_version)
        if cell.home.is_wall and not cell.demand:
            self._unlist(cell)
        elif failure is None or (failure.fingerprint, failure.code_version) != tried:
            self.retries.pop(cell, None)
            self.ready.setdefault(cell)
        else:
            self.ready.pop(cell, None)
            if failure.retry_at is not None:
                self.retries.setdefault(cell)
            else:
                self.retries.pop(cell, None)

    def _unlist(self, cell: Cell) -> None:
        self.ready.pop(cell, None)
        self.retries.pop(cell, None)


def _belongs(cell: Cell) -> bool:
    """Does the cell exist under the present definition of its asset?"""
    if not cell.home.admits(cell.partition):
        return False
    if not cell.home.is_open or cell.explicit:
        return True
    return cell.version is not None if cell.home.is_source else _supported(cell)


def _supported(cell: Cell) -> bool:
    """Does any upstream still bring this partition of an open definition into being?"""
    return any(not link.all_ and cell.partition in link.other.cells for link in cell.home.up)


def _staleness_part(spec: AssetSpec) -> tuple[object, ...]:
    """The part of a definition that decides staleness; the rest (owner, tags …) is only metadata."""
    return (spec.kind, spec.deps, spec.partitions, spec.code_version, spec.policy)
