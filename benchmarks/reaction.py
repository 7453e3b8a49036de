"""From a closed file to the asset's function, beside what the watch alone takes; from one asset of
a chain to the next; and through a chain of three after a change. All durable.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path
from time import perf_counter

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from watchfiles import awatch

import freshet as fr
from benchmarks.case import Figure, compared, daemon, in_a_folder, measured, percentile
from freshet.engine.events import RunSucceeded, SourceChanged
from freshet.engine.partitions import Partitions
from freshet.engine.running import Daemon
from freshet.sensors.landing.hints import DEBOUNCE_MS, STEP_MS

LANDINGS = 1000
"""Files landed one after the other: the 99th percentile is then the tenth worst."""

ROUND = 100
"""Landings whose medians make one ratio to the raw watch."""

CHAINS = 500
"""Changes and landings followed through a chain of three, in turn."""

BRANCHES = 9
"""Chains of three below the landed file: with the source, its twin and the root a graph of 30."""

CASE = "reaction, 30-asset graph"

CONFIGURATION = (
    "the real daemon, values in memory, every event synced to disk, a file written and closed by"
    f" the same process; raw is watchfiles' awatch with the same step ({STEP_MS} ms) and debounce"
    f" ({DEBOUNCE_MS} ms) on a folder of its own, to the callback, in turn with ours"
)

RAW = "raw watchfiles"

Waits = dict[str, list[float]]
"""Milliseconds, by what was waited for."""

FILE = "file closed → asset entered"
FILE_END = "file closed → end of the third of a chain"
TOLD_FIRST = "change appended → first of a chain entered"
TOLD = "change appended → third of a chain entered"
TOLD_END = "change appended → end of the third of a chain"


def run() -> list[Figure]:
    """Latency of the real daemon on real files and a synced stream."""
    found, chain = in_a_folder(_graph), chains(CHAINS)
    three = "reaction, a chain of three eager assets"
    return [
        measured(CASE, f"{FILE}, p50", found[FILE], "ms", 25),
        measured(CASE, f"{FILE}, p99", found[FILE], "ms", 100, percent=99),
        measured(CASE, "file closed → callback of the watch", found[RAW], "ms", side=RAW),
        compared(CASE, f"{FILE}, p50, ratio to the raw watch", _ratios(found), 2, at_most=True),
        measured(CASE, "one hop of an eager chain, p50", found["hop"], "ms", 8),
        measured(CASE, "one hop of an eager chain, p99", found["hop"], "ms", percent=99),
        *(measured(three, f"{what}, p50", waits, "ms") for what, waits in chain.items()),
        *(
            measured(three, f"{what}, p99", waits, "ms", percent=99)
            for what, waits in chain.items()
        ),
    ]


def _ratios(found: Waits) -> list[float]:
    """Ours to raw, of the medians of each hundred landings."""
    starts = range(0, len(found[FILE]), ROUND)
    parts = [(found[FILE][n : n + ROUND], found[RAW][n : n + ROUND]) for n in starts]
    return [percentile(ours, 50) / percentile(raw, 50) for ours, raw in parts]


def chains(count: int) -> Waits:
    """Waits of a project with two chains of three: one below files, one below a source that is told
    of, each asked in turn.
    """

    async def measure() -> Waits:
        return await _chains(count)

    return in_a_folder(measure)


async def _graph() -> Waits:
    entered: dict[str, float] = {}
    waits: Waits = {FILE: [], RAW: [], "hop": []}
    Path("landing").mkdir()
    Path("raw").mkdir()
    async with _raw_watch("raw") as called, daemon(_project(entered), Path(".freshet")) as running:
        for number in range(LANDINGS):
            waits[RAW].append((await _seen(called, number)) * 1000)
            entered.clear()
            day = date(2024, 1, 1) + timedelta(days=number)
            done = running.view.runs.counts["succeeded"] + 1 + 3 * BRANCHES
            closed = _land(Path(f"landing/{day}.csv"), number)
            while running.view.runs.counts["succeeded"] < done:
                await anyio.sleep(0.001)
            await running.loop.quiet()
            waits[FILE].append((entered["root"] - closed) * 1000)
            waits["hop"] += [(entered[f"b{n}"] - entered[f"a{n}"]) * 1000 for n in range(BRANCHES)]
        running.stop("measured")
        await running.stopped()
    return waits


def _land(path: Path, number: int) -> float:
    """When the file was closed."""
    with path.open("w") as file:
        file.write(str(number))
    return perf_counter()


@asynccontextmanager
async def _raw_watch(folder: str) -> AsyncIterator[MemoryObjectReceiveStream[float]]:
    """The moments at which a watch of the folder calls back."""
    send, receive = anyio.create_memory_object_stream[float](1000)

    async def watch() -> None:
        async for _ in awatch(folder, watch_filter=None, step=STEP_MS, debounce=DEBOUNCE_MS):
            send.send_nowait(perf_counter())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await anyio.sleep(0.5)  # until it watches
        yield receive
        tasks.cancel_scope.cancel()
    send.close()
    receive.close()


async def _seen(called: MemoryObjectReceiveStream[float], number: int) -> float:
    """Seconds from a closed file to the callback of the watch."""
    while called.statistics().current_buffer_used:  # a file may be told of twice
        called.receive_nowait()
    closed = _land(Path(f"raw/{number}.csv"), number)
    while (at := await called.receive()) < closed:
        continue
    return at - closed


async def _chains(count: int) -> Waits:
    entered: dict[str, float] = {}
    waits: Waits = {FILE: [], FILE_END: [], TOLD_FIRST: [], TOLD: [], TOLD_END: []}
    Path("landing").mkdir()
    async with daemon(_two_chains(entered), Path(".freshet")) as running:
        for number in range(-5, count):  # less the first, which meet cold code
            began = _land(Path("landing/one.csv"), number)
            ended = await _third_ended(running)
            after_file = (entered["f1"] - began, ended - began)
            began = perf_counter()
            await running.stream.append([SourceChanged("told", "", str(number))])
            ended = await _third_ended(running)
            after_change = (entered["t1"] - began, entered["t3"] - began, ended - began)
            if number >= 0:
                for found, one in zip(waits.values(), after_file + after_change, strict=True):
                    found.append(one * 1000)
        running.stop("measured")
        await running.stopped()
    return waits


async def _third_ended(running: Daemon) -> float:
    """When the third end of a run was in the stream, and the daemon has come to rest."""
    at, ended = 0.0, 0
    async for batch in running.stream.follow(after=running.view.position):
        ended += sum(isinstance(recorded.event, RunSucceeded) for recorded in batch)
        if ended == 3:
            at = perf_counter()
            break
    await running.loop.quiet()
    return at


def _stage(
    key: str, upstream: str, entered: dict[str, float], days: Partitions | None = None
) -> fr.Asset:
    """An asset that notes when it is entered."""

    @fr.asset(key=key, partitions=days, inputs={"value": upstream})
    async def made(value: str) -> str:
        entered[key] = perf_counter()
        return f"{key}({value[:8]}{len(value)})"

    return made


def _two_chains(entered: dict[str, float]) -> fr.Project:
    """landed -> f1 -> f2 -> f3 and told -> t1 -> t2 -> t3."""
    landed, told = fr.source("landed"), fr.source("told")

    @fr.asset(deps=[told])
    async def t1() -> str:
        entered["t1"] = perf_counter()
        return str(entered["t1"])

    assets = [_stage("f1", "landed", entered), t1]
    for chain in "ft":
        for n in (2, 3):
            assets.append(_stage(f"{chain}{n}", f"{chain}{n - 1}", entered))
    return fr.Project(
        [landed, told, *assets],
        sensors=[fr.files("landing/one.csv", source=landed)],
        store=fr.MemoryStore(),
    )


def _project(entered: dict[str, float]) -> fr.Project:
    """landed -> root -> 9 chains of three; `entered` gets the moment each function is entered."""
    days = fr.daily("2024-01-01", opens="data")
    landed = fr.source("landed", partitions=days)
    other = fr.source("other")

    def stage(key: str, upstream: str) -> fr.Asset:
        return _stage(key, upstream, entered, days)

    assets = [stage("root", "landed")]
    for n in range(BRANCHES):
        assets += [stage(f"a{n}", "root"), stage(f"b{n}", f"a{n}"), stage(f"c{n}", f"b{n}")]
    return fr.Project(
        [landed, other, *assets],
        sensors=[fr.files("landing/{partition}.csv", source=landed)],
        store=fr.MemoryStore(),
    )
