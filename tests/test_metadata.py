"""Metadata keep their type wherever they are recorded and read, and are bounded."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import freshet as fr
from freshet.engine import metadata as m
from freshet.engine.codec import decode, encode
from freshet.engine.errors import DefinitionError
from freshet.engine.events import CheckEvaluated, Materialized, RunFailed
from freshet.engine.metadata import MAX_BYTES, MAX_ROWS, MAX_VALUE_BYTES
from freshet.engine.outputs import recorded_metadata
from freshet.engine.sqlite_reader import SqliteReader
from tests.engine import engine
from tests.test_cli import Place

MOMENT = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))
TABLE = m.Table(("a", "b"), ((1, "x"), (2, None)), 3)
SAID: dict[str, m.Value] = {
    "int": 7,
    "float": 7.0,
    "text": "seven",
    "yes": True,
    "none": None,
    "path": m.Path("/data/seven.csv"),
    "url": m.Url("https://example.org/7"),
    "table": TABLE,
    "markdown": m.Markdown("# Seven\n\n- of them"),
    "json": m.Json('{"seven":[7]}'),
    "at": m.Timestamp(1_704_157_445_678_901),
}

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.builds(m.Path, st.text()),
    st.builds(m.Url, st.text()),
    st.builds(m.Markdown, st.text()),
    st.builds(m.Json.of, st.dictionaries(st.text(), st.integers())),
    st.builds(m.Timestamp, st.integers(0, 2**60)),
    st.builds(
        m.Table.of,
        st.lists(st.text(), max_size=3),
        st.lists(st.lists(st.integers(), max_size=3), max_size=3),
    ),
)


@given(VALUES)
def test_a_value_survives_the_stream_with_its_type(value: m.Value) -> None:  # A12
    event = Materialized("a", metadata={"x": value})
    found = decode("Materialized", encode(event))
    assert isinstance(found, Materialized)
    assert found == event
    assert type(found.metadata["x"]) is type(value)


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        (Path("/a/b"), m.Path("/a/b")),
        (MOMENT, m.Timestamp(1_704_157_445_678_901)),
        ({"a": [1, {"b": None}]}, m.Json('{"a":[1,{"b":null}]}')),
        ([1, 2], m.Json("[1,2]")),
        (pl.DataFrame({"a": [1, 2], "b": ["x", None]}), m.Table(("a", "b"), ((1, "x"), (2, None)))),
        (
            pl.DataFrame({"a": [datetime(2024, 1, 1)]}).lazy(),
            m.Table(("a",), (("2024-01-01 00:00:00",),)),
        ),
        (pl.DataFrame({"a": [5]}), 5),
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (m.Url("x"), m.Url("x")),
        ("half \ud83d", "half ?"),
        (Path("half-\udcff"), m.Path("half-?")),
    ],
)
def test_values_of_python_become_what_is_recorded(given: object, recorded: m.Value) -> None:
    found = recorded_metadata({"x": given})["x"]
    assert found == recorded
    assert type(found) is type(recorded)


def test_a_large_table_is_kept_by_its_first_rows() -> None:
    found = recorded_metadata({"x": pl.DataFrame({"a": range(1000)})})["x"]
    assert isinstance(found, m.Table)
    assert (len(found.rows), found.more) == (MAX_ROWS, 1000 - MAX_ROWS)
    assert str(found) == "1000×1 table (a)"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (object(), TypeError, "metadata 'x' cannot be recorded: it is a object; text, numbers"),
        (datetime(2024, 1, 1), TypeError, "it has no time zone"),
        ("y" * MAX_VALUE_BYTES, ValueError, f"metadata 'x' has {MAX_VALUE_BYTES + 2} bytes"),
        (["y" * MAX_VALUE_BYTES], ValueError, "keep it in the store or a file"),
    ],
)
def test_what_cannot_be_recorded_is_refused_by_name(
    given: object, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as raised:
        recorded_metadata({"x": given})
    assert said in str(raised.value)


def test_many_values_are_bounded_together() -> None:
    many = {str(n): "y" * (MAX_VALUE_BYTES - 100) for n in range(5)}
    with pytest.raises(ValueError, match=f"more than {MAX_BYTES}"):
        recorded_metadata(many)


def test_values_of_a_definition_are_typed_and_bounded_too() -> None:

    def made() -> str:
        return ""

    said = {"doc": fr.metadata.Url("u"), "folder": Path("/x")}
    assert fr.asset(key="a", metadata=said)(made).spec.metadata == {
        "doc": m.Url("u"),
        "folder": m.Path("/x"),
    }
    with pytest.raises(DefinitionError, match=r"asset 'a': metadata 'x' has \d+ bytes"):
        fr.asset(key="a", metadata={"x": "y" * MAX_VALUE_BYTES})(made)


def test_values_read_well_on_a_line() -> None:
    assert [str(value) for value in SAID.values()][5:] == [
        "/data/seven.csv",
        "https://example.org/7",
        "5×2 table (a, b)",
        "# Seven - of them",
        '{"seven":[7]}',
        "2024-01-02T01:04:05.678901Z",
    ]
    assert m.Json('{"a":1}').value == {"a": 1}
    assert m.Timestamp.of(MOMENT).moment == MOMENT.astimezone(UTC)


# --- in the engine --------------------------------------------------------------------------------

pytestmark = pytest.mark.anyio


async def test_a_run_and_its_checks_say_typed_values_and_what_is_too_large_fails_it() -> None:
    """The failure names the value; nothing is published."""

    @fr.asset
    async def made(s: str) -> Any:
        return fr.Output(
            s, metadata={"at": MOMENT, "x": "y" * (MAX_VALUE_BYTES if s == "b" else 1)}
        )

    @fr.check(made)
    def fits(made: str) -> fr.CheckResult:
        return fr.CheckResult(True, {"worst": {"row": 3}, "file": Path("/a")})

    async with engine(fr.source("s"), made, fits) as e:
        await e.change("s", "a")
        await e.settled()
        await e.change("s", "b")
        await e.settled()
        events = [r.event for r in await e.history()]
        (version,) = [event for event in events if isinstance(event, Materialized)]
        assert version.metadata["at"] == m.Timestamp.of(MOMENT)
        (checked,) = [event for event in events if isinstance(event, CheckEvaluated)]
        assert checked.metadata == {"worst": m.Json('{"row":3}'), "file": m.Path("/a")}
        (failed,) = [event for event in events if isinstance(event, RunFailed)]
        assert "metadata 'x' has" in failed.error


PROJECT = """
import freshet as fr
from datetime import datetime, UTC
from pathlib import Path

