"""The age of the data, not of the run that looked after it; and runs that are tried again add
nothing twice.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import freshet as fr
from freshet.engine.asking import StatusQuestion, status_of
from freshet.projections.answers import StatusReport
from tests.engine import Engine, engine
from tests.test_cli import PATIENCE_S, Place

pytestmark = pytest.mark.anyio

DAY_US = 86_400_000_000


async def report(e: Engine, target: str) -> StatusReport:
    return await status_of(e.view, e.stream.at, StatusQuestion(target), e.clock())


async def test_a_run_that_writes_nothing_new_makes_the_data_no_younger() -> None:  # K1
    """Whatever made it run: a person, new code, or a source that came anew with the same. Only the
    run is new.
    """

    def made(code: str) -> fr.Asset:
        @fr.asset(code_version=code)
        async def made(s: str) -> str:
            return f"first letter: {s[0]}"

        return made

    @fr.asset
    async def below(made: str) -> str:
        return made

    s = fr.source("s")
    async with engine(s, made("1"), below) as e:
        await e.change("s", "abc")
        await e.quiet()
        changed_us = (await report(e, "made")).assets[0].changed_at_us
        assert changed_us == e.now
        e.advance(86_400)
        await e.demand("made")
        await e.quiet()
        await e.redeploy(s, made("2"), below)
        await e.quiet()
        await e.change("s", "another")
        await e.quiet()
        assert await e.runs() == ["made", "below", "made", "made", "made"]
        for key in ("made", "below"):
            found = await report(e, key)
            assert found.fresh
            assert found.assets[0].changed_at_us == changed_us
            assert found.partitions[0].changed_at_us == changed_us
        assert (await report(e, "s")).assets[0].changed_at_us == e.now
        await e.change("s", "xyz")
        await e.quiet()
        assert (await report(e, "made")).assets[0].changed_at_us == e.now


async def test_the_data_of_an_asset_are_as_young_as_its_youngest_partition() -> None:
    days = fr.static(["a", "b"])
    s = fr.source("s", partitions=days)

    @fr.asset(partitions=days)
    async def made(s: str) -> str:
        return s

    async with engine(s, made) as e:
        await e.change("s@a", "1")
        await e.quiet()
        first = e.now
        await e.change("s@b", "1")
        await e.quiet()
        second = e.now
        await e.demand("made@a", "made@b")
        e.advance(60)
        await e.quiet()
        found = await report(e, "made")
        assert found.assets[0].changed_at_us == second
        assert [row.changed_at_us for row in found.partitions] == [first, second]


# --- on the command line, with a real store -------------------------------------------------------

APPENDS = '''
import os
import signal
from pathlib import Path

import polars as pl

import freshet as fr
from freshet.engine.errors import StoreError

COLUMNS = {"order": pl.String, "run": pl.Int64}
orders = fr.source("orders")


class Shaky(fr.LocalStore):
    """Fails after a value was staged, as a file says: before it is published, or after."""

    def publish(self, staged):
        if is_told("fail before"):
            raise StoreError("the disk is away for a moment")
        if is_told("kill before"):
            os.kill(os.getpid(), signal.SIGKILL)
        super().publish(staged)
        if is_told("fail after"):
            raise StoreError("the disk is away for a moment")
        if is_told("kill after"):
            os.kill(os.getpid(), signal.SIGKILL)


def is_told(what):
    if not Path(what).exists():
        return False
    Path(what).unlink()
    return True


@fr.asset(retries=3, retry_delay=0)
def log(orders: fr.Changes, context: fr.Context) -> pl.DataFrame:
    before = orders.previous(pl.DataFrame(schema=COLUMNS))
    rows = {"order": [c.data_version for c in orders], "run": [context.run] * len(orders)}
    return pl.concat([before, pl.DataFrame(rows, schema=COLUMNS)])


project = fr.Project([orders, log], store=Shaky("data"))
'''


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    (tmp_path / "project.py").write_text(APPENDS)
    yield one
    one.kill()


def orders_in(place: Place) -> list[str]:
    return pl.read_parquet(place.folder / "data" / "log.parquet")["order"].to_list()


@pytest.mark.parametrize("trouble", ["fail before", "fail after", "kill before", "kill after"])
def test_a_retry_of_what_appends_leaves_each_row_once(place: Place, trouble: str) -> None:  # K4
    """A run that fails or is killed after it has staged its rows, even after they were published,
    is tried again: of the same changes, upon the version of before.
    """
    place.start()
    place.wait_for("GraphDeployed", "")
    assert place.freshet("emit", "orders", "--version", "one").returncode == 0
    place.wait_for("Materialized", "log")
    assert orders_in(place) == ["one"]
    (place.folder / trouble).touch()
    assert place.freshet("emit", "orders", "--version", "two").returncode == 0
    if trouble.startswith("kill"):
        assert place.daemon is not None
        place.daemon.communicate(timeout=PATIENCE_S)
        assert place.daemon.returncode == -signal.SIGKILL
        place.start()
    place.wait_for("Materialized", "log", 2)
    assert orders_in(place) == ["one", "two"]
    assert place.freshet("emit", "orders", "--version", "three").returncode == 0
    place.wait_for("Materialized", "log", 3)
    place.stop()
    assert orders_in(place) == ["one", "two", "three"]
    assert not (place.folder / trouble).exists()
    assert not any((place.folder / "data" / ".staged").rglob("*.parquet"))


def test_the_age_of_the_data_is_shown_after_a_run_without_news(
    place: Place,
) -> None:  # K1
    """As people see it: the time of the change, not of the run."""
    place.start()
    place.wait_for("GraphDeployed", "")
    assert place.freshet("emit", "orders", "--version", "one").returncode == 0
    made = place.wait_for("Materialized", "log")
    assert place.freshet("materialize", "log").returncode == 0
    again = place.wait_for("Materialized", "log", 2)
    assert again.recorded_at > made.recorded_at
    row = json.loads(place.freshet("status", "log", "--json").stdout)["assets"][0]
    assert (row["position"], row["changed_at"]) == (again.position, made.position)
    assert row["changed_at_us"] == made.recorded_at
    assert " ago" in place.freshet("status", "log").stdout
    place.stop()
