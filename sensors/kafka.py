"""Kafka topics as sources: what each message says is declared here, where it was read is ours."""

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from importlib.util import find_spec
from typing import Literal, TypedDict, Unpack

import msgspec

from freshet.engine.assets import Source
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.partitions import describe
from freshet.engine.spaces import space_of
from freshet.engine.specs import AssetSpec
from freshet.engine.windows import Calendar
from freshet.sensors.known import spec_of
from freshet.sensors.sensor import REPLAY, START, Batch
from freshet.sensors.topics.access import OURS, SETTINGS, Access, Options
from freshet.sensors.topics.messages import Feed, Message, Rules
from freshet.sensors.topics.places import Start
from freshet.sensors.topics.reading import Reading, Topics

MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
"""Largest value that is kept unless one says otherwise: sixteen times what brokers let pass unless
they are told to.
"""


class Seldom(TypedDict, total=False):
    """Arguments of `kafka` that few need."""

    group: str | None
    member: bool
    max_payload: int
    on_tombstone: Literal["withdraw", "keep"]
    options: Mapping[str, object]


Topic = str | Sequence[str] | Mapping[str, Source]
Partition = str | Callable[[Message], str] | None
Value = Literal["json", "bytes"] | type[msgspec.Struct] | Callable[[bytes], object]
Version = Literal["offset", "content"] | Callable[[Message], str]


def kafka(
    topic: Topic,
    *,
    bootstrap_servers: str | Sequence[str],
    source: Source | None = None,
    partition: Partition = None,
    value: Value = "json",
    version: Version = "offset",
    keep: Literal["payload"] | None = None,
    start: Start = "earliest",
    name: str | None = None,
    **more: Unpack[Seldom],
) -> "KafkaSensor":
    """A sensor for the messages of a topic, or of several, each a change of `source`; or of the
    source that a mapping of topics names.

    Each message (topic, partition, offset) becomes one change, exactly once: how far it has read is
    in the stream, in the same transaction, and Kafka's own committed offsets are never read.

    - `partition` of the source: `"key"`, `"value.field"` (or a field of a field),
      `"header:name"`, `"timestamp:%Y-%m-%d"` (of UTC), `"timestamp"` (the window that holds it), or
      a function of the `Message`. Left out, the source has none.
    - `value`: `"json"`, `"bytes"`, a `msgspec.Struct` (JSON, checked), or a function of the bytes.
    - `version`: `"offset"` (each message is news), `"content"` (the digest of its value: an equal
      one changes nothing), or a function of the `Message`.
    - `keep="payload"` records the value with the change, of at most `max_payload` bytes.
    - `start`, for a topic never read before: `"earliest"` or `"latest"`.
    - `on_tombstone`: a message without value withdraws its partition, or with `"keep"` changes
      nothing. Where the source has no partitions it is a change like others, without payload.
    - `options` go to aiokafka (`security_protocol`, `sasl_…`, `ssl_context`, or `ssl_cafile`,
      `ssl_certfile`, `ssl_keyfile`, `ssl_password`); `"env:NAME"` and `"file:PATH"` are looked up
      at the start.
    - `group`, by default `freshet-` and the name: where the place is committed for those who
      display lag; `""`: nowhere. With `member=True` it joins that group.

    What cannot be read is rejected: see `freshet sensors --rejected`. Raises DefinitionError.
    """
    fed = _sources(topic, source)
    shown = ",".join(fed)
    rules = _rules(shown, partition, value, version, keep, more)
    for spec in set_of(fed):
        _check_partition(shown, partition, spec)
    if start not in ("earliest", "latest"):
        raise _wrong(shown, "start", start, "use 'earliest' or 'latest'")
    if find_spec("aiokafka") is None:
        raise DefinitionError(
            f"kafka({shown!r}) needs aiokafka, which is not installed",
            hint="`pip install 'freshet[kafka]'`",
        )
    name = name or f"kafka:{shown}"
    group = more.get("group")
    if more.get("member") and not group:
        raise _wrong(shown, "member", True, "name the group= to join")
    keys = [spec.key for spec in fed.values()]
    feeds = {t: Feed(rules, spec, shared=keys.count(spec.key) > 1) for t, spec in fed.items()}
    access = Access(_servers(shown, bootstrap_servers), _options(shown, more.get("options")))
    group = f"freshet-{name}" if group is None else group
    return KafkaSensor(Topics(name, access, feeds, start, group, bool(more.get("member"))), fed)


class KafkaSensor:
    """The definition of a Kafka sensor; each `run` reads independently."""

    answers = frozenset((START, REPLAY))
    """What people may ask for in its cursor."""

    def __init__(self, topics: Topics, fed: Mapping[str, AssetSpec]) -> None:
        self.topics = topics
        self.name = topics.name
        """Under which its cursor is stored; from the topics unless one was given."""
        self.sources = tuple(spec.key for spec in set_of(fed))
        self.keeps_payload = all(feed.keeps_payload for feed in topics.feeds.values())
        """Does it record the value of a message with the change?"""

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """Batches from the cursor on, for ever; see `Sensor`."""
        async with aclosing(Reading(self.topics, cursor).batches()) as batches:
            async for batch in batches:
                yield batch


