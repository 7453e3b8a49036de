"""What each hot operation costs, in counts: `python -m tests.costs` prints them beside those that
are kept in `costs.toml`; with `--accept` they are the ones kept from now on.

statements, commits      of SQLite, on all connections
syncs                    fsync and fdatasync that we ask for ourselves, as stores do
hops                     reports of other threads to the loop
turns                    callbacks given to the loop
timers                   moments at which the loop was asked to wake up
events                   recorded, or folded
calls                    of functions, in our own code, in all threads
instructions             of Python in these; not counted by Python 3.12 and later
bytes                    of memory that stay, by so many events or partitions

They say nothing of time, so they hold on any machine; what takes longer without doing more is for
the benchmarks.
"""

import argparse
import gc
import json
import math
import sys
import tempfile
import tomllib
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import anyio

import freshet as fr
from freshet.engine import events as e
from freshet.engine import pace, sqlite, sqlite_file
from freshet.engine.checkpointing import make
from freshet.engine.checkpoints import CHECKPOINT, view_of
from freshet.engine.daemon import daemon
from freshet.engine.graph import Graph
from freshet.engine.keys import AssetPartition
from freshet.engine.origins import cause_of
from freshet.engine.partitions import dynamic
from freshet.engine.parts import Target
from freshet.engine.reactor import decide
from freshet.engine.specs import AssetSpec, Dependency
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_reader import SqliteReader
from freshet.projections.view import View
from freshet.testing import simulate
from tests.counting import CAN_STEP, INSIDE, OUTSIDE, Meter
from tests.engine import engine

KEPT = Path(__file__).with_name("costs.toml")

EXACT = ("statements", "commits", "syncs", "hops", "events")
"""What we decide ourselves, one by one: of these one more is too much."""

MORE = 1.2
"""Of all others so many times what is kept."""

START_US = 1_767_225_600_000_000
"""2026-01-01, UTC."""

PATIENCE_S = 60.0

Counts = dict[str, int]


# --- the stream ----------------------------------------------------------------------------------


async def appended(meter: Meter, number: int, *, quick: bool = False) -> Counts:
    """One durable append of so many events, by a stream that has written before, to a disk that is
    quick or is not, however busy this machine is; the place of the file is looked at.
    """
    events = [e.SourceChanged(f"s{n % 10}", f"{n}", f"v{n}") for n in range(number)]
    is_quick = patch.object(pace, "QUICK_S", math.inf if quick else 0.0)
    looks = patch.object(sqlite_file, "LOOK_S", 0.0)
    none_later = patch.object(sqlite, "LOOK_S", 3600.0)  # one is due all the while
    with tempfile.TemporaryDirectory() as folder, is_quick, looks, none_later:
        path = Path(folder) / "stream.db"
        async with SqliteStream.open(path, clock=lambda: START_US) as stream:
            for _ in range(1 + pace.TRIALS):
                await stream.append([e.EngineStopped()])
            with meter.measuring(*OUTSIDE, *INSIDE) as found:
                await stream.append(events)
    return found


