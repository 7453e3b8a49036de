"""The numbering (`Space`) of the partitions that a definition allows.

A partition is known to people by its key, inside by its ordinal: a dense number from 0. Windows are
numbered by arithmetic, static keys in their order, dynamic keys as they come, and products with
their open dimension first, so that what is read together lies together.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from itertools import product as combinations
from typing import Protocol

from freshet.engine.keys import PartitionKey, partition_key_problem
from freshet.engine.partitions import SEPARATOR, Dynamic, Partitions, Product, Static
from freshet.engine.windows import MAX_AHEAD_US, Calendar, Windows


class Space(Protocol):
    """The numbering of one definition. `size` is how many ordinals there are; None: no end."""

    size: int | None

    def ordinal(self, key: PartitionKey) -> int | None:
        """The number of a key, or None when the definition does not (yet) have it."""
        ...

    def key(self, ordinal: int) -> PartitionKey:
        """The key of a number."""
        ...

    def valid(self, ordinal: int) -> bool:
        """Is there a partition of this number?"""
        ...


class WholeSpace:
    """The one partition of an unpartitioned asset."""

    size: int | None = 1

    def ordinal(self, key: PartitionKey) -> int | None:
        return 0 if key == "" else None

    def key(self, ordinal: int) -> PartitionKey:
        return ""

    def valid(self, ordinal: int) -> bool:
        return ordinal == 0


class StaticSpace:
    """Keys in a fixed order."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self._ordinals = {key: n for n, key in enumerate(keys)}
        self.size: int | None = len(keys)

    def ordinal(self, key: PartitionKey) -> int | None:
        return self._ordinals.get(key)

    def key(self, ordinal: int) -> PartitionKey:
        return self.keys[ordinal]

    def valid(self, ordinal: int) -> bool:
        return 0 <= ordinal < len(self.keys)


def is_same(one: Space, other: Space) -> bool:
    """Do the same numbers stand for the same keys, now and for ever?"""
    if isinstance(one, StaticSpace) and isinstance(other, StaticSpace):
        return one.keys == other.keys
    return isinstance(one, WholeSpace) and isinstance(other, WholeSpace)


class DynamicSpace:
    """Keys in the order they first came; a number is never given twice."""

    size: int | None = None

    def __init__(self, *, in_product: bool = False) -> None:
        self._in_product = in_product
        self._keys: list[str] = []
        self._ordinals: dict[str, int] = {}

    def ordinal(self, key: PartitionKey) -> int | None:
        return self._ordinals.get(key)

    def add(self, key: PartitionKey) -> int | None:
        """The number of a key, a new one if it is new; None for what can be no key, nor, in a
        product, one that contains the separator.
        """
        if partition_key_problem(key) is not None or (self._in_product and SEPARATOR in key):
            return None
        found = self._ordinals.setdefault(key, len(self._keys))
        if found == len(self._keys):
            self._keys.append(key)
        return found

    def key(self, ordinal: int) -> PartitionKey:
        return self._keys[ordinal]

    def valid(self, ordinal: int) -> bool:
        return 0 <= ordinal < len(self._keys)


