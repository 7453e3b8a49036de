"""The state of one asset: its definition, its columns, what its rows owe, and the edges between
states. Plain data with small questions; only `debts` and `staleness` change it.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush

from freshet.engine.keys import AssetPartition, PartitionKey
from freshet.engine.lanes import lane_between
from freshet.engine.mappings import All, Dimensions, Last, Overlap, Trailing, is_many
from freshet.engine.partitions import SEPARATOR, growing, is_bounded
from freshet.engine.policies import Cron, Eager, Manual, MaxLag, is_at_once
from freshet.engine.spaces import DynamicSpace, ProductSpace, Space, calendar_of, space_of
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.windows import Windows
from freshet.projections.columns import HEAP_SLACK, Columns
from freshet.projections.marks import (
    FRESH,
    MISSING,
    NOTHING,
    STALE,
    WAITING,
    Marks,
)
from freshet.projections.progress import Progress


class AssetState(Columns):
    """The rows of one asset, and the sums, counts and minima that its consumers ask for."""

    __slots__ = (
        "_expected", "absorbed", "adds_keys", "at_once", "bounded", "calendar", "conditional",
        "down", "elsewhere", "feeds", "followed", "grows", "halfway", "has_holes", "heard",
        "index", "is_eager", "is_source", "is_wall", "marks", "plain", "reads_changes",
        "relook", "space", "spec", "stride", "tells", "told_below", "trial", "up", "windows",
    )  # fmt: skip

    def __init__(self, spec: AssetSpec, marks: Marks) -> None:
        super().__init__()
        self.marks = marks
        self.index = 0
        """Place in the topological order of assets."""
        self.up: list[Link] = []
        self.down: list[Link] = []
        self.feeds: list[Link] = []
        """The edges over which it is read change by change."""
        self.heard: dict[PartitionKey, int] = {}
        """Of a source: the position of the newest change of each partition that has no row."""
        self.absorbed: dict[int, Progress] = {}
        """Up to where a row has read change by change, where that is not: all it reads now, up to
        the run that made it (`started_at`).
        """
        self.elsewhere: dict[int, Progress] = {}
        """Up to where a row had read what it does not read now."""
        self.halfway: set[int] = set()
        """Rows whose last run left changes for the next, because they were many."""
        self.followed = False
        """Are changes of its debts noted in `marks.moved`?"""
        self.tells = False
        """Is `stalled` kept, because something here or above may be deferred, or somebody below
        goes on without what is stuck?
        """
        self.told_below = False
        """Does somebody below go on without what is stuck?"""
        self.plain = False
        """Is a row of it looked at as in `plain`?"""
        self.define(spec, space_of(spec.partitions))

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        """Without its edges, which lead to every other state, one inside the other: who has all
        states links them anew.
        """
        names = (*Columns.__slots__, *AssetState.__slots__)
        kept = {name: getattr(self, name) for name in names}
        return None, {**kept, "up": [], "down": [], "feeds": []}

    def define(self, spec: AssetSpec, space: Space) -> None:
        """Take on a (new) definition and its numbering; rows are left to the caller."""
        self.spec = spec
        self.is_source = spec.is_source
        self.reads_changes = spec.reads_changes
        self.trial = spec.trial
        policy = spec.policy
        self.is_wall = spec.is_source or isinstance(policy, Manual)
        self.at_once = is_at_once(policy)
        """Does its policy ask without looking at a clock?"""
        self.conditional = policy.condition is not None
        clockless = self.at_once or isinstance(policy, MaxLag | Cron)
        self.relook = self.conditional or policy.on_failure == "proceed" or not clockless
        """May its policy begin or cease to ask although the debt stays the same?"""
        narrowed = policy.newest is not None or self.conditional
        self.is_eager = (
            self.at_once and isinstance(policy, Eager) and not (narrowed or self.is_wall)
        )
        """Does it always ask for everything?"""
        self.space = space
        self.limit = space.size
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

    def hear(self, i: int) -> bool:
        """Tell the row what was heard of its partition before it was there: was anything?"""
        heard = self.heard.pop(self.space.key(i), 0)
        self.made_at[i] = max(self.made_at[i], heard)
        return bool(heard)

    # --- debts ----------------------------------------------------------------------------------

    def owe(self, i: int, mark: int) -> None:
        """Set what the row owes, keeping counts and minima true."""
        old = self.owed[i]
        if old == mark:
            return
        self.owed[i] = mark
        if self.followed:
            self.marks.moved.append((self, i, old))
        owes = self.owes
        if mark < NOTHING:
            count = owes.get(mark, 0)
            owes[mark] = count + 1
            if not count:
                self.marks.hold(mark)
                if self.watched:
                    self._push(mark)
        if old < NOTHING:
            count = owes.pop(old) - 1
            if count:
                owes[old] = count
            else:
                self.marks.release(old)

    def _push(self, mark: int) -> None:
        heappush(self._heap, mark)
        if len(self._heap) > 2 * len(self.owes) + HEAP_SLACK:
            self._heap = list(self.owes)
            heapify(self._heap)

    def min_owed(self) -> int:
        """The oldest debt among all rows; of what is read as a whole amortised O(log of the number
        of marks owed).
        """
        if not self.watched:
            return min(self.owes, default=NOTHING)
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
        "changes", "deadline_us", "dep", "down", "is_self", "lane", "last", "many", "rule", "shift",
        "up", "whole",
    )  # fmt: skip

    def __init__(self, dep: Dependency, up: AssetState, down: AssetState) -> None:
        self.dep = dep
        self.up = up
        self.down = down
        self.is_self = up is down
        self.lane = lane_between(dep.mapping, up.space, down.space, up.spec.partitions)
        self.whole = isinstance(dep.mapping, All)
        self.last = isinstance(dep.mapping, Last)
        self.shift = self.lane.shift
        """Where a row reads one row of the other side: at this distance; None where it may read
        more, or another.
        """
        self.many = is_many(dep.mapping, up.spec.partitions, down.spec.partitions)
        self.rule = dep.missing or "wait"
        self.changes = dep.changes
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

    def readers(self, j: int) -> Iterable[int]:
        """Existing downstream rows that read upstream row j."""
        if self.shift is None:
            return self._readers(j)
        i, down = j - self.shift, self.down
        return (i,) if 0 <= i < down.n and down.exists[i] else ()

    def _readers(self, j: int) -> Iterator[int]:
        exists, n = self.down.exists, self.down.n
        for i in self.lane.readers(j, n):
            if i >= n:
                break
            if exists[i]:
                yield i


def _add_key(space: Space, key: PartitionKey) -> None:
    if isinstance(space, DynamicSpace):
        space.add(key)
    elif isinstance(space, ProductSpace):
        parts = key.split(SEPARATOR)
        for part, inner in zip(parts, space.spaces, strict=False):
            if len(parts) == len(space.spaces):
                _add_key(inner, part)
