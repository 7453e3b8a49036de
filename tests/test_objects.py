"""Object storage: what a listing says, by a real S3 endpoint over HTTP and by stores in memory."""

import subprocess
import sys
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import anyio
import obstore
import pytest
import structlog
from anyio.lowlevel import checkpoint
from obstore.store import LocalStore, MemoryStore, S3Store
from structlog.testing import capture_logs

import freshet as fr
from freshet.engine.errors import DefinitionError, SensorError
from freshet.engine.events import SensorFailed, SensorRecovered, SourceChanged
from freshet.sensors.object_store import PAGE, Access, Found, ListingError
from freshet.sensors.objects import ObjectsSensor
from freshet.sensors.pace import Pacer
from freshet.sensors.sensor import MAX_BATCH_CHANGES, Batch
from tests.streams import Gated
from tests.test_poll import Time
from tests.test_supervisor import supervised

pytestmark = pytest.mark.anyio

PATIENCE_S = 60
"""Bound on a wait for something that comes within milliseconds."""

CANARY = "CANARY-0c7b19"
"""A secret, which must turn up nowhere."""

OF_THE_MACHINE = "finch-5d02ab"
"""Another, which obstore finds by itself."""

SERVER = """
import logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable()
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until whoever started it closes it, or ends
server.stop()
"""

days = fr.source("days", partitions=fr.daily("2024-01-01", opens="data"))
hours = fr.source("hours", partitions=fr.dynamic())
airlines = fr.source("airlines")


