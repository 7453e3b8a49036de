"""What the supervisor does with any sensor, held with sensors that follow a script."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from freshet.engine import secrets, supervisor
from freshet.engine.errors import ConflictError, OutsideError, SensorError, StreamError
from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    MessageRejected,
    MessageSettled,
    SensorFailed,
    SensorRecovered,
    SourceChanged,
    Unknown,
)
from freshet.engine.memory import MemoryStream
from freshet.engine.stores.payloads import MAX_INLINE_BYTES, Payloads, payload_of
from freshet.engine.supervisor import FIRST_BACKOFF_S, MAX_BACKOFF_S, supervise
from freshet.engine.valves import Valve, Valves
from freshet.engine.virtual import VirtualLoop
from freshet.projections.sensors import Pulse, SensorHealth
from freshet.projections.view import View
from freshet.sensors.sensor import MAX_EXCERPT_CHARS, Batch, Rejection, Settlement
from tests.streams import Gated

pytestmark = pytest.mark.anyio

PATIENCE_S = 60
"""Bound on every wait; what is waited for comes at once."""

Step = Batch | BaseException | anyio.Event | float | None
"""Yield it; raise it; wait for it; sleep so long (s); end."""


class Hasty(random.Random):
    """Random numbers that make every wait as short as can be."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


class Scripted:
    """A sensor that does what it is told, step by step, however often it is started; then waits."""

    name = "scripted"
    sources = ("s",)

    def __init__(self, *steps: Step, answers: Sequence[str] = ()) -> None:
        self.script = list(steps)
        self.cursors: list[dict[str, str]] = []
        self.idle = anyio.Event()
        self.taken = 0
        self.answers = frozenset(answers)

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        self.cursors.append(dict(cursor))
        while self.script:
            step = self.script.pop(0)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, Batch):
                self.taken += 1
                yield step
            elif isinstance(step, anyio.Event):
                await step.wait()
            elif step is not None:
                await anyio.sleep(step)
            else:
                return
        self.idle.set()
        await anyio.sleep_forever()


@asynccontextmanager
async def supervised(
    sensor: Any, stream: MemoryStream, valve: Valve | None = None, **options: Any
) -> AsyncIterator[None]:
    """The sensor is read into the stream for as long as the block lasts."""
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                await supervise(sensor, stream, Hasty(), valve, **options)

            tasks.start_soon(read)
            yield
            tasks.cancel_scope.cancel()


def change(n: int) -> SourceChanged:
    return SourceChanged("s", f"p{n}", f"v{n}")


def batch(n: int) -> Batch:
    return Batch((change(n),), {"at": str(n)})


def moved(n: int) -> CursorMoved:
    return CursorMoved("scripted", {"at": str(n)})


def failed(error: str, hint: str = "", *, halted: bool = False) -> SensorFailed:
    return SensorFailed("scripted", error, hint, halted)


RECOVERED = SensorRecovered("scripted")


async def events_of(*steps: Step, **options: Any) -> list[list[AnyEvent | Unknown]]:
    """What is appended, in which appends, until the script is at its end."""
    stream, sensor = Gated(), Scripted(*steps)
    async with supervised(sensor, stream, **options):
        await sensor.idle.wait()
    return stream.appends


# --- recording ------------------------------------------------------------------------------------


async def test_changes_and_cursor_are_one_append() -> None:
    assert await events_of(batch(1), batch(2)) == [[change(1), moved(1)], [change(2), moved(2)]]


