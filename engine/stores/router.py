"""Several stores as one: which of them has the values of an asset follows from its key."""

from collections.abc import Mapping, Sequence
from typing import Any

from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.stores.store import Staged, Store, StoredVersion


def store_of(store: Store, asset: AssetKey, name: str = "") -> Store:
    """The store that has the values of an asset, if there are several; see `Router.store_of`."""
    return store.store_of(asset, name) if isinstance(store, Router) else store


class Router:
    """The store of a project that has several: `named` by name, `names` says which one an asset
    has; what it does not say goes to `default`.
    """

    def __init__(
        self, default: Store, named: Mapping[str, Store], names: Mapping[AssetKey, str]
    ) -> None:
        self._default = default
        self._named = dict(named)
        self._names = dict(names)
        self.in_memory = all(store.in_memory for store in self._all())

    def store_of(self, asset: AssetKey, name: str = "") -> Store:
        """Where the values of an asset are; of one that is not defined any more, by the name of
        the store it had.
        """
        return self._named.get(self._names.get(asset, name), self._default)

    def stage(self, target: AssetPartition, run: int, value: Any) -> Staged:
        return self.store_of(target.asset).stage(target, run, value)

    def look(self, staged: Staged, annotation: Any) -> Any:
        return self.store_of(staged.target.asset).look(staged, annotation)

    def publish(self, staged: Staged) -> None:
        self.store_of(staged.target.asset).publish(staged)

    def discard(self, run: int) -> None:
        for store in self._all():
            store.discard(run)

    def staged_runs(self) -> list[int]:
        return sorted({run for store in self._all() for run in store.staged_runs()})

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        return self.store_of(target.asset).load(target, data_version, annotation)

    def has(self, target: AssetPartition, data_version: str) -> bool:
        return self.store_of(target.asset).has(target, data_version)

    def versions(self, target: AssetPartition) -> Sequence[StoredVersion]:
        return self.store_of(target.asset).versions(target)

    def restore(self, target: AssetPartition, data_version: str) -> None:
        self.store_of(target.asset).restore(target, data_version)

    def remove(self, target: AssetPartition) -> None:
        self.store_of(target.asset).remove(target)

    def collect(self, target: AssetPartition, before_us: int) -> None:
        self.store_of(target.asset).collect(target, before_us)

    def _all(self) -> list[Store]:
        return list({id(one): one for one in (self._default, *self._named.values())}.values())
