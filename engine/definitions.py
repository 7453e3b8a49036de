"""What a loop works with of a project: the user's functions, and where their values live."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from freshet.engine.assets import Asset
from freshet.engine.checks import Check
from freshet.engine.keys import AssetKey
from freshet.engine.stores.store import Store


class Definitions(msgspec.Struct, frozen=True):
    """The functions that make assets, the checks of what they make, and the store. A run goes on
    with those it started with.
    """

    assets: Mapping[AssetKey, Asset]
    store: Store
    checks: Mapping[AssetKey, Sequence[Check]] = {}

    def checks_of(self, assets: Iterable[AssetKey]) -> Mapping[AssetKey, Sequence[Check]]:
        """The checks of these assets; empty if there are none."""
        if not self.checks:
            return {}
        return {key: self.checks[key] for key in assets if key in self.checks}
