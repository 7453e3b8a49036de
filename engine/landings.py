"""Landings in a simulation: a file that a project's sensor waits for, kept in a private folder."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from freshet.engine.errors import RequestError
from freshet.engine.events import SourceChanged
from freshet.engine.simulated import placed
from freshet.engine.specs import Plain
from freshet.engine.stores.landing import files_in
from freshet.sensors.files import FilesSensor
from freshet.sensors.landing.look import AnySeen, Digests, Manner, look_at, peek, seen_of_all
from freshet.sensors.landing.places import Named, Place, Watched, places_of
from freshet.sensors.landing.rules import Rules
from freshet.sensors.sensor import Sensor


class Lying(msgspec.Struct, frozen=True):
    """What lies at a path now, and whose it is; an empty version says that nothing counts there."""

    watched: Watched
    named: Named
    version: str = ""
    metadata: dict[str, Plain] = {}


class Landings:
    """The files that have landed, below `folder`, and what sensors have not yet recorded of
    them.
    """

    def __init__(self, sensors: Sequence[Sensor], folder: Path) -> None:
        watched = [s.watched for s in sensors if isinstance(s, FilesSensor)]
        self._sensors = [(one, places_of(one), Rules(one.ignore, one.marker)) for one in watched]
        self._folder = folder
        self._lying: dict[str, Lying] = {}
        self._recorded: dict[str, str] = {}

    def land(self, path: str, content: bytes | str | None, now_us: int) -> None:
        """Keep the file, or remove it.

        Raises RequestError when no sensor waits for it, for a partition that cannot be, or that
        another file is.
        """
        path = str(PurePosixPath(path))
        watched, rules, concerned = self._concerned(path)
        for named in concerned:
            self._check(watched, named, now_us)
        file = placed(self._folder, path)
        if content is None:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            os.utime(file, ns=(now_us * 1000, now_us * 1000))
        for named in concerned:
            self._lying[named.path] = self._look(watched, rules, named)

    def news(self, held: Callable[[str], bool]) -> Iterator[tuple[str, SourceChanged]]:
        """What sensors, by name, record now; nothing by those that are `held`. Each once."""
        for path, lying in self._lying.items():
            watched, named = lying.watched, lying.named
            if held(watched.name) or self._recorded.get(path, "") == lying.version:
                continue
            self._recorded[path] = lying.version
            if lying.version or not watched.keep:
                yield (
                    watched.name,
                    SourceChanged(
                        named.place.source, named.partition, lying.version, lying.metadata
                    ),
                )

    def _concerned(self, path: str) -> tuple[Watched, Rules, list[Named]]:
        """The sensor that waits for a file, and which of its files that is, or is the marker of."""
        for watched, places, rules in self._sensors:
            for place in places:
                if path.startswith(place.base):
                    found = list(self._at(place, rules, path[len(place.base) :]))
                    if found:
                        return watched, rules, found
        patterns = ", ".join(
            repr(target.pattern.text) for one, _, _ in self._sensors for target in one.targets
        )
        raise RequestError(
            f"no sensor of the project waits for a file '{path}'",
            cause=f"its patterns are {patterns}" if patterns else "it has no file sensors",
            hint="write the path as in the pattern, or use sim.change('SOURCE')",
        )

    def _at(self, place: Place, rules: Rules, relative: str) -> Iterator[Named]:
        above, _, name = relative.rpartition("/")
        folder = above + "/" if above else ""
        wanted = [] if rules.ignores(relative) else [relative]
        if rules.is_marker(name) and rules.marked(name):
            wanted = [folder + rules.marked(name) + "/" * place.pattern.folder]
        elif rules.is_marker(name) and not place.pattern.folder:
            lying = [one.named for one in self._lying.values() if one.named.place is place]
            wanted = [n.relative for n in lying if n.relative.rpartition("/")[0] == above]
        elif place.pattern.folder and (wanted or rules.is_marker(name)):
            wanted = list(place.pattern.folders_above(relative))[:1]
        for one in wanted:
            partition = place.claim(one)
            if partition is not None:
                yield Named(place.item(one), place, one, partition)

    def _check(self, watched: Watched, named: Named, now_us: int) -> None:
        """A real sensor would pass such a file over; here that is a slip of the pen."""
        place, partition = named.place, named.partition
        problem = place.problem(partition, now_us)
        if problem:
            raise RequestError(
                f"'{named.path}' would be partition '{partition}' of '{place.source}', which "
                f"cannot be: {problem}"
            )
        for path, lying in self._lying.items():
            same = (lying.named.place.source, lying.named.partition) == (place.source, partition)
            if same and lying.watched is watched and lying.version and path != named.path:
                raise RequestError(
                    f"'{named.path}' would be partition '{partition}' of '{place.source}', as "
                    f"'{path}' is"
                )

    def _look(self, watched: Watched, rules: Rules, named: Named) -> Lying:
        """What counts at a path now: what is not marked changes nothing."""
        path = str(placed(self._folder, named.path)) + "/" * named.place.pattern.folder
        manner = Manner(settle_s=0, must_settle=True, trusts_leases=False, by_stat=watched.by_stat)
        looked = look_at(path, rules, manner, Digests(), _as_it_is(path, rules))
        if looked.what != "found" or looked.seen is None:
            found = self._lying.get(named.path) if looked.what == "unmarked" else None
            return found or Lying(watched, named)
        metadata: dict[str, Plain] = {
            "path": named.path.rstrip("/"),
            "size": looked.seen.size,
            "mtime_ns": looked.seen.mtime_ns,
        }
        return Lying(watched, named, looked.version, metadata)


def _as_it_is(path: str, rules: Rules) -> AnySeen | None:
    """What it looks like: nobody is writing it."""
    if not path.endswith("/"):
        return peek(path)
    try:
        return seen_of_all(files_in(path, rules.passes_over))
    except OSError:
        return None
