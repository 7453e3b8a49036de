"""How quickly the eventsourcing library inserts events into its SQLite database and reads them.

    python_of_the_environment benchmarks/peers/eventsourcing_append.py --rounds 7

Figures in events per second, one sample a round: `insert_events` with 1, 100 and 1,000 events per
call. Then seconds to read 100,000 events, one sample a round. Both recorders of the library are
measured: that of an application, whose events have an order among all (as ours have), and that of
aggregates alone, whose events are ordered within an aggregate only.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from eventsourcing import sqlite  # type: ignore[import-not-found]  # only in this environment
from eventsourcing.persistence import StoredEvent  # type: ignore[import-not-found]  # likewise
from said import Side, say, within  # type: ignore[import-not-found]  # beside this script

CASES = {1: 400, 100: 100, 1000: 10}
"""Events per call and calls per round, as many as our own rounds have."""

AGGREGATES = {"one aggregate": 1, "840 aggregates": 840}
"""Of how many aggregates the events are, in turn: ours are of one partition, and of as many."""

READ = 100_000

SIDE = Side(
    "eventsourcing",
    version("eventsourcing"),
    "append",
    "best",
    "a file database with the library's own settings (WAL, commits synced as SQLite does by "
    "default); events of about 300 bytes made and serialized before the clock starts; of one "
    "aggregate the index grows at one end, of 840 everywhere; no application, mapper or "
    "notification around the recorder; read in one select",
)

Recorder = Any  # of the library, which ships its types only in its own environment


class Aggregates:
    """So many aggregates, whose events come in turn."""

    def __init__(self, many: int) -> None:
        self._ids = [uuid4() for _ in range(many)]
        self._made = 0

    def events(self, count: int) -> list[Any]:
        """The next events."""
        first, self._made, many = self._made, self._made + count, len(self._ids)
        return [
            StoredEvent(self._ids[n % many], n // many, "freshet:Materialized", _state(n))
            for n in range(first, self._made)
        ]


def inserts(recorder: Recorder, events: list[Any], size: int) -> float:
    """Events per second of one round."""
    batches = [events[start : start + size] for start in range(0, len(events), size)]
    began = time.perf_counter()
    for batch in batches:
        recorder.insert_events(batch)
    return len(events) / (time.perf_counter() - began)


def reads(select: Callable[[], list[Any]]) -> float:
    """Seconds to read all that there is to read."""
    began = time.perf_counter()
    found = select()
    seconds = time.perf_counter() - began
    if len(found) != READ:
        raise RuntimeError(f"{len(found)} events read, not {READ}")
    return seconds


def measure(folder: Path, ordered: bool, rounds: int) -> None:
    """All cases with one recorder: an application's when `ordered`, else that of aggregates."""
    kind = sqlite.SQLiteApplicationRecorder if ordered else sqlite.SQLiteAggregateRecorder
    name = "one order of all events" if ordered else "order in an aggregate only"
    for many, count in AGGREGATES.items():
        found: dict[int, list[float]] = {size: [] for size in CASES}
        inserting, aggregates = _opened(kind, folder / f"{ordered}-{count}.db"), Aggregates(count)
        for _ in range(rounds):
            for size, calls in CASES.items():
                found[size].append(inserts(inserting, aggregates.events(size * calls), size))
        inserting.datastore.close()
        for size, rates in found.items():
            say(SIDE, f"insert_events, {size} per call of {many}, {name}", "/s", rates)
    reading = _opened(kind, folder / f"reads-{ordered}.db")
    events = Aggregates(1).events(READ)
    reading.insert_events(events)

    def select() -> list[Any]:
        if ordered:
            return list(reading.select_notifications(start=None, limit=READ))
        return list(reading.select_events(events[0].originator_id))

    say(SIDE, f"read {READ:,} events, {name}", "s", [reads(select) for _ in range(rounds)])
    reading.datastore.close()


def _opened(kind: Any, path: Path) -> Recorder:
    recorder = kind(sqlite.SQLiteDatastore(str(path)))
    recorder.create_table()
    return recorder


def _state(number: int) -> bytes:
    """JSON with the fields of our event of a made asset, and so much more that 300 bytes result."""
    state = {
        "asset": f"analytics/asset_{number % 30}",
        "partition": f"2013-01-{number % 28 + 1:02}",
        "run": number + 1,
        "data_version": f"{number:032x}",
        "code_version": "5f1d7a84",
        "metadata": {"rows": number, "bytes": 12 * number, "note": "x" * 90},
    }
    return json.dumps(state).encode()


def main() -> None:
    """Says every figure, or why there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="samples (default %(default)s)")
    parser.add_argument("--limit-s", type=float, default=300.0, help="(default %(default)s)")
    options = parser.parse_args()
    # Beside us, not in memory that is mounted as a folder: commits are to reach a disk.
    with tempfile.TemporaryDirectory(dir=".") as folder, within(SIDE, options.limit_s):
        for ordered in (True, False):
            measure(Path(folder).resolve(), ordered, options.rounds)


if __name__ == "__main__":
    main()
