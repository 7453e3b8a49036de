"""The catalog: what is defined, what was, and how many versions were recorded.

Versions themselves are not held in memory: `Staleness.made_at` says where in the stream the newest
one of an asset partition is, and `Version.of` reads it from there.
"""

import msgspec

from freshet.engine.events import (
    GraphDeployed,
    Materialized,
    Observed,
    OrphanHandled,
    Recorded,
    RolledBack,
    SourceChanged,
)
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.parts import Input
from freshet.engine.specs import AssetSpec, Metadata
from freshet.projections.projection import Projection
from freshet.projections.runs import Runs


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """A data version and where it came from; `run` is 0 for what Freshet did not make."""

    data_version: str
    position: int
    recorded_at: int
    run: int = 0
    code_version: str = ""
    inputs: tuple[Input, ...] = ()
    metadata: Metadata = {}

    @classmethod
    def of(cls, recorded: Recorded | None) -> "Version | None":
        """The version an event states; None if it states none."""
        match recorded:
            case Recorded(
                position=position, recorded_at=at, event=Materialized() | RolledBack() as made
            ):
                return cls(
                    made.data_version,
                    position,
                    at,
                    made.run,
                    made.code_version,
                    made.inputs,
                    made.metadata,
                )
            case Recorded(position=position, recorded_at=at, event=SourceChanged() as seen):
                return cls(seen.data_version, position, at, metadata=seen.metadata)
            case Recorded(position=position, recorded_at=at, event=Observed() as seen):
                return cls(seen.data_version, position, at, metadata=seen.metadata)
            case _:
                return None


class Catalog(Projection):
    """The projection: `definitions` as last deployed, `removed` ones, and counts. To be folded
    after runs.
    """

    def __init__(self, runs: Runs) -> None:
        self.folds = {
            Materialized: self._materialized,
            RolledBack: self._rolled_back,
            SourceChanged: self._changed,
            Observed: self._changed,
            GraphDeployed: self._deployed,
            OrphanHandled: self._orphan_handled,
        }
        self._runs = runs
        self.definitions: dict[AssetKey, AssetSpec] = {}
        self.removed: dict[AssetKey, AssetSpec] = {}
        self.removed_at: dict[AssetKey, int] = {}
        """Where the deployment stands that removed it."""
        self.handled: dict[AssetKey, int] = {}
        """Of the removed ones, where the project's hook was told."""
        self.digest = ""
        self.deployed_at = 0
        self.materializations = 0
        self.changes = 0
        self.rolled_back: dict[AssetPartition, int] = {}
        """Who was rolled back, where, and not built since."""

    @property
    def unhandled(self) -> list[AssetKey]:
        """The removed assets, without sources, of which no hook was told."""
        return [
            key
            for key, spec in self.removed.items()
            if not spec.is_source and key not in self.handled
        ]

    def _materialized(self, event: Materialized, recorded: Recorded) -> None:
        if event.run not in self._runs.live:
            return  # a late result: history, but no news
        self.materializations += 1
        if self.rolled_back:
            self.rolled_back.pop(AssetPartition(event.asset, event.partition), None)

    def _rolled_back(self, event: RolledBack, recorded: Recorded) -> None:
        self.rolled_back[AssetPartition(event.asset, event.partition)] = recorded.position

    def _changed(self, event: object, recorded: Recorded) -> None:
        self.changes += 1

    def _deployed(self, event: GraphDeployed, recorded: Recorded) -> None:
        gone = {**self.removed, **self.definitions}
        self.definitions = {spec.key: spec for spec in event.assets}
        self.removed = {key: spec for key, spec in gone.items() if key not in self.definitions}
        self.removed_at = {key: self.removed_at.get(key, recorded.position) for key in self.removed}
        self.handled = {key: at for key, at in self.handled.items() if key in self.removed}
        self.digest = event.digest
        self.deployed_at = recorded.position

    def _orphan_handled(self, event: OrphanHandled, recorded: Recorded) -> None:
        if event.asset in self.removed:
            self.handled[event.asset] = recorded.position
