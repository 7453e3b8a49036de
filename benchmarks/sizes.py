"""What one change costs against the size of the graph, and against the number of partitions, when
it affects the same few assets; and that an idle graph of any size asks for nothing.

The fold and the decision alone, without I/O.
"""

import gc
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter

from msgspec.structs import replace

import freshet as fr
from benchmarks.case import Figure, compared, measured
from benchmarks.partitions import History
from freshet.engine import loop as engine_loop
from freshet.engine.events import GraphDeployed, SourceChanged
from freshet.engine.partitions import static
from freshet.engine.reactor import decide
from freshet.engine.specs import AssetSpec, Dependency
from freshet.testing import simulate

BELOW = 4
"""Assets below each source, one after the other: what one change affects."""

ASSETS = (100, 1000, 10_000, 100_000)
PARTITIONS = (1000, 10_000, 100_000, 1_000_000)
ROUNDS = 20
CHANGES = 50
"""Of each size in each round, sizes in turn: 1,000 changes of each."""

PLACES = 20
"""Sources, or partitions, that change in turn: as many in every size, so that all find what they
touch in the processor's caches."""

IDLE_ASSETS = 10_000

CASE = "size"

CONFIGURATION = (
    f"the fold and the decision alone, without I/O; eager chains of {BELOW} assets below a source"
    f" each, all fresh; the same {PLACES} places change in turn and once before, sizes in turn,"
    " garbage collection off; the whole reaction is the change, four runs with their events, and"
    " each decision between"
)

ONE = "one change folded and decided"
ALL = f"a change and the {BELOW} runs that follow, folded and decided"
COLD = "one change of anything, caches cold, folded and decided"
CALLS = f"function calls of a change and the {BELOW} runs that follow"
"""Counted, so that no cache and no other work of the machine is in it."""

WHATS = {ONE: "µs", ALL: "µs", COLD: "µs", CALLS: "calls"}

Costs = dict[int, dict[str, list[list[float]]]]
"""Of each change, by size and by what is measured, round by round, in the units of WHATS."""


def run() -> list[Figure]:
    """Both curves, and an idle hour."""
    found = _figures("assets", costs("assets", ASSETS, ROUNDS, CHANGES), (1000, 100_000))
    found += _figures("partitions", costs("partitions", PARTITIONS, ROUNDS, CHANGES), None)
    woken, recorded = idle(IDLE_ASSETS)
    what = f"idle hour of {IDLE_ASSETS:,} assets"
    found.append(Figure(CASE, f"{what}: decisions", woken, "decisions", 0))
    found.append(Figure(CASE, f"{what}: events", recorded, "events", 0))
    return found


def costs(counted: str, sizes: Sequence[int], rounds: int, changes: int) -> Costs:
    """What changes cost in worlds of these sizes, each round in all of them in turn."""
    build = {"assets": _of_assets, "partitions": _of_partitions}[counted]
    worlds = {size: build(size) for size in sizes}
    found: Costs = {size: {what: [] for what in WHATS} for size in sizes}
    with _still():
        for number in range(-1, rounds):  # the first warms up
            for size, (history, places) in worlds.items():
                one = _round(history, places, changes, random.Random(number))
                for what, values in one.items():
                    if number >= 0:
                        found[size][what].append(values)
    return found


def _figures(counted: str, found: Costs, held: tuple[int, int] | None) -> list[Figure]:
    """A point of each curve, and the ratio of two sizes where it is held against a bound."""
    figures = []
    for what, unit in WHATS.items():
        name = f"{what}, by {counted}"
        for size, costs_us in found.items():
            values = [value for one in costs_us[what] for value in one]
            figures.append(measured(CASE, name, values, unit, size=size, counted=counted))
        small, large = held or (min(found), max(found))
        pairs = zip(found[large][what], found[small][what], strict=True)
        ratios = [median(ours) / median(theirs) for ours, theirs in pairs]
        text = f"{name}: {large:,} to {small:,}"
        is_held = what == CALLS or (held is not None and what != COLD)
        bound = 1.2 if is_held else None
        figures.append(compared(CASE, text, ratios, bound, at_most=True))
    return figures


