"""The workshop: what surrounds the runs of an engine in its state folder — their logs, folders to
write in, and the processes they have started.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import structlog

from freshet.engine.capture import captured
from freshet.engine.executors.children import FOLDER as CHILDREN
from freshet.engine.executors.children import end_left_behind
from freshet.engine.executors.pool import Pool
from freshet.engine.executors.surroundings import AROUND, SCRATCH, Surroundings
from freshet.engine.runlogs import FOLDER, SINK, RunLogs

log = structlog.get_logger("freshet.daemon")


class Workshop:
    """What surrounds all runs of an engine, in its state folder; without one there are no logs."""

    def __init__(self, state: Path | None = None, pool: Pool | None = None) -> None:
        self.pool = pool
        self._state = state
        self._logs = RunLogs(state / FOLDER) if state is not None else None

    def enter(self, run: int) -> Surroundings:
        """Surround what is done from here on in this task: it belongs to the run."""
        log = self._logs.of(run) if self._logs is not None else None
        found = Surroundings(log, self._state, run)
        SINK.set(log)
        AROUND.set(found)
        return found


@asynccontextmanager
async def open_workshop(state: Path, processes: int) -> AsyncIterator[Workshop]:
    """The workshop of an engine, for as long as the block lasts; what runs of an earlier one left
    behind is ended and removed first.
    """
    left = await anyio.to_thread.run_sync(_clean_up, state)
    if left:
        log.warning("ended what runs of an earlier daemon left behind", processes=left)
    pool = Pool(processes, state / CHILDREN)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.keep, name="idle workers")
        try:
            with captured():
                yield Workshop(state, pool)
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await pool.close()


def _clean_up(state: Path) -> int:
    ended = end_left_behind(state / CHILDREN)
    shutil.rmtree(state / SCRATCH, ignore_errors=True)
    return ended
