"""Places: what a file sensor watches, and whose partition each path is."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from freshet.engine.keys import PartitionKey
from freshet.engine.specs import AssetSpec
from freshet.sensors.admission import Admission
from freshet.sensors.landing.entries import ASKED
from freshet.sensors.pattern import Pattern

AS_FILE = "./"
"""Before an item that would look like something people ask of a sensor."""


class Target(msgspec.Struct, frozen=True):
    """A pattern and the source whose partitions it finds."""

    pattern: Pattern
    source: AssetSpec


class Watched(msgspec.Struct, frozen=True):
    """What is watched and how: see `files.files`, which makes it."""

    name: str
    targets: tuple[Target, ...]
    settle_ms: int | None
    keep: bool
    reconcile_s: float
    poll: bool
    ignore: tuple[str, ...]
    marker: str
    by_stat: bool

    @property
    def may_collide(self) -> bool:
        """Can two files be the same partition of the same source?"""
        sources = [target.source.key for target in self.targets]
        wild = any(target.pattern.is_wild for target in self.targets)
        return wild or len(set(sources)) < len(sources)


class Place:
    """One pattern at work. Items, as they stand in the cursor, are relative to its root; of one of
    several patterns they are paths as the pattern has them.
    """

    def __init__(self, target: Target, earlier: Sequence["Place"], *, alone: bool) -> None:
        self.pattern = target.pattern
        self.source = target.source.key
        self.root = target.pattern.root
        self.base = target.pattern.base
        self.prefix = "" if alone else self.base
        self.remote = False
        self._earlier = tuple(earlier)
        self._admission = Admission(target.source)

    def item(self, relative: str) -> str:
        """Under which name the cursor knows a path relative to the root."""
        item = self.prefix + relative
        return AS_FILE + item if item.startswith(ASKED) else item

    def relative(self, item: str) -> str | None:
        """The path, relative to the root, of an item; None when it lies elsewhere."""
        item = item.removeprefix(AS_FILE)
        return item[len(self.prefix) :] if item.startswith(self.prefix) else None

    def path(self, relative: str) -> str:
        """The path as the system understands it."""
        return self.base + relative

    def claim(self, relative: str) -> PartitionKey | None:
        """The partition of a path that matches here, and at no earlier place; else None."""
        partition = self.pattern.partition_of(relative)
        if partition is None or not self._earlier:
            return partition
        item = self.item(relative)
        return None if any(place.takes(item) for place in self._earlier) else partition

    def takes(self, item: str) -> bool:
        relative = self.relative(item)
        return relative is not None and self.pattern.partition_of(relative) is not None

    def owns(self, item: str) -> bool:
        """Is the item one that this place looks after?"""
        return not any(place.takes(item) for place in self._earlier)

    def problem(self, partition: PartitionKey, now_us: int) -> str:
        """Why it cannot be a partition of the source; empty when it can."""
        return self._admission.problem(partition, now_us)


class Named(NamedTuple):
    """An item that matches a pattern: where, its relative path, and which partition it is; whether
    the source was found to admit that just now.
    """

    item: str
    place: Place
    relative: str
    partition: PartitionKey
    admitted: bool = False

    @property
    def path(self) -> str:
        return self.place.path(self.relative)

    @property
    def problem(self) -> str:
        """Why it cannot be a partition of the source; empty when it can."""
        if self.admitted:
            return ""
        return self.place.problem(self.partition, time.time_ns() // 1000)


def places_of(watched: Watched) -> tuple[Place, ...]:
    """The places of a sensor; a path that matches several belongs to the first."""
    places: list[Place] = []
    for target in watched.targets:
        places.append(Place(target, places, alone=len(watched.targets) == 1))
    return tuple(places)


def name_of(places: Sequence[Place], item: str) -> Named | None:
    """What an item is; None when it matches no pattern."""
    for place in places:
        relative = place.relative(item)
        if relative is not None:
            partition = place.pattern.partition_of(relative)
            if partition is not None:
                return Named(item, place, relative, partition)
    return None
