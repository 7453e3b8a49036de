"""Resolution: declared assets and sources become a checked graph; each parameter finds the asset it
names.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence

import msgspec

from freshet.engine.arguments import check_silent, check_types, read_by_change, sized
from freshet.engine.assets import Asset, Definition, Input, Source
from freshet.engine.changes import hides_changes, payload_problem
from freshet.engine.checks import Check
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.graph import Graph
from freshet.engine.keys import AssetKey, asset_key
from freshet.engine.mappings import Custom, PartitionMapping, default_mapping
from freshet.engine.partitions import describe
from freshet.engine.policies import Policy
from freshet.engine.resources import check_names
from freshet.engine.specs import AssetSpec, Dependency


def resolve(
    definitions: Sequence[object],
    default_policy: Policy,
    by_group: Mapping[str, Policy] | None = None,
    checks: Mapping[AssetKey, Sequence[Check]] | None = None,
    pools: Mapping[str, int] | None = None,
    group_limits: Mapping[str, int] | None = None,
    resources: Collection[str] = (),
) -> tuple[Graph, dict[AssetKey, Asset]]:
    """The checked graph of all definitions, and the assets by key. An asset that names no policy
    has that of its group, or the default. `checks` are those of each asset, `pools` and
    `group_limits` the limits; `resources` name what parameters may be that are no dependencies.

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
    check_names(resources, known)
    specs = [
        _resolved(item, known, resources, (by_group or {}).get(item.spec.group, default_policy))
        if isinstance(item, Asset)
        else item.spec
        for item in known.values()
    ]
    judged = checks or {}
    specs = [
        msgspec.structs.replace(
            spec,
            checks=tuple(one.spec for one in judged.get(spec.key, ())),
            pools=sized(spec, pools or {}, group_limits or {}, known[spec.key].where),
        )
        for spec in specs
    ]
    for spec in specs:
        check_types(spec, known[spec.key].where)
        check_silent(spec, known[spec.key].where)
    places = {key: item.where for key, item in known.items()}
    assets = {key: item for key, item in known.items() if isinstance(item, Asset)}
    return Graph.build(specs, places), assets


def _resolved(
    item: Asset,
    known: Mapping[AssetKey, Definition],
    resources: Collection[str],
    default: Policy,
) -> AssetSpec:
    _check_lent(item, resources)
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
    _check_annotations(item)
    deps = []
    for name in item.parameters:
        if name in resources:
            continue
        if name in item.inputs:
            deps.append(_dependency(item, item.inputs[name], name, known))
        elif name not in item.changes_of or _matches(name, known):
            deps.append(_by_parameter(item, name, known, resources))
    deps += [_dependency(item, dep, "", known) for dep in item.deps]
    sources = {key for key, other in known.items() if other.spec.is_source}
    deps = read_by_change(item.spec, item.changes_of, deps, sources, item.where)
    policy = item.spec.policy if item.has_policy else default
    return msgspec.structs.replace(item.spec, deps=tuple(dict.fromkeys(deps)), policy=policy)


def _check_lent(item: Asset, resources: Collection[str]) -> None:
    """A parameter that is called like a resource is one, and nothing else."""
    for name in inspect.signature(item.function).parameters:
        if name not in resources:
            continue
        otherwise = ""
        if name not in item.parameters:
            otherwise = "has a default, which makes it configuration"
        elif name in item.inputs:
            otherwise = "names an asset by inputs="
        elif name in item.changes_of:
            otherwise = "is annotated to receive changes"
        if otherwise:
            raise DefinitionError(
                f"parameter '{name}' of asset '{item.key}' is called like a resource, and"
                f" {otherwise} ({item.where})",
                hint="rename the parameter, or take away what makes it something else",
            )


def _check_annotations(item: Asset) -> None:
    """Changes are asked for in one way only: who asks otherwise would get something else."""
    for name in item.parameters:
        if hides_changes(item.annotations.get(name)):
            raise DefinitionError(
                f"parameter '{name}' of asset '{item.key}' is annotated"
                f" {item.annotations[name]} ({item.where})",
                cause="changes come as fr.Changes, or fr.Changes[T], and as nothing around it",
                hint=f"write '{name}: fr.Changes'; it is empty when there are none",
            )
        problem = payload_problem(item.changes_of.get(name))
        if problem:
            raise DefinitionError(
                f"parameter '{name}' of asset '{item.key}': payloads cannot be read as"
                f" {item.changes_of[name]} ({item.where})",
                cause=problem,
                hint="use bytes, str, a msgspec.Struct, or what JSON decodes to",
            )


def _matches(name: str, known: Mapping[AssetKey, Definition]) -> list[AssetKey]:
    return [name] if name in known else [key for key in known if key.rpartition("/")[2] == name]


def _by_parameter(
    item: Asset, name: str, known: Mapping[AssetKey, Definition], resources: Collection[str]
) -> Dependency:
    matches = _matches(name, known)
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
            cause="a parameter without a default names the asset it reads, or a resource",
            hint=did_you_mean(name, [*leaves, *resources])
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
