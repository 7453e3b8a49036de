"""Scans, one after the other: which is due, how often, and what is wrong with the roots."""

import os
import threading
import time
from collections.abc import Sequence
from time import monotonic

from freshet.sensors.landing.entries import DEVICE, Known, state_of
from freshet.sensors.landing.places import Place
from freshet.sensors.landing.rules import Rules
from freshet.sensors.landing.scan import Difference, Scan

SHARE = 0.002
"""Part of the time that may be spent on scanning what is watched anyway: an idle folder of 100,000
files costs far below 1 % of a core.
"""

MOST = 10
"""How many times as rare as asked for that may make the scans."""

POLL_S, POLL_SHARE = 0.5, 0.05
"""Where there are no hints: time between scans, and part of the time that they may take."""

AGAIN_S = 1.0
"""Time to the second look into a new folder, for what was written before it was watched, and to a
scan after so many hints that some may have been lost.
"""

AGAIN_SHARE = 0.1
"""Part of the time for scans that follow hints."""

MAX_FOLDERS = 200
"""New folders that are scanned one by one; of more, the whole place is."""


class Plan:
    """When a place is scanned next, and what the last scan cost."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.due = monotonic()
        self.cost_s = 0.0
        self.ended = 0.0
        self.scanned = False


class Scans:
    """All scans of a watch. `step` is called in a thread, the others between steps."""

    def __init__(
        self, places: Sequence[Place], known: Known, rules: Rules, reconcile_s: float
    ) -> None:
        self.troubles: dict[str, str] = {}
        """Why a root cannot be scanned, empty if it can; those only that were tried."""
        self.lost: dict[str, str] = {}
        """Roots that seem not to be mounted, and why."""
        self.rounds = 0
        self.devices: dict[str, str] = {}
        """The device that each root was on when it was scanned."""
        self.without_hints = False
        self._plans = {place: Plan(place) for place in places}
        self._known = known
        self._rules = rules
        self._reconcile_s = reconcile_s
        self._folders: dict[tuple[Place, str], tuple[float, bool]] = {}
        self._current: Scan | None = None

    @property
    def are_complete(self) -> bool:
        """Has every place been scanned, or tried?"""
        return all(plan.scanned for plan in self._plans.values())

    @property
    def is_scanning(self) -> bool:
        return self._current is not None

    def next_due(self) -> float:
        """When the next step is due; the past, while a scan is under way."""
        if self._current is not None:
            return 0.0
        due = min(plan.due for plan in self._plans.values())
        return min(due, *(at for at, _ in self._folders.values())) if self._folders else due

    def now(self) -> None:
        """Scan everything, whatever was under way."""
        self.close()
        self._folders.clear()
        for plan in self._plans.values():
            plan.due = monotonic()

    def soon(self, place: Place) -> None:
        """Scan a place in a moment: hints may have been lost."""
        plan = self._plans[place]
        at = max(monotonic() + AGAIN_S, plan.ended + plan.cost_s / AGAIN_SHARE)
        plan.due = min(plan.due, at)

    def folder(self, place: Place, below: str, *, again: bool) -> None:
        """Scan one folder now, and perhaps `again` in a moment."""
        if len(self._folders) >= MAX_FOLDERS:
            self._folders.clear()
            self.soon(place)
        else:
            self._folders[place, below] = (monotonic(), again)

    def step(self, most: int, stopped: threading.Event) -> list[Difference]:
        """Go on with the scan that is due."""
        if self._current is None:
            self._current = self._next()
        if self._current is None:
            return []
        scan = self._current
        found = []
        try:
            found = scan.slice(most, stopped.is_set)
            trouble = ""
        except OSError as error:
            scan.done = True
            trouble = f"the folder {scan.place.root} {_why(error)}"
        if scan.done:
            self._current = None
            if not scan.below:
                self.troubles[scan.place.root] = trouble
                self._ended(self._plans[scan.place], scan.cost_s)
        return found

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None

    def is_in_place(self, place: Place) -> bool:
        """Is the root still the one that was scanned? If not, files below it are not gone."""
        return _device_of(place) == self.devices.get(place.root, "")

    def _next(self) -> Scan | None:
        now = monotonic()
        now_us = time.time_ns() // 1000
        for (place, below), (at, again) in self._folders.items():
            if at <= now:
                del self._folders[place, below]
                if again:
                    self._folders[place, below] = (now + AGAIN_S, False)
                return Scan(place, below, self._known, self._rules, now_us)
        for place, plan in self._plans.items():
            if plan.due <= now and self._is_mounted(plan):
                first = not plan.scanned
                return Scan(place, "", self._known, self._rules, now_us, first=first)
        return None

    def _ended(self, plan: Plan, cost_s: float) -> None:
        self.rounds += 1
        plan.scanned = True
        plan.cost_s = cost_s
        plan.ended = monotonic()
        if plan.place.remote or self.without_hints:
            every = min(max(POLL_S, cost_s / POLL_SHARE), self._reconcile_s)
        else:
            every = min(max(1.0, cost_s / SHARE / self._reconcile_s), MOST) * self._reconcile_s
        plan.due = plan.ended + every

    def _is_mounted(self, plan: Plan) -> bool:
        """Is the root what it was, as far as can be told? On another device without any of the
        files that are known, it is the folder that something was mounted on.
        """
        place = plan.place
        device = _device_of(place)
        before = self._known.own.get(DEVICE + place.root, "")
        if device and before not in ("", device) and self._has_lost_all(place):
            self.lost[place.root] = self.troubles[place.root] = (
                f"the folder {place.root} is on another device than before, and none of the files "
                "known is there: it seems not to be mounted (if it was emptied, reset the sensor "
                "--from earliest)"
            )
            self._ended(plan, 0.0)
            return False
        self.lost.pop(place.root, None)
        if device:
            self.devices[place.root] = device
        return True

    def _has_lost_all(self, place: Place) -> bool:
        known = 0
        for item in self._known.below(place.prefix):
            relative = place.relative(item)
            if relative is not None and state_of(self._known.get(item)):
                if os.path.lexists(place.path(relative)):
                    return False
                known += 1
        return known > 0


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be listed: {error.strerror}"


def _device_of(place: Place) -> str:
    try:
        return str(os.stat(place.base or ".").st_dev)
    except OSError:
        return ""
