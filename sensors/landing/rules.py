"""Rules for names: which files are passed over, and which say that others are complete."""

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache

from freshet.engine.errors import DefinitionError

NAME = "{name}"
"""In a marker, the name of what it says is complete."""


class Rules:
    """What is passed over: names that match one of `ignore`, and markers.

    A marker such as `_SUCCESS` lies in the folder of what it is for, in the very folder where
    folders are partitions. One that begins with a dot is appended to the file's name (`.done`:
    `x.csv.done`); one with `{name}` (`{name}.ok`) lies beside the file or folder.
    """

    def __init__(self, ignore: Sequence[str], marker: str) -> None:
        self.ignore = tuple(ignore)
        self.marker = marker
        self._ignored = _any_of(self.ignore)
        self._shape = NAME + marker if marker.startswith(".") and NAME not in marker else marker

    def passes_over(self, name: str) -> bool:
        """Is a name, of a file or of a folder, no part of the data?"""
        return self.is_ignored(name) or self.is_marker(name)

    def is_ignored(self, name: str) -> bool:
        return self._ignored is not None and self._ignored.match(name) is not None

    def ignores(self, relative: str) -> bool:
        """Is the path passed over, for any of its segments?"""
        return any(self.passes_over(name) for name in relative.rstrip("/").split("/"))

    def is_marker(self, name: str) -> bool:
        return bool(self.marker) and (name == self.marker or bool(self.marked(name)))

    def marked(self, name: str) -> str:
        """The name of the one thing that a marker of this name is for; empty if it is none such."""
        if NAME not in self._shape:
            return ""
        before, _, after = self._shape.partition(NAME)
        if not (name.startswith(before) and name.endswith(after)):
            return ""
        return name[len(before) : len(name) - len(after)]

    def marker_of(self, path: str) -> str:
        """Where the marker of a path lies; of folders, the paths end in `/`."""
        if path.endswith("/") and NAME not in self.marker:
            return path + self.marker
        folder, slash, name = path.rstrip("/").rpartition("/")
        return folder + slash + self._shape.replace(NAME, name)


def check_rules(pattern: str, relative: str, ignore: Sequence[str], marker: str) -> None:
    """Raise DefinitionError for a marker that is no name, and for a pattern that is ignored."""
    if "/" in marker or marker.count(NAME) > 1:
        raise DefinitionError(
            f"files({pattern!r}): marker={marker!r} is no file's name",
            hint="for example '_SUCCESS' in the folder, '.done' after a file's name, '{name}.ok'",
        )
    for segment in relative.split("/"):
        name = re.sub(r"\{[^{}]*\}|\*+", "x", segment)
        for one in ignore:
            if re.match(translate(one), name):
                raise DefinitionError(
                    f"files({pattern!r}) would find nothing: names such as {name!r} are ignored",
                    cause=f"they match {one!r}",
                    hint="say which names to pass over: ignore=() for none",
                )


@lru_cache(256)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(translate, patterns))) if patterns else None
