"""Landed files: read a source's file in the form a parameter asks for, and only the recorded
version of it.
"""

import gzip
from pathlib import Path
from typing import Any

import msgspec

from freshet.engine.digests import digest
from freshet.engine.errors import StoreError
from freshet.engine.stores.formats import decode_json, read_table, wanted_package

CHUNK_BYTES = 1024 * 1024
"""Read at once while digesting: files of any size in constant memory."""

ALIASES = {".jsonl": ".ndjson", ".feather": ".arrow", ".ipc": ".arrow", ".pq": ".parquet"}


class Landed(msgspec.Struct, frozen=True):
    """How to recognise the recorded version of a file: its digest, and its size and time (ns) as a
    shortcut.
    """

    data_version: str
    size: int
    mtime_ns: int


class InputChangedError(StoreError):
    """The file is not the recorded version any more: what is there now is news of its own."""


def load_landed(path: Path, annotation: Any, expected: Landed) -> Any:
    """The file as the annotation says: Path (also without one), bytes, str, a table, or JSON as a
    type.

    Raises InputChangedError when the content is not the recorded version, StoreError when it cannot
    be read in that form.
    """
    if annotation is None or annotation is Path or annotation is Any:
        _check_there(path)
        return path
    data = _read(path, expected)
    package = wanted_package(annotation)
    try:
        if annotation is bytes:
            return data
        if annotation is str:
            return data.decode()
        suffix, data = _unpacked(path, data)
        if package is not None:
            return read_table(package, suffix, data)
        if suffix == ".json":
            return decode_json(data, annotation)
    except UnicodeDecodeError as error:
        raise StoreError(
            f"{path} is no UTF-8 text", cause=f"byte {error.start}: {error.reason}"
        ) from None
    except StoreError as error:
        raise StoreError(f"{path}: {error.message}", cause=error.cause, hint=error.hint) from error
    raise StoreError(
        f"{path} cannot be loaded as {getattr(annotation, '__name__', annotation)}",
        hint="annotate the parameter as Path, bytes, str or a table type",
    )


def still_the_same(path: Path, expected: Landed) -> bool:
    """Is the file still the recorded version? Reads it only if size or time differ."""
    try:
        found = path.stat()
        if (found.st_size, found.st_mtime_ns) == (expected.size, expected.mtime_ns):
            return True
        return found.st_size == expected.size and digest_file(path) == expected.data_version
    except OSError:
        return False


def digest_file(path: Path) -> str:
    """The digest of a file's content, read in chunks. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return digest(iter(lambda: file.read(CHUNK_BYTES), b""))


def _check_there(path: Path) -> None:
    try:
        path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None


def _read(path: Path, expected: Landed) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    if digest([data]) != expected.data_version:
        raise InputChangedError(
            f"{path} is not the recorded version any more",
            cause="it changed after it was noticed",
            hint="nothing to do: its new content is a change of its own, and starts the next run",
        )
    return data


def _unpacked(path: Path, data: bytes) -> tuple[str, bytes]:
    """The format's suffix and the plain content; `.gz` is taken off."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        suffix = Path(path.stem).suffix.lower()
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise StoreError("the content is no gzip", cause=str(error)) from None
    return ALIASES.get(suffix, suffix), data


def _unreadable(path: Path, error: OSError) -> StoreError:
    return InputChangedError(f"{path} cannot be read", cause=error.strerror or str(error))
