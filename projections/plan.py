"""The plan: what is not as it should be, upstream first, and what each asset's turn waits for."""

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from freshet.engine.events import Recorded
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.schemas import Difference
from freshet.projections.answers import drift_of
from freshet.projections.catalog import Version
from freshet.projections.causes import StaleCause, blocker, blocker_text
from freshet.projections.cells import Cell, owing_rows
from freshet.projections.marks import MISSING, NOTHING, STALE, WAITING
from freshet.projections.states import AssetState
from freshet.projections.view import View

MAX_NAMED = 1000
"""Partitions of one asset that a plan names."""


class PlanRow(msgspec.Struct, frozen=True):
    """One asset that is not all fresh: how many of its partitions are missing, stale, or may follow
    an upstream; from which key to which; why the first of them is; what that one waits for; and how
    long building them all takes by the median of recent runs (µs; None without any).
    """

    asset: AssetKey
    missing: int
    stale: int
    waiting: int
    first: str
    last: str
    why: str
    blocked_by: str
    run_us: int | None
    keys: tuple[PartitionKey, ...] = ()
    """The partitions, in order; at most `MAX_NAMED` of them."""
    drift: tuple[Difference, ...] = ()
    """Columns that its definition has other than its newest version; see `with_drift`."""

    @property
    def partitions(self) -> int:
        return self.missing + self.stale + self.waiting


def plan_of(view: View, assets: list[AssetKey]) -> list[PlanRow]:
    """What has to be built to make these assets fresh, upstream first: all of it does, and nothing
    of it can be left out (but what turns out equal). Empty when there is nothing to do.
    """
    states = view.staleness.states
    cells = [cell for key in assets for cell in _unfresh(states[key])]
    return plan_for(view, cells)


def plan_for(view: View, cells: Iterable[Cell]) -> list[PlanRow]:
    """As `plan_of`, for partitions: with them what they need upstream; nothing beyond a source or a
    manual asset.
    """
    needed: dict[AssetState, set[int]] = {}
    stack = [cell for cell in cells if cell.owed < NOTHING or cell.running]
    while stack:
        cell = stack.pop()
        state, i = cell.home, cell.i
        rows = needed.setdefault(state, set())
        if i in rows:
            continue
        rows.add(i)
        stack += [
            Cell(link.up, j)
            for link in state.up
            for j in owing_rows(link, i, NOTHING - 1)
            if link.up.exists[j]
        ]
    ordered = sorted(needed, key=lambda state: state.index)
    return [_row(view, state, sorted(needed[state])) for state in ordered]


def drifting(view: View, rows: Iterable[PlanRow]) -> dict[AssetKey, int]:
    """Of assets in a plan that declare columns, the position of the event that states the newest
    version.
    """
    states = [view.staleness.states[row.asset] for row in rows]
    return {s.spec.key: s.newest for s in states if s.spec.columns and s.newest}


def with_drift(view: View, row: PlanRow, event: Recorded | None) -> PlanRow:
    """The row with how its columns drift from that version."""
    spec = view.staleness.graph.specs[row.asset]
    return replace(row, drift=drift_of(spec, Version.of(event)))


def _unfresh(state: AssetState) -> Iterator[Cell]:
    """The partitions of an asset that are not fresh."""
    if not state.is_source:
        for i in range(state.n):
            if state.state[i] in (MISSING, STALE, WAITING):
                yield Cell(state, i)


def _row(view: View, state: AssetState, rows: list[int]) -> PlanRow:
    words = Counter(state.state[i] for i in rows)
    first = Cell(state, rows[0])
    found = view.status_of(first)
    own = blocker(first) if found.blocker is None else None
    waits = found.blocker or (
        own if own is not None and own.what in ("failed", "deadline") else None
    )
    held = {"paused": "it is paused", "deferred": "it is not due yet"}.get(found.activity, "")
    each = view.runs.typical_us(state.spec.key)
    return PlanRow(
        state.spec.key,
        words[MISSING],
        words[STALE],
        words[WAITING],
        first.partition,
        state.space.key(rows[-1]),
        _why(found.causes),
        blocker_text(waits) if waits is not None else held,
        None if each is None else each * len(rows),
        tuple(state.space.key(i) for i in rows[:MAX_NAMED]),
    )


def _why(causes: tuple[StaleCause, ...]) -> str:
    words = {
        "missing": "never built",
        "code": "other code",
        "demanded": "asked for",
    }
    found = []
    for cause in causes[:3]:
        name = AssetPartition(cause.asset, cause.partition)
        found.append(
            words.get(cause.what)
            or (f"{name} changed" if cause.what == "input" else f"may follow {name}")
        )
    return ", ".join(dict.fromkeys(found))
