"""The view: all projections folded together, the one thing the reactor and the answers read."""

from msgspec.structs import replace

from freshet.engine.events import (
    AnyEvent,
    EngineReloaded,
    EngineStarted,
    EngineStopped,
    GraphDeployed,
    Recorded,
    Unknown,
)
from freshet.engine.keys import AssetKey, PartitionKey
from freshet.projections.catalog import Catalog
from freshet.projections.causes import Status, status
from freshet.projections.cells import Cell
from freshet.projections.checks import Checks
from freshet.projections.circuits import Circuits
from freshet.projections.delays import Delays
from freshet.projections.demands import Demands
from freshet.projections.jobs import Jobs
from freshet.projections.pauses import Pauses
from freshet.projections.projection import Fold, Projection
from freshet.projections.promises import Promises
from freshet.projections.runs import Runs
from freshet.projections.sensors import Sensors
from freshet.projections.staleness import Staleness


class View:
    """The state of everything at `position`: a pure fold of the stream up to there."""

    def __init__(self) -> None:
        self.position = 0
        self.recorded_at = 0
        self.staleness = Staleness()
        self.runs = Runs()
        self.pauses = Pauses()
        self.jobs = Jobs(self.runs)
        self.circuits = Circuits(self.staleness)
        self.delays = Delays(self.staleness, self.runs)
        self.promises = Promises(self.staleness, self.runs, self.pauses, self.circuits)
        self.catalog = Catalog(self.runs)
        self.checks = Checks()
        self.sensors = Sensors()
        self.backfills = Demands()
        self.engine: Recorded | None = None
        """The last start or stop of a daemon."""
        self.profile = ""
        """The last that a daemon has run under; empty if none ever has."""
        self.slots = 0
        """Of the last daemon; 0: not known."""
        self._heeding = self._who_heeds()

    def apply(self, recorded: Recorded) -> None:
        """Fold the next event. Events must come in order and without gaps."""
        if recorded.position != self.position + 1:
            raise ValueError(f"event {recorded.position} cannot follow position {self.position}")
        self.position = recorded.position
        self.recorded_at = recorded.recorded_at
        self.runs.ended = ()  # what it says is of this event alone
        event = recorded.event
        for fold in self._heeding[type(event)]:
            fold(event, recorded)

    def _who_heeds(self) -> dict[type[object], tuple[Fold, ...]]:
        """By type of event the folds that it concerns, in order: each may read those before it."""
        projections: tuple[Projection, ...] = (
            self.staleness, self.runs, self.jobs, self.circuits, self.delays, self.promises,
            self.catalog, self.checks, self.sensors, self.pauses, self.backfills,
        )  # fmt: skip
        found: dict[type[object], tuple[Fold, ...]] = {}
        for kind in (*AnyEvent.__args__, Unknown):
            folds = [fold for one in projections if (fold := one.heeds(kind)) is not None]
            found[kind] = tuple(folds)
        for kind in (EngineStarted, EngineReloaded, EngineStopped):
            found[kind] = (*found[kind], self._engine)
        found[GraphDeployed] = (*found[GraphDeployed], self._deployed)
        return found

    def _deployed(self, event: GraphDeployed, recorded: Recorded) -> None:
        """Other definitions may concern themselves with other events."""
        self._heeding = self._who_heeds()

    def _engine(
        self, event: EngineStarted | EngineReloaded | EngineStopped, recorded: Recorded
    ) -> None:
        """A daemon started, stopped, or took on other definitions."""
        if not isinstance(event, EngineReloaded):
            self.engine = recorded
            self.profile = getattr(event, "profile", "") or self.profile
        if not isinstance(event, EngineStopped):
            self.slots = event.slots

    def status(self, asset: AssetKey, partition: PartitionKey) -> Status | None:
        """Is this asset partition fresh, and if not, why? None when it does not exist."""
        cell = self.staleness.cell(asset, partition)
        return self.status_of(cell) if cell is not None else None

    def status_of(self, cell: Cell) -> Status:
        """As `status`, of a partition that exists; what a pause or an open circuit keeps from
        starting says so.
        """
        found = status(cell)
        if self.pauses.scopes:
            found = self._paused(cell, found)
        return self._tripped(cell, found) if self.circuits.open else found

    def _paused(self, cell: Cell, found: Status) -> Status:
        if found.activity in ("ready", "retrying") and self.pauses.holding(cell.home.spec):
            found = replace(found, activity="paused")
        blocker = found.blocker
        if blocker is not None and blocker.what in ("queued", "retry"):
            pause = self.pauses.holding(self.staleness.states[blocker.asset].spec)
            if pause is not None:
                held = replace(blocker, what="paused", position=pause.position)
                found = replace(found, blocker=held)
        return found

    def _tripped(self, cell: Cell, found: Status) -> Status:
        if found.activity == "ready" and self.circuits.holding(cell) is not None:
            return replace(found, activity="tripped")
        blocker = found.blocker
        if blocker is None or blocker.what != "queued":
            return found
        other = self.staleness.cell(blocker.asset, blocker.partition)
        circuit = self.circuits.holding(other) if other is not None else None
        if circuit is None:
            return found
        return replace(found, blocker=replace(blocker, what="tripped", position=circuit.failed_at))

    def lag_us(self, asset: AssetKey, partition: PartitionKey, now_us: int) -> int:
        """How far behind the outside world it is: now minus the recorded time of what it owes; 0 if
        fresh.
        """
        cell = self.staleness.cell(asset, partition)
        if cell is None:
            return 0
        since = self.staleness.marks.at.get(min(cell.owed, cell.next))
        return max(0, now_us - since) if since is not None else 0
