"""Runs that take far longer than those before: said once, and nothing else follows from it."""

import random

import pytest
from structlog.testing import capture_logs

import freshet as fr
from freshet.engine import events as e
from freshet.engine.cli.run import tell
from freshet.engine.specs import AssetSpec, Dependency
from freshet.projections.delays import AT_LEAST_US, ENOUGH, TIMES
from freshet.testing import simulate
from tests.virtual import World


def world_after(successes: int, seconds: float, **changed: object) -> World:
    """An asset with so many runs behind it of so many seconds; the next one takes an hour."""
    spec = AssetSpec("a", deps=(Dependency("s"),), **changed)  # type: ignore[arg-type]  # of a spec
    world = World([AssetSpec("s", "source"), spec], {"a": seconds})
    for n in range(successes):
        world.change(100.0 * n, "s")
    world.run(100.0 * successes - 1)
    world.times["a"] = 3600.0
    world.change(100.0 * successes, "s")
    return world


@pytest.mark.parametrize(
    ("seconds", "after"),
    [(1.0, 11.0), (4.0, 14.0), (6.0, 18.0), (50.0, 150.0)],
)
def test_a_run_that_takes_far_longer_than_usual_is_told_once(seconds: float, after: float) -> None:
    """After 3 times what nine of ten took, and at least 10 s more than that; it then goes on."""
    assert (ENOUGH, TIMES, AT_LEAST_US) == (10, 3, 10_000_000)
    world = world_after(10, seconds)
    world.run(1000 + 5000)
    (told,) = world.of(e.RunDelayed)
    run = world.of(e.RunStarted)[-1].position
    assert told.event == e.RunDelayed(run, round(seconds * 1e6))
    assert world.seconds(told.recorded_at) == 1000 + after
    assert told.cause == run
    assert len(world.of(e.RunSucceeded)) == 11
    assert not world.view.delays.found
    assert not world.view.delays.waiting


def test_of_few_runs_nothing_is_learned() -> None:
    world = world_after(9, 1.0)
    world.run(5000)
    assert world.of(e.RunDelayed) == []


@pytest.mark.parametrize(("timeout_ms", "told"), [(10_999, 0), (11_000, 1), (60_000, 1)])
def test_who_has_a_timeout_that_ends_it_sooner_is_not_told_of(timeout_ms: int, told: int) -> None:
    world = world_after(10, 1.0, timeout_ms=timeout_ms)
    world.run(5000)
    assert len(world.of(e.RunDelayed)) == told


def test_a_batch_may_take_as_long_as_its_partitions_one_by_one() -> None:
    """The times learned are those of one partition."""
    keys = fr.static([str(n) for n in range(12)])
    spec = AssetSpec("a", deps=(Dependency("s", fr.all_partitions()),), partitions=keys, batch=4)
    world = World([AssetSpec("s", "source"), spec], {"a": 8.0}, slots=1)
    for n in range(4):
        world.change(100.0 * n, "s")
    world.run(399)
    world.times["a"] = 3600.0
    world.change(400, "s")
    world.run(500)
    (told,) = world.of(e.RunDelayed)
    assert told.event == e.RunDelayed(world.of(e.RunStarted)[-1].position, 8_000_000)
    assert world.seconds(told.recorded_at) == 400 + 24


def test_runs_in_time_cost_no_wake_up_once_they_are_over() -> None:
    """The next moment is that of a live run; at rest there is none."""
    world = world_after(10, 1.0)
    world.times["a"] = 1.0
    world.run(1000.5)
    assert world.view.delays.next_at == world.start + 1_011_000_000
    world.run(1002)
    before = world.decisions
    assert not world.view.delays.waiting
    world.run(100_000)
    assert world.decisions == before + 1  # that of the call


def test_the_first_moment_is_that_of_a_live_run_whatever_ends_first() -> None:
    """Against a slow model, over a thousand runs of an asset that overlap."""
    keys = fr.static([str(n) for n in range(1000)])
    rng = random.Random(5)
    spec = AssetSpec("a", partitions=keys)
    world = World([spec], {"a": lambda _: rng.choice([1.0, 2.0, 15.0, 40.0])}, slots=8)
    for second in range(20, 3000, 7):
        world.run(second)
        runs, found = world.view.runs.live, world.view.delays.found
        waiting = [at for at, run, _ in world.view.delays.waiting if run in runs.keys() - found]
        assert world.view.delays.next_at == min(waiting, default=None)
        assert found.keys() <= runs.keys()
    told = [r.event.run for r in world.of(e.RunDelayed)]  # type: ignore[union-attr]  # of these
    assert len(told) == len(set(told)) > 0


def test_status_why_and_the_log_say_so() -> None:
    """While it runs; afterwards it is history."""

    @fr.asset(deps=["s"])
    async def a() -> int:
        return 1

    slow: list[str] = []
    project = fr.Project([fr.source("s"), a])
    with simulate(project, durations={"a": lambda _: slow[0] if slow else "2s"}) as sim:
        for _ in range(10):
            sim.change("s")
            sim.advance("10s")
        slow.append("1h")
        sim.change("s")
        sim.advance("5s")
        assert sim.status("a").note == ""
        sim.advance("10s")
        run = sim.runs()[-1].run
        words = f"run {run} takes far longer than usual: nine of ten recent ones took at most 2 s"
        assert (sim.status("a").activity, sim.status("a").note) == ("running", words)
        assert words in [step.text for step in sim.why("a").steps]
        (told,) = [r for r in sim.events() if isinstance(r.event, e.RunDelayed)]
        with capture_logs() as logs:
            tell(told, sim._view)
        assert [(one["log_level"], one["event"]) for one in logs] == [("warning", words)]
        sim.advance("1h")
        assert (sim.status("a").state, sim.status("a").note) == ("fresh", "")
