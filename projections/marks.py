"""What a debt is made of: the words for a row's state, live runs, failures, and the marks owed."""

from typing import Any, Literal, NamedTuple

import msgspec

from freshet.engine.events import Recorded, RunFailed
from freshet.engine.parts import FailureKind
from freshet.projections.progress import Feed, Progress

SUSPECT = 2
"""Kills of the engine during runs of a row after which it runs beside no other such one: so that a
third tells which of them it is.
"""

NOTHING = 1 << 62
"""The debt of who owes nothing: later than every position."""

ABSENT, FRESH, STALE, WAITING, MISSING = range(5)
"""What a row is, as kept in `AssetState.state`."""

MOVING, DEFERRED, STUCK = range(3)
"""How a row that owes stands: it moves, or waits for what does; nobody asks for it now; or nothing
will happen without news (a failure, a source that is missing). As kept in `AssetState.stalled`.
"""

LIVE, BULK = 1, 2
"""What a ready row waits for: a slot, or a slot of the share that backfills have."""


class Failure(msgspec.Struct, frozen=True):
    """The last failed attempt, the inputs it was made with, and the code and blocking checks.
    `counted` are the attempts so far that count as retries: not those that failed of what passes.
    """

    position: int
    attempt: int
    fingerprint: int
    trial: str
    retry_at: int | None
    kind: FailureKind | Literal["cancelled"] = "error"
    passing: bool = False
    counted: int = 1

    def is_of(self, fingerprint: int, trial: str) -> bool:
        """Would the next attempt be made with the same?"""
        return (self.fingerprint, self.trial) == (fingerprint, trial)


class Kills(msgspec.Struct, frozen=True):
    """How often the engine was killed in a row while a row ran, with which inputs and code."""

    count: int
    fingerprint: int
    trial: str


class Live:
    """A live run of a row: its id, the debt it set out to pay, what is owed when it ends, the
    inputs, code and blocking checks it was started with, and what it reads change by change.
    """

    __slots__ = ("feeds", "next", "paying", "pinned", "run", "trial")

    def __init__(self, run: int, paying: int, pinned: int, trial: str) -> None:
        self.run = run
        self.paying = paying
        self.next = NOTHING
        self.pinned = pinned
        self.trial = trial
        self.feeds: tuple[Feed, ...] = ()


def failure_of(ended: Recorded, live: Live, before: Failure | None) -> Failure:
    """The failure in which this live run ended, after the one before of the same row."""
    attempt, counted = 1, 0
    if before is not None and before.is_of(live.pinned, live.trial):
        attempt, counted = before.attempt + 1, before.counted
    position, inputs, trial, event = ended.position, live.pinned, live.trial, ended.event
    if not isinstance(event, RunFailed):
        return Failure(position, attempt, inputs, trial, None, "cancelled", counted=counted + 1)
    again = (event.retry_at, event.kind, event.passing)
    return Failure(position, attempt, inputs, trial, *again, counted + (not event.passing))


class Marks:
    """When the positions that are owed were recorded (µs), for as long as somebody owes them."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}
        self._refs: dict[int, int] = {}
        self.now = (0, 0)
        """Position and time of the event being folded."""
        self.wave = (0, 0)
        """The same of the first event of the newest wave."""
        self.known: dict[int, int] = {}
        """Times of older marks that may come to be owed again in the event being folded."""
        self.moved: list[tuple[Any, int, int]] = []
        """(state, row, what it owed before) of each change of a debt in the event being folded, of
        the assets that are followed.
        """

    def hold(self, mark: int) -> None:
        """One more owes this mark: the event being folded, the wave, what others owe already, or
        one that is `known`.
        """
        count = self._refs.get(mark, 0)
        self._refs[mark] = count + 1
        if not count:
            now = self.wave[1] if mark == self.wave[0] else self.now[1]
            self.at[mark] = self.known.get(mark, now)

    def time_of(self, mark: int) -> int:
        """When (µs) a mark was recorded that is owed, or about to be."""
        now = self.wave[1] if mark == self.wave[0] else self.now[1]
        return self.at.get(mark) or self.known.get(mark, now)

    def release(self, mark: int) -> None:
        """One less owes it."""
        count = self._refs.pop(mark) - 1
        if count:
            self._refs[mark] = count
        else:
            del self.at[mark]


class Keepsake(NamedTuple):
    """What an asset partition that is not defined (any more) last was, and was made from."""

    hash: int
    made_at: int
    consumed: int = 0
    code: str = ""
    started_at: int = 0
    made: bool = False
    gone: int = NOTHING
    """The mark with which it went: should it return, it has not absorbed that it was gone."""
    gone_us: int = 0
    """When that was recorded."""
    absorbed: Progress | None = None
    """Up to where it had read its sources change by change."""
    halfway: bool = False
    """Had its last run left changes for the next?"""


class Tally:
    """How many partitions a backfill asked for, and how many of them were built since."""

    __slots__ = ("built", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.built = 0


class Wishes(dict[int, tuple[int, ...]]):
    """By row the positions of wishes that are not fulfilled, the newest last."""

    def add(self, i: int, position: int) -> None:
        found = self.get(i, ())
        if not found or position > found[-1]:
            self[i] = (*found, position)
        elif position not in found:  # an older one, asked again after a deployment
            self[i] = tuple(sorted((*found, position)))

    def newest(self, i: int) -> int:
        """0 if there is none."""
        found = self.get(i)
        return found[-1] if found else 0

    def take(self, i: int, before: int = NOTHING) -> list[int]:
        """Remove the wishes older than a position, and return them."""
        found = self.pop(i, ())
        kept = tuple(position for position in found if position >= before)
        if kept:
            self[i] = kept
        return [position for position in found if position < before]

    def withdraw(self, i: int, position: int) -> bool:
        """Remove one wish, if it is there."""
        found = self.get(i, ())
        if position not in found:
            return False
        kept = tuple(one for one in found if one != position)
        if kept:
            self[i] = kept
        else:
            del self[i]
        return True
