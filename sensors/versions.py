"""Data versions as people's functions return them, and as they are recorded: text, always the
same for the same value.
"""

import math
from datetime import UTC, date, datetime

from freshet.engine.digests import digest

Version = str | int | float | date | bytes
"""What may be a data version: text and numbers as they are, moments (of zones, in UTC), and the
content itself as bytes, of which the digest is kept.
"""

MAX_VERSION_CHARS = 200
"""Of text longer than this the digest is the version: a cursor is no place for contents."""


def version_text(value: object) -> str:
    """The data version as it is recorded. Raises TypeError or ValueError, saying what was seen."""
    if isinstance(value, str):
        if not value:
            raise ValueError("an empty version; None says that there is nothing")
        return value if len(value) <= MAX_VERSION_CHARS else digest([value.encode()])
    if isinstance(value, bytes):
        return digest([value])
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"a version is text, a number, a date, a time or bytes, and not a"
            f" {type(value).__name__}: {str(value)[:100]!r}"
        )
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("the version is not a number (NaN), which equals nothing")
    return str(value)
