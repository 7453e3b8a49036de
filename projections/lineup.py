"""A line-up: assets in the order in which their turn comes."""

from freshet.projections.states import AssetState

SLACK = 64
"""Places that may be empty before those who wait close up."""


class Lineup(dict[AssetState, None]):
    """Who waits, the next first. To go through it costs those who wait: a dict alone costs as many
    as ever waited at once, as it keeps the places of those who left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = 0

    def join(self, state: AssetState) -> None:
        """It comes last; nothing if it waits already."""
        self[state] = None

    def leave(self, state: AssetState) -> None:
        """It waits no more, if it did."""
        if state not in self:
            return
        del self[state]
        self._left += 1
        if self._left > 2 * len(self) + SLACK:
            rest = list(self)
            self.clear()
            self.update(dict.fromkeys(rest))
            self._left = 0
