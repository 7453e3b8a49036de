"""Readings: the changes a run is to read, taken from the stream, and the form it gets them in."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from freshet.engine.changes import Change, Changes
from freshet.engine.events import Observed, Recorded, SourceChanged
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.orders import Order, Reading
from freshet.engine.parts import Absorbed, Payload
from freshet.engine.stream import MAX_BATCH, EventStream
from freshet.projections.progress import Feed

MAX_NAMES = 64
"""Asset partitions read one by one; of more, the whole of their sources is read in order."""


class Taken(msgspec.Struct, frozen=True):
    """The changes a run has taken from the stream, and what is recorded of that."""

    reading: Reading
    changes: tuple[Recorded, ...]
    absorbed: Absorbed


async def take_changes(stream: EventStream, order: Order, reading: Reading) -> Taken:
    """The first changes that are still to be read and came before the run started, at most
    `max_changes` of them.
    """
    feeds = {feed.source: feed for feed in reading.feeds}
    limit = order.spec.max_changes
    names = _names(reading.feeds)
    if names is not None:
        found = await _by_name(stream, names, order.run, limit + 1)
    else:
        found = await _by_source(stream, feeds, order.run, limit + 1)
    since = min((feed.first for feed in reading.feeds), default=0)
    rest = found[limit] if len(found) > limit else None
    taken = tuple(found[:limit])
    until = taken[-1].position if rest is not None else order.run
    absorbed = Absorbed(since, until, len(taken))
    if rest is not None:
        absorbed = msgspec.structs.replace(absorbed, rest=rest.position, rest_us=rest.recorded_at)
    return Taken(reading, taken, absorbed)


def _names(feeds: Iterable[Feed]) -> dict[str, int] | None:
    """The asset partitions to be read, by name, and after which position each; None if they are
    not few.
    """
    found: dict[str, int] = {}
    for feed in feeds:
        if feed.partitions is None or len(found) + len(feed.partitions) > MAX_NAMES:
            return None
        for key in sorted(feed.partitions):
            found[str(AssetPartition(feed.source, key))] = feed.apart.get(key, feed.since)
    return found


async def _by_name(
    stream: EventStream, names: Mapping[str, int], until: int, limit: int
) -> list[Recorded]:
    """By the index of subjects: costs these events alone, however many others there are."""
    found: list[Recorded] = []
    for name, after in names.items():
        place, count = after, 0
        while count < limit:
            page = await stream.read(place, limit=MAX_BATCH, subject=name)
            mine = [r for r in page if r.position <= until and _is_change(r)]
            found += mine
            count += len(mine)
            if len(page) < MAX_BATCH or page[-1].position > until:
                break
            place = page[-1].position
    found.sort(key=lambda recorded: recorded.position)
    return found[:limit]


async def _by_source(
    stream: EventStream, feeds: Mapping[AssetKey, Feed], until: int, limit: int
) -> list[Recorded]:
    """In the order of the stream: costs what lies in between, once."""
    found: list[Recorded] = []
    after = min(feed.first for feed in feeds.values())
    while len(found) < limit:
        size = min(MAX_BATCH, max(MAX_NAMES, limit - len(found)))
        page = await stream.changes(tuple(feeds), after, until, limit=size)
        found += [recorded for recorded in page if _is_wanted(recorded, feeds)]
        if len(page) < size:
            break
        after = page[-1].position
    return found[:limit]


def arguments_of(
    taken: Taken,
    types: Mapping[str, Any],
    content: Callable[[Payload], bytes],
    previous: Callable[[], Any] | None,
) -> dict[str, Changes[Any]]:
    """What each parameter receives that reads changes; `types` are those of their payloads."""
    named = {feed.parameter: feed.source for feed in taken.reading.feeds if feed.parameter}
    others = {feed.source for feed in taken.reading.feeds if not feed.parameter}
    found: dict[str, Changes[Any]] = {}
    for parameter, type_ in types.items():
        sources = {named[parameter]} if parameter in named else others
        changes = [
            _change(recorded, recorded.event, type_, content)
            for recorded in taken.changes
            if isinstance(recorded.event, SourceChanged | Observed)
            and recorded.event.asset in sources
        ]
        found[parameter] = Changes(changes, more=taken.absorbed.rest > 0, previous=previous)
    return found


def _is_change(recorded: Recorded) -> bool:
    return isinstance(recorded.event, SourceChanged | Observed)


def _is_wanted(recorded: Recorded, feeds: Mapping[AssetKey, Feed]) -> bool:
    event = recorded.event
    return isinstance(event, SourceChanged | Observed) and feeds[event.asset].wants(
        event.partition, recorded.position
    )


def _change(
    recorded: Recorded,
    event: SourceChanged | Observed,
    type_: Any,
    content: Callable[[Payload], bytes],
) -> Change[Any]:
    change: Change[Any] = Change(
        event.asset,
        event.partition,
        event.data_version,
        recorded.position,
        recorded.recorded_at,
        metadata=event.metadata,
    )
    if isinstance(event, SourceChanged) and event.payload is not None:
        change.carry(event.payload, content, type_)
    return change
