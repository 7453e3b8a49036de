"""When a cron expression ticks, and which hours count: moments worked out from definitions alone.

Times are microseconds since the epoch, UTC. Local times become moments by one rule: a time that
the clock skips is the moment it jumps, a time it repeats is the first of the two.
"""

import re
from bisect import bisect_left
from copy import copy
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError
from cronsim.cronsim import FIELD_NAMES, Field

from freshet.engine.errors import DefinitionError

SECOND_US = 1_000_000
DAY_MIN = 1440
DAY_US = DAY_MIN * 60 * SECOND_US
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

CYCLE_DAYS = 146_097
"""400 years, after which dates, weekdays and so the rules of every time zone repeat."""

RULES_DAY = date(2100, 1, 1).toordinal()
"""From here on every zone follows a rule: tables of single changes end in 2087 (Morocco's)."""

CHUNK_DAYS = CYCLE_DAYS // 63
"""Days that `advance` skips at once. It divides the cycle, so chunks repeat with it."""


def cron_problem(expression: object, tz: object) -> str | None:
    """What is wrong with a cron expression or its time zone, in words; None if nothing is."""
    if not isinstance(expression, str):
        return f"the expression is {expression!r}, which is no text"
    parts = expression.upper().split()
    if len(parts) != 5:
        return f"it has {len(parts)} field{'s' * (len(parts) != 1)} and needs five"
    for field, part in zip(list(Field)[1:], parts, strict=True):
        try:
            field.parse(part)
        except (CronSimError, ValueError):  # ValueError: thousands of digits
            return f"{part!r} is no {FIELD_NAMES[field]}"
    try:
        next(CronSim(expression, EPOCH))
        return _zone_problem(tz)
    except (CronSimError, StopIteration):
        return "it never ticks: no month has such a day"


