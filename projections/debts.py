"""Debts: how a change spreads to what newly owes, and how debts are paid, cut off or found ready.

The mechanism of DESIGN.md's appendix; `staleness` says which event sets what in motion. Debts
spread
from a change to what newly owes (push); gates open as debts are paid, and whatever turns out equal
is
cut off without a run (pull). The cost is the number of cells that move, not the size of the graph.
Invariant once settled: no cell is fresher than what it is made from, `eff(n) <= eff(u)`.
"""

from typing import NamedTuple

from freshet.engine.events import Recorded
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.projections.cells import (
    NOTHING,
    AssetState,
    Cell,
    downstream,
    fingerprint,
    gate_open,
    must_run,
    upstream_eff,
)

WAVE_US = 250_000
"""Source changes recorded within this time of the first share its mark (DESIGN.md: 250 ms)."""

MARKS_KEPT = 4096
"""Recorded times of marks kept, at least, before those nobody owes any more are dropped."""


class Keepsake(NamedTuple):
    """What an asset partition that is not defined (any more) last was, and was made from."""

    version: str
    consumed: int | None = None
    code: str = ""
    started_at: int = 0


class Debts:
    """All cells, what they owe, and which of them may run. Changed by the fold
    of staleness alone.
    """

    def __init__(self) -> None:
        self.states: dict[AssetKey, AssetState] = {}
        self.attic: dict[AssetPartition, Keepsake] = {}
        """What is known of asset partitions that are not defined now, should they return."""
        self.ready: dict[Cell, None] = {}
        """Cells whose policy wants them run and whose gate is open, the first to be so first."""
        self.retries: dict[Cell, None] = {}
        """The same, but their last attempt failed: startable at `failure.retry_at`."""
        self.marked_at: dict[int, int] = {}
        """Recorded time (µs) of positions that are or were owed."""
        self.position = 0
        self.ghosts: dict[AssetPartition, Cell] = {}
        self.cut_offs = 0
        """Debts that turned out to be for nothing new, and were paid without a run."""
        self._marks_limit = MARKS_KEPT
        self._wave = 0
        self._wave_until = -NOTHING
        self.touched: dict[Cell, None] = {}

    # --- partitions that come and go ----------------------------------------------------------

    def open(self, state: AssetState, key: PartitionKey, mark: int) -> Cell:
        """Bring a partition into being, and with it those that open downstream definitions derive
        from it.
        """
        cell = state.cells.get(key)
        if cell is None:
            cell = self.revive(state, key)
            state.cells[key] = cell
            self.touch_below(cell)
            for link in state.down:
                if not link.all_ and link.other.is_open and link.other.admits(key):
                    self.open(link.other, key, mark)
            if not state.is_source:
                if cell.running is not None and not state.is_wall:
                    # It was gone and is back while its run goes on: those below owe what it pays.
                    state.note_eff(cell)
                    self.mark_below(cell, cell.running)
                self.mark(cell, min(mark, upstream_eff(cell)))
        return cell

    def revive(self, state: AssetState, key: PartitionKey) -> Cell:
        """A cell for a partition that comes into being: a new one, or as far as it is remembered
        the old.
        """
        name = AssetPartition(state.spec.key, key)
        cell = self.ghosts.pop(name, None) or Cell(state, key)
        cell.home = state
        cell.gone = False
        kept = self.attic.pop(name, None)
        if kept is not None:
            cell.consumed = kept.consumed
            cell.code = kept.code
            cell.started_at = kept.started_at
            state.set_version(cell, kept.version, self.position)
        return cell

    def retire(self, cell: Cell) -> None:
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
        self.touched.pop(cell, None)
        self.unlist(cell)
        if cell.running is not None:
            self.ghosts[cell.key] = cell

    def remove(self, cell: Cell, wave: int) -> None:
        """End a partition; what open definitions derived from it alone ends too."""
        below = list(downstream(cell))
        self.retire(cell)
        del cell.home.cells[cell.partition]
        for other in below:
            if other.gone:
                continue  # a deeper branch of the same removal came first
            self.touched[other] = None
            if belongs(other):
                self.mark(other, wave)
            else:
                self.remove(other, wave)

    # --- push and pull ------------------------------------------------------------------------

    def wave_of(self, recorded: Recorded) -> int:
        """The mark shared by all changes recorded within `WAVE_US` of the first of them."""
        if recorded.recorded_at > self._wave_until:
            self._wave = recorded.position
            self._wave_until = recorded.recorded_at + WAVE_US
            self.remember(recorded)
        return self._wave

    def remember(self, recorded: Recorded) -> None:
        if len(self.marked_at) >= self._marks_limit:
            cells = [cell for state in self.states.values() for cell in state.cells.values()]
            owed = {cell.eff for cell in cells} | {cell.next for cell in cells}
            self.marked_at = {mark: at for mark, at in self.marked_at.items() if mark in owed}
            self._marks_limit = max(MARKS_KEPT, 2 * len(self.marked_at))
        self.marked_at[recorded.position] = recorded.recorded_at

    def mark_below(self, cell: Cell, mark: int) -> None:
        for other in downstream(cell):
            self.mark(other, mark)

    def mark(self, cell: Cell, mark: int) -> None:
        """Push: the cell and all below owe `mark`, unless they owe as much already."""
        stack = [cell]
        while stack:
            here = stack.pop()
            if here.running is not None:
                here.next = min(here.next, mark)
            elif here.owed > mark:
                here.owed = mark
                here.home.note_eff(here)
                self.touched[here] = None
                if not here.home.is_wall:
                    stack.extend(downstream(here))
            else:
                self.touched[here] = None  # its gate may have been open, and has just shut

    def touch_below(self, cell: Cell) -> None:
        for other in downstream(cell):
            self.touched[other] = None

    def settle(self) -> None:
        """Pull: open gates, cut off what is equal, until nothing moves."""
        while self.touched:
            round_, self.touched = self.touched, {}
            for cell in round_:
                if not cell.gone and not cell.home.is_source:
                    self._settle_one(cell)

    def _settle_one(self, cell: Cell) -> None:
        if cell.owed == NOTHING or cell.running is not None or not gate_open(cell):
            self.unlist(cell)
        elif must_run(cell):
            self._list(cell)
        else:
            cell.cut = (cell.owed, self.position)
            self.cut_offs += 1
            cell.owed = upstream_eff(cell)
            cell.failure = None
            cell.home.note_eff(cell)
            self.unlist(cell)
            if not cell.home.is_wall:
                self.touch_below(cell)

    def _list(self, cell: Cell) -> None:
        """Put a cell that would do something new where its policy and its last failure say."""
        failure = cell.failure
        tried = (fingerprint(cell), cell.home.spec.code_version)
        if cell.home.is_wall and not cell.demand:
            self.unlist(cell)
        elif failure is None or (failure.fingerprint, failure.code_version) != tried:
            self.retries.pop(cell, None)
            self.ready.setdefault(cell)
        else:
            self.ready.pop(cell, None)
            if failure.retry_at is not None:
                self.retries.setdefault(cell)
            else:
                self.retries.pop(cell, None)

    def unlist(self, cell: Cell) -> None:
        self.ready.pop(cell, None)
        self.retries.pop(cell, None)


def belongs(cell: Cell) -> bool:
    """Does the cell exist under the present definition of its asset?"""
    if not cell.home.admits(cell.partition):
        return False
    if not cell.home.is_open or cell.explicit:
        return True
    return cell.version is not None if cell.home.is_source else _supported(cell)


def _supported(cell: Cell) -> bool:
    """Does any upstream still bring this partition of an open definition into being?"""
    return any(not link.all_ and cell.partition in link.other.cells for link in cell.home.up)
