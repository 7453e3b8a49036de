"""How long a daemon that was killed takes until it is ready again, after a long history."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio

from benchmarks.case import Figure, measured
from freshet.engine.events import (
    AnyEvent,
    GraphDeployed,
    Materialized,
    RunStarted,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.parts import Target
from freshet.engine.sqlite import SqliteStream
from freshet.engine.target import load_project

SIZES = (100_000, 1_000_000)
"""Events in the stream."""

LARGEST = 1_000_000
"""The bounds are those of this many events."""

CHAINS = 100
DEPTH = 9
COLD = 3
RESTARTS = 20
AT_ONCE = 40
"""Chains recorded in one append."""

CASE = f"restart, {CHAINS * (DEPTH + 1):,} assets"

CONFIGURATION = (
    f"a stream of changes of {CHAINS} sources, each followed down a chain of {DEPTH} assets; the"
    " real daemon as a process, from its start until it says that it runs, with the stream in the"
    " file cache; without a checkpoint on a fresh copy each time, with one after SIGKILL"
)

PROJECT = f"""
import freshet as fr

items = []
for chain in range({CHAINS}):
    source = fr.source(f"s{{chain}}")
    items.append(source)
    above = source.key
    for depth in range({DEPTH}):

        async def made(value: str) -> str:
            return value

        key = f"a{{chain}}_{{depth}}"
        items.append(fr.asset(key=key, inputs={{"value": above}}, code_version="1")(made))
        above = key

project = fr.Project(items)
"""


def run() -> list[Figure]:
    """Without a checkpoint, then killed and started anew, again and again."""
    return [figure for events in SIZES for figure in _restarts(events)]


def _restarts(events: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder).resolve()
        (place / "project.py").write_text(PROJECT)
        anyio.run(_record, place, events)
        state, kept = place / ".freshet", place / "kept"
        state.rename(kept)
        cold = []
        for number in range(COLD):
            shutil.rmtree(state, ignore_errors=True)
            shutil.copytree(kept, state)
            cold.append(_ready(place, kill=number < COLD - 1))
        shutil.rmtree(kept)
        warm = [_ready(place, kill=True) for _ in range(RESTARTS)]
    cold_s, warm_s, worst_s = (10, 1, 2) if events == LARGEST else (None, None, None)
    at = partial(measured, CASE, unit="s", size=events, counted="events")
    return [
        at("ready without a checkpoint", cold, bound=cold_s),
        at("ready after SIGKILL, p50", warm, bound=warm_s),
        at("ready after SIGKILL, slowest", warm, bound=worst_s, percent=100),
    ]


async def _record(place: Path, events: int) -> None:
    project = load_project(str(place / "project.py"))
    async with SqliteStream.open(place / ".freshet" / "stream.db") as stream:
        specs = tuple(project.graph.specs.values())
        await stream.append([GraphDeployed(project.graph.digest, specs)])
        for number in itertools.count():
            if stream.head >= events:
                break
            await stream.append(list(_changes(stream.head, number)))


def _changes(head: int, number: int) -> Iterator[AnyEvent]:
    """Changes of some sources, each followed down its chain; values are said to lie elsewhere."""
    at = head
    for chain in range(AT_ONCE):
        version = f"{number * AT_ONCE + chain}"
        place = (number * AT_ONCE + chain) % CHAINS
        yield SourceChanged(f"s{place}", "", version)
        at += 1
        for depth in range(DEPTH):
            target = Target(f"a{place}_{depth}", "", at, "0" * 16, "1")
            yield RunStarted((target,))
            yield Materialized(target.asset, "", at + 1, version, "1")
            yield RunSucceeded(at + 1, 1000)
            at += 3


def _ready(place: Path, *, kill: bool) -> float:
    """Seconds from the start of the process until it says that it runs."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "freshet", "run", "project.py"]
    env = {**os.environ, "FRESHET_STATE": str(place / ".freshet")}
    with subprocess.Popen(command, cwd=place, env=env, stderr=subprocess.PIPE) as daemon:
        assert daemon.stderr is not None
        try:
            for line in daemon.stderr:
                if b'"running"' in line:
                    return time.perf_counter() - began
            raise RuntimeError("the daemon ended")
        finally:
            daemon.kill() if kill else daemon.terminate()
            daemon.stderr.read()
