"""Stored events keep their bytes for ever, and what was stored by other releases can be read."""

from pathlib import Path

import msgspec
import pytest

from freshet.engine import metadata as m
from freshet.engine.codec import TYPES, decode, encode, type_of
from freshet.engine.events import (
    AnyEvent,
    CheckEvaluated,
    CursorMoved,
    DemandCancelled,
    Demanded,
    EngineReloaded,
    EngineStarted,
    EngineStopped,
    FellDue,
    FreshnessAtRisk,
    FreshnessBreached,
    FreshnessRestored,
    GraphDeployed,
    Invalidated,
    JobSubmitted,
    Materialized,
    MessageRejected,
    MessageSettled,
    Observed,
    OrphanHandled,
    PartitionsAdded,
    PartitionsRemoved,
    Paused,
    ResultRefused,
    Resumed,
    RolledBack,
    RunAbandoned,
    RunCancelled,
    RunDelayed,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SensorFailed,
    SensorRecovered,
    SourceChanged,
    Unknown,
    WindowsOpened,
)
from freshet.engine.keys import AssetPartition
from freshet.engine.mappings import (
    All,
    Dimensions,
    Last,
    Offset,
    Overlap,
    Pair,
    Table,
    Trailing,
)
from freshet.engine.origins import cause_of, subject_of
from freshet.engine.partitions import Dynamic, Product, Static
from freshet.engine.parts import EVERY, Absorbed, Cause, Input, Payload, Target
from freshet.engine.policies import (
    AllOf,
    AnyOf,
    Changed,
    Cron,
    Eager,
    Limit,
    Manual,
    MaxLag,
    OnMissing,
)
from freshet.engine.specs import AssetSpec, CheckSpec, Dependency, PoolShare
from freshet.engine.ticks import Hours
from freshet.engine.windows import Windows

GOLDEN = Path(__file__).parent / "golden" / "events-1.jsonl"

DAY = "2013-01-05"
URL = m.Url("https://example.org")
TYPED: dict[str, m.Value] = {
    "path": m.Path("/a"),
    "url": URL,
    "table": m.Table(("a", "b"), ((1, "x"), (2.5, None)), 7),
    "markdown": m.Markdown("# a"),
    "json": m.Json('{"a":1}'),
    "at": m.Timestamp(1700),
    "plain": 3,
}
GRAPH = GraphDeployed(
    digest="9f2c",
    assets=(
        AssetSpec("landing/flights", kind="source", partitions=Windows("day", "2013-01-01")),
        AssetSpec(
            "delays",
            deps=(Dependency("landing/flights", parameter="flights"),),
            partitions=Windows("day", "2013-01-01", "2013-02-01"),
            code_version="c1",
            retries=3,
            retry_delay_ms=500,
            timeout_ms=60_000,
            group="daily",
            tags={"tier": "gold"},
            owners=("ana",),
            kinds=("polars",),
            description="Delay per day.",
            metadata={"rows": 7, "ratio": 0.5, "ok": True, "note": None},
        ),
        AssetSpec("carriers", deps=(Dependency("delays", All()),), policy=Manual()),
        AssetSpec("regions", partitions=Static(("north", "süd"))),
        AssetSpec(
            "hours",
            deps=(
                Dependency("delays", Trailing(7), missing="skip", deadline_ms=60_000),
                Dependency("hours", Offset(-1)),
                Dependency("sales", Dimensions((Pair("", "day", Overlap()),))),
                Dependency("regions", Table((("2024-01-01T00", ("north",)),))),
                Dependency("customers", Last()),
            ),
            partitions=Windows(
                "hour", "2024-01-01", None, "Europe/Berlin", 15, ("2024-01-01T03:15",), "data"
            ),
            batch=10,
        ),
        AssetSpec("customers", "source", partitions=Dynamic(by_arrival=False)),
        AssetSpec(
            "sales",
            "source",
            partitions=Product(
                ("day", "region"),
                (
                    Windows("day", "2024-01-01", lateness_ms=3_600_000, format="%Y%m%d"),
                    Static(("eu", "us")),
                ),
            ),
        ),
    ),
)

POLICIES = GraphDeployed(
    digest="77aa",
    assets=(
        AssetSpec(
            "report",
            policy=MaxLag(
                lag_ms=900_000,
                warn_ms=600_000,
                hours=Hours(480, 1080, "Europe/Berlin", "mon-fri"),
                newest=30,
                condition=AllOf((Changed("hours"), AnyOf((Changed("sales"), Changed("delays"))))),
                priority=5,
                on_failure="proceed",
                on_failure_after_ms=60_000,
            ),
        ),
        AssetSpec("nightly", policy=Cron(expression="0 6 * * *", tz="Europe/Berlin")),
        AssetSpec("quiet", policy=Eager(debounce_ms=5000, max_wait_ms=60_000, limit=Limit(3, 9))),
        AssetSpec("lookup", policy=OnMissing()),
    ),
)

