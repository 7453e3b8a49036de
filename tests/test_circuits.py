"""Circuits: code that fails whatever the partition is left alone, but for one run now and then."""

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

import freshet as fr
from freshet.engine import events as e
from freshet.engine.keys import AssetPartition
from freshet.engine.partitions import Static
from freshet.engine.parts import FailureKind, Target
from freshet.engine.specs import AssetSpec, CheckSpec, Dependency
from freshet.projections.answers import status_report
from freshet.projections.circuits import NO_VERDICT
from freshet.projections.forecast import forecast
from freshet.projections.view import View
from freshet.testing import simulate
from tests.engine import engine
from tests.test_cli import Place
from tests.virtual import World

pytestmark = pytest.mark.anyio

THOUSAND = Static(tuple(f"{n:03}" for n in range(1000)))
PROBES = [60.0, 180.0, 420.0, 900.0, 1860.0, 3780.0, 7380.0]
"""When (s) a thing that always fails is tried, after the first five: 1 min, doubling to 1 h."""


def broken(**changed: object) -> AssetSpec:
    return AssetSpec("a", partitions=THOUSAND, code_version="1", **changed)  # type: ignore[arg-type]  # of a spec


def failing(slots: int = 1, **changed: object) -> World:
    """A world whose asset takes no time and always fails."""
    world = World([broken(**changed)], {"a": 0.0}, slots=slots)
    world.fails.add("a")
    return world


def test_a_thousand_partitions_of_broken_code_are_five_failures_and_then_probes() -> None:
    """At most one an hour in the end, and deciding wakes for nothing else."""
    world = failing()
    world.run(3 * 3600)
    assert world.starts() == [0.0] * 5 + PROBES
    assert world.decisions < 40
    tried = [r.event.targets[0].partition for r in world.of(e.RunStarted)]  # type: ignore[union-attr]  # of these
    assert tried == [f"{n:03}" for n in range(12)]


def test_those_under_way_end_and_nothing_is_added() -> None:
    """Eight slots: what started before the fifth failure, and then one probe at a time."""
    world = World([broken()], {"a": 10.0}, slots=8)
    world.fails.add("a")
    world.run(100)
    assert world.starts() == [0.0] * 8 + [70.0]
    assert sorted(r.event.attempt for r in world.of(e.RunStarted)) == [1] * 9  # type: ignore[union-attr]  # of these


def test_a_probe_that_succeeds_lets_everything_go_on() -> None:
    """And what had failed is tried again by nobody: it waits for a person, as without a circuit."""
    world = failing(slots=4)
    world.at(100, world.fails.clear)
    world.run(400)
    built = world.view.staleness.states["a"].versions
    failed = len(world.view.staleness.states["a"].failures)
    assert built + failed == 1000
    assert failed <= 5 + 4 + 1
    assert not world.view.circuits.open


def test_other_code_closes_it_at_once() -> None:
    """New code, or another blocking check: all is tried anew, until five have failed again."""
    world = failing()
    renewed = [
        AssetSpec("a", partitions=THOUSAND, code_version="2"),
        AssetSpec(
            "a", partitions=THOUSAND, code_version="2", checks=(CheckSpec("c", blocking=True),)
        ),
    ]
    world.at(10, lambda: world.deploy([renewed[0]]))
    world.at(20, lambda: world.deploy([renewed[1]]))
    world.at(30, lambda: world.deploy([AssetSpec("z"), renewed[1]]))  # the same: stays open
    world.run(70)
    assert world.starts("a") == [0.0] * 5 + [10.0] * 5 + [20.0] * 5


def test_what_a_person_asks_for_goes_through_and_nothing_else() -> None:
    """At once, and as long as nobody knows that it fails; the times of probes stay."""
    world = failing()
    names = [AssetPartition("a", key) for key in ("700", "800", "900")]
    world.at(10, lambda: world.say(e.Demanded((names[0],))))
    world.at(20, lambda: world.say(e.Demanded(tuple(names[1:]))))
    world.run(179)
    assert world.starts() == [0.0] * 5 + [10.0, 20.0, 60.0]
    tried = [r.event.targets[0].partition for r in world.of(e.RunStarted)]  # type: ignore[union-attr]  # of these
    assert tried[5:7] == ["700", "800"]


def test_a_backfill_of_broken_code_is_held_back_too() -> None:
    """It was asked for before anybody knew: five failures, and then probes."""
    world = World([broken(policy=fr.manual())], {"a": 0.0}, slots=2)
    world.fails.add("a")
    every = tuple(AssetPartition("a", key) for key in THOUSAND.keys)
    world.at(0, lambda: world.say(e.Demanded(every, bulk=True)))
    world.run(200)
    assert world.starts() == [0.0] * 5 + [60.0, 180.0]