TABLE = fr.metadata.Table(("a", "b"), ((1, "x"), (2, None)), 3)


@fr.asset
def made() -> str:
    return fr.Output("x", metadata={
        "int": 7, "float": 7.0, "text": "seven", "yes": True, "none": None,
        "path": Path("/data/seven.csv"),
        "url": fr.metadata.Url("https://example.org/7"),
        "table": TABLE,
        "markdown": fr.metadata.Markdown("# Seven\\n\\n- of them"),
        "json": {"seven": [7]},
        "at": datetime.fromtimestamp(1_704_157_445, UTC).replace(microsecond=678901),
    })


project = fr.Project([made], store=fr.LocalStore("data"))
"""


class Row(msgspec.Struct):
    """What is looked at of a row of JSON."""

    metadata: dict[str, m.Value]


class Event(msgspec.Struct):
    """One event as it is listed."""

    event: Row


class Report(msgspec.Struct):
    partitions: list[Row]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.kill()


async def recorded(stream: Path) -> list[dict[str, m.Value]]:
    async with SqliteReader.open(stream) as reader:
        events = [r.event for r in await reader.read()]
    return [dict(event.metadata) for event in events if isinstance(event, Materialized)]


def test_typed_metadata_survive_a_round_trip(place: Place) -> None:  # A12
    """From the function through the stream and each command, as data and as text."""
    (place.folder / "project.py").write_text(PROJECT)
    place.start()
    place.wait_for("RunSucceeded", "")
    place.stop()
    expected = {**SAID, "bytes": 1}
    assert anyio.run(recorded, place.folder / ".freshet" / "stream.db") == [expected]
    shown = place.freshet("history", "made", "--json").stdout
    row = msgspec.json.decode(shown, type=Event)
    assert row.event.metadata == expected
    report = msgspec.json.decode(place.freshet("status", "made", "--json").stdout, type=Report)
    assert report.partitions[0].metadata == expected
    for command in ("history", "provenance"):
        out = place.freshet(command, "made").stdout
        assert "path=/data/seven.csv url=https://example.org/7 table=5×2 table (a, b)" in out
        assert "at=2024-01-02T01:04:05.678901Z" in out