EVENTS: list[tuple[AnyEvent, str, int | None]] = [
    # the event, its subject, its cause; one line each in the golden file, in this order
    (GRAPH, "", None),
    (POLICIES, "", None),
    (SourceChanged("landing/flights", DAY, "v1", {"bytes": 12}), f"landing/flights@{DAY}", None),
    (SourceChanged("landing/flights", DAY), f"landing/flights@{DAY}", None),
    (Observed("weather", data_version="w1"), "weather", None),
    (
        Materialized(
            "carriers",
            run=9,
            data_version="d1",
            code_version="c1",
            inputs=(
                Input("delays", EVERY, "ab", 8, 31),
                Input("weather", "", "w1", 4),
                Input("hours", "2024-01-01T00..2024-01-01T23", "cd", 7, 22, 2, ("2024-01-01T05",)),
            ),
            metadata={"rows": 16},
        ),
        "carriers",
        9,
    ),
    (CheckEvaluated("has_rows", "carriers", run=9, passed=False, blocking=True), "carriers", 9),
    (
        RunStarted(
            (Target("delays", DAY, 3, "ff", "c1"),),
            attempt=2,
            policy="manual",
            reason="retry",
            causes=(Cause("landing/flights", DAY, 3),),
            changed=1,
        ),
        f"delays@{DAY}",
        3,
    ),
    (RunStarted((Target("a", owed=6), Target("b", owed=5))), "", 5),
    (RunSucceeded(9, 1200), "run 9", 9),
    (RunFailed(9, "timeout", "too slow", "trace", 60, 1_357_000_000_000_000), "run 9", 9),
    (RunFailed(9, "infrastructure", "away", retry_at=7, passing=True), "run 9", 9),
    (RunDelayed(9, 4_000_000), "run 9", 9),
    (RunCancelled(9, "wrong month"), "run 9", 9),
    (RunAbandoned(9, "the daemon was killed"), "run 9", 9),
    (RunSucceeded(9, adopted=True), "run 9", 9),
    (RunAbandoned(9, "cut off", killed=True), "run 9", 9),
    (ResultRefused(9, "its timeout came first"), "run 9", 9),
    (JobSubmitted(9, "job-17"), "run 9", 9),
    (Demanded((AssetPartition("carriers"),), "by hand"), "carriers", None),
    (Demanded((AssetPartition("delays", DAY),), "again", True, False), f"delays@{DAY}", None),
    (DemandCancelled(11), "", 11),
    (
        FellDue((AssetPartition("carriers"),), "max_lag 15m", (AssetPartition("delays", DAY),)),
        "carriers",
        None,
    ),
    (Invalidated((AssetPartition("delays", DAY), AssetPartition("carriers"))), "", None),
    (PartitionsAdded("customers", ("acme", "süd")), "customers", None),
    (PartitionsRemoved("customers", ("acme",)), "customers", None),
    (WindowsOpened(1_357_000_000_000_000), "", None),
    (Paused("group:daily", "backfill", 1_357_000_000_000_000), "group:daily", None),
    (Resumed("group:daily"), "group:daily", None),
    (Resumed("group:daily", "its time is over", 20), "group:daily", 20),
    (CursorMoved("files", {"a.csv": "12:34", "b.csv": None}), "files", None),
    (SensorFailed("files", "no such folder"), "files", None),
    (SensorFailed("orders", "the topic is another one", "choose", True), "orders", None),
    (SensorFailed("files", "a is missing", "make it", hindered=True), "files", None),
    (
        MessageRejected("orders", "orders/0/17", "no JSON", "{,", {"offset": 17}),
        "orders",
        None,
    ),
    (MessageSettled("orders", "orders/0/17"), "orders", None),
    (MessageSettled("orders", "orders/0/17", False), "orders", None),
    (
        SourceChanged("orders", "", "0:17", {"offset": 17}, Payload("json", "text", '{"id":1}', 8)),
        "orders",
        None,
    ),
    (
        SourceChanged("orders", "", "0:18", payload=Payload("bytes", "stored", "ab12", 99)),
        "orders",
        None,
    ),
    (Materialized("totals", run=7, data_version="9", absorbed=Absorbed(3, 6)), "totals", 7),
    (
        Materialized("totals", run=7, data_version="9", absorbed=Absorbed(3, 6, 2, 8, 1700)),
        "totals",
        7,
    ),
    (SensorRecovered("files"), "files", None),
    (
        FreshnessAtRisk("carriers", promise="max_lag 15m", reason="delays is running", owed=3),
        "carriers",
        3,
    ),
    (FreshnessBreached("carriers", promise="max_lag 15m", owed=3), "carriers", 3),
    (
        FreshnessBreached("carriers", promise="max_lag 15m", owed=3, reason="delays failed"),
        "carriers",
        3,
    ),
    (FreshnessRestored("carriers", promise="max_lag 15m"), "carriers", None),
    (EngineStarted("0.1.0", 4711, "host"), "", None),
    (EngineStarted("0.1.0", sensors={"files": ("landing/flights",)}), "", None),
    (
        EngineStarted("0.1.0", sensors={"files": ("landing",)}, without_latest=("files",)),
        "",
        None,
    ),
    (EngineStarted("0.1.0", profile="prod"), "", None),
    (
        GraphDeployed("d5", (AssetSpec("table", columns={"id": "int"}, metadata={"doc": URL}),)),
        "",
        None,
    ),
    (Materialized("typed", run=7, data_version="v", metadata=TYPED), "typed", 7),
    (EngineReloaded(4, {"files": ("landing",)}, ("files",)), "", None),
    (EngineStopped("SIGTERM"), "", None),
    (
        CheckEvaluated(
            "no_negatives",
            "delays",
            DAY,
            9,
            False,
            True,
            {"negatives": 2, "share": 0.5},
            "d1",
            "error",
            "2 numbers are negative",
        ),
        f"delays@{DAY}",
        9,
    ),
    (CheckEvaluated("has_rows", "carriers", data_version="d1"), "carriers", None),
    (
        GraphDeployed(
            "88bb",
            (
                AssetSpec("orders", pools=(PoolShare("db", 1, 2), PoolShare("gb", 6, 8))),
                AssetSpec("model", config={"rate": 0.1, "trees": 30, "kind": "a", "deep": True}),
                AssetSpec(
                    "delays",
                    checks=(
                        CheckSpec("no_negatives", True, "error", "k1", "None is below 0."),
                        CheckSpec("has_rows", code_version="k2"),
                    ),
                ),
            ),
        ),
        "",
        None,
    ),
    (
        RolledBack(
            "delays",
            DAY,
            "d1",
            10,
            "too few flights",
            9,
            "c1",
            (Input("landing/flights", DAY, "f1", 3),),
            {"bytes": 12, "rows": 2},
        ),
        f"delays@{DAY}",
        10,
    ),
    (RolledBack("carriers", data_version="d2"), "carriers", None),
    (OrphanHandled("carriers", 41), "carriers", 41),
    (GraphDeployed("99cc", (AssetSpec("total", store="warehouse"),)), "", None),
]

