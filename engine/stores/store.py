"""The store contract: values are staged hidden, then published, and loaded by exact version."""

from typing import Any, Protocol

import msgspec

from freshet.engine.keys import AssetPartition
from freshet.engine.specs import Plain


class Staged(msgspec.Struct, frozen=True):
    """A value written but not yet visible: its data version and what is worth knowing of it.

    `data_version` is the digest of the stored content: equal content, equal version.
    `metadata` has `bytes` (size) and, for tables, `rows` and `columns`.
    """

    target: AssetPartition
    run: int
    data_version: str
    metadata: dict[str, Plain]
    location: str


class Store(Protocol):
    """Where values live (an IO manager, for those who come from Dagster).

    All methods are synchronous and thread-safe; the runner calls them in worker threads when
    `in_memory` is false. A loader never sees a half-written or mixed value: published versions are
    immutable, and the pointer to the newest moves atomically. Failures raise StoreError.
    """

    in_memory: bool

    def stage(self, target: AssetPartition, run: int, value: Any) -> Staged:
        """Write the value where no reader looks. Raises StoreError for a type it cannot store."""
        ...

    def look(self, staged: Staged, annotation: Any) -> Any:
        """The staged value, before it is published, in the form the annotation asks for."""
        ...

    def publish(self, staged: Staged) -> None:
        """Make the staged value visible as this version and as the current one; durable on
        return.
        """
        ...

    def discard(self, run: int) -> None:
        """Forget what the run staged and did not publish; no error when there is nothing."""
        ...

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        """The value of exactly this version, in the form the annotation asks for."""
        ...

    def has(self, target: AssetPartition, data_version: str) -> bool:
        """Can this version be loaded?"""
        ...
