"""The arguments of declarations: checked, and put into the form that is recorded."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.keys import AssetKey
from freshet.engine.mappings import Last
from freshet.engine.metadata import Value, check_size, value_of
from freshet.engine.partitions import Partitions
from freshet.engine.schemas import type_name
from freshet.engine.secrets import has_secrets, is_told_in
from freshet.engine.specs import GROUP, AssetSpec, Dependency, PoolShare

WHERE = {"thread": "in a thread", "loop": "on the event loop"}


def check_types(spec: AssetSpec, where: str) -> None:
    """What is recorded must be readable again. Raises DefinitionError naming the odd value."""
    try:
        msgspec.json.decode(msgspec.json.encode(spec), type=AssetSpec)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise DefinitionError(
            f"the definition of '{spec.key}' has a value of a wrong type ({where})",
            cause=str(error),
            hint="see the signature of fr.asset or fr.source, and of what was given to it",
        ) from None


def check_silent(spec: AssetSpec, where: str) -> None:
    """What is recorded of a definition must not hold a secret. Raises DefinitionError."""
    if has_secrets() and is_told_in(str(msgspec.to_builtins(spec))):
        raise DefinitionError(
            f"the definition of '{spec.key}' holds a secret ({where})",
            cause="definitions are recorded as they are, and shown to whoever asks",
            hint="leave it out of metadata, tags, descriptions and defaults of parameters",
        )


def check_declared(
    name: AssetKey,
    retries: int,
    partitions: Partitions | None,
    batch: int,
    max_changes: int | None,
    where: str,
) -> None:
    """Whether the numbers of an asset make sense, by themselves and together."""
    check_partitions(name, partitions, where)
    check_batch(name, batch, partitions, where)
    check_numbers(name, retries, max_changes, where)


def check_partitions(name: AssetKey, partitions: object, where: str) -> None:
    if not isinstance(partitions, Partitions | None):
        raise DefinitionError(
            f"asset '{name}' has partitions={partitions!r} ({where})",
            hint="fr.daily('2024-01-01'), fr.static([...]), fr.dynamic() and their like",
        )


def check_batch(name: AssetKey, batch: int, partitions: Partitions | None, where: str) -> None:
    check_partitions(name, partitions, where)
    if batch < 1 or (batch > 1 and partitions is None):
        raise DefinitionError(
            f"asset '{name}' has batch={batch} ({where})",
            cause="a batch is a number of partitions that one run may take",
            hint="use 1 or more, and partitions=",
        )


def check_numbers(name: AssetKey, retries: int, max_changes: int | None, where: str) -> None:
    for what, number, least in (("retries", retries, 0), ("max_changes", max_changes, 1)):
        if number is not None and (not isinstance(number, int) or number < least):
            raise DefinitionError(
                f"asset '{name}' has {what}={number!r} ({where})",
                hint=f"use a number, {least} or more",
            )


def executor_of(
    name: AssetKey, wanted: str | None, is_async: bool, where: str
) -> Literal["thread", "loop", "process"]:
    """Where the function is called. Raises DefinitionError for what cannot be."""
    own: Literal["thread", "loop"] = "loop" if is_async else "thread"
    if wanted == "process":
        return "process"
    if wanted is None or wanted == own:
        return own
    kind = "async" if is_async else "sync"
    known = wanted in ("thread", "loop")
    raise DefinitionError(
        f"asset '{name}' has executor={wanted!r} ({where})",
        cause=f"its function is {kind}: it is called {WHERE[own]}" if known else "",
        hint=f"leave it out, or use executor='process'; {kind} functions are called {WHERE[own]}",
    )


def timeout_ms(name: AssetKey, timeout: float | str | None, where: str) -> int | None:
    """The timeout in milliseconds. Raises DefinitionError for what is none."""
    if timeout is None:
        return None
    found = parse_duration_ms(timeout, f"asset '{name}': timeout")
    if found == 0:
        raise DefinitionError(
            f"asset '{name}' has a timeout of 0 ({where})", hint="leave it out for none"
        )
    return found


def shares(
    name: AssetKey, pools: str | Sequence[str] | Mapping[str, int], where: str
) -> tuple[PoolShare, ...]:
    """What a run takes of each pool; how large those are is the project's to say."""
    named = [pools] if isinstance(pools, str | int) else pools
    weights = dict(named) if isinstance(named, Mapping) else dict.fromkeys(named, 1)
    for pool, weight in weights.items():
        if not isinstance(pool, str) or not isinstance(weight, int) or weight < 1:
            raise DefinitionError(
                f"asset '{name}' has pools={pools!r} ({where})",
                cause="a run takes a share of a pool, by its name",
                hint="pools='database', or with a weight of 1 or more: pools={'memory_gb': 4}",
            )
    return tuple(PoolShare(pool, weight, 0) for pool, weight in weights.items())


