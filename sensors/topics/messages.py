"""Kafka messages as changes of sources: what each says, by the rules of its topic, and why one
cannot count.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from freshet.engine.digests import digest
from freshet.engine.events import SourceChanged
from freshet.engine.keys import WHOLE, PartitionKey
from freshet.engine.parts import Payload
from freshet.engine.spaces import calendar_of, space_of
from freshet.engine.specs import AssetSpec, Plain
from freshet.engine.stores.payloads import payload_of
from freshet.sensors.admission import Admission
from freshet.sensors.sensor import Rejection, excerpt

MAX_ADMITTED = 10_000
"""Partitions remembered as admitted: most messages are about few, and asking costs more than the
rest of a message.
"""

MAX_REASON_CHARS = 300
"""Of what a decoder or function says of a message it cannot read."""


class Message(NamedTuple):
    """A message as the functions of a project see it: `value` is what its bytes were decoded to,
    None for a tombstone.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: Any
    headers: tuple[tuple[str, bytes], ...]


class Rules(msgspec.Struct, frozen=True):
    """How the messages of a topic become changes; see `kafka.kafka`, which makes and checks it."""

    partition: str | Callable[[Message], str] | None
    value: str | type[msgspec.Struct] | Callable[[bytes], object]
    version: str | Callable[[Message], str]
    keep: bool
    max_payload: int
    withdraw: bool


