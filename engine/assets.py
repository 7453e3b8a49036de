"""Assets and sources as users declare them, and their resolution into a checked graph."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, overload

import msgspec

from freshet.engine.arguments import (
    check_batch,
    check_partitions,
    check_types,
    plain,
    texts,
)
from freshet.engine.codeversion import code_version as derived_version
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.graph import Graph
from freshet.engine.keys import AssetKey, asset_key
from freshet.engine.mappings import Custom, PartitionMapping, default_mapping
from freshet.engine.partitions import Partitions, describe
from freshet.engine.policies import AllOf, AnyOf, Policy, all_of, any_of, check_policy
from freshet.engine.signatures import annotations_of, parameters_of, place_of
from freshet.engine.specs import AssetSpec, Dependency, Missing, Plain


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
        *,
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
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", spec.key)

    @property
    def key(self) -> AssetKey:
        return self.spec.key

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """Annotations as objects, resolved on first use: forward references are defined by then."""
        return annotations_of(self.function)

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
    batch: int = 1,
    group: str = "default",
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] = (),
    kinds: Sequence[str] = (),
    description: str | None = None,
    metadata: Mapping[str, Plain] | None = None,
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
    batch: int = 1,
    group: str = "default",
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] = (),
    kinds: Sequence[str] = (),
    description: str | None = None,
    metadata: Mapping[str, Plain] | None = None,
) -> Asset | Callable[[Callable[..., Any]], Asset]:
    """Declare that this function produces an asset; its parameters are the assets it is made from.

    A parameter `flights` reads the asset `flights`, or the only one whose last segment is that;
    `inputs` renames or maps, `deps` names what is depended on but not loaded. A parameter with a
    default is configuration and part of the code version; `context` receives the run's Context.
    `freshness` is the policy (none: the project's). `retries` are made with full-jitter backoff
    from `retry_delay`; an attempt longer than `timeout` fails. With `batch=n` one run may take up
    to n partitions: the function returns a dict of partition key to value. Durations are seconds
    or text like "15m". The rest is for people. Raises DefinitionError naming asset and file.
    """

    def declare(function: Callable[..., Any]) -> Asset:
        name = asset_key(key if key is not None else getattr(function, "__name__", "?"))
        where = place_of(function)
        if retries < 0:
            raise DefinitionError(
                f"asset '{name}' has retries={retries} ({where})", hint="use 0 or more"
            )
        check_partitions(name, partitions, where)
        check_batch(name, batch, partitions, where)
        limit = (
            parse_duration_ms(timeout, f"asset '{name}': timeout") if timeout is not None else None
        )
        if limit == 0:
            raise DefinitionError(
                f"asset '{name}' has a timeout of 0 ({where})", hint="leave it out for none"
            )
        spec = AssetSpec(
            name,
            "asset",
            partitions=partitions,
            policy=freshness if freshness is not None else AssetSpec("x").policy,
            code_version=code_version if code_version is not None else derived_version(function),
            retries=retries,
            retry_delay_ms=parse_duration_ms(retry_delay, f"asset '{name}': retry_delay"),
            timeout_ms=limit,
            batch=batch,
            group=group,
            tags=dict(tags or {}),
            owners=texts(owners, name, "owners"),
            kinds=texts(kinds, name, "kinds"),
            description=inspect.getdoc(function) or "" if description is None else description,
            metadata=plain(metadata or {}, name),
        )
        return Asset(
            function, spec, has_policy=freshness is not None, deps=deps, inputs=inputs or {}
        )

    return declare(function) if function is not None else declare


def source(
    key: str | Sequence[str],
    *,
    partitions: Partitions | None = None,
    group: str = "default",
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] = (),
    kinds: Sequence[str] = (),
    description: str = "",
    metadata: Mapping[str, Plain] | None = None,
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
        metadata=plain(metadata or {}, name),
    )
    return Source(spec, where)


def resolve(
    definitions: Sequence[Definition],
    default_policy: Policy,
    by_group: Mapping[str, Policy] | None = None,
) -> tuple[Graph, dict[AssetKey, Asset]]:
    """The checked graph of all definitions, and the assets by key. An asset that names no policy
    has that of its group, or the default.

    Raises DefinitionError naming the asset and the file for whatever does not fit.
    """
    known: dict[AssetKey, Definition] = {}
    for item in definitions:
        if not isinstance(item, Asset | Source):
            raise DefinitionError(
                f"Project(assets=[...]) has {item!r}, which is neither an asset nor a source",
                hint="decorate functions with @fr.asset; make sources with fr.source(...)",
            )
        if item.key in known:
            raise DefinitionError(
                f"asset '{item.key}' is defined twice: {known[item.key].where} and {item.where}",
                hint="give one of them another key=",
            )
        known[item.key] = item
    specs = [
        _resolved(item, known, (by_group or {}).get(item.spec.group, default_policy))
        if isinstance(item, Asset)
        else item.spec
        for item in known.values()
    ]
    for spec in specs:
        check_types(spec, known[spec.key].where)
    places = {key: item.where for key, item in known.items()}
    assets = {key: item for key, item in known.items() if isinstance(item, Asset)}
    return Graph.build(specs, places), assets


def _resolved(item: Asset, known: Mapping[AssetKey, Definition], default: Policy) -> AssetSpec:
    for name in item.inputs:
        if name not in item.parameters:
            raise DefinitionError(
                f"asset '{item.key}' has inputs={{'{name}': ...}} but no parameter of that name"
                f" ({item.where})",
                hint=did_you_mean(name, item.parameters)
                or "inputs= names parameters of the function",
            )
    for name in item.parameters:
        written = getattr(inspect.unwrap(item.function), "__annotations__", {})
        if name in written and name not in item.annotations:
            raise DefinitionError(
                f"the annotation {written[name]!r} of parameter '{name}' of asset '{item.key}'"
                f" cannot be resolved ({item.where})",
                cause="it says in which form the value is loaded",
                hint="import the name where the module can see it, not under TYPE_CHECKING",
            )
    deps = [
        _dependency(item, item.inputs[name], name, known)
        if name in item.inputs
        else _by_parameter(item, name, known)
        for name in item.parameters
    ]
    deps += [_dependency(item, dep, "", known) for dep in item.deps]
    policy = item.spec.policy if item.has_policy else default
    return msgspec.structs.replace(item.spec, deps=tuple(dict.fromkeys(deps)), policy=policy)


def _by_parameter(item: Asset, name: str, known: Mapping[AssetKey, Definition]) -> Dependency:
    matches = [name] if name in known else [key for key in known if key.rpartition("/")[2] == name]
    if len(matches) > 1:
        raise DefinitionError(
            f"parameter '{name}' of asset '{item.key}' could be any of {', '.join(sorted(matches))}"
            f" ({item.where})",
            hint=f"say which: inputs={{'{name}': '{sorted(matches)[0]}'}}",
        )
    if not matches:
        leaves = [key.rpartition("/")[2] for key in known]
        raise DefinitionError(
            f"parameter '{name}' of asset '{item.key}' is no asset ({item.where})",
            cause="a parameter without a default names the asset it reads",
            hint=did_you_mean(name, leaves)
            or "define that asset, rename with inputs=, or give the parameter a default",
        )
    return _dependency(item, matches[0], name, known)


def _dependency(
    item: Asset,
    wanted: str | Asset | Source | Input,
    parameter: str,
    known: Mapping[AssetKey, Definition],
) -> Dependency:
    mapping = wanted.mapping if isinstance(wanted, Input) else None
    target = wanted.key if isinstance(wanted, Input) else wanted
    key = asset_key(target) if isinstance(target, str) else target.key
    upstream = known.get(key)
    if upstream is None:
        raise DefinitionError(
            f"asset '{item.key}' depends on '{key}', which is not in the project ({item.where})",
            hint=did_you_mean(key, known) or "add it to Project(assets=[...])",
        )
    theirs, ours = upstream.spec.partitions, item.spec.partitions
    if not isinstance(mapping, PartitionMapping | Custom | None):
        raise DefinitionError(
            f"asset '{item.key}': mapping={mapping!r} of '{key}' is no mapping ({item.where})",
            hint="fr.trailing(7), fr.previous(), fr.last(), fr.all_partitions() and their like",
        )
    try:
        if isinstance(mapping, Custom):
            mapping = mapping.tabulate(theirs, ours)
    except DefinitionError as error:
        where = f"{error.message} ('{item.key}' on '{key}', {item.where})"
        raise DefinitionError(where, cause=error.cause, hint=error.hint) from None
    mapping = mapping or default_mapping(theirs, ours)
    if mapping is None:
        raise DefinitionError(
            f"the partitions of '{item.key}' do not fit those of '{key}' ({item.where})",
            cause=f"{key} is {describe(theirs)}; {item.key} is {describe(ours)}",
            hint=f"say how they map: inputs={{'{parameter or 'name'}': "
            f"fr.Input('{key}', mapping=fr.all_partitions())}}",
        )
    if not isinstance(wanted, Input):
        return Dependency(key, mapping, parameter)
    return Dependency(key, mapping, parameter, wanted.missing, _deadline_ms(item, key, wanted))


def _deadline_ms(item: Asset, key: AssetKey, wanted: Input) -> int:
    what = f"asset '{item.key}': the input '{key}'"
    if wanted.missing not in ("", "wait", "skip", "fail"):
        raise DefinitionError(
            f"{what} has missing={wanted.missing!r} ({item.where})", hint="'wait', 'skip' or 'fail'"
        )
    deadline = parse_duration_ms(wanted.deadline, f"{what}: deadline") if wanted.deadline else 0
    if deadline and wanted.missing not in ("skip", "fail"):
        raise DefinitionError(
            f"{what} has a deadline but waits without end ({item.where})",
            hint="say what happens at the deadline: missing='skip' or missing='fail'",
        )
    return deadline
