"""Pauses: what they hold, when they end by themselves, and sensors that stand still meanwhile."""

import json
import random
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import freshet as fr
from freshet.engine.cli.main import run
from freshet.engine.cli.pause import end_us
from freshet.engine.errors import RequestError
from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    EngineStarted,
    GraphDeployed,
    Paused,
    Recorded,
    Resumed,
    SensorFailed,
    SourceChanged,
)
from freshet.engine.specs import AssetSpec
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.supervisor import supervise
from freshet.engine.valves import Valve
from freshet.projections.pauses import (
    TIME_IS_OVER,
    PauseRow,
    Pauses,
    ended_pauses,
    next_end,
    pause_rows,
)
from freshet.sensors.sensor import Batch
from tests.engine import engine
from tests.streams import Gated
from tests.test_cli import Place

HOUR = 3_600_000_000
NOW = 1_700_000_000_000_000

PATIENCE_S = 30
"""Bound on waits that take milliseconds when nothing is wrong."""


# --- the fold -------------------------------------------------------------------------------------


def fold(*events: AnyEvent) -> Pauses:
    """Pauses after these events, at positions 1, 2, 3 …"""
    pauses = Pauses()
    for position, event in enumerate(events, 1):
        pauses.apply(Recorded(position, NOW + position, event, actor="ana"))
    return pauses


def test_a_pause_ends_when_its_time_has_come_and_not_before() -> None:
    """The first due first, each naming its pause; those without an end stay."""
    pauses = fold(Paused("*"), Paused("b", "", 20), Paused("a", "", 10), Paused("c", "", 30))
    assert next_end(pauses) == 10
    assert ended_pauses(pauses, 9) == ()
    assert ended_pauses(pauses, 10) == (Resumed("a", TIME_IS_OVER, 3),)
    ended = ended_pauses(pauses, 20)
    assert ended == (Resumed("a", TIME_IS_OVER, 3), Resumed("b", TIME_IS_OVER, 2))
    for position, event in enumerate(ended, 5):
        pauses.apply(Recorded(position, NOW, event))
    assert ended_pauses(pauses, 20) == ()
    assert next_end(pauses) == 30
    assert list(pauses.scopes) == ["*", "c"]


def test_pausing_again_replaces_the_pause_and_its_end() -> None:
    """A later end, an earlier one, or none: only the newest counts."""
    again = [fold(Paused("a", "", 10), Paused("a", "", end)) for end in (20, 5, None)]
    assert [next_end(pauses) for pauses in again] == [20, 5, None]
    assert [ended_pauses(pauses, 10) for pauses in again] == [
        (),
        (Resumed("a", TIME_IS_OVER, 2),),
        (),
    ]


def test_the_end_of_a_pause_leaves_alone_the_one_that_replaced_it() -> None:
    """Recorded while the engine was deciding: the new pause holds; a person's resume ends any."""
    first = fold(Paused("a", "", 10))
    (ended,) = ended_pauses(first, 10)
    replaced = fold(Paused("a", "", 10), Paused("a", "again", 99), ended)
    assert next_end(replaced) == 99
    assert list(fold(Paused("a", "", 10), Paused("a", "again", 99), Resumed("a")).scopes) == []


SCOPES = st.sampled_from(["*", "a", "b", "group:x", "sensor:s"])
HAPPENINGS = st.one_of(
    st.builds(Paused, SCOPES, st.just(""), st.none() | st.integers(0, 20)),
    st.builds(Resumed, SCOPES, st.just(""), st.integers(0, 5)),
)


@given(st.lists(HAPPENINGS, max_size=30), st.integers(0, 20))
def test_what_is_due_is_what_a_look_at_every_pause_finds(
    events: Sequence[AnyEvent], now: int
) -> None:
    """After any history: the newest pause of each scope not resumed since, and the first end."""
    held: dict[str, tuple[int, int | None]] = {}
    for position, event in enumerate(events, 1):
        if isinstance(event, Paused):
            held[event.scope] = (position, event.until)
        elif isinstance(event, Resumed) and event.pause in (0, held.get(event.scope, (0,))[0]):
            held.pop(event.scope, None)
    ends = [until for _, until in held.values() if until is not None]
    pauses = fold(*events)
    assert {scope: pause.position for scope, pause in pauses.scopes.items()} == {
        scope: position for scope, (position, _) in held.items()
    }
    assert next_end(pauses) == min(ends, default=None)
    due = {scope for scope, (_, until) in held.items() if until is not None and until <= now}
    ended = ended_pauses(pauses, now)
    assert {event.scope for event in ended} == due
    assert all(event.pause == held[event.scope][0] for event in ended)


