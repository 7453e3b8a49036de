"""Checkpoints: the view as it was at a position, so that a start folds what came since and not all
there ever was.

A checkpoint says nothing that the stream does not say: one that is missing, damaged, of another
stream, or made by other code is passed over, and everything is folded from the beginning.
"""

import gc
import inspect
import os
import pickle
import platform
import stat
from contextlib import aclosing
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import msgspec

from freshet.engine.ahead import Read, history
from freshet.projections.view import View

CHECKPOINT = "view.checkpoint"
"""The file, beside the stream."""

FORMAT = 1

EVERY = 20_000
"""Events after which a new one is made: some tenths of a second of folding at a start."""


class Header(msgspec.Struct, frozen=True):
    """The first line of the file: of which stream (the hash of its chain at `position`) and by
    which code it was made, and the digest of what follows.
    """

    format: int
    position: int
    chain: str
    code: str
    digest: str


class Chained(Read, Protocol):
    """A stream that can tell the hash of its chain."""

    async def hash_at(self, position: int) -> str: ...


async def view_of(stream: Chained, checkpoint: Path) -> View:
    """The fold of everything recorded so far, from the checkpoint on if there is a good one. Raises
    StreamError naming the first bad position after it.
    """
    return await fold(stream, await _restored(stream, checkpoint))


async def fold(stream: Read, view: View | None = None) -> View:
    """A view with all that came after it. Raises StreamError naming the first bad position."""
    view = view or View()
    # What a fold makes stays: to look through all of it again and again would cost a third.
    collecting = gc.isenabled()
    gc.disable()
    try:
        async with aclosing(history(stream, view.position)) as batches:
            async for batch in batches:
                for recorded in batch:
                    view.apply(recorded)
    finally:
        if collecting:
            gc.enable()
    return view


async def save(view: View, stream: Chained, path: Path) -> None:
    """Write the checkpoint of this view; the one before stays until this one is whole. Raises
    OSError.
    """
    data = pickle.dumps(view, protocol=5)
    chain = await stream.hash_at(view.position)
    header = Header(FORMAT, view.position, chain, code(), _digest(data))
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(header) + b"\n")
            file.write(data)
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)


def position_of(path: Path) -> int:
    """Up to where a checkpoint goes, by its own word; 0 if there is none."""
    found = _read(path, whole=False)
    return found[0].position if found is not None else 0


async def _restored(stream: Chained, path: Path) -> View | None:
    found = _read(path)
    if found is None:
        return None
    header, data = found
    mine = (header.format, header.code, header.digest) == (FORMAT, code(), _digest(data))
    if not mine or header.position > stream.head:
        return None
    if await stream.hash_at(header.position) != header.chain:
        return None
    collecting = gc.isenabled()
    gc.disable()
    try:
        view = pickle.loads(data)
    except Exception:  # recorded: nowhere, as nothing is lost: everything is folded instead
        return None
    finally:
        if collecting:
            gc.enable()
    return view if isinstance(view, View) and view.position == header.position else None


def _read(path: Path, *, whole: bool = True) -> tuple[Header, bytes] | None:
    """What the file says, if it is one that only we, or root, can have written: to load it is to
    trust it.
    """
    try:
        with path.open("rb") as file:
            who = os.fstat(file.fileno())
            if who.st_uid not in (os.geteuid(), 0) or who.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            first = file.readline(4096)
            return msgspec.json.decode(first, type=Header), file.read() if whole else b""
    except (OSError, msgspec.MsgspecError):
        return None


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


@cache
def code() -> str:
    """A digest of all code that makes a view: another code may mean something else by it."""
    found = blake2b(digest_size=16)
    found.update(f"{platform.python_version()} {msgspec.__version__}".encode())
    for folder in (Path(__file__).parent, Path(inspect.getfile(View)).parent):
        for path in sorted(folder.glob("*.py")):
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
