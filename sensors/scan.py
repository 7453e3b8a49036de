"""Looking at files: what is there, whether it is finished, and what it contains."""

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from freshet.engine.stores.landing import digest_file

SMALL_FILE_BYTES = 1024 * 1024
"""Digested on the event loop, in about a millisecond; what is larger goes to a thread."""

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What `stat` says when there is no such file; anything else only says that we cannot look."""


class Seen(NamedTuple):
    """What `stat` says of a file: enough to know that it was not touched, not what it contains."""

    size: int
    mtime_ns: int
    inode: int

    def __str__(self) -> str:
        return f"{self.size}:{self.mtime_ns}:{self.inode}"


class Looked(NamedTuple):
    """One look at a file: `found` with its digest, `busy` (not finished), `gone` (with a reason
    when something else is there), or `rejected` and why.
    """

    what: Literal["found", "busy", "gone", "rejected"]
    seen: Seen | None = None
    digest: str = ""
    reason: str = ""


def scan(root: Path, depth: int) -> Iterator[tuple[str, Seen]]:
    """All regular files exactly `depth` levels below root, by relative path; links are followed.

    Links in a circle end at the depth. Unreadable folders are passed over. Raises OSError when the
    root itself cannot be listed.
    """
    with os.scandir(root) as entries:
        yield from _scan(entries, "", depth)


def _scan(
    entries: Iterator["os.DirEntry[str]"], below: str, depth: int
) -> Iterator[tuple[str, Seen]]:
    for entry in entries:
        try:
            if depth == 1:
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    yield below + entry.name, _seen(found)
            elif entry.is_dir():
                with os.scandir(entry.path) as deeper:
                    yield from _scan(deeper, f"{below}{entry.name}/", depth - 1)
        except OSError:
            continue  # vanished, or not ours to read; the next scan looks again


def peek(path: Path) -> Seen | None:
    """What `stat` says, or None when there is no regular file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _seen(found) if stat.S_ISREG(found.st_mode) else None


def look(path: Path, *, steady: bool, must_settle: bool) -> Looked:
    """Look at a file as a whole: is it finished, and what is its digest?

    Finished is what nobody has open for writing. `steady` says that it looked the same a settle
    time
    ago: that is asked for where the system cannot tell who writes, and everywhere if `must_settle`.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return Looked("gone", reason="no regular file")
        before = _seen(found)
    except OSError as error:
        if error.errno in NOT_THERE:
            return Looked("gone")
        return Looked("rejected", reason=error.strerror or str(error))
    try:
        writing = being_written(path)
        if writing or (not steady and (must_settle or writing is None)):
            return Looked("busy", before)
        digest = digest_file(path)
    except FileNotFoundError:
        return Looked("gone")
    except OSError as error:
        return Looked("rejected", before, reason=error.strerror or str(error))
    return Looked("found", before, digest) if peek(path) == before else Looked("busy", before)


def being_written(path: Path) -> bool | None:
    """Has anyone the file open for writing? None when this system cannot tell. Raises OSError.

    A read lease is refused with EAGAIN while there is a writer (Linux, local file systems, as the
    file's owner or with CAP_LEASE). It is given back at once; should a writer come in between, the
    kernel tells us by SIGURG, which is ignored by default, instead of SIGIO, which would end us.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return False


def _seen(found: os.stat_result) -> Seen:
    return Seen(found.st_size, found.st_mtime_ns, found.st_ino)
