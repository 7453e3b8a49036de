"""Settings: a Struct from a TOML file and environment variables, each value typed, each error named
by where it was written.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.secrets import Secret
from freshet.engine.signatures import without_none

PROFILE = "FRESHET_PROFILE"
"""The variable that chooses a profile; `--profile` sets it, for worker processes too."""

SETTINGS, PROFILES = "settings", "profiles"
"""The tables of a file: `[settings]`, and `[profiles.NAME.settings]` over it."""

NEAR = 0.85
"""How alike a variable nobody knows must be to a setting's to be taken for a slip of the pen:
others under the same prefix are those of something else, as Kubernetes sets them for each service.
"""

ENV, FILE = "env:", "file:"

T = TypeVar("T", bound=msgspec.Struct)
Path_ = tuple[str, ...]

MAX_DEPTH = 8
"""Structs inside of Structs that variables reach: one may have itself as a field."""

MAX_READ = 100
"""Settings of this process that are remembered: a reload of the project reads them anew."""


class Read(NamedTuple):
    """Settings that were read: the profiles their file names, and the one that was taken because
    none was chosen.
    """

    settings: object
    file: str
    profiles: tuple[str, ...]
    taken: str


_read: list[Read] = []


def chosen_profile() -> str:
    """The profile chosen for this process by `--profile` or FRESHET_PROFILE; empty if none was."""
    return os.environ.get(PROFILE, "")


def origin_of(settings: object) -> Read | None:
    """How these settings were read; None if they were made otherwise."""
    return next((one for one in _read if one.settings is settings), None)


def profiles_of_files() -> set[str]:
    """The profiles that the settings files name which this process has read."""
    return {name for one in _read for name in one.profiles}


def settings(type_: type[T], *, file: str | Path | None = None, prefix: str = "") -> T:
    """The settings: of `[settings]` in a TOML file, with `[profiles.NAME.settings]` of the chosen
    profile over it (without a choice the first the file names), and environment variables over
    both.

    `SHOP_DATABASE__HOST` sets `database.host` where `prefix` is "SHOP_"; without a prefix no
    variable is read. Texts become numbers, booleans and whatever the fields are; lists and maps are
    JSON. A field of type `fr.Secret` says where the secret is, "env:NAME" or "file:/path" (one
    newline at its end is cut); in a file nothing else will do, a variable may be the secret itself.
    Raises DefinitionError naming file or variable, setting, and what was expected.
    """
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        raise DefinitionError(
            f"fr.settings({type_!r}): that is no msgspec.Struct", hint="class S(msgspec.Struct): …"
        )
    values: dict[str, Any] = {}
    origins: dict[Path_, str] = {}
    content = _content(Path(file)) if file is not None else {}
    names = tuple(content.get(PROFILES, ()))
    taken = "" if chosen_profile() else next(iter(names), "")
    for where, table in _tables(content, chosen_profile() or taken, f"'{file}'"):
        _check_keys(table, type_, (), where)
        _overlay(values, table, (), where, origins)
    if prefix:
        _read_environment(values, type_, prefix, origins)
    try:
        found = msgspec.convert(values, type_, strict=False, dec_hook=_secret)
    except msgspec.ValidationError as error:
        raise _unfit(str(error), origins, file, prefix) from None
    _read.append(Read(found, str(file), names, taken))
    del _read[:-MAX_READ]
    return found


# --- the file -------------------------------------------------------------------------------------


def _content(file: Path) -> Mapping[str, Any]:
    """The file, with nothing in it but what is known."""
    where = f"'{file}'"
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise DefinitionError(
            f"the settings in {where} cannot be read",
            cause=error.strerror or str(error),
            hint="relative paths are looked up in the folder where freshet is run",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{where} is no TOML", cause=str(error)) from None
    _check_known(content, (SETTINGS, PROFILES), where)
    profiles = _table(content, PROFILES, where)
    for name in profiles:
        _check_known(_table(profiles, name, where), (SETTINGS,), f"[profiles.{name}] of {where}")
    return content


def _tables(
    content: Mapping[str, Any], profile: str, where: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables that count, the weaker first, each with how an error calls it."""
    yield f"[{SETTINGS}] of {where}", _table(content, SETTINGS, where)
    profiles = _table(content, PROFILES, where)
    if profile in profiles:
        name = f"[{PROFILES}.{profile}.{SETTINGS}] of {where}"
        yield name, _table(profiles[profile], SETTINGS, where)


def _table(content: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, Mapping):
        raise DefinitionError(f"'{name}' in {where} is no table", hint=f"write [{name}]")
    return found


