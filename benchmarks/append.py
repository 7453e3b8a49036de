"""Durable appends against raw sqlite3: same columns, indexes, triggers and PRAGMAs, same run.

    python -m benchmarks append

Rounds of all sides alternate, so that a busy disk hurts all; the median round counts. The third
side is raw sqlite3 in a thread of its own, one trip per transaction: what no design that keeps the
event loop free of fsync can pass when a single caller waits for each append.
"""

import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import aiosqlite
import anyio

from benchmarks.case import OURS, Figure, compared, in_a_folder, measured
from freshet.engine.events import Materialized
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_file import create, in_one_hop, tune_writer
from freshet.engine.sqlite_rows import INSERT, Row, head_of

ROUNDS = 15
"""Rounds of each side: the median of fifteen shrugs off seven disturbed ones."""

SUBJECTS = 840
"""Asset partitions that the events are about, in turn: 28 days of 30 assets."""

CONFIGURATION = (
    "SQLite in WAL mode with synchronous=FULL on the local disk, events of about 300 bytes, of"
    f" {SUBJECTS} asset partitions in turn; raw is"
    " the same INSERT into the same columns, indexes and triggers from the thread of the caller,"
    " rows made beforehand and no hash chain; the thread is raw with one trip to a thread of its"
    " own for each transaction"
)

CASES = {"1 per append": (1, 400), "100 per append": (100, 100), "1000 per append": (1000, 10)}
"""Events per append and appends per round: a tenth to half of a second each."""

BOUNDS = {"1 per append": 0.8, "100 per append": 0.6, "1000 per append": 0.6}

WRITERS = 20
"""Tasks that append one event at a time, sharing commits."""

RAW, THREAD, SHARED = "raw sqlite3", "raw sqlite3 in a thread", "shared"

Rates = dict[str, list[float]]
"""Events per second of each side, round by round."""


def run() -> list[Figure]:
    """Events per second of Freshet and of raw sqlite3, and their ratio, for each case."""
    found: list[Figure] = []
    for name, rates in in_a_folder(_run).items():
        case = f"append, {name}"
        for side, values in rates.items():
            what, who = "events appended durably", side
            if side == SHARED:
                what, who = f"{what}, {WRITERS} tasks at once", OURS
            found.append(measured(case, what, values, "/s", higher_is_better=True, side=who))
        for limit, bound in ((RAW, BOUNDS[name]), (THREAD, None)):
            ratios = [ours / raw for ours, raw in zip(rates[OURS], rates[limit], strict=True)]
            found.append(compared(case, f"ratio to {limit}", ratios, bound))
    return found


def rates(size: int, times: int, subjects: int = SUBJECTS) -> list[float]:
    """Events per second of Freshet alone, in appends of `size`, round by round."""

    async def alone() -> list[float]:
        async with SqliteStream.open(Path("stream.db")) as stream:
            return [await _ours(stream, size, times, subjects) for _ in range(ROUNDS)]

    return in_a_folder(alone)


def reads(count: int, times: int) -> list[float]:
    """Seconds to read so many events from the file and to decode them, each time anew."""

    async def read() -> list[float]:
        found = []
        async with SqliteStream.open(Path("stream.db")) as stream:
            for start in range(0, count, 1000):
                await stream.append(_events(1000, start))
            first = stream.head - count
            for _ in range(times):
                began, position = time.perf_counter(), first
                while position < stream.head:
                    position = (await stream.read(position))[-1].position
                found.append(time.perf_counter() - began)
        return found

    return in_a_folder(read)


async def _run() -> dict[str, Rates]:
    found: dict[str, Rates] = {}
    raw_path, hop_path = Path("raw.db"), Path("hop.db")
    create(raw_path)
    create(hop_path)
    async with SqliteStream.open(Path("stream.db")) as stream:
        with closing(sqlite3.connect(raw_path, isolation_level=None)) as db:
            tune_writer(db)
            async with aiosqlite.connect(hop_path, isolation_level=None) as hop:
                await in_one_hop(hop, tune_writer)
                for name, (size, times) in CASES.items():
                    found[name] = await _compare(stream, db, hop, size, times)
    return found


async def _compare(
    stream: SqliteStream, db: sqlite3.Connection, hop: aiosqlite.Connection, size: int, times: int
) -> Rates:
    sides: Rates = {RAW: [], OURS: [], THREAD: []}
    for _ in range(ROUNDS):
        sides[RAW].append(_raw(db, size, times))
        sides[OURS].append(await _ours(stream, size, times))
        sides[THREAD].append(await _thread(hop, size, times))
        if size == 1:
            sides.setdefault(SHARED, []).append(await _shared(stream, times // 4))
    return sides


def _events(size: int, start: int, subjects: int = SUBJECTS) -> list[Materialized]:
    return [
        Materialized(
            asset=f"analytics/asset_{n % subjects % 30}",
            partition=f"2013-01-{n % subjects // 30 + 1:02}",
            run=start + 1,
            data_version=f"{n:032x}",
            code_version="5f1d7a84",
            metadata={"rows": n, "bytes": 12 * n},
        )
        for n in range(start, start + size)
    ]


async def _ours(stream: SqliteStream, size: int, times: int, subjects: int = SUBJECTS) -> float:
    batches = [_events(size, n * size, subjects) for n in range(times)]
    began = time.perf_counter()
    for batch in batches:
        await stream.append(batch)
    return size * times / (time.perf_counter() - began)


async def _shared(stream: SqliteStream, times: int) -> float:
    async def append(batches: list[list[Materialized]]) -> None:
        for batch in batches:
            await stream.append(batch)

    work = [[_events(1, w * times + n) for n in range(times)] for w in range(WRITERS)]
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for batches in work:
            tasks.start_soon(append, batches)
    return WRITERS * times / (time.perf_counter() - began)


def _raw(db: sqlite3.Connection, size: int, times: int) -> float:
    """The limit: rows already made, only their positions counted on."""
    batches = _raw_batches(head_of(db), size, times)
    began = time.perf_counter()
    for batch in batches:
        _commit(batch, db)
    return size * times / (time.perf_counter() - began)


async def _thread(hop: aiosqlite.Connection, size: int, times: int) -> float:
    head = await in_one_hop(hop, head_of)
    batches = _raw_batches(head, size, times)
    began = time.perf_counter()
    for batch in batches:
        await in_one_hop(hop, partial(_commit, batch))
    return size * times / (time.perf_counter() - began)


def _commit(batch: list[Row], db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(INSERT, batch)
    db.execute("COMMIT")


def _raw_batches(head: int, size: int, times: int) -> list[list[Row]]:
    starts = range(head, head + size * times, size)
    return [[_row(n) for n in range(start, start + size)] for start in starts]


def _row(n: int) -> Row:
    event = _events(1, n)[0]
    data = (
        f'{{"type":"Materialized","asset":"{event.asset}","partition":"{event.partition}",'
        f'"run":{event.run},"data_version":"{event.data_version}","code_version":"5f1d7a84",'
        f'"metadata":{{"rows":{n},"bytes":{12 * n}}}}}'
    ).encode()
    subject = f"{event.asset}@{event.partition}"
    return (n + 1, 1_357_000_000_000_000 + n, "Materialized", subject, None, None, n + 1, None, 1,
            data, n.to_bytes(16, "big"))  # fmt: skip
