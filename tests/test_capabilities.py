"""Rows of the capability list that are a property of the whole engine: one test each,
named by its id.
"""

import functools
import random
import sys
from collections.abc import Generator
from types import FrameType

import anyio
import pytest

import freshet as fr
from freshet.engine.errors import DefinitionError
from freshet.engine.events import (
    AnyEvent,
    Demanded,
    GraphDeployed,
    Materialized,
    Paused,
    Recorded,
    Resumed,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.reactor import decide
from freshet.engine.specs import AssetSpec, Dependency
from freshet.projections.cells import cells_of, downstream
from freshet.projections.view import View
from freshet.projections.why import Explanation, Step, explain
from tests.engine import Engine, engine
from tests.histories import History

pytestmark = pytest.mark.anyio


def diamond() -> list[fr.Asset | fr.Source]:
    """s -> left, right -> bottom."""
    s = fr.source("s")

    @fr.asset
    async def left(s: str) -> str:
        return f"left({s})"

    @fr.asset
    async def right(s: str) -> str:
        return f"right({s})"

    @fr.asset
    async def bottom(left: str, right: str) -> str:
        return f"bottom({left},{right})"

    return [s, left, right, bottom]


async def value(e: Engine, asset: str, partition: str = "") -> object:
    version = await e.version(asset, partition)
    assert version is not None
    return e.store.load(AssetPartition(asset, partition), version.data_version, None)


async def test_assets_run_in_dependency_order_however_they_are_listed() -> None:  # B1.1
    """Five assets declared with dependencies only, listed backwards, run upstream first."""

    @fr.asset
    async def one() -> int:
        return 1

    @fr.asset
    async def two(one: int) -> int:
        return one + 1

    @fr.asset
    async def three(two: int) -> int:
        return two + 1

    @fr.asset(deps=["three"])
    async def four() -> int:
        return 4

    @fr.asset
    async def five(four: int, two: int) -> int:
        return four + two

    async with engine(five, four, three, two, one) as e:
        await e.quiet()
        assert await e.runs() == ["one", "two", "three", "four", "five"]
        assert await value(e, "five") == 6


async def test_one_run_appends_exactly_its_start_its_value_and_its_end() -> None:  # B1.4
    """The events of a run, with run id, code version, input versions and output version."""
    s, left, *_ = diamond()
    async with engine(s, left) as e:
        await e.change("s", "v0")
        await e.quiet()
        await e.change("s", "v1")
        at = e.stream.head
        await e.quiet()
        started, made, ended = await e.history(at)
        assert isinstance(started.event, RunStarted)
        assert isinstance(made.event, Materialized)
        assert isinstance(ended.event, RunSucceeded)
        assert made.event.run == ended.event.run == started.position == made.cause
        assert made.event.code_version == e.graph.specs["left"].code_version
        assert [(i.asset, i.data_version, i.position) for i in made.event.inputs] == [
            ("s", "v1", at)
        ]
        assert made.event.data_version
        assert started.cause == at


async def test_an_empty_store_converges_and_the_engine_goes_idle() -> None:  # B2.1
    """With definitions and policies only, everything becomes fresh and nothing more is appended."""
    async with engine(*diamond()) as e:
        await e.change("s", "1")
        await e.quiet()
        assert [e.status(k).state for k in e.graph.specs] == ["fresh"] * 4
        at = e.stream.head
        for _ in range(5):
            await e.loop.act()
        assert e.stream.head == at


async def test_a_diamond_runs_its_bottom_once_per_change() -> None:  # X7
    """One change of the source: left, right, and then bottom exactly once."""
    async with engine(*diamond()) as e:
        for version in ("1", "2", "3"):
            at = e.stream.head
            await e.change("s", version)
            await e.quiet()
            assert sorted(await e.runs(at)) == ["bottom", "left", "right"]
            assert (await e.runs(at))[-1] == "bottom"


async def test_fail_fail_succeed_runs_downstream_once() -> None:  # B2.5
    """Two failures are two events with a growing bound on the wait; then downstream runs once."""
    fails = [True, True, False]

    @fr.asset(retries=5, retry_delay="2s")
    async def flaky() -> str:
        if fails.pop(0):
            raise OSError("not now")
        return "done"

    @fr.asset
    async def below(flaky: str) -> str:
        return flaky

    @fr.asset
    async def apart() -> str:
        return "apart"

    async with engine(flaky, below, apart) as e:
        await e.settled()
        while fails:
            e.advance(10)
            await e.loop.act()
            await e.folded()
            await e.settled()
        runs = await e.runs()
        assert sorted(runs) == ["apart", "below", "flaky", "flaky", "flaky"]
        failures = [r for r in await e.history() if isinstance(r.event, RunFailed)]
        waits = [
            (r.event.retry_at or 0) - r.recorded_at
            for r in failures
            if isinstance(r.event, RunFailed)
        ]
        assert 0 <= waits[0] <= 2_000_000
        assert 0 <= waits[1] <= 4_000_000
        attempts = [r.event.attempt for r in await e.history() if isinstance(r.event, RunStarted)]
        assert sorted(attempts) == [1, 1, 1, 2, 3]


async def test_a_permanent_failure_blocks_only_its_descendants() -> None:  # B2.5
    """What does not depend on the failed asset is fresh; what does names the failure."""

    @fr.asset
    async def broken() -> str:
        raise ValueError("never")

    @fr.asset
    async def below(broken: str) -> str:
        return broken

    @fr.asset
    async def apart() -> str:
        return "apart"

    async with engine(broken, below, apart) as e:
        await e.settled()
        assert sorted(await e.runs()) == ["apart", "broken"]
        assert e.status("apart").state == "fresh"
        blocker = e.status("below").blocker
        assert blocker is not None
        assert (blocker.what, blocker.asset) == ("failed", "broken")
        steps = await ask(e, explain(e.view, AssetPartition("broken"), e.now))
        assert any("failed (error): ValueError: never" in step.text for step in steps)


async def test_one_source_of_a_hundred_runs_only_its_descendants() -> None:  # T7
    """In a fan-in graph of 100 sources a change of one runs its own asset and the total."""
    sources = [fr.source(f"s{n}") for n in range(100)]

    def part(n: int) -> fr.Asset:
        @fr.asset(key=f"part{n}", inputs={"source": f"s{n}"})
        async def made(source: str) -> str:
            return f"{n}:{source}"

        return made

    parts = [part(n) for n in range(100)]

    @fr.asset(deps=list(parts))
    async def total() -> None:
        return None

    async with engine(*sources, *parts, total) as e:
        await e.say(*[SourceChanged(s.key, "", "1") for s in sources])
        await e.quiet()
        assert len(await e.runs()) == 101
        at = e.stream.head
        await e.change("s42", "2")
        await e.quiet()
        assert await e.runs(at) == ["part42", "total"]


async def test_what_was_paused_is_caught_up_once() -> None:  # X10
    """50 changes while paused: one run of each stale partition on resuming, without a new event."""
    async with engine(*diamond()) as e:
        await e.change("s", "0")
        await e.quiet()
        at = e.stream.head
        await e.say(Paused("*", "maintenance"))
        for number in range(1, 51):
            await e.change("s", str(number))
        assert await e.runs(at) == []
        await e.say(Resumed("*"))
        await e.quiet()
        assert sorted(await e.runs(at)) == ["bottom", "left", "right"]
        assert await value(e, "left") == "left(50)"


async def test_what_changed_while_down_is_caught_up_once() -> None:  # X10
    """50 changes while no engine runs: a new one on the same stream runs each stale
    partition once.
    """
    definitions = diamond()
    async with engine(*definitions) as first:
        await first.change("s", "0")
        await first.quiet()
    for number in range(1, 51):
        await first.stream.append([SourceChanged("s", "", str(number))])
    at = first.stream.head
    second = Engine(definitions, 8, former=first)  # the same history under a new engine
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second.loop.run)
        await second.folded()
        await second.quiet()
        assert sorted(await second.runs(at)) == ["bottom", "left", "right"]
        tasks.cancel_scope.cancel()


