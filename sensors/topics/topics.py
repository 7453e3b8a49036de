"""Topics and their ids: the one request to Kafka that aiokafka lacks (Metadata, version 12)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple
from uuid import UUID

ASIDE = 2
"""A connection of our own to each broker: it answers in order, and on aiokafka's own two it may be
waiting for messages, or for other members of a group.
"""

UNKNOWN = 3
"""Kafka's code for a topic that does not exist."""


class Found(NamedTuple):
    """What a broker says of a topic: an error code (0: none), its id (empty: the broker tells none)
    and the numbers of its partitions.
    """

    error: int
    id: str
    partitions: tuple[int, ...]


async def ask(client: Any, node: int, topics: Sequence[str]) -> Mapping[str, Found]:
    """What this node says of the topics, none of which it creates. Raises what `client` does."""
    try:
        answer = await client.send(node, _with_ids()(topics), group=ASIDE)
    except NotImplementedError:  # an older broker, which cannot tell ids
        answer = await client.send(node, _without_ids(topics), group=ASIDE)
        return {
            name: Found(error, "", _numbers(partitions))
            for error, name, _, partitions in answer.topics
        }
    return {
        name: Found(error, str(identity) if identity.int else "", _numbers(partitions))
        for error, name, identity, _, partitions, *_ in answer.topics
    }


def _numbers(partitions: Iterable[Sequence[Any]]) -> tuple[int, ...]:
    return tuple(sorted(number for _, number, *_ in partitions))


def _without_ids(topics: Sequence[str]) -> Any:
    from aiokafka.protocol.metadata import MetadataRequest

    return MetadataRequest(list(topics), allow_auto_topic_creation=False)


@cache
def _with_ids() -> Any:
    """The class of the request; made when it is first needed, as aiokafka is an extra."""
    from aiokafka.protocol import types as t
    from aiokafka.protocol.api import Request, RequestStruct, Response

    class Id(t.AbstractType):  # type: ignore[misc]  # aiokafka has no types
        """16 bytes."""

        @classmethod
        def encode(cls, value: UUID) -> bytes:
            return value.bytes

        @classmethod
        def decode(cls, data: BytesIO) -> UUID:
            return UUID(bytes=data.read(16))

    text = t.CompactString("utf-8")
    tags = ("tags", t.TaggedFields)
    numbers = t.CompactArray(t.Int32)
    broker = (("node", t.Int32), ("host", text), ("port", t.Int32), ("rack", text), tags)
    partition = (
        *(("error", t.Int16), ("partition", t.Int32), ("leader", t.Int32), ("epoch", t.Int32)),
        *(("replicas", numbers), ("isr", numbers), ("offline", numbers), tags),
    )
    topic = (
        *(("error", t.Int16), ("topic", text), ("id", Id), ("internal", t.Boolean)),
        *(("partitions", t.CompactArray(*partition)), ("operations", t.Int32), tags),
    )

    class Answer(Response):  # type: ignore[misc]  # aiokafka has no types
        API_KEY, API_VERSION = 3, 12
        SCHEMA = t.Schema(
            *(("throttle", t.Int32), ("brokers", t.CompactArray(*broker)), ("cluster", text)),
            *(("controller", t.Int32), ("topics", t.CompactArray(*topic)), tags),
        )

    class Version12(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
        API_KEY, API_VERSION, FLEXIBLE_VERSION, RESPONSE_TYPE = 3, 12, True, Answer
        SCHEMA = t.Schema(
            ("topics", t.CompactArray(("id", Id), ("name", text), tags)),
            *(("creates", t.Boolean), ("operations", t.Boolean), tags),
        )

    class Topics(Request[Version12]):  # type: ignore[misc]  # aiokafka has no types
        API_KEY = 3

        def __init__(self, topics: Sequence[str]) -> None:
            self._topics = topics

        def build(self, version: type[Version12]) -> Version12:
            return version([(UUID(int=0), name, {}) for name in self._topics], False, False, {})

    return Topics
