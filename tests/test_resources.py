"""Resources: lent by name, opened once or per run, closed in reverse order; never a dependency."""

import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

import freshet as fr
from freshet.engine import lending
from freshet.engine.daemon import daemon
from freshet.engine.errors import DefinitionError
from freshet.engine.events import (
    CheckEvaluated,
    CursorMoved,
    EngineStopped,
    Materialized,
    RunFailed,
    SensorFailed,
    SensorRecovered,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.lending import Lender, NotOpened, borrowing
from freshet.engine.resources import declared
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stores.memory import MemoryStore
from freshet.engine.supervisor import supervise
from freshet.testing import simulate
from tests.engine import engine

pytestmark = pytest.mark.anyio

RAW = fr.source("raw")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Told:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def opener(self, name: str, *, fails: int = 0, badly: bool = False) -> Callable[..., Any]:
        left = [fails]

        @asynccontextmanager
        async def opened() -> AsyncIterator[str]:
            if left[0]:
                left[0] -= 1
                raise ConnectionError(f"{name} is away")
            self.lines.append(f"open {name}")
            async with anyio.create_task_group():  # must be left in the task that entered it
                yield f"{name} {self.lines.count(f'open {name}')}"
            self.lines.append(f"close {name}")
            if badly:
                raise OSError("cannot be flushed")

        return opened


@pytest.fixture
def told() -> Told:
    return Told()


# --- what is lent ---------------------------------------------------------------------------------


async def test_one_is_opened_at_first_use_shared_by_all_runs_and_closed_at_the_end(
    told: Told,
) -> None:
    seen: list[object] = []

    @fr.asset
    async def one(raw: str, warehouse: str) -> str:
        seen.append(warehouse)
        return warehouse

    @fr.asset
    def two(raw: str, warehouse: str) -> str:  # in a thread
        seen.append(warehouse)
        return warehouse

    unused = told.opener("unused")
    given = {"warehouse": told.opener("warehouse"), "unused": unused}
    async with engine(RAW, one, two, resources=given) as e:
        assert told.lines == []
        await e.change("raw", "1")
        await e.quiet()
        await e.change("raw", "2")
        await e.quiet()
        assert seen == ["warehouse 1"] * 4
        assert told.lines == ["open warehouse"]
        upstream = {key: [d.asset for d in spec.deps] for key, spec in e.graph.specs.items()}
        assert upstream == {"raw": [], "one": ["raw"], "two": ["raw"]}
    assert told.lines == ["open warehouse", "close warehouse"]


async def test_they_are_closed_in_reverse_order_after_a_run_has_failed_too(told: Told) -> None:
    @asynccontextmanager
    async def open_top(middle: str, clock: object) -> AsyncIterator[str]:
        told.lines.append(f"open top on {middle} at {clock}")
        yield "top"
        told.lines.append("close top")

    @contextmanager
    def open_middle(bottom: str) -> Iterator[str]:
        told.lines.append(f"open middle on {bottom}")
        yield "middle"
        told.lines.append("close middle")

    @fr.asset
    def one(raw: str, top: str) -> str:
        raise ValueError("no")

    given = {
        "top": open_top,
        "middle": open_middle,
        "bottom": told.opener("bottom"),
        "clock": "noon",
    }
    async with engine(RAW, one, resources=given) as e:
        await e.change("raw", "1")
        await e.settled()
    assert told.lines == [
        "open bottom",
        "open middle on bottom 1",
        "open top on middle at noon",
        "close top",
        "close middle",
        "close bottom",
    ]


async def test_one_per_run_is_opened_and_closed_by_each_and_told_of_failure(told: Told) -> None:
    """It is closed once the value is published; of a failure it is told at its `yield`."""
    store = MemoryStore()
    digest = store.stage(AssetPartition("one"), 0, "session").data_version

    @asynccontextmanager
    async def open_session(warehouse: str) -> AsyncIterator[str]:
        told.lines.append(f"begin on {warehouse}")
        try:
            yield "session"
        except Exception as error:
            told.lines.append(f"roll back: {error}")
            raise
        there = e.store.has(AssetPartition("one"), digest)
        told.lines.append(f"commit, published: {there}")

    @fr.asset
    def one(raw: str, session: str) -> str:
        if raw == "bad":
            raise ValueError("bad")
        return session

    @fr.check(one)
    def alike(value: str, session: str) -> bool:
        return value == session

    given = {"warehouse": told.opener("warehouse"), "session": fr.per_run(open_session)}

    @fr.asset(key="raw")
    def made(clock: dict[str, str]) -> str:
        return clock["says"]

    clock = {"says": "good"}
    async with engine(made, one, alike, resources={**given, "clock": clock}) as e:
        await e.quiet()
        clock["says"] = "bad"
        await e.demand("raw")
        await e.settled()
        checks = [r.event for r in await e.history() if isinstance(r.event, CheckEvaluated)]
        assert [one.passed for one in checks] == [True]
    assert told.lines == [
        "open warehouse",
        "begin on warehouse 1",
        "commit, published: True",
        "begin on warehouse 1",
        "roll back: ValueError: bad",
        "close warehouse",
    ]


async def test_functions_in_threads_receive_the_same_object() -> None:
    seen: list[tuple[object, int]] = []
    shared = object()

    @fr.asset
    def one(raw: str, thing: object) -> int:
        seen.append((thing, threading.get_ident()))
        return 1

    @fr.asset
    async def two(raw: str, thing: object) -> int:
        seen.append((thing, threading.get_ident()))
        return 1

    async with engine(RAW, one, two, resources={"thing": shared}) as e:
        await e.change("raw", "1")
        await e.quiet()
    assert [thing for thing, _ in seen] == [shared, shared]
    assert len({thread for _, thread in seen}) == 2


# --- trouble --------------------------------------------------------------------------------------


async def test_one_that_cannot_be_opened_fails_the_run_which_is_tried_again(told: Told) -> None:
    @fr.asset
    async def one(raw: str, warehouse: str) -> str:
        return warehouse

    given = {"warehouse": told.opener("warehouse", fails=2)}
    async with engine(RAW, one, resources=given) as e:
        await e.change("raw", "1")
        await e.settled()
        failures = [r.event for r in await e.history() if isinstance(r.event, RunFailed)]
        (failed,) = failures
        assert failed.error == (
            "resource 'warehouse' cannot be opened: ConnectionError: warehouse is away"
        )
        assert "in opened" in failed.detail
        assert failed.kind == "infrastructure"
        assert failed.retry_at is not None  # though the asset has no retries
        await e.quiet_at(10)
        await e.quiet_at(10)
        made = [r.event for r in await e.history() if isinstance(r.event, Materialized)]
        assert len(made) == 1
    assert told.lines == ["open warehouse", "close warehouse"]


async def test_one_that_closes_badly_is_logged_and_fails_nothing(
    told: Told, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    @fr.asset
    async def one(raw: str, shared: str, own: str) -> str:
        return shared + own

    given = {
        "shared": told.opener("shared", badly=True),
        "own": fr.per_run(told.opener("own", badly=True)),
    }
    async with engine(RAW, one, resources=given) as e:
        await e.change("raw", "1")
        await e.quiet()
        assert e.status("one").state == "fresh"
    assert told.lines == ["open shared", "open own", "close own", "close shared"]
    said = [line for line in capsys.readouterr().out.splitlines() if "closed badly" in line]
    assert ["own" in said[0], "shared" in said[1]] == [True, True]
    assert all("OSError: cannot be flushed" in line for line in said)


async def test_one_that_breaks_off_is_opened_anew_by_the_next_run(told: Told) -> None:
    breaks = anyio.Event()

    @asynccontextmanager
    async def open_link() -> AsyncIterator[str]:
        told.lines.append("open")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self_destroying)
                yield f"link {len(told.lines)}"
                tasks.cancel_scope.cancel()
        finally:
            told.lines.append("gone")

    async def self_destroying() -> None:
        await breaks.wait()
        raise ConnectionError("broken")

    async with anyio.create_task_group() as tasks:
        lender = Lender(declared({"link": open_link}))
        async with lender.kept():
            async with lender.lent(["link"]) as lent:
                assert lent == {"link": "link 1"}
            breaks.set()
            while "gone" not in told.lines:
                await anyio.sleep(0)
            breaks = anyio.Event()
            await anyio.sleep(0)
            async with lender.lent(["link"]) as lent:
                assert lent == {"link": "link 3"}
        tasks.cancel_scope.cancel()
    assert told.lines == ["open", "gone", "open", "gone"]


async def test_an_opening_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "OPEN_S", 0.01)

    @asynccontextmanager
    async def open_hanging() -> AsyncIterator[str]:
        await anyio.sleep_forever()
        yield "never"

    lender = Lender(declared({"hanging": open_hanging}))
    async with lender.kept():
        with pytest.raises(NotOpened, match=r"'hanging' cannot be opened.*longer than"):
            async with lender.lent(["hanging"]):
                pass


