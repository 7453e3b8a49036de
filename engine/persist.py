"""Append what must not be lost: while the disk is full, say so, wait, and try again."""

from collections.abc import Sequence

import anyio
import structlog

from freshet.engine.errors import NotRecordedError
from freshet.engine.events import AnyEvent
from freshet.engine.stream import EventStream

RETRY_S = 1.0
"""Between two tries: soon enough once there is space, too seldom to be noticed
while there is none.
"""

log = structlog.get_logger("freshet.stream")


async def persist(
    stream: EventStream, events: Sequence[AnyEvent], *, actor: str | None = None
) -> range:
    """Append the events and return their positions, however long that takes.

    Only NotRecordedError is waited out: every other StreamError is raised, as by `append`. Callers
    are held up meanwhile, so nothing new starts and no sensor reads on: the engine is read-only.
    """
    said = False
    while True:
        try:
            positions = await stream.append(events, actor=actor)
        except NotRecordedError as error:
            if not said:
                log.error("cannot record", error=error.message, cause=error.cause, hint=error.hint)
            said = True
            await anyio.sleep(RETRY_S)
            continue
        if said:
            log.info("recording again", position=positions[-1])
        return positions
