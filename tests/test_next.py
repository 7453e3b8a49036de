"""Policies in real processes: what `freshet next` says, ticks over a restart, breaches told."""

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from freshet.engine.events import EngineStarted, GraphDeployed, SourceChanged
from freshet.engine.project import Project
from freshet.engine.sqlite import SqliteStream
from freshet.engine.target import load_project
from tests.test_cli import Place

PROJECT = """
import freshet as fr

sales = fr.source("sales")
rates = fr.source("rates")


@fr.asset(deps=[sales], freshness=fr.on_missing())
def core() -> str:
    return "core"


@fr.asset(deps=[core, rates], freshness=fr.max_lag("300ms"))
async def leaf() -> str:
    import anyio

    await anyio.sleep(0.5)  # longer than promised
    return "leaf"


@fr.asset(deps=[rates], freshness=fr.cron("0 0 1 1 *"))
def yearly() -> str:
    return "yearly"


@fr.asset(deps=[rates], freshness=fr.manual())
def report() -> str:
    return "report"


project = fr.Project([sales, rates, core, leaf, yearly, report], store=fr.MemoryStore())
"""

HOUR_US = 3_600_000_000
SPRING_US = 1_775_000_000_000_000
"""Some moment in 2026, before today: the last tick of `yearly` came after what is recorded then."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    yield made
    made.kill()


async def record_the_past(folder: Path, project: Project, at_us: int) -> None:
    """What a daemon left behind that ran until then: both sources seen, nothing built."""
    specs = tuple(project.graph.specs.values())
    async with SqliteStream.open(folder / ".freshet" / "stream.db", clock=lambda: at_us) as stream:
        await stream.append(
            [
                EngineStarted("0", slots=8),
                GraphDeployed(project.graph.digest, specs),
                SourceChanged("sales", "", "1"),
                SourceChanged("rates", "", "1"),
            ]
        )


def started(place: Place, asset: str) -> int:
    lines = place.freshet("events", "--json").stdout.splitlines()
    events = [json.loads(line)["event"] for line in lines]
    runs = [event for event in events if event["type"] == "RunStarted"]
    return sum(run["targets"][0]["asset"] == asset for run in runs)


def test_a_tick_missed_while_nothing_ran_is_caught_up_once(place: Place) -> None:  # S15
    """What was owed before the tick is built at the next start, and not at the one after that."""
    project = load_project(f"{place.folder / 'project.py'}:project")
    anyio.run(record_the_past, place.folder, project, SPRING_US - 9000 * HOUR_US)
    place.start()
    place.wait_for("Materialized", "yearly")
    place.stop()
    place.start()
    place.wait_for("EngineStarted", "", 3)
    place.wait_for("Materialized", "leaf")
    place.stop()
    assert started(place, "yearly") == 1


def test_next_says_when_or_what_is_waited_for(place: Place) -> None:  # D10
    """Each asset that is not fresh with a moment or a condition, the soonest first."""
    place.start()
    place.wait_for("GraphDeployed", "")
    assert place.freshet("emit", "sales", "--version", "1").returncode == 0
    place.wait_for("Materialized", "core")
    said = place.freshet("next")
    assert said.returncode == 0, said.stderr
    found = {row["asset"]: row for row in json.loads(place.freshet("next", "--json").stdout)}
    assert found["core"]["stage"] == "fresh"
    assert found["leaf"]["condition"] == "the source rates has never been seen"
    assert "starts_us" not in found["leaf"]
    assert found["report"]["stage"] == "waiting"
    assert place.freshet("emit", "rates", "--version", "1").returncode == 0
    place.wait_for("Materialized", "leaf")
    (yearly,) = json.loads(place.freshet("next", "yearly", "--json").stdout)
    assert yearly["stage"] == "planned"
    assert yearly["starts_us"] > SPRING_US
    assert yearly["condition"] == "by its policy, cron 0 0 1 1 *"
    other = place.freshet("next", "leaf@monday")
    assert other.returncode == 2
    assert "monday" in other.stderr
    gone = place.freshet("next", "lef")
    assert gone.returncode == 2
    assert "leaf" in gone.stderr
    place.stop()


def test_a_promise_that_cannot_be_kept_is_told_and_told_again_when_it_is(place: Place) -> None:
    """The daemon's log has the risk, the breach and the recovery, once each."""  # B5.4
    place.start()
    place.wait_for("GraphDeployed", "")
    for source in ("sales", "rates"):
        assert place.freshet("emit", source, "--version", "1").returncode == 0
    broken = place.wait_for("FreshnessBreached", "leaf")
    restored = place.wait_for("FreshnessRestored", "leaf")
    assert restored.position > broken.position
    _, log = place.stop()
    assert log.count("missed max_lag 300ms") == 1
    assert log.count("keeps max_lag 300ms again") == 1


def test_a_demand_of_a_person_brings_what_it_needs_upstream(place: Place) -> None:
    """Materializing what reads a lazy asset builds that too, and `why` names the demand."""
    project = load_project(f"{place.folder / 'project.py'}:project")
    anyio.run(record_the_past, place.folder, project, SPRING_US)
    asked = place.freshet("materialize", "report")
    assert asked.returncode == 0, asked.stderr
    place.start()
    made = place.wait_for("Materialized", "report")
    place.stop()
    why = place.freshet("why", "report").stdout
    assert f"[{made.position}]" in why
    assert "demanded by" in why
