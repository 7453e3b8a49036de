"""Materializations per second, end to end and durable: fanned out, in a chain,
and with values on disk.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import anyio

import freshet as fr
from benchmarks.case import Figure
from freshet.engine.daemon import daemon
from freshet.engine.events import SourceChanged

FAN_OUT = 1000
CHAIN = 200
ROUNDS = 3
SLOTS = 64
"""Runs alive at once: enough that commits are shared, as a user with many
small assets would set it.
"""

CASE = "throughput"


def run() -> list[Figure]:
    """The best of three rounds for each shape."""
    options = {"use_uvloop": find_spec("uvloop") is not None}
    return anyio.run(_run, backend_options=options)


async def _run() -> list[Figure]:
    fan_out = await _rate([_noop(f"n{i}", "s") for i in range(FAN_OUT)], on_disk=False)
    chain = await _rate(
        [_noop(f"n{i}", f"n{i - 1}" if i else "s") for i in range(CHAIN)], on_disk=False
    )
    on_disk = await _rate([_value(f"n{i}", i) for i in range(FAN_OUT)], on_disk=True)
    name = f"{FAN_OUT} no-op async assets fanned out"
    return [
        Figure(CASE, name, fan_out, "/s", 1500, higher_is_better=True),
        Figure(CASE, f"chain of {CHAIN} no-op async assets", chain, "/s"),
        Figure(CASE, f"{FAN_OUT} sync assets, values synced to disk", on_disk, "/s"),
    ]


async def _rate(assets: list[fr.Asset], *, on_disk: bool) -> float:
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
            return max(rates)


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
