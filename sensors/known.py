"""What a sensor knows that looks at everything there is: what it saw last, kept in its cursor, so
that only what differs is a change.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from freshet.engine.assets import Source
from freshet.engine.errors import DefinitionError
from freshet.engine.events import SourceChanged
from freshet.engine.keys import AssetKey, PartitionKey
from freshet.engine.specs import AssetSpec, Plain
from freshet.sensors.admission import Admission
from freshet.sensors.sensor import MAX_BATCH_CHANGES, Batch, Rejection, Settlement

REJECTED = "!"
"""Before an item, in a cursor: it was rejected, and that has been said."""

ESCAPE = "="
"""Before an item, in a cursor, that could be taken for something else there (`?from`, `!x`)."""


class Sighting(NamedTuple):
    """One thing outside as one look saw it: where it lies in the sensor's words, the partition it
    is, its data version, and what else is known of it.
    """

    item: str
    source: AssetKey
    partition: PartitionKey
    version: str
    metadata: dict[str, Plain]


Place = tuple[AssetKey, PartitionKey]


class Known:
    """The items of earlier looks with their versions, and those that were rejected.

    `place_of` names the partition of an item, None when there is none any more; `call` makes of an
    item the name under which it is rejected.
    """

    def __init__(
        self,
        cursor: Mapping[str, str],
        sources: Iterable[AssetSpec],
        place_of: Callable[[str], Place | None],
        clock: Callable[[], int],
        call: Callable[[str], str] = str,
    ) -> None:
        self.versions: dict[str, str] = {}
        self.rejected: set[str] = set()
        for entry, value in cursor.items():
            if entry.startswith(REJECTED):
                self.rejected.add(entry[1:])
            elif not entry.startswith("?"):
                self.versions[entry.removeprefix(ESCAPE)] = value
        self._admissions = {spec.key: Admission(spec) for spec in sources}
        self._place_of = place_of
        self._clock = clock
        self._call = call
        self._owners = {
            place: item for item in self.versions if (place := place_of(item)) is not None
        }

    def owner(self, source: AssetKey, partition: PartitionKey) -> str | None:
        """The item that is this partition, as far as is known."""
        return self._owners.get((source, partition))

    def differences(
        self, seen: Sequence[Sighting], gone: Iterable[str] = (), *, withdraw: bool = True
    ) -> Iterator[Batch]:
        """What differs of these from what is known, in batches; nothing when nothing does. What is
        `gone` is forgotten, and with `withdraw` its partitions are gone too, unless one that is
        seen took the place.

        A batch counts as known from here on: who cannot make it durable begins anew.
        """
        taken = {(sighting.source, sighting.partition) for sighting in seen}
        draft = _Draft()
        for item in gone:
            self._forget(draft, item, None if not withdraw else taken)
            if draft.is_full:
                yield draft.batch()
                draft = _Draft()
        for sighting in seen:
            self._see(draft, sighting)
            if draft.is_full:
                yield draft.batch()
                draft = _Draft()
        if draft.cursor:
            yield draft.batch()

    def _see(self, draft: "_Draft", sighting: Sighting) -> None:
        problem = self._problem(sighting)
        if problem:
            self._reject(draft, sighting, problem)
        else:
            self._accept(draft, sighting)

    def _problem(self, sighting: Sighting) -> str:
        _, source, partition, *_ = sighting
        problem = self._admissions[source].problem(partition, self._clock())
        owner = self._owners.get((source, partition), sighting.item)
        if not problem and owner != sighting.item:
            return f"'{partition}' is already {self._call(owner)}"
        return problem

    def _named(self, item: str) -> str:
        return self._call(item) or "(no name)"

    def _accept(self, draft: "_Draft", sighting: Sighting) -> None:
        item, source, partition, version, metadata = sighting
        if item in self.rejected:
            self.rejected.discard(item)
            draft.cursor[REJECTED + item] = None
            draft.settled.append(Settlement(self._named(item)))
        if self.versions.get(item) != version:
            self.versions[item] = draft.cursor[entry_of(item)] = version
            draft.changes.append(SourceChanged(source, partition, version, metadata))
        self._owners[source, partition] = item

    def _reject(self, draft: "_Draft", sighting: Sighting, problem: str) -> None:
        item = sighting.item
        if self.versions.pop(item, None) is not None:  # it once was a partition, and is none now
            draft.cursor[entry_of(item)] = None
        if item not in self.rejected:
            self.rejected.add(item)
            draft.cursor[REJECTED + item] = "rejected"
            draft.rejected.append(
                Rejection(self._named(item), problem, metadata=dict(sighting.metadata))
            )

    def _forget(self, draft: "_Draft", item: str, taken: Collection[Place] | None) -> None:
        """Its partition is withdrawn unless it is taken; None: none is."""
        if item in self.rejected:
            self.rejected.discard(item)
            draft.cursor[REJECTED + item] = None
            draft.settled.append(Settlement(self._named(item), accepted=False))
        if self.versions.pop(item, None) is not None:
            draft.cursor[entry_of(item)] = None
            place = self._place_of(item)
            if place is not None and self._owners.get(place) == item:
                del self._owners[place]
                admitted = not self._admissions[place[0]].problem(place[1], self._clock())
                if taken is not None and place not in taken and admitted:
                    draft.changes.append(SourceChanged(*place))


class _Draft:
    """A batch in the making."""

    def __init__(self) -> None:
        self.changes: list[SourceChanged] = []
        self.cursor: dict[str, str | None] = {}
        self.rejected: list[Rejection] = []
        self.settled: list[Settlement] = []

    @property
    def is_full(self) -> bool:
        return len(self.cursor) >= MAX_BATCH_CHANGES

    def batch(self) -> Batch:
        return Batch(tuple(self.changes), self.cursor, tuple(self.rejected), tuple(self.settled))


def entry_of(item: str) -> str:
    """An item as it stands in the cursor."""
    return ESCAPE + item if item[:1] in ("", "?", REJECTED, ESCAPE) else item


def spec_of(source: object, what: str) -> AssetSpec:
    """The definition of a source. Raises DefinitionError for what is none."""
    if not isinstance(source, Source):
        raise DefinitionError(
            f"{what} reports {source!r}, which is no source",
            hint="give it what fr.source(...) returned",
        )
    return source.spec
