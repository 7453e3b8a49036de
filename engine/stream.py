"""The event stream: one ordered history and its verbs; what every kind of stream shares."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import anyio
import msgspec

from freshet.engine.codec import TYPES, encode
from freshet.engine.errors import ConflictError, RequestError, StreamError
from freshet.engine.events import (
    AnyEvent,
    CursorMoved,
    Recorded,
    Unknown,
)
from freshet.engine.keys import AssetKey
from freshet.engine.origins import columns_of

MAX_BATCH = 1000
"""Events handed to a follower, or committed, at once: enough to amortise, few enough to respond."""

MAX_PENDING = 10_000
"""Events waiting to be committed before `append` makes its callers wait (back-pressure)."""

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Bytes of one stored event: far above a graph of 10,000 assets, far below SQLite's 1 GB."""

MAX_INTEGER = 2**63 - 1
"""The largest position a 64-bit column can hold."""

RING_EVENTS = 4096
"""Recent events kept decoded for followers: some seconds of a busy stream, a few megabytes."""


class EventStream(Protocol):
    """What every stream guarantees (held by `tests/test_stream_contract.py`).

    Positions are 1, 2, 3 … without gaps. When `append` returns, its events are durable and visible
    to every reader, all or none of them, next to each other. `recorded_at` never goes back.
    """

    @property
    def head(self) -> int:
        """The newest position; 0 when the stream is empty."""
        ...

    async def append(
        self,
        events: Sequence[AnyEvent | Unknown],
        *,
        key: str | None = None,
        expected: int | None = None,
        actor: str | None = None,
    ) -> range:
        """Record the events atomically and return their positions.

        `key`: the same key again appends nothing and returns the first positions. `expected`: the
        head the caller decided on; another head raises ConflictError. Raises FencedError when a
        newer writer took over, StreamError when the stream cannot be written and RequestError for
        events that cannot be stored. A cancelled caller does not cancel the commit. A `CursorMoved`
        among the events also moves the stored cursor, in the same transaction.
        """
        ...

    async def read(
        self, after: int = 0, *, limit: int = MAX_BATCH, subject: str | None = None
    ) -> list[Recorded]:
        """At most `limit` events after `after`, in order; only those about `subject` if given."""
        ...

    async def at(self, position: int) -> Recorded | None:
        """The event at this position, or None when there is none."""
        ...

    async def changes(
        self, sources: Sequence[AssetKey], after: int, until: int, *, limit: int = MAX_BATCH
    ) -> list[Recorded]:
        """At most `limit` events after `after` up to `until` that say something of the sources'
        versions (`SourceChanged`, `Observed`), in order.
        """
        ...

    def follow(self, after: int = 0) -> AsyncIterator[list[Recorded]]:
        """All events after `after`, in batches, in order, until the stream is closed.

        No gap, no double, however slow the follower. Raises StreamError when the stream can no
        longer be written.
        """
        ...

    async def cursor(self, sensor: str) -> Mapping[str, str]:
        """The sensor's cursor as of the head: the fold of its `CursorMoved` events."""
        ...


def wall_clock() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


class Fact(msgspec.Struct, frozen=True):
    """One event made ready to be stored: everything about it that does not depend on its place."""

    event: AnyEvent | Unknown
    type: str
    subject: str
    cause: int | None
    data: bytes


class Append(msgspec.Struct, frozen=True):
    """One call of `append`, checked and encoded."""

    facts: list[Fact]
    key: str | None
    expected: int | None
    actor: str | None

    @property
    def bytes(self) -> int:
        """Of its events, as they are stored."""
        size = 0  # added up here: a generator would be one more frame on the way of each append
        for fact in self.facts:
            size += len(fact.data)
        return size


def prepare(
    events: Sequence[AnyEvent | Unknown], key: str | None, expected: int | None, actor: str | None
) -> Append:
    """Check and encode an append, so that nothing in it can fail later. Raises RequestError."""
    if len(events) > MAX_PENDING:
        raise RequestError(
            f"an append of {len(events)} events is too large",
            cause=f"at most {MAX_PENDING} events may wait to be committed",
            hint="split it into several appends",
        )
    if key == "" or actor == "":
        raise RequestError("an append has an empty key or actor", hint="leave it out instead")
    try:
        facts = [_fact(event) for event in events]
        for text in (key, actor):
            if text is not None:
                text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"an event has text that is not Unicode: {error.object!r}",
            cause="it has a half of a surrogate pair, as undecodable file names have in Python",
            hint="replace what cannot be encoded before appending it",
        ) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(
            "an event has a value that cannot be recorded",
            cause=str(error),
            hint="text, numbers, true, false and none can be",
        ) from None
    return Append(facts, key, expected, actor)


