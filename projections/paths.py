"""Paths: how long runs take, and how late the promises downstream let each asset start.

The time of an asset is the 90th percentile of its recent runs, or a stated guess until there are
some. Its *slack* is the time from a change to the latest start that keeps every promise at or below
it: `slack(u) = min(lag(u), min over consumers c of slack(c)) - time(u)`.
"""

from collections.abc import Callable
from heapq import heappop, heappush

from freshet.engine.keys import AssetKey
from freshet.engine.policies import MaxLag
from freshet.projections.marks import NOTHING
from freshet.projections.runs import Runs
from freshet.projections.states import AssetState

GUESS_US = 1_000_000
"""Taken for the time of an asset that never ran: a second."""

STEADY = 0.8
"""A time is believed until runs take longer, or less than so much of it: so slack seldom moves."""


class Paths:
    """Times, slacks and lengths by asset, in µs."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self.slack: dict[AssetKey, int] = {}
        """Of assets with a promise at or below them; it may be negative."""
        self.strictest: dict[AssetKey, int] = {}
        """The promised lag (by plan) that the slack comes from."""
        self.length: dict[AssetKey, int] = {}
        """The longest time of a way that ends with this asset, over what is not a wall."""
        self._times: dict[AssetKey, int] = {}

    def time_us(self, asset: AssetKey) -> int:
        """How long a run of this asset is taken to last."""
        found = self._times.get(asset) or self._runs.p90_us(asset)
        return found if found is not None else GUESS_US

    def deploy(self, order: list[AssetState], *, learning: bool) -> None:
        """Other definitions: all anew. Costs assets and edges. `learning`: told of runs from here
        on, which it need not be while nobody asks for slack or length.
        """
        if not learning:
            self._times = {}
        for state in order if learning else ():
            self._note(state.spec.key)
        self.slack, self.strictest, self.length = {}, {}, {}
        for state in order:
            self._set_length(state)
        for state in reversed(order):
            self._set_slack(state)

    def learn(self, state: AssetState) -> None:
        """A run of this asset ended; costs the assets whose slack or length moves."""
        if not self._note(state.spec.key):
            return
        _spread(state, self._set_slack, lambda here: [link.up for link in here.up], -1)
        _spread(state, self._set_length, lambda here: [link.down for link in here.down], 1)

    def _note(self, key: AssetKey) -> bool:
        """Take on how long recent runs took; is that something new?"""
        found, before = self._runs.p90_us(key), self._times.get(key)
        if found is None or (before is not None and STEADY * before <= found <= before):
            return False
        self._times[key] = found
        return True

    def _set_slack(self, state: AssetState) -> bool:
        """Work one slack out from those below. Has it changed?"""
        if state.is_wall:
            return False
        key, policy = state.spec.key, state.spec.policy
        lag_us = policy.planned_ms * 1000 if isinstance(policy, MaxLag) else NOTHING
        found = lag_us
        for link in state.down:
            below = link.down.spec.key
            if not link.is_self and self.slack.get(below, NOTHING) < found:
                found, lag_us = self.slack[below], self.strictest[below]
        if found == NOTHING:
            return self.slack.pop(key, None) is not None
        found -= self.time_us(key)
        changed = self.slack.get(key) != found
        self.slack[key], self.strictest[key] = found, lag_us
        return changed

    def _set_length(self, state: AssetState) -> bool:
        """Work one length out from those above. Has it changed?"""
        if state.is_wall:
            return False
        key = state.spec.key
        above = [self.length.get(link.up.spec.key, 0) for link in state.up if not link.is_self]
        found = self.time_us(key) + max(above, default=0)
        changed = self.length.get(key) != found
        self.length[key] = found
        return changed


def _spread(
    start: AssetState,
    update: Callable[[AssetState], bool],
    following: Callable[[AssetState], list[AssetState]],
    direction: int,
) -> None:
    """Update assets in topological order (or against it) for as long as something changes."""
    pending = [(direction * start.index, start)]
    seen = {start.index}
    while pending:
        _, here = heappop(pending)
        for other in following(here) if update(here) else ():
            if other.index not in seen:
                seen.add(other.index)
                heappush(pending, (direction * other.index, other))
