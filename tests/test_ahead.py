"""A long history is read by a process beside the one that folds it, and nothing depends on that."""

import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from freshet.engine import ahead
from freshet.engine.ahead import history
from freshet.engine.errors import StreamError
from freshet.engine.events import Recorded, SourceChanged, Unknown
from freshet.engine.memory import MemoryStream
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader

pytestmark = pytest.mark.anyio

EVENTS = 3000
"""Three batches."""


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MANY", 1000)
    monkeypatch.setattr(ahead, "FIRST", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "stream.db"
    async with SqliteStream.open(path) as stream:
        await stream.append([SourceChanged("ä", "", f"v{n}") for n in range(EVENTS - 2)])
        await stream.append([Unknown("Later", b'{"type":"Later"}')], key="once", actor="somebody")
        await stream.append([SourceChanged("ä", "", "last")])
    return path


def children() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [one for one in found if "freshet.engine.ahead" in one.cmdline()]


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[tuple[SqliteReader, list[str]]]:
    """A reader of the stream, and a list that gets a word whenever the stream itself is read."""
    read: list[str] = []
    async with SqliteReader.open(path) as stream:
        itself = stream.read

        async def noted(*args: Any, **options: Any) -> list[Recorded]:
            read.append("read")
            return await itself(*args, **options)

        stream.read = noted  # type: ignore[method-assign]  # of this one alone
        yield stream, read


async def taken(stream: Any, after: int = 0) -> list[Recorded]:
    async with aclosing(history(stream, after)) as batches:
        return [recorded async for batch in batches for recorded in batch]


async def test_what_is_read_ahead_is_what_is_in_the_stream(path: Path) -> None:
    """Also of types that are not known, with key and actor; and no process is left."""
    async with reading(path) as (stream, read):
        found = await taken(stream, 7)
        assert read == []  # all of it came from the process
        assert found == [r for n in range(7, EVENTS, 1000) for r in await stream.read(n)]
        assert [r.position for r in found] == list(range(8, EVENTS + 1))
    assert children() == []


async def test_the_first_ones_are_read_here_while_the_process_starts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "FIRST", 1500)
    async with reading(path) as (stream, read):
        assert [r.position for r in await taken(stream, 7)] == list(range(8, EVENTS + 1))
        assert len(read) == 2
        async with aclosing(history(stream, 0)) as batches:
            await anext(batches)
            assert len(children()) == 1
        assert children() == []


async def test_a_reader_ahead_that_is_killed_loses_nothing(path: Path) -> None:
    async with reading(path) as (stream, _), aclosing(history(stream, 0)) as batches:
        first = await anext(batches)
        for child in children():
            child.send_signal(signal.SIGKILL)
        rest = [recorded async for batch in batches for recorded in batch]
        assert [r.position for r in (*first, *rest)] == list(range(1, EVENTS + 1))


async def test_what_cannot_be_told_from_there_is_read_here(tmp_path: Path) -> None:
    """A number that MessagePack does not have."""
    path = tmp_path / "stream.db"
    async with SqliteStream.open(path) as stream:
        few = [SourceChanged("a", "", f"v{n}", {"n": n}) for n in range(EVENTS)]
        few[1500] = SourceChanged("a", "", "large", {"n": 2**70})
        await stream.append(few)
    async with reading(path) as (reader, read):
        found = await taken(reader)
        assert [one.event for one in found] == few
        assert read


async def test_damage_is_named_although_it_was_met_in_another_process(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER events_no_update")
        db.execute("UPDATE events SET actor = 'mallory' WHERE position = 2500")
    async with reading(path) as (stream, read):
        with pytest.raises(StreamError, match="damaged at position 2500"):
            await taken(stream)
        assert read  # the stream said so itself


async def test_whoever_stops_in_the_middle_leaves_no_process_behind(path: Path) -> None:
    async with reading(path) as (stream, _):
        async with aclosing(history(stream, 0)) as batches:
            await anext(batches)
            assert len(children()) == 1
        assert children() == []
        with anyio.move_on_after(0.01):  # also when it is cancelled
            await taken(stream)
        assert children() == []


@pytest.mark.parametrize("why", ["few events", "one processor", "no process can be started"])
async def test_the_stream_itself_is_read_where_a_process_is_of_no_use(
    path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async def refused(*_: Any, **__: Any) -> None:
        raise OSError("no more processes")

    match why:
        case "few events":
            monkeypatch.setattr(ahead, "MANY", EVENTS + 1)
        case "one processor":
            monkeypatch.setattr(os, "cpu_count", lambda: 1)
        case _:
            monkeypatch.setattr(anyio, "open_process", refused)
    async with reading(path) as (stream, read):
        assert len(await taken(stream)) == EVENTS
        assert read


async def test_a_stream_in_memory_is_read_itself() -> None:
    stream = MemoryStream()
    await stream.append([SourceChanged("s", "", f"v{n}") for n in range(EVENTS)])
    assert len(await taken(stream)) == EVENTS
