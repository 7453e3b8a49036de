"""Answers: the rows that commands print and `--json` gives, computed from a
view and nothing else.
"""

from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec
from msgspec.structs import replace

from freshet.engine.errors import RequestError
from freshet.engine.events import Recorded
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.partitions import describe
from freshet.engine.schemas import Difference, drift
from freshet.engine.selection import select
from freshet.engine.specs import AssetSpec, Metadata
from freshet.projections.catalog import Version
from freshet.projections.causes import blocker_text
from freshet.projections.cells import Cell, cells_of
from freshet.projections.circuits import CircuitRow, attempts, circuit_rows
from freshet.projections.delays import delay_text
from freshet.projections.marks import NOTHING
from freshet.projections.matrix import Matrix, matrix_of
from freshet.projections.outlook import outlook
from freshet.projections.pauses import PauseRow, pause_rows
from freshet.projections.sensors import SensorRow
from freshet.projections.states import AssetState
from freshet.projections.view import View

MAX_PAGE = 1000
"""Partitions on one page: some 20 ms of the daemon's time, which others wait for."""


class AssetRow(msgspec.Struct, frozen=True):
    """One asset: how many of its partitions are in each state, and how the worst of them stands.

    `activity` is what is going on with any of them (running, ready, retrying, failed, blocked,
    unwanted, held, tripped, or nothing), and `note` what there is to say about that: whether a
    failure is tried again, which run takes too long. `lag_ms` is that of the one furthest behind.
    `position` is that of the event that states its newest version; that version and its time are
    read from the stream.
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
    running: int
    failed: int
    state: str
    activity: str
    blocked_by: str
    lag_ms: int
    position: int | None
    data_version: str | None = None
    changed_at: int | None = None
    """Position at which the data of any partition last became other: made anew to the same content,
    they stay as old as they were."""
    changed_at_us: int | None = None
    note: str = ""
    drift: tuple[Difference, ...] = ()
    """Schema drift: what its definition says of columns other than its newest version has."""


class PartitionRow(msgspec.Struct, frozen=True):
    """One asset partition: state, what it owes, what holds it up, and its newest version; that
    version and its metadata are read from the stream at `position`.
    """

    asset: AssetKey
    partition: str
    state: str
    activity: str
    owed: int | None
    blocked_by: str
    lag_ms: int
    position: int | None
    run: int | None
    data_version: str | None = None
    metadata: Metadata = {}
    note: str = ""
    changed_at: int | None = None
    """Position at which its data last became other."""
    changed_at_us: int | None = None


class StatusReport(msgspec.Struct, frozen=True):
    """The answer to "is it fresh?", at a position: yes or no, and row by row.

    Of one asset also its partitions, a page at a time: `next` is the key to go on after. `pauses`
    are those that hold what the report is about, or a sensor that feeds it; of all assets, all.
    `sensors` are those that feed it, `circuits` those that are open; `profile` is the one the last
    daemon has run under. `notices` is what the daemon that answers wants known.
    """

    position: int
    fresh: bool
    assets: tuple[AssetRow, ...]
    partitions: tuple[PartitionRow, ...]
    orphans: tuple[AssetKey, ...]
    matrix: Matrix | None = None
    next: str | None = None
    pauses: tuple[PauseRow, ...] = ()
    sensors: tuple[SensorRow, ...] = ()
    circuits: tuple[CircuitRow, ...] = ()
    profile: str = ""
    notices: tuple[str, ...] = ()


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
    metadata: Metadata


def status_report(
    view: View, selection: str | None, now_us: int, *, after: str | None = None, limit: int = 100
) -> StatusReport:
    """All assets, those a selection names, or with one exact key also a page of its partitions.

    At most `MAX_PAGE` are on one page. Costs the assets and the page; counts over partitions take
    some nanoseconds each.
    """
    graph = view.staleness.graph
    limit = max(1, min(limit, MAX_PAGE))
    keys = list(graph.specs) if selection is None else select_assets(view, selection)
    rows = tuple(asset_row(view, key, now_us) for key in keys)
    partitions: tuple[PartitionRow, ...] = ()
    matrix, following = None, None
    if selection in graph.specs:
        state = view.staleness.states[str(selection)]
        found = list(islice(_page(state, after), limit + 1))
        partitions = tuple(partition_row(view, cell, now_us) for cell in found[:limit])
        following = found[limit - 1].partition if len(found) > limit else None
        matrix = matrix_of(state) if state.spec.partitions is not None else None
    fresh = all(row.fresh == row.total for row in rows if row.kind != "source")
    orphans = tuple(view.catalog.removed) if selection is None else ()
    specs = [graph.specs[key] for key in keys] if selection is not None else None
    pauses = pause_rows(view.pauses, specs, view.sensors.feeds)
    circuits = tuple(circuit_rows(view.circuits, keys))
    return StatusReport(
        view.position, fresh, rows, partitions, orphans, matrix, following, pauses, (), circuits
    )


def select_assets(view: View, selection: str) -> list[AssetKey]:
    """The assets a selection names, upstream first. Raises RequestError, also when there is none,
    unless it asks for a status, which none may have.
    """
    found = select(view.staleness.graph, selection, lambda key: words_of(view, key))
    if not found and "status:" not in selection:
        raise RequestError(
            f"'{selection}' selects nothing", hint="`freshet graph` lists assets with their groups"
        )
    return found


def words_of(view: View, key: AssetKey) -> set[str]:
    """The states and activities that any partition of an asset is in."""
    state = view.staleness.states[key]
    words = {word for word, count in state.counts().items() if count}
    words |= {"running"} if state.live else set()
    words |= {"failed"} if state.failures else set()
    return words - {"fresh"} if len(words) > 1 and "fresh" in words else words


def _page(state: AssetState, after: str | None) -> Iterator[Cell]:
    if after is None:
        yield from cells_of(state)
        return
    start = state.number(after)
    if start is None:
        raise RequestError(
            f"'{state.spec.key}' has no partition '{after}' to go on after",
            hint="use the `next` of the page before",
        )
    i = state.exists.find(1, start + 1)
    while i >= 0:
        yield Cell(state, i)
        i = state.exists.find(1, i + 1)


def one_partition(view: View, target: AssetPartition, now_us: int) -> StatusReport:
    """The report on one asset partition, which exists."""
    cell = view.staleness.cell(*target)
    if cell is None:
        raise RequestError(f"there is no '{target}'")
    row = partition_row(view, cell, now_us)
    pauses = pause_rows(view.pauses, [cell.home.spec], view.sensors.feeds)
    fresh = row.state == "fresh"
    circuits = tuple(circuit_rows(view.circuits, [target.asset]))
    return StatusReport(view.position, fresh, (), (row,), (), pauses=pauses, circuits=circuits)


def asset_row(view: View, key: AssetKey, now_us: int) -> AssetRow:
    """One asset in sum."""
    state = view.staleness.states[key]
    spec = state.spec
    counts = state.counts()
    worst = _worst(state)
    found = view.status_of(worst) if worst is not None else None
    blocker = found.blocker if found is not None else None
    return AssetRow(
        key,
        spec.kind,
        spec.group,
        describe(spec.partitions),
        state.existing,
        counts["fresh"],
        counts["stale"],
        counts["waiting"],
        counts["missing"],
        len(state.live),
        len(state.failures),
        next((word for word in ("missing", "stale", "waiting") if counts[word]), "fresh"),
        found.activity if found is not None else "",
        blocker_text(blocker) if blocker is not None else "",
        _lag_us(state, now_us) // 1000,
        state.newest or None,
        note=note(view, worst) if worst is not None else "",
        changed_at=max(state.changed_at, default=0) or None,
    )


def _worst(state: AssetState) -> Cell | None:
    """The partition that is furthest behind; of a source the first that is missing."""
    oldest = state.min_owed()
    if oldest < NOTHING:
        return Cell(state, state.owed.index(oldest))
    if state.live:
        return Cell(state, next(iter(state.live)))
    return None


def _lag_us(state: AssetState, now_us: int) -> int:
    since = state.marks.at.get(state.min_owed())
    return max(0, now_us - since) if since is not None else 0


def partition_row(view: View, cell: Cell, now_us: int) -> PartitionRow:
    """One asset partition in full."""
    found = view.status_of(cell)
    return PartitionRow(
        *cell.key,
        found.state,
        found.activity,
        found.owed,
        blocker_text(found.blocker) if found.blocker is not None else "",
        view.lag_us(*cell.key, now_us) // 1000,
        cell.made_at or None,
        cell.started_at or None,
        note=note(view, cell),
        changed_at=cell.changed_at or None,
    )


def note(view: View, cell: Cell) -> str:
    """What there is to say about how a partition stands: a run that takes too long, or what becomes
    of a failure.
    """
    delayed = view.delays.found.get(cell.run)
    if delayed is not None:
        return delay_text(delayed)
    failure = cell.failure
    told = failure is not None and not cell.running and attempts(cell)
    return outlook(failure) if failure is not None and told else ""


def positions_in(report: StatusReport) -> list[int]:
    """The events that state the versions a report is about."""
    found = [at for row in report.assets for at in (row.position, row.changed_at)]
    found += [at for row in report.partitions for at in (row.position, row.changed_at)]
    return [position for position in found if position is not None]


def with_versions(
    report: StatusReport,
    events: Mapping[int, Recorded],
    specs: Mapping[AssetKey, AssetSpec],
) -> StatusReport:
    """The report with the versions those events state, and where their columns are others than
    those of the definitions.
    """

    def found(position: int | None) -> Version | None:
        return Version.of(events.get(position)) if position is not None else None

    def moment(position: int | None) -> int | None:
        event = events.get(position) if position is not None else None
        return event.recorded_at if event is not None else None

    assets = []
    for row in report.assets:
        version = found(row.position)
        if version is not None:
            text = version.data_version if row.total == 1 else None
            differences = drift_of(specs[row.asset], version)
            row = replace(row, data_version=text, drift=differences)
        assets.append(replace(row, changed_at_us=moment(row.changed_at)))
    partitions = []
    for part in report.partitions:
        version = found(part.position)
        if version is not None:
            part = replace(part, data_version=version.data_version, metadata=version.metadata)
        partitions.append(replace(part, changed_at_us=moment(part.changed_at)))
    return replace(report, assets=tuple(assets), partitions=tuple(partitions))


def drift_of(spec: AssetSpec, version: Version | None) -> tuple[Difference, ...]:
    """How the declared columns differ from those of a version."""
    published = version.metadata.get("columns") if version is not None else None
    return drift(spec.columns, published) if isinstance(published, str) else ()


def graph_rows(view: View, pattern: str | None = None) -> list[GraphRow]:
    """The definitions, upstream first."""
    graph = view.staleness.graph
    keys = list(graph.specs) if pattern is None else select_assets(view, pattern)
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
