"""A watch over one folder: hints say when to look, a scan says what is true, nothing is
missed twice.
"""

import threading
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from pathlib import Path
from time import monotonic

import anyio
import anyio.to_thread
import msgspec
import structlog
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from freshet.engine.events import SourceChanged
from freshet.engine.keys import PartitionKey, partition_key_problem
from freshet.engine.partitions import describe
from freshet.engine.spaces import contains, is_too_far, space_of
from freshet.engine.specs import AssetSpec
from freshet.sensors.pattern import Pattern
from freshet.sensors.scan import SMALL_FILE_BYTES, Looked, Seen, look, peek, scan
from freshet.sensors.sensor import MAX_BATCH_CHANGES, Batch

STEP_MS = 5
"""Quiet time after which hints are handed over: the floor of the latency (watchfiles' default is
50).
"""

DEBOUNCE_MS = 50
"""Longest time hints are held back while more keep coming."""

IDLE_MS = 1000
"""Longest sleep: how soon a root that was removed and made again is noticed."""

BIG_HINT = 1000
"""Hints at once after which some may have been dropped: a scan follows soon."""

SOON_S = 1.0
"""When that scan, and the one after a new folder appeared, comes; least time between two watches.
"""

SETTLE_MS = 50
"""How long a file must look the same where the system cannot tell whether it is being written."""

FIRST_LOOK_S, LAST_LOOK_S = 0.02, 0.5
"""Time to the next look at a file still being written: growing from the one to the other."""

MAX_REJECTED = 1000
"""Rejected paths remembered with their reasons."""

log = structlog.get_logger("freshet.sensors.files")


class Watched(msgspec.Struct, frozen=True):
    """What is watched and how: see `files.files`, which makes it."""

    name: str
    pattern: Pattern
    source: AssetSpec
    settle_ms: int | None
    keep: bool
    reconcile_s: float
    poll: bool


class Pending:
    """A file that was not finished when we looked: what it looked like since when, and the next
    look.
    """

    def __init__(self, seen: Seen | None, now: float) -> None:
        self.seen = seen
        self.since = now
        self.delay = FIRST_LOOK_S
        self.due = now + self.delay


