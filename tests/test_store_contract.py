"""Stores (B7.2): staged values are hidden, published ones stay, and every type comes back."""

import dataclasses
import datetime
import errno
import math
import os
import re
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import obstore.store
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import freshet as fr
from freshet.engine.errors import StoreError
from freshet.engine.stores.formats import decode, encode
from freshet.engine.stores.landing import (
    InputChangedError,
    Landed,
    digest_file,
    load_landed,
    still_the_same,
)
from freshet.engine.stores.outages import is_outage
from freshet.engine.stores.store import Store, StoredVersion
from tests.test_objects import Server

TARGET = fr.AssetPartition("a/b", "2024-01-01")


class Row(msgspec.Struct):
    name: str
    count: int = 0


@dataclasses.dataclass
class Point:
    x: float
    y: float


@dataclasses.dataclass
class Days:
    counts: dict[datetime.date, int]


class Renamed(msgspec.Struct, rename="camel"):
    the_value: float


KINDS = ["memory", "local", "sqlite", "duckdb", "objects", "s3"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


Make = Callable[..., Store]
"""Opens the store of a test, as another process would: always the same one."""


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A store of each kind, with the options it is asked for."""
    if request.param == "s3":
        bucket = request.getfixturevalue("server").bucket(f"b{abs(hash(request.node.nodeid))}")
        return partial(fr.ObjectStore, f"{bucket.url}/values", store=bucket.options)
    if request.param == "objects":
        shared = obstore.store.MemoryStore()
        return partial(fr.ObjectStore, "memory:///", store=shared)
    makers: dict[str, Make] = {
        "memory": fr.MemoryStore,
        "local": partial(fr.LocalStore, tmp_path / "data"),
        "sqlite": partial(fr.SqliteStore, tmp_path / "data" / "values.db"),
        "duckdb": partial(fr.DuckDBStore, tmp_path / "data" / "values.duckdb"),
    }
    return makers[request.param]


@pytest.fixture
def store(make: Make) -> Store:
    return make()


def put(store: Store, value: Any, run: int = 1, target: fr.AssetPartition = TARGET) -> str:
    staged = store.stage(target, run, value)
    store.publish(staged)
    return staged.data_version


class TestContract:
    def test_a_staged_value_is_hidden_until_it_is_published(self, store: Store) -> None:
        """Staging shows nothing and harms nothing; discarding forgets it; publishing shows it."""
        old = put(store, "old")
        staged = store.stage(TARGET, 2, "new")
        assert not store.has(TARGET, staged.data_version)
        store.discard(2)
        store.discard(3)
        with pytest.raises(StoreError):
            store.publish(staged)
        store.publish(store.stage(TARGET, 4, "new"))
        assert store.load(TARGET, staged.data_version, str) == "new"
        assert store.load(TARGET, old, str) == "old"

    def test_equal_content_has_an_equal_version(self, store: Store) -> None:  # T4
        """And different content, or the same text in another format, a different one."""
        assert put(store, {"b": 1, "a": [2]}) == put(store, {"a": [2], "b": 1}, run=2)
        assert len({put(store, value) for value in ("x", b"x", ["x"], "y")}) == 4
        frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
        assert put(store, frame) == put(store, frame.clone())

    def test_a_version_that_is_not_there_is_named_with_the_way_out(self, store: Store) -> None:
        """StoreError naming asset and version, and the command that makes it anew."""
        with pytest.raises(StoreError, match="freshet materialize a/b@2024-01-01"):
            store.load(TARGET, "f" * 32, str)

    @pytest.mark.parametrize(
        ("value", "annotation"),
        [
            (b"bytes\x00", bytes),
            ("text é \n", str),
            ({"a": [1, 2.5, None, True]}, dict),
            ([Row("x", 1)], list[Row]),
            ({"r": Row("y")}, dict[str, Row]),
            (Point(1, 2), Point),
            (7, int),
            ([1, 2], None),
            ({2: "b", 10: "a"}, dict[int, str]),
            (
                {"a": [{datetime.date(2024, 1, 1): 1.5}]},
                dict[str, list[dict[datetime.date, float]]],
            ),
            (Days({datetime.date(2024, 1, 1): 1}), Days),
        ],
    )
    def test_plain_values_come_back_typed(self, store: Store, value: Any, annotation: Any) -> None:
        """In the annotation's own types."""
        assert store.load(TARGET, put(store, value), annotation) == value

    @pytest.mark.parametrize("made", [pl.DataFrame, pd.DataFrame, pa.table], ids=["pl", "pd", "pa"])
    def test_tables_come_back_as_whichever_library_is_asked_for(
        self, store: Store, made: Callable[[Any], Any]
    ) -> None:
        """Stored by one, loaded by any."""
        data = {"n": [1, 2, 3], "s": ["a", "b", "c"]}
        staged = store.stage(TARGET, 1, made(data))
        store.publish(staged)
        assert staged.metadata["rows"] == 3
        loaded = [store.load(TARGET, staged.data_version, t) for t in (pl.DataFrame, pa.Table)]
        assert loaded[0].to_dict(as_series=False) == loaded[1].to_pydict() == data
        frame = store.load(TARGET, staged.data_version, pd.DataFrame)
        assert frame.to_dict(orient="list") == data

    def test_what_has_no_format_is_refused_by_name(self, store: Store) -> None:
        """The type is named, nothing is staged."""
        with pytest.raises(StoreError, match=r"type builtins\.object cannot be stored"):
            store.stage(TARGET, 1, object())

    def test_a_value_that_does_not_fit_the_annotation_is_named(self, store: Store) -> None:
        """Field and type are in the error."""
        version = put(store, [{"name": 5}])
        with pytest.raises(StoreError, match=r"\$\[0\]\.name"):
            store.load(TARGET, version, list[Row])

    def test_what_a_loader_does_to_a_value_stays_with_it(self, store: Store) -> None:
        """The next load is untouched."""
        version = put(store, [1])
        store.load(TARGET, version, list).append(2)
        assert store.load(TARGET, version, list) == [1]

    def test_versions_are_listed_the_newest_first_with_the_current_one(self, store: Store) -> None:
        """Size, order and which is current; nothing of another partition; an equal one once."""
        assert list(store.versions(TARGET)) == []
        one, two = put(store, "1"), put(store, "22", run=2)
        put(store, "333", run=3, target=fr.AssetPartition("a/b", "2024-01-02"))
        assert [told(v) for v in store.versions(TARGET)] == [(two, 2, True), (one, 1, False)]
        assert put(store, "1", run=4) == one
        assert [told(v) for v in store.versions(TARGET)] == [(one, 1, True), (two, 2, False)]
        stamps = [version.stored_at for version in store.versions(TARGET)]
        assert stamps == sorted(stamps, reverse=True)

    def test_a_kept_version_is_restored(self, store: Store) -> None:
        """It is the current one again, and again is harmless; the others stay; what is not kept is
        named, and changes nothing.
        """
        one, two = put(store, "1"), put(store, "22", run=2)
        for _ in range(2):
            store.restore(TARGET, one)
            assert [told(v) for v in store.versions(TARGET)] == [(one, 1, True), (two, 2, False)]
        with pytest.raises(StoreError, match="freshet materialize a/b@2024-01-01"):
            store.restore(TARGET, "f" * 32)
        assert [told(v) for v in store.versions(TARGET)] == [(one, 1, True), (two, 2, False)]
        assert (store.load(TARGET, one, str), store.load(TARGET, two, str)) == ("1", "22")

    def test_what_is_removed_is_gone_with_all_its_versions(self, store: Store) -> None:
        """And nothing else; it can be made anew."""
        other = fr.AssetPartition("a/b", "2024-01-02")
        one, two = put(store, "1"), put(store, "2", run=2)
        kept = put(store, "1", run=3, target=other)
        for _ in range(2):
            store.remove(TARGET)
            assert list(store.versions(TARGET)) == []
            assert not store.has(TARGET, one)
            assert not store.has(TARGET, two)
        assert store.load(other, kept, str) == "1"
        assert put(store, "1", run=4) == one
        assert store.load(TARGET, one, str) == "1"

    def test_a_publish_that_is_repeated_is_harmless(self, store: Store) -> None:
        """As after a crash: the same version once, and the current one."""
        staged = store.stage(TARGET, 1, "x")
        for _ in range(3):
            store.publish(staged)
        assert [told(v) for v in store.versions(TARGET)] == [(staged.data_version, 1, True)]
        assert store.load(TARGET, staged.data_version, str) == "x"

    def test_what_was_staged_when_the_process_ended_is_never_seen(self, make: Make) -> None:
        """Another process opens the store: nothing is there but what was published, and the run
        that was cut off is forgotten; made again, it is published.
        """
        store = make()
        again = store if isinstance(store, fr.MemoryStore) else make()
        old = put(store, "old")
        staged = store.stage(TARGET, 2, "new")
        assert [told(v) for v in again.versions(TARGET)] == [(old, 3, True)]
        assert not again.has(TARGET, staged.data_version)
        with pytest.raises(StoreError):
            again.load(TARGET, staged.data_version, str)
        again.discard(2)
        with pytest.raises(StoreError):
            store.publish(staged)
        assert [told(v) for v in again.versions(TARGET)] == [(old, 3, True)]
        assert put(again, "new", run=3) == staged.data_version
        assert store.load(TARGET, staged.data_version, str) == "new"

    def test_runs_that_have_something_staged_are_told(self, make: Make) -> None:
        """In order, each once, also to another process; not what is published or discarded."""
        store = make()
        assert store.staged_runs() == []
        other = fr.AssetPartition("c")
        for run in (11, 2, 3):
            store.stage(TARGET, run, "x")
        staged = store.stage(other, 11, "y")
        again = store if isinstance(store, fr.MemoryStore) else make()
        assert again.staged_runs() == [2, 3, 11]
        again.publish(staged)
        again.discard(3)
        put(store, "z", run=4)
        assert again.staged_runs() == store.staged_runs() == [2, 11]
        for run in again.staged_runs():
            again.discard(run)
        assert again.staged_runs() == []
        assert store.load(other, staged.data_version, str) == "y"

    def test_versions_are_collected_beyond_as_many_as_are_kept(self, make: Make) -> None:
        """The newest stay; the current one whatever its age."""
        store = make(keep=2)
        versions = [put(store, str(n), run=n) for n in range(1, 5)]
        store.collect(TARGET, END)
        assert [v.data_version for v in store.versions(TARGET)] == [versions[3], versions[2]]
        assert not store.has(TARGET, versions[0])
        store.restore(TARGET, versions[2])
        versions.append(put(store, "5", run=5))
        store.collect(TARGET, END)
        assert [v.data_version for v in store.versions(TARGET)] == [versions[4], versions[2]]

    def test_versions_are_kept_for_a_time(self, make: Make) -> None:
        """Beyond those that are kept by number: only what is older goes."""
        store = make(keep=1, keep_for="1h")
        old, new = put(store, "old"), put(store, "new", run=2)
        store.collect(TARGET, END)
        assert store.has(TARGET, old)
        hasty = make(keep=1, keep_for=0) if not isinstance(store, fr.MemoryStore) else store
        if hasty is not store:
            hasty.collect(TARGET, END)
            assert [v.data_version for v in store.versions(TARGET)] == [new]

    def test_what_may_be_being_read_is_not_collected(self, make: Make) -> None:
        """What was superseded since the given moment stays, however many came after it."""
        store = make(keep=1)
        before, read = put(store, "before"), put(store, "read", run=2)
        begun = store.versions(TARGET)[0].stored_at + 1
        later = [put(store, str(n), run=n) for n in range(3, 6)]
        store.collect(TARGET, begun)
        kept = [v.data_version for v in store.versions(TARGET)]
        assert kept == [*reversed(later), read]
        assert not store.has(TARGET, before)
        assert store.load(TARGET, read, str) == "read"

    def test_values_of_own_types_come_back_by_own_formats(self, make: Make) -> None:  # B7.3
        """By the format a person gave; annotated as bytes, as it is stored; what the format raises
        is the cause.
        """
        store = make(formats=[fr.Format(Grid, ".grid", Grid.packed, Grid.unpacked)])
        staged = store.stage(TARGET, 1, Grid(3, 4))
        assert store.look(staged, Grid) == Grid(3, 4)
        store.publish(staged)
        assert staged.metadata == {"bytes": 3}
        assert store.load(TARGET, staged.data_version, Grid) == Grid(3, 4)
        assert store.load(TARGET, staged.data_version, bytes) == b"3x4"
        version = put(store, Grid(-1, 0), run=2)
        with pytest.raises(StoreError, match=r"the format '\.grid' cannot decode a Grid") as failed:
            store.load(TARGET, version, Grid)
        assert failed.value.cause == "ValueError: negative"

    def test_a_value_of_many_bytes_comes_back_whole(self, store: Store) -> None:
        """Some megabytes."""
        value = bytes(range(256)) * 20_000
        assert store.load(TARGET, put(store, value), bytes) == value


class Grid:
    """A type of which no store knows anything."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and other.size == self.size

    def __hash__(self) -> int:
        return hash(self.size)

    def packed(self) -> bytes:
        return "{}x{}".format(*self.size).encode()

    @staticmethod
    def unpacked(data: bytes) -> "Grid":
        width, height = map(int, data.decode().split("x"))
        if width < 0:
            raise ValueError("negative")
        return Grid(width, height)


END = 1 << 62
"""A moment (µs) before which everything was superseded: nobody reads anything."""


def told(version: StoredVersion) -> tuple[str, int, bool]:
    return version.data_version, version.bytes, version.current


def test_the_current_value_lies_where_people_look(tmp_path: Path) -> None:
    """By key and partition; another format replaces it; versions are kept as many as asked for."""
    store = fr.LocalStore(tmp_path, keep=2)
    whole = fr.AssetPartition("reports/total")
    first = put(store, "one", target=whole)
    assert (tmp_path / "reports" / "total.txt").read_text() == "one"
    put(store, {"n": 2}, target=whole)
    assert sorted(p.name for p in (tmp_path / "reports").iterdir()) == ["total.json"]
    put(store, "three", target=whole)
    store.collect(whole, END)
    assert not store.has(whole, first)
    put(store, "day", target=TARGET)
    assert (tmp_path / "a" / "b" / "2024-01-01.txt").read_text() == "day"
    assert list((tmp_path / ".staged").iterdir()) == []


def test_what_is_no_run_below_staged_is_passed_over(tmp_path: Path) -> None:
    """A file of somebody else; and where there is no folder, nothing is staged."""
    store = fr.LocalStore(tmp_path / "data")
    store.stage(TARGET, 1, "x")
    (tmp_path / "data" / ".staged" / ".DS_Store").touch()
    assert store.staged_runs() == [1]
    (tmp_path / "file").touch()
    assert fr.LocalStore(tmp_path / "file").staged_runs() == []


def test_the_partitions_beside_one_are_not_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing, listing, collecting and removing cost the versions of one, not all there are."""
    listed: list[Path] = []
    store = fr.LocalStore(tmp_path, keep=1)
    days = [fr.AssetPartition("sales", f"2026-01-{day:02}") for day in range(1, 31)]
    for run, day in enumerate(days, 1):
        put(store, f"{run}", run, day)
    real = Path.iterdir

    def iterdir(self: Path) -> Iterator[Path]:
        listed.append(self)
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    version = put(store, "other", 99, days[7])
    store.collect(days[7], before_us=1 << 62)
    assert [(v.data_version, v.current) for v in store.versions(days[7])] == [(version, True)]
    assert store.current(days[7]) == tmp_path / "sales" / "2026-01-08.txt"
    store.remove(days[7])
    assert not (tmp_path / "sales" / "2026-01-08.txt").exists()
    assert listed
    assert tmp_path / "sales" not in listed


def test_the_current_file_stays_though_another_version_is_newer(tmp_path: Path) -> None:
    """As after a kill between the two renames of a publish, or one of times by somebody else."""
    store = fr.LocalStore(tmp_path, keep=1)
    old, new = put(store, "old"), put(store, "new", run=2)
    (path,) = tmp_path.glob(f".versions/a/b/*/{old}*")
    os.utime(path, (2e9, 2e9))
    put(store, "x", run=3, target=fr.AssetPartition("other"))
    store.collect(TARGET, END)
    assert [told(v) for v in store.versions(TARGET)] == [(old, 3, False), (new, 3, True)]
    assert (tmp_path / "a" / "b" / "2024-01-01.txt").read_text() == "new"


@settings(max_examples=200, deadline=None)
@given(keys=st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=4))
def test_odd_partition_keys_have_names_of_their_own_below_the_root(keys: set[str]) -> None:
    """One to one, whatever is in them; nothing escapes the folder."""
    store = fr.LocalStore("data")
    paths = {store._shown(fr.AssetPartition("a", key)) for key in keys}
    assert len(paths) == len(keys)
    for folder, stem in paths:
        assert folder == Path("data/a")
        assert stem not in ("", ".", "..")
        assert not set(stem) & {"/", "\0"}


