"""Assets and sources as users declare them, and their resolution into a checked graph."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, overload

from freshet.engine.arguments import (
    check_declared,
    check_partitions,
    columns_of,
    executor_of,
    metadata_of,
    shares,
    store_name,
    texts,
    timeout_ms,
)
from freshet.engine.changes import is_changes, payload_type
from freshet.engine.codeversion import code_version as derived_version
from freshet.engine.durations import parse_duration_ms
from freshet.engine.keys import AssetKey, asset_key
from freshet.engine.mappings import Custom, PartitionMapping
from freshet.engine.partitions import Partitions
from freshet.engine.policies import AllOf, AnyOf, Policy, all_of, any_of, check_policy
from freshet.engine.schemas import type_name, version_with
from freshet.engine.signatures import annotations_of, config_of, parameters_of, place_of
from freshet.engine.specs import AssetSpec, Missing


class Input(NamedTuple):
    """A dependency said in full: which asset a parameter reads, how its partitions map, and what to
    do about one that is missing: `"wait"`, `"skip"` (go on, the gap is recorded) or `"fail"`, the
    last two once `deadline` (seconds, or "2h") has passed since its window was over.
    """

    key: "str | Asset | Source"
    mapping: PartitionMapping | Custom | None = None
    missing: Missing = ""
    deadline: float | str = 0


class Named:
    """What may stand in a condition: `fr.eager().when(a & (b | c))`."""

    @property
    def key(self) -> AssetKey:
        raise NotImplementedError

    def __and__(self, other: object) -> AllOf:
        return all_of(self, other)

    def __or__(self, other: object) -> AnyOf:
        return any_of(self, other)


class Source(Named):
    """An asset produced outside Freshet: its key, and what is known of it."""

    def __init__(self, spec: AssetSpec, where: str) -> None:
        self.spec = spec
        self.where = where

    @property
    def key(self) -> AssetKey:
        return self.spec.key

    def __repr__(self) -> str:
        return f"Source({self.key!r})"


class Asset(Named):
    """A function and what is declared of it. Calling it calls the function, so tests need no
    engine.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        spec: AssetSpec,
        executor: str | None,
        has_policy: bool,
        deps: Sequence["str | Asset | Source | Input"],
        inputs: Mapping[str, "str | Asset | Source | Input"],
    ) -> None:
        self.function = function
        self.spec = spec
        self.has_policy = has_policy
        self.where = place_of(function)
        check_policy(spec.policy, f"asset '{spec.key}' ({self.where}): freshness")
        self.deps = tuple(deps)
        self.inputs = dict(inputs)
        self.parameters, self.takes_context = parameters_of(function, spec.key, self.where)
        self.outputs: tuple[str, ...] = ()
        """Of a function that makes several assets: how it calls what it returns, as in
        `spec.together`.
        """
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self.executor = executor_of(spec.key, executor, self.is_async, self.where)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", spec.key)

    @property
    def key(self) -> AssetKey:
        return self.spec.key

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """Annotations as objects, resolved on first use: forward references are defined by then."""
        return annotations_of(self.function)

    @cached_property
    def changes_of(self) -> dict[str, Any]:
        """The parameters that receive changes instead of a value, with the type of payloads."""
        return {
            name: payload_type(self.annotations[name])
            for name in self.parameters
            if is_changes(self.annotations.get(name))
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Asset({self.key!r})"


Definition = Asset | Source


@overload
def asset(function: Callable[..., Any], /) -> Asset: ...


@overload
def asset(
    function: None = None,
    /,
    *,
    key: str | Sequence[str] | None = None,
    deps: Sequence[str | Asset | Source | Input] = (),
    inputs: Mapping[str, str | Asset | Source | Input] | None = None,
    partitions: Partitions | None = None,
    freshness: Policy | None = None,
    code_version: str | None = None,
    retries: int = 0,
    retry_delay: float | str = 1.0,
    timeout: float | str | None = None,
    executor: str | None = None,
    batch: int = 1,
    max_changes: int | None = None,
    pools: str | Sequence[str] | Mapping[str, int] = (),
    store: str = "",
    group: str = "default",
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] = (),
    kinds: Sequence[str] = (),
    description: str | None = None,
    metadata: Mapping[str, object] | None = None,
    columns: Mapping[str, str | type] | None = None,
) -> Callable[[Callable[..., Any]], Asset]: ...


