"""Sensing: the sensors that are being read, each for itself; started, exchanged and stopped while
everything else goes on.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from freshet.engine.lending import Lender, borrowing
from freshet.engine.stores.payloads import Payloads
from freshet.engine.stream import EventStream
from freshet.engine.supervisor import supervise
from freshet.engine.valves import Valve, Valves
from freshet.projections.sensors import Pulse
from freshet.projections.view import View
from freshet.sensors.sameness import is_same
from freshet.sensors.sensor import Sensor


class Exchange(NamedTuple):
    """Names of sensors: started, stopped, and started anew as they are configured otherwise."""

    started: tuple[str, ...]
    stopped: tuple[str, ...]
    renewed: tuple[str, ...]


class _Reading(NamedTuple):
    """One sensor being read. `before` are readings of the same name that may not have ended."""

    sensor: Sensor
    valve: Valve
    pulse: Pulse
    scope: anyio.CancelScope
    ended: anyio.Event
    before: tuple[anyio.Event, ...]


class Sensing:
    """Reads sensors into the stream, in the task group. `pulses` tells how they are."""

    def __init__(
        self,
        stream: EventStream,
        view: View,
        tasks: TaskGroup,
        *,
        rng: random.Random,
        payloads: Payloads,
        clock: Callable[[], int],
        lender: Lender,
    ) -> None:
        self.pulses: dict[str, Pulse] = {}
        self.valves = Valves((), view.pauses)
        self._stream = stream
        self._view = view
        self._tasks = tasks
        self._lender = lender
        self._supervise = partial(supervise, stream=stream, rng=rng, payloads=payloads, clock=clock)
        self._readings: dict[str, _Reading] = {}
        self._ending: dict[str, tuple[anyio.Event, ...]] = {}

    def exchange(self, sensors: Sequence[Sensor], *, same_code: bool = False) -> Exchange:
        """Read these from now on, and no others. One that is the same goes on undisturbed; of one
        that is not, the new one begins at the stored cursor, once the old one has ended.
        """
        wanted = {sensor.name: sensor for sensor in sensors}
        stopped = [name for name in self._readings if name not in wanted]
        for name in stopped:
            self._stop(name)
        started, renewed = [], []
        for name, sensor in wanted.items():
            old = self._readings.get(name)
            if old is None:
                started.append(name)
            elif not is_same(old.sensor, sensor, same_code=same_code):
                renewed.append(name)
            else:
                continue
            if old is not None:
                self._stop(name)
            self._start(sensor)
        return Exchange(tuple(started), tuple(stopped), tuple(renewed))

    def _stop(self, name: str) -> None:
        """End a reading, which may take a moment: the next of this name waits for it."""
        reading = self._readings.pop(name)
        reading.scope.cancel()
        self.valves.drop(name)
        del self.pulses[name]
        self._ending[name] = (
            reading.ended,
            *(event for event in reading.before if not event.is_set()),
        )

    def _start(self, sensor: Sensor) -> None:
        name = sensor.name
        self.valves.add(name, self._view.pauses)
        pulse = self.pulses[name] = Pulse()
        before = self._ending.pop(name, ())
        reading = self._readings[name] = _Reading(
            sensor, self.valves.of[name], pulse, anyio.CancelScope(), anyio.Event(), before
        )
        self._tasks.start_soon(self._read, reading, name=f"sensor {name}")

    async def _read(self, reading: _Reading) -> None:
        try:
            with reading.scope:
                for ended in reading.before:
                    await ended.wait()
                await self._supervise(
                    borrowing(reading.sensor, self._lender),
                    valve=reading.valve,
                    health=self._view.sensors.health.get(reading.sensor.name),
                    pulse=reading.pulse,
                )
        finally:
            reading.ended.set()
