"""Values as bytes and back: the format follows from the value's type, the form of loading from the
annotation.
"""

import pickle
import re
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from freshet.engine.errors import DefinitionError, StoreError
from freshet.engine.metadata import Table
from freshet.engine.schemas import text_of
from freshet.engine.specs import Plain
from freshet.engine.stores.plain import encode_json

OURS = (".bin", ".txt", ".json", ".parquet", ".pickle")
"""Suffixes of what is stored without a format of the user's own."""

TABLES = {"polars": "DataFrame", "pandas": "DataFrame", "pyarrow": "Table"}
"""The table types we store as Parquet, by the package they come from."""

SUFFIX = re.compile(r"\.[A-Za-z0-9_-]{1,16}")


class Encoded(msgspec.Struct, frozen=True):
    """A value as bytes, the suffix that names its format, and of a table the number of rows, and
    its columns as they are recorded.
    """

    suffix: str
    data: bytes
    rows: int | None = None
    columns: str = ""

    @property
    def metadata(self) -> dict[str, Plain]:
        """What is recorded of it."""
        found: dict[str, Plain] = {"bytes": len(self.data)}
        if self.rows is not None:
            found["rows"] = self.rows
        if self.columns:
            found["columns"] = self.columns
        return found


class Format(msgspec.Struct, frozen=True):
    """How values of a type of your own are stored: `encode` makes bytes of one, `decode` makes it
    of the bytes again; `suffix` names the format (".npy"). Equal values should give equal bytes, as
    their digest is the data version.
    """

    type: type
    suffix: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Formats:
    """What a store knows of formats: the user's own come first, then ours, then pickle if it is
    allowed. Raises DefinitionError for a suffix that is taken or none.
    """

    def __init__(self, own: Sequence[Format] = (), fallback: str | None = None) -> None:
        if fallback not in (None, "pickle"):
            raise DefinitionError(
                f"fallback={fallback!r} is no format", hint="the only one is 'pickle'"
            )
        self._pickle = fallback == "pickle"
        self._own = tuple(own)
        seen = set(OURS)
        for one in self._own:
            if not SUFFIX.fullmatch(one.suffix):
                raise DefinitionError(
                    f"the format of {one.type.__name__} has the suffix {one.suffix!r}",
                    hint='write a dot and letters or digits, as in ".npy"',
                )
            if one.suffix in seen:
                raise DefinitionError(
                    f"the format of {one.type.__name__} has the suffix '{one.suffix}', which is"
                    " taken",
                    hint="the suffix says how to decode: give each format its own",
                )
            seen.add(one.suffix)

    def encode(self, value: Any) -> Encoded:
        """The stored form of a value. Raises StoreError."""
        for one in self._own:
            if isinstance(value, one.type):
                return Encoded(one.suffix, bytes(_told(one, "encode", one.encode, value)))
        return encode(value, allow_pickle=self._pickle)

    def decode(self, suffix: str, data: bytes, annotation: Any) -> Any:
        """The value again; annotated as bytes, what is stored of it. Raises StoreError."""
        for one in self._own:
            if one.suffix == suffix and annotation is not bytes:
                return _told(one, "decode", one.decode, data)
        return decode(suffix, data, annotation)


def _told(format_: Format, what: str, call: Callable[[Any], Any], given: Any) -> Any:
    try:
        return call(given)
    except Exception as error:  # recorded: as the StoreError of the run that stores or reads
        raise StoreError(
            f"the format '{format_.suffix}' cannot {what} a {format_.type.__name__}",
            cause=f"{type(error).__name__}: {error}",
        ) from error


