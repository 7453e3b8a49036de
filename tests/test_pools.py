"""Pools: what is scarce is never taken twice, and who waits for it says so."""

import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import anyio
import pytest

import freshet as fr
from freshet.engine.daemon import daemon
from freshet.engine.errors import DefinitionError
from freshet.engine.events import Recorded, RunFailed, RunStarted, RunSucceeded
from freshet.engine.project import Project
from freshet.projections.why import explain
from freshet.testing import simulate
from tests.engine import Engine, engine

pytestmark = pytest.mark.anyio

Pools = str | tuple[str, ...] | dict[str, int]

MANY = fr.static([str(n) for n in range(250)])


def peaks(history: list[Recorded], weights: dict[str, int]) -> tuple[int, int, int]:
    """How many runs there were, and how many at most at once: of all, and by weight."""
    live: dict[int, int] = {}
    runs = most = heaviest = 0
    for recorded in history:
        event = recorded.event
        if isinstance(event, RunStarted):
            live[recorded.position] = weights.get(event.targets[0].asset, 0)
            runs += 1
        elif isinstance(event, RunSucceeded | RunFailed):
            live.pop(event.run)
        most, heaviest = max(most, len(live)), max(heaviest, sum(live.values()))
    return runs, most, heaviest


async def test_no_limit_is_ever_exceeded_over_a_thousand_runs() -> None:  # B4.2
    """Four slots, and one of them at most for what takes of the pool; failures too."""
    failing = count()

    def maker(name: str, pools: Pools) -> fr.Asset:
        @fr.asset(key=name, partitions=MANY, pools=pools, retries=3, retry_delay=0.0001)
        async def made() -> int:
            await anyio.sleep(0)
            if next(failing) % 50 == 0:
                raise RuntimeError("now and then")
            return 1

        found: fr.Asset = made
        return found

    assets = [maker("a", "db"), maker("b", ("db",)), maker("c", ()), maker("d", {"db": 1})]
    async with engine(*assets, slots=4, pools={"db": 1}) as under_test:
        for _ in range(100_000):
            under_test.advance(0.01)
            await under_test.loop.act()
            await anyio.sleep(0)
            if all(s.versions == 250 for s in under_test.view.staleness.order):
                break
        await under_test.quiet()
        runs, most, heaviest = peaks(await under_test.history(), {"a": 1, "b": 1, "d": 1})
    assert runs >= 1000
    assert most == 4
    assert heaviest == 1


@pytest.mark.parametrize("on", ["threads", "the loop"])
async def test_global_and_pool_and_group_limits_hold_in_one_history_in_real_time(
    tmp_path: Path, on: str
) -> None:  # B4.2
    """A thousand runs of the real daemon on a file, its functions in worker threads or on the loop:
    four slots, one at most of the pool, two at most of the group.
    """
    alive, most_alive, lock = Counter[str](), Counter[str](), threading.Lock()

    def entered(names: tuple[str, ...]) -> None:
        with lock:
            alive.update(names)
            for name in names:
                most_alive[name] = max(most_alive[name], alive[name])

    def left(names: tuple[str, ...]) -> None:
        with lock:
            alive.subtract(names)

    def maker(key: str, pools: Pools, group: str) -> fr.Asset:
        names = ("all", *(("db",) if pools else ()), group)

        def in_thread() -> None:
            entered(names)
            os.sched_yield()
            left(names)

        async def on_loop() -> None:
            entered(names)
            await anyio.sleep(0)
            left(names)

        made = in_thread if on == "threads" else on_loop
        found: fr.Asset = fr.asset(key=key, partitions=MANY, pools=pools, group=group)(made)
        return found

    assets = [
        maker("a", "db", "ml"),
        maker("b", "db", "other"),
        maker("c", (), "ml"),
        maker("d", (), "other"),
    ]
    project = Project(
        assets, slots=4, pools={"db": 1}, group_limits={"ml": 2}, store=fr.MemoryStore()
    )
    async with daemon(project, tmp_path) as running:
        with anyio.fail_after(300):
            while running.view.runs.counts["succeeded"] < 1000:
                await anyio.sleep(0.01)
        history: list[Recorded] = []
        while batch := await running.stream.read(len(history)):
            history += batch
        running.stop("done")
        await running.stopped()
    runs, most, of_pool = peaks(history, {"a": 1, "b": 1})
    _, _, of_group = peaks(history, {"a": 1, "c": 1})
    assert (runs, most, of_pool, of_group) == (1000, 4, 1, 2)
    assert most_alive["all"] <= 4
    assert (most_alive["db"], most_alive["ml"] <= 2) == (1, True)


