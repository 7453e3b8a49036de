"""Reasons as values: why a cell is stale, what it waits for, and which inputs it has not seen."""

from bisect import bisect_right
from collections.abc import Sequence
from heapq import nlargest
from itertools import chain, islice
from typing import Literal, NamedTuple

import msgspec

from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.parts import MAX_CAUSES, Cause
from freshet.projections.cells import (
    GAPS,
    SHUT,
    Cell,
    absent_rows,
    gate,
    holding_rows,
    inputs_needed,
    is_lacking,
    limits,
    must_run,
    owing_rows,
    wanted,
)
from freshet.projections.feeds import read_until
from freshet.projections.marks import FRESH, MISSING, NOTHING, STALE
from freshet.projections.states import Link

MAX_LOOKED_AT = 256
"""Upstream partitions of one edge looked at in the search for what holds a partition up."""

State = Literal["fresh", "stale", "waiting", "missing"]
Activity = Literal[
    "",
    "running",
    "ready",
    "retrying",
    "failed",
    "blocked",
    "unwanted",
    "deferred",
    "held",
    "paused",
    "tripped",
]


class StaleCause(msgspec.Struct, frozen=True, omit_defaults=True):
    """One reason why a cell is not fresh.

    `what` says what differs: `missing`, `input`, `code`, `demanded`, or `upstream` when an upstream
    has yet to absorb a change and this cell may follow. `position` is the event behind it.
    """

    what: Literal["missing", "input", "code", "demanded", "upstream"]
    asset: AssetKey
    partition: PartitionKey
    position: int


