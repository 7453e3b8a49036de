"""The daemon's clock: time that never goes back, whatever is done to the clock of the machine.

    the machine's clock …               … and this one
    is ahead of it (NTP, wake-up)       goes with it, at once
    is behind it (was set back)         goes on, 9 seconds in 10, until they meet

So no timer fires twice, because no moment comes twice; and none stops for an hour, because time
always goes on. Summer time is no matter: this is UTC, which has none.
"""

import time
from collections.abc import Callable

from freshet.engine.stream import wall_clock

SLOWED = (9, 10)
"""The speed while the machine's clock is behind: an hour is made up in ten, and a timer of a minute
is at most seven seconds late.
"""


def monotonic_clock() -> int:
    """Microseconds since some moment; never set, and standing still while the machine sleeps."""
    return time.monotonic_ns() // 1000


class SteadyClock:
    """Microseconds since the epoch, UTC, from the call; never less than from an earlier call.

    `wall` is the clock of the machine, which may be set; `monotonic` tells how much time has really
    passed. Time does not begin before `not_before`, the newest moment already recorded. Not
    thread-safe: one event loop.
    """

    def __init__(
        self,
        wall: Callable[[], int] = wall_clock,
        monotonic: Callable[[], int] = monotonic_clock,
        not_before: int = 0,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._anchor = (not_before, monotonic())
        """When time last was that of the machine: what was told, and the monotonic time of it."""

    def __call__(self) -> int:
        wall, now = self._wall(), self._monotonic()
        slowed = self._slowed(now)
        if wall < slowed:
            return slowed
        self._anchor = (wall, now)
        return wall

    def begin(self, not_before: int) -> None:
        """From now on time is at least this (µs); what is in the past already changes nothing."""
        now = self._monotonic()
        self._anchor = (max(not_before, self._slowed(now)), now)

    def _slowed(self, now: int) -> int:
        told, told_at = self._anchor
        return told + (now - told_at) * SLOWED[0] // SLOWED[1]
