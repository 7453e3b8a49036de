"""Partition definitions, and the mappings that carry a change from one asset's partitions to
another's.

A definition is *bounded* when all its keys are known now (static keys, daily windows with an end):
its partitions exist from the moment it is deployed. An open definition (daily without an end) says
which keys are possible; a partition comes into being when something upstream brings it, or when it
is asked for by name.
"""

from collections.abc import Sequence
from datetime import date, timedelta

import msgspec

from freshet.engine.errors import DefinitionError
from freshet.engine.keys import PartitionKey, partition_key_problem


class Daily(msgspec.Struct, frozen=True, tag="daily", omit_defaults=True):
    """One partition per calendar day from `start` up to, not including, `end` (none: open)."""

    start: str
    end: str | None = None


class Static(msgspec.Struct, frozen=True, tag="static"):
    """A fixed list of keys."""

    keys: tuple[str, ...]


Partitions = Daily | Static


class Identity(msgspec.Struct, frozen=True, tag="identity"):
    """Partition k depends on partition k (and whole on whole)."""


class All(msgspec.Struct, frozen=True, tag="all"):
    """Every partition depends on all partitions that the upstream has."""


PartitionMapping = Identity | All


def daily(start: str | date, *, end: str | date | None = None) -> Daily:
    """Daily partitions, keys as `YYYY-MM-DD`, from `start` up to and not including `end`."""
    first = _day(start, "start")
    last = _day(end, "end") if end is not None else None
    if last is not None and last <= first:
        raise DefinitionError(
            f"daily partitions from {first} to {last} contain no day",
            cause="end is exclusive: the first day that is not a partition",
            hint="choose an end after the start, or leave it out",
        )
    return Daily(first.isoformat(), last.isoformat() if last else None)


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
    return Static(tuple(keys))


def contains(partitions: Partitions | None, key: PartitionKey) -> bool:
    """Is `key` possible under this definition? For no definition only the empty key is."""
    if partitions is None:
        return key == ""
    if isinstance(partitions, Static):
        return key in partitions.keys
    return (
        len(key) == len(partitions.start)
        and partitions.start <= key
        and (partitions.end is None or key < partitions.end)
        and _is_day(key)
    )


def is_open(partitions: Partitions | None) -> bool:
    """True when partitions come into being as upstreams bring them."""
    return isinstance(partitions, Daily) and partitions.end is None


def declared(partitions: Partitions | None) -> Sequence[PartitionKey]:
    """The partitions that exist by definition alone: all of a bounded one, none of an open one."""
    if partitions is None:
        return ("",)
    if isinstance(partitions, Static):
        return partitions.keys
    if partitions.end is None:
        return ()
    first, last = date.fromisoformat(partitions.start), date.fromisoformat(partitions.end)
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days)]


def describe(partitions: Partitions | None) -> str:
    """The definition in words, for error texts and listings."""
    if partitions is None:
        return "unpartitioned"
    if isinstance(partitions, Static):
        shown = ", ".join(partitions.keys[:4]) + (", …" if len(partitions.keys) > 4 else "")
        return f"static ({len(partitions.keys)} keys: {shown})"
    return f"daily from {partitions.start}" + (
        f" to {partitions.end} (exclusive)" if partitions.end else ""
    )


def default_mapping(
    upstream: Partitions | None, downstream: Partitions | None
) -> PartitionMapping | None:
    """What a user of the field expects without saying it; None when the pair needs an explicit
    mapping.
    """
    if upstream is None or downstream is None:
        return Identity() if upstream == downstream else All()
    return Identity() if mapping_problem(Identity(), upstream, downstream) is None else None


def mapping_problem(
    mapping: PartitionMapping, upstream: Partitions | None, downstream: Partitions | None
) -> str | None:
    """Why this mapping cannot hold between the two definitions, or None when it can."""
    if isinstance(mapping, All):
        return None
    if upstream is None and downstream is None:
        return None
    if upstream is None or downstream is None:
        return "identity needs both sides partitioned alike"
    if isinstance(upstream, Static) and isinstance(downstream, Static):
        lacking = [key for key in downstream.keys if key not in upstream.keys]
        return f"the upstream has no partition {lacking[0]!r}" if lacking else None
    if isinstance(upstream, Daily) and isinstance(downstream, Daily):
        if downstream.start < upstream.start:
            return f"the upstream starts on {upstream.start}, later than {downstream.start}"
        if downstream.end and upstream.end and downstream.end > upstream.end:
            return f"the upstream ends on {upstream.end}, earlier than {downstream.end}"
        return None
    return "one side is daily, the other static"


def _day(value: str | date, name: str) -> date:
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise DefinitionError(
            f"daily partitions: {name}={value!r} is no date", hint="write it as 'YYYY-MM-DD'"
        ) from None


def _is_day(key: str) -> bool:
    try:
        return date.fromisoformat(key).isoformat() == key
    except ValueError:
        return False