def encode(value: Any, *, allow_pickle: bool = False) -> Encoded:
    """The stored form of a value. Raises StoreError naming its type when there is none."""
    if isinstance(value, bytes | bytearray | memoryview):
        return Encoded(".bin", bytes(value))
    if isinstance(value, str):
        return Encoded(".txt", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, Path):
        return _encode_file(value)
    package = table_package(value)
    if package is not None:
        return _encode_table(package, value)
    try:
        return Encoded(".json", encode_json(value, as_text=not allow_pickle))
    except (StoreError, TypeError, ValueError, RecursionError, OverflowError) as error:
        if allow_pickle:
            return Encoded(".pickle", pickle.dumps(value, protocol=5))
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be stored",
            cause=str(error),
            hint="return bytes, text, plain values, msgspec Structs, dataclasses, a polars, pandas"
            " or Arrow table, or a Path; or give the store a format for it:"
            " LocalStore(..., formats=[fr.Format(...)]), or fallback='pickle'",
        ) from None


def decode(suffix: str, data: bytes, annotation: Any) -> Any:
    """The value again, in the form the annotation asks for; none or Any: as it was stored."""
    annotation = None if annotation is Any or annotation is object else annotation
    if suffix == ".txt":
        return data.decode("utf-8", "surrogatepass")
    if suffix == ".json":
        return decode_json(data, annotation)
    if suffix == ".parquet":
        return read_table(wanted_package(annotation) or _first_installed(), ".parquet", data)
    if suffix == ".pickle":
        return pickle.loads(data)
    package = wanted_package(annotation)
    if package is not None:
        return read_table(package, suffix, data)
    if annotation is str:
        return decode_text(suffix, data)
    return data


def decode_text(suffix: str, data: bytes) -> str:
    """The content as text. Raises StoreError when it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        cause = f"byte {error.start}: {error.reason}"
        raise StoreError(f"the {suffix} file is no UTF-8 text", cause=cause) from None


def decode_json(data: bytes, annotation: Any) -> Any:
    """JSON as the annotation's type; StoreError naming field and type when it does not fit."""
    try:
        return msgspec.json.decode(data, type=Any if annotation is None else annotation)
    except msgspec.ValidationError as error:
        raise StoreError(f"the stored value is no {annotation}", cause=str(error)) from None
    except msgspec.DecodeError as error:
        raise StoreError("the content is no JSON", cause=str(error)) from None
    except TypeError:
        return msgspec.json.decode(data)  # an annotation msgspec knows nothing of: plain values


def table_package(value: Any) -> str | None:
    """The package of a table value, told by name so that no package is imported to ask."""
    for kind in type(value).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in TABLES and kind.__name__ in (TABLES[package], "LazyFrame"):
            return package
    return None


def wanted_package(annotation: Any) -> str | None:
    """The package of an annotation that is a table type."""
    if not isinstance(annotation, type):
        return None
    package = annotation.__module__.partition(".")[0]
    return package if package in TABLES else None


def read_table(package: str, suffix: str, data: bytes) -> Any:
    """A table of that package from bytes in the format the suffix names."""
    readers = {"polars": _read_polars, "pandas": _read_pandas, "pyarrow": _read_arrow}
    try:
        return readers[package](suffix, data)
    except ImportError:
        raise missing_extra(package) from None
    except StoreError:
        raise
    except Exception as error:  # recorded: as the StoreError of the run that reads
        raise StoreError(
            f"the content is no {suffix} table", cause=f"{type(error).__name__}: {error}"
        ) from error


def missing_extra(package: str) -> StoreError:
    """The hint for a table package that is not installed."""
    extra = "arrow" if package == "pyarrow" else package
    return StoreError(
        f"a table asks for {package}, which is not installed",
        hint=f"pip install 'freshet[{extra}]'",
    )


def _first_installed() -> str:
    for package in TABLES:
        try:
            __import__(package)
        except ImportError:
            continue
        return package
    raise missing_extra("polars")


def _encode_file(path: Path) -> Encoded:
    try:
        return Encoded(path.suffix or ".bin", path.read_bytes())
    except OSError as error:
        raise StoreError(f"the returned file {path} cannot be read", cause=str(error)) from error


