"""Questions about one partition (a row of an asset's columns) and the edges it reads over.

What it depends on is asked lane by lane: sums, counts and minima of runs of rows, none of which
needs a loop over partitions in Python.
"""

from collections.abc import Iterator
from hashlib import blake2b

from freshet.engine.keys import AssetPartition, PartitionKey
from freshet.engine.policies import AllOf, AnyCondition, Changed, OnMissing
from freshet.projections.feeds import has_unread, newest_change, reads_anew
from freshet.projections.marks import DEFERRED, MOVING, NOTHING, STUCK, Failure
from freshet.projections.states import AssetState, Link
from freshet.projections.sums import MASK

SHUT, OPEN, GAPS = range(3)
"""A gate: inputs are still to come; all have come; all but some that may be missing."""


def version_hash(asset: str, partition: PartitionKey, data_version: str) -> int:
    """H(asset, partition, version): the 64-bit term of one input in a fingerprint; never 0."""
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
    if every and link.shift is not None:
        j = i + link.shift
        return up.owed[j] if 0 <= j < up.n else NOTHING
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
    if link.changes:
        return newest_change(link, i) == 0 and inputs_needed(link, i) > 0
    if link.whole or link.last:
        return up.versions < inputs_needed(link, i)
    if link.shift is not None:
        j = i + link.shift
        return j >= 0 and (j >= up.n or not up.there[j])
    return up.count_of(link.lane.reads(i, up.n)) < link.lane.needed(i)


def fingerprint(state: AssetState, i: int) -> int:
    """The sum of the hashes of all versions the row would consume now (DESIGN.md, appendix). Over
    an edge that is read change by change it is the newest change that counts.
    """
    total = 0
    for link in state.up:
        if link.changes:
            newest = newest_change(link, i)
            total += version_hash(link.dep.asset, "", str(newest)) if newest else 0
        elif link.shift is not None:
            j = i + link.shift
            total += link.up.hash[j] if 0 <= j < link.up.n else 0
        else:
            total += link.up.total if link.whole else link.up.sum_of(link.reads(i))
    return total & MASK


def wanted(state: AssetState, i: int) -> bool:
    """Does anything ask for this row now: its policy, a policy downstream, or a person?"""
    return i in state.due or i in state.demand or wants_itself(state, i)


def wants_itself(state: AssetState, i: int) -> bool:
    """Does its own policy ask for this row now, if that needs no clock for it?"""
    if state.is_eager:
        return True
    if state.is_wall or not state.at_once or not concerns(state, i):
        return False
    on_missing = isinstance(state.spec.policy, OnMissing)
    return not on_missing or not state.there[i] or i in state.halfway


def concerns(state: AssetState, i: int) -> bool:
    """Is the row one of those its policy speaks of, and has changed what it wants changed?"""
    policy = state.spec.policy
    if policy.newest is not None and state.exists.count(1, i + 1) >= policy.newest:
        return False
    return policy.condition is None or _holds(state, i, policy.condition)


def _holds(state: AssetState, i: int, condition: AnyCondition) -> bool:
    if isinstance(condition, Changed):
        links = [link for link in state.up if link.dep.asset == condition.asset]
        return any(_has_changed(link, i, state.started_at[i]) for link in links)
    combine = all if isinstance(condition, AllOf) else any
    return combine(_holds(state, i, term) for term in condition.terms)


def _has_changed(link: Link, i: int, since: int) -> bool:
    """Is there a version among the inputs over this edge that is newer than `since`?"""
    if link.changes:
        return has_unread(link, i)
    up = link.up
    if not link.whole:
        return any(j < up.n and up.changed_at[j] > since for j in link.reads(i))
    n = len(up.log_at) - 1
    while n >= 0 and up.log_at[n] > since:
        if up.changed_at[up.log_row[n]] == up.log_at[n]:
            return True
        n -= 1
    return False


def threshold(state: AssetState, i: int) -> int:
    """What a gate waits for: a wall for all that was demanded, any other row for its own debt."""
    return state.demand.newest(i) or state.owed[i] if state.is_wall else state.owed[i]


def limits(state: AssetState, i: int) -> tuple[int, int]:
    """Up to where a gate waits for every debt, and for those that were demanded with the row."""
    floor = threshold(state, i)
    return floor, max(floor, state.due.newest(i), state.demand.newest(i))


