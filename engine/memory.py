"""A stream in memory: the same contract without a file, for tests and trials."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import islice

from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    Observed,
    Recorded,
    SourceChanged,
    Unknown,
)
from freshet.engine.keys import AssetKey
from freshet.engine.origins import subject_of
from freshet.engine.stream import (
    MAX_BATCH,
    Recent,
    closed_error,
    conflict,
    follow,
    move_cursor,
    place,
    prepare,
    wall_clock,
)

EPOCH = 1
"""The only writer there can be is the first one."""


class MemoryStream:
    """An `EventStream` that keeps its whole history in memory and is gone with the process.

    `clock` gives microseconds since the epoch. Not thread-safe: one event loop, as all streams.
    """

    def __init__(self, clock: Callable[[], int] = wall_clock) -> None:
        self._clock = clock
        self._events: list[Recorded] = []
        self._keys: dict[str, range] = {}
        self._cursors: dict[str, dict[str, str]] = {}
        self._recent = Recent()

    @property
    def head(self) -> int:
        """The newest position; 0 when the stream is empty."""
        return self._recent.head

    async def append(
        self,
        events: Sequence[AnyEvent | Unknown],
        *,
        key: str | None = None,
        expected: int | None = None,
        actor: str | None = None,
    ) -> range:
        """Record the events atomically and return their positions; see `EventStream.append`."""
        if self._recent.closed:
            raise closed_error()
        append = prepare(events, key, expected, actor)
        await checkpoint_if_cancelled()
        if key is not None and key in self._keys:
            return self._keys[key]
        refused = conflict(append, self.head)
        if refused is not None:
            raise refused
        recorded = place(append, self.head + 1, self._now(), EPOCH)
        positions = range(self.head + 1, self.head + 1 + len(recorded))
        if key is not None and recorded:
            self._keys[key] = positions
        self._events += recorded
        self._move_cursors(recorded)
        self._recent.publish(recorded)
        await cancel_shielded_checkpoint()  # a busy appender lets its followers run
        return positions

    async def read(
        self, after: int = 0, *, limit: int = MAX_BATCH, subject: str | None = None
    ) -> list[Recorded]:
        """At most `limit` events after `after`, in order; only those about `subject` if given."""
        start, limit = max(after, 0), max(limit, 0)
        if subject is None:
            return self._events[start : start + limit]
        about = (item for item in self._events[start:] if subject_of(item.event) == subject)
        return [item for item, _ in zip(about, range(limit), strict=False)]

    async def changes(
        self, sources: Sequence[AssetKey], after: int, until: int, *, limit: int = MAX_BATCH
    ) -> list[Recorded]:
        """What was said of the versions of these sources; see `EventStream.changes`."""
        about = (
            item
            for item in map(self._events.__getitem__, range(max(after, 0), min(until, self.head)))
            if isinstance(item.event, SourceChanged | Observed) and item.event.asset in sources
        )
        return list(islice(about, max(limit, 0)))

    async def at(self, position: int) -> Recorded | None:
        """The event at this position, or None when there is none."""
        return self._events[position - 1] if 0 < position <= self.head else None

    def follow(self, after: int = 0) -> AsyncIterator[list[Recorded]]:
        """All events after `after`, in batches, in order, until the stream is closed."""
        return follow(self._recent, self.read, after)

    async def cursor(self, sensor: str) -> Mapping[str, str]:
        """The sensor's cursor as of the head: the fold of its `CursorMoved` events."""
        return dict(self._cursors.get(sensor, {}))

    def close(self) -> None:
        """End the stream: followers finish once they have seen everything, appends are refused."""
        self._recent.end()

    def _now(self) -> int:
        last = self._events[-1].recorded_at if self._events else 0
        return max(self._clock(), last)

    def _move_cursors(self, recorded: Sequence[Recorded]) -> None:
        for item in recorded:
            if isinstance(item.event, CursorMoved):
                move_cursor(self._cursors.setdefault(item.event.sensor, {}), item.event)