class Server:
    """moto, speaking S3 over HTTP in a process of its own; with buckets."""

    def __init__(self, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def bucket(self, name: str) -> "Bucket":
        with urlopen(Request(f"{self.endpoint}/{name}", method="PUT")):
            return Bucket(name, self.endpoint)

    def stop(self) -> None:
        self._process.communicate("")
        assert self._process.returncode == 0


class Bucket:
    """A bucket of a server, as users and as tests see it."""

    def __init__(self, name: str, endpoint: str) -> None:
        self.url = f"s3://{name}"
        self.options = {
            "endpoint": endpoint,
            "region": "us-east-1",
            "access_key_id": "key",
            "secret_access_key": CANARY,
        }
        self.store = S3Store(name, config=self.options, client_options={"allow_http": True})  # type: ignore[arg-type]  # a dict


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> Bucket:
    return server.bucket(f"b{abs(hash(request.node.name))}")


class Reader:
    """Reads a sensor as the engine does: takes a batch, keeps its cursor, asks for the next."""

    def __init__(self, sensor: ObjectsSensor, cursor: Mapping[str, str] | None = None) -> None:
        time = Time()
        pacer = Pacer(sensor.listed.pace, time.clock, time.sleep)
        self.cursor = dict(cursor or {})
        self.batches: AsyncGenerator[Batch, None] = ObjectsSensor(sensor.listed, pacer).run(
            dict(self.cursor)
        )

    async def batch(self) -> Batch:
        with anyio.fail_after(PATIENCE_S):
            batch = await anext(self.batches)
        for item, value in batch.cursor.items():
            if value is None:
                self.cursor.pop(item)
            else:
                self.cursor[item] = value
        return batch

    async def look(self) -> dict[str, str]:
        """The next batch: partition to data version."""
        return {c.partition: c.data_version for c in (await self.batch()).changes}


def etag(store: Any, key: str) -> str:
    return (obstore.head(store, key)["e_tag"] or "").strip('"')


# --- S3 over HTTP ---------------------------------------------------------------------------------


async def test_an_object_that_is_put_overwritten_and_deleted_is_three_changes(
    bucket: Bucket,
) -> None:
    """With the ETag as data version; putting the same content again is none."""
    sensor = fr.objects(f"{bucket.url}/in/{{partition}}.csv", source=days, store=bucket.options)
    reader = Reader(sensor)
    async with aclosing(reader.batches):
        obstore.put(bucket.store, "in/2024-01-05.csv", b"one")
        (change,) = (await reader.batch()).changes
        tag = "f97c5d29941bfb1b2fdab0874906ab82"  # the MD5 of "one", as S3 has it
        assert (change.asset, change.partition, change.data_version) == ("days", "2024-01-05", tag)
        modified = obstore.head(bucket.store, "in/2024-01-05.csv")["last_modified"].isoformat()
        assert change.metadata == {
            "url": f"{bucket.url}/in/2024-01-05.csv",
            "size": 3,
            "etag": tag,
            "last_modified": modified,
        }
        obstore.put(bucket.store, "in/2024-01-05.csv", b"one")
        assert await reader.look() == {}
        obstore.put(bucket.store, "in/2024-01-05.csv", b"two")
        assert await reader.look() == {"2024-01-05": etag(bucket.store, "in/2024-01-05.csv")}
        obstore.delete(bucket.store, "in/2024-01-05.csv")
        assert await reader.look() == {"2024-01-05": ""}
        assert reader.cursor == {}


async def test_pages_of_a_listing_come_in_bounded_batches_each_object_once(
    bucket: Bucket,
) -> None:
    names = [f"k{n:04}" for n in range(PAGE + 100)]
    for name in names:
        obstore.put(bucket.store, f"in/{name}.csv", name.encode())
    sensor = fr.objects(f"{bucket.url}/in/{{partition}}.csv", source=hours, store=bucket.options)
    reader = Reader(sensor)
    seen: list[str] = []
    async with aclosing(reader.batches):
        while len(seen) < len(names):
            batch = await reader.batch()
            assert len(batch.changes) <= MAX_BATCH_CHANGES
            seen += [change.partition for change in batch.changes]
        assert await reader.batch() == Batch()
    assert sorted(seen) == names


async def test_what_happened_while_nobody_looked_is_found_by_the_first_listing(
    bucket: Bucket,
) -> None:
    sensor = fr.objects(f"{bucket.url}/{{partition}}.csv", source=days, store=bucket.options)
    for n in (1, 2, 3):
        obstore.put(bucket.store, f"2024-01-0{n}.csv", b"old")
    first = Reader(sensor)
    async with aclosing(first.batches):
        assert len(await first.look()) == 3
    obstore.delete(bucket.store, "2024-01-01.csv")
    obstore.put(bucket.store, "2024-01-02.csv", b"new")
    obstore.put(bucket.store, "2024-01-04.csv", b"new")
    second = Reader(sensor, first.cursor)
    found: dict[str, str] = {}
    async with aclosing(second.batches):
        while len(found) < 3:
            found |= await second.look()
        assert await second.batch() == Batch()
    tag = etag(bucket.store, "2024-01-02.csv")
    assert found == {"2024-01-01": "", "2024-01-02": tag, "2024-01-04": tag}


async def test_keys_with_every_kind_of_character_are_partitions(bucket: Bucket) -> None:
    keys = ["a b", "ä€", "100%", "a+b", "a=b", "?from", "!x", "=y", "it's"]
    for key in keys:
        obstore.put(bucket.store, f"in/{key}", b"x")
    sensor = fr.objects(f"{bucket.url}/in/{{partition}}", source=hours, store=bucket.options)
    reader = Reader(sensor)
    async with aclosing(reader.batches):
        assert sorted(await reader.look()) == sorted(keys)
    again = Reader(sensor, reader.cursor)
    async with aclosing(again.batches):
        assert await again.batch() == Batch()


async def test_an_endpoint_that_is_down_is_one_failure_and_no_withdrawal() -> None:
    """When it is back, with another object, exactly that is recorded."""
    server = Server()
    bucket = server.bucket("moving")
    obstore.put(bucket.store, "2024-01-01.csv", b"x")
    sensor = fr.objects(
        f"{bucket.url}/{{partition}}.csv", source=days, store=bucket.options, every="10ms"
    )
    stream = Gated()
    async with supervised(sensor, stream):
        await _until(stream, SourceChanged)
        server.stop()
        await _until(stream, SensorFailed)
        server = await anyio.to_thread.run_sync(Server, server.port)
        bucket = server.bucket("moving")
        obstore.put(bucket.store, "2024-01-01.csv", b"x")
        await _until(stream, SensorRecovered)
    server.stop()
    kinds = [type(event).__name__ for events in stream.appends for event in events]
    # A bucket that was away for a moment, as seen between its making and the object's, is empty.
    assert kinds[:3] == ["SourceChanged", "CursorMoved", "SensorFailed"]
    assert kinds.count("SensorFailed") == kinds.count("SensorRecovered") == 1


async def _until(stream: Gated, kind: type[Any]) -> None:
    while not any(isinstance(event, kind) for events in stream.appends for event in events):
        await anyio.sleep(0)


async def test_a_bucket_that_does_not_exist_is_said_by_its_url(server: Server) -> None:
    known = Bucket("nowhere", server.endpoint)
    sensor = fr.objects("s3://nowhere/{partition}", source=hours, store=known.options)
    with pytest.raises(ListingError, match=r"s3://nowhere cannot be listed: .*NoSuchBucket"):
        await Reader(sensor).batch()


# --- secrets --------------------------------------------------------------------------------------


async def crash_of(sensor: ObjectsSensor) -> ListingError:
    """What it raises; caught here, where no frame of its traceback is one of a test's."""
    try:
        await Reader(sensor).batch()
    except ListingError as crash:
        return crash
    raise AssertionError


def rendered(error: BaseException) -> str:
    """An error as a terminal may show it: with the variables of every frame."""
    found = StringIO()
    formatter = structlog.dev.RichTracebackFormatter(show_locals=True, color_system=None)
    formatter(found, (type(error), error, error.__traceback__))
    return found.getvalue() + "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "options",
    [
        {"secret_access_key": CANARY, "access_key_id": CANARY},
        {"secret_access_key": "env:SECRET", "access_key_id": "env:SECRET"},
        {"endpoint": f"http://user:{CANARY}@127.0.0.1:9"},
        {"endpoint": f"http://127.0.0.1:9/x?sig={CANARY}"},
        {"endpoint": "env:ENDPOINT"},
        {"endpoint": f"http://127.0.0.1:9/{OF_THE_MACHINE}"},
        {"token": CANARY, "access_key_id": "x", "secret_access_key": "x"},
    ],
    ids=["plain", "by name", "in a URL", "in a query", "URL by name", "of the machine", "token"],
)
async def test_no_secret_gets_into_events_logs_errors_or_what_is_shown(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint is away, and says so with everything that it knows."""
    monkeypatch.setenv("SECRET", CANARY)
    monkeypatch.setenv("ENDPOINT", f"http://user:{CANARY}@127.0.0.1:9/x?sig={CANARY}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OF_THE_MACHINE)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", OF_THE_MACHINE)
    store = {"endpoint": "http://127.0.0.1:9", "region": "us-east-1", **options}
    sensor = fr.objects("s3://bucket/{partition}.csv", source=days, store=store)
    stream = Gated()
    with capture_logs() as logs:
        async with supervised(sensor, stream):
            await _until(stream, SensorFailed)
    told = [repr(stream.appends), repr(logs), repr(sensor), repr(sensor.listed), repr(vars(sensor))]
    told += [rendered(await crash_of(sensor))]
    assert "s3://bucket cannot be listed" in told[0]
    assert not [text for text in told if CANARY in text or OF_THE_MACHINE in text]


def test_options_that_are_wrong_are_refused_without_their_values() -> None:
    with pytest.raises(DefinitionError) as caught:
        fr.objects("s3://b/{partition}", source=days, store={"secret_acess_key": CANARY})
    assert "secret_acess_key" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


async def test_a_variable_that_is_not_set_halts_the_sensor_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At load nothing is said: who checks a project need not know its secrets."""
    monkeypatch.delenv("LANDING_KEY", raising=False)
    store = {"access_key_id": "env:LANDING_KEY", "secret_access_key": "x"}
    sensor = fr.objects("s3://b/{partition}", source=days, store=store)
    with pytest.raises(SensorError, match="LANDING_KEY is not set"):
        await Reader(sensor).batch()


# --- what a listing means -------------------------------------------------------------------------


def in_memory(store: MemoryStore, *patterns: str, **options: Any) -> ObjectsSensor:
    urls = [f"memory:///{pattern}" for pattern in patterns]
    return fr.objects(urls, store=store, **{"source": hours, **options})


async def test_with_keep_a_removal_is_no_change() -> None:
    store = MemoryStore()
    obstore.put(store, "a.csv", b"x")
    reader = Reader(in_memory(store, "{partition}.csv", on_removal="keep"))
    async with aclosing(reader.batches):
        assert await reader.look() == {"a": "0"}
        obstore.delete(store, "a.csv")
        assert await reader.look() == {}
        assert reader.cursor == {}


async def test_several_patterns_are_one_sensor_and_each_reports_its_source() -> None:
    store = MemoryStore()
    sensor = fr.objects(
        {
            "memory:///in/days/{partition}.csv": days,
            "memory:///in/hours/**/{partition}.json": hours,
            "memory:///in/airlines.csv": airlines,
        },
        store=store,
    )
    assert sensor.sources == ("days", "hours", "airlines")
    for key in ("in/days/2024-01-01.csv", "in/hours/x/y/z.json", "in/airlines.csv", "in/b.csv"):
        obstore.put(store, key, b"x")
    reader = Reader(sensor)
    async with aclosing(reader.batches):
        batch = await reader.batch()
    assert {(c.asset, c.partition) for c in batch.changes} == {
        ("days", "2024-01-01"),
        ("hours", "z"),
        ("airlines", ""),
    }


@pytest.mark.parametrize(
    ("patterns", "prefixes"),
    [
        (["in/a/{partition}", "in/b/{partition}"], ("in/a", "in/b")),
        (["in/{partition}", "in/b/{partition}"], ("in",)),
        (["in/{partition}", "inn/{partition}"], ("in", "inn")),
        (["{partition}", "in/b/{partition}"], ("",)),
        (["in/{partition}/x", "in/{partition}/y"], ("in",)),
    ],
)
def test_of_several_patterns_only_what_they_need_is_listed_and_nothing_twice(
    patterns: list[str], prefixes: tuple[str, ...]
) -> None:
    assert in_memory(MemoryStore(), *patterns).prefixes == prefixes


class Scripted(Access):
    """A store whose listings are given, one after the other; the last for ever."""

    def __init__(self, *listings: Sequence[Sequence[str] | Exception]) -> None:
        super().__init__("memory:///", MemoryStore())
        self.listings = list(listings)
        self.listed = 0

    async def pages(self, store: Any, prefixes: Any) -> AsyncGenerator[Sequence[Found], None]:
        self.listed += 1
        for page in self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]:
            if isinstance(page, Exception):
                raise page
            yield [Found(key, "v", 1, "v", datetime(2024, 1, 1, tzinfo=UTC)) for key in page]


