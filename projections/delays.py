"""Delays: live runs that take far longer than those before, to be said once while they last.

What is normal is learned from the asset's own recent runs when a run starts. A warning: nothing
else follows from it.
"""

from heapq import heappop, heappush

from freshet.engine.events import Recorded, RunDelayed, RunEnd, RunStarted
from freshet.projections.projection import Projection, at_the_end
from freshet.projections.runs import Runs
from freshet.projections.staleness import Staleness

ENOUGH = 10
"""Runs that succeeded, before any can be called slow: with fewer, nine of ten says nothing."""

TIMES = 3
"""So many times what nine of ten recent runs took at most: data that doubled is not yet news."""

AT_LEAST_US = 10_000_000
"""Beyond what nine of ten took: nobody wants to hear that 5 ms became 20."""


class Delays(Projection):
    """The projection: `found`, the live runs that were said to be slow. To be folded after runs and
    staleness.
    """

    def __init__(self, staleness: Staleness, runs: Runs) -> None:
        self.folds = {
            RunStarted: self._started,
            RunDelayed: self._delayed,
            **at_the_end(self._ended),
        }
        self.found: dict[int, RunDelayed] = {}
        self._staleness = staleness
        self._runs = runs
        self.waiting: list[tuple[int, int, int]] = []
        """A heap of (moment, run, what was expected) in µs; its first entry is always of a live run
        that nothing was said of yet.
        """

    def _delayed(self, event: RunDelayed, recorded: Recorded) -> None:
        if event.run in self._runs.live:
            self.found[event.run] = event
            self._trim()

    def _ended(self, event: RunEnd, recorded: Recorded) -> None:
        if self.found:
            self.found.pop(event.run, None)
        self._trim()

    def _trim(self) -> None:
        heap = self.waiting
        while heap and (heap[0][1] not in self._runs.live or heap[0][1] in self.found):
            heappop(heap)

    @property
    def next_at(self) -> int | None:
        """The moment (µs) at which the next live run will have taken too long."""
        return self.waiting[0][0] if self.waiting else None

    def findings(self, now: int) -> tuple[RunDelayed, ...]:
        """What to record at `now`. Costs the runs that have taken too long."""
        if not self.waiting or self.waiting[0][0] > now:
            return ()
        due = sorted(entry for entry in self.waiting if entry[0] <= now)
        alive = [one for one in due if one[1] in self._runs.live]
        return tuple(RunDelayed(run, expected) for _, run, expected in alive)

    def _started(self, event: RunStarted, recorded: Recorded) -> None:
        asset = event.targets[0].asset
        p90 = self._runs.p90_us(asset, of=ENOUGH)
        state = self._staleness.states.get(asset)
        if p90 is None or state is None:
            return
        expected = p90 * len(event.targets)
        wait = max(TIMES * expected, expected + AT_LEAST_US)
        timeout = state.spec.timeout_ms
        if timeout is None or timeout * 1000 >= wait:
            heappush(self.waiting, (recorded.recorded_at + wait, recorded.position, expected))


def delay_text(delayed: RunDelayed) -> str:
    """A slow run in words."""
    return (
        f"run {delayed.run} takes far longer than usual: nine of ten recent ones took at most"
        f" {delayed.expected_us / 1e6:.3g} s"
    )
