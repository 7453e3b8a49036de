"""Poll: a function is asked for versions on a schedule, and only what differs is a change."""

import inspect
import random
import threading
from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import freshet as fr
from freshet.engine.digests import digest
from freshet.engine.errors import DefinitionError
from freshet.engine.events import CursorMoved, MessageSettled, SourceChanged
from freshet.engine.supervisor import supervise
from freshet.sensors.pace import LONGEST_SLEEP_S, Pacer
from freshet.sensors.poll import PollSensor
from freshet.sensors.sensor import MAX_BATCH_CHANGES, Batch
from freshet.sensors.versions import MAX_VERSION_CHARS, version_text
from tests.streams import Gated
from tests.test_supervisor import supervised

pytestmark = pytest.mark.anyio

PATIENCE_S = 60
"""Bound on a wait for something that comes at once."""

START_US = 1_767_262_020_000_000
"""2026-01-01 10:07 UTC."""

table = fr.source("table")
days = fr.source("days", partitions=fr.daily("2024-01-01", opens="data"))
names = fr.source("names", partitions=fr.dynamic())


class Time:
    """A clock that moves only while somebody sleeps, or as the test says."""

    def __init__(self) -> None:
        self.now = START_US
        self.naps: list[float] = []

    def clock(self) -> int:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += round(seconds * 1_000_000)
        await checkpoint()

    def minutes(self) -> float:
        return (self.now - START_US) / 60_000_000


def timed(sensor: PollSensor, time: Time) -> PollSensor:
    """The same sensor by another clock."""
    return PollSensor(sensor.polled, Pacer(sensor.polled.pace, time.clock, time.sleep))


class Looks:
    """A function that gives one answer after the other, and then always the last."""

    def __init__(self, *answers: Any, time: Time | None = None, takes_s: float = 0) -> None:
        self.answers = list(answers)
        self.time = time or Time()
        self.takes_s = takes_s
        self.at: list[float] = []
        self.__name__ = "looks"

    def __call__(self) -> Any:
        self.at.append(self.time.minutes())
        self.time.now += round(self.takes_s * 1_000_000)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def batches_of(
    sensor: PollSensor, count: int, cursor: Mapping[str, str] | None = None
) -> list[Batch]:
    found: list[Batch] = []
    with anyio.fail_after(PATIENCE_S):
        async with aclosing(sensor.run(cursor or {})) as batches:
            while len(found) < count:
                found.append(await anext(batches))
    return found


async def said(source: fr.Source, *answers: Any, **options: Any) -> list[dict[str, str]]:
    """What each look reports: partition to data version; `{}` for nothing."""
    looks = Looks(*answers)
    sensor = timed(fr.poll(looks, source=source, every="1m", **options), looks.time)
    return [
        {change.partition: change.data_version for change in batch.changes}
        for batch in await batches_of(sensor, len(answers))
    ]


# --- when -----------------------------------------------------------------------------------------


async def test_it_looks_at_once_and_then_every_so_often() -> None:
    looks = Looks("v")
    await batches_of(timed(fr.poll(looks, source=table, every="5m"), looks.time), 4)
    assert looks.at == [0, 5, 10, 15]


async def test_looks_that_were_missed_are_not_caught_up() -> None:
    """A look that takes longer than the pace is followed by one, at once."""
    looks = Looks("v", takes_s=750)
    await batches_of(timed(fr.poll(looks, source=table, every="5m"), looks.time), 3)
    assert looks.at == [0, 12.5, 25]


async def test_by_cron_it_looks_at_the_ticks_and_once_at_the_start() -> None:
    looks = Looks("v")
    await batches_of(timed(fr.poll(looks, source=table, cron="*/15 * * * *"), looks.time), 4)
    assert looks.at == [0, 8, 23, 38]


async def test_ticks_that_pass_during_a_look_are_not_caught_up() -> None:
    looks = Looks("v", takes_s=40 * 60)
    await batches_of(timed(fr.poll(looks, source=table, cron="*/15 * * * *"), looks.time), 3)
    assert looks.at == [0, 53, 98]


async def test_cron_is_by_the_clock_of_its_zone() -> None:
    looks = Looks("v")
    sensor = fr.poll(looks, source=table, cron="30 15 * * *", tz="Asia/Kolkata")
    await batches_of(timed(sensor, looks.time), 2)
    assert looks.at == [0, 24 * 60 - 7]


