"""A virtual world around the pure core: `decide` and the fold, runs of known length, no waiting."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from freshet.engine import events as e
from freshet.engine.graph import Graph
from freshet.engine.origins import cause_of
from freshet.engine.reactor import decide
from freshet.engine.specs import AssetSpec
from freshet.projections.view import View

START_US = 1_767_225_600_000_000
"""2026-01-01, UTC."""


class World:
    """Assets whose runs take `times` (s); what is recorded, and when. `at` schedules what a test
    does, `run` lets time pass.
    """

    def __init__(
        self,
        specs: Iterable[AssetSpec],
        times: dict[str, float | Callable[[random.Random], float]] | None = None,
        *,
        slots: int = 64,
        start: int = START_US,
        seed: int = 0,
    ) -> None:
        self.view = View()
        self.now = self.start = start
        self.slots = slots
        self.times = times or {}
        self.rng = random.Random(seed)
        self.recorded: list[e.Recorded] = []
        self.fails: set[str] = set()
        self.decisions = 0
        self._agenda: list[tuple[int, int, Callable[[], object]]] = []
        self._order = 0
        self._wake_at: int | None = None
        self.say(e.EngineStarted("x", slots=slots))
        self.deploy(specs)

    def deploy(self, specs: Iterable[AssetSpec]) -> None:
        graph = Graph.build(specs)
        self.say(e.GraphDeployed(graph.digest, tuple(graph.specs.values())))

    def seconds(self, at_us: int) -> float:
        return (at_us - self.start) / 1e6

    def say(self, event: e.AnyEvent) -> e.Recorded:
        recorded = e.Recorded(self.view.position + 1, self.now, event, cause_of(event))
        self.recorded.append(recorded)
        self.view.apply(recorded)
        return recorded

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Do this so many seconds after the start."""
        self._at_us(self.start + round(seconds * 1e6), action)

    def change(self, seconds: float, source: str, partition: str = "") -> None:
        version = f"v{self._order}"  # of now: two changes with nothing in between differ too
        self.at(seconds, lambda: self.say(e.SourceChanged(source, partition, version)))

    def run(self, until: float) -> None:
        """Let time pass to so many seconds after the start."""
        end = self.start + round(until * 1e6)
        self._act()
        while True:
            wake = self._wake_at
            following = self._agenda[0][0] if self._agenda else None
            at = min((t for t in (wake, following) if t is not None), default=end + 1)
            if at > end:
                break
            self.now = max(self.now, at)
            while self._agenda and self._agenda[0][0] <= self.now:
                heappop(self._agenda)[2]()
            self._act()
        self.now = end

    def starts(self, asset: str | None = None) -> list[float]:
        """When (s) runs started."""
        return [
            self.seconds(r.recorded_at)
            for r in self.recorded
            if isinstance(r.event, e.RunStarted) and asset in (None, r.event.targets[0].asset)
        ]

    def counts(self) -> Counter[str]:
        started = (r.event for r in self.recorded if isinstance(r.event, e.RunStarted))
        return Counter(event.targets[0].asset for event in started)

    def of(self, kind: type) -> list[e.Recorded]:
        return [r for r in self.recorded if isinstance(r.event, kind)]

    def _at_us(self, at: int, action: Callable[[], object]) -> None:
        self._order += 1
        item: tuple[int, int, Callable[[], object]] = (at, self._order, action)
        heappush(self._agenda, item)

    def _act(self) -> None:
        for _ in range(1000):
            decision = decide(self.view, self.now, self.slots)
            self.decisions += 1
            for event in decision.events:
                said = self.say(event)
                if isinstance(event, e.RunStarted):
                    self._launch(said, event)
            if not decision.events:
                self._wake_at = decision.wake_at
                assert self._wake_at is None or self._wake_at > self.now, "it would spin"
                return
        raise AssertionError("it never comes to rest")

    def _launch(self, said: e.Recorded, event: e.RunStarted) -> None:
        target = event.targets[0]
        time = self.times.get(target.asset, 0.1)
        seconds = time(self.rng) if callable(time) else time
        took = round(seconds * 1e6)
        self._at_us(self.now + took, lambda: self._end(said.position, event, took))

    def _end(self, run: int, event: e.RunStarted, took: int) -> None:
        if run not in self.view.runs.live:
            return
        if event.targets[0].asset in self.fails:
            self.say(e.RunFailed(run, "error", "told to", "", took))
            return
        for t in event.targets:
            self.say(e.Materialized(t.asset, t.partition, run, f"r{run}", t.code_version))
        self.say(e.RunSucceeded(run, took))
