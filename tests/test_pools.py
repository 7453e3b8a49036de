"""Pools: what is scarce is never taken twice, and who waits for it says so."""

from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count

import anyio
import pytest

import freshet as fr
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
        asking = explain(under_test.view, fr.AssetPartition("second"), under_test.now)
        try:
            position = next(asking)
            while True:
                position = asking.send(await under_test.stream.at(position))
        except StopIteration as end:
            steps = [step.text for step in end.value.steps]
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