async def test_a_group_is_limited_as_a_whole() -> None:
    """Two at once of its assets, while others take the rest; and who waits says for what."""
    gate = anyio.Event()

    async def waits() -> int:
        await gate.wait()
        return 1

    grouped = [fr.asset(key=f"m{n}", group="ml")(waits) for n in range(5)]
    others = [fr.asset(key=f"o{n}")(waits) for n in range(3)]
    async with engine(*grouped, *others, group_limits={"ml": 2}) as under_test:
        await held(under_test, gate)
        live = [run.event.targets[0].asset for run in under_test.view.runs.live.values()]
        assert sorted(live) == ["m0", "m1", "o0", "o1", "o2"]
        told = "waits: for one of the runs that the group 'ml' may have at once, 2 in all"
        assert told in await steps_of(under_test, "m2")
        gate.set()
        await under_test.quiet()
        _, _, most = peaks(await under_test.history(), {f"m{n}": 1 for n in range(5)})
    assert most == 2


async def steps_of(under_test: Engine, name: str) -> list[str]:
    asking = explain(under_test.view, fr.AssetPartition(name), under_test.now)
    try:
        position = next(asking)
        while True:
            position = asking.send(await under_test.stream.at(position))
    except StopIteration as end:
        return [step.text for step in end.value.steps]


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"modles": 2}, "and no asset is in that group\nhint: did you mean 'models'?"),
        ({"raw": 2}, "group_limits names 'raw', and no asset is in that group"),
        ({"models": 0}, "group_limits={'models': 0}: nothing could ever run"),
        ({"group:models": 2}, "hint: group_limits={'models': 2} limits a group"),
    ],
)
def test_group_limits_that_do_not_fit_are_said_at_load(limits: dict[str, int], text: str) -> None:
    asset = fr.asset(key="a", group="models", deps=["s"])(lambda: 1)
    with pytest.raises(DefinitionError) as caught:
        Project([fr.source("s", group="raw"), asset], group_limits=limits)
    assert text in str(caught.value)


async def test_weights_are_added_up() -> None:
    light = [fr.asset(key=f"l{n}", pools={"gb": 1})(sleeper()) for n in range(6)]
    heavy = [fr.asset(key=f"h{n}", pools={"gb": 3})(sleeper()) for n in range(3)]
    async with engine(*light, *heavy, slots=20, pools={"gb": 4}) as under_test:
        await under_test.quiet()
        weights = Counter({**{f"l{n}": 1 for n in range(6)}, **{f"h{n}": 3 for n in range(3)}})
        _, most, heaviest = peaks(await under_test.history(), weights)
    assert (most > 1, heaviest) == (True, 4)


def sleeper() -> Callable[[], Awaitable[int]]:
    async def made() -> int:
        await anyio.sleep(0.001)
        return 1

    return made


async def held(under_test: Engine, gate: anyio.Event) -> None:
    for _ in range(50):
        await anyio.sleep(0)
    assert not gate.is_set()


async def test_who_waits_for_room_says_so_and_holds_up_nobody_else() -> None:
    gate = anyio.Event()

    @fr.asset(pools="db")
    async def first() -> int:
        await gate.wait()
        return 1

    @fr.asset(pools="db")
    async def second() -> int:
        return 1

    @fr.asset
    async def third() -> int:
        return 1

    async with engine(first, second, third, pools={"db": 1}) as under_test:
        await held(under_test, gate)
        assert under_test.status("second").activity == "ready"
        assert under_test.status("third").state == "fresh"
        steps = await steps_of(under_test, "second")
        assert "waits: for room in the pool 'db', of which 1 of 1 is taken" in steps
        assert any(step.startswith("run ") and "first started" in step for step in steps)
        gate.set()
        await under_test.quiet()
        assert under_test.status("second").state == "fresh"


def test_a_simulation_keeps_to_the_pools() -> None:
    assets = [fr.asset(key=f"a{n}", pools="db")(sleeper()) for n in range(3)]
    project = Project(assets, pools={"db": 1})
    with simulate(project, durations={f"a{n}": "10s" for n in range(3)}) as sim:
        sim.advance("25s")
        assert len([run for run in sim.runs() if run.outcome == "succeeded"]) == 2
        sim.advance("10s")
        assert len([run for run in sim.runs() if run.outcome == "succeeded"]) == 3


@pytest.mark.parametrize(
    ("pools", "limits", "text"),
    [
        ("db", {}, "takes of the pool 'db', which the project does not have"),
        ({"db": 3}, {"db": 2}, "takes 3 of the pool 'db', which has 2"),
        ({"db": 0}, {"db": 2}, "pools={'db': 0}"),
        ("db", {"db": 0}, "nothing could ever run"),
    ],
)
def test_pools_that_do_not_fit_are_said_at_load(
    pools: Pools, limits: dict[str, int], text: str
) -> None:
    with pytest.raises(DefinitionError, match=text):
        Project([fr.asset(key="a", pools=pools)(lambda: 1)], pools=limits)
