"""The states of all assets after one change at the root: seconds to fold it, and to ask."""

import gc
from time import perf_counter

from benchmarks.case import Figure, measured
from benchmarks.partitions import History
from freshet.engine.events import GraphDeployed, SourceChanged
from freshet.engine.specs import AssetSpec, Dependency
from freshet.projections.marks import FRESH

ASSETS = (1000, 5000)
ROUNDS = 50
CHAIN = 5
BRANCHES = 10

CASE = "staleness"

CONFIGURATION = (
    "one source and eager assets below it, as a tree of ten branches each and as chains of five,"
    " all fresh before and none after; the time is that of folding the change and of reading the"
    " state of each asset; with reasons also what each is behind of and what it waits for, as"
    " `freshet why` says it; without I/O"
)

STATES = "change at the root folded, state of every asset read"
REASONS = "the same, with the reasons of each"
SHAPES = ("tree", "chains of five")

Waits = dict[str, list[float]]
"""Milliseconds of each time, by what was asked."""


def run() -> list[Figure]:
    """Milliseconds for each shape and size."""
    return [
        measured(CASE, f"{what}, {shape}", values, "ms", size=size, counted="assets")
        for shape in SHAPES
        for size in ASSETS
        for what, values in rounds(shape, size, ROUNDS).items()
    ]


def rounds(shape: str, size: int, times: int) -> Waits:
    """A graph of `size` assets and so many changes at its root."""
    history = History()
    specs = [AssetSpec("root", "source"), *(_below(shape, n) for n in range(size))]
    history.say(GraphDeployed("staleness", tuple(specs)))
    history.say(SourceChanged("root", "", "1"))
    history.rest()
    gc.collect()
    found: Waits = {STATES: [], REASONS: []}
    for _ in range(times):
        folded, read, explained = _asked(history, size)
        found[STATES].append((folded + read) * 1000)
        found[REASONS].append((folded + explained) * 1000)
    return found


def _below(shape: str, number: int) -> AssetSpec:
    if shape == "tree":
        above = f"a{number // BRANCHES - 1}" if number >= BRANCHES else "root"
    else:
        above = f"a{number - 1}" if number % CHAIN else "root"
    return AssetSpec(f"a{number}", deps=(Dependency(above),))


def _asked(history: History, size: int) -> tuple[float, float, float]:
    """Seconds of the fold, of reading states, and of asking for reasons; all have followed the
    change when it returns.
    """
    view = history.view
    began = perf_counter()
    history.say(SourceChanged("root", "", f"v{history.now}"))
    folded = perf_counter()
    states = {key: state.state[0] for key, state in view.staleness.states.items()}
    read = perf_counter()
    reasons = [view.status(key, "") for key in states]
    explained = perf_counter()
    behind = sum(state != FRESH for state in states.values())
    assert behind == size, f"{behind} of {size} are behind"
    assert len(reasons) == size + 1
    history.rest()
    return folded - began, read - folded, explained - read
