"""Rows of the list of capabilities that have to do with what comes from outside: each named."""

import pytest

import freshet as fr
from freshet.engine.events import Observed
from tests.engine import engine

pytestmark = pytest.mark.anyio

DAY = fr.daily("2024-01-01", opens="data")


async def test_an_observation_makes_stale_what_is_below_and_runs_nothing_of_its_own() -> None:  # T2
    """Of an asset and of a source alike; an equal version is no news."""

    @fr.asset(freshness=fr.manual())
    async def table() -> int:
        return 1

    @fr.asset(freshness=fr.manual())
    async def report(table: int) -> int:
        return 1

    @fr.asset
    async def eager_report(table: object) -> int:
        return 1

    async with engine(table, report, eager_report) as e:
        await e.demand("table", "report")
        await e.quiet()
        assert e.status("report").state == "fresh"
        at = e.stream.head
        await e.say(Observed("table", "", "written by somebody else"))
        await e.quiet()
        assert e.status("report").state == "stale"
        assert e.status("eager_report").state == "fresh"
        assert await e.runs(at) == ["eager_report"]
        at = e.stream.head
        await e.say(Observed("table", "", "written by somebody else"))
        await e.quiet()
        assert await e.runs(at) == []


@pytest.mark.parametrize("last", ["flights", "weather", "fares"])
async def test_a_day_runs_once_after_the_last_of_its_inputs(last: str) -> None:  # K3
    """Three sources land day by day in any order: day D runs when the third of them is there."""
    sources = [fr.source(name, partitions=DAY) for name in ("flights", "weather", "fares")]

    @fr.asset(partitions=DAY)
    async def dashboard(flights: str, weather: str, fares: str) -> str:
        return flights + weather + fares

    async with engine(*sources, dashboard) as e:
        days = ["2024-01-01", "2024-01-02", "2024-01-03"]
        others = [source.key for source in sources if source.key != last]
        for day in days:
            for name in others:
                await e.change(f"{name}@{day}", "1")
        await e.quiet()
        assert await e.runs() == []
        for day in reversed(days):
            at = e.stream.head
            await e.change(f"{last}@{day}", "1")
            await e.quiet()
            assert await e.runs(at) == [f"dashboard@{day}"]
