"""What a file sensor's cursor says: of each file its version, or why it does not count.

A value is `size:mtime:inode:change:digest`, for a folder `size:mtime:files:signature:digest`; `!`
and a reason follow if it does not count as it is now, alone if it never did. An older form without
`change` is understood. Items that begin with `//` are about the watch itself, with `?` what people
ask of a sensor: neither are files.
"""

import os
from collections.abc import Iterator, Mapping

OWN = "//"
ASKED = "?"

DEVICE = "//device:"
"""Before a root: the device it was on when it was last seen whole."""

FOLDER = "//folder:"
"""Before a root: why it cannot be listed."""

HINTS = "//watch"
"""Why the system gives no hints."""

NEXT_STEPS = {
    FOLDER: "make the folder, mount it, or let the daemon read it; what is in it counts at once",
    HINTS: "raise that limit with `sysctl`, or leave it: what lands is found some seconds later",
}
"""What to do about each kind of trouble."""


class Known:
    """What the cursor says, as far as it is durable."""

    def __init__(self, cursor: Mapping[str, str]) -> None:
        self.files: dict[str, str] = {}
        self.own: dict[str, str] = {}
        for item, value in cursor.items():
            if item.startswith(OWN):
                self.own[item] = value
            elif not item.startswith(ASKED):
                self.files[item] = value
        self.rejected = sum("!" in value for value in self.files.values())

    def get(self, item: str) -> str | None:
        return (self.own if item.startswith(OWN) else self.files).get(item)

    def move(self, cursor: Mapping[str, str | None]) -> None:
        """These moves are durable."""
        for item, value in cursor.items():
            at = self.own if item.startswith(OWN) else self.files
            before = at.pop(item, "")
            if value is not None:
                at[item] = value
            if at is self.files:
                self.rejected += ("!" in (value or "")) - ("!" in before)

    def forget(self, item: str) -> None:
        """It is none of ours: it stays in the cursor, and is left alone."""
        self.move({item: None})

    def below(self, prefix: str) -> Iterator[str]:
        """The files whose item begins so."""
        return (item for item in list(self.files) if item.startswith(prefix))


def state_of(value: str | None) -> str:
    """What last counted; empty when nothing did."""
    return (value or "").partition("!")[0]


def reason_of(value: str | None) -> str:
    """Why it does not count; empty when it does."""
    return (value or "").partition("!")[2]


def version_of(state: str) -> str:
    """The data version in a state."""
    return state.rpartition(":")[2]


def adopted(value: str, seen: object) -> str | None:
    """An entry of the older form, that knows no change time, in the form of now; None when it is
    not of that form, or of a file that has changed.
    """
    if value.count(":") != 3 or "!" in value:
        return None
    old, _, version = value.rpartition(":")
    shown = str(seen)
    return f"{shown}:{version}" if shown.rpartition(":")[0] == old else None


def shown(path: str) -> str:
    """A path as text: bytes of names that are no UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
