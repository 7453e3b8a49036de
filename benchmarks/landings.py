"""A folder of 100,000 files: the first scan, all durable; landings into it; and what it costs to
watch it while nothing happens.

What a landing takes in an empty folder is in `benchmarks.reaction`.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import psutil

import freshet as fr
from benchmarks.case import Figure, daemon, in_a_folder, measured
from freshet.engine.running import Daemon
from freshet.sensors.files import RECONCILE_S, FilesSensor, files
from freshet.sensors.landing.entries import Known
from freshet.sensors.landing.places import places_of
from freshet.sensors.landing.rules import Rules
from freshet.sensors.landing.scans import MOST, SHARE, Scans

FILES = 100_000
LANDINGS = 300
IDLE_S = 20.0
"""How long nothing happens: 1 % of a core is then 200 ms of CPU, far above the clock's tick."""

CASE = "landings, 100,000 files"

CONFIGURATION = (
    "the real daemon on a folder of 100,000 small files on the local disk, each a partition, every"
    " event synced; then one file after the other beside them, values in memory"
)


def run() -> list[Figure]:
    """Figures of the real daemon on a real folder and a synced stream."""
    return in_a_folder(_measure)


async def _measure() -> list[Figure]:
    Path("landing").mkdir()
    for number in range(FILES):
        Path(f"landing/k{number:06}.csv").write_text(str(number))
    entered: dict[str, float] = {}
    alone_s, alone_cpu_s = await _alone()
    before = _cpu_s(psutil.Process())
    began = time.perf_counter()
    async with daemon(_project(entered), Path(".freshet")) as running:
        await _recorded(running, FILES)
        first_s = time.perf_counter() - began
        first_cpu_s = _cpu_s(psutil.Process()) - before
        reactions = [await _land(running, number, entered) for number in range(LANDINGS)]
        running.stop("measured")
        await running.stopped()
        cursor = await running.stream.cursor(_sensor(_files_source()).name)
    scan_s, idle = await _idle(cursor)
    more = "one more landing: closed → asset entered"
    every_s = min(max(RECONCILE_S, scan_s / SHARE), MOST * RECONCILE_S)
    return [
        Figure(CASE, "first scan, the sensor alone", alone_s, "s"),
        Figure(CASE, "first scan, the sensor alone: CPU", alone_cpu_s, "s"),
        Figure(CASE, "first scan, until all is recorded", first_s, "s", 10),
        Figure(CASE, "first scan, until all is recorded: CPU", first_cpu_s, "s"),
        measured(CASE, f"{more}, p50", reactions, "ms", 25),
        measured(CASE, f"{more}, p99", reactions, "ms", 100, percent=99),
        Figure(CASE, "one scan when nothing has changed: CPU", scan_s, "s"),
        Figure(CASE, "time between such scans", every_s, "s"),
        Figure(CASE, "idle, without scans: CPU", idle, "% of a core"),
        Figure(CASE, "idle, with scans: CPU", idle + 100 * scan_s / every_s, "% of a core", 1),
    ]


async def _alone() -> tuple[float, float]:
    """Seconds, and CPU seconds, of the scan and the digests of all files."""
    before, began = _cpu_s(psutil.Process()), time.perf_counter()
    batches = _sensor(_files_source()).run({})
    seen = 0
    while seen < FILES:
        seen += len((await anext(batches)).changes)
    await batches.aclose()
    return time.perf_counter() - began, _cpu_s(psutil.Process()) - before


async def _recorded(running: Daemon, count: int) -> None:
    while sum(running.view.sensors.changes.values()) < count:
        await anyio.sleep(0.01)


async def _land(running: Daemon, number: int, entered: dict[str, float]) -> float:
    """Milliseconds from a closed file to the function of the asset that reads it."""
    entered.clear()
    done = running.view.runs.counts["succeeded"] + 1
    with Path("landing/bell.txt").open("w") as file:
        file.write(str(number))
    closed = time.perf_counter()
    while running.view.runs.counts["succeeded"] < done:
        await anyio.sleep(0.001)
    await running.loop.quiet()
    return (entered["rung"] - closed) * 1000


async def _idle(cursor: Mapping[str, str]) -> tuple[float, float]:
    """CPU seconds of a scan that finds nothing, and CPU share (%) while nothing happens."""
    process = psutil.Process()
    watched = _sensor(_files_source()).watched
    rules = Rules(watched.ignore, watched.marker)
    scans = Scans(places_of(watched), Known(cursor), rules, watched.reconcile_s)
    for _ in range(2):  # the first of a watch asks of everything whether it is passed over
        scans.now()
        before, rounds = _cpu_s(process), scans.rounds
        while scans.rounds < rounds + len(watched.targets):
            assert not scans.step(1, threading.Event()), "nothing has changed"
    scan_s = _cpu_s(process) - before
    batches = _sensor(_files_source()).run(cursor)
    assert not (await anext(batches)).cursor, "nothing has changed"
    before, began = _cpu_s(process), time.perf_counter()
    with anyio.move_on_after(IDLE_S):
        while True:
            await anext(batches)
    share = 100 * (_cpu_s(process) - before) / (time.perf_counter() - began)
    await batches.aclose()
    return scan_s, share


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _files_source() -> tuple[fr.Source, fr.Source]:
    return fr.source("landed", partitions=fr.dynamic()), fr.source("bell")


def _sensor(sources: tuple[fr.Source, fr.Source]) -> FilesSensor:
    landed, bell = sources
    return files({"landing/{partition}.csv": landed, "landing/bell.txt": bell}, name="landing")


def _project(entered: dict[str, float]) -> fr.Project:
    """100,000 partitions and a bell beside them, with an asset that reads it."""
    sources = _files_source()

    @fr.asset
    async def rung(bell: str) -> str:
        entered["rung"] = time.perf_counter()
        return bell

    return fr.Project([*sources, rung], sensors=[_sensor(sources)], store=fr.MemoryStore())
