"""Which definitions of windows make sense, and what is wrong with the others."""

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from freshet.engine.errors import DefinitionError
from freshet.engine.keys import partition_key_problem
from freshet.engine.windows import FIRST_YEAR, LAST_YEAR, Calendar, Windows


def check_windows(windows: Windows) -> Windows:
    """The definition, when it makes sense. Raises DefinitionError saying what does not."""
    name = f"{windows.every} windows" if windows.unit != "cron" else f"cron '{windows.every}'"
    try:
        _zone(windows.tz)
    except (ValueError, OSError):
        raise DefinitionError(
            f"{name}: there is no time zone {windows.tz!r}",
            hint="use a name like 'UTC' or 'Europe/Berlin'; slim systems need the tzdata package",
        ) from None
    if windows.unit == "cron":
        _check_cron(windows.every, name)
    for moment in filter(None, (windows.start, windows.end)):
        if not FIRST_YEAR <= int(moment[:4]) < LAST_YEAR:
            raise DefinitionError(
                f"{name}: {moment} is out of reach",
                hint=f"choose a year from {FIRST_YEAR} to {LAST_YEAR - 1}",
            )
    calendar = Calendar(windows)
    if calendar.size is not None and not any(
        calendar.valid(n) for n in range(min(calendar.size, calendar.max_holes))
    ):
        raise DefinitionError(
            f"{name} from {windows.start} to {windows.end} contain no window",
            cause="end is exclusive, and a window counts when it is over by then",
            hint="choose a later end, or leave it out",
        )
    for key in windows.exclude:
        if calendar.parse(key) is None:  # holes are fine: it may be excluded twice over
            raise DefinitionError(
                f"{name}: exclude={key!r} is no window of it",
                cause=f"its keys look like {calendar.key(calendar.step(-1, 1) or 0)!r}",
            )
    if windows.format:
        _check_format(calendar, name)
    return windows


def _check_format(calendar: Calendar, name: str) -> None:
    if calendar.unit in ("hour", "cron"):
        raise DefinitionError(
            f"{name}: format= is for days, weeks and months",
            cause="a formatted local time cannot name an hour that the clock repeats",
        )
    problem = partition_key_problem(calendar.key(0))
    if problem is not None:
        raise DefinitionError(
            f"{name}: format={calendar.windows.format!r} makes no partition keys",
            cause=f"{calendar.key(0)!r}: {problem}",
            hint="for example format='%Y%m%d'",
        )
    keys = {calendar.key(n) for n in range(800)}
    if len(keys) < 800 or any(calendar.parse(key) is None for key in keys):
        raise DefinitionError(
            f"{name}: format={calendar.windows.format!r} does not tell its windows apart",
            hint="use all of %Y, %m and %d (months: %Y and %m)",
        )


def _check_cron(expression: str, name: str) -> None:
    hint = "five fields: minute hour day-of-month month day-of-week, as '0 6 * * mon-fri'"
    if len(expression.split()) != 5:
        raise DefinitionError(f"{name} has {len(expression.split())} fields, not 5", hint=hint)
    try:
        next(CronSim(expression, datetime(2000, 1, 1)))
    except CronSimError as error:
        raise DefinitionError(f"{name} is no cron expression", cause=str(error), hint=hint) from (
            None
        )
    except StopIteration:
        raise DefinitionError(f"{name} never ticks", hint=hint) from None


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, IsADirectoryError, PermissionError) as error:
        raise ValueError(name) from error
