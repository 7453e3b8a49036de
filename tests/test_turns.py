"""Turns: who goes first when slots or a pool are scarce, and that nobody waits for ever."""

import random
import sys
from collections.abc import Callable

import pytest

import freshet as fr
from freshet.engine import events as e
from freshet.engine import turns
from freshet.engine.keys import AssetPartition
from freshet.engine.parts import Target
from freshet.engine.specs import AssetSpec, Dependency, PoolShare
from freshet.projections.lineup import Lineup
from freshet.projections.marks import Marks
from freshet.projections.states import AssetState
from freshet.projections.view import View
from freshet.projections.why import Explanation, explain
from tests.virtual import World

NEVER = 1 << 62
MINUTE = 60.0


def asset(key: str, *, priority: int = 0, weight: int = 0) -> AssetSpec:
    """An asset of the source of its name, that takes so much of a pool of 4."""
    shares = (PoolShare("gb", weight, 4),) if weight else ()
    policy = fr.eager().with_priority(priority)
    return AssetSpec(key, deps=(Dependency(f"s/{key}"),), policy=policy, pools=shares)


def world_of(*specs: AssetSpec, slots: int, times: dict[str, float]) -> World:
    sources = [AssetSpec(f"s/{spec.key}", "source") for spec in specs]
    return World([*sources, *specs], dict(times), slots=slots)


def steady(world: World, key: str, every: float, until: float, first: float = 0.0) -> None:
    """A stream of changes of the asset's source."""
    for n in range(int((until - first) / every)):
        world.change(first + n * every, f"s/{key}")


@pytest.fixture(params=[False, True], ids=["broken on purpose", "as it is"])
def ageing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Without ageing, and with it."""
    if not request.param:
        monkeypatch.setattr(turns, "AGEING_US", NEVER)
    return bool(request.param)


def test_a_low_priority_does_not_starve_behind_a_steady_stream_of_higher_ones(
    ageing: bool,
) -> None:
    """One slot, two urgent assets that always have work: after as many minutes as it is lower it
    takes its turn. Without ageing it would never run.
    """
    names = ("u1", "u2")
    specs = [asset(name, priority=5) for name in names]
    world = world_of(*specs, asset("low"), slots=1, times={"u1": 1.0, "u2": 1.0, "low": 1.0})
    for name in names:
        steady(world, name, 0.5, 900)
    world.change(10, "s/low")
    world.run(900)
    ran = world.starts("low")
    assert len(world.starts()) == 901
    assert len(ran) == (1 if ageing else 0)
    if ageing:
        assert 10 + 5 * MINUTE <= ran[0] <= 10 + 5 * MINUTE + 3


def test_priorities_hold_until_then_and_age_lifts_nobody_above_the_highest() -> None:
    """What is one lower waits a minute; then the three take turns, the highest not pushed back."""
    specs = [asset("top", priority=2), asset("mid", priority=1), asset("low")]
    world = world_of(*specs, slots=1, times={"top": 1.0, "mid": 1.0, "low": 1.0})
    for spec in specs:
        steady(world, spec.key, 0.5, 600)
    world.run(600)
    assert world.starts("mid")[0] >= MINUTE
    assert world.starts("low")[0] >= 2 * MINUTE
    later = [(len([at for at in world.starts(spec.key) if at > 300])) for spec in specs]
    assert later[0] > 250  # who has just been served is young again
    assert later[1] >= 4
    assert later[2] >= 2


def test_age_lifts_a_backlog_to_the_highest_and_not_above() -> None:
    """A thousand old partitions of a low priority take turns with the highest, from the time on at
    which they have waited long enough; the highest goes on getting every other run.
    """
    keys = fr.static([str(n) for n in range(1000)])
    backlog = AssetSpec("backlog", partitions=keys)
    times = {"u1": 1.0, "u2": 1.0, "backlog": 1.0}
    specs = [asset("u1", priority=2), asset("u2", priority=2)]
    world = world_of(*specs, backlog, slots=1, times=times)
    for name in ("u1", "u2"):
        steady(world, name, 0.5, 1200)
    world.run(1199)
    assert world.starts("backlog")[1] >= 2 * MINUTE  # the first was alone
    late = [len([at for at in world.starts(name) if at > 600]) for name in ("u1", "u2", "backlog")]
    assert all(190 <= count <= 210 for count in late), late


def test_equal_priorities_take_turns_whatever_their_age() -> None:
    """An asset with a thousand old partitions keeps the one that has just changed waiting once."""
    keys = fr.static([str(n) for n in range(1000)])
    old = AssetSpec("old", partitions=keys)
    world = World(
        [AssetSpec("s", "source"), old, AssetSpec("new", deps=(Dependency("s"),))],
        {"old": 1.0, "new": 1.0},
        slots=1,
    )
    world.change(500, "s")
    world.run(503)
    assert world.starts("new") == [501.0]


def test_what_waited_for_its_time_is_not_starved_by_what_is_always_ready() -> None:
    """A retry takes its turn among assets that always have work for all slots."""
    world = world_of(asset("a"), asset("b"), asset("late"), slots=1, times={"a": 1.0, "b": 1.0})
    for name in "ab":
        steady(world, name, 0.5, 300)
    world.times["late"] = 1e9
    world.change(5, "s/late")

    def fail() -> None:
        (run,) = world.view.runs.live
        world.times["late"] = 1.0
        world.say(e.RunFailed(run, "retry", retry_at=world.now + 20_000_000))

    world.at(50, fail)
    world.run(300)
    assert len(world.starts("late")) == 2
    assert 70 <= world.starts("late")[1] <= 73


@pytest.fixture(params=[False, True], ids=["broken on purpose", "as it is"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Without keeping room for who wants much, and with it."""
    if not request.param:
        monkeypatch.setattr(turns, "KEPT_AFTER_US", NEVER)
    return bool(request.param)


