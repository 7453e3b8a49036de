"""Assets that read changes, in the corners: partitions heard of before they are let in, many that
say nothing, values that go while a run is live. Still each change once.
"""

import anyio
import pytest

import freshet as fr
from freshet.engine.events import (
    Invalidated,
    Observed,
    PartitionsAdded,
    PartitionsRemoved,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from tests.engine import Engine, engine
from tests.test_changes_redefined import BY_NAME, ORDERS, PRICES, reader, redeploy, say, value

pytestmark = pytest.mark.anyio

CLOSED = fr.dynamic(by_arrival=False)
X = fr.static(["x"])


async def add(under_test: Engine, *keys: str) -> None:
    await under_test.say(PartitionsAdded("d", keys))
    await under_test.quiet()


# --- let in later ---------------------------------------------------------------------------------


async def test_a_partition_of_a_whole_dimension_is_read_once_it_is_let_in() -> None:
    source = fr.source("d", partitions=fr.product(k=CLOSED, s=X))
    log: list[str] = []
    shape = fr.product(s=X, t=fr.static(["t"]))
    async with engine(source, reader([source], log, partitions=shape)) as under_test:
        await add(under_test, "a|x")
        await say(under_test, "d@b|x:1", "d@a|x:1")
        assert log == ["d@a|x:1"]
        await add(under_test, "b|x")
        await say(under_test, "d@b|x:2")
        assert under_test.status("totals@x|t").state == "fresh"
        assert not under_test.view.staleness.states["totals"].absorbed
    assert sorted(log) == ["d@a|x:1", "d@b|x:1", "d@b|x:2"]


async def test_a_partition_that_is_let_in_during_a_run_is_read_by_the_next() -> None:
    source = fr.source("d", partitions=CLOSED)
    log: list[str] = []
    gate = anyio.Event()
    dep = fr.Input(source, fr.dimensions(s=("_", fr.all_partitions())))
    shape = fr.product(s=X, t=fr.static(["t"]))
    async with engine(source, reader([dep], log, partitions=shape, gate=gate)) as under_test:
        await under_test.say(PartitionsAdded("d", ("a",)))
        await under_test.say(SourceChanged("d", "b", "1"), SourceChanged("d", "a", "1"))
        await under_test.live_run()
        await under_test.say(PartitionsAdded("d", ("b",)))
        gate.set()
        await under_test.quiet()
    assert sorted(log) == ["d@a:1", "d@b:1"]


async def test_what_is_numbered_but_not_let_in_does_not_go_back() -> None:
    """A sibling gives it a number; it is heard of under that, and let in later still."""
    source = fr.source("d", partitions=fr.product(k=CLOSED, s=fr.static(["x", "y"])))
    log: list[str] = []
    dep = fr.Input(source, fr.table({"r": ["b|x"]}))
    when = fr.eager().when(fr.changed("d"))
    asset = reader([dep], log, partitions=fr.static(["r"]), freshness=when)
    async with engine(source, asset) as under_test:
        await say(under_test, "d@b|x:1")
        await add(under_test, "b|y")
        await say(under_test, "d@b|x:")
        assert log == ["d@b|x:1", "d@b|x:"]
        await under_test.say(SourceChanged("d", "b|x", ""), PartitionsAdded("d", ("b|x",)))
        await under_test.quiet()
    assert log == ["d@b|x:1", "d@b|x:", "d@b|x:"]


async def test_what_a_batch_leaves_is_read_even_if_it_was_no_reason_to_run() -> None:
    """What is asked for by name is read before it is let in: so the rest of it is too."""
    source = fr.source("d", partitions=CLOSED)
    log: list[str] = []
    dep = fr.Input(source, fr.table({"x": ["a", "b"]}))
    async with engine(source, reader([dep], log, partitions=X, max_changes=1)) as under_test:
        await add(under_test, "a")
        await say(under_test, "d@a:1", "d@b:1", "d@b:2")
    assert log == ["d@a:1", "d@b:1", "d@b:2"]


# --- very many, very quiet ------------------------------------------------------------------------


async def test_partitions_that_never_said_anything_are_in_nobodys_way() -> None:
    """There are more rows than keys then."""
    log: list[str] = []
    one = fr.Input(BY_NAME, fr.table({"x": ["k0"]}))
    every = fr.Input(BY_NAME, fr.all_partitions())
    async with engine(BY_NAME, reader([one], log, partitions=X)) as under_test:
        await add(under_test, *(f"k{n}" for n in range(17)))
        await say(under_test, "d@k0:1")
        await redeploy(under_test, BY_NAME, reader([every], log, partitions=X))
        assert under_test.status("totals@x").state == "fresh"
        await say(under_test, "d@k1:1")
    assert log == ["d@k0:1", "d@k1:1"]


async def test_what_is_read_no_more_costs_nothing() -> None:
    """Where it had got to is remembered, and not looked at with every change."""
    source = fr.source("d", partitions=fr.product(k=fr.dynamic(), s=X))
    log: list[str] = []
    dep = fr.Input(source, fr.dimensions(_="s"))
    async with engine(source, PRICES, reader([dep, PRICES], log, partitions=X)) as under_test:
        await say(under_test, "p@:1", "d@k0|x:1")
        await redeploy(under_test, source, PRICES, reader([dep], log, partitions=X))
        await add(under_test, *(f"k{n}|x" for n in range(1, 17)))
        await say(under_test, "p@:2", "d@k0|x:2", "d@k1|x:1")
        state = under_test.view.staleness.states["totals"]
        assert (state.absorbed, list(state.elsewhere.values())) == ({}, [{("p", ""): 4}])
        await redeploy(under_test, source, PRICES, reader([dep, PRICES], log, partitions=X))
    assert log == ["p@:1", "d@k0|x:1", "d@k0|x:2", "d@k1|x:1", "p@:2"]


async def test_a_partition_that_reads_none_of_a_source_is_given_none_of_it() -> None:
    """As the mapping says, also of a source without partitions."""
    log: list[str] = []
    dep = fr.Input(ORDERS, fr.table({"a": [""]}))
    shape = fr.static(["a", "b"])
    async with engine(ORDERS, PRICES, reader([dep, PRICES], log, partitions=shape)) as under_test:
        await say(under_test, "p@:1", "o@:1")
        await say(under_test, "p@:2")
        assert not under_test.view.staleness.states["totals"].absorbed
    assert sorted(log) == ["o@:1", "p@:1", "p@:1", "p@:2", "p@:2"]


# --- values that go -------------------------------------------------------------------------------


async def test_an_asset_that_was_read_otherwise_for_a_while_starts_over() -> None:
    log: list[str] = []

    @fr.asset(key="totals")
    def as_it_is(o: str) -> int:
        return 100

    async with engine(ORDERS, reader([ORDERS], log)) as under_test:
        await say(under_test, "o@:1", "o@:2")
        await redeploy(under_test, ORDERS, as_it_is)
        await say(under_test, "o@:3")
        log.clear()
        await redeploy(under_test, ORDERS, reader([ORDERS], log))
        assert await value(under_test) == 3
    assert log == ["o@:1", "o@:2", "o@:3"]


async def test_a_value_that_goes_during_a_run_is_built_again_from_the_first_change_on() -> None:
    """Of an asset that writes elsewhere: what the run added is all there would be."""
    log: list[str] = []
    gate = anyio.Event()

    @fr.asset(key="totals", deps=[ORDERS])
    async def totals(changes: fr.Changes) -> None:
        if any(change.data_version == "2" for change in changes):
            await gate.wait()
        log.extend(change.data_version for change in changes)

    async with engine(ORDERS, totals) as under_test:
        await say(under_test, "o@:1")
        await under_test.say(SourceChanged("o", "", "2"))
        await under_test.live_run()
        await under_test.say(Observed("totals", "", ""))
        gate.set()
        await under_test.quiet()
    assert log[-2:] == ["1", "2"]


async def test_what_was_declared_wrong_before_it_went_away_is_still_wrong_when_it_is_back() -> None:
    log: list[str] = []
    gate = anyio.Event()
    source = fr.source("d", partitions=CLOSED)
    asset = reader([source], log, partitions=CLOSED, gate=gate)
    async with engine(source, asset) as under_test:
        await under_test.say(PartitionsAdded("d", ("a",)), SourceChanged("d", "a", "1"))
        await under_test.live_run()
        await under_test.say(
            Invalidated((AssetPartition("totals", "a"),)),
            PartitionsRemoved("d", ("a",)),
            PartitionsAdded("d", ("a",)),
        )
        gate.set()
        await under_test.quiet()
    assert log == ["d@a:1", "d@a:1"]


async def test_an_asset_that_was_a_source_for_a_while_and_was_withdrawn_starts_over() -> None:
    log: list[str] = []
    async with engine(ORDERS, reader([ORDERS], log)) as under_test:
        await say(under_test, "o@:1")
        await redeploy(under_test, ORDERS, fr.source("totals"))
        await say(under_test, "o@:2", "totals@:")
        await redeploy(under_test, ORDERS, reader([ORDERS], log))
        assert await value(under_test) == 2
    assert log == ["o@:1", "o@:1", "o@:2"]


async def test_a_run_whose_partition_went_away_meanwhile_is_history_but_no_news() -> None:
    """Its result is not the partition's; should that come back, it is built anew."""
    log: list[str] = []
    gate = anyio.Event()
    source = fr.source("d", partitions=CLOSED)
    asset = reader([source], log, partitions=CLOSED, gate=gate)
    async with engine(source, asset) as under_test:
        await under_test.say(PartitionsAdded("d", ("a",)), SourceChanged("d", "a", "1"))
        await under_test.live_run()
        await under_test.say(PartitionsRemoved("d", ("a",)))
        gate.set()
        while under_test.view.runs.live:
            await anyio.sleep(0)
        await add(under_test, "a")
        assert await value(under_test, "a") == 1
    assert log == ["d@a:1", "d@a:1"]