@pytest.mark.parametrize("kind", sorted(NO_VERDICT))
def test_data_and_the_world_are_no_fault_of_the_code(kind: FailureKind) -> None:
    """Checks, inputs and infrastructure: all thousand are tried."""
    world = World([broken()], {"a": 1e9}, slots=1)

    def fail() -> None:
        for run in list(world.view.runs.live):
            world.say(e.RunFailed(run, kind))

    for n in range(1, 1001):
        world.at(n, fail)
    world.run(1001)
    assert len(world.starts()) == 1000
    assert not world.view.circuits.open


def test_successes_in_between_keep_it_closed() -> None:
    """Four of five fail, again and again: all are tried."""
    world = World([broken()], {"a": 1e9}, slots=1)

    def end(n: int) -> None:
        (run,) = world.view.runs.live
        target = world.view.runs.live[run].event.targets[0]
        if n % 5:
            world.say(e.RunFailed(run))
        else:
            world.say(e.Materialized("a", target.partition, run, "v", target.code_version))
            world.say(e.RunSucceeded(run))

    for n in range(1000):
        world.at(n + 1, lambda n=n: end(n))  # type: ignore[misc]  # bound now
    world.run(1001)
    assert len(world.starts()) == 1000


def test_retries_keep_their_own_pace() -> None:
    """An open circuit holds first attempts back, not the budget of those that had begun; and one
    that succeeds closes it.
    """

    def made() -> int:
        raise ValueError("no")

    keys = fr.static([f"{n}" for n in range(50)])
    asset = fr.asset(key="a", partitions=keys, retries=3, retry_delay="1s")(made)
    with simulate(fr.Project([asset]), slots=1, seed=1) as sim:
        sim.advance("50s")
        runs = [(run.partitions[0], run.attempt) for run in sim.runs()]
    assert sorted(runs) == [(str(n), attempt) for n in range(5) for attempt in (1, 2, 3, 4)]


def test_a_probe_that_says_nothing_is_followed_by_the_next_after_the_same_wait() -> None:
    """Cancelled, cut off, or stopped by its data: it has not failed, and has not worked."""
    world = failing()
    world.run(59)
    world.times["a"] = 1e9
    ends = [
        lambda run: e.RunCancelled(run, "by hand"),
        lambda run: e.RunAbandoned(run, "cut off"),
        lambda run: e.RunFailed(run, "check"),
    ]
    for n, end in enumerate(ends):
        at = 60 + n * 70 + 10
        world.at(at, lambda end=end: world.say(end(next(iter(world.view.runs.live)))))  # type: ignore[misc]  # bound now
    world.run(300)
    assert world.starts()[5:] == [60.0, 130.0, 200.0, 270.0]


def test_only_one_run_tries_at_a_time() -> None:
    """However long it takes, and however many slots are free."""
    world = failing(slots=8)
    world.run(59)
    before = len(world.starts())
    world.times["a"] = 10_000.0
    world.run(5000)
    assert len(world.starts()) == before + 1


def test_others_go_on_and_what_is_below_says_what_it_waits_for() -> None:
    """Said in status, why and next: since when, after which run, when the next try is."""
    keys = fr.static(["1", "2", "3", "4", "5", "6", "7"])

    @fr.asset(partitions=keys)
    def a() -> int:
        raise ValueError("a slip")

    @fr.asset(partitions=keys)
    def below(a: int) -> int:
        return a

    @fr.asset
    def apart() -> int:
        return 1

    with simulate(fr.Project([a, below, apart]), slots=1) as sim:
        sim.advance("10s")
        view, now = sim._view, sim._clock()
        last = sim.runs("a")[-1].run
        assert len(sim.runs("a")) == 5
        assert sim.status("apart").state == "fresh"
        assert [sim.status(f"a@{n}").activity for n in (1, 5, 6, 7)] == [
            "failed", "failed", "tripped", "tripped",
        ]  # fmt: skip
        assert sim.status("below@6").blocked_by == (
            f"a@6 is held back, as its code failed again and again (position {last + 1})"
        )
        words = (
            "its circuit is open since 2026-01-01 00:00:00 UTC: 5 runs of this code failed in a"
            f" row, the last was run {last}; next try at 2026-01-01 00:01:00 UTC"
        )
        for name in ("a@6", "below@6"):
            why = sim.why(name)
            assert any(words in step.text for step in why.steps), why
            assert "freshet materialize a@6" in why.hint
        (row,) = status_report(view, None, now).circuits
        assert (row.asset, row.failures, row.run, row.probe) == ("a", 5, last, None)
        assert row.next_us - row.since_us == 60_000_000
        found = [forecast(view, AssetPartition("a", n), now) for n in ("6", "7")]
        assert [(one.stage, one.starts_us) for one in found] == [
            ("timed", row.next_us),
            ("waiting", None),
        ]
        assert all(one.condition == words for one in found)
        sim.materialize("a@7")
        sim.advance("1s")
        assert [run.partitions[0] for run in sim.runs("a")][5:] == ["7"]
        sim.pause("a")
        assert sim.status("a@6").activity == "paused"