@pytest.mark.parametrize("known", [False, True])
async def test_changes_are_looked_through_only_while_there_are_secrets(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka brings tens of thousands of changes a second, and most projects have none to hide."""
    monkeypatch.setattr(secrets, "_known", {})
    if known:
        secrets.conceal("a-long-secret")
    looks = list[str]()

    def look(text: str) -> str:
        looks.append(text)
        return secrets.redact(text)

    monkeypatch.setattr(supervisor, "redact", look)
    ((found,),) = await events_of(Batch((SourceChanged("s", "", "1", {"x": "a-long-secret"}),)))
    assert found == SourceChanged("s", "", "1", {"x": "***" if known else "a-long-secret"})
    assert looks == (["x", "a-long-secret"] if known else [])


async def test_what_a_sensor_does_later_with_its_metadata_changes_nothing() -> None:
    mine = {"n": 1}
    stream, sensor = MemoryStream(), Scripted(Batch((SourceChanged("s", "", "1", mine),)))
    async with supervised(sensor, stream):
        await sensor.idle.wait()
        mine["n"] = 2
    (recorded,) = await stream.read()
    assert recorded.event == SourceChanged("s", "", "1", {"n": 1})


async def test_metadata_may_be_any_mapping() -> None:
    mine = MappingProxyType({"n": 1})
    events = await events_of(Batch((SourceChanged("s", "", "1", mine),)))
    assert events == [[SourceChanged("s", "", "1", {"n": 1})]]


async def test_a_batch_without_anything_records_nothing() -> None:
    assert await events_of(Batch(), Batch(), batch(1)) == [[change(1), moved(1)]]


async def test_a_sensor_is_not_asked_for_more_before_its_batch_is_durable() -> None:
    stream, sensor = Gated(), Scripted(batch(1), batch(2), batch(3))
    stream.may = anyio.Event()
    async with supervised(sensor, stream):
        await stream.appending.wait()
        await anyio.wait_all_tasks_blocked()
        assert (sensor.taken, stream.head) == (1, 0)
        stream.may.set()
        await sensor.idle.wait()
    assert (sensor.taken, stream.head) == (3, 6)


async def test_what_was_rejected_and_settled_is_recorded_with_the_cursor() -> None:
    """Excerpts are cut; names that are no text (files of other encodings) can be recorded."""
    rejected = Rejection("bad \udcff", "no \udcff day", "x" * 1000, {"size": 3})
    told = Batch((), {"at": "1"}, (rejected,), (Settlement("old \udcff"), Settlement("b", False)))
    (appended,) = await events_of(told)
    excerpt = "x" * (MAX_EXCERPT_CHARS - 1) + "…"
    assert [e for e in appended if not isinstance(e, MessageRejected)] == [
        MessageSettled("scripted", "old \\udcff"),
        MessageSettled("scripted", "b", accepted=False),
        moved(1),
    ]
    (one,) = (e for e in appended if isinstance(e, MessageRejected))
    assert (one.item, one.reason, one.metadata) == ("bad \\udcff", "no \\udcff day", {"size": 3})
    assert len(one.excerpt) <= MAX_EXCERPT_CHARS
    assert one.excerpt[:100] == excerpt[:100]


async def test_a_change_of_what_is_not_its_source_is_a_failure_and_not_recorded() -> None:
    stranger = Batch((change(1), SourceChanged("t", "", "v")), {"at": "1"})
    assert await events_of(stranger) == [[failed("ValueError: it reports t, none of its sources")]]


async def test_large_payloads_lie_beside_the_stream_before_they_are_named(tmp_path: Path) -> None:
    large = payload_of(b"x" * (MAX_INLINE_BYTES + 1))
    told = Batch((SourceChanged("s", "", "v", payload=large),))
    payloads = Payloads(tmp_path)
    ((recorded,),) = await events_of(told, payloads=payloads)
    assert isinstance(recorded, SourceChanged)
    assert recorded.payload is not None
    assert recorded.payload.form == "stored"
    assert payloads.content(recorded.payload) == b"x" * (MAX_INLINE_BYTES + 1)


# --- failures -------------------------------------------------------------------------------------


async def test_an_episode_of_crashes_is_one_event_and_its_end_one_more() -> None:
    """Recovered comes in the append of the first batch; a crash afterwards is a new episode."""
    crashes = OSError("away"), OSError("still away"), ValueError("otherwise")
    assert await events_of(batch(1), *crashes, batch(2), batch(3), OSError("again"), batch(4)) == [
        [change(1), moved(1)],
        [failed("OSError: away")],
        [change(2), moved(2), RECOVERED],
        [change(3), moved(3)],
        [failed("OSError: again")],
        [change(4), moved(4), RECOVERED],
    ]


async def test_an_empty_batch_is_enough_to_recover() -> None:
    assert await events_of(OSError("away"), Batch()) == [[failed("OSError: away")], [RECOVERED]]


async def test_after_a_crash_it_goes_on_from_the_stored_cursor() -> None:
    stream, sensor = Gated(), Scripted(batch(1), OSError(), batch(2), OSError())
    async with supervised(sensor, stream):
        await sensor.idle.wait()
    assert sensor.cursors == [{}, {"at": "1"}, {"at": "2"}]


@pytest.mark.parametrize(
    ("away", "told", "hint"),
    [
        (OutsideError("no topic 't'", cause="asked just now", hint="create it"),
         "no topic 't': asked just now", "create it"),
        (ConnectionRefusedError("refused"), "ConnectionRefusedError: refused", ""),
    ],
)  # fmt: skip
async def test_what_is_to_be_expected_is_said_in_a_line(
    away: Exception, told: str, hint: str
) -> None:
    """Each try is logged with the reason and what to do, and without a traceback; one that nobody
    could expect has a traceback, also in the middle of that.
    """
    with capture_logs() as logs:
        events = await events_of(away, away, ValueError("a bug"), ValueError("a bug"), batch(1))
    assert events[0] == [failed(told, hint)]
    line = {"event": "sensor cannot read", "log_level": "warning", "sensor": "scripted"}
    assert logs[:2] == [line | {"error": told, "hint": hint}] * 2
    assert [("exc_info" in entry, entry["event"]) for entry in logs[2:]] == [
        (True, "sensor crashed"),
        (False, "sensor crashed again"),
    ]


def hindered(error: str, hint: str = "") -> SensorFailed:
    return SensorFailed("scripted", error, hint, hindered=True)


async def test_a_trouble_is_one_event_and_its_end_one_more() -> None:
    """It is said once for as long as batches tell it, and again as it is another, or after a
    crash; the sensor goes on all the same.
    """
    away, other = Batch(trouble="a is missing", hint="make it"), Batch(trouble="b is missing")
    steps = Batch(), away, away, other, OSError("no"), other, Batch(), Batch()
    assert await events_of(*steps) == [
        [hindered("a is missing", "make it")],
        [hindered("b is missing")],
        [failed("OSError: no")],
        [hindered("b is missing")],
        [RECOVERED],
    ]


async def test_a_trouble_outlasts_the_process() -> None:
    """What the stream knows of it is not said again after a restart; a crash is."""
    known = SensorHealth("scripted", error="a is missing", hint="make it", hindered=True)
    away = Batch(trouble="a is missing", hint="make it")
    assert await events_of(away, OSError("no"), health=known) == [[failed("OSError: no")]]
    assert await events_of(Batch(), health=known) == [[RECOVERED]]


async def test_an_episode_outlasts_the_process() -> None:
    """What the stream knows of a failure is not said again after a restart; that it is over is."""
    known = SensorHealth("scripted", error="OSError: away")
    assert await events_of(OSError("away"), batch(1), health=known) == [
        [change(1), moved(1), RECOVERED]
    ]


async def test_a_sensor_that_ends_by_itself_has_failed() -> None:
    assert await events_of(None, batch(1)) == [
        [failed("it ended by itself")],
        [change(1), moved(1), RECOVERED],
    ]


class Unreadable(Exception):
    """An error that cannot even be told."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("crash", "told"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError(), "something it waited for was cancelled"),
        (Unreadable(), "Unreadable: (its text cannot be read)"),
        (OSError("name \udcff"), "OSError: name \\udcff"),
        (ConflictError("of another stream"), "ConflictError: of another stream"),
        (ExceptionGroup("two", [ExceptionGroup("", [OSError("one")])]), "OSError: one"),
        (OSError("long" * 1000), f"OSError: {'long' * 1000}"[:500]),
    ],
    ids=["exit", "cancelled", "unreadable", "not UTF-8", "stream", "group", "long"],
)
async def test_no_way_to_crash_gets_past_the_supervisor(crash: BaseException, told: str) -> None:
    assert await events_of(crash, batch(1)) == [
        [failed(told)],
        [change(1), moved(1), RECOVERED],
    ]