def test_pauses_are_shown_with_who_why_and_until_when() -> None:
    """All of them, or those that hold some assets, or the sensors that feed these."""
    pauses = fold(Paused("group:x", "repair", 10), Paused("b"), Paused("sensor:s"), Paused("*"))
    rows = pause_rows(pauses)
    assert rows[0] == PauseRow("group:x", "repair", "ana", 1, NOW + 1, 10)
    assert [row.scope for row in rows] == ["group:x", "b", "sensor:s", "*"]
    a, b = AssetSpec("a", group="x"), AssetSpec("b", kind="source")
    feeds = {"s": ("b",), "other": ("a",)}
    assert [row.scope for row in pause_rows(pauses, [a], feeds)] == ["group:x", "*"]
    assert [row.scope for row in pause_rows(pauses, [b], feeds)] == ["b", "sensor:s", "*"]
    assert pause_rows(fold(), [a, b], feeds) == ()


# --- the engine -----------------------------------------------------------------------------------


def pair() -> tuple[fr.Source, fr.Asset]:
    source = fr.source("s")

    @fr.asset(group="x")
    async def a(s: str) -> str:
        return s

    return source, a


@pytest.mark.anyio
@pytest.mark.parametrize("scope", ["a", "group:x", "*"])
async def test_five_changes_during_a_pause_are_paid_by_one_run(scope: str) -> None:
    """The debt accrues, nothing starts, and on resume the asset runs once, with the newest."""
    async with engine(*pair()) as e:
        await e.change("s", "0")
        await e.quiet()
        await e.say(Paused(scope, "repair"))
        before = e.stream.head
        for version in "12345":
            await e.change("s", version)
        await e.loop.act()
        assert await e.runs(before) == []
        assert e.status("a").activity == "paused"
        await e.say(Resumed(scope))
        await e.quiet()
        assert await e.runs(before) == ["a"]
        assert e.status("a").state == "fresh"


@pytest.mark.anyio
async def test_a_pause_with_an_end_is_over_by_itself_once() -> None:
    """The engine wakes, records the end of this pause, and pays the debt with one run."""
    async with engine(*pair()) as e:
        await e.change("s", "0")
        await e.quiet()
        paused = e.stream.head + 1
        await e.say(Paused("a", "repair", e.now + HOUR))
        await e.change("s", "1")
        await e.change("s", "2")
        e.advance(3590)
        await e.loop.act()
        assert await e.runs(paused) == []
        e.advance(20)
        await e.loop.act()
        with anyio.fail_after(PATIENCE_S):
            while e.status("a").state != "fresh":
                await anyio.sleep(0.001)
        await e.quiet()
        await e.loop.act()
        resumed = [r for r in await e.history() if isinstance(r.event, Resumed)]
        assert [r.event for r in resumed] == [Resumed("a", TIME_IS_OVER, paused)]
        assert await e.runs(paused) == ["a"]


# --- sensors --------------------------------------------------------------------------------------


class Numbers:
    """A sensor that reports the numbers it is sent, each once, from its cursor on."""

    name = "numbers"
    sources = ("s",)

    def __init__(self) -> None:
        self.numbers: list[str] = []
        self.sent = anyio.Event()
        self.started = self.ended = 0
        self.stays = False

    def send(self, number: str) -> None:
        self.numbers.append(number)
        self.sent.set()

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        self.started += 1
        at = int(cursor.get("at", "0"))
        try:
            async with anyio.create_task_group() as tasks:  # as one that listens has
                tasks.start_soon(anyio.sleep_forever)
                while True:
                    while at < len(self.numbers):
                        change = SourceChanged("s", "", self.numbers[at])
                        at += 1
                        yield Batch((change,), {"at": str(at)})
                    self.sent = anyio.Event()
                    await self.sent.wait()
        except anyio.get_cancelled_exc_class():
            if not self.stays:
                raise
        finally:
            self.ended += 1


