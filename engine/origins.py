"""What an event is about, and which earlier event led to it: two columns of the stream."""

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
from freshet.engine.keys import AssetPartition


def subject_of(event: AnyEvent | Unknown) -> str:
    """What the event is about: asset, `asset@partition`, sensor or scope; indexed in the stream."""
    # fmt: off
    match event:
        case (SourceChanged() | Observed() | Materialized() | RolledBack() | CheckEvaluated()
              | FreshnessAtRisk() | FreshnessBreached() | FreshnessRestored()):
            return f"{event.asset}@{event.partition}" if event.partition else event.asset
        case (RunStarted(targets=targets) | Demanded(targets=targets) | FellDue(targets=targets)
              | Invalidated(targets=targets)):
            one = len(targets) == 1
            return str(AssetPartition(targets[0].asset, targets[0].partition)) if one else ""
        case (RunSucceeded(run=run) | RunFailed(run=run) | RunDelayed(run=run)
              | RunCancelled(run=run) | RunAbandoned(run=run)
              | ResultRefused(run=run) | JobSubmitted(run=run)):
            return f"run {run}"
        case (PartitionsAdded(asset=asset) | PartitionsRemoved(asset=asset)
              | OrphanHandled(asset=asset)):
            return asset
        case (CursorMoved(sensor=name) | SensorFailed(sensor=name) | SensorRecovered(sensor=name)
              | MessageRejected(sensor=name) | MessageSettled(sensor=name)):
            return name
        case Paused(scope=scope) | Resumed(scope=scope):
            return scope
        case _:
            return ""
    # fmt: on


def cause_of(event: AnyEvent | Unknown) -> int | None:
    """The earlier event that led to this one: the debt of a run, the run of a result,
    the pause that is over.
    """
    match event:
        case SourceChanged() | CursorMoved():
            return None  # first, because there are so many
        case RunStarted(targets=targets):
            return min((target.owed for target in targets), default=0) or None
        case (
            Materialized(run=run)
            | CheckEvaluated(run=run)
            | RunSucceeded(run=run)
            | RunFailed(run=run)
            | RunDelayed(run=run)
            | RunCancelled(run=run)
            | RunAbandoned(run=run)
            | ResultRefused(run=run)
            | JobSubmitted(run=run)
        ):
            return run or None
        case DemandCancelled(demand=demand):
            return demand or None
        case RolledBack(version_at=position) | OrphanHandled(removed_at=position):
            return position or None
        case Resumed(pause=pause):
            return pause or None
        case FreshnessAtRisk(owed=owed) | FreshnessBreached(owed=owed):
            return owed or None
        case _:
            return None
