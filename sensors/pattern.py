"""Path patterns: which files below which folder land, and the partition each of them is."""

import re
from pathlib import Path, PurePosixPath

import msgspec

from freshet.engine.errors import DefinitionError
from freshet.engine.keys import WHOLE, PartitionKey

PLACEHOLDER = "{partition}"


class Pattern(msgspec.Struct, frozen=True):
    """A parsed pattern: the folder to watch, how deep below it files lie, and their relative paths.

    `landing/{partition}.csv` has the root `landing`, depth 1, and the prefix and suffix around the
    key.
    """

    text: str
    root: str
    depth: int
    prefix: str
    suffix: str
    partitioned: bool

    def partition_of(self, relative: str) -> PartitionKey | None:
        """The partition a file is, by its path relative to the root; None when it does not
        match.
        """
        if not self.partitioned:
            return WHOLE if relative == self.prefix else None
        key = relative[len(self.prefix) : len(relative) - len(self.suffix)]
        if relative != self.prefix + key + self.suffix or not key or "/" in key:
            return None
        return key

    def path_of(self, partition: PartitionKey) -> str:
        """The relative path of a partition's file: the inverse of `partition_of`."""
        return self.prefix + partition + self.suffix if self.partitioned else self.prefix


def parse_pattern(text: str) -> Pattern:
    """Read a pattern such as `landing/{partition}.csv`; without a placeholder it is one file.

    Raises DefinitionError for wildcards, unknown or repeated placeholders.
    """
    names = re.findall(r"\{[^{}]*\}?", text)
    if (
        not text
        or names not in ([], [PLACEHOLDER])
        or re.search(r"[*?\[\]}]", text.replace(PLACEHOLDER, ""))
    ):
        raise DefinitionError(
            f"the file pattern {text!r} cannot be used",
            cause=f"a pattern is a path with {PLACEHOLDER} at most once, and no wildcards",
            hint="for example 'landing/{partition}.csv', or 'landing/airlines.csv' for one file",
        )
    parts = PurePosixPath(text).parts
    fixed = next((n for n, part in enumerate(parts) if PLACEHOLDER in part), len(parts) - 1)
    if not parts or (fixed == 0 and text.startswith("/")):
        raise DefinitionError(f"the file pattern {text!r} names no file")
    root = str(Path(*parts[:fixed])) if fixed else "."
    rest = "/".join(parts[fixed:])
    prefix, _, suffix = rest.partition(PLACEHOLDER)
    return Pattern(text, root, len(parts) - fixed, prefix, suffix, PLACEHOLDER in rest)