async def test_a_yield_of_nonsense_is_a_failure() -> None:
    class Nonsense(Scripted):
        async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Any, None]:
            if not self.cursors:
                self.cursors.append({})
                yield 7
            self.idle.set()
            await anyio.sleep_forever()

    stream, sensor = Gated(), Nonsense()
    async with supervised(sensor, stream):
        await sensor.idle.wait()
    assert stream.appends == [[failed("AttributeError: 'int' object has no attribute 'changes'")]]


async def test_a_task_of_the_sensor_that_crashes_while_its_batch_is_recorded() -> None:
    """The batch is recorded whole, then the crash counts, and it goes on."""

    class Busy(Scripted):
        async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
            self.cursors.append(dict(cursor))
            async with anyio.create_task_group() as tasks:
                if not cursor:
                    tasks.start_soon(self.crash)
                    yield batch(1)
                self.idle.set()
                await anyio.sleep_forever()

        async def crash(self) -> None:
            await stream.appending.wait()
            raise OSError("in a task")

    stream, sensor = Gated(), Busy()
    stream.may = anyio.Event()
    async with supervised(sensor, stream):
        await stream.appending.wait()
        await anyio.wait_all_tasks_blocked()
        stream.may.set()
        while len(sensor.cursors) < 2:
            await anyio.lowlevel.checkpoint()
    assert stream.appends == [[change(1), moved(1)], [failed("OSError: in a task")]]
    assert sensor.cursors == [{}, {"at": "1"}]


