"""Looking again at Kafka messages that were rejected: by a reader of its own, beside the others."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from time import monotonic, time_ns

from freshet.engine.events import SourceChanged
from freshet.sensors.sensor import REPLAY, Batch, Rejection, Settlement
from freshet.sensors.topics.access import Access, KafkaError
from freshet.sensors.topics.client import Link, OutOfRangeError, UnreadableError
from freshet.sensors.topics.messages import Feed, Record
from freshet.sensors.topics.places import Place

FETCH_S = 1.0
"""Longest wait for one answer."""

PATIENCE_S = 10.0
"""Longest wait for a message that should be there."""

FETCH_BYTES = 64 * 1024
"""Read around each message; a larger one comes nevertheless."""


async def replayed(
    access: Access, feeds: Mapping[str, Feed], requests: Sequence[str]
) -> AsyncGenerator[Batch, None]:
    """A batch for each request, which forgets it: the message counts now, or is rejected again, or
    is gone. Raises KafkaError when that cannot be found out.
    """
    link = Link(access, feeds, settings={"max_partition_fetch_bytes": FETCH_BYTES})
    try:
        await link.open()
        topics = await link.extents(await link.topics())
        for request in requests:
            item = request.removeprefix(REPLAY)
            place, offset = _parsed(item)
            topic = topics.get(place[0])
            extent = topic.partitions.get(place[1]) if topic is not None else None
            forget: dict[str, str | None] = {request: None}
            if extent is None or not extent.first <= offset < extent.end:
                yield Batch((), forget, (), (Settlement(item, accepted=False),))
                continue
            try:
                record = await _read(link, place, offset)
            except UnreadableError as error:
                yield Batch((), forget, (Rejection(item, str(error)),))
                continue
            yield _looked_at(record, feeds[place[0]], item, forget)
    finally:
        await link.close()


def _looked_at(
    record: Record | None, feed: Feed, item: str, forget: dict[str, str | None]
) -> Batch:
    if record is None:
        return Batch((), forget, (), (Settlement(item, accepted=False),))
    said = feed.read(record, time_ns() // 1000)
    if isinstance(said, Rejection):
        return Batch((), forget, (said,))
    changes = (said,) if isinstance(said, SourceChanged) else ()
    return Batch(changes, forget, (), (Settlement(item),))


async def _read(link: Link, place: Place, offset: int) -> Record | None:
    """The message at this very offset, or None when it was compacted away."""
    link.assign({place: offset})
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        try:
            found = await link.fetch(FETCH_S, 1)
        except OutOfRangeError:
            return None
        for records in found.records.values():
            return records[0] if records[0].offset == offset else None
        if found.ends.get(place, offset) > offset:
            return None
    raise KafkaError(f"{place[0]}/{place[1]} has not answered for {PATIENCE_S:g} s")


def _parsed(item: str) -> tuple[Place, int]:
    """`orders/0/17`; what is not of that form lies nowhere."""
    topic, _, rest = item.partition("/")
    number, _, offset = rest.partition("/")
    if not (number.isdecimal() and offset.isdecimal()):
        return ("", -1), -1
    return (topic, int(number)), int(offset)
