"""Columns of tables: what is declared, what is published, and how the two drift apart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import freshet as fr
from freshet.engine.errors import DefinitionError
from freshet.engine.events import Materialized, RunFailed
from freshet.engine.schemas import (
    MAX_COLUMNS,
    MAX_TEXT_CHARS,
    columns_in,
    drift,
    misfits,
    text_of,
    version_with,
)
from freshet.engine.stores.formats import encode
from tests.engine import Engine, engine
from tests.test_cli import Place

NAMES = st.text(min_size=1, max_size=12)
TYPES = st.sampled_from(
    [
        "Int64",
        "Datetime(time_unit='us', time_zone=None)",
        "Struct({'a': Int64, 'b': List(String)})",
        "Enum(categories=['x, y', \"it's\"])",
    ]
)


@given(st.dictionaries(NAMES, TYPES, max_size=8))
def test_what_is_recorded_is_read_back_whatever_the_names(columns: dict[str, str]) -> None:
    assert columns_in(text_of(columns)) == (columns, 0)


def test_the_text_is_for_people_and_bounded() -> None:
    """Of wide tables it says how many are left out; of long types how they begin."""
    assert text_of({"id": "Int64", "name": "String"}) == "id: Int64, name: String"
    wide = {f"c{n}": "Int64" for n in range(MAX_COLUMNS + 36)}
    found, left = columns_in(text_of(wide))
    assert (len(found), left) == (MAX_COLUMNS, 36)
    assert text_of(wide).endswith(", … and 36 more")
    long = {"x" * 500 + str(n): "Int64" for n in range(9)}
    assert len(text_of(long)) < MAX_TEXT_CHARS + 40
    assert columns_in(text_of(long))[1] == 7
    deep = text_of({"e": f"Enum({'x' * 500})"})
    assert deep == "e: Enum(…)"


@pytest.mark.parametrize(
    ("declared", "published", "said"),
    [
        ({"id": "int"}, "id: Int32", []),
        ({"id": "int", "n": "str"}, "id: Int64", ["column 'n' added (str): compatible"]),
        ({"id": "int"}, "id: Int64, n: String", ["column 'n' removed (was String): breaking"]),
        ({"id": "str"}, "id: Int64", ["column 'id' changed (from Int64 to str): breaking"]),
        ({}, "id: Int64", []),
        ({"id": "int"}, "", []),
        ({"id": "int", "z": "int"}, "id: Int64, … and 3 more", []),
    ],
)
def test_drift_names_each_column_and_whether_readers_break(
    declared: dict[str, str], published: str, said: list[str]
) -> None:
    """What was left out of the record, or never recorded, is no drift."""
    assert [str(one) for one in drift(declared, published)] == said


def test_a_table_of_any_package_records_its_columns() -> None:
    columns: dict[str, Any] = {"id": [1, 2], "name": ["a", "b"]}
    for table in (pl.DataFrame(columns), pl.LazyFrame(columns), pd.DataFrame(columns)):
        assert encode(table).metadata["columns"] == "id: Int64, name: String"
    assert encode(pa.table(columns)).metadata["columns"] == "id: Int64, name: String"
    assert "columns" not in encode({"id": 1}).metadata


def test_declared_columns_are_checked_at_load_and_are_code() -> None:
    """Their order says nothing."""

    def made() -> None:
        return None

    plain = fr.asset(code_version="1")(made).spec.code_version
    one = fr.asset(code_version="1", columns={"a": int, "b": "str"})(made).spec
    two = fr.asset(code_version="1", columns={"b": str, "a": "int"})(made).spec
    other = fr.asset(code_version="1", columns={"a": int})(made).spec
    assert one.columns == {"a": "int", "b": "str"}
    assert plain == "1"
    assert one.code_version == two.code_version
    assert len({plain, one.code_version, other.code_version}) == 3
    assert version_with("1", {}) == "1"
    with pytest.raises(DefinitionError, match="declares the column 'a': 7"):
        fr.asset(columns={"a": 7})(made)  # type: ignore[dict-item]  # the mistake


def test_what_does_not_fit_is_said_column_by_column() -> None:
    declared = {"a": "int", "b": "str", "d": "Datetime(time_unit='us', time_zone=None)"}
    found = {"a": "Float64", "c": "Int8", "d": "Datetime(time_unit='us', time_zone=None)"}
    assert misfits(declared, found) == [
        "no column 'b' (str)",
        "a column 'c' not declared",
        "column 'a' is Float64, not int",
    ]
    assert misfits({"a": "int"}, {"a": "UInt8"}) == []


# --- in the engine --------------------------------------------------------------------------------

pytestmark = pytest.mark.anyio


async def metadata(e: Engine) -> list[dict[str, Any]]:
    return [dict(r.event.metadata) for r in await e.history() if isinstance(r.event, Materialized)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            pl.DataFrame({"id": ["x"]}),
            "'made' does not fit its columns: column 'id' is String,",
        ),
        (pl.DataFrame({"n": [1]}), "no column 'id' (int); a column 'n' not declared"),
        ({"id": 1}, "'made' declares columns, and returned no table but a dict"),
    ],
)
async def test_what_does_not_fit_is_refused_before_it_is_published(value: Any, said: str) -> None:
    """Column and type are named; the version before stays current."""

    @fr.asset(columns={"id": int})
    async def made(s: str) -> Any:
        return pl.DataFrame({"id": [7]}) if s == "good" else value

    async with engine(fr.source("s"), made) as e:
        await e.change("s", "good")
        await e.settled()
        await e.change("s", "bad")
        await e.settled()
        failed = [r.event for r in await e.history() if isinstance(r.event, RunFailed)]
        assert [event.kind for event in failed] == ["value"]
        assert said in failed[0].error
        assert [one["columns"] for one in await metadata(e)] == ["id: Int64"]


async def test_a_declared_column_added_is_drift_and_stale_per_policy() -> None:  # D15
    """Eager builds it anew; under manual it is stale until a person asks."""

    def made(*names: str, **options: Any) -> fr.Asset:
        @fr.asset(code_version="1", columns=dict.fromkeys(names, int), **options)
        async def made(s: str) -> pl.DataFrame:
            return pl.DataFrame({name: [1] for name in names})

        return made

    s = fr.source("s")
    async with engine(s, made("a")) as e:
        await e.change("s", "1")
        await e.quiet()
        await e.redeploy(s, made("a", "b"))
        await e.quiet()
        assert [one["columns"] for one in await metadata(e)] == ["a: Int64", "a: Int64, b: Int64"]
        await e.redeploy(s, made("a", freshness=fr.manual()))
        await e.quiet()
        assert e.status("made").state == "stale"
        assert [cause.what for cause in e.status("made").causes] == ["code"]
        assert len(await metadata(e)) == 2


# --- on the command line --------------------------------------------------------------------------

PROJECT = """
import freshet as fr
import polars as pl