async def test_a_closing_that_hangs_is_given_up_and_the_others_close(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "CLOSE_S", 0.0)

    @asynccontextmanager
    async def open_hanging(good: str) -> AsyncIterator[str]:
        yield "here"
        await anyio.sleep_forever()

    lender = Lender(declared({"hanging": open_hanging, "good": told.opener("good")}))
    with anyio.CancelScope() as stopped:
        async with lender.kept():
            async with lender.lent(["hanging"]):
                pass
            stopped.cancel()
            await anyio.sleep_forever()
    assert stopped.cancelled_caught
    assert told.lines == ["open good", "close good"]


async def test_what_breaks_the_block_is_raised_once_all_is_closed(told: Told) -> None:
    lender = Lender(declared({"good": told.opener("good")}))

    async def broken() -> None:
        async with lender.kept():
            async with lender.lent(["good"]):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()
    assert told.lines == ["open good", "close good"]


async def test_many_who_ask_at_once_wait_for_one_opening(told: Told) -> None:
    lender = Lender(declared({"good": told.opener("good")}))
    seen: list[object] = []

    async def use() -> None:
        async with lender.lent(["good"]) as lent:
            seen.append(lent["good"])

    async with lender.kept(), anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(use)
    assert seen == ["good 1"] * 20
    assert told.lines == ["open good", "close good"]


