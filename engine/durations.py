"""Lengths of time as people write them: seconds as a number, or text such as `250ms`,
`10s`, `15m`.
"""

import re

from freshet.engine.errors import DefinitionError

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def parse_duration_ms(value: float | str, what: str) -> int:
    """Whole milliseconds of a duration; `what` names it in the error. Raises DefinitionError."""
    if isinstance(value, str):
        match = _TEXT.fullmatch(value)
        amount = float(match[1]) * UNITS_MS[match[2]] if match else -1.0
    elif isinstance(value, bool) or not isinstance(value, int | float):
        amount = -1.0
    else:
        amount = value * 1000.0
    if not 0 <= amount < 2**53:
        raise DefinitionError(
            f"{what}={value!r} is no length of time",
            hint='write seconds as a number, or text such as "250ms", "10s", "15m", "2h", "1d"',
        )
    return round(amount)
