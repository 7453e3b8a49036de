"""Pools: how much of what is scarce is taken by live runs."""

from collections import Counter
from functools import cached_property
from typing import NamedTuple

from freshet.engine.keys import AssetKey
from freshet.engine.specs import GROUP, AssetSpec, PoolShare
from freshet.projections.cells import Cell
from freshet.projections.marks import BULK, LIVE
from freshet.projections.runs import Runs
from freshet.projections.staleness import Staleness
from freshet.projections.states import AssetState

KEPT_AFTER_US = 60_000_000
"""Who wants several of a pool and has owed for a minute has the next room there kept for it: long
enough that what takes a moment goes first, short enough that nobody waits for the night.
"""


class Full(NamedTuple):
    """A pool without room for one more run: the share asked for, how much is taken, and by which
    run that started first; or which asset the rest is kept for.
    """

    share: PoolShare
    taken: int
    run: int
    kept_for: AssetKey = ""


class Room:
    """What is left of each pool, of which runs about to start take their shares. Who takes of no
    pool costs nothing.
    """

    def __init__(self, staleness: Staleness, runs: Runs) -> None:
        self._staleness = staleness
        self._runs = runs
        self._first: dict[str, int] = {}
        self._kept: dict[str, AssetKey] = {}

    @cached_property
    def _taken(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for run in self._runs.live.values():
            state = self._staleness.states.get(run.event.targets[0].asset)
            for share in state.spec.pools if state is not None else ():
                found[share.pool] += share.weight
                self._first.setdefault(share.pool, run.run)
        return found

    def full(self, spec: AssetSpec) -> Full | None:
        """The first pool that has no room for a run of this asset; None if all have."""
        for share in spec.pools:
            taken = self._taken[share.pool]
            kept_for = self._kept.get(share.pool, "")
            if kept_for or taken + share.weight > share.limit:
                return Full(share, taken, self._first.get(share.pool, 0), kept_for)
        return None

    def take(self, spec: AssetSpec) -> bool:
        """Let a run of this asset have its shares, if there is room in all of its pools."""
        if spec.pools and self.full(spec) is not None:
            return False
        for share in spec.pools:
            self._taken[share.pool] += share.weight
        return True

    def may_keep(self, spec: AssetSpec) -> bool:
        """Does it want more than one of a pool that is kept for nobody yet?"""
        return any(one.weight > 1 and one.pool not in self._kept for one in spec.pools)

    def keep_for(self, spec: AssetSpec) -> None:
        """From here on, keep the pools of which this asset wants more than one for it: else many
        who want one each would always be quicker. Not if it waits for something else as well.
        """
        small = [share for share in spec.pools if share.weight == 1]
        if all(self._taken[one.pool] < one.limit and one.pool not in self._kept for one in small):
            for share in spec.pools:
                if share.weight > 1:
                    self._kept.setdefault(share.pool, spec.key)


def room_kept(staleness: Staleness, runs: Runs, asking: AssetState, now: int) -> Room:
    """The room there is for an asset, less what is kept for others that are ready."""
    room = Room(staleness, runs)
    pools = {share.pool for share in asking.spec.pools}
    for state in staleness.ready if pools else ():
        if state is asking or pools.isdisjoint(one.pool for one in state.spec.pools):
            continue
        first = Cell(state, first_ready(state, LIVE if state.ready_counts[LIVE] else BULK))
        long = waited_us(staleness, first, now) >= KEPT_AFTER_US
        if long and room.full(state.spec) is not None:
            room.keep_for(state.spec)
    return room


def full_text(full: Full) -> str:
    """What waits for room in a pool waits for this."""
    pool, limit = full.share.pool, full.share.limit
    if full.kept_for:
        return f"for room in the pool '{pool}', which is kept for {full.kept_for}"
    if pool.startswith(GROUP):
        group = pool.removeprefix(GROUP)
        return f"for one of the runs that the group '{group}' may have at once, {limit} in all"
    return f"for room in the pool '{pool}', of which {full.taken} of {limit} is taken"


def first_ready(state: AssetState, kind: int) -> int:
    """The ready row of an asset that is next in turn; -1 if there is none."""
    i = state.ready.find(kind, state.cursor)
    return i if i >= 0 else state.ready.find(kind)


def waited_us(staleness: Staleness, cell: Cell, now: int) -> int:
    """How long (µs) a row has owed what it could pay: waiting for inputs does not count."""
    timed = staleness.timed.at.get(cell)
    able = cell.home.ready_us if timed is None else timed
    return max(0, now - max(able, staleness.marks.at.get(cell.owed, now)))
