"""Alarms: rows and the moments at which time alone changes something about them."""

from heapq import heapify, heappop, heappush

from freshet.engine.keys import AssetPartition
from freshet.projections.cells import Cell

SLACK = 64
"""Outdated entries tolerated in the heap before it is rebuilt."""


class Alarms:
    """At most one moment (µs) for each row. Setting and dropping cost O(log n)."""

    def __init__(self) -> None:
        self.at: dict[Cell, int] = {}
        self._heap: list[tuple[int, int, Cell]] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self.at)

    def set(self, cell: Cell, at: int) -> None:
        if self.at.get(cell) == at:
            return
        self.at[cell] = at
        self._count += 1  # cells have no order of their own
        heappush(self._heap, (at, self._count, cell))
        if len(self._heap) > 2 * len(self.at) + SLACK:
            self._heap = [(at, n, cell) for n, (cell, at) in enumerate(self.at.items())]
            self._count = len(self._heap)
            heapify(self._heap)

    def drop(self, cell: Cell) -> None:
        if self.at:
            self.at.pop(cell, None)

    def trim(self) -> None:
        """Drop entries that no longer hold, as far as they come first."""
        heap = self._heap
        while heap and self.at.get(heap[0][2]) != heap[0][0]:
            heappop(heap)

    def due(self, now: int) -> tuple[list[Cell], int | None]:
        """The rows whose moment has come, the first due first, and when the next one's comes.
        Changes nothing, and costs the rows that are due.
        """
        heap = self._heap
        found: dict[Cell, tuple[int, AssetPartition]] = {}
        later: int | None = None
        stack = [0] if heap else []
        while stack:
            n = stack.pop()
            if n >= len(heap):
                continue
            at, _, cell = heap[n]
            if at > now:
                later = at if later is None else min(later, at)  # a heap: what is below is later
                continue
            if self.at.get(cell) == at:
                found[cell] = (at, cell.key)
            stack += (2 * n + 1, 2 * n + 2)
        return sorted(found, key=found.__getitem__), later
