"""One writer per stream: a lock beside the file, released by the kernel however its holder ends."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import Self

import msgspec

from freshet.engine.errors import InUseError, StreamError

MAX_HOLDER_BYTES = 4096
"""Bytes read of a lock file: a pid and a host name fit many times over."""

LOCKS = Path("/proc/locks")
"""Where Linux lists the locks that are held."""

_held: set[int] = set()
"""Lock descriptors of this process, so that a forked child does not keep them locked after us."""


class Holder(msgspec.Struct, frozen=True):
    """Who holds the lease, as written into the lock file."""

    pid: int
    host: str


class Lease:
    """The right to write a stream, held until `release` or the end of the process.

    It is `flock` on `<stream>.lock`, which stays behind empty of meaning: existence says nothing.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, stream: Path) -> Self:
        """Take the lease at once. Raises InUseError naming the holder, else StreamError."""
        path = stream.with_name(stream.name + ".lock")
        try:
            stream.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unwritable(stream, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_holder(descriptor, Holder(os.getpid(), socket.gethostname()))
        except OSError as error:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _in_use(stream, holder) from None
            raise _unwritable(stream, error) from error
        _held.add(descriptor)
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lease back."""
        if self._descriptor in _held:
            _held.discard(self._descriptor)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also for a child forked just now
            os.close(self._descriptor)


def holder_of(stream: Path) -> Holder | None:
    """Who holds the lease of a stream right now, as far as the kernel lists its locks; None:
    nobody, or that is not known. Takes no lock itself: that might hold up a daemon that starts.
    """
    path = stream.with_name(stream.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        inode = os.fstat(descriptor).st_ino
        lines = LOCKS.read_text().splitlines()
        held = any(" FLOCK " in line and line.split()[-3].endswith(f":{inode}") for line in lines)
        return _read_holder(descriptor) if held else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _write_holder(descriptor: int, holder: Holder) -> None:
    data = msgspec.json.encode(holder) + b"\n"
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))


def _read_holder(descriptor: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, MAX_HOLDER_BYTES, 0), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None  # it has only just taken the lock, and not yet written who it is


def _in_use(stream: Path, holder: Holder | None) -> InUseError:
    who = f"process {holder.pid} on host {holder.host}" if holder else "another process"
    return InUseError(
        f"{stream} is in use by {who}",
        cause="a stream has one writer at a time",
        hint="stop that process first, or use another state folder",
    )


def _unwritable(stream: Path, error: OSError) -> StreamError:
    return StreamError(
        f"{stream} cannot be opened for writing",
        cause=f"{error.strerror} ({error.filename or stream.parent})",
        hint="the folder must be writable and have space; reading works without",
    )


def _forget_after_fork() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
