"""What the parts of a reaction cost on this machine: the arithmetic of `docs/performance.md`."""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from time import perf_counter

import aiosqlite
import anyio
import anyio.to_thread

from benchmarks.case import Figure, in_a_folder, measured
from freshet.engine.codec import decode, encode
from freshet.engine.events import (
    AnyEvent,
    GraphDeployed,
    Materialized,
    Recorded,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.reactor import decide
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.sqlite_file import create, in_one_hop, tune_writer
from freshet.engine.sqlite_rows import GENESIS, INSERT, Row, chain
from freshet.projections.view import View

TIMES = 1000
PAGE = b"x" * 4096
CHAIN = 3

CASE = "limits"

CONFIGURATION = (
    f"each part alone, {TIMES} times one after the other, in the loop that a daemon would use;"
    " the stream on the same disk as everything else"
)


def run() -> list[Figure]:
    """The parts, in µs."""
    return in_a_folder(_measure)


async def _measure() -> list[Figure]:
    found = [
        _figure("write of 4 KiB and fdatasync", _syncs()),
        _figure("transaction of one event in raw sqlite3, synced", _commits("FULL")),
        _figure("the same, not synced", _commits("OFF")),
        _figure("hop to the thread of a connection and back", await _hops()),
        _figure("hop to a thread of the pool and back", await _each(_pool)),
        _figure("turn of the loop", await _each(_turn)),
        _figure("task started and entered", await _each(_task)),
    ]
    event = Materialized("analytics/orders", "2013-01-01", 17, f"{1:032x}", "5f1d7a84")
    data, row = encode(event), _row(1)
    found += [
        _figure("event encoded", _timed(lambda: encode(event))),
        _figure("event decoded", _timed(lambda: decode("Materialized", data))),
        _figure("row hashed into the chain", _timed(lambda: chain(GENESIS, row[:10]))),
    ]
    return found + _folds()


def _figure(what: str, seconds: list[float]) -> Figure:
    return measured(CASE, what, [one * 1e6 for one in seconds], "µs", side="raw")


def _timed(work: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(TIMES):
        began = perf_counter()
        work()
        found.append(perf_counter() - began)
    return found


async def _each(work: Callable[[], Awaitable[object]]) -> list[float]:
    found = []
    for _ in range(TIMES):
        began = perf_counter()
        await work()
        found.append(perf_counter() - began)
    return found


def _syncs() -> list[float]:
    def write() -> None:
        os.write(descriptor, PAGE)
        os.fdatasync(descriptor)

    descriptor = os.open("synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        return _timed(write)
    finally:
        os.close(descriptor)


def _commits(synchronous: str) -> list[float]:
    path = Path(f"{synchronous}.db")
    create(path)
    rows = iter([_row(n) for n in range(1, TIMES + 1)])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        tune_writer(db)
        db.execute(f"PRAGMA synchronous = {synchronous}")

        def commit() -> None:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(INSERT, [next(rows)])
            db.execute("COMMIT")

        return _timed(commit)


async def _hops() -> list[float]:
    async with aiosqlite.connect("hop.db") as connection:
        return await _each(lambda: in_one_hop(connection, lambda db: None))


async def _pool() -> None:
    await anyio.to_thread.run_sync(int)


async def _turn() -> None:
    await asyncio.sleep(0)


async def _task() -> None:
    entered = anyio.Event()

    async def enter() -> None:
        entered.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        await entered.wait()


def _row(position: int) -> Row:
    data = encode(Materialized("analytics/orders", f"{position}", 17, f"{position:032x}", "5f1d7a"))
    content = (
        position, 1_357_000_000_000_000 + position, "Materialized", f"analytics/orders@{position}",
        None, None, 17, None, 1, data,
    )  # fmt: skip
    return (*content, chain(GENESIS, content))


def _folds() -> list[Figure]:
    """A chain of eager assets follows its source, again and again."""
    view = View()
    parts: dict[str, list[float]] = {}
    specs = [AssetSpec("s", "source")]
    for n in range(CHAIN):
        above = specs[-1].key
        specs.append(AssetSpec(f"a{n}", deps=(Dependency(above),), code_version="1"))
    _fold(view, GraphDeployed("", tuple(specs)), parts)
    for number in range(TIMES):
        _fold(view, SourceChanged("s", "", f"{number}"), parts)
        for n in range(CHAIN):
            began = perf_counter()
            decision = decide(view, view.recorded_at, 1)
            parts.setdefault("decision, one run to start", []).append(perf_counter() - began)
            (started,) = decision.starts
            _fold(view, started, parts)
            run = view.position
            _fold(view, Materialized(f"a{n}", "", run, f"{number}", "1"), parts)
            _fold(view, RunSucceeded(run), parts)
    del parts["fold of GraphDeployed"]
    return [_figure(what, seconds) for what, seconds in parts.items()]


def _fold(view: View, event: AnyEvent, parts: dict[str, list[float]]) -> None:
    recorded = Recorded(view.position + 1, view.recorded_at + 1_000_000, event)
    began = perf_counter()
    view.apply(recorded)
    parts.setdefault(f"fold of {type(event).__name__}", []).append(perf_counter() - began)
