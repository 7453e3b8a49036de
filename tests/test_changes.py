"""Assets that read changes: each change of a source in exactly one run that succeeds."""

import random
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import freshet as fr
from freshet.engine.errors import DefinitionError, StoreError
from freshet.engine.events import (
    Invalidated,
    Materialized,
    Recorded,
    RunFailed,
    RunStarted,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stores.payloads import Payloads, payload_of
from freshet.testing import simulate
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio

ORDERS = fr.source("shop/orders")
BY_CUSTOMER = fr.source("shop/accounts", partitions=fr.dynamic())


def order(number: int, partition: str = "", payload: bytes | None = None) -> SourceChanged:
    source = "shop/accounts" if partition else "shop/orders"
    carried = payload_of(payload, "json") if payload is not None else None
    return SourceChanged(source, partition, str(number), {"offset": number}, carried)


class Reader:
    """An asset that notes which changes it was given, run by run."""

    def __init__(self, *, fails: int = 0, **options: object) -> None:
        self.runs: list[list[str]] = []
        self.fails = fails

        @fr.asset(key="totals", deps=[ORDERS], **options)  # type: ignore[call-overload, untyped-decorator]  # any option
        def totals(changes: fr.Changes) -> int:
            if self.fails:
                self.fails -= 1
                raise RuntimeError("not now")
            self.runs.append([change.data_version for change in changes])
            return int(changes.previous(0)) + len(changes)

        self.asset: fr.Asset = totals


async def absorbed(under_test: Engine) -> list[tuple[int, int, int]]:
    events = [r.event for r in await under_test.history()]
    found = [e.absorbed for e in events if isinstance(e, Materialized) and e.absorbed]
    return [(one.since, one.until, one.count) for one in found]


async def test_each_change_comes_once_and_in_order() -> None:  # X8
    reader = Reader()
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(*(order(n) for n in range(100)))
        await under_test.quiet()
        await under_test.say(*(order(n) for n in range(100, 103)))
        await under_test.quiet()
    assert [n for run in reader.runs for n in run] == [str(n) for n in range(103)]
    assert len(reader.runs) == 2


async def test_a_burst_comes_in_batches_of_the_declared_size() -> None:
    """Each next batch at once, without an event from outside, and the value counts them all."""
    reader = Reader(max_changes=30)
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(*(order(n) for n in range(100)))
        await under_test.quiet()
        assert [len(run) for run in reader.runs] == [30, 30, 30, 10]
        assert under_test.status("totals").state == "fresh"
        value = await under_test.version("totals")
        assert value is not None
        assert under_test.store.load(AssetPartition("totals"), value.data_version, int) == 100


async def test_an_equal_version_is_no_news_but_one_more_change() -> None:
    """Who reads the source as it is does not run; who reads its changes gets each of them."""

    @fr.asset
    def latest(orders: str) -> str:
        return orders

    reader = Reader()
    async with engine(ORDERS, reader.asset, latest) as under_test:
        await under_test.say(order(1))
        await under_test.quiet()
        at = under_test.stream.head
        await under_test.say(order(1), order(1))
        await under_test.quiet()
        assert await under_test.runs(at) == ["totals"]
    assert reader.runs == [["1"], ["1", "1"]]


async def test_back_and_forth_is_not_cut_off() -> None:
    """A version that changed and changed back is equal, and yet two changes."""
    reader = Reader()
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(order(1))
        await under_test.quiet()
        await under_test.say(order(2), order(1))
        await under_test.quiet()
    assert reader.runs == [["1"], ["2", "1"]]


async def test_a_run_that_fails_has_read_nothing() -> None:
    reader = Reader(fails=2, retries=5, retry_delay=0.001)
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(order(1), order(2))
        while len(reader.runs) < 1:
            under_test.advance(1.0)
            await under_test.loop.act()
            await under_test.folded()
        await under_test.settled()
        events = [r.event for r in await under_test.history()]
        assert sum(isinstance(event, RunFailed) for event in events) == 2
        runs = [r.position for r in await under_test.history() if isinstance(r.event, RunStarted)]
        assert await absorbed(under_test) == [(0, runs[-1], 2)]
    assert reader.runs == [["1", "2"]]


async def test_a_withdrawal_is_a_change_too() -> None:
    """What a source loses is told, also when then nothing is there to be read as it is."""
    reader = Reader()
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(order(1))
        await under_test.quiet()
        await under_test.say(SourceChanged("shop/orders"))
        await under_test.quiet()
        assert under_test.status("totals").state == "fresh"
    assert reader.runs == [["1"], [""]]


async def test_it_waits_for_the_first_change() -> None:
    reader = Reader()
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.quiet()
        status = under_test.status("totals")
        assert (status.state, status.activity) == ("missing", "blocked")
        assert status.blocker is not None
        assert status.blocker.what == "missing_source"
    assert reader.runs == []


async def test_a_new_asset_gets_the_whole_history() -> None:
    """What was recorded before it was declared is not lost for it."""
    reader = Reader(max_changes=7)
    async with engine(ORDERS, reader.asset, deploy=False) as under_test:
        await under_test.say(*(order(n) for n in range(20)))
        await under_test.deploy()
        await under_test.quiet()
    assert [n for run in reader.runs for n in run] == [str(n) for n in range(20)]


async def test_invalidating_it_starts_over() -> None:
    """From the first change on, and without the value it had."""
    reader = Reader(max_changes=2)
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(*(order(n) for n in range(3)))
        await under_test.quiet()
        await under_test.say(Invalidated((AssetPartition("totals"),)))
        await under_test.quiet()
        value = await under_test.version("totals")
        assert value is not None
        assert under_test.store.load(AssetPartition("totals"), value.data_version, int) == 3
    assert reader.runs == [["0", "1"], ["2"], ["0", "1"], ["2"]]


async def test_a_person_may_have_it_run_without_a_change() -> None:
    reader = Reader()
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(order(1))
        await under_test.quiet()
        await under_test.demand("totals")
        await under_test.quiet()
    assert reader.runs == [["1"], []]


async def test_a_partition_reads_the_changes_of_its_own_partition() -> None:
    """By parameter name, partition by partition, and all of them where there is only one reader."""
    seen: dict[str, list[str]] = {}

    @fr.asset(partitions=fr.dynamic())
    def balances(accounts: fr.Changes[dict[str, int]], context: fr.Context) -> int:
        seen.setdefault(context.partition, []).extend(c.data_version for c in accounts)
        return sum(change.payload["amount"] for change in accounts)

    @fr.asset(deps=[BY_CUSTOMER])
    def all_of_them(changes: fr.Changes) -> list[str]:
        found: list[str] = changes.previous([])
        return [*found, *(f"{c.partition}:{c.data_version}" for c in changes)]

    async with engine(BY_CUSTOMER, balances, all_of_them) as under_test:
        for n, name in enumerate(["ann", "bob", "ann", "ann"]):
            await under_test.say(order(n, name, b'{"amount": 5}'))
        await under_test.quiet()
        value = await under_test.version("all_of_them")
        assert value is not None
        found = under_test.store.load(AssetPartition("all_of_them"), value.data_version, list)
    assert seen == {"ann": ["0", "2", "3"], "bob": ["1"]}
    assert found == ["ann:0", "bob:1", "ann:2", "ann:3"]


async def test_two_sources_come_merged_in_the_order_of_the_stream() -> None:
    clicks = fr.source("clicks")
    seen: list[tuple[str, int]] = []

    @fr.asset(deps=[ORDERS, clicks])
    def joined(changes: fr.Changes) -> int:
        seen.extend((change.source, change.position) for change in changes)
        return len(changes)

    async with engine(ORDERS, clicks, joined) as under_test:
        await under_test.say(order(1), SourceChanged("clicks", "", "x"), order(2))
        await under_test.quiet()
    assert [source for source, _ in seen] == ["shop/orders", "clicks", "shop/orders"]
    assert [at for _, at in seen] == sorted(at for _, at in seen)


async def test_what_is_below_waits_until_it_has_read_what_it_owes_and_is_not_starved() -> None:
    """Downstream runs on what was read, batch by batch, and ends equal."""
    reader = Reader(max_changes=1)

    @fr.asset
    def report(totals: int) -> int:
        return totals

    async with engine(ORDERS, reader.asset, report) as under_test:
        await under_test.say(*(order(n) for n in range(3)))
        await under_test.quiet()
        value = await under_test.version("report")
        assert value is not None
        assert under_test.store.load(AssetPartition("report"), value.data_version, int) == 3
        assert under_test.status("report").state == "fresh"


async def test_a_lazy_policy_gets_all_that_was_recorded_by_the_time_it_asks() -> None:
    """In as many runs as it takes; what comes later waits for the next time."""
    reader = Reader(max_changes=2, freshness=fr.manual())
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(*(order(n) for n in range(5)))
        await under_test.quiet()
        assert reader.runs == []
        await under_test.demand("totals")
        await under_test.quiet()
        assert [len(run) for run in reader.runs] == [2, 2, 1]
        await under_test.say(order(9))
        await under_test.quiet()
        assert len(reader.runs) == 3


def test_payloads_come_as_the_annotation_says(tmp_path: Path) -> None:
    """As JSON, as a type, as bytes or text; large ones from beside the stream."""
    payloads = Payloads(tmp_path)
    large = b'{"amount": 1, "note": "' + b"x" * 100_000 + b'"}'
    (stored,) = anyio.run(payloads.put_large, [order(1, "", large)])
    assert stored.payload is not None
    assert stored.payload.form == "stored"
    found = {}
    for type_ in (None, bytes, str, dict[str, object]):
        change: fr.Change[object] = fr.Change("s", "", "1", 1, 1)
        change.carry(stored.payload, payloads.content, type_)
        found[type_] = change.payload
    assert found[bytes] == large
    assert found[str] == large.decode()
    assert found[None] == found[dict[str, object]] == {"amount": 1, "note": "x" * 100_000}


def test_a_payload_that_does_not_fit_is_named() -> None:
    change: fr.Change[int] = fr.Change("shop/orders", "", "1", 17, 1)
    change.carry(payload_of(b'{"a": 1}', "json"), lambda _: b'{"a": 1}', int)
    with pytest.raises(StoreError, match="shop/orders at position 17 is no int"):
        _ = change.payload


def test_what_cannot_be_read_by_change_is_said_at_load() -> None:
    @fr.asset
    def made() -> int:
        return 1

    @fr.asset
    def of_an_asset(made: fr.Changes) -> int:
        return 1

    @fr.asset
    def of_nothing(changes: fr.Changes) -> int:
        return 1

    @fr.asset(partitions=fr.daily("2024-01-01"), batch=3, deps=[ORDERS])
    def of_many(changes: fr.Changes) -> int:
        return 1

    @fr.asset(max_changes=3)
    def of_none(orders: str) -> int:
        return 1

    for odd, text in (
        (of_an_asset, "'made' is no source"),
        (of_nothing, "no source to read"),
        (of_many, "reads changes and has batch=3"),
        (of_none, "reads no changes"),
    ):
        with pytest.raises(DefinitionError, match=text):
            fr.Project([ORDERS, made, odd])
    with pytest.raises(DefinitionError, match="max_changes=0"):
        fr.asset(key="x", max_changes=0)(lambda orders: 1)


def test_a_simulation_reads_changes_and_their_payloads() -> None:
    @fr.asset(deps=[ORDERS], max_changes=4)
    def revenue(changes: fr.Changes[dict[str, int]]) -> int:
        before: int = changes.previous(0)
        return before + sum(change.payload["amount"] for change in changes)

    with simulate(fr.Project([ORDERS, revenue]), seed=3) as sim:
        for number in range(10):
            sim.change("shop/orders", payload={"amount": number})
        sim.advance("1m")
        assert sim.value("revenue") == 45


PROJECT = """
import time

import freshet as fr

orders = fr.source("orders")


@fr.asset(deps=[orders], max_changes=7)
def seen(changes: fr.Changes) -> list[str]:
    time.sleep(0.002)
    return [*changes.previous([]), *(change.data_version for change in changes)]


project = fr.Project([orders, seen], store=fr.LocalStore("data"))
"""


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
async def test_each_change_once_whatever_is_killed(  # X8
    tmp_path: Path, kills: int
) -> None:
    """A daemon killed in the middle of a burst, again and again, reads what an unkilled one does;
    and its value has each change once, in order.
    """
    rng = random.Random(kills)
    (tmp_path / "project.py").write_text(PROJECT)
    path = tmp_path / ".freshet" / "stream.db"
    path.parent.mkdir()
    count = 100 * kills
    async with SqliteStream.open(path) as stream:
        for start in range(0, count, 100):
            await stream.append([SourceChanged("orders", "", f"{start + n}") for n in range(100)])
    command = [sys.executable, "-m", "freshet", "run", "project.py"]
    for kill in range(kills + 1):
        daemon = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        try:
            async with SqliteReader.open(path) as reader:
                after = await reader.refresh()
                wanted = rng.randrange(5, 40) if kill < kills else 1 << 40
                async for batch in reader.follow(after):
                    wanted -= len(batch)
                    if wanted <= 0 or any(_has_read(r, count) for r in batch):
                        break
        finally:
            daemon.kill()
            daemon.wait()
    async with SqliteReader.open(path) as reader:
        history = [r for r in await _everything(reader) if isinstance(r.event, Materialized)]
    ranges = [r.event.absorbed for r in history if isinstance(r.event, Materialized)]
    assert all(r is not None for r in ranges)
    assert [r.since for r in ranges if r] == [0, *(r.until for r in ranges[:-1] if r)]
    assert sum(r.count for r in ranges if r) == count
    last = history[-1].event
    assert isinstance(last, Materialized)
    store = fr.LocalStore(tmp_path / "data")
    found = store.load(AssetPartition("seen"), last.data_version, list)
    assert found == [str(n) for n in range(count)]


def _has_read(recorded: Recorded, count: int) -> bool:
    made = recorded.event
    return isinstance(made, Materialized) and made.absorbed is not None and not made.absorbed.rest


async def _everything(reader: SqliteReader) -> list[Recorded]:
    found: list[Recorded] = []
    while batch := await reader.read(len(found)):
        found += batch
    return found


def test_changes_are_asked_for_in_one_way_only() -> None:
    """What would silently receive something else, or the same change twice, is refused at load."""
    clicks = fr.source("clicks")

    class Odd:
        pass

    @fr.asset
    def or_none(orders: fr.Changes | None) -> int:
        return 1

    @fr.asset
    def a_list(orders: list[fr.Change]) -> int:
        return 1

    @fr.asset
    def a_dict(orders: dict[str, fr.Changes[int]]) -> int:
        return 1

    @fr.asset(deps=[ORDERS])
    def twice(orders: fr.Changes, changes: fr.Changes) -> int:
        return 1

    @fr.asset(deps=[ORDERS, clicks])
    def both_the_same(changes: fr.Changes, more: fr.Changes) -> int:
        return 1

    @fr.asset(deps=[ORDERS])
    def of_odd(changes: fr.Changes[Odd]) -> int:
        return 1

    for odd, text in (
        (or_none, "is annotated"),
        (a_list, "is annotated"),
        (a_dict, "is annotated"),
        (twice, "'shop/orders' twice"),
        (both_the_same, "changes, more, which would receive the same"),
        (of_odd, "payloads cannot be read as"),
    ):
        with pytest.raises(DefinitionError, match=text):
            fr.Project([ORDERS, clicks, odd])


async def test_invalidated_while_it_runs_it_starts_over_afterwards() -> None:
    """What the live run reads is in the value that was declared wrong."""
    going, seen = anyio.Event(), []

    @fr.asset(deps=[ORDERS])
    async def totals(changes: fr.Changes) -> int:
        seen.append([change.data_version for change in changes])
        if len(seen) == 1:
            await going.wait()
        return len(changes)

    async with engine(ORDERS, totals) as under_test:
        await under_test.say(order(1), order(2))
        await under_test.live_run()
        await under_test.say(Invalidated((AssetPartition("totals"),)))
        going.set()
        await under_test.quiet()
    assert seen == [["1", "2"], ["1", "2"]]


async def test_a_condition_holds_as_long_as_there_is_something_to_read() -> None:
    """Batch after batch, and for an equal version too."""
    reader = Reader(max_changes=2, freshness=fr.eager().when(fr.changed("shop/orders")))
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(*(order(n) for n in range(5)))
        await under_test.quiet()
        await under_test.say(order(4))
        await under_test.quiet()
    assert reader.runs == [["0", "1"], ["2", "3"], ["4"], ["4"]]


async def test_each_batch_names_what_caused_it() -> None:
    reader = Reader(max_changes=2)
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(*(order(n) for n in range(4)))
        await under_test.quiet()
        started = [r.event for r in await under_test.history() if isinstance(r.event, RunStarted)]
    assert len(started) == 2
    assert all(event.causes[0].asset == "shop/orders" and event.changed for event in started)


async def test_more_changes_than_one_page_of_the_stream_are_read_without_a_gap() -> None:
    """Also behind a full page, and with more said as long as there is more."""
    said: list[bool] = []
    seen: list[str] = []

    @fr.asset(deps=[ORDERS], max_changes=2500)
    def totals(changes: fr.Changes) -> int:
        said.append(changes.more)
        seen.extend(change.data_version for change in changes)
        return len(seen)

    async with engine(ORDERS, totals, deploy=False) as under_test:
        for start in range(0, 6000, 1000):
            await under_test.stream.append([order(start + n) for n in range(1000)])
        await under_test.deploy()
        await under_test.quiet()
    assert seen == [str(n) for n in range(6000)]
    assert said == [True, True, False]


async def test_a_promise_asks_until_all_that_it_owes_is_read() -> None:
    """A max_lag that has fallen due takes batch after batch, and the debt keeps its own time."""
    reader = Reader(max_changes=1, freshness=fr.max_lag("1m"))
    async with engine(ORDERS, reader.asset) as under_test:
        await under_test.say(order(0))
        await under_test.quiet_at(70)
        for n in range(1, 4):
            await under_test.say(order(n))
            under_test.advance(1.0)
        await under_test.quiet_at(70)
        assert under_test.status("totals").state == "fresh"
    assert reader.runs == [["0"], ["1"], ["2"], ["3"]]


def test_the_last_partition_cannot_be_read_by_change() -> None:
    @fr.asset(inputs={"accounts": fr.Input("shop/accounts", mapping=fr.last())})
    def newest(accounts: fr.Changes) -> int:
        return 1

    with pytest.raises(DefinitionError, match=r"over fr\.last"):
        fr.Project([BY_CUSTOMER, newest])
