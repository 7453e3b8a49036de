"""What runs and stores do at their worst, and what must not follow from it."""

import gc
import os
import sqlite3
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

import freshet as fr
from freshet.engine import checkpointing, sqlite, sqlite_file
from freshet.engine.errors import DefinitionError, StoreError, StreamError
from freshet.engine.events import ResultRefused, RunCancelled, RunFailed, SourceChanged
from freshet.engine.executors import invoke
from freshet.engine.intents import Intent, Intents
from freshet.engine.keys import AssetPartition
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_file import LOOK_S, Place
from freshet.engine.target import load_project
from tests.engine import Engine, engine, gated
from tests.test_recovery import began

pytestmark = pytest.mark.anyio

RAW = fr.source("raw")


async def failures(e: Engine) -> list[RunFailed]:
    return [r.event for r in await e.history() if isinstance(r.event, RunFailed)]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Large:
    """Stands for a table that a run has in memory."""


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("on_loop", [True, False])
@pytest.mark.parametrize("wish", [None, ValueError("bad"), fr.Retry("later"), SystemExit(1)])
async def test_what_a_run_held_goes_with_it_however_it_ends(
    wish: BaseException | None, on_loop: bool
) -> None:
    """Without the collector, which in a daemon seldom looks at what is old."""
    held: list[weakref.ref[Large]] = []

    def work() -> str:
        large = Large()
        held.append(weakref.ref(large))
        if wish is not None:
            raise type(wish)(*wish.args)
        return str(large)

    @fr.asset(key="made", deps=["raw"])
    async def made() -> str:
        return work()

    asset = made if on_loop else fr.asset(key="made", deps=["raw"])(work)
    async with engine(RAW, asset) as e:
        await e.change("raw", "1")
        await e.settled()
        assert [one() for one in held] == [None]


async def test_who_does_not_let_itself_be_cancelled_is_told_once_and_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(invoke, "CLEAN_UP_S", 0.05)
    told = 0
    at_work, let_go = anyio.Event(), anyio.Event()

    @fr.asset
    async def stubborn(raw: str) -> str:
        nonlocal told
        at_work.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except BaseException:
                told += 1
        return raw

    async with engine(RAW, stubborn) as e:
        await e.change("raw", "1")
        run = await e.live_run()
        await at_work.wait()
        await e.say(RunCancelled(run))
        while e.loop.runner.live:
            await anyio.sleep(0.01)
        assert told == 1
        assert await e.version("stubborn") is None
        let_go.set()
        await anyio.wait_all_tasks_blocked()
        assert await e.version("stubborn") is None


async def test_a_store_that_cannot_discard_ends_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, gate = gated()
    async with engine(RAW, slow) as e:

        def away(*_: object) -> None:
            raise StoreError("the store is away")

        await e.change("raw", "1")
        run = await e.live_run()
        monkeypatch.setattr(e.store, "discard", away)
        await e.say(RunCancelled(run))
        while e.loop.runner.live:
            await anyio.sleep(0)
        monkeypatch.undo()
        gate.set()
        await e.change("raw", "2")
        await e.quiet()
        assert e.status("slow").state == "fresh"


