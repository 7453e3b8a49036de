"""Small histories with the answer we want (SCENARIOS): the exact list of runs, on the real
engine.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import anyio
import pytest

import freshet as fr
from freshet.engine.events import GraphDeployed, Recorded, RunFailed, SourceChanged
from freshet.engine.reactor import NOTHING_TO_DO, decide
from freshet.engine.specs import AssetSpec, Dependency
from freshet.projections.view import View
from tests.engine import engine

pytestmark = pytest.mark.anyio


class World:
    """What the assets of a test return, and what holds them up."""

    def __init__(self) -> None:
        self.value: dict[str, str] = {}
        self.fail: dict[str, int] = {}
        self.hold: dict[str, anyio.Event] = {}

    async def make(self, name: str, *inputs: str) -> str:
        if name in self.hold:
            await self.hold[name].wait()
        if self.fail.get(name, 0):
            self.fail[name] -= 1
            raise ValueError(f"{name} is told to fail")
        return f"{name}{self.value.get(name, '')}({','.join(inputs)})"


def chain(world: World, **options: Any) -> tuple[fr.Asset, fr.Asset, fr.Asset]:
    """a -> b -> c, eager; a has no input and is moved by `world.value` and a demand."""

    @fr.asset
    async def a() -> str:
        return await world.make("a")

    @fr.asset(**options)
    async def b(a: str) -> str:
        return await world.make("b", a)

    @fr.asset
    async def c(b: str) -> str:
        return await world.make("c", b)

    return a, b, c


async def test_s1_what_is_missing_is_filled_once() -> None:
    """S1: a chain of eager assets, all missing, is built once in order, and then nothing runs."""
    async with engine(*chain(World())) as e:
        await e.quiet()
        assert await e.runs() == ["a", "b", "c"]
        await e.loop.act()
        await e.quiet()
        assert await e.runs() == ["a", "b", "c"]


async def test_s2_a_change_travels_down_as_each_upstream_commits() -> None:
    """S2: a new value of a runs b, then c."""
    world = World()
    async with engine(*chain(world)) as e:
        await e.quiet()
        at = e.stream.head
        world.value["a"] = "2"
        await e.demand("a")
        await e.quiet()
        assert await e.runs(at) == ["a", "b", "c"]
        assert [e.status(n).state for n in "abc"] == ["fresh"] * 3


async def test_s3_an_equal_value_stops_there() -> None:  # T4
    """S3: a is made again with an equal value: b and c do not run (early cutoff)."""
    async with engine(*chain(World())) as e:
        await e.quiet()
        at = e.stream.head
        await e.demand("a")
        await e.quiet()
        assert await e.runs(at) == ["a"]
        assert [e.status(n).state for n in "abc"] == ["fresh"] * 3


async def test_s4_a_failure_is_retried_within_its_budget_and_then_owed_and_visible() -> None:
    """S4: two retries, then blocked with the failing event named; new code or data or a
    person unblocks.
    """
    world = World()
    async with engine(*chain(world, retries=2, retry_delay=1.0)) as e:
        world.fail["b"] = 100
        await e.settled()
        for _ in range(2):
            e.advance(10)
            await e.loop.act()
            await e.folded()
            await e.settled()
        e.advance(1000)
        await e.loop.act()
        await e.settled()
        assert await e.runs() == ["a", "b", "b", "b"]
        failed = [r for r in await e.history() if isinstance(r.event, RunFailed)]
        assert [r.event.retry_at is None for r in failed if isinstance(r.event, RunFailed)] == [
            False,
            False,
            True,
        ]
        status = e.status("b")
        assert (status.state, status.activity) == ("missing", "failed")
        blocker = e.status("c").blocker
        assert blocker is not None
        assert (blocker.what, blocker.asset, blocker.position) == (
            "failed",
            "b",
            failed[-1].position,
        )
        world.fail["b"] = 0
        await e.demand("b")
        await e.quiet()
        assert await e.runs(failed[-1].position) == ["b", "c"]


@pytest.mark.parametrize("idle_pass", [False, True], ids=["s5", "s6"])
async def test_s5_s6_a_change_during_a_run_leads_to_one_follow_up(idle_pass: bool) -> None:
    """S5, S6: b runs; a is made anew meanwhile; b runs exactly once more."""
    world = World()
    async with engine(*chain(world)) as e:
        await e.quiet()
        at = e.stream.head
        world.hold["b"] = anyio.Event()
        world.value["a"] = "2"
        await e.demand("a")
        while not any(run.event.targets[0].asset == "b" for run in e.view.runs.live.values()):
            await anyio.sleep(0)
        if idle_pass:
            await e.loop.act()
        world.value["a"] = "3"
        await e.demand("a")
        while not (await e.version("a", "")) or await e.runs(at) != ["a", "b", "a"]:
            await anyio.sleep(0)
        world.hold.pop("b").set()
        await e.quiet()
        # c flows on with the wave it owes while b follows up: nobody waits for upstreams to be
        # quiet
        assert await e.runs(at) == ["a", "b", "a", "c", "b", "c"]
        version = await e.version("b", "")
        assert version is not None
        key = fr.AssetPartition("b")
        assert e.store.load(key, version.data_version, str) == "b(a3())"
        assert e.status("c").state == "fresh"


async def test_s7_b_then_a_is_one_more_run_of_b() -> None:
    """S7: b is made, then a changes at once after it: one run of b follows."""
    world = World()
    async with engine(*chain(world)) as e:
        await e.quiet()
        await e.demand("b")
        await e.quiet()
        at = e.stream.head
        world.value["a"] = "2"
        await e.demand("a")
        await e.quiet()
        assert await e.runs(at) == ["a", "b", "c"]


async def test_s8_a_and_b_asked_for_together_run_once_each() -> None:
    """S8: a and b are demanded in one breath: b runs once, after a."""
    world = World()
    async with engine(*chain(world)) as e:
        await e.quiet()
        at = e.stream.head
        world.value["a"] = "2"
        await e.demand("a", "b")
        await e.quiet()
        assert await e.runs(at) == ["a", "b", "c"]


async def test_s9_every_distinct_version_of_a_source_is_consumed() -> None:
    """S9: a source changes four times, once after the other: four runs, the end state fresh."""
    source = fr.source("s")

    @fr.asset
    async def b(s: str) -> str:
        return f"b({s})"

    async with engine(source, b) as e:
        for number in range(4):
            await e.change("s", str(number))
            await e.quiet()
        assert await e.runs() == ["b"] * 4
        assert e.status("b").state == "fresh"


async def test_s10_an_equal_observation_is_recorded_and_stops() -> None:
    """S10: the same version seen again and again runs nothing."""
    source = fr.source("s")

    @fr.asset
    async def b(s: str) -> str:
        return f"b({s})"

    async with engine(source, b) as e:
        await e.change("s", "1")
        await e.quiet()
        at = e.stream.head
        for _ in range(4):
            await e.change("s", "1")
        await e.quiet()
        assert await e.runs(at) == []
        assert e.stream.head == at + 4


async def test_s18_staleness_names_the_direct_cause_and_the_distant_one() -> None:
    """S18: after a new a, b is stale by its input, c waits for b and names the root event."""
    world = World()
    async with engine(*chain(world)) as e:
        await e.quiet()
        world.hold["b"] = anyio.Event()
        world.value["a"] = "2"
        await e.demand("a")
        demanded = e.stream.head
        while not any(run.event.targets[0].asset == "b" for run in e.view.runs.live.values()):
            await anyio.sleep(0)
        a = await e.version("a", "")
        assert a is not None
        b, c = e.status("b"), e.status("c")
        assert (b.state, b.activity) == ("stale", "running")
        assert [(x.what, x.asset, x.position) for x in b.causes] == [("input", "a", a.position)]
        assert c.state == "waiting"
        assert c.owed is not None
        assert c.owed <= demanded
        assert [(x.what, x.asset) for x in c.causes] == [("upstream", "b")]
        assert c.blocker is not None
        assert (c.blocker.what, c.blocker.asset, c.blocker.distance) == ("running", "b", 1)
        world.hold.pop("b").set()


async def test_s19_only_a_changed_value_makes_downstream_stale() -> None:
    """S19: b made twice without any upstream change: c does not run."""
    async with engine(*chain(World())) as e:
        await e.quiet()
        at = e.stream.head
        for _ in range(2):
            await e.demand("b")
            await e.quiet()
        assert await e.runs(at) == ["b", "b"]
        assert e.status("c").state == "fresh"


@pytest.mark.parametrize("size", [10, 4000])
def test_s20_an_idle_graph_costs_nothing_whatever_its_size(size: int) -> None:
    """S20: with nothing changed, a decision makes the same few calls for 10 assets and for
    4,000.
    """
    view = View()
    specs = [AssetSpec("s", "source")]
    specs += [AssetSpec(f"n{i}", deps=(Dependency("s"),)) for i in range(size)]
    view.apply(Recorded(1, 1, GraphDeployed("x", tuple(specs))))
    assert count_calls(lambda: decide(view, 10, 8)) <= 3
    assert decide(view, 10, 8) is NOTHING_TO_DO
    view.apply(Recorded(2, 2, SourceChanged("s", "", "1")))
    assert len(decide(view, 10, 8).starts) == 8


def count_calls(work: Callable[[], object]) -> int:
    """How many Python functions `work` enters."""
    calls = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls
