"""Surroundings: what there is around one run besides its inputs — its log, a folder to write in,
and the processes that work for it.
"""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from freshet.engine.executors.children import FOLDER as CHILDREN
from freshet.engine.executors.children import Child
from freshet.engine.executors.invoke import Rejected
from freshet.engine.runlogs import RunLog

SCRATCH = "scratch"
"""The folder inside the state folder where runs may write; gone when they have ended."""


class Surroundings:
    """What surrounds one run. Of a run outside of an engine, as in a test or a simulation, there is
    no log, and the folder is a temporary one.
    """

    def __init__(self, log: RunLog | None = None, state: Path | None = None, run: int = 0) -> None:
        self.log = log
        self._state = state
        self._run = run
        self._lock = threading.Lock()
        self._children: list[Child] = []
        self._given_up = False
        self._scratch: Path | None = None

    def scratch(self) -> Path:
        """A folder of its own to write in, removed at the end of the run."""
        if self._scratch is None:
            if self._state is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="freshet-"))
            else:
                self._scratch = (self._state / SCRATCH / str(self._run)).absolute()
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch.mkdir(parents=True)
        return self._scratch

    @property
    def children_folder(self) -> Path | None:
        """Where children are noted, so that the next daemon finds them."""
        return self._state / CHILDREN if self._state is not None else None

    @contextmanager
    def attended(self, child: Child) -> Iterator[None]:
        """While this lasts, the child works for the run, and is killed with it. Raises Rejected if
        the run was given up already.
        """
        with self._lock:
            self._children.append(child)
            late = self._given_up
        try:
            if late:
                child.kill()
                raise Rejected("error", "given up")
            yield
        finally:
            with self._lock:
                self._children.remove(child)

    def kill(self) -> None:
        """End all processes that work for the run, and let it start no more."""
        with self._lock:
            self._given_up = True
            for child in self._children:
                child.kill()

    def close_log(self) -> None:
        """The run has ended: what comes later is not kept."""
        if self.log is not None:
            self.log.close()

    @property
    def has_scratch(self) -> bool:
        """Has it written anything that is to be cleared?"""
        return self._scratch is not None

    def clear(self) -> None:
        """Remove the folder of its own."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


AROUND: ContextVar[Surroundings | None] = ContextVar("freshet_surroundings", default=None)
"""What surrounds the run in which this code is called."""
