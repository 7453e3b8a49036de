"""The state of staleness: cells (one per asset partition) and the assets they belong to.

Plain mutable data with small questions answered in O(1); who may change it is `staleness` alone.
"""

from collections.abc import Iterator
from hashlib import blake2b
from heapq import heapify, heappop, heappush

import msgspec

from freshet.engine.keys import AssetPartition, PartitionKey
from freshet.engine.partitions import All, contains, declared, is_open
from freshet.engine.policies import Manual
from freshet.engine.specs import AssetSpec

NOTHING = 1 << 62
"""The debt of who owes nothing: later than every position."""

HEAP_SLACK = 64
"""Outdated heap entries tolerated beyond one per cell before the heap is rebuilt."""

_MASK = (1 << 128) - 1


def version_hash(asset: str, partition: PartitionKey, data_version: str) -> int:
    """H(asset, partition, version): the 128-bit term of one input in an additive fingerprint."""
    text = f"{asset}\0{partition}\0{data_version}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=16).digest(), "big")


class Failure(msgspec.Struct, frozen=True):
    """The last failed attempt, and the inputs and code it was made with."""

    position: int
    attempt: int
    fingerprint: int
    code_version: str
    retry_at: int | None


class Cell:
    """What is known of one asset partition; the two numbers are `owed` and `consumed`."""

    __slots__ = (
        "changed_at",
        "code",
        "consumed",
        "cut",
        "demand",
        "explicit",
        "failure",
        "forced",
        "gone",
        "hash",
        "home",
        "next",
        "owed",
        "partition",
        "pinned",
        "pinned_code",
        "run",
        "running",
        "started_at",
        "version",
    )

    def __init__(self, home: "AssetState", partition: PartitionKey) -> None:
        self.home = home
        self.partition = partition
        self.owed = NOTHING
        self.running: int | None = None
        """The debt the live run set out to pay; None when nothing runs."""
        self.run = 0
        self.next = NOTHING
        """What it will owe when the live run ends."""
        self.pinned = 0
        self.pinned_code = ""
        self.consumed: int | None = None
        self.code = ""
        self.version: str | None = None
        self.hash = 0
        self.changed_at = 0
        self.started_at = 0
        """Position of the run that made the current value: inputs changed later are unseen by it.
        """
        self.forced = 0
        """Position of the newest wish to rebuild even from equal inputs; 0 for none."""
        self.demand = 0
        self.failure: Failure | None = None
        self.cut: tuple[int, int] | None = None
        """The last debt that was cut off, and the position at which it was: nothing new for it."""
        self.explicit = False
        """Brought into being by name, not by an upstream: stays when upstreams go."""
        self.gone = False

    @property
    def eff(self) -> int:
        """The oldest change it has not absorbed: the debt being paid, or the debt owed."""
        return self.owed if self.running is None else self.running

    @property
    def key(self) -> AssetPartition:
        return AssetPartition(self.home.spec.key, self.partition)

    def __repr__(self) -> str:
        return f"Cell({self.key}, owed={self.owed}, running={self.running}, version={self.version})"


class Link:
    """One edge between two asset states; `all_` when every partition depends on all of the
    upstream's.
    """

    __slots__ = ("all_", "other")

    def __init__(self, other: "AssetState", all_: bool) -> None:
        self.other = other
        self.all_ = all_