async def test_a_run_that_was_cancelled_has_one_end_and_costs_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while it published: that is refused and recorded as such; the version before, which
    the stream has stayed with, is not collected, though the store keeps one only.
    """
    entered, go_on = anyio.Event(), anyio.Event()
    real = fr.LocalStore.publish

    def publish(self: fr.LocalStore, staged: Any) -> None:
        if staged.run > 10:
            anyio.from_thread.run_sync(entered.set)
            anyio.from_thread.run(go_on.wait)
        real(self, staged)

    monkeypatch.setattr(fr.LocalStore, "publish", publish)

    @fr.asset
    def made(raw: str) -> str:
        return f"of {raw}"

    store = fr.LocalStore(tmp_path, keep=1)
    async with engine(RAW, made, store=store) as e:
        await e.change("raw", "1")
        await e.quiet()
        before = await e.version("made")
        assert before is not None
        for _ in range(10):
            await e.stream.append([SourceChanged("other", "", "x")])
        await e.change("raw", "2")
        await entered.wait()
        run = await e.live_run()
        at = e.stream.head
        await e.say(RunCancelled(run))
        go_on.set()
        while e.loop.runner.live:
            await anyio.sleep(0.001)
        assert [r.event for r in await e.history(at)] == [
            RunCancelled(run),
            ResultRefused(run, "it was being published when it was cancelled"),
        ]
        assert store.has(AssetPartition("made"), before.data_version)
        assert await e.version("made") == before


async def test_what_a_cancelled_run_published_before_a_kill_is_put_right_by_the_next_start(
    tmp_path: Path,
) -> None:
    """Of a run that has ended an intent is left: the file people look at becomes what the stream
    says; and of an intent that was cut off nothing remains.
    """
    place = await began(tmp_path)
    await place.finish()
    store = fr.LocalStore(tmp_path / "data")
    stray = store.stage(AssetPartition("below"), 3, "stray")
    store.publish(stray)
    assert (tmp_path / "data" / "below.txt").read_text() == "stray"
    intents = Intents(tmp_path / ".freshet" / "publishing")
    intents.write(Intent(3, (stray,), ()))
    (tmp_path / ".freshet" / "publishing" / "9.part").write_text("{")
    await place.finish()
    assert (tmp_path / "data" / "below.txt").read_text() == "left one right one"
    assert list((tmp_path / ".freshet" / "publishing").iterdir()) == []


@pytest.mark.parametrize(("returned", "fits"), [(None, False), (True, False), (3, True)])
async def test_nothing_and_truth_are_no_numbers(returned: object, fits: bool) -> None:
    """A forgotten `return` is not published as a value that was promised."""

    @fr.asset
    def number() -> int:
        return returned  # type: ignore[return-value]  # that is the point

    async with engine(number) as e:
        await e.settled()
        assert (await e.version("number") is not None) is fits
        assert [one.kind for one in await failures(e)] == ([] if fits else ["value"])


async def test_nothing_may_be_returned_where_it_is_said() -> None:
    @fr.asset
    def maybe() -> int | None:
        return None

    @fr.asset
    def elsewhere() -> None:
        return None

    async with engine(maybe, elsewhere) as e:
        await e.quiet()
        assert await failures(e) == []


@pytest.mark.parametrize("error", [fr.Fatal, fr.Fatal(), fr.Retry, fr.Retry()])
async def test_a_class_of_failure_needs_no_words(error: Any) -> None:
    @fr.asset
    def fails() -> None:
        raise error

    async with engine(fails) as e:
        await e.settled()
        assert [one.kind for one in await failures(e)] == [
            "fatal" if "Fatal" in repr(error) else "retry"
        ]


async def test_a_stream_whose_file_is_gone_is_written_no_more(tmp_path: Path) -> None:
    async with SqliteStream.open(tmp_path / "stream.db") as stream:
        await stream.append([SourceChanged("s", "", "1")])
        for path in tmp_path.glob("stream.db*"):
            path.unlink()
        await anyio.sleep(2 * LOOK_S)
        with pytest.raises(StreamError, match="is gone, or is another file now"):
            await stream.append([SourceChanged("s", "", "2")])


GONE = "is gone, or is another file now"


async def test_what_was_appended_just_after_the_file_went_is_told_at_the_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a look counts."""
    for module in (sqlite, sqlite_file):
        monkeypatch.setattr(module, "LOOK_S", 3600.0)
    stream: SqliteStream | None = None

    async def lose_it() -> None:
        nonlocal stream
        async with SqliteStream.open(tmp_path / "stream.db") as stream:
            await appended_after_a_loss(stream)

    with pytest.raises(StreamError, match=GONE):
        await lose_it()
    assert stream is not None
    assert not stream.failure


async def test_followers_are_told_that_the_file_is_gone(tmp_path: Path) -> None:
    async with SqliteStream.open(tmp_path / "stream.db") as stream:

        async def follow() -> None:
            await appended_after_a_loss(stream)
            async for _ in stream.follow(2):
                pass

        with anyio.fail_after(60), pytest.raises(StreamError, match=GONE):
            await follow()
        assert stream.failure


async def test_a_loss_during_a_long_commit_is_told_at_the_close(tmp_path: Path) -> None:
    """The look before it saw the file; another program's lock had it wait."""

    async def lose_it() -> None:
        async with SqliteStream.open(tmp_path / "stream.db") as stream:
            await stream.append([SourceChanged("s", "", "1")])
            await anyio.sleep(2 * LOOK_S)
            async with anyio.create_task_group() as tasks:
                with closing(sqlite3.connect(stream.path, isolation_level=None)) as db:
                    db.execute("BEGIN IMMEDIATE")
                    tasks.start_soon(stream.append, [SourceChanged("s", "", "2")])
                    await anyio.sleep(2 * LOOK_S)
                    for path in tmp_path.glob("stream.db*"):
                        path.unlink()
                    db.execute("ROLLBACK")

    with anyio.fail_after(60), pytest.raises(StreamError, match=GONE):
        await lose_it()


