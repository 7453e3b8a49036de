"""A seeded event loop on which time is a number: it jumps to the next timer when nothing is left
to do now.

There is no selector, so nothing outside can be awaited. What is ready runs in an order that the
seed decides and nothing else: tasks are put in the order of their making before they are shuffled,
as sets of tasks (anyio's cancel scopes have some) come in any order.
"""

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

import anyio

from freshet.engine.errors import FreshetError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_STILL = 100_000
"""Callbacks run without time passing or anything being recorded: a run needs some twenty."""

MAX_INSTANT = 20_000_000
"""Callbacks run without time passing, whatever is recorded: a million runs at one moment."""

RESOLUTION_S = 1e-6
"""Timers this near are due together. A float still tells microseconds apart after centuries."""

THREAD_PATIENCE_S = 60.0
"""Real time that an async function may spend in a worker thread; virtual time waits for it."""


class LivelockError(FreshetError):
    """Something goes on for ever at one moment, or waits for what cannot come: time cannot
    pass.
    """


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose clock starts at 0 s and moves only in `run_to`.

    The same seed and the same work give the same order of everything, in any process. Executors
    run inline. Of anyio's worker threads there is one at a time while `threads` is its limiter, and
    the loop waits for it.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        self.threads: anyio.CapacityLimiter | None = None
        self._clock_resolution = RESOLUTION_S
        self._selector = self
        self._random = random.Random(f"order {seed}")
        self._now = 0.0
        self._horizon = 0.0
        self._made = 0
        self._still = 0
        self._instant = 0
        self._home = threading.get_ident()
        self._inbox: deque[asyncio.Handle] = deque()
        self._reported = threading.Event()

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def run_to(self, when: float) -> None:
        """Run everything due up to `when` (s, to the µs), that included; then it is `when`.

        Raises LivelockError when time cannot get there.
        """
        self._horizon = max(round(when, 6), self._now)
        self._still = self._instant = 0
        self.run_forever()

    def next_timer(self) -> float | None:
        """The next moment (s) at which something happens by itself."""
        if self._scheduled and not self._scheduled[0].cancelled():
            return self._scheduled[0].when()
        return min((t.when() for t in self._scheduled if not t.cancelled()), default=None)

    def progressed(self) -> None:
        """Tell the watch for livelocks that something was achieved."""
        self._still = 0

    # --- what asyncio asks of a loop ----------------------------------------------------------

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """A task that knows its number."""
        task: asyncio.Task[T] = super().create_task(coro, name=name, context=context)
        self._made += 1
        task.freshet_number = self._made  # type: ignore[attr-defined]  # tasks have a __dict__
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call it here and now."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # recorded: in the future that is awaited
            future.set_exception(error)
        return future

    def select(self, timeout: float | None) -> list[Any]:
        """In place of a selector: asked before each round what has happened outside."""
        if not self._ready and self.threads is not None and self.threads.borrowed_tokens:
            self._await_thread()
        if not self._ready and self._inbox:
            self._ready.append(self._inbox.popleft())
        if self._ready:
            self._count()
            self._order()
        elif self._scheduled and self._scheduled[0].when() < self._horizon + RESOLUTION_S:
            self._still = self._instant = 0
            self._now = max(self._now, self._scheduled[0].when())
        else:
            self._now = self._horizon
            self.stop()
        return []

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """From another thread: heard once nothing else is left to do, so at no random moment."""
        if threading.get_ident() == self._home:
            return self.call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._inbox.append(handle)
        self._reported.set()
        return handle

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    # --- order --------------------------------------------------------------------------------

    def _order(self) -> None:
        """Callbacks as they came, then the tasks in an order that only the seed decides."""
        if len(self._ready) < 2:
            return
        others: list[asyncio.Handle] = []
        tasks: list[tuple[int, asyncio.Handle]] = []
        for handle in self._ready:
            number = _number(handle)
            if number:
                tasks.append((number, handle))
            else:
                others.append(handle)
        if len(tasks) > 1:
            tasks.sort(key=_first)
            self._random.shuffle(tasks)
        self._ready.clear()
        self._ready.extend(others)
        self._ready.extend(handle for _, handle in tasks)

    def _count(self) -> None:
        self._still += len(self._ready)
        self._instant += len(self._ready)
        if self._still <= MAX_STILL and self._instant <= MAX_INSTANT:
            return
        tasks = {h._callback.__self__ for h in self._ready if _number(h)}  # type: ignore[attr-defined]
        busy = sorted(task.get_name() for task in tasks)
        raise LivelockError(
            f"time stands still at {self._now:g} s: {min(self._still, self._instant)} steps and no"
            f" end; busy: {', '.join(busy[:4]) or 'no task'}",
            cause="something waits by asking again and again, such as a loop over sleep(0)",
            hint="wait for an event, or sleep for a time above 0",
        )

    def _await_thread(self) -> None:
        """Whatever a worker thread does takes no virtual time."""
        while not self._inbox:
            if not self._reported.wait(THREAD_PATIENCE_S):
                raise LivelockError(
                    f"time stands still at {self._now:g} s: a worker thread has not come back in"
                    f" {THREAD_PATIENCE_S:g} s of real time",
                    hint="do not wait in threads for what happens in virtual time",
                )
            self._reported.clear()


def _number(handle: asyncio.Handle) -> int:
    """The number of the task that a handle goes on with; 0 for other callbacks."""
    owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return getattr(owner, "freshet_number", 0)


def _first(pair: tuple[int, asyncio.Handle]) -> int:
    return pair[0]