@fr.asset(freshness=fr.on_missing(), columns={"id": int, "name": str})
def made() -> pl.DataFrame:
    return pl.DataFrame({"id": [1], "name": ["x"]})


project = fr.Project([made], store=fr.LocalStore("data"))
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.kill()


def test_status_and_plan_name_the_drift(place: Place) -> None:  # D15
    """Each column, and whether who reads the table breaks; gone once it is built anew."""
    project = place.folder / "project.py"
    project.write_text(PROJECT)
    place.start()
    place.wait_for("RunSucceeded", "")
    assert "schema drift" not in place.freshet("status", "made").stdout
    project.write_text(PROJECT.replace('"name": str', '"size": float'))
    assert place.freshet("reload").returncode == 0
    lines = [
        "schema drift: made: column 'size' added (float): compatible",
        "schema drift: made: column 'name' removed (was String): breaking",
    ]
    for command in (("status", "made"), ("status",), ("plan",), ("plan", "made")):
        out = place.freshet(*command).stdout.splitlines()
        assert [line for line in out if "drift" in line] == lines, command
    row = json.loads(place.freshet("plan", "--json").stdout)[0]
    assert [(one["column"], one["what"], one["breaking"]) for one in row["drift"]] == [
        ("size", "added", False),
        ("name", "removed", True),
    ]
    project.write_text(PROJECT)
    assert place.freshet("reload").returncode == 0
    assert "drift" not in place.freshet("status").stdout
    place.stop()
