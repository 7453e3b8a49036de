"""Materializations per second, end to end and durable: fanned out, in a chain,
and with values on disk.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import anyio

import freshet as fr
from benchmarks.case import Figure, daemon, measured
from freshet.engine.events import SourceChanged

FAN_OUT = 1000
CHAIN = 200
ROUNDS = 5
"""The best of five counts; the others say how busy the machine was."""

SLOTS = 64
"""Runs alive at once: enough that commits are shared, as a user with many
small assets would set it.
"""

CASE = "throughput"

CONFIGURATION = (
    f"async assets that do nothing, {SLOTS} at a time, each run recorded and synced to disk before"
    " its end counts; and sync assets whose values are written and synced, too"
)


def run() -> list[Figure]:
    """The best round of each shape."""
    found = rates(FAN_OUT, CHAIN)
    name = f"{FAN_OUT} no-op async assets fanned out, best"
    on_disk = anyio.run(_on_disk, backend_options=_options())
    return [
        measured(CASE, name, found["fan-out"], "/s", 1500, percent=100, higher_is_better=True),
        measured(
            CASE,
            f"chain of {CHAIN} no-op async assets, best",
            found["chain"],
            "/s",
            percent=100,
            higher_is_better=True,
        ),
        measured(
            CASE,
            f"{FAN_OUT} sync assets, values synced to disk, best",
            on_disk,
            "/s",
            percent=100,
            higher_is_better=True,
        ),
    ]


def rates(fan_out: int, chain: int) -> dict[str, list[float]]:
    """No-op materializations a second, round by round, for each shape."""

    async def measure() -> dict[str, list[float]]:
        return {
            "fan-out": await _rates([_noop(f"n{i}", "s") for i in range(fan_out)], on_disk=False),
            "chain": await _rates(
                [_noop(f"n{i}", f"n{i - 1}" if i else "s") for i in range(chain)], on_disk=False
            ),
        }

    return anyio.run(measure, backend_options=_options())


def _options() -> dict[str, bool]:
    return {"use_uvloop": find_spec("uvloop") is not None}


async def _on_disk() -> list[float]:
    return await _rates([_value(f"n{i}", i) for i in range(FAN_OUT)], on_disk=True)


async def _rates(assets: list[fr.Asset], *, on_disk: bool) -> list[float]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = fr.LocalStore(Path(folder, "data")) if on_disk else fr.MemoryStore()
        project = fr.Project([fr.source("s"), *assets], store=store, slots=SLOTS)
        async with daemon(project, Path(folder)) as running:
            rates = []
            for version in range(ROUNDS):
                began = perf_counter()
                await running.stream.append([SourceChanged("s", "", str(version))])
                done = len(assets) * (version + 1)
                while running.view.runs.counts["succeeded"] < done:
                    await anyio.sleep(0.001)
                rates.append(len(assets) / (perf_counter() - began))
            running.stop("measured")
            await running.stopped()
            return rates


def _noop(key: str, upstream: str) -> fr.Asset:
    @fr.asset(key=key, deps=[upstream])
    async def made() -> None:
        return None

    return made


def _value(key: str, number: int) -> fr.Asset:
    @fr.asset(key=key, deps=["s"])
    def made() -> list[int]:
        return [number]

    return made