class Record(Protocol):
    """A message as it comes from the client: bytes."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]: ...


class RefusedError(Exception):
    """Why a message cannot count."""


class Feed:
    """One topic and the source it feeds. Its `read` is pure: equal messages, equal answers.

    `shared` says that other topics feed the same source. `incarnation` counts how often offsets
    began anew (the topic was re-created): an offset then names another message than it did before.
    """

    def __init__(self, rules: Rules, source: AssetSpec, *, shared: bool) -> None:
        self.incarnation = 1
        self._rules = rules
        self._key = source.key
        self._shared = shared
        self._value = _decoder(rules)
        self._partition = _partition_rule(rules.partition, source)
        self._admission = Admission(source)
        self._admitted: set[PartitionKey] = set()
        self.keeps_payload = rules.keep
        self._kind: Literal["json", "bytes"] = "bytes" if _is_opaque(rules.value) else "json"

    def read(self, record: Record, now_us: int) -> SourceChanged | Rejection | None:
        """What the message says; None for a tombstone that is to change nothing."""
        try:
            content = record.value
            if content is None:
                return self._tombstone(record, now_us)
            payload = self._payload(content) if self.keeps_payload else None
            value = self._value(content)
            partition = self._partition(record, value)
            if partition not in self._admitted:
                self._admit(partition, now_us)
            version = self._version(record, value)
            return SourceChanged(self._key, partition, version, place_of(record), payload)
        except RefusedError as refused:
            return rejection(record, str(refused))
        except Exception as error:  # recorded: as MessageRejected, by the sensor
            return rejection(record, f"{type(error).__name__}: {error}")

    def _tombstone(self, record: Record, now_us: int) -> SourceChanged | None:
        """A message without value: its partition is gone, where it names one."""
        if self._rules.partition is None:
            return SourceChanged(self._key, WHOLE, self._version(record, None), place_of(record))
        if not self._rules.withdraw:
            return None
        partition = self._partition(record, None)
        self._admit(partition, now_us)
        return SourceChanged(self._key, partition, "", place_of(record))

    def _admit(self, partition: PartitionKey, now_us: int) -> None:
        if not isinstance(partition, str):
            raise RefusedError(f"partition= gave {partition!r}, which is no text")
        problem = self._admission.problem(partition, now_us)
        if problem:
            raise RefusedError(problem)
        if len(self._admitted) >= MAX_ADMITTED:
            self._admitted.clear()
        self._admitted.add(partition)

    def _version(self, record: Record, value: Any) -> str:
        rule = self._rules.version
        if rule == "offset":
            place = f"{record.partition}:{record.offset}"
            if self._shared:
                place = f"{record.topic}:{place}"
            return place if self.incarnation == 1 else f"{place}~{self.incarnation}"
        if rule == "content":
            return digest([record.value or b""])
        assert callable(rule)
        version = rule(message_of(record, value))
        if not isinstance(version, str) or not version:
            raise RefusedError(f"version= gave {version!r}, which is no text with something in it")
        return version

    def _payload(self, content: bytes) -> Payload:
        limit = self._rules.max_payload
        if len(content) > limit:
            raise RefusedError(f"its value has {len(content)} bytes, more than max_payload={limit}")
        return payload_of(content, self._kind)


def item_of(record: Record) -> str:
    """Where a message lies, as rejections name it."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def place_of(record: Record) -> dict[str, Plain]:
    """Where a message lies, as the metadata of its change tell it."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
    }


def message_of(record: Record, value: Any) -> Message:
    """The message as functions of the project see it."""
    return Message(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        value,
        record.headers,
    )


def rejection(record: Record, reason: str) -> Rejection:
    """The message cannot count, and why."""
    shown = excerpt(record.key if record.value is None else record.value)
    return Rejection(item_of(record), reason[:MAX_REASON_CHARS], shown, place_of(record))


# --- values -----------------------------------------------------------------------------------


def _is_opaque(rule: object) -> bool:
    """Are the bytes themselves no JSON, as far as the rule knows?"""
    return not (rule == "json" or (isinstance(rule, type) and issubclass(rule, msgspec.Struct)))


def _decoder(rules: Rules) -> Callable[[bytes], Any]:
    rule = rules.value
    if rule == "json":
        return msgspec.json.Decoder().decode if _is_looked_at(rules) else _checked
    if rule == "bytes":
        return bytes
    if isinstance(rule, type) and issubclass(rule, msgspec.Struct):
        return msgspec.json.Decoder(rule).decode
    assert callable(rule)
    return rule


def _is_looked_at(rules: Rules) -> bool:
    """Does anything depend on what is in a value?"""
    of_value = isinstance(rules.partition, str) and rules.partition.startswith("value.")
    return of_value or callable(rules.partition) or callable(rules.version)


_skip = msgspec.json.Decoder(msgspec.Raw).decode


def _checked(content: bytes) -> None:
    """Is it JSON? Raises as decoding does, at a third of the cost, as nothing is made of it."""
    if not content.isascii():
        content.decode()
    _skip(content)


# --- partitions -------------------------------------------------------------------------------

Rule = Callable[[Record, Any], PartitionKey]


def _partition_rule(rule: str | Callable[[Message], str] | None, source: AssetSpec) -> Rule:
    if rule is None:
        return lambda record, value: WHOLE
    if callable(rule):
        asked = rule
        return lambda record, value: asked(message_of(record, value))
    kind, _, rest = rule.partition(":")
    if rule == "key":
        return _of_key
    if rule == "timestamp":
        return _OfWindow(source)
    if kind == "timestamp":
        return lambda record, value: datetime.fromtimestamp(_seconds(record), UTC).strftime(rest)
    if kind == "header":
        return lambda record, value: _of_header(record, rest)
    return _of_value(rule)


def _of_key(record: Record, value: Any) -> PartitionKey:
    key = record.key
    if key is None:
        raise RefusedError("it has no key to name its partition")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise RefusedError("its key is no UTF-8 text") from None


def _of_header(record: Record, name: str) -> PartitionKey:
    for found, content in reversed(record.headers):
        if found == name:
            try:
                return content.decode()
            except UnicodeDecodeError:
                raise RefusedError(f"its header '{name}' is no UTF-8 text") from None
    raise RefusedError(f"it has no header '{name}' to name its partition")


def _of_value(rule: str) -> Rule:
    """`value.flight.day`: a field of a field, of mappings or objects."""
    fields = rule.split(".")[1:]
    return lambda record, value: _key_of(_walk(value, fields, rule), rule)


def _walk(value: Any, fields: list[str], rule: str) -> Any:
    if value is None:
        raise RefusedError(f"it has no value, so '{rule}' names no partition")
    for field in fields:
        try:
            value = value[field] if isinstance(value, Mapping) else getattr(value, field)
        except (KeyError, AttributeError):
            raise RefusedError(f"its value has no '{field}' as '{rule}' says") from None
    return value


def _key_of(found: Any, rule: str) -> PartitionKey:
    if type(found) is str:
        return found
    if isinstance(found, date) and not isinstance(found, datetime):
        return found.isoformat()
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    raise RefusedError(f"'{rule}' is {type(found).__name__}, which names no partition")


class _OfWindow:
    """The window of the source that holds the message's timestamp; the last one is remembered, as
    messages come roughly in order.
    """

    def __init__(self, source: AssetSpec) -> None:
        calendar, _ = calendar_of(space_of(source.partitions))
        assert calendar is not None, "checked by kafka.kafka"
        self._calendar = calendar
        self._span = range(0)
        self._key = WHOLE

    def __call__(self, record: Record, value: Any) -> PartitionKey:
        us = record.timestamp * 1000
        if us not in self._span:
            said = datetime.fromtimestamp(_seconds(record), UTC).isoformat()
            window = self._calendar.at(us)
            if not self._calendar.valid(window) or us >= self._calendar.end_us(window):
                raise RefusedError(f"its timestamp {said} is in no window of the source")
            self._key = self._calendar.key(window)
            self._span = range(self._calendar.start_us(window), self._calendar.end_us(window))
        return self._key


def _seconds(record: Record) -> float:
    if record.timestamp < 0:
        raise RefusedError("it has no timestamp to name its partition")
    return record.timestamp / 1000
