"""The supervisor: reads a sensor into the stream, exactly once; restarts it when it crashes, and
stops reading while it is paused.
"""

import random
from contextlib import aclosing

import anyio
import structlog

from freshet.engine.errors import StreamError
from freshet.engine.events import AnyEvent, CursorMoved, SensorFailed, SensorRecovered
from freshet.engine.persist import persist
from freshet.engine.stream import EventStream
from freshet.engine.valves import Valve
from freshet.sensors.sensor import Sensor

FIRST_BACKOFF_S = 0.5
"""Wait after a sensor's first crash."""

MAX_BACKOFF_S = 60.0
"""Longest wait: a minute, so that a repaired source is noticed soon."""

MAX_ERROR_CHARS = 500
"""Of a sensor's error kept in its event."""

log = structlog.get_logger("freshet.sensors")


async def supervise(
    sensor: Sensor, stream: EventStream, rng: random.Random, valve: Valve | None = None
) -> None:
    """Run the sensor for ever. A crash is an event, once per episode; only a StreamError ends this.

    Changes and cursor are appended in one transaction before the sensor is asked for more, so a
    restart, here or in another process, goes on from exactly what is in the stream. So does a
    sensor whose `valve` was shut: its `run` is cancelled, and called again once it is open.
    """
    valve = valve or Valve()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(valve.guard)
        await _read(sensor, stream, rng, valve)


async def _read(sensor: Sensor, stream: EventStream, rng: random.Random, valve: Valve) -> None:
    failed = False
    backoff = FIRST_BACKOFF_S
    while True:
        await valve.opened()
        try:
            with valve.reading() as reading:
                async with aclosing(sensor.run(await stream.cursor(sensor.name))) as batches:
                    async for batch in batches:
                        events: list[AnyEvent] = [
                            *batch.changes,
                            CursorMoved(sensor.name, batch.cursor),
                        ]
                        if failed:
                            events.append(SensorRecovered(sensor.name))
                        async with valve.recording():
                            await persist(stream, events, actor=f"sensor:{sensor.name}")
                        failed, backoff = False, FIRST_BACKOFF_S
            if reading.cancel_called:
                log.info("sensor paused", sensor=sensor.name)
                continue
            error: str = "it ended by itself"
        except StreamError:
            raise
        except Exception as crash:  # recorded: as SensorFailed below
            error = f"{type(crash).__name__}: {crash}"[:MAX_ERROR_CHARS]
            log.error("sensor crashed", sensor=sensor.name, error=error, exc_info=crash)
        if not failed:
            await persist(stream, [SensorFailed(sensor.name, error)], actor=f"sensor:{sensor.name}")
            failed = True
        await anyio.sleep(rng.uniform(backoff / 2, backoff))
        backoff = min(backoff * 2, MAX_BACKOFF_S)
