"""What an asset's function says of itself: its parameters, its annotations, where it is written."""

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from freshet.engine.errors import DefinitionError
from freshet.engine.keys import AssetKey

SECRET = re.compile(r"passw|secret|token|credential|api_?key|private", re.IGNORECASE)
"""In the name of a parameter: its value is recorded nowhere."""

CONTEXT = "context"
"""The parameter that receives the run's `Context` and is no dependency."""


def element_annotation(annotation: Any) -> Any:
    """V of `dict[str, V]` or `Mapping[str, V]`; None when the annotation says no more than that."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if len(arguments) == 2 and isinstance(origin, type) and issubclass(origin, Mapping):
        return arguments[1]
    return None


def parameters_of(
    function: Callable[..., Any], key: AssetKey, where: str
) -> tuple[list[str], bool]:
    """The parameters that name dependencies, and whether it takes a `context`. Raises
    DefinitionError.
    """
    names: list[str] = []
    takes_context = False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                f"asset '{key}' has the parameter '{parameter}' ({where})",
                cause="a dependency is passed by its name",
                hint="name each dependency as an ordinary parameter",
            )
        if name == CONTEXT:
            takes_context = True
        elif parameter.default is parameter.empty:
            names.append(name)
    return names, takes_context


def config_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters with a plain default: configuration, and not what is read. What is called a
    secret is left out.
    """
    found = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    return {
        name: default
        for name, default in found.items()
        if name != CONTEXT
        and type(default) in (str, int, float, bool)
        and (not isinstance(default, str) or default.isprintable())
        and not SECRET.search(name)
    }


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations as objects; one that cannot be resolved is left out, whatever the others are."""
    target = inspect.unwrap(function)
    found: dict[str, Any] = {}
    for name, written in getattr(target, "__annotations__", {}).items():
        one = SimpleNamespace(__annotations__={name: written})
        with suppress(NameError, TypeError, AttributeError, SyntaxError):
            found |= get_type_hints(one, globalns=getattr(target, "__globals__", {}))
    return found


def without_none(annotation: Any) -> Any:
    """T of `T | None`, which says that an input may be missing; others as they are."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    rest = [part for part in get_args(annotation) if part is not NoneType]
    return rest[0] if len(rest) == 1 else annotation


def place_of(function: Callable[..., Any]) -> str:
    """`file:line` of a function."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)