def scripted(access: Scripted, pattern: str = "{partition}") -> ObjectsSensor:
    made = in_memory(MemoryStore(), pattern, every="1m")
    return ObjectsSensor(made.listed._replace(access=access))


async def test_only_a_whole_listing_says_that_something_is_gone() -> None:
    """One that breaks off in the middle takes nothing away, though it did not name everything."""
    access = Scripted([["a", "b"], ["c"]], [["b"], ListingError("away")])
    first = Reader(scripted(access))
    assert await first.look() == {"a": "v", "b": "v"}
    assert await first.look() == {"c": "v"}
    with pytest.raises(ListingError):
        await first.batch()
    assert sorted(first.cursor) == ["a", "b", "c"]


async def test_idle_it_lists_once_in_each_period_and_says_that_it_works() -> None:
    access = Scripted([["a"]])
    sensor, time = scripted(access), Time()
    run = ObjectsSensor(sensor.listed, Pacer(sensor.listed.pace, time.clock, time.sleep)).run
    async with aclosing(run({"a": "v"})) as batches:
        for looks in range(1, 10):
            assert await anext(batches) == Batch()
            assert (access.listed, time.minutes()) == (looks, looks - 1)


async def test_an_object_that_was_moved_keeps_its_partition() -> None:
    """Within a pattern with wildcards: nothing is withdrawn, and nothing rejected."""
    access = Scripted([["x/a", "x/b"]], [["w/a", "x/b"]], [["x/b"]])
    reader = Reader(scripted(access, "**/{partition}"))
    async with aclosing(reader.batches):
        assert await reader.look() == {"a": "v", "b": "v"}
        moved = await reader.batch()
        assert [(c.partition, c.data_version) for c in moved.changes] == [("a", "v")]
        assert (moved.cursor, moved.rejected) == ({"x/a": None, "w/a": "v"}, ())
        assert await reader.look() == {"a": ""}


