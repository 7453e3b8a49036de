"""The ready-made checks of tables: the same of polars, pandas and Arrow, each passing and
failing.
"""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pandas as pd
import pandera.pandas
import pandera.polars
import polars as pl
import pyarrow as pa
import pytest

import freshet as fr
from freshet.engine.errors import DefinitionError

TABLE = {
    "id": [1, 2, 3, 4],
    "day": [dt.datetime(2024, 1, n) for n in (1, 2, 3, 4)],
    "kind": ["a", "b", "a", None],
    "share": [0.5, float("nan"), 0.25, 1.0],
}

MAKERS: dict[str, Callable[[Any], Any]] = {
    "polars": pl.DataFrame,
    "lazy": pl.LazyFrame,
    "pandas": pd.DataFrame,
    "arrow": pa.table,
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return MAKERS[request.param]


def said(check: fr.Check, table: Any) -> tuple[bool, dict[str, Any], str]:
    found = check(table)
    return found.passed, found.metadata, found.message


def test_not_null(make: Callable[[Any], Any]) -> None:  # K8, A7
    good = fr.not_null("t", "id", "day")
    assert said(good, make(TABLE)) == (
        True,
        {"rows": 4, "nulls": 0, "nulls.id": 0, "nulls.day": 0},
        "",
    )
    bad = fr.not_null("t", "kind", "share")
    assert said(bad, make(TABLE)) == (
        False,
        {"rows": 4, "nulls": 2, "nulls.kind": 1, "nulls.share": 1},
        "1 null in kind, 1 null in share",
    )


def test_unique(make: Callable[[Any], Any]) -> None:  # K8
    assert said(fr.unique("t", "id"), make(TABLE)) == (True, {"rows": 4, "duplicates": 0}, "")
    assert said(fr.unique("t", "kind"), make(TABLE)) == (
        False,
        {"rows": 4, "duplicates": 1},
        "1 row with a kind that another has",
    )
    assert said(fr.unique("t", "kind", "id"), make(TABLE))[0]


def test_accepted_values(make: Callable[[Any], Any]) -> None:  # K8
    assert said(fr.accepted_values("t", "kind", ["a", "b"]), make(TABLE))[0]
    assert said(fr.accepted_values("t", "kind", ["a"]), make(TABLE)) == (
        False,
        {"rows": 4, "others": 1},
        "1 value of kind not accepted, such as 'b'",
    )


def test_in_range(make: Callable[[Any], Any]) -> None:  # K8
    inside = said(fr.in_range("t", "id", 1, 4), make(TABLE))
    assert inside == (True, {"rows": 4, "outside": 0, "min": 1, "max": 4}, "")
    outside = said(fr.in_range("t", "id", 2, 3), make(TABLE))
    assert outside[:2] == (False, {"rows": 4, "outside": 2, "min": 1, "max": 4})
    assert outside[2] == "2 values of id outside 2 to 3: it has 1 to 4"
    assert not said(fr.in_range("t", "id", low=2), make(TABLE))[0]
    assert said(fr.in_range("t", "id", high=4), make(TABLE))[0]
    assert said(fr.in_range("t", "day", low=dt.datetime(2024, 1, 1)), make(TABLE))[0]
    assert not said(fr.in_range("t", "day", high=dt.datetime(2024, 1, 3)), make(TABLE))[0]


def test_row_count(make: Callable[[Any], Any]) -> None:
    assert said(fr.row_count("t"), make(TABLE)) == (True, {"rows": 4}, "")
    assert said(fr.row_count("t", 5), make(TABLE)) == (False, {"rows": 4}, "4 rows, not at least 5")
    assert said(fr.row_count("t", 1, 3), make(TABLE))[2] == "4 rows, not 1 to 3"


def test_schema(make: Callable[[Any], Any]) -> None:
    columns = {"id": int, "day": dt.datetime, "kind": str, "share": float}
    counts = {"rows": 4, "missing": 0, "unexpected": 0, "changed": 0}
    assert said(fr.schema("t", columns), make(TABLE)) == (True, counts, "")
    assert said(fr.schema("t", {"id": "Int64"}, others=True), make(TABLE))[0]
    passed, found, message = said(fr.schema("t", {"id": str, "more": int}), make(TABLE))
    assert not passed
    assert found == {"rows": 4, "missing": 1, "unexpected": 3, "changed": 1}
    assert "no column more" in message
    assert "id is Int64, not str" in message


def test_a_column_that_is_missing_is_named(make: Callable[[Any], Any]) -> None:
    for check in (
        fr.not_null("t", "id", "nope"),
        fr.unique("t", "nope"),
        fr.accepted_values("t", "nope", [1]),
        fr.in_range("t", "nope", 1),
    ):
        passed, found, message = said(check, make(TABLE))
        assert (passed, found) == (False, {"rows": 4})
        assert message == "no column nope (there are id, day, kind, share)"


def test_an_empty_table_has_nothing_wrong_but_its_rows(make: Callable[[Any], Any]) -> None:
    empty = make({"id": pa.array([], pa.int64()) if make is pa.table else []})
    assert said(fr.not_null("t", "id"), empty)[0]
    assert said(fr.unique("t", "id"), empty)[0]
    assert said(fr.in_range("t", "id", 1), empty)[0]
    assert not said(fr.row_count("t"), empty)[0]


def test_pandera_schemas() -> None:
    good = pandera.polars.DataFrameSchema({"id": pandera.polars.Column(int)})
    assert said(fr.conforms("t", good), pl.DataFrame(TABLE)) == (
        True,
        {"rows": 4, "failures": 0},
        "",
    )
    small = pandera.pandas.Check(lambda column: column < 3, name="small")
    bad = pandera.pandas.DataFrameSchema({"id": pandera.pandas.Column(int, small)})
    passed, found, message = said(fr.conforms("t", bad), pd.DataFrame(TABLE))
    assert (passed, found["rows"], found["failures"]) == (False, 4, 2)
    assert "small" in message


def test_what_is_no_table_is_said() -> None:
    with pytest.raises(TypeError, match=r"one of tables \(polars, pandas, Arrow\), not of a list"):
        fr.row_count("t")([1])


def test_arguments_that_say_nothing_are_refused() -> None:
    wrong: list[Callable[[], object]] = [
        lambda: fr.not_null("t"),
        lambda: fr.unique("t"),
        lambda: fr.in_range("t", "id"),
        lambda: fr.conforms("t", 3),
    ]
    for each in wrong:
        with pytest.raises(DefinitionError):
            each()


def test_each_has_a_name_a_place_and_a_version_of_its_own() -> None:
    """Other arguments are another check: what was blocked by the one may pass the other."""
    found = [
        fr.not_null("t", "a"),
        fr.not_null("t", "b"),
        fr.unique("t", "a"),
        fr.in_range("t", "a", 1),
        fr.in_range("t", "a", 2),
        fr.accepted_values("t", "a", [1]),
        fr.accepted_values("t", "a", [2]),
        fr.row_count("t", 1),
        fr.row_count("t", 2),
        fr.schema("t", {"a": int}),
        fr.schema("t", {"a": str}),
    ]
    assert len({check.spec.code_version for check in found}) == len(found)
    assert found[0].name == "not_null_a"
    assert all(__file__ in check.where for check in found)
