"""Events as rows of a SQLite file: written in groups, chained by hashes, checked whenever read."""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain as joined
from pathlib import Path
from socket import gethostname

import msgspec

from freshet.engine.codec import decode
from freshet.engine.errors import FencedError, FreshetError, StreamError
from freshet.engine.events import CursorMoved, Recorded
from freshet.engine.keys import AssetKey
from freshet.engine.sqlite_file import damaged, refusal
from freshet.engine.stream import MAX_BATCH, Append, conflict, move_cursor, place

CURSOR_MOVED = CursorMoved.__name__

GENESIS = bytes(16)
"""The hash before the first event."""

NOT_STORED = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""Errors after which nothing was recorded for certain, and the next append may well succeed."""

COLUMNS = (
    "position, recorded_at, type, subject, key, span, cause, actor, epoch, CAST(data AS BLOB), hash"
)
PLACES = "(?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?)"
INSERT = f"INSERT INTO events VALUES {PLACES}"

FEW_ROWS = 4
"""So many rows of one append are written by one statement, which is a transaction of its own: one
call of SQLite instead of four. Most appends are of one or two.
"""

INSERT_FEW = tuple(
    f"INSERT INTO events SELECT * FROM (VALUES {', '.join([PLACES] * count)})"
    " WHERE (SELECT epoch FROM lease) = ?"
    for count in range(1, FEW_ROWS + 1)
)
"""By the number of rows, less one. Nothing is inserted if another writer took over."""

SELECT = f"SELECT {COLUMNS} FROM events WHERE position BETWEEN ? AND ? ORDER BY position"
SELECT_SUBJECT = f"""
SELECT {COLUMNS}, (SELECT hash FROM events AS before WHERE before.position = events.position - 1)
FROM events WHERE subject = ? AND position > ? AND position <= ? ORDER BY position LIMIT ?
"""

SELECT_CHANGES = f"""
SELECT {COLUMNS}, (SELECT hash FROM events AS before WHERE before.position = events.position - 1)
FROM events WHERE position > ? AND position <= ? AND type IN ('SourceChanged', 'Observed')
AND substr(subject, 1, instr(subject || '@', '@') - 1) IN (SELECT value FROM json_each(?))
ORDER BY position LIMIT ?
"""

Content = tuple[int, int, str, str, str | None, int | None, int | None, str | None, int, bytes]
"""A row up to its hash, in the order of the columns."""

Row = tuple[int, int, str, str, str | None, int | None, int | None, str | None, int, bytes, bytes]
"""A whole row: its content and its hash."""

_pack = msgspec.msgpack.Encoder().encode


class Tail(msgspec.Struct, frozen=True):
    """Where the next event goes: the last position, time and hash, and the epoch as last seen."""

    position: int
    recorded_at: int
    hash: bytes
    epoch: int


def chain(previous: bytes, content: Content) -> bytes:
    """The hash of a row: BLAKE2b (16 bytes) of the previous hash and the content as MessagePack."""
    return blake2b(previous + _pack(content), digest_size=16).digest()


class Written(msgspec.Struct, frozen=True):
    """What a transaction did: where the next event goes, one outcome per append, the new events."""

    tail: Tail
    outcomes: list[range | FreshetError]
    recorded: list[Recorded]


class NotStoredError(Exception):
    """The transaction was rolled back for certain; carries the error to show."""

    def __init__(self, refusal: StreamError) -> None:
        self.refusal = refusal
        super().__init__(refusal.message)


def write_group(
    path: Path, tail: Tail, claimed: bool, appends: list[Append], now: int, db: sqlite3.Connection
) -> Written:
    """Commit all appends of a group in one transaction; a refused one does not hinder the others.

    The first transaction of a writer (not yet `claimed`) takes the next epoch. Raises FencedError,
    NotStoredError, or an error of SQLite after which it is unknown what was recorded.
    """
    now = max(now, tail.recorded_at)
    epoch = tail.epoch if claimed else tail.epoch + 1
    rows: list[Row] = []
    try:
        if claimed and _are_few(appends):
            few: list[Row] = []
            written = _place_group(db, tail, epoch, appends, now, few)
            if few and _insert_few(db, few, epoch):
                return written
        db.execute("BEGIN IMMEDIATE")
        _check_epoch(db, path, tail)
        written = _place_group(db, tail, epoch, appends, now, rows)
        if not rows:
            db.execute("ROLLBACK")
            return Written(tail, written.outcomes, [])
        if not claimed:
            who = (epoch, os.getpid(), gethostname())
            db.execute("UPDATE lease SET epoch = ?, pid = ?, host = ?", who)
        db.executemany(INSERT, rows)
        _move_cursors(db, written.recorded)
        db.execute("COMMIT")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in NOT_STORED and _rolled_back(db, tail):
            raise NotStoredError(refusal(path, error)) from error
        raise
    except FencedError:
        db.execute("ROLLBACK")
        raise
    return written


def _are_few(appends: list[Append]) -> bool:
    """Is this one append of a few events, none of which moves a stored cursor as well?"""
    facts = appends[0].facts
    few = len(appends) == 1 and 0 < len(facts) <= FEW_ROWS
    return few and all(fact.type != CURSOR_MOVED for fact in facts)


def _insert_few(db: sqlite3.Connection, rows: list[Row], epoch: int) -> bool:
    """Commit a few rows by one statement; False, and nothing was done, if another writer took
    over.
    """
    given = (*joined.from_iterable(rows), epoch)
    return db.execute(INSERT_FEW[len(rows) - 1], given).rowcount == len(rows)


def _check_epoch(db: sqlite3.Connection, path: Path, tail: Tail) -> None:
    epoch, pid, host = db.execute("SELECT epoch, pid, host FROM lease").fetchone()
    if epoch != tail.epoch:
        raise FencedError(
            f"{path} was taken over by process {pid} on host {host}",
            cause=f"it writes with epoch {epoch}, this process with {tail.epoch}",
            hint="let the other one write; start this process again only when it has stopped",
        )


def _place_group(
    db: sqlite3.Connection, tail: Tail, epoch: int, appends: list[Append], now: int, rows: list[Row]
) -> Written:
    position, previous = tail.position, tail.hash
    keys: dict[str, range] = {}
    outcomes: list[range | FreshetError] = []
    recorded: list[Recorded] = []
    for append in appends:
        outcome: range | FreshetError | None = None
        if append.key is not None:
            outcome = _earlier(db, keys, append.key)
        if append.expected is not None:
            outcome = outcome or conflict(append, position)
        if outcome is None:
            placed = place(append, position + 1, now, epoch)
            previous = _add_rows(append, placed, previous, rows)
            recorded += placed
            outcome = range(position + 1, position + 1 + len(placed))
            position += len(placed)
            if append.key is not None and placed:
                keys[append.key] = outcome
        outcomes.append(outcome)
    return Written(Tail(position, now, previous, epoch), outcomes, recorded)


def _earlier(db: sqlite3.Connection, keys: dict[str, range], key: str) -> range | None:
    if key in keys:
        return keys[key]
    found = db.execute("SELECT position, span FROM events WHERE key = ?", (key,)).fetchone()
    return range(found[0], found[0] + found[1]) if found else None


def _add_rows(append: Append, placed: list[Recorded], previous: bytes, rows: list[Row]) -> bytes:
    span = len(placed) if append.key is not None else None
    for item, fact in zip(placed, append.facts, strict=True):
        content: Content = (
            item.position, item.recorded_at, fact.type, fact.subject, item.key,
            span, item.cause, item.actor, item.epoch, fact.data,
        )  # fmt: skip
        previous = chain(previous, content)
        rows.append((*content, previous))
        span = None
    return previous


def _move_cursors(db: sqlite3.Connection, recorded: list[Recorded]) -> None:
    moved: dict[str, dict[str, str | None]] = {}
    for item in recorded:
        if type(item.event) is CursorMoved:
            moved.setdefault(item.event.sensor, {}).update(item.event.items)
    for sensor, moves in moved.items():
        kept = [(sensor, place, value) for place, value in moves.items() if value is not None]
        gone = [(sensor, place) for place, value in moves.items() if value is None]
        db.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", kept)
        db.executemany("DELETE FROM cursors WHERE sensor = ? AND item = ?", gone)


def _rolled_back(db: sqlite3.Connection, tail: Tail) -> bool:
    """Undo what is open; is the file as it was?"""
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
        return head_of(db) == tail.position
    except sqlite3.Error:
        return False


def head_of(db: sqlite3.Connection) -> int:
    """The newest position in the file."""
    found: int | None = db.execute("SELECT max(position) FROM events").fetchone()[0]
    return found or 0


def tail_of(db: sqlite3.Connection, path: Path) -> Tail:
    """Where the next event goes; the last event is verified."""
    head = head_of(db)
    epoch: int = db.execute("SELECT epoch FROM lease").fetchone()[0]
    if head == 0:
        return Tail(0, 0, GENESIS, epoch)
    last = read_rows(db, path, head - 1, head, 1)[0]
    stored = db.execute("SELECT hash FROM events WHERE position = ?", (head,)).fetchone()
    return Tail(head, last.recorded_at, stored[0], epoch)


def read_rows(
    db: sqlite3.Connection, path: Path, after: int, until: int, limit: int
) -> list[Recorded]:
    """At most `limit` events after `after` up to `until`, each checked against the one before it.

    Raises StreamError naming the first position that is missing, damaged or cannot be read.
    """
    return [_event(path, row) for row in checked_rows(db, path, after, until, limit)]


def checked_rows(
    db: sqlite3.Connection, path: Path, after: int, until: int, limit: int
) -> Iterator[Row]:
    """As `read_rows`, not decoded."""
    until = min(until, after + limit)
    if after >= until:
        return
    first = max(after, 1)  # the row before is read along for its hash
    rows: Iterable[Row]
    try:
        rows = db.execute(SELECT, (first, until)).fetchall()
    except sqlite3.Error as error:
        rows = _rows_before_damage(db, path, first, until, error)
    previous, expected = GENESIS, first
    for row in rows:
        if row[0] != expected:
            break
        if expected > after:
            _check(path, row, previous)
            yield row
        previous = row[10]
        expected += 1
    if expected <= until:
        raise damaged(path, expected, "it is missing")


def read_subject(
    db: sqlite3.Connection, path: Path, subject: str, after: int, until: int, limit: int
) -> list[Recorded]:
    """As `read_rows`, but only those about `subject`."""
    rows = db.execute(SELECT_SUBJECT, (subject, after, until, max(limit, 0))).fetchall()
    return [_verified(path, row[:11], row[11] if row[0] > 1 else GENESIS) for row in rows]


def read_changes(
    db: sqlite3.Connection,
    path: Path,
    sources: Sequence[AssetKey],
    after: int,
    until: int,
    limit: int,
) -> list[Recorded]:
    """As `read_rows`, but only those that say something of the versions of these sources.

    Reads the stream in order: that costs the events in between, and each is passed once.
    """
    names = msgspec.json.encode(sources).decode()
    rows = db.execute(SELECT_CHANGES, (after, until, names, limit)).fetchall()
    return [_verified(path, row[:11], row[11] if row[0] > 1 else GENESIS) for row in rows]


def verify(db: sqlite3.Connection, path: Path, after: int) -> int:
    """Check every event after `after`; from the beginning on, also the cursors and the indexes.

    Returns the head it has reached; raises StreamError naming the first position that is wrong.
    """
    db.execute("BEGIN")  # one snapshot, whatever the writer does meanwhile
    try:
        head = head_of(db)
        cursors: dict[str, dict[str, str]] = {}
        for recorded in _all(db, path, after, head):
            if isinstance(recorded.event, CursorMoved):
                move_cursor(cursors.setdefault(recorded.event.sensor, {}), recorded.event)
        if after == 0:
            _verify_rest(db, path, cursors)
        return head
    finally:
        db.execute("ROLLBACK")


def _verify_rest(db: sqlite3.Connection, path: Path, cursors: dict[str, dict[str, str]]) -> None:
    folded = {(sensor, item, value) for sensor, of in cursors.items() for item, value in of.items()}
    if folded != set(db.execute("SELECT sensor, item, value FROM cursors")):
        raise StreamError(
            f"{path}: the stored cursors are not those that the events say",
            hint="restore the file from a copy; nothing was changed",
        )
    problem = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problem != "ok":
        raise StreamError(
            f"{path} is damaged beside its events",
            cause=str(problem),
            hint="restore it from a copy",
        )


def _all(db: sqlite3.Connection, path: Path, after: int, head: int) -> Iterator[Recorded]:
    while after < head:
        batch = read_rows(db, path, after, head, MAX_BATCH)
        yield from batch
        after = batch[-1].position


def _verified(path: Path, row: Row, previous: bytes) -> Recorded:
    _check(path, row, previous)
    return _event(path, row)


def _check(path: Path, row: Row, previous: bytes) -> None:
    try:
        sound = blake2b(previous + _pack(row[:10]), digest_size=16).digest() == row[10]
    except (TypeError, UnicodeEncodeError):  # not even the types of the columns are right
        sound = False
    if not sound:
        raise damaged(path, row[0], "its hash is not that of its content")


def _event(path: Path, row: Row) -> Recorded:
    position, recorded_at, type_, _, key, _, cause, actor, epoch, data, _ = row
    try:
        event = decode(type_, data)
    except msgspec.DecodeError as error:
        raise StreamError(
            f"{path}: the event at position {position} cannot be read as {type_}",
            cause=str(error),
            hint="it was written by another release; use that one",
        ) from error
    return Recorded(position, recorded_at, event, cause, actor, key, epoch)


def _rows_before_damage(
    db: sqlite3.Connection, path: Path, first: int, until: int, error: sqlite3.Error
) -> Iterator[Row]:
    """The rows that can be read one by one, then the error naming the first that cannot."""
    for position in range(first, until + 1):
        try:
            row: Row | None = db.execute(SELECT, (position, position)).fetchone()
        except sqlite3.Error as found:
            raise damaged(path, position, str(found)) from found
        if row is None:
            raise damaged(path, position, "it is missing")
        yield row
    raise refusal(path, error) from error