async def test_a_second_object_of_a_partition_is_rejected_until_the_first_is_gone() -> None:
    access = Scripted([["x/a"]], [["w/a", "x/a"]], [["w/a", "x/a"]], [["w/a"]])
    reader = Reader(scripted(access, "**/{partition}"))
    async with aclosing(reader.batches):
        assert await reader.look() == {"a": "v"}
        batch = await reader.batch()
        (rejected,) = batch.rejected
        assert batch.changes == ()
        assert rejected.item == "memory:///w/a"
        assert rejected.reason == "'a' is already memory:///x/a"
        assert await reader.batch() == Batch()
        batch = await reader.batch()
        assert [settled.item for settled in batch.settled] == ["memory:///w/a"]
        assert [(c.partition, c.data_version) for c in batch.changes] == [("a", "v")]
        assert reader.cursor == {"w/a": "v"}


async def test_a_rejected_object_that_is_deleted_is_settled() -> None:
    access = Scripted([["no day"]], [[]])
    made = scripted(access)
    (pattern, _), *_ = made.listed.patterns
    reader = Reader(ObjectsSensor(made.listed._replace(patterns=((pattern, days.spec),))))
    async with aclosing(reader.batches):
        (rejected,) = (await reader.batch()).rejected
        (settled,) = (await reader.batch()).settled
        assert rejected.item == settled.item == "memory:///no day"
        assert (settled.accepted, reader.cursor) == (False, {})


