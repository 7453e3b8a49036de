"""Orders: what a run is to read and may ask, fixed from the view at the position where it started.

Versions are not looked up here: an order holds the positions of the events that state them, as a
copy of a few columns, so that an order over 100,000 partitions is made in microseconds.
"""

from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from freshet.engine.context import Context, Window
from freshet.engine.digests import digest
from freshet.engine.events import Recorded, RunStarted
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.parts import EVERY, MAX_CAUSES, Input, Target
from freshet.engine.spaces import Space, calendar_of
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.windows import Calendar
from freshet.projections.catalog import Version
from freshet.projections.cells import Cell, inputs_needed
from freshet.projections.feeds import starts_over
from freshet.projections.progress import Feed
from freshet.projections.states import AssetState, Link
from freshet.projections.view import View

NAMED_INPUTS = 8
"""Inputs of one edge recorded one by one; of more, their sum, count and newest position."""


class Read(msgspec.Struct, frozen=True):
    """What one target reads over one edge: the rows that have a version, the position of each, and
    the keys of those that are missing (at most `MAX_CAUSES` of them) with their number.
    """

    dep: Dependency
    is_source: bool
    many: bool
    space: Space
    rows: Sequence[int]
    made_at: Sequence[int]
    total: int
    whole: bool
    missing: int
    gaps: tuple[PartitionKey, ...]

    @property
    def asset(self) -> AssetKey:
        return self.dep.asset

    def items(self) -> Iterator[tuple[PartitionKey, int]]:
        """Partition key and position of each input that is there."""
        return zip(map(self.space.key, self.rows), self.made_at, strict=True)

    def named(self) -> bool:
        """Are its inputs recorded one by one?"""
        return len(self.rows) <= NAMED_INPUTS and not (self.whole and self.many)

    def inputs(self, versions: dict[int, Version]) -> list[Input]:
        """What `Materialized` records of it; `versions` by position, of those that are named."""
        if self.named():
            found = [
                Input(self.asset, key, versions[position].data_version, position)
                for key, position in self.items()
            ]
            gaps = [Input(self.asset, key, "", 0, 0, 1, (key,)) for key in self.gaps]
            return found + gaps
        newest = max(self.made_at, default=0)
        partition = EVERY
        if not self.whole and self.rows:
            partition = f"{self.space.key(self.rows[0])}..{self.space.key(self.rows[-1])}"
        count, digest = len(self.rows), f"{self.total:016x}"
        return [Input(self.asset, partition, digest, newest, count, self.missing, self.gaps)]


class Reading(msgspec.Struct, frozen=True):
    """What a run is to read change by change, up to itself. `previous` is the position of its own
    last version, 0 if it has none, or is to start over.
    """

    feeds: tuple[Feed, ...]
    previous: int


class Order(msgspec.Struct, frozen=True):
    """All that a run needs to know, taken from the stream before its `RunStarted`: for each target
    what it reads over each edge, and, when the run cannot be carried out, why. `reading` is there
    for an asset that reads changes.
    """

    run: int
    started_at: int
    attempt: int
    spec: AssetSpec
    space: Space
    targets: tuple[Target, ...]
    reads: tuple[tuple[Read, ...], ...]
    lost: str = ""
    reading: Reading | None = None
    job: str = ""
    """The job that a run before it submitted for the same, and was cut off."""
    asked: int = 0
    """Position of the newest wish for it; 0 without one."""
    counted: int = 0
    """The attempts before with the same inputs and code that count as retries."""


