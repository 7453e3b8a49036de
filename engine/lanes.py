"""Lanes: the mapping between two numberings of partitions, in both directions.

A lane answers with ordinals: a `range` wherever the partitions lie together (also every nth), so
that sums and counts over them need no loop; a tuple where they do not.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from freshet.engine.keys import PartitionKey
from freshet.engine.mappings import (
    All,
    Dimensions,
    Identity,
    Last,
    Offset,
    Overlap,
    Pair,
    PartitionMapping,
    Table,
    Trailing,
)
from freshet.engine.partitions import Partitions, Product, is_bounded
from freshet.engine.spaces import DynamicSpace, ProductSpace, Space, is_same
from freshet.engine.windows import Calendar

Ordinals = Sequence[int]
NONE: Ordinals = ()


class Lane(Protocol):
    """One mapping between two numberings. Ordinals may lie beyond what exists by now; `n` is how
    many the other side has so far, for mappings that read all of an open dimension.
    """

    open_ended: bool
    """Reads whatever there is of something that grows: then no number of inputs is complete."""
    shift: int | None
    """Where each reads one row, `i + shift`; None: it may be several, or others."""

    def reads(self, i: int, n: int) -> Ordinals:
        """Upstream ordinals that downstream `i` depends on, ascending."""
        ...

    def needed(self, i: int) -> int:
        """How many inputs downstream `i` has when none is missing."""
        ...

    def asked(self, i: int) -> Sequence[PartitionKey]:
        """All keys that downstream `i` depends on, if it asks by name, whether the upstream has
        numbers for them yet or not; none if it asks by number.
        """
        ...

    def readers(self, j: int, n: int) -> Ordinals:
        """Downstream ordinals that depend on upstream `j`, ascending."""
        ...

    def brings(self, j: int, n: int) -> Ordinals:
        """Downstream ordinals that exist because upstream `j` does; may number new dynamic keys."""
        ...


class _Plain:
    """What a lane is unless it says otherwise."""

    open_ended = False
    shift: int | None = None


class WholeLane(_Plain):
    """Everything depends on everything."""

    def __init__(self, upstream: Partitions | None) -> None:
        self.open_ended = not is_bounded(upstream)

    def reads(self, i: int, n: int) -> Ordinals:
        return range(n)

    def asked(self, i: int) -> Sequence[PartitionKey]:
        return ()

    def needed(self, i: int) -> int:
        return 1

    def readers(self, j: int, n: int) -> Ordinals:
        return range(n)

    def brings(self, j: int, n: int) -> Ordinals:
        return NONE


class ShiftLane(_Plain):
    """Windows of one grid: `first` to `last` windows from the same one (no holes)."""

    def __init__(self, delta: int, first: int, last: int) -> None:
        self._delta = delta
        self._first = first
        self._last = last
        self.shift: int | None = delta + first if first == last else None

    def reads(self, i: int, n: int) -> Ordinals:
        here = i + self._delta
        return range(max(0, here + self._first), max(0, here + self._last + 1))

    def asked(self, i: int) -> Sequence[PartitionKey]:
        return ()

    def needed(self, i: int) -> int:
        return len(self.reads(i, 0))

    def readers(self, j: int, n: int) -> Ordinals:
        here = j - self._delta
        return range(max(0, here - self._last), max(0, here - self._first + 1))

    def brings(self, j: int, n: int) -> Ordinals:
        here = j - self._delta - self._last
        return range(here, here + 1) if here >= 0 else NONE


class SteppedLane(_Plain):
    """As `ShiftLane`, over windows with holes: steps count windows, not numbers."""

    def __init__(self, up: Calendar, down: Calendar, first: int, last: int) -> None:
        self._up = up
        self._delta = down.absolute - up.absolute
        self._first = first
        self._last = last

    def reads(self, i: int, n: int) -> Ordinals:
        here = i + self._delta
        last = self._up.step(here, self._last)
        if last is None:
            return NONE
        first = self._up.step(here, self._first)
        return range(first if first is not None else 0, last + 1)

    def asked(self, i: int) -> Sequence[PartitionKey]:
        return ()

    def needed(self, i: int) -> int:
        return sum(map(self._up.valid, self.reads(i, 0)))

    def readers(self, j: int, n: int) -> Ordinals:
        # A window that the upstream does not have reads what lies before or after it too, so look
        # one step further on both sides.
        first = self._up.step(j, -self._last - 1)
        last = self._up.step(j, 1 - self._first)
        start = (first + 1 if first is not None else -max(self._last, 0)) - self._delta
        stop = (last if last is not None else j + 1) - self._delta
        candidates = range(max(0, start), max(0, stop))
        return tuple(i for i in candidates if j in self.reads(i, 0))

    def brings(self, j: int, n: int) -> Ordinals:
        if self._first < self._last:  # trailing: its own window
            here = j - self._delta
            return range(here, here + 1) if here >= 0 else NONE
        return self.readers(j, n)


class OverlapLane(_Plain):
    """Windows of two grids that share time."""

    def __init__(self, up: Calendar, down: Calendar) -> None:
        self._up = up
        self._down = down

    def reads(self, i: int, n: int) -> Ordinals:
        return _covering(self._up, self._down.start_us(i), self._down.end_us(i))

    def asked(self, i: int) -> Sequence[PartitionKey]:
        return ()

    def needed(self, i: int) -> int:
        rows = self.reads(i, 0)
        return sum(map(self._up.valid, rows)) if self._up.has_holes else len(rows)

    def readers(self, j: int, n: int) -> Ordinals:
        return _covering(self._down, self._up.start_us(j), self._up.end_us(j))

    brings = readers


class KeyLane(_Plain):
    """Equal keys."""

    def __init__(self, up: Space, down: Space) -> None:
        self._up = up
        self._down = down
        self.shift: int | None = 0 if is_same(up, down) else None

    def reads(self, i: int, n: int) -> Ordinals:
        return _one(self._up.ordinal(self._down.key(i)))

    def asked(self, i: int) -> Sequence[PartitionKey]:
        return (self._down.key(i),)

    def needed(self, i: int) -> int:
        return 1

    def readers(self, j: int, n: int) -> Ordinals:
        return _one(self._down.ordinal(self._up.key(j)))

    def brings(self, j: int, n: int) -> Ordinals:
        if isinstance(self._down, DynamicSpace):
            return _one(self._down.add(self._up.key(j)))
        return self.readers(j, n)


class TableLane(_Plain):
    """What a table says, by key: upstream keys may come later."""

    def __init__(self, table: Table, up: Space, down: Space) -> None:
        self._up = up
        self._down = down
        self._reads = {key: tuple(dict.fromkeys(read)) for key, read in table.entries}
        self._readers: dict[str, list[str]] = {}
        for key, read in self._reads.items():
            for name in read:
                self._readers.setdefault(name, []).append(key)

    def reads(self, i: int, n: int) -> Ordinals:
        return _numbers(self._up, self._reads.get(self._down.key(i), ()))

    def asked(self, i: int) -> Sequence[PartitionKey]:
        return self._reads.get(self._down.key(i), ())

    def needed(self, i: int) -> int:
        return len(self._reads.get(self._down.key(i), ()))

    def readers(self, j: int, n: int) -> Ordinals:
        return _numbers(self._down, self._readers.get(self._up.key(j), ()))

    def brings(self, j: int, n: int) -> Ordinals:
        names = self._readers.get(self._up.key(j), ())
        if isinstance(self._down, DynamicSpace):
            found = (self._down.add(name) for name in names)
            return tuple(sorted(n for n in found if n is not None))
        return _numbers(self._down, names)


class ProductLane(_Plain):
    """Dimension by dimension; what is not paired is read whole."""

    def __init__(self, pairs: Sequence[tuple[int, int, Lane]], up: Space, down: Space) -> None:
        self._up = up
        self._down = down
        self._by_up = {u: (d, lane) for d, u, lane in pairs}
        self._by_down = {d: (u, lane) for d, u, lane in pairs}
        unpaired = [s for u, s in enumerate(_dimensions(up)) if u not in self._by_up]
        self.open_ended = any(s.size is None for s in unpaired) or any(
            lane.open_ended for _, _, lane in pairs
        )

    def reads(self, i: int, n: int) -> Ordinals:
        return _combine(
            self._up,
            n,
            lambda u, count: (
                self._by_up[u][1].reads(_part(self._down, i, self._by_up[u][0]), count)
                if u in self._by_up
                else range(count)
            ),
        )

    def asked(self, i: int) -> Sequence[PartitionKey]:
        if isinstance(self._up, ProductSpace) or 0 not in self._by_up:
            return ()
        d, lane = self._by_up[0]
        return lane.asked(_part(self._down, i, d))

    def needed(self, i: int) -> int:
        if self.open_ended:
            return 1
        total = 1
        for u, space in enumerate(_dimensions(self._up)):
            if u in self._by_up:
                d, lane = self._by_up[u]
                total *= lane.needed(_part(self._down, i, d))
            else:
                total *= space.size or 0
        return total

    def readers(self, j: int, n: int) -> Ordinals:
        return self._downwards(j, n, bring=False)

    def brings(self, j: int, n: int) -> Ordinals:
        return self._downwards(j, n, bring=True)

    def _downwards(self, j: int, n: int, *, bring: bool) -> Ordinals:
        def numbers(d: int, count: int) -> Ordinals:
            if d not in self._by_down:
                return range(count)
            u, lane = self._by_down[d]
            part = _part(self._up, j, u)
            return lane.brings(part, count) if bring else lane.readers(part, count)

        return _combine(self._down, n, numbers)


def _one(ordinal: int | None) -> Ordinals:
    return range(ordinal, ordinal + 1) if ordinal is not None else NONE


def _numbers(space: Space, keys: Sequence[str]) -> Ordinals:
    found = (space.ordinal(key) for key in keys)
    return tuple(sorted(n for n in found if n is not None))


def _covering(space: Calendar, start_us: int, end_us: int) -> Ordinals:
    if end_us <= start_us:
        return NONE
    last = space.at(end_us - 1) + 1
    last = last if space.size is None else min(last, space.size)
    first = max(0, space.at(start_us))
    return range(first, last) if first < last else NONE


def _dimensions(space: Space) -> list[Space]:
    return space.spaces if isinstance(space, ProductSpace) else [space]


def _part(space: Space, ordinal: int, dimension: int) -> int:
    return space.part(ordinal, dimension) if isinstance(space, ProductSpace) else ordinal


def _combine(space: Space, n: int, numbers: Callable[[int, int], Ordinals]) -> Ordinals:
    """All combinations of numbers per dimension, as one range if they are one."""
    if not isinstance(space, ProductSpace):
        return numbers(0, n)
    slowest = space.order[0]
    found: Ordinals = range(1)
    for d in reversed(space.order):
        stride, size = space.stride[d], space.spaces[d].size
        count = -(-n // stride) if d == slowest and size is None else size or 0
        found = _spread(found, numbers(d, count), stride)
    return found


def _spread(inner: Ordinals, outer: Ordinals, stride: int) -> Ordinals:
    if not inner or not outer:
        return NONE
    if isinstance(outer, range):
        if len(inner) == 1:
            at = inner[0]
            return range(
                outer.start * stride + at, outer[-1] * stride + at + 1, outer.step * stride
            )
        if isinstance(inner, range) and len(outer) == 1:
            at = outer[0] * stride
            return range(inner.start + at, inner[-1] + at + 1, inner.step)
        if inner == range(stride) and outer.step == 1:
            return range(outer.start * stride, outer.stop * stride)
    return tuple(o * stride + i for o in outer for i in inner)


def lane_between(
    mapping: PartitionMapping, up: Space, down: Space, upstream: Partitions | None
) -> Lane:
    """The lane of a mapping that fits (see `mapping_problem`). `Last` is a lane over all: which of
    them is the last is a matter of state.
    """
    match mapping:
        case All() | Last():
            return WholeLane(upstream)
        case Identity():
            return _windowed(up, down, 0, 0) or KeyLane(up, down)
        case Offset(windows=count):
            lane = _windowed(up, down, count, count)
        case Trailing(windows=count):
            lane = _windowed(up, down, 1 - count, 0)
        case Overlap():
            assert isinstance(up, Calendar)
            assert isinstance(down, Calendar)
            lane = OverlapLane(up, down)
        case Table():
            return TableLane(mapping, up, down)
        case Dimensions():
            return ProductLane(
                [_paired(pair, up, down, upstream) for pair in mapping.pairs], up, down
            )
    assert lane is not None
    return lane


def _windowed(up: Space, down: Space, first: int, last: int) -> Lane | None:
    if not isinstance(up, Calendar) or not isinstance(down, Calendar):
        return None
    if (up.has_holes or down.has_holes) and (first, last) != (0, 0):
        return SteppedLane(up, down, first, last)
    return ShiftLane(down.absolute - up.absolute, first, last)


def _paired(
    pair: Pair, up: Space, down: Space, upstream: Partitions | None
) -> tuple[int, int, Lane]:
    d = down.names.index(pair.down) if isinstance(down, ProductSpace) else 0
    u = up.names.index(pair.up) if isinstance(up, ProductSpace) else 0
    theirs = upstream.dimensions[u] if isinstance(upstream, Product) else upstream
    return d, u, lane_between(pair.mapping, _dimensions(up)[u], _dimensions(down)[d], theirs)