async def test_other_definitions_open_their_own_and_the_old_are_closed_when_unused(
    told: Told,
) -> None:
    old, new = told.opener("old"), told.opener("new")
    lender = Lender(declared({"link": old}))
    async with lender.kept():
        async with lender.lent(["link"]) as before:
            lender.use(declared({"link": new}))
            async with lender.lent(["link"]) as after:
                assert (before, after) == ({"link": "old 1"}, {"link": "new 1"})
            assert told.lines == ["open old", "open new"]
        while len(told.lines) < 3:
            await anyio.sleep(0)
        assert told.lines == ["open old", "open new", "close old"]
    assert told.lines == ["open old", "open new", "close old", "close new"]


class Warehouse:
    pass


class Clock(Protocol):
    def now(self) -> int: ...


async def test_what_was_opened_is_held_against_the_annotation() -> None:
    @asynccontextmanager
    async def open_other() -> AsyncIterator[object]:
        yield {"no": "warehouse"}

    @fr.asset
    async def one(raw: str, warehouse: Warehouse | None, clock: Clock) -> int:
        return 1

    async with engine(RAW, one, resources={"warehouse": open_other, "clock": 7}) as e:
        await e.change("raw", "1")
        await e.settled()
        (failed,) = [r.event for r in await e.history() if isinstance(r.event, RunFailed)]
        assert failed.error == (
            "parameter 'warehouse': resource 'warehouse' is a dict, and Asset('one') wants a"
            " Warehouse"
        )
        assert failed.retry_at is None


