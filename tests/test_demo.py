"""The demo: real data through the real daemon, exactly as many runs as there must be."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from freshet.demo import month


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    result = subprocess.run(
        [sys.executable, "-m", "freshet", "demo", "--folder", str(folder)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout


def freshet(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "freshet", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout


def test_each_file_rebuilds_exactly_what_depends_on_it(shown: tuple[Path, str]) -> None:
    """31 days, a late file, a corrected tail number, no news: 6, 6, 1, 0 runs."""  # T7
    folder, _ = shown
    events = [
        json.loads(line)["event"] for line in freshet(folder, "events", "--json").splitlines()
    ]
    runs = Counter(e["targets"][0]["asset"] for e in events if e["type"] == "RunStarted")
    assert runs == {
        "clean": 33,
        "delays": 32,
        "routes": 32,
        "weather_delays": 32,
        "carriers": 32,
        "worst_routes": 32,
    }
    late = Counter(
        e["targets"][0]["asset"]
        for e in events
        if e["type"] == "RunStarted" and e["targets"][0].get("partition") == "2013-01-09"
    )
    assert late == {"clean": 3, "delays": 2, "routes": 2, "weather_delays": 2}
    changes = [e for e in events if e["type"] == "SourceChanged"]
    assert len(changes) == 31 + 31 + 1 + 2  # neither the touched file nor the equal one is any


def test_what_is_left_is_right_and_fresh(shown: tuple[Path, str]) -> None:  # A10, K2
    """The scorecard counts each flight that departed in January, and all is fresh at the end."""
    folder, _ = shown
    scores = json.loads((folder / "data" / "carriers.json").read_text())
    departed = sum(
        bool(row.split(",")[5])
        for text in month.flights_by_day().values()
        for row in text.splitlines()[1:]
    )
    assert sum(score["flights"] for score in scores) == departed == 26483
    assert json.loads(freshet(folder, "status", "--json"))["fresh"] is True


def test_the_terminal_shows_what_followed_from_what(shown: tuple[Path, str]) -> None:
    """One line for each file, the cut-off, the summary with percentiles, and a chain of causes."""
    _, out = shown
    assert out.count("landed 2013-01-") == 31
    assert "1 tail" not in out
    assert "one tail number → clean" in out
    assert "5 cut off, nothing new for them" in out
    assert "2013-01-15 touched → nothing to do" in out
    assert "2013-01-16 written anew, every byte the same → nothing to do" in out
    assert "65 changes, 193 runs, 5 cut off, 0 failed" in out
    assert "file closed → first asset started: p50" in out
    assert "landing/flights@2013-01-09 changed to" in out