async def test_a_sensor_that_crashes_for_ever_holds_up_no_other() -> None:
    class Broken(Scripted):
        name = "broken"

        async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
            self.taken += 1
            if self.taken > 0:
                raise OSError("always")
            yield Batch()

    stream, broken, good = Gated(), Broken(), Scripted(*map(batch, range(50)))
    async with supervised(broken, stream), supervised(good, stream):
        await good.idle.wait()
        while broken.taken < 20:
            await anyio.lowlevel.checkpoint()
    events = [event for events in stream.appends for event in events]
    assert [e for e in events if isinstance(e, SourceChanged)] == [change(n) for n in range(50)]
    assert [e for e in events if isinstance(e, SensorFailed)] == [
        SensorFailed("broken", "OSError: always")
    ]


async def test_an_error_of_the_stream_ends_it() -> None:
    class Torn(MemoryStream):
        async def append(self, *args: Any, **options: Any) -> range:
            raise StreamError("torn")

    with pytest.raises(ExceptionGroup) as caught:
        await supervise(Scripted(batch(1)), Torn(), Hasty())
    assert [str(error) for error in caught.value.exceptions] == ["torn"]


# --- a person has to choose -----------------------------------------------------------------------


HALT = SensorError("the topic is another one", cause="its id", hint="--from earliest or latest")


def halt() -> SensorFailed:
    return failed(
        "the topic is another one: its id", "--from earliest or latest", halted=True
    )  # fmt: skip


@pytest.mark.parametrize("error", [HALT, ExceptionGroup("tasks", [OSError(), HALT])])
async def test_a_sensor_error_halts_until_somebody_stirs(error: Exception) -> None:
    stream, sensor, valve, pulse = Gated(), Scripted(error, batch(1)), Valve(), Pulse()
    async with supervised(sensor, stream, valve, pulse=pulse):
        await anyio.wait_all_tasks_blocked()
        assert (len(sensor.cursors), pulse.state) == (1, "halted")
        assert stream.appends == [[halt()]]
        valve.stir()
        await sensor.idle.wait()
    assert stream.appends[1:] == [[change(1), moved(1), RECOVERED]]


async def test_a_sensor_that_halts_again_after_somebody_chose_says_so() -> None:
    """What was chosen ended the first halt; that it did not help is news."""
    stream, sensor, valve = Gated(), Scripted(HALT, HALT, batch(1)), Valve()
    async with supervised(sensor, stream, valve):
        for _ in range(2):
            await anyio.wait_all_tasks_blocked()
            valve.stir()
        await sensor.idle.wait()
    assert stream.appends == [[halt()], [halt()], [change(1), moved(1), RECOVERED]]


async def test_to_stir_while_the_halt_is_being_recorded_is_enough() -> None:
    """Who answers before the question is written down is heard all the same."""
    stream, sensor, valve = Gated(), Scripted(HALT, batch(1)), Valve()
    stream.may = anyio.Event()
    async with supervised(sensor, stream, valve):
        await stream.appending.wait()
        valve.stir()
        stream.may.set()
        await sensor.idle.wait()
    assert len(sensor.cursors) == 2


async def test_a_halt_within_an_episode_of_crashes_is_said() -> None:
    stream, sensor = Gated(), Scripted(OSError("away"), HALT)
    async with supervised(sensor, stream):
        await anyio.wait_all_tasks_blocked()
    assert stream.appends == [[failed("OSError: away")], [halt()]]


async def test_a_halted_sensor_is_tried_once_by_a_new_daemon_which_says_nothing_new() -> None:
    stream, sensor = Gated(), Scripted(HALT)
    known = SensorHealth("scripted", error="the topic is another one", halted=True)
    async with supervised(sensor, stream, health=known):
        await anyio.wait_all_tasks_blocked()
    assert (len(sensor.cursors), stream.appends) == (1, [])


# --- a person has moved the cursor ----------------------------------------------------------------


async def heed(stream: MemoryStream, valves: Valves) -> None:
    """Fold the stream and turn valves, as the daemon's loop does."""
    view = View()
    async for recorded in stream.follow():
        for one in recorded:
            view.apply(one)
            valves.heed(one, view)


