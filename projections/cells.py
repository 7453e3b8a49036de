"""Questions about one partition (a row of an asset's columns) and the edges it reads over.

What it depends on is asked lane by lane: sums, counts and minima of runs of rows, none of which
needs a loop over partitions in Python.
"""

from collections.abc import Iterator
from hashlib import blake2b

from freshet.engine.keys import AssetPartition, PartitionKey
from freshet.projections.marks import NOTHING, Failure
from freshet.projections.states import AssetState, Link
from freshet.projections.sums import MASK

SHUT, OPEN, GAPS = range(3)
"""A gate: inputs are still to come; all have come; all but some that may be missing."""


def version_hash(asset: str, partition: PartitionKey, data_version: str) -> int:
    """H(asset, partition, version): the 64-bit term of one input in an additive fingerprint; never
    0, which says that there is none.
    """
    text = f"{asset}\0{partition}\0{data_version}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") or 1


class Cell:
    """One asset partition, as a view of its row; equal for the same row of the same state."""

    __slots__ = ("home", "i")

    def __init__(self, home: AssetState, i: int) -> None:
        self.home = home
        self.i = i

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and other.home is self.home and other.i == self.i

    def __hash__(self) -> int:
        return hash((id(self.home), self.i))

    @property
    def partition(self) -> PartitionKey:
        return self.home.space.key(self.i)

    @property
    def key(self) -> AssetPartition:
        return self.home.key(self.i)

    @property
    def owed(self) -> int:
        """The oldest change it has not absorbed: the debt being paid, or the debt owed."""
        return self.home.owed[self.i]

    @property
    def running(self) -> bool:
        return self.i in self.home.live

    @property
    def run(self) -> int:
        """The live run; 0 when none is."""
        live = self.home.live.get(self.i)
        return live.run if live is not None else 0

    @property
    def next(self) -> int:
        """What it will owe when the live run ends."""
        live = self.home.live.get(self.i)
        return live.next if live is not None else NOTHING

    @property
    def there(self) -> bool:
        """Has it a version?"""
        return bool(self.home.there[self.i])

    @property
    def code(self) -> str:
        number = self.home.code[self.i]
        return self.home.codes[number - 1] if number else ""

    @property
    def consumed(self) -> int | None:
        return self.home.consumed[self.i] if self.home.code[self.i] else None

    @property
    def changed_at(self) -> int:
        return self.home.changed_at[self.i]

    @property
    def made_at(self) -> int:
        """Position of the newest event that states its version; 0 for none."""
        return self.home.made_at[self.i]

    @property
    def started_at(self) -> int:
        return self.home.started_at[self.i]

    @property
    def forced(self) -> int:
        return self.home.forced.newest(self.i)

    @property
    def failure(self) -> Failure | None:
        return self.home.failures.get(self.i)

    @property
    def cut(self) -> tuple[int, int] | None:
        """The last debt that was cut off, and the position at which it was: nothing new for it."""
        home = self.home
        if home.cut_at is None or home.cut_debt is None or not home.cut_at[self.i]:
            return None
        return home.cut_debt[self.i], home.cut_at[self.i]

    def __repr__(self) -> str:
        return f"Cell({self.key}, owed={self.owed}, running={self.running}, there={self.there})"


def cells_of(state: AssetState) -> Iterator[Cell]:
    """The partitions of an asset, in order."""
    i = state.exists.find(1)
    while i >= 0:
        yield Cell(state, i)
        i = state.exists.find(1, i + 1)


def link_owed(link: Link, i: int, *, coming: bool = False, every: bool = False) -> int:
    """What the upstream side of an edge has not yet absorbed; a wall has absorbed everything.

    What may be missing, and is, does not count; with `coming` it does if a run is about to bring
    it, with `every` in any case.
    """
    up = link.up
    if up.is_wall or not up.owes:
        return NOTHING
    every = every or link.rule == "wait"
    if (link.whole or link.last) and (every or up.versions == up.existing):
        return up.min_owed()
    rows = link.lane.reads(i, up.n)
    if not every:
        rows = [
            j
            for j in rows
            if j < up.n and (up.there[j] or (coming and (up.ready[j] or j in up.live)))
        ]
    return up.min_owed_of(rows)


def upstream_owed(state: AssetState, i: int, *, every: bool = False) -> int:
    """The oldest change any upstream of the row has not yet absorbed; see `link_owed`."""
    return min((link_owed(link, i, every=every) for link in state.up), default=NOTHING)


def inputs_needed(link: Link, i: int) -> int:
    """How many inputs a row has over this edge when none is missing. What reads all of something
    that grows is content with one.
    """
    if link.whole:
        return max(1, link.up.expected) if link.up.bounded else 1
    return 1 if link.last else link.lane.needed(i)


def is_lacking(link: Link, i: int) -> bool:
    """Is an input missing over this edge?"""
    up = link.up
    if link.whole or link.last:
        return up.versions < inputs_needed(link, i)
    rows = link.lane.reads(i, up.n)
    if len(rows) == 1 and rows[0] < up.n and up.there[rows[0]]:
        return False
    return up.count_of(rows) < link.lane.needed(i)


def fingerprint(state: AssetState, i: int) -> int:
    """The sum of the hashes of all versions the row would consume now (DESIGN.md, appendix)."""
    total = 0
    for link in state.up:
        total += link.up.total if link.whole else link.up.sum_of(link.reads(i))
    return total & MASK


def threshold(state: AssetState, i: int) -> int:
    """What a gate waits for: a finite demand for all that was demanded, an unlimited one for its
    own debt.
    """
    return state.demand.newest(i) or state.owed[i] if state.is_wall else state.owed[i]


def gate(state: AssetState, i: int) -> int:
    """Has everything the row waits for arrived: SHUT, OPEN, or GAPS if only what may be missing
    has not?
    """
    limit = threshold(state, i)
    found = OPEN
    for link in state.up:
        if link_owed(link, i, coming=True) <= limit:
            return SHUT
        if is_lacking(link, i):
            if link.rule == "wait":
                return SHUT
            found = GAPS
    return found


def due_us(state: AssetState, i: int) -> int:
    """When a row may go on without what is missing: its deadline after its window is over; if it is
    no window, after the change it owes.
    """
    if state.calendar is not None:
        since = state.calendar.end_us(i // state.stride)
    else:
        since = state.marks.at.get(state.owed[i], 0)
    late = (link.deadline_us for link in state.up if link.rule != "wait" and is_lacking(link, i))
    return since + max(late, default=0)


def must_run(state: AssetState, i: int) -> bool:
    """Would a run now do something new: other inputs or code, nothing there, or a wish to
    rebuild?
    """
    if not state.there[i] or i in state.forced:
        return True
    number = state.code[i]
    return (
        not number
        or state.codes[number - 1] != state.spec.code_version
        or state.consumed[i] != fingerprint(state, i)
    )


def downstream(state: AssetState, i: int) -> Iterator[tuple[AssetState, int]]:
    """The rows that read this one directly."""
    for link in state.down:
        for k in link.readers(i):
            yield link.down, k
