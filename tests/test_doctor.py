"""The doctor: each thing that can be wrong is found and told with its reason and its remedy."""

import json
import os
import re
import signal
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from freshet.engine.cli.doctor import CORE, EXTRAS
from freshet.engine.doctor import (
    LOW_BYTES,
    MIN_PYTHON,
    NO_BYTES,
    Chain,
    Extra,
    Facts,
    Place,
    findings,
)
from freshet.engine.lease import Lease, holder_of
from freshet.engine.reports import Fault
from tests.test_cli import Place as Folder

STATE = Place("state", True, True, "ext4", 1 << 40)
WELL = Facts(
    release="1",
    python=MIN_PYTHON,
    packages={"anyio": "4"},
    extras=(Extra("fast", "a faster event loop", {"uvloop": "1"}),),
    sqlite=(3, 51, 3),
    state=STATE,
    store=STATE,
    target="project.py",
    folders=10,
    max_watches=1000,
    max_instances=128,
    now_us=1_000_000_000,
    newest_us=1_000_000_000,
    wall_s=0.2,
    steady_s=0.2,
    holder="process 7 on host here",
    answers=True,
    chain=Chain(12),
)


def test_where_all_is_well_nothing_else_is_said() -> None:
    assert {found.level for found in findings(WELL)} == {"ok"}
    assert len(findings(WELL)) == 13


def test_it_looks_for_each_package_that_an_installation_may_bring() -> None:
    """As `pyproject.toml` names them, but for those of developers."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    assert sorted(CORE) == sorted(map(package_of, project["dependencies"]))
    assert {name: sorted(packages) for name, _, packages in EXTRAS} == {
        name: sorted(map(package_of, extras[name])) for name in extras if name != "dev"
    }


def package_of(requirement: str) -> str:
    return re.split(r"[<>=\[;]", requirement)[0].strip()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"python": (3, 10)}, ("error", "python", "Python 3.10")),
        ({"packages": {"anyio": ""}}, ("error", "packages", "anyio missing")),
        ({"sqlite": (3, 51, 2)}, ("info", "sqlite", "SQLite 3.51.2, older than 3.51.3")),
        ({"state": replace(STATE, writable=False)}, ("error", "state", "cannot be written")),
        (
            {"state": replace(STATE, writable=False, exists=False)},
            ("error", "state", "cannot be made"),
        ),
        ({"state": replace(STATE, kind="nfs4")}, ("error", "file system", "lies on nfs4")),
        ({"state": replace(STATE, kind="cifs")}, ("error", "file system", "lies on cifs")),
        ({"state": replace(STATE, kind="fuse.s3fs")}, ("error", "file system", "fuse.s3fs")),
        (
            {"state": replace(STATE, free_bytes=LOW_BYTES - 1)},
            ("warning", "space of the state", "1023 MiB free"),
        ),
        (
            {"store": replace(STATE, free_bytes=NO_BYTES - 1)},
            ("error", "space of the store", "15 MiB free"),
        ),
        ({"store": replace(STATE, writable=False)}, ("error", "store", "cannot be written")),
        ({"folders": 500}, ("warning", "inotify", "500 folders to watch, of 1000 watches")),
        ({"folders": 1000}, ("warning", "inotify", "1000 folders to watch")),
        ({"newest_us": 1_010_000_000}, ("warning", "clock", "10 s ahead")),
        ({"wall_s": 0.25}, ("warning", "clock", "wall clock came 0.250 s further")),
        ({"answers": False}, ("error", "daemon", "process 7 on host here holds the lease")),
        ({"answers": False, "holder": ""}, ("info", "daemon", "none runs")),
        ({"chain": Chain(0, "position 3 is odd")}, ("error", "stream", "position 3 is odd")),
        ({"left": ("7", "9")}, ("warning", "staged", "2 runs left something staged")),
        (
            {"fault": Fault("asset 'x' is odd", "why", "mend it")},
            ("error", "project", "asset 'x' is odd: why"),
        ),
        (
            {"extras": (Extra("fast", "a faster event loop", {"uvloop": ""}),)},
            ("info", "extra fast", "without uvloop"),
        ),
    ],
)
def test_what_is_wrong_is_found_with_its_reason_and_its_remedy(
    changed: dict[str, object], expected: tuple[str, str, str]
) -> None:
    level, subject, seen = expected
    (found,) = [one for one in findings(replace(WELL, **changed)) if one.level != "ok"]
    assert (found.level, found.subject) == (level, subject)
    assert seen in found.seen
    assert found.why
    assert found.hint


@pytest.mark.parametrize(
    "changed",
    [
        {"state": replace(STATE, kind="")},
        {"state": replace(STATE, exists=False)},
        {"state": replace(STATE, kind="fuseblk")},
        {"max_watches": None, "max_instances": None},
        {"folders": None},
        {"newest_us": 0},
        {"newest_us": 1_004_000_000},
        {"chain": None},
        {"store": None},
        {"target": ""},
        {"holder": ""},
    ],
)
def test_what_does_not_exist_or_is_not_known_is_no_fault(changed: dict[str, object]) -> None:
    assert {found.level for found in findings(replace(WELL, **changed))} == {"ok"}


def test_the_holder_of_a_lease_is_known_without_taking_it(tmp_path: Path) -> None:
    """A lock file that nobody holds says nothing."""
    stream = tmp_path / "stream.db"
    assert holder_of(stream) is None
    lease = Lease.take(stream)
    held = holder_of(stream)
    assert held is not None
    assert held.pid == os.getpid()
    lease.release()
    assert holder_of(stream) is None
    Lease.take(stream).release()


# --- on a real machine ----------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    made.kill()


def examined(place: Folder, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and level and sight by subject."""
    done = place.freshet("doctor", "--json", *arguments)
    rows = json.loads(done.stdout)
    return done.returncode, {row["subject"]: (row["level"], row["seen"]) for row in rows}


