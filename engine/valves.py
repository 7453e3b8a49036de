"""Valves: one for each sensor, shut while the sensor is paused."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.lowlevel import checkpoint

from freshet.engine.events import CursorMoved, Paused, Recorded, Resumed
from freshet.projections.pauses import Pauses, sensor_scope
from freshet.projections.view import View


class Valve:
    """Whether one sensor may be read. Shutting it cancels the reading, but never in the middle of
    recording: a batch is taken whole, or not at all.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self._opened = anyio.Event()
        self._stirred = anyio.Event()
        self._reading: anyio.CancelScope | None = None
        self._recording: anyio.CancelScope | None = None
        self._ending = False

    def turn(self, *, is_open: bool) -> None:
        """Open or shut it; what it is already it stays."""
        self.is_open = is_open
        if is_open:
            self._opened.set()
        elif self._reading is not None:
            self._reading.cancel()

    def stir(self) -> None:
        """Have the sensor begin anew from its cursor, which somebody else has moved."""
        self._stirred.set()
        if self._reading is not None:
            self._reading.cancel()

    async def stirred(self) -> None:
        """Wait until somebody stirs, or has done so since the last reading began."""
        await self._stirred.wait()

    async def opened(self) -> None:
        """Wait until it is open."""
        while not self.is_open:
            self._opened = anyio.Event()
            await self._opened.wait()

    @contextmanager
    def reading(self) -> Iterator[anyio.CancelScope]:
        """The block that is cancelled when the valve is shut, and then ends without an error."""
        self._stirred = anyio.Event()
        try:
            with anyio.CancelScope() as self._reading:
                yield self._reading
        finally:
            self._reading = None

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """A part of `reading` that shutting does not cancel; only what cancels `guard` does."""
        with anyio.CancelScope(shield=True) as self._recording:
            if self._ending:
                self._recording.cancel()
            yield
        if self._recording.cancel_called:
            await checkpoint()  # where the cancellation that was kept off is raised

    async def guard(self) -> None:
        """Pass a cancellation on to what is being recorded; to be started beside the reading."""
        try:
            await anyio.sleep_forever()
        finally:
            self._ending = True
            if self._recording is not None:
                self._recording.cancel()


def actor_of(sensor: str) -> str:
    """Under which name a sensor's own events are recorded."""
    return f"sensor:{sensor}"


class Valves:
    """The valves of some sensors, turned by the pauses of a view; `heed` is a listener of its
    loop.
    """

    def __init__(self, sensors: Iterable[str], pauses: Pauses) -> None:
        self.of: dict[str, Valve] = {}
        self._by_scope: dict[str, Valve] = {}
        for name in sensors:
            self.add(name, pauses)

    def add(self, sensor: str, pauses: Pauses) -> None:
        """A new valve for this sensor, shut if it is paused."""
        scope = sensor_scope(sensor)
        self.of[sensor] = self._by_scope[scope] = Valve(is_open=scope not in pauses.scopes)

    def drop(self, sensor: str) -> None:
        """Forget the valve of a sensor that is read no more."""
        del self.of[sensor], self._by_scope[sensor_scope(sensor)]

    def heed(self, recorded: Recorded, view: View) -> None:
        """Turn the valve that a pause, or the end of one, is about; stir a sensor whose cursor
        somebody else has moved.
        """
        if isinstance(recorded.event, Paused | Resumed):
            scope = recorded.event.scope
            if scope in self._by_scope:
                self._by_scope[scope].turn(is_open=scope not in view.pauses.scopes)
        elif isinstance(recorded.event, CursorMoved):
            name = recorded.event.sensor
            if name in self.of and recorded.actor != actor_of(name):
                self.of[name].stir()
