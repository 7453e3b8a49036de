"""Partitions end to end on the real reactor and runner, with a clock that tests move."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import anyio
import pytest

import freshet as fr
from freshet.engine.events import (
    DemandCancelled,
    Demanded,
    Materialized,
    PartitionsAdded,
    PartitionsRemoved,
    Paused,
    Resumed,
    RunFailed,
    RunStarted,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.mappings import PartitionMapping
from freshet.projections.answers import status_report
from freshet.projections.backfills import progress_of
from freshet.projections.cells import cells_of
from freshet.projections.matrix import matrix_of
from freshet.projections.plan import plan_of
from freshet.projections.why import Explanation, explain
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio


def at(e: Engine, moment: str) -> None:
    """Move the clock to a moment, in UTC."""
    when = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    e.now = int(when.timestamp() * 1_000_000)


async def land(e: Engine, *names: str, version: str = "1") -> None:
    for name in names:
        asset, _, partition = name.partition("@")
        await e.say(SourceChanged(asset, partition, version))


def states(e: Engine, asset: str) -> dict[str, str]:
    return {
        cell.partition: e.status(str(cell.key)).state
        for cell in cells_of(e.view.staleness.states[asset])
    }


async def value(e: Engine, asset: str, partition: str = "") -> object:
    version = await e.version(asset, partition)
    assert version is not None, f"{asset}@{partition}"
    return e.store.load(AssetPartition(asset, partition), version.data_version, None)


DAYS = fr.daily("2024-01-01")


async def test_a_landed_file_changes_only_its_own_partition() -> None:  # B1.5
    """Days exist once they are over, missing until something lands, which moves one day alone."""
    files = fr.source("files", partitions=DAYS)

    @fr.asset(partitions=DAYS)
    def sums(files: str) -> str:
        return f"sum of {files}"

    async with engine(files, sums, deploy=False) as e:
        at(e, "2024-01-04T12:00")
        await e.deploy()
        assert states(e, "sums") == dict.fromkeys(
            ("2024-01-01", "2024-01-02", "2024-01-03"), "missing"
        )
        await land(e, "files@2024-01-02")
        await e.settled()
        assert await e.runs() == ["sums@2024-01-02"]
        assert states(e, "sums") == {
            "2024-01-01": "missing",
            "2024-01-02": "fresh",
            "2024-01-03": "missing",
        }
        blocker = e.status("sums@2024-01-03").blocker
        assert blocker is not None
        assert (blocker.what, blocker.partition) == ("missing_source", "2024-01-03")


async def test_a_window_comes_into_being_when_it_is_over() -> None:
    """The reactor wakes for it once, records it once, and nothing is asked in between."""
    files = fr.source("files", partitions=DAYS)

    async with engine(files, deploy=False) as e:
        at(e, "2024-01-02T23:59:59")
        await e.deploy()
        assert list(states(e, "files")) == ["2024-01-01"]
        await e.loop.act()
        assert list(states(e, "files")) == ["2024-01-01"]
        at(e, "2024-01-05T00:00")
        await e.loop.act()
        await e.folded()
        assert list(states(e, "files")) == [f"2024-01-0{n}" for n in range(1, 5)]
        head = e.stream.head
        await e.loop.act()
        assert e.stream.head == head


async def test_both_the_old_and_the_latest_partition_are_built() -> None:  # S16
    """A late file for an old day and a file for today are two runs, whatever their order."""
    files = fr.source("files", partitions=DAYS)

    @fr.asset(partitions=DAYS)
    def sums(files: str) -> str:
        return files

    async with engine(files, sums, deploy=False) as e:
        at(e, "2024-01-31T12:00")
        await e.deploy()
        await land(e, "files@2024-01-03", "files@2024-01-30")
        await e.settled()
        assert sorted(await e.runs()) == ["sums@2024-01-03", "sums@2024-01-30"]


HOURS = fr.hourly("2024-01-01", opens="data")
HOUR_KEYS = [f"2024-01-01T{hour:02}" for hour in range(24)]


async def test_a_day_runs_once_after_its_24_hours() -> None:  # D22, K3
    """The day waits for the last of its hours, reads them all by key, and runs once."""
    readings = fr.source("readings", partitions=HOURS)

    @fr.asset(partitions=DAYS)
    def day(readings: Mapping[str, str]) -> list[str]:
        return list(readings)

    async with engine(readings, day) as e:
        await land(e, *(f"readings@{key}" for key in reversed(HOUR_KEYS[1:])))
        await e.settled()
        assert await e.runs() == []
        assert e.status("day@2024-01-01").blocker is not None
        await land(e, "readings@2024-01-01T00")
        await e.settled()
        assert await e.runs() == ["day@2024-01-01"]
        assert await value(e, "day", "2024-01-01") == HOUR_KEYS


async def test_at_the_deadline_a_day_goes_on_with_its_gaps_recorded() -> None:  # D22, S14
    """With `missing="skip"` it waits until two hours after the day is over; what comes later makes
    it run again.
    """
    readings = fr.source("readings", partitions=HOURS)
    rule = fr.Input("readings", missing="skip", deadline="2h")

    @fr.asset(partitions=DAYS, inputs={"readings": rule})
    def day(context: fr.Context, readings: Mapping[str, str]) -> list[str]:
        return [*readings, "without", *(gap.partition for gap in context.gaps)]

    async with engine(readings, day) as e:
        at(e, "2024-01-01T23:30")
        await land(e, *(f"readings@{key}" for key in HOUR_KEYS[:22]))
        await e.settled()
        assert (await e.runs(), e.status("day@2024-01-01").activity) == ([], "held")
        at(e, "2024-01-02T01:59:59")
        await e.loop.act()
        await e.settled()
        assert await e.runs() == []
        at(e, "2024-01-02T02:00")
        await e.loop.act()
        await e.quiet()
        assert await e.runs() == ["day@2024-01-01"]
        assert await value(e, "day", "2024-01-01") == [*HOUR_KEYS[:22], "without", *HOUR_KEYS[22:]]
        made = await e.version("day", "2024-01-01")
        assert made is not None
        (read,) = made.inputs
        assert (read.partition, read.count) == ("2024-01-01T00..2024-01-01T21", 22)
        assert (read.missing, read.gaps) == (2, tuple(HOUR_KEYS[22:]))
        await land(e, "readings@2024-01-01T23")
        await e.loop.act()
        await e.settled()
        await e.loop.act()
        await e.settled()
        assert await e.runs() == ["day@2024-01-01"] * 2, "after the deadline news is not held"


async def test_only_partitions_past_their_own_deadline_run_and_only_once() -> None:  # S17
    """Five days each lack an hour: each goes on at its own deadline, once, the others not."""
    readings = fr.source("readings", partitions=fr.cron_windows("0 */12 * * *", "2024-01-01"))
    rule = fr.Input("readings", missing="skip", deadline="1h")

    @fr.asset(partitions=DAYS, inputs={"readings": rule})
    def day(readings: Mapping[str, str]) -> int:
        return len(readings)

    async with engine(readings, day) as e:
        for n in range(1, 6):
            at(e, f"2024-01-0{n}T13:00")
            await land(e, f"readings@2024-01-0{n}T00:00")
            await e.loop.act()
            await e.settled()
            assert await e.runs() == [f"day@2024-01-0{m}" for m in range(1, n)]
        for _ in range(3):
            await e.loop.act()
            await e.settled()
        assert await e.runs() == [f"day@2024-01-0{m}" for m in range(1, 5)]


async def test_a_missing_input_may_fail_the_run_by_name() -> None:
    """With `missing="fail"` the run is recorded as failed, naming what is missing, and the news of
    its arrival starts the next.
    """
    one = fr.source("one", partitions=DAYS)
    two = fr.source("two", partitions=DAYS)

    @fr.asset(partitions=DAYS, inputs={"two": fr.Input(two, missing="fail")})
    def both(one: str, two: str) -> str:
        return one + two

    async with engine(one, two, both) as e:
        at(e, "2024-01-03T00:00")
        await land(e, "one@2024-01-01")
        await e.loop.act()
        await e.settled()
        failed = [r.event for r in await e.history() if isinstance(r.event, RunFailed)]
        assert [f.error for f in failed] == ["input two@2024-01-01 is missing"]
        await land(e, "two@2024-01-01")
        await e.settled()
        assert e.status("both@2024-01-01").state == "fresh"


async def test_an_input_that_may_be_missing_is_none() -> None:
    """A single partition that is skipped arrives as None; its gap is recorded; later it is read."""
    one = fr.source("one", partitions=DAYS)
    two = fr.source("two", partitions=DAYS)

    @fr.asset(partitions=DAYS, inputs={"two": fr.Input(two, missing="skip")})
    def both(one: str, two: str | None) -> list[str | None]:
        return [one, two]

    async with engine(one, two, both) as e:
        at(e, "2024-01-03T00:00")
        await land(e, "one@2024-01-01")
        await e.loop.act()
        await e.settled()
        assert await value(e, "both", "2024-01-01") == ["1", None]
        await land(e, "two@2024-01-01", version="2")
        await e.settled()
        assert await value(e, "both", "2024-01-01") == ["1", "2"]


async def test_a_trailing_window_reads_its_days_and_follows_each_of_them() -> None:  # B4.4
    """Three days up to its own, fewer at the start; a change moves the three that read it."""
    daily = fr.source("daily", partitions=fr.daily("2024-01-01", opens="data"))

    @fr.asset(partitions=DAYS, inputs={"daily": fr.Input("daily", fr.trailing(3))})
    def rolling(daily: Mapping[str, str]) -> str:
        return "".join(daily.values())

    async with engine(daily, rolling) as e:
        for n in range(1, 7):
            await land(e, f"daily@2024-01-0{n}", version=str(n))
        await e.settled()
        found = [await value(e, "rolling", f"2024-01-0{n}") for n in range(1, 7)]
        assert found == ["1", "12", "123", "234", "345", "456"]
        after = e.stream.head
        e.advance(1)
        await land(e, "daily@2024-01-03", version="x")
        await e.settled()
        assert await e.runs(after) == [f"rolling@2024-01-0{n}" for n in (3, 4, 5)]
        assert await value(e, "rolling", "2024-01-05") == "x45"


async def test_an_asset_may_read_its_own_previous_partition() -> None:
    """Balances carry on day by day, in order; a late correction runs all later days, once each."""
    moves = fr.source("moves", partitions=fr.daily("2024-01-01", opens="data"))

    @fr.asset(partitions=DAYS, inputs={"before": fr.Input("balance", fr.previous())})
    def balance(moves: str, before: int | None) -> int:
        return int(moves) + (before or 0)

    async with engine(moves, balance) as e:
        for n in (4, 3, 2, 1):
            await land(e, f"moves@2024-01-0{n}", version=str(n))
        await e.settled()
        assert [await value(e, "balance", f"2024-01-0{n}") for n in range(1, 5)] == [1, 3, 6, 10]
        assert await e.runs() == [f"balance@2024-01-0{n}" for n in range(1, 5)]
        after = e.stream.head
        e.advance(1)
        await land(e, "moves@2024-01-02", version="12")
        await e.settled()
        assert await e.runs(after) == [f"balance@2024-01-0{n}" for n in (2, 3, 4)]
        assert await value(e, "balance", "2024-01-04") == 20


async def test_one_dimension_of_many() -> None:
    """A product reads a daily asset by its day; what has only days reads all its regions."""
    both = fr.product(day=fr.daily("2024-01-01", opens="data"), region=fr.static(["eu", "us"]))
    rates = fr.source("rates", partitions=fr.daily("2024-01-01", opens="data"))
    sales = fr.source("sales", partitions=both)

    @fr.asset(partitions=both)
    def priced(sales: str, rates: str) -> str:
        return f"{sales}*{rates}"

    @fr.asset(partitions=DAYS)
    def total(priced: Mapping[str, str]) -> list[list[str]]:
        return [[key, value] for key, value in priced.items()]

    async with engine(rates, sales, priced, total) as e:
        await land(e, "sales@2024-01-01|eu", "sales@2024-01-01|us", "rates@2024-01-01")
        await e.settled()
        assert await value(e, "total", "2024-01-01") == [
            ["2024-01-01|eu", "1*1"],
            ["2024-01-01|us", "1*1"],
        ]
        after = e.stream.head
        e.advance(1)
        await land(e, "sales@2024-01-01|us", version="2")
        await e.settled()
        assert await e.runs(after) == ["priced@2024-01-01|us", "total@2024-01-01"]


async def test_the_last_partition() -> None:
    """`last` follows the newest partition that has a value, and nothing older."""
    models = fr.source("models", partitions=fr.daily("2024-01-01", opens="data"))

    @fr.asset(inputs={"model": fr.Input("models", fr.last())})
    def serving(model: str) -> str:
        return model

    async with engine(models, serving) as e:
        await land(e, "models@2024-01-05", version="five")
        await e.settled()
        e.advance(1)
        await land(e, "models@2024-01-02", version="two")
        await e.settled()
        assert await e.runs() == ["serving"]
        e.advance(1)
        await land(e, "models@2024-01-07", version="seven")
        await e.settled()
        assert (await e.runs(), await value(e, "serving")) == (["serving"] * 2, "seven")


async def test_dynamic_partitions_come_by_landing_or_by_name_and_go_by_name() -> None:
    """A new key is a new partition downstream too; removed, it is gone from the sums made of it."""
    customers = fr.source("customers", partitions=fr.dynamic())

    @fr.asset(partitions=fr.dynamic())
    def profile(customers: str) -> str:
        return f"profile {customers}"

    @fr.asset
    def everybody(profile: Mapping[str, str]) -> dict[str, str]:
        return dict(profile)

    async with engine(customers, profile, everybody) as e:
        await land(e, "customers@acme", "customers@süd")
        await e.settled()
        assert await value(e, "everybody") == {"acme": "profile 1", "süd": "profile 1"}
        await e.say(PartitionsAdded("customers", ("later",)))
        assert e.status("profile@later").state == "missing"
        await e.say(PartitionsRemoved("customers", ("acme", "later")))
        await e.settled()
        assert await value(e, "everybody") == {"süd": "profile 1"}
        assert list(states(e, "profile")) == ["süd"]


async def test_keys_that_must_be_added_first_are_refused_until_then() -> None:
    """With `by_arrival=False` a landed key is recorded without effect, and let in when added."""
    known = fr.source("known", partitions=fr.dynamic(by_arrival=False))

    async with engine(known) as e:
        await land(e, "known@stranger")
        assert states(e, "known") == {}
        await e.say(PartitionsAdded("known", ("stranger",)))
        assert states(e, "known") == {"stranger": "fresh"}


async def test_a_partition_removed_while_it_runs_is_history_without_effect() -> None:
    """Its result is recorded, moves nothing, and the partition can come back."""
    keys = fr.source("keys", partitions=fr.dynamic())
    going = anyio.Event()

    @fr.asset(partitions=fr.dynamic())
    async def slow(keys: str) -> str:
        await going.wait()
        return keys

    async with engine(keys, slow) as e:
        await land(e, "keys@a")
        await e.live_run()
        await e.say(PartitionsRemoved("keys", ("a",)))
        assert states(e, "slow") == {}
        going.set()
        await e.settled()
        assert states(e, "slow") == {}
        assert any(isinstance(r.event, Materialized) for r in await e.history())
        e.advance(1)
        await land(e, "keys@a", version="2")
        await e.settled()
        assert (states(e, "slow"), await value(e, "slow", "a")) == ({"a": "fresh"}, "2")


async def test_a_batch_takes_many_partitions_and_reports_each() -> None:
    """Ten partitions in runs of four at most; each has its own version and inputs."""
    keys = [f"k{n}" for n in range(10)]
    source = fr.source("source", partitions=fr.static(keys))
    sizes: list[int] = []

    @fr.asset(partitions=fr.static(keys), batch=4)
    async def made(context: fr.Context, source: Mapping[str, str]) -> dict[str, str]:
        sizes.append(len(context.partitions))
        return {key: f"{key}:{source[key]}" for key in context.partitions}

    @fr.asset(partitions=fr.static(keys))
    def below(made: str) -> str:
        return made

    async with engine(source, made, below, slots=1) as e:
        await e.stream.append([SourceChanged("source", key, "1") for key in keys])
        await e.settled()
        assert sum(sizes) == 10
        assert max(sizes) == 4
        for key in keys:
            assert await value(e, "below", key) == f"{key}:1"
            version = await e.version("made", key)
            assert version is not None
            assert [i.partition for i in version.inputs] == [key]


async def test_a_batch_that_fails_is_tried_one_by_one() -> None:
    """One bad partition does not hold up the others; what is not of the run is refused."""
    keys = ["a", "b", "c"]
    source = fr.source("source", partitions=fr.static(keys))

    @fr.asset(partitions=fr.static(keys), batch=3, retries=1, retry_delay=0)
    async def made(context: fr.Context, source: Mapping[str, str]) -> dict[str, str]:
        if "b" in context.partitions:
            raise ValueError("b is bad")
        return dict.fromkeys(context.partitions, "good")

    @fr.asset(partitions=fr.static(keys), batch=3)
    async def stray(context: fr.Context, source: Mapping[str, str]) -> dict[str, str]:
        return {"elsewhere": "x"}  # A13: not its partition

    async with engine(source, made, stray) as e:
        await e.stream.append([SourceChanged("source", key, "1") for key in keys])
        await e.settled()
        e.advance(1)
        await e.loop.act()
        await e.settled()
        assert states(e, "made") == {"a": "fresh", "b": "missing", "c": "fresh"}
        assert set(states(e, "stray").values()) == {"missing"}
        errors = {r.event.error for r in await e.history() if isinstance(r.event, RunFailed)}
        assert any("a batch returns a dict with the partitions of the run" in x for x in errors)


async def test_the_context_knows_partition_and_window() -> None:  # A13
    """The key, and the window's start and end in its own time zone, on a day of 23 hours."""
    berlin = fr.daily("2024-03-31", end="2024-04-01", tz="Europe/Berlin")
    seen: list[object] = []

    @fr.asset(partitions=berlin)
    def day(context: fr.Context) -> None:
        start, end = context.window
        seen.extend([context.partition_key, start.isoformat(), end.isoformat()])
        seen.append((end.astimezone(UTC) - start.astimezone(UTC)).total_seconds() / 3600)

    async with engine(day, deploy=False) as e:
        at(e, "2024-05-01")
        await e.deploy()
        await e.settled()
    assert seen == ["2024-03-31", "2024-03-31T00:00:00+01:00", "2024-04-01T00:00:00+02:00", 23.0]


