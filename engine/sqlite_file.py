"""The SQLite file of a stream: its tables, its making, its connections, why a file is refused."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar
from urllib.parse import quote

import aiosqlite
import anyio
from anyio.to_thread import run_sync

from freshet.engine.errors import NotRecordedError, StreamError

WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""What is left of the write-ahead file after it has grown in a burst."""

CHECKPOINT_PAGES = 4000
"""Pages of 4 KiB in the write-ahead file, 16 MiB, at which they are folded into the stream."""

CACHE_KIB = 8192
"""Memory for pages of the stream: four times as much as SQLite takes, for a third more events."""

READER_CACHE_KIB = 512
"""The same of a reader: what it is asked for lies anywhere, and the system has it in memory."""

LOOK_S = 0.05
"""How long the file counts as the one at its path after a look at that, which costs as much as a
tenth of a commit on a quick disk. Who deletes it loses all that was in it, and that much more;
and is told so that much later.
"""

T = TypeVar("T")

FORMAT = 1
"""The number of this file format; a file with a higher one is refused untouched."""

BUSY_TIMEOUT_MS = 5000
"""How long a connection waits for another: only while a reader recovers the file after a crash."""

# Every index ends with the rowid, which is the position: events_subject is on (subject, position).
# `span` is the number of events of a keyed append: the same key again returns all its positions.
SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO meta VALUES ('format', {FORMAT});
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    key TEXT,
    span INTEGER,
    cause INTEGER,
    actor TEXT,
    epoch INTEGER NOT NULL,
    data TEXT NOT NULL,
    hash BLOB NOT NULL
);
CREATE INDEX events_subject ON events (subject);
CREATE UNIQUE INDEX events_key ON events (key) WHERE key IS NOT NULL;
CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN
    SELECT RAISE(ABORT, 'events are immutable: append another event instead');
END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN
    SELECT RAISE(ABORT, 'events are immutable: the history is kept whole');
