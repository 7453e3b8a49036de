"""Pools: how much of what is scarce is taken by live runs."""

from collections import Counter
from functools import cached_property
from typing import NamedTuple

from freshet.engine.specs import AssetSpec, PoolShare
from freshet.projections.runs import Runs
from freshet.projections.staleness import Staleness


class Full(NamedTuple):
    """A pool without room for one more run: the share asked for, how much is taken, and by which
    run that started first.
    """

    share: PoolShare
    taken: int
    run: int


class Room:
    """What is left of each pool, of which runs about to start take their shares. Who takes of no
    pool costs nothing.
    """

    def __init__(self, staleness: Staleness, runs: Runs) -> None:
        self._staleness = staleness
        self._runs = runs
        self._first: dict[str, int] = {}

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
            if taken + share.weight > share.limit:
                return Full(share, taken, self._first.get(share.pool, 0))
        return None

    def take(self, spec: AssetSpec) -> bool:
        """Let a run of this asset have its shares, if there is room in all of its pools."""
        if spec.pools and self.full(spec) is not None:
            return False
        for share in spec.pools:
            self._taken[share.pool] += share.weight
        return True