SMALL = [f"l{n}" for n in range(6)]


def crowd(heavy: AssetSpec, *others: AssetSpec) -> World:
    """Six assets that take 1 of 4 each and always have work, with runs that overlap."""
    light = [asset(name, weight=1) for name in SMALL]
    times = {name: 2.0 + n / 10 for n, name in enumerate(SMALL)}
    world = world_of(*light, heavy, *others, slots=16, times={**times, "heavy": 5.0, "free": 1.0})
    for name in SMALL:
        steady(world, name, 0.5, 600)
    return world


def most_taken(world: World, weights: Callable[[str], int]) -> int:
    """The most that live runs had of the pool together, at any time."""
    live: dict[int, int] = {}
    most = 0
    for recorded in world.recorded:
        event = recorded.event
        if isinstance(event, e.RunStarted):
            live[recorded.position] = weights(event.targets[0].asset)
        elif isinstance(event, e.RunSucceeded):
            live.pop(event.run)
        most = max(most, sum(live.values()))
    return most


def test_a_heavy_share_does_not_starve_behind_many_small_ones(kept: bool) -> None:
    """It wants all of the pool, of which there is never more than one free. After a minute the room
    is kept for it. Without that it would never run.
    """
    world = crowd(asset("heavy", weight=4))
    world.change(30, "s/heavy")
    world.run(600)
    ran = world.starts("heavy")
    assert len(ran) == (1 if kept else 0)
    if kept:
        assert 30 + MINUTE <= ran[0] <= 30 + MINUTE + 5  # when those under way have ended
        between = [at for name in SMALL for at in world.starts(name) if 96 <= at <= 200]
        assert len(between) > 100  # and then it goes on as before
    assert most_taken(world, lambda key: {"heavy": 4}.get(key, 1)) == 4


def test_room_is_kept_from_nobody_who_ranks_before_nor_who_wants_none_of_it() -> None:
    """Higher priorities go first, and other assets are not held up."""
    first = asset("l9", priority=9, weight=1)
    world = crowd(asset("heavy", weight=4), first, asset("free"))
    world.times["l9"] = 300.0
    world.change(30, "s/heavy")
    world.change(91, "s/l9")
    steady(world, "free", 1, 130, 92)
    world.run(130)
    assert world.starts("l9")[0] < 94
    assert world.starts("heavy") == []
    assert len(world.starts("free")) > 30
    small = [at for name in SMALL for at in world.starts(name)]
    assert max(small) < 93.5


