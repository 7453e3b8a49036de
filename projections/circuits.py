"""Circuits: code that fails again and again, whatever the partition, is left alone, but for one run
now and then that tries whether it works again.

A pure fold of how runs ended. The circuit of an asset is open from the fifth failed run in a row of
the same code until a run succeeds or there is other code. Meanwhile first attempts are held back;
what a person has asked for since the last failure goes through, and so do retries, which keep their
own pace.
"""

from collections.abc import Iterable, Iterator

import msgspec

from freshet.engine.events import (
    Demanded,
    GraphDeployed,
    Recorded,
    RunAbandoned,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
)
from freshet.engine.keys import AssetKey
from freshet.engine.parts import FailureKind
from freshet.projections.cells import Cell, fingerprint
from freshet.projections.outlook import utc
from freshet.projections.projection import Projection
from freshet.projections.staleness import Staleness
from freshet.projections.states import AssetState

FAILURES = 5
"""Failed runs in a row that open a circuit: so many are hardly the fault of single partitions."""

FIRST_WAIT_US = 60_000_000
"""From the failure that opened a circuit to the first probe: a minute, as long as a person needs to
put a slip right.
"""

LONGEST_WAIT_US = 3_600_000_000
"""Between probes, after it has doubled often enough: what is repaired outside is noticed within the
hour.
"""

NO_VERDICT: frozenset[FailureKind] = frozenset(("check", "input", "infrastructure"))
"""Kinds of failure that say nothing about the code: it is the data, or the world."""


class Circuit(msgspec.Struct):
    """The failures in a row of one asset's code. Times in µs; `since_us` is 0 while it is closed.

    `run` is the last that failed and `failed_at` the position of its end; `asked` is the newest
    demand by a person; `probe` the live run that tries, 0 if there is none.
    """

    trial: str
    failures: int = 0
    run: int = 0
    failed_at: int = 0
    since_us: int = 0
    wait_us: int = FIRST_WAIT_US
    next_at: int = 0
    probe: int = 0
    asked: int = 0

    def is_due(self, now: int) -> bool:
        """May a run try now?"""
        return not self.probe and now >= self.next_at

    def has_been_asked(self, state: AssetState, i: int) -> bool:
        """Did a person ask for this row since the last failure?"""
        return self.asked > self.failed_at and state.demand.newest(i) > self.failed_at

    def asked_rows(self, state: AssetState) -> list[int]:
        """The rows a person has asked for since the last failure, in order."""
        if self.asked <= self.failed_at:
            return []
        return sorted(i for i in state.demand if self.has_been_asked(state, i))


