"""Arrivals: what was never built is behind only from when everything it is made from has come.

A partition may come into being before its sources have landed. While it waits for one, no promise
speaks of it; from when it does not any more its lag counts.
"""

from freshet.engine.events import (
    Demanded,
    GraphDeployed,
    Invalidated,
    Materialized,
    Observed,
    PartitionsAdded,
    PartitionsRemoved,
    Recorded,
    RolledBack,
    SourceChanged,
    WindowsOpened,
)
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.projections.cells import Cell, absent_rows, downstream, is_lacking
from freshet.projections.marks import MISSING, NOTHING
from freshet.projections.staleness import Staleness
from freshet.projections.states import AssetState

RESHAPING = (
    Demanded | Invalidated | GraphDeployed | PartitionsAdded | PartitionsRemoved | WindowsOpened
)
"""What may bring partitions into being, or end them, anywhere."""

MAX_LOOKED_AT = 10_000
"""Rows looked at for one answer."""


class Arrivals:
    """Which rows with a promise wait for a source, and since when (µs) the others do not."""

    def __init__(self, staleness: Staleness) -> None:
        self._staleness = staleness
        self._promised: set[AssetKey] = set()
        self._versions: dict[AssetKey, int] = {}
        """How many partitions have a version, of what stands above a promise."""
        self._waiting: set[AssetPartition] = set()
        self._came: dict[AssetPartition, int] = {}

    def watch(self, promised: list[AssetState]) -> None:
        """These assets have a promise from now on."""
        self._promised = {state.spec.key for state in promised}
        above: dict[AssetKey, int] = {}
        stack = list(promised)
        while stack:
            for link in stack.pop().up:
                if link.up.spec.key not in above:
                    above[link.up.spec.key] = link.up.versions
                    if not link.up.is_wall:
                        stack.append(link.up)
        self._versions = above

    def apply(self, recorded: Recorded) -> list[Cell]:
        """The rows with a promise that were never built and are to be looked at after this event:
        they may begin, or cease, to wait.
        """
        if not self._promised:
            return []
        event = recorded.event
        if isinstance(event, RESHAPING):
            for key in self._versions:
                self._versions[key] = self._staleness.states[key].versions
            return self._all_missing()
        if not isinstance(event, SourceChanged | Observed | Materialized | RolledBack):
            return []
        before = self._versions.get(event.asset)
        if before is None:
            return []
        now = self._versions[event.asset] = self._staleness.states[event.asset].versions
        if now < before:
            return self._all_missing()
        cell = self._staleness.cell(event.asset, event.partition)
        return self._below(cell) if cell is not None and now > before else []

    def look(self, cell: Cell, now: int) -> None:
        """Note whether a row waits at `now` (µs). To be called for each row of `apply`, and for
        those whose debts moved.
        """
        state, i = cell.home, cell.i
        if i >= state.n or not state.exists[i] or state.there[i]:
            if self._waiting or self._came:
                self._waiting.discard(cell.key)
                self._came.pop(cell.key, None)
        elif awaits_source(state, i):
            self._waiting.add(cell.key)
            self._came.pop(cell.key, None)
        elif cell.key in self._waiting:
            self._waiting.discard(cell.key)
            self._came[cell.key] = now

    def since(self, cell: Cell) -> int | None:
        """Since when (µs) a row has not waited; 0 if it never did, None if it does."""
        if not self._waiting and not self._came:
            return 0
        return None if cell.key in self._waiting else self._came.get(cell.key, 0)

    def _all_missing(self) -> list[Cell]:
        """Every row that has a promise and was never built: what came or went may be far above."""
        found = []
        for key in self._promised:
            state = self._staleness.states.get(key)
            i = state.state.find(MISSING) if state is not None else -1
            while i >= 0 and state is not None:
                found.append(Cell(state, i))
                i = state.state.find(MISSING, i + 1)
        return found

    def _below(self, cell: Cell) -> list[Cell]:
        found, seen, stack = [], {cell}, [cell]
        while stack and len(seen) < MAX_LOOKED_AT:
            here = stack.pop()
            for state, i in downstream(here.home, here.i):
                below = Cell(state, i)
                if below in seen or state.there[i] or state.owed[i] == NOTHING:
                    continue
                seen.add(below)
                if not state.is_wall:
                    stack.append(below)
                if state.spec.key in self._promised:
                    found.append(below)
        return found


def awaits_source(state: AssetState, i: int) -> bool:
    """Does a row wait for something that nobody here can build: a source that has not come, a
    manual asset, a partition that does not exist?
    """
    seen, stack = {(state, i)}, [(state, i)]
    while stack and len(seen) < MAX_LOOKED_AT:
        here, row = stack.pop()
        for link in here.up:
            up = link.up
            if link.rule != "wait" or not is_lacking(link, row):
                continue
            absent = [j for j in absent_rows(link, row) if up.exists[j]]
            if up.is_wall or not absent:
                return True
            for j in absent:
                if (up, j) not in seen:
                    seen.add((up, j))
                    stack.append((up, j))
    return False
