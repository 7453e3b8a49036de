"""What every benchmark answers: figures, each with its unit, its spread, and the bound it is held
against.
"""

import compileall
import gc
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeVar

import anyio
import msgspec

from freshet.engine import daemon as engine
from freshet.engine.allocation import collect_garbage, settle_down
from freshet.engine.project import Project
from freshet.engine.running import Daemon

OURS = "freshet"
"""The side that is measured unless another one is named."""

TIMES = "×"
"""The unit of a ratio; `what` says of what to what."""

PACKAGES = ("freshet", "freshet.engine", "freshet.projections", "freshet.sensors")

MOST_SAMPLES = 1000
"""Samples kept of one figure: enough for a picture, and files stay small."""


T = TypeVar("T")


class Spread(msgspec.Struct, frozen=True):
    """How the samples of a figure lie, in its unit; `runs` is how many there are."""

    runs: int
    min: float
    median: float
    p99: float
    max: float


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One measured figure. `bound` is a floor if `higher_is_better`, else a
    ceiling; none: for the record.
    """

    case: str
    what: str
    value: float
    unit: str
    bound: float | None = None
    higher_is_better: bool = False
    spread: Spread | None = None
    side: str = OURS
    """Who is measured: us, a raw limit, or a peer with its version and setting."""
    size: float | None = None
    """Where on a curve of cost against size the figure lies."""
    counted: str = ""
    """What `size` counts: assets, partitions, events."""
    samples: tuple[float, ...] = ()
    """In order, at most MOST_SAMPLES; of figures with the same samples only one has them."""

    @property
    def met(self) -> bool | None:
        """Is the bound kept? None when there is none."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.higher_is_better else self.value <= self.bound

    @property
    def ratio(self) -> float | None:
        """How many times better than the bound; below 1 it is missed."""
        if self.bound is None or not self.value:
            return None
        return self.value / self.bound if self.higher_is_better else self.bound / self.value


class Case(Protocol):
    """A module that measures one thing."""

    @property
    def CONFIGURATION(self) -> str:
        """One sentence: exactly what is measured, and how it is set."""

    def run(self) -> list[Figure]:
        """Measure it at full length."""


def measured(
    case: str,
    what: str,
    values: Sequence[float],
    unit: str,
    bound: float | None = None,
    *,
    percent: int = 50,
    higher_is_better: bool = False,
    side: str = OURS,
    size: float | None = None,
    counted: str = "",
) -> Figure:
    """The figure of some samples: their percentile `percent` (0: the least, 100: the greatest),
    with their spread. The median keeps the samples.
    """
    return Figure(
        case,
        what,
        percentile(values, percent),
        unit,
        bound,
        higher_is_better,
        spread_of(values),
        side,
        size,
        counted,
        thinned(values) if percent == 50 else (),
    )


def compared(
    case: str,
    what: str,
    ratios: Sequence[float],
    bound: float | None = None,
    *,
    at_most: bool = False,
    size: float | None = None,
    counted: str = "",
) -> Figure:
    """The ratio of two sides, the median of that of each round; `at_most`: the bound is a ceiling,
    as of what we take beside a raw limit.
    """
    value, spread = percentile(ratios, 50), spread_of(ratios)
    return Figure(case, what, value, TIMES, bound, not at_most, spread, size=size, counted=counted)


def spread_of(values: Sequence[float]) -> Spread:
    """Of at least one sample."""
    return Spread(
        len(values),
        min(values),
        percentile(values, 50),
        percentile(values, 99),
        max(values),
    )


def thinned(values: Sequence[float]) -> tuple[float, ...]:
    """The samples in order of size, or as many quantiles of them as are kept, ends included."""
    ordered = sorted(values)
    if len(ordered) <= MOST_SAMPLES:
        return tuple(ordered)
    step = (len(ordered) - 1) / (MOST_SAMPLES - 1)
    return tuple(ordered[round(n * step)] for n in range(MOST_SAMPLES))


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of at least one value, interpolated; 0 is the least, 100 the greatest."""
    if len(values) == 1 or percent in (0, 100):
        return max(values) if percent else min(values)
    return statistics.quantiles(sorted(values), n=100, method="inclusive")[percent - 1]


def compile_modules() -> None:
    """Compile Freshet's modules, as pip does when it installs them. Run from its sources, with
    `PYTHONDONTWRITEBYTECODE` set, each process would compile them anew: no peer's do.
    """
    for package in PACKAGES:
        for folder in import_module(package).__path__:
            compileall.compile_dir(folder, quiet=1)


@asynccontextmanager
async def daemon(project: Project, state: Path) -> AsyncIterator[Daemon]:
    """A daemon in this process, set as `freshet run` sets its own."""
    before = gc.get_threshold()
    async with engine.daemon(project, state) as running, anyio.create_task_group() as tasks:
        settle_down()
        tasks.start_soon(collect_garbage, lambda: running.stream.head)
        try:
            yield running
        finally:
            tasks.cancel_scope.cancel()
            gc.unfreeze()
            gc.set_threshold(*before)


def in_a_folder(measure: Callable[[], Awaitable[T]]) -> T:
    """What is measured in a new folder on this disk, on the loop that a daemon would use."""

    async def measured() -> T:
        return await measure()

    before = Path.cwd()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        os.chdir(folder)
        try:
            return anyio.run(
                measured, backend_options={"use_uvloop": find_spec("uvloop") is not None}
            )
        finally:
            os.chdir(before)
