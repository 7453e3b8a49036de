"""Checks: what each of them last said of each asset partition."""

from typing import NamedTuple

from freshet.engine.events import CheckEvaluated, Recorded
from freshet.engine.keys import AssetPartition
from freshet.projections.projection import Projection


class Verdict(NamedTuple):
    """Position of the event that says it, and whether the value passed."""

    position: int
    passed: bool


class Checks(Projection):
    """The projection: `last` by asset partition and name of the check. What else was said is read
    from the stream at those positions.
    """

    def __init__(self) -> None:
        self.folds = {CheckEvaluated: self._evaluated}
        self.last: dict[AssetPartition, dict[str, Verdict]] = {}

    def _evaluated(self, event: CheckEvaluated, recorded: Recorded) -> None:
        found = self.last.setdefault(AssetPartition(event.asset, event.partition), {})
        found[event.check] = Verdict(recorded.position, event.passed)
