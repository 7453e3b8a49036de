"""Sensors of third parties: found by the entry-point group `freshet.sensors`, made by name."""

import inspect
from importlib.metadata import EntryPoint, entry_points

from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.sensors.sensor import Sensor

GROUP = "freshet.sensors"
"""The entry-point group: each entry names a callable that returns a sensor."""


def sensor_from(plugin: str, /, **options: object) -> Sensor:
    """A sensor of an installed plug-in: what the factory that its distribution names `plugin` in
    the group `freshet.sensors` returns for these options.

    Raises DefinitionError when none is installed, it cannot be imported, refuses the options, or
    what it returns is no sensor.
    """
    entry = _entry(plugin)
    who = f"the sensor plug-in '{plugin}' ({_origin(entry)})"
    try:
        factory = entry.load()
    except Exception as error:
        raise DefinitionError(
            f"{who} cannot be imported: {entry.value}",
            cause=f"{type(error).__name__}: {error}",
            hint="install what it needs, or another release of it",
        ) from error
    if not callable(factory):
        raise DefinitionError(
            f"{who} names {entry.value}, which is no function",
            hint="tell its authors: an entry point names a callable that returns a sensor",
        )
    try:
        made = factory(**options)
    except DefinitionError:
        raise
    except Exception as error:
        raise DefinitionError(
            f"{who} cannot be made with these options: {', '.join(options) or 'none'}",
            cause=f"{type(error).__name__}: {error}",
            hint=f"it takes {_signature(factory)}",
        ) from error
    check_sensor(made, f"what {who} returned")
    found: Sensor = made
    return found


def check_sensor(made: object, what: str) -> None:
    """Raise DefinitionError when this cannot be a sensor, as far as can be seen without running."""
    problem = _problem(made)
    if problem:
        raise DefinitionError(
            f"{what} is no sensor: {problem}",
            cause="a sensor has a name, sources (asset keys), and run(cursor), an async generator",
            hint="call the function that makes it, as in fr.files(...)",
        )


def _entry(plugin: str) -> EntryPoint:
    installed = entry_points(group=GROUP)
    found = list({(_origin(e), e.value): e for e in installed if e.name == plugin}.values())
    if not found:
        names = sorted({entry.name for entry in installed})
        raise DefinitionError(
            f"no sensor plug-in '{plugin}' is installed",
            cause=f"installed are: {', '.join(names)}" if names else "no distribution brings any",
            hint=did_you_mean(plugin, names) or f"install what has an entry point in '{GROUP}'",
        )
    if len(found) > 1:
        raise DefinitionError(
            f"several distributions bring a sensor plug-in '{plugin}'",
            cause=", ".join(f"{_origin(entry)}: {entry.value}" for entry in found),
            hint="uninstall all but one of them",
        )
    return found[0]


def _origin(entry: EntryPoint) -> str:
    """The distribution that brings it, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"


def _signature(factory: object) -> str:
    try:
        return str(inspect.signature(factory))  # type: ignore[arg-type]  # callable, checked above
    except (TypeError, ValueError):
        return "what its documentation says"


def _problem(made: object) -> str:
    """What of the contract can be seen to be broken; empty when nothing is."""
    if inspect.isroutine(made) or inspect.isclass(made):
        return f"it is {getattr(made, '__qualname__', repr(made))} itself, not called"
    name = getattr(made, "name", None)
    if not isinstance(name, str) or not name:
        return f"its name is {name!r}, and not a text ({type(made).__name__})"
    sources = getattr(made, "sources", None)
    if isinstance(sources, str) or not isinstance(sources, tuple | list):
        return f"the sources of '{name}' are {sources!r}, and not a tuple of asset keys"
    if not sources or not all(isinstance(key, str) for key in sources):
        return f"the sources of '{name}' are {sources!r}, and not asset keys"
    run = getattr(made, "run", None)
    if not callable(run):
        return f"'{name}' has no run"
    if inspect.iscoroutinefunction(run) or inspect.isgeneratorfunction(run):
        return f"run of '{name}' is no async generator: it needs `async def` and `yield`"
    return ""