async def test_a_watermark_opens_windows_by_event_time() -> None:
    """A day is over once an event time an hour past its end was seen, whatever the clock says."""
    events = fr.source("events", partitions=fr.hourly("2024-01-01", watermark="1h"))

    async with engine(events) as e:
        await land(e, "events@2024-01-01T00")
        assert list(states(e, "events")) == ["2024-01-01T00"]
        await land(e, "events@2024-01-01T04")
        expected = [*(f"2024-01-01T0{n}" for n in range(3)), "2024-01-01T04"]
        assert list(states(e, "events")) == expected


@pytest.mark.parametrize(("number", "expected"), [(50, ["pick@left", "total"])])
async def test_one_of_a_hundred_sources_moves_its_descendants_only(
    number: int, expected: list[str]
) -> None:  # T7
    """Below a fan-in of a hundred, one change runs what is made from it and nothing else."""
    sources = [fr.source(f"in/s{n}") for n in range(100)]

    @fr.asset(partitions=fr.static(["left", "right"]), deps=[f"in/s{number}"])
    def pick(context: fr.Context) -> str:
        return f"{context.partition}{context.run}" if context.partition == "left" else "same"

    @fr.asset(deps=[s.key for s in sources if s.key != f"in/s{number}"])
    def other() -> None:
        return None

    @fr.asset
    def total(pick: Mapping[str, str]) -> list[str]:
        return list(pick.values())

    async with engine(*sources, pick, other, total) as e:
        for source in sources:
            await land(e, source.key)
        await e.settled()
        after = e.stream.head
        e.advance(1)
        await land(e, f"in/s{number}", version="2")
        await e.settled()
        assert set(await e.runs(after)) == {*expected, "pick@right"}
        assert "other" not in await e.runs(after)


