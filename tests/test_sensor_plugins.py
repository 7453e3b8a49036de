"""Sensors of third parties, by the group `freshet.sensors`, and users' own, by `@fr.sensor`."""

import importlib
import random
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

import freshet as fr
from freshet.engine.errors import DefinitionError
from freshet.engine.events import SensorFailed, SensorRecovered, SourceChanged
from freshet.engine.memory import MemoryStream
from freshet.engine.stores.payloads import inline_content
from freshet.engine.supervisor import FIRST_BACKOFF_S, supervise
from freshet.sensors.generator import MAX_YIELD
from freshet.sensors.sensor import Batch
from tests.test_supervisor import in_virtual_time

pytestmark = pytest.mark.anyio

days = fr.source("days", partitions=fr.daily("2024-01-01", opens="data"))
prices = fr.source("prices")

RABBIT = '''
"""A tiny sensor as somebody else would publish it; knows nothing of Freshet but the contract."""

import anyio
from freshet import Batch, change


class Rabbit:
    def __init__(self, queue, source, crashes=0):
        self.name = f"rabbit:{queue}"
        self.sources = (source.key,)
        self.source, self.crashes, self.begun = source, crashes, []

    async def run(self, cursor):
        self.begun.append(anyio.current_time())
        if len(self.begun) <= self.crashes:
            raise ConnectionError("no such queue")
        seen = int(cursor.get("seen", 0))
        while True:
            seen += 1
            yield Batch((change(self.source, version=seen),), {"seen": str(seen)})
            await anyio.sleep(60)


def rabbit(queue, *, source, crashes=0):
    return Rabbit(queue, source, crashes)


def broken(**options):
    return 7


constant = 7
'''


