"""Pauses: which scopes start nothing until they are resumed. Debts accrue meanwhile."""

from freshet.engine.events import Paused, Recorded, Resumed
from freshet.engine.specs import AssetSpec

EVERYTHING = "*"


class Pauses:
    """The projection: `scopes`, each with the pause that closed it."""

    def __init__(self) -> None:
        self.scopes: dict[str, Recorded] = {}

    def apply(self, recorded: Recorded) -> None:
        match recorded.event:
            case Paused(scope=scope):
                self.scopes[scope] = recorded
            case Resumed(scope=scope):
                self.scopes.pop(scope, None)
            case _:
                pass

    def holding(self, spec: AssetSpec) -> Recorded | None:
        """The pause that keeps this asset from starting, or None."""
        if not self.scopes:
            return None
        for scope in (EVERYTHING, spec.key, f"group:{spec.group}"):
            if scope in self.scopes:
                return self.scopes[scope]
        return None
