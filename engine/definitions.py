"""What a loop works with of a project: the user's functions, and where their values live."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from freshet.engine.assets import Asset
from freshet.engine.checks import Check
from freshet.engine.keys import AssetKey
from freshet.engine.resources import Resource
from freshet.engine.stores.store import Store


class Definitions(msgspec.Struct, frozen=True):
    """The functions that make assets, the checks of what they make, the store, and what they are
    lent. A run goes on with those it started with.
    """

    assets: Mapping[AssetKey, Asset]
    store: Store
    checks: Mapping[AssetKey, Sequence[Check]] = {}
    resources: Mapping[str, Resource] = {}
    """What is lent to those functions that name it as a parameter."""
    origin: str = ""
    """From where another process can load the project; empty: nobody knows."""
    digest: str = ""
    """Of the graph."""
    code: str = ""
    """Of the files they were loaded from; empty: nobody knows."""
    generation: int = 0
    """Different for each project that was loaded, be it from the same files."""

    def checks_of(self, assets: Iterable[AssetKey]) -> Mapping[AssetKey, Sequence[Check]]:
        """The checks of these assets; empty if there are none."""
        if not self.checks:
            return {}
        return {key: self.checks[key] for key in assets if key in self.checks}

    def lent_to(self, asset: Asset, checks: Mapping[AssetKey, Sequence[Check]]) -> dict[str, None]:
        """The resources that a run needs, in the order of its functions' parameters."""
        takers: list[Asset | Check] = [asset, *(one for each in checks.values() for one in each)]
        names = (name for taker in takers for name in taker.parameters)
        return dict.fromkeys(name for name in names if name in self.resources)

    def columns_of(self, assets: Iterable[AssetKey]) -> Mapping[AssetKey, Mapping[str, str]]:
        """The declared columns of these assets, of those that declare any."""
        specs = [self.assets[key].spec for key in assets]
        return {spec.key: spec.columns for spec in specs if spec.columns}
