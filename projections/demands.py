"""Demands: the backfills there were, the newest last, and which of them were cancelled."""

from freshet.engine.events import DemandCancelled, Demanded, Recorded

BACKFILLS_KEPT = 100
"""Backfills remembered; older ones are in the stream."""


class Demands:
    """The projection: `backfills` by position, `cancelled` positions."""

    def __init__(self) -> None:
        self.backfills: dict[int, Recorded] = {}
        self.cancelled: set[int] = set()

    def apply(self, recorded: Recorded) -> None:
        match recorded.event:
            case Demanded(bulk=True):
                self.backfills[recorded.position] = recorded
                if len(self.backfills) > BACKFILLS_KEPT:
                    oldest = next(iter(self.backfills))
                    del self.backfills[oldest]
                    self.cancelled.discard(oldest)
            case DemandCancelled(demand=position) if position in self.backfills:
                self.cancelled.add(position)
            case _:
                pass
