"""The columns of one asset: what every partition has, a row each, and the sums over it.

A row is a partition's ordinal in the asset's numbering (`engine.spaces`). What every partition has
lies in arrays, 58 bytes a row; what few have (a live run, a failure, a wish) in small dicts by
row.
"""

from array import array
from collections.abc import Sequence

from freshet.projections.marks import NOTHING, Failure, Kills, Live, Wishes
from freshet.projections.sums import MASK, PrefixSums

GROWTH = 8
"""Room made for more rows, as a fraction of those there are: 1/8."""

NARROW = 48
"""Rows up to which adding up is as quick as a prefix sum."""

HEAP_SLACK = 64
"""Outdated marks tolerated in a heap before it is rebuilt."""


class Columns:
    """Rows without a meaning: room for them, their versions, and sums, counts and the order of
    changes over those. Empty when made.
    """

    __slots__ = (
        "_heap", "changed_at", "code", "codes", "consumed", "cursor", "cut_at", "cut_debt",
        "demand", "due", "existing", "exists", "explicit", "failures", "forced", "hash", "high",
        "kills", "limit", "live", "log_at", "log_row", "low", "made_at", "n", "newest",
        "newest_row", "opened", "owed", "owes", "ready", "ready_counts", "ready_us",
        "served_at", "stalled", "started_at", "state", "sums", "there", "total", "touched",
        "versions", "watched",
    )  # fmt: skip

    def __init__(self) -> None:
        self.exists = bytearray()
        self.there = bytearray()
        """1 where there is a version."""
        self.state = bytearray()
        """ABSENT … MISSING, true after each event."""
        self.ready = bytearray()
        """LIVE or BULK where a run may start now."""
        self.stalled = bytearray()
        """MOVING, DEFERRED or STUCK, of a row that owes; kept where somebody may ask (`tells`)."""
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
        """Position of the newest event that states the version; of a source also that it is gone,
        and still when the partition is.
        """
        self.started_at = array("q")
        """Position of the run that made it: inputs changed later are unseen by it."""
        self.n = 0
        """Rows there are; a row need not exist as a partition."""
        self.limit: int | None = None
        """Rows there can be."""
        self.existing = self.versions = self.total = 0
        self.newest = 0
        """Position of the newest event that states a version, or that it is gone, of any partition;
        of a source also of those that its definition does not let in.
        """
        self.newest_row = -1
        """The row of that event; -1 where it is not known any more."""
        self.codes: list[str] = []
        self.live: dict[int, Live] = {}
        self.failures: dict[int, Failure] = {}
        self.kills: dict[int, Kills] = {}
        self.forced = Wishes()
        """Wishes to rebuild even from equal inputs."""
        self.demand = Wishes()
        """Demands by people."""
        self.due = Wishes()
        """Demands by policies, its own or of what is downstream, and by demands downstream."""
        self.explicit: set[int] = set()
        """Brought into being by name: stay when upstreams go."""
        self.cut_debt: array[int] | None = None
        self.cut_at: array[int] | None = None
        self.ready_counts = [0, 0, 0]
        self.cursor = 0
        """Where the search for the next ready row begins."""
        self.served_at = self.ready_us = 0
        """Position of the newest run; since when (µs) there has always been a ready row."""
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

    def ensure(self, i: int) -> None:
        """Make room for row i."""
        more = i + 1 - self.n
        if more <= 0:
            return
        more = max(more, self.n // GROWTH)
        if self.limit is not None:
            more = max(i + 1 - self.n, min(more, self.limit - self.n))
        zeros = bytes(more)
        for flags in (
            self.exists, self.there, self.state, self.ready, self.stalled, self.touched,
        ):  # fmt: skip
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
        """Keep a log of changes, and the oldest debt, for consumers of the whole asset."""
        if not self.watched:
            self.watched = True
            self._heap = sorted(self.owes)
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
        self.newest_row = i

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