async def test_what_is_held_back_keeps_nobody_waiting_for_quiet() -> None:
    """The engine is at rest, wakes for the probe alone, and goes on when it works."""
    good: list[bool] = []

    @fr.asset(partitions=fr.static([str(n) for n in range(9)]))
    async def a() -> int:
        if not good:
            raise ValueError("no")
        return 1

    async with engine(a, slots=1) as under_test:
        with anyio.fail_after(60):
            await under_test.quiet()
        assert len(await under_test.runs()) == 5
        at = under_test.stream.head
        for _ in range(5):
            await under_test.loop.act()
        assert under_test.stream.head == at
        good.append(True)
        await under_test.quiet_at(61)
        states = [under_test.status(f"a@{n}").state for n in range(9)]
        assert states == ["missing"] * 5 + ["fresh"] * 4


def test_what_waits_for_a_deadline_is_held_back_with_the_rest() -> None:
    """First attempts all, whether they were ready or became so by time."""
    source = AssetSpec("s", "source", partitions=THOUSAND)
    dep = Dependency("s", missing="skip", deadline_ms=5000)
    world = World([source, broken(deps=(dep,))], {"a": 0.0}, slots=1)
    world.fails.add("a")
    world.run(200)
    assert world.starts() == [5.0] * 5 + [65.0, 185.0]


PROJECT = """
import freshet as fr


@fr.asset(partitions=fr.static(["1", "2", "3", "4", "5", "6"]))
def a() -> int:
    raise ValueError("a slip")


@fr.asset
def fatal() -> int:
    raise fr.Fatal("of no use")


project = fr.Project([a, fatal], slots=1)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    yield made
    made.kill()


def test_the_commands_say_so(place: Place) -> None:
    """In real processes: status, why and next, in words and as JSON; a demand goes through."""
    place.start()
    place.wait_for("RunFailed", "", 6)
    status = place.freshet("status").stdout
    assert "circuit open: a, for " in status
    assert "5 runs of this code failed, the last was run " in status
    assert "not tried again: it said itself that another attempt is of no use" in status
    (circuit,) = json.loads(place.freshet("status", "--json").stdout)["circuits"]
    assert (circuit["asset"], circuit["failures"]) == ("a", 5)
    assert "tripped" in place.freshet("status", "a").stdout
    why = place.freshet("why", "a@6").stdout
    assert "waits: its circuit is open since " in why
    assert "to release it: repair its code, or run `freshet materialize a@6`" in why
    assert "its circuit is open since" in place.freshet("next", "a").stdout
    place.freshet("materialize", "a@6")
    place.wait_for("RunFailed", "", 7)


def test_a_multi_asset_is_held_back_as_a_whole() -> None:
    """Its outputs fail together, and one run of all of them tries."""
    keys = fr.static([str(n) for n in range(20)])

    @fr.multi_asset(["left", "right"], partitions=keys)
    def both() -> dict[str, int]:
        raise ValueError("a slip")

    with simulate(fr.Project([both]), slots=1) as sim:
        sim.advance("200s")
        runs = [run.partitions for run in sim.runs()]
        assert runs == [(str(n), str(n)) for n in range(7)]
        assert [sim.status(f"{name}@9").activity for name in ("left", "right")] == ["tripped"] * 2
        sim.materialize("right@12")
        sim.advance("1s")
        assert sim.runs()[-1].partitions == ("12", "12")


def test_a_success_of_the_code_before_says_nothing_of_the_code_now() -> None:
    view = View()

    def say(event: e.AnyEvent) -> int:
        position = view.position + 1
        view.apply(e.Recorded(position, position * 1_000_000, event))
        return position

    def started(partition: str, code: str) -> int:
        return say(e.RunStarted((Target("a", partition, code_version=code),)))

    say(e.GraphDeployed("1", (broken(),)))
    old = started("000", "1")
    say(e.GraphDeployed("2", (msgspec.structs.replace(broken(), code_version="2"),)))
    for n in range(1, 6):
        say(e.RunFailed(started(f"{n:03}", "2")))
    assert set(view.circuits.open) == {"a"}
    say(e.Materialized("a", "000", old, "v", "1"))
    say(e.RunSucceeded(old))
    assert set(view.circuits.open) == {"a"}
    say(e.RunSucceeded(started("006", "2")))
    assert not view.circuits.open
