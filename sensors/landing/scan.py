"""Scans: what lies below a root, compared with what is known, a slice at a time."""

import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from operator import attrgetter
from time import monotonic
from typing import Final, Literal, NamedTuple

from freshet.engine.keys import WHOLE, PartitionKey
from freshet.engine.stores.landing import MAX_DEPTH, NOT_THERE, Seen, files_in, seen_of
from freshet.sensors.landing.entries import Known, adopted, reason_of, shown
from freshet.sensors.landing.look import AnySeen, irregular, seen_of_all
from freshet.sensors.landing.places import Named, Place
from freshet.sensors.landing.rules import Rules

SLICE_S, FULL_S = 0.02, 0.2
"""Longest turn of a scan, after which hints are heeded; and when it has found something, so that
batches are full when everything is new.
"""

CLOCK_ENTRIES = 64
"""Names between two looks at the clock."""

SORTED_ENTRIES = 10_000
"""Names listed at once, in some 10 ms, to be taken in order: what lies together in the stream's
indexes is then recorded together, which costs a third of what it does in the order of a disk.
"""

DEEPER: Final = "deeper"

Ident = tuple[int, int]

Stat = Callable[[], os.stat_result]


class Difference(NamedTuple):
    """A file to look at, `named` if that is known; or one that cannot count, for this reason; or
    one that has not changed, whose entry is to be written anew.
    """

    item: str
    reason: str = ""
    entry: str = ""
    named: Named | None = None


Steps = Generator[Difference | None, None, None]
"""A step for each name; something where it makes a difference."""


