"""No hot operation does more than it did: counts, not seconds, against those of `costs.toml`."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freshet.engine import sqlite_rows
from freshet.engine.stores.local import LocalStore
from freshet.projections.view import View
from tests import costs
from tests.costs import Counts, Operations, appends, folds, kept_in, landings, measured, regressions
from tests.counting import CAN_STEP, ROOT

HINT = "if that is meant: python -m tests.costs --accept; and say in the commit why"

steps = pytest.mark.skipif(not CAN_STEP, reason="instructions are counted up to Python 3.11")


def counting(seed: int) -> "subprocess.Popen[str]":
    """All operations, in a process of their own: nothing there is left over from other tests."""
    command = [sys.executable, "-m", "tests.costs", "--json"]
    env = {**os.environ, "PYTHONHASHSEED": str(seed)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def found() -> list[dict[str, Counts]]:
    """What two processes have counted that ran at the same time."""
    processes = [counting(seed) for seed in (1, 2)]
    texts = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(text) for text in texts]


def test_no_hot_operation_costs_more_than_is_kept(found: list[dict[str, Counts]]) -> None:  # B4.6
    """Statements, commits, syncs, hops and events: not one more; the rest: not a fifth more."""
    assert regressions(found[0], kept_in()) == [], HINT


def test_the_counts_are_the_same_each_time(found: list[dict[str, Counts]]) -> None:
    """To the instruction, however sets are ordered and whatever else the machine does."""
    assert found[0] == found[1]


def told(*operations: Operations) -> set[str]:
    """The operations among these that cost too much."""
    counts = measured(operations)
    kept = {name: figures for name, figures in kept_in().items() if name in counts}
    return {text.partition(":")[0] for text in regressions(counts, kept)}


def twice(function: Callable[..., Any]) -> Callable[..., Any]:
    def doubled(*arguments: Any) -> Any:
        function(*arguments)
        return function(*arguments)

    return doubled


def test_a_statement_made_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more in each transaction: of every append, however many events it has."""

    def asking(db: sqlite3.Connection, *given: Any) -> Any:
        db.execute("SELECT epoch FROM lease")
        return insert_few(db, *given)

    insert_few = sqlite_rows._insert_few
    monkeypatch.setattr(sqlite_rows, "_insert_few", asking)
    monkeypatch.setattr(sqlite_rows, "_check_epoch", twice(sqlite_rows._check_epoch))
    assert told(appends) == {name for name in kept_in() if name.startswith("append of")}


@steps
def test_an_encoding_made_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of each row is worked out again: no statement more, and yet half as much again."""
    monkeypatch.setattr(sqlite_rows, "_add_rows", _rows_twice(sqlite_rows._add_rows))
    assert told(appends) == {"append of 100", "append of 1000"}


def _rows_twice(function: Callable[..., Any]) -> Callable[..., Any]:
    def doubled(append: Any, placed: Any, previous: bytes, rows: list[Any]) -> Any:
        function(append, placed, previous, [])
        return function(append, placed, previous, rows)

    return doubled


def as_ours(source: str, before: Callable[..., Any]) -> Callable[..., Any]:
    """The function `apply` of this source, as if it lay among the projections."""
    names: dict[str, Any] = {"before": before}
    exec(compile(source, str(ROOT / "projections" / "slow.py"), "exec"), names)
    found: Callable[..., Any] = names["apply"]
    return found


def test_a_slower_fold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that looks through 500 things for each event."""
    source = """
def look(thing):
    return thing


def apply(self, recorded):
    for number in range(500):
        look(number)
    before(self, recorded)
"""
    monkeypatch.setattr(View, "apply", as_ours(source, View.apply))
    slower = told(folds)
    assert {"fold of CursorMoved", "fold of RunStarted", "fold of RunFailed"} <= slower
    assert len(slower) >= 8


def test_one_more_sync_of_a_value_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two values that are built, each is synced once more."""

    def stage(store: LocalStore, *arguments: Any) -> Any:
        staged = before(store, *arguments)
        with Path(staged.location).open("rb") as file:
            os.fsync(file.fileno())
        return staged

    before = LocalStore.stage
    monkeypatch.setattr(LocalStore, "stage", stage)
    assert told(landings) == {"file landed, two assets built, on disk"}


def test_what_is_new_or_gone_is_told_until_it_is_accepted(tmp_path: Path) -> None:
    """So that no operation is left unguarded; what was accepted is what was found."""
    path = tmp_path / "costs.toml"
    path.write_text(costs.written({"a, b": {"commits": 1}, "c": {"calls": 10}}))
    kept = kept_in(path)
    assert regressions({"a, b": {"commits": 1}, "c": {"calls": 12}}, kept) == []
    assert regressions({"a, b": {"commits": 2}, "c": {"calls": 13}}, kept) == [
        "a, b: 2 commits, kept are 1",
        "c: 13 calls, kept are 10",
    ]
    assert regressions({"a, b": {"commits": 1, "hops": 1}}, kept) == [
        "c: is kept, and not measured",
        "a, b: 1 hops, and no figure is kept",
    ]


@steps
def test_a_loop_that_calls_nothing_is_told_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = (
        "def apply(self, recorded):\n    sum(n for n in range(900))\n    before(self, recorded)"
    )
    monkeypatch.setattr(View, "apply", as_ours(source, View.apply))
    assert "fold of CursorMoved" in told(folds)
