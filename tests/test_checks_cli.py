"""Checks at the command line, with a real daemon and real files: what is blocked is not seen."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import Place

PROJECT = """
import polars as pl
import freshet as fr

DAYS = fr.daily("2024-01-01", opens="data")
landing = fr.source("landing", partitions=DAYS)


@fr.asset(partitions=DAYS)
def orders(landing: pl.DataFrame) -> pl.DataFrame:
    return landing


@fr.asset(partitions=DAYS)
def report(orders: pl.DataFrame) -> int:
    return int(orders["amount"].sum())


@fr.check(orders)
def many(orders: pl.DataFrame) -> fr.CheckResult:
    return fr.CheckResult(len(orders) > 1, {"rows": len(orders)}, "hardly any")


project = fr.Project(
    [landing, orders, report],
    checks=[
        many,
        fr.in_range(orders, "amount", low=0, blocking=True),
        fr.not_null(orders, "amount", severity="error"),
    ],
    sensors=[fr.files("landing/{partition}.csv", source=landing, settle=0)],
    store=fr.LocalStore("data"),
)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    yield found
    found.kill()


def rows(place: Place, *arguments: str) -> list[dict[str, Any]]:
    done = place.freshet(*arguments, "--json")
    assert done.returncode in (0, 1), done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def brief(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(row["partition"], row["check"], row["result"]) for row in found]


def test_what_the_checks_say(place: Place) -> None:  # A6, A7, K9, S11
    place.start()
    place.land("2024-01-01", "amount\n5\n7\n")
    place.wait_for("Materialized", "report")
    place.land("2024-01-02", "amount\n-5\n")
    place.wait_for("RunFailed", "")
    found = rows(place, "checks", "orders")
    assert brief(found) == [
        ("2024-01-02", "in_range_amount", "blocked"),
        ("2024-01-02", "many", "warned"),
        ("2024-01-01", "many", "passed"),
        ("2024-01-01", "in_range_amount", "passed"),
        ("2024-01-01", "not_null_amount", "passed"),
        ("2024-01-02", "not_null_amount", "passed"),
    ]
    assert found[0]["message"] == "1 value of amount outside at least 0: it has -5 to -5"
    assert found[0]["metadata"] == {"rows": 1, "outside": 1, "min": -5, "max": -5}
    assert brief(rows(place, "checks", "orders@2024-01-02", "--failed")) == brief(found)[:2]
    assert not (place.folder / "data" / "orders" / "2024-01-02.parquet").exists()
    assert not any((place.folder / "data" / ".staged").glob("*"))
    why = place.freshet("why", "report@2024-01-02").stdout
    assert "check 'in_range_amount' failed for 2024-01-02: 1 value of amount outside" in why
    # Repaired, it goes on by itself; and what was measured is a series.
    place.land("2024-01-02", "amount\n6\n1\n")
    place.wait_for("Materialized", "report", 2)
    place.stop()
    series = rows(place, "checks", "orders@2024-01-02", "--history")
    measured = [row["metadata"]["rows"] for row in series if row["check"] == "many"]
    assert measured == [1, 2]
    assert "many" in place.freshet("checks").stdout


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "none"])
def test_looking_at_what_is_there(place: Place, daemon: bool) -> None:
    """New checks of old data: recorded, and nothing is built, published or withdrawn."""
    (place.folder / "project.py").write_text(
        PROJECT.replace("    checks=[", "    checks=[][:0] and [")
    )
    place.start()
    place.land("2024-01-01", "amount\n-5\n")
    place.land("2024-01-02", "amount\n5\n6\n")
    place.wait_for("Materialized", "report", 2)
    (place.folder / "project.py").write_text(PROJECT)
    if not daemon:
        place.stop()
    done = place.freshet("check-data", "project.py")
    assert done.returncode == 1
    assert "6 looks, 2 did not pass" in done.stderr
    assert "in_range_amount  failed" in " ".join(done.stdout.split(" "))
    with sqlite3.connect(place.folder / ".freshet" / "stream.db") as db:
        kinds = [kind for (kind,) in db.execute("SELECT type FROM events ORDER BY position")]
    assert kinds.count("CheckEvaluated") == 6
    assert kinds.count("Materialized") == 4
    assert json.loads((place.folder / "data" / "report" / "2024-01-01.json").read_text()) == -5


def test_what_has_no_checks_or_is_unknown_is_said(place: Place) -> None:
    place.start()
    place.wait_for("GraphDeployed", "")
    none = place.freshet("checks", "report")
    assert (none.returncode, "'report' has no checks" in none.stderr) == (2, True)
    unknown = place.freshet("checks", "ordres")
    assert (unknown.returncode, "orders" in unknown.stderr) == (2, True)
    assert brief(rows(place, "checks")) == []
    assert place.freshet("check-data", "project.py", "--select", "nope").returncode == 2
    place.stop()