def sized(
    spec: AssetSpec, pools: Mapping[str, int], group_limits: Mapping[str, int], where: str
) -> tuple[PoolShare, ...]:
    """The shares with the limits the project sets, that of its group among them. Raises
    DefinitionError for a pool without one, or too small.
    """
    for share in spec.pools:
        if share.pool not in pools:
            raise DefinitionError(
                f"asset '{spec.key}' takes of the pool '{share.pool}', which the project does not"
                f" have ({where})",
                hint=did_you_mean(share.pool, pools) or f"Project(pools={{'{share.pool}': 1}})",
            )
        if share.weight > pools[share.pool]:
            raise DefinitionError(
                f"a run of asset '{spec.key}' takes {share.weight} of the pool '{share.pool}',"
                f" which has {pools[share.pool]} ({where})",
                cause="it could never start",
                hint="make the pool larger, or the share smaller",
            )
    found = [PoolShare(one.pool, one.weight, pools[one.pool]) for one in spec.pools]
    if spec.group in group_limits and not spec.is_source:
        found.append(PoolShare(f"{GROUP}{spec.group}", 1, group_limits[spec.group]))
    return tuple(found)


def read_by_change(
    spec: AssetSpec,
    parameters: Collection[str],
    deps: Sequence[Dependency],
    sources: Collection[AssetKey],
    where: str,
) -> list[Dependency]:
    """The dependencies, with those marked that `parameters` (annotated `fr.Changes`) read change by
    change: the source a parameter names, or, of one that names none, all sources in `deps=`.

    Raises DefinitionError for what cannot be read so.
    """
    general = [p for p in parameters if not any(dep.parameter == p for dep in deps)]
    found = [
        msgspec.structs.replace(dep, changes=True)
        if dep.parameter in parameters or (general and not dep.parameter and dep.asset in sources)
        else dep
        for dep in deps
    ]
    what = f"asset '{spec.key}' ({where})"
    read = [dep for dep in found if dep.changes]
    for dep in read:
        if dep.asset not in sources:
            raise DefinitionError(
                f"{what} has the parameter '{dep.parameter}: fr.Changes', and '{dep.asset}' is no"
                " source",
                hint="read an asset as it is; only sources can be read change by change",
            )
        if isinstance(dep.mapping, Last):
            raise DefinitionError(
                f"{what} reads '{dep.asset}' change by change, over fr.last()",
                cause="of the partitions before the last one changes would be passed over",
                hint="leave the mapping out, or read the source as it is",
            )
        if dep.missing:
            raise DefinitionError(
                f"{what} reads '{dep.asset}' change by change, with missing={dep.missing!r}",
                hint="leave missing= out: a change that is not there yet is waited for",
            )
    named = {dep.asset for dep in read if dep.parameter}
    twice = sorted(named & {dep.asset for dep in read if not dep.parameter})
    if twice or len(general) > 1:
        raise DefinitionError(
            f"{what} would receive the changes of '{twice[0]}' twice"
            if twice
            else f"{what} has the parameters {', '.join(general)}, which would receive the same",
            cause="a parameter that names no source receives the changes of all sources in deps=",
            hint="name each source once: as a parameter, or in deps=",
        )
    if general and all(dep.parameter for dep in read):
        raise DefinitionError(
            f"{what} has the parameter '{general[0]}: fr.Changes' but no source to read",
            hint="name the sources in deps=[...], or the parameter after a source",
        )
    if read and spec.batch > 1:
        raise DefinitionError(
            f"{what} reads changes and has batch={spec.batch}",
            hint="leave batch= out; max_changes= says how many changes a run takes",
        )
    if not read and spec.max_changes != AssetSpec("x").max_changes:
        raise DefinitionError(
            f"{what} has max_changes={spec.max_changes} and reads no changes",
            hint="annotate a parameter as fr.Changes, or leave it out",
        )
    return found


def texts(values: Sequence[str], key: AssetKey, name: str) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise DefinitionError(f"asset '{key}': {name}={values!r} should be a list of texts")
    return tuple(values)


def metadata_of(values: Mapping[str, object], key: AssetKey) -> dict[str, Value]:
    """Metadata in the form that is recorded. Raises DefinitionError naming the odd value."""
    found: dict[str, Value] = {}
    for name, value in values.items():
        try:
            found[name] = value_of(value)
        except TypeError as error:
            raise DefinitionError(
                f"asset '{key}': metadata {name!r} cannot be recorded: {error}",
                hint="text, numbers, true/false, none, paths, times, lists, dicts and what"
                " fr.metadata has can be",
            ) from None
    try:
        check_size(found)
    except ValueError as error:
        raise DefinitionError(f"asset '{key}': {error}") from None
    return found


def columns_of(
    name: AssetKey, columns: Mapping[str, str | type] | None, where: str
) -> dict[str, str]:
    """The declared columns by name. Raises DefinitionError for what are none."""
    for column, kind in (columns or {}).items():
        if not isinstance(column, str) or not isinstance(kind, str | type) or not kind:
            raise DefinitionError(
                f"asset '{name}' declares the column {column!r}: {kind!r} ({where})",
                hint='columns={"id": int, "name": "str", "size": "Int32"}',
            )
    return {column: type_name(kind) for column, kind in (columns or {}).items()}


def store_name(key: AssetKey, store: str, where: str) -> str:
    """The name of a store, as it is given. Raises DefinitionError for a store itself."""
    if not isinstance(store, str):
        raise DefinitionError(
            f"asset '{key}': store={store!r} is no name ({where})",
            hint='Project(..., stores={"warehouse": ...}) gives it the name store="warehouse"',
        )
    return store
