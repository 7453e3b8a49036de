"""Runs per second by executor, and where the time of one run goes: no-op assets, durable, values
none.
"""

import inspect
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio

from benchmarks.case import Figure, daemon, measured
from freshet.engine import loop, runner
from freshet.engine.events import SourceChanged
from freshet.engine.runner import Runner
from freshet.engine.running import Daemon
from freshet.engine.target import load_project
from freshet.engine.work import Work
from freshet.projections.view import View

CASE = "executors"

CONFIGURATION = (
    "1,000 no-op assets without values fanned out from one source, 64 at a time, every event"
    " synced, each executor in turn; then 250 runs one after the other, taken apart"
)
FAN_OUT = 1000
ALONE = 250
"""Runs one after the other, so that no part of one hides behind another."""
ROUNDS = 3
SLOTS = 64
BOUNDS: dict[str, float | None] = {"loop": 1500.0, "thread": 1000.0, "process": None}

PROJECT = """
import freshet as fr


def make(n):
    @fr.asset(key=f"n{{n}}", deps=["s"], executor={executor!r})
    {prefix}def made() -> None: ...

    return made


assets = [make(n) for n in range({count})]
project = fr.Project([fr.source("s"), *assets], slots={slots}, store=fr.LocalStore("data"))
"""


def run() -> list[Figure]:
    """The best of three rounds for each executor; then one run after the other, taken apart."""
    options = {"use_uvloop": find_spec("uvloop") is not None}
    return anyio.run(_run, backend_options=options)


async def _run() -> list[Figure]:
    found: list[Figure] = []
    for kind, bound in BOUNDS.items():
        async with _daemon(kind, FAN_OUT, SLOTS) as running:
            rates = [FAN_OUT / await _round(running, version) for version in range(ROUNDS)]
        name, best = f"{FAN_OUT} no-op assets, {kind}, best", 100
        found.append(measured(CASE, name, rates, "/s", bound, percent=best, higher_is_better=True))
    for kind in BOUNDS:
        found += await _taken_apart(kind)
    return found


async def _taken_apart(kind: str) -> list[Figure]:
    found: list[Figure] = []
    async with _daemon(kind, ALONE, 1) as running:
        first, second = await _round(running, 0), await _round(running, 1)
        if kind == "process":
            what = "start of a worker, paid once"
            found.append(Figure(CASE, what, (first - second) * 1000, "ms"))
        with _timed() as spent:
            took = await _round(running, 2)
    name = f"{kind}, one after the other: a run"
    found.append(Figure(CASE, name, took / ALONE * 1e6, "µs"))
    spent["call"] -= spent["publish"]
    spent["rest: hand over, look up, wake"] = took - sum(spent.values())
    for part, seconds in spent.items():
        found.append(Figure(CASE, f"… {part}", seconds / ALONE * 1e6, "µs"))
    return found


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds spent in each part of all runs while this lasts."""
    spent: dict[str, float] = {}
    parts = (
        ("decide", loop, "decide"),
        ("append the start", loop, "persist"),
        ("fold", View, "apply"),
        ("call", Runner, "_call"),
        ("publish", Work, "published"),
        ("append the end", runner, "persist"),
    )
    before = [(place, name, getattr(place, name)) for _, place, name in parts]
    for part, place, name in parts:
        spent[part] = 0.0
        setattr(place, name, _counting(getattr(place, name), part, spent))
    try:
        yield spent
    finally:
        for place, name, function in before:
            setattr(place, name, function)


def _counting(
    function: Callable[..., Any], part: str, spent: dict[str, float]
) -> Callable[..., Any]:
    async def waiting(*args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        try:
            return await function(*args, **kwargs)
        finally:
            spent[part] += perf_counter() - began

    def calling(*args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += perf_counter() - began

    return waiting if inspect.iscoroutinefunction(function) else calling


@asynccontextmanager
async def _daemon(kind: str, count: int, slots: int) -> AsyncIterator[Daemon]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, f"executors_{kind}_{slots}.py")
        executor = "process" if kind == "process" else None
        prefix = "async " if kind == "loop" else ""
        path.write_text(PROJECT.format(executor=executor, prefix=prefix, count=count, slots=slots))
        project = load_project(str(path))
        async with daemon(project, Path(folder)) as running:
            yield running
            running.stop("measured")
            await running.stopped()
        sys.modules.pop(path.stem, None)


async def _round(running: Daemon, version: int) -> float:
    """Seconds until all assets have followed a change."""
    counts = running.view.runs.counts
    specs = running.view.staleness.graph.specs.values()
    done = counts["succeeded"] + sum(not spec.is_source for spec in specs)
    began = perf_counter()
    await running.stream.append([SourceChanged("s", "", str(version))])
    while counts["succeeded"] < done:
        assert not counts["failed"], "a no-op failed"
        await anyio.sleep(0.001)
    return perf_counter() - began
