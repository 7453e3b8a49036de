"""Orphans: assets that were built, and are not defined any more."""

import msgspec

from freshet.engine.keys import AssetKey, PartitionKey
from freshet.projections.view import View


class OrphanRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """An orphan: since which deployment (its position), with which partitions that have a version;
    `store` is the name of the store it had. `handled_at` is the event by which the project's hook
    was told.
    """

    asset: AssetKey
    removed_at: int
    partitions: tuple[PartitionKey, ...]
    store: str = ""
    handled_at: int = 0


def orphan_rows(view: View, asset: AssetKey | None = None) -> list[OrphanRow]:
    """All orphans, or that one if it is one, by key. Costs the partitions of all of them."""
    there: dict[AssetKey, list[PartitionKey]] = {}
    for name, kept in view.staleness.attic.items():
        if kept.made and name.asset in view.catalog.removed and asset in (None, name.asset):
            there.setdefault(name.asset, []).append(name.partition)
    return [
        OrphanRow(
            key,
            view.catalog.removed_at[key],
            tuple(sorted(partitions)),
            view.catalog.removed[key].store,
            view.catalog.handled.get(key, 0),
        )
        for key, partitions in sorted(there.items())
    ]