async def test_code_is_a_change_like_any_other() -> None:  # T6, D12, D13
    """A new code version re-runs the asset; equal output stops there. A new asset is built."""
    s, left, right, bottom = diamond()
    async with engine(s, left, right, bottom) as e:
        await e.change("s", "1")
        await e.quiet()
        at = e.stream.head

        @fr.asset(key="left", code_version="2")
        async def left2(s: str) -> str:
            return f"left({s})"

        @fr.asset
        async def extra(bottom: str) -> str:
            return f"extra({bottom})"

        await e.redeploy(s, left2, right, bottom, extra)
        await e.quiet()
        assert sorted(await e.runs(at)) == ["extra", "left"]
        assert e.status("bottom").state == "fresh"


async def test_a_removed_asset_is_an_orphan_and_returns_without_a_rebuild() -> None:  # B3.2
    """History is kept, nothing is replayed wrongly, and the same definition back again
    runs nothing.
    """
    definitions = diamond()
    async with engine(*definitions) as e:
        await e.change("s", "1")
        await e.quiet()
        full = GraphDeployed(e.graph.digest, tuple(e.graph.specs.values()))
        at = e.stream.head
        await e.say(GraphDeployed("less", tuple(s for s in full.assets if s.key != "bottom")))
        await e.quiet()
        assert e.view.status("bottom", "") is None
        assert "bottom" in e.view.catalog.removed
        assert (await e.version("bottom", "")) is not None
        await e.say(full)
        await e.quiet()
        assert e.status("bottom").state == "fresh"
        assert await e.runs(at) == []


