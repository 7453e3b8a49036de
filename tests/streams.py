"""Streams in memory that do as a test wants."""

from collections.abc import Callable, Sequence

import anyio
from anyio.lowlevel import checkpoint

from freshet.engine.events import AnyEvent, Unknown
from freshet.engine.memory import MemoryStream
from freshet.engine.stream import wall_clock


class Gated(MemoryStream):
    """A stream that remembers each append, and takes as long for one as the test wants; what is to
    happen right before and after it can be planned.
    """

    def __init__(self, clock: Callable[[], int] = wall_clock) -> None:
        super().__init__(clock)
        self.appends: list[list[AnyEvent | Unknown]] = []
        self.entered = 0
        self.appending = anyio.Event()
        self.may = anyio.Event()
        self.may.set()
        self.before: Callable[[], None] | None = None
        self.after: Callable[[], None] | None = None

    async def append(
        self,
        events: Sequence[AnyEvent | Unknown],
        *,
        key: str | None = None,
        expected: int | None = None,
        actor: str | None = None,
    ) -> range:
        self.entered += 1
        self.appending.set()
        await self.may.wait()
        if self.before is not None:
            self.before()
        positions = await super().append(events, key=key, expected=expected, actor=actor)
        self.appends.append(list(events))
        if self.after is not None:
            self.after()
            await checkpoint()
        return positions
