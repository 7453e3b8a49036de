"""What a Kafka message says by the rules of its topic: pure, no broker."""

from datetime import UTC, date, datetime
from time import perf_counter
from typing import Any

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord

import freshet as fr
from freshet.engine.digests import digest
from freshet.engine.errors import DefinitionError
from freshet.engine.events import SourceChanged
from freshet.sensors.kafka import MAX_PAYLOAD_BYTES
from freshet.sensors.sensor import Rejection
from freshet.sensors.topics import pending as pendings
from freshet.sensors.topics.client import Fetched
from freshet.sensors.topics.messages import Feed, Message, Rules
from freshet.sensors.topics.pending import DECODE_S, MAX_BATCH_MESSAGES, Pending

NOW_US = 1_800_000_000_000_000
NEW_YEAR_MS = 1_704_067_200_000  # 2024-01-01T00:00Z


def feed(partitions: Any = None, *, shared: bool = False, **rules: Any) -> Feed:
    given = {
        "partition": None,
        "value": "json",
        "version": "offset",
        "keep": False,
        "max_payload": MAX_PAYLOAD_BYTES,
        "withdraw": True,
    }
    return Feed(Rules(**(given | rules)), fr.source("s", partitions=partitions).spec, shared=shared)


def record(
    value: bytes | None = b"1",
    key: bytes | None = None,
    offset: int = 7,
    timestamp: int = NEW_YEAR_MS,
    headers: tuple[tuple[str, bytes], ...] = (),
) -> Any:
    sizes = (len(key or b""), len(value or b""))
    return ConsumerRecord("t", 2, offset, timestamp, 0, key, value, None, *sizes, headers)


def change(said: object) -> SourceChanged:
    assert isinstance(said, SourceChanged), said
    return said


def reason(said: object) -> str:
    assert isinstance(said, Rejection), said
    return said.reason


class Flight(msgspec.Struct):
    day: date
    number: int = 0


# --- partitions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message", "partition"),
    [
        ("key", record(key=b"EWR"), "EWR"),
        ("value.to", record(b'{"to": "IAH"}'), "IAH"),
        ("value.n", record(b'{"n": 17}'), "17"),
        ("value.a.b", record(b'{"a": {"b": "x"}}'), "x"),
        ("header:day", record(headers=(("day", b"old"), ("day", b"new"))), "new"),
        ("timestamp:%Y-%m-%d", record(), "2024-01-01"),
        ("timestamp:%Y-W%V", record(), "2024-W01"),
        (lambda m: f"{m.topic}-{m.partition}-{m.offset}-{m.value}", record(), "t-2-7-1"),
    ],
)
def test_a_partition_is_named_by_its_rule(rule: Any, message: Any, partition: str) -> None:
    """Key, field, header, time or function."""
    assert change(feed(fr.dynamic(), partition=rule).read(message, NOW_US)).partition == partition


@pytest.mark.parametrize(
    ("rule", "message", "why"),
    [
        ("key", record(), "no key"),
        ("key", record(key=b"\xff"), "no UTF-8"),
        ("key", record(key=b""), "empty"),
        ("value.to", record(b'{"from": 1}'), "has no 'to'"),
        ("value.to", record(b"3"), "has no 'to'"),
        ("value.to", record(b'{"to": [1]}'), "names no partition"),
        ("value.to", record(b'{"to": true}'), "names no partition"),
        ("value.to", record(b'{"to": 1.5}'), "names no partition"),
        ("value.to", record(None), "has no value"),
        ("header:day", record(), "no header 'day'"),
        ("header:day", record(headers=(("day", b"\xff"),)), "no UTF-8"),
        ("timestamp:%Y", record(timestamp=-1), "no timestamp"),
        (lambda m: 5, record(), "no text"),
        (lambda m: m.value["x"], record(b"{}"), "KeyError: 'x'"),
    ],
)
def test_a_message_that_names_no_partition_is_rejected(rule: Any, message: Any, why: str) -> None:
    """With where it lies, and why."""
    said = feed(fr.dynamic(), partition=rule).read(message, NOW_US)
    assert why in reason(said)
    assert isinstance(said, Rejection)
    assert said.item == "t/2/7"
    assert said.metadata == {
        "topic": "t",
        "partition": 2,
        "offset": 7,
        "timestamp_ms": message.timestamp,
    }