async def test_only_metadata_changed_is_no_staleness() -> None:  # D4
    """Another owner is recorded, and runs nothing."""
    s, left, *_ = diamond()
    async with engine(s, left) as e:
        await e.change("s", "1")
        await e.quiet()
        at = e.stream.head

        @fr.asset(key="left", owners=["someone@example.org"], code_version=left.spec.code_version)
        async def owned(s: str) -> str:
            return s

        other = Engine([s, owned], 8)
        await e.say(GraphDeployed(other.graph.digest, tuple(other.graph.specs.values())))
        await e.quiet()
        assert await e.runs(at) == []
        assert e.view.catalog.definitions["left"].owners == ("someone@example.org",)


async def test_lifecycle_states_come_from_one_projection() -> None:  # T8
    """declared, waiting, materialized, stale, failed, orphan: each seen in its turn."""
    fail = [False]
    s = fr.source("s")

    @fr.asset
    async def a(s: str) -> str:
        if fail[0]:
            raise ValueError("no")
        return s

    async with engine(s, a) as e:
        assert (e.status("a").state, e.status("a").activity) == ("missing", "blocked")
        blocker = e.status("a").blocker
        assert blocker is not None
        assert blocker.what == "missing_source"
        await e.change("s", "1")
        await e.quiet()
        assert e.status("a").state == "fresh"
        fail[0] = True
        await e.change("s", "2")
        await e.settled()
        assert (e.status("a").state, e.status("a").activity) == ("stale", "failed")
        await e.say(GraphDeployed("none", ()))
        assert e.view.status("a", "") is None
        assert list(e.view.catalog.removed) == ["s", "a"]


async def test_history_at_a_past_position_is_what_was_live_then() -> None:  # T9
    """Folding the stream up to any position gives the answer that was live there."""
    async with engine(*diamond()) as e:
        live: dict[int, tuple[str, ...]] = {}
        e.loop.listeners.append(
            lambda r, v: live.__setitem__(
                r.position, tuple(str(v.status(k, "")) for k in v.catalog.definitions)
            )
        )
        for version in "123":
            await e.change("s", version)
            await e.quiet()
        view = View()
        for recorded in await e.history():
            view.apply(recorded)
            if recorded.position in live:
                states = tuple(str(view.status(k, "")) for k in view.catalog.definitions)
                assert states == live[recorded.position]
        assert len(live) > 15


@pytest.mark.parametrize("seed", range(30))
def test_verdicts_come_from_versions_not_from_clocks(seed: int) -> None:  # D14
    """The same history told by clocks an hour behind or a day ahead ends in the same verdicts."""
    history = History(random.Random(seed), 6)
    for _ in range(40):
        history.step()
        history.now += 1_000_000
    verdicts = []
    for shift in (0, -3_600_000_000, 86_400_000_000):
        view = View()
        for r in history.recorded:
            view.apply(Recorded(r.position, r.recorded_at + shift, r.event, r.cause))
        verdicts.append(
            [str(view.status(*c.key)) for s in view.staleness.states.values() for c in cells_of(s)]
        )
    assert verdicts[0] == verdicts[1] == verdicts[2]


@pytest.mark.parametrize("seed", range(40))
def test_impact_is_what_really_goes_stale(seed: int) -> None:  # D5
    """What lies below a source is what owes after it changes: no more; and no less but
    behind a wall.
    """
    history = History(random.Random(seed), 8)
    view = history.view
    for state in [s for s in view.staleness.states.values() if s.is_source]:
        first = next(cells_of(state), None)
        if first is None:
            continue
        key = first.partition
        history.now += 10_000_000
        history.say(SourceChanged(state.spec.key, key, f"new{history.now}"))
        owing = {s.spec.key for s in view.staleness.states.values() if s.owes}
        reached = {state.spec.key}
        for here in [
            state,
            *(view.staleness.states[k] for k in view.staleness.graph.descendants(state.spec.key)),
        ]:
            if here.spec.key in reached and (here is state or not here.is_wall):
                reached |= {
                    below.spec.key
                    for cell in cells_of(here)
                    if here is not state or cell.partition == key
                    for below, _ in downstream(here, cell.i)
                }
        assert reached - {state.spec.key} <= owing


