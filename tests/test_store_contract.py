"""Stores: staged values are hidden, published ones stay, and every supported type comes back."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import freshet as fr
from freshet.engine.errors import StoreError
from freshet.engine.stores.landing import (
    InputChangedError,
    Landed,
    digest_file,
    load_landed,
    still_the_same,
)
from freshet.engine.stores.store import Store

TARGET = fr.AssetPartition("a/b", "2024-01-01")


class Row(msgspec.Struct):
    name: str
    count: int = 0


@dataclasses.dataclass
class Point:
    x: int
    y: int


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return fr.MemoryStore() if request.param == "memory" else fr.LocalStore(tmp_path / "data")


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
        ],
    )
    def test_plain_values_come_back_typed(self, store: Store, value: Any, annotation: Any) -> None:
        """In the annotation's own types."""
        assert store.load(TARGET, put(store, value), annotation) == value

    @pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame, pa.table], ids=["pl", "pd", "pa"])
    def test_tables_come_back_as_whichever_library_is_asked_for(
        self, store: Store, make: Callable[[Any], Any]
    ) -> None:
        """Stored by one, loaded by any."""
        data = {"n": [1, 2, 3], "s": ["a", "b", "c"]}
        staged = store.stage(TARGET, 1, make(data))
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


def test_the_current_value_lies_where_people_look(tmp_path: Path) -> None:
    """By key and partition; another format replaces it; versions are kept as many as asked for."""
    store = fr.LocalStore(tmp_path, keep=2)
    whole = fr.AssetPartition("reports/total")
    first = put(store, "one", target=whole)
    assert (tmp_path / "reports" / "total.txt").read_text() == "one"
    put(store, {"n": 2}, target=whole)
    assert sorted(p.name for p in (tmp_path / "reports").iterdir()) == ["total.json"]
    put(store, "three", target=whole)
    assert not store.has(whole, first)
    put(store, "day", target=TARGET)
    assert (tmp_path / "a" / "b" / "2024-01-01.txt").read_text() == "day"
    assert list((tmp_path / ".staged").iterdir()) == []


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


def test_a_store_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    """A file in the place of its folder: StoreError naming the path."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        fr.LocalStore(tmp_path / "data").stage(TARGET, 1, "x")


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
