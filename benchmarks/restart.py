"""How long a daemon that was killed takes until it is ready again, after a long history."""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio

from benchmarks.case import Figure
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

EVENTS = 1_000_000
CHAINS = 100
DEPTH = 9
RESTARTS = 20
AT_ONCE = 40
"""Chains recorded in one append."""

CASE = f"restart, {EVENTS:,} events, {CHAINS * (DEPTH + 1):,} assets"

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
    """Once without a checkpoint, then killed and started anew, again and again."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder).resolve()
        (place / "project.py").write_text(PROJECT)
        anyio.run(_record, place)
        cold = _ready(place, kill=False)
        warm = [_ready(place, kill=True) for _ in range(RESTARTS)]
    return [
        Figure(CASE, "ready without a checkpoint", cold, "s"),
        Figure(CASE, "ready after SIGKILL, median", statistics.median(warm), "s"),
        Figure(CASE, f"ready after SIGKILL, slowest of {RESTARTS}", max(warm), "s", 2),
    ]


async def _record(place: Path) -> None:
    project = load_project(str(place / "project.py"))
    async with SqliteStream.open(place / ".freshet" / "stream.db") as stream:
        specs = tuple(project.graph.specs.values())
        await stream.append([GraphDeployed(project.graph.digest, specs)])
        for number in itertools.count():
            if stream.head >= EVENTS:
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