def _encode_table(package: str, value: Any) -> Encoded:
    try:
        if package == "polars":
            frame = value.collect() if hasattr(value, "collect") else value
            buffer = BytesIO()
            frame.write_parquet(buffer)
            return Encoded(".parquet", buffer.getvalue(), frame.height, _columns(frame))
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(value) if package == "pandas" else value
        sink = BytesIO()
        pq.write_table(table, sink)
        return Encoded(".parquet", sink.getvalue(), table.num_rows, _columns(value))
    except ImportError:
        raise missing_extra("pyarrow" if package == "pandas" else package) from None
    except Exception as error:  # recorded: as the StoreError of the run that stores
        raise StoreError(
            f"a {package} table cannot be written as Parquet",
            cause=f"{type(error).__name__}: {error}",
        ) from error


def columns_of(table: Any) -> dict[str, str] | None:
    """Name and type of each column of a table, in the words of narwhals; None without it."""
    try:
        import narwhals.stable.v2 as nw
    except ImportError:
        return None
    schema = nw.from_native(table).collect_schema()
    return {str(name): str(kind) for name, kind in schema.items()}


def sample_of(table: Any, limit: int) -> Table:
    """The first rows of a table. Raises TypeError without narwhals."""
    try:
        import narwhals.stable.v2 as nw
    except ImportError:
        raise TypeError("tables as metadata need narwhals, which is not installed") from None
    table = table.collect() if type(table).__name__ == "LazyFrame" else table
    frame = nw.from_native(table, eager_only=True)
    return Table.of(frame.columns, frame.head(limit).rows(), len(frame))


def _columns(table: Any) -> str:
    return text_of(columns_of(table) or {})


def _read_polars(suffix: str, data: bytes) -> Any:
    import polars as pl

    source = BytesIO(data)
    readers: dict[str, Callable[[], Any]] = {
        ".csv": lambda: pl.read_csv(source, try_parse_dates=True),
        ".tsv": lambda: pl.read_csv(source, separator="\t", try_parse_dates=True),
        ".parquet": lambda: pl.read_parquet(source),
        ".json": lambda: pl.read_json(source),
        ".ndjson": lambda: pl.read_ndjson(source),
        ".arrow": lambda: pl.read_ipc(source),
    }
    return _reader(readers, suffix)()


def _read_pandas(suffix: str, data: bytes) -> Any:
    import pandas as pd

    source = BytesIO(data)
    readers: dict[str, Callable[[], Any]] = {
        ".csv": lambda: pd.read_csv(source),
        ".tsv": lambda: pd.read_csv(source, sep="\t"),
        ".parquet": lambda: pd.read_parquet(source),
        ".json": lambda: pd.read_json(source),
        ".ndjson": lambda: pd.read_json(source, lines=True),
        ".arrow": lambda: pd.read_feather(source),
    }
    return _reader(readers, suffix)()


def _read_arrow(suffix: str, data: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.json
    import pyarrow.parquet

    source = BytesIO(data)
    tabs = pyarrow.csv.ParseOptions(delimiter="\t")
    readers: dict[str, Callable[[], Any]] = {
        ".csv": lambda: pyarrow.csv.read_csv(source),
        ".tsv": lambda: pyarrow.csv.read_csv(source, parse_options=tabs),
        ".parquet": lambda: pyarrow.parquet.read_table(source),
        ".ndjson": lambda: pyarrow.json.read_json(source),
        ".arrow": lambda: pa.ipc.open_file(source).read_all(),
    }
    return _reader(readers, suffix)()


def _reader(readers: dict[str, Callable[[], Any]], suffix: str) -> Callable[[], Any]:
    reader = readers.get(suffix)
    if reader is None:
        raise StoreError(
            f"'{suffix}' is no format a table can be read from",
            hint=f"use one of {', '.join(readers)}, or annotate the parameter as Path",
        )
    return reader
