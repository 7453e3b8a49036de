"""Holders: which file is a partition, where several may claim to be."""

import os
from collections.abc import Sequence

from freshet.engine.keys import AssetKey, PartitionKey
from freshet.sensors.landing.entries import Known, state_of
from freshet.sensors.landing.places import Named, Place, name_of

Claim = tuple[AssetKey, PartitionKey]


class Holders:
    """The first by path of those that count holds a partition; the others are its heirs."""

    def __init__(self, places: Sequence[Place], known: Known) -> None:
        self._of: dict[Claim, Named] = {}
        self._heirs: dict[Claim, dict[str, Named]] = {}
        for item in known.below(""):
            if state_of(known.get(item)):
                named = name_of(places, item)
                if named is not None:
                    self.put(named)

    def of(self, named: Named) -> Named | None:
        """Who holds the partition of this one."""
        return self._of.get(_claim(named))

    def ahead_of(self, named: Named) -> Named | None:
        """The holder, if it comes before this one and is still there."""
        holder = self.of(named)
        if holder is None or holder.item >= named.item or not is_there(holder):
            return None
        return holder

    def put(self, named: Named) -> None:
        """It holds its partition from now on."""
        self._of[_claim(named)] = named
        self._leave(named)

    def drop(self, named: Named) -> None:
        """It is gone."""
        holder = self.of(named)
        if holder is not None and holder.item == named.item:
            del self._of[_claim(named)]
        self._leave(named)

    def queue(self, named: Named) -> None:
        """It would hold its partition if others did not."""
        self._heirs.setdefault(_claim(named), {})[named.item] = named

    def heirs(self, named: Named) -> list[Named]:
        """Those that would hold a partition if this one did not."""
        holder = self.of(named)
        if holder is None or holder.item != named.item:
            return []
        return list(self._heirs.get(_claim(named), {}).values())

    def _leave(self, named: Named) -> None:
        heirs = self._heirs.get(_claim(named))
        if heirs is not None and heirs.pop(named.item, None) is not None and not heirs:
            del self._heirs[_claim(named)]


def is_there(named: Named) -> bool:
    return os.path.lexists(named.path)


def claimed(named: Named, holder: Named) -> str:
    """Why the one does not count: the other does."""
    partition = f"partition '{named.partition}' of " if named.partition else ""
    return f"'{named.item}' would be {partition}'{named.place.source}', as '{holder.item}' is"


def _claim(named: Named) -> Claim:
    return named.place.source, named.partition
