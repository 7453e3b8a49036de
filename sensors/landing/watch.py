"""A watch over some roots: hints say when to look, scans say what is true, nothing is missed
twice.
"""

import glob
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from time import monotonic

import anyio.to_thread

from freshet.engine.errors import OutsideError
from freshet.sensors.landing.drafts import Draft
from freshet.sensors.landing.entries import DEVICE, FOLDER, HINTS, NEXT_STEPS, Known, state_of
from freshet.sensors.landing.hints import Hints
from freshet.sensors.landing.holders import Holders, claimed
from freshet.sensors.landing.look import Digests, Looked, Manner, look_at, peek
from freshet.sensors.landing.pending import Pending
from freshet.sensors.landing.places import Named, Place, Watched, name_of, places_of
from freshet.sensors.landing.rules import NAME, Rules
from freshet.sensors.landing.scan import Difference
from freshet.sensors.landing.scans import Scans
from freshet.sensors.sensor import MAX_BATCH_CHANGES, Batch

SMALL_FILE_BYTES = 1024 * 1024
"""Digested on the event loop, in about a millisecond; what is larger goes to a thread."""

SETTLE_S = 0.05
"""How long a file must look the same where the system cannot tell whether it is being written."""

SETTLE_FOLDER_S = 0.5
"""And all files of a folder without a marker: there is no other sign that no more will come."""

SETTLE_REMOTE_S = 4.0
"""And a file on a network mount: NFS shows what it knew up to 3 s ago (`acregmin`)."""

GONE_S = 0.1
"""How long a file must be gone: editors move the old one away before they write the new one."""

BIG_HINT = 1000
"""Hints at once after which some may have been dropped: a scan follows soon."""

LISTEN_S = 0.05
"""While a scan is under way: time between two looks at hints."""