# --- sensors --------------------------------------------------------------------------------------


async def test_sensors_are_lent_resources_and_wait_for_one_that_cannot_be_opened(
    told: Told,
) -> None:
    @fr.sensor(sources=[RAW])
    async def shop(cursor: dict[str, str], client: str) -> AsyncIterator[fr.Batch]:
        seen = str(len(cursor))
        yield fr.Batch((fr.change(RAW, version=f"{client} {seen}"),), {"seen": seen})
        await anyio.sleep_forever()

    @fr.poll(source=RAW, every="1h")
    def look(client: str, previous: str | None) -> str:
        return f"{client} after {previous}"

    client = told.opener("client", fails=1)
    async with engine(RAW, resources={"client": client}) as e:
        for sensor in (shop, look):
            borrower = borrowing(sensor, e.loop.lender)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(supervise, borrower, e.stream, Hurried())
                while not e.view.sensors.health.get(sensor.name, Unmoved).moves:
                    await anyio.sleep(0.001)
                tasks.cancel_scope.cancel()
        events = [r.event for r in await e.history() if not isinstance(r.event, CursorMoved)]
        assert events[1:] == [
            SensorFailed(
                "shop", "resource 'client' cannot be opened: ConnectionError: client is away"
            ),
            SourceChanged("raw", data_version="client 1 0"),
            SensorRecovered("shop"),
            SourceChanged("raw", data_version="client 1 after None"),
        ]
    assert told.lines == ["open client", "close client"]


class Unmoved:
    moves = 0


