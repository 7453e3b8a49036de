"""Rows of the list of capabilities that have to do with what comes from outside: each named."""

import os
from pathlib import Path

import pytest

import freshet as fr
from freshet.engine.events import Observed
from freshet.engine.inputs import landed_file
from freshet.engine.specs import Plain
from freshet.engine.stores.landing import still_the_same
from freshet.projections.catalog import Version
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


def test_a_marker_is_no_part_of_the_folder_that_a_run_reads(tmp_path: Path) -> None:
    """Written later than the files, it does not make the folder another one; a file does."""
    (tmp_path / "part-0").write_text("x")
    seen = (tmp_path / "part-0").stat()
    metadata: dict[str, Plain] = {
        "path": str(tmp_path),
        "size": seen.st_size,
        "mtime_ns": seen.st_mtime_ns,
        "ignored": "_SUCCESS",
    }
    (tmp_path / "_SUCCESS").touch()
    os.utime(tmp_path / "_SUCCESS", ns=(seen.st_mtime_ns + 10**9,) * 2)
    landed = landed_file(Version("whatever was recorded", 1, 1, metadata=metadata))
    assert landed is not None
    assert still_the_same(*landed)
    (tmp_path / "part-1").write_text("y")
    assert not still_the_same(*landed)