def order_of(view: View, recorded: Recorded, event: RunStarted) -> Order | None:
    """The order of a run the view has just folded; None when its target is no longer defined."""
    targets: list[Target] = []
    reads: list[tuple[Read, ...]] = []
    lost = ""
    home = None
    reading = None
    for target in event.targets:
        cell = view.staleness.cell(target.asset, target.partition)
        if cell is None or cell.run != recorded.position:
            continue
        home = home or cell.home
        targets.append(target)
        found = tuple(_read(link, cell.i) for link in cell.home.up)
        reads.append(found)
        if home.spec.reads_changes:
            reading = _reading(cell)
        for link, read in zip(cell.home.up, found, strict=True):
            if link.rule == "wait" and read.missing:
                key = read.gaps[0] if read.gaps else ""
                lost = f"its input {read.asset}{'@' if key else ''}{key} was withdrawn"
    if home is None:
        return None
    return Order(
        recorded.position,
        recorded.recorded_at,
        event.attempt,
        home.spec,
        home.space,
        tuple(targets),
        tuple(reads),
        lost,
        reading,
        view.jobs.job_for(event),
        event.asked,
        _counted(home, targets[0]),
    )


def _counted(home: AssetState, first: Target) -> int:
    i = home.number(first.partition)
    failure = home.failures.get(i) if i is not None else None
    if i is None or failure is None:
        return 0
    live = home.live[i]
    return failure.counted if failure.is_of(live.pinned, live.trial) else 0


def _reading(cell: Cell) -> Reading:
    state, i = cell.home, cell.i
    goes_on = cell.there and not starts_over(state, i)
    return Reading(state.live[i].feeds, cell.made_at if goes_on else 0)


def _read(link: Link, i: int) -> Read:
    up = link.up
    if link.changes:
        return Read(link.dep, True, False, up.space, (), (), 0, False, 0, ())
    wanted = range(up.there.rfind(1) + 1) if link.whole else link.reads(i)
    rows: Sequence[int]
    if isinstance(wanted, range) and up.count_of(wanted) == len(wanted):
        rows, made_at = wanted, up.made_at[wanted.start : wanted.stop : wanted.step]
    else:
        rows = [j for j in wanted if j < up.n and up.there[j]]
        made_at = array("q", [up.made_at[j] for j in rows])
    needed = inputs_needed(link, i)
    gaps: tuple[str, ...] = ()
    if len(rows) < needed:
        there = set(rows)
        if link.whole and up.bounded:
            wanted = range(up.space.size or 0)
        absent = (j for j in wanted if j not in there and up.space.valid(j))
        gaps = tuple(up.space.key(j) for j, _ in zip(absent, range(MAX_CAUSES), strict=False))
        gaps = gaps or tuple(link.lane.asked(i)[:1]) or ("",)
    total = up.total if link.whole else up.sum_of(wanted)
    many = link.many or (link.down.spec.batch > 1 and up.spec.partitions is not None)
    missing = max(0, needed - len(rows))
    return Read(
        link.dep, up.is_source, many, up.space, rows, made_at, total, link.whole, missing, gaps
    )


def context_of(order: Order) -> Context:
    """What the function and the checks of a run may ask about it."""
    partitions = tuple(dict.fromkeys(target.partition for target in order.targets))
    gaps = dict.fromkeys(
        AssetPartition(read.asset, key)
        for target in order.reads
        for read in target
        for key in read.gaps
    )
    return Context(
        order.spec.together[0] if order.spec.together else order.spec.key,
        partitions[0],
        order.run,
        order.attempt,
        order.started_at,
        partitions,
        _windows(order, partitions),
        tuple(gaps),
        _token(order),
        order.job,
    )


def _token(order: Order) -> str:
    """The same for all runs of one attempt at the same, however often it is cut off."""
    first = order.targets[0]
    attempt = f"{first.fingerprint}|{first.code_version}|{order.attempt}|{order.asked}"
    return digest([f"{first.asset}@{first.partition}|{attempt}".encode("utf-8", "surrogatepass")])


def _windows(order: Order, partitions: tuple[PartitionKey, ...]) -> dict[PartitionKey, Window]:
    calendar, stride = calendar_of(order.space)
    found: dict[PartitionKey, Window] = {}
    for key in partitions if calendar is not None else ():
        i = order.space.ordinal(key)
        if i is not None and calendar is not None:
            start, end = calendar.start_us(i // stride), calendar.end_us(i // stride)
            found[key] = Window(_moment(start, calendar), _moment(end, calendar))
    return found


def _moment(us: int, calendar: Calendar) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, calendar.zone or UTC)
