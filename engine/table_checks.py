"""Checks of tables, ready made: of polars, pandas and Arrow alike.

Each is a `Check` for `Project(checks=[...])`, and records what it counted as metadata. That a
column which is asked about is missing fails it; a null says nothing about a value, so only
`not_null` looks for those.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from freshet.engine.assets import Asset
from freshet.engine.checks import Check, CheckResult, check
from freshet.engine.counts import counted
from freshet.engine.errors import DefinitionError, StoreError
from freshet.engine.schemas import fits, type_name
from freshet.engine.specs import Plain, Severity

SHOWN = 5
"""Values or columns named in a message; all are counted."""


def not_null(
    target: str | Asset,
    *columns: str,
    blocking: bool = False,
    severity: Severity | None = None,
    name: str | None = None,
) -> Check:
    """No value of these columns is null, or no number (NaN). Records `rows`, `nulls`, and
    `nulls.COLUMN` of each.
    """
    _need(columns, "not_null", target)

    def test(table: Any) -> CheckResult:
        found = {column: _nulls(table[column]) for column in columns}
        bad = [f"{counted(n, 'null')} in {column}" for column, n in found.items() if n]
        each = {f"nulls.{column}": n for column, n in found.items()}
        return _result(table, not bad, {"nulls": sum(found.values()), **each}, ", ".join(bad))

    return _of_table(target, name or _name("not_null", columns), columns, test, blocking, severity)


def unique(
    target: str | Asset,
    *columns: str,
    blocking: bool = False,
    severity: Severity | None = None,
    name: str | None = None,
) -> Check:
    """No two rows have the same values in all of these columns. Records `rows` and `duplicates`:
    rows that there are already.
    """
    _need(columns, "unique", target)

    def test(table: Any) -> CheckResult:
        keys = table.select(list(columns)).drop_nulls()
        again = len(keys) - len(keys.unique())
        text = f"{counted(again, 'row')} with a {' and '.join(columns)} that another has"
        return _result(table, not again, {"duplicates": again}, text)

    return _of_table(target, name or _name("unique", columns), columns, test, blocking, severity)


def accepted_values(
    target: str | Asset,
    column: str,
    values: Sequence[str | int | float | bool],
    *,
    blocking: bool = False,
    severity: Severity | None = None,
    name: str | None = None,
) -> Check:
    """Every value of the column is one of these. Records `rows` and `others`."""
    accepted = sorted(values, key=repr)  # a set comes in any order

    def test(table: Any) -> CheckResult:
        found = table[column]
        others = found.filter(~found.is_null() & ~found.is_in(accepted))
        shown = ", ".join(map(repr, others.unique().head(SHOWN).to_list()))
        text = f"{counted(len(others), 'value')} of {column} not accepted, such as {shown}"
        return _result(table, not len(others), {"others": len(others)}, text)

    called = name or _name("accepted_values", [column])
    return _of_table(target, called, [column], test, blocking, severity, str(accepted))


def in_range(
    target: str | Asset,
    column: str,
    low: Any = None,
    high: Any = None,
    *,
    blocking: bool = False,
    severity: Severity | None = None,
    name: str | None = None,
) -> Check:
    """Every value of the column lies between `low` and `high`, both included; None: no bound.
    Records `rows`, `outside`, and the smallest and largest value, as `min` and `max`.
    """
    if low is None and high is None:
        raise DefinitionError("in_range without a bound", hint="give low=, high=, or both")

    def test(table: Any) -> CheckResult:
        found = table[column]
        found = found.filter(~found.is_null())
        if found.dtype.is_float():
            found = found.filter(~found.is_nan())
        outside = 0
        if low is not None and len(found):
            outside += int((found < low).sum())
        if high is not None and len(found):
            outside += int((found > high).sum())
        ends = {"min": found.min(), "max": found.max()} if len(found) else {}
        measured = {key: _plain(value) for key, value in ends.items()}
        shown = f"{counted(outside, 'value')} of {column} outside"
        text = (
            f"{shown} {_bounds(low, high)}: it has {measured.get('min')} to {measured.get('max')}"
        )
        return _result(table, not outside, {"outside": outside, **measured}, text)

    called = name or _name("in_range", [column])
    return _of_table(target, called, [column], test, blocking, severity, f"{low!r} {high!r}")


def row_count(
    target: str | Asset,
    minimum: int = 1,
    maximum: int | None = None,
    *,
    blocking: bool = False,
    severity: Severity | None = None,
    name: str = "row_count",
) -> Check:
    """The table has at least `minimum` rows, and at most `maximum`. Records `rows`."""

    def test(table: Any) -> CheckResult:
        rows = len(table)
        fits = minimum <= rows and (maximum is None or rows <= maximum)
        return _result(table, fits, {}, f"{counted(rows, 'row')}, not {_bounds(minimum, maximum)}")

    return _of_table(target, name, [], test, blocking, severity, f"{minimum} {maximum}")


def schema(
    target: str | Asset,
    columns: Mapping[str, str | type],
    *,
    others: bool = False,
    blocking: bool = False,
    severity: Severity | None = None,
    name: str = "schema",
) -> Check:
    """The table has these columns, of these types; with `others`, it may have more.

    A type is one of Python's (`int`, `float`, `str`, `bool`, `datetime.date`, …), which stands for
    all sizes of it, or the name of one exactly, such as `"Int32"`. Records `rows`, and how many
    columns are `missing`, `unexpected` and `changed`.
    """
    wanted = {column: type_name(kind) for column, kind in columns.items()}

    def test(table: Any) -> CheckResult:
        found = {column: str(kind) for column, kind in table.schema.items()}
        missing = [column for column in wanted if column not in found]
        unexpected = [] if others else [column for column in found if column not in wanted]
        changed = [
            f"{column} is {found[column]}, not {kind}"
            for column, kind in wanted.items()
            if column in found and not fits(found[column], kind)
        ]
        said = [f"no column {column}" for column in missing]
        said += [f"a column {column} not declared" for column in unexpected] + changed
        counts = {"missing": missing, "unexpected": unexpected, "changed": changed}
        measured: dict[str, Plain] = {key: len(columns) for key, columns in counts.items()}
        return _result(table, not said, measured, "; ".join(said[:SHOWN]))

    return _of_table(
        target, name, [], test, blocking, severity, f"{sorted(wanted.items())} {others}"
    )


def conforms(
    target: str | Asset,
    to: Any,
    *,
    blocking: bool = False,
    severity: Severity | None = None,
    name: str = "conforms",
) -> Check:
    """The table passes a pandera schema (`pip install 'freshet[pandera]'`). Records `rows` and
    `failures`. Its parts are not seen by the code version: give it another `name` when it changes.
    """
    if not callable(getattr(to, "validate", None)):
        raise DefinitionError(
            f"conforms(to={to!r}) is no pandera schema",
            hint="pandera.DataFrameSchema or a DataFrameModel, of the package of your tables",
        )

    def test(table: Any) -> CheckResult:
        try:
            to.validate(table.to_native(), lazy=True)
        except Exception as error:
            cases = getattr(error, "failure_cases", None)
            if cases is None:
                raise
            text = " ".join(str(getattr(error, "message", error)).split())
            return _result(table, False, {"failures": len(cases)}, text[:300])
        return _result(table, True, {"failures": 0}, "")

    return _of_table(target, name, [], test, blocking, severity, repr(to))


# --- how they are made ----------------------------------------------------------------------------


def _of_table(
    target: str | Asset,
    name: str,
    columns: Sequence[str],
    test: Callable[[Any], CheckResult],
    blocking: bool,
    severity: Severity | None,
    arguments: str = "",
) -> Check:
    """A check that is given any table, as one of narwhals, which speaks for all packages."""

    def of_table(value: Any) -> CheckResult:
        table = _table(value)
        missing = [column for column in columns if column not in table.columns]
        if missing:
            return CheckResult(
                False,
                {"rows": len(table)},
                f"no column {', '.join(missing)} (there are {', '.join(table.columns[:SHOWN])})",
            )
        return test(table)

    text = f"{name}|{test.__qualname__}|{'|'.join(columns)}|{arguments}"
    declare = check(
        target,
        name=name,
        blocking=blocking,
        severity=severity,
        description=inspect.getdoc(test) or "",
        code_version=blake2b(text.encode(), digest_size=8).hexdigest(),
    )
    found = declare(of_table)
    here = inspect.currentframe()
    caller = here.f_back.f_back if here is not None and here.f_back is not None else None
    if caller is not None:
        found.where = f"{caller.f_code.co_filename}:{caller.f_lineno}"
    return found


def _table(value: Any) -> Any:
    try:
        import narwhals.stable.v2 as nw
    except ImportError:
        raise StoreError(
            "checks of tables need narwhals, which is not installed",
            hint="pip install 'freshet[polars]', 'freshet[pandas]' or 'freshet[arrow]'",
        ) from None
    value = value.collect() if type(value).__name__ == "LazyFrame" else value
    try:
        return nw.from_native(value, eager_only=True)
    except TypeError:
        raise TypeError(
            f"this check is one of tables (polars, pandas, Arrow), not of a {type(value).__name__}"
        ) from None


def _result(table: Any, passed: bool, metadata: Mapping[str, Plain], message: str) -> CheckResult:
    return CheckResult(passed, {"rows": len(table), **metadata}, "" if passed else message)


def _nulls(column: Any) -> int:
    empty = column.is_null()
    if column.dtype.is_float():
        empty = empty | column.is_nan()
    return int(empty.sum())


def _bounds(low: object, high: object) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"


def _plain(value: Any) -> Plain:
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _name(kind: str, columns: Sequence[str]) -> str:
    return f"{kind}_{'_'.join(columns)}"


def _need(columns: Sequence[str], kind: str, target: object) -> None:
    if not columns:
        key = target.key if isinstance(target, Asset) else target
        raise DefinitionError(f"{kind}({key!r}) names no column", hint="name one or more columns")
