"""Reasons as values: why a cell is stale, what it waits for, and which inputs it has not seen."""

from typing import Literal

import msgspec

from freshet.engine.events import MAX_CAUSES, Cause
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.projections.cells import (
    NOTHING,
    Cell,
    Link,
    gate_open,
    input_missing,
    must_run,
    threshold,
)

State = Literal["fresh", "stale", "waiting", "missing"]
Activity = Literal["", "running", "ready", "retrying", "failed", "blocked", "unwanted"]


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
        "failed", "missing_source", "not_materialized", "removed", "running", "queued", "retry"
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


def status(cell: Cell) -> Status:
    """Everything the fold knows about one cell, in words."""
    key = cell.key
    if cell.home.is_source:
        return Status(*key, "fresh" if cell.version is not None else "missing")
    if cell.eff == NOTHING and cell.next == NOTHING and cell.running is None:
        return Status(*key, "fresh")
    owed = min(cell.eff, cell.next)
    causes = stale_causes(cell)
    state: State = "missing" if cell.version is None else "stale" if _direct(causes) else "waiting"
    block = blocker(cell)
    return Status(
        *key,
        state,
        _activity(cell, block),
        owed if owed < NOTHING else None,
        causes,
        block if block is not None and (block.asset, block.partition) != key else None,
    )


def stale_causes(cell: Cell) -> tuple[StaleCause, ...]:
    """What differs between what the cell consumed and what is there now; never
    empty when it owes.
    """
    causes = []
    key = cell.key
    if cell.version is None:
        causes.append(StaleCause("missing", *key, cell.owed if cell.running is None else cell.run))
    if cell.forced:
        causes.append(StaleCause("demanded", *key, cell.forced))
    if cell.version is not None and cell.code != cell.home.spec.code_version:
        causes.append(StaleCause("code", *key, cell.eff if cell.eff < NOTHING else 0))
    if cell.version is not None and must_run(cell):
        causes.extend(
            StaleCause("input", *cause_key(cause), cause.position)
            for cause in changed_inputs(cell)[0]
        )
    if not causes and cell.eff < NOTHING:
        block = blocker(cell)
        origin = AssetPartition(block.asset, block.partition) if block is not None else key
        causes.append(StaleCause("upstream", *origin, cell.eff))
    return tuple(causes)


def changed_inputs(cell: Cell) -> tuple[tuple[Cause, ...], int]:
    """The newest inputs that changed since the cell was last built (at most MAX_CAUSES), and how
    many.
    """
    causes: list[Cause] = []
    count = 0
    for link in cell.home.up:
        upstream = link.other
        if not link.all_:
            other = upstream.cells.get(cell.partition)
            if other is not None and other.changed_at > cell.started_at:
                causes.append(Cause(upstream.spec.key, cell.partition, other.changed_at))
                count += 1
            continue
        for partition in reversed(upstream.recent):
            position = upstream.recent[partition]
            if position <= cell.started_at:
                break
            count += 1
            if len(causes) < MAX_CAUSES:
                causes.append(Cause(upstream.spec.key, partition, position))
    return tuple(sorted(causes, key=lambda cause: -cause.position)[:MAX_CAUSES]), count


def reason(cell: Cell) -> str:
    """In one word, why a run of this cell starts now."""
    if cell.failure is not None:
        return "retry"
    if cell.demand:
        return "demanded"
    if cell.version is None:
        return "missing"
    if cell.forced:
        return "invalidated"
    return "code" if cell.code != cell.home.spec.code_version else "changed"


def blocker(cell: Cell) -> Blocker | None:
    """The nearest cause, here or upstream, that this cell does not move; None when it owes nothing.

    Breadth first over the edges that keep gates shut, so the distance is the fewest hops.
    """
    if cell.eff == NOTHING and cell.running is None:
        return None
    seen = {cell}
    layer, distance = [cell], 0
    busy: Blocker | None = None
    while layer:
        following: list[Cell] = []
        for here in layer:
            found = _own_blocker(here, distance)
            if found is not None and found.is_final:
                return found
            busy = busy or found
            if found is None:
                missing, shut = _shut_by(here)
                if missing is not None:
                    return Blocker(*missing, distance=distance + 1)
                following.extend(other for other in shut if other not in seen)
                seen.update(shut)
        layer, distance = following, distance + 1
    return busy


def cause_key(cause: Cause) -> AssetPartition:
    return AssetPartition(cause.asset, cause.partition)


def _own_blocker(cell: Cell, distance: int) -> Blocker | None:
    """What holds this very cell although (or because) its gate is open."""
    key = cell.key
    if cell.running is not None:
        return Blocker("running", *key, cell.run, distance)
    if not gate_open(cell):
        return None
    failure = cell.failure
    if failure is not None and must_run(cell):
        what: Literal["retry", "failed"] = "retry" if failure.retry_at is not None else "failed"
        return Blocker(what, *key, failure.position, distance)
    return Blocker("queued", *key, cell.eff, distance)


def _shut_by(
    cell: Cell,
) -> tuple[
    tuple[Literal["missing_source", "not_materialized", "removed"], str, str, int] | None,
    list[Cell],
]:
    """The input nobody brings (if any), and the upstream cells whose debt keeps the gate shut."""
    shut: list[Cell] = []
    for link in cell.home.up:
        upstream = link.other
        read = list(upstream.cells.values()) if link.all_ else _one(link, cell.partition)
        missing = input_missing(link, cell.partition)
        if missing and (upstream.is_wall or not read):
            return _missing(link, cell.partition), []
        if not upstream.is_wall:
            gate = threshold(cell)
            shut.extend(c for c in read if c.eff <= gate or (missing and c.version is None))
    return None, shut


def _missing(
    link: Link, partition: PartitionKey
) -> tuple[Literal["missing_source", "not_materialized", "removed"], str, str, int]:
    upstream = link.other
    key = upstream.spec.key
    if link.all_:
        gap = next((k for k, c in upstream.cells.items() if c.version is None), "")
        cell = upstream.cells.get(gap)
    else:
        gap, cell = partition, upstream.cells.get(partition)
    if cell is not None and cell.changed_at:
        return "removed", key, gap, cell.changed_at
    return ("missing_source" if upstream.is_source else "not_materialized"), key, gap, 0


def _one(link: Link, partition: PartitionKey) -> list[Cell]:
    cell = link.other.cells.get(partition)
    return [cell] if cell is not None else []


def _direct(causes: tuple[StaleCause, ...]) -> bool:
    return any(cause.what != "upstream" for cause in causes)


def _activity(cell: Cell, block: Blocker | None) -> Activity:
    if cell.running is not None:
        return "running"
    if block is None:
        return ""
    own = (block.asset, block.partition) == cell.key
    if own and block.what == "queued":
        return "unwanted" if cell.home.is_wall and not cell.demand else "ready"
    if own:
        return "failed" if block.what == "failed" else "retrying"
    return "blocked" if block.is_final else ""
