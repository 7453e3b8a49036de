"""Outages: which errors of a store pass by themselves, as something outside is away or full."""

import errno
import os
import sqlite3

OUTAGES = frozenset(
    getattr(errno, name)
    for name in (
        # the disk: full, read-only since an error, failing, or gone for now
        "ENOSPC", "EDQUOT", "EROFS", "EIO", "ENODEV", "ENXIO", "ESTALE", "EREMOTEIO", "ENOMEDIUM",
        # the machine: out of handles, memory or patience
        "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "EBUSY", "EINTR",
        # the network
        "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET",
        "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "ESHUTDOWN", "EPIPE",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Errors that end without anybody touching definition, value or permissions. Not among them: a file
that is not there, a name that cannot be, a folder one may not write to.
"""

SQLITE_OUTAGES = frozenset(
    (
        # another process has the file locked, or had it as we asked
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL,
        # the disk: full, failing, or read-only since an error; the machine: out of memory
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM,
    )
)  # fmt: skip
"""What SQLite says of the same: primary codes, the lowest byte of the one an error has."""

DUCKDB_LOCKED = "Could not set lock"
"""What DuckDB says of a file that another process has open."""

DUCKDB_OUTAGES = (DUCKDB_LOCKED, *(os.strerror(one) for one in sorted(OUTAGES)))
"""DuckDB has no codes: one of these is in the text of an error of input or output."""

DUCKDB_ERRORS = ("IOException", "FatalException")
"""Its errors of input and output; by name, as it need not be installed."""

MAX_CAUSES = 16
"""Errors looked at behind an error: a chain may be a ring."""


def is_outage(error: BaseException) -> bool:
    """Is the store away, or full, and not what was to be stored at fault?"""
    behind: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if behind is None:
            return False
        if isinstance(behind, ConnectionError | TimeoutError):
            return True
        if isinstance(behind, OSError) and behind.errno in OUTAGES:
            return True
        if _is_database_away(behind):
            return True
        behind = behind.__cause__
    return False


def _is_database_away(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        code: int = getattr(error, "sqlite_errorcode", 0)
        return code & 0xFF in SQLITE_OUTAGES
    if type(error).__name__ not in DUCKDB_ERRORS:
        return False
    return any(text in str(error) for text in DUCKDB_OUTAGES)
