"""Jobs: work that runs have done elsewhere, and that goes on when they are cut off."""

from freshet.engine.events import JobSubmitted, Recorded, RunStarted
from freshet.engine.keys import AssetPartition
from freshet.engine.parts import Target
from freshet.projections.projection import Projection, at_the_end
from freshet.projections.runs import Runs


class Jobs(Projection):
    """The projection: by the first asset partition of a run, the job it submitted and for which
    inputs and code; until a run of it ends otherwise than by being cut off. To be folded after
    runs.
    """

    def __init__(self, runs: Runs) -> None:
        self.folds = {JobSubmitted: self._submitted, **at_the_end(self._ended)}
        self._runs = runs
        self._open: dict[AssetPartition, tuple[Target, str]] = {}

    def _submitted(self, event: JobSubmitted, recorded: Recorded) -> None:
        run = self._runs.live.get(event.run)
        if run is not None:
            first = run.event.targets[0]
            self._open[AssetPartition(first.asset, first.partition)] = (first, event.job)

    def _ended(self, event: object, recorded: Recorded) -> None:
        if self._open and self._runs.ended and not self._runs.cut_off:
            first = self._runs.ended[0]
            self._open.pop(AssetPartition(first.asset, first.partition), None)

    def job_for(self, started: RunStarted) -> str:
        """The job that was submitted for the same inputs and code; empty if there is none."""
        if not self._open:
            return ""
        first = started.targets[0]
        found = self._open.get(AssetPartition(first.asset, first.partition))
        if found is None:
            return ""
        before, job = found
        same = (before.fingerprint, before.code_version) == (first.fingerprint, first.code_version)
        return job if same else ""
