"""The catalog: the newest recorded version of every asset partition, defined or not, and its
provenance.
"""

import msgspec

from freshet.engine.events import (
    GraphDeployed,
    Input,
    Materialized,
    Observed,
    Recorded,
    RunAbandoned,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    SourceChanged,
)
from freshet.engine.keys import AssetKey, PartitionKey
from freshet.engine.specs import AssetSpec, Plain


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """A data version and where it came from; `run` is 0 for what Freshet did not make.

    `changed_at` is the position at which this very version first became the current one.
    """

    data_version: str
    position: int
    recorded_at: int
    changed_at: int
    run: int = 0
    code_version: str = ""
    inputs: tuple[Input, ...] = ()
    metadata: dict[str, Plain] = {}


class Catalog:
    """The projection: `current` by asset and partition, `definitions` as last deployed, `removed`
    ones.
    """

    def __init__(self) -> None:
        self.current: dict[AssetKey, dict[PartitionKey, Version]] = {}
        self.definitions: dict[AssetKey, AssetSpec] = {}
        self.removed: dict[AssetKey, AssetSpec] = {}
        self.digest = ""
        self.deployed_at = 0
        self.materializations = 0
        self.changes = 0
        self.equal_changes = 0
        """Source changes to the version that was there already: recorded, and stopped there."""
        self._live: set[int] = set()

    def apply(self, recorded: Recorded) -> None:
        match recorded.event:
            case Materialized() as event:
                if event.run not in self._live:
                    return  # a late result: history, but no news
                self.materializations += 1
                self._put(event, recorded, event.run, event.code_version, event.inputs)
            case SourceChanged() | Observed() as event:
                self.changes += 1
                self._put(event, recorded)
            case RunStarted():
                self._live.add(recorded.position)
            case GraphDeployed(digest=digest, assets=assets):
                gone = {**self.removed, **self.definitions}
                self.definitions = {spec.key: spec for spec in assets}
                self.removed = {
                    key: spec for key, spec in gone.items() if key not in self.definitions
                }
                self.digest = digest
                self.deployed_at = recorded.position
            case (
                RunSucceeded(run=run)
                | RunFailed(run=run)
                | RunCancelled(run=run)
                | RunAbandoned(run=run)
            ):
                self._live.discard(run)
            case _:
                pass

    def version(self, asset: AssetKey, partition: PartitionKey) -> Version | None:
        """The current version of an asset partition, or None."""
        return self.current.get(asset, {}).get(partition)

    def _put(
        self,
        event: Materialized | SourceChanged | Observed,
        recorded: Recorded,
        run: int = 0,
        code_version: str = "",
        inputs: tuple[Input, ...] = (),
    ) -> None:
        versions = self.current.setdefault(event.asset, {})
        before = versions.get(event.partition)
        same = before is not None and before.data_version == event.data_version
        if not event.data_version:
            versions.pop(event.partition, None)
            return
        if same and run == 0:
            self.equal_changes += 1
        versions[event.partition] = Version(
            event.data_version,
            recorded.position,
            recorded.recorded_at,
            before.changed_at if before is not None and same else recorded.position,
            run,
            code_version,
            inputs,
            event.metadata,
        )
