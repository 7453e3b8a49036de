"""Assets that read changes, while definitions, partitions and values come and go: no change is
passed over, and none comes twice.
"""

from collections.abc import Sequence

import anyio
import pytest

import freshet as fr
from freshet.engine.events import (
    AnyEvent,
    Demanded,
    GraphDeployed,
    Invalidated,
    Materialized,
    Observed,
    PartitionsAdded,
    PartitionsRemoved,
    Paused,
    Recorded,
    Resumed,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.parts import Absorbed, Target
from freshet.engine.policies import Eager
from freshet.engine.resolution import resolve
from freshet.projections.marks import BULK, LIVE
from freshet.projections.view import View
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio

ORDERS = fr.source("o")
PRICES = fr.source("p")
BY_NAME = fr.source("d", partitions=fr.dynamic())


def reader(
    deps: Sequence[object], log: list[str], *, gate: anyio.Event | None = None, **options: object
) -> fr.Asset:
    """An asset that logs each change it is given, as source@partition:version."""

    @fr.asset(key="totals", deps=deps, **options)  # type: ignore[call-overload, untyped-decorator]  # any option
    async def totals(changes: fr.Changes) -> int:
        if gate is not None:
            await gate.wait()
        log.extend(f"{c.source}@{c.partition}:{c.data_version}" for c in changes)
        return int(changes.previous(0)) + len(changes)

    found: fr.Asset = totals
    return found


async def redeploy(under_test: Engine, *definitions: fr.Asset | fr.Source) -> None:
    await under_test.redeploy(*definitions)
    await under_test.quiet()


async def say(under_test: Engine, *names: str) -> None:
    """Changes, as source@partition:version."""
    events = []
    for name in names:
        subject, _, version = name.partition(":")
        source, _, partition = subject.partition("@")
        events.append(SourceChanged(source, partition, version))
    await under_test.say(*events)
    await under_test.quiet()


async def value(under_test: Engine, partition: str = "") -> int:
    version = await under_test.version("totals", partition)
    assert version is not None
    name = AssetPartition("totals", partition)
    found: int = under_test.store.load(name, version.data_version, int)
    return found


# --- definitions ----------------------------------------------------------------------------------


async def test_a_source_that_is_added_is_read_from_its_first_change_on() -> None:
    log: list[str] = []
    async with engine(ORDERS, PRICES, reader([ORDERS], log)) as under_test:
        await say(under_test, "o@:1", "p@:1", "p@:2")
        await redeploy(under_test, ORDERS, PRICES, reader([ORDERS, PRICES], log))
        await say(under_test, "p@:3")
        assert await value(under_test) == 4  # it goes on with the value it had
        assert not under_test.view.staleness.states["totals"].absorbed  # nothing to remember
    assert log == ["o@:1", "p@:1", "p@:2", "p@:3"]


async def test_a_source_that_was_read_as_it_is_is_read_from_its_first_change_on() -> None:
    log: list[str] = []

    @fr.asset(key="totals")
    def as_it_is(o: str) -> int:
        return 100

    async with engine(ORDERS, as_it_is) as under_test:
        await say(under_test, "o@:1", "o@:2")
        await redeploy(under_test, ORDERS, reader([ORDERS], log))
        assert await value(under_test) == 2  # what was made otherwise is not gone on with
    assert log == ["o@:1", "o@:2"]


async def test_a_source_that_is_taken_out_with_changes_unread_goes_on_there_when_it_is_back() -> (
    None
):
    log: list[str] = []
    async with engine(ORDERS, PRICES, reader([ORDERS, PRICES], log, max_changes=1)) as under_test:
        await under_test.say(*(SourceChanged(s, "", v) for s, v in ("p0", "o1", "p1", "o2")))
        await under_test.live_run()
        await redeploy(under_test, ORDERS, PRICES, reader([PRICES], log, max_changes=1))
        assert log == ["p@:0", "p@:1"]
        await redeploy(under_test, ORDERS, PRICES, reader([ORDERS, PRICES], log, max_changes=1))
    assert log == ["p@:0", "p@:1", "o@:1", "o@:2"]


async def test_a_source_that_is_added_during_a_run_is_read_by_the_next() -> None:
    log: list[str] = []
    gate = anyio.Event()
    async with engine(ORDERS, PRICES, reader([ORDERS], log, gate=gate)) as under_test:
        await under_test.say(SourceChanged("p", "", "1"), SourceChanged("o", "", "1"))
        await under_test.live_run()
        await under_test.redeploy(ORDERS, PRICES, reader([ORDERS, PRICES], log))
        gate.set()
        await under_test.quiet()
        assert under_test.status("totals").state == "fresh"
    assert log == ["o@:1", "p@:1"]


async def test_partitions_that_a_definition_adds_are_read_from_their_first_change_on() -> None:
    log: list[str] = []

    def over(*keys: str) -> tuple[fr.Source, fr.Asset]:
        source = fr.source("d", partitions=fr.static(keys))
        table = fr.Input(source, fr.table({"x": keys}))
        return source, reader([table], log, partitions=fr.static(["x"]))

    async with engine(*over("a")) as under_test:
        await say(under_test, "d@b:1", "d@a:1")
        await redeploy(under_test, *over("a", "b"))
        await say(under_test, "d@b:2")
        await redeploy(under_test, *over("b"))
        await say(under_test, "d@a:2", "d@b:3")
        await redeploy(under_test, *over("a", "b"))
    assert sorted(log) == ["d@a:1", "d@a:2", "d@b:1", "d@b:2", "d@b:3"]


async def test_all_of_a_source_and_some_of_it_in_turn() -> None:
    """From one partition to all, and back: each change once, also of what nobody read meanwhile."""
    log: list[str] = []
    source = fr.source("d", partitions=fr.static(["a", "b"]))
    one = fr.Input(source, fr.table({"x": ["a"]}))
    every = fr.Input(source, fr.all_partitions())
    shape = fr.static(["x"])
    async with engine(source, reader([one], log, partitions=shape)) as under_test:
        await say(under_test, "d@a:1", "d@b:1")
        await redeploy(under_test, source, reader([every], log, partitions=shape))
        assert log == ["d@a:1", "d@b:1"]
        await redeploy(under_test, source, reader([one], log, partitions=shape))
        await say(under_test, "d@b:2", "d@a:2")
        assert log[2:] == ["d@a:2"]
        await redeploy(under_test, source, reader([every], log, partitions=shape))
    assert log[2:] == ["d@a:2", "d@b:2"]


async def test_a_source_that_is_not_defined_for_a_while_is_read_on() -> None:
    """Also what was said of it meanwhile, and what ended with a withdrawal."""
    log: list[str] = []

    @fr.asset
    def other() -> int:
        return 1

    async with engine(ORDERS, reader([ORDERS], log)) as under_test:
        await say(under_test, "o@:1")
        await redeploy(under_test, other)
        await say(under_test, "o@:2", "o@:")
        await redeploy(under_test, ORDERS, reader([ORDERS], log))
        assert under_test.status("totals").state == "fresh"
    assert log == ["o@:1", "o@:2", "o@:"]


# --- partitions -----------------------------------------------------------------------------------


async def test_partitions_that_are_let_in_later_are_read_from_their_first_change_on() -> None:
    source = fr.source("d", partitions=fr.dynamic(by_arrival=False))
    log: list[str] = []
    table = fr.Input(source, fr.table({"x": ["a", "b"]}))
    async with engine(source, reader([table], log, partitions=fr.static(["x"]))) as under_test:
        await under_test.say(PartitionsAdded("d", ("a",)))
        await say(under_test, "d@b:1", "d@a:1")
        await say(under_test, "d@b:2")
        assert log == ["d@b:1", "d@a:1"]  # which nobody has let in is no reason to run
        await under_test.say(PartitionsAdded("d", ("b",)))
        await under_test.quiet()
    assert log == ["d@b:1", "d@a:1", "d@b:2"]


async def test_who_reads_all_of_a_source_reads_also_what_it_does_not_let_in() -> None:
    source = fr.source("d", partitions=fr.dynamic(by_arrival=False))
    log: list[str] = []
    async with engine(source, reader([source], log)) as under_test:
        await under_test.say(PartitionsAdded("d", ("a",)))
        await say(under_test, "d@a:1")
        await say(under_test, "d@b:1")
        assert under_test.status("totals").state == "fresh"
    assert log == ["d@a:1", "d@b:1"]


async def test_a_partition_that_goes_and_comes_back_half_read_is_read_on() -> None:
    log: list[str] = []
    shape = fr.dynamic(by_arrival=False)
    source = fr.source("d", partitions=shape)
    gate = anyio.Event()
    asset = reader(
        [source], log, gate=gate, partitions=shape, max_changes=1, freshness=fr.on_missing()
    )
    async with engine(source, asset) as under_test:
        await under_test.say(PartitionsAdded("d", ("a",)))
        await under_test.say(*(SourceChanged("d", "a", v) for v in "123"))
        await under_test.live_run()
        await under_test.say(Paused("totals"))
        gate.set()
        while under_test.view.runs.live:
            await anyio.sleep(0)
        assert log == ["d@a:1"]
        await under_test.say(PartitionsRemoved("d", ("a",)), Resumed("totals"))
        await under_test.quiet()
        await under_test.say(PartitionsAdded("d", ("a",)))
        await under_test.quiet()
    assert log == ["d@a:1", "d@a:2", "d@a:3"]


async def test_a_partition_that_goes_and_comes_back_during_its_run_reads_what_was_added() -> None:
    """What its run reads is what it was to read when it started."""
    log: list[str] = []
    gate = anyio.Event()
    shape = fr.dynamic(by_arrival=False)
    one, two = fr.source("d", partitions=shape), fr.source("e", partitions=shape)
    old = reader([one], log, partitions=shape, gate=gate)
    async with engine(one, two, old) as under_test:
        await under_test.say(PartitionsAdded("d", ("a",)), PartitionsAdded("e", ("a",)))
        await under_test.say(SourceChanged("d", "a", "1"), SourceChanged("e", "a", "1"))
        await under_test.live_run()
        await under_test.say(PartitionsRemoved("d", ("a",)))
        new = reader([one, two], log, partitions=fr.static(["a"]), gate=gate)
        await under_test.redeploy(one, two, new)
        gate.set()
        await under_test.quiet()
    assert log == ["d@a:1", "e@a:1"]


# --- withdrawals ----------------------------------------------------------------------------------


async def test_every_withdrawal_is_a_change() -> None:
    """Also the first thing ever said of a source, and one of what is gone already."""
    log: list[str] = []
    async with engine(ORDERS, reader([ORDERS], log)) as under_test:
        for name in ("o@:", "o@:1", "o@:", "o@:"):
            await say(under_test, name)
    assert log == ["o@:", "o@:1", "o@:", "o@:"]


@pytest.mark.parametrize(
    "mapping",
    [None, fr.table({"a": ["a", "b"]}), fr.all_partitions()],
    ids=["identity", "table", "all"],
)
async def test_a_withdrawal_that_ends_a_partition_of_the_source_is_read(
    mapping: object,
) -> None:
    log: list[str] = []
    dep = fr.Input(BY_NAME, mapping) if mapping is not None else BY_NAME  # type: ignore[arg-type]  # a mapping
    async with engine(BY_NAME, reader([dep], log, partitions=fr.static(["a"]))) as under_test:
        await say(under_test, "d@a:1")
        await say(under_test, "d@a:")
        assert under_test.status("totals@a").state == "fresh"
    assert log == ["d@a:1", "d@a:"]


async def test_a_partition_that_ends_with_its_withdrawal_reads_it_when_it_is_back() -> None:
    log: list[str] = []
    asset = reader([BY_NAME], log, partitions=fr.dynamic(), max_changes=1)
    async with engine(BY_NAME, asset) as under_test:
        await say(under_test, "d@a:1", "d@a:2", "d@a:")
        await say(under_test, "d@a:3")
    assert log == ["d@a:1", "d@a:2", "d@a:", "d@a:3"]


async def test_a_withdrawal_of_a_removed_partition_is_remembered() -> None:
    """It does not come back with the version it had."""
    async with engine(BY_NAME) as under_test:
        await say(under_test, "d@a:1")
        await under_test.say(PartitionsRemoved("d", ("a",)))
        await say(under_test, "d@a:")
        await under_test.say(PartitionsAdded("d", ("a",)))
        assert under_test.status("d@a").state == "missing"


# --- values ---------------------------------------------------------------------------------------


async def test_a_value_that_is_gone_is_built_again_from_the_first_change_on() -> None:
    log: list[str] = []
    async with engine(ORDERS, reader([ORDERS], log)) as under_test:
        await say(under_test, "o@:1", "o@:2")
        await under_test.say(Observed("totals", "", ""))
        await under_test.quiet()
        assert await value(under_test) == 2
    assert log == ["o@:1", "o@:2"] * 2


async def test_a_value_that_somebody_changed_is_not_taken_for_the_one_before() -> None:
    """What lies there now is not known: said clearly, with the way out."""
    log: list[str] = []
    async with engine(ORDERS, reader([ORDERS], log)) as under_test:
        await say(under_test, "o@:1")
        await under_test.say(Observed("totals", "", "repaired"))
        await say(under_test, "o@:2")
        failed = [r.event for r in await under_test.history() if isinstance(r.event, RunFailed)]
        assert "observed as 'repaired'" in failed[0].error
        log.clear()
        await under_test.say(Invalidated((AssetPartition("totals"),)))
        await under_test.quiet()
        assert await value(under_test) == 2
    assert log == ["o@:1", "o@:2"]


async def test_what_is_declared_wrong_during_a_run_is_read_again() -> None:
    log: list[str] = []
    gate = anyio.Event()
    async with engine(ORDERS, reader([ORDERS], log, gate=gate)) as under_test:
        await under_test.say(SourceChanged("o", "", "1"), SourceChanged("o", "", "2"))
        await under_test.live_run()
        await under_test.say(Invalidated((AssetPartition("totals"),)))
        gate.set()
        await under_test.quiet()
        assert await value(under_test) == 2
    assert log == ["o@:1", "o@:2"] * 2


# --- policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "freshness", [fr.on_missing(), fr.eager().when(fr.changed("o"))], ids=["missing", "changed"]
)
async def test_all_batches_come_that_the_first_one_left(freshness: fr.Policy) -> None:
    log: list[str] = []
    asset = reader([ORDERS], log, max_changes=2, freshness=freshness)
    async with engine(ORDERS, asset) as under_test:
        await say(under_test, *(f"o@:{n}" for n in range(5)))
        assert log == [f"o@:{n}" for n in range(5)]