class Watch:
    """One watch: what is known, what was hinted at, and when to look again."""

    def __init__(self, sensor: Watched, cursor: Mapping[str, str]) -> None:
        self._sensor = sensor
        self._known = Known(cursor)
        self._places = places_of(sensor)
        self._rules = Rules(sensor.ignore, sensor.marker)
        self._scans = Scans(self._places, self._known, self._rules, sensor.reconcile_s)
        deep = any(p.pattern.depth != 1 or p.pattern.folder for p in self._places)
        roots = [place.root for place in self._places]
        self._hints = Hints(sensor.name, roots, recursive=deep, poll=sensor.poll)
        self._hints.is_deaf = not self._known.files
        self._holders: Holders | None = None
        self._digests = Digests()
        self._pending = Pending()
        self._unmarked: set[str] = set()
        self._hinted: set[str] = set()
        self._listened = monotonic()

    # --- what changed -------------------------------------------------------------------------

    async def changes(self) -> AsyncGenerator[Batch, None]:
        """Everything that differs from what is known, in batches, as far as it is finished.

        Where nothing is known, a first scan comes before any hint: each file that it opens would be
        one, and cost as much again; as hints begin, all is scanned once more. Raises OutsideError
        when every root seems not to be mounted.
        """
        if self._hints.is_deaf and self._scans.are_complete:
            self._hints.listen()
        if self._hints.attach():
            self._scans.now()
            for place in self._places:
                place.remote = place.root in self._hints.remote
        self._scans.without_hints = bool(self._hints.problem)
        found = await self._differences()
        if self._scans.lost.keys() >= self._hints.roots:
            raise OutsideError(next(iter(self._scans.lost.values())), hint=NEXT_STEPS[FOLDER])
        for start in range(0, len(found), MAX_BATCH_CHANGES):
            rest = found[start + MAX_BATCH_CHANGES :]
            batch = await self._batch(found[start : start + MAX_BATCH_CHANGES], len(rest))
            if batch.cursor:
                yield batch
        noted = self._notes()
        if noted.cursor:
            yield noted

    def remember(self, batch: Batch) -> None:
        """The batch is durable: from here on it is what is known."""
        self._known.move(batch.cursor)

    @property
    def is_complete(self) -> bool:
        """Has everything been looked at once?"""
        return self._scans.are_complete

    def beat(self) -> Batch:
        """Nothing is new, and the sensor works."""
        return self._draft().batch({}, self.behind)

    @property
    def behind(self) -> int:
        """Files known not to be finished."""
        return len(self._pending) + len(self._unmarked)

    async def _differences(self) -> list[Difference]:
        """What to look at, by path: hinted, due again, and from a scan new, changed or gone."""
        now = monotonic()
        found = {item: Difference(item) for item in self._pending.due(now)}
        found |= {item: Difference(item) for item in self._hinted}
        self._hinted = set()
        if now >= self._scans.next_due():
            scanned = await anyio.to_thread.run_sync(self._scan, abandon_on_cancel=True)
            found |= {one.item: one for one in scanned}
        return [found[item] for item in sorted(found)]

    def _scan(self) -> list[Difference]:
        if self._holders is None and self._sensor.may_collide:
            self._holders = Holders(self._places, self._known)
        rounds = self._scans.rounds
        found = self._scans.step(MAX_BATCH_CHANGES, self._hints.stopped)
        if self._scans.rounds > rounds:
            self._hints.check()
        return found

    async def _batch(self, differences: list[Difference], rest: int) -> Batch:
        draft = self._draft()
        named: dict[str, Named] = {}
        for one in differences:
            what = one.named or name_of(self._places, one.item)
            if one.named is not None:
                named[one.item] = one.named
            elif one.reason:
                draft.reject(one.item, one.reason, what.path if what else one.item)
            elif what is None or self._rules.ignores(what.relative):
                self._known.forget(one.item)
            elif one.entry:
                draft.keep(one.item, one.entry)
            else:
                named[one.item] = what
        looked = await self._look_at_all(list(named.values()))
        heirs = self._heirs(looked, named)
        if heirs:
            looked += await self._look_at_all(heirs)
        looked.sort(key=lambda pair: (pair[1].what == "gone", pair[0].item))
        for what, result in looked:
            self._fold(draft, what, result)
        return draft.batch(self._devices(), self.behind + rest)

    def _draft(self) -> Draft:
        inside = () if NAME in self._rules.marker else (glob.escape(self._rules.marker),)
        ignored = "/".join((*self._rules.ignore, *filter(None, inside)))
        return Draft(
            self._sensor.name,
            self._known,
            self._holders,
            keep=self._sensor.keep,
            ignored=ignored,
        )

    def _heirs(
        self, looked: Iterable[tuple[Named, Looked]], named: Mapping[str, Named]
    ) -> list[Named]:
        """Those who may take over from files that are gone."""
        if self._holders is None:
            return []
        gone = [one for one, result in looked if result.what == "gone"]
        heirs = {h.item: h for one in gone for h in self._holders.heirs(one)}
        return [heir for item, heir in heirs.items() if item not in named]

    def _fold(self, draft: Draft, named: Named, looked: Looked) -> None:
        item = named.item
        self._unmarked.discard(item)
        if looked.what == "busy":
            manner = self._manner(named.place)
            least_s = manner.settle_s if manner.must_settle else 0.0
            self._pending.put_off(item, looked.seen, monotonic(), least_s)
            return
        if looked.what == "gone" and self._may_come_back(draft, named):
            return
        self._pending.drop(item)
        if looked.what == "found":
            draft.found(named, looked)
        elif looked.what == "unmarked":
            self._unmarked.add(item)
        elif looked.what == "gone":
            draft.gone(named, looked.reason)
        else:
            draft.reject(item, looked.reason, named.path)

    def _may_come_back(self, draft: Draft, named: Named) -> bool:
        """Is a file that counted gone only just now, or with the whole root?"""
        item, now = named.item, monotonic()
        if not state_of(draft.value(item)):
            return False
        since = self._pending.since(item, None)
        if since is None or now - since < GONE_S:
            self._pending.put_off(item, None, now, GONE_S)
            return True
        if self._scans.is_in_place(named.place):
            return False
        self._pending.drop(item)
        return True

    # --- the watch itself ---------------------------------------------------------------------

    def _notes(self) -> Batch:
        """What has become wrong, or right, with the roots and with hints."""
        draft = self._draft()
        for root, trouble in self._scans.troubles.items():
            draft.note(FOLDER + root, trouble)
            if not trouble and self._known.get(FOLDER + root):
                self._hints.touched()
        self._scans.troubles.clear()
        draft.note(HINTS, self._hints.problem)
        if self._known.files and self.is_complete:
            for item, device in self._devices().items():
                draft.keep(item, device)
        return draft.batch({}, self.behind)

    def _devices(self) -> dict[str, str]:
        return {DEVICE + root: device for root, device in self._scans.devices.items()}

    # --- looking ------------------------------------------------------------------------------

    async def _look_at_all(self, named: list[Named]) -> list[tuple[Named, Looked]]:
        if len(named) == 1 and self._is_small(named[0]):
            return [(named[0], self._look(named[0]))]
        if not named:
            return []
        # Given up when cancelled: `close` then stops it after the file it is reading.
        stopped = self._hints.stopped
        return await anyio.to_thread.run_sync(
            lambda: [(one, self._look(one)) for one in named if not stopped.is_set()],
            abandon_on_cancel=True,
        )

    def _look(self, named: Named) -> Looked:
        is_folder = named.place.pattern.folder
        problem = named.problem
        if problem:
            there = os.path.isdir(named.path) if is_folder else peek(named.path) is not None
            return Looked("rejected", reason=problem) if there else Looked("gone")
        if self._holders is not None:
            ahead = self._holders.ahead_of(named)
            if ahead is not None and os.path.lexists(named.path):
                self._holders.queue(named)
                return Looked("rejected", reason=claimed(named, ahead))
        manner = self._manner(named.place)
        settled = self._pending.seen_for(named.item, manner.settle_s, monotonic())
        return look_at(named.path, self._rules, manner, self._digests, settled)

    def _manner(self, place: Place) -> Manner:
        """How to look at files of a place."""
        asked = self._sensor.settle_ms
        guess_s = SETTLE_S
        if place.remote:
            guess_s = SETTLE_REMOTE_S
        elif place.pattern.folder and not self._rules.marker:
            guess_s = SETTLE_FOLDER_S
        return Manner(
            settle_s=guess_s if asked is None else asked / 1000,
            must_settle=asked is not None or guess_s != SETTLE_S,
            trusts_leases=not place.remote,
            by_stat=self._sensor.by_stat,
        )

    def _is_small(self, named: Named) -> bool:
        if named.place.pattern.folder:
            return False
        seen = peek(named.path)
        return seen is None or seen.size <= SMALL_FILE_BYTES or self._sensor.by_stat

    # --- waiting for hints --------------------------------------------------------------------

    async def wait(self) -> None:
        """Sleep until something is hinted at or due."""
        now = monotonic()
        if self._scans.is_scanning and now < self._listened + LISTEN_S:
            return
        if self._hints.is_deaf and self._scans.are_complete:
            return
        due = min(self._scans.next_due(), self._pending.next_due() or float("inf"))
        paths = await self._hints.wait(due - now)
        self._listened = monotonic()
        for path in paths:
            self._take(path)
        if len(paths) >= BIG_HINT:
            for place in self._places:
                self._scans.soon(place)

    def close(self) -> None:
        """Stop watching and reading; threads return within a step."""
        self._hints.close()
        self._scans.close()

    def _take(self, path: str) -> None:
        """Heed a path wherever it lies below a root."""
        ours = False
        for place in self._places:
            base = self._hints.real.get(place.root, "")
            if path == base:
                self._hints.start_anew()  # removed or moved; a new one may even have its inode
                ours = True
            elif base and path.startswith(base.rstrip("/") + "/"):
                self._heed(place, path[len(base.rstrip("/")) + 1 :])
                ours = True
        if not ours:
            for place in self._places:  # a path seen through a link
                self._scans.soon(place)

    def _heed(self, place: Place, relative: str) -> None:
        """Something has happened to a file, or to a folder on the way, or to a marker."""
        above, _, name = relative.rpartition("/")
        if self._rules.is_marker(name):
            self._heed_marker(place, above, name)
        elif self._rules.ignores(relative):
            return
        if place.pattern.folder:
            self._heed_folder(place, relative)
        elif place.pattern.leads_to(relative) and not os.path.isfile(place.path(relative)):
            self._scans.folder(place, relative + "/", again=os.path.isdir(place.path(relative)))
            self._hints.touched()
            self._hint(place, relative)
        else:
            self._hint(place, relative)

    def _heed_folder(self, place: Place, relative: str) -> None:
        is_folder = os.path.isdir(place.path(relative))
        for folder in place.pattern.folders_above(relative):
            partition = place.claim(folder)
            if partition is not None and (place.pattern.depth or self._admits(place, folder)):
                self._hint(place, folder)
                if is_folder:
                    self._scans.folder(place, folder, again=True)
                return
        if place.pattern.leads_to(relative):
            self._scans.folder(place, relative + "/", again=is_folder)

    def _heed_marker(self, place: Place, above: str, name: str) -> None:
        """What the marker is for may count now."""
        folder = above + "/" if above else ""
        marked = self._rules.marked(name)
        if marked:
            self._hint(place, folder + marked + "/" * place.pattern.folder)
        elif not place.pattern.folder:
            before = place.item(folder)
            self._hinted.update(item for item in self._unmarked if item.startswith(before))
            self._scans.folder(place, folder, again=False)

    def _admits(self, place: Place, relative: str) -> bool:
        partition = place.claim(relative)
        return partition is not None and Named("", place, relative, partition).problem == ""

    def _hint(self, place: Place, relative: str) -> None:
        if place.claim(relative) is not None:
            item = place.item(relative)
            self._hinted.add(item)
            self._pending.hasten(item)