class SlowStream(Gated):
    """A stream that takes as long to append as it is told."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)

    async def versions(self) -> list[str]:
        events = [r.event for r in await self.read()]
        assert not any(isinstance(event, SensorFailed) for event in events)
        return [event.data_version for event in events if isinstance(event, SourceChanged)]


@pytest.mark.anyio
@pytest.mark.parametrize("stays", [False, True], ids=["cancelled", "ends by itself"])
async def test_a_paused_sensor_is_ended_in_order_and_goes_on_from_its_cursor(stays: bool) -> None:
    """It cleans up, is no failure, is not started meanwhile, and misses and repeats nothing."""
    stream, sensor, valve = SlowStream(), Numbers(), Valve()
    sensor.stays = stays
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, sensor, stream, random.Random(1), valve)
        with anyio.fail_after(PATIENCE_S):
            sensor.send("1")
            while stream.head < 2:
                await anyio.sleep(0)
            valve.turn(is_open=False)
            valve.turn(is_open=False)
            while not sensor.ended:
                await anyio.sleep(0)
            for number in "234":
                sensor.send(number)
            await anyio.wait_all_tasks_blocked()
            assert sensor.started == 1
            assert await stream.versions() == ["1"]
            valve.turn(is_open=True)
            while stream.head < 8:
                await anyio.sleep(0)
        assert await stream.versions() == ["1", "2", "3", "4"]
        assert (sensor.started, sensor.ended) == (2, 1)
        tasks.cancel_scope.cancel()
    assert sensor.ended == 2


@pytest.mark.anyio
async def test_what_is_being_recorded_when_a_sensor_is_paused_is_recorded_once() -> None:
    """Paused and resumed in the middle of an append: no change is lost, and none comes twice."""
    stream, sensor, valve = SlowStream(), Numbers(), Valve()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, sensor, stream, random.Random(1), valve)
        with anyio.fail_after(PATIENCE_S):
            stream.may = anyio.Event()
            sensor.send("1")
            sensor.send("2")
            await stream.appending.wait()
            valve.turn(is_open=False)
            stream.may.set()
            await anyio.wait_all_tasks_blocked()
            # The second was yielded at once, before the sensor waited for anything: taken, too.
            assert await stream.versions() == ["1", "2"]
            assert sensor.ended == 1
            sensor.send("3")
            stream.may, stream.appending = anyio.Event(), anyio.Event()
            valve.turn(is_open=True)
            await stream.appending.wait()
            valve.turn(is_open=False)
            valve.turn(is_open=True)
            stream.may.set()
            await anyio.wait_all_tasks_blocked()
        assert await stream.versions() == ["1", "2", "3"]
        assert dict(await stream.cursor("numbers")) == {"at": "3"}
        assert (sensor.started, sensor.ended) == (3, 2)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_sensor_that_is_paused_from_the_start_is_not_read() -> None:
    """Its `run` is not even called, and a pause does not keep the supervisor from ending."""
    stream, sensor = SlowStream(), Numbers()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, sensor, stream, random.Random(1), Valve(is_open=False))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert (sensor.started, stream.head) == (0, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("shut", [False, True])
async def test_a_supervisor_that_cannot_record_can_still_be_ended(shut: bool) -> None:
    """Cancelled while an append takes for ever, as on a full disk: nothing is recorded."""
    stream, valve = SlowStream(), Valve()
    stream.may = anyio.Event()
    told_durable = []

    class Plain(Numbers):
        async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
            yield Batch((SourceChanged("s", "", "1"),), {"at": "1"})
            told_durable.append("1")

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervise, Plain(), stream, random.Random(1), valve)
            await stream.appending.wait()
            valve.turn(is_open=not shut)
            tasks.cancel_scope.cancel()
    assert (stream.head, told_durable) == (0, [])


# --- a real daemon --------------------------------------------------------------------------------

PROJECT = """
import freshet as fr

still = fr.source("still", partitions=fr.dynamic())
lively = fr.source("lively", partitions=fr.dynamic())


@fr.asset(group="x")
def lines(lively: dict[str, str]) -> int:
    return len(lively)


project = fr.Project(
    assets=[still, lively, lines],
    sensors=[
        fr.files("landing/still/{partition}.csv", source=still, name="still"),
        fr.files("landing/lively/{partition}.csv", source=lively, name="lively"),
    ],
    store=fr.LocalStore("data"),
)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    for name in ("still", "lively"):
        (tmp_path / "landing" / name).mkdir()
    yield made
    made.kill()


def history(place: Place) -> list[dict[str, object]]:
    found = []
    for line in place.freshet("events", "--json").stdout.splitlines():
        row = json.loads(line)
        found.append({"at": row["position"], **row["event"]})
    return found


