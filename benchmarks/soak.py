"""`python -m benchmarks.soak [--minutes 60] [--json FILE] [--place FOLDER]`: a daemon under mixed
load for an hour; does it grow, does it get slower, does it lose anything?

The daemon is a process of its own, and all is measured from outside. The keys are a fixed set, all
of them seen within the warm-up: what grows after it grows without need.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import anyio
import msgspec

from benchmarks import soak_project as project
from benchmarks.case import Figure, compile_modules, percentile
from benchmarks.soak_samples import Sample, Sampler, slope_per_hour
from freshet.engine.asking import StatusQuestion
from freshet.engine.events import Observed, SourceChanged
from freshet.engine.socket import Request, ask, ask_status, socket_path

MINUTES = 60.0
WARM_UP = 1 / 6
"""The share of the time that is not held against a bound: ten minutes of an hour."""

LAND_EVERY_S = 0.5
TELL_EVERY_S = 1.5
PROBE_EVERY_S = 1.0
SAMPLE_EVERY_S = 10.0
REMOVE_EVERY = 15
"""Landings. Those with keys and those of whole sources take turns, so it has to be odd."""

REMOVED_FOR_S = 0.4
"""How long a file is gone that is removed before it lands anew."""

SETTLED_S = 300.0
"""Longest wait for all to be fresh at the end; one asset waits for the full minute."""

MIB = 1024 * 1024

POINTS = 30
"""Of each curve over time."""

CONFIGURATION = (
    f"a real daemon for {MINUTES:g} minutes: 182 assets and 22 sources, two landings and one change"
    " a second, worker processes, checks, promises, and runs that fail; a fixed set of keys; all is"
    f" measured from outside, from {MINUTES * WARM_UP:g} minutes on against bounds"
)


class Soak(msgspec.Struct):
    """What has been done to the daemon, and what was seen."""

    minutes: float
    samples: list[Sample] = []
    landed: dict[str, int] = {}
    """By path below `landing/`, how often; that is also what stands in the file."""
    removed: int = 0
    """Files, each of which lands anew."""
    told: int = 0
    probes: dict[int, int] = {}
    """By number, when the file was closed (ns of the machine's steady clock)."""
    reactions: list[tuple[float, float]] = []
    """Seconds since the beginning, and milliseconds from the closed file to the function."""
    lost: int = 0
    wrong: list[str] = []
    log_errors: int = 0
    settled_s: float = 0.0
    verified: bool = False
    finished: bool = False


def run(
    minutes: float = MINUTES, json: Path | None = None, place: Path | None = None
) -> list[Figure]:
    """Soak, in `place` or a folder that goes away; what was seen is also written to `json`, every
    minute anew.
    """
    seen = Soak(minutes)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        _soak_in(place.resolve(), seen, json)
    else:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            _soak_in(Path(folder).resolve(), seen, json)
    return figures(seen)


def figures(seen: Soak) -> list[Figure]:
    """What was seen, against its bounds."""
    case = f"soak, {seen.minutes:g} minutes of mixed load"
    warm = [one for one in seen.samples if one.at_s >= seen.minutes * 60 * WARM_UP]
    span_s = seen.samples[-1].at_s - seen.samples[0].at_s
    first, last = (
        [ms for at_s, ms in seen.reactions if low <= at_s / (seen.minutes * 60) < high]
        for low, high in ((0, 1 / 3), (2 / 3, 2))
    )
    cpu_s = seen.samples[-1].cpu_s - seen.samples[0].cpu_s
    return [
        Figure(case, "memory: slope after the warm-up", slope_per_hour(warm, "rss_mb"), "MB/h", 1),
        Figure(
            case, "memory without that of files: slope", slope_per_hour(warm, "anon_mb"), "MB/h"
        ),
        Figure(case, "threads: slope", slope_per_hour(warm, "threads"), "/h"),
        Figure(case, "memory of the workers: slope", slope_per_hour(warm, "workers_mb"), "MB/h"),
        Figure(case, "memory: most", max(one.rss_mb for one in seen.samples), "MB"),
        Figure(case, "biggest WAL", max(one.wal_bytes for one in seen.samples) / MIB, "MiB", 64),
        Figure(case, "stream at the end", seen.samples[-1].stream_bytes / MIB, "MiB"),
        Figure(case, "events", seen.samples[-1].head / span_s, "/s"),
        Figure(case, "runs", sum(one.runs for one in seen.samples) / span_s, "/s"),
        Figure(case, "failed runs", sum(one.failed for one in seen.samples) / span_s, "/s"),
        Figure(case, "CPU", 100 * cpu_s / span_s, "% of a core"),
        Figure(case, "file closed → asset entered, first third, p50", percentile(first, 50), "ms"),
        Figure(case, "file closed → asset entered, first third, p99", percentile(first, 99), "ms"),
        Figure(case, "file closed → asset entered, last third, p50", percentile(last, 50), "ms"),
        Figure(case, "file closed → asset entered, last third, p99", percentile(last, 99), "ms"),
        Figure(
            case,
            "last third to first third, p50",
            percentile(last, 50) / percentile(first, 50),
            "×",
            1.5,
        ),
        Figure(case, "files removed before they landed anew", seen.removed, ""),
        Figure(case, "changes lost", seen.lost, "", 0),
        Figure(case, "values that are not what the files say", len(seen.wrong), "", 0),
        Figure(case, "errors in the log", seen.log_errors, "", 0),
        Figure(case, "all fresh after the load ended", seen.settled_s, "s", SETTLED_S),
        Figure(case, "stream verified", float(seen.verified), "", 1, True),
        *_curves(case, seen),
    ]


def _curves(case: str, seen: Soak) -> Iterator[Figure]:
    """Memory and latency over time."""
    step_s = seen.minutes * 60 / POINTS
    for point in range(POINTS):
        low, high = point * step_s, (point + 1) * step_s
        minute = high / 60
        rss = [one.rss_mb for one in seen.samples if low <= one.at_s < high]
        if rss:
            yield Figure(case, "memory", rss[-1], "MB", size=minute, counted="minutes")
        times = [ms for at_s, ms in seen.reactions if low <= at_s < high]
        if len(times) > 1:
            what = "file closed → asset entered, median"
            yield Figure(case, what, percentile(times, 50), "ms", size=minute, counted="minutes")


def _soak_in(place: Path, seen: Soak, json: Path | None) -> None:
    for folder in ("days", "places", "names"):
        (place / "landing" / folder).mkdir(parents=True)
    with _daemon(place) as pid:
        anyio.run(_soak, place, pid, seen, json)
    done = subprocess.run(
        [sys.executable, "-m", "freshet", "verify"], cwd=place, env=_env(place), check=False
    )
    seen.verified = done.returncode == 0
    seen.log_errors = _errors_in(place / "daemon.log")
    seen.finished = True
    _write(seen, json)


def _errors_in(log: Path) -> int:
    """Errors that the daemon has logged, but for runs that failed, which some are made to do."""
    found = 0
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            said = msgspec.json.decode(line)
            found += said.get("level") == "error" and said.get("event") != "failed"
        else:
            found += "Traceback" in line
    return found


def _env(place: Path) -> dict[str, str]:
    return {**os.environ, "FRESHET_STATE": str(place / ".freshet")}


@contextmanager
def _daemon(place: Path) -> Iterator[int]:
    """`freshet run` in this place; drained at the end. Raises RuntimeError if it has ended by
    itself.
    """
    command = [sys.executable, "-m", "freshet", "run", str(Path(project.__file__).resolve())]
    with (
        (place / "daemon.log").open("wb") as log,
        subprocess.Popen(command, cwd=place, env=_env(place), stderr=log) as daemon,
    ):
        try:
            until = time.monotonic() + 60
            while not socket_path(place / ".freshet").exists():
                if daemon.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((place / "daemon.log").read_text()[-2000:])
                time.sleep(0.05)
            yield daemon.pid
            if daemon.poll() is not None:
                raise RuntimeError(f"the daemon has ended with {daemon.returncode}")
        finally:
            daemon.terminate()
            daemon.wait(60)


async def _soak(place: Path, pid: int, seen: Soak, json: Path | None) -> None:
    began = time.monotonic_ns()
    for path in dict.fromkeys(_paths()):
        await _land(place, path, seen)
    async with anyio.create_task_group() as tasks:
        for load in (_landings, _tellings, _probes):
            tasks.start_soon(load, place, seen)
        await _measure(place, pid, seen, json, began)
        tasks.cancel_scope.cancel()
    await _settle(place, seen)
    seen.reactions = list(_reactions(place, seen, began))
    seen.lost = _landed(seen) - Sampler(place, pid).changes(set(project.TOLD), inside=False)
    seen.lost += seen.told - Sampler(place, pid).changes(set(project.TOLD), inside=True)
    seen.wrong = [
        f"{path}: {_text(place / 'data' / path)}, not {value}"
        for path, value in _expected(seen, place)
        if _text(place / "data" / path) != value
    ]


# --- load --------------------------------------------------------------------------------------


def _paths() -> list[str]:
    """All that lands, so that whole sources and partitions take turns."""
    keyed = [f"days/{key}" for key in project.DAYS]
    keyed += [f"places/{key}" for key in project.PLACES]
    keyed += [f"names/{key}" for key in project.NAMES]
    Random(1).shuffle(keyed)
    wholes = project.WHOLE
    return [one for at, key in enumerate(keyed) for one in (key, wholes[at % len(wholes)])]


async def _landings(place: Path, seen: Soak) -> None:
    """Two a second: written in place, or beside and renamed; some removed before."""
    number = 0
    while True:
        for path in _paths():
            await anyio.sleep(LAND_EVERY_S)
            number += 1
            if number % REMOVE_EVERY == 0 and "/" in path:
                (place / "landing" / f"{path}.txt").unlink()
                seen.removed += 1
                await anyio.sleep(REMOVED_FOR_S)
            await _land(place, path, seen, renamed=number % 3 == 0)


async def _land(place: Path, path: str, seen: Soak, *, renamed: bool = False) -> None:
    count = seen.landed[path] = seen.landed.get(path, 0) + 1
    target = place / "landing" / f"{path}.txt"
    written = target.with_name(f".{target.name}") if renamed else target
    written.write_text(str(count))
    if renamed:
        written.replace(target)


async def _tellings(place: Path, seen: Soak) -> None:
    """A source changes, as a person or a program says it; and an asset is seen to be another."""
    while True:
        await anyio.sleep(TELL_EVERY_S)
        source = project.TOLD[seen.told % len(project.TOLD)]
        seen.told += 1
        await _tell(place, SourceChanged(source, "", str(seen.told)))
        if seen.told % 10 == 0:
            await _tell(place, Observed("s7_4", "", f"seen {seen.told}"))


async def _tell(place: Path, event: SourceChanged | Observed) -> None:
    await ask(place / ".freshet", Request((event,), actor="soak"))


async def _probes(place: Path, seen: Soak) -> None:
    path = place / "landing" / "probe.txt"
    while True:
        await anyio.sleep(PROBE_EVERY_S)
        number = len(seen.probes) + 1
        path.write_text(str(number))
        seen.probes[number] = time.monotonic_ns()


# --- measures ----------------------------------------------------------------------------------


async def _measure(place: Path, pid: int, seen: Soak, json: Path | None, began: int) -> None:
    """Look every ten seconds, for as long as it lasts; never at the cost of what is measured."""
    sampler = Sampler(place, pid)
    due = SAMPLE_EVERY_S
    while due <= seen.minutes * 60:
        await anyio.sleep(max(0.0, began / 1e9 + due - time.monotonic()))
        at_s = (time.monotonic_ns() - began) / 1e9
        seen.samples.append(await anyio.to_thread.run_sync(sampler.look, at_s))
        if len(seen.samples) % 6 == 0:
            _write(seen, json)
        due += SAMPLE_EVERY_S


def _reactions(place: Path, seen: Soak, began: int) -> Iterator[tuple[float, float]]:
    """Of the probes that were entered: one that was overwritten before may never be."""
    for line in (place / "entered.log").read_text().splitlines():
        number, at = map(int, line.split())
        closed = seen.probes.get(number)
        if closed is not None:
            yield (closed - began) / 1e9, (at - closed) / 1e6


def _landed(seen: Soak) -> int:
    return sum(seen.landed.values()) + len(seen.probes)


async def _settle(place: Path, seen: Soak) -> None:
    """The last landings, such that nothing fails; then wait until all is fresh."""
    for path, divisor in (("s2", 3), ("s3", 5)):
        while seen.landed[path] % divisor == 0 or seen.landed[path] % 2:
            await _land(place, path, seen)
            await anyio.sleep(2 * LAND_EVERY_S)
    for path in dict.fromkeys(_paths()):
        if not (place / "landing" / f"{path}.txt").exists():  # the load ended in between
            await _land(place, path, seen)
    began = time.monotonic()
    await anyio.sleep(2.0)  # until the last file is seen
    while not (await ask_status(place / ".freshet", StatusQuestion())).fresh:
        seen.settled_s = time.monotonic() - began
        if seen.settled_s > SETTLED_S:
            return
        await anyio.sleep(1.0)
    seen.settled_s = time.monotonic() - began


def _expected(seen: Soak, place: Path) -> Iterator[tuple[str, str]]:
    """Every value as it has to be at the end, by its path below `data/`."""
    for source in project.WHOLE:
        for depth in range(project.CHAIN):
            yield f"{source}_{depth}.txt", str(seen.landed[source] + depth + 1)
    for folder, name, more in (("days", "day", 2), ("places", "place", 1), ("names", "name", 1)):
        found = {path: n for path, n in seen.landed.items() if path.startswith(f"{folder}/")}
        for path, count in found.items():
            yield f"{name}_made/{path.rpartition('/')[2]}.txt", str(count + more)
        yield f"{name}_sum.txt", str(sum(found.values()) + more * len(found))
    for source in project.TOLD:
        for number in range(project.FAN):
            yield f"{source}_{number}.txt", _text(place / "data" / f"{source}_root.txt")
    yield "elsewhere.txt", str(seen.landed["s0"] + project.CHAIN + 1)
    for asset, source in (("at_second_try", "s1"), ("at_times", "s2"), ("judged", "s3")):
        yield f"{asset}.txt", str(seen.landed[source])
    yield "probed.txt", str(len(seen.probes))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else "nothing"


def _write(seen: Soak, json: Path | None) -> None:
    if json is not None:
        beside = json.with_name(f".{json.name}")
        beside.write_bytes(msgspec.json.encode(seen))
        beside.replace(json)


def main() -> int:
    """Soak, print the figures; exit 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--json", type=Path, help="what was seen, written every minute")
    parser.add_argument("--place", type=Path, help="a new folder, which stays")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the daemon ends too
    compile_modules()
    found = run(options.minutes, options.json, options.place)
    for figure in found:
        verdict = {True: "met", False: "NOT MET", None: ""}[figure.met]
        print(f"{figure.what:50} {figure.value:12,.2f} {figure.unit:12} {verdict}")
    return 1 if any(figure.met is False for figure in found) else 0


if __name__ == "__main__":
    sys.exit(main())
