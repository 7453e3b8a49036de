"""Partitions by the million: memory, counts, the cost of a change, and of a burst.

The fold and the decision alone, no I/O: what an event costs once it is recorded. Each case builds
its history event by event, as a daemon would have seen it.
"""

import gc
import os
import subprocess
import sys
from time import perf_counter

import msgspec
import psutil

from benchmarks.case import Figure, measured
from freshet.engine.events import (
    AnyEvent,
    GraphDeployed,
    Materialized,
    Recorded,
    RunStarted,
    RunSucceeded,
    SourceChanged,
    WindowsOpened,
)
from freshet.engine.mappings import All, Identity, Trailing
from freshet.engine.partitions import Partitions, daily, dynamic, hourly, product, static
from freshet.engine.parts import Target
from freshet.engine.reactor import decide
from freshet.engine.spaces import keys_of
from freshet.engine.specs import AssetSpec, Dependency
from freshet.projections.cells import cells_of
from freshet.projections.matrix import matrix_of
from freshet.projections.view import View

CASE = "partitions"

CONFIGURATION = (
    "the fold and the decision alone, without I/O: 1,000,000 partitions are 20 sources and 80 eager"
    " assets of daily, hourly, static, dynamic and two-dimensional partitions, 10,000 each"
)

PER_ASSET = 10_000
CHAINS = 4
"""Chains of five assets for each of five shapes: 100 assets, 1,000,000 partitions."""
FAN_IN = 100_000
BURST = 3500
CHANGES = 300
BULK = 1000


class History:
    """A view and what is said to it, one second apart."""

    def __init__(self) -> None:
        self.view = View()
        self.now = 1_900_000_000_000_000

    def say(self, event: AnyEvent, *, after_us: int = 1_000_000) -> None:
        self.now += after_us
        self.view.apply(Recorded(self.view.position + 1, self.now, event))

    def build(self, asset: str) -> None:
        """All partitions of an asset are materialized, many to a run."""
        state = self.view.staleness.states[asset]
        keys = [cell.partition for cell in cells_of(state)]
        for start in range(0, len(keys), BULK):
            targets = tuple(Target(asset, key, 1) for key in keys[start : start + BULK])
            self.say(RunStarted(targets))
            run = self.view.position
            for target in targets:
                self.say(Materialized(asset, target.partition, run, f"{run}"), after_us=0)
            self.say(RunSucceeded(run), after_us=0)

    def change(self, source: str, key: str) -> tuple[float, int]:
        """Seconds to fold one change and decide, and how many partitions newly owe."""
        before = _owing(self.view)
        self.now += 1_000_000
        event = SourceChanged(source, key, f"v{self.now}")
        recorded = Recorded(self.view.position + 1, self.now, event)
        began = perf_counter()
        self.view.apply(recorded)
        decide(self.view, self.now, 8)
        seconds = perf_counter() - began
        owing = _owing(self.view) - before
        self.rest()
        return seconds, owing

    def rest(self) -> None:
        """Every run that is asked for succeeds, until nothing is."""
        while starts := decide(self.view, self.now, 1000).starts:
            for start in starts:
                self.say(start, after_us=0)
                run = self.view.position
                for target in start.targets:
                    made = Materialized(target.asset, target.partition, run, f"{run}")
                    self.say(made, after_us=0)
                self.say(RunSucceeded(run), after_us=0)


