"""Time windows as partitions: which there are, what they are called, and when they begin and end.

Windows are numbered from 0 in order of time (their *ordinal*), by arithmetic: nothing is listed.
Day, week, month and cron windows follow the local clock of their time zone, so a day has 23 hours
when the clock goes forward; hour windows are exact hours, and the hour the clock repeats in autumn
has its UTC offset in its key. A number that no window has (a day a cron skips, an exclusion) is a
hole. Times are microseconds since the epoch, UTC.
"""

from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
EPOCH = date(1970, 1, 1).toordinal()

Opens = Literal["time", "data"]
Unit = Literal["hour", "day", "week", "month", "cron"]

FIRST_YEAR, LAST_YEAR = 1000, 9000
"""Between these years windows may begin: far from where Python's dates end."""

MAX_AHEAD_US = 10 * 366 * DAY_US
"""How far after it is recorded a window may begin: what is later is a slip of the pen, and would
make room for every window before it.
"""

SKIPPED_A_DAY = frozenset(
    f"Pacific/{name}"
    for name in ("Apia", "Enderbury", "Fakaofo", "Kanton", "Kiritimati", "Kwajalein")
)
"""Zones that have left out a whole day, which is no window then."""

MAX_HOLES = 4000
"""Numbers without a window passed over in a row: eleven years of days, enough for 29 February."""


class Windows(msgspec.Struct, frozen=True, tag="windows", omit_defaults=True):
    """One partition per window of time from `start` up to, not including, `end` (none: no end).

    `every` is hour, day, week, month or a cron expression whose ticks begin the windows; `start`
    and `end` are local times in `tz`; `offset_min` moves every boundary. A window comes into being
    when it is over (`opens="time"`), when an event time `lateness_ms` after its end was seen (a
    watermark), or only when something brings it (`opens="data"`).
    """

    every: str
    start: str
    end: str | None = None
    tz: str = "UTC"
    offset_min: int = 0
    exclude: tuple[str, ...] = ()
    opens: Opens = "time"
    lateness_ms: int | None = None
    format: str = ""

    @property
    def unit(self) -> Unit:
        return self.every if self.every in ("hour", "day", "week", "month") else "cron"  # type: ignore[return-value]  # the four words

    @property
    def grid(self) -> tuple[str, str, int]:
        """What two definitions share when window n of one is, up to a shift, a window of
        the other.
        """
        if self.unit != "hour":
            return self.every, self.tz, self.offset_min
        return self.every, self.tz, Calendar(self).start_us(0) // 60_000_000 % 60