class Site:
    """A folder that distributions are installed into, as pip does it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, *entries: str, code: str = RABBIT) -> None:
        module = name.replace("-", "_")
        (self.folder / f"{module}.py").write_text(code)
        info = self.folder / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text("\n".join(["[freshet.sensors]", *entries]))
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("freshet_rabbit", "freshet_hare"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return Site(tmp_path)


def message(caught: pytest.ExceptionInfo[DefinitionError]) -> str:
    return str(caught.value)


# --- B7.1: found by entry point, isolated, restarted with backoff, reported -----------------------


def test_b7_1_a_third_partys_sensor_is_found_by_its_entry_point(site: Site) -> None:
    site.install("freshet-rabbit", "rabbit = freshet_rabbit:rabbit")
    sensor = fr.sensor_from("rabbit", queue="q", source=prices)
    assert (sensor.name, sensor.sources) == ("rabbit:q", ("prices",))
    assert fr.Project([prices], sensors=[sensor]).sensors == (sensor,)


def test_b7_1_its_crash_is_isolated_restarted_with_backoff_and_reported(site: Site) -> None:
    """Three crashes are one failure in the stream, its tries come ever later, another sensor goes
    on meanwhile; then it has recovered, and its changes come in.
    """
    site.install("freshet-rabbit", "rabbit = freshet_rabbit:rabbit")
    broken: Any = fr.sensor_from("rabbit", queue="q", source=prices, crashes=3)
    well = fr.sensor_from("rabbit", queue="well", source=prices)
    stream = MemoryStream()

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            for sensor in (broken, well):
                tasks.start_soon(supervise, sensor, stream, random.Random(1))

    in_virtual_time(both(), 30.0)
    waits = [b - a for a, b in zip(broken.begun, broken.begun[1:], strict=False)]
    assert len(waits) == 3
    for wait, bound in zip(waits, (FIRST_BACKOFF_S * 2**n for n in range(3)), strict=True):
        assert bound / 2 - 1e-3 <= wait <= bound + 1e-3
    recorded = anyio.run(stream.read)
    events = [r.event for r in recorded if r.actor == "sensor:rabbit:q"]
    assert events[0] == SensorFailed("rabbit:q", "ConnectionError: no such queue")
    assert [type(event) for event in events].count(SensorFailed) == 1
    assert [type(event) for event in events].count(SensorRecovered) == 1
    failed = next(r.position for r in recorded if isinstance(r.event, SensorFailed))
    recovered = next(r.position for r in recorded if isinstance(r.event, SensorRecovered))
    others = [r.position for r in recorded if r.actor == "sensor:rabbit:well"]
    assert failed < recovered
    assert min(others) < recovered


# --- what can be wrong with a plug-in -------------------------------------------------------------


def test_an_unknown_plugin_names_what_is_installed(site: Site) -> None:
    site.install("freshet-rabbit", "rabbit = freshet_rabbit:rabbit", "broken = freshet_rabbit:x")
    with pytest.raises(DefinitionError) as caught:
        fr.sensor_from("rabit")
    assert "no sensor plug-in 'rabit'" in message(caught)
    assert "broken, rabbit" in message(caught)
    assert "did you mean 'rabbit'?" in message(caught)


def test_where_no_plugin_is_installed_it_says_so() -> None:
    with pytest.raises(DefinitionError, match="no distribution brings any"):
        fr.sensor_from("rabbit")


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        ("freshet_hare:rabbit", "import not_there\n", "ModuleNotFoundError: No module named"),
        ("freshet_hare:rabbit", "raise RuntimeError('at import')\n", "RuntimeError: at import"),
        ("freshet_hare:nothing", RABBIT, "has no attribute 'nothing'"),
        ("freshet_hare:constant", RABBIT, "which is no function"),
        ("freshet_hare:broken", RABBIT, "is no sensor: its name is"),
        ("freshet_hare:rabbit", RABBIT, "missing 1 required positional argument: 'queue'"),
    ],
    ids=["import", "raises", "attribute", "constant", "no sensor", "options"],
)
def test_a_plugin_that_does_not_work_names_its_distribution_and_the_cause(
    site: Site, entry: str, code: str, words: str
) -> None:
    site.install("freshet-hare", f"hare = {entry}", code=code)
    with pytest.raises(DefinitionError) as caught:
        fr.sensor_from("hare", source=prices)
    assert "'hare' (freshet-hare 1.2)" in message(caught)
    assert words in message(caught)
    assert caught.value.hint


def test_options_that_a_plugin_does_not_take_are_answered_by_what_it_takes(site: Site) -> None:
    """Their values, which may be secret, are not told."""
    site.install("freshet-rabbit", "rabbit = freshet_rabbit:rabbit")
    with pytest.raises(DefinitionError) as caught:
        fr.sensor_from("rabbit", quue="CANARY", source=prices)
    assert "(queue, *, source, crashes=0)" in message(caught)
    assert "CANARY" not in message(caught)


def test_a_definition_error_of_a_plugin_is_told_as_it_is(site: Site) -> None:
    code = "from freshet import DefinitionError\n\n\ndef f():\n    raise DefinitionError('no q')\n"
    site.install("freshet-hare", "hare = freshet_hare:f", code=code)
    with pytest.raises(DefinitionError, match=r"^no q$"):
        fr.sensor_from("hare")


def test_two_distributions_with_one_name_are_refused(site: Site) -> None:
    site.install("freshet-rabbit", "rabbit = freshet_rabbit:rabbit")
    site.install("freshet-hare", "rabbit = freshet_hare:rabbit")
    with pytest.raises(DefinitionError) as caught:
        fr.sensor_from("rabbit")
    assert "freshet-rabbit 1.2" in message(caught)
    assert "freshet-hare 1.2" in message(caught)


def looks_like(**parts: Any) -> object:
    async def run(cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        yield Batch()

    return SimpleNamespace(**{"name": "x", "sources": ("prices",), "run": run, **parts})


async def no_generator(cursor: object) -> None: ...


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (fr.files, "not called"),
        (Site, "not called"),
        (7, "its name is None"),
        (looks_like(name=""), "its name is ''"),
        (looks_like(sources="prices"), "not a tuple of asset keys"),
        (looks_like(sources=()), "not asset keys"),
        (looks_like(sources=(prices,)), "not asset keys"),
        (looks_like(run=None), "has no run"),
        (looks_like(run=no_generator), "no async generator"),
    ],
    ids=range(9),
)
def test_a_project_refuses_what_is_no_sensor(made: Any, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        fr.Project([prices], sensors=[made])
    assert words in message(caught)


def test_a_project_accepts_all_that_keeps_the_contract() -> None:
    assert fr.Project([prices], sensors=[looks_like()]).sensors  # type: ignore[list-item]  # duck


# --- @fr.sensor -----------------------------------------------------------------------------------


async def yielded(
    function: Callable[..., Any], *, sources: Any = (days, prices), cursor: Any = None
) -> list[Batch]:
    sensor = fr.sensor(sources=sources)(function)
    async with aclosing(sensor.run(cursor or {})) as batches:
        return [batch async for batch in batches]


async def test_a_generator_function_is_a_sensor() -> None:
    """It is told the cursor, and yields changes with payload and metadata, and a new cursor."""

    @fr.sensor(sources=[days, prices])
    async def shop(cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        assert cursor == {"at": "4"}
        orders = fr.change(days, "2024-01-01", version=5, payload={"id": 5}, metadata={"rows": 3})
        yield Batch((orders, fr.change(prices, version=b"content")), {"at": "5"})

    assert (shop.name, shop.sources) == ("shop", ("days", "prices"))
    async with aclosing(shop.run({"at": "4"})) as batches:
        batch = await anext(batches)
    first, second = batch.changes
    assert (first.asset, first.partition, first.data_version) == ("days", "2024-01-01", "5")
    assert first.metadata == {"rows": 3}
    assert first.payload is not None
    assert (first.payload.kind, inline_content(first.payload)) == ("json", b'{"id":5}')
    assert (second.asset, second.partition, len(second.data_version)) == ("prices", "", 32)
    assert batch.cursor == {"at": "5"}
    fr.Project([days, prices], sensors=[shop])


async def test_it_needs_neither_cursor_nor_batches() -> None:
    """A function without parameters that yields just changes."""

    async def ticker() -> AsyncGenerator[SourceChanged, None]:
        yield fr.change(prices, version=datetime(2024, 1, 1, tzinfo=UTC))
        yield fr.change(prices, version=None)

    assert await yielded(ticker) == [
        Batch((SourceChanged("prices", "", "2024-01-01T00:00:00+00:00"),)),
        Batch((SourceChanged("prices"),)),
    ]


async def test_what_is_no_partition_is_rejected_and_the_others_count() -> None:
    async def shop(cursor: object) -> AsyncGenerator[Batch, None]:
        good = fr.change(days, "2024-01-01", version="a")
        bad = fr.change(days, "someday", version="b", payload="what came with it")
        yield Batch((bad, good), {"at": "1"})

    (batch,) = await yielded(shop)
    (rejected,) = batch.rejected
    assert [change.partition for change in batch.changes] == ["2024-01-01"]
    assert batch.cursor == {"at": "1"}
    assert (rejected.item, rejected.excerpt) == ("days@someday", "what came with it")
    assert "daily from 2024-01-01" in rejected.reason


@pytest.mark.parametrize(
    ("nonsense", "words"),
    [
        (7, "yielded a int; yield an fr.Batch"),
        ([fr.change(prices, version=1)], "yielded a list"),
        (Batch((7,)), "yielded a int as a change"),  # type: ignore[arg-type]  # that is tested
        (Batch((SourceChanged("price", "", "1"),)), "reports 'price', none .* did you mean"),
        (Batch((SourceChanged("prices", "", 7),)), "version 7;"),  # type: ignore[arg-type]
        (Batch((), {"at": 7}), r"moves its cursor to \{'at': 7\}"),  # type: ignore[dict-item]
        (Batch((fr.change(prices, version=1),) * (MAX_YIELD + 1)), "5001 changes at once"),
    ],
    ids=range(7),
)
async def test_a_yield_that_makes_no_sense_names_the_function_and_its_place(
    nonsense: object, words: str
) -> None:
    async def shop() -> AsyncGenerator[Any, None]:
        yield nonsense

    where = r"sensor 'shop' \(.*test_sensor_plugins.py:\d+\) "
    with pytest.raises((TypeError, ValueError), match=where + ".*" + words):
        await yielded(shop)


def test_a_change_is_checked_when_it_is_made() -> None:
    with pytest.raises(DefinitionError, match="no source"):
        fr.change("prices", version=1)  # type: ignore[arg-type]  # that is tested
    with pytest.raises(ValueError, match="None says that there is nothing"):
        fr.change(prices, version="")
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        fr.change(prices, version=1, payload={"x": object()})
    change = fr.change(prices, version=1, payload=[1, datetime(2024, 1, 1)])
    assert change.payload is not None
    assert msgspec.json.decode(inline_content(change.payload)) == [1, "2024-01-01T00:00:00"]


async def plain(cursor: object) -> None: ...


async def wants_more(cursor: object, more: object) -> AsyncGenerator[Batch, None]:
    yield Batch()


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda: fr.sensor(sources=[])(plain), "list them"),  # type: ignore[arg-type]
        (lambda: fr.sensor(sources=prices)(plain), "list them"),  # type: ignore[arg-type]
        (lambda: fr.sensor(sources=["prices"]), "no source"),  # type: ignore[list-item]
        (lambda: fr.sensor(sources=[prices])(plain), "no async generator function"),  # type: ignore[arg-type]
        (
            lambda: fr.Project([prices], sensors=[fr.sensor(sources=[prices])(wants_more)]),
            "has 2 parameters",
        ),
    ],
    ids=range(5),
)
def test_a_declaration_that_makes_no_sense_is_refused(
    declare: Callable[[], object], words: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare()
    assert words in message(caught)


async def test_ended_at_a_yield_the_function_cleans_up() -> None:
    ended = []

    @fr.sensor(sources=[prices])
    async def shop() -> AsyncGenerator[Batch, None]:
        try:
            while True:
                yield Batch()
                await checkpoint()
        finally:
            ended.append(True)

    async with aclosing(shop.run({})) as batches:
        await anext(batches)
    assert ended == [True]
