"""Retention: which of the kept versions of an asset partition may be deleted."""

import time
from collections.abc import Sequence

import msgspec

from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError
from freshet.engine.stores.store import StoredVersion

KEEP_VERSIONS = 3
"""Versions kept of each asset partition: the current one, and two to go back to."""


class Retention(msgspec.Struct, frozen=True):
    """The newest `keep` versions stay; of the others those that are not older than `keep_for_us`,
    if that is given.
    """

    keep: int = KEEP_VERSIONS
    keep_for_us: int | None = None

    def collectable(
        self, versions: Sequence[StoredVersion], before_us: int, now_us: int
    ) -> list[StoredVersion]:
        """Those of the versions (newest first) that may go: beyond the newest `keep`, old enough,
        not the current one, and superseded before `before_us`. One is superseded when the next
        newer one is published.
        """
        found = []
        for number, one in enumerate(versions):
            if number < self.keep or one.current:
                continue
            if self.keep_for_us is not None and one.stored_at > now_us - self.keep_for_us:
                continue
            if versions[number - 1].stored_at < before_us:
                found.append(one)
        return found


def retention(store: str, keep: int, keep_for: float | str | None) -> Retention:
    """What a person asked of a store, checked. Raises DefinitionError naming the store."""
    if keep < 1:
        raise DefinitionError(f"{store}(keep={keep}) would keep nothing", hint="keep 1 or more")
    if keep_for is None:
        return Retention(keep)
    return Retention(keep, parse_duration_ms(keep_for, f"{store}: keep_for") * 1000)


def now_us() -> int:
    """The time by which stores say when something was stored (µs)."""
    return time.time_ns() // 1000


def next_us(versions: Sequence[StoredVersion]) -> int:
    """When something is stored now: later than all that is there, though the clock was set back."""
    newest = max((one.stored_at for one in versions), default=0)
    return max(now_us(), newest + 1)
