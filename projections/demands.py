"""Demands: the backfills there were, the newest last, and which of them were cancelled."""

from freshet.engine.events import DemandCancelled, Demanded, Recorded
from freshet.projections.projection import Projection

BACKFILLS_KEPT = 100
"""Backfills remembered; older ones are in the stream."""


class Demands(Projection):
    """The projection: `backfills` by position, `cancelled` positions."""

    def __init__(self) -> None:
        self.folds = {Demanded: self._demanded, DemandCancelled: self._cancelled}
        self.backfills: dict[int, Recorded] = {}
        self.cancelled: set[int] = set()

    def _demanded(self, event: Demanded, recorded: Recorded) -> None:
        if not event.bulk:
            return
        self.backfills[recorded.position] = recorded
        if len(self.backfills) > BACKFILLS_KEPT:
            oldest = next(iter(self.backfills))
            del self.backfills[oldest]
            self.cancelled.discard(oldest)

    def _cancelled(self, event: DemandCancelled, recorded: Recorded) -> None:
        if event.demand in self.backfills:
            self.cancelled.add(event.demand)
