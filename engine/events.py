"""Every event Freshet records: past tense, frozen, explicitly tagged, all in this one file.

An event is data about something that happened; what it means is a matter for the projections.
Rules for whoever adds one: a past-tense name that is also its tag, a default for every field that
is added later, a new type when a meaning changes, a line in `tests/golden/events-1.jsonl`.
Positions inside events refer to earlier events. Times are microseconds since the epoch, UTC.
"""

import msgspec

from freshet.engine.keys import WHOLE, AssetKey, AssetPartition, PartitionKey
from freshet.engine.parts import Absorbed, Cause, FailureKind, Input, Payload, Target
from freshet.engine.specs import AssetSpec, Metadata, Severity


class Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """What all events share: nothing but being one. `omit_defaults` keeps the stream small."""


class GraphDeployed(Event, frozen=True, tag="GraphDeployed"):
    """The definitions as data; appended only when their digest differs from the last one."""

    digest: str
    assets: tuple[AssetSpec, ...]


class OrphanHandled(Event, frozen=True, tag="OrphanHandled"):
    """The project's hook is about to be told that an asset is not defined since `removed_at`."""

    asset: AssetKey
    removed_at: int = 0


# --- versions ---------------------------------------------------------------------------------


class SourceChanged(Event, frozen=True, tag="SourceChanged"):
    """A source partition was seen with this data version; the empty version says it is gone."""

    asset: AssetKey
    partition: PartitionKey = WHOLE
    data_version: str = ""
    metadata: Metadata = {}
    payload: Payload | None = None


class Observed(Event, frozen=True, tag="Observed"):
    """Someone saw this version of an asset partition that Freshet did not produce just now."""

    asset: AssetKey
    partition: PartitionKey = WHOLE
    data_version: str = ""
    metadata: Metadata = {}


class Materialized(Event, frozen=True, tag="Materialized"):
    """Run `run` produced this data version of an asset partition from exactly these inputs."""

    asset: AssetKey
    partition: PartitionKey = WHOLE
    run: int = 0
    data_version: str = ""
    code_version: str = ""
    inputs: tuple[Input, ...] = ()
    metadata: Metadata = {}
    absorbed: Absorbed | None = None


class RolledBack(Event, frozen=True, tag="RolledBack"):
    """A person made the version stated at `version_at` the current one, with all it came from."""

    asset: AssetKey
    partition: PartitionKey = WHOLE
    data_version: str = ""
    version_at: int = 0
    reason: str = ""
    run: int = 0
    code_version: str = ""
    inputs: tuple[Input, ...] = ()
    metadata: Metadata = {}


class CheckEvaluated(Event, frozen=True, tag="CheckEvaluated"):
    """A check looked at a value of an asset partition: at what run `run` was about to publish, or,
    without a run, at the version that is there. `message` says what is wrong.
    """

    check: str
    asset: AssetKey
    partition: PartitionKey = WHOLE
    run: int = 0
    passed: bool = True
    blocking: bool = False
    metadata: Metadata = {}
    data_version: str = ""
    severity: Severity = "warn"
    message: str = ""


# --- runs -------------------------------------------------------------------------------------


class RunStarted(Event, frozen=True, tag="RunStarted"):
    """A run is about to execute; its own position is its id and its fencing token.

    `causes` names the newest changed inputs, at most `MAX_CAUSES`; `changed` counts all of them.
    `asked` is the newest demand by a person or a policy for it, if there was one.
    `reason` says in a word what made it start: missing, changed, code, demanded, due, invalidated,
    retry.
    """

    targets: tuple[Target, ...]
    attempt: int = 1
    policy: str = "eager"
    reason: str = "changed"
    causes: tuple[Cause, ...] = ()
    changed: int = 0
    asked: int = 0


class RunSucceeded(Event, frozen=True, tag="RunSucceeded"):
    """All targets of the run were materialized. `adopted`: it was cut off when it had begun to
    publish, and the next start of the engine finished that; how long it took is not known.
    """

    run: int
    duration_us: int = 0
    adopted: bool = False


