"""A store in one SQLite file: every version a row, the current one a mark."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from freshet.engine.errors import StoreError
from freshet.engine.stores.blobs import in_the_way
from freshet.engine.stores.rows import TABLES, RowStore, Session

BUSY_S = 10.0
"""How long to wait for another process that writes to the file."""

INDEX = 'CREATE INDEX IF NOT EXISTS by_name ON versions (asset, "partition", stored_at)'
VIEW = "CREATE VIEW IF NOT EXISTS current_values AS SELECT * FROM versions WHERE is_current"


class SqliteStore(RowStore):
    """Values as rows of one SQLite file (WAL), tables as Parquet in them. `current_values` is
    a view of them, for who looks with SQL.

    A publish is one transaction, synced when it returns. `keep`, `keep_for`, `formats` and
    `fallback` are those of LocalStore.
    """

    size_of = "length(content)"  # (octet_length only since 3.43)
    _open: sqlite3.Connection | None = None
    _opened_by = 0

    @contextmanager
    def _session(self, what: str) -> Iterator[Session]:
        with self._lock:
            try:
                connection = self._connection()
                connection.execute("BEGIN IMMEDIATE" if what != "read" else "BEGIN")
                try:
                    yield _Said(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:  # a full disk has rolled it back already
                        connection.execute("ROLLBACK")
                    raise
            except (FileExistsError, NotADirectoryError) as error:
                raise in_the_way(what, self.path) from error
            except (sqlite3.Error, OSError) as error:
                raise StoreError(
                    f"cannot {what} in {self.path}",
                    cause=str(error),
                    hint="check the folder's permissions, the space on its disk, and that it is a"
                    " SQLite file",
                ) from error

    def _connection(self) -> sqlite3.Connection:
        """The one connection of this process: what a fork has inherited is not used."""
        if self._open is not None and self._opened_by == os.getpid():
            return self._open
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = FULL")
            for table in TABLES:
                found.execute(table.format(self.prefix))
            found.execute(INDEX)
            found.execute(VIEW)
        except BaseException:
            found.close()
            raise
        self._open, self._opened_by = found, os.getpid()
        return found


class _Said:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()