def test_a_paused_sensor_stands_still_across_a_restart_and_then_catches_up(place: Place) -> None:
    """Its files wait, those of another come in; then each change comes in once, as it is then."""
    place.land("still/a", "1")
    place.land("still/b", "1")
    place.start()
    place.wait_for("SourceChanged", "still", 2)
    assert place.freshet("pause", "sensor:still", "--reason", "moving").returncode == 0
    assert place.daemon is not None
    assert place.daemon.stderr is not None
    for line in place.daemon.stderr:
        if "sensor paused" in line:
            break
    place.land("still/a", "2")
    place.land("still/a", "3")
    place.land("lively/1", "x")
    place.wait_for("SourceChanged", "lively")
    shown = place.freshet("status", "still")
    assert "paused: sensor:still" in shown.stdout
    assert ": moving" in shown.stdout
    place.stop()
    place.land("still/c", "1")
    (place.folder / "landing" / "still" / "b.csv").unlink()
    place.start()
    place.land("lively/2", "x")
    place.wait_for("SourceChanged", "lively", 2)
    assert place.freshet("pause", "*").returncode == 0  # which pauses no sensor
    place.land("lively/3", "x")
    place.wait_for("SourceChanged", "lively", 3)
    assert place.freshet("resume", "sensor:still").returncode == 0
    place.wait_for("SourceChanged", "still", 5)
    place.land("still/d", "1")
    place.wait_for("SourceChanged", "still", 6)
    place.stop()
    events = history(place)
    changes = [e for e in events if e["type"] == "SourceChanged" and e["asset"] == "still"]
    (resumed,) = (int(str(e["at"])) for e in events if e["type"] == "Resumed")
    assert [int(str(e["at"])) > resumed for e in changes] == [False] * 2 + [True] * 4
    assert sorted(str(e["partition"]) for e in changes[2:5]) == ["a", "b", "c"]
    assert [e["partition"] for e in changes if not e.get("data_version")] == ["b"]
    assert not any(e["type"] == "SensorFailed" for e in events)


def test_a_pause_ends_by_itself_also_after_a_restart_and_once(place: Place) -> None:
    """Its time came while no daemon ran: the next one records it, the one after it does not."""
    place.land("lively/1", "x")
    place.start()
    place.wait_for("Materialized", "lines")
    place.stop()
    assert place.freshet("pause", "group:x", "--for", "1s", "--reason", "nap").returncode == 0
    shown = json.loads(place.freshet("status", "lines", "--json").stdout)
    (row,) = shown["pauses"]
    assert (row["scope"], row["reason"]) == ("group:x", "nap")
    assert row["actor"].startswith("cli:")
    assert row["since_us"] < row["until_us"] <= row["since_us"] + 1_000_000
    place.land("lively/2", "x")
    place.start()
    place.wait_for("Resumed", "")
    place.wait_for("Materialized", "lines", 2)
    place.stop()
    place.start()
    place.land("lively/3", "x")
    place.wait_for("Materialized", "lines", 3)
    place.stop()
    resumed = [event for event in history(place) if event["type"] == "Resumed"]
    assert [(e["scope"], e["reason"]) for e in resumed] == [("group:x", TIME_IS_OVER)]


# --- the command ----------------------------------------------------------------------------------


def test_an_end_is_a_length_of_time_or_a_local_time_or_one_with_a_zone() -> None:
    """All in microseconds; without a zone it is the time of this machine."""
    assert end_us(None, None, NOW) is None
    assert end_us("2h", None, NOW) == NOW + 2 * HOUR
    assert end_us("250ms", None, NOW) == NOW + 250_000
    assert end_us(None, "2023-11-15T00:00Z", NOW) == 1_700_006_400_000_000
    assert end_us(None, "2023-11-15 01:30+01:30", NOW) == 1_700_006_400_000_000
    local = datetime(2023, 11, 16, 8).astimezone()
    assert end_us(None, "2023-11-16 08:00", NOW) == int(local.timestamp()) * 1_000_000