class RunFailed(Event, frozen=True, tag="RunFailed"):
    """The run produced nothing. `retry_at`: when it may be tried again by itself; none: it stays
    blocked. `passing`: what is in the way lies outside and passes by itself, so it is tried until
    it works, and uses up none of its retries.
    """

    run: int
    kind: FailureKind = "error"
    error: str = ""
    detail: str = ""
    duration_us: int = 0
    retry_at: int | None = None
    passing: bool = False


class RunDelayed(Event, frozen=True, tag="RunDelayed"):
    """The live run takes far longer than its asset's recent ones, of which nine in ten took at most
    `expected_us`. A warning: it goes on.
    """

    run: int
    expected_us: int = 0


class RunCancelled(Event, frozen=True, tag="RunCancelled"):
    """A person stopped the run; the same inputs are not retried."""

    run: int
    reason: str = ""


class RunAbandoned(Event, frozen=True, tag="RunAbandoned"):
    """The run was cut off; its debt stands. `killed`: the engine had no time to stop in order."""

    run: int
    reason: str = ""
    killed: bool = False


class ResultRefused(Event, frozen=True, tag="ResultRefused"):
    """A function came to its end after its run had: what it made was thrown away."""

    run: int
    reason: str = ""


class JobSubmitted(Event, frozen=True, tag="JobSubmitted"):
    """The run has work done elsewhere, as `job`: if it is cut off, the next one goes on with it."""

    run: int
    job: str = ""


# --- wishes -----------------------------------------------------------------------------------


class Demanded(Event, frozen=True, tag="Demanded"):
    """A person asked for these asset partitions to be built, whether they owe or not.

    `bulk` makes it a backfill: what it sets in motion has its own share of the slots. With
    `force=False` only what is not fresh is built.
    """

    targets: tuple[AssetPartition, ...]
    reason: str = ""
    bulk: bool = False
    force: bool = True


class FellDue(Event, frozen=True, tag="FellDue"):
    """By a policy (in words) these are to absorb what they owe, and `pulled` upstream for them."""

    targets: tuple[AssetPartition, ...]
    policy: str = ""
    pulled: tuple[AssetPartition, ...] = ()


class DemandCancelled(Event, frozen=True, tag="DemandCancelled"):
    """What the demand at position `demand` has not yet got is no longer wanted."""

    demand: int
    reason: str = ""


class Invalidated(Event, frozen=True, tag="Invalidated"):
    """A person declared these values wrong: they are rebuilt even from equal inputs."""

    targets: tuple[AssetPartition, ...]
    reason: str = ""


class PartitionsAdded(Event, frozen=True, tag="PartitionsAdded"):
    """These partitions of an open definition exist from now on."""

    asset: AssetKey
    keys: tuple[PartitionKey, ...]


class PartitionsRemoved(Event, frozen=True, tag="PartitionsRemoved"):
    """These partitions of an open definition are gone; their history is kept."""

    asset: AssetKey
    keys: tuple[PartitionKey, ...]


class WindowsOpened(Event, frozen=True, tag="WindowsOpened"):
    """Time has passed: the windows that are over by `until` (µs) exist from now on."""

    until: int


class Paused(Event, frozen=True, tag="Paused"):
    """Nothing starts in this scope (an asset, `group:x`, `sensor:x`, or `*`) until resumed."""

    scope: str
    reason: str = ""
    until: int | None = None


class Resumed(Event, frozen=True, tag="Resumed"):
    """The scope is live again; what it owes is paid once. `pause`: only if it is still this pause,
    by position, that holds the scope; 0: whichever does.
    """

    scope: str
    reason: str = ""
    pause: int = 0


# --- sensors ----------------------------------------------------------------------------------


class CursorMoved(Event, frozen=True, tag="CursorMoved"):
    """A sensor's place in the outside source moved: changed items only, none for a removed one.

    A cursor is a map of item to place (a file's path to its signature, a topic partition to its
    offset): the fold of these events, kept beside the stream in the same transaction.
    """

    sensor: str
    items: dict[str, str | None]