async def test_long_rests_are_slept_in_pieces() -> None:
    """A machine that was suspended looks soon after it wakes up."""
    looks = Looks("v")
    await batches_of(timed(fr.poll(looks, source=table, every="1h"), looks.time), 2)
    assert max(looks.time.naps) <= LONGEST_SLEEP_S
    assert sum(looks.time.naps) == 3600


# --- what -----------------------------------------------------------------------------------------


async def test_only_another_version_is_a_change() -> None:
    assert await said(table, "a", "a", None, "b", "a") == [
        {"": "a"},
        {},
        {},
        {"": "b"},
        {"": "a"},
    ]


async def test_of_partitions_only_those_that_differ_are_changes() -> None:
    first, second = {"2024-01-01": 1, "2024-01-02": 1}, {"2024-01-01": 1, "2024-01-02": 2}
    assert await said(days, first, second, {}, second) == [
        {"2024-01-01": "1", "2024-01-02": "1"},
        {"2024-01-02": "2"},
        {},
        {},
    ]


async def test_a_partition_whose_version_is_none_is_gone_once() -> None:
    here, gone = {"2024-01-01": "a"}, {"2024-01-01": None}
    assert await said(days, here, gone, gone, here) == [
        {"2024-01-01": "a"},
        {"2024-01-01": ""},
        {},
        {"2024-01-01": "a"},
    ]


async def test_absent_partitions_are_withdrawn_only_where_that_is_said() -> None:
    answers = {"2024-01-01": "a", "2024-01-02": "a"}, {"2024-01-02": "a"}
    assert await said(days, *answers, on_absent="keep") == [dict(answers[0]), {}]
    assert await said(days, *answers, on_absent="withdraw") == [
        dict(answers[0]),
        {"2024-01-01": ""},
    ]


async def test_nothing_new_withdraws_nothing() -> None:
    assert await said(days, {"2024-01-01": "a"}, None, on_absent="withdraw") == [
        {"2024-01-01": "a"},
        {},
    ]


async def test_changes_and_cursor_agree_and_a_restart_repeats_nothing() -> None:
    looks = Looks({"2024-01-01": "a", "2024-01-02": None, "2024-01-03": "c"})
    sensor = timed(fr.poll(looks, source=days, every="1m"), looks.time)
    (batch,) = await batches_of(sensor, 1, {"2024-01-02": "b", "2024-01-03": "c"})
    assert batch == Batch(
        (SourceChanged("days", "2024-01-02"), SourceChanged("days", "2024-01-01", "a")),
        {"2024-01-02": None, "2024-01-01": "a"},
    )


async def test_partitions_that_look_like_requests_are_partitions() -> None:
    odd = {"?from": "1", "!x": "2", "=y": "3", "?replay z": "4"}
    looks = Looks(odd)
    sensor = timed(fr.poll(looks, source=names, every="1m", on_absent="withdraw"), looks.time)
    (batch,) = await batches_of(sensor, 1)
    assert {c.partition: c.data_version for c in batch.changes} == odd
    assert not any(item.startswith(("?", "!")) for item in batch.cursor)
    cursor = {item: str(value) for item, value in batch.cursor.items()}
    assert await batches_of(sensor, 1, cursor) == [Batch()]


async def test_very_many_come_in_bounded_batches_each_once() -> None:
    versions = {f"k{n}": n for n in range(1234)}
    looks = Looks(versions, {})
    sensor = timed(fr.poll(looks, source=names, every="1m", on_absent="withdraw"), looks.time)
    found = await batches_of(sensor, 6)
    assert all(len(batch.changes) <= MAX_BATCH_CHANGES for batch in found)
    seen = [(c.partition, c.data_version) for batch in found for c in batch.changes]
    assert seen[:1234] == [(f"k{n}", str(n)) for n in range(1234)]
    assert seen[1234:] == [(f"k{n}", "") for n in range(1234)]


async def test_what_is_no_partition_is_rejected_once_until_it_is_one() -> None:
    """Also over restarts; when the definition admits it, it counts and is settled."""
    answer = {"2023-12-31": "a", "2024-01-01": "b"}
    late = timed(fr.poll(Looks(answer), source=days, every="1m"), Time())
    (batch,) = await batches_of(late, 1)
    assert [change.partition for change in batch.changes] == ["2024-01-01"]
    (rejected,) = batch.rejected
    assert rejected.item == "2023-12-31"
    assert "daily from 2024-01-01" in rejected.reason
    cursor = {item: str(value) for item, value in batch.cursor.items()}
    assert await batches_of(late, 1, cursor) == [Batch()]
    wider = fr.source("days", partitions=fr.daily("2023-01-01", opens="data"))
    early = timed(fr.poll(Looks(answer), source=wider, every="1m"), Time())
    (batch,) = await batches_of(early, 1, cursor)
    assert batch.changes == (SourceChanged("days", "2023-12-31", "a"),)
    assert [settled.item for settled in batch.settled] == ["2023-12-31"]
    assert batch.cursor == {"!2023-12-31": None, "2023-12-31": "a"}


