"""Pauses: which scopes start nothing until they are resumed, and when a pause ends by itself.
Debts accrue meanwhile.
"""

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush

import msgspec

from freshet.engine.events import Paused, Recorded, Resumed
from freshet.engine.keys import AssetKey
from freshet.engine.specs import AssetSpec
from freshet.projections.projection import Projection

EVERYTHING = "*"
"""The scope of all assets. Sensors read on: what they see is owed, and paid on resume."""

TIME_IS_OVER = "its time is over"
"""The reason of a `Resumed` that the engine records when the `until` of a pause has come."""


class PauseRow(msgspec.Struct, frozen=True):
    """One pause as people are shown it; times in µs, `until_us` none for one without end."""

    scope: str
    reason: str
    actor: str | None
    position: int
    since_us: int
    until_us: int | None


class Pauses(Projection):
    """The projection: `scopes`, each with the pause that closed it.

    Pausing a scope again replaces its pause, and with it the time at which it ends.
    """

    def __init__(self) -> None:
        self.folds = {Paused: self._paused, Resumed: self._resumed}
        self.scopes: dict[str, Recorded] = {}
        self.ends: list[tuple[int, int, str]] = []
        """A heap of (until, position, scope); its first entry is always a pause that holds."""

    def _paused(self, event: Paused, recorded: Recorded) -> None:
        self.scopes[event.scope] = recorded
        if event.until is not None:
            heappush(self.ends, (event.until, recorded.position, event.scope))
        self._trim()

    def _resumed(self, event: Resumed, recorded: Recorded) -> None:
        held = self.scopes.get(event.scope)
        if held is not None and event.pause in (0, held.position):
            del self.scopes[event.scope]
        self._trim()

    def _trim(self) -> None:
        while self.ends and not self._holds(self.ends[0]):
            heappop(self.ends)

    def holding(self, spec: AssetSpec) -> Recorded | None:
        """The pause that keeps this asset from starting, or None."""
        if not self.scopes:
            return None
        for scope in asset_scopes(spec):
            if scope in self.scopes:
                return self.scopes[scope]
        return None

    def _holds(self, end: tuple[int, int, str]) -> bool:
        held = self.scopes.get(end[2])
        return held is not None and held.position == end[1]


def asset_scopes(spec: AssetSpec) -> tuple[str, ...]:
    """The scopes that hold an asset, the widest first; who is made together is held together."""
    return (EVERYTHING, *(spec.together or (spec.key,)), f"group:{spec.group}")


def sensor_scope(name: str) -> str:
    """The scope of a sensor."""
    return f"sensor:{name}"


def next_end(pauses: Pauses) -> int | None:
    """The moment (µs) at which the next pause ends by itself, or None. O(1)."""
    return pauses.ends[0][0] if pauses.ends else None


def ended_pauses(pauses: Pauses, now: int) -> tuple[Resumed, ...]:
    """What to record at `now` (µs): the end of each pause whose time has come, the first due first.

    Each names its pause, so that it leaves one alone that replaced it in the meantime.
    """
    end = next_end(pauses)
    if end is None or end > now:
        return ()
    due = sorted(
        (event.until, held.position, scope)
        for scope, held in pauses.scopes.items()
        if isinstance(event := held.event, Paused)
        and event.until is not None
        and event.until <= now
    )
    return tuple(Resumed(scope, TIME_IS_OVER, position) for _, position, scope in due)


def pause_rows(
    pauses: Pauses,
    specs: Iterable[AssetSpec] | None = None,
    feeds: Mapping[str, tuple[AssetKey, ...]] | None = None,
) -> tuple[PauseRow, ...]:
    """All pauses, or those that hold one of these assets or a sensor that feeds it, in the order
    in which they began. `feeds` says which sources each sensor reports.
    """
    if not pauses.scopes:
        return ()
    held = pauses.scopes
    if specs is not None:
        chosen = {spec.key: spec for spec in specs}
        named = {scope for spec in chosen.values() for scope in asset_scopes(spec)}
        for sensor, sources in (feeds or {}).items():
            if not chosen.keys().isdisjoint(sources):
                named.add(sensor_scope(sensor))
        held = {scope: pause for scope, pause in held.items() if scope in named}
    return tuple(map(_row, sorted(held.values(), key=lambda pause: pause.position)))


def _row(pause: Recorded) -> PauseRow:
    event = pause.event
    assert isinstance(event, Paused)
    return PauseRow(
        event.scope, event.reason, pause.actor, pause.position, pause.recorded_at, event.until
    )
