"""What every event stream promises, held by each kind of stream."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from freshet.engine.errors import ConflictError, RequestError, StreamError
from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    EngineStarted,
    EngineStopped,
    Materialized,
    Observed,
    Recorded,
    SourceChanged,
    Unknown,
)
from freshet.engine.memory import MemoryStream
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stream import MAX_BATCH, MAX_PENDING, RING_EVENTS, EventStream

pytestmark = pytest.mark.anyio

Clock = Callable[[], int]
Opener = Callable[[Path, Clock], AbstractAsyncContextManager[EventStream]]

WRITERS = 20
"""Tasks that append at the same time."""


class Ticks:
    """A clock whose next readings are given; the last one stays."""

    def __init__(self, *times: int) -> None:
        self.times = list(times)

    def __call__(self) -> int:
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


@asynccontextmanager
async def memory(path: Path, clock: Clock) -> AsyncIterator[EventStream]:
    stream = MemoryStream(clock)
    yield stream
    stream.close()


@asynccontextmanager
async def sqlite(path: Path, clock: Clock) -> AsyncIterator[EventStream]:
    async with SqliteStream.open(path, clock=clock) as stream:
        yield stream


@pytest.fixture(params=[memory, sqlite])
def opener(request: pytest.FixtureRequest) -> Opener:
    found: Opener = request.param
    return found


@pytest.fixture
def clock() -> Ticks:
    return Ticks(1_000)


@pytest.fixture
async def stream(opener: Opener, tmp_path: Path, clock: Ticks) -> AsyncIterator[EventStream]:
    async with opener(tmp_path / "stream.db", clock) as stream:
        yield stream


def change(n: int) -> SourceChanged:
    return SourceChanged("landing/flights", f"{n % 7}", f"v{n}")


def changes(first: int, count: int) -> list[SourceChanged]:
    return [change(n) for n in range(first, first + count)]


async def everything(stream: EventStream) -> list[Recorded]:
    return await stream.read(limit=stream.head)


async def followed(stream: EventStream, after: int, until: int) -> list[Recorded]:
    """What a follower sees until it has seen position `until`."""
    seen: list[Recorded] = []
    async for batch in stream.follow(after):
        assert 1 <= len(batch) <= MAX_BATCH
        seen += batch
        if seen[-1].position >= until:
            break
    return seen


class TestAppend:
    async def test_an_empty_stream_has_nothing(self, stream: EventStream) -> None:
        assert stream.head == 0
        assert await stream.read() == []
        assert await stream.at(0) is None
        assert await stream.at(1) is None
        assert await stream.cursor("files") == {}

    async def test_what_is_appended_is_read_back_at_dense_positions(
        self, stream: EventStream
    ) -> None:
        assert await stream.append([change(1)], actor="ana") == range(1, 2)
        done = Materialized("delays", run=1, data_version="d")
        assert await stream.append([change(2), done], key="k") == range(2, 4)
        assert stream.head == 3
        assert await stream.read() == [
            Recorded(1, 1_000, change(1), actor="ana", epoch=1),
            Recorded(2, 1_000, change(2), key="k", epoch=1),
            Recorded(3, 1_000, done, cause=1, epoch=1),
        ]

    async def test_an_append_of_nothing_appends_nothing(self, stream: EventStream) -> None:
        await stream.append([change(1)])
        assert await stream.append([], key="k") == range(2, 2)
        assert stream.head == 1
        assert await stream.append([change(2)], key="k") == range(2, 3)

    async def test_events_of_one_append_stay_together_however_many_append(
        self, stream: EventStream
    ) -> None:
        placed: dict[range, list[SourceChanged]] = {}

        async def append(writer: int) -> None:
            for turn in range(15):
                events = changes(1000 * writer + 10 * turn, 1 + turn % 3)
                placed[await stream.append(events)] = events

        async with anyio.create_task_group() as tasks:
            for writer in range(WRITERS):
                tasks.start_soon(append, writer)
        expected = {p: e for at, events in placed.items() for p, e in zip(at, events, strict=True)}
        found = await everything(stream)
        assert [item.position for item in found] == list(range(1, WRITERS * 30 + 1))
        assert {item.position: item.event for item in found} == expected

    async def test_recorded_times_never_go_back_though_the_clock_does(
        self, stream: EventStream, clock: Ticks
    ) -> None:
        clock.times = [50, 10, 60]
        for n in range(3):
            await stream.append([change(n)])
        assert [item.recorded_at for item in await stream.read()] == [50, 50, 60]

    async def test_an_unknown_type_is_kept_untouched(self, stream: EventStream) -> None:
        event = Unknown("TidesTurned", b'{"type":"TidesTurned","by":2}')
        await stream.append([event])
        assert [item.event for item in await stream.read()] == [event]

    @pytest.mark.parametrize(
        ("events", "options"),
        [
            ([change(n) for n in range(MAX_PENDING + 1)], {}),
            ([SourceChanged("a", "\udcff")], {}),
            ([EngineStarted("1")], {"actor": "\udcff"}),
            ([EngineStarted("1")], {"key": ""}),
            ([EngineStarted("1")], {"actor": ""}),
            ([Materialized("a", run=-1)], {}),
            ([Materialized("a", run=2**63)], {}),
            ([Unknown("SourceChanged", b"{}")], {}),
            ([Unknown("TidesTurned", b"no JSON")], {}),
            ([Unknown("TidesTurned", b'{"a":"\xff"}')], {}),
        ],
        ids=range(10),
    )
    async def test_what_cannot_be_stored_is_refused_and_the_stream_goes_on(
        self, stream: EventStream, events: list[AnyEvent | Unknown], options: dict[str, Any]
    ) -> None:
        with pytest.raises(RequestError):
            await stream.append([change(0), *events], **options)
        assert stream.head == 0
        assert await stream.append([change(1)]) == range(1, 2)


class TestKeysAndHeads:
    async def test_the_same_key_again_appends_nothing_and_returns_the_first_positions(
        self, stream: EventStream
    ) -> None:
        await stream.append([change(0)])
        assert await stream.append(changes(1, 3), key="k", expected=1) == range(2, 5)
        assert await stream.append(changes(1, 3), key="k", expected=1) == range(2, 5)
        assert await stream.append([change(9)], key="k") == range(2, 5)
        assert await stream.append([change(9)], key="other") == range(5, 6)
        assert [item.key for item in await stream.read()] == [None, "k", None, None, "other"]

    async def test_of_appends_with_one_key_at_the_same_time_one_is_recorded(
        self, stream: EventStream
    ) -> None:
        found: list[range] = []

        async def append(n: int) -> None:
            found.append(await stream.append([change(n), change(n)], key="k"))

        async with anyio.create_task_group() as tasks:
            for n in range(WRITERS):
                tasks.start_soon(append, n)
        assert found == [range(1, 3)] * WRITERS
        first, second = await everything(stream)
        assert first.event == second.event

    async def test_another_head_than_expected_is_a_conflict_and_appends_nothing(
        self, stream: EventStream
    ) -> None:
        assert await stream.append([change(1)], expected=0) == range(1, 2)
        with pytest.raises(ConflictError, match="is 1, not 0"):
            await stream.append([change(2)], expected=0)
        with pytest.raises(ConflictError, match="is 1, not 2"):
            await stream.append([change(2)], expected=2)
        assert await stream.append([change(2)], expected=1) == range(2, 3)

    async def test_an_append_that_loses_a_race_does_not_hinder_its_neighbours(
        self, stream: EventStream
    ) -> None:
        recorded: dict[int, range] = {}
        lost: list[int] = []

        async def append(n: int, expected: int | None) -> None:
            try:
                recorded[n] = await stream.append([change(n)], expected=expected)
            except ConflictError:
                lost.append(n)

        async with anyio.create_task_group() as tasks:
            for n in range(WRITERS):
                tasks.start_soon(append, n, 0 if n % 2 else None)
        assert all(positions.start == 1 for n, positions in recorded.items() if n % 2)
        assert sorted([*recorded, *lost]) == list(range(WRITERS))
        found = {item.position: item.event for item in await stream.read()}
        assert found == {positions.start: change(n) for n, positions in recorded.items()}
        assert sorted(found) == list(range(1, len(recorded) + 1))


class TestRead:
    async def test_reading_takes_a_start_a_limit_and_a_subject(self, stream: EventStream) -> None:
        await stream.append(changes(1, 30))
        assert [item.position for item in await stream.read(25)] == [26, 27, 28, 29, 30]
        assert [item.position for item in await stream.read(3, limit=2)] == [4, 5]
        assert await stream.read(30) == []
        assert await stream.read(99) == []
        assert await stream.read(limit=0) == []
        assert await stream.read(limit=-1) == []
        assert [item.position for item in await stream.read(-5, limit=1)] == [1]
        subject = "landing/flights@3"
        assert [item.position for item in await stream.read(subject=subject)] == [3, 10, 17, 24]
        found = await stream.read(3, limit=2, subject=subject)
        assert [item.position for item in found] == [10, 17]
        assert await stream.read(subject="landing/flights") == []
        assert await stream.read(subject=subject, limit=-1) == []

    async def test_at_gives_the_event_at_a_position(self, stream: EventStream) -> None:
        await stream.append(changes(1, 5))
        found = [await stream.at(position) for position in (-1, 0, 1, 5, 6)]
        events = [item.event if item else None for item in found]
        assert events == [None, None, change(1), change(5), None]

    async def test_changes_of_some_sources_come_in_order_whatever_lies_between(
        self, stream: EventStream
    ) -> None:
        """Whole sources and single partitions; not those whose keys only begin alike."""
        await stream.append(
            [
                SourceChanged("a", "", "1"),
                SourceChanged("ab", "", "1"),
                SourceChanged("a/b", "", "1"),
                SourceChanged("a", "x@y", "1"),
                Materialized("a", "x", 1, "1"),
                Observed("a", "x", "2"),
                CursorMoved("a", {"a": "1"}),
                SourceChanged("b", "x", "1"),
                SourceChanged("a-b", "x", "1"),
                SourceChanged("a", "z", ""),
            ]
        )

        async def found(*names: str, after: int = 0, until: int = 99, limit: int = 9) -> list[int]:
            events = await stream.changes(names, after, until, limit=limit)
            return [recorded.position for recorded in events]

        assert await found("a") == [1, 4, 6, 10]
        assert await found("a", "b") == [1, 4, 6, 8, 10]
        assert await found("a", after=1, until=9) == [4, 6]
        assert await found("a", "b", limit=2) == [1, 4]
        assert await found("c") == []

    async def test_a_cursor_is_the_fold_of_its_moves(self, stream: EventStream) -> None:
        await stream.append([change(1), CursorMoved("files", {"a": "1", "b": "1"})])
        await stream.append([CursorMoved("files", {"a": "2", "b": None, "c": None})])
        await stream.append([CursorMoved("other", {"a": "9"}), CursorMoved("other", {"b": "9"})])
        assert await stream.cursor("files") == {"a": "2"}
        assert await stream.cursor("other") == {"a": "9", "b": "9"}
        await stream.append([CursorMoved("other", {"a": None}), CursorMoved("other", {"a": "10"})])
        assert await stream.cursor("other") == {"a": "10", "b": "9"}

    async def test_a_cursor_moves_only_with_its_append(self, stream: EventStream) -> None:
        await stream.append([CursorMoved("files", {"a": "1"})], key="k")
        with pytest.raises(ConflictError):
            await stream.append([CursorMoved("files", {"a": "2"})], expected=9)
        await stream.append([CursorMoved("files", {"a": "3"})], key="k")
        assert await stream.cursor("files") == {"a": "1"}


class TestFollow:
    async def test_a_follower_sees_what_is_there_and_then_what_comes(
        self, stream: EventStream
    ) -> None:
        await stream.append(changes(1, 3))
        batches = stream.follow(1)
        assert [item.position for item in await anext(batches)] == [2, 3]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.append, changes(4, 2))
            assert [item.position for item in await anext(batches)] == [4, 5]

    async def test_a_follower_from_beyond_the_head_waits_for_what_lies_after(
        self, stream: EventStream
    ) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.append_singly, stream, 5)
            assert [item.position for item in await followed(stream, 3, 5)] == [4, 5]

    async def append_singly(self, stream: EventStream, count: int) -> None:
        for n in range(count):
            await stream.append([change(n)])

    async def test_followers_see_each_event_once_in_order_while_many_append(
        self, stream: EventStream
    ) -> None:
        seen: list[list[Recorded]] = []

        async def follow() -> None:
            seen.append(await followed(stream, 0, WRITERS * 30))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(follow)
            for _ in range(WRITERS):
                tasks.start_soon(self.append_singly, stream, 30)
        assert [item.position for item in seen[0]] == list(range(1, WRITERS * 30 + 1))
        assert seen == [await everything(stream)] * 3

    async def test_a_slow_follower_that_fell_behind_the_ring_misses_nothing(
        self, stream: EventStream
    ) -> None:
        await stream.append(changes(1, 2))
        batches = stream.follow()
        seen = list(await anext(batches))
        for start in range(3, RING_EVENTS + 2 * MAX_BATCH, 500):
            await stream.append(changes(start, 500))
        async for batch in batches:
            seen += batch
            if seen[-1].position == stream.head:
                break
        assert [item.event for item in seen] == changes(1, stream.head)
        assert [item.position for item in seen] == list(range(1, stream.head + 1))

    async def test_when_the_stream_is_closed_followers_finish_and_appends_are_refused(
        self, opener: Opener, tmp_path: Path
    ) -> None:
        seen: list[Recorded] = []

        async def follow(stream: EventStream) -> None:
            async for batch in stream.follow():
                seen.extend(batch)

        opened = opener(tmp_path / "stream.db", Ticks(5))
        async with anyio.create_task_group() as tasks, opened as stream:
            tasks.start_soon(follow, stream)
            await stream.append(changes(1, 2))
        assert [item.position for item in seen] == [1, 2]
        with pytest.raises(StreamError, match="closed"):
            await stream.append([EngineStopped()])


class TestCancellation:
    async def test_a_cancelled_append_is_all_there_or_not_at_all_and_the_stream_goes_on(
        self, stream: EventStream
    ) -> None:
        for pauses in range(8):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.append, changes(3 * pauses, 3))
                for _ in range(pauses):
                    await checkpoint()
                tasks.cancel_scope.cancel()
            await stream.append([EngineStopped(str(pauses))])
        found = [item.event for item in await everything(stream)]
        expected: list[AnyEvent | Unknown] = []
        for pauses in range(8):
            whole = changes(3 * pauses, 3)
            expected += whole if whole[0] in found else []
            expected.append(EngineStopped(str(pauses)))
        assert found == expected