@pytest.mark.parametrize(
    ("windows", "at", "partition"),
    [
        (fr.daily("2024-01-01"), "2024-03-05T23:59:59.999", "2024-03-05"),
        (fr.daily("2024-01-01", tz="America/New_York"), "2024-03-05T04:59", "2024-03-04"),
        (fr.hourly("2024-01-01"), "2024-03-05T04:59", "2024-03-05T04"),
        (fr.monthly("2024-01-01"), "2024-03-05T04:59", "2024-03"),
        (fr.weekly("2024-01-01"), "2024-03-05T04:59", "2024-03-04"),
    ],
)
def test_a_timestamp_names_the_window_that_holds_it(windows: Any, at: str, partition: str) -> None:
    """By the calendar of the source; also for the next message in the same window."""
    ms = int(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() * 1000)
    read = feed(windows, partition="timestamp").read
    for _ in range(2):
        assert change(read(record(timestamp=ms), NOW_US)).partition == partition


def test_a_timestamp_outside_all_windows_is_rejected() -> None:
    """Before the first, after the last, or in what the source leaves out."""
    read = feed(fr.daily("2024-01-01", end="2024-02-01"), partition="timestamp").read
    for ms in (NEW_YEAR_MS - 1, NEW_YEAR_MS + 31 * 86_400_000):
        assert "in no window of the source" in reason(read(record(timestamp=ms), NOW_US))
    assert change(read(record(), NOW_US)).partition == "2024-01-01"


def test_what_the_source_does_not_admit_is_rejected() -> None:
    """No partition of it, or absurdly far ahead; an admitted one is remembered."""
    read = feed(fr.static(["a", "b"]), partition="key").read
    assert "'c' is no partition" in reason(read(record(key=b"c"), NOW_US))
    for _ in range(2):
        assert change(read(record(key=b"a"), NOW_US)).partition == "a"
    days = feed(fr.daily("2024-01-01", opens="data"), partition="key").read
    assert "ten years ahead" in reason(days(record(key=b"2999-01-01"), NOW_US))


# --- values and versions ----------------------------------------------------------------------


@pytest.mark.parametrize("partition", [None, "value.day"], ids=["not looked at", "looked at"])
@pytest.mark.parametrize("value", [b"", b"{", b'{"a": tru}', b'"\xff"', b"1 2", b"\xff"])
def test_what_is_no_json_is_rejected(value: bytes, partition: str | None) -> None:
    """Whether anything looks at the value or not."""
    read = feed(fr.dynamic() if partition else None, partition=partition).read
    said = read(record(value), NOW_US)
    assert reason(said)
    assert isinstance(said, Rejection)


def test_typed_values_are_checked() -> None:
    """A struct's field may be a date; what does not fit says where."""
    read = feed(fr.daily("2024-01-01"), value=Flight, partition="value.day").read
    assert change(read(record(b'{"day": "2024-01-05"}'), NOW_US)).partition == "2024-01-05"
    why = reason(read(record(b'{"day": "2024-01-05", "number": "x"}'), NOW_US))
    assert "Expected `int`, got `str` - at `$.number`" in why


def test_a_users_decoder_may_refuse() -> None:
    """Whatever it raises is the reason, bounded."""

    def decode(content: bytes) -> dict[str, str]:
        if content == b"bad":
            raise LookupError("no schema 17 " + "x" * 1000)
        return {"day": content.decode()}

    read = feed(fr.dynamic(), value=decode, partition="value.day").read
    assert change(read(record(b"monday"), NOW_US)).partition == "monday"
    why = reason(read(record(b"bad"), NOW_US))
    assert why.startswith("LookupError: no schema 17")
    assert len(why) <= 300


def test_versions_are_offsets_contents_or_what_a_function_says() -> None:
    """With the topic where several feed one source; with a count where offsets began anew."""
    assert change(feed().read(record(), NOW_US)).data_version == "2:7"
    assert change(feed(shared=True).read(record(), NOW_US)).data_version == "t:2:7"
    anew = feed()
    anew.incarnation = 3
    assert change(anew.read(record(), NOW_US)).data_version == "2:7~3"
    by_content = feed(version="content").read
    assert change(by_content(record(b"5"), NOW_US)).data_version == digest([b"5"])
    assert by_content(record(b"5", offset=1), NOW_US) != by_content(record(b"6"), NOW_US)

    def etag(message: Message) -> Any:
        return message.value.get("etag")

    by_function = feed(version=etag).read
    assert change(by_function(record(b'{"etag": "x"}'), NOW_US)).data_version == "x"
    for value in (b'{"etag": ""}', b'{"etag": 5}', b"{}"):
        assert "version= gave" in reason(by_function(record(value), NOW_US))


