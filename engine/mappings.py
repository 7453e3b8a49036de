"""How the partitions of one asset depend on those of another: mappings as data, which of them is
expected where none is named, and which cannot hold.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from freshet.engine.errors import DefinitionError
from freshet.engine.partitions import Dynamic, Partitions, Product, Static, is_bounded
from freshet.engine.spaces import contains, keys_of, space_of
from freshet.engine.windows import Calendar, Windows


class Identity(msgspec.Struct, frozen=True, tag="identity"):
    """Partition k depends on partition k (and whole on whole)."""


class All(msgspec.Struct, frozen=True, tag="all"):
    """Every partition depends on all partitions that the upstream has."""


class Last(msgspec.Struct, frozen=True, tag="last"):
    """Every partition depends on the newest upstream partition that has a value."""


class Offset(msgspec.Struct, frozen=True, tag="offset"):
    """Partition k depends on the upstream's partition `windows` windows later (negative: earlier).

    The first partitions, whose earlier ones do not exist, depend on none.
    """

    windows: int


class Trailing(msgspec.Struct, frozen=True, tag="trailing"):
    """Partition k depends on the `windows` upstream windows up to and including k; fewer at
    the start.
    """

    windows: int


class Overlap(msgspec.Struct, frozen=True, tag="overlap"):
    """A window depends on all upstream windows that overlap it in time: hour to day, day to
    month, and back.
    """


class Table(msgspec.Struct, frozen=True, tag="table"):
    """Each partition named depends on the upstream partitions listed; others depend on none."""

    entries: tuple[tuple[str, tuple[str, ...]], ...]


class Pair(msgspec.Struct, frozen=True, array_like=True):
    """One dimension of the downstream ("" if it has but one), and how it maps to one upstream."""

    down: str
    up: str
    mapping: "Identity | All | Last | Offset | Trailing | Overlap | Table"


class Dimensions(msgspec.Struct, frozen=True, tag="dimensions"):
    """Dimension by dimension: upstream dimensions that are not named are read whole."""

    pairs: tuple[Pair, ...]


PartitionMapping = Identity | All | Last | Offset | Trailing | Overlap | Table | Dimensions


class Custom:
    """A mapping by function, made a `Table` when the project is loaded: no fold needs user code."""

    def __init__(
        self,
        upstream_of: Callable[[str], Sequence[str]],
        downstream_of: Callable[[str], Sequence[str]] | None,
    ) -> None:
        self.upstream_of = upstream_of
        self.downstream_of = downstream_of

    def tabulate(self, upstream: Partitions | None, downstream: Partitions | None) -> Table:
        """The table of a bounded downstream. Raises DefinitionError."""
        if not is_bounded(downstream):
            raise DefinitionError(
                "a mapping by function needs a downstream whose partitions are all known",
                cause="it is recorded as a table, so that what depends on what needs no user code",
                hint="give the partitions an end, or use offset, trailing, or a mapping by table",
            )
        entries = {key: _texts(self.upstream_of(key), key) for key in keys_of(downstream)}
        for key, read in entries.items():
            for name in read:
                if self.downstream_of is not None and key not in self.downstream_of(name):
                    raise DefinitionError(
                        f"the two directions of a mapping by function disagree: {key!r} reads"
                        f" {name!r}, but downstream_of({name!r}) does not name {key!r}"
                    )
        return Table(tuple(entries.items()))


def _texts(value: Any, key: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    found = tuple(dict.fromkeys(value))
    if not all(isinstance(text, str) for text in found):
        raise DefinitionError(f"a mapping gave {value!r} for {key!r}, which are no partition keys")
    return found


# --- what fits ------------------------------------------------------------------------------------


def default_mapping(
    upstream: Partitions | None, downstream: Partitions | None
) -> PartitionMapping | None:
    """What a user of the field expects without saying it; None when the pair needs an explicit
    mapping.
    """
    if upstream is None or downstream is None:
        return Identity() if upstream == downstream else All()
    if isinstance(upstream, Product) or isinstance(downstream, Product):
        return _default_dimensions(upstream, downstream)
    if isinstance(upstream, Windows) and isinstance(downstream, Windows):
        return Identity() if upstream.grid == downstream.grid else Overlap()
    return Identity() if mapping_problem(Identity(), upstream, downstream) is None else None


def _default_dimensions(upstream: Partitions, downstream: Partitions) -> PartitionMapping | None:
    """Dimensions of one name belong together; a single one belongs to the only one it fits."""
    if upstream == downstream:
        return Identity()
    ups, downs = _named(upstream), _named(downstream)
    pairs = []
    for down, ours in downs.items():
        fitting = [
            (up, mapping)
            for up, theirs in ups.items()
            if (up == down or not up or not down)
            and (mapping := default_mapping(theirs, ours)) is not None
            and not isinstance(mapping, Dimensions)
        ]
        if len(fitting) == 1:
            pairs.append(Pair(down, *fitting[0]))
        elif fitting or down in ups:
            return None
    if not pairs or len({pair.up for pair in pairs}) < len(pairs):
        return None
    return Dimensions(tuple(pairs))


def mapping_problem(
    mapping: PartitionMapping,
    upstream: Partitions | None,
    downstream: Partitions | None,
    *,
    complete: bool = True,
) -> str | None:
    """Why this mapping cannot hold between the two definitions, or None when it can.

    `complete`: every input is waited for, so a window that can never have them all is a problem.
    """
    match mapping:
        case All() | Last():
            return None
        case Dimensions():
            return _dimensions_problem(mapping, upstream, downstream, complete)
        case Table():
            return _table_problem(mapping, upstream, downstream)
        case Identity() if not isinstance(upstream, Windows) or not isinstance(downstream, Windows):
            return _identity_problem(upstream, downstream)
        case _:
            return _windows_problem(mapping, upstream, downstream, complete)


def _identity_problem(upstream: Partitions | None, downstream: Partitions | None) -> str | None:
    if upstream == downstream:
        return None
    if upstream is None or downstream is None:
        return "identity needs both sides partitioned alike"
    if isinstance(upstream, Static) and isinstance(downstream, Static):
        known = set(upstream.keys)
        lacking = [key for key in downstream.keys if key not in known]
        return f"the upstream has no partition {lacking[0]!r}" if lacking else None
    if isinstance(upstream, Dynamic) and isinstance(downstream, Static | Dynamic):
        return None
    if isinstance(upstream, Static) and isinstance(downstream, Dynamic):
        return None
    return "one side's keys are not the other's"


def _windows_problem(
    mapping: PartitionMapping,
    upstream: Partitions | None,
    downstream: Partitions | None,
    complete: bool,
) -> str | None:
    name = type(mapping).__name__.lower()
    if not isinstance(upstream, Windows) or not isinstance(downstream, Windows):
        return f"{name} needs windows of time on both sides"
    first = last = 0
    if isinstance(mapping, Offset | Trailing | Identity) and upstream.grid != downstream.grid:
        return f"{name} needs the same windows on both sides (every, time zone and offset)"
    if isinstance(mapping, Trailing):
        if mapping.windows < 1:
            return f"trailing({mapping.windows}) reads nothing"
        first = 1 - mapping.windows
    if isinstance(mapping, Offset):
        first = last = mapping.windows
    return _incomplete(upstream, downstream, first, last) if complete else None


def _incomplete(upstream: Windows, downstream: Windows, first: int, last: int) -> str | None:
    """The window of the downstream that can never have all its inputs, in words.

    `first` and `last`: how many windows from its own one reads. Earlier windows than the upstream
    has are read by none; that is how a trailing window, or an asset on its own past, begins.
    """
    up, down = space_of(upstream), space_of(downstream)
    assert isinstance(up, Calendar)
    assert isinstance(down, Calendar)
    begin = down.step(-1, 1)
    if begin is None:
        return None
    alike = upstream.grid == downstream.grid
    shift = down.absolute - up.absolute + last if alike else 0
    late = begin + shift < 0 if alike else down.start_us(begin) < up.start_us(up.step(-1, 1) or 0)
    if late and last >= 0:
        return f"the upstream starts on {upstream.start}, later than {downstream.start}"
    if up.size is not None:
        ended = "never" if down.size is None else str(downstream.end)
        if down.size is None:
            over = True
        elif alike:
            over = down.size + shift > up.size
        else:
            over = down.start_us(down.size) > up.start_us(up.size)
        if over:
            return f"the upstream ends on {upstream.end}, earlier than {ended}"
    if alike and first == last == 0:
        for key in upstream.exclude:
            if down.ordinal(key) is not None:
                return f"the upstream excludes {key}, which the downstream has"
    return None


def _table_problem(
    mapping: Table, upstream: Partitions | None, downstream: Partitions | None
) -> str | None:
    for key, read in mapping.entries:
        if not contains(downstream, key):
            return f"the table names {key!r}, which the downstream does not have"
        for name in read:
            if not contains(upstream, name):
                return f"the table names {name!r}, which the upstream does not have"
    return None


def _dimensions_problem(
    mapping: Dimensions,
    upstream: Partitions | None,
    downstream: Partitions | None,
    complete: bool,
) -> str | None:
    ups, downs = _named(upstream), _named(downstream)
    seen: set[str] = set()
    for pair in mapping.pairs:
        if pair.down not in downs:
            return f"the downstream has no dimension '{pair.down}' (it has {_names(downs)})"
        if pair.up not in ups:
            return f"the upstream has no dimension '{pair.up}' (it has {_names(ups)})"
        if pair.up in seen or sum(p.down == pair.down for p in mapping.pairs) > 1:
            return f"a dimension is mapped twice ('{pair.down}' to '{pair.up}')"
        if isinstance(pair.mapping, Last):
            return "last is not for one dimension of many"
        seen.add(pair.up)
        problem = mapping_problem(pair.mapping, ups[pair.up], downs[pair.down], complete=complete)
        if problem is not None:
            return f"dimension '{pair.down or pair.up}': {problem}"
    return None


def _named(partitions: Partitions | None) -> dict[str, Partitions | None]:
    if isinstance(partitions, Product):
        return dict(zip(partitions.names, partitions.dimensions, strict=True))
    return {"": partitions}


def _names(dimensions: dict[str, Partitions | None]) -> str:
    return ", ".join(f"'{name}'" for name in dimensions if name) or "only one, unnamed"


def is_many(
    mapping: PartitionMapping, upstream: Partitions | None, downstream: Partitions | None
) -> bool:
    """Does a parameter receive a mapping of partition key to value, rather than one value?"""
    if upstream is None or isinstance(mapping, Identity | Offset | Last):
        return False
    if isinstance(mapping, Overlap):
        return not _inside(upstream, downstream)
    if isinstance(mapping, Dimensions):
        paired = {pair.up: pair for pair in mapping.pairs}
        ours = _named(downstream)
        return any(
            name not in paired or is_many(paired[name].mapping, theirs, ours[paired[name].down])
            for name, theirs in _named(upstream).items()
        )
    return True


def _inside(upstream: Partitions | None, downstream: Partitions | None) -> bool:
    """Does each downstream window lie within exactly one upstream window?"""
    if not isinstance(upstream, Windows) or not isinstance(downstream, Windows):
        return False
    pairs = {
        ("day", "hour"),
        ("week", "hour"),
        ("week", "day"),
        ("month", "hour"),
        ("month", "day"),
    }
    gap = upstream.offset_min - downstream.offset_min
    fits = gap % 60 == 0 if downstream.unit == "hour" else gap == 0
    return (upstream.unit, downstream.unit) in pairs and upstream.tz == downstream.tz and fits


# --- what users write -----------------------------------------------------------------------------


def same_partition() -> PartitionMapping:
    """Each partition depends on the upstream's partition of the same key."""
    return Identity()


