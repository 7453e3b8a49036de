"""The state of one asset: a compact column per fact, a row per partition.

A row is a partition's ordinal in the asset's numbering (`engine.spaces`). What every partition has
lies in arrays, 57 bytes a row; what few have (a live run, a failure, a wish) in small dicts by
row. Plain data with small questions; only `debts` and `staleness` change it.
"""

from array import array
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from freshet.engine.keys import AssetPartition, PartitionKey, partition_key_problem
from freshet.engine.lanes import lane_between
from freshet.engine.mappings import All, Dimensions, Last, Overlap, Trailing, is_many
from freshet.engine.partitions import SEPARATOR, growing, is_bounded
from freshet.engine.policies import Manual
from freshet.engine.spaces import DynamicSpace, ProductSpace, Space, calendar_of, space_of
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.windows import Windows
from freshet.projections.marks import (
    FRESH,
    MISSING,
    NOTHING,
    STALE,
    WAITING,
    Failure,
    Live,
    Marks,
)
from freshet.projections.sums import MASK, PrefixSums

GROWTH = 8
"""Room made for more rows, as a fraction of those there are: 1/8."""

NARROW = 48
"""Rows up to which adding up is as quick as a prefix sum."""

HEAP_SLACK = 64
"""Outdated marks tolerated in a heap before it is rebuilt."""