async def test_what_is_missing_only_once_is_not_asked_for_again() -> None:
    log: list[str] = []
    asset = reader([ORDERS], log, max_changes=2, freshness=fr.on_missing())
    async with engine(ORDERS, asset) as under_test:
        await say(under_test, "o@:1", "o@:2", "o@:3")
        await say(under_test, "o@:4")
    assert log == ["o@:1", "o@:2", "o@:3"]


@pytest.mark.parametrize(
    "policy", [fr.max_lag("1m"), fr.cron("* * * * *")], ids=["max_lag", "cron"]
)
async def test_what_falls_due_reads_all_that_was_there_by_then(policy: fr.Policy) -> None:
    """In as many runs as it takes, and nothing that came later."""
    log: list[str] = []
    asset = reader([ORDERS], log, max_changes=2, freshness=policy)
    async with engine(ORDERS, asset) as under_test:
        await under_test.say(*(SourceChanged("o", "", f"{n}") for n in range(5)))
        for _ in range(100):
            await under_test.quiet_at(2.0)
            if log:
                break
        assert log == [f"o@:{n}" for n in range(5)]
        await under_test.say(SourceChanged("o", "", "late"))
        await under_test.settled()
        assert len(log) == 5


def test_what_a_batch_leaves_is_owed_since_it_was_recorded() -> None:
    """Not since the batch before it was done: so a promise of freshness counts from there."""
    graph, _ = resolve([ORDERS, reader([ORDERS], [], max_changes=1)], Eager())
    view = View()
    facts: list[tuple[int, AnyEvent]] = [
        (0, GraphDeployed(graph.digest, tuple(graph.specs.values()))),
        (10, SourceChanged("o", "", "1")),
        (20, SourceChanged("o", "", "2")),
        (30, SourceChanged("o", "", "3")),
        (60, RunStarted((Target("totals"),))),
        (70, Materialized("totals", "", 5, "v", absorbed=Absorbed(0, 2, 1, 3, 20_000_000))),
        (70, RunSucceeded(5)),
    ]
    for position, (seconds, event) in enumerate(facts, 1):
        view.apply(Recorded(position, seconds * 1_000_000, event))
    cell = view.staleness.cell("totals", "")
    assert cell is not None
    assert (cell.owed, view.staleness.marks.time_of(cell.owed)) == (3, 20_000_000)


