"""Readers of a stream file: any number of them, in any process, beside the one writer."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, TypeVar

import aiosqlite
import anyio

from freshet.engine.errors import StreamError
from freshet.engine.events import Recorded
from freshet.engine.keys import AssetKey
from freshet.engine.sqlite_file import in_one_hop, is_new, reading, refusal
from freshet.engine.sqlite_rows import (
    Row,
    Tail,
    checked_rows,
    head_of,
    read_changes,
    read_rows,
    read_subject,
    tail_of,
    verify,
)
from freshet.engine.stream import MAX_BATCH

POLL_SECONDS = 0.05
"""How often a reader asks whether the file has changed: too short to notice, too rare to cost."""

T = TypeVar("T")


class SqliteReader:
    """Reads a stream that another process may be writing; never writes and never checkpoints.

    Everything read is checked against the hash chain. `head` is as of the last look at the file.
    """

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self._path = path
        self._connection = connection
        self._head = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """Open an existing stream for reading, also in a folder that cannot be written.

        Raises StreamError for a file that is missing, no stream, or of a newer format.
        """
        if is_new(path):
            raise StreamError(
                f"there is no stream at {path}",
                hint="start a daemon there first, or check the path",
            )
        async with reading(path) as connection:
            reader = cls(path, connection)
            await reader.refresh()
            yield reader

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def head(self) -> int:
        """The newest position as of the last look at the file; `refresh` looks again."""
        return self._head

    async def refresh(self) -> int:
        """Look at the file and return its head."""
        self._head = await self._ask(head_of)
        return self._head

    async def read(
        self,
        after: int = 0,
        *,
        limit: int = MAX_BATCH,
        subject: str | None = None,
        until: int | None = None,
    ) -> list[Recorded]:
        """At most `limit` events after `after` (up to `until`), in order, or those about `subject`.

        Raises StreamError naming the first position that is missing or damaged.
        """
        head = until if until is not None else await self.refresh()
        if subject is not None:
            return await self._ask(
                lambda db: read_subject(db, self._path, subject, after, head, limit)
            )
        return await self._ask(lambda db: read_rows(db, self._path, max(after, 0), head, limit))

    async def rows(self, after: int, until: int) -> list[Row]:
        """As `read`, a batch of whole rows, which are checked and not decoded."""
        return await self._ask(
            lambda db: list(checked_rows(db, self._path, max(after, 0), until, MAX_BATCH))
        )

    async def changes(
        self, sources: Sequence[AssetKey], after: int, until: int, *, limit: int = MAX_BATCH
    ) -> list[Recorded]:
        """What was said of the versions of these sources; see `EventStream.changes`."""
        return await self._ask(
            lambda db: read_changes(db, self._path, sources, after, until, limit)
        )

    async def at(self, position: int) -> Recorded | None:
        """The event at this position, or None when there is none."""
        found = await self.read(position - 1, limit=1) if position > 0 else []
        return found[0] if found else None

    async def follow(self, after: int = 0) -> AsyncIterator[list[Recorded]]:
        """All events after `after`, in batches, in order, for ever; looks every `POLL_SECONDS`."""
        position, seen = max(after, 0), -1
        while True:
            version: int = await self._ask(
                lambda db: db.execute("PRAGMA data_version").fetchone()[0]
            )
            while version != seen and (batch := await self.read(position)):
                position = batch[-1].position
                yield batch
            seen = version
            await anyio.sleep(POLL_SECONDS)

    async def cursor(self, sensor: str) -> Mapping[str, str]:
        """The sensor's cursor as stored with the newest event."""
        query = "SELECT item, value FROM cursors WHERE sensor = ?"
        return dict(await self._ask(lambda db: db.execute(query, (sensor,)).fetchall()))

    async def verify(self, after: int = 0) -> int:
        """Check the hash chain after `after`, from 0 on also cursors and indexes; return the head.

        Raises StreamError naming the first position that is wrong. Changes nothing.
        """
        return await self._ask(lambda db: verify(db, self._path, max(after, 0)))

    async def hash_at(self, position: int) -> str:
        """The hash of the chain at a position, in hexadecimal; empty if there is no such event."""
        query = "SELECT hash FROM events WHERE position = ?"
        row = await self._ask(lambda db: db.execute(query, (position,)).fetchone())
        return bytes(row[0]).hex() if row is not None else ""

    async def tail(self) -> Tail:
        """Where a writer would go on; the last event is verified."""
        return await self._ask(lambda db: tail_of(db, self._path))

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await in_one_hop(self._connection, question)
        except sqlite3.Error as error:
            raise refusal(self._path, error) from error