class SensorFailed(Event, frozen=True, tag="SensorFailed"):
    """A sensor stopped working; recorded once per episode, retried with backoff. One that is
    `halted` is not: a person has to choose, as `hint` says. One that is only `hindered` goes on:
    part of what it looks at, or looks with, is not there.
    """

    sensor: str
    error: str = ""
    hint: str = ""
    halted: bool = False
    hindered: bool = False


class SensorRecovered(Event, frozen=True, tag="SensorRecovered"):
    """A failed sensor works again."""

    sensor: str


class MessageRejected(Event, frozen=True, tag="MessageRejected"):
    """A sensor read something that cannot count as a change: `item` says where it lies outside, in
    the sensor's words (`orders/0/17`, a path); `excerpt` is how it begins.
    """

    sensor: str
    item: str
    reason: str = ""
    excerpt: str = ""
    metadata: Metadata = {}


class MessageSettled(Event, frozen=True, tag="MessageSettled"):
    """What a sensor had rejected counts after all (`accepted`), or is gone."""

    sensor: str
    item: str
    accepted: bool = True


# --- promises and the engine's own life -------------------------------------------------------


class FreshnessAtRisk(Event, frozen=True, tag="FreshnessAtRisk"):
    """It is foreseeable that a promise will be missed, and why; `owed` is the change it lacks."""

    asset: AssetKey
    partition: PartitionKey = WHOLE
    promise: str = ""
    reason: str = ""
    owed: int = 0


class FreshnessBreached(Event, frozen=True, tag="FreshnessBreached"):
    """An asset partition is further behind than promised; `owed` is the change it lacks."""

    asset: AssetKey
    partition: PartitionKey = WHOLE
    promise: str = ""
    owed: int = 0
    reason: str = ""


class FreshnessRestored(Event, frozen=True, tag="FreshnessRestored"):
    """The breach of this asset partition is over."""

    asset: AssetKey
    partition: PartitionKey = WHOLE
    promise: str = ""


class EngineStarted(Event, frozen=True, tag="EngineStarted"):
    """A daemon became the reactor of this stream. `sensors`: by name, the sources each reports;
    `without_latest`: those of them that cannot pass over what is there. `profile`: of the project,
    if it has any.
    """

    version: str
    pid: int = 0
    host: str = ""
    slots: int = 0
    sensors: dict[str, tuple[AssetKey, ...]] = {}
    without_latest: tuple[str, ...] = ()
    profile: str = ""


class EngineReloaded(Event, frozen=True, tag="EngineReloaded"):
    """The daemon goes on with other slots or sensors, said as in `EngineStarted`."""

    slots: int = 0
    sensors: dict[str, tuple[AssetKey, ...]] = {}
    without_latest: tuple[str, ...] = ()


class EngineStopped(Event, frozen=True, tag="EngineStopped"):
    """The daemon stopped in order."""

    reason: str = ""


class Unknown(msgspec.Struct, frozen=True):
    """An event of a type this release does not know, passed through untouched."""

    type: str
    data: bytes


# fmt: off
AnyEvent = (
    GraphDeployed | OrphanHandled
    | SourceChanged | Observed | Materialized | RolledBack | CheckEvaluated
    | RunStarted | RunSucceeded | RunFailed | RunDelayed | RunCancelled | RunAbandoned
    | ResultRefused | JobSubmitted
    | Demanded | FellDue | DemandCancelled | Invalidated | PartitionsAdded | PartitionsRemoved
    | WindowsOpened
    | Paused | Resumed
    | CursorMoved | SensorFailed | SensorRecovered | MessageRejected | MessageSettled
    | FreshnessAtRisk | FreshnessBreached | FreshnessRestored
    | EngineStarted | EngineReloaded | EngineStopped
)
# fmt: on

RunEnd = RunSucceeded | RunFailed | RunCancelled | RunAbandoned
"""What ends a run: each has one of them, unless it is alive."""


class Recorded(msgspec.Struct, frozen=True):
    """An event with its place in history: dense position, recorded time (µs), cause, actor, key,
    epoch.
    """

    position: int
    recorded_at: int
    event: AnyEvent | Unknown
    cause: int | None = None
    actor: str | None = None
    key: str | None = None
    epoch: int = 0
