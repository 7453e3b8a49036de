"""Call an asset's function, in a thread or on the loop, and turn every way it can end into
a value.
"""

import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec

from freshet.engine.errors import FreshetError
from freshet.engine.events import FailureKind

MAX_ERROR_CHARS = 300
"""Of the message of a failure kept in its event; with the detail it stays well below 1 kB of
stream.
"""

MAX_DETAIL_CHARS = 900
"""Of the end of the traceback kept in the event: the frames nearest to the fault."""


T = TypeVar("T")

ENDINGS = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)
"""All that user code can end in, but for being cancelled."""


class Failed(msgspec.Struct, frozen=True):
    """An attempt that produced nothing: what kind of failure, in a line, and the end of its
    traceback.
    """

    kind: FailureKind
    error: str
    detail: str = ""


class Permit:
    """The right to publish, taken by exactly one side: the work that finished, or the timeout that
    gave up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False

    def take(self) -> bool:
        """True for the first who asks, False for everybody after."""
        with self._lock:
            first, self._taken = not self._taken, True
            return first


class Rejected(Exception):
    """Raised by the steps around an asset's function to say which kind of failure this is."""

    def __init__(self, kind: FailureKind, error: str) -> None:
        self.kind = kind
        self.error = error
        super().__init__(error)


def failure(error: BaseException) -> Failed:
    """A failure in words, from whatever was raised."""
    if isinstance(error, Rejected):
        return Failed(error.kind, _shorten(error.error))
    if isinstance(error, SystemExit):
        return Failed("exit", f"called sys.exit({error.code!r})", _tail(error))
    if isinstance(error, FreshetError):
        return Failed("store", _shorten(str(error)), _tail(error))
    return Failed("error", _shorten(f"{type(error).__name__}: {error}"), _tail(error))


async def in_thread(
    work: Callable[[Permit], T], timeout: float | None, limiter: anyio.CapacityLimiter
) -> T | Failed:
    """Run `work` in a worker thread; after `timeout` seconds give up on it and leave it behind."""
    permit = Permit()

    def guarded() -> T | Failed:
        try:
            return work(permit)
        except BaseException as error:  # recorded: as the run's failure
            return failure(error)

    with anyio.move_on_after(timeout):
        return await anyio.to_thread.run_sync(guarded, abandon_on_cancel=True, limiter=limiter)
    return _timed_out(timeout)


async def on_loop(work: Callable[[], Awaitable[T]], timeout: float | None) -> T | Failed:
    """Await `work` on the event loop; after `timeout` seconds it is cancelled."""
    with anyio.move_on_after(timeout) as scope:
        try:
            return await work()
        except anyio.get_cancelled_exc_class():
            if scope.cancel_called:
                return _timed_out(timeout)
            raise
        except ENDINGS as error:  # recorded: as the run's failure
            return failure(error)
    return _timed_out(timeout)


def _timed_out(timeout: float | None) -> Failed:
    return Failed("timeout", f"still running after its timeout of {timeout or 0:g} s")


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "…"


def _tail(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)).strip()
    return text if len(text) <= MAX_DETAIL_CHARS else "…" + text[-MAX_DETAIL_CHARS + 1 :]
