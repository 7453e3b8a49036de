"""Staleness equals its slow reference model at every position, and keeps its promises at rest."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.engine import events as e
from freshet.engine.reactor import decide
from freshet.projections.cells import NOTHING, Cell, fingerprint
from freshet.projections.staleness import Staleness
from freshet.projections.view import View
from tests.histories import History
from tests.model import INF, Model

seeds = st.integers(0, 2**32)
sizes = st.integers(2, 8)


def cells_of(staleness: Staleness) -> dict[tuple[str, str], Cell]:
    return {
        (c.home.spec.key, c.partition): c
        for s in staleness.states.values()
        for c in s.cells.values()
    }


def agree(view: View, model: Model) -> None:
    """Every number of every cell, and what may start, are the same on both sides."""
    assert INF == NOTHING
    cells = cells_of(view.staleness)
    assert set(cells) == model.cells
    for n, cell in cells.items():
        seen = (cell.version, cell.eff, cell.running is not None)
        assert seen == (model.version.get(n), model.eff(n), n in model.running), n
        assert cell.running is None or cell.next == model.next[n], n
    ready, retry = model.startable()
    assert {tuple(c.key) for c in view.staleness.ready} == ready
    assert {tuple(c.key) for c in view.staleness.retries} == retry


def finish_everything(history: History) -> None:
    """Let every run succeed and start what asks for it, until nothing asks any more."""
    for _ in range(2000):
        starts = decide(history.view, 1 << 60, 1000).starts
        for start in starts:
            history.say(start)
        live = list(history.view.runs.live.values())
        if not starts and not live:
            return
        for run in live:
            target = run.event.targets[0]
            cell = history.view.staleness.cell(target.asset, target.partition)
            pinned = cell.pinned if cell is not None else 0
            history.succeed(run.run, target, history.content(target, pinned))
    raise AssertionError("it never comes to rest")


@settings(max_examples=1000, deadline=None)
@given(seed=seeds, size=sizes, steps=st.integers(1, 60))
def test_equal_to_the_model_at_every_position(seed: int, size: int, steps: int) -> None:
    """After each event of a random history the fold and the slow model say the same."""
    history = History(random.Random(seed), size)
    for _ in range(steps):
        history.step()
    view, model = View(), Model()
    for recorded in history.recorded:
        view.apply(recorded)
        model.apply(recorded)
        agree(view, model)


@settings(max_examples=400, deadline=None)
@given(seed=seeds, size=sizes, steps=st.integers(1, 60))
def test_at_rest_all_is_fresh_and_right_or_blocked_with_a_name(
    seed: int, size: int, steps: int
) -> None:
    """When nothing runs or asks, every cell is fresh with the recomputed value, or says
    what blocks it.
    """
    history = History(random.Random(seed), size)
    for _ in range(steps):
        history.step()
    finish_everything(history)
    for cell in cells_of(history.view.staleness).values():
        if cell.home.is_source:
            continue
        status = history.view.status(*cell.key)
        assert status is not None
        if cell.eff == NOTHING:
            assert status.state == "fresh"
            assert cell.consumed == fingerprint(cell)
            assert cell.code == cell.home.spec.code_version
        elif cell.home.is_wall and not cell.demand:
            assert status.state in ("stale", "missing", "waiting")
        else:
            assert status.activity in ("failed", "blocked"), status
            assert status.activity == "failed" or status.blocker is not None


@settings(max_examples=100, deadline=None)
@given(seed=seeds, size=sizes, steps=st.integers(1, 40))
def test_one_change_touches_only_descendants(seed: int, size: int, steps: int) -> None:  # T3
    """A change of one source makes nothing owe but what lies below it."""
    history = History(random.Random(seed), size)
    for _ in range(steps):
        history.step()
    finish_everything(history)
    before = {n: c.eff for n, c in cells_of(history.view.staleness).items()}
    history.now += 10_000_000
    history.change()
    changed = history.recorded[-1].event
    assert isinstance(changed, e.SourceChanged)
    below = history.view.staleness.graph.descendants(changed.asset) | {changed.asset}
    for n, cell in cells_of(history.view.staleness).items():
        assert n[0] in below or cell.eff == before[n]


@settings(max_examples=100, deadline=None)
@given(seed=seeds, size=sizes, steps=st.integers(1, 40))
def test_an_equal_version_touches_nothing(seed: int, size: int, steps: int) -> None:
    """A source seen again with the version it had moves no number of any cell."""
    history = History(random.Random(seed), size)
    for _ in range(steps):
        history.step()
    staleness = history.view.staleness
    for n, cell in cells_of(staleness).items():
        if cell.home.is_source and cell.version is not None:
            before = {m: (c.eff, c.next, c.version) for m, c in cells_of(staleness).items()}
            history.say(e.SourceChanged(n[0], n[1], cell.version))
            assert before == {m: (c.eff, c.next, c.version) for m, c in cells_of(staleness).items()}


@settings(max_examples=400, deadline=None)
@given(seed=seeds, size=sizes, burst=st.integers(1, 12))
def test_a_burst_costs_one_run_per_affected_partition(
    seed: int, size: int, burst: int
) -> None:  # X7
    """Changes within one wave, over any sources, cost at most one run of each cell below them."""
    history = History(random.Random(seed), size)
    finish_everything(history)
    history.now += 10_000_000
    history.rng = random.Random(seed + 1)
    before = len(history.recorded)
    moved = history.now
    for _ in range(burst):
        history.change()
        history.now = moved + 1
    finish_everything(history)
    runs = Counter(
        (event.targets[0].asset, event.targets[0].partition)
        for event in (recorded.event for recorded in history.recorded[before:])
        if isinstance(event, e.RunStarted)
    )
    assert all(count == 1 for count in runs.values()), runs


@settings(max_examples=30, deadline=None)
@given(seed=seeds, size=st.integers(3, 8))
def test_no_cell_starves_under_steady_change(seed: int, size: int) -> None:  # X7
    """While a source changes at each step, every cell below it keeps being rebuilt."""
    history = History(random.Random(seed), size)
    finish_everything(history)
    view = history.view
    source = next(s for s in view.staleness.states.values() if s.is_source)
    cell = next(iter(source.cells.values()), None)
    if cell is None:
        return
    runs: Counter[tuple[str, str]] = Counter()
    rounds = 60
    for number in range(rounds):
        history.now += 60_000
        history.say(e.SourceChanged(source.spec.key, cell.partition, f"v{number}"))
        for start in decide(view, history.now, 1000).starts:
            history.say(start)
        for run in list(view.runs.live.values()):
            if history.rng.random() < 0.7:
                target = run.event.targets[0]
                runs[target.asset, target.partition] += 1
                history.succeed(run.run, target, f"{target.asset}{run.run}")
    reached = [cell]
    for here in reached:
        for link in here.home.down:
            for other in link.other.cells.values():
                same = link.all_ or other.partition == here.partition
                blocked = (s := view.status(*other.key)) is not None and s.activity == "blocked"
                if same and not other.home.is_wall and other not in reached and not blocked:
                    reached.append(other)
    assert all(runs[c.home.spec.key, c.partition] >= 2 for c in reached[1:])