def test_local_time_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight o'clock in Berlin is seven in winter and six in summer."""

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        winter, summer = (end_us(None, f"2024-{month}-01 08:00", NOW) for month in ("01", "07"))
        assert winter == end_us(None, "2024-01-01 07:00Z", NOW)
        assert summer == end_us(None, "2024-07-01 06:00Z", NOW)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("length", "until", "words"),
    [
        ("2h", "2030-01-01", "at once"),
        ("soon", None, "no length of time"),
        ("2", None, "no length of time"),
        ("-1h", None, "no length of time"),
        ("0s", None, "no time to come"),
        ("200000d", None, "ten years"),
        (None, "tomorrow", "is no time"),
        (None, "2023-13-01", "is no time"),
        (None, "0001-01-01", "no time"),
        (None, "2023-11-14 00:00Z", "no time to come"),
        (None, "9000-01-01", "ten years"),
    ],
)
def test_an_end_that_makes_no_sense_is_refused(
    length: str | None, until: str | None, words: str
) -> None:
    """The error says what was asked for, and each has a hint."""
    with pytest.raises(RequestError) as caught:
        end_us(length, until, NOW)
    assert words in caught.value.message
    assert (length or until or "") in caught.value.message
    assert caught.value.hint


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A stream with two definitions, and a daemon that once ran with a sensor."""
    project = fr.Project(pair())
    graph = GraphDeployed(project.graph.digest, tuple(project.graph.specs.values()))

    async def record() -> None:
        async with SqliteStream.open(tmp_path / "stream.db") as stream:
            started = EngineStarted("1", sensors={"files": ("s",)})
            await stream.append([started, graph, CursorMoved("older", {})])

    anyio.run(record)
    return tmp_path


async def last(state: Path) -> Recorded:
    async with SqliteReader.open(state / "stream.db") as stream:
        found = await stream.at(stream.head)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["a", "--for", "1h", "--until", "2099-01-01"], "at once", "leave one"),
        (["a", "--until", "2001-01-01 08:00"], "no time to come", "later"),
        (["a", "--until", "morning"], "is no time", "2026-01-31 08:00"),
        (["a", "--for", "long"], "no length of time", "2h"),
        (["sensor:fils"], "there is no sensor 'fils'", "did you mean 'sensor:files'?"),
        (["sensor:"], "there is no sensor ''", "hint: "),
        (["sensr:files"], "no asset and no group", "did you mean 'sensor:files'?"),
    ],
)
def test_a_pause_that_makes_no_sense_records_nothing(
    state: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: str,
    hint: str,
) -> None:
    """Exit code 2, an error and a hint, and the stream as it was."""
    assert run(["pause", *arguments, "--state", str(state)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert error in said.err
    assert hint in said.err
    assert anyio.run(last, state).position == 3


@pytest.mark.parametrize("scope", ["a", "s", "group:x", "sensor:files", "sensor:older", "*"])
def test_pause_and_resume_record_scope_reason_end_and_who(
    state: Path, capsys: pytest.CaptureFixture[str], scope: str
) -> None:
    """Every kind of scope; a sensor is known from a start of its daemon or from its own events."""
    place = ["--state", str(state)]
    assert run(["pause", scope, "--reason", "repair", "--for", "2h", *place]) == 0
    paused = anyio.run(last, state)
    assert isinstance(paused.event, Paused)
    assert (paused.event.scope, paused.event.reason) == (scope, "repair")
    assert paused.actor is not None
    assert paused.actor.startswith("cli:")
    until = paused.event.until
    assert until is not None
    assert abs(until - paused.recorded_at - 2 * HOUR) < 60_000_000
    capsys.readouterr()
    assert run(["status", *place]) == 0
    said = capsys.readouterr().out
    assert f"paused: {scope}, for " in said
    assert f" by {paused.actor}, until 20" in said
    assert ": repair" in said
    assert run(["status", *place, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["pauses"]
    assert row == {
        "scope": scope,
        "reason": "repair",
        "actor": paused.actor,
        "position": 4,
        "since_us": paused.recorded_at,
        "until_us": until,
    }
    assert run(["resume", scope, "--reason", "done", *place]) == 0
    assert anyio.run(last, state).event == Resumed(scope, "done")


def test_why_names_the_pause_and_the_command_that_ends_it(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who, why, until when; and not `freshet resume` of something else."""
    place = ["--state", str(state)]
    assert run(["emit", "s", "--version", "1", *place]) == 0
    assert run(["pause", "group:x", "--reason", "repair", "--for", "2h", *place]) == 0
    capsys.readouterr()
    assert run(["why", "a", *place]) == 0
    said = capsys.readouterr().out
    assert "waits: it is paused" in said
    assert "group:x paused by cli:" in said
    assert " UTC: repair" in said
    assert "to release it: freshet resume group:x" in said
    assert run(["status", "a", *place]) == 0
    assert "paused: group:x" in capsys.readouterr().out


def test_a_length_counts_from_the_time_of_the_stream(state: Path) -> None:
    """The stream is an hour ahead of this machine, as after its clock was set back."""
    ahead = int(datetime.now().timestamp()) * 1_000_000 + HOUR

    async def record() -> None:
        async with SqliteStream.open(state / "stream.db", clock=lambda: ahead) as stream:
            await stream.append([SourceChanged("s", "", "1")])

    anyio.run(record)
    assert run(["pause", "a", "--for", "1m", "--state", str(state)]) == 0
    paused = anyio.run(last, state).event
    assert isinstance(paused, Paused)
    assert paused.until == ahead + 60_000_000