def test_pickle_is_used_only_when_asked_for_by_name(tmp_path: Path) -> None:
    """And then it round-trips."""
    store = fr.LocalStore(tmp_path, fallback="pickle")
    value = {1: {2, 3}, "f": complex(1, 2)}
    assert store.load(TARGET, put(store, value), None) == value


def test_dicts_with_other_keys_than_text_are_sorted_as_text() -> None:
    """Equal dicts, equal bytes, in whatever order they were filled; as annotated they come back."""
    found = [encode(value).data for value in ({10: "a", 2: "b"}, {2: "b", 10: "a"})]
    assert found == [b'{"10":"a","2":"b"}'] * 2
    colours = Enum("colours", {"red": "r"})
    for key in (1.5, uuid.UUID(int=1), colours.red, datetime.datetime(2024, 1, 1, 12)):
        stored = encode({key: 1})
        annotation = dict[type(key), int]  # type: ignore[misc, valid-type]  # as a project would write it
        assert decode(stored.suffix, stored.data, annotation) == {key: 1}
        assert isinstance(next(iter(decode(stored.suffix, stored.data, None))), str)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({(1, 2): "x"}, "a dict in it has keys that are none of text, numbers, dates"),
        ([{None: 1}], "a dict in it has keys that are none of text, numbers, dates"),
        ({"a": {1: "x", "1": "y"}}, "two keys of one dict are the same in JSON"),
    ],
)
def test_keys_that_json_cannot_have_are_refused(value: Any, said: str) -> None:
    """In our words; nothing is dropped. With pickle they are stored as they are."""
    with pytest.raises(StoreError, match=said):
        encode(value)
    assert decode(".pickle", encode(value, allow_pickle=True).data, None) == value
    assert encode({1: "x"}, allow_pickle=True).suffix == ".pickle"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (math.nan, "$"),
        ({"b": None, "a": math.inf}, "$.a"),
        ([1.0, [Point(1, -math.inf)]], "$[1][0].y"),
        ({"r": Renamed(math.nan)}, "$.r.theValue"),
        ((None, {1: math.nan}), "$[1].1"),
        ([msgspec.Raw(b"null"), math.nan], "$[1]"),
    ],
)
def test_a_number_that_json_does_not_have_is_refused_with_its_place(value: Any, place: str) -> None:
    """No null in its place; with pickle it is stored as it is."""
    with pytest.raises(StoreError, match=re.escape(f" at `{place}` cannot be stored")) as failed:
        encode(value)
    assert "return None for what is missing" in str(failed.value.hint)
    if not isinstance(value, list) or not isinstance(value[0], msgspec.Raw):
        assert encode(value, allow_pickle=True).suffix == ".pickle"


