"""A full disk: the engine says so, waits, and goes on; nothing acknowledged is
lost, nothing is run twice.
"""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

import freshet as fr
from freshet.engine.definitions import Definitions
from freshet.engine.events import GraphDeployed, RunStarted, SourceChanged
from freshet.engine.loop import Loop
from freshet.engine.persist import persist
from freshet.engine.policies import Eager
from freshet.engine.resolution import resolve
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stores.memory import MemoryStore
from freshet.engine.stream import wall_clock
from freshet.projections.view import View
from tests.test_sqlite_stream import limit_pages

pytestmark = pytest.mark.anyio

PATIENCE_S = 60
PLENTY = 1 << 30
"""Pages: as good as no limit."""


async def fill(stream: SqliteStream) -> None:
    """Leave no page for another event of some size."""
    await stream.append([SourceChanged("filler", "", "1")])
    await limit_pages(stream, 1)  # SQLite takes the present size when told less


async def until_said(logs: Sequence[object], words: str) -> None:
    with anyio.fail_after(PATIENCE_S):
        while words not in str(logs):
            await anyio.sleep(0.01)


async def test_what_must_not_be_lost_waits_until_there_is_space(tmp_path: Path) -> None:
    """While the disk is full `persist` holds its caller up; afterwards the
    events are there once.
    """
    async with SqliteStream.open(tmp_path / "stream.db") as stream:
        await fill(stream)
        head = stream.head
        large = SourceChanged("s", "", "1", {"text": "x" * 50_000})
        with capture_logs() as logs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(persist, stream, [large])
                await until_said(logs, "cannot record")
                assert stream.head == head
                await limit_pages(stream, PLENTY)
        assert "the disk is full" in str(logs)
        assert "recording again" in str(logs)
        assert [r.event for r in await stream.read(head)] == [large]


async def test_a_run_that_cannot_be_recorded_is_started_once_there_is_space(tmp_path: Path) -> None:
    """The reactor stands still on a full disk, and starts the run exactly once
    when it may write.
    """
    source = fr.source("s")

    @fr.asset(metadata={"why": "long enough to need a page: " + "x" * 200})
    async def made(s: str) -> str:
        return s

    graph, assets = resolve([source, made], Eager())
    async with SqliteStream.open(tmp_path / "stream.db") as stream:
        await stream.append([GraphDeployed(graph.digest, tuple(graph.specs.values()))])
        while stream.head < 40:  # until the pages of the first events are full
            await stream.append([SourceChanged("s", "", str(stream.head), {"x": "y" * 90})])
        view = View()
        loop = Loop(view, stream, Definitions(assets, MemoryStore()), slots=1, clock=wall_clock)
        while view.position < stream.head:
            for recorded in await stream.read(view.position):
                view.apply(recorded)
        await limit_pages(stream, 1)
        with capture_logs() as logs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(persist, stream, [SourceChanged("s", "", "z" * 20_000)])
                await until_said(logs, "cannot record")
                tasks.start_soon(loop.run)
                await limit_pages(stream, PLENTY)
                with anyio.fail_after(PATIENCE_S):
                    while view.status("made", "") is None or view.runs.counts["succeeded"] < 1:
                        await anyio.sleep(0.01)
                    await loop.quiet()
                tasks.cancel_scope.cancel()
        started = [r.event for r in await stream.read(40) if isinstance(r.event, RunStarted)]
        versions = [event.targets[0].fingerprint for event in started]
        assert len(versions) == len(set(versions))
        status = view.status("made", "")
        assert status is not None
        assert status.state == "fresh"