def _check_known(found: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in found:
        if name not in known:
            raise DefinitionError(
                f"{where} has '{name}', which nobody reads",
                hint=did_you_mean(name, known) or f"known here: {', '.join(known)}",
            )


def _check_keys(
    table: Mapping[str, Any], type_: type[msgspec.Struct], path: Path_, where: str
) -> None:
    """Every key is a field, also below. Raises DefinitionError with the nearest that is."""
    fields = _fields(type_)
    for name, value in table.items():
        if name not in fields:
            raise DefinitionError(
                f"{where} has '{_name((*path, name))}', which is no setting",
                hint=did_you_mean(name, fields) or f"settings there: {', '.join(fields)}",
            )
        inner = _struct_in(fields[name])
        if inner is not None and isinstance(value, Mapping):
            _check_keys(value, inner, (*path, name), where)


def _overlay(
    values: dict[str, Any],
    table: Mapping[str, Any],
    path: Path_,
    where: str,
    origins: dict[Path_, str],
) -> None:
    for name, value in table.items():
        origins[(*path, name)] = where
        if isinstance(value, Mapping) and isinstance(values.get(name), dict):
            _overlay(values[name], value, (*path, name), where, origins)
        elif isinstance(value, Mapping):
            values[name] = {}
            _overlay(values[name], value, (*path, name), where, origins)
        else:
            values[name] = value


# --- the environment ------------------------------------------------------------------------------


def _read_environment(
    values: dict[str, Any], type_: type[msgspec.Struct], prefix: str, origins: dict[Path_, str]
) -> None:
    known = {prefix + "__".join(path).upper(): (path, kind) for path, kind in _leaves(type_, ())}
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith(prefix):
            continue
        if variable not in known:
            near = get_close_matches(variable, known, n=1, cutoff=NEAR)
            if near:
                raise DefinitionError(
                    f"the environment variable {variable} sets nothing",
                    hint=f"did you mean '{near[0]}'?",
                )
            continue
        path, kind = known[variable]
        origins[path] = f"the environment variable {variable}"
        inner = values
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = _value(text, kind, variable)


def _value(text: str, kind: Any, variable: str) -> object:
    """A variable's text for a field: JSON for what is no scalar."""
    wanted = without_none(kind)
    if wanted is Secret:
        is_place = text.startswith((ENV, FILE))
        try:
            return _resolved(text) if is_place else Secret(text)
        except ValueError as error:
            said = f"the secret that the environment variable {variable} names cannot be had"
            raise DefinitionError(said, cause=str(error)) from None
    origin = get_origin(wanted)
    many = origin in (list, dict, tuple, set, frozenset) or wanted in (list, dict, tuple, set)
    if not many:
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise DefinitionError(
            f"the environment variable {variable} is no JSON", cause=str(error), hint='["a", "b"]'
        ) from None


def _leaves(type_: type[msgspec.Struct], path: Path_) -> Iterator[tuple[Path_, Any]]:
    """The settings that a variable can be: all fields, of Structs those inside of them."""
    for name, kind in _fields(type_).items():
        inner = _struct_in(kind)
        if inner is None:
            yield (*path, name), kind
        elif len(path) < MAX_DEPTH:
            yield from _leaves(inner, (*path, name))


def _fields(type_: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(type_)}


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    found = [
        one
        for one in options
        if one is not NoneType and isinstance(one, type) and issubclass(one, msgspec.Struct)
    ]
    return found[0] if len(found) == 1 else None


# --- secrets --------------------------------------------------------------------------------------


def _secret(type_: type, value: object) -> object:
    """What msgspec asks for fields of types it does not know. A ValueError names the setting."""
    if isinstance(value, type_):
        return value
    if type_ is Path and isinstance(value, str):
        return Path(value)
    if type_ is not Secret:
        raise ValueError(f"Expected `{type_.__name__}`, which no text can be")
    if not isinstance(value, str) or not value.startswith((ENV, FILE)):
        raise ValueError(
            'Expected "env:NAME" or "file:/path": who reads the file would read the secret'
        )
    return _resolved(value)


def _resolved(place: str) -> Secret:
    """The secret that lies there. Raises ValueError."""
    if place.startswith(ENV):
        name = place.removeprefix(ENV)
        found = os.environ.get(name, "")
        if not found:
            raise ValueError(
                f"Expected a secret in the environment variable {name}, which is not set"
            )
        return Secret(found)
    path = Path(place.removeprefix(FILE))
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"Expected a secret in the file '{path}': {said}") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError(f"Expected a secret in the file '{path}', which is empty")
    return Secret(text)


# --- errors ---------------------------------------------------------------------------------------


def _unfit(
    said: str, origins: Mapping[Path_, str], file: str | Path | None, prefix: str
) -> DefinitionError:
    """What msgspec says (`Expected X, got Y - at $.a.b`), with where the value was written."""
    problem, _, place = said.rpartition(" - at `$.")
    path = tuple(place.rstrip("`").replace("[", ".[").split(".")) if problem else ()
    problem = problem or said
    if "missing required field" in problem:
        path = (*path, problem.rpartition("field `")[2].rstrip("`"))
        ways = [f"write it below [settings] of '{file}'"] if file is not None else []
        ways += [f"set {prefix}{'__'.join(path).upper()}"] if prefix else []
        return DefinitionError(f"the setting '{_name(path)}' is missing", hint=" or ".join(ways))
    where = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), "")
    return DefinitionError(
        f"the setting '{_name(path)}' does not fit" + (f" ({where})" if where else ""),
        cause=problem,
    )


def _name(path: Path_) -> str:
    return ".".join(path).replace(".[", "[")
