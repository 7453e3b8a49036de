"""The store contract: values are staged hidden, then published, and loaded by exact version."""

from collections.abc import Sequence
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


class StoredVersion(msgspec.Struct, frozen=True):
    """A version that a store keeps: `bytes` is the size of its content, `stored_at` (µs) when it
    was last published or restored, `current` whether it is what people look at.
    """

    data_version: str
    bytes: int
    stored_at: int
    current: bool


class Store(Protocol):
    """Where values live (an IO manager, for those who come from Dagster).

    All methods are synchronous and thread-safe; the runner calls them in worker threads when
    `in_memory` is false. A loader never sees a half-written or mixed value: published versions are
    immutable, and the pointer to the newest moves atomically. Failures raise StoreError.

    Nothing is removed but by `collect` and `remove`. The engine calls `collect` after a publish,
    with the moment since which what live runs read may have been superseded: so a run can load
    each version it was started with for as long as it lives, however many are published meanwhile.
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
        return. Again, for a version that is kept, it is made the current one. Raises StoreError
        when it is neither staged nor kept.
        """
        ...

    def discard(self, run: int) -> None:
        """Forget what the run staged and did not publish; no error when there is nothing."""
        ...

    def staged_runs(self) -> list[int]:
        """The runs, in order, of which something is staged, by this process or an earlier one."""
        ...

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        """The value of exactly this version, in the form the annotation asks for."""
        ...

    def has(self, target: AssetPartition, data_version: str) -> bool:
        """Can this version be loaded?"""
        ...

    def versions(self, target: AssetPartition) -> Sequence[StoredVersion]:
        """The versions that are kept, the one last published or restored first."""
        ...

    def restore(self, target: AssetPartition, data_version: str) -> None:
        """Make a kept version the current one for people who look at the store, atomically; again
        is harmless. Raises StoreError when it is not kept.
        """
        ...

    def remove(self, target: AssetPartition) -> None:
        """Delete the current value and all kept versions; no error when there is nothing."""
        ...

    def collect(self, target: AssetPartition, before_us: int) -> None:
        """Delete the versions that retention does not ask for; never the current one, nor one that
        was superseded at or after `before_us` (µs), as somebody may be reading it.
        """
        ...