async def test_a_backfill_cascades_once_per_partition() -> None:  # K5
    """Thirty days demanded at once, upstream and downstream: each partition runs exactly once."""
    files = fr.source("files", partitions=DAYS)

    @fr.asset(partitions=DAYS)
    def first(context: fr.Context, files: str) -> str:
        return f"{files} in run {context.run}"

    @fr.asset(partitions=DAYS)
    def second(first: str) -> str:
        return first

    @fr.asset
    def month(second: Mapping[str, str]) -> int:
        return len(second)

    async with engine(files, first, second, month, deploy=False) as e:
        at(e, "2024-01-31T12:00")
        await e.deploy()
        days = [f"2024-01-{n:02}" for n in range(1, 31)]
        await land(e, *(f"files@{day}" for day in days))
        await e.settled()
        after = e.stream.head
        targets = [AssetPartition(a, d) for a in ("first", "second") for d in days]
        await e.say(Demanded(tuple(targets), "again", bulk=True))
        await e.settled()
        runs = await e.runs(after)
        assert sorted(r for r in runs if r != "month") == sorted(map(str, targets))


async def test_a_change_finds_a_free_slot_beside_a_backfill() -> None:  # B2.6
    """While a backfill has a hundred runs to go, a change starts at once: backfills take half of
    the slots at most.
    """
    keys = [f"k{n}" for n in range(100)]
    old = fr.source("old", partitions=fr.static(keys))
    new = fr.source("new")
    gate = anyio.Event()

    @fr.asset(partitions=fr.static(keys))
    async def heavy(old: str) -> str:
        await gate.wait()
        return old

    @fr.asset
    async def light(new: str) -> str:
        return new

    async with engine(old, new, heavy, light, slots=4) as e:
        await e.stream.append([SourceChanged("old", key, "1") for key in keys])
        gate.set()
        await e.settled()
        gate = anyio.Event()
        targets = tuple(AssetPartition("heavy", key) for key in keys)
        await e.say(Demanded(targets, bulk=True))
        while len(e.view.runs.live) < 2:
            await anyio.sleep(0)
        e.advance(1)
        await land(e, "new")
        while e.status("light").state != "fresh":
            await anyio.sleep(0)
        assert len(e.view.runs.live) == 2
        done = sum(r.event.targets[0].asset == "heavy" for r in e.view.runs.live.values())
        assert done == 2
        gate.set()
        await e.settled()
        started = [r.event for r in await e.history() if isinstance(r.event, RunStarted)]
        assert sum(s.reason == "demanded" for s in started) == 100


