"""The pool: worker processes that have loaded the project and call functions of it, one at a time.

A worker lives on from run to run, as starting an interpreter and loading a project takes longer
than most functions do. It loads arguments, calls, stages and audits; the daemon publishes. It can
be killed at any moment with all it has started, and another one takes its place.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread

from freshet.engine.definitions import Definitions
from freshet.engine.errors import DefinitionError, FreshetError
from freshet.engine.executors.children import Child, ending
from freshet.engine.executors.frames import (
    Answer,
    Frames,
    Ready,
    Setup,
    Spoken,
    Submitted,
    Task,
    Told,
    Wanted,
    send,
)
from freshet.engine.executors.invoke import MAX_DETAIL_CHARS, Failed, Rejected, failure
from freshet.engine.project import Project
from freshet.engine.runlogs import SINK
from freshet.engine.stores.router import store_of
from freshet.engine.work import Work
from freshet.projections.catalog import Version

IDLE_S = 300.0
"""How long a worker without work is kept: it holds the memory of all that the project imports."""

START_S = 120.0
"""How long a worker may take to load the project: imports of large packages from a cold disk."""

MODULE = "freshet.engine.executors.worker"


def check_executors(project: Project) -> None:
    """Can the assets that ask for processes have them? Raises DefinitionError."""
    for asset in project.assets.values():
        if asset.executor != "process":
            continue
        if not project.origin:
            raise DefinitionError(
                f"asset '{asset.key}' runs in a process, which has to load the project, and nobody"
                f" knows where it is ({asset.where})",
                cause="the project was not loaded from a target, as `freshet run TARGET` does",
                hint="say it: Project(..., origin='package.module:project')",
            )
        if store_of(project.store, asset.key).in_memory:
            raise DefinitionError(
                f"asset '{asset.key}' runs in a process, and the store is in the memory of this one"
                f" ({asset.where})",
                hint="use fr.LocalStore, or leave executor= out",
            )


class Worker:
    """One worker process. Used by one thread at a time. Raises OSError, or Rejected when it cannot
    load the project.
    """

    def __init__(self, found: Definitions, folder: Path | None) -> None:
        self.generation = found.generation
        self.idle_since = 0.0
        self._frames = Frames()
        self._told: deque[Told] = deque()
        asked, self._ask = os.pipe()
        self._heard, tell = os.pipe()
        home = _stderr()
        try:
            numbers = map(str, (asked, tell, home, os.getpid()))
            self.child = Child(
                [sys.executable, "-P", "-m", MODULE, *numbers],
                os.environ,
                folder=folder,
                passed=(asked, tell, home),
                sources={self._heard: self._take},
            )
        except BaseException:
            os.close(self._ask)
            os.close(self._heard)
            raise
        finally:
            for descriptor in (asked, tell, home):
                os.close(descriptor)
        self._load(Setup(found.origin, found.digest, found.code, tuple(sys.path)))

    def do(self, work: Work) -> Answer:
        """Have it done: what it made, or how it failed, be it that it died. In a worker thread."""
        task = Task(work.order, work.versions, work.taken, work.previous, work.payloads)
        try:
            send(self._ask, task)
            while self.child.attend(lambda: bool(self._told)):
                while self._told:
                    told = self._told.popleft()
                    if isinstance(told, Spoken):
                        _speak(told)
                    elif isinstance(told, Wanted | Submitted):
                        send(self._ask, _reply(work, told))
                    elif not isinstance(told, Ready):
                        return told
        except BrokenPipeError:
            pass  # it died before it had read all
        except BaseException:
            self.end()  # it is in the middle of something, and of no use to others
            raise
        how = ending(self.end())
        said = self.child.last_words(MAX_DETAIL_CHARS)
        return Failed("error", f"its worker process {how} before it had answered", said)

    def end(self) -> int:
        """End it, and all it has started; returns its exit code, as `Child.end`."""
        if self._ask >= 0:
            self._code = self.child.end()
            os.close(self._ask)
            os.close(self._heard)
            self._ask = -1
        return self._code

    @property
    def is_alive(self) -> bool:
        """Can it be given another task?"""
        return self._ask >= 0 and not self.child.is_done

    def _load(self, setup: Setup) -> None:
        timer = threading.Timer(START_S, self.child.kill)
        timer.daemon = True
        timer.start()
        with suppress(BrokenPipeError):
            send(self._ask, setup)
            self.child.attend(lambda: any(isinstance(one, Ready) for one in self._told))
        timer.cancel()
        ready = next((one for one in self._told if isinstance(one, Ready)), None)
        self._told.clear()
        if ready is None:
            how = ending(self.end())
            raise _unready(f"a worker process {how} while it loaded the project")
        if ready.error:
            self.end()
            raise _unready(ready.error)

    def _take(self, data: bytes) -> None:
        self._told.extend(self._frames.feed(data))


class Pool:
    """The workers of an engine, at most `processes` at once."""

    def __init__(self, processes: int, folder: Path | None) -> None:
        self._folder = folder
        self._room = anyio.CapacityLimiter(processes)
        self._idle: list[Worker] = []
        self._changed = anyio.Event()
        # Always the same thread, for as long as the pool: Linux kills a worker when the thread ends
        # that has started it.
        self._starter = ThreadPoolExecutor(1, "freshet workers")

    @asynccontextmanager
    async def worker(self, wanted: Definitions) -> AsyncIterator[Worker]:
        """A worker of one's own that was started for these definitions; waits until there is room.
        Raises Rejected when there can be none.
        """
        async with self._room:
            found = await self._found(wanted.generation)
            if found is None:
                found = await anyio.to_thread.run_sync(self._start, wanted)
            try:
                yield found
            finally:
                with anyio.CancelScope(shield=True):
                    await self._give_back(found)

    async def keep(self) -> None:
        """End workers that have been idle for long, until cancelled."""
        while True:
            self._changed = anyio.Event()
            oldest = min((worker.idle_since for worker in self._idle), default=None)
            delay = None if oldest is None else max(0.0, oldest + IDLE_S - anyio.current_time())
            with anyio.move_on_after(delay):
                await self._changed.wait()
                continue
            due = anyio.current_time() - IDLE_S
            old = [worker for worker in self._idle if worker.idle_since <= due]
            self._idle = [worker for worker in self._idle if worker not in old]
            for worker in old:
                await anyio.to_thread.run_sync(worker.end)

    async def close(self) -> None:
        """End all workers."""
        while self._idle:
            await anyio.to_thread.run_sync(self._idle.pop().end)
        self._starter.shutdown(wait=False)

    async def _found(self, generation: int) -> Worker | None:
        """One that is idle; those that are dead, or were started for other definitions, are ended:
        of what an equal graph does not tell, such as helpers and stores, they may have another.
        """
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive and worker.generation == generation:
                return worker
            await anyio.to_thread.run_sync(worker.end)
        return None

    def _start(self, wanted: Definitions) -> Worker:
        try:
            return self._starter.submit(Worker, wanted, self._folder).result()
        except OSError as error:
            raise _unready(f"a worker process cannot be started: {error}") from error

    async def _give_back(self, worker: Worker) -> None:
        if not worker.is_alive:
            await anyio.to_thread.run_sync(worker.end)
            return
        worker.idle_since = anyio.current_time()
        self._idle.append(worker)
        self._changed.set()


def _unready(text: str) -> Rejected:
    """No fault of the function's: tried again until there is a worker for it."""
    return Rejected("infrastructure", text, passing=True)


def _reply(work: Work, asked: Wanted | Submitted) -> Version | Failed | None:
    try:
        if isinstance(asked, Wanted):
            return work.fetch(asked.position)
        anyio.from_thread.run(_record, work, asked.job)
    except (Rejected, FreshetError) as error:
        return failure(error)
    return None


async def _record(work: Work, job: str) -> None:
    if work.submitted is not None:
        await work.submitted(job)


def _speak(told: Spoken) -> None:
    sink = SINK.get()
    if sink is not None:
        sink.write(told.stream, told.text, told.level, told.fields)


def _stderr() -> int:
    """Where the project's own logs go, as in the daemon itself."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
