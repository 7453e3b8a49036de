"""Projects in files, for tests of what runs in other processes, and whether those are alive."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import psutil

from freshet.engine.daemon import daemon
from freshet.engine.events import AnyEvent, Recorded, RunFailed, SourceChanged
from freshet.engine.project import Project
from freshet.engine.running import Daemon
from freshet.engine.target import load_project, reload_project

PATIENCE_S = 60
"""Bound on waits for other processes that take a second when nothing is wrong."""


def project_in(folder: Path, text: str) -> Project:
    """The project of a file below the folder; its values lie there too."""
    path = folder / f"project_{uuid4().hex}.py"
    path.write_text(f"import freshet as fr\nFOLDER = {str(folder)!r}\n{text}")
    return load_project(str(path))


class Works:
    """A daemon at work on a project, in this process."""

    def __init__(self, running: Daemon) -> None:
        self.running = running
        self.loop = running.loop

    async def change(self, version: str, source: str = "raw", partition: str = "") -> None:
        await self.running.stream.append([SourceChanged(source, partition, version)])

    async def until(self, done: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not done():
                await anyio.sleep(0.005)

    async def ended(self, runs: int) -> None:
        """Wait until so many runs have succeeded or failed."""
        counts = self.running.view.runs.counts
        await self.until(lambda: counts["succeeded"] + counts["failed"] >= runs)

    async def history(self) -> list[Recorded]:
        return await self.running.stream.read()

    async def events(self) -> list[AnyEvent]:
        return [recorded.event for recorded in await self.history()]  # type: ignore[misc]  # all known

    async def failures(self) -> list[RunFailed]:
        return [event for event in await self.events() if isinstance(event, RunFailed)]


@asynccontextmanager
async def at_work(
    folder: Path, text: str, clock: Callable[[], int] | None = None
) -> AsyncIterator[Works]:
    """A daemon on the project in `text`, which it can reload, stopped at the end of the block."""
    project = project_in(folder, text)
    load = partial(reload_project, project.origin)
    async with daemon(project, folder / "state", clock=clock, load=load) as running:
        yield Works(running)
        running.stop("done")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def number_in(path: Path) -> int:
    """A number that another process writes into a file, once it has."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.005)
    raise AssertionError(f"nobody wrote {path}")


def wait_until_said(path: Path, words: str) -> None:
    """Until a file that another process writes has these words in it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (path.exists() and words in path.read_text()):
        assert time.monotonic() < deadline, f"{path} has no {words!r}"
        time.sleep(0.005)


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if is_alive(pid)]
        time.sleep(0.005)
