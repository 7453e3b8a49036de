"""The watch over a consumer: which partitions do not answer, and what those see who display lag."""

import asyncio
from collections.abc import Mapping
from time import monotonic

from freshet.engine.logger import Logger
from freshet.sensors.topics.access import KafkaError
from freshet.sensors.topics.client import Link
from freshet.sensors.topics.places import Place

FAILURES = 3
"""Commits in a row that fail before anybody is told."""

log = Logger("freshet.sensors.kafka")

SHOW_S = 5.0
"""Between two commits, which only displays of lag read."""

LOOK_S = 1.0
"""Between two looks for partitions that do not answer."""


class Silence:
    """How long partitions have not answered, by a clock that does not jump."""

    def __init__(self) -> None:
        self._began = self._looked_at = monotonic()
        self._seen: dict[Place, tuple[int | None, float]] = {}
        self.reason: KafkaError | None = None

    def age(self) -> float:
        """Seconds since the beginning."""
        return monotonic() - self._began

    def longest(self, link: Link) -> tuple[Place | None, float]:
        """The partition silent for longest, and for how many seconds; told now and then only."""
        now = monotonic()
        if now < self._looked_at + LOOK_S:
            return None, 0
        self._looked_at = now
        held = link.held
        self._seen = {place: seen for place, seen in self._seen.items() if place in held}
        for place in held:
            stamp = link.answered(place)
            if self._seen.get(place, (0, 0))[0] != stamp or link.buffered(place):
                self._seen[place] = (stamp, now)
        silent = min(held, key=lambda place: self._seen[place][1], default=None)
        return silent, now - self._seen[silent][1] if silent is not None else 0


class Display:
    """Commits for those who display lag: one at a time, and whether it succeeds does not matter."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._due = monotonic()
        self._shown: dict[Place, int] = {}
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def show(self, link: Link, places: Mapping[Place, int]) -> None:
        """Commit these places, if it is time."""
        if not self._group or monotonic() < self._due or places == self._shown:
            return
        if self._task is None or self._task.done():
            self._due = monotonic() + SHOW_S
            # No task group: none may span the yields of a generator. `close` ends it.
            self._task = asyncio.create_task(self._commit(link, dict(places)))

    def close(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()

    async def _commit(self, link: Link, places: dict[Place, int]) -> None:
        try:
            await link.show(self._group, places)
        except KafkaError as error:
            self._failures += 1
            if self._failures == FAILURES:  # the first may come before the group has a coordinator
                log.warning("place not shown", group=self._group, error=error.message)
        else:
            self._failures, self._shown = 0, places
