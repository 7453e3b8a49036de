"""The supervisor: reads a sensor into the stream, exactly once; restarts it when it crashes, and
stops reading while it is paused.
"""

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

import anyio
import structlog
from msgspec.structs import replace

from freshet.engine.errors import OutsideError, SensorError, StreamError
from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    MessageRejected,
    MessageSettled,
    SensorFailed,
    SensorRecovered,
)
from freshet.engine.metadata import with_texts
from freshet.engine.persist import persist
from freshet.engine.secrets import has_secrets, is_told_in, redact
from freshet.engine.specs import Metadata
from freshet.engine.stores.payloads import Payloads
from freshet.engine.stream import EventStream, wall_clock
from freshet.engine.valves import Valve, actor_of
from freshet.projections.sensors import Pulse, SensorHealth
from freshet.sensors.sensor import REPLAY, START, Batch, Sensor, answers_of, excerpt

FIRST_BACKOFF_S = 0.5
"""Wait after a sensor's first crash."""

MAX_BACKOFF_S = 60.0
"""Longest wait: a minute, so that a repaired source is noticed soon."""

MAX_ERROR_CHARS = 500
"""Of a sensor's error kept in its event."""

EXPECTED = (OutsideError, OSError)
"""How Python, and we, say that something outside is not there: no fault of the code, so nobody need
see where in it that was.
"""

NO_TROUBLE = ("", "")

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
    """Run the sensor for ever. A crash is an event, once per episode; only a StreamError of this
    stream ends it.

    Changes and cursor are appended in one transaction before the sensor is asked for more, so a
    restart, here or in another process, goes on from exactly what is in the stream. So does a
    sensor whose `valve` was shut: its `run` is cancelled, and called again once it is open; and one
    whose cursor somebody else has moved. `health` is what the stream knew of it before: an episode
    may outlast a process. `pulse` is kept true for those who ask how it is. What comes with changes
    and is large goes to `payloads` before them.
    """
    supervised = _Supervised(sensor, stream, valve or Valve(), pulse or Pulse(), payloads, clock)
    if health is not None and health.hindered:
        supervised.trouble = (health.error, health.hint)
    elif health is not None:
        supervised.failed, supervised.halted = bool(health.error), health.halted
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
        self.failed = self.halted = self.crashed = False
        self.trouble = NO_TROUBLE
        self._stream_error: StreamError | None = None

    async def read(self, rng: random.Random) -> None:
        backoff = FIRST_BACKOFF_S
        while True:
            await self.valve.opened()
            works, began = self.pulse.batches, anyio.current_time()
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
            except anyio.get_cancelled_exc_class():
                if _is_being_cancelled():
                    raise
                failure = SensorFailed(self.sensor.name, "something it waited for was cancelled")
            except (Exception, SystemExit) as crash:  # recorded: as SensorFailed below
                if crash is self._stream_error:
                    raise
                failure = self._failure(crash)
            if not self._is_known(failure):
                await self._append([failure])
            self.failed, self.halted = True, failure.halted
            if failure.halted:
                self.pulse.state = "halted"
                await self.valve.stirred()
                self.halted = False  # somebody has chosen: should it halt again, that is news
                continue
            if self.pulse.batches > works and anyio.current_time() - began > backoff:
                backoff = FIRST_BACKOFF_S  # one that works for a moment only gets no quicker
            self.pulse.state = "retrying"
            with anyio.move_on_after(rng.uniform(backoff / 2, backoff)):
                await self.valve.stirred()
            backoff = min(backoff * 2, MAX_BACKOFF_S)

    async def _record(self, batch: Batch) -> None:
        name = self.sensor.name
        changes = batch.changes
        strange = {change.asset for change in changes}.difference(self.sensor.sources)
        if strange:
            raise ValueError(f"it reports {', '.join(sorted(strange))}, none of its sources")
        if has_secrets():
            _check_silent(batch)
            changes = [replace(one, metadata=_silent(one.metadata)) for one in changes]
        else:  # what the sensor has may change later
            changes = [replace(one, metadata=dict(one.metadata)) for one in changes]
        if self.payloads is not None and any(change.payload for change in changes):
            changes = await self.payloads.put_large(changes)
        events: list[AnyEvent] = [*changes]
        events += [
            MessageRejected(
                name,
                _sound(one.item),
                _sound(one.reason),
                excerpt(one.excerpt),
                _silent(one.metadata),
            )
            for one in batch.rejected
        ]
        events += [MessageSettled(name, _sound(one.item), one.accepted) for one in batch.settled]
        if batch.cursor:
            events.append(CursorMoved(name, dict(batch.cursor)))
        trouble = NO_TROUBLE
        if batch.trouble:
            trouble = (_sound(batch.trouble)[:MAX_ERROR_CHARS], _sound(batch.hint))
        if self.failed or trouble != self.trouble:
            events.append(self._hindered(*trouble) if batch.trouble else SensorRecovered(name))
        if events:
            async with self.valve.recording():
                await self._append(events)
        self.failed = self.halted = self.crashed = False
        self.trouble = trouble
        self.pulse.beat(self.clock(), batch.behind)

    async def _cursor(self) -> Mapping[str, str]:
        """The stored cursor; what people ask for that the sensor does not know is done here."""
        name = self.sensor.name
        cursor = await self.stream.cursor(name)
        answers = answers_of(self.sensor)
        moves: dict[str, str | None] = {}
        if START in cursor and START not in answers:
            moves = dict.fromkeys(cursor if cursor[START] == "earliest" else (START,))
        if REPLAY not in answers:  # being started anew, it looks at everything again
            moves |= {item: None for item in cursor if item.startswith(REPLAY)}
        if not moves:
            return cursor
        await self._append([CursorMoved(name, moves)])
        return await self.stream.cursor(name)

    def _hindered(self, trouble: str, hint: str) -> SensorFailed:
        log.warning("sensor is hindered", sensor=self.sensor.name, error=trouble, hint=hint)
        return SensorFailed(self.sensor.name, trouble, hint, hindered=True)

    def _failure(self, crash: BaseException) -> SensorFailed:
        name = self.sensor.name
        crash = _heart_of(crash)
        said = _told(crash)
        hint = _sound(crash.hint or "") if isinstance(crash, OutsideError | SensorError) else ""
        if isinstance(crash, SensorError):
            log.error("sensor halted", sensor=name, error=said, hint=hint)
        elif isinstance(crash, EXPECTED):
            log.warning("sensor cannot read", sensor=name, error=said, hint=hint)
        elif self.crashed:
            log.warning("sensor crashed again", sensor=name, error=said)
        else:
            self.crashed = True
            log.error("sensor crashed", sensor=name, error=said, exc_info=crash)
        return SensorFailed(name, said, hint, halted=isinstance(crash, SensorError))

    def _is_known(self, failure: SensorFailed) -> bool:
        """Has this episode been recorded, and is it no worse than that?"""
        return self.failed and (self.halted or not failure.halted)

    async def _append(self, events: Sequence[AnyEvent]) -> None:
        """Record what the sensor says; an error of the stream is not the sensor's."""
        try:
            await persist(self.stream, events, actor=self.actor)
        except StreamError as error:
            self._stream_error = error
            raise


