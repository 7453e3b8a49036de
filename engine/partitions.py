"""Partition definitions as data, and the functions with which users write them.

A definition is *bounded* when all its keys are known now: static, windows with an end, and products
of those. Of bounded static keys all exist from the start; windows come into being one by one.
"""

from collections.abc import Sequence
from datetime import date, datetime
from math import prod

import msgspec

from freshet.engine.counts import counted
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError
from freshet.engine.keys import partition_key_problem
from freshet.engine.window_checks import check_windows
from freshet.engine.windows import Opens, Windows

SEPARATOR = "|"
"""Between the keys of a product's dimensions, as in `2024-01-05|eu`."""

MAX_STATIC = 1_000_000
"""Keys of static definitions and of the bounded part of products: they are recorded one by one."""


class Static(msgspec.Struct, frozen=True, tag="static"):
    """A fixed list of keys."""

    keys: tuple[str, ...]


class Dynamic(msgspec.Struct, frozen=True, tag="dynamic", omit_defaults=True):
    """Keys that come and go: by `PartitionsAdded` and `PartitionsRemoved`, and, if `by_arrival`,
    by whatever lands with a new key.
    """

    by_arrival: bool = True


Dimension = Windows | Static | Dynamic


class Product(msgspec.Struct, frozen=True, tag="product"):
    """One partition per combination of keys of named dimensions, at most one of them open."""

    names: tuple[str, ...]
    dimensions: tuple[Dimension, ...]


Partitions = Windows | Static | Dynamic | Product


# --- what users write -----------------------------------------------------------------------------


def hourly(
    start: str | date,
    *,
    end: str | date | None = None,
    tz: str = "UTC",
    offset: float | str = 0,
    exclude: Sequence[str] = (),
    opens: Opens = "time",
    watermark: float | str | None = None,
) -> Windows:
    """Hourly partitions, keys as `2024-01-05T07`, from `start` up to and not including `end`.

    Hours are exact: the one that the clock repeats in autumn has its UTC offset in its key. See
    `daily` for the rest.
    """
    return _windows("hour", start, end, tz, offset, exclude, opens, watermark, "")


def daily(
    start: str | date,
    *,
    end: str | date | None = None,
    tz: str = "UTC",
    offset: float | str = 0,
    exclude: Sequence[str] = (),
    opens: Opens = "time",
    watermark: float | str | None = None,
    format: str = "",
) -> Windows:
    """Daily partitions, keys as `2024-01-05`, from `start` up to and not including `end`.

    Days follow the local clock of `tz`; with `offset="6h"` each begins at six. A day exists once it
    is over, or something landed for it; with `watermark="2h"` once an event time two hours past its
    end was seen; with `opens="data"` only when something lands. `exclude` names keys that are no
    partitions. `format` gives keys another form (`strftime`). Raises DefinitionError.
    """
    return _windows("day", start, end, tz, offset, exclude, opens, watermark, format)


def weekly(
    start: str | date,
    *,
    end: str | date | None = None,
    tz: str = "UTC",
    offset: float | str = 0,
    exclude: Sequence[str] = (),
    opens: Opens = "time",
    watermark: float | str | None = None,
    format: str = "",
) -> Windows:
    """Weekly partitions from Monday on, keys as the day each begins; `offset="1d"` begins on
    Tuesday. See `daily`.
    """
    return _windows("week", start, end, tz, offset, exclude, opens, watermark, format)


def monthly(
    start: str | date,
    *,
    end: str | date | None = None,
    tz: str = "UTC",
    offset: float | str = 0,
    exclude: Sequence[str] = (),
    opens: Opens = "time",
    watermark: float | str | None = None,
    format: str = "",
) -> Windows:
    """Monthly partitions, keys as `2024-01`. See `daily`."""
    return _windows("month", start, end, tz, offset, exclude, opens, watermark, format)


def cron_windows(
    expression: str,
    start: str | date,
    *,
    end: str | date | None = None,
    tz: str = "UTC",
    exclude: Sequence[str] = (),
    opens: Opens = "time",
    watermark: float | str | None = None,
) -> Windows:
    """One partition from each tick of a cron expression to the next, as `0 6 * * mon-fri`.

    Keys are the local start: `2024-01-05`, with `T06:30` if it ticks more than once a day. Ticks
    that the clock leaves out or repeats begin one window. See `daily`.
    """
    return _windows(expression, start, end, tz, 0, exclude, opens, watermark, "")


def static(keys: Sequence[str]) -> Static:
    """A fixed set of partition keys, in the order given. Raises DefinitionError for bad or double
    keys.
    """
    if isinstance(keys, str):
        raise DefinitionError(
            f"static partitions take a list of keys, not the text {keys!r}",
            hint=f"write static([{keys!r}])",
        )
    seen: set[str] = set()
    for key in keys:
        problem = partition_key_problem(key) if isinstance(key, str) else "it is no text"
        if problem is None and key in seen:
            problem = "it is there twice"
        if problem is not None:
            raise DefinitionError(f"bad static partition key {key!r}: {problem}")
        seen.add(key)
    if not seen:
        raise DefinitionError("static partitions need at least one key")
    if len(seen) > MAX_STATIC:
        raise DefinitionError(
            f"{len(seen)} static partition keys are more than {MAX_STATIC}",
            cause="they are recorded with every deployment",
            hint="use dynamic() partitions, or windows of time",
        )
    return Static(tuple(keys))


def dynamic(*, by_arrival: bool = True) -> Dynamic:
    """Keys that are not known in advance: whatever lands with a new key adds one.

    With `by_arrival=False` only `freshet partitions add` does, and what lands with another key is
    recorded without effect.
    """
    return Dynamic(by_arrival)


