"""What every benchmark answers: a figure, its unit, and the bound it is held against."""

import statistics
from collections.abc import Sequence

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