class Circuits(Projection):
    """The projection: `open`, by asset. To be folded after staleness."""

    def __init__(self, staleness: Staleness) -> None:
        self.folds = {
            RunStarted: self._started,
            RunSucceeded: self._succeeded,
            RunFailed: self._failed,
            RunCancelled: self._cut_short,
            RunAbandoned: self._cut_short,
            Demanded: self._demanded,
            GraphDeployed: self._deployed,
        }
        self.open: dict[AssetKey, Circuit] = {}
        self._failing: dict[AssetKey, Circuit] = {}
        self._runs: dict[int, dict[AssetKey, str]] = {}
        """Of each live run, what its assets were tried with."""
        self._staleness = staleness

    def holding(self, cell: Cell) -> Circuit | None:
        """The open circuit that holds this row back, were it ready; None if none does."""
        circuit = self.open.get(cell.home.spec.key) if self.open else None
        if circuit is None or attempts(cell) or circuit.has_been_asked(cell.home, cell.i):
            return None
        return circuit

    def next_probe(self, now: int) -> int | None:
        """The next moment (µs) at which a run may try. Costs the circuits that are open."""
        moments = [c.next_at for c in self.open.values() if not c.probe and c.next_at > now]
        return min(moments, default=None)

    # --- folding --------------------------------------------------------------------------------

    def _started(self, event: RunStarted, recorded: Recorded) -> None:
        trials: dict[AssetKey, str] = {}
        for target in event.targets:
            asset = target.asset
            state = self._staleness.states.get(asset)
            if state is not None and asset not in trials:
                code = target.code_version
                trials[asset] = state.trial if code == state.spec.code_version else code
        self._runs[recorded.position] = trials
        if not self.open:
            return
        for asset in trials:
            circuit = self.open.get(asset)
            if circuit is not None and event.attempt == 1 and circuit.is_due(recorded.recorded_at):
                circuit.probe = recorded.position

    def _succeeded(self, event: RunSucceeded, recorded: Recorded) -> None:
        trials = self._runs.pop(event.run, None)
        if not trials or not self._failing:
            return
        for asset, trial in trials.items():
            circuit = self._failing.get(asset)
            if circuit is not None and circuit.trial == trial:
                self._close(asset)

    def _cut_short(self, event: RunCancelled | RunAbandoned, recorded: Recorded) -> None:
        for asset in self._runs.pop(event.run, ()):
            self._put_off(asset, event.run, recorded.recorded_at)

    def _demanded(self, event: Demanded, recorded: Recorded) -> None:
        for target in event.targets if self.open else ():
            circuit = self.open.get(target.asset)
            if circuit is not None:
                circuit.asked = recorded.position

    def _deployed(self, event: GraphDeployed, recorded: Recorded) -> None:
        states = self._staleness.states
        for asset, circuit in list(self._failing.items()):
            if asset not in states or states[asset].trial != circuit.trial:
                self._close(asset)

    def _failed(self, event: RunFailed, recorded: Recorded) -> None:
        now = recorded.recorded_at
        for asset, trial in self._runs.pop(event.run, {}).items():
            state = self._staleness.states.get(asset)
            if event.passing or event.kind in NO_VERDICT:
                self._put_off(asset, event.run, now)
                continue
            if state is None or state.trial != trial:
                continue  # code that is gone
            circuit = self._failing.setdefault(asset, Circuit(trial))
            circuit.failures += 1
            circuit.run, circuit.failed_at = event.run, recorded.position
            if circuit.failures == FAILURES:
                circuit.since_us = now
                circuit.next_at = now + circuit.wait_us
                self.open[asset] = circuit
            elif circuit.probe == event.run:
                circuit.wait_us = min(2 * circuit.wait_us, LONGEST_WAIT_US)
                self._put_off(asset, event.run, now)

    def _put_off(self, asset: AssetKey, run: int, now: int) -> None:
        """If this was the run that tried, the next one may only after the wait."""
        circuit = self.open.get(asset) if self.open else None
        if circuit is not None and circuit.probe == run:
            circuit.probe = 0
            circuit.next_at = now + circuit.wait_us

    def _close(self, asset: AssetKey) -> None:
        if self._failing:
            self._failing.pop(asset, None)
            self.open.pop(asset, None)


class CircuitRow(msgspec.Struct, frozen=True):
    """One open circuit as people are shown it: since when, after how many failed runs in a row, and
    which was the last; `probe` is the run that tries now, else the next may at `next_us`.
    """

    asset: AssetKey
    since_us: int
    failures: int
    run: int
    next_us: int
    probe: int | None


def circuit_rows(circuits: Circuits, assets: Iterable[AssetKey]) -> Iterator[CircuitRow]:
    """The open circuits of these assets."""
    for asset in assets if circuits.open else ():
        one = circuits.open.get(asset)
        if one is not None:
            numbers = (one.since_us, one.failures, one.run, one.next_at)
            yield CircuitRow(asset, *numbers, one.probe or None)


def circuit_text(circuit: Circuit) -> str:
    """What an open circuit says, in words."""
    tries = f"run {circuit.probe} tries" if circuit.probe else f"next try at {utc(circuit.next_at)}"
    return (
        f"its circuit is open since {utc(circuit.since_us)}: {circuit.failures} runs of this code"
        f" failed in a row, the last was run {circuit.run}; {tries}"
    )


def attempts(cell: Cell) -> int:
    """How many attempts with the same inputs and code have failed."""
    failure = cell.failure
    if failure is None or not failure.is_of(fingerprint(cell.home, cell.i), cell.home.trial):
        return 0
    return failure.attempt
