"""An orphan: an asset that was built and is not defined any more, as a project's hook gets it."""

from collections.abc import Callable, Sequence

from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.stores.store import Store, StoredVersion


class Orphan:
    """An asset that is not defined any more: its key, and the partitions that have a version."""

    def __init__(
        self,
        key: AssetKey,
        partitions: tuple[PartitionKey, ...],
        store: Store,
        forget: Callable[[], None],
    ) -> None:
        self.key = key
        self.partitions = partitions
        self._store = store
        self._forget = forget

    def versions(self, partition: PartitionKey = "") -> Sequence[StoredVersion]:
        """The versions of a partition that the store keeps, the newest first."""
        return self._store.versions(AssetPartition(self.key, partition))

    def delete(self) -> None:
        """Delete all its values, old versions too, for good. Its history stays; should it be
        defined again, it is built anew. Raises StoreError if it is defined again already.
        """
        self._forget()
        for partition in self.partitions:
            self._store.remove(AssetPartition(self.key, partition))

    def __repr__(self) -> str:
        return f"Orphan({self.key!r}, {len(self.partitions)} partitions)"


OnRemoved = Callable[[Orphan], object]
"""What a project does about an orphan. Called in a worker thread; what it returns does not count.
"""
