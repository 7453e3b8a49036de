"""Progress: up to where something that reads changes has read them, source by source."""

from collections.abc import Iterable

import msgspec

from freshet.engine.keys import AssetKey, PartitionKey

Partitions = frozenset[PartitionKey] | None
"""Of which partitions of a source the changes are read; None: of all, whatever they are."""

NOW: PartitionKey = "\0"
"""Stands for all the partitions of a source that are read now; no partition can have this key."""

Progress = dict[tuple[AssetKey, PartitionKey | None], int]
"""Up to which position each partition of a source has been read; `NOW`: all those read now, None:
all others. What is not named has not been read.
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
        if self.partitions is not None and len(self.apart) == len(self.partitions):
            return min(self.apart.values(), default=self.since)
        return min(self.since, *self.apart.values()) if self.apart else self.since

    def wants(self, partition: PartitionKey, position: int) -> bool:
        """Is a change of this partition, recorded at this position, still to be read?"""
        if self.partitions is not None and partition not in self.partitions:
            return False
        return position > self.apart.get(partition, self.since)


def since_of(source: AssetKey, progress: Progress, *, everything: bool) -> int:
    """Up to where a source was read, but for what is named apart; `everything`: all of it is read,
    and not some partitions.
    """
    others = progress.get((source, None), 0)
    return others if everything else progress.get((source, NOW), others)


def feed_of(source: AssetKey, parameter: str, partitions: Partitions, progress: Progress) -> Feed:
    """What is to be read of a source by who has got so far."""
    apart = {key: progress[source, key] for key in _apart(progress, source, partitions)}
    since = since_of(source, progress, everything=partitions is None)
    return Feed(source, parameter, partitions, since, apart)


def advanced(progress: Progress, feeds: Iterable[Feed], until: int) -> Progress:
    """Where something is that has got so far, and then read these feeds up to a position; they are
    what it reads now.
    """
    found = dict(progress)
    for feed in feeds:
        source = feed.source
        found[source, None if feed.partitions is None else NOW] = max(feed.since, until)
        for key in _apart(found, source, feed.partitions):
            if found[source, key] <= until:
                del found[source, key]
    return found


def pinned(progress: Progress, feeds: Iterable[Feed], until: int = 0) -> Progress:
    """The same, of what it reads no more, or may: said by name, true whatever it reads from here
    on.
    """
    found = dict(progress)
    for feed in feeds:
        source = feed.source
        if feed.partitions is None:
            found[source, None] = max(feed.since, until)
            for key in _apart(found, source, None):
                found[source, key] = max(found[source, key], until)
            continue
        found.pop((source, NOW), None)
        for key in feed.partitions:
            found[source, key] = max(feed.apart.get(key, feed.since), until)
    return found


def beside(progress: Progress, feeds: Iterable[Feed]) -> Progress:
    """What it says of all that is not among these feeds."""
    read = {feed.source: feed.partitions for feed in feeds}
    found: Progress = {}
    for (source, key), at in progress.items():
        partitions = read.get(source, frozenset())
        if partitions is not None and key != NOW and key not in partitions:
            found[source, key] = at
    return found


def _apart(progress: Progress, source: AssetKey, partitions: Partitions) -> list[PartitionKey]:
    """The partitions named one by one, of those that are read."""
    return [
        key
        for named, key in progress
        if named == source
        and key is not None
        and key != NOW
        and (partitions is None or key in partitions)
    ]