def test_a_tombstone_withdraws_its_partition_or_changes_nothing() -> None:
    """Without partitions it is a change like others, without payload."""
    by_key = feed(fr.dynamic(), partition="key", version="content").read
    gone = change(by_key(record(None, key=b"a"), NOW_US))
    assert (gone.partition, gone.data_version, gone.payload) == ("a", "", None)
    kept = feed(fr.dynamic(), partition="key", withdraw=False)
    assert kept.read(record(None, key=b"a"), NOW_US) is None
    whole = change(feed(keep=True).read(record(None, key=b"a"), NOW_US))
    assert (whole.partition, whole.data_version, whole.payload) == ("", "2:7", None)


def test_values_are_kept_as_what_they_are() -> None:
    """JSON as JSON, what a decoder reads as bytes; too large ones are rejected unread."""
    kept = change(feed(keep=True).read(record(b'{"a": 1}'), NOW_US)).payload
    assert kept is not None
    assert (kept.kind, kept.form, kept.data, kept.size) == ("json", "text", '{"a": 1}', 8)
    opaque = change(feed(keep=True, value="bytes").read(record(b"\xff"), NOW_US)).payload
    assert opaque is not None
    assert (opaque.kind, opaque.form, opaque.data) == ("bytes", "base64", "/w==")
    large = feed(keep=True, max_payload=3).read(record(b"1234"), NOW_US)
    assert "4 bytes, more than max_payload=3" in reason(large)
    assert change(feed().read(record(), NOW_US)).payload is None


# --- as many as may be read at a stretch ------------------------------------------------------


def test_what_is_pending_is_taken_in_order_and_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a batch at once, places after what was taken, beyond the last at the end."""
    monkeypatch.setattr(pendings, "DECODE_S", 10.0)  # a busy machine is none of this
    pending = Pending()
    first = [record(offset=n) for n in range(MAX_BATCH_MESSAGES + 5)]
    second = [record(offset=n) for n in range(3)]
    pending.put(Fetched({("t", 2): first, ("t", 3): second}, {("t", 2): 9999, ("t", 4): 6}), {})
    taken = pending.take({"t": feed()}, NOW_US)
    assert len(taken.changes) == MAX_BATCH_MESSAGES
    assert taken.reached == {("t", 2): MAX_BATCH_MESSAGES}
    taken = pending.take({"t": feed()}, NOW_US)
    assert len(taken.changes) == 8
    assert taken.reached == {("t", 2): 9999, ("t", 3): 3, ("t", 4): 6}
    assert not pending
    assert pending.take({"t": feed()}, NOW_US) == ([], [], {})


def test_what_lies_before_our_place_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded already: fetched again after a rebalance."""
    monkeypatch.setattr(pendings, "DECODE_S", 10.0)
    pending = Pending()
    pending.put(
        Fetched({("t", 2): [record(offset=n) for n in range(5)]}, {("t", 2): 5}), {("t", 2): 3}
    )
    taken = pending.take({"t": feed()}, NOW_US)
    assert [c.metadata["offset"] for c in taken.changes] == [3, 4]
    pending.put(Fetched({("t", 2): [record(offset=2)]}, {("t", 2): 3}), {("t", 2): 5})
    assert not pending
    assert pending.take({"t": feed()}, NOW_US).reached == {}
    for _ in range(2):
        pending.put(Fetched({("t", 2): [record(offset=n) for n in range(5)]}, {}), {})
    assert len(pending.take({"t": feed()}, NOW_US).changes) == 5


def test_a_slow_decoder_does_not_hold_the_loop() -> None:
    """It is left after some milliseconds, with what it has read by then."""

    def slow(content: bytes) -> None:
        until = perf_counter() + DECODE_S / 3
        while perf_counter() < until:
            pass

    pending = Pending()
    pending.put(Fetched({("t", 2): [record(offset=n) for n in range(100)]}, {}), {})
    began = perf_counter()
    taken = pending.take({"t": feed(value=slow)}, NOW_US)
    assert 1 <= len(taken.changes) <= 4
    assert perf_counter() - began < 1


# --- what is declared -------------------------------------------------------------------------