async def restarted(meter: Meter) -> Counts:
    """The view, from a checkpoint of 1,000 events and the 100 after it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.db"
        async with SqliteStream.open(path, clock=lambda: START_US) as stream:
            await stream.append([e.SourceChanged("s", "", f"v{n}") for n in range(1000)])
        await make(path)
        async with SqliteStream.open(path, clock=lambda: START_US) as stream:
            await stream.append([e.SourceChanged("s", "", f"w{n}") for n in range(100)])
        async with SqliteReader.open(path) as reader:
            with meter.measuring("statements", "hops", *INSIDE) as found:
                view = await view_of(reader, path.with_name(CHECKPOINT))
            found["events"] = view.catalog.changes
    return found


# --- the fold and the decision -------------------------------------------------------------------


class Past:
    """A history made by hand: a source, an asset, ten below it, all fresh; a second an event."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._waited_us = 0
        self.view = View()
        specs = [AssetSpec("s", "source"), AssetSpec("other", "source")]
        specs += [AssetSpec("root", deps=(Dependency("s"),), policy=fr.eager(), code_version="1")]
        specs += [self._leaf(number) for number in range(10)]
        graph = Graph.build(specs)
        self.say(e.EngineStarted("x", slots=8))
        self.say(e.GraphDeployed(graph.digest, tuple(graph.specs.values())))
        self.say(e.SourceChanged("s", "", "1"))
        self.say(e.SourceChanged("other", "", "1"))
        self.settle()
        self.wait_us(7_200_000_000)

    @staticmethod
    def _leaf(number: int) -> AssetSpec:
        policy = fr.max_lag("1h") if number % 2 else fr.eager()
        deps = (Dependency("root"), Dependency("other"))
        return AssetSpec(f"n{number}", deps=deps, policy=policy, code_version="1")

    @property
    def now(self) -> int:
        return START_US + self.view.position * 1_000_000 + self._waited_us

    def recorded(self, event: e.AnyEvent) -> e.Recorded:
        return e.Recorded(self.view.position + 1, self.now, event, cause_of(event))

    def say(self, event: e.AnyEvent) -> int:
        self.view.apply(self.recorded(event))
        return self.view.position

    def cost(self, event: e.AnyEvent) -> Counts:
        """What it costs to fold this as the next event."""
        recorded = self.recorded(event)
        with self._meter.measuring(*INSIDE) as found:
            self.view.apply(recorded)
        return found

    def settle(self) -> None:
        """Record and run what is due, until nothing is."""
        while events := decide(self.view, self.now, 8).events:
            for event in events:
                at = self.say(event)
                if isinstance(event, e.RunStarted):
                    self.finish(at, event.targets[0])

    def wait_us(self, duration: int) -> None:
        """Time passes, and what falls due meanwhile is done."""
        self._waited_us += duration
        self.settle()

    def starts(self) -> tuple[e.RunStarted, ...]:
        return decide(self.view, self.now, 8).starts

    def made(self, run: int, target: Target) -> e.Materialized:
        return e.Materialized(target.asset, target.partition, run, f"v{run}", target.code_version)

    def finish(self, run: int, target: Target) -> None:
        self.say(self.made(run, target))
        self.say(e.RunSucceeded(run, 1000))


def folded(meter: Meter) -> Iterator[tuple[str, Counts]]:
    """One event of each common type, where it matters most."""
    past = Past(meter)
    yield "SourceChanged, to eleven assets", past.cost(e.SourceChanged("s", "", "2"))
    yield "SourceChanged, the same again", past.cost(e.SourceChanged("s", "", "2"))
    (started,) = past.starts()
    yield "RunStarted", past.cost(started)
    run = past.view.position
    yield "Materialized", past.cost(past.made(run, started.targets[0]))
    yield "RunSucceeded, above ten assets", past.cost(e.RunSucceeded(run, 1000))
    started, *_ = past.starts()
    run = past.say(started)
    retry_at = past.now + 1_000_000
    yield "RunFailed", past.cost(e.RunFailed(run, "error", "no", "", 1000, retry_at))
    lazy = (AssetPartition("n1", ""),)
    yield "FellDue", past.cost(e.FellDue(lazy, "max_lag 1h"))
    yield "Demanded", past.cost(e.Demanded((AssetPartition("n3", ""),), "wanted"))
    yield "CursorMoved", past.cost(e.CursorMoved("landing", {"a.csv": "1"}))
    yield "CheckEvaluated", past.cost(e.CheckEvaluated("fits", "root", "", run))
    yield "Observed, of another version", past.cost(e.Observed("root", "", "theirs"))


def decided(meter: Meter, *, owing: bool) -> Counts:
    """A decision that starts nothing; with some that owe, and have time."""
    past = Past(meter)
    if owing:
        past.say(e.SourceChanged("s", "", "2"))
        past.settle()
    with meter.measuring(*INSIDE) as found:
        decision = decide(past.view, past.now, 8)
    assert not decision.events
    assert (decision.wake_at is not None) is owing
    return found


# --- runs ----------------------------------------------------------------------------------------


