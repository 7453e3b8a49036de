"""Looking at one file or folder: is it there, is it finished, and which version is it?"""

import errno
import fcntl
import os
import signal
import stat
from typing import Literal, NamedTuple

import msgspec

from freshet.engine.digests import digest
from freshet.engine.stores.landing import (
    CHUNK_BYTES,
    NOT_THERE,
    Seen,
    digest_folder,
    files_in,
    seen_of,
    stat_version,
)
from freshet.sensors.landing.rules import Rules

MAX_DIGESTS = 50_000
"""Digests kept of files in folders (about 15 MB), so that a folder that has grown by one file is
read anew only there. The cursor has one line for each folder, not for each file; after a restart a
folder that has changed is read as a whole, others not at all.
"""


class SeenFolder(NamedTuple):
    """What `stat` says of the files in a folder: sum of sizes, newest time, number; and a digest of
    what it says of each.
    """

    size: int
    mtime_ns: int
    files: int
    signature: str

    def __str__(self) -> str:
        return f"{self.size}:{self.mtime_ns}:{self.files}:{self.signature}"


AnySeen = Seen | SeenFolder


class Looked(NamedTuple):
    """One look: `found` with its version, `busy` (not finished), `unmarked` (its marker is not
    there), `gone` (with a reason when something else is there), or `rejected` and why.
    """

    what: Literal["found", "busy", "unmarked", "gone", "rejected"]
    seen: AnySeen | None = None
    version: str = ""
    reason: str = ""


class Manner(msgspec.Struct, frozen=True):
    """How to look: where `trusts_leases`, the system knows who writes; elsewhere, and everywhere if
    it `must_settle`, a file is finished once it has looked the same for `settle_s`. `by_stat` never
    reads.
    """

    settle_s: float
    must_settle: bool
    trusts_leases: bool
    by_stat: bool


class Digests:
    """Digests by path, valid while the file looks the same; the oldest are forgotten."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Seen, str]] = {}

    def get(self, path: str, seen: Seen) -> str:
        kept = self._of.get(path)
        return kept[1] if kept is not None and kept[0] == seen else ""

    def put(self, path: str, seen: Seen, version: str) -> None:
        self._of.pop(path, None)
        self._of[path] = (seen, version)
        if len(self._of) > MAX_DIGESTS:
            del self._of[next(iter(self._of))]


def peek(path: str) -> Seen | None:
    """What `stat` says, or None when there is no regular file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return seen_of(found) if stat.S_ISREG(found.st_mode) else None


def look_at(
    path: str, rules: Rules, manner: Manner, digests: Digests, settled: AnySeen | None = None
) -> Looked:
    """Look at a file, or at a folder (its path ends in `/`), as a whole.

    `settled` is what it looked like a settle time ago, and ever since.
    """
    if path.endswith("/"):
        return look_into(path, rules, manner, digests, settled)
    if rules.marker and not os.path.exists(rules.marker_of(path)):
        return Looked("unmarked" if os.path.exists(path) else "gone")
    return look(path, manner, settled)


def look(path: str, manner: Manner, settled: AnySeen | None = None) -> Looked:
    """Look at a file, whatever its marker says."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return Looked("gone", reason=irregular(found.st_mode))
        before = seen_of(found)
        # Without waiting: should it have become a pipe, nobody would ever write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return _refused(error)
    try:
        writing = being_written(descriptor) if manner.trusts_leases else None
        must_settle = manner.must_settle or writing is None
        if writing or (must_settle and settled != before):
            return Looked("busy", before)
        version = _version(descriptor, before, manner)
    except OSError as error:
        return Looked("rejected", before, reason=error.strerror or str(error))
    finally:
        os.close(descriptor)
    return Looked("found", before, version) if peek(path) == before else Looked("busy", before)


def look_into(
    path: str, rules: Rules, manner: Manner, digests: Digests, settled: AnySeen | None = None
) -> Looked:
    """Look at a folder: finished once all files in it are. One without files counts only if it has
    a marker.
    """
    try:
        files = files_in(path, rules.passes_over)
        marked = not rules.marker or os.path.exists(rules.marker_of(path))
        if not files and not (rules.marker and marked):
            return Looked("gone")
        seen = seen_of_all(files)
        if not marked:
            return Looked("unmarked", seen)
        if manner.must_settle and settled != seen:
            return Looked("busy", seen)
        versions = []
        for name, before in files:
            looked = _look_inside(path + name, before, manner, digests, settled == seen)
            if looked.what in ("gone", "busy"):
                return Looked("busy", seen)
            if looked.what == "rejected":
                return Looked("rejected", seen, reason=f"{name}: {looked.reason}")
            versions.append((name, looked.version))
        if files_in(path, rules.passes_over) != files:
            return Looked("busy", seen)
    except OSError as error:
        return _refused(error)
    return Looked("found", seen, digest_folder(versions))


def seen_of_all(files: list[tuple[str, Seen]]) -> SeenFolder:
    """What a folder with these files looks like."""
    return SeenFolder(
        sum(seen.size for _, seen in files),
        max((seen.mtime_ns for _, seen in files), default=0),
        len(files),
        digest_folder((name, str(seen)) for name, seen in files),
    )


def irregular(mode: int) -> str:
    """What is wrong with something that is no regular file."""
    if stat.S_ISDIR(mode):
        return "it is a folder; a pattern that ends in '/' takes folders as partitions"
    return "it is no regular file"


def being_written(descriptor: int) -> bool | None:
    """Has anyone the file open for writing? None when this system cannot tell.

    A read lease is refused with EAGAIN while there is a writer (Linux, local file systems, as the
    file's owner or with CAP_LEASE). It is given back at once; should a writer come in between, the
    kernel tells us by SIGURG, which is ignored by default, instead of SIGIO, which would end us.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False


def _version(descriptor: int, seen: Seen, manner: Manner) -> str:
    if manner.by_stat:
        return stat_version(seen.size, seen.mtime_ns)
    if seen.size < CHUNK_BYTES:
        content = os.read(descriptor, seen.size + 1)  # no more: a large buffer costs more than all
        if len(content) == seen.size:
            return digest((content,))
        os.lseek(descriptor, 0, os.SEEK_SET)
    return digest(iter(lambda: os.read(descriptor, CHUNK_BYTES), b""))


def _look_inside(
    path: str, before: Seen, manner: Manner, digests: Digests, settled: bool
) -> Looked:
    """Look at one file of a folder, unless its digest is known: then it looks as it did."""
    kept = digests.get(path, before)
    if kept:
        return Looked("found", before, kept)
    looked = look(path, manner, before if settled else None)
    if looked.what == "found":
        digests.put(path, before, looked.version)
        return looked if looked.seen == before else Looked("busy", before)
    return looked


def _refused(error: OSError) -> Looked:
    if error.errno in NOT_THERE:
        return Looked("gone")
    return Looked("rejected", reason=error.strerror or str(error))