def test_no_room_is_kept_for_who_waits_for_something_else_as_well() -> None:
    """A licence that is taken for an hour: until then the memory is of use to others."""
    licence = PoolShare("licence", 1, 1)
    heavy = AssetSpec(
        "heavy", deps=(Dependency("s/heavy"),), pools=(PoolShare("gb", 4, 4), licence)
    )
    holder = AssetSpec("holder", deps=(Dependency("s/holder"),), pools=(licence,))
    world = crowd(heavy, holder)
    world.times["holder"] = 3600.0
    world.change(0, "s/holder")
    world.change(1, "s/heavy")
    world.run(600)
    assert world.starts("heavy") == []
    assert all(max(world.starts(name)) > 590 for name in SMALL)


def why(world: World, name: str) -> Explanation:
    asking = explain(world.view, AssetPartition(name), world.now)
    try:
        position = next(asking)
        while True:
            position = asking.send(world.recorded[position - 1])
    except StopIteration as end:
        found: Explanation = end.value
        return found


def test_who_is_held_up_by_that_is_told_for_whom() -> None:
    world = crowd(asset("heavy", weight=4))
    world.change(30, "s/heavy")
    world.run(91.2)
    waiting = [name for name in SMALL if world.view.status(name, "").activity == "ready"]  # type: ignore[union-attr]  # it exists
    assert waiting
    told = [step.text for step in why(world, waiting[0]).steps]
    assert "waits: for room in the pool 'gb', which is kept for heavy" in told
    told = [step.text for step in why(world, "heavy").steps]
    assert any("for room in the pool 'gb', of which " in text for text in told)


MANY = 2000


@pytest.mark.parametrize("left", [0, 3])
def test_who_left_the_line_up_costs_no_look(left: int) -> None:
    """A dict keeps the places of all that were ever in it at once, and a look goes through them:
    after a wave each decision would cost as much as the wave was wide.
    """
    marks = Marks()
    states = [AssetState(AssetSpec(f"a{number}"), marks) for number in range(MANY)]
    lineup = Lineup()
    for state in states:
        lineup.join(state)
    full = sys.getsizeof(lineup)
    for state in states[: MANY - left]:
        lineup.leave(state)
    assert list(lineup) == states[MANY - left :]
    assert sys.getsizeof(lineup) < full / 10


def test_a_line_up_is_a_queue_without_doubles() -> None:
    """Whatever comes and goes: beside a list."""
    rng, marks = random.Random(7), Marks()
    states = [AssetState(AssetSpec(f"a{number}"), marks) for number in range(200)]
    lineup, model = Lineup(), list[AssetState]()
    for step in range(20_000):
        state = rng.choice(states[: 200 if step // 2000 % 2 else 5])
        if rng.random() < 0.5:
            lineup.join(state)
            model += [state] if state not in model else []
        else:
            lineup.leave(state)
            model = [one for one in model if one is not state]
        assert list(lineup) == model


def test_the_staleness_keeps_its_line_up_short() -> None:
    """After a change below which all assets were ready at once."""
    sources = AssetSpec("s", "source")
    view = View()
    specs = [AssetSpec(f"a{number}", deps=(Dependency("s"),)) for number in range(MANY)]
    happened: list[e.AnyEvent] = [
        e.GraphDeployed("g", (sources, *specs)),
        e.SourceChanged("s", "", "1"),
    ]
    for number in range(MANY):
        run = len(happened) + 1
        target = Target(f"a{number}", "", 2, "0" * 16, "")
        happened += [e.RunStarted((target,)), e.Materialized(f"a{number}", "", run, "1", "")]
        happened += [e.RunSucceeded(run)]
    widest = 0
    for position, event in enumerate(happened, 1):
        view.apply(e.Recorded(position, position, event))
        widest = max(widest, sys.getsizeof(view.staleness.ready))
    assert not view.staleness.ready
    assert sys.getsizeof(view.staleness.ready) < widest / 10
