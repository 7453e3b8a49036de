"""Functions that misbehave: each way is a failure of its own kind, and the rest goes on."""

import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import freshet as fr
from freshet.engine.digests import digest
from freshet.engine.events import (
    Materialized,
    Recorded,
    ResultRefused,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.memory import MemoryStream
from freshet.engine.parts import FailureKind
from freshet.engine.specs import Plain
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def beside(*bad: fr.Asset | fr.Source) -> AsyncIterator[Engine]:
    """An engine with these definitions and a healthy chain; everything must settle."""
    healthy = fr.source("healthy")

    @fr.asset
    async def well(healthy: str) -> str:
        return healthy

    @fr.asset
    def better(well: str) -> str:
        return f"better than {well}"

    async with engine(healthy, *bad, well, better) as e:
        await e.change("healthy", "before")
        await e.settled()
        yield e
        # Whatever happened in the block: the rest of the graph still runs.
        at = e.stream.head
        await e.change("healthy", "after")
        await e.settled()
        runs = await e.runs(at)  # what is tried again by itself may be among them
        assert [name for name in runs if name in ("well", "better")] == ["well", "better"]
        assert await value(e, "better") == "better than after"


async def value(e: Engine, asset: str) -> object:
    version = await e.version(asset, "")
    assert version is not None
    return e.store.load(AssetPartition(asset, ""), version.data_version, None)


async def failures(e: Engine, asset: str) -> list[RunFailed]:
    """How the runs of this asset failed; none of them may have left anything else."""
    history = await e.history()
    runs = {
        r.position
        for r in history
        if isinstance(r.event, RunStarted) and r.event.targets[0].asset == asset
    }
    ends = [
        r.event
        for r in history
        if isinstance(r.event, RunFailed | RunSucceeded | Materialized) and r.event.run in runs
    ]
    failed = [event for event in ends if isinstance(event, RunFailed)]
    assert failed == ends
    return failed


async def only_failure(
    e: Engine, asset: str, kind: FailureKind, *, passing: bool = False
) -> RunFailed:
    """The one failure of the asset; one that passes by itself has a time of its next attempt."""
    (failed,) = await failures(e, asset)
    assert failed.kind == kind
    assert (failed.retry_at is not None) == passing
    assert e.status(asset).activity == ("retrying" if passing else "failed")
    return failed


async def test_an_exception_is_told_with_type_message_and_line() -> None:
    """Kind error: type and message in the error, file, line and text of the user's own line in
    the detail; sync and async alike.
    """

    @fr.asset
    def raises() -> str:
        raise ValueError("no such carrier")

    @fr.asset
    async def raises_too() -> str:
        raise ValueError("no such carrier")

    async with beside(raises, raises_too) as e:
        for asset in (raises, raises_too):
            failed = await only_failure(e, asset.key, "error")
            assert failed.error == "ValueError: no such carrier"
            line = asset.function.__code__.co_firstlineno + 2
            assert f'{__file__}", line {line}, in {asset.key}' in failed.detail
            assert 'raise ValueError("no such carrier")' in failed.detail


async def test_an_exception_that_cannot_be_printed_is_a_failure_all_the_same() -> None:
    """Kind error, for an exception whose own text raises, sync and async."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    @fr.asset
    def raises() -> str:
        raise Unspeakable

    @fr.asset
    async def raises_too() -> str:
        raise Unspeakable

    async with beside(raises, raises_too) as e:
        for asset in (raises, raises_too):
            failed = await only_failure(e, asset.key, "error")
            assert failed.error.startswith("Unspeakable")


async def test_a_value_of_another_type_than_promised_is_refused() -> None:
    """Kind value, naming both types; nothing is published."""

    @fr.asset
    def counts() -> int:
        return "seven"  # type: ignore[return-value]

    @fr.asset
    async def names() -> str:
        return 7  # type: ignore[return-value]

    async with beside(counts, names) as e:
        for asset, words in ((counts, ("int", "str")), (names, ("str", "int"))):
            failed = await only_failure(e, asset.key, "value")
            assert failed.error == (
                f"'{asset.key}' should return {words[0]} but returned {words[1]}"
            )
            assert (await e.version(asset.key, "")) is None


async def test_a_value_that_cannot_be_stored_is_refused() -> None:
    """Kind store, naming the type and what could be returned instead."""

    @fr.asset
    def handle() -> object:
        return threading.Lock()

    @fr.asset
    async def handle_too() -> object:
        return {"inside": object()}

    async with beside(handle, handle_too) as e:
        failed = await only_failure(e, "handle", "store")
        assert failed.error.startswith("a value of type _thread.lock cannot be stored")
        failed = await only_failure(e, "handle_too", "store")
        assert failed.error.startswith("a value of type builtins.dict cannot be stored")


@pytest.mark.parametrize("how", ["sys.exit", "KeyboardInterrupt", "GeneratorExit"])
async def test_an_asset_cannot_end_the_engine(how: str) -> None:
    """sys.exit is kind exit, the other ways out are kind error, sync and async; the engine
    lives on.
    """

    def leave() -> str:
        if how == "sys.exit":
            sys.exit(3)
        raise KeyboardInterrupt if how == "KeyboardInterrupt" else GeneratorExit

    @fr.asset
    def leaves() -> str:
        return leave()

    @fr.asset
    async def leaves_too() -> str:
        return leave()

    async with beside(leaves, leaves_too) as e:
        for asset in (leaves, leaves_too):
            if how == "sys.exit":
                failed = await only_failure(e, asset.key, "exit")
                assert failed.error == "called sys.exit(3)"
            else:
                failed = await only_failure(e, asset.key, "error")
                assert failed.error == f"{how}: "


async def test_a_thread_that_hangs_is_given_up_and_its_late_result_never_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kind timeout; when the function returns after all, its value is discarded, and that is
    recorded.
    """
    let_go, over = threading.Event(), threading.Event()

    @fr.asset(timeout="0.1s")
    def hangs() -> str:
        let_go.wait()
        return "too late"

    async with beside(hangs) as e:
        try:
            failed = await only_failure(e, "hangs", "timeout")
            assert failed.error == "still running after its timeout of 0.1 s"
            at = e.stream.head
            for ending in ("publish", "discard"):  # the last thing the thread does is one of them
                monkeypatch.setattr(e.store, ending, _then(getattr(e.store, ending), over))
        finally:
            let_go.set()
        await anyio.to_thread.run_sync(over.wait)
        monkeypatch.undo()
        while e.stream.head == at:
            await anyio.sleep(0)
        run = next(
            r.position
            for r in await e.history()
            if isinstance(r.event, RunStarted) and r.event.targets[0].asset == "hangs"
        )
        refused = [r.event for r in await e.history(at)]
        assert refused == [ResultRefused(run, "it succeeded")]
        assert (await e.version("hangs", "")) is None
        version = digest([b".txt", b"too late"])
        assert not e.store.has(AssetPartition("hangs", ""), version)
        assert e.loop.runner.left_behind == 1


def _then(call: Callable[[Any], None], over: threading.Event) -> Callable[[Any], None]:
    def calling(what: Any) -> None:
        call(what)
        over.set()

    return calling


async def test_a_coroutine_that_hangs_is_cancelled() -> None:
    """Kind timeout, and the function has seen its cancellation."""
    seen: list[str] = []

    @fr.asset(timeout="0.1s")
    async def hangs() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("cancelled")
        return "never"

    async with beside(hangs) as e:
        failed = await only_failure(e, "hangs", "timeout")
        assert failed.error == "still running after its timeout of 0.1 s"
        assert seen == ["cancelled"]
        assert e.loop.runner.left_behind == 0


def landed(path: Path) -> SourceChanged:
    """What a sensor would say of this file as it is now."""
    found = path.stat()
    place: dict[str, Plain] = {
        "path": str(path),
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
    }
    return SourceChanged("file", "", digest([path.read_bytes()]), place)


@asynccontextmanager
async def reading_a_file() -> AsyncIterator[Engine]:
    """A source that is a file, one asset that reads its text and one that is given its path."""
    file = fr.source("file")

    @fr.asset
    def text(file: str) -> str:
        return file

    @fr.asset
    def path(file: Path) -> str:
        return file.read_text()

    async with beside(file, text, path) as e:
        yield e


async def test_a_file_that_vanishes_before_it_is_read_is_an_input_failure(tmp_path: Path) -> None:
    """Kind input, naming parameter and file; the file back again as news makes it good."""
    file = tmp_path / "file.csv"
    file.write_text("first")
    async with reading_a_file() as e:
        news = landed(file)
        file.unlink()
        await e.say(news)
        await e.settled()
        for asset in ("text", "path"):
            failed = await only_failure(e, asset, "input", passing=True)
            assert f"parameter 'file': {file} cannot be read" in failed.error
        file.write_text("second")
        await e.say(landed(file))
        await e.settled()
        assert [await value(e, asset) for asset in ("text", "path")] == ["second", "second"]


async def test_a_file_that_is_not_what_was_announced_is_never_read(tmp_path: Path) -> None:
    """Kind input where text or path are wanted, even with size and time as announced for text."""
    file = tmp_path / "file.csv"
    file.write_text("first")
    async with reading_a_file() as e:
        news = landed(file)
        file.write_text("other")
        os.utime(file, ns=(0, 0))
        await e.say(news)
        await e.settled()
        failed = await only_failure(e, "text", "input", passing=True)
        assert "is not the recorded version any more" in failed.error
        failed = await only_failure(e, "path", "input", passing=True)
        assert failed.error == f"'{file}' changed while it was being read"


async def test_a_file_that_changed_and_changed_back_is_read_in_the_end(tmp_path: Path) -> None:
    """Other content while the run reads, the announced one again before anyone looks: no news
    will come, so the run is tried again by itself, though it has no retries.
    """
    file = tmp_path / "file.csv"
    file.write_text("first")
    source = fr.source("file")

    @fr.asset
    def text(file: str) -> str:
        return file

    async with engine(source, text) as e:
        news = landed(file)
        file.write_text("other")
        await e.say(news)
        await e.settled()
        await only_failure(e, "text", "input", passing=True)
        file.write_text("first")
        e.advance(10)
        await e.loop.act()
        await e.folded()
        await e.settled()
        assert await value(e, "text") == "first"
        assert e.status("text").state == "fresh"


async def test_a_file_that_is_no_text_is_an_input_failure(tmp_path: Path) -> None:
    """Kind input, naming the byte; the parameter annotated as bytes gets it all the same."""
    file = tmp_path / "file.csv"
    file.write_bytes(b"carrier\nM\xfcnchen\n")
    source = fr.source("file")

    @fr.asset
    def text(file: str) -> str:
        return file

    @fr.asset
    def raw(file: bytes) -> int:
        return len(file)

    async with beside(source, text, raw) as e:
        await e.say(landed(file))
        await e.settled()
        failed = await only_failure(e, "text", "input")
        assert f"{file} is no UTF-8 text" in failed.error
        assert "byte 9" in failed.error
        assert await value(e, "raw") == 16


def changes(history: Sequence[Recorded]) -> list[str]:
    return [r.event.data_version for r in history if isinstance(r.event, SourceChanged)]


async def test_an_event_appended_twice_under_one_key_is_one_record(tmp_path: Path) -> None:  # B4.5
    """Same positions both times, one record, also after the stream was closed and opened."""
    first, second = SourceChanged("s", "", "1"), SourceChanged("s", "", "2")
    memory = MemoryStream()
    positions = await memory.append([first], key="once")
    assert await memory.append([first], key="once") == positions
    assert changes(await memory.read()) == ["1"]
    path = tmp_path / "stream.db"
    for _ in range(2):
        async with SqliteStream.open(path) as stream:
            assert await stream.append([first], key="once") == range(1, 2)
            assert await stream.append([first], key="once") == range(1, 2)
    async with SqliteStream.open(path) as stream:
        assert await stream.append([second], key="again") == range(2, 3)
    async with SqliteReader.open(path) as reader:
        assert await reader.verify() == 2
        assert changes(await reader.read()) == ["1", "2"]