class Blocker(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cell waits for: the first cell upstream that cannot or has not yet moved, and why."""

    what: Literal[
        "failed",
        "missing_source",
        "not_materialized",
        "removed",
        "running",
        "queued",
        "retry",
        "deadline",
        "paused",
        "deferred",
        "tripped",
    ]
    asset: AssetKey
    partition: PartitionKey
    position: int = 0
    distance: int = 0

    @property
    def is_final(self) -> bool:
        """True when nothing will happen without news: a failure, or an input nobody has brought."""
        return self.what in ("failed", "missing_source", "not_materialized", "removed")


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to "is it fresh, and if not, why": one cell at one position."""

    asset: AssetKey
    partition: PartitionKey
    state: State
    activity: Activity = ""
    owed: int | None = None
    causes: tuple[StaleCause, ...] = ()
    blocker: Blocker | None = None


WORDS: dict[int, State] = {FRESH: "fresh", STALE: "stale", MISSING: "missing"}


def status(cell: Cell) -> Status:
    """Everything the fold knows about one asset partition, in words."""
    key = cell.key
    state = WORDS.get(cell.home.state[cell.i], "waiting")
    if cell.home.is_source or (state == "fresh" and not cell.running):
        return Status(*key, state)
    owed = min(cell.owed, cell.next)
    block = blocker(cell)
    return Status(
        *key,
        state,
        _activity(cell, block),
        owed if owed < NOTHING else None,
        stale_causes(cell),
        block if block is not None and (block.asset, block.partition) != key else None,
    )


def stale_causes(cell: Cell) -> tuple[StaleCause, ...]:
    """What differs between what the partition consumed and what is there now; never empty when it
    owes.
    """
    causes = []
    key = cell.key
    if not cell.there:
        causes.append(StaleCause("missing", *key, cell.run if cell.running else cell.owed))
    if cell.forced:
        causes.append(StaleCause("demanded", *key, cell.forced))
    if cell.there and cell.code != cell.home.spec.code_version:
        causes.append(StaleCause("code", *key, cell.owed if cell.owed < NOTHING else 0))
    if cell.there and must_run(cell.home, cell.i):
        causes.extend(
            StaleCause("input", *cause_key(cause), cause.position)
            for cause in changed_inputs(cell)[0]
        )
    if not causes and cell.owed < NOTHING:
        block = blocker(cell)
        origin = AssetPartition(block.asset, block.partition) if block is not None else key
        causes.append(StaleCause("upstream", *origin, cell.owed))
    return tuple(causes)


def changed_inputs(cell: Cell) -> tuple[tuple[Cause, ...], int]:
    """The newest inputs that changed since the partition was last built (at most MAX_CAUSES), and
    how many.
    """
    found: list[tuple[int, Link, int]] = []
    count = 0
    for link in cell.home.up:
        since = read_until(link, cell.i) if link.changes else cell.started_at
        rows = _changed_rows(link, cell.i, since)
        count += rows.total
        found += [(at, link, j) for at, j in rows.newest]
    found.sort(key=lambda item: -item[0])
    causes = [
        Cause(link.up.spec.key, link.up.space.key(j), at) for at, link, j in found[:MAX_CAUSES]
    ]
    return tuple(causes), count


def wishes_for(cell: Cell) -> list[Cause]:
    """What people have asked of the partition and not yet got, the newest first."""
    home, i = cell.home, cell.i
    positions = {*home.forced.get(i, ()), *home.demand.get(i, ())}
    return [Cause(*cell.key, at) for at in sorted(positions, reverse=True)]


class _Changed(NamedTuple):
    """What changed over one edge: (position, row) of the newest, and how many there are."""

    newest: list[tuple[int, int]]
    total: int


def _changed_rows(link: Link, i: int, since: int) -> _Changed:
    """The inputs over one edge that changed after `since`; at most MAX_CAUSES of them one by one.

    Costs the changes since then where the whole asset is read, else the partitions read.
    """
    up = link.up
    if not link.whole:
        changed_at = up.made_at if link.changes else up.changed_at
        found = [(changed_at[j], j) for j in link.reads(i) if j < up.n and changed_at[j] > since]
        return _Changed(nlargest(MAX_CAUSES, found), len(found))
    first = bisect_right(up.log_at, since)
    log = zip(up.log_at[first:], up.log_row[first:], strict=True)
    rows = [j for at, j in log if up.changed_at[j] == at]
    newest = [(up.changed_at[j], j) for j in reversed(rows[-MAX_CAUSES:])]
    last = (up.newest, up.newest_row)
    if link.changes and up.newest > since and up.newest_row >= 0 and last not in newest[:1]:
        return _Changed([last, *newest], len(rows) + 1)  # an equal version, yet one more change
    return _Changed(newest, len(rows))


def reason(cell: Cell) -> str:
    """In one word, why a run of this cell starts now."""
    if cell.failure is not None:
        return "retry"
    if cell.i in cell.home.demand:
        return "demanded"
    if cell.i in cell.home.due:
        return "due"
    if not cell.there:
        return "missing"
    if cell.forced:
        return "invalidated"
    return "code" if cell.code != cell.home.spec.code_version else "changed"


def blocker(cell: Cell) -> Blocker | None:
    """The nearest cause, here or upstream, that this partition does not move; None when it owes
    nothing.

    Breadth first over the edges that keep gates shut, so the distance is the fewest hops.
    """
    if cell.owed == NOTHING and not cell.running:
        return None
    seen = {cell}
    layer, distance = [cell], 0
    busy: Blocker | None = None
    while layer:
        following: list[Cell] = []
        gone: Blocker | None = None
        for here in layer:
            found = _own_blocker(here, distance)
            if found is not None and found.is_final:
                return found
            busy = busy or found
            if found is None:
                missing, shut = _shut_by(here)
                if missing is not None:
                    gone = gone or Blocker(*missing, distance=distance + 1)
                following.extend(other for other in shut if other not in seen)
                seen.update(shut)
        if gone is not None:
            return gone
        layer, distance = following, distance + 1
    return busy


def cause_key(cause: Cause) -> AssetPartition:
    return AssetPartition(cause.asset, cause.partition)


def _own_blocker(cell: Cell, distance: int) -> Blocker | None:
    """What holds this very partition although (or because) its gate is open."""
    key = cell.key
    if cell.running:
        return Blocker("running", *key, cell.run, distance)
    open_ = gate(cell.home, cell.i)
    if open_ == SHUT or not must_run(cell.home, cell.i):
        return None
    if not wanted(cell.home, cell.i) and not cell.home.is_wall:
        return Blocker("deferred", *key, cell.owed, distance)
    failure = cell.failure
    listed = cell.home.ready[cell.i] > 0
    if failure is not None and not listed:
        what: Literal["retry", "failed"] = "retry" if failure.retry_at is not None else "failed"
        return Blocker(what, *key, failure.position, distance)
    if open_ == GAPS and not listed:
        return Blocker("deadline", *key, cell.owed, distance)
    return Blocker("queued", *key, cell.owed, distance)


Gone = tuple[Literal["missing_source", "not_materialized", "removed"], str, str, int]


def _shut_by(cell: Cell) -> tuple[Gone | None, list[Cell]]:
    """The input nobody brings (if any), and the upstream partitions whose debt keeps the gate
    shut.
    """
    shut: list[Cell] = []
    state, i = cell.home, cell.i
    floor, limit = limits(state, i)
    is_open = gate(state, i) != SHUT
    for link in state.up:
        up = link.up
        missing = link.rule == "wait" and is_lacking(link, i)
        gone = _nobody_brings(link, i) if missing else None
        if gone is not None:
            return _gone(link, gone), []
        if up.is_wall:
            continue
        # What went on without a row owes it all the same: then that is what it waits for.
        owing = owing_rows(link, i, floor)
        holding = owing if is_open else (j for j, _ in holding_rows(link, i, floor, limit))
        rows = chain(absent_rows(link, i) if missing else (), holding)
        found = (j for j in rows if up.exists[j])
        shut.extend(Cell(up, j) for j in dict.fromkeys(islice(found, MAX_LOOKED_AT)))
    return None, shut


def _nobody_brings(link: Link, i: int) -> str | None:
    """The first input without a version that nothing here will bring: its key."""
    up = link.up
    if link.whole or link.last:
        if not any(up.exists):
            return ""
        size = up.space.size if up.bounded and link.whole else None
        rows: Sequence[int] = range(size if size is not None else up.n)
    else:
        rows = link.reads(i)
        if not rows:
            return next(iter(link.lane.asked(i)), "")
    absent = [j for j in rows if up.space.valid(j) and not (j < up.n and up.there[j])]
    here = {j for j in absent if j < up.n and up.exists[j]}
    if here and inputs_needed(link, i) == 1:  # content with one of them
        absent = [j for j in absent if j in here]
    gone = (j for j in absent if up.is_wall or j not in here)
    return next(map(up.space.key, gone), None)


def _gone(link: Link, partition: PartitionKey) -> Gone:
    up = link.up
    j = up.number(partition)
    if j is not None and j < up.n and up.changed_at[j]:
        return "removed", up.spec.key, partition, up.changed_at[j]
    return ("missing_source" if up.is_source else "not_materialized"), up.spec.key, partition, 0


def _activity(cell: Cell, block: Blocker | None) -> Activity:
    if cell.running:
        return "running"
    if block is None:
        return ""
    own = (block.asset, block.partition) == cell.key
    if own and block.what == "queued":
        return "unwanted" if cell.home.is_wall and cell.i not in cell.home.demand else "ready"
    if own:
        words: dict[str, Activity] = {
            "failed": "failed",
            "deadline": "held",
            "deferred": "deferred",
        }
        return words.get(block.what, "retrying")
    return "blocked" if block.is_final else ""


def blocker_text(blocker: Blocker) -> str:
    """What holds a cell up, in words."""
    name = str(AssetPartition(blocker.asset, blocker.partition))
    match blocker.what:
        case "failed":
            return f"{name} failed at position {blocker.position}"
        case "retry":
            return f"{name} failed at position {blocker.position} and will be tried again"
        case "missing_source":
            return f"the source {name} has never been seen"
        case "not_materialized":
            return f"{name} has never been materialized"
        case "removed":
            return f"{name} was removed at position {blocker.position}"
        case "running":
            return f"{name} is running (run {blocker.position})"
        case "queued":
            return f"{name} is ready and waits for its turn"
        case "paused":
            return f"{name} is paused since position {blocker.position}"
        case "tripped":
            at = blocker.position
            return f"{name} is held back, as its code failed again and again (position {at})"
        case "deferred":
            return f"{name} is not due yet"
        case "deadline":
            return f"{name} waits until its deadline for what is missing or has failed"
