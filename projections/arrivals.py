"""Arrivals: what was never built is behind only from when everything it is made from has come.

A partition may come into being before its sources have landed. Until they have, no promise speaks
of it; from then on its lag counts.
"""

from collections.abc import Iterator

from freshet.engine.events import (
    Demanded,
    GraphDeployed,
    Invalidated,
    Materialized,
    Observed,
    PartitionsAdded,
    PartitionsRemoved,
    Recorded,
    SourceChanged,
    WindowsOpened,
)
from freshet.engine.keys import AssetKey, PartitionKey
from freshet.projections.cells import Cell, absent_rows, downstream, is_lacking
from freshet.projections.marks import MISSING, NOTHING
from freshet.projections.staleness import Staleness
from freshet.projections.states import AssetState, Link

RESHAPING = (
    Demanded | Invalidated | GraphDeployed | PartitionsAdded | PartitionsRemoved | WindowsOpened
)
"""What may bring partitions into being, or end them, anywhere."""

MAX_LOOKED_AT = 10_000
"""Rows looked at for one answer."""


class Arrivals:
    """When (µs) the partitions of sources and manual assets came, of those above a promise."""

    def __init__(self, staleness: Staleness) -> None:
        self._staleness = staleness
        self._times: dict[AssetKey, dict[PartitionKey, int]] = {}
        self._promised: set[AssetKey] = set()
        self._built: dict[AssetKey, int] = {}
        """How many partitions have a version, of what is built here above a promise."""

    def watch(self, promised: list[AssetState]) -> None:
        """From now on note what comes above these assets."""
        before, self._times = self._times, {}
        self._promised = {state.spec.key for state in promised}
        seen = set(self._promised)
        stack = list(promised)
        while stack:
            for link in stack.pop().up:
                key = link.up.spec.key
                if link.up.is_wall:
                    self._times.setdefault(key, _still_there(link.up, before.get(key, {})))
                elif key not in seen:
                    seen.add(key)
                    stack.append(link.up)
        self._built = {
            key: self._staleness.states[key].versions for key in seen if key not in self._times
        }

    def apply(self, recorded: Recorded) -> list[Cell]:
        """Note what came or went; returns the rows below that were never built and have a promise:
        it may begin, or cease, to speak of them.
        """
        event = recorded.event
        if isinstance(event, RESHAPING):
            if isinstance(event, PartitionsRemoved):
                for key in event.keys:
                    self._times.get(event.asset, {}).pop(key, None)
            return self._all_missing()
        if not isinstance(event, SourceChanged | Observed | Materialized):
            return []
        state = self._staleness.states.get(event.asset)
        i = state.number(event.partition) if state is not None else None
        if state is None or i is None:
            return []
        times = self._times.get(event.asset)
        if times is None:
            return self._first(state, i)
        if i >= state.n or not state.there[i]:
            times.pop(event.partition, None)
            return self._all_missing()
        if event.partition in times:
            return []
        times[event.partition] = recorded.recorded_at
        return self._below(Cell(state, i))

    def _first(self, state: AssetState, i: int) -> list[Cell]:
        """Something was built; if for the first time, those below may have all they need now."""
        before = self._built.get(state.spec.key)
        if before is None or state.versions <= before:
            if before is not None:
                self._built[state.spec.key] = state.versions
            return []
        self._built[state.spec.key] = state.versions
        return self._below(Cell(state, i))

    def last_above(self, cell: Cell) -> int:
        """When (µs) the last came of what a row that was never built cannot do without; of an edge
        that is content with one, the first. 0 if unknown.
        """
        known: dict[Cell, int] = {}
        stack = [cell]
        while stack:
            here = stack[-1]
            missing = [] if here in known else [u for u in _built_above(here) if u not in known]
            if missing and len(known) + len(stack) < MAX_LOOKED_AT:
                stack += missing
                continue
            stack.pop()
            known[here] = max((self._came(link, here.i, known) for link in here.home.up), default=0)
        return known[cell]

    def _came(self, link: Link, i: int, known: dict[Cell, int]) -> int:
        """When what a row reads over one edge came."""
        up = link.up
        if link.rule != "wait":
            return 0
        if up.is_wall:
            times = self._times.get(up.spec.key, {})
            found = [times.get(up.space.key(j), 0) for j in _rows(link, i) if up.there[j]]
        else:
            found = [known.get(Cell(up, j), 0) for j in _rows(link, i)]
        one = link.last or (link.whole and not up.bounded)
        return (min if one else max)(found, default=0)

    def _all_missing(self) -> list[Cell]:
        """Every row that has a promise and was never built: what went may be far above it."""
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


def _still_there(state: AssetState, times: dict[PartitionKey, int]) -> dict[PartitionKey, int]:
    """Without what other definitions have made go."""
    rows = {key: state.number(key) for key in times}
    return {
        key: times[key]
        for key, i in rows.items()
        if i is not None and i < state.n and state.there[i]
    }


def _rows(link: Link, i: int) -> list[int]:
    """The rows that exist of those read over an edge."""
    up = link.up
    rows = range(up.n) if link.whole or link.last else link.lane.reads(i, up.n)
    return [j for j in rows if j < up.n and up.exists[j]]


def _built_above(cell: Cell) -> Iterator[Cell]:
    """The rows upstream that are built here."""
    for link in cell.home.up:
        if not link.up.is_wall and link.rule == "wait":
            yield from (Cell(link.up, j) for j in _rows(link, cell.i))


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
