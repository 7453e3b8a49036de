"""Messages that were fetched and are not yet recorded: at most one fetch of them."""

from collections import deque
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

from freshet.engine.events import SourceChanged
from freshet.engine.stream import MAX_BATCH
from freshet.sensors.sensor import Rejection
from freshet.sensors.topics.client import Fetched
from freshet.sensors.topics.messages import Feed, Record
from freshet.sensors.topics.places import Place

MAX_BATCH_MESSAGES = MAX_BATCH
"""Messages read into one batch: as many events as the stream commits at once. Half as many, the
usual bound, would cost a fifth of the throughput of a topic that has to be caught up with.
"""

DECODE_S = 0.01
"""Time spent on messages at a stretch: others need the loop too."""

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Content taken into one batch, beyond its last message."""


class Taken(NamedTuple):
    """What messages said, and the places after them."""

    changes: list[SourceChanged]
    rejected: list[Rejection]
    reached: dict[Place, int]


class Pending:
    """Fetched messages, partition by partition, in the order of their offsets."""

    def __init__(self) -> None:
        self._records: deque[tuple[Place, Sequence[Record]]] = deque()
        self._done = 0  # of the first of them
        self._ends: dict[Place, int] = {}
        self._ahead: dict[Place, int] = {}

    def __bool__(self) -> bool:
        return bool(self._records)

    def put(self, fetched: Fetched, at: Mapping[Place, int]) -> None:
        """What was fetched, less what lies before our places, or is pending: that was fetched again
        after the client was sent back.
        """
        for place, records in fetched.records.items():
            known = max(at.get(place, 0), self._ahead.get(place, 0))
            if records and records[0].offset < known:
                records = [record for record in records if record.offset >= known]
            if records:
                self._records.append((place, records))
                self._ahead[place] = records[-1].offset + 1
        self._ends |= {p: end for p, end in fetched.ends.items() if end > at.get(p, 0)}

    def take(self, feeds: Mapping[str, Feed], now_us: int) -> Taken:
        """What the next messages say: as many as may be read at a stretch, and at least one."""
        taken = Taken([], [], {})
        room, size = MAX_BATCH_MESSAGES, MAX_BATCH_BYTES
        until = perf_counter() + DECODE_S
        while self._records and room > 0 and size > 0 and perf_counter() < until:
            place, records = self._records[0]
            start = self._done
            for n in range(start, min(len(records), start + room)):
                record = records[n]
                said = feeds[place[0]].read(record, now_us)
                if type(said) is SourceChanged:
                    taken.changes.append(said)
                elif isinstance(said, Rejection):
                    taken.rejected.append(said)
                size -= len(record.value or b"")
                self._done = n + 1
                if size < 0 or perf_counter() > until:
                    break
            room -= self._done - start
            taken.reached[place[0], place[1]] = records[self._done - 1].offset + 1
            if self._done == len(records):
                self._records.popleft()
                self._done = 0
        if not self._records:
            passed = self._ends.items()
            taken.reached.update((p, end) for p, end in passed if end > taken.reached.get(p, 0))
            self._ends, self._ahead = {}, {}
        return taken