def gate(state: AssetState, i: int, *, alone: bool = False) -> int:
    """Has everything the row waits for arrived: SHUT, OPEN, or GAPS if only what may be missing
    or has failed has not? `alone`: were it not for what was demanded together with it.
    """
    floor, limit = limits(state, i)
    limit = floor if alone else limit
    found = OPEN
    for link in state.up:
        low = link_owed(link, i, coming=True)
        if low <= limit and (low <= floor or link.up.tells or link.up.due):
            held = SHUT if low <= floor and not link.up.tells else _held(link, i, floor, limit)
            if held == SHUT:
                return SHUT
            found = max(found, held)
        if is_lacking(link, i):
            if link.rule == "wait":
                return SHUT
            found = GAPS
    return found


def _held(link: Link, i: int, floor: int, limit: int) -> int:
    """Does an edge hold the gate shut, or, GAPS, until a time?"""
    found = OPEN
    for _, held in holding_rows(link, i, floor, limit):
        if held == SHUT:
            return SHUT
        found = held
    return found


def holding_rows(link: Link, i: int, floor: int, limit: int) -> Iterator[tuple[int, int]]:
    """The rows over an edge that hold a gate shut, or (GAPS) until a time. Every debt up to `floor`
    does, up to `limit` those that were demanded with the row; but not what nobody asks for now,
    nor what has failed if the policy goes on without it.
    """
    up, policy = link.up, link.down.spec.policy
    for j in owing_rows(link, i, limit):
        if not matters(link, j):
            continue
        stalled, beyond = up.stalled[j], up.owed[j] > floor
        if stalled == DEFERRED or (beyond and (stalled == STUCK or limit not in up.due.get(j, ()))):
            continue
        if stalled == MOVING or policy.on_failure == "wait":
            yield j, SHUT
        elif policy.on_failure_after_ms:
            yield j, GAPS


def matters(link: Link, j: int) -> bool:
    """Does what row j owes matter over this edge? Not if it may be skipped, and is not coming."""
    up = link.up
    return link.rule == "wait" or bool(up.there[j] or up.ready[j] or j in up.live)


def owing_rows(link: Link, i: int, limit: int) -> Iterator[int]:
    """The rows read over this edge that owe something up to `limit`; none of a wall."""
    up = link.up
    if up.is_wall or not up.owes:
        return
    for j in range(up.n) if link.whole or link.last else link.lane.reads(i, up.n):
        if j < up.n and up.owed[j] <= limit:
            yield j


def has_work(state: AssetState, i: int) -> bool:
    """Would a run do something new, now or once what it waits for has moved? Not so of a row that
    owes only what is deferred or stuck upstream, and has gone on without it.
    """
    return must_run(state, i) or gate(state, i) == SHUT


def lacks(state: AssetState, i: int) -> bool:
    """Is an input missing that the row waits for, and that nobody can pull?"""
    return any(link.rule == "wait" and link.up.is_wall and is_lacking(link, i) for link in state.up)


def absent_rows(link: Link, i: int) -> Iterator[int]:
    """The rows read over this edge that have no version."""
    up = link.up
    for j in range(up.n) if link.whole or link.last else link.lane.reads(i, up.n):
        if j < up.n and not up.there[j]:
            yield j


def due_us(state: AssetState, i: int) -> int:
    """When a row may go on without what is missing or has failed: its deadline after its window is
    over; if it is no window, and for what has failed, after the change it owes.
    """
    owed_us = state.marks.at.get(state.owed[i], 0)
    window = state.calendar
    since = window.end_us(i // state.stride) if window is not None else owed_us
    late = [link.deadline_us for link in state.up if link.rule != "wait" and is_lacking(link, i)]
    found = since + max(late) if late else 0
    after_ms, floor = state.spec.policy.on_failure_after_ms, threshold(state, i)
    if after_ms and any(
        link.up.tells and _held(link, i, floor, floor) == GAPS for link in state.up
    ):
        found = max(found, owed_us + after_ms * 1000)
    return found


def must_run(state: AssetState, i: int) -> bool:
    """Would a run now do something new: other inputs or code, changes to read, nothing there, or a
    wish to rebuild?
    """
    if not state.there[i] or i in state.forced:
        return True
    if state.reads_changes and reads_anew(state, i):
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
