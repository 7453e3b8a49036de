"""Backfills with real processes: forecast, resumed after SIGKILL, cancelled, beside changes."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_cli import Place

PROJECT = """
import os
import time
import freshet as fr

DAYS = fr.daily("2024-01-01", opens="data")
files = fr.source("files", partitions=DAYS)


@fr.asset(partitions=DAYS, group="slow")
def made(files: str) -> str:
    time.sleep(0.08)
    while os.path.exists("hold"):
        time.sleep(0.01)
    return files


@fr.asset(partitions=DAYS)
def below(made: str) -> str:
    return made.upper()


@fr.asset(partitions=DAYS)
def bad(files: str) -> str:
    if files == "poison":
        raise ValueError("no")
    return files


project = fr.Project(
    [files, made, below, bad],
    sensors=[fr.files("landing/{partition}.csv", source=files)],
    store=fr.LocalStore("data"),
    slots=4,
)
"""

DAYS = [f"2024-01-{n:02}" for n in range(1, 31)]


class Month(Place):
    """A project of thirty days, and what its stream says of runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "project.py").write_text(PROJECT)

    def made(self, after: int = 0) -> list[str]:
        """The days of `made` that were materialized after a position, as the stream says."""
        with sqlite3.connect(self.folder / ".freshet" / "stream.db") as db:
            rows = db.execute(
                "SELECT subject FROM events WHERE type = 'Materialized' AND position > ?"
                " AND subject LIKE 'made@%' ORDER BY position",
                (after,),
            ).fetchall()
        return [subject.partition("@")[2] for (subject,) in rows]

    def head(self) -> int:
        with sqlite3.connect(self.folder / ".freshet" / "stream.db") as db:
            found: int = db.execute("SELECT max(position) FROM events").fetchone()[0]
        return found


@pytest.fixture
def month(tmp_path: Path) -> Iterator[Month]:
    """All thirty days are there and built, and a daemon runs."""
    made = Month(tmp_path)
    for day in DAYS:
        made.land(day, f"day {day}")
    made.start()
    made.wait_for("Materialized", "below", len(DAYS))
    yield made
    made.kill()


def test_a_backfill_killed_half_way_goes_on_without_repeats(month: Month) -> None:  # B2.6
    """Thirty days, SIGKILL after seventeen, a new daemon: each is built exactly once; and a file
    that lands meanwhile is built before the backfill is over.
    """
    asked = month.freshet("backfill", "made", "--reason", "a fix")
    assert asked.returncode == 0, asked.stderr
    assert "30 partitions, about" in asked.stdout
    assert "up to 30 below may follow" in asked.stdout
    demand = month.wait_for("Demanded", "made").position
    while len(month.made(demand)) < 5:
        pass
    month.land("2024-02-01", "live")
    while len(month.made(demand)) < 17:
        pass
    month.kill()
    assert 17 <= len(month.made(demand)) < 31
    live_at = month.made(demand).index("2024-02-01") if "2024-02-01" in month.made(demand) else -1
    assert 0 <= live_at < 17, "the change waited for the backfill"
    month.start()
    waited = month.freshet("backfills", "--json")
    while not all(b["left"] == 0 for b in json.loads(waited.stdout)):
        waited = month.freshet("backfills", "--json")
    counts = Counter(month.made(demand))
    assert counts == Counter([*DAYS, "2024-02-01"])
    (one,) = json.loads(waited.stdout)
    assert (one["total"], one["left"], one["failed"], one["reason"]) == (30, 0, 0, "a fix")
    assert "done" in month.freshet("backfills").stdout


def test_a_backfill_taken_back_stops(month: Month) -> None:
    """After --cancel only what was running is still built, and nothing is owed."""
    month.freshet("backfill", "group:slow")
    demand = month.wait_for("Demanded", "made").position
    while len(month.made(demand)) < 3:
        pass
    (month.folder / "hold").touch()
    cancelled = month.freshet("backfills", "--cancel", str(demand))
    assert cancelled.returncode == 0, cancelled.stderr
    (month.folder / "hold").unlink()
    month.stop()
    built = len(month.made(demand))
    assert 3 <= built < 30
    (one,) = json.loads(month.freshet("backfills", "--json").stdout)
    assert (one["cancelled"], one["total"]) == (True, 30)
    assert built - 2 <= one["done"] <= built, "the two that were running are built all the same"
    assert "was cancelled" in month.freshet("why", "made@2024-01-30").stdout
    alone = month.freshet("backfill", "made", "--partitions", "2024-01-01..", "--wait")
    assert (alone.returncode, "no daemon runs" in alone.stderr) == (1, True)
    month.freshet("backfills", "--cancel", str(month.head()))
    assert month.freshet("plan").stderr.strip() == "nothing to do"
    again = month.freshet("backfills", "--cancel", str(demand))
    assert (again.returncode, "is over" in again.stderr) == (2, True)


def test_what_a_backfill_would_do_is_said_first(month: Month) -> None:  # L2, K5
    """--dry-run records nothing; --last, --partitions, --failed and --wait choose and follow."""
    month.land("2024-01-07", "poison")
    month.wait_for("RunFailed", "bad")
    head = month.head()
    dry = month.freshet("backfill", "made", "--partitions", "2024-01-10..2024-01-19", "--dry-run")
    assert "10 partitions" in dry.stdout
    assert "nothing was recorded" in dry.stderr
    assert month.freshet("backfill", "made", "--last", "1h").stderr.strip().startswith("nothing to")
    failed = month.freshet("backfill", "*", "--failed", "--dry-run", "--json")
    assert [s["asset"] for s in json.loads(failed.stdout)["shares"]] == ["bad"]
    month.wait_for("Materialized", "below", 31)
    assert month.head() <= head + 12, "a dry run recorded something"
    waited = month.freshet("backfill", "bad", "--partitions", "2024-01-06..2024-01-07", "--wait")
    assert (waited.returncode, "1 of 2 partitions failed" in waited.stderr) == (1, True)
    month.land("2024-01-07", "good again")
    month.wait_for("Materialized", "below", 32)
    waited = month.freshet("backfill", "bad", "--partitions", "..2024-01-03", "--wait")
    assert waited.returncode == 0, waited.stderr


@pytest.fixture(scope="module")
def quiet_month(tmp_path_factory: pytest.TempPathFactory) -> Month:
    """Two days, built, and no daemon."""
    made = Month(tmp_path_factory.mktemp("quiet"))
    for day in DAYS[:2]:
        made.land(day, f"day {day}")
    made.start()
    made.wait_for("Materialized", "below", 2)
    made.stop()
    return made


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["made and"], "column 9"),
        (["maed"], "did you mean 'made'"),
        (["made", "--partitions", "2024-01-40.."], "no partition '2024-01-40'"),
        (["made", "--partitions", "2024-01-09..2024-01-02"], "is empty"),
        (["made", "--last", "soon"], "no length of time"),
    ],
)
def test_a_backfill_that_makes_no_sense_says_why(
    quiet_month: Month, arguments: list[str], words: str
) -> None:
    """Exit code 2, the reason on stderr, and nothing recorded."""
    head = quiet_month.head()
    found = quiet_month.freshet("backfill", *arguments)
    assert (found.returncode, quiet_month.head()) == (2, head), found.stderr
    assert words in found.stderr
    assert "Traceback" not in found.stderr
