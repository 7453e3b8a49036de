"""What the daemon says of itself: how it is, and what came of a reload. Pure: it judges what was
seen.
"""

from collections.abc import Mapping

import msgspec

from freshet.engine.counts import counted
from freshet.projections.sensors import SensorRow

MIN_FREE_BYTES = 1 << 20
"""Free space below which nothing can be relied on to be recorded: a group of events fits."""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error in its three parts."""

    message: str
    cause: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.message}: {self.cause}" if self.cause else self.message


def reload_failed(fault: Fault) -> str:
    """What a reload that failed means for those who look."""
    return f"the last reload failed, older definitions are live: {fault}"


class ReloadReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a reload: assets and sensors by name, or why everything is as it was."""

    position: int
    fault: Fault | None = None
    deployed: bool = False
    """Were the definitions others than before?"""
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    sensors_started: tuple[str, ...] = ()
    sensors_stopped: tuple[str, ...] = ()
    sensors_renewed: tuple[str, ...] = ()
    slots: int = 0

    def describe(self) -> str:
        """One line for people."""
        parts = [
            f"{verb} {', '.join(names)}"
            for verb, names in (
                ("new:", self.added),
                ("changed:", self.changed),
                ("removed:", self.removed),
                ("sensors started:", self.sensors_started),
                ("sensors stopped:", self.sensors_stopped),
                ("sensors started anew:", self.sensors_renewed),
            )
            if names
        ]
        return "; ".join(parts) or "the definitions are the same"


class Vitals(msgspec.Struct, frozen=True):
    """What was seen of a daemon, as `health_of` judges it."""

    version: str
    pid: int
    position: int
    head: int
    now_us: int
    acted_at_us: int
    """When it last decided; 0: never."""
    runs: int
    sensors: tuple[SensorRow, ...]
    free_bytes: int | None
    """Of the disk of the state folder; None: not known."""
    refusal: str = ""
    """Why a moment ago an append was not recorded; empty if all were."""
    draining: bool = False
    reload_fault: Fault | None = None


class HealthReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Is the daemon well, and if not, what is wrong, each in a sentence; and what was seen.

    `warnings` are what people should know and no restart would mend.
    """

    ok: bool
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    version: str
    pid: int
    position: int
    head: int
    runs: int
    decided_ms_ago: int | None
    sensors_failing: tuple[str, ...]
    can_write: bool
    draining: bool


def health_of(seen: Vitals) -> HealthReport:
    """Judge what was seen. Not well is one that cannot record, does not fold what is recorded, is
    about to end, or has a sensor that is halted or fails.
    """
    problems = []
    full = seen.free_bytes is not None and seen.free_bytes < MIN_FREE_BYTES
    can_write = not full and not seen.refusal
    if not can_write:
        why = seen.refusal or f"{seen.free_bytes} bytes are free on the disk of the state folder"
        problems.append(f"nothing can be recorded: {why}")
    if seen.position < seen.head:
        behind = counted(seen.head - seen.position, "recorded event")
        problems.append(f"the loop stands still: {behind} not folded")
    failing = [row for row in seen.sensors if row.state in ("halted", "failed") or row.error]
    problems += [f"sensor {row.sensor} {_standing(row)}: {row.error}" for row in failing]
    if seen.draining:
        problems.append(f"it is stopping, and waits for {counted(seen.runs, 'run')}")
    warnings = []
    if seen.reload_fault is not None:
        warnings.append(reload_failed(seen.reload_fault))
    age = (seen.now_us - seen.acted_at_us) // 1000 if seen.acted_at_us else None
    return HealthReport(
        ok=not problems,
        problems=tuple(problems),
        warnings=tuple(warnings),
        version=seen.version,
        pid=seen.pid,
        position=seen.position,
        head=seen.head,
        runs=seen.runs,
        decided_ms_ago=None if age is None else max(0, age),
        sensors_failing=tuple(row.sensor for row in failing),
        can_write=can_write,
        draining=seen.draining,
    )


def _standing(row: SensorRow) -> str:
    return "is hindered" if row.state == "running" else f"is {row.state}"


def differences(
    old: Mapping[str, object], new: Mapping[str, object]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names that are new, that mean something else, and that are gone."""
    return (
        tuple(name for name in new if name not in old),
        tuple(name for name in new if name in old and old[name] != new[name]),
        tuple(name for name in old if name not in new),
    )
