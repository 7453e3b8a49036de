"""Standing: how a row stands that owes and has not started, for who may go on without it."""

from freshet.projections.cells import (
    SHUT,
    absent_rows,
    is_lacking,
    link_owed,
    matters,
    must_run,
    owing_rows,
    threshold,
    wanted,
)
from freshet.projections.marks import DEFERRED, MOVING, STUCK
from freshet.projections.states import AssetState, Link


def standstill(state: AssetState, i: int, open_: int) -> int:
    """How a row stands that owes, but neither runs nor is listed: see `marks.MOVING`. `open_`: its
    gate.
    """
    if open_ == SHUT or must_run(state, i):
        if not wanted(state, i):
            return DEFERRED
        if open_ != SHUT:
            return STUCK
    floor = threshold(state, i)
    standings: set[int] = set()
    for link in state.up:
        up = link.up
        if link.rule == "wait" and open_ == SHUT and is_lacking(link, i):
            if up.is_wall:
                return STUCK
            standings.update(up.stalled[j] for j in absent_rows(link, i) if up.exists[j])
            standings.update((STUCK,) if _is_nowhere(link, i) else ())
        elif up.tells:
            rows = (j for j in owing_rows(link, i, floor) if up.exists[j] and matters(link, j))
            standings.update(up.stalled[j] for j in rows)
        elif link_owed(link, i, coming=True) <= floor:
            standings.add(MOVING)
    if open_ == SHUT and STUCK in standings:
        return STUCK
    for found in (MOVING, DEFERRED):
        if found in standings:
            return found
    return MOVING if open_ == SHUT else STUCK


def _is_nowhere(link: Link, i: int) -> bool:
    """Does a partition not even exist that the row waits for over this edge? Of what has no end it
    reads what there is.
    """
    up = link.up
    if link.whole or link.last:
        return not up.existing
    asked = filter(up.space.valid, link.lane.reads(i, up.n))
    here = [j < up.n and bool(up.exists[j]) for j in asked]
    return not any(here) if link.lane.open_ended or not here else not all(here)
