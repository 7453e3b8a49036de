"""Where a Kafka sensor stands: its cursor as places in topics, and what does not fit what the
topics hold now.

The cursor has an item `orders/0` for each partition, the next offset to read, and an item `orders`
that says which topic of that name is meant: its id, and after `~` how often offsets began anew.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from freshet.engine.errors import SensorError
from freshet.sensors.sensor import REPLAY, START

Start = Literal["earliest", "latest"]

Place = tuple[str, int]
"""A topic and the number of one of its partitions."""

MEMBER = "?member"
"""In a cursor: the name under which this stream is a member of its group."""

NO_ID = "-"
"""The id of a topic where brokers tell none (Kafka before 3.1)."""

MAX_SAID = 3
"""Partitions that an error speaks of: enough to see what happened."""


class Extent(NamedTuple):
    """What a partition holds: the offsets from `first` up to, not including, `end`."""

    first: int
    end: int


class Topic(NamedTuple):
    """A topic as it is now: its id (empty: brokers tell none) and its partitions."""

    id: str
    partitions: Mapping[int, Extent]


class Identity(NamedTuple):
    """Which topic of a name was read, and how often its offsets began anew, from 1."""

    id: str
    incarnation: int = 1

    @classmethod
    def of(cls, text: str) -> "Identity":
        name, _, count = text.partition("~")
        return cls(name, int(count or 1))

    def __str__(self) -> str:
        return self.id if self.incarnation == 1 else f"{self.id}~{self.incarnation}"


class Trouble(NamedTuple):
    """What does not fit, and whether offsets name other messages than they did."""

    message: str
    cause: str
    anew: bool


def item(place: Place) -> str:
    """How a place is called in the cursor."""
    return f"{place[0]}/{place[1]}"


class Places:
    """The cursor of one sensor, as far as it speaks of topics that are read. `at` is what is
    durable.
    """

    def __init__(self, sensor: str, topics: Iterable[str], cursor: Mapping[str, str]) -> None:
        self.at: dict[Place, int] = {}
        self.identities: dict[str, Identity] = {}
        self.request = cursor.get(START)
        self.replays = sorted(name for name in cursor if name.startswith(REPLAY))
        self.member = cursor.get(MEMBER)
        self._sensor = sensor
        self._topics = frozenset(topics)
        self.take(cursor)

    def take(self, moves: Mapping[str, str | None]) -> None:
        """These moves of the cursor are durable."""
        for name, value in moves.items():
            topic, slash, number = name.rpartition("/")
            if name == START:
                self.request = value
            elif name in self._topics and value is not None:
                self.identities[name] = Identity.of(value)
            elif slash and topic in self._topics:
                if value is None:
                    self.at.pop((topic, int(number)), None)
                else:
                    self.at[topic, int(number)] = int(value)

    def incarnation(self, topic: str) -> int:
        """How often the topic's offsets began anew, from 1."""
        return self.identities.get(topic, Identity(NO_ID)).incarnation

    def moves(self, topics: Mapping[str, Topic], start: Start) -> dict[str, str | None]:
        """How the cursor has to move to fit the topics, what people asked for included.

        A topic never read begins at `start`, a partition new in a known topic where it begins, as
        nothing of it may be missed. Raises SensorError where messages were lost or offsets name
        others, and nobody has yet chosen.
        """
        if self.request not in (None, "earliest", "latest", "resume"):
            raise self._error(Trouble(f"'{self.request}' is no place to start from", "", False))
        moves: dict[str, str | None] = {} if self.request is None else {START: None}
        for topic, found in topics.items():
            trouble = self._trouble(topic, found)
            if trouble is not None and self.request is None:
                raise self._error(trouble)
            known = self.identities.get(topic)
            identity = self._identity(known, found, trouble)
            if identity != known:
                moves[topic] = str(identity)
            gone = [p for p in self._partitions(topic) if p not in found.partitions]
            moves |= {item((topic, p)): None for p in gone}
            for number, extent in found.partitions.items():
                there = self.at.get((topic, number))
                begin = "earliest" if known is not None else start
                place = self._place(there, extent, begin)
                if place != there:
                    moves[item((topic, number))] = str(place)
        return moves

    def _partitions(self, topic: str) -> list[int]:
        return sorted(number for name, number in self.at if name == topic)

    def _place(self, there: int | None, extent: Extent, start: str) -> int:
        if self.request in ("earliest", "latest") or there is None:
            wish = self.request if self.request in ("earliest", "latest") else start
            return extent.first if wish == "earliest" else extent.end
        if self.request == "resume":  # of what begins anew nothing has been read
            return extent.first if there > extent.end else max(there, extent.first)
        return there

    def _identity(self, known: Identity | None, found: Topic, trouble: Trouble | None) -> Identity:
        if known is None:
            return Identity(found.id or NO_ID)
        return Identity(
            found.id or known.id, known.incarnation + (trouble is not None and trouble.anew)
        )

    # --- what does not fit --------------------------------------------------------------------

    def _trouble(self, topic: str, found: Topic) -> Trouble | None:
        known = self.identities.get(topic)
        if known is None:
            return None
        gone = [p for p in self._partitions(topic) if p not in found.partitions]
        if found.id and known.id not in (NO_ID, found.id):
            said = f"topic '{topic}' was re-created: its id was {known.id}, and is {found.id}"
            return Trouble(said, self._states(topic, found), True)
        if gone:
            said = f"topic '{topic}' was re-created: partition {gone[0]} is gone"
            return Trouble(said, self._states(topic, found), True)
        places = [(p, self.at[topic, p], found.partitions[p]) for p in self._partitions(topic)]
        beyond = [f"{topic}/{p}" for p, there, extent in places if there > extent.end]
        if beyond:
            said = f"{_some(beyond)} ends before what was read of it: the topic was re-created, or"
            said += " lost messages"
            return Trouble(said, self._states(topic, found), True)
        lost = [
            f"{topic}/{p} offsets {there} to {extent.first - 1}"
            for p, there, extent in places
            if there < extent.first
        ]
        if lost:
            said = f"messages were removed before they were read: {_some(lost)}"
            return Trouble(said, self._states(topic, found), False)
        return None

    def _states(self, topic: str, found: Topic) -> str:
        return _some(list(self._each_state(topic, found)))

    def _each_state(self, topic: str, found: Topic) -> Iterator[str]:
        for number in self._partitions(topic):
            extent = found.partitions.get(number)
            now = "is gone" if extent is None else f"now holds {extent.first} to {extent.end - 1}"
            if extent is not None and extent.first == extent.end:
                now = f"is now empty at {extent.end}"
            there = self.at[topic, number]
            fits = extent is not None and extent.first <= there <= extent.end
            if not fits or self.identities[topic].id != found.id:
                yield f"{topic}/{number} was to be read from offset {there} on, and {now}"

    def _error(self, trouble: Trouble) -> SensorError:
        return SensorError(
            trouble.message,
            cause=trouble.cause or None,
            hint=(
                f"choose where to go on: `freshet sensors reset {self._sensor} --from earliest` "
                "(all that is there, also what was read before), `--from latest` (only what comes "
                "from now on) or `--from resume` (the stored offsets, as far as they exist)"
            ),
        )


def _some(found: list[str]) -> str:
    more = f" and {len(found) - MAX_SAID} more" if len(found) > MAX_SAID else ""
    return "; ".join(found[:MAX_SAID]) + more
