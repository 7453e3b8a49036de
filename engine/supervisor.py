"""The supervisor: reads a sensor into the stream, exactly once; restarts it when it crashes, and
stops reading while it is paused.
"""

import random
from collections.abc import Callable, Mapping
from contextlib import aclosing

import anyio
import structlog

from freshet.engine.errors import SensorError, StreamError
from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    MessageRejected,
    MessageSettled,
    SensorFailed,
    SensorRecovered,
)
from freshet.engine.persist import persist
from freshet.engine.stores.payloads import Payloads
from freshet.engine.stream import EventStream, wall_clock
from freshet.engine.valves import Valve, actor_of
from freshet.projections.sensors import Pulse, SensorHealth
from freshet.sensors.sensor import REPLAY, START, Batch, Sensor, excerpt

FIRST_BACKOFF_S = 0.5
"""Wait after a sensor's first crash."""

MAX_BACKOFF_S = 60.0
"""Longest wait: a minute, so that a repaired source is noticed soon."""

MAX_ERROR_CHARS = 500
"""Of a sensor's error kept in its event."""

log = structlog.get_logger("freshet.sensors")


async def supervise(
    sensor: Sensor,
    stream: EventStream,
    rng: random.Random,
    valve: Valve | None = None,
    *,
    health: SensorHealth | None = None,
    pulse: Pulse | None = None,
    payloads: Payloads | None = None,
    clock: Callable[[], int] = wall_clock,
) -> None:
    """Run the sensor for ever. A crash is an event, once per episode; only a StreamError ends this.

    Changes and cursor are appended in one transaction before the sensor is asked for more, so a
    restart, here or in another process, goes on from exactly what is in the stream. So does a
    sensor whose `valve` was shut: its `run` is cancelled, and called again once it is open; and one
    whose cursor somebody else has moved. `health` is what the stream knew of it before: an episode
    may outlast a process. `pulse` is kept true for those who ask how it is. What comes with changes
    and is large goes to `payloads` before them.
    """
    supervised = _Supervised(sensor, stream, valve or Valve(), pulse or Pulse(), payloads, clock)
    supervised.failed = health is not None and bool(health.error)
    supervised.halted = health is not None and health.halted
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervised.valve.guard)
        await supervised.read(rng)


class _Supervised:
    """One sensor at work, and how it is."""

    def __init__(
        self,
        sensor: Sensor,
        stream: EventStream,
        valve: Valve,
        pulse: Pulse,
        payloads: Payloads | None,
        clock: Callable[[], int],
    ) -> None:
        self.sensor = sensor
        self.stream = stream
        self.valve = valve
        self.pulse = pulse
        self.payloads = payloads
        self.clock = clock
        self.actor = actor_of(sensor.name)
        self.failed = self.halted = False

    async def read(self, rng: random.Random) -> None:
        backoff = FIRST_BACKOFF_S
        while True:
            await self.valve.opened()
            works = self.pulse.batches
            try:
                with self.valve.reading() as reading:
                    self.pulse.state = "starting"
                    async with aclosing(self.sensor.run(await self._cursor())) as batches:
                        async for batch in batches:
                            await self._record(batch)
                if reading.cancel_called:
                    said = "sensor starts anew" if self.valve.is_open else "sensor paused"
                    log.info(said, sensor=self.sensor.name)
                    continue
                failure = SensorFailed(self.sensor.name, "it ended by itself")
            except StreamError:
                raise
            except Exception as crash:  # recorded: as SensorFailed below
                failure = self._failure(crash)
            await self._say(failure)
            if failure.halted:
                self.pulse.state = "halted"
                await self.valve.stirred()
                continue
            if self.pulse.batches > works:
                backoff = FIRST_BACKOFF_S
            self.pulse.state = "retrying"
            with anyio.move_on_after(rng.uniform(backoff / 2, backoff)):
                await self.valve.stirred()
            backoff = min(backoff * 2, MAX_BACKOFF_S)

    async def _record(self, batch: Batch) -> None:
        name = self.sensor.name
        changes = batch.changes
        if self.payloads is not None and any(change.payload for change in changes):
            changes = await self.payloads.put_large(changes)
        events: list[AnyEvent] = [*changes]
        events += [
            MessageRejected(name, one.item, one.reason, excerpt(one.excerpt), one.metadata)
            for one in batch.rejected
        ]
        events += [MessageSettled(name, one.item, one.accepted) for one in batch.settled]
        if batch.cursor:
            events.append(CursorMoved(name, dict(batch.cursor)))
        if self.failed:
            events.append(SensorRecovered(name))
        if events:
            async with self.valve.recording():
                await persist(self.stream, events, actor=self.actor)
        self.failed = self.halted = False
        self.pulse.beat(self.clock(), batch.behind)

    async def _cursor(self) -> Mapping[str, str]:
        """The stored cursor; what people ask for that the sensor does not know is done here."""
        name = self.sensor.name
        cursor = await self.stream.cursor(name)
        answers: frozenset[str] = getattr(self.sensor, "answers", frozenset())
        moves: dict[str, str | None] = {}
        if START in cursor and START not in answers:
            moves = dict.fromkeys(cursor if cursor[START] == "earliest" else (START,))
        if REPLAY not in answers:  # being started anew, it looks at everything again
            moves |= {item: None for item in cursor if item.startswith(REPLAY)}
        if not moves:
            return cursor
        await persist(self.stream, [CursorMoved(name, moves)], actor=self.actor)
        return await self.stream.cursor(name)

    def _failure(self, crash: Exception) -> SensorFailed:
        name = self.sensor.name
        if isinstance(crash, SensorError):
            said = f"{crash.message}: {crash.cause}" if crash.cause else crash.message
            log.error("sensor halted", sensor=name, error=said, hint=crash.hint)
            return SensorFailed(name, said[:MAX_ERROR_CHARS], crash.hint or "", halted=True)
        said = f"{type(crash).__name__}: {crash}"[:MAX_ERROR_CHARS]
        if self.failed:
            log.warning("sensor crashed again", sensor=name, error=said)
        else:
            log.error("sensor crashed", sensor=name, error=said, exc_info=crash)
        return SensorFailed(name, said)

    async def _say(self, failure: SensorFailed) -> None:
        """Record the failure, unless the episode is known already."""
        if not self.failed or (failure.halted and not self.halted):
            await persist(self.stream, [failure], actor=self.actor)
        self.failed, self.halted = True, failure.halted
