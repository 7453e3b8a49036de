"""Decisions under load: 10,000 assets with mixed policies, 1,000 changes a second for a minute.

The real reactor, runner and projections on virtual time, stream and values in memory, so that the
minute is the same on every machine; what is measured is the real time each decision takes.
"""

import random
from collections.abc import Callable, Sequence
from time import perf_counter, process_time

import freshet as fr
from benchmarks.case import Figure, measured
from freshet.engine import loop as engine_loop
from freshet.engine.assets import Asset
from freshet.engine.events import FreshnessBreached, Recorded
from freshet.engine.policies import Cron, MaxLag, OnMissing
from freshet.engine.reactor import Decision, decide
from freshet.projections.cells import cells_of, has_work
from freshet.projections.marks import NOTHING
from freshet.projections.view import View
from freshet.testing import simulate

ASSETS = 10_000
SOURCES = 1000
RATE = 1000
SECONDS = 60
RUN_S = 0.05
"""How long each run takes, in virtual time."""

CASE = "policies"

CONFIGURATION = (
    "10,000 assets, a tenth of them sources, 10 % eager, 40 % max_lag of 10 to 60 s, 30 %"
    " on_missing, 10 % cron, 10 % debounced; 1,000 changes a second for a minute of virtual time:"
    " the real reactor, runner and projections, stream and values in memory"
)

MIX: tuple[tuple[float, Callable[[random.Random], object]], ...] = (
    (0.10, lambda rng: fr.eager()),
    (0.40, lambda rng: fr.max_lag(rng.choice([10, 20, 30, 60]))),
    (0.30, lambda rng: fr.on_missing()),
    (0.10, lambda rng: fr.cron("* * * * *")),
    (0.10, lambda rng: fr.eager(debounce=2, max_wait=10)),
)


def run() -> list[Figure]:
    """One virtual minute of changes, then until all promises are paid, then an idle hour."""
    rng = random.Random(7)
    times: list[float] = []
    vars(engine_loop)["decide"] = _timed(times)
    try:
        return _measured(rng, times)
    finally:
        vars(engine_loop)["decide"] = decide


def _measured(rng: random.Random, times: list[float]) -> list[Figure]:
    definitions = _graph(rng)
    keys = [d.key for d in definitions if isinstance(d, Asset)]
    project = fr.Project(definitions, store=fr.MemoryStore(), slots=ASSETS)
    with simulate(project, seed=7, durations=dict.fromkeys(keys, RUN_S)) as sim:
        for number in range(SOURCES):
            sim.change(f"s{number}")
        sim.advance(70)  # all is built, and the times of runs are known
        times.clear()
        before, cpu = len(sim.runs()), process_time()
        for number in range(RATE * SECONDS):
            sim.change(f"s{rng.randrange(SOURCES)}")
            if number % 10 == 9:
                sim.advance(10 / RATE)
        cpu = process_time() - cpu
        loaded = [seconds * 1e3 for seconds in times]
        sim.advance(130)
        runs = len(sim.runs()) - before
        breaches = sum(isinstance(r.event, FreshnessBreached) for r in sim.events())
        lost = _lost(sim.events())
        times.clear()
        events = len(sim.events())
        sim.advance("1h")
        woken, grown = len(times) - 1, len(sim.events()) - events  # `advance` itself looks once
    what = f"{ASSETS:,} assets, {RATE:,} changes/s for {SECONDS} s"
    return [
        measured(CASE, f"{what}: one decision, p50", loaded, "ms"),
        measured(CASE, f"{what}: one decision, p99", loaded, "ms", 10, percent=99),
        Figure(CASE, "decisions", len(loaded), "decisions"),
        Figure(CASE, "processor time per second of it, all in", cpu / SECONDS, "s"),
        Figure(CASE, f"changes lost of {RATE * SECONDS:,}", lost, "changes", 0),
        Figure(CASE, "runs", runs, "runs"),
        Figure(CASE, "promises broken", breaches, "breaches"),
        Figure(CASE, "idle hour afterwards: decisions", woken, "decisions", 0),
        Figure(CASE, "idle hour afterwards: events", grown, "events", 0),
    ]


def _graph(rng: random.Random) -> list[fr.Asset | fr.Source]:
    """Sources, and assets that read one of them, or one or two assets made before."""
    definitions: list[fr.Asset | fr.Source] = [fr.source(f"s{n}") for n in range(SOURCES)]
    keys: list[str] = []
    for number in range(ASSETS - SOURCES):
        if not keys or rng.random() < 0.4:
            ups = [f"s{rng.randrange(SOURCES)}"]
        else:
            ups = sorted({rng.choice(keys) for _ in range(rng.choice([1, 2]))})
        policy = rng.choices([make for _, make in MIX], [weight for weight, _ in MIX])[0](rng)
        options = {"key": f"a{number}", "deps": ups, "freshness": policy, "code_version": "1"}
        definitions.append(fr.asset(**options)(_nothing()))  # type: ignore[call-overload]
        keys.append(f"a{number}")
    return definitions


def _nothing() -> Callable[[], object]:
    async def nothing() -> None: ...

    return nothing


def _timed(times: list[float]) -> Callable[[View, int, int], Decision]:
    def timed(view: View, now: int, slots: int) -> Decision:
        began = perf_counter()
        decision = decide(view, now, slots)
        times.append(perf_counter() - began)
        return decision

    return timed


def _lost(events: Sequence[Recorded]) -> int:
    """Partitions that ask for what they owe and have not got it, though there was time enough: by a
    fold of the whole stream anew.
    """
    view = View()
    for recorded in events:
        view.apply(recorded)
    asks = (Cron, MaxLag)
    return sum(
        cell.owed < NOTHING and (isinstance(state.spec.policy, asks) or has_work(state, cell.i))
        for state in view.staleness.order
        for cell in cells_of(state)
        if not isinstance(state.spec.policy, OnMissing)
    )