def test_a_folder_is_examined_before_while_and_after_a_daemon_runs(place: Folder) -> None:
    """Nothing is made by looking; the daemon is found by name, also when it hangs."""
    code, found = examined(place, "project.py")
    assert code == 0
    assert found["project"] == ("ok", "'project.py' loads")
    assert found["daemon"] == ("info", "none runs")
    assert found["inotify"][1].startswith("1 folder to watch, of ")
    assert not (place.folder / ".freshet").exists()
    place.land("2024-01-01", "abc")
    place.start()
    place.wait_for("Materialized", "analytics/total")
    assert place.daemon is not None
    code, found = examined(place)
    level, seen = found["daemon"]
    assert (code, level) == (0, "ok")
    assert seen.startswith(f"process {place.daemon.pid} on host ")
    assert found["stream"][1].endswith("events fit the hash chain")
    place.daemon.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, place.daemon.pid, os.WSTOPPED)
    code, found = examined(place)
    assert (code, found["daemon"][0]) == (1, "error")
    assert found["daemon"][1].endswith("and does not answer")
    place.daemon.send_signal(signal.SIGCONT)
    place.stop()


def test_damage_is_found_and_told_for_people(place: Folder) -> None:
    """A changed event, a project that does not load, what a run left behind; exit code 1."""
    place.land("2024-01-01", "abc")
    place.start()
    place.wait_for("Materialized", "analytics/total")
    place.stop()
    database = sqlite3.connect(place.folder / ".freshet" / "stream.db")
    triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in triggers.fetchall():
        database.execute(f"DROP TRIGGER {name}")
    database.execute("UPDATE events SET actor = 'somebody' WHERE position = 3")
    database.commit()
    database.close()
    staged = place.folder / "data" / ".staged" / "77"
    staged.mkdir(parents=True)
    (staged / "value").write_text("half")
    code, found = examined(place, "project.py")
    assert code == 1
    assert found["stream"][0] == "error"
    assert found["staged"] == (
        "warning",
        "1 run left something staged that nobody publishes: 77",
    )
    (place.folder / "project.py").write_text("1 / 0")
    done = place.freshet("doctor", "project.py")
    assert done.returncode == 1
    assert "XX  project: 'project.py' cannot be imported" in done.stdout
    assert "      why: `freshet run` and `freshet reload` refuse it" in done.stdout
