"""Mates: what one run makes together, and what must not run beside each other."""

from freshet.engine.keys import AssetPartition
from freshet.projections.cells import Cell
from freshet.projections.kills import is_suspect
from freshet.projections.staleness import Staleness


class Mates:
    """Completes what is about to start, each run once. Who has no mates, and was in no run when the
    engine was killed, costs nothing.
    """

    def __init__(self, staleness: Staleness) -> None:
        self._staleness = staleness
        self._begun: set[AssetPartition] = set()
        self._suspected = bool(staleness.live_suspects)

    def joined(self, group: list[Cell]) -> list[Cell]:
        """The partitions of one run that have to be built, with those made together with them; none
        if these have begun already, or one of them is still in a run that made it without its mates
        of now. None either for one under suspicion while another such one runs.
        """
        asking = group[0]
        together = asking.home.spec.together
        if asking.home.kills and not self._clear(group):
            return []
        if not together:
            return group
        name = AssetPartition(together[0], asking.partition)
        found = [self._staleness.cell(key, asking.partition) for key in together]
        there = [cell for cell in found if cell is not None]
        if name in self._begun or any(cell.running for cell in there):
            return []
        self._begun.add(name)
        return there

    def _clear(self, group: list[Cell]) -> bool:
        """May it run beside all that runs? One under suspicion waits for its turn."""
        if not any(is_suspect(cell.home, cell.i) for cell in group):
            return True
        first, self._suspected = not self._suspected, True
        return first
