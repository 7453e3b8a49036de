"""Admission: may what was seen be a partition of that source, and if not, why."""

from typing import Protocol

from freshet.engine.keys import PartitionKey, partition_key_problem
from freshet.engine.partitions import Dynamic, describe
from freshet.engine.spaces import Space, contains, is_too_far, space_of
from freshet.engine.specs import AssetSpec


class HasSpec(Protocol):
    """A source, as far as a sensor needs to know it."""

    @property
    def spec(self) -> AssetSpec: ...


class Admission:
    """The gate of one source; made once, asked for each change."""

    def __init__(self, source: AssetSpec) -> None:
        self._shape = source.partitions
        self._space: Space = space_of(source.partitions)
        self._partitioned = source.partitions is not None

    def problem(self, partition: PartitionKey, now_us: int) -> str:
        """Why this cannot be a partition of the source at this time; empty when it can."""
        problem = partition_key_problem(partition) if self._partitioned else None
        if problem is not None:
            return problem
        if isinstance(self._shape, Dynamic):
            return ""  # it takes whatever can be a key
        if not contains(self._shape, partition):
            return f"'{partition}' is no partition: {describe(self._shape)}"
        i = self._space.ordinal(partition)
        if i is not None and is_too_far(self._space, i, now_us):
            return f"'{partition}' is more than ten years ahead"
        return ""