async def test_a_cursor_moved_by_somebody_else_starts_the_sensor_anew() -> None:
    """Its own moves do not; and it is told of the new place."""
    stream, sensor = Gated(), Scripted(batch(1), batch(2))
    valves = Valves(["scripted"], View().pauses)
    read = supervised(sensor, stream, valves.of["scripted"])
    async with read, anyio.create_task_group() as tasks:
        tasks.start_soon(heed, stream, valves)
        await sensor.idle.wait()
        assert sensor.cursors == [{}]
        sensor.idle = anyio.Event()
        await stream.append([moved(7)], actor="ana")
        await sensor.idle.wait()
        tasks.cancel_scope.cancel()
    assert sensor.cursors == [{}, {"at": "7"}]
    assert not any(isinstance(e, SensorFailed) for events in stream.appends for e in events)


@pytest.mark.parametrize(
    ("answers", "asked", "given"),
    [
        ([], {"?from": "earliest", "?replay x": "1"}, {}),
        ([], {"?from": "latest"}, {"at": "1", "b": "2"}),
        ([], {"?replay x": "1", "?replay y": "1"}, {"at": "1", "b": "2"}),
        (
            ["?from", "?replay "],
            {"?from": "earliest", "?replay x": "1"},
            {"at": "1", "b": "2", "?from": "earliest", "?replay x": "1"},
        ),
        (
            ["?from"],
            {"?from": "resume", "?replay x": "1"},
            {"at": "1", "b": "2", "?from": "resume"},
        ),
    ],
    ids=["earliest", "latest", "replay", "both known", "one known"],
)
async def test_what_people_ask_of_a_sensor_that_does_not_know_it_is_done_for_it(
    answers: list[str], asked: dict[str, str], given: dict[str, str]
) -> None:
    """From the earliest forgets the cursor; anything else only starts it anew. What a sensor
    answers itself it is given.
    """
    stream, sensor = Gated(), Scripted(answers=answers)
    await stream.append([CursorMoved("scripted", {"at": "1", "b": "2", **asked})])
    async with supervised(sensor, stream):
        await sensor.idle.wait()
    assert sensor.cursors == [given]
    assert await stream.cursor("scripted") == given


# --- time -----------------------------------------------------------------------------------------


def in_virtual_time(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Do the work for so many virtual seconds, then cancel it."""
    loop = VirtualLoop(1)
    task = loop.create_task(work)
    try:
        with capture_logs():  # a traceback for each crash takes longer than all the rest
            loop.run_to(seconds)
            task.cancel()
            loop.run_to(seconds)
        assert task.cancelled()
    finally:
        loop.close()


class Timed(Scripted):
    """It crashes after `works_s` each time, having yielded something or not."""

    def __init__(self, works_s: float, *, yields: bool) -> None:
        super().__init__()
        self.works_s, self.yields = works_s, yields
        self.begun: list[float] = []

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        self.begun.append(anyio.current_time())
        if self.yields:
            yield Batch()
        await anyio.sleep(self.works_s)
        raise OSError("away")

    def waits(self) -> list[float]:
        pairs = zip(self.begun, self.begun[1:], strict=False)
        return [after - before - self.works_s for before, after in pairs]


@pytest.mark.parametrize("yields", [False, True], ids=["never works", "works for a moment"])
def test_the_wait_between_two_tries_doubles_up_to_a_minute_with_jitter(yields: bool) -> None:
    sensor = Timed(0.1, yields=yields)
    in_virtual_time(supervise(sensor, MemoryStream(), random.Random(1)), 1000.0)
    bound = FIRST_BACKOFF_S
    waits = sensor.waits()
    assert len(waits) > 15
    for wait in waits:
        assert bound / 2 - 1e-3 <= wait <= bound + 1e-3
        bound = min(bound * 2, MAX_BACKOFF_S)
    assert len(set(waits)) == len(waits)


def test_a_sensor_that_works_for_long_is_tried_again_soon() -> None:
    sensor = Timed(100.0, yields=True)
    in_virtual_time(supervise(sensor, MemoryStream(), random.Random(1)), 2000.0)
    assert len(sensor.waits()) > 15
    assert all(wait <= FIRST_BACKOFF_S + 1e-3 for wait in sensor.waits())


async def test_its_pulse_says_how_it_is() -> None:
    go, pulse = anyio.Event(), Pulse()
    sensor = Scripted(go, Batch(behind=3), anyio.Event())
    async with supervised(sensor, Gated(), pulse=pulse, clock=lambda: 77):
        await anyio.wait_all_tasks_blocked()
        assert (pulse.state, pulse.seen_us, pulse.behind) == ("starting", 0, None)
        go.set()
        await anyio.wait_all_tasks_blocked()
        assert (pulse.state, pulse.seen_us, pulse.behind) == ("running", 77, 3)
