"""Pace: when a sensor that has to look looks again."""

from collections.abc import Awaitable, Callable

import anyio
import msgspec

from freshet.engine.clock import SteadyClock
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError
from freshet.engine.ticks import cron_problem, next_tick

LONGEST_SLEEP_S = 30.0
"""How long is slept at most at once: timers stand still while a machine is suspended."""

MIN_EVERY_MS = 10
"""The shortest time between two looks: below it looking is all that is done."""


class Pace(msgspec.Struct, frozen=True):
    """A look every so many milliseconds, or at the ticks of a cron expression."""

    every_ms: int = 0
    cron: str = ""
    tz: str = "UTC"

    def next_us(self, began_us: int, now_us: int) -> int:
        """When to look again after a look that began and ended at these times (µs). What was missed
        meanwhile is not made up for: one look sees everything.
        """
        if self.cron:
            return next_tick(self.cron, self.tz, now_us + 1)
        return max(began_us + self.every_ms * 1000, now_us)


class Pacer:
    """Keeps a pace. `clock` gives microseconds since the epoch, and never goes back."""

    def __init__(
        self,
        pace: Pace,
        clock: Callable[[], int] | None = None,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        self.clock = clock or SteadyClock()
        self._pace = pace
        self._sleep = sleep

    async def rest(self, began_us: int) -> None:
        """Sleep until it is time again, after a look that began then."""
        due = self._pace.next_us(began_us, self.clock())
        while (left_us := due - self.clock()) > 0:
            await self._sleep(min(left_us / 1_000_000, LONGEST_SLEEP_S))


def pace_of(every: float | str | None, cron: str | None, tz: str, what: str) -> Pace:
    """The pace as it was declared. Raises DefinitionError."""
    if (every is None) == (cron is None):
        raise DefinitionError(
            f"{what}: every={every!r}, cron={cron!r}",
            cause="exactly one of them says when it looks",
            hint='for example every="30s", or cron="*/15 * * * *"',
        )
    if every is not None:
        every_ms = parse_duration_ms(every, f"{what}: every")
        if every_ms < MIN_EVERY_MS:
            raise DefinitionError(
                f"{what}: every={every!r} is too often", hint=f"use {MIN_EVERY_MS}ms or more"
            )
        return Pace(every_ms)
    problem = cron_problem(cron, tz)
    if problem:
        raise DefinitionError(
            f"{what}: cron={cron!r}, tz={tz!r}: {problem}",
            hint='for example cron="*/15 * * * *", tz="Europe/Berlin"',
        )
    return Pace(cron=str(cron), tz=tz)
