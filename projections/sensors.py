"""Sensors as the stream knows them: what each reports, how far it has come, whether it works."""

import msgspec

from freshet.engine.events import (
    CursorMoved,
    EngineStarted,
    Recorded,
    SensorFailed,
    SensorRecovered,
)
from freshet.engine.keys import AssetKey


class SensorHealth(msgspec.Struct, frozen=True):
    """A sensor's last sign of life (position and recorded time, µs) and its error, empty while it
    works.
    """

    sensor: str
    position: int
    recorded_at: int
    moves: int = 0
    error: str = ""


class Sensors:
    """The projection: `health` by sensor name, and `feeds`, the sources that each sensor of the
    project reports, as of the last start of a daemon.
    """

    def __init__(self) -> None:
        self.feeds: dict[str, tuple[AssetKey, ...]] = {}
        self.health: dict[str, SensorHealth] = {}

    def apply(self, recorded: Recorded) -> None:
        match recorded.event:
            case CursorMoved(sensor=sensor):
                self._put(sensor, recorded, moved=1)
            case SensorFailed(sensor=sensor, error=error):
                self._put(sensor, recorded, error=error or "failed")
            case SensorRecovered(sensor=sensor):
                self._put(sensor, recorded)
            case EngineStarted(sensors=sensors):
                self.feeds = sensors
            case _:
                pass

    def names(self) -> list[str]:
        """The sensors of the project, then those only known from what they once recorded."""
        return list(dict.fromkeys((*self.feeds, *self.health)))

    def _put(self, sensor: str, recorded: Recorded, *, moved: int = 0, error: str = "") -> None:
        before = self.health.get(sensor)
        moves = (before.moves if before is not None else 0) + moved
        self.health[sensor] = SensorHealth(
            sensor, recorded.position, recorded.recorded_at, moves, error
        )
