"""`python -m benchmarks.duels [name …]`: Freshet beside its peers, each in its own environment.

Of each duel our side is measured, then the peer's script is run, then our side again: what is
compared comes from one run on one machine. A peer that cannot be installed, fails or hangs is a row
that says so.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from benchmarks import ours, reaction, sizes, staleness
from benchmarks.case import TIMES, Figure, compile_modules, measured, percentile
from benchmarks.ours import Measure, Samples
from benchmarks.peers.environment import AIRFLOW, DAGSTER, EVENTSOURCING, PREFECT, python_of
from benchmarks.peers.hearing import Said, hear, shortened
from benchmarks.results import FOLDER, HERE, Failure, Result, result_of, show, write

SCRIPTS = HERE / "peers"

LIMIT_S = 3600.0
"""Longest time for one script: those with many samples of half a minute take half of it."""


class Pair(NamedTuple):
    """What the peer says is held against which figure of ours.

    `theirs` is searched in "setting: what"; sizes must be equal. `bound`: at least so many times
    better must we be.
    """

    theirs: str
    ours: str
    bound: float | None = None


class Duel(NamedTuple):
    """A script of a peer, and our measurement of the same."""

    name: str
    peer: str
    needs: tuple[str, ...]
    measure: Measure
    pairs: tuple[Pair, ...]
    configuration: str
    counted: str = ""
    arguments: tuple[str, ...] = ()
    limit_s: float = LIMIT_S


DURABLE = "SQLite in WAL mode with synchronous=FULL, every event hashed into the chain"
REACTS = f"the real daemon, values in memory, {DURABLE}"
NOOP = "no-op materializations"
ONE, HUNDRED, THOUSAND = (f"events appended {name}" for name in ours.BATCHES)
ALIKE = tuple(f"events {ours.OF_ONE} appended {name}" for name in ours.BATCHES)
"""The same of one partition."""
SPREAD = (ONE, HUNDRED, THOUSAND)
"""Of as many partitions as the peer's are of aggregates."""

STARTS = (
    Pair("less a bare python", "import"),
    Pair("memory after", "memory after the import"),
    Pair("idle daemon, memory", "idle daemon: memory"),
    Pair("idle daemon, share of one core", "idle daemon: CPU"),
)
STARTED = "fresh processes; the idle daemon has 1,000 assets and a file sensor"

DUELS: tuple[Duel, ...] = (
    Duel(
        "dagster_append",
        "Dagster",
        DAGSTER,
        ours.appends,
        (
            Pair("one by one", ONE),
            Pair("100 at a time", HUNDRED),
            Pair("sqlite", THOUSAND, 300),
            Pair("consolidated", THOUSAND),
        ),
        DURABLE,
    ),
    Duel(
        "dagster_reaction",
        "Dagster",
        DAGSTER,
        ours.reactions,
        (
            Pair("^best: file closed → asset entered", reaction.FILE, 200),
            Pair("^default: file closed → asset entered", reaction.FILE, 1000),
            Pair("^best: source change.*third", reaction.TOLD_END, 150),
            Pair("^default: source change.*third", reaction.TOLD_END),
            Pair("file closed → end", reaction.FILE_END),
        ),
        REACTS,
        limit_s=2 * LIMIT_S,
    ),
    Duel(
        "dagster_noop",
        "Dagster",
        DAGSTER,
        ours.noops,
        tuple(
            Pair(f"{shape}, {storage}", f"{NOOP}, {shape}", bound)
            for shape in ("fan-out", "chain")
            for storage, bound in (("sqlite", 100), ("memory", 20))
        ),
        REACTS,
    ),
    Duel(
        "dagster_staleness",
        "Dagster",
        DAGSTER,
        ours.stale,
        (
            Pair("^default: staleness of all", staleness.STATES, 1000),
            Pair("^best: staleness of all", staleness.STATES),
        ),
        f"{staleness.CONFIGURATION}; chains of five",
        "assets",
        ("--sizes", *map(str, ours.STALE)),
    ),
    Duel(
        "dagster_evaluation",
        "Dagster",
        DAGSTER,
        ours.decisions,
        tuple(
            Pair(f"with one change, by {counted}", f"{sizes.ALL}, by {counted}")
            for counted in ("assets", "partitions")
        ),
        f"{sizes.CONFIGURATION}; idle evaluations have nothing beside them here, as none are made",
        "assets or partitions",
        (
            *("--assets", *map(str, ours.GRAPHS)),
            *("--partitions", *map(str, ours.PARTITIONED)),
        ),
    ),
    Duel(
        "dagster_burst",
        "Dagster",
        DAGSTER,
        ours.bursts,
        (Pair("fan-in: ", "fan-in"), Pair("burst: ", "burst")),
        "the fold of the changes and the decision, without I/O; fan-in: one change below an edge"
        " from all partitions to one; burst: all partitions change at once, each with one below",
        "partitions",
    ),
    Duel("dagster_start", "Dagster", DAGSTER, ours.starts, STARTS, STARTED),
    Duel(
        "eventsourcing_append",
        "eventsourcing",
        EVENTSOURCING,
        ours.appends_and_reads,
        (
            *(
                Pair(rf"\b{size} per call of {many}, {order}", what, bound)
                for many, whats in (("one aggregate", ALIKE), ("840 aggregates", SPREAD))
                for size, what in zip(("1", "100", "1,?000"), whats, strict=True)
                for order, bound in (
                    ("one order", 0.9 if size != "1" else None),
                    ("order in", None),
                )
            ),
            Pair("read 100,000 events", ours.READ),
        ),
        DURABLE,
    ),
    Duel(
        "eventsourcing_start",
        "eventsourcing",
        EVENTSOURCING,
        ours.starts,
        STARTS,
        STARTED,
    ),
    Duel(
        "prefect_noop",
        "Prefect",
        PREFECT,
        ours.noops,
        (Pair("no-op tasks", f"{NOOP}, fan-out", 10), Pair("flow runs", f"{NOOP}, fan-out")),
        REACTS,
    ),
    Duel("prefect_start", "Prefect", PREFECT, ours.starts, STARTS, STARTED),
    Duel(
        "prefect_reaction",
        "Prefect",
        PREFECT,
        ours.reactions,
        (Pair("→ flow entered", reaction.TOLD_FIRST), Pair("third flow", reaction.TOLD)),
        REACTS,
    ),
    Duel("airflow_start", "Airflow", AIRFLOW, ours.starts, STARTS, STARTED),
    Duel(
        "airflow_chain",
        "Airflow",
        AIRFLOW,
        ours.chain_and_noops,
        (
            Pair("first DAG entered", reaction.TOLD_FIRST),
            Pair("end of the third", reaction.TOLD_END),
            Pair("no-op tasks", f"{NOOP}, fan-out"),
        ),
        REACTS,
    ),
)