class ProductSpace:
    """Combinations: the open dimension varies slowest, the others in the order written."""

    def __init__(self, partitions: Product) -> None:
        self.names = partitions.names
        self.spaces: list[Space] = [
            DynamicSpace(in_product=True) if isinstance(d, Dynamic) else space_of(d)
            for d in partitions.dimensions
        ]
        """In the order of the key."""
        growing = [n for n, d in enumerate(partitions.dimensions) if not isinstance(d, Static)]
        self.order = growing + [n for n in range(len(self.spaces)) if n not in growing]
        """Dimensions from the slowest to the fastest."""
        self.stride = [1] * len(self.spaces)
        stride = 1
        for n in reversed(self.order):
            self.stride[n] = stride
            stride *= self.spaces[n].size or 1
        slowest = self.spaces[self.order[0]]
        self.size = None if slowest.size is None else slowest.size * self.stride[self.order[0]]

    def ordinal(self, key: PartitionKey) -> int | None:
        parts = key.split(SEPARATOR)
        if len(parts) != len(self.spaces):
            return None
        total = 0
        for part, space, stride in zip(parts, self.spaces, self.stride, strict=True):
            found = space.ordinal(part)
            if found is None:
                return None
            total += found * stride
        return total

    def part(self, ordinal: int, dimension: int) -> int:
        """The number within one dimension."""
        found = ordinal // self.stride[dimension]
        return found if dimension == self.order[0] else found % (self.spaces[dimension].size or 1)

    def key(self, ordinal: int) -> PartitionKey:
        return SEPARATOR.join(
            space.key(self.part(ordinal, n)) for n, space in enumerate(self.spaces)
        )

    def valid(self, ordinal: int) -> bool:
        return ordinal >= 0 and all(
            space.valid(self.part(ordinal, n)) for n, space in enumerate(self.spaces)
        )


_calendar = lru_cache(maxsize=1024)(Calendar)


def space_of(partitions: Partitions | None) -> Space:
    """A fresh numbering of what a definition allows."""
    match partitions:
        case None:
            return WholeSpace()
        case Static(keys=keys):
            return StaticSpace(keys)
        case Windows():
            return _calendar(partitions)  # immutable, so it may be shared
        case Dynamic():
            return DynamicSpace()
        case Product():
            return ProductSpace(partitions)


def calendar_of(space: Space) -> tuple[Calendar | None, int]:
    """The calendar of the dimension that grows, if it has one, and the rows per window."""
    if isinstance(space, ProductSpace):
        slowest = space.order[0]
        found = space.spaces[slowest]
        return (found if isinstance(found, Calendar) else None), space.stride[slowest]
    return (space if isinstance(space, Calendar) else None), 1


def is_too_far(space: Space, ordinal: int, now_us: int) -> bool:
    """Is this a window without end that begins absurdly long after `now_us`?"""
    calendar, stride = calendar_of(space)
    if calendar is None or calendar.size is not None:
        return False
    return calendar.start_us(ordinal // stride) > now_us + MAX_AHEAD_US


def contains(partitions: Partitions | None, key: PartitionKey) -> bool:
    """Is `key` possible under this definition? For no definition only the empty key is."""
    if isinstance(partitions, Dynamic):
        return partition_key_problem(key) is None
    if isinstance(partitions, Static):
        return key in partitions.keys
    if isinstance(partitions, Product):
        parts = key.split(SEPARATOR)
        return len(parts) == len(partitions.dimensions) and all(
            contains(dimension, part)
            for dimension, part in zip(partitions.dimensions, parts, strict=True)
        )
    return space_of(partitions).ordinal(key) is not None


def keys_of(partitions: Partitions | None) -> Iterator[PartitionKey]:
    """All keys of a bounded definition, in order."""
    match partitions:
        case Static(keys=keys):
            yield from keys
        case Product():
            parts = [list(keys_of(dimension)) for dimension in partitions.dimensions]
            yield from (SEPARATOR.join(keys) for keys in combinations(*parts))
        case Windows():
            space = space_of(partitions)
            yield from (space.key(n) for n in range(space.size or 0) if space.valid(n))
        case None:
            yield ""
        case Dynamic():
            pass


def examples(partitions: Partitions | None, count: int = 3) -> list[PartitionKey]:
    """Some keys that the definition has, to show what they look like."""
    if isinstance(partitions, Product):
        parts: Mapping[int, list[str]] = {
            n: examples(d, 1) or ["KEY"] for n, d in enumerate(partitions.dimensions)
        }
        return [SEPARATOR.join(parts[n][0] for n in range(len(parts)))]
    if isinstance(partitions, Dynamic):
        return []
    space = space_of(partitions)
    numbers = range(min(space.size or 1000, 1000))
    return list(islice((space.key(n) for n in numbers if space.valid(n)), count))
