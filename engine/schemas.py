"""Schemas: the columns of a table, as declared and as published, and how the two differ.

A declared type is one of Python's (`int`, `float`, `str`, `bool`, `datetime.date` …), which stands
for all sizes of it, or the name of one exactly, such as `"Int32"`: the names of narwhals, which
speaks for polars, pandas and Arrow.
"""

import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Literal

import msgspec

MAX_COLUMNS = 64
"""Columns recorded of one table; of more, their number."""

MAX_TEXT_CHARS = 1500
"""Characters recorded of all of them: it stands in the stream once per version."""

MAX_TYPE_CHARS = 80
"""Of the name of one type; of longer ones (enums, deep structs) only how it begins."""

FAMILIES = {
    "int": r"U?Int\d+",
    "float": r"Float\d+",
    "str": "String",
    "bool": "Boolean",
    "date": "Date",
    "datetime": r"Datetime.*",
    "timedelta": r"Duration.*",
    "bytes": "Binary",
    "Decimal": r"Decimal.*",
}
"""What each type of Python stands for."""

LEFT = re.compile(r"… and (\d+) more")

_OPENS, _CLOSES = "([{", ")]}"


def type_name(kind: object) -> str:
    """The name of a declared type: text as it is, a type of Python by its own."""
    return kind if isinstance(kind, str) else str(getattr(kind, "__name__", kind))


def fits(found: str, wanted: str) -> bool:
    """Is a type found in a table the one that is declared, or one of those that stands for?"""
    family = FAMILIES.get(wanted)
    return found == wanted if family is None else re.fullmatch(family, found) is not None


def text_of(columns: Mapping[str, str]) -> str:
    """`id: Int64, name: String`: what is recorded of a table; bounded, saying what is left out."""
    shown: list[str] = []
    size = 0
    for name, kind in columns.items():
        kind = kind if len(kind) <= MAX_TYPE_CHARS else kind.partition("(")[0] + "(…)"
        one = f"{_quoted(name)}: {kind}"
        size += len(one) + 2
        if len(shown) == MAX_COLUMNS or size > MAX_TEXT_CHARS:
            return ", ".join([*shown, f"… and {len(columns) - len(shown)} more"])
        shown.append(one)
    return ", ".join(shown)


def columns_in(text: str) -> tuple[dict[str, str], int]:
    """Name and type of each recorded column, and how many were left out."""
    found: dict[str, str] = {}
    for one in _parts(text):
        left = LEFT.fullmatch(one)
        if left is not None:
            return found, int(left[1])
        name, kind = _split(one)
        found[name] = kind
    return found, 0


class Difference(msgspec.Struct, frozen=True):
    """One column of which the definition says other than the published table has: `added` and
    `removed` by the definition, or of another type.

    It is breaking if who reads the table by the old columns cannot read it by the new.
    """

    column: str
    what: Literal["added", "removed", "changed"]
    declared: str
    published: str
    breaking: bool

    def __str__(self) -> str:
        word = "breaking" if self.breaking else "compatible"
        kinds = {
            "added": self.declared,
            "removed": f"was {self.published}",
            "changed": f"from {self.published} to {self.declared}",
        }
        return f"column '{self.column}' {self.what} ({kinds[self.what]}): {word}"


def drift(declared: Mapping[str, str], published: str) -> tuple[Difference, ...]:
    """How the declared columns differ from those recorded of a version; nothing if either is not
    known.
    """
    if not declared or not published:
        return ()
    found, left = columns_in(published)
    differences = [
        Difference(name, "changed", kind, found[name], breaking=True)
        if name in found
        else Difference(name, "added", kind, "", breaking=False)
        for name, kind in declared.items()
        if not (fits(found[name], kind) if name in found else left)
    ]
    gone = {name: kind for name, kind in found.items() if name not in declared}
    removed = (Difference(name, "removed", "", kind, breaking=True) for name, kind in gone.items())
    return (*differences, *removed)


def misfits(declared: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What a table has other than declared, each in words; nothing if it fits."""
    said = [f"no column '{name}' ({kind})" for name, kind in declared.items() if name not in found]
    said += [f"a column '{name}' not declared" for name in found if name not in declared]
    return said + [
        f"column '{name}' is {found[name]}, not {kind}"
        for name, kind in declared.items()
        if name in found and not fits(found[name], kind)
    ]


def version_with(code_version: str, declared: Mapping[str, str]) -> str:
    """The code version of a function that has to keep to these columns: other ones are other code,
    whatever order they stand in.
    """
    if not declared:
        return code_version
    text = "|".join(f"{name}={kind}" for name, kind in sorted(declared.items()))
    return f"{code_version}.{blake2b(text.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"


def version_before(code_version: str, declared: Mapping[str, str]) -> str:
    """The code version of the function alone: what `version_with` was given."""
    return code_version.removesuffix(version_with("", declared))


def _quoted(name: str) -> str:
    """A name as it is, or as JSON if it could be misread."""
    plain = name and name == name.strip() and not set(name) & set(",:\"'()[]{}…\n")
    return name if plain else msgspec.json.encode(name).decode()


def _parts(text: str) -> Iterator[str]:
    """Split at commas that stand neither in quotes nor in brackets."""
    start, depth, quote = 0, 0, ""
    escaped = False
    for i, mark in enumerate(text):
        if quote:
            quote = "" if mark == quote and not escaped else quote
            escaped = mark == "\\" and not escaped
        elif mark in "\"'":
            quote = mark
        else:
            depth += (mark in _OPENS) - (mark in _CLOSES)
            if mark == "," and depth == 0:
                yield text[start:i].strip()
                start = i + 1
    if text[start:].strip():
        yield text[start:].strip()


def _split(one: str) -> tuple[str, str]:
    if one.startswith('"'):
        end = _closing(one)
        return msgspec.json.decode(one[: end + 1], type=str), one[end + 1 :].lstrip(": ")
    name, _, kind = one.partition(": ")
    return name, kind


def _closing(text: str) -> int:
    escaped = False
    for i, mark in enumerate(text[1:], 1):
        if mark == '"' and not escaped:
            return i
        escaped = mark == "\\" and not escaped
    return len(text) - 1