def set_of(fed: Mapping[str, AssetSpec]) -> list[AssetSpec]:
    """The sources, each once."""
    return list({spec.key: spec for spec in fed.values()}.values())


# --- what was declared ------------------------------------------------------------------------


def _sources(topic: Topic, source: Source | None) -> dict[str, AssetSpec]:
    """The source of each topic."""
    if isinstance(topic, Mapping):
        if source is not None:
            raise _wrong(",".join(topic), "source", source.key, "the topics name theirs")
        found = {name: spec_of(fed, f"kafka({name!r})") for name, fed in topic.items()}
    else:
        names = (topic,) if isinstance(topic, str) else tuple(topic)
        if source is None:
            raise DefinitionError(
                f"kafka({', '.join(map(repr, names))}) names no source",
                hint="pass source=, or topics as a mapping {topic: source}",
            )
        found = dict.fromkeys(names, spec_of(source, f"kafka({', '.join(map(repr, names))})"))
    if not found or not all(isinstance(name, str) and _is_topic(name) for name in found):
        raise DefinitionError(
            f"kafka({list(found)!r}): that is no topic",
            cause="the name of a topic is letters, digits, '.', '_' and '-'",
            hint="name one topic, or several, as they are called in Kafka",
        )
    return found


def _is_topic(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "._-") for c in name)


def _rules(
    shown: str, partition: Partition, value: Value, version: Version, keep: str | None, more: Seldom
) -> Rules:
    for found in more:
        if found not in Seldom.__annotations__:
            known = (*inspect.signature(kafka).parameters, *Seldom.__annotations__)
            raise DefinitionError(
                f"kafka({shown!r}) has no argument '{found}'",
                hint=did_you_mean(found, known) or "see help(fr.kafka)",
            )
    is_struct = isinstance(value, type) and issubclass(value, msgspec.Struct)
    if value not in ("json", "bytes") and not is_struct and not callable(value):
        hint = "use 'json', 'bytes', a msgspec.Struct or a function of the bytes"
        raise _wrong(shown, "value", value, hint)
    if version not in ("offset", "content") and not callable(version):
        hint = "use 'offset', 'content' or a function of the message"
        raise _wrong(shown, "version", version, hint)
    if keep not in (None, "payload"):
        raise _wrong(shown, "keep", keep, "use 'payload', or leave it out")
    tombstone = more.get("on_tombstone", "withdraw")
    if tombstone not in ("withdraw", "keep"):
        raise _wrong(shown, "on_tombstone", tombstone, "use 'withdraw' or 'keep'")
    max_payload = more.get("max_payload", MAX_PAYLOAD_BYTES)
    if not isinstance(max_payload, int) or max_payload < 1:
        raise _wrong(shown, "max_payload", max_payload, "use a number of bytes, 1 or more")
    return Rules(partition, value, version, keep is not None, max_payload, tombstone == "withdraw")


def _check_partition(shown: str, partition: Partition, spec: AssetSpec) -> None:
    if (partition is None) != (spec.partitions is None):
        raise DefinitionError(
            f"kafka({shown!r}): partition={partition!r} does not fit source '{spec.key}'",
            cause=f"the source is {describe(spec.partitions)}",
            hint="a partitioned source needs partition=, others must not have it",
        )
    if partition is None or callable(partition):
        return
    kind, colon, rest = partition.partition(":")
    known = partition in ("key", "timestamp") or (kind == "header" and rest)
    known = known or (partition.startswith("value.") and all(partition.split(".")))
    if kind == "timestamp" and colon:
        known = bool(rest) and datetime(2000, 1, 1).strftime(rest) != rest
    if not known:
        hint = "use 'key', 'value.field', 'header:name', 'timestamp:%Y-%m-%d', 'timestamp' or a "
        raise _wrong(shown, "partition", partition, f"{hint}function of the message")
    if partition == "timestamp" and not isinstance(space_of(spec.partitions), Calendar):
        raise _wrong(
            shown, "partition", partition, "the source has no windows: write 'timestamp:%Y-%m-%d'"
        )


def _servers(shown: str, servers: str | Sequence[str]) -> tuple[str, ...]:
    found = tuple(servers.split(",")) if isinstance(servers, str) else tuple(servers)
    found = tuple(one.strip() for one in found)
    if not found or not all(one.rpartition(":")[2].isdecimal() for one in found):
        raise _wrong(shown, "bootstrap_servers", servers, "write 'host:9092', or several")
    return found


def _options(shown: str, options: Mapping[str, object] | None) -> Options:
    for name in options or {}:
        if name in OURS:
            raise DefinitionError(
                f"kafka({shown!r}): options may not have '{name}'",
                cause="it would break what the sensor promises",
                hint="leave it out",
            )
        if name not in SETTINGS:
            raise DefinitionError(
                f"kafka({shown!r}): options has '{name}', no setting of aiokafka's consumer",
                hint=did_you_mean(name, SETTINGS) or f"settings: {', '.join(sorted(SETTINGS))}",
            )
    return Options(options or {})


def _wrong(shown: str, name: str, value: object, hint: str) -> DefinitionError:
    return DefinitionError(f"kafka({shown!r}): {name}={value!r}", hint=hint)