def main() -> int:
    """Fight the named duels (none: all); exit 1 if a bound is missed."""
    names = [duel.name for duel in DUELS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duels", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *names], help=", ".join(names))
    parser.add_argument(
        "--into", type=Path, default=FOLDER, help="keep results in this folder, not where they are"
    )
    options = parser.parse_args()
    compile_modules()
    missed = False
    for duel in DUELS:
        if not options.names or duel.name in options.names:
            result = fight(duel)
            show(result)
            write(result, options.into)
            missed |= bool(result.missed)
    return 1 if missed else 0


def fight(duel: Duel, python: Path | None = None, scripts: Path = SCRIPTS) -> Result:
    """Both sides of one duel; the peer by the interpreter of its environment unless one is given.

    Without a word of the peer our side is not measured either.
    """
    load, *_ = os.getloadavg()
    reason = ""
    if python is None:
        python, reason = _environment(duel)
    if python is None:
        return result_of(
            duel.name, duel.configuration, (), load, None, [Failure(duel.peer, reason)]
        )
    first = duel.measure()
    script = str(scripts / f"{duel.name}.py")
    said = hear(duel.peer, [str(python), script, *duel.arguments], duel.limit_s)
    again = duel.measure() if any(one.values for one in said) else {}
    mine = {key: [*values, *again.get(key, ())] for key, values in first.items()}
    return result_of(
        duel.name,
        duel.configuration,
        figures(duel, mine, said),
        load,
        {one.side: one.configuration for one in said if one.configuration},
        failures(duel, said),
    )


def figures(duel: Duel, mine: Samples, said: Sequence[Said]) -> list[Figure]:
    """Our figures, those of the peer, and the ratios of what is a pair."""
    theirs = [one for one in said if one.values]
    pairs = [
        (pair, one)
        for pair in duel.pairs
        for one in theirs
        if re.search(pair.theirs, _named(one)) and (pair.ours, one.size) in mine
    ]
    used = {(pair.ours, one.size): one.unit for pair, one in pairs}
    found = [
        _measured(duel, what, values, used[what, size], size)
        for (what, size), values in mine.items()
        if (what, size) in used
    ]
    found += [_measured(duel, one.what, one.values, one.unit, one.size, one.side) for one in theirs]
    for pair, one in pairs:
        values = mine[pair.ours, one.size]
        if percentile(values, 50):  # of what costs nothing there is no ratio
            found.append(_ratio(duel, pair, values, one))
    return found


def failures(duel: Duel, said: Sequence[Said]) -> list[Failure]:
    """What the peer could not do, and what it did not say though a bound is held against it."""
    found = [Failure(one.side, one.failed) for one in said if one.failed]
    named = [_named(one) for one in said if one.values]
    if not found:
        found = [
            Failure(duel.peer, f"said nothing of {pair.theirs!r}")
            for pair in duel.pairs
            if pair.bound is not None and not any(re.search(pair.theirs, name) for name in named)
        ]
    return found


def _named(one: Said) -> str:
    return f"{one.setting}: {one.what}"


def _measured(
    duel: Duel,
    what: str,
    values: Sequence[float],
    unit: str,
    size: float | None,
    side: str = "freshet",
) -> Figure:
    counted = duel.counted if size is not None else ""
    return measured(
        duel.name,
        what,
        values,
        unit,
        higher_is_better=unit == "/s",
        side=side,
        size=size,
        counted=counted,
    )


def _ratio(duel: Duel, pair: Pair, mine: Sequence[float], one: Said) -> Figure:
    """How many times better our median is."""
    ours, theirs = percentile(mine, 50), percentile(one.values, 50)
    value = ours / theirs if one.unit == "/s" else theirs / ours
    what = f"{pair.ours}: times better than {one.side}"
    if one.what != pair.ours:
        what += f", {one.what}"
    counted = duel.counted if one.size is not None else ""
    return Figure(duel.name, what, value, TIMES, pair.bound, True, size=one.size, counted=counted)


def _environment(duel: Duel) -> tuple[Path | None, str]:
    """The interpreter of the peer's environment, or why there is none."""
    said = StringIO()
    with redirect_stderr(said):
        python = python_of(duel.peer, *duel.needs)
    return python, shortened(said.getvalue()) or "cannot be installed"


if __name__ == "__main__":
    sys.exit(main())