END;
CREATE TABLE cursors (
    sensor TEXT, item TEXT, value TEXT NOT NULL, PRIMARY KEY (sensor, item)
) WITHOUT ROWID;
CREATE TABLE checkpoints (
    name TEXT PRIMARY KEY, position INTEGER NOT NULL, data BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE lease (
    one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, pid INTEGER, host TEXT
);
INSERT INTO lease VALUES (1, 0, NULL, NULL);
"""


def create(path: Path) -> None:
    """Make an empty stream, whole or not at all, in place of nothing or of an empty file."""
    beside = path.with_name(path.name + "-wal")
    if beside.exists() and beside.stat().st_size:
        raise StreamError(
            f"{path} is missing or empty, but {beside.name} beside it has events",
            cause="the two files are one database; without the first the second cannot be read",
            hint=f"bring {path.name} back, or move {beside.name} away to begin anew",
        )
    new = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name must survive a power loss as its content does
    finally:
        os.close(folder)


def is_new(path: Path) -> bool:
    """Is there nothing yet? An empty file counts as nothing."""
    return not path.exists() or path.stat().st_size == 0


def may(path: Path, mode: int) -> bool:
    """May this process access the file so? As its effective user, whom SQLite acts for."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def uri(path: Path, query: str) -> str:
    """The SQLite URI of a file with the given options."""
    return f"file:{quote(os.fsencode(path.absolute()))}?{query}"


def check_format(db: sqlite3.Connection, path: Path) -> None:
    """Raise StreamError unless this is a stream of a format this release can read."""
    known = db.execute(
        "SELECT name FROM sqlite_master WHERE name = 'meta' OR name = 'events'"
    ).fetchall()
    found = (
        db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        if len(known) == 2
        else None
    )
    if found is None or not isinstance(found[0], int):
        raise StreamError(
            f"{path} is a SQLite database, but no stream of Freshet",
            hint="check the path; nothing was changed",
        )
    if found[0] > FORMAT:
        raise StreamError(
            f"{path} has format {found[0]}, this release knows formats up to {FORMAT}",
            cause="a newer release of Freshet wrote it",
            hint="use that release or a newer one; nothing was changed",
        )


class Place:
    """Whether the file that is open is still the one at its path. What is written to one that was
    deleted is lost with this process, and another writer may have begun anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: int | None = None
        self._looked_at = -LOOK_S

    def check(self) -> None:
        """Raise StreamError if it is not. A look that is younger than `LOOK_S` is enough."""
        if monotonic() >= self._looked_at + LOOK_S:
            self.look()

    def look(self) -> None:
        """As `check`, by a look now."""
        self._looked_at = monotonic()
        before = self._inode
        try:
            self._inode = self._path.stat().st_ino
        except OSError:
            self._inode = 0
        if not self._inode or before not in (None, self._inode):
            raise StreamError(
                f"{self._path} is gone, or is another file now",
                cause="it was deleted, moved or replaced while it was being written",
                hint="put it back if you can; then start the daemon again",
            )


async def in_one_hop(
    connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]
) -> T:
    """Run `work` with the raw connection in the connection's own thread.

    A transaction through aiosqlite's public methods takes one trip to the thread per statement
    (about 15 µs each, and a cancellation can fall between two); `_execute` takes one for all.
    """
    result: T = await connection._execute(lambda: work(connection._conn))  # type: ignore[no-untyped-call]
    return result


def raw(connection: aiosqlite.Connection) -> sqlite3.Connection:
    """The connection itself, for who knows that its thread has nothing to do now."""
    return connection._conn


def start_in_one_hop(
    connection: aiosqlite.Connection,
    work: Callable[[sqlite3.Connection], T],
    done: Callable[[T | None, BaseException | None], None],
) -> None:
    """As `in_one_hop`, for who does not wait: `done` is called in the loop, with the result or the
    error. No cancellation reaches it, and the loop wakes up once.
    """
    loop = asyncio.get_running_loop()

    def hop() -> None:
        try:
            result, raised = work(connection._conn), None
        except BaseException as error:  # recorded: handed to `done`
            result, raised = None, error
        loop.call_soon_threadsafe(done, result, raised)

    connection._tx.put_nowait((None, hop))


async def to_the_end(work: Coroutine[object, object, None]) -> None:
    """Do it all. Who cancels meanwhile is heeded afterwards, also one who knows no shields, as
    `asyncio.timeout`: while a transaction is under way the connection must not be closed, and as
    long as that is open nobody else may become the writer.
    """
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def be_patient(db: sqlite3.Connection, patient: bool) -> None:
    """Is a statement to wait until another program has unlocked the file, or to fail at once?"""
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS if patient else 0}")


async def ensure(path: Path) -> None:
    """Make the file if there is none. Raises StreamError if it could never be written."""
    try:
        if is_new(path):
            await run_sync(create, path)
        elif not may(path, os.W_OK):
            raise StreamError(
                f"{path} cannot be written", hint="check its permissions; reading works without"
            )
    except sqlite3.Error as error:
        raise refusal(path, error) from error
    except OSError as error:
        raise StreamError(
            f"{path} cannot be created", cause=str(error), hint="check the folder and the disk"
        ) from error


async def writing(path: Path) -> aiosqlite.Connection:
    """The connection of the writer; it alone writes and checkpoints."""
    return await _connect(path, "mode=rw", tune_writer)


def tune_writer(db: sqlite3.Connection) -> None:
    """Set what the writer relies on: durable commits, a bounded write-ahead file. A page of the
    index by subject is written once for many events if it stays in memory, and in the file.
    """
    be_patient(db, True)
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        db.execute("PRAGMA journal_mode = WAL")


def _tune_reader(path: Path, db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    check_format(db, path)


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    connection = await _connect_reader(path)
    try:
        yield connection
    finally:
        with anyio.CancelScope(shield=True):
            await connection.close()


async def _connect_reader(path: Path) -> aiosqlite.Connection:
    try:
        return await _connect(path, "mode=ro", partial(_tune_reader, path))
    except sqlite3.Error as error:
        if may(path.parent, os.W_OK) or not may(path, os.R_OK):
            raise refusal(path, error) from error
    # SQLite wants to make its -shm file beside a write-ahead database; where that cannot be, the
    # file may still be read as it is, provided that no newer events lie in the write-ahead file.
    beside = path.with_name(path.name + "-wal")
    if beside.exists() and beside.stat().st_size:
        raise StreamError(
            f"{path} cannot be read where it is",
            cause=f"its newest events are in {beside.name}, which needs a writable folder",
            hint="copy both files to a folder that can be written and read them there",
        )
    try:
        return await _connect(path, "mode=ro&immutable=1", partial(_tune_reader, path))
    except sqlite3.Error as error:
        raise refusal(path, error) from error


async def _connect(
    path: Path, query: str, tune: Callable[[sqlite3.Connection], None]
) -> aiosqlite.Connection:
    # aiosqlite leaves its thread to itself when a file cannot be opened, and the thread fails
    # loudly once the loop is closed; so the file is opened here, and the thread gets it open.
    db = sqlite3.connect(uri(path, query), uri=True, isolation_level=None, check_same_thread=False)
    connection = aiosqlite.Connection(lambda: db, iter_chunk_size=1)
    with anyio.CancelScope(shield=True):
        await connection
        try:
            await in_one_hop(connection, tune)
        except BaseException:
            await connection.close()
            raise
    return connection


def damaged(path: Path, position: int, why: str) -> StreamError:
    """The error that names the first event that cannot be trusted."""
    return StreamError(
        f"{path} is damaged at position {position}: {why}",
        cause="the file was changed by something other than Freshet, or the disk lost data",
        hint="restore it from a copy; events before it are sound; nothing was changed",
    )


def refusal(path: Path, error: sqlite3.Error) -> StreamError:
    """What an error of SQLite means for the person who runs Freshet."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    seen = f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
    if code == sqlite3.SQLITE_NOTADB:
        return StreamError(
            f"{path} is no SQLite database", cause=seen, hint="check the path; nothing was changed"
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return StreamError(
            f"{path} is damaged", cause=seen, hint="restore it from a copy; nothing was changed"
        )
    if code == sqlite3.SQLITE_FULL:
        return NotRecordedError(
            f"{path}: the disk is full, the events were not recorded",
            cause=seen,
            hint="make space; the next append is tried as usual",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return NotRecordedError(
            f"{path} is locked by another program, the events were not recorded",
            cause=seen,
            hint="close what else has the file open for writing",
        )
    return StreamError(
        f"{path} cannot be used", cause=seen, hint="check the disk and the permissions"
    )


def unknown_outcome(path: Path, error: BaseException) -> StreamError:
    """What is raised after an error that leaves open what was recorded."""
    shown = refusal(path, error) if isinstance(error, sqlite3.Error) else None
    return StreamError(
        f"{path}: it is unknown whether the last events were recorded; nothing more is written",
        cause=shown.cause if shown else repr(error),
        hint="start again: what is in the stream then is what counts",
    )
