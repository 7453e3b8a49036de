"""The way to Kafka: one consumer that starts, answers and closes within bounds, whatever the
brokers do.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import anyio

from freshet.engine.errors import SensorError
from freshet.sensors.topics.access import REACH, Access, KafkaError, settings_of
from freshet.sensors.topics.lines import listen
from freshet.sensors.topics.messages import Record
from freshet.sensors.topics.places import Extent, Place, Topic
from freshet.sensors.topics.topics import ASIDE, UNKNOWN, Found, ask

START_S = 15.0
"""Longest wait for brokers to be found: above the time limit of one request."""

ANSWER_S = 12.0
"""Longest wait for what brokers should tell at once; above the time limit of one request."""

CLOSE_S = 2.0
"""Longest wait for each step of closing; a broker that does not answer then finds out by itself."""

REBALANCE_S = 2.0
"""How long one fetch may be held up by the other members of a group."""

COORDINATES_GROUP = 0
"""Kafka's code for a coordinator of groups."""

T = TypeVar("T")


class OutOfRangeError(Exception):
    """A place that the broker does not have (any more)."""


class UnreadableError(Exception):
    """Messages came that the client cannot read: `hint` says what may be done."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Membership(NamedTuple):
    """The group to join, under which name, and where to read when a partition is given to us."""

    group: str
    instance: str
    place: Callable[[Place], int]


class Fetched(NamedTuple):
    """Messages by partition in order, and the place after them: beyond the last where there is
    something that is no message. Without messages, the places of all partitions that are ours.
    """

    records: Mapping[Place, Sequence[Record]]
    ends: Mapping[Place, int]


class Link:
    """A consumer of some topics. With a membership it reads what the group gives it, else what it
    is told by `assign`. To be opened once, and closed whatever happened. `settings` go before those
    of the access.
    """

    def __init__(
        self,
        access: Access,
        topics: Collection[str],
        membership: Membership | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._access = access
        self._settings = settings or {}
        self._asking: set[asyncio.Future[Any]] = set()
        self._topics = sorted(topics)
        self._membership = membership
        self._kafka = _library()
        self._consumer: Any = None
        self.generation = 0
        """How often the group has given us partitions."""
        self.stirred = True
        """Metadata have come since somebody looked: topics may be others than they were."""

    # --- opening and closing ------------------------------------------------------------------

    async def open(self) -> None:
        """Find the brokers. Raises KafkaError."""
        await self._asked("cannot connect", self._start, START_S)

    async def close(self) -> None:
        """Let go of everything, within a few seconds, whatever the brokers do."""
        with anyio.CancelScope(shield=True):
            await _ended(self._asking)  # cut off in the middle it would leave connections behind
            consumer, self._consumer = self._consumer, None
            if consumer is None:
                return
            steps = [consumer.stop, consumer._client.close]
            if consumer._fetcher is not None:
                steps.insert(1, consumer._fetcher.close)
            for step in steps:  # stop() alone leaves the others undone when no broker answers
                await _ended({_task(step())})

    async def _start(self) -> None:
        listen()
        more = {"enable_auto_commit": False, "auto_offset_reset": "none", **self._settings}
        if self._membership is not None:
            more["group_id"] = self._membership.group
            more["group_instance_id"] = self._membership.instance
        self._consumer = self._kafka.AIOKafkaConsumer(**(settings_of(self._access) | more))
        await self._consumer.start()
        self._consumer._client.cluster.add_listener(self._stir)

    def _stir(self, _: object) -> None:
        self.stirred = True

    # --- questions ----------------------------------------------------------------------------

    async def topics(self) -> dict[str, Found]:
        """The topics as they are now, told at once. Raises KafkaError, also when one does not exist
        or may not be read.
        """
        self.stirred = False
        found = await self._asked("cannot ask for topics", self._describe, ANSWER_S)
        for name in self._topics:
            if name not in found or found[name].error == UNKNOWN:
                hint = "create it, or correct its name; it is read as soon as it is there"
                raise KafkaError(f"topic '{name}' does not exist ({self._where})", hint=hint)
            if found[name].error:
                kind = self._kafka.errors.for_code(found[name].error).__name__
                raise KafkaError(f"topic '{name}' cannot be read: {kind} ({self._where})")
        return dict(found)

    async def extents(self, topics: Mapping[str, Found]) -> dict[str, Topic]:
        """What the partitions hold: told at once before anything is read, then when messages come
        or after half a second. Raises KafkaError.
        """
        places = [(name, number) for name, found in topics.items() for number in found.partitions]
        extents = await self._asked("cannot ask for offsets", self._extents, ANSWER_S, places)
        return {
            name: Topic(found.id, {number: extents[name, number] for number in found.partitions})
            for name, found in topics.items()
        }

    async def _describe(self) -> Mapping[str, Found]:
        client = self._consumer._client
        nodes = [broker.nodeId for broker in client.cluster.brokers()]
        random.shuffle(nodes)
        for node in nodes[:-1]:
            with suppress(self._kafka.errors.KafkaError):  # the next one may know
                return await ask(client, node, self._topics)
        if not nodes:
            raise KafkaError("no broker is known")
        return await ask(client, nodes[-1], self._topics)

    async def _extents(self, places: Sequence[Place]) -> dict[Place, Extent]:
        client = self._consumer._client
        if not set(self._topics) <= client._topics:
            await client.set_topics(self._topics)
        named = [self._kafka.TopicPartition(*place) for place in places]
        first = await self._consumer.beginning_offsets(named)
        end = await self._consumer.end_offsets(named)
        return {(tp.topic, tp.partition): Extent(first[tp], end[tp]) for tp in named}

    # --- reading ------------------------------------------------------------------------------

    @property
    def held(self) -> set[Place]:
        """The partitions that are ours to read."""
        return {(tp.topic, tp.partition) for tp in self._consumer.assignment()}

    @property
    def unsure(self) -> bool:
        """Have metadata come, or are they on the way, since somebody asked for the topics?"""
        return self.stirred or self._consumer._client._md_update_fut is not None

    def assign(self, places: Mapping[Place, int]) -> None:
        """Read these partitions from these places on."""
        named = [self._kafka.TopicPartition(*place) for place in places]
        self._consumer.assign(named)
        self.seek(places)

    def subscribe(self) -> None:
        """Join the group."""
        assert self._membership is not None
        self._kafka.ConsumerRebalanceListener.register(_Listener)
        self._consumer.subscribe(self._topics, listener=_Listener(self, self._membership))

    def seek(self, places: Mapping[Place, int]) -> None:
        """Go on from these places, as far as they are ours; what was fetched ahead is dropped."""
        held = self._consumer.assignment()
        for place, offset in places.items():
            named = self._kafka.TopicPartition(*place)
            if named in held:
                self._consumer.seek(named, offset)

    def pause(self, place: Place) -> None:
        """Fetch nothing more of a partition of ours."""
        self._consumer.pause(self._kafka.TopicPartition(*place))

    async def fetch(self, timeout_s: float, count: int, only: Place | None = None) -> Fetched:
        """At most `count` messages, once there are any, at the latest after about `timeout_s`.

        Raises OutOfRangeError, UnreadableError and KafkaError: then messages of other partitions
        may have been passed over, so go back with `seek`.
        """
        errors = self._kafka.errors
        named = [] if only is None else [self._kafka.TopicPartition(*only)]
        failure: Exception | None = None
        try:
            with anyio.move_on_after(timeout_s + REBALANCE_S):
                found = await self._consumer.getmany(
                    *named, timeout_ms=int(timeout_s * 1000), max_records=count
                )
                asked = found or dict.fromkeys(self._consumer.assignment(), ())
                return Fetched(found, {tp: await self._position(tp, asked[tp]) for tp in asked})
            return Fetched({}, {})
        except (errors.OffsetOutOfRangeError, errors.NoOffsetForPartitionError) as error:
            failure = OutOfRangeError(str(error))
        except errors.UnsupportedCodecError as error:
            failure = UnreadableError(
                str(error), "install what reads it: `pip install 'freshet[kafka]'`, and start anew"
            )
        except errors.CorruptRecordException as error:
            failure = UnreadableError(
                str(error),
                "remove it from the topic (`kafka-delete-records`), take it as it is with "
                "options={'check_crcs': False}",
            )
        except Exception as error:  # recorded: raised below, without what its frames hold
            failure = self._failure("cannot read", error)
        raise failure

    async def _position(self, tp: Any, records: Sequence[Record]) -> int:
        """Never waits: every partition of ours has a place."""
        with suppress(self._kafka.errors.IllegalStateError):  # it has just been taken from us
            position: int = await self._consumer.position(tp)
            return position
        return records[-1].offset + 1 if records else 0

    def high(self, place: Place) -> int | None:
        """Where the partition ended when it last answered; None before it has."""
        named = self._kafka.TopicPartition(*place)
        found: int | None = self._consumer.highwater(named) if place in self.held else None
        return found

    def answered(self, place: Place) -> int | None:
        """When the partition last answered, by a clock that may jump; None before it has."""
        named = self._kafka.TopicPartition(*place)
        stamp: int | None = (
            self._consumer.last_poll_timestamp(named)
            if named in self._consumer.assignment()
            else None
        )
        return stamp

    def buffered(self, place: Place) -> bool:
        """Does something of this partition wait to be fetched from the client?"""
        return self._kafka.TopicPartition(*place) in self._consumer._fetcher._records

    # --- for others to look at ----------------------------------------------------------------

    async def show(self, group: str, places: Mapping[Place, int]) -> None:
        """Tell the group's place to those who display lag. Raises KafkaError."""
        await self._asked("cannot commit", self._commit, ANSWER_S, group, places)

    async def _commit(self, group: str, places: Mapping[Place, int]) -> None:
        """As the client does, but it would retry for ever and cannot be interrupted. Where there is
        no membership nobody's partitions move, nor can others hold us up.
        """
        from aiokafka.protocol.commit import OffsetCommitRequest
        from aiokafka.protocol.coordination import FindCoordinatorRequest

        by_topic: dict[str, list[tuple[int, int, str]]] = {}
        for (topic, number), offset in places.items():
            if (topic, number) in self.held:
                by_topic.setdefault(topic, []).append((number, offset, ""))
        generation, member = -1, ""
        if self._membership is not None:
            coordinator = self._consumer._coordinator
            generation, member = coordinator.generation, coordinator.member_id
        request = OffsetCommitRequest(group, generation, member, -1, list(by_topic.items()))
        client = self._consumer._client
        lookup = FindCoordinatorRequest(group, COORDINATES_GROUP)
        found = await client.send(client.get_random_node(), lookup, group=ASIDE)
        codes = {found.error_code}
        if not found.error_code:
            answer = await client.send(found.coordinator_id, request, group=ASIDE)
            codes = {code for _, partitions in answer.topics for _, code in partitions}
        for code in codes - {0}:
            raise self._kafka.errors.for_code(code)(group)

    # --- within bounds ------------------------------------------------------------------------

    async def _asked(
        self, what: str, question: Callable[..., Awaitable[T]], within_s: float, *words: Any
    ) -> T:
        """The answer, or a KafkaError after at most `within_s`. The question has a task of its own,
        so that no cancellation inside the client looks like one of ours; `close` ends it, if need
        be.
        """
        task = _task(question(*words))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        await asyncio.wait({task}, timeout=within_s)
        if not task.done():
            said = f"{what}: no answer within {within_s:g} s ({self._where})"
            raise KafkaError(said, hint=REACH)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return task.result()
        if isinstance(error, SensorError):
            raise SensorError(error.message, cause=error.cause, hint=error.hint)
        failure = self._failure(what, error)
        del error, task
        raise failure

    def _failure(self, what: str, error: BaseException) -> KafkaError:
        if isinstance(error, KafkaError):
            return error.anew()
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        said = self._access.options.scrubbed(said)
        hint = REACH if isinstance(error, self._kafka.errors.KafkaConnectionError) else None
        return KafkaError(f"{what}: {said} ({self._where})", hint=hint)

    @property
    def _where(self) -> str:
        return ", ".join(self._access.servers)