def asset(
    function: Callable[..., Any] | None = None,
    /,
    *,
    key: str | Sequence[str] | None = None,
    deps: Sequence[str | Asset | Source | Input] = (),
    inputs: Mapping[str, str | Asset | Source | Input] | None = None,
    partitions: Partitions | None = None,
    freshness: Policy | None = None,
    code_version: str | None = None,
    retries: int = 0,
    retry_delay: float | str = 1.0,
    timeout: float | str | None = None,
    executor: str | None = None,
    batch: int = 1,
    max_changes: int | None = None,
    pools: str | Sequence[str] | Mapping[str, int] = (),
    store: str = "",
    group: str = "default",
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] = (),
    kinds: Sequence[str] = (),
    description: str | None = None,
    metadata: Mapping[str, object] | None = None,
    columns: Mapping[str, str | type] | None = None,
) -> Asset | Callable[[Callable[..., Any]], Asset]:
    """Declare that this function produces an asset; its parameters are the assets it is made from.

    A parameter `flights` reads the asset `flights`, or the only one whose last segment is that;
    `inputs` renames or maps, `deps` names what is depended on but not loaded. A parameter with a
    default is configuration and part of the code version; `context` receives the run's Context.
    `freshness` is the policy (none: the project's). `retries` are made with full-jitter backoff
    from `retry_delay`; an attempt longer than `timeout` fails. Sync functions are called in
    threads, async ones on the loop, with `executor="process"` either in a worker process. With
    `batch=n` one run may take up to n partitions: the function returns a dict of partition key to
    value. A parameter annotated `fr.Changes` receives changes, each in one successful run, at most
    `max_changes` (1,000) at a time: those of the source it names, else of all sources in `deps`. A
    run takes of each of `pools` a share of 1, or the weight given, and waits until there is room.
    `store` names one of the project's `stores`; moved there, it is built anew. Only a table of
    exactly these `columns` is published. Raises DefinitionError naming asset and file.
    """

    def declare(function: Callable[..., Any]) -> Asset:
        name = asset_key(key if key is not None else getattr(function, "__name__", "?"))
        where = place_of(function)
        check_declared(name, retries, partitions, batch, max_changes, where)
        spec = AssetSpec(
            name,
            partitions=partitions,
            policy=freshness if freshness is not None else AssetSpec("x").policy,
            code_version=_version_of(function, code_version, columns, store),
            retries=retries,
            retry_delay_ms=parse_duration_ms(retry_delay, f"asset '{name}': retry_delay"),
            timeout_ms=timeout_ms(name, timeout, where),
            batch=batch,
            max_changes=max_changes if max_changes is not None else AssetSpec("x").max_changes,
            group=group,
            tags=dict(tags or {}),
            owners=texts(owners, name, "owners"),
            kinds=texts(kinds, name, "kinds"),
            description=inspect.getdoc(function) or "" if description is None else description,
            metadata=metadata_of(metadata or {}, name),
            pools=shares(name, pools, where),
            store=store_name(name, store, where),
            columns=columns_of(name, columns, where),
            config=config_of(function),
        )
        return Asset(function, spec, executor, freshness is not None, deps, inputs or {})

    return declare(function) if function is not None else declare


def _version_of(
    function: Callable[..., Any],
    given: str | None,
    columns: Mapping[str, str | type] | None,
    store: str,
) -> str:
    """What a person says it is, or what follows from the code; and what is declared of its columns,
    and where it has its values: another table, or another place, is another code.
    """
    named = {column: type_name(kind) for column, kind in (columns or {}).items()}
    code = version_with(given if given is not None else derived_version(function), named)
    return f"{code}@{store}" if store else code


def source(
    key: str | Sequence[str],
    *,
    partitions: Partitions | None = None,
    group: str = "default",
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] = (),
    kinds: Sequence[str] = (),
    description: str = "",
    metadata: Mapping[str, object] | None = None,
) -> Source:
    """Declare an asset that is produced outside Freshet; a sensor or `freshet emit` tells its
    versions.
    """
    name = asset_key(key)
    here = inspect.currentframe()
    caller = here.f_back if here is not None else None
    where = f"{caller.f_code.co_filename}:{caller.f_lineno}" if caller is not None else "?"
    check_partitions(name, partitions, where)
    spec = AssetSpec(
        name,
        "source",
        partitions=partitions,
        group=group,
        tags=dict(tags or {}),
        owners=texts(owners, name, "owners"),
        kinds=texts(kinds, name, "kinds"),
        description=description,
        metadata=metadata_of(metadata or {}, name),
    )
    return Source(spec, where)
