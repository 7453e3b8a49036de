"""Landed files and folders: read a source's file in the form a parameter asks for, and only the
recorded version of it.
"""

import errno
import gzip
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from fnmatch import translate
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from freshet.engine.digests import digest
from freshet.engine.errors import StoreError
from freshet.engine.stores.formats import decode_json, read_table, wanted_package

CHUNK_BYTES = 1024 * 1024
"""Read at once while digesting: files of any size in constant memory."""

ALIASES = {".jsonl": ".ndjson", ".feather": ".arrow", ".ipc": ".arrow", ".pq": ".parquet"}


MAX_DEPTH = 64
"""Folders within one another that are looked into."""

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What `stat` says when there is no such file; anything else only says that we cannot look."""

PASSED_OVER = (".*", "*~", "*.tmp", "*.part", "*.partial", "*.crdownload", "*.swp", "*.swx", "4913")
"""What editors and copying programs leave for a moment (4913 is vim's test for a folder)."""


class Landed(msgspec.Struct, frozen=True):
    """How to recognise the recorded version of a file or folder: its digest, and its size and time
    (ns) as a shortcut. In a folder names that match one of `ignored` (separated by `/`) are no part
    of it.
    """

    data_version: str
    size: int
    mtime_ns: int
    ignored: str = ""


class Seen(NamedTuple):
    """What `stat` says of a file: enough to know that it was not touched, not what it contains."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    def __str__(self) -> str:
        return f"{self.size}:{self.mtime_ns}:{self.inode}:{self.ctime_ns - self.mtime_ns}"


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
    if path.is_dir():
        raise StoreError(
            f"{path} is a folder: it cannot be loaded as {_name_of(annotation)}",
            hint="annotate the parameter as Path, and read the files in it",
        )
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
        f"{path} cannot be loaded as {_name_of(annotation)}",
        hint="annotate the parameter as Path, bytes, str or a table type",
    )


def still_the_same(path: Path, expected: Landed) -> bool:
    """Is the file, or the folder, still the recorded version? Reads only if size or time differ."""
    try:
        if path.is_dir():
            return _is_still_the_same_folder(path, expected)
        found = path.stat()
        if (found.st_size, found.st_mtime_ns) == (expected.size, expected.mtime_ns):
            return True
        return found.st_size == expected.size and digest_file(path) == expected.data_version
    except OSError:
        return False


def digest_file(path: Path | str) -> str:
    """The digest of a file's content, read in chunks. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return digest(iter(lambda: file.read(CHUNK_BYTES), b""))


def digest_folder(files: Iterable[tuple[str, str]]) -> str:
    """The data version of a folder, of its files' relative names and versions."""
    return digest(os.fsencode(name) + b"\0" + version.encode() + b"\0" for name, version in files)


def stat_version(size: int, mtime_ns: int) -> str:
    """The data version of a file that must not be read: its size and time."""
    return f"{size}-{mtime_ns}"


def seen_of(found: os.stat_result) -> Seen:
    return Seen(found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)


def files_in(folder: str, passes_over: Callable[[str], bool]) -> list[tuple[str, Seen]]:
    """All regular files below a folder, sorted by relative name; links are followed, not in
    circles. Raises OSError when something cannot be looked at.
    """
    return sorted(_files_in(folder, passes_over, ()))


def _files_in(
    folder: str, passes_over: Callable[[str], bool], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, Seen]]:
    here = os.stat(folder)
    if (here.st_dev, here.st_ino) in above or len(above) >= MAX_DEPTH:
        return
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not passes_over(entry.name)]
    for entry in entries:
        try:
            looked = entry.stat()
        except OSError as error:
            if error.errno in NOT_THERE:
                continue
            raise
        if stat.S_ISREG(looked.st_mode):
            yield entry.name, seen_of(looked)
        elif stat.S_ISDIR(looked.st_mode):
            deeper = _files_in(entry.path, passes_over, (*above, (here.st_dev, here.st_ino)))
            yield from ((f"{entry.name}/{name}", seen) for name, seen in deeper)


def _check_there(path: Path) -> None:
    try:
        path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _is_still_the_same_folder(path: Path, expected: Landed) -> bool:
    ignored = [re.compile(translate(one)) for one in expected.ignored.split("/") if one]
    files = files_in(str(path), lambda name: any(one.match(name) for one in ignored))
    size = sum(seen.size for _, seen in files)
    if (size, max((seen.mtime_ns for _, seen in files), default=0)) == (
        expected.size,
        expected.mtime_ns,
    ):
        return True
    if size != expected.size:
        return False
    return digest_folder((n, digest_file(path / n)) for n, _ in files) == expected.data_version


def _read(path: Path, expected: Landed) -> bytes:
    try:
        data = path.read_bytes()
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if expected.data_version not in (
        digest([data]),
        stat_version(found.st_size, found.st_mtime_ns),
    ):
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


def _name_of(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))