async def test_of_an_empty_object_such_as_a_marker_writing_it_again_is_a_change(
    tmp_path: Path, bucket: Bucket
) -> None:
    """Its content is always the same; its time is the news. S3 tells time by the second."""
    sensor = fr.objects(
        f"{bucket.url}/{{partition}}/_SUCCESS", source=days, store=bucket.options, every="10ms"
    )
    reader = Reader(sensor)
    versions: set[str] = set()
    async with aclosing(reader.batches):
        while len(versions) < 2:
            obstore.put(bucket.store, "2024-01-01/_SUCCESS", b"")
            versions |= set((await reader.look()).values())


async def test_a_folder_that_is_away_withdraws_nothing(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    obstore.put(LocalStore(tmp_path), "landing/2024-01-01.csv", b"x")
    reader = Reader(fr.objects(f"file://{landing}/{{partition}}.csv", source=days))
    async with aclosing(reader.batches):
        assert list(await reader.look()) == ["2024-01-01"]
        landing.rename(tmp_path / "away")
        with pytest.raises(ListingError, match="is not there"):
            await reader.batch()


class Watched(Access):
    """A store whose pages are watched: how large each is, and whether others ran before it."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__("memory:///", store)
        self.turns = 0
        self.seen: list[tuple[int, int]] = []

    async def pages(self, store: Any, prefixes: Any) -> AsyncGenerator[Sequence[Found], None]:
        async for page in super().pages(store, prefixes):
            self.seen.append((len(page), self.turns))
            yield page

    async def others(self) -> None:
        while True:
            await checkpoint()
            self.turns += 1


async def test_a_listing_of_a_hundred_thousand_objects_leaves_the_loop_to_others() -> None:
    """Others run between any two pages; and what is known makes no batch."""
    store = MemoryStore()
    cursor: dict[str, str] = {}
    for n in range(100_000):
        obstore.put(store, f"in/{n:06}", b"x")
    async for page in obstore.list(store, chunk_size=10_000):
        cursor |= {meta["path"]: (meta["e_tag"] or "").strip('"') for meta in page}
    access = Watched(store)
    made = in_memory(store, "in/{partition}")
    reader = Reader(ObjectsSensor(made.listed._replace(access=access)), cursor)
    async with aclosing(reader.batches), anyio.create_task_group() as tasks:
        tasks.start_soon(access.others)
        assert await reader.batch() == Batch()
        tasks.cancel_scope.cancel()
    sizes, turns = zip(*access.seen, strict=True)
    assert sizes == (PAGE,) * (100_000 // PAGE)
    assert all(before < after for before, after in pairwise(turns))


# --- declaring it ---------------------------------------------------------------------------------


def declared(patterns: Any = "s3://b/{partition}.csv", **options: Any) -> Callable[[], object]:
    return lambda: fr.objects(patterns, **{"source": days, **options})


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (declared("landing/{partition}.csv"), "scheme"),
        (declared("ftp://b/{partition}.csv"), "scheme"),
        (declared("s3://b"), "a bucket and a key"),
        (declared("s3:///{partition}.csv"), "a bucket and a key"),
        (declared("file://relative/{partition}.csv"), "a bucket and a key"),
        (declared("s3://user:hush@b/{partition}"), "no password"),
        (declared("s3://b/all.csv"), "does not fit source 'days'"),
        (declared("s3://b/{partition}.csv", source=airlines), "does not fit source 'airlines'"),
        (declared("s3://b/{day}.csv"), "cannot be used"),
        (declared("s3://b/{partition}/"), "names folders"),
        (declared([]), "use one pattern"),
        (declared({"s3://b/{partition}": days}), "use one pattern"),
        (declared(source=None), "use one pattern"),
        (declared({"s3://b/{partition}": days, "s3://c/x": airlines}, source=None), "one bucket"),
        (declared({"s3://b/{partition}": "days"}, source=None), "no source"),
        (declared(on_removal="forget"), "'withdraw' or 'keep'"),
        (declared(every=0), "too often"),
        (declared("memory:///{partition}"), "MemoryStore()"),
        (declared(store={"region": 7}), "cannot be used with the options region"),
    ],
    ids=range(19),
)
def test_a_declaration_that_makes_no_sense_is_refused(
    declare: Callable[[], object], words: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare()
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)
    assert caught.value.hint


def test_without_obstore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(DefinitionError) as caught:
        fr.objects("s3://b/{partition}.csv", source=days)
    assert caught.value.hint == "pip install 'freshet[objects]'"


def test_its_name_is_that_of_its_first_pattern_unless_one_is_given() -> None:
    assert in_memory(MemoryStore(), "a/{partition}", "b/{partition}").name == (
        "objects:memory:///a/{partition}"
    )
    assert in_memory(MemoryStore(), "a/{partition}", name="landing").name == "landing"
