"""Sensors as the stream knows them: how far each has come, and whether it works."""

import msgspec

from freshet.engine.events import CursorMoved, Recorded, SensorFailed, SensorRecovered


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
    """The projection: `health` by sensor name."""

    def __init__(self) -> None:
        self.health: dict[str, SensorHealth] = {}

    def apply(self, recorded: Recorded) -> None:
        match recorded.event:
            case CursorMoved(sensor=sensor):
                self._put(sensor, recorded, moved=1)
            case SensorFailed(sensor=sensor, error=error):
                self._put(sensor, recorded, error=error or "failed")
            case SensorRecovered(sensor=sensor):
                self._put(sensor, recorded)
            case _:
                pass

    def _put(self, sensor: str, recorded: Recorded, *, moved: int = 0, error: str = "") -> None:
        before = self.health.get(sensor)
        moves = (before.moves if before is not None else 0) + moved
        self.health[sensor] = SensorHealth(
            sensor, recorded.position, recorded.recorded_at, moves, error
        )