async def ran(meter: Meter, *, threaded: bool) -> Counts:
    """From a change in the stream to a run that has ended, in memory."""

    def plain(s: str) -> str:
        return s

    async def waiting(s: str) -> str:
        return s

    made = fr.asset(key="a")(plain if threaded else waiting)
    async with engine(fr.source("s"), made) as under_test:
        under_test.timer = lambda: 0.0  # else what is learned of run times is another each time
        stream, loop = under_test.stream, under_test.loop
        for version in "12":  # the first ones make what is kept
            await stream.append([e.SourceChanged("s", "", version)])
            await loop.quiet()
        before = stream.head
        with meter.measuring("hops", "turns", "timers", *INSIDE) as found:
            await stream.append([e.SourceChanged("s", "", "3")])
            await loop.quiet()
        found["events"] = stream.head - before
    return found


async def landed(meter: Meter, *, built: bool) -> Counts:
    """From a file that lands to its record, or to two assets that are built, all on disk."""

    @fr.asset(inputs={"value": "landed"})
    async def first(value: str) -> str:
        return value

    @fr.asset
    def second(first: str) -> str:
        return first

    source = fr.source("landed")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "landing").mkdir()
        project = fr.Project(
            [source, first, second] if built else [source],
            sensors=[fr.files(str(place / "landing/a.txt"), source=source)],
            store=fr.LocalStore(place / "data"),
        )
        async with daemon(project, place / ".freshet") as running:
            for number in (1, 2, 3):
                before = running.stream.head
                with meter.measuring("statements", "commits", "syncs") as found:
                    (place / "new.txt").write_text(str(number))
                    (place / "new.txt").replace(place / "landing/a.txt")
                    with anyio.fail_after(PATIENCE_S):
                        while (
                            running.view.catalog.changes < number
                            or running.view.runs.counts["succeeded"] < 2 * number * built
                        ):
                            await anyio.sleep(0.005)
                        await running.loop.quiet()
                found["events"] = running.stream.head - before
            running.stop("counted")
            await running.stopped()
    return found


def idled(meter: Meter) -> Counts:
    """An hour in which nothing happens, with 200 assets of all policies."""
    policies = (fr.eager(), fr.max_lag("1h"), fr.cron("0 0 1 1 *"), fr.eager(debounce="5s"))
    assets = []
    for number in range(200):

        @fr.asset(key=f"n{number}", deps=["s"], freshness=policies[number % len(policies)])
        async def made() -> str:
            return ""

        assets.append(made)
    with simulate(fr.Project([fr.source("s"), *assets])) as simulation:
        simulation.change("s", "1")
        simulation.advance("2h")
        with meter.measuring("turns", "timers", *INSIDE) as found:
            simulation.advance("1h")
    return found


# --- memory --------------------------------------------------------------------------------------


def grown(*, new: bool) -> Counts:
    """What a view keeps of 1,000 runs: of a partition that was there before, or of a new one."""
    view = View()
    keys = dynamic()
    specs = [AssetSpec("s", "source", partitions=keys)]
    deps = (Dependency("s"),)
    specs += [AssetSpec("a", deps=deps, partitions=keys, policy=fr.eager(), code_version="1")]
    graph = Graph.build(specs)

    def say(event: e.AnyEvent) -> int:
        at = view.position + 1
        view.apply(e.Recorded(at, START_US + at, event, cause_of(event)))
        return at

    def round_of(number: int, key: str) -> None:
        say(e.SourceChanged("s", key, f"v{number}"))
        (started,) = decide(view, START_US + view.position, 8).starts
        run = say(started)
        say(e.Materialized("a", key, run, f"w{number}", "1"))
        say(e.RunSucceeded(run, 1000 + number))

    say(e.GraphDeployed(graph.digest, tuple(graph.specs.values())))
    for number in range(1000):
        round_of(number, f"k{number % 100}")
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1000, 2000):
            round_of(number, f"n{number}" if new else f"k{number % 100}")
        gc.collect()
        return {"bytes": tracemalloc.get_traced_memory()[0]}
    finally:
        tracemalloc.stop()


# --- all of them ---------------------------------------------------------------------------------