def conflict(append: Append, head: int) -> ConflictError | None:
    """The error of an append that was decided on another head, or None."""
    if append.expected is None or append.expected == head:
        return None
    return ConflictError(
        f"the head of the stream is {head}, not {append.expected} as expected",
        cause="others have appended since this was decided",
        hint="read what is new and decide again",
    )


def place(append: Append, first: int, recorded_at: int, epoch: int) -> list[Recorded]:
    """The events of an append at their positions; the key belongs to the first of them."""
    key, actor = append.key, append.actor
    placed = []
    for position, fact in enumerate(append.facts, first):
        placed.append(Recorded(position, recorded_at, fact.event, fact.cause, actor, key, epoch))
        key = None
    return placed


class Recent:
    """The head, the newest events still decoded, and the followers that wait for more."""

    def __init__(self, head: int = 0) -> None:
        self.head = head
        self.failure: StreamError | None = None
        self.closed = False
        self._oldest = head + 1
        self._ring: list[Recorded | None] = [None] * RING_EVENTS
        self._moved: anyio.Event | None = None

    def publish(self, recorded: Sequence[Recorded]) -> None:
        """Make these events, which follow the head, visible and wake all followers."""
        for item in recorded:
            self._ring[item.position % RING_EVENTS] = item
        self.head += len(recorded)
        self._oldest = max(self._oldest, self.head - RING_EVENTS + 1)
        self._wake()

    def end(self, failure: StreamError | None = None) -> None:
        """No more events will come: followers finish, or raise `failure`, after the last."""
        self.failure = self.failure or failure
        self.closed = True
        self._wake()

    def after(self, position: int, limit: int) -> list[Recorded] | None:
        """At most `limit` events after `position`, or None when they are no longer all here."""
        if position + 1 < self._oldest:
            return None
        last = min(self.head, position + limit)
        found = (self._ring[p % RING_EVENTS] for p in range(position + 1, last + 1))
        return [recorded for recorded in found if recorded is not None]

    async def wait(self) -> None:
        """Wait until something is published or the stream ends."""
        if self._moved is None:
            self._moved = anyio.Event()
        await self._moved.wait()

    def _wake(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None


Read = Callable[[int], Awaitable[list[Recorded]]]


async def follow(recent: Recent, read: Read, after: int) -> AsyncIterator[list[Recorded]]:
    """Read until the head, then wait: nothing is handed over, so nothing is lost or doubled."""
    position = max(after, 0)
    while True:
        if recent.head > position:
            batch = await read(position)
            position = batch[-1].position
            yield batch
        elif recent.failure is not None:
            raise recent.failure.with_traceback(None)  # one error, raised to many
        elif recent.closed:
            return
        else:
            await recent.wait()


def move_cursor(cursor: dict[str, str], event: CursorMoved) -> None:
    """Fold one `CursorMoved` into the cursor of its sensor."""
    for item, value in event.items.items():
        if value is None:
            cursor.pop(item, None)
        else:
            cursor[item] = value


def closed_error() -> StreamError:
    """What an append to a closed stream raises."""
    return StreamError("the stream is closed", hint="append before leaving its `async with` block")


def _fact(event: AnyEvent | Unknown) -> Fact:
    data = encode(event)
    type_, subject, cause = columns_of(event)
    if cause is not None and not 0 < cause <= MAX_INTEGER:
        raise RequestError(f"{type_} names {cause} as its cause, which is no position")
    if len(data) > MAX_EVENT_BYTES:
        raise RequestError(
            f"{type_} has {len(data)} bytes, more than {MAX_EVENT_BYTES}",
            hint="store large values in a store, and only their version in the stream",
        )
    if type(event) is Unknown:
        _check_unknown(event)
    return Fact(event, type_, subject, cause, data)


def _check_unknown(event: Unknown) -> None:
    event.type.encode()
    if event.type in TYPES:
        raise RequestError(
            f"an event of the type {event.type} comes as one of an unknown type",
            hint="append the event itself",
        )
    try:
        msgspec.json.decode(event.data, type=dict[str, msgspec.Raw])
        event.data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            f"an event of the unknown type {event.type!r} is no JSON object", cause=str(error)
        ) from None