async def test_a_demand_obeys_the_slots_and_names_its_actor() -> None:  # D17
    """A person's demand is an event with its actor; with one slot nothing runs side by side."""
    alive = [0, 0]

    def make(name: str) -> fr.Asset:
        @fr.asset(key=name)
        async def made() -> str:
            alive[0] += 1
            alive[1] = max(alive)
            await anyio.sleep(0)
            alive[0] -= 1
            return name

        return made

    async with engine(*[make(n) for n in "abcd"], slots=1) as e:
        await e.quiet()
        at = e.stream.head
        wish = Demanded(tuple(AssetPartition(name) for name in "abc"))
        await e.stream.append([wish], actor="cli:me")
        await e.folded()
        await e.quiet()
        assert await e.runs(at) == ["a", "b", "c"]
        assert (await e.history(at))[0].actor == "cli:me"
        assert alive[1] == 1


async def test_threads_and_the_loop_give_the_same_events() -> None:  # B4.1
    """A sync asset in a thread and an async one on the loop leave the same kinds of events."""

    @fr.asset(key="x")
    def sync() -> str:
        return "v"

    @fr.asset(key="x")
    async def on_loop() -> str:
        return "v"

    kinds = []
    for definition in (sync, on_loop):
        async with engine(definition) as e:
            await e.quiet()
            kinds.append([type(r.event).__name__ for r in await e.history()])
            assert await value(e, "x") == "v"
    assert kinds[0] == kinds[1]


async def test_manual_is_a_wall_until_asked() -> None:
    """A manual asset keeps its debt and shows it; asked for, it runs once and those below
    follow.
    """
    s = fr.source("s")

    @fr.asset(freshness=fr.manual())
    async def checked(s: str) -> str:
        return s

    @fr.asset
    async def below(checked: str) -> str:
        return checked

    async with engine(s, checked, below) as e:
        await e.change("s", "1")
        await e.quiet()
        assert await e.runs() == []
        assert (e.status("checked").state, e.status("checked").activity) == ("missing", "unwanted")
        await e.demand("checked")
        await e.quiet()
        assert await e.runs() == ["checked", "below"]
        await e.change("s", "2")
        await e.quiet()
        assert e.status("checked").state == "stale"
        assert e.status("below").state == "fresh"
        assert decide(e.view, e.now, 8).starts == ()


async def test_each_event_of_a_chain_names_its_cause() -> None:  # A10, L5
    """A new source version leads through three stages; following the causes leads back to it."""
    s = fr.source("s")

    @fr.asset
    async def features(s: str) -> str:
        return f"f{s}"

    @fr.asset
    async def model(features: str) -> str:
        return f"m{features}"

    async with engine(s, features, model) as e:
        await e.change("s", "0")
        await e.quiet()
        await e.change("s", "1")
        root = e.stream.head
        await e.quiet()
        for recorded in await e.history(root):
            assert recorded.cause is not None
            here = recorded
            while here.cause is not None:
                found = await e.stream.at(here.cause)
                assert found is not None
                here = found
            assert here.position == root
        made = [r.event for r in await e.history() if isinstance(r.event, Materialized)]
        assert all(event.inputs for event in made)


def test_a_duplicate_key_and_a_three_segment_key() -> None:  # B1.2
    """A key of three segments gives back its parts; the same key twice is refused with
    both places.
    """

    @fr.asset(key=("analytics", "user_features", "daily"), owners=["me"])
    def features() -> int:
        """What users do."""
        return 1

    project = fr.Project([features])
    spec = project.graph.specs["analytics/user_features/daily"]
    assert (spec.key, spec.owners, project.assets[spec.key]()) == (
        "analytics/user_features/daily",
        ("me",),
        1,
    )
    with pytest.raises(DefinitionError, match="defined twice"):
        fr.Project([features, features])