class Calendar:
    """The windows of one definition: ordinals to keys and moments, and back. Immutable."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.unit = windows.unit
        self.zone = None if windows.tz == "UTC" else ZoneInfo(windows.tz)
        self._shift = timedelta(minutes=windows.offset_min)
        self._cron = CronSim(windows.every, datetime(2000, 1, 1)) if self.unit == "cron" else None
        self._slots = _slots(self._cron) if self._cron is not None else ()
        first = datetime.fromisoformat(windows.start)
        self._monday = _monday(first - self._shift)
        self.max_holes = MAX_HOLES * max(1, len(self._slots))
        self._start_us = self._instant(first) + (
            windows.offset_min * 60_000_000 if self.unit == "hour" else 0
        )
        self._base = self._number(first)
        if self._local_start(0) < first:
            self._base += 1
        self._last = self._number(datetime(LAST_YEAR, 1, 1)) - self._base
        self.size = self._size()
        """How many ordinals there are; None without an end."""
        self.excluded = frozenset(
            found for key in windows.exclude if (found := self.parse(key)) is not None
        )
        self._skips = self.zone is not None and (
            self._cron is not None or windows.tz in SKIPPED_A_DAY
        )
        self.has_holes = (
            bool(self.excluded)
            or self._skips
            or (self._cron is not None and not _every_day(self._cron))
        )

    @property
    def absolute(self) -> int:
        """The number of window 0 among all windows of the same grid: tells definitions that begin
        at different times apart by a shift.
        """
        if self.unit == "hour":
            return self._start_us // HOUR_US + self._base
        return self._base + (self._monday // 7 if self.unit == "week" else 0)

    # --- keys -----------------------------------------------------------------------------------

    def key(self, ordinal: int) -> str:
        """The partition key of a window: its local start, as short as is exact."""
        local = self._local_start(ordinal)
        if self.windows.format:
            return local.strftime(self.windows.format)
        if self.unit == "month":
            return local.isoformat()[:7]
        if self.unit == "hour":
            return self._hour_key(local)
        if self.unit == "cron" and len(self._slots) > 1:
            return local.isoformat(timespec="minutes")
        return local.isoformat()[:10]

    def ordinal(self, key: str) -> int | None:
        """The window with this key, or None when the definition has none."""
        found = self.parse(key)
        return found if found is not None and self.valid(found) else None

    def valid(self, ordinal: int) -> bool:
        """Is there a window of this number?"""
        if not 0 <= ordinal < (self._last if self.size is None else self.size):
            return False
        return not (self.has_holes and self._is_hole(ordinal))

    def step(self, ordinal: int, count: int) -> int | None:
        """The window `count` windows later (negative: earlier); None beyond the start."""
        if not self.has_holes:
            return ordinal + count if ordinal + count >= 0 else None
        direction = 1 if count > 0 else -1
        for _ in range(abs(count)):
            ordinal += direction
            passed = 0
            while ordinal >= 0 and self._is_hole(ordinal):
                ordinal += direction
                passed += 1
                if passed > self.max_holes:
                    return None
        return ordinal if ordinal >= 0 else None

    # --- moments --------------------------------------------------------------------------------

    def start_us(self, ordinal: int) -> int:
        """The moment a window begins."""
        if self.unit == "hour":
            return self._start_us + (self._base + ordinal) * HOUR_US
        if self.zone is None and self.unit in ("day", "week"):
            days = self._base + ordinal
            if self.unit == "week":
                days = self._monday + days * 7
            return (days - EPOCH) * DAY_US + self.windows.offset_min * 60_000_000
        return self._instant(self._local_start(ordinal))

    def end_us(self, ordinal: int) -> int:
        """The moment a window ends, which is the next one's start."""
        following = ordinal + 1
        passed = 0
        while self._cron is not None and not self._matches(following) and passed < self.max_holes:
            following += 1
            passed += 1
        return self.start_us(following)

    def at(self, us: int) -> int:
        """The ordinal of the window that contains the moment; negative before the first.

        All windows before it are over by then.
        """
        if self.unit == "hour":
            return (us - self._start_us) // HOUR_US - self._base
        local = datetime(1970, 1, 1) + timedelta(microseconds=us)
        if self.zone is not None:
            local = local.replace(tzinfo=UTC).astimezone(self.zone).replace(tzinfo=None)
        found = self._number(local) - self._base
        while self.start_us(found) > us:
            found -= 1
        while self.start_us(found + 1) <= us:
            found += 1
        passed = 0
        while self._cron is not None and not self._matches(found) and passed < self.max_holes:
            found -= 1
            passed += 1
        return found

    # --- inside ---------------------------------------------------------------------------------

    def _size(self) -> int | None:
        if self.windows.end is None:
            return None
        last = datetime.fromisoformat(self.windows.end)
        if len(self.windows.end) <= 10:
            last += self._shift  # a date means its own boundary
        return max(0, self.at(self._instant(last)))

    def _number(self, local: datetime) -> int:
        """Which window of the whole calendar (not yet counted from the start) holds a local time;
        of a cron, the newest slot that is not later.
        """
        local -= self._shift
        if self.unit == "hour":
            return (self._instant(local + self._shift) - self._start_us) // HOUR_US
        if self.unit == "month":
            return local.year * 12 + local.month - 1
        days = local.toordinal()
        if self._cron is not None:
            minute = local.hour * 60 + local.minute
            return days * len(self._slots) + bisect_right(self._slots, minute) - 1
        if self.unit == "week":
            days -= local.weekday()
            return (days - self._monday) // 7
        return days

    def _local_start(self, ordinal: int) -> datetime:
        number = self._base + ordinal
        if self.unit == "hour":
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
                microseconds=self._start_us + number * HOUR_US
            )
            return moment.astimezone(self.zone or UTC).replace(tzinfo=None)
        if self.unit == "month":
            return datetime(number // 12, number % 12 + 1, 1) + self._shift
        if self._cron is not None:
            day, slot = divmod(number, len(self._slots))
            midnight = datetime.fromordinal(day)
            return midnight + timedelta(minutes=self._slots[slot]) + self._shift
        if self.unit == "week":
            return datetime.fromordinal(self._monday + number * 7) + self._shift
        return datetime.fromordinal(number) + self._shift

    def _instant(self, local: datetime) -> int:
        """The moment of a local time; one that the clock leaves out is the moment it jumps."""
        if self.zone is None:
            return (local - datetime(1970, 1, 1)) // timedelta(microseconds=1)
        there = local.replace(tzinfo=self.zone)
        moment = round(there.timestamp() * 1_000_000)
        if _exists(local, self.zone):
            return moment
        past = timedelta()
        while not _exists(local - past, self.zone):
            past += timedelta(minutes=1)
        return moment - (past - timedelta(minutes=1)) // timedelta(microseconds=1)

    def _hour_key(self, local: datetime) -> str:
        text = local.isoformat()[:16] if local.minute else local.isoformat()[:13]
        if self.zone is None or not local.fold:
            return text
        return text + local.replace(tzinfo=self.zone).isoformat()[-6:]

    def parse(self, key: str) -> int | None:
        """The number a key stands for, hole or not; None when it is not exactly a key."""
        try:
            found = self._read(key)
            return found if found is not None and self.key(found) == key else None
        except (ValueError, OverflowError):
            return None

    def _read(self, key: str) -> int | None:
        windows = self.windows
        if windows.format:
            local = datetime.strptime(key, windows.format)
        elif self.unit == "month":
            local = datetime.fromisoformat(key + "-01")
            local += self._shift
        elif self.unit == "day" and not windows.offset_min:
            return date.fromisoformat(key).toordinal() - self._base if len(key) == 10 else None
        else:
            local = datetime.fromisoformat(key)
        if self.unit == "hour":
            return self._read_hour(local)
        if windows.format or len(key) <= 10:
            local = max(local, datetime.combine(local.date(), datetime.min.time()) + self._shift)
        if self._cron is not None and len(self._slots) == 1:
            local += timedelta(minutes=self._slots[0])
        return self._number(local) - self._base

    def _read_hour(self, local: datetime) -> int:
        if local.tzinfo is not None:
            us = round(local.timestamp() * 1_000_000)
        else:
            us = self._instant(local)
        return (us - self._start_us) // HOUR_US - self._base

    def _is_hole(self, ordinal: int) -> bool:
        return (
            ordinal in self.excluded
            or not self._matches(ordinal)
            or (self._skips and self.start_us(ordinal) == self.start_us(ordinal + 1))
        )

    def _matches(self, ordinal: int) -> bool:
        """Does the cron tick on the day of this number?"""
        if self._cron is None:
            return True
        return _ticks_on(self._cron, (self._base + ordinal) // len(self._slots))


def _slots(cron: CronSim) -> tuple[int, ...]:
    """Minutes after midnight at which a cron ticks on the days it does."""
    return tuple(
        hour * 60 + minute for hour in sorted(cron.hours) for minute in sorted(cron.minutes)
    )


def _every_day(cron: CronSim) -> bool:
    return all(_ticks_on(cron, EPOCH + n) for n in range(800))


def _ticks_on(cron: CronSim, day: int) -> bool:
    there = date.fromordinal(day)
    return there.month in cron.months and cron.match_day(there)


def _monday(local: datetime) -> int:
    return local.toordinal() - local.weekday()


def _exists(local: datetime, zone: ZoneInfo) -> bool:
    there = local.replace(tzinfo=zone)
    return there.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == local
