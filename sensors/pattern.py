"""Path patterns: which files or folders below which root land, and the partition each of them
is.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import msgspec

from freshet.engine.errors import DefinitionError
from freshet.engine.keys import WHOLE, PartitionKey
from freshet.engine.partitions import SEPARATOR, Product, describe
from freshet.engine.specs import AssetSpec

PLACEHOLDER = "{partition}"

ANY_DEPTH = "**"
"""A segment that stands for any number of folders, none included."""

_NAME = re.compile(r"\{([^{}]*)\}")
_TOKEN = re.compile(r"(\{[^{}]*\}|\*)")


class Pattern(msgspec.Struct, frozen=True):
    """A parsed pattern: the root to watch, how deep below it the files lie, and their paths.

    `landing/{partition}.csv` has the root `landing` and depth 1; the depth is 0 where it may be any
    (`**`). `relative` is the path below the root, placeholders included; `names` are those, as they
    come; `order` says which of them is the first part of a key, which the second … With `folder`
    folders are partitions; their paths end in `/`.
    """

    text: str
    root: str
    depth: int
    relative: str
    names: tuple[str, ...]
    order: tuple[int, ...]
    folder: bool = False

    @property
    def partitioned(self) -> bool:
        return bool(self.names)

    @property
    def is_wild(self) -> bool:
        """Can several paths be one partition?"""
        return "*" in self.relative

    @property
    def base(self) -> str:
        """What stands before a relative path to make it one that the system understands."""
        if self.root == ".":
            return ""
        return self.root if self.root.endswith("/") else self.root + "/"

    def partition_of(self, relative: str) -> PartitionKey | None:
        """The partition a path is, relative to the root; None when it does not match.

        Where it could be split in several ways, earlier placeholders take as much as they can.
        """
        if self.folder:
            if not relative.endswith("/"):
                return None
            relative = relative[:-1]
        if not self.names:
            return WHOLE if relative == self.relative else None
        found = _expression(self.relative).fullmatch(relative)
        if found is None:
            return None
        if len(self.order) == 1:
            return found[1]
        parts = found.groups()
        return SEPARATOR.join(parts[n] for n in self.order)

    def path_of(self, partition: PartitionKey) -> str:
        """The relative path of a partition: the inverse of `partition_of`, without wildcards."""
        path = self.relative
        if self.names:
            parts = partition.split(SEPARATOR) if len(self.order) > 1 else [partition]
            by_name = {self.names[n]: part for n, part in zip(self.order, parts, strict=True)}
            path = _NAME.sub(lambda found: by_name[found[1]], path)
        return path + "/" if self.folder else path

    def leads(self, level: int, name: str) -> bool:
        """Can a folder of this name, so many levels below the root, have matching paths in it?"""
        segments = _segments(self.relative)
        for segment in segments[: level + 1]:
            if segment is None:
                return True
        return level < len(segments) - 1 and segments[level].fullmatch(name) is not None  # type: ignore[union-attr]  # None was seen above

    def leads_to(self, relative: str) -> bool:
        """Can the folder at this path have matching paths in it?"""
        return all(self.leads(level, name) for level, name in enumerate(relative.split("/")))

    def folders_above(self, relative: str) -> Iterator[str]:
        """The folders that match and hold this path, or are it; outermost first."""
        parts = relative.split("/")
        lengths = (self.depth,) if self.depth else range(1, len(parts) + 1)
        for length in lengths:
            above = "/".join(parts[:length]) + "/"
            if length <= len(parts) and self.partition_of(above) is not None:
                yield above


def parse_pattern(text: str, dimensions: tuple[str, ...] = ()) -> Pattern:
    """Read a pattern such as `landing/{partition}.csv`; without a placeholder it is one file. One
    that ends in `/` means folders.

    Of a product it may name each of the `dimensions` instead: `landing/{day}/{region}.csv`. Beside
    a placeholder, `*` stands for any part of a name and `**` for any folders. Raises
    DefinitionError for other wildcards, unknown or repeated placeholders.
    """
    names = tuple(_NAME.findall(text))
    known = names in ((), (PLACEHOLDER[1:-1],)) or (
        bool(dimensions) and sorted(names) == sorted(dimensions)
    )
    plain = _NAME.sub("", text)
    unfit = re.search(r"[?\[\]{}]" if names else r"[*?\[\]{}]", plain)
    path = PurePosixPath(text)
    if "*" in text and not names:
        raise DefinitionError(
            f"the file pattern {text!r} cannot be used",
            cause=f"it says which files, but not which part of their names the partition is: that"
            f" is what {PLACEHOLDER} stands for",
            hint=f"write {with_placeholder(text)!r}; or the path of one file, or of one folder with"
            " '/' at its end, for a source without partitions",
        )
    if not text or not known or unfit or not _whole(path.parts):
        either = "".join(f"{{{name}}} " for name in dimensions)
        raise DefinitionError(
            f"the file pattern {text!r} cannot be used",
            cause=f"a pattern is a path with {PLACEHOLDER} at most once"
            + (f"; or with each of {either.strip()} once" if dimensions else "")
            + "; wildcards beside it are `*` in a name, and `**` for any folders before the last",
            hint="for example 'landing/{partition}.csv', or 'landing/airlines.csv' for one file",
        )
    parts = _once(path.parts)
    fixed = next((n for n, part in enumerate(parts) if re.search(r"[{*]", part)), len(parts) - 1)
    if not parts or (fixed == 0 and text.startswith("/")):
        raise DefinitionError(f"the file pattern {text!r} names no file")
    order = tuple(range(len(names)))
    if len(names) > 1:
        order = tuple(names.index(name) for name in dimensions)
    return Pattern(
        text,
        root=str(Path(*parts[:fixed])) if fixed else ".",
        depth=0 if ANY_DEPTH in parts else len(parts) - fixed,
        relative="/".join(parts[fixed:]),
        names=names,
        order=order,
        folder=text.endswith("/"),
    )


def pattern_for(source: AssetSpec, text: str) -> Pattern:
    """The pattern, as this source needs it. Raises DefinitionError when it names partitions and the
    source has none, or the other way round.
    """
    shape = source.partitions
    parsed = parse_pattern(text, shape.names if isinstance(shape, Product) else ())
    if parsed.partitioned != (shape is not None):
        raise DefinitionError(
            f"the pattern {text!r} does not fit source '{source.key}'",
            cause=f"the source is {describe(shape)}",
            hint="a partitioned source needs {partition} in the pattern, others must not have it",
        )
    return parsed


def with_placeholder(text: str) -> str:
    """The pattern that is probably meant by a path with wildcards alone: the last is the
    partition.
    """
    before, star, after = text.rpartition("*")
    if not star or _NAME.search(text):
        return text
    if before.endswith("*"):  # `**` are folders: the partition is in them
        return f"{before}*/{PLACEHOLDER}{after}"
    return f"{before}{PLACEHOLDER}{after}"


def _whole(parts: tuple[str, ...]) -> bool:
    """Does each `**` stand alone, and none of them last?"""
    return all(ANY_DEPTH not in part or part == ANY_DEPTH for part in parts) and (
        parts[-1:] != (ANY_DEPTH,)
    )


def _once(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Without the second of two `**` in a row: it adds nothing but work."""
    before = (None, *parts)
    return tuple(p for p, b in zip(parts, before, strict=False) if (p, b) != (ANY_DEPTH, ANY_DEPTH))


@lru_cache(1024)
def _expression(relative: str) -> re.Pattern[str]:
    """The whole pattern as an expression."""
    parts = relative.split("/")
    found = ""
    for part in parts[:-1]:
        found += r"(?:[^/]+/)*" if part == ANY_DEPTH else f"{_segment(part)}/"
    return re.compile(found + _segment(parts[-1]), re.DOTALL)


@lru_cache(1024)
def _segments(relative: str) -> tuple[re.Pattern[str] | None, ...]:
    """The expression of each segment; None for one that stands for any folders."""
    return tuple(
        None if part == ANY_DEPTH else re.compile(_segment(part), re.DOTALL)
        for part in relative.split("/")
    )


def _segment(part: str) -> str:
    if part == "*":
        return "[^/]+"
    return "".join(_atom(token) for token in _TOKEN.split(part))


def _atom(token: str) -> str:
    if token == "*":
        return "[^/]*"
    return "([^/]+)" if token.startswith("{") else re.escape(token)