class AssetState:
    """The cells of one asset and the sums and minima that its all-to-one consumers ask for."""

    def __init__(self, spec: AssetSpec) -> None:
        self.cells: dict[PartitionKey, Cell] = {}
        self.total = 0
        self.versions = 0
        self.recent: dict[PartitionKey, int] = {}
        """Partition to position of its last change of version, the newest last."""
        self.up: list[Link]
        self.down: list[Link]
        self._heap: list[tuple[int, PartitionKey]] = []
        self.define(spec)

    def define(self, spec: AssetSpec) -> None:
        """Take on a (new) definition; cells are left to the caller."""
        self.spec = spec
        self.is_source = spec.is_source
        self.is_wall = spec.is_source or isinstance(spec.policy, Manual)
        self.is_open = is_open(spec.partitions)
        self.expected = 0 if self.is_open else len(declared(spec.partitions))
        self.watched = False
        self.up, self.down = [], []

    def link(self, states: dict[str, "AssetState"]) -> None:
        """Tie this asset to its upstreams, and them to it."""
        self.up = [Link(states[dep.asset], isinstance(dep.mapping, All)) for dep in self.spec.deps]
        for link in self.up:
            link.other.down.append(Link(self, link.all_))
            link.other.watched |= link.all_

    def admits(self, partition: PartitionKey) -> bool:
        return contains(self.spec.partitions, partition)

    def set_version(self, cell: Cell, version: str | None, position: int) -> None:
        """Give the cell a version (None: withdrawn), keeping sum, count and
        order of change true.
        """
        self.forget_version(cell)
        if version is not None:
            cell.version = version
            cell.hash = version_hash(self.spec.key, cell.partition, version)
            self.total = (self.total + cell.hash) & _MASK
            self.versions += 1
            self.recent.pop(cell.partition, None)
            self.recent[cell.partition] = position
        cell.changed_at = position

    def forget_version(self, cell: Cell) -> None:
        if cell.version is not None:
            self.total = (self.total - cell.hash) & _MASK
            self.versions -= 1
            cell.version = None
            cell.hash = 0

    def note_eff(self, cell: Cell) -> None:
        """Remember a changed debt for `min_eff`; only assets with all-to-one consumers need it."""
        if self.watched and cell.eff < NOTHING:
            heappush(self._heap, (cell.eff, cell.partition))
            if len(self._heap) > 2 * len(self.cells) + HEAP_SLACK:
                self.rebuild_heap()

    def rebuild_heap(self) -> None:
        self._heap = [(c.eff, c.partition) for c in self.cells.values() if c.eff < NOTHING]
        heapify(self._heap)

    def min_eff(self) -> int:
        """The oldest debt among all partitions, amortised O(log n): outdated entries are dropped
        here.
        """
        heap = self._heap
        while heap:
            debt, partition = heap[0]
            cell = self.cells.get(partition)
            if cell is not None and cell.eff == debt:
                return debt
            heappop(heap)
        return NOTHING


def link_eff(link: Link, partition: PartitionKey) -> int:
    """What the upstream side of an edge has not yet absorbed; a wall has absorbed everything."""
    upstream = link.other
    if upstream.is_wall:
        return NOTHING
    if link.all_:
        return upstream.min_eff()
    cell = upstream.cells.get(partition)
    return NOTHING if cell is None else cell.eff


def upstream_eff(cell: Cell) -> int:
    """The oldest change any upstream of the cell has not yet absorbed."""
    return min((link_eff(link, cell.partition) for link in cell.home.up), default=NOTHING)


def input_missing(link: Link, partition: PartitionKey) -> bool:
    """Is there no value to read over this edge? All-to-one over a bounded upstream waits for all of
    it.
    """
    upstream = link.other
    if link.all_:
        return upstream.versions == 0 or upstream.versions < upstream.expected
    cell = upstream.cells.get(partition)
    return cell is None or cell.version is None


def fingerprint(cell: Cell) -> int:
    """The sum of the hashes of all versions the cell would consume now (DESIGN.md, appendix)."""
    total = 0
    for link in cell.home.up:
        if link.all_:
            total += link.other.total
        else:
            upstream = link.other.cells.get(cell.partition)
            total += upstream.hash if upstream is not None else 0
    return total & _MASK


def threshold(cell: Cell) -> int:
    """The gate: a finite demand waits for all that was demanded, an unlimited
    one for its own debt.
    """
    return cell.demand if cell.home.is_wall and cell.demand else cell.owed


def gate_open(cell: Cell) -> bool:
    """Has everything the cell waits for arrived?"""
    gate = threshold(cell)
    return all(
        not input_missing(link, cell.partition) and link_eff(link, cell.partition) > gate
        for link in cell.home.up
    )


def must_run(cell: Cell) -> bool:
    """Would a run now do something new: other inputs or code, nothing there,
    or a wish to rebuild?
    """
    return (
        cell.version is None
        or cell.forced > 0
        or cell.consumed is None
        or cell.code != cell.home.spec.code_version
        or cell.consumed != fingerprint(cell)
    )


def downstream(cell: Cell) -> Iterator[Cell]:
    """The cells that read this one directly."""
    for link in cell.home.down:
        if link.all_:
            yield from link.other.cells.values()
        else:
            other = link.other.cells.get(cell.partition)
            if other is not None:
                yield other