async def test_what_was_rejected_and_is_gone_is_settled() -> None:
    looks = Looks({"no day": "a"}, {"no day": None})
    stream = Gated()
    sensor = timed(fr.poll(looks, source=days, every="1m"), looks.time)
    async with supervised(sensor, stream):
        while stream.head < 4:
            await checkpoint()
    settled = [e for events in stream.appends for e in events if isinstance(e, MessageSettled)]
    assert settled == [MessageSettled("poll:looks", "no day", accepted=False)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("abc", "abc"),
        ('"etag"', '"etag"'),
        (17, "17"),
        (1.5, "1.5"),
        (datetime(2024, 1, 1, 12, 30, tzinfo=UTC), "2024-01-01T12:30:00+00:00"),
        (
            datetime(2024, 1, 1, 14, 30, tzinfo=timezone(timedelta(hours=2))),
            "2024-01-01T12:30:00+00:00",
        ),
        (datetime(2024, 1, 1, 12, 30), "2024-01-01T12:30:00"),
        (date(2024, 1, 1), "2024-01-01"),
        (b"content", digest([b"content"])),
        ("x" * (MAX_VERSION_CHARS + 1), digest([b"x" * (MAX_VERSION_CHARS + 1)])),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_versions_become_the_same_text_each_time(value: object, text: str) -> None:
    assert version_text(value) == text


# --- the function ---------------------------------------------------------------------------------


async def test_it_is_told_what_the_last_look_said() -> None:
    told: list[object] = []

    def one(previous: str | None) -> str:
        told.append(previous)
        return f"v{len(told)}"

    def many(previous: Mapping[str, str]) -> dict[str, str]:
        told.append(previous)
        return {"2024-01-01": f"v{len(told)}"}

    await batches_of(timed(fr.poll(one, source=table, every="1m"), Time()), 3)
    assert told == [None, "v1", "v2"]
    told.clear()
    sensor = timed(fr.poll(many, source=days, every="1m"), Time())
    await batches_of(sensor, 2, {"2024-01-02": "x", "!no day": "rejected"})
    assert told == [{"2024-01-02": "x"}, {"2024-01-01": "v1", "2024-01-02": "x"}]


async def test_plain_functions_run_in_a_thread_and_async_ones_on_the_loop() -> None:
    threads: list[int] = []

    def plain() -> str:
        threads.append(threading.get_ident())
        return "v"

    async def on_loop() -> str:
        threads.append(threading.get_ident())
        return "v"

    for look in (plain, on_loop, partial(on_loop)):
        await batches_of(timed(fr.poll(look, source=table, every="1m", name="x"), Time()), 1)
    assert [thread == threading.get_ident() for thread in threads] == [False, True, True]


async def test_it_is_not_asked_again_before_its_answer_is_recorded() -> None:
    looks, stream = Looks("a", "b", "c"), Gated()
    stream.may = anyio.Event()
    sensor = timed(fr.poll(looks, source=table, every="1m"), looks.time)
    async with supervised(sensor, stream):
        await stream.appending.wait()
        for _ in range(100):
            await checkpoint()
        assert len(looks.at) == 1
        stream.may.set()
        while stream.head < 6:
            await checkpoint()


async def test_an_async_function_that_takes_too_long_fails_by_name() -> None:
    async def slow() -> str:
        await anyio.sleep_forever()
        return "never"

    sensor = fr.poll(slow, source=table, every="1m", timeout="10ms")
    with pytest.raises(TimeoutError, match=r"poll 'poll:slow' \(.*test_poll.py:\d+\) took longer"):
        await batches_of(sensor, 1)


async def test_a_thread_that_hangs_is_given_up_and_no_second_one_is_started() -> None:
    """Tries time out until it comes back; then looks go on."""
    free, calls = threading.Event(), []

    def hang() -> str:
        calls.append(1)
        free.wait(PATIENCE_S)
        return "v"

    sensor = fr.poll(hang, source=table, every="1m", timeout="10ms")
    try:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await batches_of(sensor, 1)
        assert len(calls) == 1
    finally:
        free.set()
    found: list[Batch] = []
    while not found:
        try:
            found = await batches_of(sensor, 1)
        except TimeoutError:
            continue
    assert found[0].changes == (SourceChanged("table", "", "v"),)


async def test_its_own_timeout_error_is_its_own() -> None:
    sensor = fr.poll(Looks(TimeoutError("of the database")), source=table, every="1m")
    with pytest.raises(TimeoutError, match="of the database"):
        await batches_of(sensor, 1)


@pytest.mark.parametrize(
    ("source", "answer", "words"),
    [
        (table, {"a": "1"}, "returned a dict; 'table' is unpartitioned.*return the version"),
        (days, "1", "returned a str; .*return a mapping of partition to version"),
        (days, {date(2024, 1, 1): "1"}, "returned the partition datetime.date"),
        (days, {"2024-01-01": ["1"]}, "returned no version for '2024-01-01': .*not a list"),
        (table, True, "returned no version: .*not a bool"),
        (table, "", "returned no version: an empty version; None says"),
        (table, float("nan"), "not a number"),
    ],
    ids=range(7),
)
async def test_an_answer_that_makes_no_sense_names_the_function_and_the_remedy(
    source: fr.Source, answer: object, words: str
) -> None:
    def look() -> object:
        return answer

    sensor = fr.poll(look, source=source, every="1m")  # type: ignore[arg-type]  # that is tested
    with pytest.raises((TypeError, ValueError), match=r"poll 'poll:look' \(.*test_poll.py:\d+\)"):
        await batches_of(sensor, 1)
    with pytest.raises((TypeError, ValueError), match=words):
        await batches_of(sensor, 1)


async def test_after_a_failure_it_goes_on_from_what_was_recorded() -> None:
    looks, stream = Looks({"2024-01-01": "a"}, OSError("away"), {"2024-01-01": "a"}), Gated()
    sensor = timed(fr.poll(looks, source=days, every="1m"), looks.time)
    async with supervised(sensor, stream):
        while stream.head < 4:
            await checkpoint()
    assert [type(e).__name__ for events in stream.appends for e in events] == [
        "SourceChanged",
        "CursorMoved",
        "SensorFailed",
        "SensorRecovered",
    ]


# --- declaring it ---------------------------------------------------------------------------------


async def test_it_is_a_decorator_too() -> None:
    @fr.poll(every="30s", source=table)
    def exchange_rates() -> int:
        return 7

    assert (exchange_rates.name, exchange_rates.sources) == ("poll:exchange_rates", ("table",))
    (batch,) = await batches_of(exchange_rates, 1)
    assert batch == Batch((SourceChanged("table", "", "7"),), {"=": "7"})
    fr.Project([table], sensors=[exchange_rates])


def declared(**options: Any) -> Callable[[], object]:
    return lambda: fr.poll(**{"function": lambda: "v", "source": table, "every": "1m", **options})


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (declared(every=None), "exactly one of them"),
        (declared(cron="* * * * *"), "exactly one of them"),
        (declared(every="1 fortnight"), "no length of time"),
        (declared(every=0), "too often"),
        (declared(every=None, cron="x"), "it has 1 field"),
        (declared(every=None, cron="* * * * *", tz="Mars/Olympus"), "no time zone"),
        (declared(source="table"), "no source"),
        (declared(timeout=0), "timeout=0"),
        (declared(on_absent="drop"), "'keep' or 'withdraw'"),
        (declared(function="v"), "no function"),
        (
            lambda: fr.Project(
                [table], sensors=[fr.poll(lambda a, b=1: a, source=table, every="1m")]
            ),
            "the function needs a",
        ),
    ],
    ids=range(11),
)
def test_a_declaration_that_makes_no_sense_is_refused(
    declare: Callable[[], object], words: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare()
    assert words in str(caught.value)
    assert caught.value.hint


def test_what_it_shows_of_itself_is_where_it_is_written() -> None:
    @fr.poll(every="30s", source=table)
    def rates() -> int:
        return 7

    assert repr(rates).startswith(f"<poll 'poll:rates' ({__file__}:")
    assert inspect.isasyncgenfunction(rates.run)


async def test_its_cursor_is_moved_in_the_append_of_its_changes() -> None:
    looks, stream = Looks({"2024-01-01": "a"}), Gated()
    sensor = timed(fr.poll(looks, source=days, every="1m"), looks.time)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, sensor, stream, random.Random(1))
        while not stream.appends:
            await checkpoint()
        tasks.cancel_scope.cancel()
    assert stream.appends == [
        [
            SourceChanged("days", "2024-01-01", "a"),
            CursorMoved("poll:looks", {"2024-01-01": "a"}),
        ]
    ]