def run() -> list[Figure]:
    """All cases; the one over a million partitions in a process of its own, for its memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.partitions"], capture_output=True, text=True, check=True
    )
    found = msgspec.json.decode(done.stdout, type=list[Figure])
    what = f"one change below an all-to-one edge of {FAN_IN:,}, folded and decided"
    changes, drawing = fan_in()
    bursts = f"{BURST:,} observations in one burst, folded and {BURST:,} runs decided"
    return [
        *found,
        measured(CASE, f"{what}, p50", changes, "µs", 100),
        measured(CASE, f"matrix of {FAN_IN:,} partitions", drawing, "ms", 50),
        measured(CASE, f"{bursts}, p50", burst(), "ms", 100),
    ]


def million() -> list[Figure]:
    """1,000,000 asset partitions of mixed shapes in 100 assets, all fresh; then single changes."""
    history = History()
    specs = list(_specs())
    history.say(GraphDeployed("million", tuple(specs)))
    history.say(WindowsOpened(history.now))
    for spec in specs:
        if spec.is_source:
            for key in _keys(spec.partitions):
                history.say(SourceChanged(spec.key, key, "1"), after_us=1000)
    for spec in specs:
        if not spec.is_source:
            history.build(spec.key)
    view = history.view
    total = sum(state.existing for state in view.staleness.states.values())
    assert total == len(specs) * PER_ASSET, total
    assert not _owing(view), "everything is fresh"
    gc.collect()
    memory = psutil.Process(os.getpid()).memory_info().rss / 1e6
    counting = []
    for _ in range(20):
        began = perf_counter()
        counts = [state.counts() for state in view.staleness.states.values()]
        counting.append((perf_counter() - began) * 1000)
    assert sum(count["fresh"] for count in counts) == total
    spent, per_owing = [], []
    sources = [spec for spec in specs if spec.is_source]
    for number in range(CHANGES):
        source = sources[number % len(sources)]
        keys = _keys(source.partitions)
        seconds, owing = history.change(source.key, keys[len(keys) // 2 + number])
        spent.append(seconds * 1e6 - 10 * owing)
        per_owing.append(owing)
    one = "one change folded and decided, less 10 µs per newly owing"
    what = f"{total:,} partitions in {len(specs)} assets, all fresh"
    mean = sum(per_owing) / len(per_owing)
    return [
        Figure(CASE, f"{what}: memory of the process", memory, "MB", 250),
        measured(CASE, f"{what}: counts of all states", counting, "ms", 50),
        measured(CASE, f"{one}, p50", spent, "µs", 200),
        measured(CASE, "the same, p99", spent, "µs", percent=99),
        Figure(CASE, "newly owing per change, mean", mean, "partitions"),
    ]


def fan_in() -> tuple[list[float], list[float]]:
    """One of 100,000 partitions changes under an all-to-one edge: µs of each change, and ms of a
    matrix of them all.
    """
    history = History()
    source = AssetSpec("source", "source", partitions=static([f"k{n}" for n in range(FAN_IN)]))
    total = AssetSpec("total", deps=(Dependency("source", All()),))
    history.say(GraphDeployed("fan-in", (source, total)))
    for n in range(FAN_IN):
        history.say(SourceChanged("source", f"k{n}", "1"), after_us=1000)
    spent = []
    history.build("total")
    for n in range(CHANGES):
        spent.append(history.change("source", f"k{n * 7}")[0] * 1e6)
    drawing = []
    for _ in range(20):
        began = perf_counter()
        matrix_of(history.view.staleness.states["source"])
        drawing.append((perf_counter() - began) * 1000)
    return spent, drawing


def burst() -> list[float]:
    """3,500 observations at once: folded one by one, then decided; ms of each time."""
    spent = []
    for _ in range(5):
        history = History()
        keys = static([f"k{n}" for n in range(BURST)])
        source = AssetSpec("source", "source", partitions=keys)
        below = AssetSpec("below", deps=(Dependency("source"),), partitions=keys)
        history.say(GraphDeployed("burst", (source, below)))
        for key in keys.keys:
            history.say(SourceChanged("source", key, "1"), after_us=10)
        history.build("below")
        recorded = [
            Recorded(position, history.now + 1_000_000, SourceChanged("source", key, "2"))
            for position, key in enumerate(keys.keys, history.view.position + 1)
        ]
        began = perf_counter()
        for one in recorded:
            history.view.apply(one)
        decision = decide(history.view, history.now + 1_000_000, BURST)
        spent.append((perf_counter() - began) * 1000)
        assert len(decision.starts) == BURST
    return spent


def _specs() -> list[AssetSpec]:
    regions = static([f"r{n}" for n in range(10)])
    shapes: list[Partitions] = [
        daily("2000-01-01", end="2027-05-19"),
        hourly("2024-01-01", end="2025-02-20T16:00"),
        static([f"key{n}" for n in range(PER_ASSET)]),
        dynamic(),
        product(day=daily("2024-01-01", end="2026-09-27"), region=regions),
    ]
    specs = []
    for number, shape in enumerate(shapes):
        for chain in range(CHAINS):
            name = f"s{number}c{chain}"
            windowed = number < 2
            specs += [
                AssetSpec(f"{name}/0", "source", partitions=shape),
                AssetSpec(f"{name}/1", deps=(Dependency(f"{name}/0"),), partitions=shape),
                AssetSpec(f"{name}/2", deps=(Dependency(f"{name}/1"),), partitions=shape),
                AssetSpec(
                    f"{name}/3",
                    deps=(Dependency(f"{name}/2", Trailing(7) if windowed else Identity()),),
                    partitions=shape,
                ),
                AssetSpec(f"{name}/4", deps=(Dependency(f"{name}/1"),), partitions=shape),
            ]
    return specs


def _keys(shape: Partitions | None) -> list[str]:
    return list(keys_of(shape)) or [f"key{n}" for n in range(PER_ASSET)]


def _owing(view: View) -> int:
    return sum(state.owing() for state in view.staleness.states.values())


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(million()))