class Hurried(random.Random):
    """No backoff."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


# --- at load --------------------------------------------------------------------------------------


@contextmanager
def opens() -> Iterator[int]:
    yield 1


@contextmanager
def needs_b(b: int) -> Iterator[int]:
    yield b


@contextmanager
def needs_c(c: int) -> Iterator[int]:
    yield c


@contextmanager
def needs_a(a: int) -> Iterator[int]:
    yield a


def undecorated() -> Iterator[int]:
    yield 1


@fr.asset
def plain(raw: str) -> int:
    return 1


@fr.asset
def lends(raw: str, warehouse: Warehouse) -> int:
    return 1


@fr.asset
def hopes(raw: str, warehouse: int = 3) -> int:
    return 1


@fr.asset(inputs={"warehouse": "raw"})
def renames(warehouse: str) -> int:
    return 1


@fr.asset
def misspells(raw: str, warehose: int) -> int:
    return 1


@pytest.mark.parametrize(
    ("assets", "resources", "message", "hint"),
    [
        ([plain], {"raw": 1}, "'raw' is a resource, and asset 'raw'", "rename one"),
        ([plain], {"plain": 1}, "'plain' is a resource, and asset 'plain'", "rename one"),
        ([misspells], {"warehouse": 1}, "'warehose' of asset 'misspells'", "mean 'warehouse'?"),
        ([hopes], {"warehouse": 1}, "has a default, which makes it", "rename the parameter"),
        ([renames], {"warehouse": 1}, "names an asset by inputs=", "rename the parameter"),
        ([lends], {"warehouse": {}}, "is a dict, and Asset('lends')", "protocol"),
        ([lends], {"warehouse": Warehouse}, "is a type, and Asset('lends')", "protocol"),
        ([plain], {"context": 1}, "cannot be called 'context'", "another name"),
        ([plain], {"not a name": 1}, "cannot be called 'not a name'", "another name"),
        ([plain], {"x": undecorated}, "is a generator function", "@contextlib.contextmanager"),
        ([plain], {"x": needs_b}, "needs 'b', which is no resource", "resources: x"),
        ([plain], {"x": needs_b, "b": fr.per_run(opens)}, "each run opens for itself", "per_run"),
        (
            [plain],
            {"a": needs_b, "b": needs_c, "c": needs_a},
            "need each other: a -> b -> c -> a",
            "of its own",
        ),
    ],
)
def test_what_cannot_be_lent_is_said_at_load(
    assets: list[fr.Asset], resources: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        fr.Project([RAW, *assets], resources=resources)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_only_what_opens_can_be_per_run() -> None:
    with pytest.raises(DefinitionError, match="it cannot be opened"):
        fr.per_run(len)


def test_a_check_says_which_parameter_is_no_resource() -> None:
    @fr.check(plain)
    def odd(value: int, warehose: object) -> bool:
        return True

    with pytest.raises(DefinitionError, match="value, warehose") as caught:
        fr.Project([RAW, plain], checks=[odd], resources={"warehouse": 1})
    assert caught.value.hint == "did you mean 'warehouse'?"


def test_a_sensor_says_which_parameter_is_no_resource() -> None:
    @fr.poll(source=RAW, every="1h")
    def look(cleint: str) -> str:
        return ""

    with pytest.raises(DefinitionError, match="the function needs cleint") as caught:
        fr.Project([RAW], sensors=[look], resources={"client": 1})
    assert caught.value.hint == "did you mean 'client'?"


def test_resources_are_no_part_of_the_graph_nor_of_what_is_stale() -> None:
    one = fr.Project([RAW, lends], resources={"warehouse": opens})
    other = fr.Project([RAW, lends], resources={"warehouse": Warehouse(), "more": opens})
    assert one.graph.digest == other.graph.digest
    assert [dep.asset for dep in one.graph.specs["lends"].deps] == ["raw"]


# --- in a daemon ----------------------------------------------------------------------------------


async def test_a_daemon_stops_in_time_though_a_resource_does_not_close(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "CLOSE_S", 0.0)

    @asynccontextmanager
    async def open_hanging(good: str) -> AsyncIterator[str]:
        yield good
        told.lines.append("hang")
        await anyio.sleep_forever()

    @fr.asset
    async def one(hanging: str) -> str:
        return hanging

    project = fr.Project(
        [one],
        resources={"hanging": open_hanging, "good": told.opener("good")},
        store=fr.MemoryStore(),
    )
    async with daemon(project, tmp_path) as running:
        while running.view.status("one", "").state != "fresh":  # type: ignore[union-attr]
            await anyio.sleep(0.001)
        running.stop()
        await running.stopped()
        assert told.lines == ["open good"]
    assert told.lines == ["open good", "hang", "close good"]
    async with SqliteReader.open(tmp_path / "stream.db") as stream:
        assert isinstance((await stream.read(stream.head - 1))[0].event, EngineStopped)


# --- in a simulation ------------------------------------------------------------------------------


@contextmanager
def open_database() -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(":memory:") as found:
        yield found
    found.close()


@fr.asset
def rows(raw: str, database: sqlite3.Connection) -> int:
    return int(database.execute("select 41 + 1").fetchone()[0])


def test_a_simulation_opens_the_resources_of_the_project() -> None:
    project = fr.Project([RAW, rows], resources={"database": open_database})
    with simulate(project) as sim:
        sim.change("raw", "1")
        sim.settle()
        assert sim.value("rows") == 42


def test_a_simulation_takes_others_in_their_place_of_whatever_type() -> None:
    class Fake:
        def execute(self, text: str) -> "Fake":
            return self

        def fetchone(self) -> list[int]:
            return [7]

    project = fr.Project([RAW, rows], resources={"database": open_database})
    with simulate(project, resources={"database": Fake()}) as sim:
        sim.change("raw", "1")
        sim.settle()
        assert sim.value("rows") == 7
    with pytest.raises(DefinitionError, match="'databse' is no resource") as caught:
        simulate(project, resources={"databse": Fake()})
    assert caught.value.hint == "did you mean 'database'?"
