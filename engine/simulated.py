"""Runs in virtual time: the real runner without threads, with durations and failures to order."""

import random
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.events import AnyEvent
from freshet.engine.executors.invoke import Failed, Permit, Rejected, on_loop
from freshet.engine.graph import Graph
from freshet.engine.inputs import version_in
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.orders import Order
from freshet.engine.publishing import audit_inline
from freshet.engine.runner import Runner
from freshet.engine.work import Work
from freshet.projections.catalog import Version

T = TypeVar("T")

Duration = float | str | Callable[[random.Random], float | str]
"""Seconds, text such as `2s`, or a function that draws one from the random numbers it is given."""


class Conduct:
    """How simulated runs go: how long each takes at least, and which of the next ones fail.

    Each asset draws from random numbers of its own, so what it draws does not depend on when
    others run. Raises DefinitionError for durations of what is no asset.
    """

    def __init__(self, graph: Graph, durations: Mapping[AssetKey, Duration], seed: int | str):
        for key, duration in durations.items():
            spec = graph.specs.get(key)
            if spec is None or spec.is_source:
                runs = [k for k, other in graph.specs.items() if not other.is_source]
                raise DefinitionError(
                    f"durations name '{key}', "
                    + ("which is no asset" if spec is None else "a source: it has no runs"),
                    hint=did_you_mean(key, runs),
                )
            if not callable(duration):
                parse_duration_ms(duration, f"durations[{key!r}]")
        self._durations = dict(durations)
        self._seed = seed
        self._random: dict[AssetKey, random.Random] = {}
        self._failing: dict[AssetPartition, int] = {}

    def fail(self, target: AssetPartition, times: int) -> None:
        """Let the next runs of the target fail; without a partition, those of any partition."""
        self._failing[target] = self._failing.get(target, 0) + times

    def seconds(self, key: AssetKey) -> float:
        """How long the next run of an asset takes at least."""
        duration = self._durations.get(key, 0.0)
        if callable(duration):
            rng = self._random.setdefault(key, random.Random(f"{key} {self._seed}"))
            duration = duration(rng)
        return parse_duration_ms(duration, f"durations[{key!r}]") / 1000

    def fails(self, order: Order) -> bool:
        """Is this run one that was to fail?"""
        if not self._failing:
            return False
        key = order.spec.key
        names = [AssetPartition(key, target.partition) for target in order.targets]
        for name in (AssetPartition(key), *names):
            if name in self._failing:
                self._failing[name] -= 1
                if not self._failing[name]:
                    del self._failing[name]
                return True
        return False


class SimulatedRunner(Runner):
    """The runner on a virtual-time loop: every function is called inline, and a run ends once its
    function has returned and its duration has passed. Landed files are read below `folder`.
    """

    def __init__(self, *args: Any, conduct: Conduct, folder: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self._conduct = conduct
        self._folder = folder

    async def _call(self, work: Work, timeout: float | None) -> list[AnyEvent] | Failed:
        seconds = self._conduct.seconds(work.order.spec.key)
        fails = self._conduct.fails(work.order)
        here = {at: self._placed(version) for at, version in work.versions.items()}
        placed_here = msgspec.structs.replace(work, versions=here)
        return await on_loop(lambda: self._perform(placed_here, seconds, fails), timeout)

    async def _perform(self, work: Work, seconds: float, fails: bool) -> list[AnyEvent] | Failed:
        ends_at = self._timer() + seconds
        try:
            arguments = work.arguments()
            value = work.asset.function(**arguments)
            if work.asset.is_async:
                value = await value
        finally:
            if self._timer() < ends_at:
                await anyio.sleep(ends_at - self._timer())
        if fails:
            raise Rejected("error", "the simulation was told to let this run fail")
        work.confirm_files(arguments)
        draft = work.draft(value)
        found = await audit_inline(work.audit(draft))
        return work.published(draft, Permit(), found)

    def _fetch(self, position: int) -> Version:
        return self._placed(version_in(at_once(self._stream.at(position)), position))

    def _placed(self, version: Version) -> Version:
        """The version with the path under which its file lies here."""
        path = version.metadata.get("path")
        if version.run or not isinstance(path, str):
            return version
        metadata = {**version.metadata, "path": str(placed(self._folder, path))}
        return msgspec.structs.replace(version, metadata=metadata)


def placed(folder: Path, path: str) -> Path:
    """Where a simulation keeps the file that the project knows under this path."""
    return folder / path.lstrip("/").replace("..", "__")


def at_once(answer: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, as those that read from memory."""
    try:
        answer.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("it waits")