class Watch:
    """One watch over one root: what is known, what was hinted at, and when to look again."""

    def __init__(self, sensor: Watched, cursor: Mapping[str, str]) -> None:
        self._sensor = sensor
        self._pattern = sensor.pattern
        self._root = Path(sensor.pattern.root)
        self._space = space_of(sensor.source.partitions)
        self._known = dict(cursor)
        self._hinted: set[str] = set()
        self._pending: dict[str, Pending] = {}
        self._scan_at = monotonic()
        self._rescan = False
        self._notify: RustNotify | None = None
        self._stop = threading.Event()
        self._identity: tuple[int, int] | None = None
        self._attach_at = monotonic() - SOON_S
        self._thread = anyio.CapacityLimiter(1)
        self.rejected: dict[str, str] = {}
        """Files that match but cannot count, and why; at most MAX_REJECTED of them."""

    # --- what changed -------------------------------------------------------------------------

    async def changes(self) -> AsyncGenerator[Batch, None]:
        """Everything that differs from what is known, in batches, as far as it is finished."""
        self._attach()
        candidates = sorted(await self._candidates())
        for start in range(0, len(candidates), MAX_BATCH_CHANGES):
            batch = await self._batch(candidates[start : start + MAX_BATCH_CHANGES])
            if batch.cursor:
                yield batch

    def remember(self, batch: Batch) -> None:
        """The batch is durable: from here on it is what is known."""
        for relative, value in batch.cursor.items():
            if value is None:
                self._known.pop(relative, None)
            else:
                self._known[relative] = value

    async def _candidates(self) -> set[str]:
        """Relative paths to look at: hinted, due again, and from a scan what is new, changed or
        gone.
        """
        now = monotonic()
        found = self._hinted
        self._hinted = set()
        found.update(path for path, pending in self._pending.items() if pending.due <= now)
        if now >= self._scan_at:
            self._scan_at = now + (SOON_S if self._rescan else self._sensor.reconcile_s)
            self._rescan = False
            found.update(
                await anyio.to_thread.run_sync(
                    lambda: list(self._differences()), abandon_on_cancel=True
                )
            )
        return found

    def _differences(self) -> Iterator[str]:
        try:
            there = dict(scan(self._root, self._pattern.depth))
        except OSError as error:
            self._reject(".", f"the folder {self._root} cannot be listed: {error.strerror}")
            return
        self.rejected.pop(".", None)
        for relative, seen in there.items():
            known = self._known.get(relative, "")
            if not known.startswith(f"{seen}:"):
                yield relative
        yield from (relative for relative in self._known if relative not in there)

    async def _batch(self, candidates: list[str]) -> Batch:
        changes: list[SourceChanged] = []
        cursor: dict[str, str | None] = {}
        for relative, partition, looked in await self._look_at_all(candidates):
            if looked.what == "found" and looked.seen is not None:
                self._found(relative, partition, looked, looked.seen, changes, cursor)
            elif looked.what == "gone":
                self._gone(relative, partition, changes, cursor)
                if looked.reason:
                    self._reject(relative, looked.reason)
                else:
                    self.rejected.pop(relative, None)
            elif looked.what == "rejected":
                self._reject(relative, looked.reason)
        return Batch(tuple(changes), cursor)

    def _found(
        self,
        relative: str,
        partition: PartitionKey,
        looked: Looked,
        seen: Seen,
        changes: list[SourceChanged],
        cursor: dict[str, str | None],
    ) -> None:
        self._pending.pop(relative, None)
        self.rejected.pop(relative, None)
        known = self._known.get(relative)
        if known == f"{seen}:{looked.digest}":
            return
        cursor[relative] = f"{seen}:{looked.digest}"
        if known is None or known.rpartition(":")[2] != looked.digest:
            changes.append(
                SourceChanged(
                    self._sensor.source.key,
                    partition,
                    looked.digest,
                    {
                        "path": str(self._root / relative),
                        "size": seen.size,
                        "mtime_ns": seen.mtime_ns,
                    },
                )
            )

    def _gone(
        self,
        relative: str,
        partition: PartitionKey,
        changes: list[SourceChanged],
        cursor: dict[str, str | None],
    ) -> None:
        self._pending.pop(relative, None)
        if relative in self._known:
            cursor[relative] = None
            if not self._sensor.keep:
                changes.append(SourceChanged(self._sensor.source.key, partition))

    # --- looking ------------------------------------------------------------------------------

    async def _look_at_all(self, candidates: list[str]) -> list[tuple[str, PartitionKey, Looked]]:
        named = [
            (relative, partition)
            for relative in candidates
            if (partition := self._partition(relative)) is not None
        ]
        if len(named) == 1 and self._is_small(named[0][0]):
            looked = [self._look(named[0][0])]
        else:
            # Given up when cancelled: `close` then stops it after the file it is reading.
            looked = await anyio.to_thread.run_sync(
                lambda: [self._look(name) for name, _ in named if not self._stop.is_set()],
                abandon_on_cancel=True,
            )
        return [(*name, result) for name, result in zip(named, looked, strict=True)]

    def _look(self, relative: str) -> Looked:
        """Look once; a file that is not finished is put off, ever longer, up to LAST_LOOK_S."""
        now = monotonic()
        pending = self._pending.get(relative)
        settle_s = (SETTLE_MS if self._sensor.settle_ms is None else self._sensor.settle_ms) / 1000
        path = self._root / relative
        steady = (
            pending is not None and pending.seen == peek(path) and now - pending.since >= settle_s
        )
        looked = look(path, steady=steady, must_settle=self._sensor.settle_ms is not None)
        if looked.what == "busy":
            if pending is None:
                self._pending[relative] = Pending(looked.seen, now)
            else:
                if pending.seen != looked.seen:
                    pending.seen, pending.since = looked.seen, now
                pending.delay = min(pending.delay * 1.5, LAST_LOOK_S)
                pending.due = now + pending.delay
        return looked

    def _is_small(self, relative: str) -> bool:
        seen = peek(self._root / relative)
        return seen is None or seen.size <= SMALL_FILE_BYTES

    def _partition(self, relative: str) -> PartitionKey | None:
        """The partition of a path that matches and that the source admits; else None, and why."""
        partition = self._pattern.partition_of(relative)
        if partition is None:
            return None
        try:
            relative.encode()
        except UnicodeEncodeError:
            self._reject(relative, "its name is not UTF-8")
            return None
        problem = partition_key_problem(partition) if self._pattern.partitioned else None
        if problem is None and not contains(self._sensor.source.partitions, partition):
            problem = f"'{partition}' is no partition: {describe(self._sensor.source.partitions)}"
        if problem is None and self._is_too_far(partition):
            problem = f"'{partition}' is more than ten years ahead"
        if problem is not None:
            self._reject(relative, problem)
            return None
        return partition

    def _is_too_far(self, partition: PartitionKey) -> bool:
        i = self._space.ordinal(partition)
        return i is not None and is_too_far(self._space, i, time.time_ns() // 1000)

    def _reject(self, relative: str, reason: str) -> None:
        self._pending.pop(relative, None)
        if self.rejected.get(relative) == reason or len(self.rejected) >= MAX_REJECTED:
            return
        self.rejected[relative] = reason
        shown = relative.encode("utf-8", "replace").decode()
        log.warning("file does not count", sensor=self._sensor.name, file=shown, reason=reason)

    # --- waiting for hints --------------------------------------------------------------------

    async def wait(self) -> None:
        """Sleep until something is hinted at or due."""
        self._attach()
        timeout_ms = max(1, int((self._next_due() - monotonic()) * 1000))
        if self._notify is None:
            await anyio.sleep(min(timeout_ms, IDLE_MS) / 1000)
            return
        try:
            hints = await anyio.to_thread.run_sync(
                self._notify.watch,
                DEBOUNCE_MS,
                STEP_MS,
                min(timeout_ms, IDLE_MS),
                self._stop,
                abandon_on_cancel=True,
                limiter=self._thread,
            )
        except WatchfilesRustInternalError as error:  # one name that is not UTF-8 is enough
            log.warning("watch is started anew", sensor=self._sensor.name, reason=str(error))
            self._start_anew()
            return
        if isinstance(hints, set):
            self._take(path for _, path in hints)
            if len(hints) >= BIG_HINT:
                self._scan_soon()

    def close(self) -> None:
        """Stop watching; the waiting thread returns within a step."""
        self._stop.set()
        self._detach()

    def _take(self, paths: Iterable[str]) -> None:
        """Turn absolute paths into candidates: files that match; a folder means that more may be
        new.
        """
        base = str(self._root.resolve()) + "/"
        for path in paths:
            relative = path.removeprefix(base)
            if path + "/" == base:
                self._start_anew()  # removed or moved; a new one may even have the same inode
            elif relative == path:
                self._scan_soon()  # a path seen through a link
            elif self._pattern.partition_of(relative) is not None:
                self._hinted.add(relative)
                pending = self._pending.get(relative)
                if pending is not None:
                    pending.delay = FIRST_LOOK_S
            elif relative.count("/") + 1 < self._pattern.depth:
                self._scan_at = monotonic()  # a folder was made, moved or removed: look now,
                self._rescan = True  # and again, for what was written before it was watched

    def _scan_soon(self) -> None:
        self._scan_at = min(self._scan_at, monotonic() + SOON_S)

    def _start_anew(self) -> None:
        """Drop the watch: the next `_attach` makes another, and scans, at most once in SOON_S."""
        self._detach()
        self._identity = None
        self._attach_at = max(monotonic(), self._attach_at + SOON_S)
        self._scan_at = min(self._scan_at, self._attach_at)

    def _next_due(self) -> float:
        pending = min((pending.due for pending in self._pending.values()), default=self._scan_at)
        return min(pending, self._scan_at)

    def _attach(self) -> None:
        """Watch the root; start anew, with a scan, when it came, went, or is another folder now."""
        if self._notify is None and monotonic() < self._attach_at:
            return
        try:
            found = self._root.stat()
            identity = (found.st_dev, found.st_ino)
        except OSError:
            identity = None
        if identity == self._identity:
            return
        self._detach()
        if identity is None:
            log.warning("folder is missing", sensor=self._sensor.name, folder=str(self._root))
        else:
            self._notify = RustNotify(
                [str(self._root.resolve())],
                False,
                self._sensor.poll,
                300,
                self._pattern.depth > 1,
                True,
            )
            self._attach_at = self._scan_at = monotonic()
        self._identity = identity

    def _detach(self) -> None:
        if self._notify is not None:
            self._notify.close()
            self._notify = None