class _Listener:
    """Told by the group what is ours: seeks at once, before anything can be fetched."""

    def __init__(self, link: Link, membership: Membership) -> None:
        self._link = link
        self._membership = membership

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        pass

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._link.generation += 1
        self._link.stirred = True
        self._link.seek({tuple(tp): self._membership.place(tuple(tp)) for tp in assigned})


async def answers(access: Access, within_s: float) -> bool:
    """Does any broker answer, on a connection of its own?"""
    link = Link(access, (), settings={"request_timeout_ms": int(within_s * 1000)})
    try:
        await link.open()
        return True
    except KafkaError:
        return False
    finally:
        await link.close()


def new_member() -> str:
    """A name in the group that no other stream has."""
    return f"freshet-{secrets.token_hex(8)}"


def _library() -> Any:
    import aiokafka
    import aiokafka.errors

    return aiokafka


def _task(step: Awaitable[T]) -> "asyncio.Future[T]":
    """No task group: none may span the yields of a generator, and who waits may be cancelled."""
    task = asyncio.ensure_future(step)
    task.add_done_callback(_forget)
    return task


def _forget(task: "asyncio.Future[Any]") -> None:
    """If nobody waits for it any more, nobody need hear how it ended."""
    if not task.cancelled():
        task.exception()


async def _ended(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Wait for them for a while, then cancel them."""
    for wait in (False, True):
        left = {task for task in tasks if not task.done()}
        for task in left if wait else ():
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_S)