def declared(topic: Any = "t", **more: Any) -> Any:
    more.setdefault("bootstrap_servers", "localhost:9092")
    more.setdefault("source", fr.source("s"))
    return fr.kafka(topic, **more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"source": None}, "names no source"),
        ({"topic": {}}, "source='s'"),
        ({"source": "s"}, "which is no source"),
        ({"topic": {"t": fr.source("s"), "u": None}, "source": None}, "which is no source"),
        ({"topic": []}, "that is no topic"),
        ({"topic": "a b"}, "that is no topic"),
        ({"bootstrap_servers": "localhost"}, "bootstrap_servers='localhost'"),
        ({"partition": "key"}, "does not fit source 's'"),
        ({"source": fr.source("s", partitions=fr.dynamic())}, "does not fit source 's'"),
        ({"value": "avro"}, "value='avro'"),
        ({"version": "etag"}, "version='etag'"),
        ({"keep": "all"}, "keep='all'"),
        ({"start": "now"}, "start='now'"),
        ({"on_tombstone": "drop"}, "on_tombstone='drop'"),
        ({"max_payload": 0}, "max_payload=0"),
        ({"member": True}, "member=True"),
        ({"optoins": {}}, "no argument 'optoins'"),
        ({"options": {"group_id": "x"}}, "options may not have 'group_id'"),
        ({"options": {"sasl_mechanismus": "x"}}, "'sasl_mechanismus', no setting"),
    ],
)
def test_a_declaration_that_cannot_work_says_what_and_what_next(
    arguments: dict[str, Any], said: str
) -> None:
    """Each names the value and the next step."""
    with pytest.raises(DefinitionError) as raised:
        declared(**arguments)
    assert said in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("values", "did you mean 'value'?"),
        ("bootstrap_server", "did you mean 'bootstrap_servers'?"),
        ("option", "did you mean 'options'?"),
        ("xyz", "see help(fr.kafka)"),
    ],
)
def test_an_argument_that_does_not_exist_is_refused_with_the_nearest(typed: str, hint: str) -> None:
    """Of all there are, also those that few need."""
    with pytest.raises(DefinitionError, match=f"has no argument '{typed}'") as raised:
        declared(**{typed: "json"})
    assert raised.value.hint == hint


@pytest.mark.parametrize(
    "rule", ["keys", "value", "value.", "value..x", "header:", "timestamp:", "timestamp:day", "v.x"]
)
def test_an_unknown_partition_rule_is_refused(rule: str) -> None:
    """The hint lists those there are."""
    with pytest.raises(DefinitionError, match="partition=") as raised:
        declared(source=fr.source("s", partitions=fr.dynamic()), partition=rule)
    assert "value.field" in (raised.value.hint or "")


def test_timestamp_alone_needs_windows() -> None:
    """Where the source has none, a format says what a partition is."""
    with pytest.raises(DefinitionError, match="partition='timestamp'"):
        declared(source=fr.source("s", partitions=fr.dynamic()), partition="timestamp")
    declared(source=fr.source("s", partitions=fr.hourly("2024-01-01")), partition="timestamp")


ORDERS = fr.source("orders")


@fr.asset(deps=[ORDERS])
def of_all(changes: fr.Changes[dict[str, float]]) -> int:
    return len(changes)


@fr.asset
def by_name(orders: fr.Changes[bytes]) -> int:
    return len(orders)


@fr.asset(deps=[ORDERS])
def as_a_bell(changes: fr.Changes) -> int:
    return len(changes)


@fr.asset
def of_another(prices: fr.Changes[bytes], orders: fr.Changes) -> int:
    return len(prices) + len(orders)


@pytest.mark.parametrize("asset", [of_all, by_name])
def test_payloads_that_no_sensor_keeps_cannot_be_read(asset: Any) -> None:
    """Said before anything runs: who reads them, of which source, and what to write."""
    with pytest.raises(DefinitionError) as raised:
        fr.Project([ORDERS, asset], sensors=[declared(source=ORDERS)])
    assert f"'{asset.key}' reads payloads of source 'orders'" in raised.value.message
    assert "sensor 'kafka:t'" in raised.value.message
    assert 'keep="payload"' in (raised.value.hint or "")
    fr.Project([ORDERS, asset], sensors=[declared(source=ORDERS, keep="payload")])
    for sensor in (fr.files("in.csv", source=ORDERS), fr.poll(lambda: "1", source=ORDERS, every=5)):
        with pytest.raises(DefinitionError, match="reads payloads"):
            fr.Project([ORDERS, asset], sensors=[sensor])


@pytest.mark.parametrize("asset", [as_a_bell, of_another])
def test_changes_without_payload_may_be_read_as_such(asset: Any) -> None:
    """Of this source nobody asks for a payload."""
    prices = fr.source("prices")
    fr.Project([ORDERS, prices, asset], sensors=[declared(source=ORDERS)])


def test_without_aiokafka_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the declaration, before anything runs."""
    monkeypatch.setattr("freshet.sensors.kafka.find_spec", lambda name: None)
    with pytest.raises(DefinitionError) as raised:
        declared()
    assert "pip install 'freshet[kafka]'" in (raised.value.hint or "")


def test_a_sensor_is_named_after_its_topics() -> None:
    """Unless it is given a name; its group after it."""
    assert declared(["a", "b"]).name == "kafka:a,b"
    assert declared(name="n").topics.group == "freshet-n"
    assert declared(group="").topics.group == ""
    assert "secret" not in repr(declared(options={"sasl_plain_password": "secret"}).topics)
