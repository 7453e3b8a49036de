"""Metadata: what is said of a definition or a version, in values that keep their type wherever they
are recorded and read: plain ones, and those below.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec

Plain: TypeAlias = str | int | float | bool | None
"""Values that are data by themselves; nested ones are not needed and not allowed."""

MAX_VALUE_BYTES = 16 * 1024
"""Of one value, as it is recorded: it stands in the stream for ever, and is read with each version.
What is larger belongs into the store.
"""

MAX_BYTES = 64 * 1024
"""Of all values of one version together."""

MAX_ROWS = 20
"""Rows kept of a table; of the others, their number."""

SHOWN_CHARS = 60
"""Of a text shown on a line."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Path(msgspec.Struct, frozen=True, tag="path", tag_field="is"):
    """A file or folder; a `pathlib.Path` becomes one."""

    path: str

    def __str__(self) -> str:
        return self.path


class Url(msgspec.Struct, frozen=True, tag="url", tag_field="is"):
    """An address to follow."""

    url: str

    def __str__(self) -> str:
        return self.url


class Markdown(msgspec.Struct, frozen=True, tag="markdown", tag_field="is"):
    """A text with headings, lists and links."""

    text: str

    def __str__(self) -> str:
        return _line(self.text)


class Json(msgspec.Struct, frozen=True, tag="json", tag_field="is"):
    """A nested value, as JSON text; a dict or a list becomes one."""

    text: str

    @classmethod
    def of(cls, value: object) -> "Json":
        """Raises TypeError for what is no JSON."""
        return cls(msgspec.json.encode(value, order="deterministic").decode())

    @property
    def value(self) -> Any:
        """The nested value again."""
        return msgspec.json.decode(self.text)

    def __str__(self) -> str:
        return _line(self.text)


class Timestamp(msgspec.Struct, frozen=True, tag="timestamp", tag_field="is"):
    """A moment: microseconds since the epoch, UTC; a `datetime` with a time zone becomes one."""

    us: int

    @classmethod
    def of(cls, moment: datetime) -> "Timestamp":
        """Raises TypeError for one without a time zone."""
        if moment.tzinfo is None:
            raise TypeError("it has no time zone; use datetime.now(UTC), or .astimezone()")
        return cls((moment - EPOCH) // timedelta(microseconds=1))

    @property
    def moment(self) -> datetime:
        """In UTC."""
        return EPOCH + timedelta(microseconds=self.us)

    def __str__(self) -> str:
        return self.moment.isoformat().replace("+00:00", "Z")


class Table(msgspec.Struct, frozen=True, tag="table", tag_field="is"):
    """A small table: the names of its columns, its first rows, and how many more there are; a table
    of polars, pandas or Arrow becomes one.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Plain, ...], ...]
    more: int = 0

    @classmethod
    def of(
        cls, columns: Sequence[str], rows: Sequence[Sequence[object]], total: int = 0
    ) -> "Table":
        """The first rows; `total` says how many there are, if not all are given."""
        kept = tuple(tuple(map(_cell, row)) for row in rows[:MAX_ROWS])
        return cls(tuple(map(str, columns)), kept, max(total, len(rows)) - len(kept))

    def __str__(self) -> str:
        count = len(self.rows) + self.more
        return f"{count}×{len(self.columns)} table ({_line(', '.join(self.columns))})"


Value: TypeAlias = Plain | Path | Url | Markdown | Json | Timestamp | Table
"""What metadata is made of."""

TYPED = (Path, Url, Markdown, Json, Timestamp, Table)


def value_of(value: object) -> Value:
    """A value of Python as metadata. Raises TypeError for what cannot be one."""
    if value is None or type(value) in (str, int, float, bool) or isinstance(value, TYPED):
        return value  # type: ignore[return-value]  # told by its type just now
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return kind(value)  # of a subclass, the plain value
    if isinstance(value, datetime):
        return Timestamp.of(value)
    if hasattr(value, "__fspath__"):
        return Path(str(value.__fspath__()))
    if isinstance(value, Mapping | list | tuple):
        return Json.of(value)
    raise TypeError(f"it is a {type(value).__name__}")


def with_texts(value: Value, change: Callable[[str], str]) -> Value:
    """The value with each text in it changed."""
    match value:
        case str(text):
            return change(text)
        case Path(path):
            return Path(change(path))
        case Url(url):
            return Url(change(url))
        case Markdown(text):
            return Markdown(change(text))
        case Json(text):
            return Json(change(text))
        case Table(columns, rows, more):
            cells = [[change(c) if isinstance(c, str) else c for c in row] for row in rows]
            return Table(tuple(map(change, columns)), tuple(map(tuple, cells)), more)
        case _:
            return value


def check_size(metadata: Mapping[str, Value]) -> None:
    """Raises ValueError, naming the value, for what is too large to be recorded."""
    total = 0
    for name, value in metadata.items():
        size = len(msgspec.json.encode(value))
        total += size
        if size > MAX_VALUE_BYTES:
            raise ValueError(
                f"metadata {name!r} has {size} bytes, more than {MAX_VALUE_BYTES}; keep it in the"
                " store or a file, and record its path or url"
            )
    if total > MAX_BYTES:
        raise ValueError(f"metadata has {total} bytes in all, more than {MAX_BYTES}")


def _cell(value: object) -> Plain:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _line(text: str) -> str:
    """A text on one line, cut."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
