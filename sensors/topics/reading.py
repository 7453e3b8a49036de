"""Reading Kafka topics: micro-batches of changes from the places in our own cursor on, watched over
all the time.

Kafka's committed offsets are never read: `show` writes them for those who display lag. Nothing is
taken on trust from the client either: after each error, each rebalance and whenever topics may have
been replaced, it is sent back to our places, and what it had fetched by then is dropped.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from time import monotonic
from typing import NamedTuple

import msgspec
from anyio import sleep

from freshet.engine.errors import SensorError
from freshet.engine.logger import Logger
from freshet.sensors.sensor import Batch
from freshet.sensors.topics.access import REACH, Access, KafkaError
from freshet.sensors.topics.client import (
    Fetched,
    Link,
    Membership,
    OutOfRangeError,
    UnreadableError,
    answers,
    new_member,
)
from freshet.sensors.topics.messages import Feed, Record
from freshet.sensors.topics.pending import MAX_BATCH_MESSAGES, Pending
from freshet.sensors.topics.places import MEMBER, Place, Places, Start, item
from freshet.sensors.topics.replay import replayed
from freshet.sensors.topics.topics import Found
from freshet.sensors.topics.watch import Display, Silence

FETCH_S = 1.0
"""Longest wait for messages: how often the watch looks when there are none."""

HEARTBEAT_S = 5.0
"""Between two signs of life when there is nothing to read."""

SILENCE_S = 5.0
"""Without an answer for so long, a partition makes us ask whether any broker is there."""

MISSING_S = 10.0
"""Without an answer for so long, and with a reason that brokers give, it is said."""

PROBE_S = 3.0
"""How long that one may take to answer."""

STUCK_S = 30.0
"""Without an answer for so long while brokers do answer, the consumer is built anew."""

JOIN_S = 60.0
"""Longest wait to be let into a group: above what slow members may take to leave."""

HELD_UP_S = 1.0
"""After a wait so long between two fetches, a topic may have been replaced without a sign."""

DOUBT_S = 0.05
"""Between two looks at what has to be known before anything is recorded."""

LAST_S = 10.0
"""How long other partitions are read on when one cannot be: nobody may take it for working."""

TRIES = 3
"""Times in a row that an error of reading is taken for a passing one."""

log = Logger("freshet.sensors.kafka")


class Topics(msgspec.Struct, frozen=True):
    """What a sensor reads and how: see `kafka.kafka`, which makes it. `group` is empty to commit
    nothing.
    """

    name: str
    access: Access
    feeds: Mapping[str, Feed]
    start: Start
    group: str
    member: bool


class _Halt(NamedTuple):
    """Why reading has to end, known since when."""

    error: SensorError
    since: float


class Reading:
    """One reading of the topics, from a cursor on."""

    def __init__(self, topics: Topics, cursor: Mapping[str, str]) -> None:
        self._topics = topics
        self._places = Places(topics.name, topics.feeds, cursor)
        self._moves: dict[str, str | None] = {}
        self._pending = Pending()
        self._sure = self._proven = False
        self._lost = True
        self._found: Mapping[str, Found] = {}
        self._failures = 0
        self._halt: _Halt | None = None
        self._said_held = -1
        self._fetched_at = monotonic()
        self._beat_at = 0.0
        self._silence = Silence()
        self._display = Display(topics.group)
        membership = None
        if topics.member:
            instance = self._places.member or new_member()
            self._moves = {} if self._places.member else {MEMBER: instance}
            membership = Membership(topics.group, instance, lambda p: self._places.at.get(p, 0))
        self._link = Link(topics.access, topics.feeds, membership)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Batches for ever; see `Sensor.run`."""
        try:
            await self._link.open()
            await self._locate(await self._link.topics())
            if self._topics.member:
                self._link.subscribe()
            while True:
                batch = await self._next()
                if batch is None:
                    continue
                yield batch
                self._durable(batch)
                if self._places.replays:
                    access, feeds = self._topics.access, self._topics.feeds
                    async with aclosing(replayed(access, feeds, self._places.replays)) as again:
                        async for batch in again:
                            yield batch
                    self._places.replays = []
        finally:
            self._display.close()
            await self._link.close()

    # --- one batch ----------------------------------------------------------------------------

    async def _next(self) -> Batch | None:
        """What is to be recorded next, or None when there is nothing yet."""
        await self._watch()
        if not self._pending:
            await self._fill()
        if not await self._is_sure():
            await sleep(DOUBT_S)
            return None
        if not self._is_proven():
            held = sorted(self._link.held)
            await self._fill(next((p for p in held if not self._link.answered(p)), None))
            return None
        batch = self._batch()
        now = monotonic()
        if not batch.cursor and now < self._beat_at:
            return None
        self._beat_at = now + HEARTBEAT_S
        return batch

    def _batch(self) -> Batch:
        """What pending messages say, as many as may be read at a stretch."""
        taken = self._pending.take(self._topics.feeds, time.time_ns() // 1000)
        cursor = dict(self._moves)
        for place, offset in taken.reached.items():
            if self._places.at.get(place) != offset:
                cursor[item(place)] = str(offset)
        behind = self._behind(taken.reached)
        return Batch(tuple(taken.changes), cursor, tuple(taken.rejected), (), behind)

    def _durable(self, batch: Batch) -> None:
        self._places.take(batch.cursor)
        self._moves = {}
        self._display.show(self._link, self._places.at)

    def _behind(self, reached: Mapping[Place, int]) -> int:
        places = self._link.held
        highs = {p: self._link.high(p) or 0 for p in places}
        at = self._places.at
        return sum(max(0, high - reached.get(p, at.get(p, 0))) for p, high in highs.items())

    # --- fetching -----------------------------------------------------------------------------

    async def _fill(self, only: Place | None = None) -> None:
        """Fetch what comes next; nothing when there is nothing, or when it cannot be trusted."""
        if monotonic() > self._fetched_at + HELD_UP_S:
            self._sure = False
        generation = self._link.generation
        try:
            found = await self._link.fetch(FETCH_S, MAX_BATCH_MESSAGES, only)
        except OutOfRangeError as error:
            await self._retreat(KafkaError(f"cannot read from its places: {error}"))
            return
        except UnreadableError as error:
            await self._approach(error)
            return
        finally:
            self._fetched_at = monotonic()
        self._failures = 0 if found.records else self._failures
        if self._halt and (not found.records or monotonic() > self._halt.since + LAST_S):
            raise self._halt.error
        if self._link.generation != generation:
            self._link.seek(self._places.at)  # fetched before the partitions were given anew
            return
        self._pending.put(found, self._places.at)

    async def _retreat(self, error: Exception) -> None:
        """Go back to our places after an error, unless it comes again and again."""
        self._failures += 1
        self._sure, self._lost = False, True
        self._link.seek(self._places.at)
        if self._failures > TRIES:
            raise error
        await sleep(0.1 * self._failures)

    async def _approach(self, unreadable: UnreadableError) -> None:
        """Something cannot be read: find out where, read all that comes before it, and for a while
        the other partitions, before halting.

        The client does not say where, and has thrown away what it had read of other partitions.
        """
        await self._retreat(KafkaError(str(unreadable)))
        for place in sorted(self._link.held):
            if (self._link.high(place) or 0) <= self._places.at.get(place, 0):
                continue
            try:
                await self._link.fetch(FETCH_S, MAX_BATCH_MESSAGES, place)
            except UnreadableError as error:
                before = await self._one_by_one(place)
                if before:
                    self._pending.put(Fetched({place: before}, {}), self._places.at)
                    return
                self._halt = self._halt or _Halt(self._unreadable(place, error), monotonic())
                self._link.pause(place)
            finally:
                self._link.seek(self._places.at)

    def _unreadable(self, place: Place, error: UnreadableError) -> SensorError:
        return SensorError(
            f"{item(place)} cannot be read at offset {self._places.at[place]}",
            cause=str(error),
            hint=f"{error.hint}, or leave it out, with all that waits: `freshet sensors reset "
            f"{self._topics.name} --from latest`",
        )

    async def _one_by_one(self, place: Place) -> list[Record]:
        self._link.seek(self._places.at)
        found: list[Record] = []
        while len(found) < MAX_BATCH_MESSAGES:
            try:
                one = await self._link.fetch(FETCH_S, 1, place)
            except UnreadableError:
                break
            if not one.records:
                break
            found += [r for records in one.records.values() for r in records]
        return found

    # --- where we are -------------------------------------------------------------------------

    async def _is_sure(self) -> bool:
        """Are the topics those we think we read? Asked anew whenever there is a doubt."""
        if self._sure and not self._link.unsure:
            return True
        try:
            found = await self._link.topics()
            if self._lost or found != self._found:
                await self._locate(found)
        except KafkaError as error:
            self._silence.reason = error.anew()
            return False
        self._sure = True
        if self._topics.member and self._link.generation:
            self._say_what_is_held(sum(len(topic.partitions) for topic in found.values()))
        return True

    async def _locate(self, found: Mapping[str, Found]) -> None:
        """Bring our places together with what the topics hold. Raises SensorError."""
        topics = await self._link.extents(found)
        moves = self._places.moves(topics, self._topics.start)
        self._places.take(moves)
        self._moves |= moves
        for name, feed in self._topics.feeds.items():
            feed.incarnation = self._places.incarnation(name)
        wanted = {(name, number) for name, topic in topics.items() for number in topic.partitions}
        if not self._topics.member and wanted != self._link.held:
            self._link.assign({place: self._places.at[place] for place in sorted(wanted)})
            self._pending = Pending()
        elif moves:
            self._link.seek(self._places.at)
            self._pending = Pending()
        self._lost, self._found = False, found

    def _say_what_is_held(self, count: int) -> None:
        held = len(self._link.held)
        if held != count and self._said_held != held:
            log.warning(
                "other members of the group read partitions, whose messages do not come here",
                sensor=self._topics.name,
                group=self._topics.group,
                here=held,
                of=count,
            )
        self._said_held = held

    # --- the watch ----------------------------------------------------------------------------

    def _is_proven(self) -> bool:
        """Has each partition answered? Before that nothing shows that it works."""
        if not self._proven:
            joined = not self._topics.member or self._link.generation > 0
            self._proven = joined and all(self._link.answered(p) for p in self._link.held)
        return self._proven

    async def _watch(self) -> None:
        """Raises KafkaError when partitions have not answered for too long."""
        if self._topics.member and not self._link.generation:
            if self._silence.age() > JOIN_S:
                group = self._topics.group
                raise KafkaError(f"the group '{group}' has not let it in for {JOIN_S:g} s")
            return
        place, age = self._silence.longest(self._link)
        if place is None or age < SILENCE_S:
            return
        if not await answers(self._topics.access, PROBE_S):
            where = ", ".join(self._topics.access.servers)
            raise KafkaError(f"no broker has answered for {age:.0f} s ({where})", hint=REACH)
        if self._silence.reason and age > MISSING_S:
            raise self._silence.reason
        if age > STUCK_S:
            why = f" ({self._silence.reason.message})" if self._silence.reason else ""
            raise KafkaError(
                f"{item(place)} has not answered for {age:.0f} s, though brokers do{why}: the "
                "consumer is built anew"
            )
