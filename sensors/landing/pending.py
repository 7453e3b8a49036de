"""Pending: files to be looked at again, because they were not finished, or gone only just now."""

import heapq
from collections.abc import Iterator

from freshet.sensors.landing.look import AnySeen

FIRST_LOOK_S, LAST_LOOK_S = 0.02, 0.5
"""Time to the next look at a file still being written: growing from the one to the other."""

GROWTH = 1.5


class Waiting:
    """One of them: what it looked like, since when, and when to look again. `seen` is None for what
    is gone.
    """

    def __init__(self, seen: AnySeen | None, now: float) -> None:
        self.seen = seen
        self.since = now
        self.delay = FIRST_LOOK_S
        self.due = now


class Pending:
    """Files by item, the one that is due first on top of a heap; stale places in it are skipped."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def put_off(self, item: str, seen: AnySeen | None, now: float, least_s: float = 0.0) -> None:
        """Look again later, ever longer up to LAST_LOOK_S; not before it has looked so for
        `least_s`.
        """
        found = self._waiting.get(item)
        if found is None:
            found = self._waiting[item] = Waiting(seen, now)
        else:
            if found.seen != seen:
                found.seen, found.since = seen, now
            found.delay = min(found.delay * GROWTH, LAST_LOOK_S)
        found.due = max(now + found.delay, found.since + least_s)
        heapq.heappush(self._heap, (found.due, item))

    def hasten(self, item: str) -> None:
        """Something has happened to it: what follows may follow soon."""
        found = self._waiting.get(item)
        if found is not None:
            found.delay = FIRST_LOOK_S

    def drop(self, item: str) -> None:
        self._waiting.pop(item, None)

    def since(self, item: str, seen: AnySeen | None) -> float | None:
        """Since when it looks like this; None when it is not known to."""
        found = self._waiting.get(item)
        return found.since if found is not None and found.seen == seen else None

    def seen_for(self, item: str, least_s: float, now: float) -> AnySeen | None:
        """What it has looked like for at least so long; None when it has changed meanwhile."""
        found = self._waiting.get(item)
        return found.seen if found is not None and now - found.since >= least_s else None

    def due(self, now: float) -> Iterator[str]:
        """Those whose time has come, each once."""
        while self._heap and self._heap[0][0] <= now:
            at, item = heapq.heappop(self._heap)
            found = self._waiting.get(item)
            if found is not None and found.due == at:
                yield item

    def next_due(self) -> float | None:
        """When the first of them is due."""
        while self._heap:
            at, item = self._heap[0]
            found = self._waiting.get(item)
            if found is not None and found.due == at:
                return at
            heapq.heappop(self._heap)
        return None