@pytest.mark.parametrize("seed", range(500))
def test_a_change_marks_exactly_its_transitive_descendants(seed: int) -> None:  # T3
    """In a random DAG at rest, changing one source makes all below it owe, and nothing else."""
    rng = random.Random(seed)
    size = rng.randint(2, 30)
    specs = [AssetSpec("n0", "source")]
    for n in range(1, size):
        ups = rng.sample(range(n), rng.randint(0, min(n, 3)))
        deps = tuple(Dependency(f"n{u}") for u in ups)
        specs.append(AssetSpec(f"n{n}", "asset" if deps else "source", deps=deps))
    view = View()

    def say(event: AnyEvent) -> None:
        view.apply(Recorded(view.position + 1, view.position * 1_000_000, event))

    say(GraphDeployed("x", tuple(specs)))
    sources = [spec.key for spec in specs if spec.is_source]
    for key in sources:
        say(SourceChanged(key, "", "1"))
    while starts := decide(view, 0, 1000).starts:
        for start in starts:
            say(start)
            target = start.targets[0]
            run = view.position
            say(Materialized(target.asset, "", run, "v", target.code_version))
            say(RunSucceeded(run))
    changed = rng.choice(sources)
    say(SourceChanged(changed, "", "2"))
    owing = {k for k in view.staleness.graph.specs if view.lag_us(k, "", 10**18) > 0}
    assert owing == view.staleness.graph.descendants(changed)


async def test_what_is_skipped_is_listed_with_its_reason() -> None:  # L3
    """An asset whose input came out equal does not run, and says which change was cut off where."""
    s = fr.source("s")

    @fr.asset
    async def parity(s: str) -> int:
        return int(s) % 2

    @fr.asset
    async def below(parity: int) -> str:
        return f"{parity}"

    async with engine(s, parity, below) as e:
        await e.change("s", "1")
        await e.quiet()
        at = e.stream.head
        await e.change("s", "3")
        changed = e.stream.head
        await e.quiet()
        assert await e.runs(at) == ["parity"]
        assert e.view.staleness.cut_offs == 1
        steps = await ask(e, explain(e.view, AssetPartition("below"), e.now))
        assert steps[0].text == (
            f"the change at position {changed} was cut off: its inputs turned out equal"
        )
        made = await e.version("parity", "")
        assert made is not None
        assert steps[0].position == made.position
        assert steps[1].text == "s changed to 3"


async def test_each_version_names_the_code_and_data_that_made_it() -> None:  # D11
    """For every materialization, however old, its inputs are versions recorded where it says."""
    async with engine(*diamond()) as e:
        for version in "123":
            await e.change("s", version)
            await e.quiet()
        history = await e.history()
        seen = 0
        for recorded in history:
            event = recorded.event
            if isinstance(event, Materialized):
                assert event.code_version == e.graph.specs[event.asset].code_version
                for used in event.inputs:
                    origin = history[used.position - 1].event
                    assert isinstance(origin, Materialized | SourceChanged)
                    assert origin.asset == used.asset
                    assert origin.data_version == used.data_version
                    assert used.position < event.run
                    seen += 1
        assert seen == 3 * 4


async def test_nothing_wakes_while_nothing_happens() -> None:  # X3, D19
    """Idle, the engine enters as few Python functions for 5,000 assets as for
    5: there is no poll.
    """
    calls = []
    for size in (5, 5000):
        source = fr.source("s")

        def make(n: int) -> fr.Asset:
            @fr.asset(key=f"n{n}", deps=["s"])
            async def made() -> None:
                return None

            return made

        async with engine(source, *[make(n) for n in range(size)], slots=1000) as e:
            await e.change("s", "1")
            await e.quiet()
            await anyio.wait_all_tasks_blocked()
            entered: list[str] = []
            profile = functools.partial(_note_ours, entered)
            sys.setprofile(profile)
            try:
                await anyio.sleep(0.2)
                calls.append(len(entered))
                await e.change("s", "2")
                await e.quiet()
            finally:
                sys.setprofile(None)
            assert len(entered) > 5 * size  # it does see what is entered when something happens
    assert calls == [0, 0]


def _note_ours(entered: list[str], frame: FrameType, event: str, argument: object) -> None:
    if event == "call" and "/engine/" in frame.f_code.co_filename.replace("/tests/engine", ""):
        entered.append(frame.f_code.co_name)


async def ask(
    e: Engine, question: Generator[int, Recorded | None, Explanation]
) -> tuple[Step, ...]:
    """Answer a question from the engine's stream."""
    try:
        position = next(question)
        while True:
            position = question.send(await e.stream.at(position))
    except StopIteration as done:
        explanation: Explanation = done.value
        return explanation.steps