@pytest.mark.parametrize(
    "days", [40, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
async def test_thirty_five_assets_by_day_and_one_late_file(days: int) -> None:
    """Everything is built once; then a late file for the fifteenth day from the end runs that day
    and what truly depends on it: two days more behind a window of three, and the total.
    """
    shape = fr.daily("2019-01-01", opens="data")
    files = fr.source("files", partitions=shape)

    def chained(number: int) -> fr.Asset:
        above = fr.Input(f"a{number - 1}" if number else "files", fr.trailing(3))
        plain = f"a{number - 1}" if number else "files"

        @fr.asset(key=f"a{number}", partitions=shape, deps=[above if number == 32 else plain])
        async def made(context: fr.Context) -> fr.Output:
            return fr.Output(data_version=str(context.run))

        return made

    @fr.asset(deps=["a33"])
    async def total(context: fr.Context) -> fr.Output:
        return fr.Output(data_version=str(context.run))

    async with engine(files, *map(chained, range(34)), total, slots=64) as e:
        keys = [str(date(2019, 1, 1) + timedelta(days=n)) for n in range(days)]
        for start in range(0, days, 500):
            await e.stream.append([SourceChanged("files", k, "1") for k in keys[start:][:500]])
        await e.settled()
        counts = Counter(await e.runs())
        assert sum(counts.values()) == 34 * days + counts["total"]
        assert all(count == 1 for name, count in counts.items() if name != "total")
        assert sum(s.owing() for s in e.view.staleness.order) == 0
        after = e.stream.head
        e.advance(1)
        await land(e, f"files@{keys[-15]}", version="2")
        await e.settled()
        late = [f"a{n}@{keys[-15]}" for n in range(32)]
        late += [f"a{n}@{key}" for n in (32, 33) for key in keys[-15:-12]]
        assert sorted(await e.runs(after)) == sorted([*late, "total"])


async def test_the_matrix_counts_and_draws() -> None:  # A8
    """A bar of marks in order, and counts that are those of the partitions one by one."""
    keys = [f"k{n:04}" for n in range(1000)]
    source = fr.source("source", partitions=fr.static(keys))

    @fr.asset(partitions=fr.static(keys))
    async def made(source: str) -> str:
        if source == "bad":
            raise ValueError(source)
        return source

    async with engine(source, made, slots=64) as e:
        good = [SourceChanged("source", key, "1") for key in keys[:500]]
        await e.stream.append(good)
        await e.settled()
        await land(e, f"source@{keys[-1]}", version="bad")
        await e.settled()
        matrix = matrix_of(e.view.staleness.states["made"], width=50)
        assert (matrix.per_mark, matrix.first, matrix.last) == (20, keys[0], keys[-1])
        assert matrix.bar == "#" * 25 + "." * 24 + "!"
        one_by_one = Counter(states(e, "made").values())
        counted = {word: count for word, count in matrix.counts.items() if count}
        assert counted == {**one_by_one, "failed": 1}


async def test_partitions_are_listed_page_by_page() -> None:
    """Each page goes on after the one before, and together they are all, in order."""
    keys = [f"k{n}" for n in range(2500)]
    async with engine(fr.source("source", partitions=fr.static(keys))) as e:
        seen: list[str] = []
        after = None
        while True:
            report = status_report(e.view, "source", e.now, after=after, limit=999)
            seen += [row.partition for row in report.partitions]
            after = report.next
            if after is None:
                break
        assert seen == keys


async def test_a_plan_names_what_differs_and_is_empty_once_applied() -> None:  # L2
    """Missing and stale partitions by asset, upstream first; nothing after they were built."""
    files = fr.source("files", partitions=fr.static(["a", "b"]))

    @fr.asset(partitions=fr.static(["a", "b"]))
    def made(files: str) -> str:
        return files

    @fr.asset
    def total(made: Mapping[str, str]) -> int:
        return len(made)

    async with engine(files, made, total) as e:
        await land(e, "files@a", "files@b")
        planned = plan_of(e.view, ["total", "made"])
        assert [(row.asset, row.missing) for row in planned] == [("made", 2), ("total", 1)]
        await e.settled()
        assert plan_of(e.view, ["total", "made"]) == []
        await e.say(Paused("*"))
        e.advance(1)
        await land(e, "files@b", version="2")
        planned = plan_of(e.view, ["total", "made"])
        assert [(r.asset, r.stale, r.waiting, r.first, r.why) for r in planned] == [
            ("made", 1, 0, "b", "files@b changed"),
            ("total", 0, 1, "", "may follow made@b"),
        ]


async def test_what_failed_is_gone_on_without_at_the_deadline() -> None:  # S14
    """One of two partitions failed: what reads both waits ten minutes, then goes on with the gap;
    the repaired one makes it run again.
    """
    source = fr.source("source", partitions=fr.static(["p1", "p2"]))

    @fr.asset(partitions=fr.static(["p1", "p2"]))
    def parts(source: str) -> str:
        if source == "bad":
            raise ValueError("no")
        return source

    @fr.asset(inputs={"parts": fr.Input("parts", missing="skip", deadline="10m")})
    def x(parts: Mapping[str, str]) -> dict[str, str]:
        return dict(parts)

    async with engine(source, parts, x) as e:
        await land(e, "source@p1", version="good")
        await land(e, "source@p2", version="bad")
        await e.settled()
        assert (e.status("x").activity, "x" in await e.runs()) == ("held", False)
        e.advance(601)
        await e.loop.act()
        await e.settled()
        assert await value(e, "x") == {"p1": "good"}
        assert e.status("x").state == "fresh"
        await land(e, "source@p2", version="repaired")
        await e.loop.act()
        await e.settled()
        e.advance(601)
        await e.loop.act()
        await e.settled()
        assert await value(e, "x") == {"p1": "good", "p2": "repaired"}


async def test_what_no_mapping_and_no_partitions_are_is_refused() -> None:
    """By name, with a hint, when it is declared."""
    odd: Any = "daily"
    with pytest.raises(fr.DefinitionError, match="partitions='daily'"):
        fr.asset(key="a", partitions=odd)(lambda: None)
    with pytest.raises(fr.DefinitionError, match="partitions='daily'"):
        fr.source("s", partitions=odd)
    reading = fr.asset(key="a", deps=[fr.Input("s", odd)])(lambda: None)
    with pytest.raises(fr.DefinitionError, match="mapping='daily'"):
        fr.Project([fr.source("s"), reading])


async def test_a_value_that_went_is_not_read_when_its_partition_returns() -> None:
    """Until it was built anew: whoever waited for the gap to close waits for that too."""
    files = fr.source("files", partitions=fr.daily("2024-01-01", opens="data"))

    @fr.asset(partitions=DAYS)
    def number(files: str) -> int:
        return int(files)

    @fr.asset(partitions=DAYS, inputs={"number": fr.Input("number", fr.trailing(2))})
    def two(number: Mapping[str, int]) -> int:
        return sum(number.values())

    async with engine(files, number, two) as e:
        for day, amount in ((1, "1"), (2, "10"), (3, "100")):
            await land(e, f"files@2024-01-0{day}", version=amount)
        await e.settled()
        assert await value(e, "two", "2024-01-03") == 110
        e.advance(1)
        await land(e, "files@2024-01-02", version="")
        e.advance(1)
        await land(e, "files@2024-01-03", version="300")
        await e.settled()
        after = e.stream.head
        e.advance(1)
        await land(e, "files@2024-01-02", version="50")
        await e.settled()
        assert await value(e, "two", "2024-01-03") == 350
        assert (await e.runs(after)).count("two@2024-01-03") == 1


async def test_a_window_absurdly_far_ahead_is_no_partition() -> None:
    """A slip of the pen does not make room for every hour until then."""
    hours = fr.source("hours", partitions=fr.hourly("2024-01-01", opens="data"))

    @fr.asset(partitions=fr.monthly("2024-01-01"), deps=["hours"])
    def month() -> None:
        return None

    async with engine(hours, month) as e:
        for key in ("9999-12-31T23", "2500-01-01T00", "0001-01-01T00"):
            await land(e, f"hours@{key}")
        await e.say(Demanded((AssetPartition("month", "2999-01"),)))
        assert (states(e, "hours"), states(e, "month")) == ({}, {})
        await land(e, "hours@2030-01-01T00")
        assert list(states(e, "month")) == ["2030-01"]


async def test_a_pause_is_seen_where_it_holds_something_up() -> None:
    """By the asset itself, by what waits for it, and in the plan."""
    source = fr.source("source")

    @fr.asset
    def held(source: str) -> str:
        return source

    @fr.asset
    def below(held: str) -> str:
        return held

    async with engine(source, held, below) as e:
        await e.say(Paused("held", "hands off"))
        await land(e, "source")
        assert e.status("held").activity == "paused"
        blocker = e.status("below").blocker
        assert blocker is not None
        assert (blocker.what, blocker.asset) == ("paused", "held")
        assert [row.blocked_by for row in plan_of(e.view, ["held", "below"])] == [
            "it is paused",
            "held is paused since position 2",
        ]


async def test_why_names_no_change_that_it_does_not_read() -> None:
    """The wave may have begun with another source's change; what is named is what it reads."""
    one, two = fr.source("one"), fr.source("two")

    @fr.asset
    def left(one: str) -> str:
        return one

    @fr.asset
    def right(two: str) -> str:
        raise ValueError(two)

    async with engine(one, two, left, right) as e:
        await e.say(SourceChanged("one", "", "1"), SourceChanged("two", "", "1"))
        await e.settled()
        texts = [step.text for step in (await explained(e, "right")).steps]
        assert not any("one changed" in text for text in texts)


async def explained(e: Engine, name: str) -> Explanation:
    question = explain(e.view, AssetPartition(name), e.now)
    position = next(question)
    while True:
        try:
            position = question.send(await e.stream.at(position))
        except StopIteration as done:
            found: Explanation = done.value
            return found


async def test_a_run_counts_what_changed_and_names_the_newest() -> None:
    """Twelve of twenty inputs changed since it was built, one of them twice."""
    keys = [f"k{n:02}" for n in range(20)]
    source = fr.source("source", partitions=fr.static(keys))

    @fr.asset
    def total(source: Mapping[str, str]) -> int:
        return len(source)

    async with engine(source, total) as e:
        await e.stream.append([SourceChanged("source", key, "1") for key in keys])
        await e.settled()
        e.advance(1)
        changed = [SourceChanged("source", key, "2") for key in keys[:12]]
        await e.stream.append([*changed, SourceChanged("source", keys[0], "3")])
        await e.settled()
        last = [r.event for r in await e.history() if isinstance(r.event, RunStarted)][-1]
        assert last.changed == 12
        named = [keys[0], *reversed(keys[5:12])]
        assert [cause.partition for cause in last.causes] == named


async def test_one_mark_for_many_shows_the_worst_of_them() -> None:
    """Missing before stale, stale before fresh."""
    keys = ["a", "b", "c", "d", "e", "f"]
    source = fr.source("source", partitions=fr.static(keys))

    @fr.asset(partitions=fr.static(keys))
    def made(source: str) -> str:
        return source

    async with engine(source, made) as e:
        await e.stream.append([SourceChanged("source", key, "1") for key in "acdef"])
        await e.settled()
        await e.say(Paused("*"))
        e.advance(1)
        await land(e, "source@a", "source@d", version="2")
        assert matrix_of(e.view.staleness.states["made"], width=3).bar == ".~#"
        assert matrix_of(e.view.staleness.states["made"], width=6).bar == "~.#~##"


async def test_a_key_that_cannot_be_part_of_a_product_makes_no_partition_there() -> None:
    """A separator in a dynamic key: nothing is started again and again."""
    customers = fr.source("customers", partitions=fr.dynamic())
    both = fr.product(region=fr.static(["eu", "us"]), customer=fr.dynamic())

    @fr.asset(partitions=both, inputs={"c": fr.Input("customers", fr.dimensions(customer="_"))})
    async def x(c: str) -> str:
        return c

    async with engine(customers, x) as e:
        await land(e, "customers@a|b", "customers@c")
        await e.settled()
        assert states(e, "x") == {"eu|c": "fresh", "us|c": "fresh"}
        assert sorted(await e.runs()) == ["x@eu|c", "x@us|c"]


@pytest.mark.parametrize("mapping", [fr.all_partitions(), fr.last()])
async def test_what_reads_all_or_the_last_obeys_the_rule_for_missing_inputs(
    mapping: PartitionMapping,
) -> None:
    """With nothing there, skip runs without and names the gap, fail fails by name."""
    source = fr.source("source", partitions=fr.static(["a", "b"]))
    many = mapping == fr.all_partitions()

    @fr.asset(inputs={"source": fr.Input(source, mapping, missing="skip")})
    def skips(context: fr.Context, source: Any) -> list[str]:
        return [str(len(source)) if many else str(source), *(gap.partition for gap in context.gaps)]

    @fr.asset(inputs={"source": fr.Input(source, mapping, missing="fail")})
    def fails(source: Any) -> str:
        return str(source)

    async with engine(source, skips, fails) as e:
        await e.loop.act()
        await e.settled()
        assert await value(e, "skips") == (["0", "a", "b"] if many else ["None", ""])
        (failed,) = [r.event for r in await e.history() if isinstance(r.event, RunFailed)]
        assert failed.error == f"input source{'@a' if many else ''} is missing"
        await land(e, "source@b")
        await e.loop.act()
        await e.settled()
        await e.loop.act()
        await e.settled()
        assert await value(e, "skips") == (["1", "a"] if many else ["1"])
        assert e.status("fails").state == ("missing" if many else "fresh")


async def test_a_demand_taken_back_leaves_the_others_standing() -> None:
    """Two backfills over the same partitions: one is cancelled, the other is carried out, and each
    counts what was built for it.
    """
    keys = ["a", "b", "c", "d"]
    source = fr.source("source", partitions=fr.static(keys))

    @fr.asset(partitions=fr.static(keys))
    def made(source: str) -> str:
        return source

    async with engine(source, made) as e:
        await e.stream.append([SourceChanged("source", key, "1") for key in keys])
        await e.settled()
        await e.say(Paused("*"))
        all_ = tuple(AssetPartition("made", key) for key in keys)
        first = e.stream.head + 1
        await e.say(Demanded((*all_, all_[0]), bulk=True))
        await e.say(Demanded(all_[2:], bulk=True))
        second = e.stream.head
        await e.say(DemandCancelled(second))
        await e.say(Resumed("*"))
        await e.settled()
        assert sorted(await e.runs(first)) == [f"made@{key}" for key in keys]
        one, two = (
            progress_of(e.view, e.view.backfills.backfills[position])
            for position in (first, second)
        )
        assert (one.total, one.done, one.left, one.over) == (4, 4, 0, True)
        assert (two.total, two.done, two.left, two.cancelled) == (2, 0, 0, True)
