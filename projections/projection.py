"""What every projection is: a fold for each type of event that concerns it."""

from collections.abc import Callable
from typing import Any

from freshet.engine.events import Recorded, RunEnd

Fold = Callable[[Any, Recorded], None]
"""Takes an event, and the same with its place in history."""


def at_the_end(fold: Fold) -> dict[type[object], Fold]:
    """The same fold for each way in which a run may end."""
    return dict.fromkeys(RunEnd.__args__, fold)


class Projection:
    """A state of something, folded from the stream. Only `apply` changes it."""

    folds: dict[type[object], Fold]
    """By type of event. No other event concerns it."""

    def heeds(self, kind: type[object]) -> Fold | None:
        """What folds events of this type, if they concern it."""
        return self.folds.get(kind)

    def apply(self, recorded: Recorded) -> None:
        """Fold the next event."""
        fold = self.heeds(type(recorded.event))
        if fold is not None:
            fold(recorded.event, recorded)