def test_only_a_value_with_a_null_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """For numbers that are none: the others cost nothing."""
    looked: list[object] = []
    monkeypatch.setattr("freshet.engine.stores.plain._check_finite", looked.append)
    assert encode([1.5, {"a": "b"}, Point(1, 2)]).data == b'[1.5,{"a":"b"},{"x":1,"y":2}]'
    assert looked == []
    encode([None])
    assert looked == [[None]]


def test_a_store_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    """A file in the place of its folder: what is in the way, and what to do; the same each time."""
    inside = tmp_path / "data"
    inside.write_text("in the way")
    stores: list[Store] = [
        fr.LocalStore(inside),
        fr.LocalStore(inside / "deeper"),
        fr.SqliteStore(inside / "x.db"),
        fr.DuckDBStore(inside / "x.duckdb"),
    ]
    for store in stores:
        for _ in range(2):
            with pytest.raises(StoreError, match="cannot write") as failed:
                store.stage(TARGET, 1, "x")
            assert failed.value.cause == f"{inside} is a file, and a folder is needed there"
            store.discard(1)
        assert (store.staged_runs(), list(store.versions(TARGET))) == ([], [])
    assert inside.read_text() == "in the way"


def test_a_folder_in_the_place_of_a_current_file_is_said(tmp_path: Path) -> None:
    """Somebody made it: the publish names it."""
    store, whole = fr.LocalStore(tmp_path), fr.AssetPartition("total")
    (tmp_path / "total.txt").mkdir()
    with pytest.raises(StoreError, match=r"cannot publish .*total\.txt") as failed:
        put(store, "x", target=whole)
    assert failed.value.cause == f"{tmp_path / 'total.txt'} is a folder, and a file is needed there"


