"""Partition shapes for random histories, and what maps to what by plain enumeration.

Nothing here counts or shifts: the windows of a few days are listed with `datetime`, and every
question is answered by looking through the list. The fast side must say the same.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise

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
    default_mapping,
    mapping_problem,
)
from freshet.engine.partitions import (
    Dynamic,
    Partitions,
    Product,
    Static,
    cron_windows,
    daily,
    dynamic,
    product,
    static,
)
from freshet.engine.windows import Windows

HORIZON = datetime(2024, 1, 20)

SHAPES: list[Partitions | None] = [
    None,
    daily("2024-01-01", opens="data"),
    daily("2024-01-01", end="2024-01-04"),
    daily("2024-01-02"),
    daily("2024-01-01", watermark="1d"),
    daily("2024-01-01", exclude=["2024-01-03"]),
    cron_windows("0 */12 * * *", "2024-01-01", end="2024-01-05"),
    cron_windows("0 0 * * mon-wed", "2024-01-01"),
    static(["a", "b"]),
    static(["a", "b", "c"]),
    dynamic(),
    product(day=daily("2024-01-01"), region=static(["a", "b"])),
    product(region=static(["a", "b"]), size=static(["s", "m", "l"])),
]


@lru_cache
def windows_of(shape: Windows) -> list[tuple[str, datetime, datetime]]:
    """Key, start and end, in UTC, of each window, without an end of those that begin before the
    horizon.
    """
    ticks = []
    here = datetime.fromisoformat(shape.start)
    while here <= HORIZON + timedelta(days=8):
        if shape.every == "day":
            ticks.append((here.date().isoformat(), here))
        elif shape.every == "0 */12 * * *" and here.hour in (0, 12):
            ticks.append((here.isoformat(timespec="minutes"), here))
        elif shape.every == "0 0 * * mon-wed" and here.hour == 0 and here.weekday() < 3:
            ticks.append((here.date().isoformat(), here))
        here += timedelta(days=1) if shape.every == "day" else timedelta(hours=1)
    found = [(key, start, following) for (key, start), (_, following) in pairwise(ticks)]
    last = datetime.fromisoformat(shape.end) if shape.end else None
    found = [w for w in found if (w[2] <= last if last else w[1] < HORIZON)]
    return [w for w in found if w[0] not in shape.exclude]


@lru_cache
def universe(shape: Partitions | None) -> list[str]:
    """All keys up to the horizon, in order; of dynamic partitions those that histories use."""
    match shape:
        case None:
            return [""]
        case Static(keys=keys):
            return list(keys)
        case Dynamic():
            return ["a", "c", "d"]
        case Windows():
            return [key for key, _, _ in windows_of(shape)]
        case Product(dimensions=(one, two)):
            return [f"{a}|{b}" for a in universe(one) for b in universe(two)]
    raise AssertionError(shape)


def admits(shape: Partitions | None, key: str) -> bool:
    if isinstance(shape, Product):
        parts = key.split("|")
        dimensions = shape.dimensions
        return len(parts) == len(dimensions) and all(map(admits, dimensions, parts))
    return bool(key) if isinstance(shape, Dynamic) else key in universe(shape)


def reads(
    mapping: PartitionMapping, up: Partitions | None, down: Partitions | None, key: str
) -> list[str]:
    """The upstream keys a downstream key depends on, whether they exist or not."""
    if not admits(down, key):
        return []
    match mapping:
        case Identity():
            return [key]
        case Table(entries=entries):
            return list(dict(entries).get(key, ()))
        case Offset(windows=n):
            before = [k for k in universe(up) if k < key]
            after = [k for k in universe(up) if k > key]
            return before[n:][:1] if n < 0 and len(before) >= -n else after[n - 1 :][:1] * (n > 0)
        case Trailing(windows=n):
            before = [k for k in universe(up) if k < key]
            return before[len(before) - min(n - 1, len(before)) :] + [key] * (key in universe(up))
        case Overlap():
            assert isinstance(up, Windows)
            assert isinstance(down, Windows)
            ((start, end),) = [(s, e) for k, s, e in windows_of(down) if k == key]
            return [k for k, s, e in windows_of(up) if s < end and e > start]
        case Dimensions(pairs=pairs):
            return _by_dimension(pairs, up, down, key)
    raise AssertionError(mapping)


def _by_dimension(
    pairs: tuple[Pair, ...], up: Partitions | None, down: Partitions | None, key: str
) -> list[str]:
    ours = dict(zip(named(down), parts_of(down, key), strict=True))
    options = []
    for name, shape in named(up).items():
        pair = next((p for p in pairs if p.up == name), None)
        if pair is None:
            options.append(universe(shape))
        else:
            options.append(reads(pair.mapping, shape, named(down)[pair.down], ours[pair.down]))
    found = [""]
    for option in options:
        found = [f"{left}|{right}" if left else right for left in found for right in option]
    return found


def brings(
    mapping: PartitionMapping, up: Partitions | None, down: Partitions | None, key: str, from_: str
) -> bool:
    """Does `key` downstream exist because `from_` exists upstream?"""
    if not does_bring(mapping, down) or not admits(down, key):
        return False
    match mapping:
        case Trailing():
            return key == from_
        case Dimensions(pairs=pairs):
            ours = dict(zip(named(down), parts_of(down, key), strict=True))
            theirs = dict(zip(named(up), parts_of(up, from_), strict=True))
            return all(
                brings(p.mapping, named(up)[p.up], named(down)[p.down], ours[p.down], theirs[p.up])
                for p in pairs
            )
        case _:
            return from_ in reads(mapping, up, down, key)


def does_bring(mapping: PartitionMapping, down: Partitions | None) -> bool:
    """Can upstream partitions bring downstream ones into being at all?"""
    if isinstance(mapping, Dimensions) and isinstance(down, Product):
        growing = next((n for n, s in named(down).items() if not isinstance(s, Static)), None)
        return growing in {pair.down for pair in mapping.pairs}
    return not isinstance(mapping, All | Last)


def open_ended(mapping: PartitionMapping, up: Partitions | None) -> bool:
    """Does it read all there is of something that goes on growing?"""
    if isinstance(mapping, Dimensions):
        paired = {pair.up for pair in mapping.pairs}
        return any(not is_bounded(s) for name, s in named(up).items() if name not in paired)
    return isinstance(mapping, All | Last) and (isinstance(mapping, Last) or not is_bounded(up))


def named(shape: Partitions | None) -> dict[str, Partitions | None]:
    if isinstance(shape, Product):
        return dict(zip(shape.names, shape.dimensions, strict=True))
    return {"": shape}


def parts_of(shape: Partitions | None, key: str) -> list[str]:
    return key.split("|") if isinstance(shape, Product) else [key]


def grows(shape: Partitions | None) -> bool:
    return any(isinstance(part, Windows | Dynamic) for part in named(shape).values())


def is_bounded(shape: Partitions | None) -> bool:
    return not any(
        isinstance(part, Dynamic) or (isinstance(part, Windows) and part.end is None)
        for part in named(shape).values()
    )


def time_part(shape: Partitions | None) -> Windows | None:
    return next((part for part in named(shape).values() if isinstance(part, Windows)), None)


def window_of(shape: Partitions | None, key: str) -> tuple[int, int]:
    """Start and end (µs) of the window in a key."""
    part = time_part(shape)
    assert part is not None
    text = parts_of(shape, key)[list(named(shape).values()).index(part)]
    ((start, end),) = [(s, e) for k, s, e in windows_of(part) if k == text]
    return micros(start), micros(end)


def micros(when: datetime) -> int:
    return int(when.replace(tzinfo=UTC).timestamp()) * 1_000_000


def mappings_between(up: Partitions | None, down: Partitions | None) -> list[PartitionMapping]:
    """Every mapping that can hold between two shapes, but for tables and products of tables."""
    candidates: list[PartitionMapping] = [All()]
    default = default_mapping(up, down)
    if default is not None:
        candidates += [default, default]
    if isinstance(up, Windows | Static):
        candidates.append(Last())
    candidates += [Offset(-1), Trailing(2), Overlap()]
    if isinstance(up, Static) and isinstance(down, Static):
        candidates.append(Table((("a", ("b",)), ("b", ("a", "b")))))
    if isinstance(up, Product) and isinstance(down, Product) and up == down and grows(up):
        region = Pair("region", "region", Identity())
        candidates.append(Dimensions((Pair("day", "day", Trailing(2)), region)))
        candidates.append(Dimensions((Pair("day", "day", Offset(-1)), region)))
        candidates.append(Dimensions((region,)))
    return [m for m in candidates if mapping_problem(m, up, down) is None]