def _round(
    history: History, places: Sequence[tuple[str, str]], changes: int, rng: random.Random
) -> dict[str, list[float]]:
    step = len(places) // PLACES
    same = [places[n * step] for n in range(PLACES)]
    found: dict[str, list[float]] = {what: [] for what in WHATS}
    for place in same:  # the other sizes were there before
        _change(history, *place)
    for number in range(changes):
        one, whole = _change(history, *same[number % PLACES])
        found[ONE].append(one)
        found[ALL].append(whole)
    for _ in range(changes):
        found[COLD].append(_change(history, *rng.choice(places))[0])
    found[CALLS].append(_calls(history, *same[0]))
    return found


def _calls(history: History, source: str, key: str) -> int:
    """Functions that are called for one change, until there is rest."""
    calls = [0]

    def count(_frame: object, event: str, _argument: object) -> None:
        calls[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        _change(history, source, key)
    finally:
        sys.setprofile(None)
    return calls[0]


def _change(history: History, source: str, key: str) -> tuple[float, float]:
    """µs of a change and the decision after it, and of all that follows until there is rest."""
    event = SourceChanged(source, key, f"v{history.now}")
    began = perf_counter()
    history.say(event)
    starts = decide(history.view, history.now, 8).starts
    one = perf_counter() - began
    history.rest()
    whole = perf_counter() - began
    assert starts, "a change calls for a run"
    return one * 1e6, whole * 1e6


def _of_assets(size: int) -> tuple[History, list[tuple[str, str]]]:
    """Sources with chains below: `size` assets in all, and what can change."""
    chains = size // (BELOW + 1)
    specs = [spec for chain in range(chains) for spec in _chain(f"s{chain}")]
    history, places = History(), [(f"s{chain}", "") for chain in range(chains)]
    return _settled(history, specs, places), places


def _of_partitions(size: int) -> tuple[History, list[tuple[str, str]]]:
    """One source with a chain below, of so many partitions that there are `size` in all."""
    keys = static([f"k{n:06}" for n in range(size // (BELOW + 1))])
    history, places = History(), [("s", key) for key in keys.keys]
    specs = [replace(spec, partitions=keys) for spec in _chain("s")]
    return _settled(history, specs, places), places


def _chain(source: str) -> Iterator[AssetSpec]:
    yield AssetSpec(source, "source")
    above = source
    for depth in range(BELOW):
        key = f"{source}/a{depth}"
        yield AssetSpec(key, deps=(Dependency(above),))
        above = key


def _settled(
    history: History, specs: Sequence[AssetSpec], places: Sequence[tuple[str, str]]
) -> History:
    """Everything is there and fresh, and nothing asks to be woken."""
    history.say(GraphDeployed("size", tuple(specs)))
    for source, key in places:
        history.say(SourceChanged(source, key, "1"), after_us=0)
    history.rest()
    decision = decide(history.view, history.now, 8)
    assert not decision.starts, "all is built"
    assert decision.wake_at is None, "nothing will fall due"
    return history


@contextmanager
def _still() -> Iterator[None]:
    """What is there is not looked at by the garbage collector, nor what comes."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def idle(assets: int) -> tuple[int, int]:
    """Decisions and events of an hour in which nothing happens, by the real loop."""
    decisions = [0]
    vars(engine_loop)["decide"] = partial(_counted, decisions)
    try:
        definitions: list[fr.Asset | fr.Source] = []
        for number in range(assets // (BELOW + 1)):
            definitions.append(fr.source(f"s{number}"))
            above = f"s{number}"
            for depth in range(BELOW):
                definitions.append(_nothing(f"s{number}/a{depth}", above))
                above = f"s{number}/a{depth}"
        project = fr.Project(definitions, store=fr.MemoryStore(), slots=assets)
        with simulate(project) as sim:
            for number in range(assets // (BELOW + 1)):
                sim.change(f"s{number}")
            sim.advance(60)
            decisions[0], events = 0, len(sim.events())
            sim.advance("1h")
            return decisions[0] - 1, len(sim.events()) - events  # `advance` itself looks once
    finally:
        vars(engine_loop)["decide"] = decide


def _counted(decisions: list[int], *args: object) -> object:
    decisions[0] += 1
    made: Callable[..., object] = decide
    return made(*args)


def _nothing(key: str, above: str) -> fr.Asset:
    @fr.asset(key=key, deps=[above], code_version="1")
    async def nothing() -> None: ...

    return nothing
