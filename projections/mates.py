"""Mates: assets that one function makes, so that one run makes all of them."""

from freshet.engine.keys import AssetPartition
from freshet.projections.cells import Cell
from freshet.projections.staleness import Staleness


class Mates:
    """Completes what is about to start, each run once. Who has no mates costs nothing."""

    def __init__(self, staleness: Staleness) -> None:
        self._staleness = staleness
        self._begun: set[AssetPartition] = set()

    def joined(self, group: list[Cell]) -> list[Cell]:
        """The partitions of one run that have to be built, with those made together with them; none
        if these have begun already, or one of them is still in a run that made it without its mates
        of now.
        """
        asking = group[0]
        together = asking.home.spec.together
        if not together:
            return group
        name = AssetPartition(together[0], asking.partition)
        found = [self._staleness.cell(key, asking.partition) for key in together]
        there = [cell for cell in found if cell is not None]
        if name in self._begun or any(cell.running for cell in there):
            return []
        self._begun.add(name)
        return there
