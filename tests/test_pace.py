"""Pace: on a quick disk a single append takes no trip to a thread, on others each one does."""

import math
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from freshet.engine import pace, sqlite, sqlite_file
from freshet.engine.errors import FencedError, StreamError
from freshet.engine.events import SourceChanged
from freshet.engine.pace import FEW_BYTES, QUICK_S, TRIALS, Pace
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_rows import write_group

pytestmark = pytest.mark.anyio


def news(version: int) -> list[SourceChanged]:
    return [SourceChanged("s", "", f"v{version}")]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each commit: was it made in the thread of the loop? There none waits for a lock."""
    here, seen = threading.get_ident(), []

    def seen_write(*given: object) -> object:
        seen.append(threading.get_ident() == here)
        *_, db = given
        assert isinstance(db, sqlite3.Connection)
        assert bool(db.execute("PRAGMA busy_timeout").fetchone()[0]) is not seen[-1]
        return write_group(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite, "write_group", seen_write)
    return seen


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a stream goes whose disk is always quick."""
    monkeypatch.setattr(pace, "QUICK_S", math.inf)
    return tmp_path / "stream.db"


async def warmed_up(stream: SqliteStream) -> None:
    for n in range(TRIALS):
        await stream.append(news(n))


@contextmanager
def another(path: Path, statement: str) -> Iterator[None]:
    """Another program has the file open meanwhile, after this statement."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement)
        yield


def test_a_disk_is_quick_once_it_has_shown_it_and_until_it_is_not() -> None:
    disk = Pace()
    for _ in range(TRIALS):
        assert not disk.quick
        disk.took(QUICK_S)
    assert disk.quick
    disk.took(QUICK_S)
    assert disk.quick
    disk.took(2 * QUICK_S)
    for _ in range(TRIALS):
        assert not disk.quick
        disk.took(0.0)
    assert disk.quick


def test_a_slow_one_among_the_trials_begins_them_anew() -> None:
    disk = Pace()
    for took in (*[0.0] * (TRIALS - 1), 1.0, *[0.0] * (TRIALS - 1)):
        disk.took(took)
    assert not disk.quick


def test_what_fails_counts_for_as_long_as_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, clock = Pace(), iter((1.0, 2.0))
    for _ in range(TRIALS):
        disk.took(0.0)
    monkeypatch.setattr(pace, "perf_counter", lambda: next(clock))
    with pytest.raises(ZeroDivisionError):
        disk.timed(lambda n: 1 / n, 0)
    assert not disk.quick


async def test_on_a_quick_disk_one_append_takes_no_thread_and_many_take_one(
    quick: Path, threads: list[bool]
) -> None:
    async with SqliteStream.open(quick) as stream:
        await warmed_up(stream)
        assert threads == [False] * TRIALS
        assert await stream.append(news(100)) == range(TRIALS + 1, TRIALS + 2)
        assert threads.pop()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.append, news(101))
            tasks.start_soon(stream.append, news(102))
        assert threads == [False] * (TRIALS + 1)
        assert [r.position for r in await stream.read()] == [*range(1, TRIALS + 4)]
        assert await stream.verify() == stream.head


async def test_on_a_slow_disk_the_loop_never_waits_for_a_sync(
    tmp_path: Path, threads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "QUICK_S", 0.0)
    async with SqliteStream.open(tmp_path / "stream.db") as stream:
        for n in range(3 * TRIALS):
            await stream.append(news(n))
    assert threads == [False] * 3 * TRIALS


async def test_who_was_superseded_is_told_so_without_a_thread_too(
    quick: Path, threads: list[bool]
) -> None:
    async with SqliteStream.open(quick) as stream:
        await warmed_up(stream)
        with another(quick, "UPDATE lease SET epoch = epoch + 1"):
            pass
        for _ in range(2):
            with pytest.raises(FencedError):
                await stream.append(news(100))
        assert threads == [*[False] * TRIALS, True]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), MemoryError()])
async def test_an_unknown_outcome_ends_the_stream_without_a_thread_too(
    quick: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    async with SqliteStream.open(quick) as stream:
        await warmed_up(stream)
        monkeypatch.setattr(sqlite, "write_group", broken)
        for _ in range(2):
            with pytest.raises(StreamError, match="it is unknown whether"):
                await stream.append(news(100))


async def test_a_large_append_goes_to_the_thread(quick: Path, threads: list[bool]) -> None:
    async with SqliteStream.open(quick) as stream:
        await warmed_up(stream)
        await stream.append([news(0)[0]] * 1000)
        await stream.append([SourceChanged("s", "", "x" * FEW_BYTES)])
        assert threads == [False] * (TRIALS + 2)


async def test_the_loop_does_not_wait_for_the_lock_of_another_program(
    quick: Path, threads: list[bool]
) -> None:
    """The append does, in the thread, and the loop turns meanwhile."""
    async with SqliteStream.open(quick) as stream:
        await warmed_up(stream)
        async with anyio.create_task_group() as tasks:
            with another(quick, "BEGIN IMMEDIATE"):
                tasks.start_soon(stream.append, news(100))
                while len(threads) < TRIALS + 2:  # tried here, then begun in the thread
                    await anyio.sleep(0.001)
                assert threads == [*[False] * TRIALS, True, False]
                assert stream.head == TRIALS
        assert stream.head == TRIALS + 1
        assert not stream.refusal
        await stream.append(news(101))
        assert not threads[-1], "it has to show again that it is quick"


async def test_a_file_locked_for_long_refuses_one_append_and_takes_the_next(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_MS", 10)
    async with SqliteStream.open(quick) as stream:
        await warmed_up(stream)
        locked = pytest.raises(StreamError, match="is locked by another program")
        with another(quick, "BEGIN IMMEDIATE"), locked:
            await stream.append(news(100))
        assert await stream.append(news(101)) == range(TRIALS + 1, TRIALS + 2)
