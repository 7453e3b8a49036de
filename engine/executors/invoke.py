"""Call an asset's function, in a thread or on the loop, and turn every way it can end into
a value.
"""

import asyncio
import math
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec

from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, Fatal, FreshetError, Retry, StoreError
from freshet.engine.events import CheckEvaluated
from freshet.engine.parts import FailureKind
from freshet.engine.secrets import redact
from freshet.engine.stores.outages import is_outage

MAX_ERROR_CHARS = 300
"""Of the message of a failure kept in its event; with the detail it stays well below 1 kB of
stream.
"""

MAX_DETAIL_CHARS = 900
"""Of the end of the traceback kept in the event: the frames nearest to the fault."""

KILL_S = 5.0
"""How long is waited for the end of what was killed: the kernel may hold it in a call to a disk."""

MAX_AFTER_MS = 365 * 86_400_000
"""Longest wait a function may ask for: a year, of which a calendar still has a name."""

CLEAN_UP_S = 10.0
"""How long an async function that is cancelled may take to put things in order."""

T = TypeVar("T")

ENDINGS = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)
"""All that user code can end in, but for being cancelled."""


class Failed(msgspec.Struct, frozen=True):
    """An attempt that produced nothing: what kind of failure, in a line, and its traceback's end.

    `passing`: the cause is outside and passes by itself; tried again whatever `retries` says.
    `after_ms`: how long the function wants to wait before it is tried again.
    """

    kind: FailureKind
    error: str
    detail: str = ""
    passing: bool = False
    found: tuple[CheckEvaluated, ...] = ()
    """What the checks said of what it was about to publish."""
    after_ms: int | None = None


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

    def __init__(
        self, kind: FailureKind, error: str, *, passing: bool = False, detail: str = ""
    ) -> None:
        self.kind = kind
        self.error = error
        self.detail = detail
        self.passing = passing
        super().__init__(error)


def saying(error: BaseException) -> str:
    """What was raised, in a line."""
    if isinstance(error, FreshetError | Rejected):
        return _shorten(str(error))
    return _shorten(f"{type(error).__name__}: {_text(error)}")


def failure(error: BaseException) -> Failed:
    """A failure in words, from whatever was raised."""
    if isinstance(error, Rejected):
        return Failed(error.kind, _shorten(error.error), error.detail, error.passing)
    wish = _wish_in(error)
    if isinstance(wish, Retry):
        return _later(wish, _tail(error))
    if wish is not None:
        return Failed("fatal", _shorten(_text(wish)), _tail(error))
    if isinstance(error, SystemExit):
        return Failed("exit", _shorten(f"called sys.exit({_text(error)})"), _tail(error))
    if isinstance(error, FreshetError):
        away = isinstance(error, StoreError) and is_outage(error)
        kind: FailureKind = "infrastructure" if away else "store"
        return Failed(kind, _shorten(str(error)), _tail(error), passing=away)
    return Failed("error", _shorten(f"{type(error).__name__}: {_text(error)}"), _tail(error))


def _wish_in(error: BaseException) -> Fatal | Retry | None:
    """What the function says about the next attempt, also out of a task group: of several, that
    there be none.
    """
    if isinstance(error, Fatal | Retry):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    found = [_wish_in(one) for one in error.exceptions]
    fatal = (one for one in found if isinstance(one, Fatal))
    return next(fatal, None) or next((one for one in found if one is not None), None)


def _later(wish: Retry, detail: str) -> Failed:
    """A failure that is to be tried again, after a time if one is named that can be read."""
    text, after_ms = _text(wish), None
    try:
        if wish.after is not None:
            after_ms = min(parse_duration_ms(wish.after, "after"), MAX_AFTER_MS)
    except ENDINGS as error:  # recorded: beside what it said
        text = f"{text} ({error.message if isinstance(error, DefinitionError) else _text(error)})"
    return Failed("retry", _shorten(text), detail, after_ms=after_ms)


