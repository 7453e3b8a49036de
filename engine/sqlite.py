"""The embedded stream: one SQLite file, one writer with group commit, any number of readers."""

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self

import aiosqlite
import anyio
import msgspec

from freshet.engine.errors import FreshetError, StreamError
from freshet.engine.events import AnyEvent, Recorded, Unknown
from freshet.engine.keys import AssetKey
from freshet.engine.lease import Lease
from freshet.engine.pace import FEW_BYTES, Pace
from freshet.engine.sqlite_file import (
    LOOK_S,
    Place,
    be_patient,
    ensure,
    raw,
    start_in_one_hop,
    to_the_end,
    unknown_outcome,
    writing,
)
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.sqlite_rows import NotStoredError, Tail, Written, write_group
from freshet.engine.stream import (
    MAX_BATCH,
    MAX_PENDING,
    Append,
    Recent,
    closed_error,
    follow,
    prepare,
    wall_clock,
)

REFUSAL_S = 5.0
"""How long a refused append counts as the present state: what must not be lost is tried again each
second, so this is no older while it lasts.
"""


class _Waiting(msgspec.Struct, frozen=True):
    append: Append
    outcome: asyncio.Future[range]


class SqliteStream:
    """The writer of a stream, and its readers' view within the same process.

    One connection writes, one transaction after the other, each in one hop to its thread and back:
    what arrives meanwhile is the next one. A single append on a quick disk takes no hop. Nothing is
    written before the first append. Reading goes through a read-only connection or the ring of
    recent events. Not thread-safe: one event loop.
    """

    def __init__(
        self, path: Path, reader: SqliteReader, tail: Tail, clock: Callable[[], int]
    ) -> None:
        self._path = path
        self._reader = reader
        self._tail = tail
        self._claimed = False
        self._place = Place(path)
        self._look_due: asyncio.TimerHandle | None = None
        """Set while something is committed since the last look at the place."""
        self._refused = ("", 0.0)
        self._clock = clock
        self._connection: aiosqlite.Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._recent = Recent(tail.position)
        self._queue: deque[_Waiting] = deque()
        self._pending = 0
        self._pace = Pace()
        self._patient = True  # does the connection wait for locks?
        self._busy = False
        """Is a transaction under way, or about to begin?"""
        self._rested: asyncio.Event | None = None
        """Told once it is not busy any more, if somebody waits for that."""
        self._turn = anyio.Lock()
        self._room = asyncio.Event()
        self._crowded = False
        """Does anybody wait for room?"""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, clock: Callable[[], int] = wall_clock
    ) -> AsyncIterator[Self]:
        """Become the writer of the stream at `path`; it and its folder are created when missing.

        Raises InUseError when another writer has it, StreamError for a file that is no stream, of a
        newer format, damaged at its end, or cannot be written. On leaving, what was accepted is
        committed, the write-ahead file is folded in, and followers finish.
        """
        lease = Lease.take(path)
        stream: Self | None = None
        try:
            await ensure(path)
            async with SqliteReader.open(path) as reader:
                stream = cls(path, reader, await reader.tail(), clock)
                try:
                    yield stream
                finally:
                    stream._close()
                    await to_the_end(stream._rest())
        finally:
            try:
                if stream is not None:  # last, so that SQLite leaves nothing beside the file
                    await to_the_end(stream._disconnect())
            finally:
                lease.release()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def head(self) -> int:
        """The newest position; 0 when the stream is empty."""
        return self._recent.head

    @property
    def pending(self) -> int:
        """Events accepted and not yet committed; never more than `MAX_PENDING`."""
        return self._pending

    @property
    def failure(self) -> StreamError | None:
        """Why nothing can be appended any more, or None; a full disk is not final, so not here."""
        return self._recent.failure

    @property
    def refusal(self) -> str:
        """Why a moment ago an append was not recorded, as on a full disk; empty if all were."""
        said, at = self._refused
        return said if said and at > asyncio.get_running_loop().time() - REFUSAL_S else ""

    async def append(
        self,
        events: Sequence[AnyEvent | Unknown],
        *,
        key: str | None = None,
        expected: int | None = None,
        actor: str | None = None,
    ) -> range:
        """Record the events atomically and return their positions; see `EventStream.append`.

        Cancelled while it waits for room, it records nothing; cancelled later, all of it.
        """
        append = prepare(events, key, expected, actor)
        if self._turn.locked() or not self._fits(append):
            await self._wait_for_room(append)
        if self._recent.closed:
            raise self._ended()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[range] = loop.create_future()
        self._queue.append(_Waiting(append, outcome))
        self._pending += len(append.facts)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._begin)  # and not now: who appends in the same turn comes along
        return await outcome

    async def read(
        self, after: int = 0, *, limit: int = MAX_BATCH, subject: str | None = None
    ) -> list[Recorded]:
        """At most `limit` events after `after`, in order; only those about `subject` if given."""
        if subject is None:
            recent = self._recent.after(max(after, 0), limit)
            if recent is not None:
                return recent
        return await self._reader.read(after, limit=limit, subject=subject, until=self.head)

    async def at(self, position: int) -> Recorded | None:
        """The event at this position, or None when there is none."""
        found = await self.read(position - 1, limit=1) if position > 0 else []
        return found[0] if found else None

    async def changes(
        self, sources: Sequence[AssetKey], after: int, until: int, *, limit: int = MAX_BATCH
    ) -> list[Recorded]:
        """What was said of the versions of these sources; see `EventStream.changes`."""
        return await self._reader.changes(sources, after, min(until, self.head), limit=limit)

    def follow(self, after: int = 0) -> AsyncIterator[list[Recorded]]:
        """All events after `after`, in batches, in order, until the stream is closed."""
        return follow(self._recent, self.read, after)

    async def cursor(self, sensor: str) -> Mapping[str, str]:
        """The sensor's cursor as of the head: the fold of its `CursorMoved` events."""
        return await self._reader.cursor(sensor)

    async def hash_at(self, position: int) -> str:
        """The hash of the chain at a position; see `SqliteReader.hash_at`."""
        return await self._reader.hash_at(position)

    async def verify(self, after: int = 0) -> int:
        """Check the hash chain after `after`; see `SqliteReader.verify`."""
        return await self._reader.verify(after)

    # --- the queue ----------------------------------------------------------------------------

    def _fits(self, append: Append) -> bool:
        return self._pending + len(append.facts) <= MAX_PENDING

    async def _wait_for_room(self, append: Append) -> None:
        async with self._turn:  # first come, first served, also for large appends
            while not self._fits(append) and not self._recent.closed:
                self._room.clear()
                self._crowded = True
                await self._room.wait()
            self._crowded = False

    def _ended(self) -> StreamError:
        failure = self._recent.failure  # one error, raised to many
        return failure.with_traceback(None) if failure is not None else closed_error()

    def _close(self) -> None:
        self._recent.end()
        self._room.set()

    async def _rest(self) -> None:
        while self._busy:
            self._rested = asyncio.Event()
            await self._rested.wait()
        if self._look_due is not None and self._recent.failure is None:
            self._look_due.cancel()
            self._place.look()

    def _drain(self) -> list[_Waiting]:
        group, size = [], 0
        while self._queue and size < MAX_BATCH:
            group.append(self._queue.popleft())
            size += len(group[-1].append.facts)
        self._pending -= size
        if self._crowded:
            self._room.set()
        return group

    # --- transactions -------------------------------------------------------------------------

    def _begin(self) -> None:
        """Commit what waits in one transaction; what arrives meanwhile is the next one."""
        while self._queue:
            group = self._drain()
            if self._recent.failure is not None:
                _refuse(group, self._recent.failure)
                continue
            try:
                if not self._start(group):
                    return
            except BaseException as error:  # recorded: as the failure of the stream and each append
                self._not_committed(group, error)
                if not isinstance(error, Exception):
                    self._begin()  # who waits is refused: nobody may wait for ever
                    raise
        self._busy = False
        if self._rested is not None:
            self._rested.set()

    def _start(self, group: list[_Waiting]) -> bool:
        """Have a group committed; is that over already?"""
        if self._connection is None:
            # A task of its own and not of a task group: it must outlive any cancellation around
            # it, and wrap no error of the caller. Held, as the loop alone would not hold it.
            self._connecting = asyncio.create_task(self._connect(group))
            return False
        self._place.check()
        alone = self._pace.quick and len(group) == 1 and group[0].append.bytes <= FEW_BYTES
        if alone and self._commit_here(group, raw(self._connection)):
            return True
        self._send(self._connection, group)
        return False

    def _send(self, connection: aiosqlite.Connection, group: list[_Waiting]) -> None:
        """Have it committed in the thread."""
        work = partial(self._write, group, self._clock(), True)
        start_in_one_hop(connection, work, partial(self._came_back, group))

    def _commit_here(self, group: list[_Waiting], db: sqlite3.Connection) -> bool:
        """Commit without a trip to the thread; False if that would have to wait for somebody."""
        try:
            written, raised = self._write(group, self._clock(), False, db), None
        except NotStoredError:
            self._pace.slow_down()
            return False
        except Exception as error:  # recorded: as the failure of the stream and each append
            written, raised = None, error
        self._committed(group, written, raised)
        return True

    def _write(
        self, group: list[_Waiting], now: int, patient: bool, db: sqlite3.Connection
    ) -> Written:
        if patient != self._patient:
            be_patient(db, patient)
            self._patient = patient
        appends = [waiting.append for waiting in group]
        return self._pace.timed(
            write_group, self._path, self._tail, self._claimed, appends, now, db
        )

    def _look_again(self) -> None:
        """Is what was committed since the last look where it should be? If not, all is told."""
        self._look_due = None
        try:
            self._place.look()
        except StreamError as error:
            self._not_committed([], error)

    async def _connect(self, group: list[_Waiting]) -> None:
        try:
            self._connection = await writing(self._path)
            self._place.check()
            self._send(self._connection, group)
        except BaseException as error:  # recorded: as the failure of the stream and each append
            self._not_committed(group, error)
            self._begin()
            if not isinstance(error, Exception):
                raise

    def _came_back(
        self, group: list[_Waiting], written: Written | None, error: BaseException | None
    ) -> None:
        """From the thread; go on, whatever happens here."""
        try:
            self._committed(group, written, error)
        finally:
            self._begin()

    def _committed(
        self, group: list[_Waiting], written: Written | None, error: BaseException | None
    ) -> None:
        """The transaction is over: tell who waited."""
        try:
            if written is None:
                self._not_committed(group, error or RuntimeError("the transaction said nothing"))
            else:
                self._tell(group, written)
        except BaseException as wrong:  # recorded: as the failure of the stream and each append
            self._not_committed(group, wrong)
            if not isinstance(wrong, Exception):
                raise

    def _tell(self, group: list[_Waiting], written: Written) -> None:
        self._tail = written.tail
        self._refused = ("", 0.0)
        if written.recorded:
            self._claimed = True
            self._recent.publish(written.recorded)
            if self._look_due is None:  # the commit may have taken long, and be the last one
                self._look_due = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)
        for waiting, outcome in zip(group, written.outcomes, strict=True):
            _resolve(waiting.outcome, outcome)

    def _not_committed(self, group: list[_Waiting], error: BaseException) -> None:
        if isinstance(error, NotStoredError):
            said = error.refusal.cause or error.refusal.message
            # By the loop's own clock: in a callback, which is no task, anyio may not know its loop.
            self._refused = (said, asyncio.get_running_loop().time())
            return _refuse(group, error.refusal)
        failure = error if isinstance(error, StreamError) else unknown_outcome(self._path, error)
        self._recent.end(failure)
        _refuse(group, failure)

    async def _disconnect(self) -> None:
        if self._connection is None:
            return
        try:
            if self._recent.failure is None:
                await self._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # a courtesy to those who copy the file: all events are safe beside it as well
        finally:
            await self._connection.close()


def _resolve(future: asyncio.Future[range], outcome: range | FreshetError) -> None:
    if future.done():  # its caller was cancelled; the commit stands
        return
    if isinstance(outcome, range):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _refuse(group: list[_Waiting], error: StreamError) -> None:
    for waiting in group:
        _resolve(waiting.outcome, error)
