"""Profiles: the same graph among other surroundings, as in development and in production."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from freshet.engine.errors import DefinitionError, RequestError, did_you_mean
from freshet.engine.settings import PROFILE, chosen_profile, origin_of, profiles_of_files
from freshet.engine.stores.store import Store
from freshet.sensors.sensor import Sensor


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What of a project is different under this profile; all else is the project's own.

    `resources` and `stores` are laid over those of the project, each by its name; the others
    replace.
    """

    store: Store | None = None
    stores: Mapping[str, Store] = {}
    resources: Mapping[str, object] = {}
    settings: Any = None
    sensors: Sequence[Sensor] | None = None
    slots: int | None = None
    pools: Mapping[str, int] | None = None


def pick(profiles: Mapping[str, Profile], settings: object) -> tuple[str, Profile]:
    """The chosen profile (`--profile`, FRESHET_PROFILE), else the first; of none an empty one.

    Raises RequestError for a choice there is not, DefinitionError when `settings`, which are read
    before, are those of another profile.
    """
    for name, one in profiles.items():
        if not isinstance(one, Profile) or not name:
            raise DefinitionError(
                f"profiles={{{name!r}: {one!r}}} is no profile", hint="fr.Profile(store=...)"
            )
    chosen = chosen_profile()
    if chosen and profiles and chosen not in profiles:
        raise unknown(chosen, profiles)
    read = origin_of(settings)
    taken = read.taken if read is not None else ""
    name = chosen or next(iter(profiles), taken)
    if read is not None and taken and taken != name:
        raise DefinitionError(
            f"the project is under profile '{name}', its first, but its settings are those of"
            f" '{taken}', the first in '{read.file}'",
            hint=f"name the profiles in one order, or choose one: --profile {name}, or {PROFILE}",
        )
    return name, profiles.get(name, Profile())


def check_chosen(profiles: Mapping[str, Profile]) -> None:
    """A profile that was asked for is one of the project, or of a file of its settings. Raises
    RequestError.
    """
    chosen = chosen_profile()
    known = [*profiles, *profiles_of_files()]
    if chosen and chosen not in known:
        raise unknown(chosen, known)


def check_state(last: str, now: str, profiles: Mapping[str, Profile]) -> None:
    """What is recorded under one profile says nothing of the stores of another: each has its own
    state folder. One that is no longer known may have been renamed. Raises RequestError.
    """
    known = {*profiles, *profiles_of_files()}
    if last and now and last != now and last in known:
        raise RequestError(
            f"this state folder is that of profile '{last}', not of '{now}'",
            cause="what was built under one profile is not there under the other",
            hint=f"--profile {last}, or a folder of its own: --state .freshet-{now}",
        )


def unknown(name: str, known: Collection[str]) -> RequestError:
    listed = ", ".join(known)
    return RequestError(
        f"there is no profile '{name}'",
        cause=f"the project has {listed}" if listed else "the project has no profiles",
        hint=did_you_mean(name, known) or "fr.Project(..., profiles={...}) names them",
    )
