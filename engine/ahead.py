"""A long history, read by a process beside this one: it reads and checks while this one folds.

`python -m freshet.engine.ahead STREAM AFTER UNTIL` writes what it has read to stdout. Whatever goes
wrong there, the fold goes on with the stream itself, and meets what is wrong with that.
"""

import fcntl
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from operator import attrgetter
from pathlib import Path
from subprocess import DEVNULL
from typing import Protocol

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from freshet.engine.codec import decode
from freshet.engine.errors import FreshetError
from freshet.engine.events import AnyEvent, Recorded, Unknown
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stream import MAX_BATCH

MANY = 50_000
"""Events from which on a process is worth its start: they take half a second or more to fold."""

FIRST = 20_000
"""Events that are read here meanwhile: to start takes it as long as to fold these."""

SIZE_BYTES = 4
"""Of the number before each batch that says how long it is."""

PIPE_BYTES = 1024 * 1024
"""Room for some batches, where the system gives it: the most that Linux gives to anybody."""

Known = tuple[int, int, AnyEvent, int | None, str | None, str | None, int]
"""What a `Recorded` is made of. The event comes decoded from JSON and encoded again, as
MessagePack: that takes time of the process beside this one, and saves it here.
"""

Foreign = tuple[int, int, str, bytes, int | None, str | None, str | None, int]
"""The same of an event whose type is not known here: its name and its content."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[Known], list[Foreign]]).decode


class Read(Protocol):
    """A stream as far as a fold needs it."""

    @property
    def head(self) -> int: ...

    async def read(self, after: int = 0, *, limit: int = MAX_BATCH) -> list[Recorded]: ...


async def history(stream: Read, after: int) -> AsyncGenerator[list[Recorded], None]:
    """All events after a position, in order, up to the head. To be closed by who takes not all.

    Raises StreamError naming the first bad position.
    """
    path: Path | None = getattr(stream, "path", None)  # (one in memory has none)
    if path is not None and stream.head - after >= MANY and (os.cpu_count() or 1) > 1:
        mine = after + FIRST
        async with _process(path, mine, stream.head) as process:
            # What it reads comes when it has started; until then there are the first ones.
            while after < mine and (
                batch := await stream.read(after, limit=min(MAX_BATCH, mine - after))
            ):
                yield batch
                after = batch[-1].position
            async with aclosing(_told(process)) as told:
                async for batch in told:
                    yield batch
                    after = batch[-1].position
    while after < stream.head and (batch := await stream.read(after, limit=MAX_BATCH)):
        yield batch
        after = batch[-1].position


@asynccontextmanager
async def _process(path: Path, after: int, until: int) -> AsyncGenerator[Process | None, None]:
    """A process that reads beside this one; None if none can be started now."""
    command = [sys.executable, "-m", "freshet.engine.ahead", str(path), str(after), str(until)]
    try:
        process = await anyio.open_process(command, stdin=DEVNULL, stderr=DEVNULL)
    except OSError:
        yield None
        return
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def _told(process: Process | None) -> AsyncGenerator[list[Recorded], None]:
    """What it has read; that may end before the end."""
    if process is None:
        return
    assert process.stdout is not None
    told = BufferedByteReceiveStream(process.stdout)
    with suppress(anyio.IncompleteRead, anyio.EndOfStream, msgspec.MsgspecError):
        while True:
            size = int.from_bytes(await told.receive_exactly(SIZE_BYTES), "big")
            known, foreign = _decode(await told.receive_exactly(size))
            batch = [Recorded(*one) for one in known]
            if foreign:
                batch += [
                    Recorded(position, at, Unknown(type_, data), cause, actor, key, epoch)
                    for position, at, type_, data, cause, actor, key, epoch in foreign
                ]
                batch.sort(key=attrgetter("position"))
            yield batch


async def tell(path: Path, after: int, until: int) -> None:
    """Write all that can be read of it to stdout, a batch at a time. Raises FreshetError."""
    async with SqliteReader.open(path) as stream:
        while after < until:
            rows = await stream.rows(after, until)
            known: list[Known] = []
            foreign: list[Foreign] = []
            for position, at, type_, _, key, _, cause, actor, epoch, content, _ in rows:
                event, more = decode(type_, content), (cause, actor, key, epoch)
                if isinstance(event, Unknown):
                    foreign.append((position, at, type_, content, *more))
                else:
                    known.append((position, at, event, *more))
            data = _encode((known, foreign))
            sys.stdout.buffer.write(len(data).to_bytes(SIZE_BYTES, "big") + data)
            sys.stdout.buffer.flush()
            after = rows[-1][0]


def main() -> None:
    """As `tell`; who listens may go at any time."""
    with suppress(AttributeError, OSError):
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with suppress(BrokenPipeError, FreshetError, msgspec.MsgspecError, OverflowError):
        anyio.run(tell, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
