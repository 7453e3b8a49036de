"""Makes checkpoints beside a daemon: `python -m freshet.engine.checkpointing STREAM`.

In a process of its own, and as nice as can be, so that nothing has to wait while a view is written
down. It reads the stream like anybody else.
"""

import os
import sys
from pathlib import Path

import anyio
import structlog

from freshet.engine.checkpoints import CHECKPOINT, EVERY, position_of, save, view_of
from freshet.engine.events import Recorded
from freshet.engine.sqlite_reader import SqliteReader
from freshet.projections.view import View

NICENESS = 10

log = structlog.get_logger("freshet.daemon")


class Checkpointing:
    """Has a checkpoint made whenever `every` events have come since the last one."""

    def __init__(self, stream: Path, every: int = EVERY) -> None:
        self._stream = stream
        self._every = every
        self._due_at = position_of(stream.with_name(CHECKPOINT)) + every
        self._due = anyio.Event()

    def heed(self, recorded: Recorded, _view: View) -> None:
        """Told of each event that was folded."""
        if recorded.position >= self._due_at:
            self._due.set()

    async def run(self) -> None:
        """Make them until cancelled. One that fails is said, and costs the next start some time."""
        while True:
            await self._due.wait()
            self._due = anyio.Event()
            command = [sys.executable, "-m", "freshet.engine.checkpointing", str(self._stream)]
            try:
                done = await anyio.run_process(command, check=False)
                said = done.stderr.decode("utf-8", "replace") if done.returncode else ""
            except OSError as error:  # no process can be started now
                said = str(error)
            if said:
                log.warning("no checkpoint", error=said.strip()[-300:])
            self._due_at = max(position_of(self._stream.with_name(CHECKPOINT)), self._due_at)
            self._due_at += self._every


async def make(path: Path) -> None:
    """Fold what came since the last checkpoint, and write the next."""
    async with SqliteReader.open(path) as stream:
        view = await view_of(stream, path.with_name(CHECKPOINT))
        await save(view, stream, path.with_name(CHECKPOINT))


if __name__ == "__main__":
    os.nice(NICENESS)
    anyio.run(make, Path(sys.argv[1]))