def product(**dimensions: Dimension) -> Product:
    """One partition for each combination, as `product(day=daily("2024-01-01"),
    region=static(["eu", "us"]))`; keys as `2024-01-05|eu`, in the order written.

    At most one dimension may be open (windows, dynamic); all others are static.
    """
    for name, dimension in dimensions.items():
        if not isinstance(dimension, Windows | Static | Dynamic):
            raise DefinitionError(
                f"product: dimension '{name}' is {dimension!r}",
                hint="use windows, static() or dynamic() partitions",
            )
        fixed = dimension.keys if isinstance(dimension, Static) else ()
        for key in (*fixed, dimension.format) if isinstance(dimension, Windows) else fixed:
            if SEPARATOR in key:
                raise DefinitionError(
                    f"product: the key {key!r} of dimension '{name}' contains '{SEPARATOR}'",
                    cause="it separates the dimensions of a key",
                )
    if len(dimensions) < 2:
        raise DefinitionError("a product needs at least two dimensions")
    growing = [name for name, d in dimensions.items() if not isinstance(d, Static)]
    if len(growing) > 1:
        raise DefinitionError(
            f"product: more than one dimension can grow ({', '.join(growing)})",
            cause="partitions are numbered densely, one dimension after the other",
            hint="make all but one of them static",
        )
    each = prod(len(d.keys) for d in dimensions.values() if isinstance(d, Static))
    if each > MAX_STATIC:
        raise DefinitionError(
            f"product: {each} combinations of static keys are more than {MAX_STATIC}",
            hint="use fewer keys, or a dynamic dimension",
        )
    return Product(tuple(dimensions), tuple(dimensions.values()))


def _windows(
    every: str,
    start: str | date,
    end: str | date | None,
    tz: str,
    offset: float | str,
    exclude: Sequence[str],
    opens: Opens,
    watermark: float | str | None,
    format: str,
) -> Windows:
    name = {"hour": "hourly", "day": "daily", "week": "weekly", "month": "monthly"}.get(
        every, "cron"
    )
    first, last = _local(start, f"{name}: start"), _local(end, f"{name}: end") if end else None
    if last is not None and last <= first:
        raise DefinitionError(
            f"{name} partitions from {first} to {last} contain no window",
            cause="end is exclusive: the first moment that belongs to no partition",
            hint="choose an end after the start, or leave it out",
        )
    if opens not in ("time", "data"):
        raise DefinitionError(f"{name}: opens={opens!r}", hint="'time' or 'data'")
    shift = parse_duration_ms(offset, f"{name}: offset") if offset else 0
    limit = {"hour": 3_600_000, "day": 86_400_000, "week": 7 * 86_400_000}.get(
        every, 28 * 86_400_000
    )
    if shift % 60_000 or not 0 <= shift < limit:
        raise DefinitionError(
            f"{name}: offset={offset!r} is no whole number of minutes within one window",
            hint="for example offset='6h'",
        )
    lateness = parse_duration_ms(watermark, f"{name}: watermark") if watermark is not None else None
    if isinstance(exclude, str):
        raise DefinitionError(f"{name}: exclude={exclude!r} should be a list of keys")
    return check_windows(
        Windows(every, first, last, tz, shift // 60_000, tuple(exclude), opens, lateness, format)
    )


def _local(value: str | date, what: str) -> str:
    try:
        if not isinstance(value, date):
            value = datetime.fromisoformat(value)
        if not isinstance(value, datetime):
            return value.isoformat()
        if value.tzinfo is None:
            midnight = (value.hour, value.minute, value.second, value.microsecond) == (0, 0, 0, 0)
            return value.date().isoformat() if midnight else value.isoformat(timespec="minutes")
    except (TypeError, ValueError):
        pass
    raise DefinitionError(
        f"{what}={value!r} is no local date or time",
        hint="write it as 'YYYY-MM-DD' or 'YYYY-MM-DDTHH:MM'; the zone goes into tz=",
    )


# --- what they are ----------------------------------------------------------------------------


def growing(partitions: Partitions | None) -> Windows | Dynamic | None:
    """The definition's part that comes into being over time, if it has one."""
    if isinstance(partitions, Windows | Dynamic):
        return partitions
    if isinstance(partitions, Product):
        return next((d for d in partitions.dimensions if not isinstance(d, Static)), None)
    return None


def is_bounded(partitions: Partitions | None) -> bool:
    """True when all keys that there will ever be are known now."""
    grows = growing(partitions)
    return grows is None or (isinstance(grows, Windows) and grows.end is not None)


def describe(partitions: Partitions | None) -> str:
    """The definition in words, for error texts and listings."""
    match partitions:
        case None:
            return "unpartitioned"
        case Static(keys=keys):
            shown = ", ".join(keys[:4]) + (", …" if len(keys) > 4 else "")
            return f"static ({counted(len(keys), 'key')}: {shown})"
        case Dynamic():
            return "dynamic"
        case Product():
            named = zip(partitions.names, partitions.dimensions, strict=True)
            return " x ".join(f"{name}: {describe(dimension)}" for name, dimension in named)
        case Windows():
            return _describe_windows(partitions)


def _describe_windows(windows: Windows) -> str:
    words = {"hour": "hourly", "day": "daily", "week": "weekly", "month": "monthly"}
    text = words.get(windows.every, f"cron '{windows.every}'") + f" from {windows.start}"
    text += f" to {windows.end} (exclusive)" if windows.end else ""
    text += f" in {windows.tz}" if windows.tz != "UTC" else ""
    return text + (f", {len(windows.exclude)} excluded" if windows.exclude else "")