def test_a_folder_that_cannot_be_looked_at_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as the disk is failing, an outage; of each method that looks."""
    store = fr.LocalStore(tmp_path)
    version = put(store, "x")

    def failing(_: Path) -> Iterator[Path]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "iterdir", failing)
    looks: list[Callable[[], object]] = [
        lambda: store.has(TARGET, version),
        lambda: store.versions(TARGET),
        lambda: store.load(TARGET, version, str),
        lambda: store.restore(TARGET, version),
        lambda: store.collect(TARGET, END),
    ]
    for look in looks:
        with pytest.raises(StoreError, match="cannot read") as failed:
            look()
        assert is_outage(failed.value)


def test_a_reader_never_sees_a_torn_value_though_the_writer_is_killed(tmp_path: Path) -> None:
    """200 publishes and five SIGKILLs of the publisher: the current file is
    always one whole value.
    """
    code = """
import sys, freshet as fr
store = fr.LocalStore(sys.argv[1])
for run in range(int(sys.argv[2]), 1000):
    staged = store.stage(fr.AssetPartition("a"), run, str(run % 10) * 200_000)
    store.publish(staged)
    print(run, flush=True)
"""
    shown = tmp_path / "a.txt"
    seen, run = 0, 0
    for _ in range(5):
        command = [sys.executable, "-c", code, str(tmp_path), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(40):
                run = int(writer.stdout.readline())
                text = shown.read_text()
                assert len(text) == 200_000
                assert len(set(text)) == 1
                seen += 1
            writer.kill()
    assert seen == 200


@pytest.mark.parametrize("kind", ["local", "sqlite", "duckdb", "s3"])
def test_what_a_killed_publisher_leaves_is_whole(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Four SIGKILLs at any moment of a publish: each time the current version can be loaded, is
    whole, and is at least the last one whose publish had returned; the next publisher goes on.
    """
    opened = {
        "local": f"fr.LocalStore({str(tmp_path)!r})",
        "sqlite": f"fr.SqliteStore({str(tmp_path / 'v.db')!r})",
        "duckdb": f"fr.DuckDBStore({str(tmp_path / 'v.duckdb')!r})",
    }
    if kind == "s3":
        bucket = request.getfixturevalue("server").bucket("killed")
        opened["s3"] = f"fr.ObjectStore({bucket.url!r}, store={bucket.options!r})"
    code = f"""
import sys, freshet as fr
store = {opened[kind]}
target = fr.AssetPartition("a")
for run in range(int(sys.argv[1]), 1000):
    store.discard(run - 1)
    store.publish(store.stage(target, run, str(run) + "," + "x" * 100_000))
    store.collect(target, 1 << 62)
    print(run, flush=True)
"""
    store: Store = eval(opened[kind])
    target, run = fr.AssetPartition("a"), 1
    for kill in range(4):
        command = [sys.executable, "-c", code, str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(3 + kill):
                run = int(writer.stdout.readline()) + 1
            writer.kill()
        shown = store.versions(target)
        values = [store.load(target, one.data_version, str) for one in shown]
        assert all(value.endswith("," + "x" * 100_000) for value in values)
        (current,) = [one for one in shown if one.current]
        number = int(store.load(target, current.data_version, str).partition(",")[0])
        assert number >= run - 1
        run = number + 1


def test_a_current_table_is_asked_with_sql_by_the_name_of_its_asset(tmp_path: Path) -> None:
    """In DuckDB: of the current version only, restored ones too, by another process at any time
    between; what is no table any more has none.
    """
    import duckdb

    path = tmp_path / "values.duckdb"
    store, whole = fr.DuckDBStore(path), fr.AssetPartition("reports/total")

    def asked(query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(path), read_only=True) as looking:
            found: list[tuple[Any, ...]] = looking.execute(query).fetchall()
            return found

    one = put(store, pl.DataFrame({"n": [1, 2]}), target=whole)
    put(store, pl.DataFrame({"n": [40]}), target=whole, run=2)
    assert asked('SELECT sum(n) FROM "reports/total"') == [(40,)]
    put(store, pl.DataFrame({"day": ["x"]}), run=3)
    assert asked('SELECT day FROM "a/b@2024-01-01"') == [("x",)]
    store.restore(whole, one)
    assert asked('SELECT sum(n) FROM "reports/total"') == [(3,)]
    put(store, "no table", target=whole, run=4)
    store.remove(TARGET)
    tables = [name for (name,) in asked("SELECT table_name FROM duckdb_tables()")]
    assert sorted(tables) == ["_freshet_staged", "_freshet_versions"]


def test_the_current_values_are_asked_with_sql(tmp_path: Path) -> None:
    """In SQLite: one row of the view `current_values` for each asset partition."""
    store = fr.SqliteStore(tmp_path / "values.db")
    put(store, [1])
    put(store, [2], run=2)
    put(store, "t", run=3, target=fr.AssetPartition("c"))
    with closing(sqlite3.connect(tmp_path / "values.db")) as looking:
        found = looking.execute('SELECT asset, "partition", content FROM current_values').fetchall()
    assert sorted(found) == [("a/b", "2024-01-01", b"[2]"), ("c", "", b"t")]


def test_a_sqlite_file_that_another_has_locked_or_that_is_full_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not so what is no SQLite file: nobody but a person ends that. What was there stays."""
    monkeypatch.setattr("freshet.engine.stores.sqlite.BUSY_S", 0.01)
    path = tmp_path / "values.db"
    store = fr.SqliteStore(path)
    version = put(store, "x")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="cannot write in") as locked:
            store.stage(TARGET, 2, "y")
    store._connection().execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError, match="cannot write in") as full:
        store.stage(TARGET, 2, "y" * 1_000_000)
    assert [is_outage(one.value) for one in (locked, full)] == [True, True]
    assert full.value.cause == "database or disk is full"
    assert store.load(TARGET, version, str) == "x"
    (tmp_path / "none.db").write_text("no database, but a text of some length")
    with pytest.raises(StoreError) as none:
        fr.SqliteStore(tmp_path / "none.db").stage(TARGET, 1, "x")
    assert not is_outage(none.value)


def test_a_duckdb_file_that_another_process_has_open_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not so what is no DuckDB file; and when the other has closed it, the value is stored."""
    monkeypatch.setattr("freshet.engine.stores.duckdb.BUSY_S", 0.0)
    path = tmp_path / "values.duckdb"
    code = f"import duckdb; c = duckdb.connect({str(path)!r}); print(1, flush=True); input()"
    store = fr.DuckDBStore(path)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StoreError, match="cannot write in") as locked:
            store.stage(TARGET, 1, "x")
        other.communicate(b"\n")
    assert is_outage(locked.value)
    assert store.load(TARGET, put(store, "x"), str) == "x"
    (tmp_path / "none.duckdb").write_text("no database, but a text of some length" * 100)
    with pytest.raises(StoreError) as none:
        fr.DuckDBStore(tmp_path / "none.duckdb").stage(TARGET, 1, "x")
    assert not is_outage(none.value)