async def in_thread(
    work: Callable[[Permit], T],
    timeout: float | None,
    limiter: anyio.CapacityLimiter,
    late: Callable[[T | Failed], object] | None = None,
    kill: Callable[[], None] | None = None,
) -> T | Failed:
    """Run `work` in a worker thread; after `timeout` seconds give up on it and leave it behind.
    With `kill`, which makes it end at once, its end is awaited: nothing is left behind.

    Giving up takes the permit, so what comes late is not published; if `work` has it already, it is
    publishing, and the timeout came too late. `late` is told, on the event loop, how work ended
    that had been given up.
    """
    permit = Permit()
    finished = threading.Event()
    outcome: list[T | Failed] = []
    given_up = threading.Event()

    def guarded() -> None:
        try:
            outcome.append(work(permit))
        except BaseException as error:  # recorded: as the run's failure
            outcome.append(failure(error))
        finally:
            finished.set()
            if late is not None and given_up.is_set():
                with suppress(RuntimeError):  # the event loop has come to its end meanwhile
                    anyio.from_thread.run_sync(late, outcome[0])

    try:
        with anyio.move_on_after(timeout):
            await anyio.to_thread.run_sync(guarded, abandon_on_cancel=True, limiter=limiter)
            return outcome[0]
    except anyio.get_cancelled_exc_class():
        if permit.take():
            given_up.set()
            if kill is not None:
                with anyio.CancelScope(shield=True):
                    await _killed(kill, finished)
            raise
        # It is publishing: nobody may cut in, so its end is awaited, and is what there is.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(finished.wait)
        return outcome[0]
    if permit.take():
        given_up.set()
        if kill is not None:
            await _killed(kill, finished)
        return _timed_out(timeout)
    with anyio.CancelScope(shield=True):  # it is publishing, as above
        await anyio.to_thread.run_sync(finished.wait)
    return outcome[0]


async def apart(work: Coroutine[Any, Any, T], stubborn: set[Any]) -> T:
    """Await `work` as a task of its own: cancelled, it is told so once, and has `CLEAN_UP_S` for
    what it has to put in order. One that goes on all the same is left behind, among the `stubborn`.
    """
    task = asyncio.ensure_future(_told(work))
    try:
        found, error = await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.done():
            raise
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=CLEAN_UP_S)
        if not task.done():
            stubborn.add(task)
        raise
    try:
        if error is not None:
            raise error
        return found[0]
    finally:
        # The error has this frame in its traceback: all that the run had would stay until the
        # collector looks at what is old, which in a daemon is seldom.
        del task, error


async def _told(work: Coroutine[Any, Any, T]) -> tuple[list[T], BaseException | None]:
    """What it came to, also what would end the loop were it raised in a task (SystemExit)."""
    try:
        return [await work], None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # recorded: raised again where it is awaited
        return [], error


async def _killed(kill: Callable[[], None], finished: threading.Event) -> None:
    kill()
    await anyio.to_thread.run_sync(lambda: finished.wait(KILL_S), abandon_on_cancel=True)


async def on_loop(work: Callable[[], Awaitable[T]], timeout: float | None) -> T | Failed:
    """Await `work` on the event loop; after `timeout` seconds it is cancelled."""
    with anyio.move_on_after(timeout) as scope:
        try:
            return await work()
        except anyio.get_cancelled_exc_class() as error:
            if scope.cancel_called:
                return _timed_out(timeout)
            if is_cancelled():
                raise
            return failure(error)  # nobody has asked for that but itself
        except BaseException as error:  # recorded: as the run's failure
            return failure(error)
    return _timed_out(timeout)


def is_cancelled() -> bool:
    """Has somebody cancelled what is done here?"""
    return anyio.current_effective_deadline() == -math.inf


def _timed_out(timeout: float | None) -> Failed:
    return Failed("timeout", f"still running after its timeout of {timeout or 0:g} s")


def _text(error: BaseException) -> str:
    """What it says of itself; that is the user's code too, and may raise."""
    try:
        return repr(error.code) if isinstance(error, SystemExit) else str(error)
    except ENDINGS as unspeakable:  # recorded: in place of the text
        return f"(its text cannot be had: {type(unspeakable).__name__})"


def readable(text: str) -> str:
    """The text as it may be recorded: secrets taken out, and what is none (halves of surrogate
    pairs) replaced. To be called before anything is cut off.
    """
    return redact(str(text)).encode("utf-8", "replace").decode()


def _shorten(text: str) -> str:
    text = readable(text)
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "…"


def _tail(error: BaseException) -> str:
    text = readable("".join(traceback.format_exception(error)).strip())
    return text if len(text) <= MAX_DETAIL_CHARS else "…" + text[-MAX_DETAIL_CHARS + 1 :]
