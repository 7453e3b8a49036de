"""Path patterns: which files below which folder land, and the partition each of them is."""

import re
from pathlib import Path, PurePosixPath

import msgspec

from freshet.engine.errors import DefinitionError
from freshet.engine.keys import WHOLE, PartitionKey
from freshet.engine.partitions import SEPARATOR

PLACEHOLDER = "{partition}"

_NAME = re.compile(r"\{([^{}]*)\}")


class Pattern(msgspec.Struct, frozen=True):
    """A parsed pattern: the folder to watch, how deep below it files lie, and their relative paths.

    `landing/{partition}.csv` has the root `landing` and depth 1. `relative` is the path below the
    root, placeholders included; `names` are those, as they come; `order` says which of them is the
    first part of a key, which the second …
    """

    text: str
    root: str
    depth: int
    relative: str
    names: tuple[str, ...]
    order: tuple[int, ...]

    @property
    def partitioned(self) -> bool:
        return bool(self.names)

    def partition_of(self, relative: str) -> PartitionKey | None:
        """The partition a file is, by its path relative to the root; None when it does not
        match. Where it could be split in several ways, earlier placeholders take as much as they
        can.
        """
        if not self.names:
            return WHOLE if relative == self.relative else None
        found = _expression(self.relative).fullmatch(relative)
        if found is None:
            return None
        parts = found.groups()
        return SEPARATOR.join(parts[n] for n in self.order)

    def path_of(self, partition: PartitionKey) -> str:
        """The relative path of a partition's file: the inverse of `partition_of`."""
        if not self.names:
            return self.relative
        parts = partition.split(SEPARATOR) if len(self.order) > 1 else [partition]
        by_name = {self.names[n]: part for n, part in zip(self.order, parts, strict=True)}
        return _NAME.sub(lambda found: by_name[found[1]], self.relative)


def parse_pattern(text: str, dimensions: tuple[str, ...] = ()) -> Pattern:
    """Read a pattern such as `landing/{partition}.csv`; without a placeholder it is one file.

    Of a product it may name each of the `dimensions` instead: `landing/{day}/{region}.csv`. Raises
    DefinitionError for wildcards, unknown or repeated placeholders.
    """
    names = tuple(_NAME.findall(text))
    known = names in ((), (PLACEHOLDER[1:-1],)) or (
        bool(dimensions) and sorted(names) == sorted(dimensions)
    )
    if not text or not known or re.search(r"[*?\[\]{}]", _NAME.sub("", text)):
        either = "".join(f"{{{name}}} " for name in dimensions)
        raise DefinitionError(
            f"the file pattern {text!r} cannot be used",
            cause=f"a pattern is a path with {PLACEHOLDER} at most once, and no wildcards"
            + (f"; or with each of {either.strip()} once" if dimensions else ""),
            hint="for example 'landing/{partition}.csv', or 'landing/airlines.csv' for one file",
        )
    parts = PurePosixPath(text).parts
    fixed = next((n for n, part in enumerate(parts) if "{" in part), len(parts) - 1)
    if not parts or (fixed == 0 and text.startswith("/")):
        raise DefinitionError(f"the file pattern {text!r} names no file")
    root = str(Path(*parts[:fixed])) if fixed else "."
    order = tuple(range(len(names)))
    if len(names) > 1:
        order = tuple(names.index(name) for name in dimensions)
    return Pattern(text, root, len(parts) - fixed, "/".join(parts[fixed:]), names, order)


def _expression(relative: str) -> re.Pattern[str]:
    """The pattern as an expression; `re` keeps those it has compiled."""
    literals = _NAME.split(relative)[::2]
    return re.compile("([^/]+)".join(map(re.escape, literals)), re.DOTALL)
