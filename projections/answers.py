"""Answers: the rows that commands print and `--json` gives, computed from a
view and nothing else.
"""

from collections import Counter

import msgspec

from freshet.engine.errors import RequestError
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.partitions import describe
from freshet.engine.specs import AssetSpec
from freshet.projections.catalog import Version
from freshet.projections.cells import NOTHING, Cell
from freshet.projections.view import View
from freshet.projections.why import blocker_text

STATES = ("fresh", "stale", "waiting", "missing")


class AssetRow(msgspec.Struct, frozen=True):
    """One asset: how many of its partitions are in each state, and how the worst of them stands.

    `activity` is what is going on with any of them (running, ready, retrying, failed, blocked,
    unwanted, or nothing). `lag_ms` is that of the one furthest behind.
    """

    asset: AssetKey
    kind: str
    group: str
    partitions: str
    total: int
    fresh: int
    stale: int
    waiting: int
    missing: int
    state: str
    activity: str
    blocked_by: str
    lag_ms: int
    data_version: str | None
    changed_at_us: int | None


class PartitionRow(msgspec.Struct, frozen=True):
    """One asset partition: state, what it owes, what holds it up, and its newest version."""

    asset: AssetKey
    partition: str
    state: str
    activity: str
    owed: int | None
    blocked_by: str
    lag_ms: int
    data_version: str | None
    position: int | None
    run: int | None
    metadata: dict[str, str | int | float | bool | None]


class StatusReport(msgspec.Struct, frozen=True):
    """The answer to "is it fresh?", at a position: yes or no, and row by row."""

    position: int
    fresh: bool
    assets: tuple[AssetRow, ...]
    partitions: tuple[PartitionRow, ...]
    orphans: tuple[AssetKey, ...]


class GraphRow(msgspec.Struct, frozen=True):
    """One definition, as `freshet graph --json` lists it: stable names, nothing computed."""

    asset: AssetKey
    kind: str
    group: str
    partitions: str
    policy: str
    upstream: tuple[AssetKey, ...]
    downstream: tuple[AssetKey, ...]
    code_version: str
    tags: dict[str, str]
    owners: tuple[str, ...]
    kinds: tuple[str, ...]
    description: str
    metadata: dict[str, str | int | float | bool | None]


def status_report(view: View, pattern: str | None, now_us: int) -> StatusReport:
    """All assets, those a pattern selects, or with one exact key also its partitions."""
    graph = view.staleness.graph
    keys = list(graph.specs) if pattern is None else graph.select(pattern)
    if pattern is not None and not keys:
        graph.require(pattern)  # raises with the nearest key
    rows = tuple(asset_row(view, key, now_us) for key in keys)
    partitions: tuple[PartitionRow, ...] = ()
    if pattern in graph.specs:
        cells = view.staleness.states[str(pattern)].cells
        partitions = tuple(partition_row(view, cells[key], now_us) for key in sorted(cells))
    fresh = all(row.fresh == row.total for row in rows if row.kind != "source")
    orphans = tuple(view.catalog.removed) if pattern is None else ()
    return StatusReport(view.position, fresh, rows, partitions, orphans)


def one_partition(view: View, target: AssetPartition, now_us: int) -> StatusReport:
    """The report on one asset partition, which exists."""
    cell = view.staleness.cell(*target)
    if cell is None:
        raise RequestError(f"there is no '{target}'")
    row = partition_row(view, cell, now_us)
    return StatusReport(view.position, row.state == "fresh", (), (row,), ())


def asset_row(view: View, key: AssetKey, now_us: int) -> AssetRow:
    """One asset in sum. Costs its partitions."""
    spec = view.staleness.graph.specs[key]
    cells = view.staleness.states[key].cells
    states: Counter[str] = Counter()
    worst: Cell | None = None
    for cell in cells.values():
        if cell.eff == NOTHING and cell.next == NOTHING and cell.version is not None:
            states["fresh"] += 1
            continue
        status = view.status(*cell.key)
        states[status.state if status is not None else "missing"] += 1
        if worst is None or cell.eff < worst.eff:
            worst = cell
    found = view.status(*worst.key) if worst is not None else None
    lags = (view.lag_us(*cell.key, now_us) for cell in cells.values() if cell.eff < NOTHING)
    newest = max(view.catalog.current.get(key, {}).values(), key=_position, default=None)
    blocker = found.blocker if found is not None else None
    return AssetRow(
        key,
        spec.kind,
        spec.group,
        describe(spec.partitions),
        len(cells),
        states["fresh"],
        states["stale"],
        states["waiting"],
        states["missing"],
        next((s for s in ("missing", "stale", "waiting") if states[s]), "fresh"),
        found.activity if found is not None else "",
        blocker_text(blocker) if blocker is not None else "",
        max(lags, default=0) // 1000,
        newest.data_version if newest is not None and len(cells) == 1 else None,
        newest.recorded_at if newest is not None else None,
    )


def partition_row(view: View, cell: Cell, now_us: int) -> PartitionRow:
    """One asset partition in full."""
    status = view.status(*cell.key)
    version = view.catalog.version(*cell.key)
    blocker = status.blocker if status is not None else None
    return PartitionRow(
        *cell.key,
        status.state if status is not None else "missing",
        status.activity if status is not None else "",
        status.owed if status is not None else None,
        blocker_text(blocker) if blocker is not None else "",
        view.lag_us(*cell.key, now_us) // 1000,
        version.data_version if version is not None else None,
        version.position if version is not None else None,
        version.run or None if version is not None else None,
        dict(version.metadata) if version is not None else {},
    )


def graph_rows(view: View, pattern: str | None = None) -> list[GraphRow]:
    """The definitions, upstream first."""
    graph = view.staleness.graph
    keys = list(graph.specs) if pattern is None else graph.select(pattern)
    if pattern is not None and not keys:
        graph.require(pattern)
    return [
        graph_row(
            graph.specs[key],
            tuple(dict.fromkeys(edge.asset for edge in graph.upstream[key])),
            tuple(dict.fromkeys(edge.asset for edge in graph.downstream[key])),
        )
        for key in keys
    ]


def graph_row(
    spec: AssetSpec, upstream: tuple[AssetKey, ...], downstream: tuple[AssetKey, ...]
) -> GraphRow:
    """One definition as data for people and tools."""
    policy = "" if spec.is_source else type(spec.policy).__name__.lower()
    return GraphRow(
        spec.key,
        spec.kind,
        spec.group,
        describe(spec.partitions),
        policy,
        upstream,
        downstream,
        spec.code_version,
        spec.tags,
        spec.owners,
        spec.kinds,
        spec.description,
        spec.metadata,
    )


def _position(version: Version) -> int:
    return version.position
