"""From a closed file to the asset's function, and from one asset of a chain to
the next, all durable.
"""

from datetime import date, timedelta
from pathlib import Path
from time import perf_counter

import anyio

import freshet as fr
from benchmarks.case import Figure, in_a_folder, percentile
from freshet.engine.daemon import daemon

LANDINGS = 1000
"""Files landed one after the other: the 99th percentile is then the tenth worst."""

BRANCHES = 9
"""Chains of three below the landed file: with the source, its twin and the root a graph of 30."""

CASE = "reaction, 30-asset graph"


def run() -> list[Figure]:
    """Latency of the real daemon on real files and a synced stream."""
    return in_a_folder(_measure)


async def _measure() -> list[Figure]:
    entered: dict[str, float] = {}
    Path("landing").mkdir()
    async with daemon(_project(entered), Path(".freshet")) as running:
        reactions, hops = [], []
        for number in range(LANDINGS):
            entered.clear()
            day = date(2024, 1, 1) + timedelta(days=number)
            done = running.view.runs.counts["succeeded"] + 1 + 3 * BRANCHES
            with Path(f"landing/{day}.csv").open("w") as file:
                file.write(str(number))
            closed = perf_counter()
            while running.view.runs.counts["succeeded"] < done:
                await anyio.sleep(0.001)
            await running.loop.quiet()
            reactions.append((entered["root"] - closed) * 1000)
            hops += [(entered[f"b{n}"] - entered[f"a{n}"]) * 1000 for n in range(BRANCHES)]
        running.stop("measured")
        await running.stopped()
    return [
        Figure(CASE, "file closed → asset entered, p50", percentile(reactions, 50), "ms", 25),
        Figure(CASE, "file closed → asset entered, p99", percentile(reactions, 99), "ms", 100),
        Figure(CASE, "one hop of an eager chain, p50", percentile(hops, 50), "ms", 8),
        Figure(CASE, "one hop of an eager chain, p99", percentile(hops, 99), "ms"),
    ]


def _project(entered: dict[str, float]) -> fr.Project:
    """landed -> root -> 9 chains of three; `entered` gets the moment each function is entered."""
    days = fr.daily("2024-01-01", opens="data")
    landed = fr.source("landed", partitions=days)
    other = fr.source("other")

    def stage(key: str, upstream: str) -> fr.Asset:
        @fr.asset(key=key, partitions=days, inputs={"value": upstream})
        async def made(value: str) -> str:
            entered[key] = perf_counter()
            return f"{key}({value[:8]}{len(value)})"

        return made

    assets = [stage("root", "landed")]
    for n in range(BRANCHES):
        assets += [stage(f"a{n}", "root"), stage(f"b{n}", f"a{n}"), stage(f"c{n}", f"b{n}")]
    return fr.Project(
        [landed, other, *assets],
        sensors=[fr.files("landing/{partition}.csv", source=landed)],
        store=fr.MemoryStore(),
    )
