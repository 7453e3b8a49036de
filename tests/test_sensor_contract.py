"""What every sensor promises (sensors/sensor.py), held by each kind through the real supervisor."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from freshet.engine.checkpoints import fold
from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    MessageRejected,
    Recorded,
    SensorFailed,
    SensorRecovered,
    SourceChanged,
)
from freshet.engine.memory import MemoryStream
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stream import EventStream
from freshet.engine.supervisor import supervise
from freshet.engine.valves import Valves
from freshet.projections.sensors import Pulse
from freshet.projections.view import View
from freshet.sensors.plugins import check_sensor
from freshet.sensors.sensor import MAX_BATCH_CHANGES
from tests.outsides import OUTSIDES, Expected, Hasty, Outside, days
from tests.streams import Gated

pytestmark = pytest.mark.anyio

PATIENCE_S = 60
"""Bound on every wait; what is waited for comes within milliseconds."""

BREAKABLE = [name for name, make in OUTSIDES.items() if make(Path()).can_break]

ROOT = Path(__file__).resolve().parent.parent


@asynccontextmanager
async def opened(name: str, folder: Path) -> AsyncIterator[Outside]:
    made = OUTSIDES[name](folder)
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=OUTSIDES)
async def outside(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Outside]:
    async with opened(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=["memory", "sqlite"])
async def stream(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventStream]:
    if request.param == "memory":
        yield MemoryStream()
    else:
        async with SqliteStream.open(tmp_path / "stream.db") as opened:
            yield opened


class Reading:
    """A sensor being read, as a daemon reads it, by a new process each time."""

    def __init__(self, outside: Outside, stream: EventStream) -> None:
        self.stream = stream
        self.rng = Hasty()
        self.pulse = Pulse()
        self._sensor = outside.sensor()

    async def supervise(self, view: View, valves: Valves) -> None:
        name = self._sensor.name
        await supervise(
            self._sensor,
            self.stream,
            self.rng,
            valves.of[name],
            health=view.sensors.health.get(name),
            pulse=self.pulse,
        )

    async def heed(self, view: View, valves: Valves) -> None:
        async for batch in self.stream.follow(view.position):
            for recorded in batch:
                view.apply(recorded)
                valves.heed(recorded, view)

    async def until(self, enough: Callable[[list[Recorded]], bool]) -> list[Recorded]:
        """All that is recorded, once it is enough."""
        found: list[Recorded] = []
        async for batch in self.stream.follow():
            found += batch
            if enough(found):
                break
        return found

    async def reported(self, *expected: Expected) -> None:
        """Wait until these are recorded."""
        await self.until(lambda found: not set(expected) - set(changes(found)))

    async def tried(self, times: int) -> None:
        """Wait until it was tried so often once more."""
        wanted = self.rng.waits + times
        while self.rng.waits < wanted:
            await anyio.sleep(0)


@asynccontextmanager
async def reading(outside: Outside, stream: EventStream) -> AsyncIterator[Reading]:
    """The sensor is read for as long as the block lasts."""
    read = Reading(outside, stream)
    view = await fold(stream)
    valves = Valves([outside.sensor().name], view.pauses)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read.supervise, view, valves)
            tasks.start_soon(read.heed, view, valves)
            yield read
            tasks.cancel_scope.cancel()


def changes(recorded: Sequence[Recorded]) -> list[Expected]:
    events = [r.event for r in recorded if isinstance(r.event, SourceChanged)]
    assert {event.asset for event in events} <= {days.key}
    return [Expected(event.partition, event.data_version) for event in events]


async def everything(stream: EventStream) -> list[Recorded]:
    return await stream.read(limit=stream.head)


async def count(stream: EventStream, kind: type[AnyEvent]) -> int:
    return sum(isinstance(r.event, kind) for r in await everything(stream))


async def assert_each_once(stream: EventStream, expected: Sequence[Expected]) -> None:
    assert Counter(changes(await everything(stream))) == Counter(expected)


async def settle(outside: Outside, stream: EventStream, n: int) -> Expected:
    """Read it as a new process does until one more change is in: whatever was still to come, or
    came twice, is in then.
    """
    last = await outside.change(n)
    async with reading(outside, stream) as read:
        await read.reported(last)
    return last


# --- exactly once ---------------------------------------------------------------------------------


async def test_each_change_is_recorded_once(outside: Outside, stream: EventStream) -> None:
    """Made before, while and between reading it."""
    expected = [await outside.change(n) for n in range(4)]
    async with reading(outside, stream) as read:
        await read.reported(*expected)
        expected += [await outside.change(n) for n in range(4, 8)]
        await read.reported(*expected)
    expected += [await outside.change(n) for n in range(8, 12)]
    expected.append(await settle(outside, stream, 12))
    await assert_each_once(stream, expected)


async def test_changes_come_with_the_cursor_in_bounded_appends(
    outside: Outside, tmp_path: Path
) -> None:
    stream = Gated()
    expected = [await outside.change(n) for n in range(20)]
    async with reading(outside, stream) as read:
        await read.reported(*expected)
    for events in stream.appends:
        kinds = Counter(type(event) for event in events)
        assert kinds[SourceChanged] <= MAX_BATCH_CHANGES
        assert kinds[CursorMoved] == 1


async def test_it_shows_that_it_works_when_there_is_nothing_new(outside: Outside) -> None:
    stream = MemoryStream()
    async with reading(outside, stream) as read:
        while not read.pulse.batches:
            await anyio.sleep(0)
        assert read.pulse.state == "running"
    assert await count(stream, SourceChanged) == 0


@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_at_any_moment_it_goes_on_from_there(outside: Outside, seed: int) -> None:
    """Before, in and after appends, and wherever else it just is: nothing is lost, nothing comes
    twice.
    """
    rng, stream = random.Random(seed), Gated()
    expected: list[Expected] = []
    for round_ in range(25):
        expected += [await outside.change(3 * round_ + n) for n in range(rng.randrange(1, 4))]
        stream.before = stream.after = None
        with anyio.CancelScope() as scope:
            way = rng.choice(["before", "after", "anywhere", "later"])
            async with reading(outside, stream) as read:
                if way == "before":
                    stream.before = scope.cancel
                elif way == "after":
                    stream.after = scope.cancel
                elif way == "later":
                    await read.reported(expected[-1])
                    scope.cancel()
                if way in ("before", "after"):
                    await anyio.sleep_forever()
                for _ in range(rng.randrange(100)):
                    await checkpoint()
    stream.before = stream.after = None
    expected.append(await settle(outside, stream, 1000))
    await assert_each_once(stream, expected)


@pytest.mark.parametrize("name", OUTSIDES)
async def test_killed_at_any_moment_it_goes_on_from_there(name: str, tmp_path: Path) -> None:
    """The process is killed by SIGKILL again and again while changes are made."""
    rng = random.Random(name)
    outside = OUTSIDES[name](tmp_path)
    await outside.open()
    expected: list[Expected] = []
    for round_ in range(4):
        expected += [await outside.change(10 * round_ + n) for n in range(6)]
        child = await anyio.to_thread.run_sync(start, name, tmp_path)
        try:
            assert child.stdout is not None  # it is a pipe
            before = int(child.stdout.readline())
            while int(child.stdout.readline()) < before + rng.randrange(1, 6):
                pass
            expected += [await outside.change(10 * round_ + 6 + n) for n in range(3)]
        finally:
            child.kill()
            child.communicate()
    async with SqliteStream.open(tmp_path / "stream.db") as stream:
        expected.append(await settle(outside, stream, 1000))
        await assert_each_once(stream, expected)
    await outside.close()


def start(name: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.outsides", name, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


# --- back-pressure --------------------------------------------------------------------------------


async def test_it_is_held_up_while_nothing_can_be_recorded(outside: Outside) -> None:
    """One batch waits to be recorded; no other is appended, nor its cursor moved, before that."""
    stream = Gated()
    stream.may = anyio.Event()
    expected = [await outside.change(n) for n in range(8)]
    async with reading(outside, stream) as read:
        await stream.appending.wait()
        expected += [await outside.change(n) for n in range(8, 16)]
        for _ in range(200):
            await checkpoint()
        assert (stream.entered, stream.head, read.pulse.batches) == (1, 0, 0)
        stream.may.set()
        await read.reported(*expected)
    await assert_each_once(stream, expected)


# --- what cannot count ----------------------------------------------------------------------------


async def test_what_cannot_count_is_named_once_and_holds_up_nothing(
    outside: Outside, stream: EventStream
) -> None:
    expected = [await outside.change(0)]
    items = [await outside.spoil(n) for n in range(2)]
    expected.append(await outside.change(1))
    async with reading(outside, stream) as read:
        await read.reported(*expected)
        await read.until(lambda found: len(rejections(found)) >= len(items))
    expected += [await settle(outside, stream, n) for n in (2, 3)]
    await assert_each_once(stream, expected)
    found = rejections(await everything(stream))
    assert len(found) == len(items)
    for item in items:
        (one,) = (event for event in found if item in event.item)
        assert one.reason


def rejections(recorded: Sequence[Recorded]) -> list[MessageRejected]:
    return [r.event for r in recorded if isinstance(r.event, MessageRejected)]


# --- failures -------------------------------------------------------------------------------------


@pytest.fixture(params=BREAKABLE)
async def breakable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Outside]:
    async with opened(request.param, tmp_path) as made:
        yield made


async def failures(stream: EventStream) -> tuple[int, int]:
    return await count(stream, SensorFailed), await count(stream, SensorRecovered)


async def test_an_outside_that_is_away_is_said_once_and_its_return_once(
    breakable: Outside, stream: EventStream
) -> None:
    """What changes meanwhile is recorded then."""
    expected = [await breakable.change(0)]
    async with reading(breakable, stream) as read:
        await read.reported(*expected)
        await breakable.break_()
        await read.tried(3)
        assert await failures(stream) == (1, 0)
        expected.append(await breakable.change(1))
        await breakable.repair()
        await read.reported(*expected)
    assert await failures(stream) == (1, 1)
    await assert_each_once(stream, expected)


async def test_an_outside_that_comes_back_without_news_has_recovered(breakable: Outside) -> None:
    stream = MemoryStream()
    await breakable.break_()
    async with reading(breakable, stream) as read:
        await read.tried(1)
        await breakable.repair()
        await read.until(lambda found: isinstance(found[-1].event, SensorRecovered))
    assert [type(r.event) for r in await everything(stream)] == [SensorFailed, SensorRecovered]


async def test_an_episode_that_outlasts_processes_is_said_once(
    breakable: Outside, stream: EventStream
) -> None:
    await breakable.break_()
    for _ in range(3):
        async with reading(breakable, stream) as read:
            await read.tried(2)
    assert await failures(stream) == (1, 0)
    await breakable.repair()
    await settle(breakable, stream, 0)
    assert await failures(stream) == (1, 1)


# --- people ---------------------------------------------------------------------------------------


async def test_from_the_earliest_everything_comes_again(outside: Outside) -> None:
    """Asked for while it is read; the request is gone from the cursor then."""
    stream = MemoryStream()
    expected = [await outside.change(n) for n in range(5)]
    async with reading(outside, stream) as read:
        await read.reported(*expected)
        asked = CursorMoved(outside.sensor().name, {"?from": "earliest"})
        (position,) = await stream.append([asked], actor="ana")
        await read.until(
            lambda found: not set(expected) - set(changes(found[position:])),
        )
    expected += [*expected, await settle(outside, stream, 5)]
    await assert_each_once(stream, expected)
    assert not any(item.startswith("?") for item in await stream.cursor(outside.sensor().name))


async def test_a_request_to_look_again_is_answered_and_repeats_nothing(outside: Outside) -> None:
    stream, name = MemoryStream(), outside.sensor().name
    expected = [await outside.change(0)]
    await outside.spoil(0)
    async with reading(outside, stream) as read:
        await read.reported(*expected)
        (rejected,) = rejections(await read.until(lambda found: bool(rejections(found))))
        item = f"?replay {rejected.item}"
        await stream.append([CursorMoved(name, {item: "1"})], actor="ana")
        while item in await stream.cursor(name):
            await anyio.sleep(0)
    expected.append(await settle(outside, stream, 1))
    await assert_each_once(stream, expected)


async def test_it_is_a_sensor_by_what_can_be_seen(outside: Outside) -> None:
    """The same name and sources each time it is defined; each `run` is independent."""
    first, second = outside.sensor(), outside.sensor()
    check_sensor(first, "it")
    assert (first.name, first.sources) == (second.name, second.sources)
    assert first.sources == (days.key,)


async def test_two_of_them_at_once_do_not_disturb_each_other(outside: Outside) -> None:
    """One definition read into two streams: everything is in both."""
    expected = [await outside.change(n) for n in range(5)]
    streams = MemoryStream(), MemoryStream()
    async with reading(outside, streams[0]) as one, reading(outside, streams[1]) as two:
        await one.reported(*expected)
        await two.reported(*expected)
    for stream in streams:
        await assert_each_once(stream, expected)