class Scan:
    """One pass over the files of a place, or over one folder of it (`below` ends in `/`).

    Finds what differs from what is known, also what is known and not there any more. The first
    scan of a watch asks of everything whether it is passed over, others only of what is new.
    """

    def __init__(
        self,
        place: Place,
        below: str,
        known: Known,
        rules: Rules,
        now_us: int,
        *,
        first: bool = False,
    ) -> None:
        self.place = place
        self.below = below
        self.cost_s = 0.0
        self.done = False
        self._known = known
        self._rules = rules
        self._now_us = now_us
        self._first = first
        self._seen: set[str] = set()
        self._steps = self._all()

    def slice(self, most: int, stopped: Callable[[], bool]) -> list[Difference]:
        """Go on for `SLICE_S`, or until there are so many differences. Raises OSError when the root
        cannot be listed.
        """
        began = monotonic()
        found: list[Difference] = []
        for names, step in enumerate(self._steps):
            if step is not None:
                found.append(step)
                if len(found) >= most:
                    break
            if names % CLOCK_ENTRIES == 0 and (
                stopped() or monotonic() - began > (FULL_S if found else SLICE_S)
            ):
                break
        else:
            self.done = True
        self.cost_s += monotonic() - began
        return found

    def close(self) -> None:
        """End it; if a thread is still at it, that ends it within `CLOCK_ENTRIES` names."""
        with suppress(ValueError):
            self._steps.close()

    def _all(self) -> Steps:
        known_before = self._known_below()
        if not self.place.pattern.names:
            yield self._only()
        elif self.below and self._is_partition(self.below):
            yield self._folder(self.below)
        elif self.below:
            yield from self._deeper(self.below, self.below.count("/"), ())
        else:
            yield from self._listing("", 0, ())
        for item in known_before:
            is_gone = item not in self._seen and self.place.owns(item)
            yield Difference(item) if is_gone else None

    def _known_below(self) -> list[str]:
        """What is known of what this scan will see."""
        if self.place.pattern.names:
            return list(self._known.below(self.place.item(self.below)))
        item = self.place.item(self.place.pattern.path_of(WHOLE))
        return [item] if item in self._known.files else []

    def _listing(self, below: str, level: int, above: tuple[Ident, ...]) -> Steps:
        folder = self.place.path(below) or "."
        if not self.place.pattern.depth:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in above or len(above) >= MAX_DEPTH:
                return  # a link that leads back
            above = (*above, (here.st_dev, here.st_ino))
        entry_of = self._entry_as_folder if self.place.pattern.folder else self._entry_as_file
        prefix = self.place.item(below)
        for entry in _listed(folder):
            if self._is_unchanged(entry, prefix):
                yield None
                continue
            step = entry_of(entry, below, level)
            if step == DEEPER:
                yield from self._deeper(below + entry.name + "/", level + 1, above)
            else:
                yield step

    def _deeper(self, below: str, level: int, above: tuple[Ident, ...]) -> Steps:
        try:
            yield from self._listing(below, level, above)
        except OSError:
            yield None  # vanished, or not ours to read: what is known in it is looked at one by one

    def _only(self) -> Difference | None:
        """The one file, or folder, of a pattern without a placeholder: no listing is needed."""
        os.stat(self.place.base or ".")
        relative = self.place.pattern.path_of(WHOLE)
        path = self.place.path(relative)
        if self.place.pattern.folder:
            return self._folder(relative) if os.path.isdir(path) else None
        return self._file(partial(os.stat, path), relative)

    # --- files --------------------------------------------------------------------------------

    def _is_unchanged(self, entry: "os.DirEntry[str]", prefix: str) -> bool:
        """Does it look as it did? A shortcut: nearly all do, of any scan but the first."""
        item = prefix + entry.name
        known = self._known.files.get(item)
        if known is None or self._first or "!" in known:
            return False
        try:
            found = entry.stat()
        except OSError:
            return False
        if not known.startswith(
            f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}:"
            f"{found.st_ctime_ns - found.st_mtime_ns}:"
        ):
            return False
        self._seen.add(item)
        return True

    def _entry_as_file(
        self, entry: "os.DirEntry[str]", below: str, level: int
    ) -> Difference | Literal["deeper"] | None:
        pattern = self.place.pattern
        is_folder = level + 1 != pattern.depth and _is_folder(entry)
        if is_folder:
            leads = not self._rules.passes_over(entry.name) and pattern.leads(level, entry.name)
            return DEEPER if leads else None
        if pattern.depth and level + 1 != pattern.depth:
            return None
        if self._rules.passes_over(entry.name):
            return None
        return self._file(entry.stat, below + entry.name, is_file=_is_file(entry))

    def _file(self, stat_of: Stat, relative: str, *, is_file: bool = False) -> Difference | None:
        """Does it differ from what is known? `is_file`: that much is certain, so that a new one
        need not be looked at before its turn.
        """
        item = self.place.item(relative)
        known = self._known.files.get(item)
        if known is None:
            return self._new_file(None if is_file else stat_of, item, relative)
        seen = _look(stat_of)
        if seen is None:
            return None  # not there: it is found among those not seen
        self._seen.add(item)
        if isinstance(seen, str):
            return Difference(item) if reason_of(known) != seen else None
        return _difference(item, known, seen)

    def _new_file(self, stat_of: Stat | None, item: str, relative: str) -> Difference | None:
        partition = self.place.claim(relative)
        if partition is None:
            return None
        seen = _look(stat_of) if stat_of is not None else None
        if stat_of is not None and seen is None:
            return None
        item, problem = self._problem(item, partition)
        if isinstance(seen, str):
            return None if problem else Difference(item, seen)
        if problem:
            return self._refused(item, problem)
        return Difference(item, named=Named(item, self.place, relative, partition, admitted=True))

    # --- folders ------------------------------------------------------------------------------

    def _entry_as_folder(
        self, entry: "os.DirEntry[str]", below: str, level: int
    ) -> Difference | Literal["deeper"] | None:
        relative = f"{below}{entry.name}/"
        if self._rules.passes_over(entry.name) or not _is_folder(entry):
            return None
        if self._is_partition(relative):
            return self._folder(relative)
        return DEEPER if self.place.pattern.leads(level, entry.name) else None

    def _is_partition(self, relative: str) -> bool:
        """Is the folder a partition, or was it meant to be one? Of folders at any depth, only what
        the source admits.
        """
        partition = self.place.claim(relative)
        if partition is None:
            return False
        return bool(self.place.pattern.depth) or not self.place.problem(partition, self._now_us)

    def _folder(self, relative: str) -> Difference | None:
        item = self.place.item(relative)
        partition = self.place.claim(relative)
        item, problem = self._problem(item, partition or "")
        if problem:
            return self._refused(item, problem)
        known = self._known.files.get(item)
        try:
            files = files_in(self.place.path(relative), self._rules.passes_over)
        except OSError:
            self._seen.add(item)
            return Difference(item)
        if not files and not self._rules.marker:
            return None
        self._seen.add(item)
        return _difference(item, known, seen_of_all(files))

    # --- names --------------------------------------------------------------------------------

    def _problem(self, item: str, partition: PartitionKey) -> tuple[str, str]:
        """The item as text, and why its name is no partition."""
        try:
            item.encode()
        except UnicodeEncodeError:
            return shown(item), "its name is not UTF-8"
        return item, self.place.problem(partition, self._now_us)

    def _refused(self, item: str, problem: str) -> Difference | None:
        """A name that is no partition: news only if it was not known, or for another reason."""
        self._seen.add(item)
        same = reason_of(self._known.files.get(item)) == problem
        return None if same else Difference(item, problem)


def _listed(folder: str) -> Iterator["os.DirEntry[str]"]:
    """What lies in a folder, in the order of names as far as it is listed at once."""
    with os.scandir(folder) as entries:
        while some := sorted(islice(entries, SORTED_ENTRIES), key=attrgetter("name")):
            yield from some


def _look(stat_of: Stat) -> Seen | str | None:
    """What `stat` says of a file, or why it is none that can count; None when nothing is there."""
    try:
        found = stat_of()
    except OSError as error:
        return None if error.errno in NOT_THERE else error.strerror or str(error)
    return seen_of(found) if stat.S_ISREG(found.st_mode) else irregular(found.st_mode)


def _difference(item: str, known: str | None, seen: AnySeen) -> Difference | None:
    if known is not None and "!" not in known:
        if known.startswith(f"{seen}:"):
            return None
        return Difference(item, entry=adopted(known, seen) or "")
    return Difference(item)


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