NUMBERED = list(enumerate(event for event, _, _ in EVENTS))
LINES = GOLDEN.read_bytes().splitlines()


def test_every_type_of_event_has_a_golden_line() -> None:
    assert {type_of(event) for event, _, _ in EVENTS} == set(TYPES)
    assert len(LINES) == len(EVENTS)


@pytest.mark.parametrize(("number", "event"), NUMBERED)
def test_an_event_is_stored_in_its_golden_bytes(number: int, event: AnyEvent) -> None:
    assert encode(event) == LINES[number]


@pytest.mark.parametrize(("number", "event"), NUMBERED)
def test_golden_bytes_are_read_as_the_event_they_were(number: int, event: AnyEvent) -> None:
    assert decode(type_of(event), LINES[number]) == event


@pytest.mark.parametrize(("event", "subject", "cause"), EVENTS)
def test_subject_and_cause_follow_from_the_event(
    event: AnyEvent, subject: str, cause: int | None
) -> None:
    assert (subject_of(event), cause_of(event)) == (subject, cause)


@pytest.mark.parametrize("line", LINES)
def test_fields_of_a_newer_release_are_ignored(line: bytes) -> None:
    fields = msgspec.json.decode(line)
    newer = msgspec.json.encode(fields | {"of_a_newer_release": {"deep": [1, None]}})
    assert decode(fields["type"], newer) == decode(fields["type"], line)


def test_an_unknown_type_is_passed_through_untouched() -> None:
    data = b'{"type":"TidesTurned","by":[1,2]}'
    event = decode("TidesTurned", data)
    assert event == Unknown("TidesTurned", data)
    assert (encode(event), type_of(event)) == (data, "TidesTurned")
    assert (subject_of(event), cause_of(event)) == ("", None)


def test_bytes_that_are_no_event_of_their_type_are_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode("RunSucceeded", b'{"type":"RunSucceeded","run":"nine"}')
    with pytest.raises(msgspec.DecodeError):
        decode("RunSucceeded", b'{"type":"RunSucc')


def test_an_event_without_its_optional_fields_is_stored_without_them() -> None:
    assert encode(SourceChanged("a")) == b'{"type":"SourceChanged","asset":"a"}'
    assert cause_of(RunStarted((Target("a"),))) is None
    assert cause_of(Materialized("a")) is None
