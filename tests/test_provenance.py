"""Provenance: every version down to the sources, with code, parameters and what was read."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freshet.engine.assets import asset
from tests.test_cli import PATIENCE_S, Place

PROJECT = """
import freshet as fr

DAYS = fr.daily("2024-01-01", opens="data")
landing = fr.source("landing", partitions=DAYS)
weather = fr.source("weather")


@fr.asset(partitions=DAYS)
def features(landing: str) -> int:
    return len(landing)


@fr.asset(kinds=["model"])
def model(
    features: dict[str, int], weather: str, rate: float = 0.1, trees: int = 30
) -> fr.Output:
    return fr.Output({"weight": sum(features.values()) * rate}, metadata={"loss": 0.25})


@fr.asset
def report(model: dict[str, float]) -> str:
    return f"weight {model['weight']}"


project = fr.Project(
    [landing, weather, features, model, report],
    sensors=[
        fr.files("landing/{partition}.csv", source=landing, settle=0),
        fr.files("weather.txt", source=weather, settle=0),
    ],
    store=fr.LocalStore("data"),
)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    yield found
    found.kill()


def asked(place: Place, *arguments: str) -> dict[str, Any]:
    done = place.freshet("provenance", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def children(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{one['asset']}@{one['partition']}": one for one in node["inputs"]}


def until_made_of(place: Place, days: int) -> dict[str, Any]:
    """The newest report, once its model is made of so many days."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done = place.freshet("provenance", "report", "--json")
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"inputs": []}
        for model in children(found).values():
            if children(model)["features@*"]["count"] == days:
                return found
    raise AssertionError(f"never made of {days} days")


def test_a_model_down_to_its_sources(place: Place) -> None:  # A5, B7.4, B3.4, L5
    (place.folder / "weather.txt").write_text("sunny")
    for day in ("2024-01-01", "2024-01-02"):
        place.land(day, "a,b\n1,2\n")
    place.start()
    before = until_made_of(place, 2)
    model = children(before)["model@"]
    assert model["config"] == {"rate": 0.1, "trees": 30}
    assert model["metadata"]["loss"] == 0.25
    assert model["code_version"]
    below = children(model)
    assert below["weather@"]["run"] == 0
    assert below["weather@"]["metadata"]["path"] == "weather.txt"
    assert "2 versions" in place.freshet("provenance", "report").stdout

    # With all of them, each is there, down to the file it was made from.
    whole = children(children(asked(place, "report", "--all"))["model@"])["features@*"]
    assert whole["count"] == 2
    days = children(whole)
    assert set(days) == {"features@2024-01-01", "features@2024-01-02"}
    landed = children(days["features@2024-01-02"])["landing@2024-01-02"]
    assert landed["metadata"]["path"] == "landing/2024-01-02.csv"

    # Another day, another version; and the old one still has what it was made from.
    place.land("2024-01-03", "a,b\n1,2,3\n")
    until_made_of(place, 3)
    place.stop()
    after = asked(place, "model")
    assert after["data_version"] != model["data_version"]
    assert children(after)["features@*"]["count"] == 3
    old = asked(place, "model", "--version", model["data_version"][:6], "--all")
    assert old["position"] == model["position"]
    assert len(children(children(old)["features@*"])) == 2
    text = place.freshet("provenance", "model").stdout
    assert "with rate=0.1 trees=30" in text
    assert "said loss=0.25" in text
    assert "weather" in text
    assert "from outside" in text


def test_what_has_no_version_is_said(place: Place) -> None:
    place.start()
    place.wait_for("GraphDeployed", "")
    none = place.freshet("provenance", "model")
    assert (none.returncode, "there is no version of model" in none.stderr) == (2, True)
    (place.folder / "weather.txt").write_text("sunny")
    place.wait_for("SourceChanged", "weather")
    odd = place.freshet("provenance", "weather", "--version", "nope")
    assert (odd.returncode, "no version of weather begins with 'nope'" in odd.stderr) == (2, True)
    assert asked(place, "weather")["inputs"] == []
    place.stop()


def test_parameters_with_a_plain_default_are_recorded() -> None:
    """As what they are: configuration, and part of the code version; but for what is secret by its
    name.
    """

    @asset
    def model(
        data: str,
        rate: float = 0.1,
        name: str = "x",
        odd: object = None,
        share: float = np.float64(0.5),  # that is the point
        api_key: str = "canary",
        db_password: str = "canary",  # likewise
    ) -> int:
        return 1

    assert model.spec.config == {"rate": 0.1, "name": "x"}
