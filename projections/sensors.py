"""Sensors as the stream knows them: what each reports, how far it has come, whether it works, and
what it could not let count.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec
from msgspec.structs import replace

from freshet.engine.events import (
    CursorMoved,
    EngineReloaded,
    EngineStarted,
    MessageRejected,
    MessageSettled,
    Recorded,
    SensorFailed,
    SensorRecovered,
    SourceChanged,
)
from freshet.engine.keys import AssetKey
from freshet.projections.pauses import Pauses, sensor_scope
from freshet.projections.projection import Projection

MAX_OPEN = 10_000
"""Rejected messages of a sensor that are kept by name; of more, only the newest, and their number.
"""

SensorState = Literal[
    "starting", "running", "retrying", "halted", "paused", "failed", "stopped"
]  # fmt: skip
"""How a sensor is. `failed`, `halted` and `stopped` (no daemon reads it) are known from the stream
alone, the others from a daemon.
"""


class SensorHealth(msgspec.Struct, frozen=True):
    """A sensor's last sign of life (position and recorded time, µs), how often its cursor has
    moved, and its error, empty while it works.
    """

    sensor: str
    position: int = 0
    recorded_at: int = 0
    moves: int = 0
    rejected: int = 0
    """Messages that were rejected and are not settled."""
    error: str = ""
    hint: str = ""
    halted: bool = False
    hindered: bool = False
    """Does it go on, in spite of its error?"""
    chosen: bool = False
    """Has a person chosen since it halted? Then it is tried again, at the latest by the next
    daemon.
    """


class Pulse:
    """How a sensor is that is being read right now; kept by its supervisor."""

    def __init__(self) -> None:
        self.state: SensorState = "starting"
        self.seen_us = 0
        self.behind: int | None = None
        self.batches = 0

    def beat(self, now_us: int, behind: int | None) -> None:
        """It has shown that it works."""
        self.state = "running"
        self.seen_us = now_us
        self.behind = behind
        self.batches += 1


class SensorRow(msgspec.Struct, frozen=True):
    """One sensor, as `freshet sensors` lists it: its state; when it last showed that it works (µs;
    0: never); how many changes wait outside, where that is known; how many it has brought, and how
    many it rejected that are not settled; what is wrong with it, and what to do.
    """

    sensor: str
    sources: tuple[AssetKey, ...]
    state: SensorState
    seen_us: int
    behind: int | None
    changes: int
    rejected: int
    error: str = ""
    hint: str = ""


TOLD = (CursorMoved, SensorFailed, SensorRecovered, MessageRejected, MessageSettled)
"""What sensors say of themselves."""


class Sensors(Projection):
    """The projection: `health` by sensor name, `feeds`, the sources that each sensor of the project
    reports, as of the last start or reload of a daemon, and `rejected`: by sensor and item the
    position at which it was rejected, unless it is settled.
    """

    def __init__(self) -> None:
        self.folds = {
            **dict.fromkeys(TOLD, self._told),
            SourceChanged: self._changed,
            EngineStarted: self._engine,
            EngineReloaded: self._engine,
        }
        self.feeds: dict[str, tuple[AssetKey, ...]] = {}
        self.health: dict[str, SensorHealth] = {}
        self.rejected: dict[str, dict[str, int]] = {}
        self.without_latest: frozenset[str] = frozenset()
        """Those of the project that cannot go on with what is yet to come."""
        self.changes: dict[str, int] = {}
        """Changes recorded, by actor: a sensor's is `sensor:` and its name."""

    def _changed(self, event: SourceChanged, recorded: Recorded) -> None:
        actor = recorded.actor or ""
        self.changes[actor] = self.changes.get(actor, 0) + 1

    def _engine(self, event: EngineStarted | EngineReloaded, recorded: Recorded) -> None:
        self.feeds = event.sensors
        self.without_latest = frozenset(event.without_latest)

    def _told(self, event: object, recorded: Recorded) -> None:
        match event:
            case CursorMoved(sensor=name) if recorded.actor in (None, sensor_scope(name)):
                self._put(name, recorded, moves=self._of(name).moves + 1)
            case CursorMoved(sensor=name) if self._of(name).halted:
                self.health[name] = replace(self._of(name), halted=False, chosen=True)
            case SensorFailed(sensor=name, error=error) as failed:
                self.health[name] = replace(
                    self._of(name),
                    error=error or "failed",
                    hint=failed.hint,
                    halted=failed.halted,
                    hindered=failed.hindered,
                    chosen=False,
                )
            case SensorRecovered(sensor=name):
                works = {"error": "", "hint": "", "halted": False}
                self._put(name, recorded, **works, hindered=False, chosen=False)
            case MessageRejected(sensor=name, item=item):
                found = self.rejected.setdefault(name, {})
                again = found.pop(item, 0)
                found[item] = recorded.position
                if len(found) > MAX_OPEN:
                    del found[next(iter(found))]
                self._put(name, recorded, rejected=self._of(name).rejected + (not again))
            case MessageSettled(sensor=name, item=item):
                self.rejected.get(name, {}).pop(item, None)
                self._put(name, recorded, rejected=max(0, self._of(name).rejected - 1))
            case _:
                pass

    def names(self) -> list[str]:
        """The sensors of the project, then those only known from what they once recorded."""
        return list(dict.fromkeys((*self.feeds, *self.health)))

    def _of(self, sensor: str) -> SensorHealth:
        return self.health.get(sensor) or SensorHealth(sensor)

    def _put(self, sensor: str, recorded: Recorded, **changed: object) -> None:
        """Note a sign of life, and what else has changed."""
        place = {"position": recorded.position, "recorded_at": recorded.recorded_at}
        self.health[sensor] = replace(self._of(sensor), **place, **changed)


def sensor_rows(
    sensors: Sensors,
    pauses: Pauses,
    pulses: Mapping[str, Pulse] | None = None,
    about: Collection[AssetKey] | None = None,
) -> tuple[SensorRow, ...]:
    """All sensors of the project, or those that report one of the sources named. `pulses` are those
    of the daemon that answers; without it nothing reads them.
    """
    return tuple(
        _row(sensors, pauses, name, sources, (pulses or {}).get(name))
        for name, sources in sensors.feeds.items()
        if about is None or not set(about).isdisjoint(sources)
    )


def _row(
    sensors: Sensors,
    pauses: Pauses,
    name: str,
    sources: Iterable[AssetKey],
    pulse: Pulse | None,
) -> SensorRow:
    health = sensors.health.get(name) or SensorHealth(name)
    state: SensorState
    if pulse is not None:
        state = "paused" if sensor_scope(name) in pauses.scopes else pulse.state
    elif health.error and not (health.hindered or health.chosen):
        state = "halted" if health.halted else "failed"
    else:
        state = "stopped"
    return SensorRow(
        name,
        tuple(sources),
        state,
        max(health.recorded_at, pulse.seen_us if pulse is not None else 0),
        pulse.behind if pulse is not None else None,
        sensors.changes.get(sensor_scope(name), 0),
        health.rejected,
        "" if health.chosen else health.error,
        "" if health.chosen else health.hint,
    )