class AssetState:
    """The rows of one asset, and the sums, counts and minima that its consumers ask for."""

    def __init__(self, spec: AssetSpec, marks: Marks) -> None:
        self.spec = spec
        self.marks = marks
        self.index = 0
        """Place in the topological order of assets."""
        self.n = 0
        """Rows there are; a row need not exist as a partition."""
        self.up: list[Link] = []
        self.down: list[Link] = []
        self._make_columns()
        self.define(spec, space_of(spec.partitions))

    def _make_columns(self) -> None:
        self.exists = bytearray()
        self.there = bytearray()
        """1 where there is a version."""
        self.state = bytearray()
        """ABSENT … MISSING, true after each event."""
        self.ready = bytearray()
        """LIVE or BULK where a run may start now."""
        self.touched = bytearray()
        """1 where something may have moved in the event being folded."""
        self.owed = array("q")
        """The oldest change not absorbed; of a running row, the one its run set out to pay."""
        self.hash = array("Q")
        """H(asset, partition, version); 0 without a version."""
        self.consumed = array("Q")
        """Fingerprint of the inputs the version was made from."""
        self.code = array("I")
        """Number (from 1) in `codes` of the code it was made with; 0: never made."""
        self.changed_at = array("q")
        """Position at which the version became another, or went."""
        self.made_at = array("q")
        """Position of the newest event that states the version."""
        self.started_at = array("q")
        """Position of the run that made it: inputs changed later are unseen by it."""
        self.n = 0
        self.existing = self.versions = self.total = 0
        self.newest = 0
        """Position of the newest event that states a version of any row."""
        self.codes: list[str] = []
        self.live: dict[int, Live] = {}
        self.failures: dict[int, Failure] = {}
        self.forced: dict[int, int] = {}
        """Position of the newest wish to rebuild even from equal inputs."""
        self.demand: dict[int, int] = {}
        self.explicit: set[int] = set()
        """Brought into being by name: stay when upstreams go."""
        self.cut_debt: array[int] | None = None
        self.cut_at: array[int] | None = None
        self.ready_counts = [0, 0, 0]
        self.cursor = 0
        """Where the search for the next ready row begins."""
        self.owes: dict[int, int] = {}
        """Mark to how many rows owe it."""
        self._heap: list[int] = []
        self.sums: PrefixSums | None = None
        self.opened = 0
        """Windows that have come into being by time or watermark: all before this number."""
        self.watched = False
        self.log_at = array("q")
        self.log_row = array("q")
        self.low, self.high = 1 << 62, -1
        """Bounds of the touched rows."""

    def define(self, spec: AssetSpec, space: Space) -> None:
        """Take on a (new) definition and its numbering; rows are left to the caller."""
        self.spec = spec
        self.is_source = spec.is_source
        self.is_wall = spec.is_source or isinstance(spec.policy, Manual)
        self.space = space
        grows = growing(spec.partitions)
        self.grows = grows is not None
        self.bounded = is_bounded(spec.partitions)
        self.windows = grows if isinstance(grows, Windows) else None
        self.adds_keys = grows is not None and (isinstance(grows, Windows) or grows.by_arrival)
        """May something that lands bring a partition into being?"""
        self.calendar, self.stride = calendar_of(self.space)
        self.has_holes = self.calendar is not None and self.calendar.has_holes
        self._expected: int | None = None

    @property
    def expected(self) -> int:
        """How many partitions a bounded definition has in all."""
        if self._expected is None:
            size = self.space.size or 0
            valid = self.space.valid
            self._expected = sum(map(valid, range(size))) if self.has_holes else size
        return self._expected

    # --- rows -----------------------------------------------------------------------------------

    def number(self, key: PartitionKey, *, add: bool = False) -> int | None:
        """The row of a key, or None when the definition does not have it; `add` numbers a new
        dynamic key.
        """
        if add:
            _add_key(self.space, key)
        return self.space.ordinal(key)

    def key(self, i: int) -> AssetPartition:
        return AssetPartition(self.spec.key, self.space.key(i))

    def ensure(self, i: int) -> None:
        """Make room for row i."""
        more = i + 1 - self.n
        if more <= 0:
            return
        more = max(more, self.n // GROWTH)
        if self.space.size is not None:
            more = max(i + 1 - self.n, min(more, self.space.size - self.n))
        zeros = bytes(more)
        for flags in (self.exists, self.there, self.state, self.ready, self.touched):
            flags.extend(zeros)
        wide = bytes(8 * more)
        for column in (self.hash, self.consumed, self.changed_at, self.made_at, self.started_at):
            column.frombytes(wide)
        self.code.frombytes(bytes(self.code.itemsize * more))
        self.owed.extend(array("q", [NOTHING]) * more)
        if self.cut_at is not None and self.cut_debt is not None:
            self.cut_at.frombytes(wide)
            self.cut_debt.frombytes(wide)
        if self.sums is not None:
            for _ in range(more):
                self.sums.append()
        self.n += more

    def watch(self) -> None:
        """Keep a log of changes for consumers of the whole asset."""
        if not self.watched:
            self.watched = True
            rows = sorted((at, i) for i, at in enumerate(self.changed_at) if at)
            self.log_at = array("q", [at for at, _ in rows])
            self.log_row = array("q", [i for _, i in rows])

    def sum_up(self) -> None:
        """Keep prefix sums for consumers of windows."""
        if self.sums is None:
            self.sums = PrefixSums(self.hash)

    def made(self, i: int, position: int) -> None:
        """An event states the row's version."""
        self.made_at[i] = self.newest = position

    # --- versions -------------------------------------------------------------------------------

    def set_version(self, i: int, hash_: int, position: int) -> None:
        """Give the row another version, keeping sums, counts and the order of changes true."""
        self._replace(i, hash_)
        if not self.there[i]:
            self.there[i] = 1
            self.versions += 1
        self.note_change(i, position)

    def forget_version(self, i: int) -> None:
        """The row has no version any more."""
        if self.there[i]:
            self._replace(i, 0)
            self.there[i] = 0
            self.versions -= 1

    def note_change(self, i: int, position: int) -> None:
        self.changed_at[i] = position
        if self.watched:
            self.log_at.append(position)
            self.log_row.append(i)
            if len(self.log_at) > 2 * self.n + HEAP_SLACK:
                self._shorten_log()

    def _replace(self, i: int, hash_: int) -> None:
        difference = hash_ - self.hash[i]
        self.hash[i] = hash_
        self.total = (self.total + difference) & MASK
        if self.sums is not None:
            self.sums.add(i, difference)

    def _shorten_log(self) -> None:
        """Keep only the last change of each row."""
        pairs = zip(self.log_at, self.log_row, strict=True)
        kept = [(at, i) for at, i in pairs if self.changed_at[i] == at]
        self.log_at = array("q", [at for at, _ in kept])
        self.log_row = array("q", [i for _, i in kept])

    def sum_of(self, rows: Sequence[int]) -> int:
        """The sum of the hashes of these rows, modulo 2^64."""
        count = len(rows)
        if count == 1:
            return self.hash[rows[0]] if rows[0] < self.n else 0
        if not isinstance(rows, range):
            return sum(self.hash[j] for j in rows if j < self.n) & MASK
        if count > NARROW and rows.step == 1 and self.sums is not None:
            return self.sums.between(rows.start, rows.stop)
        return sum(self.hash[rows.start : rows.stop : rows.step]) & MASK

    def count_of(self, rows: Sequence[int]) -> int:
        """How many of these rows have a version."""
        if not isinstance(rows, range):
            return sum(self.there[j] for j in rows if j < self.n)
        if rows.step == 1:
            return self.there.count(1, rows.start, rows.stop)
        return self.there[rows.start : rows.stop : rows.step].count(1)

    def code_number(self, code_version: str) -> int:
        """The number under which a code version is kept, a new one if it is new."""
        try:
            return self.codes.index(code_version) + 1
        except ValueError:
            self.codes.append(code_version)
            return len(self.codes)

    # --- debts ----------------------------------------------------------------------------------

    def owe(self, i: int, mark: int) -> None:
        """Set what the row owes, keeping counts and minima true."""
        old = self.owed[i]
        if old == mark:
            return
        self.owed[i] = mark
        owes = self.owes
        if mark < NOTHING:
            count = owes.get(mark, 0)
            owes[mark] = count + 1
            if not count:
                self.marks.hold(mark)
                heappush(self._heap, mark)
                if len(self._heap) > 2 * len(owes) + HEAP_SLACK:
                    self._heap = list(owes)
                    heapify(self._heap)
        if old < NOTHING:
            count = owes.pop(old) - 1
            if count:
                owes[old] = count
            else:
                self.marks.release(old)

    def min_owed(self) -> int:
        """The oldest debt among all rows; amortised O(log of the number of marks owed)."""
        heap = self._heap
        while heap:
            if heap[0] in self.owes:
                return heap[0]
            heappop(heap)
        return NOTHING

    def min_owed_of(self, rows: Sequence[int]) -> int:
        """The oldest debt among these rows."""
        if not self.owes:
            return NOTHING
        if not isinstance(rows, range):
            return min((self.owed[j] for j in rows if j < self.n), default=NOTHING)
        if len(rows) == 1:
            return self.owed[rows.start] if rows.start < self.n else NOTHING
        return min(self.owed[rows.start : rows.stop : rows.step], default=NOTHING)

    def owing(self) -> int:
        """How many rows owe something."""
        return sum(self.owes.values())

    def set_ready(self, i: int, kind: int) -> None:
        """LIVE, BULK, or 0 for not ready."""
        old = self.ready[i]
        if old != kind:
            self.ready[i] = kind
            self.ready_counts[old] -= 1
            self.ready_counts[kind] += 1

    def note_cut(self, i: int, debt: int, position: int) -> None:
        """Remember the last debt that was cut off, and the position at which it was."""
        if self.cut_at is None or self.cut_debt is None:
            self.cut_at, self.cut_debt = (
                array("q", bytes(8 * self.n)),
                array("q", bytes(8 * self.n)),
            )
        self.cut_at[i] = position
        self.cut_debt[i] = debt

    def counts(self) -> dict[str, int]:
        """How many partitions are fresh, stale, waiting and missing: some ns a row."""
        count = self.state.count
        return {
            "fresh": count(FRESH),
            "stale": count(STALE),
            "waiting": count(WAITING),
            "missing": count(MISSING),
        }


class Link:
    """One edge between two asset states."""

    __slots__ = (
        "deadline_us", "dep", "down", "is_self", "lane", "last", "many", "rule", "up", "whole",
    )  # fmt: skip

    def __init__(self, dep: Dependency, up: AssetState, down: AssetState) -> None:
        self.dep = dep
        self.up = up
        self.down = down
        self.is_self = up is down
        self.lane = lane_between(dep.mapping, up.space, down.space, up.spec.partitions)
        self.whole = isinstance(dep.mapping, All)
        self.last = isinstance(dep.mapping, Last)
        self.many = is_many(dep.mapping, up.spec.partitions, down.spec.partitions)
        self.rule = dep.missing or "wait"
        self.deadline_us = dep.deadline_ms * 1000
        if self.whole or self.last:
            up.watch()
        if isinstance(dep.mapping, Trailing | Overlap):
            up.sum_up()

    @property
    def brings(self) -> bool:
        """Does an upstream partition bring downstream ones into being over this edge? Only if what
        grows downstream is mapped to something upstream.
        """
        mapping, space = self.dep.mapping, self.down.space
        if isinstance(mapping, Dimensions) and isinstance(space, ProductSpace):
            return space.names[space.order[0]] in {pair.down for pair in mapping.pairs}
        return not (self.whole or self.last or self.is_self)

    def reads(self, i: int) -> Sequence[int]:
        """Upstream rows that row i reads; they may lie beyond those that exist."""
        if self.last:
            newest = self.up.there.rfind(1)
            return range(newest, newest + 1) if newest >= 0 else ()
        return self.lane.reads(i, self.up.n)

    def readers(self, j: int) -> Iterator[int]:
        """Existing downstream rows that read upstream row j."""
        exists, n = self.down.exists, self.down.n
        for i in self.lane.readers(j, n):
            if i >= n:
                break
            if exists[i]:
                yield i


def _add_key(space: Space, key: PartitionKey) -> None:
    if isinstance(space, DynamicSpace):
        if partition_key_problem(key) is None:
            space.add(key)
    elif isinstance(space, ProductSpace):
        for part, inner in zip(key.split(SEPARATOR), space.spaces, strict=False):
            _add_key(inner, part)
