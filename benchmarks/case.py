"""What every benchmark answers: a figure, its unit, and the bound it is held against."""

import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import anyio
import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One measured figure. `bound` is a floor if `higher_is_better`, else a
    ceiling; none: for the record.
    """

    case: str
    what: str
    value: float
    unit: str
    bound: float | None = None
    higher_is_better: bool = False

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


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of at least two values, interpolated."""
    return statistics.quantiles(sorted(values), n=100, method="inclusive")[percent - 1]


def in_a_folder(measure: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    """What is measured in a new folder on this disk, on the loop that a daemon would use."""

    async def measured() -> list[Figure]:
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