def next_tick(expression: str, tz: str, at_us: int) -> int:
    """The first tick at or after a moment, by the clock of `tz`, as Debian's cron has it:

    - with minute and hour given (neither begins with `*`): a tick at a time the clock skips comes
      when it jumps, all such as one; at a time it repeats, only at the first of the two.
    - else (`*/15 * * * *`, `0 * * * *`, `*/15 2 * * *`): at each real minute whose local time
      matches. So nothing for times that are skipped, and twice for times that are repeated.

    The expression and zone are those of which `cron_problem` says None.
    """
    clock = copy(_clock(expression, tz))  # threads must not share it: it moves
    # CronSim looks strictly after its start, which is in whole seconds.
    start = EPOCH + timedelta(seconds=-(-at_us // SECOND_US) - 1)
    local = start.astimezone(_zone(tz))
    clock.dt = local.replace(tzinfo=None) if clock.fixup_tz else local
    # In the second pass of a repeated hour the times of the first come up: they are over.
    return next(tick for tick in map(_us, clock) if tick >= at_us)


class _Clock(CronSim):
    """CronSim, but its answer never depends on how far before the tick it started.

    As it is, with a `*` minute or hour, it loses or adds ticks on days that begin in a gap
    (Santiago, Cairo) or have a change of half an hour (Lord Howe).
    """

    def advance_day(self) -> bool:
        moved = super().advance_day()
        if self.dt.tzinfo not in (None, UTC):  # out of a midnight that does not exist
            self.dt = self.dt.astimezone(UTC).astimezone(self.dt.tzinfo)
        return moved

    def advance_hour(self) -> bool:
        moved = False
        while self.dt.hour not in self.hours and not (moved and self.dt.hour == 0):
            self.tick(seconds=3600 - 60 * self.dt.minute - self.dt.second)
            moved = True
        return moved


@lru_cache(maxsize=1024)
def _clock(expression: str, tz: str) -> _Clock:
    return _Clock(expression, EPOCH.astimezone(_zone(tz)))


class Hours(msgspec.Struct, frozen=True):
    """From `start_min` up to, not including, `end_min` (minutes after local midnight) on these
    days. An end that is not after the start is on the next day; `days` are those of the start.
    """

    start_min: int
    end_min: int
    tz: str = "UTC"
    days: str = "mon-sun"

    def __str__(self) -> str:
        start, end = (f"{t // 60:02}:{t % 60:02}" for t in (self.start_min, self.end_min))
        days = f" {self.days}" if self.days != "mon-sun" else ""
        return f"{start}-{end}{days}" + (f" {self.tz}" if self.tz != "UTC" else "")


def hours_between(start: str, end: str, tz: str, days: str) -> Hours:
    """Hours from how people write them. Raises DefinitionError."""
    start_min, end_min = _minute_of(start, "start"), _minute_of(end, "end")
    if start_min == end_min:
        hint = 'the whole day is "00:00" to "24:00"'
        raise DefinitionError(f"hours from {start!r} to {end!r} are none", hint=hint)
    problem = _zone_problem(tz)
    if problem:
        raise DefinitionError(f"hours: {problem}", hint='a name such as "Europe/Berlin" or "UTC"')
    named = "".join(str(days).lower().split())
    try:
        _weekdays(named)
    except ValueError:
        hint = 'write them as in "mon-fri", "sat,sun" or "mon,wed-fri"'
        raise DefinitionError(f"hours: {days!r} are no days of the week", hint=hint) from None
    return Hours(start_min, end_min, tz, named)


def is_open(hours: Hours, at_us: int) -> bool:
    """Whether a moment is inside the hours."""
    return next_open(hours, at_us) == at_us


def next_open(hours: Hours, at_us: int) -> int:
    """The first moment at or after `at_us` inside the hours: it itself, or when they next begin."""
    return advance(hours, at_us, 1) - 1


def advance(hours: Hours | None, at_us: int, span_us: int) -> int:
    """The moment by which `span_us` of open time has passed since `at_us`; all time is open
    without hours. With nothing to pass (0 or less), the next open moment.
    """
    if hours is None:
        return at_us + span_us
    if span_us <= 0:
        return next_open(hours, at_us)
    day = _local_day(hours, at_us) - 1  # hours that began yesterday may go on
    while True:
        begin, end = _span(hours, day)
        if day % CHUNK_DAYS == 0 and begin >= at_us and span_us > DAY_US:
            chunk_us = _open_in_chunk(hours, day - _whole_cycles(day))
            if chunk_us < span_us:
                day, span_us = day + CHUNK_DAYS, span_us - chunk_us
                continue
        open_us = max(0, end - max(begin, at_us))
        if span_us <= open_us:
            return end - open_us + span_us
        day, span_us = day + 1, span_us - open_us


def _span(hours: Hours, day: int) -> tuple[int, int]:
    """Begin and end of the hours that begin on a day (a date's ordinal); the same if none do."""
    zone = _zone(hours.tz)
    begin = _moment(zone, day, hours.start_min)
    if (day - 1) % 7 not in _weekdays(hours.days):
        return begin, begin
    overnight = hours.end_min <= hours.start_min
    return begin, _moment(zone, day + overnight, hours.end_min)


@lru_cache(maxsize=1024)
def _open_in_chunk(hours: Hours, day: int) -> int:
    """Open time, in µs, of the hours that begin in the chunk of days from `day` on."""
    return sum(end - begin for begin, end in (_span(hours, day + n) for n in range(CHUNK_DAYS)))


@lru_cache(maxsize=256)
def _weekdays(days: str) -> frozenset[int]:
    """The days that `mon,wed-fri` names, Monday is 0. Raises ValueError."""
    found: set[int] = set()
    for term in days.split(","):
        first, _, last = term.partition("-")
        start = WEEKDAYS.index(first)
        stop = WEEKDAYS.index(last) if "-" in term else start
        found.update((start + n) % 7 for n in range((stop - start) % 7 + 1))
    return frozenset(found)


def _minute_of(text: object, what: str) -> int:
    """Minutes after midnight of `HH:MM`, up to 24:00 for an end."""
    match = re.fullmatch(r"([0-9]{2}):([0-5][0-9])", text) if isinstance(text, str) else None
    minute = int(match[1]) * 60 + int(match[2]) if match else -1
    if not 0 <= minute < DAY_MIN + (what == "end"):
        hint = 'write it as in "08:00"; the end of the day is "24:00"'
        raise DefinitionError(f"hours: the {what} {text!r} is no time of day", hint=hint)
    return minute


def _zone(tz: str) -> tzinfo:
    return UTC if tz == "UTC" else ZoneInfo(tz)  # cronsim is faster with the former


def _zone_problem(tz: object) -> str | None:
    if not isinstance(tz, str):
        return f"the time zone is {tz!r}, which is no text"
    try:
        _zone(tz)
    except (KeyError, ValueError, OSError):  # not there; no such path; a directory
        return f"there is no time zone {tz!r}"
    return None


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _whole_cycles(day: int) -> int:
    """How many days of a day's ordinal may be taken off, all rules being the same before."""
    return max(0, (day - RULES_DAY) // CYCLE_DAYS) * CYCLE_DAYS


def _local_day(hours: Hours, at_us: int) -> int:
    """The ordinal of the local date; beyond the year 9999, where datetime ends, as well."""
    cycles = _whole_cycles(at_us // DAY_US + EPOCH.toordinal())
    moment = EPOCH + timedelta(microseconds=at_us - cycles * DAY_US)
    return moment.astimezone(_zone(hours.tz)).toordinal() + cycles


def _moment(zone: tzinfo, day: int, minute: int) -> int:
    """When the local clock shows this minute of a day, by the rule at the top."""
    cycles = _whole_cycles(day)
    wall = datetime.fromordinal(day - cycles).replace(tzinfo=zone) + timedelta(minutes=minute)
    before, after = _offset(wall), _offset(wall.replace(fold=1))
    moment = wall.replace(tzinfo=UTC) - before
    if before < after:  # skipped: the clock jumped at most so long ago
        low, step = moment - (after - before), timedelta(seconds=1)
        seconds = range((after - before) // step)
        jump = bisect_left(seconds, after, key=lambda s: _offset((low + s * step).astimezone(zone)))
        moment = low + jump * step
    return _us(moment) + cycles * DAY_US


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()
