"""A project: the definitions, the sensors that feed them, and where values live."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count

from freshet.engine.assets import Asset, Source
from freshet.engine.checks import Check, checks_by_asset
from freshet.engine.definitions import Definitions
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.multi import MultiAsset, flattened
from freshet.engine.orphan import OnRemoved
from freshet.engine.policies import Eager, Policy, check_policy
from freshet.engine.profiles import Profile, pick
from freshet.engine.resolution import resolve
from freshet.engine.resources import SETTINGS, check_objects, declared
from freshet.engine.specs import GROUP, Dependency
from freshet.engine.stores.local import LocalStore
from freshet.engine.stores.router import Router
from freshet.engine.stores.store import Store
from freshet.sensors.plugins import check_sensor
from freshet.sensors.sensor import Borrower, Sensor

DEFAULT_PROCESSES = os.cpu_count() or 1
"""Worker processes at once unless the project says otherwise: one for each core."""

STORE_VERBS = (
    "stage", "look", "publish", "discard", "load", "has", "versions", "restore", "remove",
    "collect",
)  # fmt: skip
"""What a store has to know, whoever wrote it."""

DEFAULT_SLOTS = 8
"""Runs alive at once unless the project says otherwise: some overlap of I/O without swamping a
laptop.
"""

_generations = count(1)


class Project:
    """Everything `freshet run` needs, checked when it is made.

    `assets` are assets, multi-assets and sources, `checks` what their values have to pass;
    `freshness` is the policy of assets that name none, and `group_freshness` that of those in a
    group; `stores` are those that assets name (`store=`), by name, and `store` has the values of
    all others; `slots` is how many runs may be alive at once, `group_limits` how many of those may
    be of assets of a group, and `pools` how much of each pool they may take together. `on_removed`
    is called, once at most, with each asset that was built and is not defined any more (an
    `Orphan`); without it nothing is ever deleted. `resources` are lent to functions that name them
    as parameters, and so are `settings`. `profiles` say what is different in which surroundings;
    `profile` is the name of the one that is in force: the one chosen by FRESHET_PROFILE, or the
    first. `processes` is how many worker processes there may be, and `origin` the target, as
    `module:project`, from which they load the project (known if it was loaded from one). Raises
    DefinitionError naming asset and file.
    """

    def __init__(
        self,
        assets: Sequence[Asset | Source | MultiAsset],
        *,
        checks: Sequence[Check] = (),
        sensors: Sequence[Sensor] = (),
        store: Store | None = None,
        stores: Mapping[str, Store] | None = None,
        freshness: Policy | None = None,
        group_freshness: Mapping[str, Policy] | None = None,
        slots: int = DEFAULT_SLOTS,
        pools: Mapping[str, int] | None = None,
        group_limits: Mapping[str, int] | None = None,
        resources: Mapping[str, object] | None = None,
        settings: object = None,
        profiles: Mapping[str, Profile] | None = None,
        on_removed: OnRemoved | None = None,
        processes: int = DEFAULT_PROCESSES,
        origin: str = "",
    ) -> None:
        self.profiles = dict(profiles or {})
        self.profile, here = pick(self.profiles, settings)
        sensors = here.sensors if here.sensors is not None else sensors
        slots = here.slots if here.slots is not None else slots
        pools = here.pools if here.pools is not None else pools
        store = here.store if here.store is not None else store
        _check_given(slots, processes, assets, checks, sensors)
        by_group = dict(group_freshness or {})
        for group, policy in by_group.items():
            check_policy(policy, f"group_freshness[{group!r}]")
        if freshness is not None:
            check_policy(freshness, "Project: freshness")
        items = flattened(assets)
        known = {item.key: item for item in items if isinstance(item, Asset | Source)}
        given = dict(resources or {}) | ({SETTINGS: settings} if settings is not None else {})
        self.resources = declared(given | _of(here))
        names = {*given, *(name for one in self.profiles.values() for name in _of(one))}
        self.checks = checks_by_asset(checks, known, names)
        limits = dict(group_limits or {})
        _check_limits("pools", pools or {})
        _check_limits("group_limits", limits)
        self.graph, self.assets = resolve(
            items, freshness or Eager(), by_group, self.checks, pools, limits, names
        )
        specs = self.graph.specs.values()
        _check_groups("group_freshness", by_group, {spec.group for spec in specs})
        _check_groups("group_limits", limits, {s.group for s in specs if not s.is_source})
        self.sensors = tuple(sensors)
        self.store = self._routed(
            store if store is not None else LocalStore("data"), {**(stores or {}), **here.stores}
        )
        self.slots = slots
        if on_removed is not None and not callable(on_removed):
            raise DefinitionError(
                f"on_removed={on_removed!r} is no function", hint="it is called with an fr.Orphan"
            )
        self.on_removed = on_removed
        self.code = ""
        """A digest of the files it was loaded from, if that is known."""
        self.generation = next(_generations)
        self.processes = processes
        self.origin = origin
        self._check_sensors()
        self._check_resources(names)
        for asset in self.assets.values():
            _check_payloads(asset, self.graph.specs[asset.key].deps, self.sensors)

    @property
    def definitions(self) -> Definitions:
        """What a loop works with."""
        return Definitions(
            self.assets,
            self.store,
            self.checks,
            self.resources,
            self.origin,
            self.graph.digest,
            self.code,
            self.generation,
        )

    def _check_resources(self, names: Collection[str]) -> None:
        """What functions take is there under this profile, and is what they say."""
        takers: list[Asset | Check] = [*self.assets.values()]
        takers += [one for checks in self.checks.values() for one in checks]
        for taker in takers:
            what = f"{taker!r} ({taker.where})"
            taken = [name for name in taker.parameters if name in names]
            self._check_there(taken, what)
            check_objects(self.resources, taker.function, taken, what)
        for sensor in self.sensors:
            if isinstance(sensor, Borrower):
                self._check_there(sensor.needs(names), repr(sensor))

    def _check_there(self, names: Iterable[str], what: str) -> None:
        for name in names:
            if name not in self.resources:
                raise DefinitionError(
                    f"{what} takes the resource '{name}', which profile '{self.profile}' does"
                    " not have",
                    hint="name it in its resources=, or in those of the project",
                )

    def _routed(self, default: Store, stores: Mapping[str, Store]) -> Store:
        """One store for all assets, which asks the one that each of them names."""
        for name, store in {"": default, **stores}.items():
            lacking = [verb for verb in STORE_VERBS if not hasattr(store, verb)]
            if lacking:
                what = f"stores={{{name!r}: ...}}" if name else "store="
                raise DefinitionError(
                    f"{what} is {store!r}, which is no store",
                    cause=f"it has no {', '.join(lacking)}",
                    hint='fr.LocalStore("data"), fr.SqliteStore("data.db") and their like',
                )
        names = {asset.key: asset.spec.store for asset in self.assets.values() if asset.spec.store}
        for key, name in names.items():
            if name not in stores:
                known = ", ".join(sorted(stores)) or "none"
                raise DefinitionError(
                    f"asset '{key}' names the store '{name}', which the project does not have"
                    f" ({self.assets[key].where})",
                    cause=f"Project(stores=...) has {known}",
                    hint=did_you_mean(name, stores) or f'Project(..., stores={{"{name}": ...}})',
                )
        return Router(default, stores, names) if stores else default

    def _check_sensors(self) -> None:
        names: set[str] = set()
        for sensor in self.sensors:
            check_sensor(sensor, f"{sensor!r} in Project(sensors=[...])")
            if sensor.name in names:
                raise DefinitionError(
                    f"two sensors are named '{sensor.name}'",
                    cause="a sensor's cursor is stored under its name",
                    hint="give one of them another name=",
                )
            names.add(sensor.name)
            for source in sensor.sources:
                spec = self.graph.specs.get(source)
                if spec is None or not spec.is_source:
                    raise DefinitionError(
                        f"sensor '{sensor.name}' reports '{source}', no source of the project",
                        hint="add the source to Project(assets=[...])",
                    )


def _of(profile: Profile) -> dict[str, object]:
    settings = profile.settings
    return dict(profile.resources) | ({SETTINGS: settings} if settings is not None else {})


def _check_given(
    slots: object, processes: object, assets: object, checks: object, sensors: object
) -> None:
    """Numbers are numbers, and lists are lists. Raises DefinitionError."""
    for name, number in (("slots", slots), ("processes", processes)):
        if not isinstance(number, int) or number < 1:
            raise DefinitionError(
                f"{name}={number!r}: nothing could ever run", hint="use a number, 1 or more"
            )
    for what, listed in (("assets", assets), ("checks", checks), ("sensors", sensors)):
        if isinstance(listed, str) or not isinstance(listed, Iterable):
            raise DefinitionError(
                f"Project({what}=...) is {listed!r}, and no list", hint=f"{what}=[...]"
            )


def _check_payloads(asset: Asset, deps: Sequence[Dependency], sensors: Sequence[Sensor]) -> None:
    """What reads payloads (`fr.Changes[T]`) needs sensors that record them."""
    typed = {name for name, type_ in asset.changes_of.items() if type_ is not None}
    general = typed.difference(dep.parameter for dep in deps)
    for dep in deps:
        if not dep.changes or not (dep.parameter in typed if dep.parameter else general):
            continue
        for sensor in sensors:
            # A sensor that does not say which of the two it does is taken at its changes.
            if dep.asset in sensor.sources and not getattr(sensor, "keeps_payload", True):
                raise DefinitionError(
                    f"asset '{asset.key}' reads payloads of source '{dep.asset}', which sensor"
                    f" '{sensor.name}' does not keep ({asset.where})",
                    cause="each change would come with the payload None",
                    hint="annotate the parameter as fr.Changes without a type; payloads are kept by"
                    ' fr.kafka(..., keep="payload") and by sensors of your own',
                )


def _check_limits(name: str, limits: Mapping[str, int]) -> None:
    for key, limit in limits.items():
        if not isinstance(limit, int) or limit < 1:
            raise DefinitionError(
                f"{name}={{{key!r}: {limit!r}}}: nothing could ever run", hint="use 1 or more"
            )
        if str(key).startswith(GROUP):
            raise DefinitionError(
                f"{name} names {key!r}",
                hint=f"group_limits={{{key.removeprefix(GROUP)!r}: {limit}}} limits a group",
            )


def _check_groups(name: str, named: Iterable[str], groups: set[str]) -> None:
    for group in named:
        if group not in groups:
            raise DefinitionError(
                f"{name} names '{group}', and no asset is in that group",
                hint=did_you_mean(group, groups) or f"groups: {', '.join(sorted(groups))}",
            )
