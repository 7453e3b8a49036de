"""Orphans: listed, kept for ever unless a project says otherwise, and told of once at most."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from freshet.engine.events import Recorded
from freshet.engine.sqlite_reader import SqliteReader
from tests.test_cli import Place
from tests.test_versions import until

PROJECT = """
import os, signal
import freshet as fr

raw = fr.source("raw")
assets = [raw]
told = open("told.txt", "a", buffering=1)


@fr.asset(partitions=fr.static(["x", "y"]))
def old(raw: str) -> str:
    return f"old of {raw}"


@fr.asset
def stays(raw: str) -> str:
    return f"stays {raw}"


def removed(orphan):
    sizes = [[one.bytes for one in orphan.versions(p)] for p in orphan.partitions]
    print(orphan.key, *orphan.partitions, sizes, file=told)
    HOW


project = fr.Project([raw, stays, DEFINED], store=fr.LocalStore("data")HOOK)
"""

WITH, WITHOUT = "old", ""


def write(place: Place, defined: str, how: str | None = "pass") -> None:
    text = PROJECT.replace("DEFINED", defined)
    text = text.replace("HOOK", "" if how is None else ", on_removed=removed")
    (place.folder / "project.py").write_text(text.replace("HOW", how or "pass"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A daemon has built `old` in both partitions, and was stopped."""
    here = Place(tmp_path)
    write(here, WITH)
    here.start()
    here.wait_for("GraphDeployed", "")
    assert here.freshet("emit", "raw", "--version", "1").returncode == 0
    here.wait_for("Materialized", "old", 2)
    here.wait_for("Materialized", "stays")
    here.stop()
    yield here
    here.kill()


def told(place: Place) -> list[str]:
    return (place.folder / "told.txt").read_text().splitlines()


def events(place: Place, kind: str) -> list[Recorded]:
    async def read() -> list[Recorded]:
        async with SqliteReader.open(place.folder / ".freshet" / "stream.db") as stream:
            found: list[Recorded] = []
            while batch := await stream.read(found[-1].position if found else 0):
                found += batch
            return [one for one in found if type(one.event).__name__ == kind]

    return anyio.run(read)


def run_once(place: Place, deployments: int) -> None:
    """A daemon starts, deploys, and stops in order."""
    place.start()
    place.wait_for("GraphDeployed", "", deployments)
    place.stop()


def listed(place: Place) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(place.freshet("orphans", "--json").stdout)
    return rows


def test_without_a_hook_nothing_is_ever_deleted(place: Place) -> None:
    """Orphans are listed; every file is still there; a returning asset runs nothing."""
    assert listed(place) == []
    before = sorted(str(path) for path in (place.folder / "data").rglob("*"))
    write(place, WITHOUT, None)
    run_once(place, 2)
    removed_at = events(place, "GraphDeployed")[-1].position
    row = {"asset": "old", "removed_at": removed_at, "partitions": ["x", "y"]}
    assert listed(place) == [row]
    said = place.freshet("orphans").stdout
    assert said == f"old (2 partitions): not defined since [{removed_at}]\n"
    assert sorted(str(path) for path in (place.folder / "data").rglob("*")) == before
    assert told(place) == []
    write(place, WITH, None)
    run_once(place, 3)
    assert listed(place) == []
    assert len(events(place, "RunStarted")) == 3


def test_the_hook_is_told_once_of_each_time_an_asset_goes(place: Place) -> None:  # D16
    """With what was there; not again by a later daemon; again when it has returned and gone."""
    line = "old x y [[8], [8]]"
    write(place, WITHOUT)
    place.start()
    place.wait_for("OrphanHandled", "old")
    until(lambda: told(place) == [line])
    place.stop()
    for _ in range(2):
        place.start()
        place.wait_for("EngineStarted", "", len(events(place, "EngineStarted")) + 1)
        place.stop()
    assert told(place) == [line]
    assert listed(place)[0]["handled_at"] == events(place, "OrphanHandled")[0].position
    write(place, WITH)
    run_once(place, 3)
    write(place, WITHOUT)
    place.start()
    until(lambda: told(place) == [line, line])
    place.stop()
    handled = events(place, "OrphanHandled")
    assert [one.cause for one in handled] == [
        one.position for one in events(place, "GraphDeployed")[1::2]
    ]


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "1 / 0"])
def test_a_hook_that_is_cut_off_or_raises_is_not_called_again(place: Place, how: str) -> None:
    """However often the daemon starts."""
    write(place, WITHOUT, how)
    place.start()
    until(lambda: len(told(place)) == 1)
    if "kill" in how:
        assert place.daemon is not None
        place.daemon.wait(60)
        place.daemon.communicate()
    else:
        place.stop()
    for _ in range(2):
        place.start()
        place.wait_for("EngineStarted", "", len(events(place, "EngineStarted")) + 1)
        place.stop()
    assert len(told(place)) == 1
    assert len(events(place, "OrphanHandled")) == 1


def test_a_hook_may_delete_what_was_there(place: Place) -> None:
    """Current values and versions, nothing of others; should the asset return, it is built anew."""
    write(place, WITHOUT, "orphan.delete(); print('gone', file=told)")
    place.start()
    until(lambda: told(place)[-1:] == ["gone"])
    place.stop()
    data = place.folder / "data"
    left = sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file())
    assert [name for name in left if "old" in name] == []
    assert "stays.txt" in left
    assert listed(place) == []
    write(place, WITH)
    place.start()
    place.wait_for("Materialized", "old", 4)
    until((data / "old" / "x.txt").exists)
    place.stop()
    assert place.freshet("history", "old").stdout.count("bytes=8") == 4


def test_only_what_was_built_is_an_orphan(place: Place) -> None:
    """Not a source, nor an asset that never had a value."""
    text = (place.folder / "project.py").read_text()
    never = (
        "@fr.asset(freshness=fr.manual())\ndef never(raw: str) -> str:\n    return raw\n\n\nproject"
    )
    text = text.replace("project = fr.Project([raw,", f"{never} = fr.Project([raw, never,")
    more = text.replace("[raw, never,", '[raw, never, fr.source("other"),')
    (place.folder / "project.py").write_text(more)
    run_once(place, 2)
    write(place, WITH)
    run_once(place, 3)
    assert listed(place) == []
    assert told(place) == []
    assert os.path.exists(place.folder / "told.txt")
