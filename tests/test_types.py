"""Annotations are promises: what breaks one is not published, or not given to a function, and the
failure names field and type.
"""

import dataclasses
from collections import Counter, OrderedDict
from typing import Any, TypedDict

import msgspec
import polars as pl
import pytest

import freshet as fr
from freshet.engine.events import RunFailed, RunStarted
from tests.engine import engine

pytestmark = pytest.mark.anyio

RAW = fr.source("raw")


class Row(msgspec.Struct):
    name: str
    amount: int


@dataclasses.dataclass
class Point:
    x: float
    y: float


class Named(TypedDict):
    name: str


class Base(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class More(Base):
    b: int


class Own(dict[str, int]):
    pass


GOOD: list[tuple[Any, Any]] = [
    (list[Row], [Row("a", 1)]),
    (list[Row], [{"name": "a", "amount": 1}]),
    (Row, Row("a", 1)),
    (Point, Point(1, 2)),
    (dict[str, int], {"a": 1}),
    (Named, {"name": "a"}),
    (int | str, "a"),
    (float, 1),
    (pl.DataFrame, pl.DataFrame({"a": [1]})),
    (fr.Output, {"a": 1}),
    (list[float], [1.0, 2.5]),
    (Counter[str], Counter("aab")),
    (OrderedDict[str, int], OrderedDict(a=1)),
    (Base, More(1, 2)),
    (list[Own], [Own(a=1)]),
    (Any, {"a": 1}),
]

BAD: list[tuple[Any, Any, str]] = [
    (list[Row], [Row("a", 1), Row("b", "2")], r"Expected `int`, got `str` - at `\$\[1\].amount`"),  # type: ignore[arg-type]  # that is the point
    (list[Row], [{"name": "a"}], r"missing required field `amount` - at `\$\[0\]`"),
    (Row, Row(None, 1), r"Row: Expected `str`, got `null` - at `\$.name`"),  # type: ignore[arg-type]  # likewise
    (Point, Point(1, "2"), r"got `str` - at `\$.y`"),  # type: ignore[arg-type]  # likewise
    (dict[str, int], {"a": "1"}, r"Expected `int`, got `str` - at `\$\[...\]`"),
    (Named, {"name": 3}, r"got `int` - at `\$.name`"),
    (int, "a", "should return int but returned str"),
    (pl.DataFrame, [1], "should return DataFrame but returned list"),
    (dict[str, int], pl.DataFrame({"a": [1]}), "should return dict.* but returned DataFrame"),
    (list[str], "abc", "Expected `array`, got `str`"),
    (int | float, "abc", "got `str`"),
]


def returning(annotation: Any, value: Any) -> fr.Asset:
    def made() -> Any:
        return value

    made.__annotations__["return"] = annotation
    return fr.asset(key="made", deps=[RAW])(made)


@fr.asset(deps=["made"])
def below() -> int:
    return 1


@pytest.mark.parametrize(("annotation", "value"), GOOD, ids=lambda one: str(one)[:40])
async def test_what_keeps_its_promise_is_published(annotation: Any, value: Any) -> None:
    async with engine(RAW, returning(annotation, value), below) as under_test:
        await under_test.change("raw", "1")
        await under_test.quiet()
        assert under_test.status("made").state == "fresh"


@pytest.mark.parametrize(("annotation", "value", "text"), BAD, ids=lambda one: str(one)[:40])
async def test_what_breaks_its_promise_is_not(annotation: Any, value: Any, text: str) -> None:  # A2
    async with engine(RAW, returning(annotation, value), below) as under_test:
        await under_test.change("raw", "1")
        await under_test.quiet()
        events = [recorded.event for recorded in await under_test.history()]
        (failed,) = [event for event in events if isinstance(event, RunFailed)]
        assert failed.kind == "value"
        with pytest.raises(AssertionError, match=text):
            raise AssertionError(failed.error)
        started = [event for event in events if isinstance(event, RunStarted)]
        assert [start.targets[0].asset for start in started] == ["made"]
        assert under_test.status("made").state == "missing"


async def test_each_partition_of_a_batch_keeps_the_promise() -> None:
    days = fr.static(["a", "b"])

    @fr.asset(partitions=days, batch=2)
    def made() -> dict[str, Row]:
        return {"a": Row("a", 1), "b": Row("b", "x")}  # type: ignore[arg-type]  # that is the point

    async with engine(made) as under_test:
        await under_test.quiet()
        events = [recorded.event for recorded in await under_test.history()]
        failed = [event for event in events if isinstance(event, RunFailed)]
        assert "Row: Expected `int`, got `str` - at `$.amount`" in failed[0].error


async def test_what_is_read_fits_the_annotation_or_the_run_fails() -> None:  # A2
    """Before the function is called; parameter, field and type are named."""

    @fr.asset(deps=[RAW])
    def made() -> list[Any]:
        return [{"name": "a", "amount": "1"}]

    called = []

    @fr.asset
    def reader(made: list[Row]) -> int:
        called.append(made)
        return 1

    async with engine(RAW, made, reader) as under_test:
        await under_test.change("raw", "1")
        await under_test.quiet()
        events = [recorded.event for recorded in await under_test.history()]
        (failed,) = [event for event in events if isinstance(event, RunFailed)]
        assert failed.kind == "input"
        assert "parameter 'made'" in failed.error
        assert "Expected `int`, got `str` - at `$[0].amount`" in failed.error
    assert called == []
