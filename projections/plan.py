"""The plan: what is not as it should be, upstream first, and what each asset's turn waits for."""

import msgspec

from freshet.engine.keys import AssetKey, AssetPartition
from freshet.projections.causes import StaleCause, blocker, blocker_text
from freshet.projections.cells import Cell
from freshet.projections.marks import MISSING, STALE, WAITING
from freshet.projections.states import AssetState
from freshet.projections.view import View


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

    @property
    def partitions(self) -> int:
        return self.missing + self.stale + self.waiting


def plan_of(view: View, assets: list[AssetKey]) -> list[PlanRow]:
    """What of these assets is not fresh, upstream first: running it makes them so. Empty when there
    is nothing to do.
    """
    wanted = set(assets)
    return [
        row
        for state in view.staleness.order
        if state.spec.key in wanted and not state.is_source
        for row in _row(view, state)
    ]


def _row(view: View, state: AssetState) -> list[PlanRow]:
    counts = state.counts()
    left = counts["missing"] + counts["stale"] + counts["waiting"]
    if not left:
        return []
    words = (MISSING, STALE, WAITING)
    first = min(i for word in words if (i := state.state.find(word)) >= 0)
    last = max(state.state.rfind(word) for word in words)
    cell = Cell(state, first)
    found = view.status_of(cell)
    own = blocker(cell) if found.blocker is None else None
    waits = found.blocker or (
        own if own is not None and own.what in ("failed", "deadline") else None
    )
    held = "it is paused" if found.activity == "paused" else ""
    each = view.runs.typical_us(state.spec.key)
    return [
        PlanRow(
            state.spec.key,
            counts["missing"],
            counts["stale"],
            counts["waiting"],
            state.space.key(first),
            state.space.key(last),
            _why(found.causes),
            blocker_text(waits) if waits is not None else held,
            None if each is None else each * left,
        )
    ]


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
