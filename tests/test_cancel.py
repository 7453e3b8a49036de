"""Cancelling: what runs is stopped, nothing of it is seen, and the same inputs are left alone."""

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import freshet as fr
from freshet.engine.events import Materialized, RunCancelled, RunStarted
from freshet.engine.keys import AssetPartition
from tests.engine import engine, gated
from tests.test_cli import Place

pytestmark = pytest.mark.anyio

RAW = fr.source("raw")


@pytest.mark.parametrize("made_by", ["loop", "thread"])
async def test_what_is_cancelled_publishes_nothing_and_is_left_alone(made_by: str) -> None:
    """Until there is something new; and the engine goes on, also where a thread cannot be ended."""
    began, go_on = threading.Event(), threading.Event()
    finished: list[str] = []
    slow = [True]

    async def on_loop(raw: str) -> str:
        if slow[0]:
            await anyio.sleep_forever()
        return raw

    def in_thread(raw: str) -> str:
        began.set()
        if slow[0]:
            go_on.wait(30)
        finished.append(raw)
        return raw

    asset = fr.asset(key="slow", retries=5)(on_loop if made_by == "loop" else in_thread)

    @fr.asset
    def below(slow: str) -> str:
        return slow

    async with engine(RAW, asset, below) as under_test:
        await under_test.change("raw", "1")
        run = await under_test.live_run()
        await under_test.say(RunCancelled(run, "a mistake"))
        while under_test.loop.runner.live:
            await anyio.sleep(0.001)
        slow[0] = False
        go_on.set()
        await under_test.settled()
        assert under_test.status("slow").activity == "failed"
        assert under_test.status("below").activity == "blocked"
        assert await under_test.runs() == ["slow"]
        await under_test.change("raw", "2")
        await under_test.quiet()
        assert under_test.status("below").state == "fresh"
        made = [r.event for r in await under_test.history() if isinstance(r.event, Materialized)]
        assert [one.run == run for one in made] == [False, False]
        value = await under_test.version("slow")
        assert value is not None
        assert under_test.store.load(AssetPartition("slow"), value.data_version, str) == "2"
        assert under_test.store._staged == {}


async def test_a_person_may_have_it_built_all_the_same() -> None:
    slow, gate = gated()
    async with engine(RAW, slow) as under_test:
        await under_test.change("raw", "1")
        await under_test.say(RunCancelled(await under_test.live_run()))
        gate.set()
        await under_test.settled()
        await under_test.demand("slow")
        await under_test.quiet()
        assert under_test.status("slow").state == "fresh"


async def test_a_run_that_has_ended_cannot_be_cancelled_any_more() -> None:
    @fr.asset
    def quick(raw: str) -> str:
        return raw

    async with engine(RAW, quick) as under_test:
        await under_test.change("raw", "1")
        await under_test.quiet()
        history = await under_test.history()
        run = next(r.position for r in history if isinstance(r.event, RunStarted))
        await under_test.say(RunCancelled(run, "too late"))
        await under_test.quiet()
        assert under_test.status("quick").state == "fresh"


PROJECT = """
import time
from pathlib import Path
import freshet as fr

raw = fr.source("raw")


@fr.asset
def slow(raw: str) -> str:
    while not Path("go").exists():
        time.sleep(0.01)
    return raw


project = fr.Project([raw, slow], sensors=[fr.files("raw.txt", source=raw, settle=0)])
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    yield found
    found.kill()


def test_at_the_command_line(place: Place) -> None:
    place.start()
    place.wait_for("GraphDeployed", "")
    idle = place.freshet("cancel", "slow")
    assert (idle.returncode, "nothing of 'slow' is running" in idle.stderr) == (2, True)
    (place.folder / "raw.txt").write_text("one")
    started = place.wait_for("RunStarted", "")
    done = place.freshet("cancel", "slow", "--reason", "the wrong file")
    assert done.returncode == 0, done.stderr
    assert "run of slow cancelled" in done.stderr
    assert place.wait_for("RunCancelled", "").event == RunCancelled(
        started.position, "the wrong file"
    )
    why = place.freshet("why", "slow").stdout
    assert "cancelled: the wrong file" in why
    odd = place.freshet("cancel", "99")
    assert (odd.returncode, "nothing of '99' is running" in odd.stderr) == (2, True)
    (place.folder / "go").touch()
    (place.folder / "raw.txt").write_text("another")
    place.wait_for("Materialized", "slow")
    place.stop()
    assert (place.folder / "data" / "slow.txt").read_text() == "another"
