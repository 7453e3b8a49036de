"""What an event is about, and which earlier event led to it: two columns of the stream."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from freshet.engine.codec import TYPES, type_of
from freshet.engine.events import (
    AnyEvent,
    CheckEvaluated,
    CursorMoved,
    DemandCancelled,
    Demanded,
    FellDue,
    FreshnessAtRisk,
    FreshnessBreached,
    FreshnessRestored,
    Invalidated,
    JobSubmitted,
    Materialized,
    MessageRejected,
    MessageSettled,
    Observed,
    OrphanHandled,
    PartitionsAdded,
    PartitionsRemoved,
    Paused,
    ResultRefused,
    Resumed,
    RolledBack,
    RunAbandoned,
    RunCancelled,
    RunDelayed,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SensorFailed,
    SensorRecovered,
    SourceChanged,
    Unknown,
)

Told = Callable[[Any], str]
Found = Callable[[Any], int | None]


def columns_of(event: AnyEvent | Unknown) -> tuple[str, str, int | None]:
    """What the stream keeps of an event beside its data: its type, its subject, its cause."""
    known = _COLUMNS.get(type(event))
    if known is None:
        return type_of(event), "", None
    name, told, found = known
    return name, told(event), found(event) or None


def subject_of(event: AnyEvent | Unknown) -> str:
    """What the event is about: asset, `asset@partition`, sensor or scope; indexed in the stream."""
    return columns_of(event)[1]


def cause_of(event: AnyEvent | Unknown) -> int | None:
    """The earlier event that led to this one: the debt of a run, the run of a result,
    the pause that is over.
    """
    return columns_of(event)[2]


def _nothing(event: Any) -> str:
    return ""


def _none(event: Any) -> None:
    return None


def _one(event: Any) -> str:
    return f"{event.asset}@{event.partition}" if event.partition else event.asset


def _only(event: Any) -> str:
    return _one(event.targets[0]) if len(event.targets) == 1 else ""


def _run(event: Any) -> str:
    return f"run {event.run}"


def _oldest_debt(event: RunStarted) -> int:
    return min((target.owed for target in event.targets), default=0)


_ENDS = (RunSucceeded, RunFailed, RunDelayed, RunCancelled, RunAbandoned)

_SUBJECTS: dict[type[object], Told] = {
    **dict.fromkeys(
        (
            SourceChanged, Observed, Materialized, RolledBack, CheckEvaluated,
            FreshnessAtRisk, FreshnessBreached, FreshnessRestored,
        ),
        _one,
    ),
    **dict.fromkeys((RunStarted, Demanded, FellDue, Invalidated), _only),
    **dict.fromkeys((*_ENDS, ResultRefused, JobSubmitted), _run),
    **dict.fromkeys((PartitionsAdded, PartitionsRemoved, OrphanHandled), attrgetter("asset")),
    **dict.fromkeys(
        (CursorMoved, SensorFailed, SensorRecovered, MessageRejected, MessageSettled),
        attrgetter("sensor"),
    ),
    **dict.fromkeys((Paused, Resumed), attrgetter("scope")),
}  # fmt: skip

_CAUSES: dict[type[object], Found] = {
    RunStarted: _oldest_debt,
    **dict.fromkeys(
        (Materialized, CheckEvaluated, *_ENDS, ResultRefused, JobSubmitted), attrgetter("run")
    ),
    DemandCancelled: attrgetter("demand"),
    RolledBack: attrgetter("version_at"),
    OrphanHandled: attrgetter("removed_at"),
    Resumed: attrgetter("pause"),
    **dict.fromkeys((FreshnessAtRisk, FreshnessBreached), attrgetter("owed")),
}

# One table, as each event that is appended is looked up in it.
_COLUMNS: dict[type[object], tuple[str, Told, Found]] = {
    kind: (name, _SUBJECTS.get(kind, _nothing), _CAUSES.get(kind, _none))
    for name, kind in TYPES.items()
}