def _check_silent(batch: Batch) -> None:
    """What cannot be changed without meaning something else must not hold a secret. Raises
    ValueError.
    """
    for one in batch.changes:
        if is_told_in(one.data_version) or is_told_in(one.partition):
            raise ValueError(f"a version or partition of '{one.asset}' holds a secret")
    if any(is_told_in(item) or is_told_in(at or "") for item, at in batch.cursor.items()):
        raise ValueError("its cursor holds a secret, and would be recorded")


def _silent(metadata: Metadata) -> Metadata:
    """Metadata without secrets, and of our own: what the sensor has may change later."""
    if not has_secrets():
        return dict(metadata)
    return {redact(name): with_texts(value, redact) for name, value in metadata.items()}


def _is_being_cancelled() -> bool:
    """Or did a cancellation come out of something that was awaited, and is an error like others?"""
    task = asyncio.current_task()
    return anyio.current_effective_deadline() == -math.inf or bool(task and task.cancelling())


def _heart_of(crash: BaseException) -> BaseException:
    """Of a group of errors, such as task groups raise, the one that counts: a SensorError, or the
    only one there is.
    """
    if not isinstance(crash, BaseExceptionGroup):
        return crash
    halting = crash.subgroup(SensorError)
    found: BaseException = halting or crash
    while isinstance(found, BaseExceptionGroup) and (halting or len(found.exceptions) == 1):
        found = found.exceptions[0]
    return found


def _told(crash: BaseException) -> str:
    """An error in words that can be recorded."""
    try:
        said = f"{type(crash).__name__}: {crash}"
        if isinstance(crash, OutsideError | SensorError):
            said = f"{crash.message}: {crash.cause}" if crash.cause else crash.message
    except Exception:  # recorded: that it is unreadable
        said = f"{type(crash).__name__}: (its text cannot be read)"
    return _sound(said)[:MAX_ERROR_CHARS]


def _sound(text: str) -> str:
    """The text without secrets, and without halves of characters, as names of files have that are
    not UTF-8.
    """
    return redact(text).encode("utf-8", "backslashreplace").decode()