@pytest.mark.parametrize("policy", [fr.manual(), fr.cron("0 0 1 1 *")], ids=["manual", "cron"])
async def test_what_only_a_backfill_asks_for_takes_its_share_alone(policy: fr.Policy) -> None:
    """However long it owes already: and also what a run leaves of many changes."""
    source = fr.source("o")

    @fr.asset(deps=[source], freshness=policy, max_changes=1)
    def read(changes: fr.Changes) -> int:
        return len(changes)

    async with engine(source, read, slots=8) as under_test:
        await under_test.say(*(SourceChanged("o", "", f"{n}") for n in range(3)))
        staleness = under_test.view.staleness
        kinds = []
        await under_test.say(Demanded((AssetPartition("read"),), bulk=True, force=False))
        while under_test.status("read").state != "fresh":
            kinds.append(staleness.states["read"].ready[0])
            await anyio.sleep(0)
    assert BULK in kinds
    assert LIVE not in kinds


async def test_a_backfill_of_what_was_never_built_leaves_slots_to_others() -> None:
    """Whatever its partitions owe: they are asked for by the backfill alone."""
    gate = anyio.Event()
    live = []

    @fr.asset(partitions=fr.static([str(n) for n in range(10)]), freshness=fr.manual())
    async def wide() -> int:
        live.append(1)
        await gate.wait()
        return 1

    async with engine(ORDERS, wide, slots=4) as under_test:
        names = tuple(AssetPartition("wide", str(n)) for n in range(10))
        await under_test.say(Demanded(names, bulk=True, force=False))
        for _ in range(200):
            await anyio.sleep(0)
        assert len(live) == 2  # half of the slots
        gate.set()
        await under_test.quiet()
    assert len(live) == 10


# --- parameters -----------------------------------------------------------------------------------


async def test_a_parameter_with_a_name_and_one_for_the_others() -> None:
    """Each is given its own, and a batch holds as many of both together as is declared."""
    named: list[str] = []
    others: list[str] = []

    @fr.asset(deps=[PRICES, BY_NAME], max_changes=3)
    def both(o: fr.Changes, rest: fr.Changes) -> int:
        named.extend(change.data_version for change in o)
        others.extend(f"{change.source}{change.data_version}" for change in rest)
        assert len(o) + len(rest) <= 3
        assert o.more == rest.more
        return 1

    async with engine(ORDERS, PRICES, BY_NAME, both) as under_test:
        await say(under_test, "o@:1", "p@:2", "d@a:3", "o@:4", "p@:5")
    assert named == ["1", "4"]
    assert others == ["p2", "d3", "p5"]


async def test_very_many_sources() -> None:
    sources = [fr.source(f"s/{n}") for n in range(1200)]
    log: list[str] = []
    async with engine(*sources, reader(sources, log)) as under_test:
        await say(under_test, *(f"s/{n}@:1" for n in range(1200)))
    assert len(log) == 1200