def appends(meter: Meter) -> Iterator[tuple[str, Counts]]:
    for number in (1, 100, 1000):
        yield f"append of {number}", _run(partial(appended, meter, number))
    yield "append of 1, to a quick disk", _run(partial(appended, meter, 1, quick=True))


def folds(meter: Meter) -> Iterator[tuple[str, Counts]]:
    for name, counts in folded(meter):
        yield f"fold of {name}", counts


def decisions(meter: Meter) -> Iterator[tuple[str, Counts]]:
    yield "decision, nothing owed", decided(meter, owing=False)
    yield "decision, some owe and have time", decided(meter, owing=True)


def runs(meter: Meter) -> Iterator[tuple[str, Counts]]:
    yield "run on the loop, in memory", _run(partial(ran, meter, threaded=False))
    yield "run in a thread, in memory", _run(partial(ran, meter, threaded=True))


def landings(meter: Meter) -> Iterator[tuple[str, Counts]]:
    yield "file landed, recorded", _run(partial(landed, meter, built=False))
    yield "file landed, two assets built, on disk", _run(partial(landed, meter, built=True))


def waits(meter: Meter) -> Iterator[tuple[str, Counts]]:
    yield "an idle hour of 200 assets", idled(meter)
    yield "restart from a checkpoint", _run(partial(restarted, meter))


def memories(_: Meter) -> Iterator[tuple[str, Counts]]:
    yield "memory kept of 1,000 runs", grown(new=False)
    yield "memory kept of 1,000 new partitions", grown(new=True)


Operations = Callable[[Meter], Iterator[tuple[str, Counts]]]

ALL: tuple[Operations, ...] = (appends, folds, decisions, runs, landings, waits, memories)


def measured(operations: Sequence[Operations] = ALL) -> dict[str, Counts]:
    """What they cost, by name."""
    with Meter().installed() as meter:
        return {name: counts for each in operations for name, counts in each(meter)}


def _run(operation: Callable[[], Awaitable[Counts]]) -> Counts:
    return anyio.run(operation)


def kept_in(path: Path = KEPT) -> dict[str, Counts]:
    """The figures that are kept."""
    return tomllib.loads(path.read_text())


def regressions(found: dict[str, Counts], kept: dict[str, Counts]) -> list[str]:
    """What costs more than is kept, or is not kept at all, and what is kept and not measured."""
    said = [
        f"{operation}: is kept, and not measured" for operation in kept if operation not in found
    ]
    for operation, counts in found.items():
        for name, count in counts.items():
            figure = kept.get(operation, {}).get(name)
            if figure is None:
                said.append(f"{operation}: {count:,} {name}, and no figure is kept")
            elif count > (figure if name in EXACT else figure * MORE):
                said.append(f"{operation}: {count:,} {name}, kept are {figure:,}")
    return said


def written(found: dict[str, Counts]) -> str:
    """The text of `costs.toml`."""
    lines = [
        "# What each hot operation costs, in counts; see `tests/costs.py`. Not written by hand:",
        "# `python -m tests.costs --accept`, with Python 3.11; say in the commit why they changed.",
    ]
    for operation, counts in found.items():
        lines += ["", f'["{operation}"]', *(f"{name} = {count}" for name, count in counts.items())]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the counts beside those kept; exit 1 if one is too high and is not accepted."""
    parser = argparse.ArgumentParser(prog="python -m tests.costs", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="keep what was found")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON, and no more")
    options = parser.parse_args()
    if options.accept and not CAN_STEP:
        parser.error("figures are kept with Python 3.11: later ones do not count instructions")
    found = measured()
    if options.json:
        print(json.dumps(found))
        return 0
    kept = kept_in() if KEPT.exists() else {}
    for operation, counts in found.items():
        print(operation)
        for name, count in counts.items():
            before = kept.get(operation, {}).get(name)
            print(
                f"    {name:14}{count:12,}{'' if before in (None, count) else f'  was {before:,}'}"
            )
    if options.accept:
        KEPT.write_text(written(found))
        return 0
    return 1 if regressions(found, kept) else 0


if __name__ == "__main__":
    sys.exit(main())
