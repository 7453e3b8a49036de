"""Stores that keep values as rows of one database file: what SQLite and DuckDB have in common."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from freshet.engine.errors import StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.blobs import not_kept, not_staged, read, staged_of
from freshet.engine.stores.formats import Encoded, Format, Formats
from freshet.engine.stores.retention import KEEP_VERSIONS, next_us, now_us, retention
from freshet.engine.stores.store import Staged, StoredVersion

TABLES = (
    """CREATE TABLE IF NOT EXISTS {0}staged (run BIGINT, asset TEXT, "partition" TEXT,
        data_version TEXT, suffix TEXT, rows BIGINT, content BLOB)""",
    """CREATE TABLE IF NOT EXISTS {0}versions (asset TEXT, "partition" TEXT, data_version TEXT,
        suffix TEXT, rows BIGINT, stored_at BIGINT, is_current BOOLEAN, content BLOB)""",
)
"""What is staged, and what is published; `{0}` stands before the names of the tables."""


class Session(Protocol):
    """An open transaction: what is said in it happens as a whole, or not at all."""

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement and return the rows it gives."""
        ...


class RowStore(ABC):
    """Values as rows, published by one transaction. Nothing is opened before the first use."""

    in_memory = False
    prefix = ""
    """Before the names of the tables."""
    size_of = "octet_length(content)"
    """The bytes of a content, as the database asks for them."""

    def __init__(
        self,
        path: str | Path,
        *,
        keep: int = KEEP_VERSIONS,
        keep_for: float | str | None = None,
        formats: Sequence[Format] = (),
        fallback: Literal["pickle"] | None = None,
    ) -> None:
        self.path = Path(path)
        self._retention = retention(type(self).__name__, keep, keep_for)
        self._formats = Formats(formats, fallback)
        self._lock = threading.Lock()
        self._staged = f"{self.prefix}staged"
        self._versions = f"{self.prefix}versions"
        self._prepare()

    def _prepare(self) -> None:  # noqa: B027 - there may be nothing to prepare
        """What the database needs besides its file. Raises DefinitionError if that is missing."""

    @abstractmethod
    def _session(self, what: str) -> AbstractContextManager[Session]:
        """A transaction, for one thread at a time; committed, and durable, when the block ends
        without an error. Raises StoreError, saying what could not be done.
        """

    def _show(  # noqa: B027 - there may be nothing to show
        self, session: Session, target: AssetPartition, found: Encoded | None
    ) -> None:
        """Within the transaction: this is the current value now, for who looks with SQL; or there
        is none any more.
        """

    def stage(self, target: AssetPartition, run: int, value: Any) -> Staged:
        """Write the value beside the published ones."""
        encoded = self._formats.encode(value)
        staged = staged_of(target, run, encoded, str(self.path))
        with self._session("write") as session:
            session.ask(
                f'DELETE FROM {self._staged} WHERE run = ? AND asset = ? AND "partition" = ?',
                run,
                *target,
            )
            session.ask(
                f"INSERT INTO {self._staged} VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(run, *target, staged.data_version),
                *(encoded.suffix, encoded.rows, encoded.data),
            )
        return staged

    def look(self, staged: Staged, annotation: Any) -> Any:
        """The staged value."""
        with self._session("read") as session:
            found = self._staged_row(session, staged)
        if found is None:
            raise not_staged(staged)
        return self._read(staged.target, found, annotation)

    def publish(self, staged: Staged) -> None:
        """Move the row among the versions, in one transaction with the mark of the current one."""
        target, version = staged.target, staged.data_version
        with self._session("publish") as session:
            found = self._staged_row(session, staged)
            if found is None:
                found = self._kept_row(session, target, version)
                if found is None:
                    raise not_staged(staged)
            elif self._kept_row(session, target, version) is None:
                session.ask(
                    f"INSERT INTO {self._versions} VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    *(*target, version, found.suffix, found.rows, 0, False, found.data),
                )
            self._state(session, target, version, found)
            session.ask(
                f'DELETE FROM {self._staged} WHERE run = ? AND asset = ? AND "partition" = ?',
                *(staged.run, *target),
            )

    def discard(self, run: int) -> None:
        """Forget what the run staged."""
        if not self.path.exists():
            return
        with self._session("discard") as session:
            session.ask(f"DELETE FROM {self._staged} WHERE run = ?", run)

    def staged_runs(self) -> list[int]:
        """The runs of which there are staged rows."""
        if not self.path.exists():
            return []
        with self._session("read") as session:
            return [
                run
                for (run,) in session.ask(f"SELECT DISTINCT run FROM {self._staged} ORDER BY run")
            ]

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        """The value of exactly this version."""
        found = None
        if self.path.exists():
            with self._session("read") as session:
                found = self._kept_row(session, target, data_version)
        if found is None:
            raise self._not_kept(target, data_version)
        return self._read(target, found, annotation)

    def has(self, target: AssetPartition, data_version: str) -> bool:
        """Can this version be loaded?"""
        return any(one.data_version == data_version for one in self.versions(target))

    def versions(self, target: AssetPartition) -> Sequence[StoredVersion]:
        """The versions that are kept, the one last published or restored first."""
        if not self.path.exists():
            return []
        with self._session("read") as session:
            return self._listed(session, target)

    def restore(self, target: AssetPartition, data_version: str) -> None:
        """Mark a kept version as the current one."""
        with self._session("restore") as session:
            found = self._kept_row(session, target, data_version)
            if found is None:
                raise self._not_kept(target, data_version)
            self._state(session, target, data_version, found)

    def remove(self, target: AssetPartition) -> None:
        """Delete the current value and all kept versions."""
        if not self.path.exists():
            return
        with self._session("remove") as session:
            query = f'DELETE FROM {self._versions} WHERE asset = ? AND "partition" = ?'
            session.ask(query, *target)
            self._show(session, target, None)

    def collect(self, target: AssetPartition, before_us: int) -> None:
        """Delete what retention does not ask for and nobody can be reading."""
        with self._session("collect") as session:
            listed = self._listed(session, target)
            for one in self._retention.collectable(listed, before_us, now_us()):
                session.ask(
                    f'DELETE FROM {self._versions} WHERE asset = ? AND "partition" = ?'
                    " AND data_version = ?",
                    *(*target, one.data_version),
                )

    def _state(
        self, session: Session, target: AssetPartition, version: str, found: Encoded
    ) -> None:
        """From here on this version is the current one."""
        where = 'asset = ? AND "partition" = ?'
        stamp = next_us(self._listed(session, target))
        session.ask(f"UPDATE {self._versions} SET is_current = ? WHERE {where}", False, *target)
        session.ask(
            f"UPDATE {self._versions} SET is_current = ?, stored_at = ?"
            f" WHERE {where} AND data_version = ?",
            *(True, stamp, *target, version),
        )
        self._show(session, target, found)

    def _listed(self, session: Session, target: AssetPartition) -> list[StoredVersion]:
        rows = session.ask(
            f"SELECT data_version, {self.size_of}, stored_at, is_current"
            f' FROM {self._versions} WHERE asset = ? AND "partition" = ? ORDER BY stored_at DESC',
            *target,
        )
        return [StoredVersion(version, size, at, bool(now)) for version, size, at, now in rows]

    def _staged_row(self, session: Session, staged: Staged) -> Encoded | None:
        rows = session.ask(
            f"SELECT suffix, content, rows FROM {self._staged}"
            ' WHERE run = ? AND asset = ? AND "partition" = ? AND data_version = ?',
            *(staged.run, *staged.target, staged.data_version),
        )
        return Encoded(*rows[0]) if rows else None

    def _kept_row(
        self, session: Session, target: AssetPartition, data_version: str
    ) -> Encoded | None:
        rows = session.ask(
            f"SELECT suffix, content, rows FROM {self._versions}"
            ' WHERE asset = ? AND "partition" = ? AND data_version = ?',
            *(*target, data_version),
        )
        return Encoded(*rows[0]) if rows else None

    def _read(self, target: AssetPartition, found: Encoded, annotation: Any) -> Any:
        return read(self._formats, target, found, annotation, f"a {type(self).__name__}")

    def _not_kept(self, target: AssetPartition, data_version: str) -> StoreError:
        cause = f"the newest {self._retention.keep} versions are kept"
        return not_kept(target, data_version, str(self.path), cause)
