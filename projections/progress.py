"""Progress: up to where something that reads changes has read them, source by source."""

from collections.abc import Iterable, Sequence

import msgspec

from freshet.engine.keys import AssetKey, PartitionKey

Partitions = frozenset[PartitionKey] | None
"""Of which partitions of a source the changes are read; None: of all, whatever they are."""

Progress = dict[tuple[AssetKey, PartitionKey | None], int]
"""Up to which position each partition of a source has been read; None: all others of it. What is
not named has not been read.
"""


class Feed(msgspec.Struct, frozen=True):
    """A source that is read change by change: for which parameter (empty: the one that names no
    source), of which partitions, and after which positions: after `since`, but for the partitions
    that were read up to elsewhere, which are `apart`.
    """

    source: AssetKey
    parameter: str
    partitions: Partitions
    since: int
    apart: dict[PartitionKey, int] = {}

    @property
    def first(self) -> int:
        """What came up to this position has been read."""
        return min(self.since, *self.apart.values()) if self.apart else self.since

    def wants(self, partition: PartitionKey, position: int) -> bool:
        """Is a change of this partition, recorded at this position, still to be read?"""
        if self.partitions is not None and partition not in self.partitions:
            return False
        return position > self.apart.get(partition, self.since)


def feed_of(source: AssetKey, parameter: str, partitions: Partitions, progress: Progress) -> Feed:
    """What is to be read of a source by who has got so far."""
    since = progress.get((source, None), 0)
    if partitions is None:
        apart = {k: at for (key, k), at in progress.items() if key == source and k is not None}
        return Feed(source, parameter, None, since, apart)
    found = {key: progress.get((source, key), since) for key in partitions}
    alike = set(found.values())
    if len(alike) == 1:
        return Feed(source, parameter, partitions, alike.pop())
    return Feed(source, parameter, partitions, max(alike, default=since), found)


def advanced(progress: Progress, feeds: Iterable[Feed], until: int) -> Progress:
    """Where something is that has got so far, and then read these feeds up to a position."""
    found = dict(progress)
    for feed in feeds:
        source = feed.source
        if feed.partitions is not None:
            for key in feed.partitions:
                found[source, key] = max(feed.apart.get(key, feed.since), until)
            continue
        found[source, None] = max(feed.since, until)
        for key, since in feed.apart.items():
            if since > until:
                found[source, key] = since
            else:
                found.pop((source, key), None)
    return found


def says_more(progress: Progress, feeds: Sequence[Feed]) -> bool:
    """Does it speak of what is not among these feeds (any more)?"""
    read = {feed.source: feed.partitions for feed in feeds}
    return any(
        source not in read
        or ((partitions := read[source]) is not None and partition not in partitions)
        for source, partition in progress
    )
