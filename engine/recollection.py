"""What can be asked of a simulation: how things stand, why, what ran, and all that happened."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from freshet.engine.asking import StatusQuestion, existing, status_of
from freshet.engine.assets import Asset
from freshet.engine.codec import encode
from freshet.engine.context import Output
from freshet.engine.errors import RequestError
from freshet.engine.events import (
    Recorded,
    RunAbandoned,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
)
from freshet.engine.inputs import landed_file
from freshet.engine.keys import AssetKey, PartitionKey
from freshet.engine.memory import MemoryStream
from freshet.engine.signatures import without_none
from freshet.engine.simulated import at_once, placed
from freshet.engine.stores.memory import MemoryStore
from freshet.engine.stores.store import Store
from freshet.projections.answers import PartitionRow
from freshet.projections.catalog import Version
from freshet.projections.runs import Outcome
from freshet.projections.view import View
from freshet.projections.why import Explanation, explain


class SimulatedRun(msgspec.Struct, frozen=True):
    """One run: its id (position of its start), why and when it started (UTC), how and when it
    ended.

    `reason` and `policy` are those recorded; `error` is what a failed run said.
    """

    asset: AssetKey
    partitions: tuple[PartitionKey, ...]
    run: int
    reason: str
    policy: str
    attempt: int
    started: datetime
    ended: datetime | None = None
    outcome: Outcome = "running"
    error: str = ""


class Recollection:
    """Answers from a stream and a store in memory, as of the moment they are asked for."""

    def __init__(
        self,
        assets: Mapping[AssetKey, Asset],
        folder: Path,
        clock: Callable[[], int],
    ) -> None:
        self._assets = assets
        self._folder = folder
        self._clock = clock
        self._stream = MemoryStream(clock)
        self._store: Store = MemoryStore()
        self._view = View()
        self._runs: dict[int, SimulatedRun] = {}
        self._listed = 0

    @property
    def now(self) -> datetime:
        """The virtual time, UTC."""
        return moment(self._clock())

    @property
    def fresh(self) -> bool:
        """Is every partition of every asset fresh?"""
        return at_once(
            status_of(self._view, self._stream.at, StatusQuestion(), self._clock())
        ).fresh

    def runs(self, asset: AssetKey | None = None) -> list[SimulatedRun]:
        """All runs so far, or those of one asset, in the order they started."""
        if asset is not None:
            self._view.staleness.graph.require(asset)
        for recorded in self.events(after=self._listed):
            _list(self._runs, recorded)
            self._listed = recorded.position
        return [run for run in self._runs.values() if asset is None or run.asset == asset]

    def status(self, target: str) -> PartitionRow:
        """How an asset partition stands, as `freshet status --json` lists it.

        Raises RequestError for what does not exist, as `why` and `value` do.
        """
        question = StatusQuestion(str(existing(self._view, target)))
        report = at_once(status_of(self._view, self._stream.at, question, self._clock()))
        return report.partitions[0]

    def why(self, target: str) -> Explanation:
        """Why an asset partition is as it is: its status and the chain of causes, as `freshet why`
        shows it.
        """
        asking = explain(self._view, existing(self._view, target), self._clock())
        try:
            position = next(asking)
            while True:
                position = asking.send(self._at(position))
        except StopIteration as end:
            found: Explanation = end.value
            return found

    def value(self, target: str, partition: PartitionKey = "") -> Any:
        """The newest value of an asset partition, in the form its function's annotation promises.

        Of a source that lands as files, the content as bytes; of another one, its version. Raises
        RequestError when there is none.
        """
        name = existing(self._view, f"{target}@{partition}" if partition else target)
        at = self._view.staleness.made_at(*name)
        version = Version.of(self._at(at)) if at else None
        if version is None or not version.data_version:
            raise RequestError(
                f"'{name}' has no value yet", hint=f"sim.why('{name}') says what it waits for"
            )
        if name.asset not in self._assets:
            landed = landed_file(version)
            if landed is None:
                return version.data_version
            path = placed(self._folder, str(landed[0]))
            return path if path.is_dir() else path.read_bytes()
        if "bytes" not in version.metadata:
            return None  # its function returned no value
        promised = without_none(self._assets[name.asset].annotations.get("return"))
        annotation = None if promised in (Output, Path) else promised
        return self._store.load(name, version.data_version, annotation)

    def events(self, after: int = 0) -> list[Recorded]:
        """Everything recorded after a position, in order."""
        return at_once(self._stream.read(after, limit=self._stream.head))

    def digest(self) -> str:
        """The digest of all that was recorded, times and actors included: equal for equal
        histories.
        """
        found = blake2b(digest_size=16)
        for recorded in self.events():
            place = (recorded.position, recorded.recorded_at, recorded.actor)
            found.update(repr(place).encode())
            found.update(encode(recorded.event))
        return found.hexdigest()

    def _at(self, position: int) -> Recorded | None:
        return at_once(self._stream.at(position))


def moment(us: int) -> datetime:
    """A time in the stream (µs) as people read it."""
    return datetime.fromtimestamp(us / 1_000_000, UTC)


def _list(runs: dict[int, SimulatedRun], recorded: Recorded) -> None:
    """Fold one event into the list of runs."""
    outcome: Outcome
    error = ""
    match recorded.event:
        case RunStarted() as event:
            runs[recorded.position] = SimulatedRun(
                event.targets[0].asset,
                tuple(target.partition for target in event.targets),
                recorded.position,
                event.reason,
                event.policy,
                event.attempt,
                moment(recorded.recorded_at),
            )
            return
        case RunSucceeded(run=id_):
            outcome = "succeeded"
        case RunFailed(run=id_, error=error):
            outcome = "failed"
        case RunCancelled(run=id_, reason=error):
            outcome = "cancelled"
        case RunAbandoned(run=id_, reason=error):
            outcome = "abandoned"
        case _:
            return
    run = runs.get(id_)
    if run is not None and run.outcome == "running":
        ended = moment(recorded.recorded_at)
        runs[id_] = msgspec.structs.replace(run, ended=ended, outcome=outcome, error=error)
