"""Multi-assets: one function, several outputs, one run that makes all of them or none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from typing_extensions import TypedDict, Unpack

from freshet.engine.arguments import columns_of, metadata_of, texts
from freshet.engine.assets import Asset, Input, Source, asset
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.keys import AssetKey, asset_key
from freshet.engine.partitions import Partitions
from freshet.engine.policies import Policy
from freshet.engine.schemas import version_with


class Out:
    """One output of a multi-asset: its key, and what is said of this one alone. What is left out is
    as the multi-asset says.
    """

    def __init__(
        self,
        key: str | Sequence[str],
        *,
        tags: Mapping[str, str] | None = None,
        owners: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        description: str | None = None,
        metadata: Mapping[str, object] | None = None,
        columns: Mapping[str, str | type] | None = None,
    ) -> None:
        self.key: AssetKey = asset_key(key)
        said: dict[str, Any] = {"description": description}
        said["columns"] = columns_of(self.key, columns, "fr.Out") or None
        said["tags"] = None if tags is None else dict(tags)
        said["owners"] = None if owners is None else texts(owners, self.key, "owners")
        said["kinds"] = None if kinds is None else texts(kinds, self.key, "kinds")
        said["metadata"] = None if metadata is None else metadata_of(metadata, self.key)
        self.said = {name: value for name, value in said.items() if value is not None}

    @property
    def name(self) -> str:
        """How the function calls it: the last segment of its key."""
        return self.key.rpartition("/")[2]


class Options(TypedDict, total=False):
    """What is said of all outputs; see `asset`."""

    deps: Sequence[str | Asset | Source | Input]
    inputs: Mapping[str, str | Asset | Source | Input]
    partitions: Partitions
    freshness: Policy
    code_version: str
    retries: int
    retry_delay: float | str
    timeout: float | str
    executor: str
    pools: str | Sequence[str] | Mapping[str, int]
    store: str
    group: str
    tags: Mapping[str, str]
    owners: Sequence[str]
    kinds: Sequence[str]
    description: str
    metadata: Mapping[str, object]


class MultiAsset:
    """A function and the assets it makes. Calling it calls the function; `multi["name"]` is the
    asset of that name, or key.
    """

    def __init__(self, function: Callable[..., Any], assets: Sequence[Asset]) -> None:
        self.function = function
        self.assets = tuple(assets)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", "?")

    @property
    def where(self) -> str:
        return self.assets[0].where

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __iter__(self) -> Iterator[Asset]:
        return iter(self.assets)

    def __getitem__(self, name: str) -> Asset:
        for item in self.assets:
            if name in (item.key, item.key.rpartition("/")[2]):
                return item
        known = [item.key for item in self.assets]
        raise DefinitionError(
            f"'{self.__name__}' has no output '{name}' ({self.where})",
            cause=f"it makes {', '.join(known)}",
            hint=did_you_mean(name, known),
        )

    def __repr__(self) -> str:
        return f"MultiAsset({', '.join(item.key for item in self.assets)})"


def multi_asset(
    outputs: Sequence[str | Out], **options: Unpack[Options]
) -> Callable[[Callable[..., Any]], MultiAsset]:
    """Declare that this function produces several assets, always all of them: what one run makes is
    recorded in one append, and published by it, or not at all.

    `outputs` are their keys, or `fr.Out` to say more of one. The function returns a dict by the
    last segments of the keys, or a tuple in their order; each may be a `fr.Output`. They are made
    from the same inputs, by the same partitions, under one policy; a run starts when one of them
    has to be built, and fails if one of them does not pass its checks. The other arguments are
    those of `fr.asset`. Raises DefinitionError naming asset and file.
    """

    def declare(function: Callable[..., Any]) -> MultiAsset:
        place = getattr(function, "__name__", repr(function))
        outs = [out if isinstance(out, Out) else Out(out) for out in outputs]
        names = tuple(out.name for out in outs)
        if isinstance(outputs, str) or len(set(names)) < len(names) or len(names) < 2:
            raise DefinitionError(
                f"the outputs of multi-asset '{place}' are {outputs!r}",
                cause="it makes two or more, and calls each by the last segment of its key",
                hint="@fr.multi_asset(['users', 'orders']); for one, use @fr.asset",
            )
        together = tuple(out.key for out in outs)
        found = []
        for out in outs:
            one = asset(key=out.key, **options)(function)
            code = version_with(one.spec.code_version, out.said.get("columns", {}))
            one.spec = msgspec.structs.replace(
                one.spec, together=together, code_version=code, **out.said
            )
            one.outputs = names
            if one.changes_of:
                raise DefinitionError(
                    f"multi-asset '{place}' has the parameter"
                    f" '{next(iter(one.changes_of))}: fr.Changes' ({one.where})",
                    cause="what has been read change by change is kept for each asset by itself",
                    hint="read the changes in one asset, and make the others from that",
                )
            found.append(one)
        return MultiAsset(function, found)

    return declare


def flattened(items: Sequence[object]) -> list[object]:
    """The definitions with multi-assets taken apart."""
    found: list[object] = []
    for item in items:
        found.extend(item.assets if isinstance(item, MultiAsset) else [item])
    return found