def test_of_two_who_publish_at_once_neither_undoes_the_other() -> None:
    """In object storage: a manifest that changed in between is read again."""
    shared = obstore.store.MemoryStore()
    stores = [fr.ObjectStore("memory:///", store=shared, keep=100) for _ in range(2)]

    def publish(number: int) -> list[str]:
        return [put(stores[number], f"{number}/{n}", run=number * 100 + n) for n in range(20)]

    with ThreadPoolExecutor(2) as threads:
        made = [version for found in threads.map(publish, range(2)) for version in found]
    assert {v.data_version for v in stores[0].versions(TARGET)} == set(made)


@pytest.mark.parametrize(
    ("package", "made", "extra"),
    [
        ("duckdb", "fr.DuckDBStore('x')", "freshet[duckdb]"),
        ("obstore", "fr.ObjectStore('s3://x')", "freshet[objects]"),
    ],
)
def test_a_store_without_its_library_names_the_extra(
    tmp_path: Path, package: str, made: str, extra: str
) -> None:
    """When it is made, and nothing is written."""
    (tmp_path / f"{package}.py").write_text("raise ImportError('not here')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = f"import freshet as fr\ntry: {made}\nexcept fr.DefinitionError as e: print(e)"
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert f"pip install '{extra}'" in result.stdout


@pytest.mark.parametrize(
    ("formats", "said"),
    [
        ([("npy", list)], "has the suffix 'npy'"),
        ([(".json", list)], "which is taken"),
        ([(".x", list), (".x", dict)], "which is taken"),
    ],
)
def test_a_format_has_a_suffix_of_its_own(formats: list[tuple[str, type]], said: str) -> None:
    """Else the store cannot be defined."""
    given_ = [fr.Format(kind, suffix, bytes, list) for suffix, kind in formats]
    with pytest.raises(fr.DefinitionError, match=said):
        fr.LocalStore("data", formats=given_)


class TestLanding:
    def landed(self, path: Path) -> Landed:
        found = path.stat()
        return Landed(digest_file(path), found.st_size, found.st_mtime_ns)

    @pytest.mark.parametrize(
        ("name", "write"),
        [
            ("t.csv", lambda p: pl.DataFrame({"n": [1, 2]}).write_csv(p)),
            ("t.parquet", lambda p: pl.DataFrame({"n": [1, 2]}).write_parquet(p)),
            ("t.ndjson", lambda p: pl.DataFrame({"n": [1, 2]}).write_ndjson(p)),
            ("t.feather", lambda p: pl.DataFrame({"n": [1, 2]}).write_ipc(p)),
        ],
    )
    @pytest.mark.parametrize("table", [pl.DataFrame, pd.DataFrame, pa.Table])
    def test_a_table_is_read_by_its_suffix(
        self, tmp_path: Path, name: str, write: Callable[[Path], None], table: Any
    ) -> None:
        """In the library the annotation names."""
        path = tmp_path / name
        write(path)
        loaded = load_landed(path, table, self.landed(path))
        assert isinstance(loaded, table)
        assert len(loaded) == 2

    def test_text_bytes_path_and_json_are_read_as_asked(self, tmp_path: Path) -> None:
        """str, bytes, Path (also without annotation), and JSON into a type."""
        path = tmp_path / "x.json"
        path.write_text('[{"name": "é"}]')
        expected = self.landed(path)
        assert load_landed(path, str, expected) == '[{"name": "é"}]'
        assert load_landed(path, bytes, expected) == '[{"name": "é"}]'.encode()
        assert load_landed(path, None, expected) == load_landed(path, Path, expected) == path
        assert load_landed(path, list[Row], expected) == [Row("é")]

    def test_only_the_recorded_version_is_read(self, tmp_path: Path) -> None:
        """Other content is refused; a touch with equal content is the same version."""
        path = tmp_path / "x.txt"
        path.write_text("one")
        expected = self.landed(path)
        os.utime(path, (1, 1))
        assert still_the_same(path, expected)
        assert load_landed(path, str, expected) == "one"
        path.write_text("two")
        assert not still_the_same(path, expected)
        with pytest.raises(InputChangedError, match=r"x\.txt is not the recorded version"):
            load_landed(path, str, expected)
        path.unlink()
        with pytest.raises(InputChangedError, match="cannot be read"):
            load_landed(path, Path, expected)

    def test_what_cannot_be_read_in_that_form_is_said(self, tmp_path: Path) -> None:
        """An unknown suffix, and a type that no file becomes."""
        path = tmp_path / "x.xlsx"
        path.write_text("x")
        with pytest.raises(StoreError, match=r"'\.xlsx' is no format"):
            load_landed(path, pl.DataFrame, self.landed(path))
        with pytest.raises(StoreError, match="annotate the parameter as Path"):
            load_landed(path, int, self.landed(path))


def test_a_table_without_its_library_names_the_extra(tmp_path: Path) -> None:
    """`pip install 'freshet[polars]'` is the hint when polars is missing."""
    (tmp_path / "polars.py").write_text("raise ImportError('not here')")
    code = """
from freshet.engine.stores.formats import read_table
try:
    read_table("polars", ".csv", b"a")
except Exception as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert "pip install 'freshet[polars]'" in result.stdout
