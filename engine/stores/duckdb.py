"""A store in one DuckDB file: every version a row, current tables as tables of their own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import NamedTemporaryFile
from typing import Any

from freshet.engine.errors import DefinitionError, StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.blobs import in_the_way
from freshet.engine.stores.formats import Encoded
from freshet.engine.stores.outages import DUCKDB_LOCKED
from freshet.engine.stores.rows import TABLES, RowStore, Session

BUSY_S = 10.0
"""How long to wait for another process that has the file open."""

PAUSE_S = 0.02
"""Between two looks whether it has closed it."""


class DuckDBStore(RowStore):
    """Values as rows of one DuckDB file. The current value of an asset that is a table is a table
    of the asset's name too, of a partition by `asset@partition`, for who looks with SQL:
    `SELECT * FROM "reports/daily@2024-01-05"`. Needs the extra `duckdb`.

    A publish is one transaction. DuckDB lets one process at a time write: the file is opened for
    each use only, so others can look in between. `keep`, `keep_for`, `formats` and `fallback` are
    those of LocalStore.
    """

    prefix = "_freshet_"
    _is_made = False

    def _prepare(self) -> None:
        self._duckdb = _imported()

    @contextmanager
    def _session(self, what: str) -> Iterator[Session]:
        with self._lock:
            try:
                with self._opened() as connection:
                    connection.begin()
                    try:
                        yield _Said(connection)
                        connection.commit()
                    except BaseException:
                        with suppress(self._duckdb.Error):  # a full disk has done so already
                            connection.rollback()
                        raise
            except (FileExistsError, NotADirectoryError) as error:
                raise in_the_way(what, self.path) from error
            except (self._duckdb.Error, OSError) as error:
                raise StoreError(
                    f"cannot {what} in {self.path}",
                    cause=str(error).partition("\n")[0],
                    hint="see that no other process has it open for long, that it is a DuckDB file,"
                    " and check the folder's permissions and the space on its disk",
                ) from error

    def _opened(self) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + BUSY_S
        while True:
            try:
                found = self._duckdb.connect(str(self.path))
                break
            except self._duckdb.IOException as error:
                if DUCKDB_LOCKED not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(PAUSE_S)
        if not self._is_made:
            for table in TABLES:
                found.execute(table.format(self.prefix))
            self._is_made = True
        return found

    def _show(self, session: Session, target: AssetPartition, found: Encoded | None) -> None:
        name = '"' + str(target).replace('"', '""') + '"'
        if found is None or found.suffix != ".parquet":
            session.ask(f"DROP TABLE IF EXISTS {name}")
            return
        with NamedTemporaryFile(suffix=found.suffix) as file:
            file.write(found.data)
            file.flush()
            query = f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM read_parquet(?)"
            session.ask(query, file.name)


class _Said:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._connection.execute(query, values).fetchall()
        return found


def _imported() -> Any:
    try:
        import duckdb
    except ImportError:
        raise DefinitionError(
            "fr.DuckDBStore needs the package duckdb, which is not installed",
            hint="pip install 'freshet[duckdb]'",
        ) from None
    return duckdb