def all_partitions() -> PartitionMapping:
    """Each partition depends on all partitions of the upstream."""
    return All()


def last() -> PartitionMapping:
    """Each partition depends on the newest upstream partition that has a value."""
    return Last()


def offset(windows: int) -> PartitionMapping:
    """Each window depends on the one `windows` later; negative: earlier."""
    return Offset(windows)


def previous() -> PartitionMapping:
    """Each window depends on the one before; also of the asset itself."""
    return Offset(-1)


def trailing(windows: int) -> PartitionMapping:
    """Each window depends on the `windows` upstream windows up to and including its own."""
    return Trailing(windows)


def overlapping() -> PartitionMapping:
    """Each window depends on all upstream windows that share time with it."""
    return Overlap()


def table(entries: Mapping[str, Sequence[str] | str]) -> PartitionMapping:
    """Each partition named depends on those listed; partitions not named depend on none."""
    return Table(tuple((key, _texts(read, key)) for key, read in entries.items()))


def by_function(
    upstream_of: Callable[[str], Sequence[str]],
    downstream_of: Callable[[str], Sequence[str]] | None = None,
) -> Custom:
    """`upstream_of(key)` names what a partition depends on; `downstream_of`, if given, is checked
    to say the same. Evaluated once, when the project is loaded, so the downstream must be bounded.
    """
    return Custom(upstream_of, downstream_of)


def dimensions(**pairs: str | tuple[str, PartitionMapping]) -> PartitionMapping:
    """Dimension by dimension: `dimensions(day="day")`, or with a mapping:
    `dimensions(day=("day", trailing(7)))`; the downstream's name first.

    Upstream dimensions not named are read whole. A side with one dimension is called `_`.
    """
    made = []
    for down, value in pairs.items():
        up, mapping = (value, Identity()) if isinstance(value, str) else value
        if isinstance(mapping, Dimensions):
            raise DefinitionError(f"dimension '{down}' maps by dimensions again")
        made.append(Pair("" if down == "_" else down, "" if up == "_" else up, mapping))
    return Dimensions(tuple(made))
