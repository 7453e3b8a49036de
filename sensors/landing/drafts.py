"""Drafts: what looks at files mean for the stream, collected into one batch."""

from collections.abc import Mapping

from freshet.engine.events import SourceChanged
from freshet.engine.logger import Logger
from freshet.engine.specs import Plain
from freshet.engine.stores.landing import Seen
from freshet.sensors.landing.entries import (
    NEXT_STEPS,
    OWN,
    Known,
    reason_of,
    state_of,
    version_of,
)
from freshet.sensors.landing.holders import Holders, claimed, is_there
from freshet.sensors.landing.look import Looked
from freshet.sensors.landing.places import Named
from freshet.sensors.sensor import Batch, Rejection, Settlement

MAX_REJECTED = 1000
"""Files that do not count are remembered, and named in the stream, up to so many: a folder full of
foreign names must not flood it. Others follow as these are settled.
"""

log = Logger("freshet.sensors.files")


class Draft:
    """The batch that is being made: what is known, and the moves of the cursor so far."""

    def __init__(
        self, sensor: str, known: Known, holders: Holders | None, *, keep: bool, ignored: str
    ) -> None:
        self._sensor = sensor
        self._known = known
        self._holders = holders
        self._keep = keep
        self._ignored = ignored
        self._changes: list[SourceChanged] = []
        self._cursor: dict[str, str | None] = {}
        self._rejected: list[Rejection] = []
        self._settled: list[Settlement] = []

    def batch(self, own: Mapping[str, str], behind: int) -> Batch:
        """All of it; what is to be kept about the watch itself goes along."""
        moves = {item: value for item, value in self._cursor.items() if self._is_move(item, value)}
        if moves:
            moves |= {item: value for item, value in own.items() if self._is_move(item, value)}
        trouble, hint = self._trouble()
        return Batch(
            tuple(self._changes),
            moves,
            tuple(self._rejected),
            tuple(self._settled),
            behind,
            trouble,
            hint,
        )

    def value(self, item: str) -> str | None:
        """The item's value, with the moves so far."""
        return self._cursor[item] if item in self._cursor else self._known.get(item)

    def keep(self, item: str, entry: str) -> None:
        """The same as before, in another form of entry."""
        self._cursor[item] = entry

    def found(self, named: Named, looked: Looked) -> None:
        """A file counts, unless another one holds its partition; a change if its version is new."""
        item = named.item
        value = self.value(item)
        before = version_of(state_of(value))
        if self._holders is not None:
            ahead = self._holders.ahead_of(named)
            if ahead is not None:
                self.reject(item, claimed(named, ahead), named.path)
                self._holders.queue(named)
                return
            if self._displace(self._holders, named):
                before = ""  # another path: those who read it must know
            self._holders.put(named)
        self._cursor[item] = f"{looked.seen}:{looked.version}"
        if reason_of(value):
            self._settled.append(Settlement(item))
        if before != looked.version:
            self._changes.append(self._change(named, looked))

    def gone(self, named: Named, reason: str) -> None:
        """A file is not there (any more); what is no file may have its name, for that reason."""
        item = named.item
        value = self.value(item)
        if value is None and not reason:
            return
        self._cursor[item] = None
        if state_of(value):
            if self._holders is not None:
                self._holders.drop(named)
            if not self._keep and not named.problem:
                self._changes.append(SourceChanged(named.place.source, named.partition))
        if reason:
            self._say(item, "", reason_of(value), reason, named.path)
        elif reason_of(value):
            self._settled.append(Settlement(item, accepted=False))

    def reject(self, item: str, reason: str, path: str) -> None:
        """A file cannot count as it is. What counted before still does."""
        value = self.value(item)
        self._say(item, state_of(value), reason_of(value), reason, path)

    def note(self, item: str, reason: str) -> None:
        """Something about the watch itself is wrong; with an empty reason, it is right again."""
        if reason or self.value(item):
            self._cursor[item] = f"!{reason}" if reason else None

    def _trouble(self) -> tuple[str, str]:
        """All that is wrong with the watch itself, and what to do about it."""
        moves = {item: value for item, value in self._cursor.items() if item.startswith(OWN)}
        own = sorted((self._known.own | moves).items())
        reasons: list[str] = []
        hints: list[str] = []
        for kind, hint in NEXT_STEPS.items():
            found = [reason_of(value) for item, value in own if value and item.startswith(kind)]
            reasons += found
            hints += [hint] if found else []
        return "; ".join(reasons), "; ".join(hints)

    def _say(self, item: str, state: str, before: str, reason: str, path: str) -> None:
        """Name it and remember why, unless that is known or there are too many."""
        full = self._known.rejected + len(self._rejected) >= MAX_REJECTED
        if full and not before:
            return
        self._cursor[item] = f"{state}!{reason}"
        if before != reason:
            self._rejected.append(Rejection(item, reason, metadata={"path": path}))
            log.warning("file does not count", sensor=self._sensor, file=item, reason=reason)

    def _displace(self, holders: Holders, named: Named) -> bool:
        """Whoever held the partition does so no more: it comes later, or is gone."""
        holder = holders.of(named)
        if holder is None or holder.item == named.item:
            return False
        value = self.value(holder.item)
        if is_there(holder):
            self._say(holder.item, "", reason_of(value), claimed(holder, named), holder.path)
            holders.queue(holder)
        else:
            self._cursor[holder.item] = None
            if reason_of(value):
                self._settled.append(Settlement(holder.item, accepted=False))
        return True

    def _change(self, named: Named, looked: Looked) -> SourceChanged:
        metadata: dict[str, Plain] = {"path": named.path.rstrip("/")}
        if looked.seen is not None:
            metadata |= {"size": looked.seen.size, "mtime_ns": looked.seen.mtime_ns}
        if not isinstance(looked.seen, Seen):
            metadata["ignored"] = self._ignored
        return SourceChanged(named.place.source, named.partition, looked.version, metadata)

    def _is_move(self, item: str, value: str | None) -> bool:
        return self._known.get(item) != value