async def test_a_loop_that_stood_still_looks_before_it_appends(tmp_path: Path) -> None:
    async with SqliteStream.open(tmp_path / "stream.db") as stream:
        await stream.append([SourceChanged("s", "", "1")])
        for path in tmp_path.glob("stream.db*"):
            path.unlink()

        async def append() -> None:
            with pytest.raises(StreamError, match=GONE):
                await stream.append([SourceChanged("s", "", "2")])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append)
            await anyio.sleep(0)
            time.sleep(2 * LOOK_S)  # as an asset may do


async def appended_after_a_loss(stream: SqliteStream) -> None:
    """One event, then the file goes, then one more: refused only if that takes long."""
    await stream.append([SourceChanged("s", "", "1")])
    for path in stream.path.parent.glob("stream.db*"):
        path.unlink()
    await stream.append([SourceChanged("s", "", "2")])


async def test_appends_in_quick_succession_share_a_look_at_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes a tenth of a commit on a quick disk."""
    monkeypatch.setattr(sqlite_file, "LOOK_S", 0.05)
    now, looks, here = [0.0], list[Path](), tmp_path.stat()

    def look(path: Path) -> os.stat_result:
        looks.append(path)
        return here

    monkeypatch.setattr(sqlite_file, "monotonic", lambda: now[0])
    place = Place(tmp_path / "stream.db")
    monkeypatch.setattr(Path, "stat", look)
    for _ in range(100):
        place.check()
    assert looks == [tmp_path / "stream.db"]
    now[0] += LOOK_S
    place.check()
    assert len(looks) == 2


@pytest.mark.parametrize(
    "raised", ["class E(BaseException): pass\nraise E('x')", "raise SystemExit"]
)
def test_a_project_that_raises_whatever_it_is_does_not_load(tmp_path: Path, raised: str) -> None:
    (tmp_path / "broken.py").write_text(raised)
    with pytest.raises(DefinitionError, match="cannot be imported"):
        load_project(str(tmp_path / "broken.py"))


@pytest.mark.parametrize("options", [{"store": "data"}, {"stores": {"w": "x"}}, {"on_removed": 3}])
def test_what_is_no_store_and_no_hook_is_refused(options: Any) -> None:
    with pytest.raises(DefinitionError, match=r"is no store|is no function"):
        fr.Project([RAW], **options)


async def test_waiting_for_rest_and_for_the_last_run_do_not_take_each_others_news() -> None:
    slow, gate = gated()
    async with engine(RAW, slow) as e:
        await e.change("raw", "1")
        await e.live_run()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(e.loop.quiet)
                tasks.start_soon(e.loop.drained)
                tasks.start_soon(e.loop.quiet)
                await anyio.wait_all_tasks_blocked()
                gate.set()


async def test_a_process_that_cannot_be_started_costs_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = anyio.Event()

    async def no_memory(*_: object, **__: object) -> None:
        tried.set()
        raise OSError(12, os.strerror(12))

    monkeypatch.setattr(checkpointing.anyio, "run_process", no_memory)  # type: ignore[attr-defined]  # as it is called there
    keeper = checkpointing.Checkpointing(tmp_path / "stream.db", every=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        keeper._due.set()
        await tried.wait()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


def test_an_intent_reads_as_it_was_written(tmp_path: Path) -> None:
    intents = Intents(tmp_path)
    intents.write(Intent(7, (), ()))
    found = intents.read(7)
    assert found == Intent(7, (), ())
    assert msgspec.json.encode(found)


@pytest.mark.parametrize(
    "options",
    [{"assets": RAW}, {"slots": "4"}, {"checks": 3}, {"sensors": 3}, {"processes": 0}],
)
def test_slips_in_a_project_are_told_in_its_own_words(options: Any) -> None:
    with pytest.raises(DefinitionError, match="=") as caught:
        fr.Project(**{"assets": [RAW], **options})
    assert caught.value.hint


@pytest.mark.parametrize("options", [{"retries": "3"}, {"pools": 3}, {"max_changes": "1"}])
def test_slips_in_an_asset_are_told_in_its_own_words(options: Any) -> None:
    with pytest.raises(DefinitionError, match="asset 'made' has") as caught:

        @fr.asset(**options)
        def made() -> None: ...

    assert caught.value.hint


def test_a_process_ends_though_something_does_not_let_itself_be_cancelled() -> None:
    script = "\n".join(
        [
            "import time",
            "from freshet.engine.cli.run import _leave_after",
            "_leave_after(0.2)",
            "while True: time.sleep(1)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 0
