"""Resources as declared: what a project lends to functions that name it as a parameter; who needs
whom, and how each is opened.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import msgspec

from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.signatures import CONTEXT, annotations_of, place_of, without_none

SETTINGS = "settings"
"""The name under which `Project(settings=...)` is lent."""

RESERVED = (CONTEXT, "value", "previous", "cursor")
"""Parameters that mean something else already."""

Kind = Literal["object", "sync", "async"]


class PerRun:
    """What `per_run` says of a function that opens a resource."""

    def __init__(self, opener: Callable[..., Any]) -> None:
        self.opener = opener


def per_run(opener: Callable[..., Any]) -> PerRun:
    """Let each run that names the resource open one of its own, and close it when it has ended: a
    session, a folder for its drafts. `opener` is a function made a context manager.
    """
    if isinstance(opener, PerRun) or _kind(opener) == "object":
        raise DefinitionError(
            f"fr.per_run({opener!r}): it cannot be opened",
            cause="for each run the resource is opened, and closed at its end",
            hint="give it a function with @asynccontextmanager or @contextmanager",
        )
    return PerRun(opener)


class Resource(msgspec.Struct, frozen=True):
    """A declared resource: an object as it is, or what opens it and which others that needs."""

    name: str
    value: Any
    kind: Kind = "object"
    per_run: bool = False
    needs: tuple[str, ...] = ()
    where: str = ""
    stands_in: bool = False
    """Given by a test in place of the project's: may be of any type."""


def declared(
    values: Mapping[str, object], *, stands_in: Collection[str] = ()
) -> dict[str, Resource]:
    """The resources by name, fit to be lent.

    Raises DefinitionError for names that cannot be parameters, openers that need what is none, and
    those that need each other, with the way round.
    """
    found = {name: _declared(name, value, name in stands_in) for name, value in values.items()}
    for one in found.values():
        for name in one.needs:
            if name not in found:
                raise DefinitionError(
                    f"resource '{one.name}' needs '{name}', which is no resource ({one.where})",
                    hint=did_you_mean(name, found)
                    or f"resources: {', '.join(found)}; or give the parameter a default",
                )
            if found[name].per_run and not one.per_run:
                raise DefinitionError(
                    f"resource '{one.name}' needs '{name}', which each run opens for itself"
                    f" ({one.where})",
                    cause=f"'{one.name}' is opened once, for all runs",
                    hint=f"make it fr.per_run too, or '{name}' a shared one",
                )
    _check_cycles(found)
    return found


def replaced(
    resources: Mapping[str, Resource], others: Mapping[str, object]
) -> dict[str, Resource]:
    """The resources with others in place of some, of whatever type. Raises DefinitionError."""
    for name in others:
        if name not in resources:
            raise DefinitionError(
                f"'{name}' is no resource of the project",
                hint=did_you_mean(name, resources) or f"resources: {', '.join(resources)}",
            )
    values = {
        one.name: PerRun(one.value) if one.per_run else one.value for one in resources.values()
    }
    return declared(values | dict(others), stands_in=others)


def check_names(resources: Collection[str], keys: Iterable[str]) -> None:
    """A parameter means one thing: no resource is called like an asset. Raises DefinitionError."""
    for key in keys:
        leaf = key.rpartition("/")[2]
        if leaf in resources:
            raise DefinitionError(
                f"'{leaf}' is a resource, and asset '{key}' is called so too",
                cause=f"a parameter '{leaf}' could be either",
                hint="rename one of them",
            )


def unfit(resource: Resource, value: object, annotation: Any, taker: str) -> str:
    """Why a function that annotates the parameter so cannot be given this; empty if it can. What
    cannot be asked, such as a protocol, fits.
    """
    wanted = without_none(annotation)
    if resource.stands_in or not isinstance(wanted, type):
        return ""
    try:
        if isinstance(value, wanted) or (wanted is float and isinstance(value, int)):
            return ""
    except TypeError:
        return ""
    text = f"resource '{resource.name}' is a {type(value).__name__}, and {taker} wants"
    function = "; it is a plain function: @contextmanager lets it be called"
    return f"{text} a {wanted.__name__}" + (function if inspect.isfunction(value) else "")


def check_objects(
    resources: Mapping[str, Resource], function: Callable[..., Any], names: Iterable[str], what: str
) -> None:
    """Judge what needs no opening already when the project is loaded. Raises DefinitionError."""
    annotations = annotations_of(function)
    for name in names:
        one = resources[name]
        if one.kind == "object" and (problem := unfit(one, one.value, annotations.get(name), what)):
            raise DefinitionError(problem, hint="annotate it as what it is, or as a protocol")


def _declared(name: str, value: object, stands_in: bool) -> Resource:
    if not name.isidentifier() or name in RESERVED:
        raise DefinitionError(
            f"a resource cannot be called '{name}'",
            cause="functions name it as a parameter"
            if name not in RESERVED
            else f"a parameter '{name}' means something else",
            hint="give it another name",
        )
    opener = value.opener if isinstance(value, PerRun) else value
    kind = _kind(opener)
    where = place_of(_function(opener)) if callable(opener) else ""
    if inspect.isasyncgenfunction(opener) or inspect.isgeneratorfunction(opener):
        word = "asynccontextmanager" if inspect.isasyncgenfunction(opener) else "contextmanager"
        raise DefinitionError(
            f"resource '{name}' is a generator function ({where})",
            cause="nothing says that it opens a resource and closes it after its yield",
            hint=f"decorate it with @contextlib.{word}",
        )
    if kind == "object":
        return Resource(name, value, where=where, stands_in=stands_in)
    needs = _needs(name, opener, where)  # type: ignore[arg-type]  # a function, by its kind
    return Resource(name, opener, kind, isinstance(value, PerRun), needs, where, stands_in)


def _needs(name: str, opener: Callable[..., Any], where: str) -> tuple[str, ...]:
    found = []
    for parameter in inspect.signature(opener).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                f"resource '{name}' has the parameter '{parameter}' ({where})",
                cause="what it needs is passed by name",
                hint="name each resource as an ordinary parameter",
            )
        if parameter.default is parameter.empty:
            found.append(parameter.name)
    return tuple(found)


def _function(value: Any) -> Any:
    while isinstance(value, partial):
        value = value.func
    return value


def _kind(value: object) -> Kind:
    """Is it a function made a context manager, and of which sort?"""
    function = _function(value)
    inner = inspect.unwrap(function) if callable(function) else function
    if inner is function:
        return "object"
    if inspect.isasyncgenfunction(inner):
        return "async"
    return "sync" if inspect.isgeneratorfunction(inner) else "object"


def _check_cycles(resources: Mapping[str, Resource]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            way = " -> ".join([*path[path.index(name) :], name])
            raise DefinitionError(
                f"resources need each other: {way} ({resources[name].where})",
                hint="open what both need in a resource of its own",
            )
        if name not in done:
            for need in resources[name].needs:
                visit(need, (*path, name))
            done.add(name)

    for name in resources:
        visit(name, ())
