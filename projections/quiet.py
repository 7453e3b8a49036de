"""Quiet: when what stands above a debounced asset last changed."""

from freshet.engine.events import Recorded
from freshet.engine.keys import AssetKey, PartitionKey
from freshet.projections.cells import Cell
from freshet.projections.staleness import Staleness
from freshet.projections.states import AssetState

MAX_LOOKED_UP = 1000
"""Rows looked at for the newest change above a row; of more, any change of their assets counts."""


class Quiet:
    """The times (µs) of the last changes of sources and manual assets above debounced ones."""

    def __init__(self, staleness: Staleness) -> None:
        self._staleness = staleness
        self._changed_us: dict[AssetKey, dict[int, int]] = {}

    def watch(self, debounced: list[AssetState]) -> None:
        """From now on note when the sources above these assets change."""
        before, self._changed_us = self._changed_us, {}
        seen, stack = set(), debounced
        while stack:
            for link in stack.pop().up:
                key = link.up.spec.key
                if link.up.is_wall:
                    self._changed_us.setdefault(key, before.get(key, {}))
                if key not in seen and not link.up.is_wall:
                    seen.add(key)
                    stack.append(link.up)

    def note(self, asset: AssetKey, partition: PartitionKey, recorded: Recorded) -> None:
        """A version was stated; did it change?"""
        if asset not in self._changed_us:
            return
        cell = self._staleness.cell(asset, partition)
        if cell is not None and cell.changed_at == recorded.position:
            self._changed_us[asset][cell.i] = recorded.recorded_at

    def last_change(self, cell: Cell) -> int:
        """When (µs) anything above a row last changed; of very many rows, anything at all."""
        newest, seen, stack = 0, {cell}, [cell]
        while stack:
            here = stack.pop()
            for link in here.home.up:
                times = self._changed_us.get(link.up.spec.key)
                if times is not None and (link.whole or link.last or len(seen) > MAX_LOOKED_UP):
                    newest = max(newest, max(times.values(), default=0))
                    continue
                for j in link.reads(here.i) if len(seen) <= MAX_LOOKED_UP else ():
                    newest = max(newest, times.get(j, 0)) if times is not None else newest
                    above = Cell(link.up, j)
                    if times is None and link.up.space.valid(j) and above not in seen:
                        seen.add(above)
                        stack.append(above)
        return newest
